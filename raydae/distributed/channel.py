"""What the first worker of a run and its driver tell each other, through an actor of their own."""

import ray

from raydae.training.status import Outcome, Status

MOST_STARTS = 4  # of the workers: three restarts without a new checkpoint


@ray.remote(num_cpus=0)
class Channel:
    """Holds the latest word of either side. Light: it imports neither torch nor Ray Train."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._outcome: Outcome | None = None
        self._stop = False
        self._workers: list[str] = []
        self._complaints: dict[int, str] = {}
        self._incidents: list[str] = []
        self._saved, self._starts, self._failures = -1, 0, 0

    def begin(self, workers: list[str]) -> Outcome | None:
        """The workers start, in order of rank; an outcome where they have died too often."""
        grown = 0 < len(self._workers) < len(workers) and not self._complaints
        self._starts, self._failures = self._starts + (not grown), 0
        if self._workers:
            self._incidents.append(self._incident(len(workers)))
        self._workers, self._complaints = workers, {}
        if self._starts <= MOST_STARTS:
            return None
        return Outcome(
            "failed",
            f"the workers died {MOST_STARTS} times without a new checkpoint; the last time: "
            f"{self._incidents[-1]}",
        )

    def fail(self, problem: str) -> bool:
        """The workers ended, or could not start; whether to give up, as they never start."""
        self._failures += 1
        if self._failures < MOST_STARTS:
            return False
        reason = self.last_words() or problem
        self._outcome = Outcome(
            "failed",
            f"the workers could not be started {MOST_STARTS} times; the last time: {reason}",
        )
        return True

    def _incident(self, now: int) -> str:
        """What ended the workers before these: those who lost a peer can say so, the peer not."""
        before = len(self._workers)
        if now != before and not self._complaints:
            return f"{now} {'worker' if now == 1 else 'workers'} instead of {before}"
        silent = [
            f"worker {rank} on {place}"
            for rank, place in enumerate(self._workers)
            if rank not in self._complaints
        ]
        said = [f"worker {rank}: {words}" for rank, words in self._complaints.items()]
        if not silent:
            return said[0]
        lost = f"{', '.join(silent)} died or hung without a word (killed, or out of memory)"
        return "; ".join([lost, *said[:1]])

    def tell(self, status: Status) -> bool:
        """Where the run is; returns whether it should stop."""
        self._status = status
        if status.saved > self._saved:
            self._saved, self._starts = status.saved, min(self._starts, 1)
        return self._stop

    def complain(self, rank: int, problem: str) -> None:
        """What a worker is about to die of."""
        self._complaints.setdefault(rank, problem)

    def end(self, outcome: Outcome) -> None:
        """How the run ended."""
        self._outcome = outcome

    def look(self) -> tuple[Status | None, Outcome | None, list[str]]:
        """For the driver: the latest status, the outcome once there is one, what went wrong."""
        return self._status, self._outcome, self._incidents

    def last_words(self) -> str:
        """What the workers said that are there no more; empty: nothing."""
        return "; ".join(f"worker {rank}: {words}" for rank, words in self._complaints.items())

    def stop(self) -> None:
        """Asks the run to write a checkpoint and stop."""
        self._stop = True
