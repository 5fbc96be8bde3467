"""The same work on many items, spread over Ray's workers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Generic, TypeVar

import ray

from raydae.distributed.cluster import cores

T = TypeVar("T")
R = TypeVar("R")


@ray.remote(max_restarts=3, max_task_retries=3)
class _WorkerActor(Generic[T, R]):
    """A process that prepares itself once and then works on one item after another."""

    def __init__(self, prepare: Callable[[], Callable[[T], R]]) -> None:
        self.work = prepare()

    def do(self, item: T) -> R:
        return self.work(item)


def spread(
    prepare: Callable[[], Callable[[T], R]], items: Sequence[T], here: bool = False
) -> Iterator[tuple[int, R | Exception]]:
    """Work on every item in Ray's actors: one on each GPU where there are any, else one a core.

    Ray must run, unless it is done here.

    Args:
        prepare: called once in each process; returns what is done with an item.
        items: what to work on.
        here: in threads of this process instead, one a core: they are there at once, but nothing
            outlives an item that kills them.

    Yields:
        (number of the item, result) as they are done; the error in place of the result where
        working on the item raised, or killed its process, not this one, four times.
    """
    if here:
        yield from _spread_here(prepare(), items)
        return
    on_gpus = bool(_gpus())
    needs = {"num_gpus": 1, "num_cpus": 1} if on_gpus else {"num_cpus": 1}
    actor_class: Any = _WorkerActor  # Ray has made more of it than a class
    actors: list[Any] = []
    waiting = deque(enumerate(items))
    busy: dict[Any, tuple[int, Any]] = {}

    def give(actor: Any) -> None:
        if waiting:
            position, item = waiting.popleft()
            busy[actor.do.remote(item)] = position, actor

    def take_in() -> None:
        """As many as there is room for, now and as a cluster grows."""
        while waiting and len(actors) < (_gpus() if on_gpus else cores()):
            actors.append(actor_class.options(**needs).remote(prepare))
            give(actors[-1])

    try:
        take_in()
        while busy:
            (done, *_), _ = ray.wait(list(busy))
            position, actor = busy.pop(done)
            result: R | Exception
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                result = error
            if isinstance(result, ray.exceptions.RayActorError):  # this actor is dead
                actors.remove(actor)
                actor = actor_class.options(**needs).remote(prepare)
                actors.append(actor)
            give(actor)
            take_in()
            yield position, result
    finally:
        for actor in actors:
            ray.kill(actor)


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _spread_here(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | Exception]]:
    pool = ThreadPoolExecutor(cores())
    try:
        numbers = {pool.submit(work, item): number for number, item in enumerate(items)}
        for future in as_completed(numbers):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield numbers[future], error or future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # what is not begun is left when it is interrupted
