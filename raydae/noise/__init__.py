"""Noise: one file for each kind of training noise, and the noise of evaluations.

Imports `core` only; no torch except in `on_device` and `triton_kernel`.

    protocol        what a noise kind is
    config          the settings, and the table of kinds, NOISES
    gaussian        white Gaussian noise, of one level or of a range
    on_device       the same values where the network is
    triton_kernel   the same values in a GPU kernel
    fixed_point     noisy pixels as int16, on their way to the network
    levels          noise levels as users write them
    evaluation      the literature's noise for evaluations
    estimate        the noise level of a picture, from the picture alone

To add a kind, write a file with a class that follows `protocol.Noise`, whose constructor's
parameters are its options, and add a row to NOISES.
"""
