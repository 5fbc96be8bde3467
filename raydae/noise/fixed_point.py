"""Noisy pixels as int16: half the bytes of float32 on the way to the network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = 4096  # int16 pixels run from -8 to 8 in steps of a sixteenth of a grey level
MIN, MAX = -8.0, 8.0 - 1 / SCALE


def to_fixed_point(noisy: NDArray[np.floating[Any]], out: NDArray[np.int16]) -> None:
    """Write noisy pixels as integers.

    Args:
        noisy: floating point on the [0, 1] scale, free to leave it as far as `MIN` and `MAX`;
            overwritten. Values beyond wrap around.
        out: where to write to; the same shape.
    """
    noisy *= SCALE
    np.rint(noisy, out=out, casting="unsafe")
