import base64
import dataclasses
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydae.core.pixels import to_uint8
from raydae.evaluation.panel import GAP, LABEL, MAX_SIDE, MIN_SIDE, middle, panel, released_column
from raydae.images.image_sets import ImageSets
from raydae.models.model_file import load_model
from raydae.noise.evaluation import EvaluationNoise, evaluation_noise
from tests.conftest import draw

CLIP = ("clip", lambda noisy: np.clip(noisy, 0, 1))
BLACK = ("black", np.zeros_like)


def noisy_squares(
    *images: NDArray[np.uint8],
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    return [EvaluationNoise.white(25)(middle(image)) for image in images]


def pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.array(image)


def cell(picture: NDArray[np.uint8], row: int, column: int, side: int) -> NDArray[np.uint8]:
    top, left = LABEL + GAP + row * (side + LABEL + GAP), GAP + column * (side + GAP)
    return picture[top : top + side, left : left + side]


def test_a_panel_shows_the_middle_of_each_image_pixel_for_pixel() -> None:
    wide, tall = draw(0, 321, 481), draw(1, 481, 321)
    picture = pixels(panel(noisy_squares(wide, tall), [CLIP, BLACK], "a title"))
    assert picture.shape == (2 * (321 + LABEL + GAP) + LABEL + GAP, 4 * (321 + GAP) + GAP, 3)
    for row, clean in enumerate((wide[:, 80:401], tall[80:401])):
        noisy = to_uint8(evaluation_noise(clean, 25))
        for column, expected in enumerate((noisy, noisy, np.zeros_like(clean), clean)):
            np.testing.assert_array_equal(cell(picture, row, column, 321), expected)


def test_a_panel_is_large_enough_to_see_and_fits_a_screen() -> None:
    for size in (1, 64, 250, 2000):
        picture = pixels(panel(noisy_squares(draw(0, size, size)), [CLIP], "a title " * 30))
        assert MIN_SIDE <= picture.shape[0] - 2 * (LABEL + GAP) <= MAX_SIDE


def test_a_released_model_is_a_column_that_says_whether_it_knows_the_images(
    sets: ImageSets,
) -> None:
    label, denoise = released_column("gaussian", sets.test)
    assert label == "gaussian"
    clean = draw(0)
    noisy = evaluation_noise(clean, 25)
    assert np.abs(denoise(noisy) * 255 - clean).mean() < np.abs(noisy * 255 - clean).mean() / 2

    first = base64.b64decode(load_model("gaussian")[1].train_hashes.text)[:8]
    seen = dataclasses.replace(sets.test[0], sha256=first.hex() * 2)
    assert released_column("gaussian", [seen])[0] == "gaussian (trained on these)"
    assert released_column("gaussian", [seen, *sets.test])[0] == "gaussian (trained on some)"
