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


def parse_range(text: str, name: str, lowest: float, highest: float) -> tuple[float, float]:
    """Return (low, high) of a number, `0.5`, or of a range of numbers, `0.1:0.5`.

    Args:
        text: the number or the range.
        name: the setting's name, for messages.
        lowest: the least that a number may be.
        highest: the most that it may be.

    Raises:
        UserError: not a number or a range, beyond the limits, or the higher end first.
    """
    try:
        ends = [float(end) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not all(lowest <= end <= highest for end in ends):
        raise UserError(
            f"{name} must be a number from {lowest:g} to {highest:g}, or a range of such numbers "
            f"as LOW:HIGH, not {text!r}"
        )
    if ends[0] > ends[-1]:
        raise UserError(f"{name} {text} has its higher end first; write {ends[1]:g}:{ends[0]:g}")
    return ends[0], ends[-1]


def parse_level(text: str, name: str) -> float:
    """Return a single noise level on the 0-255 scale.

    Raises:
        UserError: as `parse_sigma`, and for a range.
    """
    low, high = parse_sigma(text, name)
    if low != high:
        raise UserError(f"{name} takes single levels such as 25, not the range {text}")
    return low
