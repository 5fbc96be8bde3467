"""Large photographs in the part `feed`: decoded at each visit, in the pixel store, or cut before.

They are mosaics of the benchmark's images, and more than a process keeps in memory.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from raydae.distributed.resources import cores
from raydae.images.image_cache import MAX_BYTES
from raydae.images.sources import find_images
from raydae.training.config import Config

HEIGHT, WIDTH = 4000, 6000
NUMBER = MAX_BYTES // (3 * HEIGHT * WIDTH) + 2  # for training: more than any process keeps
CUT = 480  # pixels; the side of the sub-images that users of other tools cut before training
CUT_FROM = 2  # photographs: each sub-image takes as long to read


def photographs(config: Config) -> Config:
    """Return a configuration with large photographs instead of its images; draw them if needed.

    Args:
        config: of the benchmark's images, beside which the photographs and their store are.
    """
    folder = Path(str(config.data.path)).with_name("photographs")
    if not folder.exists():
        sources = [file.uri for file in find_images(config.data).train]
        paths = [folder / "train" / f"{number:02}.jpg" for number in range(NUMBER)]
        paths += [folder / split / "0.jpg" for split in ("val", "test")]
        for split in ("train", "val", "test"):
            (folder / split).mkdir(parents=True)
        with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
            list(pool.map(_draw, paths, repeat(sources), range(len(paths))))
    cache = str(folder.with_name("pixels"))
    return config.override({"data.path": str(folder), "data.cache": cache})


def pieces(config: Config) -> Config:
    """Return a configuration with PNG files that are cut from photographs; cut them if needed."""
    folder = Path(str(photographs(config).data.path))
    cut = folder.with_name("pieces")
    if not cut.exists():
        for path in [*sorted((folder / "train").iterdir())[:CUT_FROM], *folder.glob("[vt]*/0.jpg")]:
            (cut / path.parent.name).mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                for number in range(WIDTH // CUT):
                    box = (CUT * number, 0, CUT * (number + 1), CUT)
                    name = f"{path.stem}-{number:02}.png"
                    image.crop(box).save(cut / path.parent.name / name)
    return config.override({"data.path": str(cut)})


def read_pieces(config: Config, seconds: float, first: int) -> tuple[int, float]:
    """Make patches as tutorials do, from small files; return their number and the exact seconds."""
    import torch

    from raydae.benchmark.baselines import Patches

    torch.set_num_threads(1)
    patches = Patches(find_images(config.data).train, config)
    patches[first % len(patches)]
    began, made = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        patches[made * patches.per_image % len(patches)]
        made += 1
    return made, time.monotonic() - began


def _draw(path: Path, sources: list[str], seed: int) -> None:
    """Draw a photograph: a mosaic of images, each at a random place of it."""
    rng = np.random.default_rng(seed)
    photograph = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    tiles = []
    for source in sources:
        with Image.open(source) as image:
            tiles.append(np.asarray(image.convert("RGB"))[:320, :320])
    height, width, _ = tiles[0].shape
    for y in range(0, HEIGHT, height):
        for x in range(0, WIDTH, width):
            place = photograph[y : y + height, x : x + width]
            place[:] = tiles[rng.integers(len(tiles))][: place.shape[0], : place.shape[1]]
    Image.fromarray(photograph).save(path, quality=92)
