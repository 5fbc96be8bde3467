import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raydae.benchmark import baselines, denoise, feed, flops, harness
from raydae.benchmark.harness import Bench, _cases
from raydae.benchmark.runner import Report, choose_device
from raydae.core.errors import UserError
from raydae.images.image_sets import ImageSets
from raydae.training.config import Config, check_workers


def test_a_report_keeps_medians_and_spread() -> None:
    report = Report()
    assert report.add("train", "dae, plain", "patches/s", [3.0, 1.0, 2.0]) == 2
    (row,) = report.rows
    assert (row["median"], row["least"], row["most"]) == (2, 1, 3)


def test_the_plain_script_trains_on_the_noise_that_is_asked_for(
    config: Config, sets: ImageSets
) -> None:
    patches = baselines.Patches(sets.train, config)
    pairs = [patches[index] for index in range(len(patches))]
    noise = np.concatenate([(noisy - clean).numpy().ravel() for noisy, clean in pairs])
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    assert abs(noise.mean()) * 255 < 1
    assert {tuple(clean.shape) for _, clean in pairs} == {(3, 16, 16)}
    assert all(clean.min() >= 0 and clean.max() <= 1 for _, clean in pairs)


@pytest.mark.parametrize("name", ["limit", "plain", "tricks"])
def test_each_side_trains_at_each_batch_size_and_says_how_fast(
    name: str,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.override({"optim.epochs": 9999}).to_dict()))
    words = ["opponents", name, "0.5", str(file), "cpu", "2", "4", "8"]
    monkeypatch.setattr(sys, "argv", words)
    baselines.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["batch"] for answer in answers] == [4, 8]
    for answer in answers:
        assert answer["last"] >= answer["first"] + 0.5
        assert answer["first_step_s"] > 0
        assert answer["patches_per_s"] > 0


def test_a_rate_counts_the_steps_between_marks_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "time", lambda: now)
    marks = baselines.Marks(torch.device("cpu"), seconds=5, warmup_steps=3)
    for steps in range(1, 100):  # the first takes 10 s, each other one 0.5
        now = 10 + 0.5 * (steps - 1)
        if marks.add(steps):
            break
    summary = marks.summary(batch_size=32)
    assert summary["first_step_s"] == 10
    assert summary["patches_per_s"] == 64
    # More than a fifth of the seconds pass before more than 3 steps are done.
    assert summary["last"] == 10 + 0.5 * 3 + 5


def test_on_a_gpu_steps_are_marked_after_synchronizations_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, synchronized = 0.0, []
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: synchronized.append(now))
    marks = baselines.Marks(torch.device("cuda"), seconds=1, warmup_steps=0)
    for steps in range(1, 1000):
        now = steps / 100
        if marks.add(steps):
            break
    assert synchronized == pytest.approx([0.01, 0.51, 1.01, 1.51])
    assert marks.summary(batch_size=2)["patches_per_s"] == pytest.approx(200)


def test_flops_of_a_training_patch_are_those_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    first, second = 16 * 16 * 8 * 3 * 9, 16 * 16 * 8 * 3  # multiplications, forward
    # Backward: gradients of the weights and of the input, which the first layer does without.
    assert flops.training_flops(network, 16) == 2 * (2 * first + 3 * second)


def test_the_peak_is_that_of_a_matrix_product() -> None:
    began = time.monotonic()
    rate = flops.peak_flops(torch.device("cpu"), size=64)
    assert rate > 20 * 2 * 64**3 / (time.monotonic() - began)


@pytest.mark.parametrize("number", [1, 2, 16, 64])
def test_every_case_of_scaling_can_be_trained(number: int) -> None:
    for workers, batch in _cases(number):
        check_workers((workers, workers), Config().override({"optim.batch_size": batch}))
        assert batch // workers % Config().optim.micro_batch == 0
    assert (2, 32) in _cases(number)


def test_on_a_gpu_sides_are_measured_at_more_batch_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of `train`, from figures that are made up."""

    @contextmanager
    def card() -> Iterator[Callable[..., Any]]:
        yield lambda function, configs: (1e12, {"dae": 10**6, "unet": 2 * 10**6})

    def opponent(
        side: str, config: Config, seconds: float, batches: tuple[int, ...]
    ) -> list[dict[str, float]]:
        if side == "tricks":
            raise RuntimeError("no compiler")
        return [
            {"batch": batch, "patches_per_s": 1000 * batch, "first_step_s": 2} for batch in batches
        ]

    def job(network: str, rate: float, batch: int) -> dict[str, float]:
        return {"patches_per_s": rate / 2, "waited": 1, "seconds": 4}

    said: list[str] = []
    monkeypatch.setattr(harness, "_apart", card)
    bench = Bench(tmp_path, said.append, "cuda", rounds=1)
    monkeypatch.setattr(bench, "opponent", opponent)
    monkeypatch.setattr(bench, "raydae", job)
    bench.train()
    medians = {row["what"]: row["median"] for row in bench.report.rows}
    assert medians["bf16 matrix product, the peak"] == 1
    assert medians["dae, limit"] == 32_000
    assert medians["unet batch 1024, limit: MFU"] == pytest.approx(100 * 2e6 * 1_024_000 / 1e12)
    assert medians["unet batch 1024, raydae"] == 512_000
    assert medians["dae batch 256, raydae: waits for data"] == 25
    assert medians["dae batch 256, plain: until the first step is done"] == 2
    assert "dae batch 1024, plain" not in medians
    assert bench.report.ratios["train/limit-unet batch 256"] == 0.5
    assert bench.report.ratios["train/limit"] == 0.5
    assert bench.failed, "without a compiler"
    assert "train dae: tricks failed: RuntimeError: no compiler" in said


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


def test_denoising_is_measured_in_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SIZES", ((64, 96),))
    kept = []
    bench = Bench(tmp_path, lambda line: None, rounds=1, keep=lambda: kept.append(1))
    bench.denoise()
    names = [row["what"].split(", ")[1] for row in bench.report.rows[:4]]
    assert names == ["tiled", "whole", "bare", "bare bf16"]
    assert bench.report.ratios["denoise/bare"] > 0
    assert kept


@pytest.mark.parametrize("way", ["tiled bf16", "whole bf16", "bare fp16"])
def test_the_ways_of_a_gpu_denoise_on_the_cpu_too(way: str) -> None:
    speed = denoise.measure(way, 64, 96, "cpu")
    assert speed.way == way
    assert speed.megapixels_per_s > 0


def test_onnx_is_measured_where_it_is_installed() -> None:
    if denoise.missing():
        pytest.skip("needs onnx, onnxruntime and onnxscript")
    speed = denoise.measure("onnx", 64, 96, "cpu")
    assert speed.way == "onnx (CPUExecutionProvider)"
    assert speed.memory_mib is None


@pytest.mark.parametrize("side", ["bare", "dataloader", "ray", "ray, device noise"])
def test_each_side_of_the_feed_brings_samples(side: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda line: None)
    with harness._apart() as apart:
        assert apart(feed.MEASURES[side], bench.config("unet"), 0.5, 2) > 0


def test_the_job_is_measured_in_its_second_epoch_and_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda line: None, seconds=1)
    run = bench.raydae("dae", rate=64)
    assert 0 <= run["waited"] < run["seconds"]
    assert run["patches_per_s"] > 0
    (folder,) = (tmp_path / "runs").glob("run*")
    assert not (folder / "results.json").exists(), "it was not tested"


def test_workers_exchange_gradients_and_compute_side_by_side(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda line: None, seconds=1)
    assert bench._exchange(1) == 0
    assert bench._exchange(2) > 0
    assert bench._side_by_side(2, 16) > 0
