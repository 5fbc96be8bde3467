"""One random file of a run's folder is damaged, and the same command is given again.

    python -m pytest -m slow tests/app/test_random_faults.py

Afterwards everything that was intact is still there, and the run is finished, has resumed with its
loss stated, or is refused with a reason. It is never back at step 0.
"""

import io
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydae.app.train import Launch, start_or_resume
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.models.model_file import load_model
from raydae.training.config import Config
from tests.conftest import SMALL, draw_folder

ROUNDS = int(os.environ.get("RAYDAE_FAULT_ROUNDS", "200"))
SEED = int(os.environ.get("RAYDAE_FAULT_SEED", "0"))
EXACT = ("epoch", "step", "loss", "val_psnr", "val_ssim")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    images = draw_folder(tmp_path_factory.mktemp("images"))
    settings = {**SMALL, "optim.epochs": 4, "data.path": str(images)}
    return Config().override({**settings, "precision": "fp32", "threads": 1})


@pytest.fixture(scope="module", autouse=True)
def ray_of_this_process() -> Iterator[None]:
    import ray

    from raydae.distributed.start import start_ray

    start_ray((1, 1), threads=1)
    yield
    ray.shutdown()


def command(storage: Path, config: Config, **settings: Any) -> tuple[int, str]:
    """The exit code, and what the command prints."""
    text = io.StringIO()
    launch = Launch(storage=str(storage), name="run", num_workers="1", **settings)
    try:
        code = start_or_resume(config, launch, "run", "CMD", Console(file=text, width=1000))
    except UserError as error:
        return 2, f"{text.getvalue()}error: {error}"
    return code, text.getvalue()


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("finished")
    assert command(storage, config)[0] == 0
    return storage / "run"


@pytest.fixture(scope="module")
def stopped(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its third epoch, with two checkpoints."""
    storage = tmp_path_factory.mktemp("stopped")
    found = 0
    while found < 11:
        shutil.rmtree(storage / "run", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raydae.training.sync_control.SYNC_SECONDS", 0)
            fit_until(storage / "run", config, 11)
        found = len(steps_of(storage / "run")) and max(steps_of(storage / "run"))
    return storage / "run"


def fit_until(folder: Path, config: Config, step: int) -> None:
    """Train in this process, and stop after a step."""
    from raydae.images.sources import find_images
    from raydae.training.context import Context
    from raydae.training.loop import fit
    from raydae.training.run_folder import open_run
    from raydae.training.samples import Samples, shards
    from raydae.training.schedule import Schedule

    sets = find_images(config.data)
    run = open_run(Folder.of(folder), config).begin(sets)
    samples, schedule = Samples.of(config, sets.train), Schedule.of(config, len(sets.train))
    fit(
        config,
        sets,
        run.folder,
        Context(threads=1, tell=lambda status: status.step >= step),
        lambda start: shards(samples, schedule, start),
    )


def steps_of(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")]


def contents(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def damage(run: Path, rng: random.Random) -> tuple[str, str]:
    """Damage one file; return its name and what was done."""
    files = [name for name in contents(run) if not name.startswith("logs/")]
    name = rng.choice(files)
    path, kind = run / name, rng.choice(["flip", "truncate", "remove", "replace", "swap"])
    data = bytearray(path.read_bytes())
    if kind == "remove" or not data:
        path.unlink()
    elif kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "replace":
        path.write_bytes(rng.randbytes(len(data)))
    else:
        path.write_bytes((run / rng.choice(files)).read_bytes())
    return name, kind


def history(data: bytes) -> list[dict[str, Any]]:
    return [{key: json.loads(line)[key] for key in EXACT} for line in data.decode().splitlines()]


def assert_kept(intact: dict[str, bytes], after: dict[str, bytes], what: str) -> None:
    """All that was intact is there; weights and checkpoints may have advanced."""
    for file, data in intact.items():
        if file.startswith(("checkpoints/", "events.", "logs/")) or file.endswith(".safetensors"):
            continue  # events are made again from the history
        if file == "history.jsonl":
            assert history(after[file])[: len(history(data))] == history(data), what
        elif file not in ("results.json", "samples.png"):  # the model is tested again
            assert after[file] == data, what


def test_no_fault_loses_anything_silently(
    finished: Path, stopped: Path, config: Config, tmp_path: Path
) -> None:
    outcomes: Counter[str] = Counter()
    whole = history((finished / "history.jsonl").read_bytes())
    for number in range(ROUNDS):
        rng = random.Random(f"{SEED}-{number}")
        origin = rng.choice([finished, stopped])
        run = tmp_path / str(number) / "run"
        shutil.copytree(origin, run)
        original = contents(run)
        name, kind = damage(run, rng)
        before = contents(run)
        code, output = command(run.parent, config)
        after = contents(run)
        what = f"round {number} of {origin.parent.name}: {kind} {name}: {code}: {output}"
        if code == 2:
            assert "error: " in output, what
            assert after == before, what
            outcomes[f"{origin.parent.name} refused"] += 1
            continue
        assert code == 0, what
        intact = {file: data for file, data in before.items() if original.get(file) == data}
        assert_kept(intact, after, what)
        resumed = re.search(r"resumes after step (\d+) of 16", output)
        if resumed:
            lost = max(steps_of(origin)) - int(resumed[1])
            assert int(resumed[1]) > 0, what
            assert not lost or f"{lost} steps after it are done again" in output, what
            for model in ("model.safetensors", "last.safetensors"):
                load_model(run / model)
            if "history.jsonl" in intact or origin == stopped:
                assert history(after["history.jsonl"]) == whole, what
        else:
            assert "run is finished" in output, what
        outcomes[f"{origin.parent.name} {'resumed' if resumed else 'shown'}"] += 1
        shutil.rmtree(run)
    print(f"seed {SEED}, {ROUNDS} rounds: {dict(outcomes)}")
