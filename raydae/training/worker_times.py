"""What a worker's time goes into: the slowest worker is the one that computes longest."""

import time
from typing import Any

import torch


class WorkerTimes:
    """Seconds that a worker waits for data, and seconds that it computes.

    The rest is waiting for the other workers' gradients. On a GPU the computing time is the GPU's;
    the CPU runs ahead of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.waiting, self.computing = 0.0, 0.0
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None

    def start(self, *_: object) -> None:
        """Begin a span of computing."""
        self._began = self._now()

    def stop(self, *_: object) -> None:
        """End the span; without one, do nothing."""
        if self._began is None:
            return
        if self.cuda:
            self._spans.append((self._began, self._now()))
        else:
            self.computing += self._now() - self._began
        self._began = None

    def settle(self) -> None:
        """Add up the GPU's spans; call it where the CPU has waited for the GPU anyway."""
        self.computing += sum(start.elapsed_time(end) / 1000 for start, end in self._spans)
        self._spans = []

    def reset(self) -> None:
        """Begin again at zero."""
        self.waiting, self.computing, self._spans = 0.0, 0.0, []

    def record(self, place: str) -> dict[str, Any]:
        """Return the times as a record for the history."""
        waiting, computing = round(self.waiting, 3), round(self.computing, 3)
        return {"place": place, "waited_for_data_s": waiting, "computed_s": computing}

    def _now(self) -> Any:
        """Return a moment on the worker's device."""
        if not self.cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event
