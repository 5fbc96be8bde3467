from typing import Any

import pytest

from raydae.distributed.channel import MAX_STARTS, Channel
from raydae.training.status import Outcome, Status


@pytest.fixture
def channel() -> Any:
    """The channel in this process: the class within the actor."""
    return Channel.__ray_metadata__.modified_class()  # type: ignore[attr-defined]  # Ray adds it


def status(saved: int) -> Status:
    return Status(1, saved, 100, saved, None, None, [])


def test_three_restarts_without_a_new_checkpoint_end_a_run(channel: Any) -> None:
    for _ in range(MAX_STARTS):
        assert channel.begin(["a"]) is None
    outcome = channel.begin(["a"])
    assert outcome.status == "failed"
    assert "died 4 times without a new checkpoint" in outcome.message
    assert "worker 0 on a died or hung without an error" in outcome.message


def test_with_new_checkpoints_there_is_no_limit(channel: Any) -> None:
    for saved in range(20):
        assert channel.begin(["a"]) is None
        channel.report(status(saved))


def test_growth_is_no_failure(channel: Any) -> None:
    for number in range(1, 9):
        assert channel.begin([str(rank) for rank in range(number)]) is None
    assert channel.read()[2][-1] == "8 workers instead of 7"


def test_workers_that_died_count_where_more_come_back(channel: Any) -> None:
    for number in range(1, MAX_STARTS + 1):
        assert channel.begin([str(rank) for rank in range(number)]) is None
        channel.report_error(0, "RuntimeError: timed out")
    assert channel.begin(["0"]).status == "failed"


def test_workers_that_never_start_end_a_run(channel: Any) -> None:
    channel.begin(["a"])
    assert [channel.fail("no torch here") for _ in range(MAX_STARTS)] == [False] * 3 + [True]
    outcome = channel.read()[1]
    assert outcome.message == (
        "the workers could not be started 4 times; the last time: no torch here"
    )


def test_a_start_that_succeeds_forgives_those_that_did_not(channel: Any) -> None:
    for saved in range(5):
        assert not any(channel.fail("no torch here") for _ in range(MAX_STARTS - 1))
        assert channel.begin(["a"]) is None
        channel.report(status(saved))


def test_who_is_silent_is_named(channel: Any) -> None:
    channel.begin(["a", "b", "c"])
    channel.report_error(0, "RuntimeError: timed out")
    channel.report_error(0, "the second thing it says matters less")
    channel.report_error(2, "RuntimeError: timed out too")
    channel.begin(["a", "d", "c"])
    (incident,) = channel.read()[2]
    assert incident.startswith("worker 1 on b died or hung")
    assert incident.endswith("; worker 0: RuntimeError: timed out")


def test_a_worker_s_own_error_is_told(channel: Any) -> None:
    channel.begin(["a"])
    channel.report_error(0, "ZeroDivisionError: division by zero")
    assert channel.errors() == "worker 0: ZeroDivisionError: division by zero"
    channel.begin(["a"])
    assert channel.read()[2] == ["worker 0: ZeroDivisionError: division by zero"]


def test_a_resize_is_no_incident_but_is_told(channel: Any) -> None:
    channel.begin(["a", "b"])
    channel.begin(["a", "b", "c"])
    assert channel.read()[2] == ["3 workers instead of 2"]


def test_a_stop_and_an_end(channel: Any) -> None:
    assert channel.report(status(0)) is False
    channel.request_stop()
    assert channel.report(status(1)) is True
    channel.finish(Outcome("stopped"))
    assert channel.read()[:2] == (status(1), Outcome("stopped"))
