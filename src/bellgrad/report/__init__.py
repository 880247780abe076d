"""What a solved problem or a run looks like afterwards: text, pictures, films, curves, a run's page.

`finite/` shows finite problems, `training/` shows training runs; what both use is next to the two.
"""
