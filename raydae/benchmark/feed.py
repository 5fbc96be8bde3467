"""The feed's part of the benchmark: the sample function alone, a DataLoader, and Ray Data.

The feed computes on the cores, also where a GPU trains: what a GPU changes is how many samples a
second it takes, and that it can make the noise itself.
"""

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from raydae.core.config import Config
from raydae.distributed.resources import cores
from raydae.images.sources import find_images
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule


def bare(config: Config, seconds: float, loaders: int) -> float:
    """Measure the sample function alone, on each core; patches a second, as all here."""
    context, number = multiprocessing.get_context("spawn"), cores()
    with ProcessPoolExecutor(number, context) as pool:
        firsts = [10**6 * core for core in range(number)]
        made = pool.map(_count, [config] * number, [seconds / 2] * number, firsts)
        return sum(samples / took for samples, took in made)


def dataloader(config: Config, seconds: float, loaders: int) -> float:
    """Measure a torch DataLoader over the same function."""
    from torch.utils.data import DataLoader

    from raydae.benchmark.baselines import PREFETCH, Batches

    batches = Batches(_samples(config), 32)
    loader = DataLoader(batches, batch_size=None, num_workers=loaders, prefetch_factor=PREFETCH)
    return _rate((len(batch["index"]) for batch in loader), seconds)


def ray_data(config: Config, seconds: float, loaders: int) -> float:
    """Measure Ray Data, as training is fed, on the CPUs that a worker would have too."""
    import ray

    from raydae.core.storage import Folder
    from raydae.distributed.start import start_ray
    from raydae.distributed.stream import stream_shards

    start_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # where it writes what it is to run
    schedule = Schedule(10**7, 32, 4, 1)
    with tempfile.TemporaryDirectory() as folder:
        steps = stream_shards(ray.put(_samples(config)), schedule, Folder.of(folder))
        rate = _rate((len(step["index"]) for step in steps), seconds)
    ray.shutdown()
    return rate


def ray_data_device_noise(config: Config, seconds: float, loaders: int) -> float:
    """Measure Ray Data where the noise is made on the device: clean patches and sigma come."""
    return ray_data(config.override({"noise.on": "device"}), seconds, loaders)


MEASURES = {
    "bare": bare,
    "dataloader": dataloader,
    "ray": ray_data,
    "ray, device noise": ray_data_device_noise,
}


def stages(config: Config) -> dict[str, float]:
    """Measure the microseconds a patch of each stage, on one core."""
    import torch

    from raydae.images.image_sets import read_image
    from raydae.noise.gaussian import SCALE

    torch.set_num_threads(1)
    samples = _samples(config)
    rows = 256
    block = samples.block([range(rows)], rows)

    def took(work: Callable[[], object], patches: int) -> float:
        work()
        times = []
        for _ in range(9):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return statistics.median(times) / patches * 1e6

    def convert() -> None:
        for name, scale in (("clean", 255), ("noisy", SCALE)):
            torch.from_numpy(block[name].copy()).permute(0, 3, 1, 2).float() / scale

    uri, crops = samples.images[0].uri, samples.crops_per_visit
    clean_only = replace(samples, noisy=False)
    crop = took(lambda: clean_only.block([range(rows)], rows), rows)
    whole = took(lambda: samples.block([range(rows)], rows), rows)
    return {
        "decode, where an image is not in the cache": took(lambda: read_image(uri), crops),
        "crop": crop,
        "noise": whole - crop,
        "convert": took(convert, rows),
    }


def _samples(config: Config) -> Samples:
    return Samples.of(config, find_images(config.data).train)


def _count(config: Config, seconds: float, first: int, rows: int = 512) -> tuple[int, float]:
    """Makes samples for some seconds; how many, in how long, once the images are decoded."""
    samples = _samples(config)
    samples.block([range(first, first + rows)], rows)
    began = time.monotonic()
    made = 0
    while time.monotonic() - began < seconds:
        first += rows
        samples.block([range(first, first + rows)], rows)
        made += rows
    return made, time.monotonic() - began


def _rate(sizes: Iterator[int], seconds: float) -> float:
    """Of what comes, once it flows: the first block of every core comes at once."""
    for _ in range(max(256, 64 * cores())):
        next(sizes)
    began = time.monotonic()
    came = 0
    for size in sizes:
        came += size
        if time.monotonic() - began > seconds:
            break
    return came / (time.monotonic() - began)
