"""Distributed: everything that runs on Ray, except the search.

Starts Ray or connects to it, streams samples through Ray Data, runs the training loop under Ray
Train, and spreads work over actors. Imports `training` and the rooms below it.
"""
