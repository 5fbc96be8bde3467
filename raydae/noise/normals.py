"""Standard normal numbers from random words: fast, and the same bits on every processor."""

import functools
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from raydae.core.random_numbers import BLOCK_WORDS

BLOCK_VALUES = 4 * BLOCK_WORDS  # numbers of 16 bits in a block of random words


def standard_normals(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return independent standard normal numbers.

    Each is the sum of two of half its variance, each looked up by 16 random bits. This is three
    times as fast as numpy's generator, gives the same bits on every processor, and is Gaussian up
    to the tails: values beyond 4 are 2 % too rare, those beyond 5 a sixth (one number in ten
    million), and there are none beyond 6.2.

    Args:
        rng: the generator that they are drawn from, at the start of a block.
        shape: of the result.
        out: where to write it; none: a new array.

    Returns:
        float32 of that shape.
    """
    size = math.prod(shape)
    padded = -(-size // BLOCK_VALUES) * BLOCK_VALUES  # the second halves begin with a block
    words: NDArray[np.uint64] = rng.bit_generator.random_raw(padded // 2)
    bits = words.astype("<u8", copy=False).view("<u2")
    halves = half_normals().take(bits, mode="clip")  # no index is out of range
    normals = np.empty(shape, np.float32) if out is None else out
    np.add(halves[:size], halves[padded : padded + size], out=normals.reshape(-1))
    return normals


@functools.cache
def half_normals() -> NDArray[np.float32]:
    """Return quantiles of a normal distribution of variance 1/2: float32 (65536,), ascending."""
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / 2**16) for i in range(2**15, 2**16)])
    upper *= np.sqrt(0.5 / np.mean(upper**2))  # restores the variance that the cut tails had
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)
