"""Draw dead leaves images: random images with the statistics of photographs.

An image shows opaque shapes of all sizes that cover one another. Occlusion gives edges, T-junctions
and flat regions; radii of density r^-3 give the scale invariance of natural images (Lee, Mumford
and Huang 2001, "Occlusion models for natural images: a statistical study of a scale-invariant dead
leaves model", IJCV 41). Denoisers trained on such images come close to those trained on photographs
(Achddou, Gousseau and Ladjal 2021, "Synthetic images as a regularity prior for image restoration
neural networks", SSVM).

A change here that changes any pixel must increase `synthetic.VERSION`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Images are rendered at twice their size and averaged over 2x2 pixels, which smooths the edges.
_SCALE = 2

# The reach of a leaf, in radii: the half-diagonal of the most elongated rectangle is
# sqrt(pi / 4 * (2 + 1 / 2)) = 1.401, the half-length of the most elongated ellipse sqrt(2).
_MAX_ELONGATION = 2.0
_REACH = 1.415

# Upper bounds of reach, in rendered pixels, between which leaves are drawn together. Leaves of a
# larger reach are drawn one by one.
_BANDS = (2, 3, 5, 8, 12)

# The number of a pixel without a leaf. Leaves are numbered front to back, so the smallest number
# at a pixel is the leaf seen there.
_UNCOVERED = np.iinfo(np.int32).max

_TEXTURE_SIZE = 512  # a power of two, so that a bit mask wraps offsets

# Chroma axes, orthogonal to luminance (1, 1, 1), after Ruderman, Cronin and Chiao 1998,
# "Statistics of cone responses to natural images: implications for visual coding", JOSA A 15.
_CHROMA = np.array([[1, 1, -2], [1, -1, 0]]) / np.sqrt([[6], [2]])  # yellow-blue, red-green

_Doubles = NDArray[np.float64]
_Floats = NDArray[np.float32]


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draw a dead leaves image.

    The leaves are ellipses and rectangles. Their radii have density r^-3, from 0.5 to 2 pixels
    (drawn per image) up to three times the height. Their colours come from a palette drawn per
    image. The power spectrum falls as about 1/f^2, like that of a photograph.

    Args:
        rng: Source of all randomness.
        height: Height in pixels, at least 1.
        width: Width in pixels, at least 1.

    Returns:
        Gamma-encoded RGB, uint8 (height, width, 3).
    """
    r_min = _SCALE * np.exp(rng.uniform(np.log(0.5), np.log(2)))
    front, leaves = _cover(rng, (_SCALE * height, _SCALE * width), r_min, _SCALE * 3 * height)
    # Indexing with `front` would take four times as long as `take`.
    rendered = _draw_colours(rng, len(leaves.radius)).take(front, axis=0)
    rendered *= _draw_shading(rng, front, leaves)[:, :, None]
    pairs = rendered[::2] + rendered[1::2]
    means = (pairs[:, ::2] + pairs[:, 1::2]) * np.float32(255 / _SCALE**2)
    levels = _blur(means, np.float32(rng.uniform(0, 0.2)))  # lenses differ in sharpness
    image: NDArray[np.uint8] = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return image


class _Leaves(NamedTuple):
    """Leaves, front to back: arrays of shape (N,), lengths in rendered pixels."""

    x: _Doubles
    y: _Doubles
    radius: _Doubles  # of the disk of the same area


def _draw_leaves(
    rng: np.random.Generator, shape: tuple[int, int], coverage: float, r_min: float, r_max: float
) -> _Leaves:
    """Draw leaves that cover each point of the frame `coverage` times on average.

    Over the plane, radii have density r^-3 on [r_min, r_max]. Only leaves that may touch the frame
    are returned. Large leaves touch it from farther away, so they are more frequent among these.
    """
    height, width = shape
    # On a geometric grid dr is proportional to r, hence r^-3 dr = r^-2. The other two factors are
    # the area of the centres from which a leaf may touch the frame.
    edges = np.geomspace(r_min, r_max, 1025)
    radii = np.sqrt(edges[1:] * edges[:-1])
    mass = radii**-2 * (height + 2 * _REACH * radii) * (width + 2 * _REACH * radii)
    leaf_area = np.pi * len(radii)  # the sum of pi r^2 r^-3 dr
    count = int(np.ceil(coverage * mass.sum() / leaf_area))
    below = np.concatenate([[0], np.cumsum(mass)]) / mass.sum()
    radius = np.interp(rng.random(count), below, edges)
    x = width / 2 + rng.uniform(-1, 1, count) * (width / 2 + _REACH * radius)
    y = height / 2 + rng.uniform(-1, 1, count) * (height / 2 + _REACH * radius)
    return _Leaves(x, y, radius)


def _draw_axes(rng: np.random.Generator, radius: _Doubles) -> tuple[_Floats, NDArray[np.bool_]]:
    """Draw the shapes of leaves: ellipses, and 30 % rectangles, rotated and stretched at random.

    Returns:
        The unit vectors along each leaf's two axes, each divided by the half-axis, float32
        (2, 2, N), and whether the leaf is a rectangle, bool (N,).
    """
    count = len(radius)
    rectangle = rng.random(count) < 0.3
    angle = rng.uniform(0, np.pi, count)
    stretch = np.sqrt(rng.uniform(1, _MAX_ELONGATION, count))
    half = np.where(rectangle, np.sqrt(np.pi) / 2, 1) * radius
    along = np.stack([np.cos(angle), np.sin(angle)]) / (half * stretch)
    across = np.stack([-np.sin(angle), np.cos(angle)]) / (half / stretch)
    return np.stack([along, across]).astype(np.float32), rectangle


def _squares(dx: _Floats, dy: _Floats, axes: _Floats) -> tuple[_Floats, _Floats]:
    """Return the squared coordinates of points along a leaf's axes, in half-axes.

    The sum of the two is below 1 inside an ellipse, and both are below 1 inside a rectangle. The
    arguments broadcast.
    """
    u = axes[0, 0] * dx + axes[0, 1] * dy
    v = axes[1, 0] * dx + axes[1, 1] * dy
    u *= u
    v *= v
    return u, v


def _add_behind(
    rng: np.random.Generator, front: NDArray[np.int32], leaves: _Leaves, first: int
) -> None:
    """Add leaves, numbered from `first`, behind those already in `front` (height, width)."""
    height, width = front.shape
    axes, rectangle = _draw_axes(rng, leaves.radius)
    reach = _REACH * leaves.radius

    # Large leaves one by one, front to back. For many of them, no gap is left.
    for leaf in np.flatnonzero(reach > _BANDS[-1]):
        x, y, r = leaves.x[leaf], leaves.y[leaf], reach[leaf]
        left, right = max(0, int(x - r)), min(width, int(x + r + 1))
        top, bottom = max(0, int(y - r)), min(height, int(y + r + 1))
        box = front[top:bottom, left:right]
        gaps = box == _UNCOVERED
        if gaps.any():
            dx = (np.arange(left, right) - x).astype(np.float32)
            dy = (np.arange(top, bottom)[:, None] - y).astype(np.float32)
            u, v = _squares(dx, dy, axes[:, :, leaf])
            gaps &= (np.maximum(u, v) if rectangle[leaf] else u + v) < 1
            box[gaps] = first + leaf

    # Small leaves together, those of a band on a common grid of offsets. Each has only a few
    # pixels, so NumPy's cost per call would dominate. They may be in front of the large leaves, so
    # the minimum of the numbers is taken.
    smaller = 0
    for band in _BANDS:
        batch = np.flatnonzero((smaller < reach) & (reach <= band))
        smaller = band
        offsets = np.arange(-band, band + 1)
        x, y = leaves.x[batch, None], leaves.y[batch, None]
        columns = np.rint(x).astype(np.int32) + offsets
        rows = np.rint(y).astype(np.int32) + offsets
        dx = (columns - x).astype(np.float32)[:, None, :]
        dy = (rows - y).astype(np.float32)[:, :, None]
        u, v = _squares(dx, dy, axes[:, :, batch, None, None])
        inside = np.where(rectangle[batch, None, None], np.maximum(u, v), u + v) < 1
        inside &= ((rows >= 0) & (rows < height))[:, :, None]
        inside &= ((columns >= 0) & (columns < width))[:, None, :]
        member, row, column = np.nonzero(inside)
        pixels = rows[member, row] * width + columns[member, column]
        numbers = (first + batch[member]).astype(np.int32)
        np.minimum.at(front.reshape(-1), pixels, numbers)


def _cover(
    rng: np.random.Generator, shape: tuple[int, int], r_min: float, r_max: float
) -> tuple[NDArray[np.intp], _Leaves]:
    """Cover a frame of rendered pixels with leaves, front to back, until no gap is left.

    Returns:
        The number of the leaf seen at each pixel, an array of `shape`, and the leaves.
    """
    height, width = shape
    front = np.full(shape, _UNCOVERED, np.int32)
    layers: list[_Leaves] = []
    first, coverage = 0, 1.0
    while True:
        # With a summed-area table, four look-ups tell whether a leaf's box has a gap. After the
        # first layers almost no box has one, and this test is all that such a leaf costs.
        gaps = np.zeros((height + 1, width + 1), np.int32)
        np.cumsum((front == _UNCOVERED).cumsum(0, np.int32), axis=1, out=gaps[1:, 1:])
        if not gaps[-1, -1]:
            leaves = _Leaves(*(np.concatenate(part) for part in zip(*layers, strict=True)))
            return front.astype(np.intp), leaves
        leaves = _draw_leaves(rng, shape, coverage, r_min, r_max)
        reach = _REACH * leaves.radius
        left = np.clip(leaves.x - reach, 0, width).astype(np.intp)
        right = np.clip(leaves.x + reach + 1, 0, width).astype(np.intp)
        top = np.clip(leaves.y - reach, 0, height).astype(np.intp)
        bottom = np.clip(leaves.y + reach + 1, 0, height).astype(np.intp)
        held = gaps[bottom, right] - gaps[top, right] - gaps[bottom, left] + gaps[top, left]
        leaves = _Leaves(*(part[held > 0] for part in leaves))
        _add_behind(rng, front, leaves, first)
        layers.append(leaves)
        first += len(leaves.radius)
        coverage *= 2  # the probability that a gap remains after a layer is exp(-coverage)


def _draw_colours(rng: np.random.Generator, count: int) -> _Floats:
    """Draw the colours of `count` leaves from one image's palette.

    The logits of the gamma-encoded values have a normal distribution. The resulting S-shaped
    response is that of film: highlights and shadows are compressed and less saturated.

    Returns:
        Gamma-encoded RGB in (0, 1), float32 (count, 3).
    """
    # The image: exposure, contrast, colour cast (more often warm), and colourfulness.
    exposure = rng.normal(-0.4, 0.5)
    contrast = rng.uniform(0.7, 1.6)
    cast = rng.normal([0.25, -0.05], [0.3, 0.1])
    colourfulness = rng.gamma(3, 1 / 3) * np.array([0.35, 0.15])
    # The palette: a few materials of different frequencies.
    materials = rng.integers(3, 9)
    luminance = rng.normal(exposure, 0.8 * contrast, materials)
    chroma = rng.normal(cast, colourfulness, (materials, 2))
    material = rng.choice(materials, count, p=rng.dirichlet(np.ones(materials)))
    # The leaves of a material differ mostly in luminance, because they are lit differently.
    luminance = rng.normal(luminance[material], 0.6 * contrast)
    chroma = rng.normal(chroma[material], 0.3 * colourfulness)
    logits = luminance[:, None] + chroma @ _CHROMA
    colours: _Floats = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return colours


def _draw_shading(rng: np.random.Generator, front: NDArray[np.intp], leaves: _Leaves) -> _Floats:
    """Draw a gradient of light and a texture for each leaf.

    Returns:
        Factors near 1 for the colours, float32 (height, width).
    """
    height, width = front.shape
    count = len(leaves.radius)
    rows = np.arange(height, dtype=np.int32)[:, None]
    columns = np.arange(width, dtype=np.int32)
    slope = rng.normal(0, 0.12, (2, count)) / leaves.radius
    level = 1 - slope[0] * leaves.x - slope[1] * leaves.y
    shading: _Floats = level.astype(np.float32).take(front)
    shading += slope[0].astype(np.float32).take(front) * columns.astype(np.float32)
    shading += slope[1].astype(np.float32).take(front) * rows.astype(np.float32)

    # One periodic noise field per image, of power 1/f^1.2 to 1/f^2.8. Each leaf shows its own part
    # of it.
    size = _TEXTURE_SIZE
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    phase = np.exp(2j * np.pi * rng.random(frequency.shape))
    texture = np.fft.irfft2(phase * frequency ** -rng.uniform(0.6, 1.4), (size, size))
    texture /= texture.std()
    strength = rng.exponential(0.04 * rng.gamma(2, 0.5), count).astype(np.float32)
    offset = rng.integers(size * size, size=count).astype(np.int32)
    place = (rows * size + columns + offset.take(front)) & (size * size - 1)
    shading += strength.take(front) * texture.astype(np.float32).take(place)
    return shading


def _blur(image: _Floats, weight: np.float32) -> _Floats:
    """Blur (height, width, 3) with the kernel (weight, 1 - 2 weight, weight) along both axes."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (1 - 2 * weight) * padded[1:-1] + weight * (padded[:-2] + padded[2:])
    blurred: _Floats = (1 - 2 * weight) * rows[:, 1:-1] + weight * (rows[:, :-2] + rows[:, 2:])
    return blurred
