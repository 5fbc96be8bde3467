"""Two pictures from one noisy picture: neighbouring pixels, drawn from each cell of 2x2.

Neighbor2Neighbor (Huang et al., CVPR 2021) trains on these two, because their noise is independent
and what they show is nearly the same. The choices are drawn here, by numpy;
`training/neighbor2neighbor.py` makes the two pictures, on the device, and the loss.
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
