"""What a run survives without a word from the user, and what it survives by the same command."""

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from raydae.core.storage import Folder
from raydae.models.model_file import load_model
from raydae.models.weights import unpack
from raydae.training.run_names import find_model
from tests.app.test_jobs import (
    SETTINGS,
    assert_same_run,
    finish,
    history,
    in_mid_epoch,
    job,
    processes_of,
    train,
    train_workers,
    wait_for,
)
from tests.conftest import draw_folder, ports_for_others, without_token

# Without batch statistics any number of workers computes the same but for rounding, and steps so
# small do not let that grow.
ANY_NUMBER = [
    "--config",
    "unet",
    "--model.options.width",
    "4",
    "--model.options.levels",
    "2",
    "--lr",
    "1e-5",
]
ANY_NUMBER += ["--optim.schedule", "constant", "--precision", "fp32", *SETTINGS]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A run of the default network by one worker, which nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, photographs, "run", "--num-workers", "1", "--threads", "1")
    return folder / "run"


def test_on_one_machine_only_ray_can_be_reached_and_only_with_the_token(
    tmp_path: Path, photographs: Path
) -> None:
    words = ["--storage", tmp_path, "--name", "run", "--data", photographs, *SETTINGS]
    words += ["--num-workers", "2", "--threads", "1", "--checkpoint-minutes", "0.005"]
    process = job("train", *words)
    try:
        wait_for(in_mid_epoch(tmp_path / "run"), "a checkpoint")
        for worker in train_workers(process.pid):  # torch and gloo listen on loopback, if at all
            assert len(ports_for_others(worker)) == 1, "Ray's own service"
        # It would ask another Ray on this machine whether this run lives, and end it.
        assert not processes_of(process.pid, "PlacementGroupCleaner")
        told = without_token(process.pid, ray.util.get_node_ip_address())
        assert set(told.values()) == {"refuses"}, told
    finally:
        process.send_signal(signal.SIGINT)
        finish(process, 130)
    token = Path.home() / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_run_in_s3_whose_controller_was_killed_and_its_notes_torn(
    undisturbed: Path,
    photographs: Path,
    s3: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Folder.of(s3("runs/run"))
    words = ["--storage", s3("runs"), "--name", "run", "--data", photographs, *SETTINGS]
    words += ["--num-workers", "1", "--threads", "1", "--checkpoint-minutes", "0.005"]
    process = job("train", *words)
    wait_for(lambda: len((folder / "checkpoints").folders()) > 1, "checkpoints")
    for controller in processes_of(process.pid, "TrainController"):
        controller.kill()
    output = finish(process, 2)
    assert "to resume: python" in output
    for name in ("checkpoint_manager_snapshot.json", ".validate_storage_marker"):
        (folder / ".ray").write(name, b'{"half": [')
    assert "resumes after step" in finish(job("train", *words))
    for name in ("last.safetensors", "model.safetensors"):
        ours, theirs = unpack(folder.read(name)), unpack((undisturbed / name).read_bytes())
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    lines = [json.loads(line) for line in folder.read("history.jsonl").splitlines()]
    assert [line["loss"] for line in lines] == [line["loss"] for line in history(undisturbed)]
    assert {"samples.png", "results.json", "config.json"} <= set(folder.files())
    assert any(name.startswith("logs/") for name in folder.files(recursive=True))
    monkeypatch.setenv("RAYDAE_STORAGE", s3("runs"))
    _, info = load_model(find_model("last"))
    assert info.epoch


def checkpoints(run: Path) -> list[int]:
    """The steps of the checkpoints there are."""
    done = run.glob("checkpoints/step-*/checkpoint.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in done)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_that_is_freed(undisturbed: Path, tmp_path: Path, photographs: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], check=True)
    try:
        words = ["--storage", disk, "--name", "run", "--data", photographs, *SETTINGS]
        words += ["--num-workers", "1", "--threads", "1", "--checkpoint-minutes", "0.005"]
        process = job("train", *words)
        wait_for(in_mid_epoch(disk / "run"), "a checkpoint")
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(2**16))
        output = finish(process, 2)
        assert "cannot be written (No space left on device" in output.replace("[Errno 28] ", "")
        assert "make room" in output
        assert checkpoints(disk / "run"), "one is left"
        (disk / "filler").unlink()
        assert "resumes after step" in finish(job("train", *words))
        assert_same_run(disk / "run", undisturbed)
    finally:
        subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def cluster_of_nodes() -> Iterator[Cluster]:
    """A cluster on this machine, so far a head alone that takes no work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")  # all nodes are on the same cores
        # Where this process had a Ray of its own, it is off.
        patch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            yield cluster
        finally:
            cluster.shutdown()


def workers_of(run: Path) -> Any:
    """How many workers the latest epoch had at its end; 0: no epoch is done."""
    try:
        lines = (run / "history.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["workers"] if lines else 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nodes_are_added_lost_and_drained(tmp_path: Path, photographs: Path) -> None:
    run = tmp_path / "run"
    words = ["--storage", tmp_path, "--data", photographs, *ANY_NUMBER, "--threads", "2"]
    words += ["--data.patches-per-image", "400"]  # 200 steps an epoch
    with cluster_of_nodes() as cluster:
        nodes = [cluster.add_node(num_cpus=3)]
        elastic = ["--name", "run", "--epochs", "1000", "--num-workers", "1:2"]
        process = job("train", *words, *elastic, RAY_ADDRESS=cluster.address)
        wait_for(lambda: workers_of(run) == 1, "an epoch of one worker")
        nodes.append(cluster.add_node(num_cpus=3))
        wait_for(lambda: workers_of(run) == 2, "an epoch of two workers")
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        wait_for(lambda: workers_of(run) == 1, "an epoch of the worker that is left")
        nodes.append(cluster.add_node(num_cpus=3))
        wait_for(lambda: workers_of(run) == 2, "an epoch of two workers again")
        drain(cluster, nodes[0].node_id)
        # The next one would be due at the end of an epoch.
        wait_for(lambda: any(step % 200 for step in checkpoints(run)), "a checkpoint")
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        wait_for(lambda: workers_of(run) == 1, "an epoch of the worker that is left")
        process.send_signal(signal.SIGINT)
        output = finish(process, 130)
    assert "died or hung" in output
    epochs = len(history(run))
    calm_words = [*words, "--name", "calm", "--epochs", epochs, "--num-workers", 1]
    finish(job("train", *calm_words), patience_s=1200)
    losses, calm = ([line["loss"] for line in history(tmp_path / name)] for name in ("run", "calm"))
    assert max(calm) - min(calm) > 1e-3, "other samples would show"
    assert losses == pytest.approx(calm, abs=1e-5)


def drain(cluster: Cluster, node_id: str) -> None:
    """Gives notice that a node will be taken away."""
    command = [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address]
    command += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "120"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_head_lost_and_the_same_command_on_another_cluster(
    undisturbed: Path, tmp_path: Path, photographs: Path
) -> None:
    words = ["--storage", tmp_path, "--name", "run", "--data", photographs, *SETTINGS]
    words += ["--num-workers", "1", "--threads", "1", "--checkpoint-minutes", "0.005"]
    with cluster_of_nodes() as cluster:
        cluster.add_node(num_cpus=2)
        process = job("train", *words, RAY_ADDRESS=cluster.address)
        wait_for(in_mid_epoch(tmp_path / "run"), "a checkpoint")
    process.communicate(timeout=180)
    assert process.returncode not in (0, None)
    with cluster_of_nodes() as cluster:
        cluster.add_node(num_cpus=2)
        assert "resumes after step" in finish(job("train", *words, RAY_ADDRESS=cluster.address))
    assert_same_run(tmp_path / "run", undisturbed)


def news_of(process: subprocess.Popen[str], run: Path) -> Callable[[], bool]:
    """Whether a job has ended, or its run has a checkpoint newer than those there are now."""
    before = checkpoints(run)
    return lambda: process.poll() is not None or checkpoints(run)[-1:] > before[-1:]


def writes(process: subprocess.Popen[str], run: Path) -> Callable[[], bool]:
    """Whether a job has ended, or is writing a checkpoint."""
    return lambda: process.poll() is not None or bool(list(run.glob("checkpoints/*/.*.tmp")))


KILLS, SEED = 100, 1
VICTIMS = {
    "worker": ("RayTrainWorker",),
    "data task": ("MapBatches", "ray::IDLE"),  # or between two of them
    "controller": ("TrainController",),
    "Ray": ("raylet", "gcs_server"),
}


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_kills_change_nothing(tmp_path: Path, photographs: Path) -> None:
    words = ["--storage", tmp_path, "--data", photographs, *SETTINGS, "--num-workers", "1"]
    words += ["--threads", "1", "--data.patches-per-image", "3000", "--checkpoint-minutes", "0.005"]
    run, rng = tmp_path / "killed", random.Random(SEED)
    killed = dict.fromkeys([*VICTIMS, "driver", "everything", "while writing"], 0)
    process = job("train", *words, "--name", "killed")
    while sum(killed.values()) < KILLS:
        wait_for(news_of(process, run), "a new checkpoint")
        if process.poll() is not None:
            output, _ = process.communicate()
            assert process.returncode, f"the run ended before its time: {output}"
            process = job("train", *words, "--name", "killed")
            continue
        what = rng.choice(list(killed))
        if what == "while writing":
            wait_for(writes(process, run), "a checkpoint being written")
            if process.poll() is not None:  # of the kill before
                continue
            victims = processes_of(process.pid, *VICTIMS["worker"])
        else:
            time.sleep(rng.uniform(0, 2))
            victims = processes_of(process.pid, *VICTIMS.get(what, ("ray",)))
        if what == "driver":
            victims = set()
        if what in ("driver", "everything"):
            victims.add(psutil.Process(process.pid))
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        killed[what] += bool(victims)
    print(f"killed, seed {SEED}: {killed}")
    process.communicate(timeout=1200)
    if process.returncode:
        finish(job("train", *words, "--name", "killed"), patience_s=1200)
    finish(job("train", *words, "--name", "calm"), patience_s=1200)
    assert_same_run(run, tmp_path / "calm")
