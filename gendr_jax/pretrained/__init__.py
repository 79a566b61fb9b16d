"""Weights that are shipped with the package, by name (see `weights/resolve.py`).

gendr-tiny/    the default of `gendr restore`; figures are in its MODEL_CARD.md
"""
