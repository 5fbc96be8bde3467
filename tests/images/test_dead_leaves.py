"""Dead leaves images have the statistics of photographs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from raydae.images import dead_leaves, synthetic

Images = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def images() -> Images:
    return [synthetic.image("test", index) for index in range(12)]


def spectral_slope(image: NDArray[np.uint8]) -> float:
    """Return the log-log slope of the radial power spectrum of luminance, 0.02-0.4 cycles/pixel."""
    height, width = image.shape[:2]
    luminance = image.mean(axis=2)
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = np.geomspace(0.02, 0.4, 13)
    ring = np.digitize(frequency, edges)
    means = [power[ring == number].mean() for number in range(1, len(edges))]
    slope, _ = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(means), 1)
    return float(slope)


def test_other_sizes_can_be_drawn() -> None:
    for height, width in [(40, 70), (33, 1), (1, 1)]:
        image = dead_leaves.dead_leaves(np.random.default_rng(0), height, width)
        assert image.shape == (height, width, 3)


def test_radii_have_density_r_to_the_minus_3() -> None:
    # The law holds for leaves centred in the frame, not for all that touch it.
    r_min, r_max = 2.0, 200.0
    leaves = dead_leaves._draw_leaves(np.random.default_rng(0), (400, 600), 40, r_min, r_max)
    centred = (np.abs(leaves.x - 300) < 300) & (np.abs(leaves.y - 200) < 200)
    radius = np.sort(leaves.radius[centred])
    assert len(radius) > 50_000
    law = (r_min**-2 - radius**-2) / (r_min**-2 - r_max**-2)
    distance = np.abs(law - np.arange(len(radius)) / len(radius)).max()
    assert distance < 1.63 / np.sqrt(len(radius))  # Kolmogorov and Smirnov, at 1 %


def test_leaves_cover_the_plane_as_often_as_asked() -> None:
    leaves = dead_leaves._draw_leaves(np.random.default_rng(0), (400, 600), 30, 2, 10)
    centred = (np.abs(leaves.x - 300) < 300) & (np.abs(leaves.y - 200) < 200)
    area = np.pi * (leaves.radius[centred] ** 2).sum()
    assert area / (400 * 600) == pytest.approx(30, rel=0.02)


def test_leaves_in_front_hide_those_behind() -> None:
    height, width = 200, 300
    front, leaves = dead_leaves._cover(np.random.default_rng(0), (height, width), 2, 300)
    # No gap is left, and the leaf seen at a pixel reaches it.
    assert front.min() == 0
    assert front.max() < len(leaves.radius)
    rows, columns = np.indices(front.shape)
    away = np.hypot(rows - leaves.y[front], columns - leaves.x[front])
    assert (away <= dead_leaves._REACH * leaves.radius[front]).all()
    # The pixel nearest to the centre of a leaf shows that leaf or one in front of it.
    row, column = np.rint(leaves.y).astype(int), np.rint(leaves.x).astype(int)
    framed = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    assert (front[row[framed], column[framed]] <= np.flatnonzero(framed)).all()


def test_power_falls_about_as_the_inverse_square_of_frequency(images: Images) -> None:
    # Every third training photograph of BSDS500: mean -2.36, standard deviation 0.37.
    slopes = [spectral_slope(image) for image in images]
    assert -2.7 < np.mean(slopes) < -1.8
    assert all(-3.3 < slope < -1.5 for slope in slopes)


def test_channels_are_highly_correlated(images: Images) -> None:
    # BSDS500: mean 0.90.
    upper = np.triu_indices(3, 1)
    correlations = [np.corrcoef(image.reshape(-1, 3).T)[upper].mean() for image in images]
    assert 0.8 < np.mean(correlations) < 0.98


def test_derivatives_are_heavy_tailed(images: Images) -> None:
    # A normal distribution has kurtosis 3; the median of BSDS500 is 18.
    for image in images:
        derivative = np.diff(image.mean(axis=2), axis=1)
        deviations = derivative - derivative.mean()
        assert (deviations**4).mean() / (deviations**2).mean() ** 2 > 6


def test_images_differ_in_brightness_contrast_and_colour(images: Images) -> None:
    # BSDS500: mean brightness 106, standard deviation 28.
    brightness = [image.mean() for image in images]
    assert 70 < np.mean(brightness) < 140
    assert 15 < np.std(brightness) < 55
    assert np.std([image.mean(axis=2).std() for image in images]) > 5
    saturation = [np.ptp(image.astype(int), axis=2).mean() for image in images]
    assert 15 < np.mean(saturation) < 60
    assert np.std(saturation) > 5
