"""The two pictures that Neighbor2Neighbor draws from a noisy one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from raydae.core.random_numbers import SAMPLE, generator
from raydae.noise.evaluation import HiddenPixels
from raydae.noise.neighbors import CHOICES, draw_choices
from raydae.training.losses import LOSSES
from raydae.training.neighbor2neighbor import neighbor_loss, split_batch


def numbered(height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose pixels say where they are."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, y + x], axis=-1).astype(np.uint8)


def test_the_two_pixels_of_a_cell_touch_and_all_choices_occur() -> None:
    choices = draw_choices(generator(0, SAMPLE, 0), 64, 80)
    assert choices.shape == (32, 40)
    counts = np.bincount(choices.ravel(), minlength=len(CHOICES))
    assert counts.min() > 0.7 * counts.mean()
    batch = torch.from_numpy(numbered(64, 80).astype(np.float32)).permute(2, 0, 1)[None]
    halves = split_batch(batch, torch.from_numpy(choices[np.newaxis]))
    first, second = (half[0].permute(1, 2, 0).numpy().astype(int) for half in halves)
    distance = np.abs(first - second)[..., :2].sum(axis=-1)
    assert (distance == 1).all()
    cell = np.mgrid[:32, :40].transpose(1, 2, 0)
    for which, half in enumerate((first, second)):
        np.testing.assert_array_equal(half[..., :2] // 2, cell)
        place = 2 * (half[..., 0] % 2) + half[..., 1] % 2
        np.testing.assert_array_equal(place, CHOICES[choices][..., which])


def test_choices_depend_on_the_generator_alone() -> None:
    first, again = (draw_choices(generator(0, SAMPLE, 7), 32, 32) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (draw_choices(generator(0, SAMPLE, 8), 32, 32) != first).any()


def test_a_batch_is_split_like_its_pictures() -> None:
    images = np.stack([numbered(16, 24), numbered(16, 24)[::-1]])
    choices = np.stack([draw_choices(generator(0, SAMPLE, i), 16, 24) for i in range(2)])
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
    halves = split_batch(batch, torch.from_numpy(choices))
    for number in range(2):
        alone = slice(number, number + 1)
        expected = split_batch(batch[alone], torch.from_numpy(choices[alone]))
        for half, one in zip(halves, expected, strict=True):
            assert torch.equal(half[alone], one)


def constant(noisy: Tensor) -> Tensor:
    return noisy.mean((2, 3), keepdim=True).expand_as(noisy)


@pytest.mark.parametrize("name", ["mse", "l1"])
def test_the_loss_is_the_paper_s(name: str) -> None:
    rng = np.random.default_rng(0)
    noisy = torch.from_numpy(rng.random((2, 3, 16, 16), np.float32))
    choices = torch.from_numpy(
        np.stack([draw_choices(generator(0, SAMPLE, i), 16, 16) for i in range(2)])
    )
    loss = LOSSES.bind(name, {})
    found = neighbor_loss(constant, constant, loss, noisy, choices, 2.0)
    first, second = split_batch(noisy, choices)
    first_of, second_of = split_batch(constant(noisy), choices)
    off = constant(first) - second
    power = 2 if name == "mse" else 1
    expected = off.abs().pow(power).mean()
    expected += 2 * (off - (first_of - second_of)).abs().pow(power).mean()
    torch.testing.assert_close(found, expected)


def test_a_perfect_denoiser_of_a_smooth_picture_is_told_only_the_noise() -> None:
    """Of a flat picture, the loss is the noise's variance, and the regulariser adds as much."""
    rng = np.random.default_rng(0)
    noisy = torch.from_numpy((0.5 + 0.1 * rng.standard_normal((4, 3, 64, 64))).astype(np.float32))
    choices = torch.from_numpy(
        np.stack([draw_choices(generator(0, SAMPLE, i), 64, 64) for i in range(4)])
    )
    loss = LOSSES.bind("mse", {})

    def perfect(images: Tensor) -> Tensor:
        return torch.full_like(images, 0.5)

    assert float(neighbor_loss(perfect, perfect, loss, noisy, choices, 0.0)) == pytest.approx(
        0.01, rel=0.05
    )
    unchanged = neighbor_loss(lambda x: x, lambda x: x, loss, noisy, choices, 0.0)
    assert float(unchanged) == pytest.approx(0.02, rel=0.05)


def test_an_evaluation_without_clean_images_ranks_denoisers_as_the_truth_does() -> None:
    """The surrogate's mean squared error is the true one plus what is the same for all.

    Not so with pixels that the denoiser sees: there, the image itself would be the best result.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    clean = np.stack([100 + 0.5 * x, 80 + 0.4 * y, 120 + 0.2 * (x + y)], axis=-1)
    image = np.clip(np.rint(clean + 12 * rng.standard_normal(clean.shape)), 0, 255)
    noise = HiddenPixels()
    shown, target = noise(image.astype(np.uint8))
    np.testing.assert_array_equal(target, image)
    surrogate, true = [], []
    for sigma in (0.0, 0.7, 1.0, 3.0):  # of a blur, pixels
        denoised = gaussian_filter(shown * 255, (sigma, sigma, 0))
        surrogate.append(np.mean((noise.compared(denoised) - noise.compared(image)) ** 2))
        true.append(np.mean((noise.compared(denoised) - noise.compared(clean)) ** 2))
    offsets = np.subtract(surrogate, true)
    assert true == sorted(true, reverse=True)
    assert surrogate == sorted(surrogate, reverse=True)
    assert offsets.std() < 0.02 * 144
    assert offsets.mean() == pytest.approx(144, rel=0.05)


def test_hidden_pixels_are_those_that_are_compared() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 13, 3), np.uint8)
    noise = HiddenPixels()
    shown, target = noise(image)
    changed = np.abs(shown * 255 - target).max(-1) > 1e-3
    rows, columns = np.nonzero(changed)
    assert {*rows.tolist()} == {1, 5, 9}
    assert {*columns.tolist()} == {1, 5, 9}
    assert noise.compared(target).shape == (3, 3, 3)
    around = image[0:3, 0:3].astype(float)
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]])[..., np.newaxis] / 12
    np.testing.assert_allclose(shown[1, 1] * 255, (around * weights).sum((0, 1)), rtol=1e-5)
