"""Measure where the time goes, beside what one would use instead of raydae.

    python jobs/benchmark.py all --out benchmark.json

Parts: train (patches a second), feed (samples), startup (seconds around the steps), scaling
(workers), denoise (megapixels a second). All on the CPU, about a quarter of an hour on two cores.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raydae import cli, console

PARTS = ("train", "feed", "startup", "scaling", "denoise")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["all", "train", "feed", "startup", "scaling", "denoise"]] = (
        "all"
    )
    """The part."""
    out: str | None = None
    """File or URI for the results, .json."""


def main() -> int:
    """Runs the job; returns its exit code."""
    args = cli.parse(Arguments, __doc__ or "")
    out = None if args.out is None else cli.output_file(args.out, ".json")
    screen = console.make_console()

    from raydae.benchmark import Bench, machine

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), lambda line: screen.print(line, style="dim"))
        for part in PARTS if args.what == "all" else [args.what]:
            getattr(bench, part)()
            if out is not None:  # after each part: they take minutes, and a later one may fail
                found = {"ratios": bench.report.ratios, "rows": bench.report.rows}
                out.write(json.dumps({"machine": machine(), **found}, indent=1))
    report = bench.report
    screen.print(console.benchmark_table(report.rows))
    for name, ratio in report.ratios.items():
        screen.print(f"{name:<32} {ratio:.3f}")
    return 0


if __name__ == "__main__":
    cli.main(main)
