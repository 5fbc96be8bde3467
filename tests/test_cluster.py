import pytest
import ray

from raydae.cluster import Workers, choose_workers
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
