"""Additive white Gaussian noise, of one level or of a range of levels."""

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raydae.core.random_numbers import BLOCK_WORDS, FIRST_BLOCK
from raydae.noise.levels import parse_sigma

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 2  # of how training noise is made: the same seed and version, the same noise
BLOCK_VALUES = 4 * BLOCK_WORDS  # numbers of 16 bits in a block of random words
# The first block of random words holds a sample's place, orientation and noise level.
FIRST_NOISE_BLOCK = FIRST_BLOCK + 1


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """White Gaussian noise of a level that each patch draws uniformly from a range."""

    sigma: str = "25"
    """Noise level, 0-255 scale: 25, or uniform 5:55."""

    def __post_init__(self) -> None:
        _ = self.range

    @functools.cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest sigma, 0-255 scale; equal for a fixed level."""
        return parse_sigma(self.sigma, "noise.options.sigma")

    def level(self, rng: np.random.Generator) -> float:
        """Return a patch's sigma, 0-255 scale."""
        low, high = self.range
        sigma: float = low + (high - low) * rng.random()
        return sigma

    def __call__(self, rng: np.random.Generator, clean: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a noisy copy of a patch; see `protocol.Noise`."""
        return add_noise(rng, clean, self.level(rng))

    def on_device(self, clean: "Tensor", level: "Tensor", index: "Tensor", seed: int) -> "Tensor":
        """Return a noisy copy of a batch; see `protocol.DeviceNoise`."""
        from raydae.noise.on_device import add_noise_on_device  # with torch

        return add_noise_on_device(clean, level, index, seed)


def add_noise(
    rng: np.random.Generator, clean: NDArray[np.uint8], sigma: float
) -> NDArray[np.float32]:
    """Return an image with white Gaussian noise, neither clipped nor rounded.

    A normal number is the sum of two of half its variance, each looked up by 16 random bits. This
    is three times as fast as numpy's generator, gives the same bits on every processor, and is
    Gaussian up to the tails: values beyond 4 sigma are 2 % too rare, those beyond 5 sigma a sixth
    (one number in ten million), and there are none beyond 6.2 sigma.

    Args:
        rng: the generator that the noise is drawn from, at the start of a block.
        clean: uint8, any shape.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    size = clean.size
    padded = -(-size // BLOCK_VALUES) * BLOCK_VALUES  # the second halves begin with a block
    words: NDArray[np.uint64] = rng.bit_generator.random_raw(padded // 2)
    bits = words.astype("<u8", copy=False).view("<u2")
    halves = half_normals().take(bits, mode="clip")  # no index is out of range
    noisy: NDArray[np.float32] = halves[:size]
    noisy += halves[padded : padded + size]
    noisy *= np.float32(sigma) * np.float32(1 / 255)
    noisy += clean.reshape(-1) * np.float32(1 / 255)
    return noisy.reshape(clean.shape)


@functools.cache
def half_normals() -> NDArray[np.float32]:
    """Return quantiles of a normal distribution of variance 1/2: float32 (65536,), ascending."""
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / 2**16) for i in range(2**15, 2**16)])
    upper *= np.sqrt(0.5 / np.mean(upper**2))  # restores the variance that the cut tails had
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)
