"""The noise level of a picture is estimated from the picture alone."""

from typing import Any

import numpy as np
import pytest
from skimage import data

from raydae.noise.estimate import estimate_sigma
from raydae.noise.evaluation import evaluation_noise


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize("is_grey", [False, True])
@pytest.mark.parametrize("sigma", [5, 10, 25, 50])
def test_white_noise_in_photographs(name: str, is_grey: bool, sigma: float) -> None:
    image = getattr(data, name)()
    image = image[..., 1] if is_grey else image
    estimate = estimate_sigma(evaluation_noise(image, sigma))
    assert estimate == pytest.approx(sigma, rel=0.06)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_photographs_without_noise(name: str) -> None:
    estimate = estimate_sigma(getattr(data, name)())
    assert estimate is not None
    assert estimate < 1.5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_scale_does_not_depend_on_the_dtype(dtype: Any) -> None:
    noisy = np.random.default_rng(0).normal(128, 12, (200, 300)).clip(0, 255).astype(np.uint8)
    image = noisy if dtype == np.uint8 else (noisy / 255).astype(dtype)
    assert estimate_sigma(image) == pytest.approx(12, rel=0.05)


def test_burnt_out_parts_do_not_count() -> None:
    noisy = np.random.default_rng(0).normal(128, 12, (200, 300))
    noisy[:150] = 400
    assert estimate_sigma(noisy.clip(0, 255).astype(np.uint8)) == pytest.approx(12, rel=0.08)


@pytest.mark.parametrize("shape", [(1, 1), (7, 900), (9, 9), (12, 12, 3)])
def test_too_small_a_picture_has_no_estimate(shape: tuple[int, ...]) -> None:
    assert estimate_sigma(np.random.default_rng(0).random(shape)) is None


def test_a_flat_picture_has_no_estimate() -> None:
    assert estimate_sigma(np.full((99, 99, 3), 7, np.uint8)) is None
