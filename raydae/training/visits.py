"""Which image each visit opens: a pure function of (seed, visit) and the image list."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydae.core.random_numbers import ORDER, generator

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples, taken modulo 1, are spread evenly


@dataclass(frozen=True)
class Visits:
    """The order in which images are opened, pass by pass.

    A pass has a fixed number of places, which are permuted. Each image has as many of them, or, if
    areas are given, a share by its area. Those are drawn by systematic sampling: a pass visits an
    image as often as its share says, rounded up or down. Where the places begin differs from pass
    to pass, so that an image whose share is less than one visit has its turn.

    Attributes:
        seed: of the run.
        images: their number.
        in_pass: visits in a pass, a multiple of the number of images.
        shares: float64 (images - 1,): the part of all area that the images up to each one have,
            without the last; none: all images are visited equally.
    """

    seed: int
    images: int
    in_pass: int
    shares: NDArray[np.float64] | None = None

    @classmethod
    def by_area(cls, seed: int, areas: NDArray[np.float64], in_pass: int) -> "Visits":
        """Return visits in proportion to areas, (images,)."""
        return cls(seed, len(areas), in_pass, np.cumsum(areas[:-1]) / areas.sum())

    def image(self, visit: int, offset: int = 0) -> int:
        """Return the number of the image of a visit.

        Args:
            visit: its number, from 0 on, over all passes.
            offset: places further on in the same pass, from whose end it goes on at its beginning.
        """
        number = visit // self.in_pass
        place = int(_order(self.seed, number, self.in_pass)[(visit + offset) % self.in_pass])
        if self.shares is None:
            return place % self.images
        begin = number * _GOLDEN_RATIO % 1
        return int(np.searchsorted(self.shares, (place + begin) / self.in_pass, side="right"))


@functools.lru_cache(maxsize=2)  # a task works at the end of one pass and the start of the next
def _order(seed: int, number: int, visits: int) -> NDArray[np.int64]:
    return generator(seed, ORDER, number).permutation(visits)
