"""Poisson-Gaussian noise: a sensor's shot noise and read noise, before anything is done to them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from raydae.noise.array_math import GREY_LEVEL, Array, column
from raydae.noise.batch import BatchNoise
from raydae.noise.ranges import LogUniform


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian(BatchNoise):
    """Noise of variance a * x + b where the pixel has the value x, on the [0, 1] scale.

    The Gaussian approximation of a Poisson-distributed signal with additive noise (Foi et al., IEEE
    TIP 2008). Each patch draws a and b log-uniformly.

    >>> noise = PoissonGaussian(a="0.01", b="0.0004")
    >>> white = np.full((64, 64, 3), 255, np.uint8)
    >>> noisy, _ = noise(generator(0, SAMPLE, 0), white)
    >>> round(float(noisy.var()), 3)
    0.01
    """

    a: str = "0.0002:0.02"
    """Variance of white by shot noise, or a range."""
    b: str = "0.00001:0.001"
    """Variance of black, or a range."""

    def __post_init__(self) -> None:
        _ = self._ranges

    @functools.cached_property
    def _ranges(self) -> tuple[LogUniform, LogUniform]:
        return (
            LogUniform.of(self.a, "noise.options.a", 0, 1),
            LogUniform.of(self.b, "noise.options.b", 0, 1),
        )

    draws: ClassVar[int] = 2

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return a and b."""
        return [scale(number) for scale, number in zip(self._ranges, uniform, strict=True)]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, None]:
        """Add noise, neither clipped nor rounded; see `BatchNoise`."""
        xp = array_namespace(clean)
        x = xp.astype(clean, xp.float32) * GREY_LEVEL
        normals *= xp.sqrt(column(parameters, 0, 4) * x + column(parameters, 1, 4))
        normals += x
        return normals, None
