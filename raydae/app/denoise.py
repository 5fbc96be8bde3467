"""Denoise pictures.

    raydae denoise PHOTO.jpg --out denoised

Takes files, folders and patterns; writes each result under the picture's name, in its format, size
and mode, with its metadata. Several pictures are spread over Ray's workers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from raydae import load
from raydae.app.console import counting, make_console, print_some
from raydae.app.output_file import check_writable
from raydae.app.parsing import parse
from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder, local_path
from raydae.images.denoise_file import denoise_file
from raydae.images.inputs import expand
from raydae.images.pictures import PictureError, read_rgb
from raydae.noise.levels import parse_level
from raydae.training.run_names import find_model

Pair = tuple[Path, Path]
"""A picture, and where its result goes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to denoise, with what, and where to."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders, patterns such as 'shots/*.png'."""
    out: str
    """Folder for the results; replaces files there."""
    model: str = "released"
    """File or URI; last: the newest run's; released, large: ours."""
    ensemble: bool = False
    """Average over the eight flips and turns: 8 times the time."""
    trust: tuple[str, ...] = ()
    """Modules that the model file may import."""
    add_noise: str | None = None
    """Add noise of this sigma (0-255) first; saves a panel."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code: 1 if a picture could not be denoised."""
    args = parse(Arguments, __doc__ or "", argv)
    sigma = None if args.add_noise is None else parse_level(args.add_noise, "--add-noise")
    if not args.inputs:
        raise UserError("no pictures given: name files, folders or patterns")
    model = find_model(args.model)
    work = find_pictures(args.inputs, args.out)
    check_writable(Folder.of(args.out), args.out)
    # A bad model is refused here rather than in every worker; the GPUs are left to the workers.
    load(model, device="cpu", trust=args.trust)

    screen = make_console()
    failed: list[str] = []
    with counting(screen, "denoising") as progress:
        for done, problem in enumerate(_denoise_all(args, model, sigma, work), start=1):
            failed += [problem] if problem else []
            progress(done, len(work))
    done_well = f"{len(work) - len(failed)} of {len(work)}"
    screen.print(f"{done_well} pictures are in {args.out}", soft_wrap=True)
    print_some(screen, "not denoised", failed, limit=50)
    return 1 if failed else 0


def find_pictures(inputs: Sequence[str], out: str) -> list[Pair]:
    """Return the pictures to denoise, and where their results go.

    Raises:
        UserError: a name with no picture, an `out` that is no folder of this machine, or a result
            that would overwrite a picture.
    """
    if "://" in str(local_path(out)):
        raise UserError(f"--out takes a folder of this machine, not {out}")
    folder = Path(Folder.of(out).uri)
    work = [(source.absolute(), folder / name) for source, name in expand(inputs, folder)]
    sources = {source.resolve() for source, _ in work}
    for source, target in work:
        if target.resolve() in sources or (target.exists() and target.samefile(source)):
            raise UserError(f"{target} would be overwritten; choose another --out")
    return work


def _denoise_all(
    args: Arguments, model: str, sigma: float | None, work: list[Pair]
) -> Iterator[str | None]:
    """Denoise everything; yield what went wrong with each picture as it is done, or none."""

    def prepare() -> Callable[[Pair], str | None]:
        denoise = load(model, ensemble=args.ensemble, trust=args.trust)
        return lambda pair: _denoise_one(model, denoise, sigma, *pair)

    if len(work) == 1:  # not worth starting Ray
        yield prepare()(work[0])
        return

    from raydae.distributed.spread import spread
    from raydae.distributed.start import start_ray

    start_ray()
    for number, result in spread(prepare, work):
        if isinstance(result, Exception):
            yield f"{work[number][0]}: {first_line(result)}"
        else:
            yield result


def _denoise_one(
    model: str, denoise: Callable[[Any], Any], sigma: float | None, source: Path, target: Path
) -> str | None:
    """Denoise one picture; return what went wrong, or none."""
    try:
        if sigma is None:
            denoise_file(source, target, denoise)
        else:
            _demonstrate(model, denoise, sigma, source, target)
    except PictureError as error:  # its message names the picture
        return first_line(error)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise  # torch raises a RuntimeError when memory runs out; any other is a defect
        return f"{source}: {first_line(error)}"
    return None


def _demonstrate(
    model: str, denoise: Callable[[Any], Any], sigma: float, source: Path, target: Path
) -> None:
    """Add noise, denoise, and also save a panel of noisy, denoised and clean."""
    # With scikit-image and matplotlib, whose memory is otherwise saved.
    from raydae.core.pixels import to_uint8
    from raydae.evaluation.panel import panel, released_denoiser
    from raydae.noise.evaluation import EvaluationNoise, evaluation_noise

    def denoise_noisy(image: NDArray[Any]) -> NDArray[Any]:
        if image.dtype == np.uint8:
            return to_uint8(denoise(evaluation_noise(image, sigma)))
        denoised: NDArray[Any] = denoise(evaluation_noise(to_uint8(image), sigma))
        return denoised.astype(image.dtype)

    denoise_file(source, target, denoise_noisy)
    title = f"{source.name} with noise of sigma {sigma:g}"
    denoisers = [("released" if model == "released" else "this model", denoise)]
    if model != "released":
        denoisers.append(released_denoiser())
    picture = panel([read_rgb(source)], EvaluationNoise.white(sigma), denoisers, title)
    Folder.of(target.parent).write(f"{target.name}.panel.png", picture)
