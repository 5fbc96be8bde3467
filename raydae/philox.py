"""Training noise made where the network is: like noise.py's, a pure function of (seed, index).

For a GPU that the cores cannot feed: clean patches are all it is sent. A counter-based generator
needs no state, so any value of any sample can be made anywhere: counter (place, 0, index) and key
(seed, 0) through Philox4x32-10 (Salmon et al., SC 2011) give 32 bits for each of four values in
turn, two halves of which are looked up and added as in noise.py. The bits are the same on every
device, and the noise but for the rounding of its last operations.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from raydae.noise import half_normals

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key between two rounds
ROUNDS = 10
WORD = 0xFFFFFFFF


def add_noise(clean: Tensor, sigma: Tensor, first: int, seed: int) -> Tensor:
    """White Gaussian noise on the patches of consecutive samples.

    Args:
        clean: uint8 (n, h, w, 3), RGB; h * w divisible by 4.
        sigma: float32 (n,), standard deviations, 0-255 scale, on the same device.
        first: the number of the first sample.
        seed: below 2^32.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    halves = _halves(clean.device)
    if clean.device.type == "cuda":
        from raydae.philox_cuda import launch  # needs Triton, which comes with torch for CUDA

        return launch(clean, sigma, first, seed, halves)
    places = torch.arange(clean[0].numel() // 4, device=clean.device)
    index = torch.arange(first, first + len(clean), device=clean.device)[:, None]
    zero = torch.zeros_like(places)
    words = philox((places, zero, index & WORD, index >> 32), (seed, 0))
    bits = torch.stack(words, dim=-1).reshape(clean.shape)
    noise = halves[bits & 0xFFFF] + halves[bits >> 16]
    return (clean + sigma[:, None, None, None] * noise) / 255


@functools.cache
def _halves(device: torch.device) -> Tensor:
    return torch.from_numpy(half_normals()).to(device)


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four words for each counter of four words.

    Args:
        counter: four int64 tensors that broadcast, each value below 2^32.
        key: two words, each below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # Products of 64 bits without a sign; int64's have the same bits.
        even, odd = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (odd >> 32 & WORD) ^ c1 ^ k0, odd & WORD
        c2, c3 = (even >> 32 & WORD) ^ c3 ^ k1, even & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3
