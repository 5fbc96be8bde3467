import numpy as np
import pytest
from scipy import stats

from raydae.noise import add_noise, evaluation_noise


def test_noise_is_gaussian_and_of_the_level_asked_for() -> None:
    clean = np.full((256, 256, 3), 128, np.uint8)
    noise = (add_noise(np.random.default_rng(0), clean, 25) - np.float32(128 / 255)) * 255 / 25
    assert abs(noise.mean()) < 0.01
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.01


def test_noise_is_not_clipped() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert (add_noise(np.random.default_rng(0), black, 50) < 0).mean() == pytest.approx(
        0.5, abs=0.02
    )
    assert (evaluation_noise(black, 50) < 0).mean() == pytest.approx(0.5, abs=0.02)


def test_sigma_0_is_no_noise() -> None:
    clean = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    for noisy in (add_noise(np.random.default_rng(0), clean, 0), evaluation_noise(clean, 0)):
        np.testing.assert_allclose(noisy * 255, clean, atol=1e-4)


def test_the_evaluation_noise_is_the_literatures() -> None:
    # KAIR's main_test_ffdnet.py: np.random.seed(0), then normal(0, sigma / 255, shape) on float.
    clean = np.full((5, 7, 3), 100, np.uint8)
    expected = 100 / 255 + np.random.RandomState(0).normal(0, 25 / 255, (5, 7, 3))
    np.testing.assert_allclose(evaluation_noise(clean, 25), expected, rtol=1e-6)
    np.testing.assert_array_equal(evaluation_noise(clean, 25), evaluation_noise(clean, 25))
