"""The mosaic of a camera's sensor, and its interpolation to colour."""

from array_api_compat import array_namespace

from raydae.noise.array_math import Array, arange, reflect


def bayer_masks(height: int, width: int, top: Array, left: Array) -> tuple[Array, Array, Array]:
    """Return where a Bayer mosaic has red, green and blue pixels.

    Args:
        height: of the patches, pixels.
        width: likewise.
        top: float32 (n,), 0 or 1: the first row with red pixels.
        left: likewise, the first column.

    Returns:
        bool (n, height, width) for each colour.
    """
    odd_row = (arange(height, top)[None, :, None] + top[:, None, None]) % 2 == 1
    odd_column = (arange(width, left)[None, None, :] + left[:, None, None]) % 2 == 1
    return ~odd_row & ~odd_column, odd_row != odd_column, odd_row & odd_column


def mosaic(planes: Array, masks: tuple[Array, Array, Array]) -> Array:
    """Return the pixels that a sensor behind a Bayer filter sees.

    Args:
        planes: float32 (n, 3, h, w).
        masks: of `bayer_masks`.

    Returns:
        float32 (n, h, w).
    """
    xp = array_namespace(planes)
    red, green, _ = masks
    return xp.where(red, planes[:, 0], xp.where(green, planes[:, 1], planes[:, 2]))


def demosaic(mosaicked: Array, masks: tuple[Array, Array, Array]) -> Array:
    """Interpolate a Bayer mosaic to colour, along edges.

    Green is interpolated in the direction of the smaller gradient and corrected by the other
    colour's second derivative (Hamilton and Adams, US patent 5629734, 1997); red and blue by the
    bilinear interpolation of their differences from green.

    Args:
        mosaicked: float32 (n, h, w).
        masks: of `bayer_masks`.

    Returns:
        float32 (n, 3, h, w).
    """
    xp = array_namespace(mosaicked)
    red, is_green, blue = masks
    height, width = mosaicked.shape[1:]
    wide = reflect(mosaicked, 2)
    rows, columns = wide[:, :, 2:-2], wide[:, 2:-2, :]
    up, down = rows[:, 1 : height + 1], rows[:, 3 : height + 3]
    left, right = columns[:, :, 1 : width + 1], columns[:, :, 3 : width + 3]
    vertical = 2 * mosaicked - rows[:, :height] - rows[:, 4:]
    horizontal = 2 * mosaicked - columns[:, :, :width] - columns[:, :, 4:]
    across = xp.abs(left - right) + xp.abs(horizontal) < xp.abs(up - down) + xp.abs(vertical)
    sideways = 0.5 * (left + right) + 0.25 * horizontal
    upright = 0.5 * (up + down) + 0.25 * vertical
    green = xp.where(is_green, mosaicked, xp.where(across, sideways, upright))
    difference = mosaicked - green
    others = [green + _bilinear(xp.where(mask, difference, 0 * green)) for mask in (red, blue)]
    return xp.stack([others[0], green, others[1]], axis=1)


def _bilinear(sparse: Array) -> Array:
    """Interpolate values on every second row and column; the other pixels are 0."""
    wide = reflect(sparse, 1)
    rows = wide[:, 1:-1] + 0.5 * (wide[:, :-2] + wide[:, 2:])
    return rows[:, :, 1:-1] + 0.5 * (rows[:, :, :-2] + rows[:, :, 2:])
