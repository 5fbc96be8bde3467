"""What all parts of the benchmark share: images, configuration, processes and the report.

The images are drawn, so that every machine measures on the same ones. Each measurement runs in a
process of its own, started as a user starts it: raydae's is the job jobs/train.py, the baselines
are `python -m raydae.benchmark.baselines`. Machines are shared and their speed changes from minute
to minute, so the sides of a ratio are measured alternately, several times, and medians are
compared.
"""

import importlib.metadata
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
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from raydae.core.errors import UserError
from raydae.distributed.resources import cores
from raydae.distributed.start import MALLOC
from raydae.images import synthetic
from raydae.training.config import Config, load_config

Device = Literal["cpu", "cuda"]
SECONDS, ROUNDS = 6.0, 2  # of steady state for one measurement, and measurements of each side
QUICK_SECONDS, QUICK_ROUNDS = 3.0, 1
TRAIN_IMAGES = 16
STOPPED = 128 + signal.SIGTERM  # the exit code of a job that was asked to stop
TRAIN = [sys.executable, "-m", "raydae", "train"]


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> Device:
    """Return the device that everything is measured on.

    Raises:
        UserError: `cuda`, and torch sees no GPU.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device auto or cpu")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, GPUs, versions."""
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
        "ray": importlib.metadata.version("ray"),
    }
    return {"cpu": cpu, "cores": cores(), "gpus": gpus, **versions}


@contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """Yield a function that calls another one in a new process, with its own threads and memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@dataclass
class Report:
    """The results: rows for people, ratios to compare with other machines and versions."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, what: str, unit: str, values: Sequence[float]) -> float:
        """Add a row for repeated measurements of one quantity, and return their median."""
        median = statistics.median(values)
        row = {"part": part, "what": what, "unit": unit, "median": median}
        self.rows.append({**row, "min": min(values), "max": max(values)})
        return median


class Harness:
    """Runs the measured programs, in a folder of its own with images drawn for them."""

    def __init__(
        self,
        folder: Path,
        log: Callable[[str], object],
        device: Device = "cpu",
        seconds: float = SECONDS,
        rounds: int = ROUNDS,
        save: Callable[[], object] = lambda: None,
    ) -> None:
        """Draw the images.

        Args:
            folder: for all temporary files.
            log: called with a line on what is measured, and on each result.
            device: the device that all sides compute on.
            seconds: length of the steady state of one measurement.
            rounds: measurements of each side.
            save: called each time the report has grown, so that it can be written.
        """
        self.folder, self.log, self.save, self.report = folder, log, save, Report()
        self.device, self.seconds, self.rounds = device, seconds, rounds
        # Torch advises one loader process a core; one core is left to the training process.
        self.loaders = min(max(cores() - 1, 2), 16)
        self.failed = False
        self._numbers = itertools.count(1)
        for split, number in (("train", TRAIN_IMAGES), ("val", 1), ("test", 1)):
            (folder / "images" / split).mkdir(parents=True)
            for index in range(number):
                drawn = Image.fromarray(synthetic.image(split, index))
                # Samples made during a long validation would count as training's.
                if split == "val":
                    drawn = drawn.crop((0, 0, 64, 64))
                drawn.save(folder / "images" / split / f"{index:04}.jpg", quality=95)

    def config(self, network: str, **changes: Any) -> Config:
        """Return the configuration of all sides; only the network differs."""
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

    def alternate(self, *sides: str) -> Iterator[str]:
        """Yield all sides in each round, backwards in every second: a slow phase hits them all."""
        for number in range(self.rounds):
            yield from sides if number % 2 == 0 else reversed(sides)

    @contextmanager
    def log_failure(self, what: str) -> Iterator[None]:
        """Log an exception of one side instead of raising it, so that the others are measured."""
        try:
            yield
        except Exception as error:  # torch, onnxruntime and processes raise errors of many types
            self.failed = True
            self.log(f"{what} failed: {type(error).__name__}: {error}")

    def train_steady(
        self, network: str, rate: float, workers: int = 1, batch: int = 32
    ) -> dict[str, float]:
        """Measure training by jobs/train.py in its second epoch, then stop the job.

        The first epoch fills buffers and loads libraries.

        Args:
            network: dae or unet.
            rate: the expected patches/s, for epochs of `seconds`.
            workers: the number of workers.
            batch: the global batch size.

        Returns:
            Patches per second; the seconds of the epoch; and of these, as means over the workers,
            the seconds waited for data and the seconds computed.
        """
        visits = max(
            round(rate * self.seconds / TRAIN_IMAGES / 2), 1, -(-batch // TRAIN_IMAGES // 2)
        )
        config = self.config(
            network, **{"data.patches_per_image": 2 * visits, "optim.batch_size": batch}
        )
        flags: list[object] = ["--num-workers", workers]
        if self.device == "cpu":
            flags += ["--threads", max(cores() // workers, 1)]
        steady = self.run_job(config, *flags, epochs=2)[0][1]
        by_worker = steady["by_worker"]
        return {
            "patches_per_s": steady["patches_per_s"],
            "seconds": steady["seconds"],
            "waited": sum(worker["waited_for_data_s"] for worker in by_worker) / workers,
            "computed": sum(worker["computed_s"] for worker in by_worker) / workers,
        }

    def run_job(
        self, config: Config, *flags: object, epochs: int | None = None
    ) -> tuple[list[dict[str, Any]], tuple[float, float]]:
        """Run jobs/train.py.

        Args:
            config: the configuration of the run.
            flags: further words of the command line.
            epochs: stop the job after this epoch, before its test; None: let it finish.

        Returns:
            The history of the run, and the times at which the process began and ended.
        """
        name = f"run{next(self._numbers)}"
        history = self.folder / "runs" / name / "history.jsonl"
        command: list[object] = [*TRAIN, "--config", self._write(config), "--name", name]
        command += ["--storage", self.folder / "runs"]
        command += ["--use-gpu", "yes" if self.device == "cuda" else "no", *flags]

        def is_done() -> bool:
            return epochs is not None and len(_lines(history)) >= epochs

        began = time.time()
        self._run(command, is_done=is_done)
        return [json.loads(line) for line in _lines(history)], (began, time.time())

    def run_baseline(
        self,
        side: str,
        config: Config,
        seconds: float,
        batches: Sequence[int],
        environment: Mapping[str, str] = {},
    ) -> list[dict[str, float]]:
        """Run a side of `raydae.benchmark.baselines`; return its figures for each batch size."""
        words = [side, seconds, self._write(config), self.device, self.loaders, *batches]
        settings = {} if side == "plain" else dict(MALLOC)
        if side == "tricks":  # an empty cache: otherwise an earlier compilation would be reused
            settings["TORCHINDUCTOR_CACHE_DIR"] = str(
                self.folder / f"inductor{next(self._numbers)}"
            )
        command = [sys.executable, "-m", "raydae.benchmark.baselines", *words]
        output = self._run(command, {**settings, **environment})
        return [json.loads(line) for line in output.splitlines() if line.startswith('{"batch"')]

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
        """Run a command, ask it to stop as soon as `is_done`, and return what it printed."""
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
        printed = file.read_text(errors="replace")
        if process.returncode and not (asked and process.returncode == STOPPED):
            raise RuntimeError(f"{' '.join(words[1:4])} failed: {printed[-4000:]}")
        return printed


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
