"""Noise: one file for each kind of training noise, and the noise of evaluations.

Imports `core` only; no torch except in `on_device` and `triton_kernel`.

    protocol          what a noise kind is
    batch             what raydae's own kinds are: a function of a batch, for numpy and torch
    config            the settings, and the table of kinds, NOISES
    gaussian          white Gaussian noise, of one level or of a range
    poisson_gaussian  a sensor's noise
    camera            a sensor's noise in a finished photograph
    demosaicing       its mosaic
    jpeg, jpeg_codec  the losses of JPEG
    speckle           multiplicative noise
    correlated        Gaussian noise after a blur
    user_noise        a user's kinds: tried out, and kept within limits
    normals           normal numbers from random words
    on_device         the same numbers where the network is
    triton_kernel     the same numbers in a GPU kernel
    array_math        functions of arrays, for numpy and torch
    fixed_point       noisy pixels as int16, on their way to the network
    levels, ranges    noise levels and other numbers as users write them
    evaluation        the noise of evaluations: the literature's, or a kind
    estimate          the noise level of a picture, from the picture alone

To add a kind, write a file with a class that derives from `batch.BatchNoise`, whose fields are its
options, and add a row to NOISES.
"""
