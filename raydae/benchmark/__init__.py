"""Benchmark: how fast each part runs, beside its limit and beside the alternatives.

Imports `distributed` and the rooms below it.
"""
