import json
import sys
from pathlib import Path

import numpy as np
import pytest

from raydae import benchmark, opponents
from raydae.benchmark import Bench, Report, _cases
from raydae.config import Config, check_workers
from raydae.images import ImageSets


def test_a_report_keeps_medians_and_spread() -> None:
    report = Report()
    assert report.add("train", "dae, plain", "patches/s", [3.0, 1.0, 2.0]) == 2
    (row,) = report.rows
    assert (row["median"], row["least"], row["most"]) == (2, 1, 3)


def test_the_plain_script_trains_on_the_noise_that_is_asked_for(
    config: Config, sets: ImageSets
) -> None:
    patches = opponents.Patches(sets.train, config)
    pairs = [patches[index] for index in range(len(patches))]
    noise = np.concatenate([(noisy - clean).numpy().ravel() for noisy, clean in pairs])
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    assert abs(noise.mean()) * 255 < 1
    assert {tuple(clean.shape) for _, clean in pairs} == {(3, 16, 16)}
    assert all(clean.min() >= 0 and clean.max() <= 1 for _, clean in pairs)


@pytest.mark.parametrize("name", ["limit", "plain", "tricks"])
def test_each_side_trains_and_says_how_fast(
    name: str,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.override({"optim.epochs": 9999}).to_dict()))
    monkeypatch.setattr(sys, "argv", ["opponents", name, "0.5", str(file)])
    opponents.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["last"] > answer["first"]
    assert answer["patches_per_s"] > 0


@pytest.mark.parametrize("number", [1, 2, 16, 64])
def test_every_case_of_scaling_can_be_trained(number: int) -> None:
    for workers, batch in _cases(number):
        check_workers((workers, workers), Config().override({"optim.batch_size": batch}))
        assert batch // workers % Config().optim.micro_batch == 0
    assert (2, 32) in _cases(number)


def test_denoising_is_measured_in_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SIZES", ((64, 96),))
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    bench = Bench(tmp_path, lambda line: None)
    bench.denoise()
    assert [row["what"].split(", ")[1] for row in bench.report.rows[:3]] == [
        "tiled",
        "whole",
        "bare",
    ]
    assert bench.report.ratios["denoise/bare"] > 0


def test_workers_exchange_gradients_and_compute_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SECONDS", 1.0)
    bench = Bench(tmp_path, lambda line: None)
    assert bench._exchange(1) == 0
    assert bench._exchange(2) > 0
    assert bench._side_by_side(2, 16) > 0
