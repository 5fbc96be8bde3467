import os
from collections.abc import Callable

import pytest
import ray

from raydae.distributed.spread import spread

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_an_item_that_raises_or_kills_its_process_costs_no_other() -> None:
    def prepare() -> Callable[[int], int]:
        def work(item: int) -> int:
            if item == 3:
                os._exit(1)
            return 100 // item

        return work

    items = [1, 0, 3, *range(4, 12)]
    results = dict(spread(prepare, items))
    assert sorted(results) == list(range(len(items)))
    assert isinstance(results[1], ray.exceptions.RayTaskError)
    assert isinstance(results[2], ray.exceptions.RayActorError)
    for position, item in enumerate(items):
        if item not in (0, 3):
            assert results[position] == 100 // item


def test_no_items() -> None:
    def prepare() -> Callable[[int], int]:
        return abs

    assert list(spread(prepare, [])) == []
