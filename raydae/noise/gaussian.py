"""Additive white Gaussian noise. Sigma is always on the 0-255 scale, images on [0, 1]."""

import functools
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from raydae.core.random_numbers import BLOCK_WORDS, FIRST_BLOCK

VERSION = 2  # of how training noise is made: the same seed and version, the same noise
SCALE = 4096  # of int16 pixels: from -8 to 8 in steps of a sixteenth of a grey level
BLOCK_VALUES = 4 * BLOCK_WORDS  # numbers of 16 bits in a block of random words
SAMPLE_DRAWS = BLOCK_WORDS  # random words of a sample before its noise: place, orientation, sigma
FIRST_NOISE_BLOCK = FIRST_BLOCK + SAMPLE_DRAWS // BLOCK_WORDS


def add_noise(
    rng: np.random.Generator,
    clean: NDArray[np.uint8],
    sigma: float,
    out: NDArray[np.int16] | None = None,
) -> NDArray[np.int16]:
    """White Gaussian noise on an image, neither clipped nor rounded to grey levels.

    A normal number is the sum of two of half its variance, each looked up by 16 random bits: three
    times as fast as numpy's, the same bits on every processor, and Gaussian to the tails: beyond 4
    sigma 2 % too rare, beyond 5 a sixth, which is one number in ten million; none beyond 6.2.

    Args:
        rng: what the noise is drawn from.
        clean: uint8, any shape.
        sigma: standard deviation, 0-255 scale.
        out: where to write to, of the same shape; none: into a new array.

    Returns:
        int16 of the same shape: pixels on the [0, 1] scale, free to leave it, by `SCALE`.
    """
    size = clean.size
    padded = -(-size // BLOCK_VALUES) * BLOCK_VALUES  # the second halves begin with a block
    words: NDArray[np.uint64] = rng.bit_generator.random_raw(padded // 2)
    bits = words.astype("<u8", copy=False).view("<u2")
    halves = half_normals().take(bits, mode="clip")  # no index is out of range
    noisy = halves[:size]
    noisy += halves[padded : padded + size]
    noisy *= np.float32(sigma) * np.float32(SCALE / 255)
    noisy += clean.reshape(-1) * np.float32(SCALE / 255)
    if out is None:
        out = np.empty(clean.shape, np.int16)
    return np.rint(noisy.reshape(clean.shape), out=out, casting="unsafe")


@functools.cache
def half_normals() -> NDArray[np.float32]:
    """The quantiles of a normal distribution of variance 1/2: float32 (65536,), ascending."""
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / 2**16) for i in range(2**15, 2**16)])
    upper *= np.sqrt(0.5 / np.mean(upper**2))  # what is cut off at the ends is made up for
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)


def sample_noise(
    rng: np.random.Generator, clean: NDArray[np.uint8], sigma: float
) -> NDArray[np.int16]:
    """The noise of a training sample whose crop and sigma are known already.

    Args:
        rng: the sample's generator, at its start.
        clean: uint8, the sample's clean patch.
        sigma: standard deviation, 0-255 scale.

    Returns:
        As `add_noise`.
    """
    rng.bit_generator.random_raw(SAMPLE_DRAWS)
    return add_noise(rng, clean, sigma)


def evaluation_noise(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """An image with the noise that the literature evaluates with.

    As KAIR and the papers before it do (FFDNet, Zhang et al. 2018): a `RandomState(0)` anew for
    every image, so that each image always carries the same noise; neither clipped nor rounded,
    since clipping makes an easier task.

    Args:
        clean: uint8 HxWx3 (RGB) or HxW.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy: NDArray[np.float32] = (clean / 255 + noise).astype(np.float32)
    return noisy
