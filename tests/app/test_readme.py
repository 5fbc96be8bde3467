"""What the README says to type can be typed, and what it lists is there."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from raydae.app import cli
from raydae.core.storage import Folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip().rpartition("&& ")[2].rpartition(" -- ")[2]
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"job_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python jobs/")])
def test_a_job_s_command_line_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/mine/config.json", "runs/found/best.json"):
        Folder.of(tmp_path).write(file, b"{}")
    _, script, *words = shlex.split(command)
    module = load(Path(script).stem)
    if hasattr(module, "Launch"):
        cli.parse_with_config(module.Launch, "", words)
    else:
        cli.parse(module.Arguments, "", words)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (command,) = [line for line in script.splitlines() if line.startswith("pytest")]
    for line in ('pip install -e ".[test]"', command):
        assert f"{line}\n" in README
    assert '-e ".[test]"' in script


def test_every_module_is_listed() -> None:
    modules = {path.name for path in (ROOT / "raydae").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^      (\w+\.py) ", README, flags=re.MULTILINE)) == modules
