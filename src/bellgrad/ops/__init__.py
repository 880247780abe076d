"""Pure batched mathematics over torch tensors: returns, targets, losses, distributions, optimizers,
statistics."""
