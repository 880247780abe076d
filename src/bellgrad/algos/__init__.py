"""Learners on networks, one file per algorithm; algorithms never import algorithms."""
