"""Cut an image into tiles."""

from collections.abc import Iterator


def cut_tiles(
    height: int, width: int, tile: int, multiple: int, margin: int
) -> Iterator[tuple[range, range]]:
    """Yield the rows and columns of each tile, cut evenly and with the least overlap.

    Args:
        height: of the image, in pixels.
        width: of the image.
        tile: pixels a side of a square whose area is a tile's at most, before rounding.
        multiple: that the sides of a tile are rounded up to.
        margin: pixels that a tile sees beyond its edges.
    """

    def cut(rows: int) -> tuple[int, int]:
        """Return height and width of the tiles, cut into so many rows."""
        high = round_up(-(-height // rows), multiple)
        columns = -(-high * width // tile**2)
        return high, round_up(-(-width // columns), multiple)

    def cost(size: tuple[int, int]) -> int:
        """Return the pixels that all tiles see together."""
        down, right = ((n - 1) // part for n, part in zip((height, width), size, strict=True))
        return (height + 2 * margin * down) * (width + 2 * margin * right)

    high, wide = min(map(cut, range(1, height // multiple + 2)), key=cost)
    for y in range(0, height, high):
        for x in range(0, width, wide):
            yield range(y, min(y + high, height)), range(x, min(x + wide, width))


def round_up(value: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-value // multiple) * multiple
