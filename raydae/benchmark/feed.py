"""The part `feed`: samples per second that reach the training process, and each stage's cost.

The sides are the sample function alone, a torch DataLoader over it, and Ray Data; then the sample
function on large photographs. Samples are made on the CPU cores also where a GPU trains; the GPU
only changes how many are needed, and it can make the noise itself.
"""

import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from raydae.benchmark.harness import Harness, own_process
from raydae.benchmark.photographs import photographs, pieces, read_pieces
from raydae.distributed.resources import cores
from raydae.images.sources import find_images
from raydae.noise.config import NOISES
from raydae.training.config import Config
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule

BATCH = 32


def measure(harness: Harness) -> None:
    """Measure each side, and on one core the microseconds a patch of each stage."""
    rates: dict[str, list[float]] = {}
    for side in harness.alternate(*SIDES):
        with own_process() as call:
            rate = call(SIDES[side], harness.config("unet"), harness.seconds, harness.loaders)
        rates.setdefault(side, []).append(rate)
        harness.log(f"feed: {side}: {rate:,.0f} patches/s")
    report = harness.report
    medians = {
        side: report.add("feed", side, "patches/s", values) for side, values in rates.items()
    }
    for side in ("bare", "dataloader"):
        report.ratios[f"feed/{side}"] = medians["ray"] / medians[side]
    stored = medians["photographs, pixel store"]
    report.ratios["feed/photographs-small images"] = stored / medians["bare"]
    report.ratios["feed/stored-decoded"] = stored / medians["photographs, decoded"]
    report.ratios["feed/stored-cut before"] = stored / medians["photographs, cut before"]
    report.ratios["feed/device noise-ray"] = medians["ray, device noise"] / medians["ray"]
    harness.log("feed: stages")
    with own_process() as call:
        costs: dict[str, float] = call(stages, harness.config("unet"))
    costs["transport"] = 1e6 * cores() * (1 / medians["ray"] - 1 / medians["bare"])
    for stage, microseconds in costs.items():
        report.add("feed", stage, "us a patch", [microseconds])


def bare(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of the sample function alone, on all cores."""
    return _on_all_cores(_make, config, seconds)


def decoded_photographs(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of the sample function where each visit decodes a large photograph."""
    config = photographs(config).override({"data.cache_gib": 0})
    return _on_all_cores(functools.partial(_make, rows=2, warm_up=False), config, seconds)


def stored_photographs(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of the sample function on photographs in the pixel store."""
    return _on_all_cores(_make, photographs(config), seconds)


def cut_photographs(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of reading PNG files of 480x480, one patch from each."""
    return _on_all_cores(read_pieces, pieces(config), seconds)


def dataloader(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of a torch DataLoader over the same function."""
    from torch.utils.data import DataLoader

    from raydae.benchmark.baselines import PREFETCH, Batches

    batches = Batches(_samples(config), BATCH)
    loader = DataLoader(batches, batch_size=None, num_workers=loaders, prefetch_factor=PREFETCH)
    return _rate((len(batch["index"]) for batch in loader), seconds)


def ray_data(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of Ray Data, which feeds one worker as in training."""
    from raydae.distributed.bare_feed import bare_feed

    with bare_feed(_samples(config), Schedule(10**7, BATCH, 4, 1)) as batches:
        return _rate((len(batch["index"]) for batch in batches), seconds)


def ray_data_device_noise(config: Config, seconds: float, loaders: int) -> float:
    """Return the patches/s of Ray Data without noise, which the device then makes."""
    return ray_data(config.override({"noise.on": "device"}), seconds, loaders)


SIDES = {
    "bare": bare,
    "dataloader": dataloader,
    "ray": ray_data,
    "ray, device noise": ray_data_device_noise,
    "photographs, decoded": decoded_photographs,
    "photographs, pixel store": stored_photographs,
    "photographs, cut before": cut_photographs,
}


def stages(config: Config) -> dict[str, float]:
    """Return the microseconds a patch of each stage, on one core."""
    import torch

    from raydae.images.image_file import read_image
    from raydae.noise.fixed_point import SCALE

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
    clean_only = replace(samples, noise_on_device=True)
    crop = took(lambda: clean_only.block([range(rows)], rows), rows)
    noises = {}
    for kind in NOISES.builtins:
        whole = Samples.of(config.override({"noise.kind": kind}), samples.images)
        noises[kind] = took(functools.partial(whole.block, [range(rows)], rows), rows) - crop
    return {
        "decode, if the image is not in the cache": took(lambda: read_image(uri), crops),
        "crop": crop,
        **{f"noise: {kind}": cost for kind, cost in noises.items()},
        "convert": took(convert, rows),
    }


def _samples(config: Config) -> Samples:
    return Samples.of(config, find_images(config.data).train)


def _on_all_cores(make: Callable[..., tuple[int, float]], config: Config, seconds: float) -> float:
    """Return the patches/s of a function that a process for each core calls."""
    context, number = multiprocessing.get_context("spawn"), cores()
    with ProcessPoolExecutor(number, context) as pool:
        firsts = [10**6 * core for core in range(number)]
        made = pool.map(make, [config] * number, [seconds / 2] * number, firsts)
        return sum(samples / took for samples, took in made)


def _make(
    config: Config, seconds: float, first: int, rows: int = 512, warm_up: bool = True
) -> tuple[int, float]:
    """Make samples for some seconds; return their number and the exact seconds."""
    samples = _samples(config)
    if warm_up:
        samples.block([range(first, first + rows)], rows)  # decodes the images
    began = time.monotonic()
    made = 0
    while time.monotonic() - began < seconds:
        first += rows
        samples.block([range(first, first + rows)], rows)
        made += rows
    return made, time.monotonic() - began


def _rate(sizes: Iterator[int], seconds: float) -> float:
    """Return patches/s from the sizes of batches as they come, after the first blocks.

    Each core's first block is complete at the same moment and would raise the rate.
    """
    for _ in range(max(256, 64 * cores())):
        next(sizes)
    began = time.monotonic()
    patches = 0
    for size in sizes:
        patches += size
        if time.monotonic() - began > seconds:
            break
    return patches / (time.monotonic() - began)
