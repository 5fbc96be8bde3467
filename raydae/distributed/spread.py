"""Apply a function to many items on Ray's actors.

`ray.util.ActorPool` does not fit: it neither says which item an error belongs to nor replaces an
actor that has died.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Generic, TypeVar

import ray

from raydae.distributed.resources import cores

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
    """Work on every item, in one actor for each GPU, or for each core if there is no GPU.

    Ray must be running, unless `here` is set.

    Args:
        prepare: called once in each process; returns the function to apply.
        items: the items to work on.
        here: use threads of this process instead, one for each core. They start at once, but an
            item that kills its process ends this one.

    Yields:
        (number of the item, result) as items are done. In place of the result, the error if the
        function raised it, or if the item has killed its process four times.
    """
    if here:
        yield from _spread_over_threads(prepare(), items)
        return
    on_gpus = bool(_gpus())
    needs = {"num_gpus": 1, "num_cpus": 1} if on_gpus else {"num_cpus": 1}
    actor_class: Any = _WorkerActor  # `ray.remote` has added `options`
    actors: list[Any] = []
    waiting = deque(enumerate(items))
    busy: dict[Any, tuple[int, Any]] = {}

    def give_item(actor: Any) -> None:
        if waiting:
            position, item = waiting.popleft()
            busy[actor.do.remote(item)] = position, actor

    try:
        while busy or waiting:
            # In each round, because an actor may have died and a cluster may have grown.
            while waiting and len(actors) < max(_gpus() if on_gpus else cores(), 1):
                actors.append(actor_class.options(**needs).remote(prepare))
                give_item(actors[-1])
            (done, *_), _ = ray.wait(list(busy))
            position, actor = busy.pop(done)
            result: R | Exception
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                result = error
            if isinstance(result, ray.exceptions.RayActorError):
                actors.remove(actor)  # it is dead
            else:
                give_item(actor)
            yield position, result
    finally:
        for actor in actors:
            ray.kill(actor)


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _spread_over_threads(
    work: Callable[[T], R], items: Sequence[T]
) -> Iterator[tuple[int, R | Exception]]:
    pool = ThreadPoolExecutor(cores())
    try:
        positions = {pool.submit(work, item): position for position, item in enumerate(items)}
        for future in as_completed(positions):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield positions[future], error or future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt, items not yet begun are dropped
