"""The command `raydae`: choose a command by its name, and run it.

The table is written by hand, and not with tyro's subcommands: tyro needs the flags of all commands,
and so the imports of all their modules, to find the one that is asked for.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from raydae.app import process
from raydae.core.errors import UserError

COMMANDS = {
    "train": "Train a denoiser.",
    "tune": "Search noise level, learning rate and more.",
    "evaluate": "Measure a model by the literature's protocol.",
    "denoise": "Denoise pictures.",
    "benchmark": "Measure raydae's speed, and that of its alternatives.",
}
"""Each command is the module of that name in this folder; with the first line of its docstring."""


def main() -> NoReturn:
    """Run the command that the first word of the command line names, and exit."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("Train image denoisers on Ray, and denoise images with them.\n")
        for name, summary in COMMANDS.items():
            print(f"  raydae {name:<10}  {summary}")
        print("\nraydae COMMAND --help lists the flags of a command.")
        sys.exit(0)
    run(words[0], words[1:])


def run(command: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with its code.

    Args:
        command: a name in `COMMANDS`; any other ends the process with one line and code 2.
        argv: the words after the command; none: all of this process's.
    """

    def job() -> int:
        if command not in COMMANDS:
            close = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
            advice = f"did you mean {close[0]}?" if close else f"choose {' or '.join(COMMANDS)}"
            raise UserError(f"there is no command {command}; {advice}")
        # torch reads it once: large tensors in pages of 2 MiB, a fifth less time for photographs.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        module = importlib.import_module(f"raydae.app.{command}")
        code: int = module.main(sys.argv[1:] if argv is None else argv)
        return code

    process.run_and_exit(job)
