"""The noise of JPEG compression alone."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from raydae.noise.array_math import Array, images_of, planes_of
from raydae.noise.batch import BatchNoise
from raydae.noise.jpeg_codec import MCU, compress
from raydae.noise.ranges import Uniform, check_share


@dataclass(frozen=True, kw_only=True)
class Jpeg(BatchNoise):
    """What a picture loses in a JPEG file; the network learns to restore it.

    Each patch draws its quality uniformly, and lies anywhere on the grid of blocks.

    >>> noise = Jpeg(quality="10")
    >>> line = np.full((64, 64, 3), 200, np.uint8)
    >>> line[31:33] = 0
    >>> noisy, _ = noise(generator(0, SAMPLE, 0), line)
    >>> bool(np.abs(noisy * 255 - line).mean() > 1)
    True
    """

    quality: str = "20:95"
    """As libjpeg counts it, 1 to 100, or a range."""
    subsampled: float = 0.5
    """Share with colour at half the resolution."""

    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_share(self.subsampled, "noise.options.subsampled")
        _ = self._range

    @functools.cached_property
    def _range(self) -> Uniform:
        return Uniform.of(self.quality, "noise.options.quality", 1, 100)

    def normals_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return an empty shape: compression is not random."""
        return (0,)

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return quality, subsampling, and the place on the grid of blocks."""
        quality, subsampled, place = uniform
        top, left = divmod(int(place * MCU**2), MCU)
        return [round(self._range(quality)), subsampled < self.subsampled, top, left]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, None]:
        """Compress, to whole grey levels; see `BatchNoise`."""
        xp = array_namespace(clean)
        planes = xp.astype(planes_of(clean), xp.float32)
        compressed = compress(planes, *(parameters[:, number] for number in range(4)))
        return images_of(compressed) / 255, None
