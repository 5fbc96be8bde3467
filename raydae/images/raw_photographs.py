"""Tell raw photographs: sensor data, which cameras write beside a thumbnail.

Most of their formats are TIFFs, and a reader of TIFFs finds the thumbnail in them.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, cast

from raydae.images.depth import PixelsError

if TYPE_CHECKING:
    from tifffile import TiffPage

# The suffixes of raw formats that are TIFFs.
_SUFFIXES = {
    *("dng", "nef", "nrw", "cr2", "arw", "sr2", "srf", "srw", "pef", "ptx", "3fr", "fff", "iiq"),
    *("erf", "mef", "mos", "dcr", "kdc", "k25", "dcs", "rwl", "rw2", "raw", "orf", "gpr"),
}
# The first bytes of those with a form of their own: (where, which, name).
_BEGINNINGS = [
    *((0, b"IIRO", "ORF"), (0, b"IIRS", "ORF"), (0, b"MMOR", "ORF"), (0, b"IIU\0", "RW2")),
    *((4, b"\x10\0\0\0CR\2", "CR2"), (0, b"FUJIFILMCCD-RAW", "RAF"), (0, b"FOVb", "X3F")),
    *((6, b"HEAPCCDR", "CRW"), (4, b"ftypcrx ", "CR3"), (0, b"\0MRM", "MRW")),
]
SUFFIXES = {f".{name}" for name in (*_SUFFIXES, "raf", "x3f", "crw", "cr3", "mrw")}
"""The suffixes of all raw formats that are told here."""
_PHASE_ONE = re.compile(rb"IIII.waR|MMMM.Raw|IIIITwaR|MMMMRawT", re.DOTALL)  # at byte 8
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CFA, _LINEAR_RAW = 32803, 34892  # photometric interpretations
_DNG_VERSION = 50706
_MAX_PAGES = 8  # raw photographs have fewer, stacks have thousands


def refuse_raw(stream: BinaryIO, name: str) -> None:
    """Raise PixelsError if a stream is a raw photograph; else leave it at its beginning.

    Args:
        stream: A file of any format.
        name: Its name, for the suffix.
    """
    beginning = stream.read(16)
    stream.seek(0)
    suffix = name.rpartition(".")[2].lower()
    for start, which, kind in _BEGINNINGS:
        if beginning[start : start + len(which)] == which:
            _refuse(kind)
    if _PHASE_ONE.fullmatch(beginning[8:16]):
        _refuse("IIQ")
    if beginning[:4] in _TIFF:
        if suffix in _SUFFIXES:
            _refuse(suffix.upper())
        if has_sensor_data(stream):
            _refuse("DNG, or another TIFF with sensor data")


def has_sensor_data(stream: BinaryIO) -> bool:
    """Return whether a TIFF is a DNG, or has a page or a smaller page of sensor data."""
    import tifffile

    try:
        with tifffile.TiffFile(stream) as tiff:
            for page in cast("Iterator[TiffPage]", islice(tiff.pages, _MAX_PAGES)):
                if _DNG_VERSION in page.tags or page.photometric in (_CFA, _LINEAR_RAW):
                    return True
                parts = cast("list[TiffPage]", list(page.pages or ()))
                if any(part.photometric in (_CFA, _LINEAR_RAW) for part in parts):
                    return True
    except Exception:  # whatever is wrong with it, its reader has a message for it
        return False
    finally:
        stream.seek(0)
    return False


def _refuse(kind: str) -> None:
    raise PixelsError(f"is a raw photograph ({kind}): develop it, and save it as TIFF or PNG")
