"""Which workers and trials a cluster is given, for clusters of many shapes."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raydae.core.errors import UserError
from raydae.distributed import resources, waiting
from raydae.distributed.resources import Workers, choose_trials, choose_workers
from raydae.training.config import Config

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_one_cpu_worker_with_all_the_cores_is_the_default() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    assert choose_workers(None, "auto", Config()) == (Workers(1, 1, 0, cpus - 2, True), "")


def test_workers_share_the_cores() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    workers, _ = choose_workers((4, 4), "no", Config())
    threads = (cpus - 2) // 4
    assert workers == Workers(4, 4, 0, threads, True)


def test_what_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="no GPU"):
        choose_workers(None, "yes", Config())
    with pytest.raises(UserError, match="3 workers of 64 CPUs"):
        choose_workers((3, 3), "no", Config(threads=64))


def test_elastic_workers_are_capped_by_what_there_is() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    workers, _ = choose_workers((1, 8), "auto", Config(threads=1))
    assert workers == Workers(1, min(8, cpus - 2), 0, 1)


def test_elastic_workers_may_outgrow_a_cluster_that_keeps_a_cpu_for_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(threads=2)
    pretend(monkeypatch, [(0, 3)])
    assert choose_workers((1, 4), "auto", config)[0] == Workers(1, 4, 0, 2)
    pretend(monkeypatch, [(0, 4)])
    assert choose_workers((1, 4), "auto", config)[0] == Workers(1, 1, 0, 2)
    pretend(monkeypatch, [(0, 2)])
    with pytest.raises(UserError, match="1 worker of 2 CPUs and 1 CPU to make samples"):
        choose_workers((1, 4), "auto", config)


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "in_cluster", lambda: False)
    monkeypatch.setattr(resources, "cores", lambda: 2)
    assert not resources.describe_crowding(Workers(1, 1, 0, 2), 1, Config())
    crowded = resources.describe_crowding(Workers(2, 2, 0, 1), 2, Config())
    assert crowded == "4 threads on 2 cores are slow; lower --num-workers"
    asked = Config().override({"threads": 64})
    assert "lower --threads" in resources.describe_crowding(Workers(1, 1, 0, 64), 1, asked)


def test_workers_are_described_in_a_few_words() -> None:
    assert str(Workers(1, 1, 0, 2)) == "1 CPU worker of 2 threads"
    assert str(Workers(2, 8, 0, 1)) == "2 to 8 CPU workers of 1 thread"
    assert str(Workers(4, 4, 1, 1)) == "4 GPU workers"
    assert str(Workers(1, 1, 0.25, 1)) == "1 worker of 0.25 GPU"
    assert str(Workers(3, 3, 1 / 3, 1)) == "3 workers of 0.333 GPU"


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
    assert (each, concurrent) == (Workers(workers, workers, 0, threads), at_once)
    assert concurrent * workers * each.threads <= sum(cpus)
    assert choose_trials(workers, "auto", Config(), trials, 1)[1] == 1


def test_trials_on_one_machine_do_not_take_it_for_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, [(2, 16)])
    monkeypatch.delenv("RAY_ADDRESS")
    assert choose_workers((1, 1), "auto", Config())[0] == Workers(1, 1, 1, 1, True)
    assert choose_trials(1, "auto", Config(), 8, None) == (Workers(1, 1, 1, 1), 2)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus_per_trial", "part", "at_once"),
    [
        ([(1, 16)], 1, 0.25, 0.25, 4),
        ([(1, 16)], 1, 0.4, 0.4, 2),
        ([(1, 5)], 1, 0.1, 0.1, 2),  # a trial takes a CPU, and another makes its samples
        ([(1, 16)], 2, 1, 0.5, 1),
        ([(1, 16)], 4, 0.5, 0.125, 2),
        ([(2, 16)], 3, 2, 2 / 3, 0),  # a third of each GPU stays idle
        ([(2, 16), (1, 16)], 3, 2, 0.6666, 1),
        ([(1, 1), (0, 64)], 1, 0.25, 0.25, 1),
        ([(1, 200)], 49, 1, 0.0204, 1),  # Ray counts in parts of 1/10000
        ([(1, 200)], 7, 1, 0.1428, 1),
    ],
)
def test_trials_and_their_workers_share_gpus(
    nodes: list[tuple[int, int]],
    workers: int,
    gpus_per_trial: float,
    part: float,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, nodes)
    if not at_once:
        with pytest.raises(UserError, match=r"3 workers of 0.667 GPU with 1 CPU .* 2 GPUs and 16"):
            choose_trials(workers, "auto", Config(), 100, None, gpus_per_trial)
        return
    each, concurrent = choose_trials(workers, "auto", Config(), 100, None, gpus_per_trial)
    assert (each, concurrent) == (Workers(workers, workers, part, 1), at_once)
    assert each.resources == {"CPU": 1, "GPU": part}


def test_trials_by_default_never_share_a_gpu_or_count_one_that_has_no_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, [(8, 4), (0, 64)])
    for workers, at_once in ((1, 4), (2, 2), (4, 1)):
        each, concurrent = choose_trials(workers, "auto", Config(), 100, None)
        assert (each, concurrent) == (Workers(workers, workers, 1, 1), at_once)
    with pytest.raises(UserError, match="lower --num-workers"):
        choose_trials(8, "auto", Config(), 100, None)
    assert choose_trials(8, "no", Config(), 100, None)[0].gpus == 0


def test_workers_that_fit_on_no_node_are_refused_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, [(1, 4)] * 4)
    wide = Config().override({"threads": 8})
    with pytest.raises(UserError, match=r"room for 0: .* lower --num-workers or --threads"):
        choose_workers((1, 1), "auto", wide)
    assert choose_workers((4, 4), "auto", Config())[0] == Workers(4, 4, 1, 1)
    pretend(monkeypatch, [(8, 4), (0, 64)])  # GPUs without a CPU of their own are left idle
    workers, word = choose_workers(None, "auto", Config())
    assert workers == Workers(4, 4, 1, 1)
    assert word == "4 of 8 GPUs stay idle: their nodes have too few CPUs"
    with pytest.raises(UserError, match="there is room for 4"):
        choose_workers((5, 5), "auto", Config())
    pretend(monkeypatch, [(4, 4)])
    assert choose_workers(None, "auto", Config())[0] == Workers(2, 2, 1, 1)
    pretend(monkeypatch, [(0, 1)])
    with pytest.raises(UserError, match="more than the 1 there are"):
        choose_workers((1, 1), "auto", Config())


def pretend(monkeypatch: pytest.MonkeyPatch, nodes: list[tuple[int, int]]) -> None:
    """Makes Ray tell of nodes of so many GPUs and CPUs."""
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    told = [{"Alive": True, "Resources": {"GPU": gpu, "CPU": cpu}} for gpu, cpu in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: told)
    gpus, cpus = (sum(kind) for kind in zip(*nodes, strict=True))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus, "CPU": cpus})


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A cluster of `ray up` with a head alone; what it may grow to is to be filled in."""
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0}}])
    config = {
        "max_workers": 5,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 16}, "max_workers": 4},
            "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
        },
    }
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(resources, "AUTOSCALING", file)
    return config


@pytest.mark.usefixtures("growing")
def test_a_cluster_that_grows_is_used_as_large_as_it_can_get() -> None:
    # Five nodes at most, those with GPUs first; begun with the first of them.
    assert choose_workers(None, "auto", Config())[0] == Workers(1, 4, 1, 1)
    assert choose_workers((2, 2), "auto", Config())[0] == Workers(2, 2, 1, 1)
    assert choose_workers((2, 2), "no", Config())[0] == Workers(2, 2, 0, 16)
    with pytest.raises(UserError, match="there are 4"):
        choose_workers((5, 5), "auto", Config())


def test_machines_that_one_has_count_as_the_largest_present(
    growing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"resources": {}, "min_workers": 2, "max_workers": 2}  # as Ray has it of them
    growing.update(head_node_type="local.cluster.node", max_workers=2)
    growing["available_node_types"] = {"local.cluster.node": kind}
    resources.AUTOSCALING.write_text(yaml.safe_dump(growing))
    said: list[str] = []
    monkeypatch.setattr(waiting, "_wait_for_room", lambda bundles, find, say: say(find()))
    waiting.wait_for_node(said.append)
    assert said == ["waiting for the first worker node"]
    nodes = [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in (0, 8)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    waiting.wait_for_node(said.append)
    assert len(said) == 1
    assert choose_workers((2, 2), "auto", Config())[0] == Workers(2, 2, 0, 7)
