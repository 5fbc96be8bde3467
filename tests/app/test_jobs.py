"""The jobs as a user runs them: real commands, real Ray, real kills."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from raydae.models.weights import unpack
from tests.conftest import draw, draw_folder

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240
SETTINGS = [
    *("--data.patch-size", "32", "--batch-size", "16", "--optim.micro-batch", "4"),
    *("--data.patches-per-image", "20", "--epochs", "3", "--val-images", "2", "--seed", "3"),
]


def job(name: str, *words: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a job; its output and errors come together."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
    )


def finish(process: subprocess.Popen[str], code: int = 0, patience_s: float = PATIENCE_S) -> str:
    """Waits for a job and returns what it printed."""
    output, _ = process.communicate(timeout=patience_s)
    assert process.returncode == code, output
    return output


def train(folder: Path, data: Path, name: str, *words: str, code: int = 0) -> str:
    arguments = ["--storage", folder, "--name", name, "--data", data, *SETTINGS, *words]
    return finish(job("train", *arguments), code)


def history(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("epoch", "step", "loss", "val_psnr")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Bitwise: the weights, the best weights, every epoch's loss and PSNR."""
    for name in ("last.safetensors", "model.safetensors"):
        ours, theirs = (unpack((run / name).read_bytes()) for run in (one, other))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert history(one) == history(other)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Polls until there is something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"waited in vain for {what}")


def processes_of(driver: int, *words: str) -> set[psutil.Process]:
    """Those of a driver's processes in whose title one of the words is; they come and go."""
    found = set()
    for child in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = f"{child.name()} {' '.join(child.cmdline())}"
            if any(word in title for word in words):
                found.add(child)
    return found


def train_workers(driver: int) -> set[psutil.Process]:
    """The processes that train, of a driver's."""
    return processes_of(driver, "RayTrainWorker")


def in_mid_epoch(run: Path, steps: int = 10) -> Callable[[], bool]:
    """Whether there is a checkpoint that lies within an epoch, of so many steps."""

    def look() -> bool:
        done = run.glob("checkpoints/step-*/checkpoint.json")
        return any(int(path.parent.name.removeprefix("step-")) % steps for path in done)

    return look


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one_worker(runs: Path, photographs: Path) -> Path:
    """An undisturbed run of one worker; its output lies beside it."""
    output = train(runs, photographs, "one", "--num-workers", "1")
    (runs / "one.txt").write_text(output)
    return runs / "one"


@pytest.fixture(scope="module")
def two_workers(runs: Path, photographs: Path) -> Path:
    train(runs, photographs, "two", "--num-workers", "2", "--threads", "1")
    return runs / "two"


def test_a_run_leaves_what_it_promises(one_worker: Path) -> None:
    output = (one_worker.parent / "one.txt").read_text()
    names = {
        path.name.split(".")[0] if "tfevents" in path.name else path.name
        for path in one_worker.iterdir()
    }
    assert {
        *("config.json", "images.parquet", "history.jsonl", "checkpoints", "events"),
        *("model.safetensors", "last.safetensors", "samples.png", "results.json"),
    } <= names
    lines = [json.loads(line) for line in (one_worker / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [10, 20, 30]
    for line in lines:
        assert {"loss", "val_psnr", "val_ssim", "patches_per_s", "lr"} <= set(line)
        assert f"epoch {line['epoch']}/3  loss {line['loss']:.6f}" in output
    (row,) = json.loads((one_worker / "results.json").read_text())["results"]
    assert (row["set"], row["sigma"], row["images"]) == ("test", 25.0, 1)
    assert row["psnr_noisy"] == pytest.approx(20.17, abs=0.2)
    assert f"{row['psnr']:.2f}" in output
    assert f"files: {one_worker}" in output
    assert "at sigma 25 the result is no better than the noisy input" in output
    with Image.open(one_worker / "samples.png") as samples:
        assert min(samples.size) > 200
    assert "\x1b" not in output
    assert "Warning" not in output
    assert not list(one_worker.rglob("*.tmp"))


def test_its_events_are_those_of_its_history(one_worker: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(one_worker))
    events.Reload()
    for tag, key in (("loss/train", "loss"), ("validation/psnr_db", "val_psnr")):
        points = events.Scalars(tag)
        lines = history(one_worker)
        assert [point.step for point in points] == [line["epoch"] for line in lines]
        np.testing.assert_allclose([p.value for p in points], [line[key] for line in lines], 1e-6)


def test_a_finished_run_needs_no_checkpoints_to_print_its_table_again(
    one_worker: Path, photographs: Path
) -> None:
    checkpoints = one_worker / "checkpoints"
    checkpoints.rename(one_worker / ".checkpoints")  # deleted to save space
    try:
        output = train(one_worker.parent, photographs, "one", "--num-workers", "1")
    finally:
        (one_worker / ".checkpoints").rename(checkpoints)
    assert "one is finished" in output
    assert "PSNR noisy" in output


def test_another_configuration_is_refused(one_worker: Path, photographs: Path) -> None:
    output = train(one_worker.parent, photographs, "one", "--lr", "0.1", code=2)
    assert "optim.lr: 0.001, now 0.1" in output
    assert len(output.strip().splitlines()) == 1


def test_a_killed_driver_and_the_same_command_again(
    one_worker: Path, runs: Path, photographs: Path
) -> None:
    arguments = ["--storage", runs, "--name", "killed", "--data", photographs, *SETTINGS]
    arguments += ["--num-workers", "1", "--checkpoint-minutes", "0.005"]
    process = job("train", *arguments)
    wait_for(in_mid_epoch(runs / "killed"), "a checkpoint")
    family = psutil.Process(process.pid).children(recursive=True)
    family = [child for child in family if "Agent" not in child.name()]  # these take minutes
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "Ray's processes end with their driver"
    assert not (runs / "killed" / "results.json").exists()

    output = finish(job("train", *arguments))
    assert "resumes after step" in output
    assert_same_run(runs / "killed", one_worker)


def test_a_killed_worker_or_tester_changes_nothing(
    two_workers: Path, runs: Path, photographs: Path
) -> None:
    arguments = ["--storage", runs, "--name", "hurt", "--data", photographs, *SETTINGS]
    arguments += ["--num-workers", "2", "--threads", "1", "--checkpoint-minutes", "0.005"]
    process = job("train", *arguments)
    wait_for(in_mid_epoch(runs / "hurt"), "a checkpoint")
    workers = train_workers(process.pid)
    assert len(workers) == 2
    max(workers, key=lambda worker: worker.pid).kill()
    wait_for(lambda: train_workers(process.pid) - workers, "new workers")
    (tester,) = wait_for(lambda: processes_of(process.pid, "_HelperActor"), "the test's process")
    tester.kill()
    if Path("/proc").is_dir():
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    finish(process)
    assert_same_run(runs / "hurt", two_workers)


def test_ctrl_c_leaves_a_checkpoint_and_the_command_that_goes_on(
    one_worker: Path, runs: Path, photographs: Path
) -> None:
    arguments = ["--storage", runs, "--name", "stopped", "--data", photographs, *SETTINGS]
    process = job("train", *arguments, "--num-workers", "1", "--checkpoint-minutes", "0.005")
    wait_for(in_mid_epoch(runs / "stopped"), "a checkpoint")
    process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert "stopped; to resume: python" in output
    (line,) = [line for line in output.splitlines() if "to resume:" in line]
    command = shlex.split(line.rpartition("to resume: python ")[2])
    finish(subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True))
    assert_same_run(runs / "stopped", one_worker)


def test_a_time_limit_leaves_a_checkpoint_and_the_command_that_goes_on(
    runs: Path, photographs: Path
) -> None:
    output = train(runs, photographs, "limited", "--num-workers", "1", "--max-minutes", "0.01")
    (line,) = [line for line in output.splitlines() if "to resume:" in line]
    assert line.startswith("stopped after 0.01 minutes; to resume: python ")
    assert "--max-minutes 0.01" in line
    assert "--name limited" in line
    (checkpoint, *_) = sorted((runs / "limited" / "checkpoints").iterdir(), reverse=True)
    assert 0 < int(checkpoint.name.removeprefix("step-")) < 30
    assert not (runs / "limited" / "results.json").exists()


def test_a_loss_that_is_no_number(runs: Path, photographs: Path) -> None:
    output = train(runs, photographs, "wild", "--lr", "1e30", "--num-workers", "1", code=1)
    assert "with learning rate 1e+30" in output
    assert "Traceback" not in output


def test_evaluating_a_model(one_worker: Path, photographs: Path, tmp_path: Path) -> None:
    model = one_worker / "model.safetensors"
    words = ["--model", model, "--sigma", "15", "25"]
    output = finish(
        job("evaluate", *words, "--data", photographs / "test", "--out", tmp_path / "r.json")
    )
    rows = json.loads((tmp_path / "r.json").read_text())["results"]
    assert [row["sigma"] for row in rows] == [15, 25]
    (trained,) = json.loads((one_worker / "results.json").read_text())["results"]
    for key in ("psnr_noisy", "psnr", "ssim_noisy", "ssim"):
        assert rows[1][key] == pytest.approx(trained[key], rel=1e-6)
    assert f"{rows[0]['psnr']:.2f}" in output
    words += ["--compare", "--summary"]
    finish(job("evaluate", *words, "--data", photographs / "test", "--out", tmp_path / "c.json"))
    compared = json.loads((tmp_path / "c.json").read_text())["results"]
    assert [row["method"] for row in compared][:4] == ["dae", "nl-means", "wavelet", "tv"]
    assert compared[0]["psnr"] == pytest.approx(rows[0]["psnr"], rel=1e-6)
    assert all(row["psnr"] > row["psnr_noisy"] and row["seconds"] > 0 for row in compared[1:4])

    copy = tmp_path / "renamed"  # the same pixels in another format, under another name
    copy.mkdir()
    with Image.open(photographs / "train" / "002.png") as image:
        image.save(copy / "new.bmp")
    output = finish(job("evaluate", *words, "--data", copy), 2)
    assert "trained on 1 of these 1 images, such as new.bmp" in output
    finish(job("evaluate", *words, "--data", copy, "--force", "--out", tmp_path / "f.json"))
    assert "trained on" in json.loads((tmp_path / "f.json").read_text())["results"][0]["remark"]


def test_denoising_a_folder(one_worker: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    rgb, grey = draw(0, 40, 50), draw(1, 33, 17)[..., 0]
    Image.fromarray(rgb).save(source / "rgb.png")
    Image.fromarray(grey).save(source / "deep" / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(source / "sixteen.png")
    rgba = Image.fromarray(rgb)
    rgba.putalpha(Image.fromarray(draw(2, 40, 50)[..., 0]))
    rgba.save(source / "alpha.png")
    Image.fromarray(rgb[:1, :1]).save(source / "one.png")
    (source / "text.jpg").write_text("not a picture")

    model = one_worker / "model.safetensors"
    output = finish(job("denoise", "--model", model, source, "--out", tmp_path / "out"), 1)
    assert "5 of 6 pictures" in output
    assert "text.jpg" in output
    for name in ("rgb.png", "deep/grey.png", "sixteen.png", "alpha.png", "one.png"):
        with Image.open(source / name) as before, Image.open(tmp_path / "out" / name) as after:
            assert (before.mode, before.size) == (after.mode, after.size)
            assert before.tobytes() != after.tobytes()
            if before.mode == "RGBA":
                assert before.getchannel("A").tobytes() == after.getchannel("A").tobytes()
    assert not (tmp_path / "out" / "text.jpg").exists()


def test_a_recipe_and_fine_tuning_through_the_jobs(
    runs: Path, photographs: Path, tmp_path: Path
) -> None:
    small = [
        "--config",
        "unet",
        "--model.options.width",
        "4",
        "--model.options.levels",
        "2",
        "--num-workers",
        "2",
    ]
    train(runs, photographs, "unet", *small, "--threads", "1", "--optim.clip", "1")
    config = json.loads((runs / "unet" / "config.json").read_text())
    assert config["noise"]["options"] == {"sigma": "0:55"}
    assert [line["epoch"] for line in history(runs / "unet")] == [1, 2, 3]
    results = json.loads((runs / "unet" / "results.json").read_text())["results"]
    assert [row["sigma"] for row in results] == [15, 25, 50]
    model = runs / "unet" / "model.safetensors"
    source = photographs / "test"
    finish(job("denoise", "--model", model, source, "--out", tmp_path, "--ensemble"))
    assert len(list(tmp_path.glob("*.png"))) == 1

    train(runs, photographs, "tuned", "--init", str(model), "--lr", "1e-5", "--sigma", "0:55")
    untrained, tuned = (history(runs / name)[0]["loss"] for name in ("unet", "tuned"))
    assert tuned < untrained


def test_a_demonstration(one_worker: Path, tmp_path: Path) -> None:
    Image.fromarray(draw(0, 40, 50)).save(tmp_path / "a.png")
    words = ["--model", one_worker / "model.safetensors", tmp_path / "a.png"]
    finish(job("denoise", *words, "--out", tmp_path / "out", "--add-noise", "25"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.png.panel.png"}


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("train", ["--data", "{here}/none"], "is not a folder"),
        ("train", ["--data", "{here}/[/2024]"], "{here}/[/2024] is not a folder"),
        ("train", ["--data", "{here}"], "has no images"),
        ("train", ["--data", "{data}", "--sigma", "-1"], "cannot be -1"),
        ("train", ["--data", "{data}", "--sigma", "50:5"], "write 5:50"),
        ("train", ["--data", "{data}", "--num-workers", "0"], "at least one worker"),
        ("train", ["--data", "{data}", "--num-workers", "9"], "8 workers at most"),
        ("train", ["--data", "{data}", "--use-gpu", "yes"], "no GPU"),
        ("train", ["--data", "{data}", "--batch-size", "30"], "multiple of"),
        ("train", ["--data", "{data}", "--batch-size", "1024"], "patches of an epoch"),
        ("train", ["--data", "{data}", "--data.patch-size", "96"], "smaller than a patch"),
        ("train", ["--data", "{data}", "--name", "../x"], "--name"),
        ("train", ["--data", "{data}", "--storage", "/proc/none"], "choose another --storage"),
        ("train", ["--data", "{data}", "--config", "{here}/none.json"], "no such file"),
        ("train", ["--data", "{data}", "--lrr", "1"], "--lr"),
        ("train", ["--data", "{data}", "--init", "{here}/none"], "cannot be read"),
        (
            "train",
            ["--data", "{data}", "--model", "unet", "--model.options.levels", "9"],
            "from 1 to 5",
        ),
        ("train", ["--data", "{data}", "--model", "dae", "--init", "gaussian"], "holds a unet"),
        ("train", ["--data", "{data}", "--data.patch-size", "40"], "must be a multiple of 16"),
        ("evaluate", ["--model", "{data}/train/002.png", "--data", "{data}"], "not a model"),
        ("evaluate", ["--model", "{here}/none", "--data", "{data}"], "cannot be read"),
        ("evaluate", ["--data", "{data}", "--out", "x.txt"], ".json or .csv"),
        ("evaluate", ["--data", "{data}", "--sigma", "5:55"], "not the range"),
        ("evaluate", ["--data", "{data}", "--sigma"], "at least one level"),
        ("train", ["--data", "{data}", "--lr", "much"], "could not convert"),
        ("train", ["--data", "{data}", "--checkpoint-minutes", "nan"], "must be 0 or more"),
        ("train", ["--data", "{data}", "--max-minutes", "0"], "--max-minutes must be more than 0"),
        ("train", ["--data", "{data}", "--max-minutes", "nan"], "--max-minutes must be more than"),
        ("benchmark", ["feed", "--out", "/proc/none/b.json"], "cannot be written"),
        ("denoise", ["{data}", "--out", "s3://b/out"], "a folder of this machine"),
        ("denoise", ["{here}/none.png", "--out", "{here}/out", "--model", "m"], "does not exist"),
        ("denoise", ["{data}", "--out", "/proc/none", "--model", "m"], "cannot be written"),
        ("denoise", ["{data}/test", "--out", "{data}/test", "--model", "m"], "overwritten"),
        ("denoise", ["{data}", "--out", "{here}/out", "--model", "{here}/m"], "cannot be read"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    name: str, words: list[str], says: str, photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    places = {"here": str(tmp_path / "here"), "data": str(photographs)}
    arguments = [word.format(**places) for word in words]
    if name == "train" and "--storage" not in arguments:
        arguments += ["--storage", str(tmp_path / "runs")]
    output = finish(job(name, *arguments, PYTHONWARNINGS="ignore"), 2)
    assert says.format(**places) in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1, output
    assert not list((tmp_path / "here").glob("*.png"))
    assert not list(tmp_path.glob("runs/*")), "nothing is left of a run that did not begin"
