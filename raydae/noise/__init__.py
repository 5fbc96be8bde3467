"""Noise: one file for each kind of training noise, and the noise that evaluations use.

Imports `core` only. No module imports torch, except those that make noise on a GPU.
"""
