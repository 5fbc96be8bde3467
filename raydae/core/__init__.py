"""Core: errors, settings, storage, random numbers.

Imports nothing of raydae outside this folder, and neither torch nor Ray.
"""
