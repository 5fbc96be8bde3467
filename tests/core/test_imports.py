"""The rooms of the house: who may import whom, and who stays light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each room, and the rooms it may import. A room may always import itself.
BASE = {"core"}
LOWER = {*BASE, "images", "noise", "models", "metrics"}
MIDDLE = {*LOWER, "training", "distributed"}
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "images": BASE,
    "noise": BASE,
    "models": BASE,
    "metrics": BASE,
    "training": LOWER,
    "distributed": {*LOWER, "training"},
    "search": MIDDLE,
    "evaluation": MIDDLE,
    "benchmark": MIDDLE,
    "app": {*MIDDLE, "search", "evaluation", "benchmark"},
}
RAY_ROOMS = {"distributed", "search"}
ONLY_APP = {"tyro"}  # packages for command lines

NO_TORCH = [
    "raydae",
    *(f"raydae.core.{name}" for name in ("settings", "components", "storage", "random_numbers")),
    *(f"raydae.images.{name}" for name in ("pictures", "sources", "source", "synthetic")),
    *(f"raydae.images.{name}" for name in ("bsds500", "bsds500_download", "denoise_file")),
    *(f"raydae.images.{name}" for name in ("denoise_tiff", "tiff_rewrite", "png16", "depth")),
    *(f"raydae.images.{name}" for name in ("pillow_file", "metadata", "sgi16")),
    "raydae.noise.gaussian",
    "raydae.noise.estimate",
    "raydae.training.samples",
    "raydae.models.config",
    "raydae.evaluation.run_scores",
    *(f"raydae.app.{name}" for name in ("train", "run_test")),
    "raydae.training.config",
    "raydae.training.run_folder",
    "raydae.training.run_names",
    *(f"raydae.search.{name}" for name in ("space", "settings", "sampler", "trials")),
]
NO_RAY = ["raydae.models.model_file", "raydae.models.inference", "raydae.training.loop"]
RAY_BUT_NO_TORCH = [
    *(
        f"raydae.distributed.{name}"
        for name in ("stream", "channel", "start", "resources", "trainer", "helper")
    ),
    "raydae.search.search",
]


def room_of(module: str) -> str:
    """The room of a module's dotted name; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "raydae" and len(parts) > 1 and parts[1] in ROOMS else ""


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_folder_is_a_room() -> None:
    found = {path.parent.name for path in (ROOT / "raydae").glob("*/__init__.py")}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    allowed = {room, *ROOMS[room]}
    wrong = [
        f"{path.name}: {name}"
        for path in (ROOT / "raydae" / room).rglob("*.py")
        for name in imports(path)
        if (room_of(name) and room_of(name) not in allowed)
        or (name.split(".")[0] == "ray" and room not in RAY_ROOMS)
        or (name.split(".")[0] in ONLY_APP and room != "app")
        or name.split(".")[0] == "jobs"
    ]
    assert not wrong


def loaded(module: str) -> set[str]:
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize("module", NO_TORCH)
def test_neither_torch_nor_ray(module: str) -> None:
    assert not {"torch", "ray"} & loaded(module)


@pytest.mark.parametrize("module", NO_RAY)
def test_torch_but_not_ray(module: str) -> None:
    modules = loaded(module)
    assert "torch" in modules
    assert "ray" not in modules


@pytest.mark.parametrize("module", RAY_BUT_NO_TORCH)
def test_ray_but_not_torch(module: str) -> None:
    modules = loaded(module)
    assert "ray" in modules
    assert "torch" not in modules


def test_no_file_and_no_class_is_too_long() -> None:
    for path in (ROOT / "raydae").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno < 200, f"{path}: {node.name}"


@pytest.mark.parametrize("job", ["train", "tune", "evaluate", "denoise", "benchmark"])
def test_a_job_is_a_few_lines(job: str) -> None:
    assert len((ROOT / "jobs" / f"{job}.py").read_text().splitlines()) < 20


def test_private_parts_of_ray_are_used_in_one_file() -> None:
    pattern = re.compile(r"ray\._private|_internal|_raylet")
    files = [path for path in (ROOT / "raydae").rglob("*.py") if pattern.search(path.read_text())]
    assert files == [ROOT / "raydae" / "distributed" / "internals.py"]
