"""A process that does one piece of work for the driver, which stays small and outlives it."""

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray

from raydae.core.errors import UserError

R = TypeVar("R")
Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""
LOOK_S = 0.2  # between two looks at the progress


@ray.remote(num_cpus=0, max_concurrency=2, max_restarts=3, max_task_retries=3)
class _HelperActor(Generic[R]):
    """Prepares itself, then does the work; the second thread tells how far it is."""

    def __init__(self, prepare: Callable[[], Callable[..., R]], address: str | None) -> None:
        if address is not None:
            os.environ["RAY_ADDRESS"] = address  # `resources.in_cluster` reads it
        self.work, self.done = prepare(), (0, 0)

    def do(self, *args: Any) -> R:
        return self.work(*args, self._note)

    def progress(self) -> tuple[int, int]:
        return self.done

    def _note(self, done: int, total: int) -> None:
        self.done = done, total


class Helper(Generic[R]):
    """A process of Ray, which must be running. It reserves no CPU, and sees the node's GPUs."""

    def __init__(self, what: str, prepare: Callable[[], Callable[..., R]]) -> None:
        """Start the process, and return at once.

        Args:
            what: what it does, for messages.
            prepare: called in the process; imports what the work needs, and returns the function
                that does it, whose last argument is a `Progress`.
        """
        self._what = what
        actor_class: Any = _HelperActor  # `ray.remote` has added `remote`
        self._actor = actor_class.remote(prepare, os.environ.get("RAY_ADDRESS"))

    def do(self, *args: Any, progress: Progress) -> R:
        """Do the work, and wait for it.

        Args:
            args: what the function is called with.
            progress: called in this thread.

        Raises:
            UserError: the work raises it, or has killed its process four times.
        """
        result = self._actor.do.remote(*args)
        seen = (0, 0)
        try:
            while not ray.wait([result], timeout=LOOK_S)[0]:
                now = ray.get(self._actor.progress.remote())
                if now != seen:
                    seen = now
                    progress(*now)
            done: R = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise
            raise UserError(
                f"the process of the {self._what} was killed four times (is its memory enough?); "
                "run the same command again"
            ) from None
        return done

    def stop(self) -> None:
        """End the process, whatever it does."""
        ray.kill(self._actor)
