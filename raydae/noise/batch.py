"""Noise of raydae's own: one function of a batch, for numpy on the CPU and torch on a GPU.

A kind says how many uniform numbers a sample draws, which parameters it makes of them, and how the
parameters and standard normal numbers make a batch noisy. The random words of a sample are, in
blocks of four words: three for its place and orientation, then those of the parameters, then those
of the normal numbers, which begin with a new block.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from raydae.core.random_numbers import BLOCK_WORDS, FIRST_BLOCK
from raydae.noise.array_math import Array
from raydae.noise.normals import standard_normals

if TYPE_CHECKING:
    from torch import Tensor


class BatchNoise(ABC):
    """A noise kind that is computed for a batch of patches, on the CPU or on a GPU.

    Attributes:
        draws: how many uniform numbers the parameters of a sample are made of.
    """

    draws: ClassVar[int] = 1

    @abstractmethod
    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return a sample's parameters: numbers that float32 can hold.

        Args:
            uniform: `draws` independent numbers, uniform in [0, 1).
        """

    @abstractmethod
    def degrade(
        self, clean: Array, parameters: Array, normals: Array
    ) -> tuple[Array, Array | None]:
        """Return noisy patches, and what they are without noise if that is not `clean`.

        Args:
            clean: uint8 (n, h, w, 3), RGB.
            parameters: float32 (n, k), of `parameters`.
            normals: float32 (n, *shape), of `normals_shape`: independent standard normal numbers.

        Returns:
            The noisy patches, float32 (n, h, w, 3) on [0, 1] but free to leave it, to -8 and 8;
            none, or the patches to learn, float32 on [0, 1] in steps of 1/255.
        """

    def normals_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the normal numbers that a patch needs: one for each value."""
        return height, width, 3

    @property
    def first_block(self) -> int:
        """The block of random words with which a sample's normal numbers begin."""
        return FIRST_BLOCK + 1 + _extra_blocks(self.draws)

    def draw(self, rng: np.random.Generator) -> Sequence[float]:
        """Return a sample's parameters, drawn from its generator after its place."""
        uniform = rng.random(1 + BLOCK_WORDS * _extra_blocks(self.draws))
        return self.parameters(uniform[: self.draws].tolist())

    def __call__(
        self, rng: np.random.Generator, clean: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return a patch, noisy and to be learned; see `protocol.Noise`."""
        parameters = np.array([self.draw(rng)], np.float32)
        normals = standard_normals(rng, self.normals_shape(*clean.shape[:2]))
        noisy, target = self.degrade(clean[np.newaxis], parameters, normals[np.newaxis])
        if target is None:
            return noisy[0], clean
        return noisy[0], np.rint(target[0] * 255).astype(np.uint8)

    def on_device(
        self, clean: "Tensor", parameters: "Tensor", index: "Tensor", seed: int
    ) -> "tuple[Tensor, Tensor]":
        """Return a batch, noisy and to be learned, both float32 (n, h, w, 3) on [0, 1].

        Args:
            clean: uint8 (n, h, w, 3), RGB, on the network's device.
            parameters: float32 (n, k), of `draw`, on that device.
            index: int64 (n,), the samples' numbers, on that device.
            seed: the run's seed, below 2^32.
        """
        from raydae.noise.on_device import (
            normals_on_device,  # with torch
            to_fixed_point,
        )

        shape = self.normals_shape(*clean.shape[1:3])
        normals = normals_on_device(index, seed, self.first_block, shape)
        noisy, target = self.degrade(clean, parameters, normals)
        return to_fixed_point(noisy), clean.float() / 255 if target is None else target


def _extra_blocks(draws: int) -> int:
    """Return how many blocks the uniform numbers fill beyond the word that the first block has."""
    return -(-(draws - 1) // BLOCK_WORDS)
