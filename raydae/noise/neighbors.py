"""Two pictures from one noisy picture: neighbouring pixels, drawn from each cell of 2x2.

Neighbor2Neighbor (Huang et al., CVPR 2021) trains on these two, because their noise is independent
and what they show is nearly the same. Everything here is numpy; the loss is in
`training/neighbor2neighbor.py`.
"""

import numpy as np
from numpy.typing import NDArray

# The pixels of a cell are numbered 0 1 / 2 3. A choice names two of them that touch, in order.
CHOICES = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [0, 2], [2, 0], [1, 3], [3, 1]], np.uint8)


def draw_choices(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return a choice of two neighbours for each cell.

    Args:
        rng: the generator to draw from.
        height: of the picture, pixels.
        width: likewise.

    Returns:
        uint8 (height // 2, width // 2), indices of `CHOICES`.
    """
    rows, columns = height // 2, width // 2
    words: NDArray[np.uint64] = rng.bit_generator.random_raw(-(-rows * columns // 8))
    numbers = words.astype("<u8", copy=False).view(np.uint8)[: rows * columns]
    choices: NDArray[np.uint8] = (numbers % len(CHOICES)).reshape(rows, columns)
    return choices


def split(
    image: NDArray[np.uint8], choices: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the two pictures of half the height and width that the choices make of one.

    Args:
        image: uint8 HxWx3; an odd last row or column is left out.
        choices: of `draw_choices`.
    """
    rows, columns = choices.shape
    cells = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 3)
    cells = cells.transpose(0, 2, 1, 3, 4).reshape(rows, columns, 4, 3)
    row, column = np.ogrid[:rows, :columns]
    first, second = np.moveaxis(CHOICES[choices], 2, 0)
    return cells[row, column, first], cells[row, column, second]
