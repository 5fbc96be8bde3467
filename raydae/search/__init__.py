"""Search: the search space, its sampler, the trials, and Ray Tune's adapters.

Imports `distributed` and the rooms below it.
"""
