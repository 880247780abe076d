"""Bellgrad."""
