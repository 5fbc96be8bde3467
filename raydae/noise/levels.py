"""Noise levels as users write them: `25`, or a range `5:55`, on the 0-255 scale."""

import math

from raydae.core.errors import UserError


def parse_sigma(text: str, name: str = "sigma") -> tuple[float, float]:
    """Return (lowest, highest) of a noise level, `25`, or of a range, `5:55`.

    Args:
        text: the level on the 0-255 scale.
        name: the setting's name, for messages.

    Raises:
        UserError: not a number or a range, negative, above 255, or the higher end first.
    """
    try:
        ends = [float(end) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not all(math.isfinite(end) for end in ends):
        raise UserError(f"{name} must be a number such as 25 or a range such as 5:55, not {text!r}")
    low, high = ends[0], ends[-1]
    if low < 0 or high > 255:
        raise UserError(f"{name} is on the 0-255 scale and cannot be {text}")
    if low > high:
        raise UserError(f"{name} {text} has its higher end first; write {ends[1]:g}:{ends[0]:g}")
    return low, high


def parse_level(text: str, name: str) -> float:
    """Return a single noise level on the 0-255 scale.

    Raises:
        UserError: as `parse_sigma`, and for a range.
    """
    low, high = parse_sigma(text, name)
    if low != high:
        raise UserError(f"{name} takes single levels such as 25, not the range {text}")
    return low
