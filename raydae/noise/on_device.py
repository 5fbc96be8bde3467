"""Gaussian training noise made on the network's device, for a GPU that the cores cannot feed.

The GPU receives clean patches and noise levels, a third of the bytes. Each value equals that of
`gaussian.add_noise`, so that a sample is the same wherever its noise is made.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from raydae.core.random_numbers import BLOCK_WORDS, SAMPLE, Generators
from raydae.noise.fixed_point import SCALE
from raydae.noise.gaussian import add_noise, half_normals


def add_noise_on_device(clean: Tensor, sigma: Tensor, index: Tensor, seed: int) -> Tensor:
    """Return a batch of patches with white Gaussian noise.

    Args:
        clean: uint8 (n, h, w, 3), RGB.
        sigma: float32 (n,), standard deviations, 0-255 scale, on the same device.
        index: int64 (n,), the samples' numbers, on the same device.
        seed: the run's seed, below 2^32.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    if clean.device.type == "cuda":
        from raydae.noise import triton_kernel  # needs Triton and a C compiler

        halves = _half_normals_on(clean.device)
        return triton_kernel.add_noise(clean, sigma, index, seed, halves)
    generators = Generators(seed, SAMPLE)
    patches = []
    for number, patch, level in zip(index.tolist(), clean, sigma.tolist(), strict=True):
        rng = generators[number]
        rng.bit_generator.random_raw(BLOCK_WORDS)  # the sample's place, orientation and level
        patches.append(add_noise(rng, patch.numpy(), level))
    return torch.from_numpy(np.rint(np.stack(patches) * SCALE)) / SCALE


@functools.cache
def _half_normals_on(device: torch.device) -> Tensor:
    return torch.from_numpy(half_normals()).to(device)
