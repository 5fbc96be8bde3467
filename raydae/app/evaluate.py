"""Measure a model by the literature's protocol.

    raydae evaluate --protocol cbsd68 --sigma 15 25 50

PSNR and SSIM of the noisy input and of the result, image by image and as means. Images that the
model was trained on are refused, whatever their names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raydae.app.console import counting, make_console, print_some
from raydae.app.output_file import OutputFile
from raydae.app.parsing import parse
from raydae.app.tables import result_table, score_table
from raydae.core.errors import UserError
from raydae.images.sources import evaluation_images, scan
from raydae.metrics import METRICS
from raydae.noise.levels import parse_level
from raydae.training.run_names import find_model


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure, and on what."""

    model: str = "released"
    """File or URI; last: the newest run's; released, large: ours."""
    data: str | None = None
    """Folder or URI of images; none: BSDS500."""
    protocol: Literal["bsds500", "cbsd68"] | None = None
    """Whose test images; none: as the model was trained."""
    sigma: tuple[str, ...] = ("15", "25", "50")
    """Noise levels on the 0-255 scale."""
    out: str | None = None
    """File or URI for the results, .json or .csv."""
    ensemble: bool = False
    """Average over the eight flips and turns."""
    compare: bool = False
    """Also measure denoisers without training; slow."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """psnr, ssim, MODULE:NAME."""
    trust: tuple[str, ...] = ()
    """Modules that the model file may import."""
    summary: bool = False
    """Show the means only."""
    force: bool = False
    """Measure on training images too; marks the results."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code: 1 if an image could not be measured."""
    args = parse(Arguments, __doc__ or "", argv)
    sigmas = [parse_level(text, "--sigma") for text in args.sigma]
    if not sigmas:
        raise UserError("--sigma: give at least one level, such as 25")
    out = None if args.out is None else OutputFile.of(args.out, ".json", ".csv")
    for name in args.metrics:
        METRICS.options_class(name)  # raises for an unknown name
    model = find_model(args.model)
    screen = make_console()

    from raydae.distributed import cluster
    from raydae.evaluation import overlap, scoring, tables  # with Ray and torch: seconds
    from raydae.models.model_file import load_model

    _, info = load_model(model, args.trust)
    name, listed = evaluation_images(args.data, args.protocol, info.protocol)
    with counting(screen, "checking images") as progress:
        images, unreadable = scan(listed, progress)
    if not images:
        raise UserError(f"none of the {len(listed)} images can be read, the first: {unreadable[0]}")

    remark = overlap.check_overlap(info, images, args.force)
    cluster.start_ray()
    with counting(screen, "denoising") as progress:
        scores, failed = scoring.evaluate(
            model,
            images,
            sigmas,
            progress,
            metrics=args.metrics,
            trust=args.trust,
            ensemble=args.ensemble,
            compare=args.compare,
        )
    not_measured = [*unreadable, *failed]
    rows = tables.mean_rows(name, scores, remark)
    if not args.summary:
        screen.print(score_table(tables.to_records(scores)))
    screen.print(result_table(rows))
    screen.print(f"model: {model}", soft_wrap=True)
    if remark:
        screen.print(f"note: {remark}", style="yellow")
    print_some(screen, "not measured", not_measured)
    if out is not None:
        results = {
            "results": rows,
            "model": model,
            "unreadable": not_measured,
            "images": tables.to_records(scores),
        }
        is_csv = out.name.endswith(".csv")
        out.write(tables.to_csv(scores) if is_csv else json.dumps(results, indent=1))
    return 1 if not_measured else 0
