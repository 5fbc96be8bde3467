"""Command lines to print: in the form in which the user started this process.

There are three: `raydae train`, `python -m raydae train` and `python jobs/train.py`.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def invocation(command: str) -> str:
    """Return how to start a command, without its flags."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        words = ["python", "-m", "raydae", command]
    elif program.suffix == ".py":
        words = ["python", str(program.with_name(f"{command}.py"))]
    else:
        on_path = shutil.which(program.name) == sys.argv[0]
        words = [program.name if on_path else sys.argv[0], command]
    return shlex.join(words)


def command_to_continue(command: str, argv: Sequence[str], name: str) -> str:
    """Return the command line that continues a run or search.

    Args:
        command: `train` or `tune`.
        argv: the flags that it was given.
        name: of the run, which may be a new one that the flags do not name.
    """
    words = [word for word in argv if word != "--restart"]
    if not any(word == "--name" or word.startswith("--name=") for word in words):
        words += ["--name", name]
    return f"{invocation(command)} {shlex.join(words)}"


def with_invocations(text: str) -> str:
    """Return a command's docstring, its examples (lines of `raydae COMMAND`) as the user types."""
    return re.sub(
        r"^    raydae (\w+)", lambda found: f"    {invocation(found[1])}", text, flags=re.MULTILINE
    )
