"""Metrics: one file for each image quality metric.

Imports `core` only, and neither torch nor Ray.
"""
