import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from raydae import philox

# Random123's known answers for philox4x32-10: counter and key, result.
KNOWN = {
    "00000000 00000000 00000000 00000000 00000000 00000000": "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff": "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0": "d16cfe09 94fdcceb 5001e420 24126ea1",
}


@pytest.mark.parametrize(("asked", "known"), KNOWN.items())
def test_the_generator_gives_the_known_answers(asked: str, known: str) -> None:
    *counter, low, high = (int(word, 16) for word in asked.split())
    words = philox.philox([torch.tensor([word]) for word in counter], (low, high))
    assert " ".join(f"{int(word):08x}" for word in words) == known


def noise(patches: int, size: int, sigma: float, first: int = 0, seed: int = 0) -> torch.Tensor:
    grey = torch.full((patches, size, size, 3), 128, dtype=torch.uint8)
    noisy = philox.add_noise(grey, torch.full((patches,), sigma), first, seed)
    return (noisy - 128 / 255) * 255


def test_noise_is_gaussian_and_of_the_level_asked_for() -> None:
    values = noise(64, 64, 25).numpy() / 25
    assert abs(values.mean()) < 0.005
    assert stats.kurtosis(values.ravel()) == pytest.approx(0, abs=0.02)
    assert stats.kstest(values.ravel()[:100_000], "norm").pvalue > 0.01
    for one, other in (
        (values[:, :, 1:], values[:, :, :-1]),
        (values[..., 0], values[..., 1]),
        (values[1:], values[:-1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.005


def test_a_sample_s_noise_depends_on_its_number_and_the_seed_alone() -> None:
    ten = noise(10, 16, 25, first=2**32 - 5, seed=7)
    assert torch.equal(ten[6:], noise(4, 16, 25, first=2**32 + 1, seed=7))
    assert len({sample.numpy().tobytes() for sample in ten}) == 10
    assert not torch.equal(ten, noise(10, 16, 25, first=2**32 - 5, seed=8))


def test_each_patch_has_its_own_level() -> None:
    grey = torch.full((3, 32, 32, 3), 128, dtype=torch.uint8)
    noisy = philox.add_noise(grey, torch.tensor([0.0, 5.0, 50.0]), 0, 0)
    levels = ((noisy - 128 / 255) * 255).std(dim=(1, 2, 3)).tolist()
    assert levels == pytest.approx([0, 5, 50], rel=0.05, abs=1e-4)


@pytest.mark.parametrize("capability", [75, 90])
def test_the_kernel_compiles_for_cuda(capability: int) -> None:
    pytest.importorskip("triton")
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from raydae.philox_cuda import _add_noise
kinds = ["*u8", "*fp32", "*fp32", "*fp32", "i64", "i64", "i32", "constexpr"]
signature = dict(zip(_add_noise.arg_names, kinds, strict=True))
source = ASTSource(_add_noise, signature, {{(7,): 256}})
target = GPUTarget("cuda", {capability}, 32)
compiled = triton.compile(source, target=target, options={{"enable_fp_fusion": True}})
assert "cubin" in compiled.asm
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_kernel_for_cuda_makes_the_same() -> None:
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    pytest.importorskip("triton")
    program = """
import torch
from raydae import philox, philox_cuda
from raydae.noise import half_normals
clean = torch.randint(256, (3, 18, 18, 3), dtype=torch.uint8)
sigma = torch.tensor([0.0, 25.0, 50.0])
halves = torch.from_numpy(half_normals())
for first, seed in ((0, 0), (2**32 - 2, 2**32 - 1)):
    ours = philox.add_noise(clean, sigma, first, seed)
    torch.testing.assert_close(philox_cuda.launch(clean, sigma, first, seed, halves), ours)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
