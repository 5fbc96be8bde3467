"""Where the time goes, and how far each part is from its limit and from what one would use instead.

All sides of a ratio are measured in turns, several times, and their medians are compared: machines
are shared, and their speed changes from minute to minute. The images are drawn for it, so that
every machine has the same. All sides compute on one device, the CPU or a GPU; many workers are
measured on the CPU only.
"""

import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from raydae import benchmark_denoise, benchmark_feed, synthetic
from raydae.cluster import MALLOC, cores
from raydae.config import Config, load_config
from raydae.errors import UserError

Device = Literal["cpu", "cuda"]
SECONDS, ROUNDS = 6.0, 2  # of steady state for one measurement, and how often it is made
QUICK_SECONDS, QUICK_ROUNDS = 3.0, 1
IMAGES = 16  # to train on
NETWORKS = ("dae", "unet")
BATCHES = {"cpu": (32,), "cuda": (32, 256, 1024)}
MOST_BATCH_BESIDE = 256  # of the sides that take patches from a DataLoader
SIZES = ((321, 481), (3000, 4000))  # of images to denoise; the last in tiles
STOPPED = 130  # the exit code of a job that was asked to stop
TRAIN = Path(__file__).parents[1] / "jobs" / "train.py"


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> Device:
    """Return the device that everything is measured on.

    Raises:
        UserError: `cuda`, and torch sees no GPU.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device auto or cpu")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


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

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], object],
        device: Device = "cpu",
        seconds: float = SECONDS,
        rounds: int = ROUNDS,
        keep: Callable[[], object] = lambda: None,
    ) -> None:
        """Draws the images.

        Args:
            folder: for everything that is written on the way.
            say: called with a line on what is measured, and on what was found.
            device: where all sides compute.
            seconds: of steady state, for one measurement.
            rounds: measurements of each side.
            keep: called when a part of the report is there, so that it can be written.
        """
        self.folder, self.say, self.keep, self.report = folder, say, keep, Report()
        self.device, self.seconds, self.rounds = device, seconds, rounds
        # Torch advises one for each core; one core is the training process's.
        self.loaders = min(max(cores() - 1, 2), 16)
        self._numbers = itertools.count(1)
        for split, number in (("train", IMAGES), ("val", 1), ("test", 1)):
            (folder / "images" / split).mkdir(parents=True)
            for index in range(number):
                drawn = Image.fromarray(synthetic.image(split, index))
                if split == "val":  # small: samples that are made meanwhile count as training's
                    drawn = drawn.crop((0, 0, 64, 64))
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
                if side != "raydae":
                    ratio = rates[batch, "raydae"] / rate
                    self.report.ratios[f"train/{side}-{name}"] = ratio
                    least += [ratio] if side == "limit" else []
            self.keep()
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
                yield batch, self._raydae(network, rate, batch=batch)
            return
        if side != "limit":
            batches = tuple(batch for batch in batches if batch <= MOST_BATCH_BESIDE)
        # On a GPU an epoch of a few patches would be over before a DataLoader's workers are there.
        each = 16 if self.device == "cpu" else 2**14
        config = self.config(network, **{"data.patches_per_image": each})
        for figures in self._opponent(side, config, self.seconds, batches):
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

    def _raydae(
        self, network: str, rate: float, workers: int = 1, batch: int = 32
    ) -> dict[str, Any]:
        """Measures the job itself: what its history says of its second epoch.

        In the first, stocks of samples are laid in and libraries loaded. What follows the second
        is not measured, so the job is asked to stop then.
        """
        each = max(round(rate * self.seconds / IMAGES / 2), 1, -(-batch // IMAGES // 2)) * 2
        config = self.config(
            network,
            **{"data.patches_per_image": each, "optim.epochs": 4, "optim.batch_size": batch},
        )
        words: list[object] = ["--num-workers", workers]
        if self.device == "cpu":
            words += ["--threads", max(cores() // workers, 1)]
        steady = self._job(config, *words, epochs=2)[0][1]
        spent = steady["by_worker"]
        return {
            "patches_per_s": steady["patches_per_s"],
            "seconds": steady["seconds"],
            "waited": sum(worker["waited_for_data_s"] for worker in spent) / workers,
            "computed": sum(worker["computed_s"] for worker in spent) / workers,
        }

    def _job(
        self, config: Config, *words: object, epochs: int | None = None
    ) -> tuple[list[dict[str, Any]], tuple[float, float]]:
        """Runs jobs/train.py; its history, and when it began and ended.

        Args:
            config: what to train.
            words: of the command line.
            epochs: after which the job is asked to stop, without its test; none: never.
        """
        name = f"run{next(self._numbers)}"
        history = self.folder / "runs" / name / "history.jsonl"
        command = [sys.executable, TRAIN, "--config", self._write(config), "--name", name]
        command += ["--storage", self.folder / "runs"]
        command += ["--use-gpu", "yes" if self.device == "cuda" else "no", *words]

        def is_done() -> bool:
            return epochs is not None and len(_lines(history)) >= epochs

        began = time.time()
        self._run(command, is_done=is_done)
        return [json.loads(line) for line in _lines(history)], (began, time.time())

    def _opponent(
        self,
        side: str,
        config: Config,
        seconds: float,
        batches: Sequence[int],
        environment: Mapping[str, str] = {},
    ) -> list[dict[str, float]]:
        """Runs a side; its figures for each batch size."""
        words = [side, seconds, self._write(config), self.device, self.loaders, *batches]
        # A compilation that an earlier run has stored says nothing.
        inductor = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / f"inductor{next(self._numbers)}")}
        tricks = {} if side == "plain" else {**MALLOC, **inductor}
        command = [sys.executable, "-m", "raydae.opponents", *words]
        said = self._run(command, {**tricks, **environment})
        return [json.loads(line) for line in said.splitlines() if line.startswith('{"batch"')]

    def _write(self, config: Config) -> Path:
        file = self.folder / f"config{next(self._numbers)}.json"
        file.write_text(json.dumps(config.to_dict()))
        return file

    def _run(
        self,
        command: Sequence[object],
        environment: Mapping[str, str] = {},
        is_done: Callable[[], bool] = lambda: False,
    ) -> str:
        """Runs a command, and asks it to stop once it is done; what it printed."""
        words, env = list(map(str, command)), {**os.environ, **environment}
        file = self.folder / f"output{next(self._numbers)}"
        asked = False
        with (
            file.open("wb") as output,
            subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=env) as process,
        ):
            while process.poll() is None:
                if not asked and is_done():
                    process.send_signal(signal.SIGTERM)
                    asked = True
                time.sleep(0.02)
        said = file.read_text(errors="replace")
        if process.returncode and not (asked and process.returncode == STOPPED):
            raise RuntimeError(f"{' '.join(words[1:4])} failed: {said[-4000:]}")
        return said

    # -- start and end -------------------------------------------------------------------------

    def startup(self) -> None:
        """Seconds from the command to the first step, and from the last step to the prompt."""
        config = self.config(
            "dae", **{"data.patches_per_image": 2, "optim.epochs": 2}
        )  # an epoch is a step
        times: dict[str, list[float]] = {}
        for _ in range(self.rounds + 1):
            self.say("startup")
            history, (began, ended) = self._job(config, "--num-workers", 1)
            times.setdefault("raydae, start", []).append(history[0]["time"] - began)
            times.setdefault("raydae, end", []).append(ended - history[-1]["time"])
            began = time.time()
            marks = self._opponent("plain", config, 0, [32])[0]
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
        for side in self._in_turns(*benchmark_feed.MEASURES):
            measure, config = benchmark_feed.MEASURES[side], self.config("unet")
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
            stages: dict[str, float] = apart(benchmark_feed.stages, self.config("unet"))
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
        config, batch = self.config("unet"), batch // workers
        threads = {"OMP_NUM_THREADS": str(max(cores() // workers, 1))}
        with ThreadPoolExecutor(workers) as pool:
            runs = [
                pool.submit(self._opponent, "limit", config, self.seconds / 2, [batch], threads)
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
        ways: tuple[str, ...] = benchmark_denoise.WAYS[self.device]
        if lacking := benchmark_denoise.missing():
            self.say(f"denoise: onnx is left out, without {', '.join(lacking)}")
        else:
            ways += ("onnx",)
        for height, width in SIZES:
            size = f"{height * width / 1e6:.2g} MP"
            speeds: dict[str, list[benchmark_denoise.Speed]] = {}
            with _apart() as shared:
                for way in self._in_turns(*ways):
                    # Memory is a process's most so far; a GPU's is counted anew for each way.
                    with nullcontext(shared) if self.device == "cuda" else _apart() as apart:
                        speed = apart(benchmark_denoise.measure, way, height, width, self.device)
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
            self.report.ratios[f"denoise/bare, {size}"] = medians["tiled"] / medians["bare"]
            self.keep()
        self.report.ratios["denoise/bare"] = medians["tiled"] / medians["bare"]  # the largest

    def _in_turns(self, *sides: str) -> Iterator[str]:
        """All sides, there and back: what slows a machine down for a while hits each in turn."""
        for number in range(self.rounds):
            yield from sides if number % 2 == 0 else reversed(sides)


def _network_and_batch(network: str, batch: int) -> str:
    """What the rows call a network; the batch of 32 goes without saying."""
    return network if batch == 32 else f"{network} batch {batch}"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _card(configs: dict[str, Config]) -> tuple[float, dict[str, int]]:
    from raydae.benchmark_flops import card

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
