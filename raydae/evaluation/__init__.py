"""Evaluation: protocols, score tables, baseline denoisers, figures.

Imports `distributed` and the rooms below it.
"""
