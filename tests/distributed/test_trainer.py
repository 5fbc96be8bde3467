"""Workers of Ray Train on the Ray of this process."""

import contextlib
import importlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from raydae.core.storage import Folder
from raydae.distributed import trainer
from raydae.distributed.resources import Workers
from raydae.distributed.start import start_ray
from raydae.images.image_sets import ImageSets
from raydae.training.checkpoints import Checkpoints
from raydae.training.config import Config
from raydae.training.run_folder import open_run
from raydae.training.status import Outcome, Status
from tests.app.test_jobs import train_workers
from tests.distributed.test_faults import cluster_of_nodes

TINY = {"model.name": "unet", "model.options.width": 4, "model.options.levels": 2}


def test_the_number_of_workers_changes_nothing_but_rounding(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster of two nodes, between which the gradients of four workers travel."""
    # An epoch is a step, so that the history has the loss of each.
    config = config.override(
        {
            "model.name": "unet",
            "model.options.width": 8,
            "noise.options.sigma": "0:55",
            "optim.optimizer": "muon",
            "optim.lr": 0.002,
            "optim.warmup": 10,
            "data.patches_per_image": 2,
            "optim.batch_size": 16,
            "optim.micro_batch": 4,
            "optim.epochs": 20,
            "validation.images": 1,
        }
    )
    losses = {}
    with cluster_of_nodes() as cluster, contextlib.ExitStack() as stack:
        for _ in range(2):
            cluster.add_node(num_cpus=3)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        start_ray()
        stack.callback(ray.shutdown)
        for number in (1, 3, 4):  # three: shares of 8, 4 and 4 rows
            run = open_run(Folder.of(tmp_path / f"{number}"), config).begin(sets)
            workers = Workers(number, number, 0, 1)
            outcome = trainer.train_on_ray(run, workers, lambda status: None, lambda: False, 10.0)
            assert outcome == Outcome("finished")
            lines = (tmp_path / f"{number}" / "history.jsonl").read_text().splitlines()
            losses[number] = [json.loads(line)["loss"] for line in lines]
            places = {worker["place"] for worker in json.loads(lines[-1])["by_worker"]}
            assert len(places) == number
    assert len(losses[1]) == 20
    assert losses[1][-1] < losses[1][0] * 0.9
    assert losses[3] == pytest.approx(losses[1], abs=1e-4)
    assert losses[4] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
def test_workers_that_share_a_gpu_see_it_and_meet_over_gloo(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPUs are declared, not there: the workers note their devices and train on the CPU."""

    def on_the_cpu(settings: dict[str, Any]) -> None:
        import ray.train.torch
        import torch
        import torch.distributed as dist

        from raydae.distributed.trainer import _train_worker

        worker: Any = importlib.import_module("raydae.distributed.worker")
        seen = {
            "device": str(ray.train.torch.get_device()),
            "visible": os.environ["CUDA_VISIBLE_DEVICES"],
            "gpu": ray.get_gpu_ids()[0],
        }
        cpu = torch.device("cpu")
        ray.train.torch.get_device = lambda: cpu
        fit = worker.fit

        def fit_and_note(*args: Any) -> Any:
            (tmp_path / f"{dist.get_rank()}").write_text(
                json.dumps({**seen, "backend": dist.get_backend()})
            )
            return fit(*args)

        worker.fit = fit_and_note
        _train_worker(settings)

    monkeypatch.setattr(trainer, "_train_worker", on_the_cpu)
    with cluster_of_nodes() as cluster, contextlib.ExitStack() as stack:
        cluster.add_node(num_cpus=6, num_gpus=2)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        start_ray()
        stack.callback(ray.shutdown)
        run = open_run(Folder.of(tmp_path / "run"), config).begin(sets)
        workers = Workers(4, 4, 0.5, 1)
        outcome = trainer.train_on_ray(run, workers, lambda status: None, lambda: False, 10.0)
        assert outcome == Outcome("finished")
    seen = [json.loads((tmp_path / f"{rank}").read_text()) for rank in range(4)]
    assert sorted(int(worker["gpu"]) for worker in seen) == [0, 0, 1, 1]
    for worker in seen:
        assert worker["visible"] == "0,1"
        assert worker["device"] == f"cuda:{worker['gpu']}"
        assert worker["backend"] == "gloo"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_hangs_is_named_and_replaced(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "HANG_S", 15)
    config = config.override({**TINY, "optim.epochs": 40})
    run = open_run(Folder.of(tmp_path / "run"), config).begin(sets)
    hung: list[psutil.Process] = []
    said: list[str] = []

    def hang_one(status: Status) -> None:
        if not hung and status.step:
            workers = train_workers(os.getpid())
            hung.append(max(workers, key=lambda worker: worker.pid))
            hung[0].suspend()

    outcome = trainer.train_on_ray(
        run, Workers(2, 2, 0, 1), hang_one, lambda: False, 0.0, said.append
    )
    assert outcome == Outcome("finished")
    assert not hung[0].is_running()
    assert f"(process {hung[0].pid}) died or hung" in said[0]
    assert "restarted from the last checkpoint" in said[0]


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_hangs_alone_is_named_and_replaced(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"

    def hang_once(settings: dict[str, Any]) -> None:
        from raydae.distributed.trainer import _train_worker

        if not once.exists():
            once.touch()
            Checkpoints.save = lambda *_: time.sleep(1e6)  # type: ignore[method-assign]
        _train_worker(settings)

    monkeypatch.setattr(trainer, "HANG_S", 5)
    monkeypatch.setattr(trainer, "_train_worker", hang_once)
    run = open_run(Folder.of(tmp_path / "run"), config.override(TINY)).begin(sets)
    said: list[str] = []
    outcome = trainer.train_on_ray(
        run, Workers(1, 1, 0, 1), lambda status: None, lambda: False, 0.0, said.append
    )
    assert outcome == Outcome("finished")
    assert re.search(
        r"worker 0: \S+ \(process \d+\) hung for (5|20) s \(<lambda>, line \d+\)", said[0]
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_sees_another_folder_ends_the_run(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node that joins a run and has a disk of its own at the path."""
    monkeypatch.setattr(trainer, "lock_text", lambda folder: b"process 1 on another host")
    run = open_run(Folder.of(tmp_path / "run"), config).begin(sets)
    outcome = trainer.train_on_ray(
        run, Workers(1, 1, 0, 1), lambda status: None, lambda: False, 1.0
    )
    assert outcome.status == "failed"
    assert re.search(r"run is not the same on \S+ \(process \d+\); give --st", outcome.message)
    assert not run.state.step
    assert "checkpoints" not in {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_can_never_start_end_the_run(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: dict[str, Any]) -> None:
        raise ImportError("no torch here")

    monkeypatch.setattr(trainer, "_train_worker", broken)
    run = open_run(Folder.of(tmp_path / "run"), config).begin(sets)
    outcome = trainer.train_on_ray(
        run, Workers(1, 1, 0, 1), lambda status: None, lambda: False, 1.0
    )
    assert outcome.status == "failed"
    assert outcome.message.startswith("the workers could not be started 4 times; the last time: ")
    assert outcome.message.endswith("no torch here")
