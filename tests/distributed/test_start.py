import contextlib
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from raydae.core.errors import UserError
from raydae.distributed import start
from raydae.distributed.start import create_token


@pytest.mark.parametrize(("platform", "gpus"), [("darwin", 0), ("linux", None)])
def test_the_gpu_of_a_mac_is_not_counted(
    platform: str, gpus: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ray, "init", asked.update)
    start.start_ray()
    assert asked.get("num_gpus") == gpus


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 within 1 s; start it"),
        ("ray://127.0.0.1:10001", "ray job submit --address http://HEAD:8265 -- python"),
        ("http://127.0.0.1:8265", "RAY_ADDRESS=http://127.0.0.1:8265 cannot be used for training"),
    ],
)
def test_a_cluster_that_is_none_is_refused_soon(
    address: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(start, "ANSWER_S", 1)
    began = time.monotonic()
    with pytest.raises(UserError) as refusal:
        start.start_ray()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - began < 10


def test_a_server_that_is_no_cluster_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ANSWER_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="no Ray cluster answers"):
            start.start_ray()


@pytest.mark.parametrize("name", ["torch", "random", "raydae"])
def test_a_file_that_hides_a_library_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text("")
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/{name}.py hides the library {name} from"):
        start.start_ray()


@pytest.mark.parametrize(
    ("limits", "raised"), [((64, 4096), (1024, 4096)), ((64, -1), (1024, -1)), ((64, 64), None)]
)
def test_the_limit_of_open_files(
    limits: tuple[int, int], raised: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, values: now.append(values))
    monkeypatch.setattr(ray, "init", lambda **settings: None)
    if raised is None:
        with pytest.raises(UserError, match=r"may open 64 files, and Ray needs 1024; .* ulimit -n"):
            start.start_ray()
    else:
        start.start_ray()
        assert now == [raised]


def test_a_temporary_folder_with_a_long_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=r"cannot exceed 107.*; set TMPDIR to a shorter path"):
        start.start_ray()


STOPPED_AT_THE_START = """
import signal, sys, threading
import ray
from raydae.app import process
from raydae.core.errors import UserError
from raydae.distributed import start
init = ray.init
def slowly(**settings):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does
    if sys.argv[1] == "before":
        signal.raise_signal(signal.SIGTERM)
    init(**settings)
    if sys.argv[1] == "after":
        signal.raise_signal(signal.SIGTERM)
ray.init = slowly
process.run_and_exit(lambda: start.start_ray() or 3)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_sigterm_while_ray_starts_ends_all_with_a_clean_code(when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_AT_THE_START, when],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 143
    assert done.stderr == "interrupted\n"


def test_the_token_is_made_for_its_owner_s_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    token = tmp_path / ".ray" / "auth_token"
    create_token()
    made = token.read_text()
    assert len(made) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    token.chmod(0o644)  # as Ray leaves it
    create_token()
    assert token.read_text() == made
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ray").write_text("a file")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    create_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32


ENDS_WITH_THREADS = """
import os, threading, time
import psutil, ray
from raydae.app import process
from raydae.core.errors import UserError
from raydae.distributed import start

def job():
    start.start_ray()
    held = [ray.put(number) for number in range(1000)]
    def let_go():
        while True:
            held and held.pop()
            time.sleep(0.001)
    threading.Thread(target=let_go, daemon=True).start()
    time.sleep(0.1)
    print(*(child.pid for child in psutil.Process().children(recursive=True)))
    return 2

process.run_and_exit(job)
"""


def test_a_job_ends_all_of_its_ray_and_with_its_own_code_whatever_threads_do() -> None:
    """After `ray.shutdown`, a thread that lets an object go would end the process with 1."""
    job = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_THREADS], stdout=subprocess.PIPE, text=True, check=False
    )
    assert job.returncode == 2
    started = [int(pid) for pid in job.stdout.split()]
    assert len(started) >= 2
    time.sleep(1)  # left to themselves, some of them would stay for ten
    for pid in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ray_sees_a_command_line_that_is_utf_8() -> None:
    program = (
        "import psutil, ray; from raydae.distributed import start\n"
        "ray.init = lambda **settings: print(psutil.Process().cmdline()[-1])\n"
        "start.start_ray()"
    )
    word = os.fsdecode(b"caf\xe9.png")
    run = subprocess.run([sys.executable, "-c", program, word], capture_output=True, check=True)
    assert run.stdout == b"caf\\udce9.png\n"
