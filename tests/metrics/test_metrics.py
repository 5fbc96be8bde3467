from pathlib import Path

import numpy as np
import pytest

from raydae.core.pixels import to_uint8
from raydae.core.storage import Folder
from raydae.images import bsds500 as data
from raydae.images.image_file import read_image
from raydae.images.sources import cbsd68
from raydae.metrics.psnr import psnr
from raydae.metrics.ssim import ssim
from raydae.noise.evaluation import evaluation_noise


def test_psnr_is_its_definition() -> None:
    clean = np.zeros((4, 4, 3), np.uint8)
    image = clean.copy()
    image[0, 0, 0] = 48
    assert psnr(clean, image) == pytest.approx(10 * np.log10(255**2 / (48**2 / 48)))
    assert psnr(clean, clean) == float("inf")


def test_psnr_takes_floating_point_beyond_the_range_as_it_is() -> None:
    clean = np.zeros((4, 4, 3), np.uint8)
    assert psnr(clean, np.full((4, 4, 3), -25.5)) == pytest.approx(20)


def test_ssim() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (32, 32, 3), np.uint8)
    assert ssim(clean, clean) == pytest.approx(1)
    assert ssim(clean, 255 - clean) < 0
    assert ssim(clean[..., 0], clean[..., 0]) == pytest.approx(1)
    assert np.isnan(ssim(clean[:10], clean[:10]))


def test_ssim_of_constants_is_its_luminance_term() -> None:
    # Wang et al. 2004, equation 6, where nothing varies: C1 = (0.01 * 255)^2.
    a, b, c1 = 100.0, 120.0, 2.55**2
    image = np.full((16, 16, 3), a)
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(image, np.full_like(image, b)) == pytest.approx(expected)


def test_rounding_to_uint8() -> None:
    values = np.array([-1, 0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 1, 7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize(("sigma", "published"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_noisy_cbsd68_has_the_published_psnr(bsds500: Path, sigma: float, published: float) -> None:
    root = data.find(Folder.of(bsds500))
    assert root is not None
    values = []
    for uri, _ in cbsd68(root):
        clean = read_image(uri)
        values.append(psnr(clean, evaluation_noise(clean, sigma) * 255))
    assert len(values) == 68
    # Published as the level's expectation; this one noise pattern lies 0.0098 dB above it.
    assert published == pytest.approx(20 * np.log10(255 / sigma), abs=0.005)
    assert np.mean(values) == pytest.approx(20 * np.log10(255 / sigma), abs=0.01)
