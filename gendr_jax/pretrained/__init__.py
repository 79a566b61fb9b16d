"""Weights that come with the package, by name; `weights/resolve.py` finds them.

gendr-tiny/    what restores when no weights are named; its MODEL_CARD.md says how good
"""
