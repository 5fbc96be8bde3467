"""The wheel, installed and used far from any checkout; building it needs a package index."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from tests.app.test_jobs import ROOT, SETTINGS
from tests.conftest import draw_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all that this one has, and raydae from a wheel."""
    source = tmp_path_factory.mktemp("source") / "raydae"
    ignored = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT, source, ignore=ignored)
    build: list[str | Path] = [
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--wheel-dir",
        source.parent,
        source,
    ]
    subprocess.run([sys.executable, *build], check=True)
    (wheel,) = source.parent.glob("*.whl")

    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "more.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    # Without --ignore-installed, pip would be content with the raydae of this environment.
    install: list[str | Path] = ["-m", "pip", "install", "--no-deps", "--ignore-installed", wheel]
    subprocess.run([folder / "bin" / "python", *install], check=True, env=without_path())
    return folder


def without_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_every_command_runs_from_any_folder(
    environment: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    photographs = draw_folder(tmp_path_factory.mktemp("photographs"), 20, 80, 96)
    env = {**without_path(), "PATH": f"{environment}/bin:{os.environ['PATH']}"}

    def raydae(*words: object) -> str:
        command = ["raydae", *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    data = ["--data", photographs, *SETTINGS]
    output = raydae("train", *data, "--name", "a")
    assert f"files: {tmp_path / 'runs' / 'a'}" in output
    raydae("evaluate", "--model", "last", "--data", photographs / "test", "--out", "scores.csv")
    raydae("denoise", photographs / "test", "--out", "denoised")  # by the released model
    raydae("tune", *data, "--name", "s", "--num-samples", "2", "--max-epochs", "1")
    raydae("benchmark", "startup", "--quick", "--device", "cpu", "--out", "benchmark.json")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"runs", "scores.csv", "denoised", "benchmark.json"}
    assert len(list((tmp_path / "denoised").iterdir())) == 2
    assert (tmp_path / "runs" / "s" / "best.json").exists()
