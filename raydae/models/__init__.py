"""Models: one file for each network, model files, and tiled inference.

Imports `core` only; never Ray.
"""
