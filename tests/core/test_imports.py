"""What imports what: light processes stay light, and the arrows point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMPY = [
    "config",
    "noise",
    "synthetic",
    "bsds500",
    "pictures",
    "images",
    "samples",
    "storage",
    "space",
]
TORCH = ["models", "optim", "modelfile", "restore", "loop"]


def loaded(module: str) -> set[str]:
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "module", ["raydae", *(f"raydae.{m}" for m in NUMPY), "raydae.training.runs"]
)
def test_neither_torch_nor_ray(module: str) -> None:
    assert not {"torch", "ray"} & loaded(module)


@pytest.mark.parametrize("module", TORCH)
def test_torch_but_not_ray(module: str) -> None:
    modules = loaded(f"raydae.{module}")
    assert "torch" in modules
    assert "ray" not in modules


@pytest.mark.parametrize("module", ["stream", "channel", "cluster", "spread", "search", "trainer"])
def test_ray_but_not_torch(module: str) -> None:
    modules = loaded(f"raydae.{module}")
    assert "ray" in modules
    assert "torch" not in modules


def test_only_the_jobs_make_a_command_line_and_nothing_imports_them() -> None:
    for path in (ROOT / "raydae").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names += [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            for name in names:
                assert name.split(".")[0] != "jobs"
                assert name != "tyro" or path.name == "cli.py"
                assert name != "raydae.app.cli"
