"""A limit of what threads do at a time, to limit memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """An amount of which threads take parts; whoever finds too little left waits.

    Attributes:
        limit: the amount.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Take an amount for the body. One that exceeds the limit is taken when nothing else is."""
        amount = min(amount, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + amount <= self.limit)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()
