"""Tabular learners, one file per family; algorithms never import algorithms, and share what is in
`common`."""
