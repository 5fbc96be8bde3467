"""philox.py's noise in one kernel, for CUDA."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

QUADS = 256  # counters to a program, each good for four values


def launch(clean: Tensor, sigma: Tensor, first: int, seed: int, halves: Tensor) -> Tensor:
    """As `philox.add_noise`; `halves`: float32 (65536,), `noise.half_normals`."""
    clean = clean.contiguous()
    noisy = torch.empty(clean.shape, dtype=torch.float32, device=clean.device)
    size = clean[0].numel()
    grid = (len(clean), triton.cdiv(size // 4, QUADS))
    values = (clean, sigma, halves, noisy, first, seed, size)
    _add_noise[grid](*values, QUADS, enable_fp_fusion=True)
    return noisy


@triton.jit  # type: ignore[untyped-decorator]  # Triton's
def _add_noise(
    clean: "Any",
    sigma: "Any",
    halves: "Any",
    noisy: "Any",
    first: "Any",
    seed: "Any",
    size: "Any",
    quads: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * quads + tl.arange(0, quads)
    zero = place.to(tl.uint32) * 0
    index = first + row
    low, high = zero + (index & 0xFFFFFFFF).to(tl.uint32), zero + (index >> 32).to(tl.uint32)
    words = tl.philox(seed, place.to(tl.uint32), zero, low, high)
    level = tl.load(sigma + row)
    for number in tl.static_range(4):
        value = row * size + 4 * place + number
        inside = 4 * place + number < size
        noise = tl.load(halves + (words[number] & 0xFFFF)) + tl.load(halves + (words[number] >> 16))
        pixel = tl.load(clean + value, mask=inside, other=0).to(tl.float32)
        tl.store(noisy + value, (pixel + level * noise) / 255, mask=inside)
