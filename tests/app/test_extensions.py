"""docs/extending.md as a user follows it: components of one's own, by flags alone."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydae.images.image_sets import ImageSets
from tests.app.test_jobs import ROOT, assert_same_run, finish, wait_for
from tests.conftest import draw

PAGE = (ROOT / "docs" / "extending.md").read_text()
MODULES = {
    match.group(1): match.group(0).removeprefix("```python\n").removesuffix("```")
    for match in re.finditer(r"```python\n# (\w+\.py)\n.*?```", PAGE, flags=re.DOTALL)
}
OWN = [
    *("--model.name", "nets:Wide", "--model.options.width", "8"),
    *("--noise.kind", "noises:Speckle", "--noise.options.strength", "0.2"),
    *("--optim.loss", "losses:huber", "--optim.loss-options.delta", "0.05"),
    *("--optim.optimizer", "opts:lion", "--optim.optimizer-options.beta", "0.8", "--lr", "1e-3"),
    *("--metrics", "psnr", "ssim", "metrics:mae", "--data.patch-size", "32", "--seed", "3"),
    *("--batch-size", "16", "--data.patches-per-image", "20", "--epochs", "2", "--val-images", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the modules of docs/extending.md, and a stack of images."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    np.save(folder / "stack.npy", np.stack([draw(seed, 80, 96)[..., 0] for seed in range(10)]))
    return folder


def start(folder: Path, name: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )


def train(folder: Path, name: str) -> subprocess.Popen[str]:
    data = ["--data", "sources:Stack", "--data.options.file", folder / "stack.npy"]
    launch = ["--name", name, "--num-workers", 1, "--threads", 1]
    return start(folder, "train", *data, *OWN, *launch)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    output = finish(train(folder, "whole"))
    assert "nets:Wide" in output
    return folder / "runs" / "whole"


def test_every_example_is_short() -> None:
    assert set(MODULES) == {
        *("nets.py", "noises.py", "losses.py", "opts.py", "metrics.py", "sources.py"),
    }
    for text in MODULES.values():
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) < 20


def test_a_run_records_its_components(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["model"] == {"name": "nets:Wide", "options": {"width": 8}}
    assert config["noise"]["options"] == {"strength": 0.2}
    assert config["optim"]["loss_options"] == {"delta": 0.05}
    assert config["optim"]["optimizer_options"] == {"beta": 0.8}
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert all(line["val_mae"] > 0 for line in history)
    sets = ImageSets.from_parquet((trained / "images.parquet").read_bytes())
    assert len(sets.train) + len(sets.val) + len(sets.test) == 10


def test_killed_and_resumed_bit_for_bit(folder: Path, trained: Path) -> None:
    process = train(folder, "parts")
    run = folder / "runs" / "parts"
    wait_for(lambda: list(run.glob("checkpoints/step-*/checkpoint.json")), "a checkpoint")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finish(train(folder, "parts"))
    assert_same_run(trained, run)


def test_a_model_file_is_refused_without_trust(folder: Path, trained: Path) -> None:
    photo = folder / "photo.png"
    Image.fromarray(draw(50, 60, 70)).save(photo)
    model = ["--model", trained / "model.safetensors"]
    refused = finish(start(folder, "denoise", photo, *model, "--out", folder / "out"), 2)
    assert "--trust nets" in refused
    finish(start(folder, "denoise", photo, *model, "--trust", "nets", "--out", folder / "out"))
    with Image.open(folder / "out" / "photo.png") as image:
        assert image.size == (70, 60)


def test_evaluated_with_its_metric(folder: Path, trained: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    for seed in (60, 61):
        Image.fromarray(draw(seed, 60, 70)).save(photos / f"{seed}.png")
    words = ["--model", trained / "model.safetensors", "--data", photos]
    assert "--trust nets" in finish(start(folder, "evaluate", *words), 2)
    words += ["--trust", "nets", "--metrics", "psnr", "metrics:mae", "--out", "table.csv"]
    finish(start(folder, "evaluate", *words))
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert all(float(row["mae"]) > 0 for row in rows if row["mae"])
    words[3] = "sources:Stack"
    words += ["--data-options", f"file={folder / 'stack.npy'}"]
    assert "trained on" in finish(start(folder, "evaluate", *words), 2), "it found the images"


def test_searched_over_its_option(folder: Path, trained: Path) -> None:
    space = ["--space", "model.options.width=4,6"]
    data = ["--data", "sources:Stack", "--data.options.file", folder / "stack.npy"]
    words = [*data, *OWN, *space, "--num-samples", 2, "--name", "found", "--eval-sigma", 25]
    finish(start(folder, "tune", *words))
    best = json.loads((folder / "runs" / "found" / "best.json").read_text())
    assert best["model"]["options"]["width"] in (4, 6)
    rows = list(csv.DictReader((folder / "runs/found/trials.csv").read_text().splitlines()))
    assert {row["model.options.width"] for row in rows} <= {"4", "6"}
