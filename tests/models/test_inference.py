from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from raydae.models import inference
from raydae.models.config import ModelConfig
from raydae.models.inference import MAX_TILE, MIN_TILE, PROBE, TILE, Denoiser, ieee_convolutions
from raydae.models.networks import build


class Blur(nn.Module):
    """A network that sees 3 pixels far, and needs sizes divisible by 4."""

    multiple, margin = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []  # pixels, pass by pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] % 4 == x.shape[3] % 4 == 0
        self.seen.append(x.shape[2] * x.shape[3])
        return nn.functional.avg_pool2d(x, 7, stride=1, padding=3, count_include_pad=False)


@pytest.fixture(scope="module")
def dae() -> nn.Module:
    torch.manual_seed(0)
    network = build(ModelConfig())
    network(torch.rand(8, 3, 64, 64))  # moves the running statistics off their start
    return network


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 31), (16, 16), (15, 33), (70, 50)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_any_size_and_kind_comes_back_as_it_was(
    dae: nn.Module, size: tuple[int, int], kind: type[np.generic]
) -> None:
    rng = np.random.default_rng(0)
    for shape in (size, (*size, 3)):
        image = rng.random(shape) if kind != np.uint8 else rng.integers(0, 256, shape)
        image = image.astype(kind)
        before = image.copy()
        result = Denoiser(dae)(image)
        assert result.shape == shape
        assert result.dtype == kind
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [(300, 420), (129, 400), (513, 96)])
def test_tiled_equals_whole(dae: nn.Module, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    whole = Denoiser(dae, tile=1024)(image)
    tiled = Denoiser(dae, tile=64)(image)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_of_a_network_with_another_grid() -> None:
    image = np.random.default_rng(0).random((101, 203, 3), np.float32)
    whole = Denoiser(Blur(), tile=1024)(image)
    np.testing.assert_allclose(Denoiser(Blur(), tile=20)(image), whole, atol=1e-5)


@pytest.mark.parametrize(("size", "tiles"), [((64, 64), 1), ((96, 40), 1), ((64, 128), 2)])
def test_tiles_are_as_few_as_their_area_allows(size: tuple[int, int], tiles: int) -> None:
    network = Blur()
    Denoiser(network, tile=64)(np.zeros(size, np.uint8))
    assert len(network.seen) == tiles
    assert sum(network.seen) < 1.1 * size[0] * size[1], "each sees but its margin beyond"


def test_uint8_is_the_rounded_result(dae: nn.Module) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    exact = Denoiser(dae)(image / np.float32(255)) * 255
    assert np.abs(Denoiser(dae)(image) - exact).max() <= 0.5 + 1e-3


def test_grey_is_denoised_as_three_equal_channels(dae: nn.Module) -> None:
    image = np.random.default_rng(0).random((40, 40), np.float32)
    rgb = Denoiser(dae)(np.repeat(image[..., None], 3, axis=2))
    np.testing.assert_allclose(Denoiser(dae)(image), rgb.mean(axis=2), atol=1e-6)


def test_floating_point_is_taken_beyond_0_and_1_and_comes_back_within() -> None:
    image = np.full((16, 16, 3), 3.0, np.float32)
    assert (Denoiser(Blur())(image) == 1).all()
    image[:, 8:] = -5
    assert Denoiser(Blur())(image)[8, 8, 0] == 0  # the mean of some 3 and more -5


def test_the_network_s_mode_is_left_as_it_was(dae: nn.Module) -> None:
    for mode in (True, False):
        dae.train(mode)
        Denoiser(dae)(np.zeros((16, 16), np.uint8))
        assert dae.training == mode


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 4), np.uint8), np.zeros(4), np.zeros((4, 4), np.int64), np.zeros((0, 4))],
)
def test_what_is_no_image_is_refused(dae: nn.Module, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an image is"):
        Denoiser(dae)(image)


class Shift(nn.Module):
    """A network that treats directions differently."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, dims=3)


def test_the_ensemble_treats_all_directions_alike() -> None:
    image = np.random.default_rng(0).random((24, 40, 3)).astype(np.float32)
    plain, together = Denoiser(Shift()), Denoiser(Shift(), ensemble=True)
    turned = np.rot90(together(image))
    np.testing.assert_allclose(together(np.rot90(image).copy()), turned, atol=1e-6)
    np.testing.assert_allclose(together(image[:, ::-1].copy()), together(image)[:, ::-1], atol=1e-6)
    assert np.abs(plain(np.rot90(image).copy()) - np.rot90(plain(image))).max() > 0.1
    np.testing.assert_allclose(
        together(image), sum(np.roll(image, s, a) for s in (1, -1) for a in (0, 1)) / 4, atol=1e-6
    )


class Limited(Blur):
    """A network that runs out of GPU memory above an area, in pixels."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = super().forward(x)
        if self.seen[-1] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return result


@pytest.fixture
def by_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Denoiser]:
    """A denoiser that sizes its tiles as on a GPU, with a memory of our own."""

    def make(network: nn.Module, free: int = 0, per_pixel: int = 100) -> Denoiser:
        def peak(device: torch.device, work: Callable[[], None]) -> int:
            work()
            return per_pixel * inference.PROBE**2

        monkeypatch.setattr(inference, "_free_memory", lambda device: free)
        monkeypatch.setattr(inference, "_peak_memory", peak)
        denoiser = Denoiser(network)
        denoiser.tile = None
        return denoiser

    return make


def test_the_cpu_s_tiles_are_fixed() -> None:
    assert Denoiser(Blur()).tile == TILE
    assert Denoiser(Blur(), tile=64).tile == 64


@pytest.mark.parametrize(
    ("free", "tile"),
    [
        (2 * 100 * 500**2, 500 - 8),  # the margin of 3, rounded up to 4, on either side
        (10**12, MAX_TILE),
        (0, MIN_TILE),
    ],
)
def test_tiles_are_sized_by_half_of_the_free_memory(
    by_memory: Callable[..., Denoiser], free: int, tile: int
) -> None:
    network = Blur()
    denoiser = by_memory(network, free)
    image = np.random.default_rng(0).integers(0, 256, (1100, 1100), np.uint8)
    result = denoiser(image)
    assert denoiser.tile == tile
    assert network.seen[0] == PROBE**2, "the probe comes first"
    assert max(network.seen[1:]) <= max((tile + 12) ** 2, 1100**2 * (tile == MAX_TILE))
    np.testing.assert_array_equal(result, Denoiser(Blur())(image))
    passes = len(network.seen)
    denoiser(image)
    assert len(network.seen) == 2 * passes - 1, "later images are not preceded by a probe"


def test_images_up_to_the_probe_s_area_are_denoised_whole(
    by_memory: Callable[..., Denoiser],
) -> None:
    network = Blur()
    denoiser = by_memory(network)
    denoiser(np.zeros((PROBE, PROBE), np.uint8))
    assert network.seen == [PROBE**2]
    assert denoiser.tile is None


@pytest.mark.parametrize("size", [(300, 420), (129, 400), (17, 3000)])
def test_running_out_of_memory_leads_to_smaller_tiles(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    network = Limited(limit=200**2)
    denoiser = Denoiser(network)
    np.testing.assert_allclose(denoiser(image), Denoiser(Blur())(image), atol=1e-5)
    assert denoiser.tile is not None
    assert denoiser.tile < TILE
    passes = len(network.seen)
    denoiser(image)
    assert max(network.seen[passes:]) <= 200**2, "the tile that worked is kept"


def test_a_probe_that_runs_out_of_memory_sizes_the_tiles(
    by_memory: Callable[..., Denoiser],
) -> None:
    image = np.random.default_rng(0).random((1100, 1000), np.float32)
    denoiser = by_memory(Limited(limit=600**2), free=10**12)
    np.testing.assert_allclose(denoiser(image), Denoiser(Blur())(image), atol=1e-5)
    assert denoiser.tile is not None
    assert MIN_TILE < denoiser.tile < 600


@pytest.mark.parametrize("size", [(40, 40), (300, 420), (17, 3000)])
@pytest.mark.parametrize("tile", [64, None])
def test_too_little_memory_for_the_smallest_tile(size: tuple[int, int], tile: int | None) -> None:
    denoiser = Denoiser(Limited(limit=0), tile=tile)
    with pytest.raises(torch.OutOfMemoryError, match="cpu has too little free memory for a tile"):
        denoiser(np.zeros(size, np.uint8))


def test_another_error_is_not_a_lack_of_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match=r"^broken$"):
        Denoiser(Broken())(np.zeros((300, 300), np.uint8))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_float32(dae: nn.Module, precision: str) -> None:
    image = np.random.default_rng(0).random((40, 56, 3), np.float32)
    difference = Denoiser(dae, precision=precision)(image) - Denoiser(dae)(image)
    assert 0 < np.abs(difference).max() < 0.05


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="fp32, bf16 or fp16, not int8"):
        Denoiser(Blur(), precision="int8")


def test_convolutions_in_float32_only_within() -> None:
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    with ieee_convolutions():
        assert convolutions.fp32_precision == "ieee"
    assert convolutions.fp32_precision == before
