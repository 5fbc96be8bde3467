import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from raydae.core.random_numbers import generator
from raydae.noise.evaluation import evaluation_noise
from raydae.noise.fixed_point import SCALE, to_fixed_point
from raydae.noise.gaussian import Gaussian
from raydae.noise.normals import half_normals, standard_normals

EXPECTED = "f5c77f76c64260c073f6db8e12d2bd5d527428f015183a038ff44872007a3acb"


def add_noise(
    rng: np.random.Generator, clean: NDArray[np.uint8], sigma: float
) -> NDArray[np.float32]:
    normals = standard_normals(rng, clean.shape)[np.newaxis]
    level = np.array([[sigma]], np.float32)
    noisy: NDArray[np.float32] = Gaussian().degrade(clean[np.newaxis], level, normals)[0][0]
    return noisy


def test_noise_is_gaussian_and_of_the_level_asked_for() -> None:
    clean = np.full((256, 256, 3), 128, np.uint8)
    noise = (add_noise(generator(0, 1, 2), clean, 25) - 128 / 255) * 255 / 25
    assert abs(noise.mean()) < 0.01
    assert stats.kurtosis(noise.ravel()) == pytest.approx(0, abs=0.03)
    assert stats.skew(noise.ravel()) == pytest.approx(0, abs=0.02)
    # Steps of a sixteenth of a grey level are made smooth again: the test is of continuous values.
    smooth = noise + np.random.default_rng(0).uniform(-0.5, 0.5, noise.shape) / SCALE * 255 / 25
    assert stats.kstest(smooth.ravel(), "norm").pvalue > 0.01
    for one, other in (
        (noise[:, 1:], noise[:, :-1]),
        (noise[1:], noise[:-1]),
        (noise[..., 0], noise[..., 1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01


@pytest.mark.parametrize(("level", "off"), [(1, 1e-3), (2, 1e-3), (3, 1e-3), (4, 0.02), (5, 0.2)])
def test_the_tails_are_those_of_a_normal_distribution(level: float, off: float) -> None:
    halves = half_normals().astype(np.float64)  # of all 2^32 sums, those above the level
    above = np.mean(1 - np.searchsorted(halves, level - halves, side="right") / len(halves))
    assert above == pytest.approx(stats.norm.sf(level), rel=off)
    assert 2 * np.mean(halves**2) == pytest.approx(1, abs=1e-6)


def test_the_same_noise_on_every_machine() -> None:
    clean = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    noisy = np.empty(clean.shape, np.int16)
    to_fixed_point(add_noise(generator(7, 1, 42), clean, 25), out=noisy)
    assert hashlib.sha256(noisy.astype("<i2").tobytes()).hexdigest() == EXPECTED


def test_noise_is_not_clipped() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert (add_noise(generator(0, 1, 0), black, 50) < 0).mean() == pytest.approx(0.5, abs=0.02)
    white = np.full((256, 256, 3), 255, np.uint8)
    highest = add_noise(generator(0, 1, 0), white, 255)
    assert 1 + 4 < highest.max() < 8, "nothing wraps around"
    assert (evaluation_noise(black, 50) < 0).mean() == pytest.approx(0.5, abs=0.02)


def test_sigma_0_is_no_noise() -> None:
    clean = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_allclose(evaluation_noise(clean, 0) * 255, clean, atol=1e-4)
    noisy = add_noise(generator(0, 1, 0), clean, 0) * 255
    np.testing.assert_allclose(noisy, clean, atol=0.5 / 16)


def test_the_evaluation_noise_is_the_literatures() -> None:
    # KAIR's main_test_ffdnet.py: np.random.seed(0), then normal(0, sigma / 255, shape) on float.
    clean = np.full((5, 7, 3), 100, np.uint8)
    expected = 100 / 255 + np.random.RandomState(0).normal(0, 25 / 255, (5, 7, 3))
    np.testing.assert_allclose(evaluation_noise(clean, 25), expected, rtol=1e-6)
    np.testing.assert_array_equal(evaluation_noise(clean, 25), evaluation_noise(clean, 25))
