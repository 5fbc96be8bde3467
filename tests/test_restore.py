import numpy as np
import pytest
import torch
from torch import nn

from raydae.config import ModelConfig
from raydae.models import build
from raydae.restore import Denoiser


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
    dae: nn.Module, size: tuple[int, int], kind: type
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
