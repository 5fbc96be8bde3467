"""The images of a run: find or compare them, and tell the user what is wrong with them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from raydae.app.console import counting, notice, print_lines, print_some
from raydae.app.invocation import invocation
from raydae.core.errors import UserError
from raydae.images.changes import accept_changes, find_changes
from raydae.images.image_sets import ImageSets
from raydae.images.listed import Listed
from raydae.images.reader import Keep, store_report
from raydae.images.scan import decode_here
from raydae.images.sources import find_images, synthetic_set
from raydae.training.config import Config
from raydae.training.run_folder import Run
from raydae.training.schedule import Schedule

# Images that threads of this process decode before tasks of Ray would have started.
FEW_IMAGES, FEW_BYTES = 5000, 2**29


def images_of_run(
    run: Run, command: str, screen: Console, start_ray: Callable[[], None]
) -> tuple[Run, ImageSets]:
    """Return a run and its images: found, if it is new, else compared with what it began with.

    Args:
        run: the run.
        command: `train` or `tune`, for the advice that is printed.
        screen: where to print.
        start_ray: starts Ray if it does not run; called if there are many images to decode.

    Raises:
        UserError: there are no such images, or they have changed and `data.changed` is `refuse`.
    """
    if run.sets is None:
        return run, find_run_images(run.config, command, screen, start_ray)
    with counting(screen, "checking changed images") as progress:
        changes = find_changes(run.sets, run.config.data, progress)
    print_some(screen, "replaced since the run began", [file.name for file in changes.replaced])
    print_some(screen, "removed since the run began", [file.name for file in changes.removed])
    added = [name for _, name in changes.added]
    print_some(screen, "added since the run began, and not used", added)
    if changes and run.config.data.changed == "refuse":
        raise UserError(
            f"the images of {run.folder.name} have changed since it began; restore them, or give "
            "--data.changed accept to go on with them"
        )
    if changes or changes.touched:
        run = run.begin(accept_changes(run.sets, changes, run.config.data.patch_size))
    assert run.sets is not None
    return run, run.sets


def print_notes(run: Run, screen: Console) -> None:
    """Print what the user must know of a run's folder."""
    for note in run.notes:
        screen.print(note, style="yellow", soft_wrap=True)


def find_run_images(
    config: Config, command: str, screen: Console, start_ray: Callable[[], None]
) -> ImageSets:
    """Return the images that a configuration names; print those that cannot be used.

    BSDS500 is downloaded where it is missing; where that fails, synthetic images take its place.

    Args:
        config: of the run.
        command: `train` or `tune`, for the advice that is printed.
        screen: where to print.
        start_ray: starts Ray if it does not run; called if there are many images to decode.

    Raises:
        UserError: there are no such images, or too few for a batch.
    """

    def decode(listed: Listed, keep: Keep | None) -> Iterator[pa.Table]:
        if len(listed) < FEW_IMAGES and listed.sizes.sum() < FEW_BYTES:
            return decode_here(listed, keep)
        start_ray()
        from raydae.distributed.indexing import decode_on_ray
        from raydae.distributed.shared_storage import check_shared

        check_shared(listed.uris[0], "--data")
        return decode_on_ray(listed, keep)

    def synthetic_fallback(reason: str) -> Path:
        notice(
            screen,
            f"BSDS500 is not here and could not be downloaded:\n{reason}\n"
            "This trains on the EMBEDDED SYNTHETIC IMAGES instead (dead leaves). To train on\n"
            f"BSDS500, get it by other means and say: {invocation(command)} --data PATH",
        )
        with counting(screen, "drawing images") as progress:
            return synthetic_set(progress)

    unread: list[str] = []
    with counting(screen, "checking images") as progress:
        sets = find_images(config.data, synthetic_fallback, progress, decode, unread.append)
    Schedule.of(config, len(sets.train))  # refuses a batch larger than an epoch
    print_some(screen, "left out", sets.left_out, limit=10)
    print_lines(screen, unread)
    if (report := store_report(config.data, sets.train)) is not None:
        screen.print(report, style="yellow", soft_wrap=True)
    pa.default_memory_pool().release_unused()  # 80 MB after 100,000 images; above, in use
    return sets
