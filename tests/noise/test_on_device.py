import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from raydae.images.image_sets import ImageSets
from raydae.noise.batch import BatchNoise
from raydae.noise.config import NOISES
from raydae.noise.fixed_point import SCALE
from raydae.training.config import Config
from raydae.training.samples import Samples

COMPARE = """
import numpy as np
import torch
from raydae.noise import on_device
from raydae.noise import triton_kernel
from raydae.noise.normals import half_normals

def compare(device, samples, first_block, shape):
    halves = torch.from_numpy(half_normals()).to(device)
    size = int(np.prod(shape))
    for first, seed in ((0, 0), (2**32 - 2, 1), (2**40, 2**32 - 1)):
        index = torch.arange(first, first + samples)
        ours = on_device.normals_on_device(index, seed, first_block, shape)
        theirs = triton_kernel.normals(index.to(device), seed, first_block, size, halves).cpu()
        assert torch.equal(ours, theirs.reshape(ours.shape)), (ours - theirs).abs().max()
"""


@pytest.mark.parametrize("kind", NOISES.builtins)
def test_noise_is_the_same_wherever_it_is_made(kind: str, config: Config, sets: ImageSets) -> None:
    config = config.override({"noise.kind": kind})
    rows = range(2**33, 2**33 + 24)
    made = Samples.of(config, sets.train).block([rows], 24)
    left = Samples.of(config.override({"noise.on": "device"}), sets.train).block([rows], 24)
    assert "noisy" not in left
    noise = NOISES.bind(kind, config.noise.options)
    assert isinstance(noise, BatchNoise)
    names = ("clean", "parameters", "index")
    patches, parameters, index = (torch.from_numpy(left[name]) for name in names)
    noisy, clean = noise.on_device(patches, parameters, index, config.seed)
    # torch and numpy round sums, powers and exponentials differently in the last bit. Where a
    # value is rounded to a whole level afterwards, few are then a level apart.
    exact = kind in ("gaussian", "poisson-gaussian", "speckle")
    noisy_off = np.abs(noisy.numpy() - made["noisy"].astype(np.float32) / SCALE)
    clean_off = np.abs(clean.numpy() * 255 - made["clean"])
    assert noisy_off.max() <= (0 if exact else 8 / 255)
    assert (noisy_off > 1 / SCALE).mean() <= 1e-3
    assert clean_off.max() <= (1e-4 if exact else 1.001)
    assert (clean_off > 0.5).mean() <= 1e-3


@pytest.mark.parametrize("capability", [75, 90])
def test_the_kernel_compiles_for_cuda(capability: int) -> None:
    pytest.importorskip("triton")
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from raydae.noise.triton_kernel import _normals
kinds = ["*i64", "*fp32", "*fp32", "i64", "i32"] + ["constexpr"] * 3
signature = dict(zip(_normals.arg_names, kinds, strict=True))
source = ASTSource(_normals, signature, {{(5,): 1, (6,): 2, (7,): 64}})
target = GPUTarget("cuda", {capability}, 32)
compiled = triton.compile(source, target=target)
assert "cubin" in compiled.asm
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_kernel_makes_the_same_values_in_triton_s_interpreter() -> None:
    """The interpreter has to be chosen before Triton is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = COMPARE + "compare('cpu', 3, 2, (16, 16, 3))\ncompare('cpu', 2, 8, (18, 18))\n"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.gpu
def test_the_kernel_makes_the_same_values_on_a_gpu() -> None:
    program = COMPARE + "compare('cuda', 64, 2, (64, 64, 3))\ncompare('cuda', 3, 8, (18, 18))\n"
    subprocess.run([sys.executable, "-c", program], check=True)
