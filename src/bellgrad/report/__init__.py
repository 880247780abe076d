"""What a run looks like afterwards: curves, comparisons, videos, tables, the run's page and its exported
policy."""
