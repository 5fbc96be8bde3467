"""The stream of training samples: sample `i` is a pure function of (seed, i) and the image list.

Samples are numbered 0, 1, 2 ... over the whole run, and any range of them can be computed anywhere:

    visit         an image is opened and `crops_per_visit` samples are cut from it
    pass          every image is visited patches_per_image / crops_per_visit times, or as often on
                  average and in proportion to its area, in an order that is one permutation drawn
                  from (seed, ORDER, pass)
    micro-batch   `micro_batch` consecutive samples, never divided among workers
    step          the samples [step * batch_size, (step + 1) * batch_size): batch_size / micro_batch
                  micro-batches, divided into one shard for each worker
    sample i      its image by its visit; position, flip, rotation and noise from (seed, SAMPLE, i),
                  and with pairs, between rotation and noise, which noisy file it is cut from

A run therefore resumes exactly in the middle of an epoch, and one worker and sixty-four train on
the same batches. Neither torch nor Ray is imported here: the processes that make samples start
fast.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydae.core.errors import UserError
from raydae.core.random_numbers import SAMPLE, Generators, generator
from raydae.core.toolchain import can_build_kernels
from raydae.images.image_file import ImageFile, NoisyFile
from raydae.images.image_table import Images
from raydae.images.reader import Pixels, Reader
from raydae.images.stored_image import DamagedError, StoredImage
from raydae.noise.batch import BatchNoise
from raydae.noise.config import NOISES
from raydae.noise.fixed_point import SCALE, to_fixed_point
from raydae.noise.neighbors import draw_choices
from raydae.noise.normals import standard_normals
from raydae.noise.protocol import Noise
from raydae.noise.user_noise import UserNoise, try_noise
from raydae.training.config import Config
from raydae.training.schedule import Schedule
from raydae.training.visits import Visits

PIXEL = "V3"  # three bytes that are copied as one, twice as fast
PADDING = -1  # the index of a row that only fills up a shard
CHUNK = 8  # patches that are made noisy at a time: few enough for a core's cache
READS = 32  # chunks that wait for a bucket at a time
_FIXED = np.rint(np.arange(256) / 255 * SCALE).astype(np.int16)  # of the values of a noisy file


class UnreadableError(OSError):
    """Not one image of the training set could be read."""


@dataclass(frozen=True)
class Samples:
    """Computes samples. Picklable and small: images are opened when they are needed."""

    images: Images
    reader: Reader
    seed: int
    noise: "BatchNoise | UserNoise"
    patch_size: int
    patches_per_image: int
    crops_per_visit: int
    by_area: bool = False
    """Whether images are visited in proportion to their area."""
    noise_on_device: bool = False
    """Whether only the noise's parameters are drawn here; it is made beside the network."""
    neighbors: bool = False
    """Whether the images are noisy already, and are split by drawn choices (`noise.neighbors`)."""
    pairs_share: float = 0.0
    """The part of the samples that have the noise of their image's noisy files; 0: no pairs."""

    @classmethod
    def of(cls, config: Config, images: Images, gpu: bool = False) -> "Samples":
        """Return the samples of a configuration on some training images.

        Args:
            config: the run's configuration.
            images: the training images.
            gpu: whether the network is on a GPU, which then makes the noise unless `noise.on` says
                otherwise: the values are the same, and 16 cores feed 2.6 times as many patches.

        Raises:
            UserError: the noise kind does not work, or cannot be made on the device as asked.
        """
        noise = make_noise(config)
        on_device = config.noise.on == "device" or (
            config.noise.on == "auto"
            and gpu
            and config.data.pairs is None  # whose noise comes from the CPU
            and config.learn == "clean"
            and can_build_kernels()
            and isinstance(noise, BatchNoise)
        )
        return cls(
            images=images,
            reader=Reader.of(config.data, images),
            seed=config.seed,
            noise=noise,
            patch_size=config.data.patch_size,
            patches_per_image=config.data.patches_per_image,
            crops_per_visit=config.data.crops_per_visit,
            by_area=config.data.visits == "area",
            noise_on_device=on_device,
            neighbors=config.learn == "neighbor2neighbor",
            pairs_share=0.0 if config.data.pairs is None else config.data.pairs_share,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a sample's patches, clean and noisy."""
        return self.patch_size**2 * 3 * (1 if self.noise_on_device else 3)

    @functools.cached_property
    def _visits(self) -> Visits:
        in_pass = len(self.images) * (self.patches_per_image // self.crops_per_visit)
        if not self.by_area:
            return Visits(self.seed, len(self.images), in_pass)
        return Visits.by_area(self.seed, self.images.areas.astype(np.float64), in_pass)

    def block(self, shards: Sequence[range], rows: int) -> dict[str, NDArray[Any]]:
        """Return the samples of some shards, one after the other, each filled up with padding.

        Args:
            shards: ranges of consecutive sample numbers.
            rows: rows for each shard, at least the longest shard's.

        Returns:
            Arrays of n = rows * len(shards) rows:
            index: int64 (n,), `PADDING` where a row is only padding.
            clean: uint8 (n, patch, patch, 3), RGB: what the network is to return.
            noisy: int16, the same shape: the [0, 1] scale times `fixed_point.SCALE`, not clipped;
                or, if the noise is made on the device:
            parameters: float32 (n, k), of the noise; `clean` is then the patch as it was cut. Or,
                if the images are noisy already:
            choices: uint8 (n, patch / 2, patch / 2), of `noise.neighbors`; `clean` is then noisy.
            unreadable: int32 (n,), the number of an image that could not be read and was
                replaced, or -1.

        Raises:
            UnreadableError: no image can be read at all.
        """
        n = rows * len(shards)
        shape = (n, self.patch_size, self.patch_size, 3)
        block: dict[str, NDArray[Any]] = {
            "index": np.full(n, PADDING, np.int64),
            "clean": np.empty(shape, np.uint8),
            "unreadable": np.full(n, -1, np.int32),
        }
        if self.noise_on_device and isinstance(self.noise, BatchNoise):
            width = len(self.noise.draw(generator(0, SAMPLE, 0)))
            block["parameters"] = np.zeros((n, width), np.float32)
        elif self.neighbors:
            block["choices"] = np.zeros((n, self.patch_size // 2, self.patch_size // 2), np.uint8)
        else:
            block["noisy"] = np.empty(shape, np.int16)
        parts: list[tuple[range, slice]] = []
        for number, shard in enumerate(shards):
            first = number * rows
            for name in ("clean", "noisy"):
                if name in block:
                    block[name][first + len(shard) : first + rows] = 0
            for start in range(0, len(shard), CHUNK):
                part = shard[start : start + CHUNK]
                parts.append((part, slice(first + start, first + start + len(part))))

        def fill(part: range, place: slice) -> None:
            self._fill(part, {name: block[name][place] for name in block})

        if self.reader.waits:
            with ThreadPoolExecutor(READS) as pool:
                list(pool.map(fill, *zip(*parts, strict=True)))
        else:
            for part, place in parts:
                fill(part, place)
        return block

    def _fill(self, part: range, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write some consecutive samples into rows of a block."""
        generators = Generators(self.seed, SAMPLE)
        noise, clean = self.noise, rows["clean"]
        shape: tuple[int, ...] = ()
        if isinstance(noise, BatchNoise):
            shape = len(part), *noise.normals_shape(self.patch_size, self.patch_size)
        normals = np.empty(shape, np.float32)
        parameters: list[Sequence[float]] = []
        made: list[int] = []  # the rows that `parameters` and `normals` belong to
        for row, index in enumerate(part):
            rng = generators[index]
            place = rng.random(3).tolist()
            pick = rng.random() if self.pairs_share else 1.0
            if row == 0 or index % self.crops_per_visit == 0 or self.pairs_share:
                image, own, replaced = self._visit(index // self.crops_per_visit, pick)
            try:
                patch = _cut(place, image, own, clean[row])
            except DamagedError as error:
                self.reader.drop(error.name)
                image, own, replaced = self._visit(index // self.crops_per_visit, pick)
                patch = _cut(place, image, own, clean[row])
            rows["index"][row], rows["unreadable"][row] = index, replaced
            if self.neighbors:
                rows["choices"][row] = draw_choices(rng, self.patch_size, self.patch_size)
            elif patch is not None:
                _FIXED.take(patch, out=rows["noisy"][row])
            elif isinstance(noise, BatchNoise):
                parameters.append(noise.draw(rng))
                if not self.noise_on_device:
                    standard_normals(rng, normals.shape[1:], out=normals[len(made)])
                made.append(row)
            else:
                noisy, clean[row] = noise(rng, clean[row])
                to_fixed_point(noisy, out=rows["noisy"][row])
        if self.noise_on_device:
            rows["parameters"][:] = parameters
        elif isinstance(noise, BatchNoise) and len(made) == len(part) and not self.neighbors:
            _degrade(noise, clean, np.array(parameters, np.float32), normals, rows["noisy"])
        elif isinstance(noise, BatchNoise) and made:
            patches, noisy = clean[made], rows["noisy"][made]
            values = np.array(parameters, np.float32)
            _degrade(noise, patches, values, normals[: len(made)], noisy)
            clean[made], rows["noisy"][made] = patches, noisy

    def _visit(self, visit: int, pick: float = 1.0) -> tuple[Pixels, Pixels | None, int]:
        """Return the image of a visit, and that of its noisy files which a sample is cut from.

        An image that cannot be read is replaced by the image of the next visit that can. This
        depends on the visit and `pick` alone, so no other sample changes.

        Args:
            visit: its number.
            pick: a uniform number in [0, 1), which picks the noisy file; from `pairs_share` on,
                none.

        Returns:
            The image, the noisy file or none, and the number of an unreadable image that this one
            replaces, or -1.
        """
        unreadable = -1
        for offset in range(self._visits.in_pass):
            number = self._visits.image(visit, offset)
            file = self.images[number]
            size = file.height, file.width
            image, own = self.reader.read(file, *size), None
            if image is not None and pick < self.pairs_share:
                own = self.reader.read(_picked(file, pick / self.pairs_share), *size)
                image = None if own is None else image
            if image is not None:
                return image, own, unreadable
            if offset == 0:
                unreadable = number
        raise UnreadableError(f"none of the {len(self.images)} training images can be read")


def _cut(
    place: Sequence[float], image: Pixels, own: Pixels | None, clean: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Write a sample's patch of an image into `clean`; return that of its noisy file, if any.

    Raises:
        DamagedError: one of the two is a stored image that is damaged.
    """
    _crop(place, image, clean)
    if own is None:
        return None
    patch = np.empty_like(clean)
    _crop(place, own, patch)
    return patch


def _crop(place: Sequence[float], image: Pixels, patch: NDArray[np.uint8]) -> None:
    """Write a sample's patch of an image into `patch`.

    Args:
        place: three uniform numbers in [0, 1): its position down and right, and its side.
        image: HxWx3.
        patch: uint8 (size, size, 3).

    Raises:
        DamagedError: it is a stored image that is damaged.
    """
    size = len(patch)
    down, right, side = place
    y = int(down * (image.shape[0] - size + 1))
    x = int(right * (image.shape[1] - size + 1))
    flip, turn = divmod(int(side * 8), 4)
    if isinstance(image, StoredImage):
        part = image.region(y, x, size, size).view(PIXEL)[..., 0]
    else:
        part = image.view(PIXEL)[y : y + size, x : x + size, 0]
    patch.view(PIXEL)[..., 0] = _rotated(part[:, ::-1] if flip else part, turn)


def _picked(file: ImageFile, number: float) -> NoisyFile:
    """Return the noisy file that a uniform number in [0, 1) picks."""
    return file.noisy[min(int(number * len(file.noisy)), len(file.noisy) - 1)]


def _degrade(
    noise: BatchNoise,
    clean: NDArray[np.uint8],
    parameters: NDArray[np.float32],
    normals: NDArray[np.float32],
    out: NDArray[np.int16],
) -> None:
    """Make patches noisy; write them into `out`, and what is to be learned into `clean`."""
    noisy, target = noise.degrade(clean, parameters, normals)
    to_fixed_point(noisy, out=out)
    if target is not None:
        target *= 255
        np.rint(target, out=clean, casting="unsafe")


def _rotated(part: NDArray[Any], turns: int) -> NDArray[Any]:
    """Return a view rotated by quarter turns; np.rot90 takes as long as the copy itself."""
    rotated = (part, part.T[::-1], part[::-1, ::-1], part.T[:, ::-1])
    return rotated[turns]


def shards(
    samples: Samples, schedule: Schedule, start: int, rank: int = 0, workers: int = 1
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield a worker's shard of every step from `start` on: the stream without Ray."""
    rows = schedule.shard_rows(workers)
    for step in range(start, schedule.steps):
        yield samples.block([schedule.shard(step, rank, workers)], rows)


def make_noise(config: Config) -> "BatchNoise | UserNoise":
    """Return the noise of a configuration, tried out if it is a user's own.

    Raises:
        UserError: the kind refuses its options or does not follow `noise.protocol`, or it cannot be
            made on the device, and `noise.on` is `device`.
    """
    kind = config.noise.kind
    noise: Noise | BatchNoise = NOISES.bind(kind, config.noise.options)
    if config.noise.on == "device" and not isinstance(noise, BatchNoise):
        raise UserError(f"--noise.kind {kind} has no GPU version; use --noise-on cpu")
    if kind not in NOISES.builtins:
        try_noise(noise, kind, config.data.patch_size)
    return noise if isinstance(noise, BatchNoise) else UserNoise(noise)
