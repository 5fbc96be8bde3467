"""Images of every kind come back as they were given, and wrong ones are refused with a reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from raydae.models import conversion
from raydae.models.inference import Denoiser

Pixels = NDArray[Any]


class Negative(nn.Module):
    """A network that every value passes by itself."""

    multiple, margin = 4, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - x


@pytest.fixture(scope="module")
def denoise() -> Denoiser:
    return Denoiser(Negative())


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, ">u2"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_integers_of_16_bits_by_their_range(
    denoise: Denoiser, dtype: Any, shape: tuple[int, ...]
) -> None:
    dtype = np.dtype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(dtype)
    image[0, 0], image[0, 1] = low, high
    before = image.copy()
    result = denoise(image)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(int), low + high - image.astype(int))
    np.testing.assert_array_equal(denoise(image, strength=0), image)
    np.testing.assert_array_equal(image, before)


def test_half_precision(denoise: Denoiser, pixels: Pixels) -> None:
    image = (pixels / 255).astype(np.float16)
    result = denoise(image)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, 1 - image, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_stack_is_its_images_one_by_one(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    stack = (rng.random((4, 6, 5, 3)) * (1 if dtype is np.float32 else 255)).astype(dtype)
    denoise = Denoiser(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid()))
    result = denoise(stack)
    removed = denoise.removed
    assert result.dtype == dtype
    squares = []
    for image, expected in zip(stack, result, strict=True):
        np.testing.assert_array_equal(denoise(image), expected)
        squares.append(denoise.removed**2)
    assert removed == pytest.approx(np.mean(squares) ** 0.5)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "I;16"])
def test_pil_images(denoise: Denoiser, pixels: Pixels, mode: str) -> None:
    image = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(pixels[..., 1]))
    image.info["dpi"] = (72, 72)
    before = image.copy()
    result = denoise(image)
    assert (type(result), result.mode, result.info) == (Image.Image, mode, image.info)
    expected = np.invert(np.asarray(image))
    if mode in ("LA", "RGBA"):
        expected[..., -1] = pixels[..., 1]
    np.testing.assert_array_equal(np.asarray(result), expected)
    assert image == before


def test_palettes_and_colour_keys(denoise: Denoiser, pixels: Pixels) -> None:
    image = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.invert(np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(np.asarray(denoise(image)), expected)
    image.info["transparency"] = 0
    alpha = np.asarray(image.convert("RGBA"))[..., 3:]
    result = denoise(image)
    assert result.mode == "RGBA"
    assert "transparency" not in result.info
    np.testing.assert_array_equal(np.asarray(result), np.dstack((expected, alpha)))


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "YCbCr", "LAB", "I"])
def test_other_modes_are_refused(denoise: Denoiser, mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} is not supported: convert it to RGB"):
        denoise(Image.new(mode, (4, 4)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [(6, 5), (6, 5, 3), (3, 6, 5), (1, 6, 5), (2, 6, 5, 3), (2, 3, 6, 5), (2, 1, 6, 5), (1, 5, 3)],
)
def test_tensors_of_any_layout(
    denoise: Denoiser, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    tensor = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    expected = (255 if dtype == torch.uint8 else 1) - tensor
    result = denoise(tensor.requires_grad_(dtype.is_floating_point))
    assert (result.dtype, result.device) == (dtype, tensor.device)
    torch.testing.assert_close(result, expected.detach(), atol=4e-3, rtol=0)


def test_channels_first_are_denoised_as_channels_last(pixels: Pixels) -> None:
    denoise = Denoiser(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid()))
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    np.testing.assert_array_equal(denoise(first).permute(1, 2, 0).numpy(), denoise(pixels))


@pytest.mark.gpu
def test_a_tensor_comes_back_on_its_device(denoise: Denoiser, pixels: Pixels) -> None:
    result = denoise(torch.from_numpy(pixels).cuda())
    assert result.device.type == "cuda"
    np.testing.assert_array_equal(result.cpu().numpy(), np.invert(pixels))


def test_lists(denoise: Denoiser, pixels: Pixels) -> None:
    assert denoise(pixels.tolist()) == np.invert(pixels).tolist()
    assert denoise([[0.0, 1.0], [0.25, 0.5]]) == [[1.0, 0.0], [0.75, 0.5]]
    images: list[Any] = [pixels, Image.fromarray(pixels), torch.from_numpy(pixels[:3])]
    first, second, third = denoise(images)
    np.testing.assert_array_equal(first, np.invert(pixels))
    np.testing.assert_array_equal(np.asarray(second), np.invert(pixels))
    np.testing.assert_array_equal(third.numpy(), np.invert(pixels[:3]))
    assert isinstance(denoise((pixels, pixels)), tuple)


def test_arrays_of_other_libraries(denoise: Denoiser, pixels: Pixels) -> None:
    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Pixels:
            return pixels

    result: Any = denoise(Foreign())
    np.testing.assert_array_equal(result, np.invert(pixels))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda a: a.astype(float), "lie between 0 and 2[0-9]+, .* 0 to 1: divide it, by 255"),
        (lambda a: torch.from_numpy(a).float(), "lie between 0 and 2[0-9]+, but"),
        (lambda a: a / 255 - 9.0, "lie between -9 and -8"),
        (lambda a: np.where(a > 200, np.nan, 0.5), "of 90 values are NaN or infinite: replace"),
        (lambda a: np.where(np.arange(90).reshape(6, 5, 3) < 2, -np.inf, 0.5), "^2 of 90 values"),
        (lambda a: a > 127, "not bool: convert it first"),
        (lambda a: a.astype(int), "not int64: convert it first"),
        (lambda a: a[..., :2], r"HxWx3 or HxW, or a stack NxHxWx3, not \(6, 5, 2\)"),
        (lambda a: a[None, ..., :2], r"or a stack NxHxWx3, not \(6, 5, 2\)"),
        (lambda a: a[:0], r"not \(0, 5, 3\)"),
        (lambda a: a[None][:0], "there are no images"),
        (lambda a: [], "there are no images"),
        (lambda a: [[0, 256]], "whole numbers from 0 to 256, .* from 0 to 255: pass an array of"),
        (lambda a: [[0, 1], [2]], "the rows of the list differ in length"),
        (lambda a: [[1, True], [0, "x"]], "not <U"),
        (lambda a: "photo.jpg", "is a NumPy array, a torch tensor, .* not a str"),
        (lambda a: None, "not a NoneType"),
    ],
)
def test_what_cannot_be_denoised(
    denoise: Denoiser, pixels: Pixels, make: Callable[[Pixels], Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        denoise(make(pixels))


def test_noise_may_leave_the_scale(denoise: Denoiser, pixels: Pixels) -> None:
    noise = np.random.default_rng(0).normal(0, 1, pixels.shape)  # sigma 255
    assert denoise(pixels / 255 + noise).max() <= 1


def test_arrays_take_the_direct_way(
    denoise: Denoiser, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(conversion, "unpack")
    for image in (pixels, pixels[..., 0], (pixels / 255).astype(np.float32)):
        denoise(image)
