import pytest
import ray

from raydae.distributed import waiting
from raydae.distributed.resources import Workers
from raydae.distributed.waiting import wait_for_workers

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_waiting_says_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    answers = iter([False, False, True])
    removed: list[object] = []

    class Group:
        def wait(self, timeout_seconds: float) -> bool:
            return next(answers)

    def group(wish: list[dict[str, float]]) -> Group:
        assert wish == [{"CPU": 3, "GPU": 1}] * 2 + [{"CPU": 1}]
        return Group()

    monkeypatch.setattr(waiting, "placement_group", group)
    monkeypatch.setattr(waiting, "remove_placement_group", removed.append)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    wait_for_workers(Workers(2, 4, 1, 3), said.append)
    assert said == [
        "waiting for nodes to run 2 to 4 GPU workers: the cluster has 0 GPUs and 8 CPUs now"
    ]
    assert len(removed) == 1


def test_what_there_is_needs_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    wait_for_workers(Workers(99, 99, 1, 1), said.append)  # Ray of this machine alone never grows
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    wait_for_workers(Workers(2, 2, 0, 1), said.append)
    assert not said
