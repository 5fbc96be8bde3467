import io

import numpy as np
from PIL import Image

from raydae.evaluation.figures import panel
from tests.conftest import draw


def test_a_panel_has_a_row_for_each_image_and_is_large_enough_to_see() -> None:
    sizes = []
    for images in ([draw(0)], [draw(0), draw(1, 64, 48), draw(2)]):
        png = panel(images, 25, lambda noisy: np.clip(noisy, 0, 1), "a title")
        with Image.open(io.BytesIO(png)) as image:
            sizes.append(image.size)
            assert image.format == "PNG"
    assert sizes[0][0] == sizes[1][0] >= 1000
    assert sizes[1][1] > 2 * sizes[0][1]
