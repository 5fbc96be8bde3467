"""The actor through which the workers of a run and its driver communicate."""

import ray

from raydae.training.status import Outcome, Status

MAX_STARTS = 4  # of the workers without a new checkpoint: the first and three restarts


@ray.remote(num_cpus=0)
class Channel:
    """Hold the latest status, outcome and errors. It imports neither torch nor Ray Train."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._outcome: Outcome | None = None
        self._stop = False
        self._workers: list[str] = []
        self._errors: dict[int, str] = {}
        self._incidents: list[str] = []
        self._saved, self._starts, self._failures = -1, 0, 0

    def begin(self, workers: list[str]) -> Outcome | None:
        """Note that the workers start.

        Args:
            workers: host and process of each worker, in order of rank.

        Returns:
            An outcome if they have died too often and must not start again.
        """
        grown = 0 < len(self._workers) < len(workers) and not self._errors
        self._starts, self._failures = self._starts + (not grown), 0
        if self._workers:
            self._incidents.append(self._describe_incident(len(workers)))
        self._workers, self._errors = workers, {}
        if self._starts <= MAX_STARTS:
            return None
        return Outcome(
            "failed",
            f"the workers died {MAX_STARTS} times without a new checkpoint; the last time: "
            f"{self._incidents[-1]}",
        )

    def fail(self, problem: str) -> bool:
        """Note that the workers ended or could not start; return whether to give up."""
        self._failures += 1
        if self._failures < MAX_STARTS:
            return False
        reason = self.errors() or problem
        self._outcome = Outcome(
            "failed",
            f"the workers could not be started {MAX_STARTS} times; the last time: {reason}",
        )
        return True

    def _describe_incident(self, now: int) -> str:
        """Say what ended the previous workers; a lost worker is known by its silence."""
        before = len(self._workers)
        if now != before and not self._errors:
            return f"{now} {'worker' if now == 1 else 'workers'} instead of {before}"
        silent = [
            f"worker {rank} on {place}"
            for rank, place in enumerate(self._workers)
            if rank not in self._errors
        ]
        said = [f"worker {rank}: {error}" for rank, error in self._errors.items()]
        if not silent:
            return said[0]
        lost = f"{', '.join(silent)} died or hung without an error (killed, or out of memory)"
        return "; ".join([lost, *said[:1]])

    def report(self, status: Status) -> bool:
        """Note how far the run is; return whether it should stop."""
        self._status = status
        if status.saved > self._saved:
            self._saved, self._starts = status.saved, min(self._starts, 1)
        return self._stop

    def report_error(self, rank: int, error: str) -> None:
        """Note the error that ends a worker; the first one of each worker counts."""
        self._errors.setdefault(rank, error)

    def finish(self, outcome: Outcome) -> None:
        """Note how the run ended."""
        self._outcome = outcome

    def read(self) -> tuple[Status | None, Outcome | None, list[str]]:
        """Return the latest status, the outcome if there is one, and all incidents."""
        return self._status, self._outcome, self._incidents

    def errors(self) -> str:
        """Return the errors of the current workers in one line; empty if there are none."""
        return "; ".join(f"worker {rank}: {error}" for rank, error in self._errors.items())

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and stop."""
        self._stop = True
