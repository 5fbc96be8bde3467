"""Measure a model by the literature's protocol.

    python jobs/evaluate.py --protocol cbsd68 --sigma 15 25 50

PSNR and SSIM of the noisy input and of the result, image by image and as means. A model is not
measured on images it was trained on, whatever their names.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from raydae.app import cli, console
from raydae.core.config import parse_level
from raydae.core.errors import UserError
from raydae.images.sources import evaluation_images, scan
from raydae.training.runs import find_model


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
    summary: bool = False
    """Show the means only."""
    force: bool = False
    """Measure on training images too; marks the results."""


def main() -> int:
    """Runs the job; returns its exit code."""
    args = cli.parse(Arguments, __doc__ or "")
    sigmas = [parse_level(text, "--sigma") for text in args.sigma]
    if not sigmas:
        raise UserError("--sigma: give at least one level, such as 25")
    out = None if args.out is None else cli.output_file(args.out, ".json", ".csv")
    model = find_model(args.model)
    screen = console.make_console()

    from raydae.distributed.start import start_ray
    from raydae.evaluation import evaluation  # with Ray and torch, which take seconds
    from raydae.models.model_file import load_model

    _, info = load_model(model)
    name, listed = evaluation_images(args.data, args.protocol, info.protocol)
    with console.counting(screen, "checking images") as progress:
        images, unreadable = scan(listed, progress)
    if not images:
        raise UserError(f"none of the {len(listed)} images can be read, the first: {unreadable[0]}")

    remark = evaluation.check_overlap(info, images, args.force)
    start_ray()
    with console.counting(screen, "denoising") as progress:
        scores, failed = evaluation.evaluate(
            model, images, sigmas, progress, args.ensemble, args.compare
        )
    rows = evaluation.table(name, scores, remark)
    if not args.summary:
        screen.print(console.score_table([asdict(line) for line in scores]))
    screen.print(console.result_table(rows))
    screen.print(f"model: {model}", soft_wrap=True)
    if remark:
        screen.print(f"note: {remark}", style="yellow")
    if out is not None:
        results = {
            "results": rows,
            "model": model,
            "unreadable": [*unreadable, *failed],
            "images": evaluation.records(scores),
        }
        text = (
            evaluation.to_csv(scores)
            if out.name.endswith(".csv")
            else json.dumps(results, indent=1)
        )
        out.write(text)
    console.print_some(screen, "not measured", [*unreadable, *failed])
    return 1 if unreadable or failed else 0


if __name__ == "__main__":
    cli.main(main)
