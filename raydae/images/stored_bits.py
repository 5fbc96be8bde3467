"""Tell how many bits a channel has in formats that Pillow opens as 8 bits."""

from pathlib import Path

_HEAD = 2**16  # bytes in which a format says so
_JXL = b"\xff\x0a"  # the codestream begins
_JXL_SIDES = (9, 13, 18, 30)  # bits


def stored_bits(source: Path, file_format: str) -> int:
    """Return the bits of a channel, as the head of a picture says; 8 where it does not.

    Args:
        source: A picture that Pillow has opened.
        file_format: Pillow's name of its format.

    Raises:
        OSError: The file cannot be read.
    """
    with source.open("rb") as file:
        head = file.read(_HEAD)
    if file_format == "JPEG2000" and (start := head.find(b"\xff\x4f\xff\x51")) >= 0:
        return (head[start + 42] & 127) + 1  # Ssiz of the first component
    if file_format == "AVIF" and (start := head.find(b"av1C")) >= 0:
        flags = head[start + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    if file_format == "HEIF" and (start := head.find(b"hvcC")) >= 0:
        return 8 + (head[start + 21] & 7)  # bit_depth_luma_minus8
    if file_format == "JXL":
        return _bits_of_jxl(head)
    if file_format == "PPM":
        lines = [line.partition(b"#")[0] for line in head.splitlines()]
        words = b" ".join(lines).split()[:4]  # P6, width, height, the largest value
        if words[0] in (b"P2", b"P3", b"P5", b"P6") and words[3].isdigit():
            return max(8, int(words[3]).bit_length())
    return 8


def _bits_of_jxl(head: bytes) -> int:
    """Return the bits of a channel in a JPEG XL (ISO/IEC 18181-1); 8 if its header is unusual."""
    box = 0 if head.startswith(_JXL) else max(head.find(b"jxlc"), head.find(b"jxlp"))
    start = head.find(_JXL, box)
    if box < 0 or start < 0:
        return 8
    rest = int.from_bytes(head[start + 2 : start + 66], "little")  # the lowest bit is the first

    def take(count: int) -> int:
        nonlocal rest
        value = rest & ((1 << count) - 1)
        rest >>= count
        return value

    def skip_size() -> None:
        is_small = take(1)
        take(5 if is_small else _JXL_SIDES[take(2)])
        if take(3) == 0:  # no fixed ratio of the sides
            take(5 if is_small else _JXL_SIDES[take(2)])

    skip_size()
    if take(1):  # everything has its default
        return 8
    if take(1):  # further fields
        take(3)  # orientation
        if take(1):
            skip_size()
        if take(2):  # preview, animation
            return 8
    is_float = take(1)
    choice = take(2)
    return 1 + take(6) if choice == 3 else ((32, 16, 24) if is_float else (8, 10, 12))[choice]


def is_monochrome(source: Path) -> bool:
    """Return whether an AVIF has no colour channels; Pillow opens it as RGBA if it has alpha.

    Raises:
        OSError: The file cannot be read.
    """
    with source.open("rb") as file:
        head = file.read(_HEAD)
    start = head.find(b"av1C")  # the main picture's is in front of its alpha's
    return start >= 0 and bool(head[start + 6] & 0x10)
