"""Training: drivers, one per way of gathering data; the session around them, evaluation and agents."""
