"""The Gaussian noise of gaussian.py on a GPU: one Triton kernel, the same bits and values."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from raydae.core.random_numbers import SAMPLE
from raydae.noise.fixed_point import SCALE
from raydae.noise.gaussian import FIRST_NOISE_BLOCK

BLOCKS = 64  # blocks of random words that a program computes, each good for 16 values


def add_noise(clean: Tensor, sigma: Tensor, index: Tensor, seed: int, halves: Tensor) -> Tensor:
    """Return a batch of patches with white Gaussian noise, as `on_device.add_noise_on_device`.

    Args:
        clean: uint8 (n, h, w, 3) on a GPU.
        sigma: float32 (n,), standard deviations, 0-255 scale.
        index: int64 (n,), sample numbers.
        seed: below 2^32.
        halves: float32 (65536,), `gaussian.half_normals`.
    """
    clean = clean.contiguous()
    noisy = torch.empty(clean.shape, dtype=torch.float32, device=clean.device)
    size = clean[0].numel()
    grid = (len(clean), triton.cdiv(triton.cdiv(size, 16), BLOCKS))
    # Without fusion of products and sums, which would round differently than gaussian.py.
    _add_noise[grid](
        clean, sigma, index, halves, noisy, seed, size,
        SAMPLE, FIRST_NOISE_BLOCK, SCALE, BLOCKS, enable_fp_fusion=False,
    )  # fmt: skip
    return noisy


@triton.jit  # type: ignore[untyped-decorator]  # Triton's
def _philox(block: "Any", number: "Any", key0: "Any", key1: "Any") -> "Any":
    """Philox4x64-10: the four words of counter (block, number, 0, 0) under a key; uint64."""
    c0, c1, c2, c3 = block, number, number * 0, number * 0
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2E7470EE14C6C93), c0 * 0xD2E7470EE14C6C93
        high1, low1 = tl.umulhi(c2, 0xCA5A826395121157), c2 * 0xCA5A826395121157
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 += 0x9E3779B97F4A7C15
        key1 += 0xBB67AE8584CAA73B
    return c0, c1, c2, c3


@triton.jit(do_not_specialize=["seed"])  # type: ignore[untyped-decorator]  # Triton's
def _add_noise(
    clean: "Any",
    sigma: "Any",
    index: "Any",
    halves: "Any",
    noisy: "Any",
    seed: "Any",
    size: "Any",
    purpose: tl.constexpr,
    first_block: tl.constexpr,
    scale: tl.constexpr,
    blocks: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * blocks + tl.arange(0, blocks)
    zero = block.to(tl.uint64) * 0
    number = zero + tl.load(index + row).to(tl.uint64)
    key0, key1 = zero + seed.to(tl.uint64), zero + purpose
    first = zero + block.to(tl.uint64) + first_block
    words = _philox(first, number, key0, key1)
    others = _philox(first + (size + 15) // 16, number, key0, key1)
    level = tl.load(sigma + row) * (scale / 255)
    for word in tl.static_range(4):
        for lane in tl.static_range(4):
            value = 16 * block + 4 * word + lane
            inside = value < size
            half = tl.load(halves + (words[word] >> (16 * lane) & 0xFFFF).to(tl.int32))
            other = tl.load(halves + (others[word] >> (16 * lane) & 0xFFFF).to(tl.int32))
            pixel = tl.load(clean + row * size + value, mask=inside, other=0).to(tl.float32)
            result = (half + other) * level + pixel * (scale / 255)
            result = (result + 12582912.0) - 12582912.0  # to the nearest integer, ties to even
            tl.store(noisy + row * size + value, result * (1 / scale), mask=inside)
