"""Tell how many bits a channel has in formats that Pillow opens as 8 bits."""

from pathlib import Path

_HEAD = 2**16  # bytes in which a format says so


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
    if file_format == "PPM":
        lines = [line.partition(b"#")[0] for line in head.splitlines()]
        words = b" ".join(lines).split()[:4]  # P6, width, height, the largest value
        if words[0] in (b"P2", b"P3", b"P5", b"P6") and words[3].isdigit():
            return max(8, int(words[3]).bit_length())
    return 8


def is_monochrome(source: Path) -> bool:
    """Return whether an AVIF has no colour channels; Pillow opens it as RGBA if it has alpha.

    Raises:
        OSError: The file cannot be read.
    """
    with source.open("rb") as file:
        head = file.read(_HEAD)
    start = head.find(b"av1C")  # the main picture's is in front of its alpha's
    return start >= 0 and bool(head[start + 6] & 0x10)
