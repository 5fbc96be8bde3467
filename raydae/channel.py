"""What the first worker of a run and its driver tell each other, through an actor of their own."""

import ray

from raydae.runs import Outcome, Status

MOST_STARTS = 4  # of the workers from the same step: three restarts without a new checkpoint


@ray.remote(num_cpus=0)
class Channel:
    """Holds the latest word of either side. Light: it imports neither torch nor Ray Train."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._outcome: Outcome | None = None
        self._stop = False
        self._problem = ""
        self._started_at, self._starts = -1, 0

    def begin(self, step: int) -> Outcome | None:
        """The workers start from a step; an outcome where they have done so too often."""
        self._starts = self._starts + 1 if step == self._started_at else 1
        self._started_at = step
        if self._starts <= MOST_STARTS:
            return None
        return Outcome(
            "failed",
            f"the workers died {MOST_STARTS} times without coming beyond step {step}; the last "
            f"said: {self._problem or 'nothing (out of memory, or killed)'}",
        )

    def tell(self, status: Status) -> bool:
        """Where the run is; returns whether it should stop."""
        self._status = status
        return self._stop

    def complain(self, problem: str) -> None:
        """What a worker is about to die of."""
        self._problem = problem

    def end(self, outcome: Outcome) -> None:
        """How the run ended."""
        self._outcome = outcome

    def look(self) -> tuple[Status | None, Outcome | None, str]:
        """For the driver: the latest status, the outcome once there is one, the last problem."""
        return self._status, self._outcome, self._problem

    def stop(self) -> None:
        """Asks the run to write a checkpoint and stop."""
        self._stop = True
