"""The main job, a resume and a search on stock Ray, with none of raydae's patches of it."""

import json
from pathlib import Path

import pytest

from tests.app.test_jobs import SETTINGS, finish, history, in_mid_epoch, job, wait_for

STOCK = {"RAYDAE_STOCK_RAY": "1"}


def test_training_is_interrupted_and_resumed(pictures: Path, tmp_path: Path) -> None:
    words = ["--storage", tmp_path, "--name", "run", "--data", pictures, *SETTINGS]
    words += ["--num-workers", "1", "--checkpoint-minutes", "0.005", "--epochs", "2"]
    process = job("train", *words, **STOCK)
    wait_for(in_mid_epoch(tmp_path / "run"), "a checkpoint")
    process.terminate()
    finish(process, 143)
    output = finish(job("train", *words, **STOCK))
    assert "resumes after step" in output
    assert "does not fit" not in output
    assert [line["epoch"] for line in history(tmp_path / "run")] == [1, 2]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert list((tmp_path / "run" / "logs").rglob("*.log")), "no log was found"


@pytest.mark.timeout(200)
def test_a_search(pictures: Path, tmp_path: Path) -> None:
    words = ["--storage", tmp_path, "--name", "search", "--data", pictures, *SETTINGS]
    words += ["--num-samples", "2", "--max-epochs", "1", "--space", "optim.lr=1e-3,2e-3"]
    finish(job("tune", *words, **STOCK))
    assert (tmp_path / "search" / "best.json").exists()
