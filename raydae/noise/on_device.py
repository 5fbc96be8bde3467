"""Training noise made where the network is, for a GPU that the cores cannot feed.

The GPU is sent clean patches and noise levels, a third of the bytes. The noise is that of noise.py,
value for value: a sample is the same wherever its noise is made.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from raydae.core.random_numbers import SAMPLE, Generators
from raydae.noise.gaussian import SCALE, half_normals, sample_noise


def add_noise(clean: Tensor, sigma: Tensor, index: Tensor, seed: int) -> Tensor:
    """White Gaussian noise on a batch of patches.

    Args:
        clean: uint8 (n, h, w, 3), RGB.
        sigma: float32 (n,), standard deviations, 0-255 scale, on the same device.
        index: int64 (n,), the samples' numbers, on the same device.
        seed: the run's, below 2^32.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    if clean.device.type == "cuda":
        from raydae.noise.triton_kernel import add_noise  # needs Triton and a C compiler

        return add_noise(clean, sigma, index, seed, _half_normals_on(clean.device))
    generators = Generators(seed, SAMPLE)
    patches = [
        sample_noise(generators[number], patch.numpy(), level)
        for number, patch, level in zip(index.tolist(), clean, sigma.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(patches)).float() / SCALE


@functools.cache
def _half_normals_on(device: torch.device) -> Tensor:
    return torch.from_numpy(half_normals()).to(device)
