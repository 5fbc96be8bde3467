import contextlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

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
