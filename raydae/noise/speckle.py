"""Speckle: multiplicative noise, as radar, ultrasound and laser light have it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from raydae.noise.array_math import GREY_LEVEL, Array, column
from raydae.noise.batch import BatchNoise
from raydae.noise.ranges import Uniform


@dataclass(frozen=True, kw_only=True)
class Speckle(BatchNoise):
    """Gaussian noise whose standard deviation is a fraction of the pixel's value.

    The model of many looks (Lee, IEEE TPAMI 1980): x * (1 + strength * n), n standard normal. Each
    patch draws its strength uniformly.

    >>> noise = Speckle(strength="0.2")
    >>> grey = np.full((64, 64, 3), 100, np.uint8)
    >>> noisy, _ = noise(generator(0, SAMPLE, 0), grey)
    >>> round(float(noisy.std()) * 255)
    20
    """

    strength: str = "0.05:0.3"
    """Fraction of the pixel's value, or a range."""

    def __post_init__(self) -> None:
        _ = self._range

    @functools.cached_property
    def _range(self) -> Uniform:
        return Uniform.of(self.strength, "noise.options.strength", 0, 1)

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return the strength."""
        return [self._range(uniform[0])]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, None]:
        """Multiply by noise, neither clipped nor rounded; see `BatchNoise`."""
        xp = array_namespace(clean)
        x = xp.astype(clean, xp.float32) * GREY_LEVEL
        normals *= column(parameters, 0, 4)
        normals += 1
        normals *= x
        return normals, None
