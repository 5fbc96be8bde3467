import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from raydae.images.image_sets import ImageSets
from raydae.noise.fixed_point import SCALE
from raydae.noise.on_device import add_noise_on_device
from raydae.training.config import Config
from raydae.training.samples import Samples

COMPARE = """
import numpy as np
import torch
from raydae.noise import on_device
from raydae.noise import triton_kernel
from raydae.noise.gaussian import half_normals

def compare(device, patches, size):
    rng = np.random.default_rng(size)
    clean = torch.from_numpy(rng.integers(0, 256, (patches, size, size, 3), np.uint8))
    sigma = torch.from_numpy(rng.uniform(0, 255, patches).astype(np.float32))
    halves = torch.from_numpy(half_normals())
    for first, seed in ((0, 0), (2**32 - 2, 1), (2**40, 2**32 - 1)):
        index = torch.arange(first, first + patches)
        ours = on_device.add_noise_on_device(clean, sigma, index, seed)
        values = [value.to(device) for value in (clean, sigma, index)]
        theirs = triton_kernel.add_noise(*values, seed, halves.to(device)).cpu()
        assert torch.equal(ours, theirs), (ours - theirs).abs().max()
"""


def test_noise_is_the_same_wherever_it_is_made(config: Config, sets: ImageSets) -> None:
    config = config.override({"noise.options.sigma": "0:55"})
    rows = range(2**33, 2**33 + 8)
    made = Samples.of(config, sets.train).block([rows], 8)
    levels = Samples.of(config.override({"noise.on": "device"}), sets.train).block([rows], 8)
    assert "noisy" not in levels
    np.testing.assert_array_equal(made["clean"], levels["clean"])
    clean, sigma, index = (torch.from_numpy(levels[name]) for name in ("clean", "sigma", "index"))
    noisy = add_noise_on_device(clean, sigma, index, config.seed)
    np.testing.assert_array_equal(noisy.numpy(), made["noisy"].astype(np.float32) / SCALE)


@pytest.mark.parametrize("capability", [75, 90])
def test_the_kernel_compiles_for_cuda(capability: int) -> None:
    pytest.importorskip("triton")
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from raydae.noise.triton_kernel import _add_noise
kinds = ["*u8", "*fp32", "*i64", "*fp32", "*fp32", "i64", "i32"] + ["constexpr"] * 4
signature = dict(zip(_add_noise.arg_names, kinds, strict=True))
source = ASTSource(_add_noise, signature, {{(7,): 1, (8,): 2, (9,): 4096, (10,): 64}})
target = GPUTarget("cuda", {capability}, 32)
compiled = triton.compile(source, target=target, options={{"enable_fp_fusion": False}})
assert "cubin" in compiled.asm
assert "fma.rn.f32" not in compiled.asm["ptx"], "a fused product and sum rounds otherwise"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_kernel_makes_the_same_values_in_triton_s_interpreter() -> None:
    """The interpreter has to be chosen before Triton is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = COMPARE + "compare('cpu', 3, 16)\ncompare('cpu', 2, 18)\n"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.gpu
def test_the_kernel_makes_the_same_values_on_a_gpu() -> None:
    program = COMPARE + "compare('cuda', 64, 64)\ncompare('cuda', 3, 18)\ncompare('cuda', 5, 128)\n"
    subprocess.run([sys.executable, "-c", program], check=True)
