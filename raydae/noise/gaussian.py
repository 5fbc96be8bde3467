"""White Gaussian noise, of one level or of a range of levels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from raydae.noise.array_math import GREY_LEVEL, Array, column
from raydae.noise.batch import BatchNoise
from raydae.noise.levels import parse_sigma


@dataclass(frozen=True, kw_only=True)
class Gaussian(BatchNoise):
    """White Gaussian noise of a level that each patch draws uniformly from a range.

    >>> noise = Gaussian(sigma="25")
    >>> grey = np.full((64, 64, 3), 128, np.uint8)
    >>> noisy, _ = noise(generator(0, SAMPLE, 0), grey)
    >>> round(float(noisy.std()) * 255)
    25
    """

    sigma: str = "25"
    """Noise level, 0-255 scale: 25, or uniform 5:55."""

    def __post_init__(self) -> None:
        _ = self.range

    @functools.cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest sigma, 0-255 scale; equal for a fixed level."""
        return parse_sigma(self.sigma, "noise.options.sigma")

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return sigma, 0-255 scale."""
        low, high = self.range
        return [low + (high - low) * uniform[0]]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, None]:
        """Add noise, neither clipped nor rounded; see `BatchNoise`."""
        xp = array_namespace(clean)
        normals *= column(parameters, 0, 4) * GREY_LEVEL
        normals += xp.astype(clean, xp.float32) * GREY_LEVEL
        return normals, None
