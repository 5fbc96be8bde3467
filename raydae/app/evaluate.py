"""Measure a model by the literature's protocol.

    raydae evaluate --protocol cbsd68 --sigma 15 25 50
    raydae evaluate --noisy noisy/ --clean clean/

PSNR and SSIM of the noisy input and of the result, image by image and as means. Images that the
model was trained on are refused, whatever their names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from raydae.app.console import counting, make_console, print_lines, print_some
from raydae.app.output_file import OutputFile
from raydae.app.parsing import parse
from raydae.app.tables import result_table, score_table, undefined_lines
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.config import SOURCES, check_no_source, check_pairs, is_source
from raydae.images.image_file import ImageFile
from raydae.images.index import Index
from raydae.images.listed import Listed
from raydae.images.listing import Say
from raydae.images.pairs import list_pairs, match_folders
from raydae.images.scan import scan
from raydae.images.sources import cluster_uri, evaluation_images, pairs_folder
from raydae.metrics import METRICS
from raydae.noise.config import NOISES
from raydae.noise.evaluation import EvaluationNoise, PairNoise, TestNoise
from raydae.noise.levels import parse_level
from raydae.noise.user_noise import try_noise
from raydae.training.run_names import find_model

if TYPE_CHECKING:
    from raydae.evaluation.scoring import Score

DEFAULT_LEVELS = ("15", "25", "50")
NOISE_TRIAL_SIZE = 64  # pixels, of the patch that a user's noise is tried out on


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure, and on what."""

    model: str = "gaussian"
    """File or URI; last; photo, gaussian, large: ours."""
    data: str | None = None
    """Folder, URI or MODULE:NAME; none: BSDS500."""
    data_options: tuple[str, ...] = ()
    """NAME=VALUE, of a data source."""
    protocol: Literal["bsds500", "cbsd68"] | None = None
    """Whose test images; none: as the model was trained."""
    sigma: tuple[str, ...] | None = None
    """Levels of white noise, 0-255; none: 15 25 50."""
    noise: str | None = None
    """Noise kind (docs/noise.md), or MODULE:NAME."""
    noise_options: tuple[str, ...] = ()
    """NAME=VALUE, of the noise kind."""
    noisy: str | None = None
    """Folder of noisy pictures; needs --clean."""
    clean: str | None = None
    """Folder of their clean ones, of the same names."""
    pairs: str | None = None
    """Pairs in --data: NOISY=CLEAN or a .csv (docs/pairs.md)."""
    out: str | None = None
    """File or URI for the results, .json or .csv."""
    ensemble: bool = False
    """Average over the eight flips and turns."""
    compare: bool = False
    """Also measure denoisers without training; slow."""
    told: tuple[str, ...] = ()
    """Levels (0-255) to tell those; none: the true one."""
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
    out = None if args.out is None else OutputFile.of(args.out, ".json", ".csv")
    screen = make_console()
    measured = measure(args, screen)

    from raydae.evaluation import tables  # with torch, which takes seconds

    if not args.summary:
        screen.print(score_table(tables.to_records(measured.scores)))
    screen.print(result_table(measured.rows))
    print_lines(screen, [*undefined_lines(measured.rows), *measured.unread])
    screen.print(f"model: {measured.model}", soft_wrap=True)
    if measured.remark:
        screen.print(f"note: {measured.remark}", style="yellow")
    print_some(screen, "not measured", measured.not_measured)
    if out is not None:
        results = {
            "results": measured.rows,
            "model": measured.model,
            "unreadable": measured.not_measured,
            "images": tables.to_records(measured.scores),
        }
        is_csv = out.name.endswith(".csv")
        out.write(tables.to_csv(measured.scores) if is_csv else json.dumps(results, indent=1))
    return 1 if measured.not_measured else 0


@dataclass(frozen=True)
class Measured:
    """What an evaluation found."""

    model: str
    """Absolute path or URI."""
    rows: list[dict[str, Any]]
    """Means over the images, as `tables.mean_rows` has them."""
    scores: "list[Score]"
    """Image by image."""
    remark: str | None
    """What weakens the result, if anything does."""
    not_measured: list[str]
    """One line for each image that could not be measured."""
    unread: list[str]
    """Lines that count pictures of other formats."""


def measure(args: Arguments, screen: Console) -> Measured:
    """Measure a model.

    Args:
        args: what to measure, and on what.
        screen: where to show how far it is.

    Raises:
        UserError: a level, metric, model or image set that does not exist, or images that the model
            was trained on.
    """
    paired = _check_pair_flags(args)
    noises: list[TestNoise] = [PairNoise()] if paired else list(_noises(args))
    for name in args.metrics:
        METRICS.options_class(name)  # raises for an unknown name
    told = [parse_level(text, "--told") for text in args.told]
    if told and not args.compare:
        raise UserError("--told is for the denoisers of --compare; give that too")
    options = _source_options(args)
    model = find_model(args.model)

    from raydae.distributed.start import start_ray
    from raydae.evaluation import overlap, scoring, tables  # with Ray and torch: seconds
    from raydae.models.model_file import load_model

    _, info = load_model(model, args.trust)
    images: Sequence[ImageFile]
    unread: list[str] = []
    if paired:
        name, images, unreadable = _find_pairs(args, screen, unread.append)
    else:
        name, listed = evaluation_images(
            args.data, args.protocol, info.protocol, options, unread.append
        )
        with counting(screen, "checking images") as progress:
            index = Index(args.data or cluster_uri() or "BSDS500")
            images, unreadable = scan(Listed.of(listed), progress, index=index)
    if not images:
        count = len(unreadable)
        raise UserError(f"none of the {count} images can be used, the first: {unreadable[0]}")

    remark = overlap.check_overlap(info, images, args.force)
    start_ray()
    with counting(screen, "denoising") as progress:
        scores, failed = scoring.evaluate(
            model,
            images,
            noises,
            progress,
            metrics=args.metrics,
            trust=args.trust,
            ensemble=args.ensemble,
            compare=args.compare,
            told=told,
        )
    if not scores:
        raise UserError(f"none of the {len(images)} images could be measured: {failed[0]}")
    rows = tables.mean_rows(name, scores, remark)
    return Measured(model, rows, scores, remark, [*unreadable, *failed], unread)


def _noises(args: Arguments) -> list[EvaluationNoise]:
    """Return the noise to measure with.

    Raises:
        UserError: a level, kind or option that does not exist.
    """
    if args.noise is None:
        if args.noise_options:
            raise UserError("--noise-options needs a noise kind; give --noise too")
        levels = DEFAULT_LEVELS if args.sigma is None else args.sigma
        if not levels:
            raise UserError("--sigma: give at least one level, such as 25")
        return [EvaluationNoise.white(parse_level(text, "--sigma")) for text in levels]
    if args.sigma is not None:
        raise UserError(
            "--sigma measures with white Gaussian noise; give --noise a level by --noise-options, "
            "or leave out one of the two"
        )
    given = _parse_options(args.noise_options, "--noise-options")
    options = NOISES.check(args.noise, given, "--noise-options")
    noise = NOISES.bind(args.noise, options)
    if args.noise not in NOISES.builtins:
        try_noise(noise, args.noise, NOISE_TRIAL_SIZE)
    return [EvaluationNoise(kind=args.noise, options=options)]


def _check_pair_flags(args: Arguments) -> bool:
    """Return whether noise is measured that pairs bring along, not noise that is added.

    Raises:
        UserError: flags that exclude each other, or one without the other.
    """
    if (args.noisy is None) != (args.clean is None):
        given, missing = ("--noisy", "--clean") if args.clean is None else ("--clean", "--noisy")
        raise UserError(f"{given} names one half of the pairs; give {missing} FOLDER too")
    flag = "--pairs" if args.noisy is None else "--noisy"
    if args.noisy is None and args.pairs is None:
        return False
    others = {
        "--sigma": args.sigma,
        "--noise": args.noise,
        "--noise-options": args.noise_options or None,
        "--protocol": args.protocol,
    }
    if args.noisy is not None:
        others |= {"--pairs": args.pairs, "--data": args.data}
    for other, value in others.items():
        if value is not None:
            raise UserError(f"{flag} measures pairs as they are; leave {other} out")
    if args.pairs is not None:
        check_pairs(args.pairs, "--pairs")
        check_no_source(args.data, "--pairs")
    return True


def _find_pairs(
    args: Arguments, screen: Console, say: Say
) -> tuple[str, Sequence[ImageFile], list[str]]:
    """Return the name of the pairs, an image for each noisy file, and a line on each other file.

    Raises:
        UserError: the pairs cannot be found.
    """
    if args.noisy is not None and args.clean is not None:
        name, place = Folder.of(args.noisy).name, f"{args.noisy} ({args.clean})"
        pairs, alone = match_folders(args.noisy, args.clean, say)
    else:
        path = pairs_folder(args.data)
        name, place = Folder.of(path).name, f"{path} ({args.pairs})"
        pairs, alone = list_pairs(path, args.pairs or "", say)
    with counting(screen, "checking pairs") as progress:
        files, left_out = scan(Listed.of(pairs), progress, index=Index(place))
    images = [
        replace(file, name=noisy.name, noisy=(noisy,)) for file in files for noisy in file.noisy
    ]
    return name, images, [*alone, *left_out]


def _source_options(args: Arguments) -> dict[str, Any]:
    """Return the options of the data source."""
    if not args.data_options:
        return {}
    if args.data is None or not is_source(args.data):
        raise UserError("--data-options needs a data source; give --data MODULE:NAME")
    options = _parse_options(args.data_options, "--data-options")
    return SOURCES.check(args.data, options, "--data-options")


def _parse_options(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """Return options that are written as NAME=VALUE; numbers and booleans are spelt as in JSON."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag} {text}: write NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
