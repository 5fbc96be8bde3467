"""Denoise pictures.

    raydae denoise PHOTO.jpg --out denoised

Takes files, folders and patterns; writes each result under the picture's name, in its format, size
and mode, with its metadata. Several pictures are spread over Ray's workers. The noise level of each
picture is estimated and printed, on the 0-255 scale.
"""

import csv
import ctypes
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray

from raydae import load
from raydae.app.console import counting, make_console, print_some
from raydae.app.output_file import check_writable
from raydae.app.parsing import parse
from raydae.core.errors import UserError, first_line, one_line
from raydae.core.storage import Folder, local_path
from raydae.images.denoise_file import denoise_file
from raydae.images.inputs import describe_left_out, expand
from raydae.images.pictures import PictureError, read_rgb
from raydae.models.released import RELEASED
from raydae.noise.estimate import estimate_sigma
from raydae.noise.levels import parse_level
from raydae.training.run_names import find_model

if TYPE_CHECKING:
    from raydae.models.inference import Denoiser

# Levels below which a picture has no noise to speak of, and a model has removed nothing: without
# noise, photographs of BSDS500 are estimated at 0.8 and lose 0.3.
NO_NOISE, NOTHING_REMOVED = 1.5, 0.5

FAILED = "failed.csv"
PANEL = ".panel.png"

Pair = tuple[Path, Path]
"""A picture, and where its result goes."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, as in malloc.h


class Outcome(NamedTuple):
    """What became of a picture."""

    source: Path
    problem: str | None
    """What went wrong, or none."""
    notes: tuple[str, ...] = ()
    """Lines to print."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to denoise, with what, and where to."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders, patterns such as 'shots/*.png'."""
    out: str
    """Folder for the results; replaces files there."""
    model: str | None = None
    """File or URI; last; ours: photo (the default), gaussian, large."""
    strength: float = 1.0
    """Part of the noise to remove, 0 to 1."""
    luma: float | None = None
    """The same for brightness alone; less keeps texture."""
    chroma: float | None = None
    """The same for colour alone."""
    pages: bool = False
    """Denoise every page of TIFFs that have several."""
    ensemble: bool = False
    """Average over the eight flips and turns: 8 times the time."""
    trust: tuple[str, ...] = ()
    """Modules that the model file may import."""
    add_noise: str | None = None
    """Add white noise of this sigma first (model: gaussian); saves a panel."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code: 1 if a picture could not be denoised."""
    args = parse(Arguments, __doc__ or "", argv)
    sigma = None if args.add_noise is None else parse_level(args.add_noise, "--add-noise")
    check_strengths(args)
    if args.pages and sigma is not None:
        raise UserError("--add-noise takes single pictures: leave out --pages")
    if not args.inputs:
        raise UserError("no pictures given: name files, folders or patterns")
    model = find_model(args.model or ("photo" if sigma is None else "gaussian"))
    work, left_out = find_pictures(args.inputs, args.out)
    check_writable(Folder.of(args.out), args.out)
    # A bad model is refused here rather than in every worker; the GPUs are left to the workers.
    load(model, device="cpu", trust=args.trust)

    screen = make_console()
    failed: list[tuple[Path, str]] = []
    with counting(screen, "denoising") as progress:
        for done, outcome in enumerate(_denoise_all(args, model, sigma, work), start=1):
            failed += [(outcome.source, outcome.problem)] if outcome.problem else []
            for note in outcome.notes:
                screen.print(one_line(note), soft_wrap=True)
            progress(done, len(work))
    done_well = f"{len(work) - len(failed)} of {len(work)}"
    screen.print(f"{done_well} pictures are in {args.out}", soft_wrap=True)
    if left_out:
        screen.print(left_out, style="yellow", soft_wrap=True)
    print_some(
        screen, "not denoised", [f"{path}: {reason}" for path, reason in sorted(failed)], limit=10
    )
    write_failed(Folder.of(args.out), failed)
    if failed:
        screen.print(f"all of them are in {Path(args.out) / FAILED}", soft_wrap=True)
    return 1 if failed else 0


def return_large_blocks() -> None:
    """Let this process's C library return every freed block of 8 MiB or more to the system.

    glibc raises that limit up to 32 MiB by itself, and keeps 0.4 GiB of a picture of 100 megapixels
    in its heap. Where the C library has no `mallopt`, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 8 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 32 * 2**20)


def check_strengths(args: Arguments) -> None:
    """Raise a UserError if a strength is not from 0 to 1."""
    for name in ("strength", "luma", "chroma"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} is a number from 0 (nothing) to 1 (all), not {value:g}")


def write_failed(out: Folder, failed: Sequence[tuple[Path, str]]) -> None:
    """Write a table of the pictures that could not be denoised; remove that of an earlier run.

    Args:
        out: the folder of the results.
        failed: (picture, reason) of each.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("picture", "reason"))
    heading = text.getvalue()
    table.writerows(sorted(failed))
    try:
        if failed:
            out.write(FAILED, text.getvalue().encode(errors="surrogateescape"))
        elif FAILED in out.files() and out.read(FAILED).startswith(heading.encode()):
            out.delete(FAILED)
    except OSError as error:
        raise UserError(f"{out.path_of(FAILED)} cannot be written: {first_line(error)}") from None


def find_pictures(inputs: Sequence[str], out: str) -> tuple[list[Pair], str]:
    """Return the pictures to denoise and where their results go, and a line on what is left out.

    Raises:
        UserError: a name with no picture, an `out` that is no folder of this machine, or a result
            that would overwrite a picture.
    """
    if not out:
        raise UserError("--out is empty: give a folder, such as . for the current one")
    if "://" in str(local_path(out)):
        raise UserError(f"--out takes a folder of this machine, not {out}")
    folder = Path(Folder.of(out).uri)
    found = expand(inputs, folder)
    work = [(source.absolute(), folder / name) for source, name in found.pictures]
    sources = {source.resolve() for source, _ in work}
    for source, target in work:
        if target.resolve() in sources or (target.exists() and target.samefile(source)):
            raise UserError(f"{target} would be overwritten; choose another --out")
    return work, describe_left_out(found.left_out)


def _denoise_all(
    args: Arguments, model: str, sigma: float | None, work: list[Pair]
) -> Iterator[Outcome]:
    """Denoise everything; yield the outcome of each picture as it is done."""

    def prepare() -> Callable[[Pair], Outcome]:
        return_large_blocks()
        denoise = load(model, ensemble=args.ensemble, trust=args.trust)
        return lambda pair: _denoise_one(args, model, denoise, sigma, *pair)

    if len(work) == 1:  # not worth starting Ray
        yield prepare()(work[0])
        return

    from raydae.distributed.spread import spread
    from raydae.distributed.start import start_ray

    start_ray()
    for number, result in spread(prepare, work):
        if isinstance(result, Exception):
            yield Outcome(work[number][0], first_line(result))
        else:
            yield result


def _denoise_one(
    args: Arguments,
    model: str,
    denoiser: "Denoiser",
    sigma: float | None,
    source: Path,
    target: Path,
) -> Outcome:
    """Denoise one picture; return what went wrong, or what is to be said."""
    notes: list[str] = []
    levels: list[tuple[float | None, float]] = []

    def denoise(image: NDArray[Any]) -> NDArray[Any]:
        estimate = estimate_sigma(image)
        result = denoiser(image, args.strength, args.luma, args.chroma)
        levels.append((estimate, denoiser.removed))
        return result

    try:
        if sigma is None:
            denoise_file(source, target, denoise, pages=args.pages, say=notes.append)
        else:
            _demonstrate(model, denoise, sigma, source, target)
            levels = []  # the noise is known
    except PictureError as error:  # its message names the picture, or the result
        return Outcome(source, first_line(error).removeprefix(f"{one_line(str(source))}: "))
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise  # torch raises a RuntimeError when memory runs out; any other is a defect
        return Outcome(source, first_line(error))
    if levels:
        notes.insert(0, describe_noise(levels))
    return Outcome(source, None, tuple(f"{source.name}: {note}" for note in notes))


def describe_noise(levels: Sequence[tuple[float | None, float]]) -> str:
    """Return one line about the noise of a picture.

    Args:
        levels: of each array that was denoised: the estimate, which is none if there is none, and
            what the model removed, 0 if it did not run; sigma on the 0-255 scale.
    """
    # The estimate is for white noise. A model removes at most the noise, or it is a bad model.
    sigmas = [max(estimate or 0, removed) for estimate, removed in levels]
    if all(estimate is None and not removed for estimate, removed in levels):
        return "sigma is unknown: the picture is too small or too flat to estimate it"
    ends = sorted({f"{min(sigmas):.2g}", f"{max(sigmas):.2g}"}, key=float)
    text = f"sigma ~ {' to '.join(ends)}"
    removed = max(removed for _, removed in levels)
    if not 0 < removed < NOTHING_REMOVED:
        return text
    if max(sigmas) < NO_NOISE:
        return f"{text}; there is no noise to remove, so nothing is gained"
    return f"{text}, but the model removes next to nothing of this noise"


def _demonstrate(
    model: str, denoise: Callable[[Any], Any], sigma: float, source: Path, target: Path
) -> None:
    """Add noise, denoise, and also save a panel of noisy, denoised and clean."""
    # With scikit-image and matplotlib, whose memory is otherwise saved.
    from raydae.core.pixels import to_uint8
    from raydae.evaluation.panel import middle, panel, released_column
    from raydae.noise.evaluation import EvaluationNoise, evaluation_noise

    def denoise_noisy(image: NDArray[Any]) -> NDArray[Any]:
        if image.dtype == np.uint8:
            return to_uint8(denoise(evaluation_noise(image, sigma)))
        denoised: NDArray[Any] = denoise(evaluation_noise(to_uint8(image), sigma))
        return denoised.astype(image.dtype)

    denoise_file(source, target, denoise_noisy)
    title = f"{source.name} with noise of sigma {sigma:g}"
    denoisers = [(model if model in RELEASED else "this model", denoise)]
    if model != "gaussian":
        denoisers.append(released_column("gaussian"))
    noisy, clean = EvaluationNoise.white(sigma)(middle(read_rgb(source)))
    picture = panel([(noisy, clean)], denoisers, title)
    longest = os.pathconf(target.parent, "PC_NAME_MAX") - len(PANEL)
    name = os.fsencode(target.name)[:longest].decode(errors="ignore")
    Folder.of(target.parent).write(name + PANEL, picture)
