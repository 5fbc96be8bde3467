"""Where the time goes, and how far each part is from its limit and from what one would use instead.

All sides of a ratio are measured in turns, several times, and their medians are compared: machines
are shared, and their speed changes from minute to minute. The images are drawn for it, so that
every machine has the same. All sides compute on one device, the CPU or a GPU; many workers are
measured on the CPU only.
"""

import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from raydae.benchmark import denoise, feed
from raydae.benchmark.runner import Runner
from raydae.core.config import Config
from raydae.distributed.resources import cores

NETWORKS = ("dae", "unet")
BATCHES = {"cpu": (32,), "cuda": (32, 256, 1024)}
MOST_BATCH_BESIDE = 256  # of the sides that take patches from a DataLoader
SIZES = ((321, 481), (3000, 4000))  # of images to denoise; the last in tiles


class Bench(Runner):
    """The parts of a benchmark."""

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Patches a second in steady state: raydae, its limit, and what one would write."""
        peak, flops = 0.0, dict[str, int]()
        if self.device == "cuda":
            self.say("train: the GPU's peak")
            with _apart() as apart:
                peak, flops = apart(_card, {name: self.config(name) for name in NETWORKS})
            self.report.add("train", "bf16 matrix product, the peak", "TFLOP/s", [peak / 1e12])
        least = []
        for network in NETWORKS:
            runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
            for side in self._in_turns("limit", "raydae", "plain", "tricks"):
                with self.measuring(f"train {network}: {side}"):
                    for batch, run in self._side(side, network, runs):
                        rate = run["patches_per_s"]
                        self.say(f"train {network}: {side}, batch {batch}: {rate:,.0f} patches/s")
                        runs.setdefault((batch, side), []).append(run)
            rates = {case: self._add_training(network, *case, runs[case]) for case in sorted(runs)}
            for (batch, side), rate in rates.items():
                name = _network_and_batch(network, batch)
                if peak:
                    share = 100 * flops[network] * rate / peak
                    self.report.add("train", f"{name}, {side}: MFU", "% of the peak", [share])
                if side != "raydae" and (batch, "raydae") in rates:
                    ratio = rates[batch, "raydae"] / rate
                    self.report.ratios[f"train/{side}-{name}"] = ratio
                    least += [ratio] if side == "limit" else []
            self.keep()
        if least:
            self.report.ratios["train/limit"] = min(least)

    def _side(
        self,
        side: str,
        network: str,
        runs: Mapping[tuple[int, str], Sequence[Mapping[str, Any]]],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Measures a side at each batch size; yields them with their figures."""
        batches = BATCHES[self.device]
        if side == "raydae":
            for batch in batches:
                rate = runs[batch, "limit"][-1]["patches_per_s"]
                yield batch, self.raydae(network, rate, batch=batch)
            return
        if side != "limit":
            batches = tuple(batch for batch in batches if batch <= MOST_BATCH_BESIDE)
        # On a GPU an epoch of a few patches would be over before a DataLoader's workers are there.
        each = 16 if self.device == "cpu" else 2**14
        config = self.config(network, **{"data.patches_per_image": each})
        for figures in self.opponent(side, config, self.seconds, batches):
            yield int(figures["batch"]), figures

    def _add_training(
        self, network: str, batch: int, side: str, runs: Sequence[Mapping[str, Any]]
    ) -> float:
        """Adds the rows of a side; returns its median rate."""
        what = f"{_network_and_batch(network, batch)}, {side}"
        rates = [run["patches_per_s"] for run in runs]
        rate = self.report.add("train", what, "patches/s", rates)
        if side == "raydae":
            waits = [100 * run["waited"] / run["seconds"] for run in runs]
            self.report.add("train", f"{what}: waits for data", "% of the time", waits)
        if self.device == "cuda" and side in ("plain", "tricks"):  # tricks compiles in it
            firsts = [run["first_step_s"] for run in runs]
            self.report.add("train", f"{what}: until the first step is done", "s", firsts)
        return rate

    # -- start and end -------------------------------------------------------------------------

    def startup(self) -> None:
        """Seconds from the command to the first step, and from the last step to the prompt."""
        config = self.config(
            "dae", **{"data.patches_per_image": 2, "optim.epochs": 2}
        )  # an epoch is a step
        times: dict[str, list[float]] = {}
        for _ in range(self.rounds + 1):
            self.say("startup")
            history, (began, ended) = self.job(config, "--num-workers", 1)
            times.setdefault("raydae, start", []).append(history[0]["time"] - began)
            times.setdefault("raydae, end", []).append(ended - history[-1]["time"])
            began = time.time()
            marks = self.opponent("plain", config, 0, [32])[0]
            times.setdefault("plain, start", []).append(marks["first"] - began)
            times.setdefault("plain, end", []).append(time.time() - marks["last"])
        medians = {
            what: self.report.add("startup", what, "s", values) for what, values in times.items()
        }
        ours, plain = (
            medians[f"{side}, start"] + medians[f"{side}, end"] for side in ("raydae", "plain")
        )
        self.report.add("startup", "raydae above plain", "s", [ours - plain])
        self.report.ratios["startup/plain"] = ours / plain

    # -- the feed ------------------------------------------------------------------------------

    def feed(self) -> None:
        """Samples a second that reach the training process, and what each costs by stage."""
        rates: dict[str, list[float]] = {}
        for side in self._in_turns(*feed.MEASURES):
            measure, config = feed.MEASURES[side], self.config("unet")
            with _apart() as apart:
                rates.setdefault(side, []).append(
                    apart(measure, config, self.seconds, self.loaders)
                )
            self.say(f"feed: {side}: {rates[side][-1]:,.0f} patches/s")
        medians = {
            side: self.report.add("feed", side, "patches/s", values)
            for side, values in rates.items()
        }
        for side in ("bare", "dataloader"):
            self.report.ratios[f"feed/{side}"] = medians["ray"] / medians[side]
        self.report.ratios["feed/device noise-ray"] = medians["ray, device noise"] / medians["ray"]
        self.say("feed: stages")
        with _apart() as apart:
            stages: dict[str, float] = apart(feed.stages, self.config("unet"))
        stages["transport"] = 1e6 * cores() * (1 / medians["ray"] - 1 / medians["bare"])
        for stage, microseconds in stages.items():
            self.report.add("feed", stage, "us a patch", [microseconds])

    # -- many workers --------------------------------------------------------------------------

    def scaling(self) -> None:
        """More workers on the same cores, at a fixed batch, and at a fixed batch a worker.

        Beside what was measured stands what the pieces promise for a patch: the workers' steps
        without Ray and each other, the exchange of gradients, and what Ray took from one worker.
        """
        cases = _cases(cores())
        found: dict[tuple[int, int], list[dict[str, float]]] = {}
        for _ in range(self.rounds):
            taken_s = 0.0
            for workers, batch in cases:
                self.say(f"scaling: {workers} workers, batch {batch}")
                run = self.raydae("unet", 150, workers, batch)
                run["others"] = run["seconds"] - run["waited"] - run["computed"]
                alone_s = 1 / self._side_by_side(workers, batch)
                exchange_s = self._exchange(workers)
                taken_s = taken_s or 1 / run["patches_per_s"] - alone_s  # by the first case
                run["exchange"] = 1000 * exchange_s
                run["promised"] = 1 / (alone_s + exchange_s / batch + taken_s)
                found.setdefault((workers, batch), []).append(run)
        rates = {}
        for (workers, batch), runs in found.items():
            what = f"{workers} x {max(cores() // workers, 1)} cores, batch {batch}"
            rate = [run["patches_per_s"] for run in runs]
            rates[workers, batch] = self.report.add("scaling", what, "patches/s", rate)
            for name, key in (("data", "waited"), ("the others", "others")):
                share = [100 * run[key] / run["seconds"] for run in runs]
                self.report.add("scaling", f"{what}: waits for {name}", "% of the time", share)
            if workers == 1:
                continue
            exchanges = [run["exchange"] for run in runs]
            self.report.add("scaling", f"{what}: all-reduce", "ms a step", exchanges)
            promises = [run["promised"] for run in runs]
            promise = self.report.add("scaling", f"{what}: promised", "patches/s", promises)
            self.report.ratios[f"scaling/promise, {what}"] = rates[workers, batch] / promise
        for workers, batch in cases[1:]:
            kind = "fixed batch" if batch == 32 else "batch a worker"
            self.report.ratios[f"scaling/{workers}-1, {kind}"] = (
                rates[workers, batch] / rates[1, 32]
            )
        self.report.ratios["scaling/2x1-1x2"] = rates[2, 32] / rates[1, 32]

    def _side_by_side(self, workers: int, batch: int) -> float:
        """Patches a second of as many processes as workers, each on its share, on its own."""
        config, batch = self.config("unet"), batch // workers
        threads = {"OMP_NUM_THREADS": str(max(cores() // workers, 1))}
        with ThreadPoolExecutor(workers) as pool:
            runs = [
                pool.submit(self.opponent, "limit", config, self.seconds / 2, [batch], threads)
                for _ in range(workers)
            ]
            return sum(run.result()[0]["patches_per_s"] for run in runs)

    def _exchange(self, workers: int) -> float:
        """Seconds that the mean of the unet's gradients over the workers takes."""
        if workers == 1:
            return 0.0
        meeting = self.folder / f"meeting{time.monotonic_ns()}"
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            ranks = [(rank, workers, str(meeting)) for rank in range(workers)]
            return statistics.median(pool.map(_all_reduce, ranks))

    # -- denoising -----------------------------------------------------------------------------

    def denoise(self) -> None:
        """Megapixels a second and memory: in tiles, as a whole, and the network's pass alone."""
        ways: tuple[str, ...] = denoise.WAYS[self.device]
        if lacking := denoise.missing():
            self.say(f"denoise: onnx is left out, without {', '.join(lacking)}")
        else:
            ways += ("onnx",)
        for height, width in SIZES:
            size = f"{height * width / 1e6:.2g} MP"
            speeds: dict[str, list[denoise.Speed]] = {}
            with _apart() as shared:
                for way in self._in_turns(*ways):
                    # Memory is a process's most so far; a GPU's is counted anew for each way.
                    process = nullcontext(shared) if self.device == "cuda" else _apart()
                    with self.measuring(f"denoise {size}: {way}"), process as apart:
                        speed = apart(denoise.measure, way, height, width, self.device)
                        self.say(f"denoise {size}: {speed.way}: {speed.megapixels_per_s:.3g} MP/s")
                        speeds.setdefault(speed.way, []).append(speed)
            medians = {
                way: self.report.add(
                    "denoise", f"{size}, {way}", "MP/s", [speed.megapixels_per_s for speed in found]
                )
                for way, found in speeds.items()
            }
            for way, found in speeds.items():
                for what, unit, values in (
                    ("memory", "MiB", [speed.memory_mib for speed in found]),
                    ("first image, with compilation", "s", [speed.first_s for speed in found]),
                ):
                    known = [value for value in values if value is not None]
                    if known:
                        self.report.add("denoise", f"{size}, {way}: {what}", unit, known)
            if {"tiled", "bare"} <= medians.keys():
                ratio = medians["tiled"] / medians["bare"]
                self.report.ratios[f"denoise/bare, {size}"] = ratio
                self.report.ratios["denoise/bare"] = ratio  # at last that of the largest
            self.keep()

    def _in_turns(self, *sides: str) -> Iterator[str]:
        """All sides, there and back: what slows a machine down for a while hits each in turn."""
        for number in range(self.rounds):
            yield from sides if number % 2 == 0 else reversed(sides)


def _network_and_batch(network: str, batch: int) -> str:
    """What the rows call a network; the batch of 32 goes without saying."""
    return network if batch == 32 else f"{network} batch {batch}"


def _card(configs: dict[str, Config]) -> tuple[float, dict[str, int]]:
    from raydae.benchmark.flops import card

    return card(configs)


def _cases(number: int) -> list[tuple[int, int]]:
    """Workers and batch for that many cores: a batch of 32, which 8 can share, and 32 a worker."""
    counts = [2**power for power in range(6) if 2**power <= max(number, 4)]
    fixed = [(workers, 32) for workers in counts if workers <= 8]
    return fixed + [(workers, 32 * workers) for workers in counts[1:] if workers <= number]


@contextmanager
def _apart() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process of its own, whose threads and memory are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _all_reduce(place: tuple[int, int, str]) -> float:
    """Seconds for a mean of the unet's gradients, as a worker of (rank, workers, meeting file)."""
    import torch
    import torch.distributed as dist

    from raydae.models.unet import UNet

    rank, workers, meeting = place
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=workers)
    gradients = torch.zeros(sum(value.numel() for value in UNet().parameters()))
    times = []
    for _ in range(30):
        began = time.monotonic()
        dist.all_reduce(gradients)
        times.append(time.monotonic() - began)
    dist.destroy_process_group()
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """What the figures come from."""
    import ray
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }
    return {"cpu": cpu, "cores": cores(), "gpus": gpus, **versions}
