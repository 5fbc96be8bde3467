"""A strength blends the noisy image with the denoised one, in luma and chroma apart."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from raydae.models.inference import Denoiser

WEIGHTS = np.array([0.299, 0.587, 0.114])


class Smooth(nn.Module):
    """A network that blurs, sees 3 pixels far, and mixes the channels."""

    multiple, margin = 1, 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blurred = nn.functional.avg_pool2d(x, 7, 1, 3, count_include_pad=False)
        return 0.7 * blurred + 0.3 * blurred.flip(1)


@pytest.fixture(params=[np.uint8, np.float16, np.float32, np.float64])
def image(request: pytest.FixtureRequest) -> NDArray[Any]:
    values = np.random.default_rng(0).random((60, 70, 3)) * 0.3 + 0.35
    if request.param == np.uint8:
        return np.rint(values * 255).astype(np.uint8)
    return values.astype(request.param)


def unit(image: NDArray[Any]) -> NDArray[np.float64]:
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64)


def rounding(image: NDArray[Any]) -> float:
    return 0.501 / 255 if image.dtype == np.uint8 else 2 * float(np.finfo(image.dtype).eps) + 2e-7


@pytest.mark.parametrize("strengths", [(0.0,), (1.0, 0.0, 0.0), (0.3, 0, 0)])
def test_strength_0_returns_a_copy_of_the_image(
    image: NDArray[Any], strengths: tuple[float, ...]
) -> None:
    if image.dtype != np.uint8:
        image = image * 3 - 1
    denoise = Denoiser(Smooth())
    result = denoise(image, *strengths)
    assert result is not image
    assert result.tobytes() == image.tobytes()
    assert denoise.removed == 0


def test_strength_1_is_the_network_s_result(image: NDArray[Any]) -> None:
    denoise = Denoiser(Smooth())
    whole = denoise(image)
    for strengths in ((1.0,), (0.2, 1.0, 1.0), (1.0, None, 1.0)):
        assert denoise(image, *strengths).tobytes() == whole.tobytes()


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("tile", [None, 32])
def test_a_strength_between_is_a_blend(
    image: NDArray[Any], strength: float, tile: int | None
) -> None:
    denoised = Denoiser(Smooth())(unit(image))
    expected = unit(image) + strength * (denoised - unit(image))
    result = Denoiser(Smooth(), tile=tile)(image, strength)
    np.testing.assert_allclose(unit(result), expected, atol=rounding(image), rtol=0)


def test_half_strength_is_the_mean(image: NDArray[Any]) -> None:
    mean = (unit(Denoiser(Smooth())(image)) + unit(image)) / 2
    half = Denoiser(Smooth())(image, 0.5)
    np.testing.assert_allclose(unit(half), mean, atol=2 * rounding(image), rtol=0)


def test_luma_0_keeps_the_brightness_and_chroma_0_the_colour(image: NDArray[Any]) -> None:
    denoise = Denoiser(Smooth())
    before, denoised = unit(image), denoise(unit(image))
    only_chroma, only_luma = (unit(denoise(image, luma=a, chroma=1 - a)) for a in (0, 1))
    luma = [array @ WEIGHTS for array in (before, denoised, only_chroma, only_luma)]
    atol = 2 * rounding(image)
    np.testing.assert_allclose(luma[2], luma[0], atol=atol)
    np.testing.assert_allclose(luma[3], luma[1], atol=atol)
    np.testing.assert_allclose(
        only_chroma - luma[2][..., None], denoised - luma[1][..., None], atol=atol
    )
    np.testing.assert_allclose(
        only_luma - luma[3][..., None], before - luma[0][..., None], atol=atol
    )
    assert np.abs(luma[1] - luma[0]).max() > 0.02


def test_grey_has_luma_only(image: NDArray[Any]) -> None:
    grey = np.ascontiguousarray(image[..., 0])
    denoise = Denoiser(Smooth())
    assert denoise(grey, luma=0, chroma=1).tobytes() == grey.tobytes()
    assert denoise(grey, luma=1, chroma=0).tobytes() == denoise(grey).tobytes()
    assert denoise(grey, 0.4).tobytes() == denoise(grey, luma=0.4, chroma=0.9).tobytes()


def test_a_blend_stays_between_the_ends_and_the_noisy_value() -> None:
    image = np.random.default_rng(0).normal(0.5, 1, (40, 40, 3)).astype(np.float32)
    for strengths in ({"strength": 0.5}, {"luma": 0, "chroma": 1}, {"luma": 1, "chroma": 0.2}):
        result = Denoiser(Smooth())(image, **strengths)
        assert (result >= np.minimum(image, 0)).all()
        assert (result <= np.maximum(image, 1)).all()


@pytest.mark.parametrize("name", ["strength", "luma", "chroma"])
@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan")])
def test_other_strengths_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a number from 0 to 1, not {value}"):
        Denoiser(Smooth())(np.zeros((4, 4), np.uint8), **{name: value})


@pytest.mark.parametrize("tile", [None, 32])
def test_what_was_removed_is_measured_at_full_strength(
    image: NDArray[Any], tile: int | None
) -> None:
    denoise = Denoiser(Smooth(), tile=tile)
    expected = 255 * np.sqrt(((denoise(unit(image)) - unit(image)) ** 2).mean())
    for strength in (1.0, 0.1):
        denoise(image, strength)
        assert denoise.removed == pytest.approx(expected, rel=1e-3)
