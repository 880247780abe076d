"""Pure functions as native code: captured as graphs, compiled by a process of their own, kept for the
machine."""
