"""Ranges of the hyper-parameters that every algorithm with a replay has."""

RANGES = {
    "buffer_size": (1, 1e10),
    "learning_starts": (0, 1e12),
    "batch_size": (1, 1e7),
    "update_period": (1, 1e9),
    "updates_per_period": (1, 1e6),
}
