"""What training runs look like afterwards: curves, comparisons, a run's page and its exported policy."""
