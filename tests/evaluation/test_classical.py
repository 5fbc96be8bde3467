import numpy as np
import pytest

from raydae.core.pixels import to_uint8
from raydae.evaluation import classical
from raydae.metrics.psnr import psnr
from raydae.noise.evaluation import evaluation_noise
from tests.conftest import draw


@pytest.mark.parametrize("method", ["nl-means", "wavelet", "tv"])
@pytest.mark.parametrize("sigma", [15, 50])
def test_each_takes_noise_away(method: str, sigma: float) -> None:
    clean = draw(0, 64, 48)
    noisy = evaluation_noise(clean, sigma)
    before = noisy.copy()
    denoised = classical.available()[method](noisy, sigma)
    assert denoised.shape == noisy.shape
    assert np.array_equal(noisy, before), "the input is left as it was"
    assert psnr(clean, to_uint8(denoised)) > psnr(clean, to_uint8(noisy)) + 3


@pytest.mark.parametrize("method", ["nl-means", "wavelet", "tv"])
def test_what_cannot_be_denoised_comes_back(method: str) -> None:
    for shape, sigma in (((40, 30, 3), 0), ((8, 8, 3), 25), ((1, 1, 3), 25)):
        noisy = np.random.default_rng(0).random(shape, np.float32)
        np.testing.assert_array_equal(classical.available()[method](noisy, sigma), noisy)


def test_bm3d_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(classical.available()) == ["nl-means", "wavelet", "tv"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "bm3d" in classical.available()


def test_baselines_can_be_told_other_levels() -> None:
    noisy = evaluation_noise(draw(0, 40, 50), 25)
    told = classical.available([10, 25.5])
    assert list(told)[:4] == ["nl-means told 10", "nl-means told 25.5", "wavelet told 10",
                              "wavelet told 25.5"]  # fmt: skip
    alone = classical.available()["wavelet"]
    np.testing.assert_array_equal(told["wavelet told 10"](noisy, 25), alone(noisy, 10))
