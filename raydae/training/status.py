"""How far a run is, and how it ended, as told to whoever started it."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Ray retries a worker that raises, so what a retry cannot heal is an outcome, not an error.
    """

    status: Literal["finished", "stopped", "diverged", "failed"]
    message: str = ""
    advice: str = ""
    """What the user could do, if this is the only run."""


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    epoch: int
    """The current epoch, from 1."""
    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""
    saved: int
    """The step of the latest checkpoint."""
    loss: float | None
    """Mean over the epoch so far."""
    patches_per_s: float | None
    history: list[dict[str, Any]]
    """A record for each finished epoch."""
