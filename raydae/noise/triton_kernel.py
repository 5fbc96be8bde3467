"""The normal numbers of normals.py on a GPU: one Triton kernel, the same bits."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from raydae.core.random_numbers import SAMPLE

BLOCKS = 64  # blocks of random words that a program computes, each good for 16 values


def normals(index: Tensor, seed: int, first_block: int, size: int, halves: Tensor) -> Tensor:
    """Return the normal numbers of some samples, as `normals.standard_normals`.

    Args:
        index: int64 (n,) on a GPU, the samples' numbers.
        seed: below 2^32.
        first_block: the block of random words with which they begin.
        size: how many of each sample.
        halves: float32 (65536,), `normals.half_normals`.

    Returns:
        float32 (n, size).
    """
    values = torch.empty((len(index), size), dtype=torch.float32, device=index.device)
    grid = (len(index), triton.cdiv(triton.cdiv(size, 16), BLOCKS))
    if size:
        _normals[grid](index, halves, values, seed, size, SAMPLE, first_block, BLOCKS)
    return values


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
def _normals(
    index: "Any",
    halves: "Any",
    values: "Any",
    seed: "Any",
    size: "Any",
    purpose: tl.constexpr,
    first_block: tl.constexpr,
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
    for word in tl.static_range(4):
        for lane in tl.static_range(4):
            value = 16 * block + 4 * word + lane
            half = tl.load(halves + (words[word] >> (16 * lane) & 0xFFFF).to(tl.int32))
            other = tl.load(halves + (others[word] >> (16 * lane) & 0xFFFF).to(tl.int32))
            tl.store(values + row * size + value, half + other, mask=value < size)
