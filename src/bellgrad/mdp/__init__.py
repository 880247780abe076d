"""Finite Markov decision processes, known exactly, and their solvers."""
