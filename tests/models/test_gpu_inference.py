"""Denoising on a GPU equals denoising on the CPU, however little memory the GPU has."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import raydae
from raydae.core.pixels import to_uint8
from raydae.distributed.spread import spread
from raydae.evaluation.scoring import evaluate
from raydae.images.listed import Listed
from raydae.images.listing import list_images
from raydae.images.scan import scan
from raydae.models import inference
from raydae.models.config import ModelConfig
from raydae.models.inference import MAX_TILE, MIN_TILE, PROBE, Denoiser
from raydae.models.model_file import load_model
from raydae.models.networks import build
from raydae.noise.evaluation import EvaluationNoise, evaluation_noise
from tests.conftest import draw

pytestmark = pytest.mark.gpu

MAX_ERROR = 1e-4  # float32 differs by some 1e-6 between devices, TF32 by 7e-4


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """The released network, and a plain autoencoder with random weights; on the CPU."""
    torch.manual_seed(0)
    dae = build(ModelConfig(name="dae"))
    dae(torch.rand(8, 3, 64, 64))  # moves the running statistics off their start
    return {"unet": load_model("gaussian")[0], "dae": dae.eval()}


def on_gpu(network: nn.Module, **settings: Any) -> Denoiser:
    """Return a denoiser with a copy of a network, which leaves the original on the CPU."""
    return Denoiser(copy.deepcopy(network), "cuda", **settings)


def noisy(height: int, width: int, grey: bool = False) -> NDArray[np.float32]:
    """Return a picture with noise of sigma 25, on the [0, 1] scale and beyond."""
    image = evaluation_noise(draw(0, height, width), 25).astype(np.float32)
    return image[..., 0].copy() if grey else image


def count_passes(network: nn.Module) -> list[int]:
    """Return a list to which each pass of the network will add its pixels."""
    pixels: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pixels.append(inputs[0].shape[2] * inputs[0].shape[3])

    network.register_forward_pre_hook(count)
    return pixels


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (256, 320)])
@pytest.mark.parametrize("name", ["unet", "dae"])
def test_cuda_equals_the_cpu(
    networks: dict[str, nn.Module], name: str, size: tuple[int, int], grey: bool
) -> None:
    image = noisy(*size, grey)
    cpu, cuda = Denoiser(networks[name]), on_gpu(networks[name])
    np.testing.assert_allclose(cuda(image), cpu(image), rtol=0, atol=MAX_ERROR)
    levels = to_uint8(image)
    difference = np.abs(cuda(levels).astype(int) - cpu(levels))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(1, difference.size // 100)


@pytest.mark.parametrize("grey", [False, True])
def test_the_ensemble_on_cuda_equals_the_cpu_s(networks: dict[str, nn.Module], grey: bool) -> None:
    image = noisy(37, 53, grey)
    cpu = Denoiser(networks["unet"], ensemble=True)(image)
    cuda = on_gpu(networks["unet"], ensemble=True)(image)
    np.testing.assert_allclose(cuda, cpu, rtol=0, atol=MAX_ERROR)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_cuda_is_near_float32(
    networks: dict[str, nn.Module], precision: str
) -> None:
    image = noisy(256, 320)
    difference = on_gpu(networks["unet"], precision=precision)(image)
    difference -= Denoiser(networks["unet"])(image)
    assert 0 < np.abs(difference).max() < 0.05


def test_denoising_leaves_torch_s_tf32_as_it_was(networks: dict[str, nn.Module]) -> None:
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    on_gpu(networks["unet"])(noisy(37, 53))
    assert convolutions.fp32_precision == before


def test_a_loaded_model_denoises_on_the_gpu() -> None:
    denoiser = raydae.load()
    assert denoiser.device.type == "cuda"
    assert next(denoiser.network.parameters()).is_cuda


@pytest.mark.parametrize("name", ["unet", "dae"])
def test_tiled_equals_whole_on_cuda(networks: dict[str, nn.Module], name: str) -> None:
    image = noisy(300, 420)
    whole = on_gpu(networks[name])(image)
    tiled = on_gpu(networks[name], tile=64)(image)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=MAX_ERROR)


def test_tiles_are_sized_by_the_memory_that_is_free(networks: dict[str, nn.Module]) -> None:
    denoiser = on_gpu(networks["unet"])
    result = denoiser(noisy(1300, 1400))
    assert denoiser.tile is not None
    assert MIN_TILE <= denoiser.tile <= MAX_TILE
    whole = on_gpu(networks["unet"], tile=MAX_TILE)(noisy(1300, 1400))
    np.testing.assert_allclose(result, whole, rtol=0, atol=MAX_ERROR)


def test_little_free_memory_leads_to_several_tiles_that_fit(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noisy(1300, 1400)
    whole = on_gpu(networks["unet"], tile=MAX_TILE)(image)
    monkeypatch.setattr(inference, "_free_memory", lambda device: 200 * 2**20)
    denoiser = on_gpu(networks["unet"])
    passes = count_passes(denoiser.network)
    np.testing.assert_allclose(denoiser(image), whole, rtol=0, atol=MAX_ERROR)
    assert passes[0] == PROBE**2
    assert len(passes) > 3, "the probe and several tiles"
    assert max(passes[1:]) < PROBE**2


def test_an_out_of_memory_error_leads_to_smaller_tiles(networks: dict[str, nn.Module]) -> None:
    image = noisy(600, 700)
    whole = on_gpu(networks["unet"])(image)
    denoiser = on_gpu(networks["unet"])

    def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[2] * inputs[0].shape[3] > 500**2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    denoiser.network.register_forward_pre_hook(refuse)
    np.testing.assert_allclose(denoiser(image), whole, rtol=0, atol=MAX_ERROR)
    assert denoiser.tile is not None
    assert denoiser.tile < 500


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process reserve 200 MiB of GPU memory beyond what it uses already."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_gpu_that_really_runs_out_of_memory(
    networks: dict[str, nn.Module], request: pytest.FixtureRequest
) -> None:
    image = noisy(1800, 2000)
    whole = on_gpu(networks["unet"], tile=MAX_TILE)(image)
    request.getfixturevalue("little_memory")
    denoiser = on_gpu(networks["unet"], tile=MAX_TILE)
    passes = count_passes(denoiser.network)
    np.testing.assert_allclose(denoiser(image), whole, rtol=0, atol=MAX_ERROR)
    assert denoiser.tile is not None
    tile, before = denoiser.tile, len(passes)
    assert tile < 1800
    np.testing.assert_allclose(denoiser(image), whole, rtol=0, atol=MAX_ERROR)
    assert denoiser.tile <= tile, "memory in pieces may ask for smaller ones yet"
    assert max(passes[before:]) < passes[0], "the tile that worked is where the next image begins"


@pytest.mark.usefixtures("ray_cluster")
def test_ray_s_actors_denoise_on_the_gpu() -> None:
    def prepare() -> Callable[[int], str]:
        denoiser = raydae.load()
        return lambda item: f"{denoiser.device} for {item}, GPUs {ray.get_gpu_ids()}"

    assert dict(spread(prepare, [7]))[0] == "cuda for 7, GPUs [0]"


@pytest.mark.usefixtures("ray_cluster")
def test_evaluating_under_ray_on_a_gpu_scores_as_the_cpu_does(tmp_path: Path) -> None:
    for seed in (0, 1):
        Image.fromarray(draw(seed, 65, 91)).save(tmp_path / f"{seed}.png")
    images, _ = scan(Listed.of(list_images(str(tmp_path))))
    noises = [EvaluationNoise.white(level) for level in (15, 50)]
    on_cpu, failed_on_cpu = evaluate("gaussian", images, noises, local_device="cpu")
    in_threads, _ = evaluate("gaussian", images, noises, local_device="cuda")
    on_gpus, failed_on_gpus = evaluate("gaussian", images, noises)
    assert not failed_on_cpu
    assert not failed_on_gpus
    assert [line.denoised["psnr"] for line in in_threads] == pytest.approx(
        [line.denoised["psnr"] for line in on_gpus], abs=0.001
    )
    assert len(on_cpu) == len(on_gpus) == 4
    for cpu, gpu in zip(on_cpu, on_gpus, strict=True):
        assert (gpu.image, gpu.sigma) == (cpu.image, cpu.sigma)
        assert gpu.denoised["psnr"] == pytest.approx(cpu.denoised["psnr"], abs=0.001)
        assert gpu.denoised["ssim"] == pytest.approx(cpu.denoised["ssim"], abs=0.0001)
