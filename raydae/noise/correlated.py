"""Spatially correlated Gaussian noise: white noise after a blur."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from raydae.noise.array_math import (
    GREY_LEVEL,
    Array,
    blur_matrix,
    column,
    images_of,
    planes_of,
    separable,
)
from raydae.noise.batch import BatchNoise
from raydae.noise.levels import parse_sigma
from raydae.noise.ranges import Uniform


@dataclass(frozen=True, kw_only=True)
class Correlated(BatchNoise):
    """Gaussian noise of one level whose neighbouring pixels are alike.

    White noise, blurred with a Gaussian and scaled so that each pixel has the level asked for. Two
    pixels at a distance d have the correlation exp(-d^2 / (4 radius^2)). Demosaicing and resizing
    leave noise like this. Each patch draws level and radius uniformly.

    >>> noise = Correlated(sigma="25", radius="1")
    >>> grey = np.full((256, 256, 3), 128, np.uint8)
    >>> noisy, _ = noise(generator(0, SAMPLE, 0), grey)
    >>> values = noisy * 255 - 128
    >>> round(float(values.std()))
    25
    >>> round(float((values[1:] * values[:-1]).mean() / values.var()), 1)
    0.8
    """

    sigma: str = "25"
    """Noise level, 0-255 scale: 25, or uniform 5:55."""
    radius: str = "0.5:2"
    """Of the blur, in pixels, or a range."""

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _ = self._ranges

    @functools.cached_property
    def _ranges(self) -> tuple[Uniform, Uniform]:
        sigma = Uniform(*parse_sigma(self.sigma, "noise.options.sigma"))
        return sigma, Uniform.of(self.radius, "noise.options.radius", 0, 10)

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return sigma, 0-255 scale, and the radius in pixels."""
        return [scale(number) for scale, number in zip(self._ranges, uniform, strict=True)]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, None]:
        """Add noise, neither clipped nor rounded; see `BatchNoise`."""
        xp = array_namespace(clean)
        rows, columns = (_unit(size, parameters[:, 1]) for size in clean.shape[1:3])
        noise = images_of(separable(planes_of(normals), rows, columns))
        noise *= column(parameters, 0, 4) * GREY_LEVEL
        noise += xp.astype(clean, xp.float32) * GREY_LEVEL
        return noise, None


def _unit(size: int, radius: Array) -> Array:
    """Return matrices that blur white noise and keep the variance of each value."""
    xp = array_namespace(radius)
    weights = blur_matrix(size, radius)
    return weights / xp.sqrt((weights * weights).sum(2))[:, :, None]
