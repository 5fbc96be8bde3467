"""Denoise pictures.

    python jobs/denoise.py PHOTO.jpg --out denoised

Files, folders and patterns; each picture comes back under its name, in its own format, size and
mode, with its metadata. More than one are spread over Ray's workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from raydae import load
from raydae.app import cli, console
from raydae.core.config import parse_level
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line, local_path
from raydae.images.pictures import PictureError, denoise_file, expand, read_rgb
from raydae.training.runs import find_model


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
    add_noise: str | None = None
    """Add noise of this sigma (0-255) first; saves a panel."""


def main() -> int:
    """Runs the job; returns its exit code."""
    args = cli.parse(Arguments, __doc__ or "")
    sigma = None if args.add_noise is None else parse_level(args.add_noise, "--add-noise")
    if "://" in str(local_path(args.out)):
        raise UserError(f"--out takes a folder of this machine, not {args.out}")
    out = Path(Folder.of(args.out).uri)
    if not args.inputs:
        raise UserError("no pictures given: name files, folders or patterns")
    model = find_model(args.model)
    work = [(source.absolute(), out / name) for source, name in expand(args.inputs, out)]
    sources = {source.resolve() for source, _ in work}
    for source, target in work:
        if target.resolve() in sources or (target.exists() and target.samefile(source)):
            raise UserError(f"{target} would be overwritten; choose another --out")
    cli.check_writable(Folder.of(args.out), args.out)

    # A bad one is refused here rather than in every worker; the GPUs are left to the workers.
    load(model, device="cpu")
    screen = console.make_console()
    failed: list[str] = []
    with console.counting(screen, "denoising") as progress:
        for done, problem in enumerate(_denoise_all(model, args.ensemble, sigma, work), start=1):
            failed += [problem] if problem else []
            progress(done, len(work))
    done_well = f"{len(work) - len(failed)} of {len(work)}"
    screen.print(f"{done_well} pictures are in {args.out}", soft_wrap=True)
    console.print_some(screen, "not denoised", failed, most=50)
    return 1 if failed else 0


def _denoise_all(
    model: str, ensemble: bool, sigma: float | None, work: list[tuple[Path, Path]]
) -> Iterator[str | None]:
    """Denoises everything; for each picture as it is done, what went wrong with it, or none."""

    def prepare() -> Callable[[tuple[Path, Path]], str | None]:
        denoise = load(model, ensemble=ensemble)
        return lambda pair: _denoise_one(denoise, sigma, *pair)

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
    denoise: Callable[[Any], Any], sigma: float | None, source: Path, target: Path
) -> str | None:
    """Denoises one picture; what went wrong, or none."""
    try:
        if sigma is None:
            denoise_file(source, target, denoise)
        else:
            _demonstrate(denoise, sigma, source, target)
    except PictureError as error:  # which names it
        return first_line(error)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise  # not torch, for want of memory
        return f"{source}: {first_line(error)}"
    return None


def _demonstrate(denoise: Callable[[Any], Any], sigma: float, source: Path, target: Path) -> None:
    """Adds noise, denoises, and saves a panel of noisy, denoised and clean beside the result."""
    from raydae.evaluation.figures import panel
    from raydae.metrics.metrics import (
        to_uint8,  # with scikit-image and matplotlib: memory otherwise spared
    )
    from raydae.noise.gaussian import evaluation_noise

    def on_noise(image: NDArray[Any]) -> NDArray[Any]:
        if image.dtype == np.uint8:
            return to_uint8(denoise(evaluation_noise(image, sigma)))
        denoised: NDArray[Any] = denoise(evaluation_noise(to_uint8(image), sigma))
        return denoised.astype(image.dtype)

    denoise_file(source, target, on_noise)
    title = f"{source.name} with noise of sigma {sigma:g}"
    picture = panel([read_rgb(source)], sigma, denoise, title)
    Folder.of(target.parent).write(f"{target.name}.panel.png", picture)


if __name__ == "__main__":
    cli.main(main)
