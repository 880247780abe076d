"""Drivers, one per way of gathering data, and what they share: run folder, metrics, checkpoints,
evaluation."""
