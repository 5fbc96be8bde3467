"""What a run survives without a word from the user, and what it survives by the same command."""

import json
import os
import signal
import stat
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import ray
import torch

from raydae import trainer
from raydae.cluster import Workers
from raydae.config import Config
from raydae.images import ImageSets
from raydae.modelfile import load_model, unpack
from raydae.runs import Outcome, Status, find_model, open_run
from raydae.storage import Folder
from tests.conftest import draw_folder
from tests.test_jobs import (
    SETTINGS,
    finish,
    history,
    in_mid_epoch,
    job,
    processes_of,
    train,
    train_workers,
    wait_for,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A run of the default network by one worker, which nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, photographs, "run", "--num-workers", "1", "--threads", "1")
    return folder / "run"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_hangs_is_named_and_replaced(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "COLLECTIVE_TIMEOUT_S", 10)
    config = config.override({"optim.epochs": 40})
    run = open_run(Folder.of(tmp_path / "run"), config).begin(sets)
    hung: list[psutil.Process] = []
    said: list[str] = []

    def hang_one(status: Status) -> None:
        if not hung and status.step:
            workers = train_workers(os.getpid())
            hung.append(max(workers, key=lambda worker: worker.pid))
            hung[0].suspend()

    outcome = trainer.train_on_ray(
        run, Workers(2, 2, False, 1), hang_one, lambda: False, 0.0, said.append
    )
    assert outcome == Outcome("finished")
    assert not hung[0].is_running()
    (incident,) = said
    assert f"(process {hung[0].pid}) died or hung" in incident
    assert "started anew from step" in incident


def test_on_one_machine_only_ray_can_be_reached_and_takes_no_job_without_the_token(
    tmp_path: Path, photographs: Path
) -> None:
    words = ["--storage", tmp_path, "--name", "run", "--data", photographs, *SETTINGS]
    words += ["--num-workers", "2", "--threads", "1", "--checkpoint-minutes", "0"]
    process = job("train", *words)
    try:
        wait_for(in_mid_epoch(tmp_path / "run"), "a checkpoint")
        for worker in train_workers(process.pid):  # torch and gloo listen on loopback, if at all
            assert len(reachable(worker)) == 1, "Ray's own service"
        asked = 0
        for member in psutil.Process(process.pid).children(recursive=True):
            for port in reachable(member):
                for path in ("/api/jobs/", "/api/job_agent/jobs/"):
                    answer = submit(f"http://{ray.util.get_node_ip_address()}:{port}{path}")
                    assert answer not in range(200, 300), (member.name(), port)
                    asked += answer in (401, 403)
        assert asked, "there is a service that takes jobs, and asks for the token"
    finally:
        process.send_signal(signal.SIGINT)
        finish(process, 130)
    token = Path.home() / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def reachable(process: psutil.Process) -> set[int]:
    """The ports that a process listens on for other machines too."""
    try:
        connections = process.net_connections("inet")
    except psutil.Error:
        return set()
    return {
        listener.laddr.port
        for listener in connections
        if listener.status == psutil.CONN_LISTEN and listener.laddr.ip not in ("127.0.0.1", "::1")
    }


def submit(url: str) -> int:
    """Asks a service to run a job; its answer, 0 where it is not of the web."""
    body = json.dumps({"entrypoint": "true"}).encode()
    request = Request(url, body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=5) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return 0


def test_a_run_in_s3_whose_controller_was_killed_goes_on_by_the_same_command(
    undisturbed: Path, photographs: Path, s3: Callable[[str], str]
) -> None:
    folder = Folder.of(s3("runs/run"))
    words = ["--storage", s3("runs"), "--name", "run", "--data", photographs, *SETTINGS]
    words += ["--num-workers", "1", "--threads", "1", "--checkpoint-minutes", "0"]
    process = job("train", *words)
    wait_for(lambda: len((folder / "checkpoints").folders()) > 1, "checkpoints")
    for controller in processes_of(process.pid, "TrainController"):
        controller.kill()
    output = finish(process, 2)
    assert "the same command goes on from there" in output
    assert "goes on after step" in finish(job("train", *words))
    for name in ("last.safetensors", "model.safetensors"):
        ours, theirs = unpack(folder.read(name)), unpack((undisturbed / name).read_bytes())
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    lines = [json.loads(line) for line in folder.read("history.jsonl").splitlines()]
    assert [line["loss"] for line in lines] == [line["loss"] for line in history(undisturbed)]
    assert {"samples.png", "results.json", "config.json"} <= set(folder.files())
    assert any(name.startswith("logs/") for name in folder.files(recursive=True))
    _, info = load_model(find_model("last", s3("runs")))
    assert info.epoch
