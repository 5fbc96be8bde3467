"""The training programs that raydae is compared with: its own limit, and scripts without Ray.

    # Measure for ten seconds with 2 loader processes and batches of 32:
    python -m raydae.benchmark.baselines plain 10 config.json cpu 2 32

Each trains the same network on patches of the same size, batch and noise, on the CPU or on one GPU.
The program prints a line of JSON for each batch size: patches per second, the times of the first
and the last measured step, and the seconds of the first step.

    limit    raydae's own loop on a batch that is already in memory
    plain    a script as tutorials write it: a Dataset, a DataLoader, float32; on a GPU, autocast
    tricks   the same script with everything that makes raydae fast, except Ray; on a GPU,
             cudnn.benchmark, pinned copies of integers, noise made there, and torch.compile in
             its default mode, without CUDA graphs
"""

import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raydae.benchmark.step_timer import StepTimer
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.images.sources import find_images
from raydae.models.inference import autocast, channels_last
from raydae.models.networks import build
from raydae.noise.fixed_point import SCALE
from raydae.training.config import Config, load_config
from raydae.training.context import Context
from raydae.training.learner import make_optimizer
from raydae.training.loop import fit
from raydae.training.losses import LOSSES
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule
from raydae.training.status import Status
from raydae.training.torch_setup import resolve_precision

PREFETCH = 4  # batches that each worker of a DataLoader keeps ready
GPU_WARMUP_STEPS = 10  # of the limit: they load libraries and choose algorithms


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Patches as tutorials make them: open the image, crop it at random, add noise.

    Items are (noisy, clean), float32 3xHxW on [0, 1].
    """

    def __init__(self, images: Images, config: Config) -> None:
        self.images, self.size = images, config.data.patch_size
        self.per_image = config.data.patches_per_image
        self.sigma = config.noise.sigma_range or (25.0, 25.0)

    def __len__(self) -> int:
        return len(self.images) * self.per_image

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[index // self.per_image].uri) as image:
            clean = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        y = random.randrange(clean.shape[1] - self.size + 1)
        x = random.randrange(clean.shape[2] - self.size + 1)
        clean = clean[:, y : y + self.size, x : x + self.size]
        if random.random() < 0.5:
            clean = clean.flip(2)
        clean = torch.rot90(clean, random.randrange(4), (1, 2))
        return clean + torch.randn_like(clean) * (random.uniform(*self.sigma) / 255), clean


class Batches(Dataset[dict[str, NDArray[Any]]]):
    """raydae's own samples; an item is a batch as `Samples.block` makes it."""

    def __init__(self, samples: Samples, batch_size: int) -> None:
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        first = index * self.batch_size
        return self.samples.block([range(first, first + self.batch_size)], self.batch_size)


def plain(config: Config, images: Images, device: torch.device, loaders: int) -> Iterator[None]:
    """Train as tutorials do; yield after each step."""
    network = build(config.model).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optim.lr)
    compute_loss = LOSSES.bind(config.optim.loss, config.optim.loss_options)
    loader = DataLoader(
        Patches(images, config),
        config.optim.batch_size,
        shuffle=True,
        num_workers=loaders,
        pin_memory=device.type == "cuda",
    )
    precision = "bf16" if device.type == "cuda" else "fp32"
    for pair in itertools.chain.from_iterable(itertools.repeat(loader)):
        noisy, clean = (patches.to(device) for patches in pair)
        optimizer.zero_grad()
        with autocast(device, precision):
            loss = compute_loss(network(noisy), clean, noisy)
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()
        yield


def tricks(config: Config, images: Images, device: torch.device, loaders: int) -> Iterator[None]:
    """Train by the same script with all that makes raydae fast; yield after each step."""
    torch.set_flush_denormal(True)
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = cuda
    network = channels_last(build(config.model), device).train()
    optimizer = make_optimizer(config.optim, network)
    compute_loss = LOSSES.bind(config.optim.loss, config.optim.loss_options)
    forward: nn.Module = network
    if cuda:
        forward = torch.compile(network, dynamic=False)  # type: ignore[assignment]  # a module too
    precision = resolve_precision(config.precision, device)
    batches = Batches(Samples.of(config, images, cuda), config.optim.batch_size)
    loader = DataLoader(
        batches, batch_size=None, num_workers=loaders, prefetch_factor=PREFETCH, pin_memory=cuda
    )
    for batch in loader:
        clean = batch["clean"].to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        if cuda:  # a fast script makes the noise there too
            sigma = batch["parameters"].to(device, non_blocking=True)[:, 0, None, None, None]
            noisy = clean + torch.randn_like(clean) * (sigma / 255)
        else:
            noisy = batch["noisy"].permute(0, 3, 1, 2).float() / SCALE
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            denoised = forward(noisy)
        loss = compute_loss(denoised.float(), clean, noisy)
        torch.autograd.backward(loss)
        optimizer.step()
        yield


def limit(config: Config, images: Images, device: torch.device, timer: StepTimer) -> None:
    """Train by raydae's own loop on a batch that is in memory, and time its steps."""
    sets = ImageSets("the benchmark's", images, images[:1], images[:1])
    # The epoch never ends, so that only steps are timed.
    config = config.override({"data.patches_per_image": 10**6})
    schedule = Schedule.of(config, len(images))
    samples = Samples.of(config, images, device.type == "cuda")
    batch = samples.block([range(schedule.batch_size)], schedule.batch_size)
    enough = False

    def resident(start: int) -> Iterator[dict[str, NDArray[Any]]]:
        nonlocal enough
        for step in itertools.count(start):
            if step > start:
                enough = timer.step_done(step) or enough
            first = step * schedule.batch_size
            yield {**batch, "index": np.arange(first, first + schedule.batch_size)}

    def stop(status: Status) -> bool:
        return enough

    with tempfile.TemporaryDirectory() as folder:
        fit(config, sets, Folder.of(folder), Context(device=device, tell=stop), resident)


def measure(
    side: str,
    config: Config,
    images: Images,
    device: torch.device,
    seconds: float,
    loaders: int,
) -> dict[str, float]:
    """Train by one side until it is measured; return the figures of `StepTimer.summary`."""
    cuda = device.type == "cuda"
    if side == "limit":
        timer = StepTimer(device, seconds, GPU_WARMUP_STEPS if cuda else 0)
        limit(config, images, device, timer)
    else:
        # Batches that were prefetched while the first step compiled arrive at once.
        timer = StepTimer(device, seconds, loaders * PREFETCH if cuda else 0)
        steps = {"plain": plain, "tricks": tricks}[side](config, images, device, loaders)
        for number, _ in enumerate(steps, start=1):
            if timer.step_done(number):
                break
    return timer.summary(config.optim.batch_size)


def main() -> None:
    """Measure the side that the command line names; print its figures for each batch size."""
    side, seconds, path, device, loaders, *batches = sys.argv[1:]
    config = load_config(path)
    images = find_images(config.data).train
    for batch in map(int, batches):
        sized = config.override({"optim.batch_size": batch})
        figures = measure(side, sized, images, torch.device(device), float(seconds), int(loaders))
        print(json.dumps({"batch": batch, **figures}), flush=True)


if __name__ == "__main__":
    main()
