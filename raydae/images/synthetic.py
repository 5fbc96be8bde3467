"""The synthetic set: dead leaves images that replace BSDS500 where it cannot be downloaded.

The images have the size of BSDS500's, are split the same way, and are drawn once into a cache
folder::

    if __name__ == "__main__":  # ensure() starts processes
        root = ensure(cache / NAME)  # root/train/0000.png ... root/test/0039.png
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydae.images.dead_leaves import dead_leaves

VERSION = 1
"""Increased when the images change. Part of every image's seed and of `NAME`."""

NAME = f"dead-leaves-v{VERSION}"
"""Name of the folder to give to `ensure`. It differs for each version of the images."""

SPLITS = {"train": 200, "val": 20, "test": 40}
"""Number of images in each split. The order of the keys is part of the seeds."""

HEIGHT, WIDTH = 321, 481
"""Size of an image in pixels, that of a BSDS500 photograph."""

# The last chunk of every complete PNG file. A truncated file does not end with it.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def image(split: str, index: int) -> NDArray[np.uint8]:
    """Draw an image of the set: a pure function of `VERSION`, `split` and `index`.

    Another release of NumPy may change the pixels, through its random streams or its rounding.

    Args:
        split: A key of `SPLITS`.
        index: From 0 to SPLITS[split] - 1.

    Returns:
        Gamma-encoded RGB, uint8 (321, 481, 3).

    Raises:
        ValueError: There is no such split.
        IndexError: The split has no such image.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if not 0 <= index < SPLITS[split]:
        raise IndexError(f"no image {index} in {split}; there are {SPLITS[split]}")
    seed = np.random.SeedSequence([VERSION, list(SPLITS).index(split), index])
    return dead_leaves(np.random.default_rng(seed), HEIGHT, WIDTH)


def ensure(folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Make sure that `folder` holds the whole set; draw images that are missing or truncated.

    The images are folder/train/0000.png and so on, see `SPLITS`. Parallel processes draw them into
    a temporary folder next to `folder`. Once all are drawn, they are moved one by one. So no file
    is ever incomplete, an interrupted call leaves nothing behind, and two concurrent calls both end
    with the whole set. (A killed process leaves its hidden temporary folder behind.)

    The processes import the caller's main module anew, so call this under
    ``if __name__ == "__main__":`` and import heavy packages there too.

    Args:
        folder: Where the set is kept; call it `NAME`. Created if missing.
        progress: Called in this process with (images drawn, images to draw). Not called if no
            image is missing.

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
    # A container or a batch job may be allowed fewer cores than the machine has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        drawn = Path(temporary)
        for split in SPLITS:
            (drawn / split).mkdir()
        # Not fork, which is unsafe if the caller has threads.
        pool = ProcessPoolExecutor(
            min(allowed or 1, len(missing), 32), multiprocessing.get_context("spawn")
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


def _file(split: str, index: int) -> Path:
    """Return the path of an image in the set's folder."""
    return Path(split, f"{index:04d}.png")


def _is_whole(path: Path) -> bool:
    """Return whether a file exists and ends as a PNG file does."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_PNG_END)))
            return file.read() == _PNG_END
    except FileNotFoundError:
        return False


def _save(folder: Path, split: str, index: int) -> None:
    """Draw an image into `folder`."""
    # Compression level 1 makes the files 5 % larger and takes a third of the time.
    Image.fromarray(image(split, index)).save(folder / _file(split, index), compress_level=1)
