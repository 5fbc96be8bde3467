"""Measure raydae's speed, and that of its alternatives.

    raydae benchmark all --out benchmark.json

Parts: train (patches a second), feed (samples), startup (seconds around the steps), scaling
(workers), denoise (megapixels a second). All sides compute on the same device, the CPU or one GPU;
scaling is measured on the CPU only. About a quarter of an hour on two cores or one GPU.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raydae.app.console import make_console
from raydae.app.output_file import OutputFile
from raydae.app.parsing import parse
from raydae.app.tables import benchmark_table


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["all", "train", "feed", "startup", "scaling", "denoise"]] = (
        "all"
    )
    """The part."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What all sides compute on; auto: a GPU if there is one."""
    quick: bool = False
    """One round of 3 s instead of two of 6 s."""
    out: str | None = None
    """File or URI for the results, .json."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code: 1 if a side could not be measured."""
    args = parse(Arguments, __doc__ or "", argv)
    out = None if args.out is None else OutputFile.of(args.out, ".json")
    screen = make_console()

    from raydae.benchmark import harness
    from raydae.benchmark.parts import PARTS

    device = harness.choose_device(args.device)
    facts = {"machine": harness.machine(), "device": device, "quick": args.quick}

    def keep() -> None:
        """Write what is measured so far: a part takes minutes, and a later one may fail."""
        if out is not None:
            found = {"ratios": bench.report.ratios, "rows": bench.report.rows}
            out.write(json.dumps({**facts, **found}, indent=1))

    with tempfile.TemporaryDirectory() as folder:
        bench = harness.Harness(
            Path(folder),
            lambda line: screen.print(line, style="dim"),
            device,
            harness.QUICK_SECONDS if args.quick else harness.SECONDS,
            harness.QUICK_ROUNDS if args.quick else harness.ROUNDS,
            keep,
        )
        for part in PARTS if args.what == "all" else [args.what]:
            if part == "scaling" and device == "cuda":
                screen.print("scaling is left out: on cuda it needs several GPUs; use --device cpu")
                continue
            PARTS[part](bench)
            keep()
    report = bench.report
    screen.print(benchmark_table(report.rows))
    for name, ratio in report.ratios.items():
        screen.print(f"{name:<32} {ratio:.3f}")
    return 1 if bench.failed else 0
