"""What the parts of the benchmark share: drawn images, one configuration, and the runs themselves.

Each run is a process of its own, started as a user starts it: raydae's is the job jobs/train.py,
those beside it are raydae/benchmark/baselines.py.
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from raydae.core.config import Config, load_config
from raydae.core.errors import UserError
from raydae.distributed.resources import cores
from raydae.distributed.start import MALLOC
from raydae.images import synthetic

Device = Literal["cpu", "cuda"]
SECONDS, ROUNDS = 6.0, 2  # of steady state for one measurement, and how often it is made
QUICK_SECONDS, QUICK_ROUNDS = 3.0, 1
IMAGES = 16  # to train on
STOPPED = 130  # the exit code of a job that was asked to stop
TRAIN = Path(__file__).parents[2] / "jobs" / "train.py"


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


class Runner:
    """Runs what is measured, in a folder of its own with images drawn for it."""

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
        self.failed = False
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

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Says what went wrong with one side, so that the others are measured still."""
        try:
            yield
        except Exception as error:  # of any of torch, onnxruntime and what runs them
            self.failed = True
            self.say(f"{what} failed: {type(error).__name__}: {error}")

    def raydae(
        self, network: str, rate: float, workers: int = 1, batch: int = 32
    ) -> dict[str, Any]:
        """Measures the job itself: what its history says of its second epoch.

        In the first, stocks of samples are laid in and libraries loaded. What follows the second
        is not measured, so the job is asked to stop then.
        """
        each = max(round(rate * self.seconds / IMAGES / 2), 1, -(-batch // IMAGES // 2)) * 2
        config = self.config(
            network,
            **{"data.patches_per_image": each, "optim.batch_size": batch},
        )
        words: list[object] = ["--num-workers", workers]
        if self.device == "cpu":
            words += ["--threads", max(cores() // workers, 1)]
        steady = self.job(config, *words, epochs=2)[0][1]
        spent = steady["by_worker"]
        return {
            "patches_per_s": steady["patches_per_s"],
            "seconds": steady["seconds"],
            "waited": sum(worker["waited_for_data_s"] for worker in spent) / workers,
            "computed": sum(worker["computed_s"] for worker in spent) / workers,
        }

    def job(
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

    def opponent(
        self,
        side: str,
        config: Config,
        seconds: float,
        batches: Sequence[int],
        environment: Mapping[str, str] = {},
    ) -> list[dict[str, float]]:
        """Runs a side; its figures for each batch size."""
        words = [side, seconds, self._write(config), self.device, self.loaders, *batches]
        tricks = {} if side == "plain" else dict(MALLOC)
        if side == "tricks":  # a compilation that an earlier run has stored says nothing
            tricks["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / f"inductor{next(self._numbers)}")
        command = [sys.executable, "-m", "raydae.benchmark.baselines", *words]
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


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
