"""What the first worker of a run and its driver tell each other, through an actor of their own."""

import ray

from raydae.runs import Outcome, Status

MOST_STARTS = 4  # of the workers: three restarts without a new checkpoint


@ray.remote(num_cpus=0)
class Channel:
    """Holds the latest word of either side. Light: it imports neither torch nor Ray Train."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._outcome: Outcome | None = None
        self._stop = False
        self._problem = ""
        self._saved, self._starts = -1, 0

    def begin(self) -> Outcome | None:
        """The workers start; an outcome where they have done so too often."""
        self._starts += 1
        problem, self._problem = self._problem, ""
        if self._starts <= MOST_STARTS:
            return None
        return Outcome(
            "failed",
            f"the workers died {MOST_STARTS} times without a new checkpoint; the last time: "
            f"{problem or 'without a word (killed, or out of memory)'}",
        )

    def tell(self, status: Status) -> bool:
        """Where the run is; returns whether it should stop."""
        self._status = status
        if status.saved > self._saved:
            self._saved, self._starts = status.saved, min(self._starts, 1)
        return self._stop

    def complain(self, problem: str) -> None:
        """What a worker is about to die of; the first to say so knows, the others lost a peer."""
        self._problem = self._problem or problem

    def end(self, outcome: Outcome) -> None:
        """How the run ended."""
        self._outcome = outcome

    def look(self) -> tuple[Status | None, Outcome | None, str]:
        """For the driver: the latest status, the outcome once there is one, the last problem."""
        return self._status, self._outcome, self._problem

    def stop(self) -> None:
        """Asks the run to write a checkpoint and stop."""
        self._stop = True
