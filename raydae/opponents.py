"""What raydae is measured against: its own limit, and what one would write without it.

    python -m raydae.opponents plain 10 config.json    # for ten seconds

Each trains the same network on patches of the same size, batch and noise, in a process of its own,
and prints one line of JSON: patches a second, and when the first step and the last were done.

    limit    raydae's own loop on a batch that is in memory already
    plain    a script as tutorials have it: a Dataset, a DataLoader of two workers, float32
    tricks   the same script with everything that makes raydae fast, but Ray
"""

import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from raydae.config import Config, load_config
from raydae.images import ImageFile, ImageSets, find_images
from raydae.loop import Context, resolve_precision, train
from raydae.models import build
from raydae.noise import SCALE
from raydae.optim import compute_loss, make_optimizer
from raydae.restore import autocast, channels_last
from raydae.runs import Status
from raydae.samples import Samples, Schedule
from raydae.storage import Folder

CPU = torch.device("cpu")
LOADERS = 2  # workers of a DataLoader


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """As tutorials write it: each time an image is opened, cropped at random, and noised."""

    def __init__(self, images: tuple[ImageFile, ...], config: Config) -> None:
        self.images, self.size = images, config.data.patch_size
        self.each = config.data.patches_per_image
        self.sigma = config.noise.range

    def __len__(self) -> int:
        return len(self.images) * self.each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[index // self.each].uri) as image:
            clean = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        y = random.randrange(clean.shape[1] - self.size + 1)
        x = random.randrange(clean.shape[2] - self.size + 1)
        clean = clean[:, y : y + self.size, x : x + self.size]
        if random.random() < 0.5:
            clean = clean.flip(2)
        clean = torch.rot90(clean, random.randrange(4), (1, 2))
        return clean + torch.randn_like(clean) * (random.uniform(*self.sigma) / 255), clean


class Batches(Dataset[dict[str, NDArray[Any]]]):
    """raydae's own samples, a batch at a time."""

    def __init__(self, samples: Samples, batch_size: int) -> None:
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        first = index * self.batch_size
        return self.samples.block([range(first, first + self.batch_size)], self.batch_size)


def plain(config: Config, images: tuple[ImageFile, ...]) -> Iterator[None]:
    """Trains as tutorials do; yields after each step."""
    network = build(config.model).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optim.lr)
    patches = Patches(images, config)
    loader = DataLoader(patches, config.optim.batch_size, shuffle=True, num_workers=LOADERS)
    for noisy, clean in itertools.chain.from_iterable(itertools.repeat(loader)):
        optimizer.zero_grad()
        loss = compute_loss(config.optim.loss, network(noisy), clean, noisy)
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()
        yield


def tricks(config: Config, images: tuple[ImageFile, ...]) -> Iterator[None]:
    """Trains by the same script with all that makes raydae fast; yields after each step."""
    torch.set_flush_denormal(True)
    network = channels_last(build(config.model), CPU).train()
    optimizer = make_optimizer(config.optim, network)
    precision = resolve_precision(config.precision, CPU)
    batches = Batches(Samples.of(config, images), config.optim.batch_size)
    for batch in DataLoader(batches, batch_size=None, num_workers=LOADERS, prefetch_factor=4):
        noisy = batch["noisy"].permute(0, 3, 1, 2).float() / SCALE
        clean = batch["clean"].permute(0, 3, 1, 2).float() / 255
        optimizer.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            denoised = network(noisy)
        loss = compute_loss(config.optim.loss, denoised.float(), clean, noisy)
        torch.autograd.backward(loss)
        optimizer.step()
        yield


def limit(config: Config, images: tuple[ImageFile, ...], seconds: float) -> list[float]:
    """Raydae's own loop on a batch that is in memory; when each step began."""
    sets = ImageSets("the benchmark's", images, images[:1], images[:1])
    # An epoch that does not end: its rate is to be that of steps alone.
    config = config.override({"data.patches_per_image": 10**6})
    schedule = Schedule.of(config, len(images))
    batch = Samples.of(config, images).block([range(schedule.batch_size)], schedule.batch_size)
    marks: list[float] = []

    def resident(start: int) -> Iterator[dict[str, NDArray[Any]]]:
        for step in itertools.count(start):
            marks.append(time.time())
            first = step * schedule.batch_size
            yield {**batch, "index": np.arange(first, first + schedule.batch_size)}

    def stop(status: Status) -> bool:
        return marks[-1] > marks[0] + seconds

    with tempfile.TemporaryDirectory() as folder:
        train(config, sets, Folder.of(folder), Context(tell=stop), resident)
    return marks


def main() -> None:
    """Trains as the command line says; prints its figures."""
    name, seconds, path = sys.argv[1:]
    config = load_config(path)
    images = find_images(config.data).train
    if name == "limit":
        marks = limit(config, images, float(seconds))
    else:
        marks = []
        for _ in {"plain": plain, "tricks": tricks}[name](config, images):
            marks.append(time.time())
            if marks[-1] > marks[0] + float(seconds):
                break
    steady = marks[len(marks) // 5 :]
    patches = config.optim.batch_size * (len(steady) - 1)
    rate = patches / (steady[-1] - steady[0]) if patches else 0.0
    print(json.dumps({"first": marks[0], "last": marks[-1], "patches_per_s": rate}))


if __name__ == "__main__":
    main()
