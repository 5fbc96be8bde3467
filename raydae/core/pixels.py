"""Pixels between the [0, 1] scale of networks and the 0-255 scale of files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_uint8(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return an image on [0, 1] clamped and rounded to uint8; the same shape."""
    rounded: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return rounded
