"""`ray job submit` to a cluster that asks for a token, of a project that is only shipped along."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import ray
import torch

from tests.app.test_jobs import ROOT, SETTINGS, finish, in_mid_epoch, processes_of, wait_for
from tests.conftest import draw_folder, without_token

WORDS = [*SETTINGS, "--num-workers", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all that this one has but raydae."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "more.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    ray = folder / "bin" / "ray"
    ray.write_text(f"#!{folder}/bin/python\nfrom ray.scripts.scripts import main\n\nmain()\n")
    ray.chmod(0o755)
    without = subprocess.run(
        [folder / "bin" / "python", "-c", "import ray, raydae"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'raydae'" in without.stderr
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a user has it, with what should never be shipped."""
    folder = tmp_path_factory.mktemp("clone") / "raydae"
    ignored = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignored)
    for name in (".git", "data", "runs", ".venv"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "large").write_bytes(secrets.token_bytes(2**20))
    return folder


@dataclass
class Service:
    """A cluster of one node, and how its user talks to it."""

    process: subprocess.Popen[str]
    url: str
    temp: Path
    clone: Path
    env: dict[str, str]

    def call(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ray", "job", *map(str, words)],
            cwd=self.clone,
            env={**self.env, "RAY_API_SERVER_ADDRESS": self.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, name: str, *words: object, how: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = ["submit", "--working-dir", ".", "--submission-id", name, *how, "--"]
        return self.call(*command, "python", "jobs/train.py", *words)

    def ask(self, path: str, **said: str) -> Any:
        token = (Path(self.env["HOME"]) / ".ray" / "auth_token").read_text()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(said).encode() if said else None
        request = Request(f"{self.url}{path}", data, headers)
        with urlopen(request, timeout=10) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def service(bare: Path, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env["HOME"] = str(tmp_path_factory.mktemp("home"))
    env["PATH"] = f"{bare}/bin:{env['PATH']}"
    env |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "VIRTUAL_ENV": str(bare)}
    env["RAY_JOB_STOP_WAIT_TIME_S"] = "60"  # as in cluster.yaml
    subprocess.run(
        ["ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True
    )
    temp = Path(tempfile.mkdtemp(prefix="ray"))  # names of sockets in it must be short
    command = ["ray", "start", "--head", "--block", "--num-cpus=3", "--port=0"]
    command += ["--dashboard-agent-listen-port=0"]  # else one that another Ray here may have
    command += [f"--dashboard-port={port}", "--dashboard-host=127.0.0.1", f"--temp-dir={temp}"]
    with (temp / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True)
    service = Service(process, f"http://127.0.0.1:{port}", temp, clone, env)
    try:
        wait_for(lambda: answers(service), "the dashboard, and the agent that starts jobs")
        yield service
    finally:
        # Asked to end, they would take half a minute.
        family = psutil.Process(process.pid).children(recursive=True)
        for member in [
            psutil.Process(process.pid),
            *family,
        ]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)


def answers(service: Service) -> bool:
    assert service.process.poll() is None, (service.temp / "log").read_text()
    try:
        return "submission_id" in service.ask("/api/jobs/", entrypoint="true")
    except OSError:
        return False


def test_a_job_ships_the_project_and_no_more(
    service: Service, photographs: Path, tmp_path: Path
) -> None:
    words = ["--storage", tmp_path, "--data", photographs, "--name", "run", *WORDS]
    output = finish(service.submit("shipped", *words))
    assert "Job 'shipped' succeeded" in output
    assert "1 CPU worker of 1 thread" in output
    assert (tmp_path / "run" / "samples.png").exists()
    (log,) = tmp_path.glob("run/logs/*/job-driver-shipped.log")  # logs outlive the cluster
    assert f"files: {tmp_path}/run" in log.read_text()
    (shipped,) = service.temp.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    names = {path.name for path in shipped.iterdir()}
    assert {"raydae", "jobs", "pyproject.toml"} <= names
    assert not names & {".git", ".venv", "data", "runs"}
    shipped_bytes = sum(path.stat().st_size for path in shipped.rglob("*"))
    assert shipped_bytes < 33e6, "the three models, 27 MB, and little more"


def test_a_stopped_job_leaves_a_checkpoint_and_no_worker_and_goes_on(
    service: Service, photographs: Path, tmp_path: Path
) -> None:
    words = ["--storage", tmp_path, "--data", photographs, "--name", "run", *WORDS]
    long = [*words, "--data.patches-per-image", "200", "--epochs", "1000"]  # of 100 steps
    finish(service.submit("first", *long, how=("--no-wait",)))
    wait_for(lambda: "epoch    1/1000" in service.ask("/api/jobs/first/logs")["logs"], "an epoch")
    workers = processes_of(service.process.pid, "RayTrainWorker")
    assert len(workers) == 1
    finish(service.call("stop", "first"))
    assert service.ask("/api/jobs/first")["status"] == "STOPPED"
    assert in_mid_epoch(tmp_path / "run", 100)()
    (log,) = tmp_path.glob("run/logs/*/job-driver-first.log")
    assert "to resume: python" in log.read_text()
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the worker's end")
    finish(service.submit("second", *long, how=("--no-wait",)))
    wait_for(lambda: "resumes after step" in service.ask("/api/jobs/second/logs")["logs"], "it")
    finish(service.call("stop", "second"))


def test_the_exit_code_is_the_job_s(service: Service, tmp_path: Path) -> None:
    output = finish(service.submit("bad", "--data", tmp_path / "none"), 1)
    assert "is not a folder" in output
    assert service.ask("/api/jobs/bad")["driver_exit_code"] == 2


def test_a_token_that_is_refused_is_told(service: Service, tmp_path: Path) -> None:
    address = (service.temp / "ray_current_cluster").read_text().strip()
    environment = {**service.env, "RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "a" * 64}
    environment["PYTHONPATH"] = str(service.clone)
    draw_folder(tmp_path / "images", 10, 80, 96)
    words = ["--data", str(tmp_path / "images"), "--storage", str(tmp_path / "runs")]
    done = subprocess.run(
        ["python", "jobs/train.py", *words],
        check=False,
        cwd=service.clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the Ray cluster at RAY_ADDRESS={address} refuses the token; set RAY_AUTH_TOKEN "
        "to the cluster's token, or write it to ~/.ray/auth_token\n"
    )


def test_nobody_gets_in_without_the_token(service: Service) -> None:
    for path in ("/api/jobs/", "/api/version", "/api/cluster_status"):
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{service.url}{path}", timeout=10)
    wait_for(lambda: processes_of(service.process.pid, "DashboardAgent"), "the node's agent")
    told = without_token(service.process.pid, ray.util.get_node_ip_address())
    assert len(told) >= 4, "gcs_server, raylet and Ray Client are there"
    assert set(told.values()) <= {"refuses", "tells its metrics"}, told
