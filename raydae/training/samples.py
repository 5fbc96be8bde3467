"""The stream of training samples: sample `i` is a pure function of (seed, i) and the image list.

Samples are numbered 0, 1, 2 … over the whole run, and any range of them can be computed anywhere:

    visit         an image is opened and `crops_per_visit` samples are cut from it
    pass          every image is visited patches_per_image / crops_per_visit times, in an order that
                  is one permutation drawn from (seed, ORDER, pass)
    micro-block   `micro_batch` consecutive samples, never parted
    step          the samples [step * batch_size, (step + 1) * batch_size): batch_size / micro_batch
                  micro-blocks, shared out among the workers
    sample i      its image by its visit; place, flip, turn, sigma and noise from (seed, SAMPLE, i)

So a run resumes exactly in the middle of an epoch, and one worker and sixty-four train on the same
batches. Neither torch nor Ray is imported here: the processes that make samples start light.
"""

import functools
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from raydae.core.config import Config
from raydae.core.random_numbers import ORDER, SAMPLE, Generators, generator
from raydae.core.toolchain import can_build_kernels
from raydae.images.image_sets import ImageFile, read_image
from raydae.noise.gaussian import SAMPLE_DRAWS, add_noise
from raydae.training.schedule import Schedule

LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 2**27, 2**31  # BSDS500's training set, decoded, has 93 MB
PIXEL = "V3"  # three bytes that are copied as one, twice as fast
PADDING = -1  # the index of a row that only fills up a share


class UnreadableError(OSError):
    """Not one image of the training set could be read."""


@dataclass(frozen=True)
class Samples:
    """Computes samples. Picklable and light: images are opened when they are needed."""

    images: tuple[ImageFile, ...]
    seed: int
    sigma: tuple[float, float]
    patch_size: int
    patches_per_image: int
    crops_per_visit: int
    noisy: bool = True
    """Whether the noise is made here, or only its level drawn."""

    @classmethod
    def of(cls, config: Config, images: tuple[ImageFile, ...], gpu: bool = False) -> "Samples":
        """The samples of a configuration on these training images.

        Args:
            config: of the run.
            images: to train on.
            gpu: whether the network is on a GPU, which then makes the noise unless `noise.on` says
                otherwise: the values are the same, and 16 cores feed 2.6 times as many patches.
        """
        return cls(
            images=images,
            seed=config.seed,
            sigma=config.noise.range,
            patch_size=config.data.patch_size,
            patches_per_image=config.data.patches_per_image,
            crops_per_visit=config.data.crops_per_visit,
            noisy=config.noise.on == "cpu"
            or (config.noise.on == "auto" and not (gpu and can_build_kernels())),
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a sample's patches, clean and noisy."""
        return self.patch_size**2 * 3 * (3 if self.noisy else 1)

    def block(self, shares: Sequence[range], rows: int) -> dict[str, NDArray[Any]]:
        """The samples of some shares, one after the other, each filled up with padding.

        Args:
            shares: ranges of consecutive sample numbers.
            rows: rows for each share, at least the longest share's.

        Returns:
            Arrays of n = rows * len(shares) rows:
            index: int64 (n,), `PADDING` where a row is only padding.
            clean: uint8 (n, patch, patch, 3), RGB.
            noisy: int16, the same shape: on the [0, 1] scale by `noise.SCALE`, and not clipped; or
            sigma: float32 (n,), 0-255 scale, where the noise is made elsewhere.
            unreadable: int32 (n,), the number of an image that could not be read and was
                replaced, or -1.

        Raises:
            UnreadableError: no image can be read at all.
        """
        n = rows * len(shares)
        shape = (n, self.patch_size, self.patch_size, 3)
        indices, unreadable = np.full(n, PADDING, np.int64), np.full(n, -1, np.int32)
        clean, sigma = np.empty(shape, np.uint8), np.zeros(n, np.float32)
        noisy = np.empty(shape, np.int16) if self.noisy else None
        generators = Generators(self.seed, SAMPLE)
        for number, share in enumerate(shares):
            padding = slice(number * rows + len(share), (number + 1) * rows)
            clean[padding] = 0
            if noisy is not None:
                noisy[padding] = 0
            for row, index in enumerate(share, start=number * rows):
                if index == share[0] or index % self.crops_per_visit == 0:
                    image, replaced = self._visit(index // self.crops_per_visit)
                indices[row], unreadable[row] = index, replaced
                rng = generators[index]
                sigma[row] = level = self._crop(rng, image, clean[row])
                if noisy is not None:
                    add_noise(rng, clean[row], level, out=noisy[row])
        noise = {"sigma": sigma} if noisy is None else {"noisy": noisy}
        return {"index": indices, "clean": clean, "unreadable": unreadable, **noise}

    def _crop(
        self, rng: np.random.Generator, image: NDArray[np.uint8], clean: NDArray[np.uint8]
    ) -> float:
        """Writes a sample's clean patch into `clean`; returns its sigma."""
        size = self.patch_size
        down, right, side, level = rng.random(SAMPLE_DRAWS).tolist()
        y = int(down * (image.shape[0] - size + 1))
        x = int(right * (image.shape[1] - size + 1))
        flip, turn = divmod(int(side * 8), 4)
        low, high = self.sigma
        part = image.view(PIXEL)[y : y + size, x : x + size, 0]
        clean.view(PIXEL)[..., 0] = _turned(part[:, ::-1] if flip else part, turn)
        sigma: float = low + (high - low) * level
        return sigma

    def _visit(self, visit: int) -> tuple[NDArray[np.uint8], int]:
        """The image of a visit, and the number of the one that it stands in for, or -1.

        An image that cannot be read is replaced by that of the next visit that can, a function of
        the visit alone, so that no other sample changes.
        """
        visits = len(self.images) * (self.patches_per_image // self.crops_per_visit)
        order = _order(self.seed, visit // visits, visits)
        unreadable = -1
        for offset in range(visits):
            number = int(order[(visit + offset) % visits]) % len(self.images)
            image = self._read(number)
            if image is not None:
                return image, unreadable
            if offset == 0:
                unreadable = number
        raise UnreadableError(f"none of the {len(self.images)} training images can be read")

    def _read(self, number: int) -> NDArray[np.uint8] | None:
        """The decoded image; none where it is unreadable or no longer what it was."""
        file = self.images[number]
        image = _cache.get(file.uri)
        if image is None:
            try:
                image = read_image(file.uri)
            except OSError:
                return None
            _cache.put(file.uri, image)
        return image if image.shape == (file.height, file.width, 3) else None


def _turned(part: NDArray[Any], turns: int) -> NDArray[Any]:
    """A view, turned by quarters; np.rot90 does the same in the time that copying takes."""
    turned = (part, part.T[::-1], part[::-1, ::-1], part.T[:, ::-1])
    return turned[turns]


def shares(
    samples: Samples, schedule: Schedule, start: int, rank: int = 0, workers: int = 1
) -> Iterator[dict[str, NDArray[Any]]]:
    """A worker's share of every step from `start` on: the stream without Ray, in this process."""
    rows = schedule.share_rows(workers)
    for step in range(start, schedule.steps):
        yield samples.block([schedule.share(step, rank, workers)], rows)


@functools.lru_cache(maxsize=2)  # a task works at the end of one pass and the start of the next
def _order(seed: int, number: int, visits: int) -> NDArray[np.int64]:
    return generator(seed, ORDER, number).permutation(visits)


class _ImageCache:
    """Decoded images by URI, the least recently used thrown out beyond a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        self._images: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def get(self, uri: str) -> NDArray[np.uint8] | None:
        if uri in self._images:
            self._images.move_to_end(uri)
        return self._images.get(uri)

    def put(self, uri: str, image: NDArray[np.uint8]) -> None:
        self._images[uri] = image
        self._bytes += image.nbytes
        while self._bytes > self.max_bytes and len(self._images) > 1:
            self._bytes -= self._images.popitem(last=False)[1].nbytes


def _cache_bytes() -> int:
    """Bytes of decoded images that a process keeps: a quarter of the memory, shared by all cores.

    An image that is not kept is decoded again at each visit, for ten times what its samples cost.
    """
    memory = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no such file, or no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    share = memory // 4 // (os.cpu_count() or 1)
    return min(max(share, LEAST_CACHE_BYTES), MOST_CACHE_BYTES)


# One a process, for whatever `Samples` it is handed.
_cache = _ImageCache(_cache_bytes())
