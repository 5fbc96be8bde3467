import time

import pytest
import torch

from raydae.benchmark.step_timer import StepTimer


def test_a_rate_counts_the_steps_between_marks_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "time", lambda: now)
    timer = StepTimer(torch.device("cpu"), seconds=5, warmup_steps=3)
    for steps in range(1, 100):  # the first takes 10 s, each other one 0.5
        now = 10 + 0.5 * (steps - 1)
        if timer.step_done(steps):
            break
    summary = timer.summary(batch_size=32)
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
    timer = StepTimer(torch.device("cuda"), seconds=1, warmup_steps=0)
    for steps in range(1, 1000):
        now = steps / 100
        if timer.step_done(steps):
            break
    assert synchronized == pytest.approx([0.01, 0.51, 1.01, 1.51])
    assert timer.summary(batch_size=2)["patches_per_s"] == pytest.approx(200)
