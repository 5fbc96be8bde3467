"""Dead leaves: random images with the statistics of photographs, for runs without a download.

An image is a pile of opaque shapes of every size, seen from above. Occlusion gives it edges,
T-junctions and flat regions; radii of density r^-3 give it the scale invariance of natural images
(Lee, Mumford and Huang 2001, "Occlusion models for natural images: a statistical study of a
scale-invariant dead leaves model", IJCV 41). Denoisers trained on such images come near those
trained on photographs (Achddou, Gousseau and Ladjal 2021, "Synthetic images as a regularity prior
for image restoration neural networks", SSVM).

The set stands in for BSDS500: images of the same size, split the same way. In a job::

    if __name__ == "__main__":  # ensure() starts processes
        root = ensure(cache / NAME)  # root/train/0000.png ... root/test/0039.png
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 1
"""Raised when the images change. Part of every image's seed and of `NAME`."""

NAME = f"dead-leaves-v{VERSION}"
"""What to call the folder given to `ensure`, so that no version reads another's images."""

SPLITS = {"train": 200, "val": 20, "test": 40}
"""Images in each split. The order of the keys enters the seeds."""

HEIGHT, WIDTH = 321, 481
"""Size of an image in pixels, that of a BSDS500 photograph."""

# Images are rendered at twice their size and averaged 2x2: every edge is anti-aliased.
_SCALE = 2

# The reach of a leaf, in radii: the half-diagonal of the most elongated rectangle is
# sqrt(pi / 4 * (2 + 1 / 2)) = 1.401, the half-length of the most elongated ellipse sqrt(2).
_MAX_ELONGATION = 2.0
_REACH = 1.415

# Leaves are drawn in batches of like reach up to the last of these, in rendered pixels, and one by
# one beyond it.
_BANDS = (2, 3, 5, 8, 12)

# No leaf yet. Leaves are numbered front to back, so the minimum is the one in front.
_UNCOVERED = np.iinfo(np.int32).max

_TEXTURE_SIZE = 512  # a power of two: offsets wrap round with a mask

# Chroma axes, orthogonal to luminance (1, 1, 1), after Ruderman, Cronin and Chiao 1998,
# "Statistics of cone responses to natural images: implications for visual coding", JOSA A 15.
_CHROMA = np.array([[1, 1, -2], [1, -1, 0]]) / np.sqrt([[6], [2]])  # yellow-blue, red-green

# The whole last chunk of a PNG file. A file cut short does not end with it.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

_Doubles = NDArray[np.float64]
_Floats = NDArray[np.float32]


class _Leaves(NamedTuple):
    """Leaves, front to back: arrays of shape (N,), lengths in rendered pixels."""

    x: _Doubles
    y: _Doubles
    radius: _Doubles  # of the disk of the same area


def _fall(
    rng: np.random.Generator, shape: tuple[int, int], coverage: float, r_min: float, r_max: float
) -> _Leaves:
    """Let leaves fall so that each point of the plane is covered `coverage` times on average.

    Over the plane radii have density r^-3 on [r_min, r_max]. Only leaves that may touch the frame
    are drawn, and large ones touch it from afar, so they are more frequent among those returned.
    """
    height, width = shape
    # On a geometric grid dr is proportional to r, hence r^-3 dr = r^-2. The second factor is the
    # area of the centres from which a leaf may touch the frame.
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


def _axes(rng: np.random.Generator, radius: _Doubles) -> tuple[_Floats, NDArray[np.bool_]]:
    """Shape the leaves: ellipses and, three in ten, rectangles, turned and stretched at random.

    Returns:
        The two unit vectors along each leaf's axes, each over its half-axis, float32 (2, 2, N),
        and whether the leaf is a rectangle, bool (N,).
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
    """Squares of a point's coordinates along a leaf's axes, in half-axes; arguments broadcast.

    An ellipse is where their sum is below 1, a rectangle is where both are.
    """
    u = axes[0, 0] * dx + axes[0, 1] * dy
    v = axes[1, 0] * dx + axes[1, 1] * dy
    u *= u
    v *= v
    return u, v


def _lay(rng: np.random.Generator, front: NDArray[np.int32], leaves: _Leaves, first: int) -> None:
    """Lay `leaves`, numbered from `first`, behind those already in `front` (height, width)."""
    height, width = front.shape
    axes, rectangle = _axes(rng, leaves.radius)
    reach = _REACH * leaves.radius

    # Large leaves one by one, front to back. Many find that no gap is left for them.
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

    # Small leaves all at once, those of a band on a common grid of offsets: NumPy's cost per call
    # would be lost on a few pixels each. They may lie before the large ones: hence the minimum.
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
        The number of the leaf seen at each pixel, of the `shape` given, and the leaves.
    """
    height, width = shape
    front = np.full(shape, _UNCOVERED, np.int32)
    layers: list[_Leaves] = []
    first, coverage = 0, 1.0
    while True:
        # From a table of sums, four look-ups tell whether a leaf's box holds a gap. Behind the
        # first layers nearly no box does, and such a leaf costs no more than this.
        gaps = np.zeros((height + 1, width + 1), np.int32)
        np.cumsum((front == _UNCOVERED).cumsum(0, np.int32), axis=1, out=gaps[1:, 1:])
        if not gaps[-1, -1]:
            leaves = _Leaves(*(np.concatenate(part) for part in zip(*layers, strict=True)))
            return front.astype(np.intp), leaves
        leaves = _fall(rng, shape, coverage, r_min, r_max)
        reach = _REACH * leaves.radius
        left = np.clip(leaves.x - reach, 0, width).astype(np.intp)
        right = np.clip(leaves.x + reach + 1, 0, width).astype(np.intp)
        top = np.clip(leaves.y - reach, 0, height).astype(np.intp)
        bottom = np.clip(leaves.y + reach + 1, 0, height).astype(np.intp)
        held = gaps[bottom, right] - gaps[top, right] - gaps[bottom, left] + gaps[top, left]
        leaves = _Leaves(*(part[held > 0] for part in leaves))
        _lay(rng, front, leaves, first)
        layers.append(leaves)
        first += len(leaves.radius)
        coverage *= 2  # a gap survives a layer with probability exp(-coverage)


def _colours(rng: np.random.Generator, count: int) -> _Floats:
    """Draw the colours of `count` leaves from one image's palette.

    Colours are normal in the logits of the coded (gamma-corrected) values. The S-shaped response
    that this gives is that of film: highlights and shadows are compressed and lose saturation.

    Returns:
        Coded RGB in (0, 1), float32 (count, 3).
    """
    # The image: its exposure and contrast, its cast (more often warm), how colourful it is.
    exposure = rng.normal(-0.4, 0.5)
    contrast = rng.uniform(0.7, 1.6)
    cast = rng.normal([0.25, -0.05], [0.3, 0.1])
    colourfulness = rng.gamma(3, 1 / 3) * np.array([0.35, 0.15])
    # Its palette: a few materials, each with its own share of the leaves.
    materials = rng.integers(3, 9)
    luminance = rng.normal(exposure, 0.8 * contrast, materials)
    chroma = rng.normal(cast, colourfulness, (materials, 2))
    material = rng.choice(materials, count, p=rng.dirichlet(np.ones(materials)))
    # The leaves of a material differ mostly in luminance, for light falls on them differently.
    luminance = rng.normal(luminance[material], 0.6 * contrast)
    chroma = rng.normal(chroma[material], 0.3 * colourfulness)
    logits = luminance[:, None] + chroma @ _CHROMA
    colours: _Floats = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return colours


def _shading(rng: np.random.Generator, front: NDArray[np.intp], leaves: _Leaves) -> _Floats:
    """Factors near 1, float32 (height, width): each leaf has a gradient of light and a texture."""
    height, width = front.shape
    count = len(leaves.radius)
    rows = np.arange(height, dtype=np.int32)[:, None]
    columns = np.arange(width, dtype=np.int32)
    slope = rng.normal(0, 0.12, (2, count)) / leaves.radius
    level = 1 - slope[0] * leaves.x - slope[1] * leaves.y
    shading: _Floats = level.astype(np.float32).take(front)
    shading += slope[0].astype(np.float32).take(front) * columns.astype(np.float32)
    shading += slope[1].astype(np.float32).take(front) * rows.astype(np.float32)

    # One periodic noise field of power 1/f^1.2 to 1/f^2.8 per image; each leaf shows its own part.
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
    """Blur (height, width, 3) with the kernel (weight, 1 - 2 weight, weight) along both sides."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (1 - 2 * weight) * padded[1:-1] + weight * (padded[:-2] + padded[2:])
    blurred: _Floats = (1 - 2 * weight) * rows[:, 1:-1] + weight * (rows[:, :-2] + rows[:, 2:])
    return blurred


def dead_leaves(
    rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH
) -> NDArray[np.uint8]:
    """Draw a dead leaves image.

    Ellipses and rectangles with radii of density r^-3, from 0.5 to 2 pixels (drawn per image) up
    to three times the height, in the colours of a palette drawn per image. Its power spectrum
    falls about as 1/f^2, like that of a photograph.

    Args:
        rng: Source of all randomness.
        height: Height in pixels, at least 1.
        width: Width in pixels, at least 1.

    Returns:
        Coded (gamma-corrected) RGB, uint8 (height, width, 3).
    """
    r_min = _SCALE * np.exp(rng.uniform(np.log(0.5), np.log(2)))
    front, leaves = _cover(rng, (_SCALE * height, _SCALE * width), r_min, _SCALE * 3 * height)
    # take, for indexing with `front` would be four times slower.
    rendered = _colours(rng, len(leaves.radius)).take(front, axis=0)
    rendered *= _shading(rng, front, leaves)[:, :, None]
    pairs = rendered[::2] + rendered[1::2]
    means = (pairs[:, ::2] + pairs[:, 1::2]) * np.float32(255 / _SCALE**2)
    levels = _blur(means, np.float32(rng.uniform(0, 0.2)))  # some lenses are softer than others
    image: NDArray[np.uint8] = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return image


def image(split: str, index: int) -> NDArray[np.uint8]:
    """Draw an image of the set: a pure function of `VERSION`, `split` and `index`.

    NumPy may change its random streams, and its last digits, from one release to another.

    Args:
        split: A key of `SPLITS`.
        index: From 0 to SPLITS[split] - 1.

    Returns:
        Coded RGB, uint8 (321, 481, 3).

    Raises:
        ValueError: There is no such split.
        IndexError: The split has no such image.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if not 0 <= index < SPLITS[split]:
        raise IndexError(f"no image {index} in {split}; there are {SPLITS[split]}")
    seed = np.random.SeedSequence([VERSION, list(SPLITS).index(split), index])
    return dead_leaves(np.random.default_rng(seed))


def _file(split: str, index: int) -> Path:
    """Where an image lies in the set's folder."""
    return Path(split, f"{index:04d}.png")


def _is_whole(path: Path) -> bool:
    """Whether the file is there and ends as a PNG file does."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_PNG_END)))
            return file.read() == _PNG_END
    except FileNotFoundError:
        return False


def _save(folder: Path, split: str, index: int) -> None:
    """Draw an image into `folder`; level 1 makes files 5% larger in a third of the time."""
    Image.fromarray(image(split, index)).save(folder / _file(split, index), compress_level=1)


def ensure(folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Make sure that `folder` holds the whole set, drawing what is missing or cut short.

    The images lie in folder/train/0000.png and so on, see `SPLITS`. They are drawn by parallel
    processes into a temporary folder beside `folder` and moved, file by file, once all are there.
    So a file is whole or absent, a call interrupted while drawing leaves nothing, and two calls at
    once both end with the whole set. (A process killed outright leaves its hidden folder.)

    The processes import the caller's main module anew, so call this under
    ``if __name__ == "__main__":`` and import heavy packages there too.

    Args:
        folder: Where the set is kept; call it `NAME`. Created if need be.
        progress: Called in this process with (drawn, to draw) as images are finished. Not called
            if nothing is missing.

    Returns:
        `folder`.

    Raises:
        OSError: The folder cannot be read or written.
    """
    missing = [
        (split, index)
        for split, count in SPLITS.items()
        for index in range(count)
        if not _is_whole(folder / _file(split, index))
    ]
    if not missing:
        return folder
    # Inside a container or a batch job, the cores granted can be fewer than those of the machine.
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        drawn = Path(temporary)
        for split in SPLITS:
            (drawn / split).mkdir()
        # spawn: the caller may have threads, which a fork would not survive.
        pool = ProcessPoolExecutor(
            min(granted or 1, len(missing), 32), multiprocessing.get_context("spawn")
        )
        try:
            jobs = [pool.submit(_save, drawn, split, index) for split, index in missing]
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                if progress is not None:
                    progress(done, len(missing))
        finally:
            pool.shutdown(cancel_futures=True)
        for split, index in missing:
            path = folder / _file(split, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            (drawn / _file(split, index)).replace(path)
    return folder
