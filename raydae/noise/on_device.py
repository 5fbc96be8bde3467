"""Random numbers of training noise on the network's device, for a GPU that the cores cannot feed.

The GPU receives clean patches and parameters, a third of the bytes. The normal numbers equal those
of `normals.standard_normals` bit for bit, and a kind computes with them by the same code as on the
CPU, so that a sample does not depend on where its noise is made.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from raydae.core.random_numbers import BLOCK_WORDS, FIRST_BLOCK, SAMPLE, Generators
from raydae.noise.fixed_point import SCALE
from raydae.noise.normals import half_normals, standard_normals


def normals_on_device(index: Tensor, seed: int, first_block: int, shape: tuple[int, ...]) -> Tensor:
    """Return the normal numbers of some samples.

    Args:
        index: int64 (n,), the samples' numbers, on the device.
        seed: the run's seed, below 2^32.
        first_block: the block of random words with which a sample's normal numbers begin.
        shape: of a sample's normal numbers.

    Returns:
        float32 (n, *shape).
    """
    if index.device.type == "cuda":
        from raydae.noise import triton_kernel  # needs Triton and a C compiler

        halves = _half_normals_on(index.device)
        values = triton_kernel.normals(index, seed, first_block, math.prod(shape), halves)
        return values.reshape(len(index), *shape)
    generators = Generators(seed, SAMPLE)
    normals = np.empty((len(index), *shape), np.float32)
    for row, number in enumerate(index.tolist()):
        rng = generators[number]
        rng.bit_generator.random_raw(BLOCK_WORDS * (first_block - FIRST_BLOCK))
        normals[row] = standard_normals(rng, shape)
    return torch.from_numpy(normals)


def to_fixed_point(noisy: Tensor) -> Tensor:
    """Round noisy pixels as they are rounded on their way from the CPU; see `fixed_point`."""
    return (noisy * SCALE).round() / SCALE


@functools.cache
def _half_normals_on(device: torch.device) -> Tensor:
    return torch.from_numpy(half_normals()).to(device)
