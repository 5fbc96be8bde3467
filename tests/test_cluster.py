import pytest
import ray

from raydae.cluster import Workers, choose_trials, choose_workers
from raydae.config import Config
from raydae.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_one_cpu_worker_with_all_the_cores_is_the_default() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    assert choose_workers(None, "auto", Config()) == (Workers(1, 1, False, cpus - 2), "")


def test_workers_share_the_cores() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    workers, _ = choose_workers((4, 4), "no", Config())
    assert workers == Workers(4, 4, False, (cpus - 2) // 4)


def test_what_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="no GPU"):
        choose_workers(None, "yes", Config())
    with pytest.raises(UserError, match="3 workers of 64 CPUs"):
        choose_workers((3, 3), "no", Config(threads=64))


def test_elastic_workers_are_capped_by_what_there_is() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    workers, _ = choose_workers((1, 8), "auto", Config(threads=1))
    assert (workers.least, workers.most) == (1, min(8, cpus - 2))


def test_how_they_are_told_of() -> None:
    assert str(Workers(1, 1, False, 2)) == "1 CPU worker of 2 threads"
    assert str(Workers(2, 8, False, 1)) == "2 to 8 CPU workers of 1 thread"
    assert str(Workers(4, 4, True, 1)) == "4 GPU workers"


@pytest.mark.parametrize(
    ("cpus", "workers", "trials", "threads", "at_once"),
    [
        ([8], 1, 1, 8, 1),
        ([8], 1, 8, 1, 8),
        ([8], 1, 3, 2, 3),
        ([2, 2, 2], 1, 2, 2, 2),
        ([2, 2, 2], 2, 2, 1, 2),
        ([64], 2, 1, 31, 1),
        ([16] * 4, 1, 3, 16, 3),
        ([3] * 10, 2, 100, 1, 10),
    ],
)
def test_trials_share_a_cluster_that_there_is(
    cpus: list[int],
    workers: int,
    trials: int,
    threads: int,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, [(0, cpu) for cpu in cpus])
    each, concurrent = choose_trials(workers, "auto", Config(), trials, None)
    assert (each, concurrent) == (Workers(workers, workers, False, threads), at_once)
    assert concurrent * workers * each.threads <= sum(cpus)
    assert choose_trials(workers, "auto", Config(), trials, 1)[1] == 1


def test_trials_never_share_a_gpu_or_count_one_that_has_no_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, [(8, 4), (0, 64)])
    for workers, at_once in ((1, 4), (2, 2), (4, 1)):
        each, concurrent = choose_trials(workers, "auto", Config(), 100, None)
        assert (each, concurrent) == (Workers(workers, workers, True, 1), at_once)
    with pytest.raises(UserError, match="lower --num-workers"):
        choose_trials(8, "auto", Config(), 100, None)
    assert choose_trials(8, "no", Config(), 100, None)[0].gpu is False


def pretend(monkeypatch: pytest.MonkeyPatch, nodes: list[tuple[int, int]]) -> None:
    """Makes Ray tell of nodes of so many GPUs and CPUs."""
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    told = [{"Alive": True, "Resources": {"GPU": gpu, "CPU": cpu}} for gpu, cpu in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: told)
    gpus, cpus = (sum(kind) for kind in zip(*nodes, strict=True))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus, "CPU": cpus})
