"""A process that does one piece of work for the driver.

The driver then needs neither the imports nor the memory of that work, and lives on if it fails.
"""

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import UserError

R = TypeVar("R")
Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""
LOOK_S = 0.2  # between two looks at the progress
MAX_STARTS = 4  # of the process: the first, and another one after each of three deaths


@ray.remote(num_cpus=0, max_concurrency=2)
class _HelperActor(Generic[R]):
    """Prepares itself, then does the work in one thread; another one tells how far it is."""

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
    """A process of Ray on the driver's node. It reserves no CPU, and sees the node's GPUs."""

    def __init__(self, what: str, prepare: Callable[[], Callable[..., R]]) -> None:
        """Start the process, and return at once. Ray must be running.

        Args:
            what: what it does, for messages.
            prepare: called in the process; imports what the work needs, and returns the function
                that does it, whose last argument is a `Progress`.
        """
        self._what, self._prepare = what, prepare
        self._start()

    def _start(self) -> None:
        actor_class: Any = _HelperActor  # `ray.remote` has added `options`
        # Elsewhere it would keep a node of an autoscaling cluster from being given back.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = actor_class.options(scheduling_strategy=here)
        self._actor = actor.remote(self._prepare, os.environ.get("RAY_ADDRESS"))

    def do(self, *args: Any, progress: Progress) -> R:
        """Do the work, and wait for it; begin it again in another process if this one dies.

        Args:
            args: what the function is called with.
            progress: called in this thread.

        Raises:
            UserError: the work raises it, or the process has died four times.
        """
        for deaths in range(MAX_STARTS):
            if deaths:
                self._start()
            try:
                return self._do(args, progress)
            # Ray could start it again by itself, but would say so also after `stop`.
            except ray.exceptions.RayActorError as error:
                if error.actor_init_failed:
                    raise
        raise UserError(
            f"the process of the {self._what} was killed {MAX_STARTS} times (is its memory "
            "enough?); run the same command again"
        )

    def _do(self, args: tuple[Any, ...], progress: Progress) -> R:
        """Do the work in the present process.

        Raises:
            UserError: the work raises it.
            RayActorError: the process has died, or could not be prepared.
        """
        result = self._actor.do.remote(*args)
        seen = (0, 0)
        while not ray.wait([result], timeout=LOOK_S)[0]:
            now = ray.get(self._actor.progress.remote())
            if now != seen:
                seen = now
                progress(*now)
        try:
            done: R = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        return done

    def stop(self) -> None:
        """End the process, whatever it does."""
        ray.kill(self._actor)
