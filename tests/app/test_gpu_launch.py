"""The jobs on a GPU as a user runs them; about three minutes on one GPU and 16 cores."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raydae.core.storage import Folder
from raydae.distributed.resources import Workers
from raydae.distributed.trainer import train_on_ray
from raydae.images.image_sets import ImageSets
from raydae.models.model_file import load_model
from raydae.training.config import Config
from raydae.training.run_folder import open_run
from raydae.training.status import Outcome
from tests.app.test_jobs import (
    SETTINGS,
    assert_same_run,
    finish,
    history,
    in_mid_epoch,
    job,
    train,
    train_workers,
    wait_for,
)
from tests.conftest import draw_folder

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
AT_ONCE = 4  # commands; each starts a Ray of its own, and all use the one GPU
# The runs on the GPU: network, precision, and where the noise is made.
ON_THE_GPU = [
    ("dae", "fp32", "cpu"),
    ("dae", "bf16", "device"),
    ("unet", "bf16", "cpu"),
    ("unet", "fp32", "device"),
]
STEPS = 1500  # of an epoch that is long enough to be interrupted


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


def test_the_main_job_trains_as_on_the_cpu(photographs: Path, tmp_path: Path) -> None:
    """Steps are so small that rounding does not grow, so that the losses can be compared."""
    words = ["--num-workers", "1", "--epochs", "2", "--lr", "1e-5"]
    words += ["--optim.schedule", "constant", "--sigma", "25"]

    def run(name: str, model: str, noise: str, *more: str) -> str:
        chosen = ["--config", "unet", "--model.options.width", "8"] if model == "unet" else []
        return train(tmp_path, photographs, name, *chosen, *words, "--noise-on", noise, *more)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        on_gpu = [
            pool.submit(run, f"{model}-{precision}", model, noise, "--precision", precision)
            for model, precision, noise in ON_THE_GPU
        ]
        on_cpu = [
            pool.submit(
                run, f"{model}-cpu-{noise}", model, noise,
                *("--precision", "fp32", "--use-gpu", "no", "--threads", "2"),
            )
            for model, _, noise in ON_THE_GPU
        ]  # fmt: skip
        assert all("1 GPU worker" in job.result() for job in on_gpu)
        assert all("1 CPU worker" in job.result() for job in on_cpu)
    for model, precision, noise in ON_THE_GPU:
        name, tolerance = f"{model}-{precision}", 5e-3 if precision == "fp32" else 2e-2
        ours, theirs = history(tmp_path / name), history(tmp_path / f"{model}-cpu-{noise}")
        assert [line["step"] for line in ours] == [10, 20]
        for key in ("loss", "val_psnr"):
            values, expected = ([line[key] for line in lines] for lines in (ours, theirs))
            assert values == pytest.approx(expected, rel=tolerance), (name, key)
        _, info = load_model(str(tmp_path / name / "model.safetensors"))
        assert info.config["precision"] == precision
        (row,) = json.loads((tmp_path / name / "results.json").read_text())["results"]
        # One image, by the best weights; validation had another image.
        assert row["images"] == 1
        assert row["psnr"] > 5


def test_a_killed_worker_changes_nothing(photographs: Path, tmp_path: Path) -> None:
    words = ["--data.patches-per-image", "3000", "--epochs", "2", "--num-workers", "1"]
    words += ["--deterministic"]
    with ThreadPoolExecutor(1) as pool:
        calm = pool.submit(train, tmp_path, photographs, "calm", *words)
        arguments = ["--storage", tmp_path, "--name", "hurt", "--data", photographs, *SETTINGS]
        process = job("train", *arguments, *words, "--checkpoint-minutes", "0")
        wait_for(in_mid_epoch(tmp_path / "hurt", STEPS), "a checkpoint")
        (worker,) = train_workers(process.pid)
        worker.kill()
        wait_for(lambda: train_workers(process.pid) - {worker}, "a new worker")
        output = " ".join(finish(process).split())  # lines are broken
        assert "restarted from the last checkpoint" in output
        calm.result()
    assert [line["step"] for line in history(tmp_path / "hurt")] == [STEPS, 2 * STEPS]
    assert_same_run(tmp_path / "hurt", tmp_path / "calm")


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_that_share_the_gpu_compute_what_one_does(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({"model.name": "unet", "model.options.width": 8, "optim.lr": 1e-4})
    losses = {}
    for workers in (Workers(1, 1, 1, 1), Workers(2, 2, 0.5, 1)):
        run = open_run(Folder.of(tmp_path / f"{workers.max_workers}"), config).begin(sets)
        outcome = train_on_ray(run, workers, lambda status: None, lambda: False, 10.0)
        assert outcome == Outcome("finished")
        losses[workers.max_workers] = [
            line["loss"] for line in history(tmp_path / f"{workers.max_workers}")
        ]
    assert len(losses[1]) == 2
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)


def test_four_trials_share_the_gpu(photographs: Path, tmp_path: Path) -> None:
    words = ["--storage", tmp_path, "--name", "s", "--data", photographs, *SETTINGS]
    words += ["--num-samples", "4", "--max-epochs", "2", "--early-stopping", "none"]
    output = finish(job("tune", *words, "--gpus-per-trial", "0.25"))
    assert "4 at once, 1 worker of 0.25 GPU each" in output
    with (tmp_path / "s" / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == ["finished"] * 4
    assert [line["epochs"] for line in lines] == ["2"] * 4
