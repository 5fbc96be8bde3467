"""`raydae` and `python -m raydae`: which command runs, and what is imported for it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydae.app.invocation import command_to_continue, invocation, with_invocations
from raydae.app.main import COMMANDS

ROOT = Path(__file__).parents[2]


def python(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, check=False
    )


def test_help_has_a_line_for_each_command() -> None:
    shown = python("-m", "raydae", "--help")
    assert shown.returncode == 0
    lines = [line.split(maxsplit=2) for line in shown.stdout.splitlines()]
    for name, summary in COMMANDS.items():
        assert ["raydae", name, summary] in lines
    assert python("-m", "raydae").stdout == shown.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_and_a_script_of_its_name(name: str) -> None:
    module = importlib.import_module(f"raydae.app.{name}")
    assert (module.__doc__ or "").startswith(f"{COMMANDS[name]}\n\n    raydae {name} ")
    script = (ROOT / "jobs" / f"{name}.py").read_text()
    assert script.startswith(f'"""{COMMANDS[name]}\n\n    python jobs/{name}.py ')
    assert script.endswith(f'    run("{name}")\n')
    assert len(script.splitlines()) < 20


def test_a_command_and_its_script_have_one_help() -> None:
    shown = python("-m", "raydae", "denoise", "--help").stdout
    assert "    python -m raydae denoise PHOTO.jpg" in shown
    script = str(ROOT / "jobs" / "denoise.py")
    expected = shown.replace("python -m raydae denoise", f"python {script}")
    assert python(script, "--help").stdout == expected


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("trian", "error: there is no command trian; did you mean train?"),
        ("--name", "error: there is no command --name; choose train or tune or"),
    ],
)
def test_an_unknown_command_is_one_line(word: str, says: str) -> None:
    ended = python("-m", "raydae", word)
    assert ended.returncode == 2
    assert ended.stderr.startswith(says)
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["", "train", "tune", "evaluate", "denoise", "benchmark"])
def test_help_imports_neither_torch_nor_ray_and_no_other_command(command: str) -> None:
    program = (
        "import sys, atexit; sys.argv[1:] = [*sys.argv[1:], '--help']\n"
        "from raydae.app.main import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    ended = python("-c", program, *command.split())
    modules = set(ended.stdout.splitlines()[-1].split())
    assert "raydae.app.main" in modules, ended.stderr
    assert not {"torch", "ray"} & modules
    imported = {name for name in COMMANDS if f"raydae.app.{name}" in modules}
    assert imported == set(command.split())


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("jobs/train.py", "python jobs/tune.py"),
        ("./train.py", "python tune.py"),
        ("/usr/lib/python3/raydae/__main__.py", "python -m raydae tune"),
        ("{here}/raydae", "raydae tune"),
        ("elsewhere/raydae", "elsewhere/raydae tune"),
    ],
)
def test_commands_are_printed_as_the_user_started_this_one(
    program: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "raydae"
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [program.format(here=tmp_path)])
    assert invocation("tune") == expected
    assert (
        with_invocations("Raydae.\n\n    raydae tune --lr 1") == f"Raydae.\n\n    {expected} --lr 1"
    )
    continued = command_to_continue("tune", ["--storage", "a b", "--restart"], "x")
    assert continued == f"{expected} --storage 'a b' --name x"
    assert command_to_continue("tune", ["--name=y"], "y") == f"{expected} --name=y"
