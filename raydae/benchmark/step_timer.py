"""The rate of training steps in steady state."""

import time

import torch

SYNC_SECONDS = 0.5  # between two synchronizations with a GPU, each of which stalls the CPU


class StepTimer:
    """Notes when steps were done, and ends when enough of them were measured.

    On the CPU the time of every step is noted. On a GPU a time is meaningful only after a
    synchronization, because the CPU only submits work; so the timer synchronizes every half second
    and notes the time then.
    """

    def __init__(self, device: torch.device, seconds: float, warmup_steps: int) -> None:
        """Start the clock.

        Args:
            device: the device of the steps.
            seconds: how long to measure, after the warm-up; 0: until two times are noted.
            warmup_steps: steps that are not measured; the warm-up also lasts at least a fifth of
                `seconds`.
        """
        self.cuda, self.seconds = device.type == "cuda", seconds
        self.warmup_steps = warmup_steps if seconds else 0
        self.began = time.time()
        self.marks: list[tuple[float, int]] = []  # (time, steps done)

    def step_done(self, steps: int) -> bool:
        """Note that so many steps are done in all; return whether the measurement is complete."""
        if self.cuda:
            if self.marks and time.time() < self.marks[-1][0] + SYNC_SECONDS:
                return False
            torch.cuda.synchronize()
        self.marks.append((time.time(), steps))
        steady = self._steady()
        return len(steady) > 1 and steady[-1][0] - steady[0][0] >= self.seconds

    def summary(self, batch_size: int) -> dict[str, float]:
        """Return the times of the first and the last step, seconds to the first, and patches/s."""
        (start, first), *_, (end, last) = self._steady()
        return {
            "first": self.marks[0][0],
            "last": end,
            "first_step_s": self.marks[0][0] - self.began,
            "patches_per_s": batch_size * (last - first) / (end - start),
        }

    def _steady(self) -> list[tuple[float, int]]:
        """Return the marks after the warm-up."""
        since = self.marks[0][0] + self.seconds / 5
        return [mark for mark in self.marks if mark[0] >= since and mark[1] > self.warmup_steps]
