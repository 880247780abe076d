"""Networks: a frozen specification builds an ordinary `torch.nn.Module`, whose parameters live in a
dictionary outside it."""
