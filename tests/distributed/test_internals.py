"""The contracts of raydae's patches of Ray: each fails here by name if Ray has changed."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydae.distributed import internals

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"ray\._private|_internal\b|_raylet")


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_warned", set())


def test_private_parts_of_ray_are_used_in_one_file() -> None:
    files = [path for path in (ROOT / "raydae").rglob("*.py") if PRIVATE.search(path.read_text())]
    assert [path.name for path in files] == ["internals.py"]


@pytest.mark.parametrize("name", internals.PATCHES)
def test_the_contract_of(name: str) -> None:
    """Without the fall-back, a broken contract raises."""
    assert internals.PATCHES[name]() is not None


@pytest.mark.parametrize("name", internals.PATCHES)
def test_stock_ray_on_request(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAYDAE_STOCK_RAY", "1")
    assert getattr(internals, name)() is None
    assert not caplog.records


def break_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray._private.node.Node, "start_monitor", lambda self, new: None)
    monkeypatch.setattr(DataParallelTrainer, "_create_default_callbacks", lambda self, new: [])


def break_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray._private.node.Node, "start_monitor")
    monkeypatch.delattr(DataParallelTrainer, "_create_default_callbacks")


def break_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray._private, "node")
    monkeypatch.setitem(
        sys.modules, "ray.train.v2._internal.callbacks.placement_group_callback", None
    )


@pytest.mark.parametrize("name", internals.PATCHES)
@pytest.mark.parametrize("change", [break_signature, break_attribute, break_module])
def test_stock_ray_and_one_warning_if_ray_has_changed(
    name: str, change: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert getattr(internals, name)() is None
        assert getattr(internals, name)() is None
    (record,) = caplog.records
    assert f"Ray {ray.__version__} does not fit raydae's patch {name}" in record.getMessage()
    assert record.getMessage().endswith("running without it")


@pytest.mark.parametrize("name", ["lean_trainer", "local_trainer"])
def test_a_trainer_lacks_the_cleaner_and_the_data_sets_only(name: str) -> None:
    def callbacks(trainer: Any) -> list[str]:
        made = trainer(print, run_config=ray.train.RunConfig(name="x", storage_path="/tmp"))
        return [type(callback).__name__ for callback in made._create_default_callbacks()]

    stock = callbacks(DataParallelTrainer)
    stock.remove("PlacementGroupCleanerCallback")
    stock.remove("DatasetsCallback")
    assert callbacks(internals.PATCHES[name]()) == stock


START = """
import sys
import psutil, ray
from raydae.distributed.start import leave, start_ray
if "broken" in sys.argv:
    ray._private.node.Node.start_monitor = lambda self, new=None: None
start_ray()
assert ray.get(ray.remote(lambda: 3).remote()) == 3
print(*(" ".join(child.cmdline()) for child in psutil.Process().children()), sep="\\n")
leave()
"""


def started(*words: str, **environment: str) -> tuple[str, str]:
    """The command lines of the processes that Ray starts for a node, and the errors printed."""
    job = subprocess.run(
        [sys.executable, "-c", START, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return job.stdout, job.stderr


def test_a_bare_node_has_neither_dashboard_nor_monitors() -> None:
    commands, errors = started()
    assert "raylet" in commands
    assert "gcs_server" in commands
    for process in ("dashboard.py", "monitor.py", "log_monitor.py"):
        assert process not in commands
    assert not errors


def test_a_node_whose_contract_is_broken_is_stock_and_says_so() -> None:
    commands, errors = started("broken")
    assert "dashboard.py" in commands
    (line,) = errors.splitlines()
    assert "does not fit raydae's patch bare_node_class" in line
