from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raydae.benchmark import training
from raydae.benchmark.harness import Harness
from raydae.training.config import Config


def test_on_a_gpu_sides_are_measured_at_more_batch_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of `train`, from figures that are made up."""

    @contextmanager
    def card() -> Iterator[Callable[..., Any]]:
        yield lambda function, configs: (1e12, {"dae": 10**6, "unet": 2 * 10**6})

    def run_baseline(
        side: str, config: Config, seconds: float, batches: tuple[int, ...]
    ) -> list[dict[str, float]]:
        if side == "tricks":
            raise RuntimeError("no compiler")
        return [
            {"batch": batch, "patches_per_s": 1000 * batch, "first_step_s": 2} for batch in batches
        ]

    def train_steady(network: str, rate: float, batch: int) -> dict[str, float]:
        return {"patches_per_s": rate / 2, "waited": 1, "seconds": 4}

    said: list[str] = []
    monkeypatch.setattr(training, "own_process", card)
    harness = Harness(tmp_path, said.append, "cuda", rounds=1)
    monkeypatch.setattr(harness, "run_baseline", run_baseline)
    monkeypatch.setattr(harness, "train_steady", train_steady)
    training.measure(harness)
    medians = {row["what"]: row["median"] for row in harness.report.rows}
    assert medians["bf16 matrix product, the peak"] == 1
    assert medians["dae, limit"] == 32_000
    assert medians["unet batch 1024, limit: MFU"] == pytest.approx(100 * 2e6 * 1_024_000 / 1e12)
    assert medians["unet batch 1024, raydae"] == 512_000
    assert medians["dae batch 256, raydae: waits for data"] == 25
    assert medians["dae batch 256, plain: until the first step is done"] == 2
    assert "dae batch 1024, plain" not in medians
    assert harness.report.ratios["train/limit-unet batch 256"] == 0.5
    assert harness.report.ratios["train/limit"] == 0.5
    assert harness.failed, "without a compiler"
    assert "train dae: tricks failed: RuntimeError: no compiler" in said
