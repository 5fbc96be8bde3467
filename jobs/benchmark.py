"""Measure where the time goes, beside what one would use instead of raydae.

    python jobs/benchmark.py all --out benchmark.json

Parts: train (patches a second), feed (samples), startup (seconds around the steps), scaling
(workers), denoise (megapixels a second). About a quarter of an hour for all on two cores.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raydae import cli, console
from raydae.storage import Folder

PARTS = ("train", "feed", "startup", "scaling", "denoise")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["all", "train", "feed", "startup", "scaling", "denoise"]] = (
        "all"
    )
    """The part."""
    out: Path | None = None
    """File for the results, .json."""


def main() -> int:
    """Runs the job; returns its exit code."""
    args = cli.parse(Arguments, __doc__ or "")
    screen = console.make_console()

    from raydae.benchmark import Bench, machine

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), lambda line: screen.print(line, style="dim"))
        for part in PARTS if args.what == "all" else [args.what]:
            getattr(bench, part)()
    report = bench.report
    screen.print(console.benchmark_table(report.rows))
    for name, ratio in report.ratios.items():
        screen.print(f"{name:<32} {ratio:.3f}")
    if args.out is not None:
        result = {"machine": machine(), "ratios": report.ratios, "rows": report.rows}
        Folder.of(args.out.parent).write(args.out.name, json.dumps(result, indent=1).encode())
    return 0


if __name__ == "__main__":
    cli.main(main)
