"""The commands in the README can be typed."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from raydae.app.parsing import parse, parse_with_config
from raydae.core.storage import Folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip().rpartition("&& ")[2].rpartition(" -- ")[2]
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith(("python jobs/", "raydae "))]
)
def test_a_command_line_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/mine/config.json", "runs/found/best.json"):
        Folder.of(tmp_path).write(file, b"{}")
    program, name, *words = shlex.split(command)
    module = importlib.import_module(f"raydae.app.{Path(name).stem}")
    assert program == "raydae" or (ROOT / name).is_file()
    if hasattr(module, "Launch"):
        parse_with_config(module.Launch, "", words)
    else:
        parse(module.Arguments, "", words)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (command,) = [line for line in script.splitlines() if line.startswith("pytest")]
    for line in ('pip install -e ".[test]"', command):
        assert f"{line}\n" in README
    assert '-e ".[test]"' in script
