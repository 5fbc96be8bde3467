"""The images of a new run: find them, and tell the user what is wrong with them."""

from pathlib import Path

from rich.console import Console

from raydae.app.console import counting, notice, print_some
from raydae.app.invocation import invocation
from raydae.images.image_sets import ImageSets
from raydae.images.sources import find_images, synthetic_set
from raydae.training.config import Config
from raydae.training.schedule import Schedule


def find_run_images(config: Config, command: str, screen: Console) -> ImageSets:
    """Return the images that a configuration names; print those that cannot be used.

    BSDS500 is downloaded where it is missing; where that fails, synthetic images take its place.

    Args:
        config: of the run.
        command: `train` or `tune`, for the advice that is printed.
        screen: where to print.

    Raises:
        UserError: there are no such images, or too few for a batch.
    """

    def synthetic_fallback(reason: str) -> Path:
        notice(
            screen,
            f"BSDS500 is not here and could not be downloaded:\n{reason}\n"
            "This trains on the EMBEDDED SYNTHETIC IMAGES instead (dead leaves). To train on\n"
            f"BSDS500, get it by other means and say: {invocation(command)} --data PATH",
        )
        with counting(screen, "drawing images") as progress:
            return synthetic_set(progress)

    with counting(screen, "checking images") as progress:
        sets = find_images(config.data, synthetic_fallback, progress)
    Schedule.of(config, len(sets.train))  # refuses a batch larger than an epoch
    print_some(screen, "left out", sets.left_out)
    return sets
