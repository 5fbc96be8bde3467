"""Where the time goes, and how far each part is from its limit and from what one would use instead.

All sides of a ratio are measured in turns, several times, and their medians are compared: machines
are shared, and their speed changes from minute to minute. The images are drawn for it, so that
every machine has the same. All sides compute on the CPU, also where there is a GPU.
"""

import json
import logging
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raydae import synthetic
from raydae.cluster import MALLOC, cores
from raydae.config import Config, load_config

SECONDS = 6.0  # of steady state, for one measurement
ROUNDS = 2
IMAGES = 16  # to train on
NETWORKS = ("dae", "unet")
SIZES = ((321, 481), (3000, 4000))  # of images to denoise; the last in tiles
TRAIN = Path(__file__).parents[1] / "jobs" / "train.py"


@dataclass
class Report:
    """What was measured: rows for people, ratios to compare with other machines and versions."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, what: str, unit: str, values: Sequence[float]) -> float:
        """Notes what was measured several times; returns the median."""
        median = statistics.median(values)
        row = {"part": part, "what": what, "unit": unit, "median": median}
        self.rows.append({**row, "least": min(values), "most": max(values)})
        return median


class Bench:
    """The parts of a benchmark, in a folder of its own with images drawn for it."""

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        self.folder, self.say, self.report = folder, say, Report()
        self._runs = 0
        for split, number in (("train", IMAGES), ("val", 1), ("test", 1)):
            (folder / "images" / split).mkdir(parents=True)
            for index in range(number):
                drawn = Image.fromarray(synthetic.image(split, index))
                drawn.save(folder / "images" / split / f"{index:04}.jpg", quality=95)

    def config(self, network: str, **changes: Any) -> Config:
        """The same for all sides: only the network differs."""
        base = load_config("unet") if network == "unet" else Config()
        return base.override(
            {
                "data.path": str(self.folder / "images"),
                "optim.optimizer": "adam",
                "optim.epochs": 10**4,
                "optim.ema": 0,
                "validation.images": 1,
                **changes,
            }
        )

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Patches a second in steady state: raydae, its limit, and what one would write."""
        least = []
        for network in NETWORKS:
            rates: dict[str, list[float]] = {}
            for side in _in_turns("limit", "raydae", "plain", "tricks"):
                self.say(f"train {network}: {side}")
                if side == "raydae":
                    rate = self._raydae(network, rates["limit"][-1])["patches_per_s"]
                else:
                    rate = self._opponent(side, self.config(network), SECONDS)["patches_per_s"]
                rates.setdefault(side, []).append(rate)
            medians = {
                side: self.report.add("train", f"{network}, {side}", "patches/s", values)
                for side, values in rates.items()
            }
            least.append(medians["raydae"] / medians["limit"])
            self.report.ratios[f"train/limit-{network}"] = least[-1]
            for side in ("plain", "tricks"):
                self.report.ratios[f"train/{side}-{network}"] = medians["raydae"] / medians[side]
        self.report.ratios["train/limit"] = min(least)

    def _raydae(
        self, network: str, rate: float, workers: int = 1, batch: int = 32
    ) -> dict[str, Any]:
        """The job itself: what its history says of its last epoch."""
        # Two epochs: in the first, stocks of samples are laid in and libraries loaded.
        each = max(round(rate * SECONDS / IMAGES / 2), 1) * 2
        threads = max(cores() // workers, 1)
        config = self.config(
            network,
            **{"data.patches_per_image": each, "optim.epochs": 2, "optim.batch_size": batch},
        )
        history, _ = self._job(config, "--num-workers", workers, "--threads", threads)
        steady = history[-1]
        spent = steady["by_worker"]
        return {
            "patches_per_s": steady["patches_per_s"],
            "seconds": steady["seconds"],
            "waited": sum(worker["waited_for_data_s"] for worker in spent) / workers,
            "computed": sum(worker["computed_s"] for worker in spent) / workers,
        }

    def _job(
        self, config: Config, *words: object
    ) -> tuple[list[dict[str, Any]], tuple[float, float]]:
        """Runs jobs/train.py; its history, and when it began and ended."""
        self._runs += 1
        name = f"run{self._runs}"
        file = self._write(config)
        command = [sys.executable, TRAIN, "--config", file, "--storage", self.folder / "runs"]
        began = time.time()
        self._run([*command, "--name", name, "--use-gpu", "no", *words])
        ended = time.time()
        lines = (self.folder / "runs" / name / "history.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], (began, ended)

    def _opponent(
        self, side: str, config: Config, seconds: float, environment: Mapping[str, str] = {}
    ) -> dict[str, float]:
        command = [sys.executable, "-m", "raydae.opponents", side, seconds, self._write(config)]
        tricks = {} if side == "plain" else MALLOC
        said = self._run(command, {**tricks, **environment})
        answer: dict[str, float] = json.loads(said.splitlines()[-1])
        return answer

    def _write(self, config: Config) -> Path:
        file = self.folder / "config.json"
        file.write_text(json.dumps(config.to_dict()))
        return file

    def _run(self, command: Sequence[object], environment: Mapping[str, str] = {}) -> str:
        words, env = list(map(str, command)), {**os.environ, **environment}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise RuntimeError(f"{command[1]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    # -- start and end -------------------------------------------------------------------------

    def startup(self) -> None:
        """Seconds from the command to the first step, and from the last step to the prompt."""
        config = self.config(
            "dae", **{"data.patches_per_image": 2, "optim.epochs": 2}
        )  # an epoch is a step
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS + 1):
            self.say("startup")
            history, (began, ended) = self._job(config, "--num-workers", 1)
            times.setdefault("raydae, start", []).append(history[0]["time"] - began)
            times.setdefault("raydae, end", []).append(ended - history[-1]["time"])
            began = time.time()
            marks = self._opponent("plain", config, 0)
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
        measures = {"bare": _bare, "dataloader": _loader, "ray": _ray}
        for side in _in_turns(*measures):
            self.say(f"feed: {side}")
            with _apart() as apart:
                rates.setdefault(side, []).append(apart(measures[side], self.config("unet")))
        medians = {
            side: self.report.add("feed", side, "patches/s", values)
            for side, values in rates.items()
        }
        for side in ("bare", "dataloader"):
            self.report.ratios[f"feed/{side}"] = medians["ray"] / medians[side]
        self.say("feed: stages")
        with _apart() as apart:
            stages: dict[str, float] = apart(_stages, self.config("unet"))
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
        for _ in range(ROUNDS):
            taken_s = 0.0
            for workers, batch in cases:
                self.say(f"scaling: {workers} workers, batch {batch}")
                run = self._raydae("unet", 150, workers, batch)
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
        config = self.config("unet", **{"optim.batch_size": batch // workers})
        threads = {"OMP_NUM_THREADS": str(max(cores() // workers, 1))}
        with ThreadPoolExecutor(workers) as pool:
            runs = [
                pool.submit(self._opponent, "limit", config, SECONDS / 2, threads)
                for _ in range(workers)
            ]
            return sum(run.result()["patches_per_s"] for run in runs)

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
        for height, width in SIZES:
            speeds: dict[str, list[float]] = {}
            memory: dict[str, list[float]] = {}
            for way in _in_turns("tiled", "whole", "bare"):
                self.say(f"denoise: {width}x{height}, {way}")
                with _apart() as apart:
                    speed, peak = apart(_denoise, (way, height, width))
                speeds.setdefault(way, []).append(speed)
                memory.setdefault(way, []).append(peak)
            size = f"{height * width / 1e6:.2g} MP"
            medians = {
                way: self.report.add("denoise", f"{size}, {way}", "MP/s", values)
                for way, values in speeds.items()
            }
            for way, peaks in memory.items():
                self.report.add("denoise", f"{size}, {way}: memory", "MiB", peaks)
            self.report.ratios[f"denoise/bare, {size}"] = medians["tiled"] / medians["bare"]
        self.report.ratios["denoise/bare"] = medians["tiled"] / medians["bare"]  # the largest


def _cases(number: int) -> list[tuple[int, int]]:
    """Workers and batch for that many cores: a batch of 32, which 8 can share, and 32 a worker."""
    counts = [2**power for power in range(6) if 2**power <= max(number, 4)]
    fixed = [(workers, 32) for workers in counts if workers <= 8]
    return fixed + [(workers, 32 * workers) for workers in counts[1:] if workers <= number]


def _in_turns(*sides: str) -> Iterator[str]:
    """All sides, there and back: what slows a machine down for a while hits each in its turn."""
    for number in range(ROUNDS):
        yield from sides if number % 2 == 0 else reversed(sides)


@contextmanager
def _apart() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process of its own, whose threads and memory are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, argument: pool.submit(function, argument).result()


def _samples(config: Config) -> Any:
    from raydae.images import find_images
    from raydae.samples import Samples

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


def _bare(config: Config) -> float:
    """The sample function alone, on each core."""
    context, number = multiprocessing.get_context("spawn"), cores()
    with ProcessPoolExecutor(number, context) as pool:
        firsts = [10**6 * core for core in range(number)]
        made = pool.map(_count, [config] * number, [SECONDS / 2] * number, firsts)
        return sum(samples / seconds for samples, seconds in made)


def _loader(config: Config) -> float:
    """A torch DataLoader over the same function."""
    from torch.utils.data import DataLoader

    from raydae.opponents import LOADERS, Batches

    batches = Batches(_samples(config), 32)
    loader = DataLoader(batches, batch_size=None, num_workers=LOADERS, prefetch_factor=4)
    return _rate(len(batch["index"]) for batch in loader)


def _ray(config: Config) -> float:
    """Ray Data, as training is fed, on the CPUs that a worker would have too."""
    import ray

    from raydae.cluster import start_ray
    from raydae.samples import Schedule
    from raydae.storage import Folder
    from raydae.stream import begin_stream, shares

    start_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # where it writes what it is to run
    samples = _samples(config)
    schedule = Schedule(10**7, 32, 4, 1)
    with tempfile.TemporaryDirectory() as folder:
        blocks = begin_stream(ray.put(samples), schedule, Folder.of(folder))
        rate = _rate(len(step["index"]) for step in shares(blocks, 32))
    ray.shutdown()
    return rate


def _rate(sizes: Iterator[int]) -> float:
    """Of what comes, once it flows: the first seconds are left out."""
    for _ in range(256):
        next(sizes)
    began = time.monotonic()
    came = 0
    for size in sizes:
        came += size
        if time.monotonic() - began > SECONDS:
            break
    return came / (time.monotonic() - began)


def _stages(config: Config) -> dict[str, float]:
    """Microseconds a patch, on one core."""
    import torch

    from raydae.images import read_image
    from raydae.noise import SCALE, add_noise

    torch.set_num_threads(1)
    samples = _samples(config)
    rows = 256
    block = samples.block([range(rows)], rows)
    rng = np.random.Generator(np.random.SFC64(0))

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
    noise = took(lambda: [add_noise(rng, patch, 25) for patch in block["clean"]], rows)
    whole = took(lambda: samples.block([range(rows)], rows), rows)
    return {
        "decode, where an image is not in the cache": took(lambda: read_image(uri), crops),
        "crop": whole - noise,
        "noise": noise,
        "convert": took(convert, rows),
    }


def _all_reduce(place: tuple[int, int, str]) -> float:
    """Seconds for a mean of the unet's gradients, as a worker of (rank, workers, meeting file)."""
    import torch
    import torch.distributed as dist

    from raydae.models import UNet

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


def _denoise(case: tuple[str, int, int]) -> tuple[float, float]:
    """Megapixels a second, and the peak of memory beyond what the process had before, MiB."""
    import torch

    from raydae.modelfile import load_model
    from raydae.restore import TILE, Denoiser, channels_last

    way, height, width = case
    network, _ = load_model("released")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    if way == "bare":
        network = channels_last(network.eval(), torch.device("cpu"))
        padded = [-(-side // 8) * 8 for side in (height, width)]
        values = torch.rand(1, *padded, 3).permute(0, 3, 1, 2)

        def work() -> object:
            with torch.inference_mode():
                return network(values)
    else:
        denoiser = Denoiser(network, tile=max(height, width) if way == "whole" else TILE)

        def work() -> object:
            return denoiser(image)

    denoise_small = image[:64, :64]
    Denoiser(network)(denoise_small)  # what torch sets up once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3 if height * width < 2e6 else 1):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    unit = 1024 if sys.platform == "linux" else 1  # of ru_maxrss, in bytes
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 2**20
    return height * width / 1e6 / statistics.median(times), peak


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
