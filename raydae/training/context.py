"""A worker's place among the others. The training loop knows no more of its launcher."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raydae.training.status import Status


@dataclass(frozen=True)
class Context:
    """A worker's place among the others. The defaults are those of a plain process."""

    rank: int = 0
    workers: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    threads: int | None = None
    """CPU threads for torch; none: torch's default."""
    tell: Callable[[Status], bool] = lambda status: False
    """Called on rank 0 at every synchronisation and during validation; True asks for a stop."""
    preempted: Callable[[], bool] = lambda: False
    """Called on all ranks every few seconds: whether a machine is about to be taken away."""
    place: str = ""
    """The machine and process of this worker, for the history."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all workers, in place; float64, any shape."""
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's value, in order of rank."""
        if self.workers == 1:
            return [value]
        values: list[Any] = [None] * self.workers
        dist.all_gather_object(values, value)
        return values

    def broadcast_buffers(self, module: torch.nn.Module) -> None:
        """Give all workers rank 0's buffers, such as BatchNorm's running statistics."""
        if self.workers > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)
