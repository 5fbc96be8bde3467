"""When the workers synchronise, and what they agree on.

Between two synchronisations nothing makes the workers wait for each other but the gradients. At
one, a single all-reduce carries rank 0's decisions and every worker's part of the losses.
"""

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from raydae.training.context import Context
from raydae.training.status import Status

SYNC_SECONDS = 0.5  # between two synchronisations; a stop waits no longer than that
MAX_STEPS = 64  # between two synchronisations
POLL_SECONDS = 5.0  # between two questions whether a machine is about to be taken away
PREEMPTED_SECONDS = 15.0  # between two checkpoints after such a notice


@dataclass(frozen=True)
class Decision:
    """What rank 0 decides for all workers."""

    stop: bool = False
    """End the run after a checkpoint."""
    save: bool = False
    """Write a checkpoint."""
    poll: bool = False
    """Ask whether a machine is about to be taken away."""
    steps: int = 0
    """Steps until the next synchronisation."""


class SyncControl:
    """Decides when to synchronise, stop and save, the same on all workers."""

    def __init__(self, context: Context, checkpoint_s: float, step: int) -> None:
        """Plan the first synchronisation: after one step, which shows how long steps take.

        Args:
            context: this worker's place.
            checkpoint_s: the longest time between two checkpoints, seconds.
            step: steps done.
        """
        self.context = context
        self._checkpoint_s = checkpoint_s
        self._next_step = step + 1
        self._synced_at = self._saved_at = self._polled_at = time.monotonic()
        self._preempted = False

    def due(self, step: int) -> bool:
        """Return whether to synchronise after a step.

        A single worker checks the clock; several must agree on a step.
        """
        if self.context.workers == 1:
            return time.monotonic() >= self._synced_at + SYNC_SECONDS
        return step >= self._next_step

    def agree(self, status: Status, losses: list[Tensor]) -> tuple[Decision, list[float]]:
        """Return rank 0's decision, and the losses since the last synchronisation.

        Args:
            status: how far the run is.
            losses: this worker's part of the loss of each step, tensors of no dimensions.
        """
        decision = Decision()
        if self.context.rank == 0:
            decision = self._decide(status, len(losses))
        parts = torch.stack(losses).double()
        numbers = [float(number) for number in dataclasses.astuple(decision)]
        head = torch.tensor(numbers, dtype=torch.float64, device=parts.device)
        # The other ranks add zeros to rank 0's decision.
        total = self.context.total(torch.cat([head, parts])).tolist()
        stop, save, poll, steps = total[: len(numbers)]
        if poll:
            before, self._preempted = self._preempted, self.context.preempted()
            save = save or (self._preempted and not before)
        decision = Decision(bool(stop), bool(save), bool(poll), int(steps))
        return decision, total[len(numbers) :]

    def _decide(self, status: Status, steps_done: int) -> Decision:
        now = time.monotonic()
        poll = now - self._polled_at > POLL_SECONDS
        if poll:
            self._polled_at = now
        due = PREEMPTED_SECONDS if self._preempted else self._checkpoint_s
        steps = int(SYNC_SECONDS * steps_done / (now - self._synced_at))
        return Decision(
            stop=self.context.tell(status),
            save=now - self._saved_at > due,
            poll=poll,
            steps=min(max(steps, 1), MAX_STEPS),
        )

    def saved(self) -> None:
        """Note that a checkpoint was written."""
        self._saved_at = time.monotonic()

    def resume(self, step: int, decision: Decision) -> None:
        """Plan the next synchronisation; call it before training continues."""
        self._synced_at, self._next_step = time.monotonic(), step + decision.steps
