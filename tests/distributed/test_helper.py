import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from raydae.core.errors import UserError
from raydae.distributed.helper import Helper, Progress

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper[int]]:
    died = tmp_path / "died"

    def prepare() -> Callable[[str, Progress], int]:
        """Return work that does as it is told."""
        process = os.getpid()

        def work(task: str, progress: Progress) -> int:
            if task == "refuse":
                raise UserError("that cannot be done")
            if task == "fail":
                raise ZeroDivisionError
            if task == "die" or (task == "die once" and not died.exists()):
                died.touch()
                os._exit(1)
            for done in range(4):
                progress(done, 3)
                time.sleep(0.3)
            if task == "wait":
                time.sleep(3600)
            return process

        return work

    helper = Helper("count", prepare)
    yield helper
    helper.stop()


def test_it_works_in_a_process_of_its_own_and_says_how_far_it_is(helper: Helper[int]) -> None:
    seen: list[tuple[int, int]] = []
    process = helper.do("count", progress=lambda *numbers: seen.append(numbers))
    assert process != os.getpid()
    assert seen == sorted(set(seen))
    assert {(1, 3), (2, 3)} <= set(seen)
    assert helper.do("count", progress=lambda done, total: None) == process


def test_what_the_work_raises_is_raised_here(helper: Helper[int]) -> None:
    with pytest.raises(UserError, match=r"^that cannot be done$"):
        helper.do("refuse", progress=lambda done, total: None)
    with pytest.raises(ZeroDivisionError):
        helper.do("fail", progress=lambda done, total: None)


def test_a_process_that_dies_is_replaced_and_the_fourth_death_is_told(helper: Helper[int]) -> None:
    assert helper.do("die once", progress=lambda done, total: None) != os.getpid()
    with pytest.raises(UserError, match="the process of the count was killed 4 times"):
        helper.do("die", progress=lambda done, total: None)


def test_it_can_be_stopped_after_an_interrupt(helper: Helper[int]) -> None:
    process = helper.do("count", progress=lambda done, total: None)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        helper.do("wait", progress=interrupt)
    assert psutil.pid_exists(process)
    helper.stop()
    psutil.wait_procs([psutil.Process(process)] if psutil.pid_exists(process) else [], 10)
    assert not psutil.pid_exists(process)


def test_what_keeps_it_from_starting_is_told() -> None:
    def broken() -> Callable[[Progress], int]:
        raise ZeroDivisionError

    with pytest.raises(ray.exceptions.RayActorError, match="ZeroDivisionError"):
        Helper("count", broken).do(progress=lambda done, total: None)
