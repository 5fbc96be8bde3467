import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydae.benchmark.harness import Harness, Report, choose_device
from raydae.core.errors import UserError


def test_a_report_keeps_medians_and_spread() -> None:
    report = Report()
    assert report.add("train", "dae, plain", "patches/s", [3.0, 1.0, 2.0]) == 2
    (row,) = report.rows
    assert (row["median"], row["min"], row["max"]) == (2, 1, 3)


def test_the_devices_that_there_are_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device("auto"), choose_device("cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="no GPU here"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device("auto"), choose_device("cpu")] == ["cuda", "cpu"]
    assert choose_device("cuda") == "cuda"


def test_a_gpu_that_is_not_there_is_refused_in_one_line() -> None:
    job = Path(__file__).parents[2] / "jobs" / "benchmark.py"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(job), "train", "--device", "cuda"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 2
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    assert "torch sees no GPU" in line


def test_the_job_is_measured_in_its_second_epoch_and_stopped(tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda line: None, seconds=1)
    run = harness.train_steady("dae", rate=64)
    assert 0 <= run["waited"] < run["seconds"]
    assert run["patches_per_s"] > 0
    (folder,) = (tmp_path / "runs").glob("run*")
    assert not (folder / "results.json").exists(), "it was not tested"
