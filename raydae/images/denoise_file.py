"""Denoise a picture into another file of the same mode, format and metadata.

| mode of the file      | passed to the denoiser                      | mode written             |
|-----------------------|---------------------------------------------|--------------------------|
| L, 1                  | uint8 H×W                                   | L                        |
| RGB                   | uint8 H×W×3                                 | RGB                      |
| LA, La; RGBA, PA      | the same, without alpha                     | LA; RGBA; alpha unchanged|
| P                     | uint8 H×W×3                                 | RGB, RGBA if transparent |
| CMYK                  | C, M, Y inverted as RGB; K inverted as grey | CMYK                     |
| YCbCr                 | uint8 H×W×3, converted                      | YCbCr                    |
| I, within 0 … 65535   | float32 H×W, see `depth`                    | I                        |
| PNG, SGI of 16 bits   | float32 H×W×3 or H×W, see `depth`           | the same; alpha unchanged|
| JPEG 2000, I;16       | float32 H×W, see `depth`                    | the same                 |
| TIFF of 8, 16 or 32   | each page, with `pages` if there are several| the same; alpha unchanged|
| bits or floating point| float32, uint8 if 8 bits; H×W×3 if RGB,     |                          |
|                       | each channel as H×W if not RGB              |                          |
| LAB, HSV, others      | refused                                     |                          |

Other formats that Pillow opens as 8 bits although they hold more (colour in PPM, JPEG 2000 and
AVIF) are written with 8 bits. A transparent colour of a PNG becomes an alpha channel.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from raydae.core.errors import UserError
from raydae.images import png16, sgi16
from raydae.images.denoise_tiff import denoise_tiff
from raydae.images.depth import Denoise, Stretches, denoise_values
from raydae.images.pictures import MAX_PIXELS, PictureError, reading, reason_of
from raydae.images.pillow_file import decode, write
from raydae.images.raw_photographs import refuse_raw
from raydae.images.tiff import is_beyond_pillow


def denoise_file(
    source: Path,
    target: Path,
    denoise: Denoise,
    max_pixels: int = MAX_PIXELS,
    pages: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Denoise a picture into another file of the same format, size and metadata.

    The module's table lists the modes, and docs/pictures.md what is kept. The orientation tag is
    kept and not applied, except in TIFFs with palettes or less than 8 bits: Pillow turns them
    upright, and the tag becomes 1.

    JPEG and AVIF are written with quality 95 and without chroma subsampling, the other formats
    without loss. A TIFF keeps its compression; if that was lossy, it is deflated.

    The target is written whole or not at all. Missing folders are created.

    Args:
        source: The picture. Its content, not its suffix, determines the format.
        target: The file to write; replaced if it exists.
        denoise: Maps an array, uint8 or float32 on [0, 1], H×W×3 or H×W, to an array of the same
            shape and dtype. It may overwrite its argument and return it. The array that it returns
            may be overwritten here. It is called once for each page, and twice for CMYK.
        max_pixels: Refuse a larger picture before it is decoded; at most `MAX_PIXELS`.
        pages: Denoise every page of a TIFF that has several.
        say: Is called with lines for the user if values were scaled, or bits or metadata lost.

    Returns:
        The picture's (height, width); of several pages the first's.

    Raises:
        UserError: The target is the source.
        PictureError: The source is damaged, has several frames, or has a mode or format that is
            not supported; all but values that are no numbers is checked before `denoise` is called.
            Or the target cannot be written.
        ValueError: `denoise` returned another shape or dtype.
    """
    with contextlib.suppress(OSError):  # one of them does not exist
        if target.samefile(source):
            raise UserError(f"{source} would be overwritten: choose another output folder")
    stretches = Stretches()
    with reading(source), source.open("rb") as stream:
        refuse_raw(stream, source.name)
        png_header, sgi_header = png16.read_header(stream), sgi16.read_header(stream)
        beyond_pillow = is_beyond_pillow(stream)
    if beyond_pillow:
        with _replacing(target) as temporary:
            size = denoise_tiff(source, temporary, denoise, max_pixels, pages, stretches)
    elif png_header is not None:
        size = _denoise_png16(source, target, denoise, png_header, max_pixels, stretches, say)
    elif sgi_header is not None:
        size = _denoise_sgi16(source, target, denoise, sgi_header, max_pixels, stretches)
    else:
        size = _denoise_with_pillow(source, target, denoise, max_pixels, stretches, say)
    if stretches.line:
        say(stretches.line)
    return size


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary name, and rename its file to the target at the end; or delete it.

    Raises:
        PictureError: The body raised an OSError, as when the disk is full.
    """
    temporary = target.with_name(f".raydae-{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except PictureError:
        raise
    except OSError as error:
        raise PictureError(f"{target}: cannot be written: {reason_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # replaced, or never created
            temporary.unlink()


def _denoise_with_pillow(
    source: Path,
    target: Path,
    denoise: Denoise,
    max_pixels: int,
    stretches: Stretches,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Denoise a picture that Pillow reads and writes; return (height, width)."""
    picture = decode(source, max_pixels)
    for plane in picture.planes:
        denoise_values(plane, denoise, stretches)
    with _replacing(target) as temporary:
        size, lines = write(picture, source, temporary)
    for line in lines:
        say(line)
    if picture.bits > 8:
        say(f"its {picture.bits} bits a channel became 8: save it as PNG or TIFF to keep them")
    return size


def _denoise_png16(
    source: Path,
    target: Path,
    denoise: Denoise,
    header: png16.Header,
    max_pixels: int,
    stretches: Stretches,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Denoise a PNG of 16 bits; return (height, width)."""
    with reading(source):
        pixels, kept, lost = png16.decode(source.read_bytes(), header, max_pixels)
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
    denoise_values(colours, denoise, stretches)
    with _replacing(target) as temporary:
        temporary.write_bytes(png16.encode(pixels, kept))
    if lost:
        say(f"lost {', '.join(lost)}")
    return header.height, header.width


def _denoise_sgi16(
    source: Path,
    target: Path,
    denoise: Denoise,
    header: sgi16.Header,
    max_pixels: int,
    stretches: Stretches,
) -> tuple[int, int]:
    """Denoise an SGI picture of 16 bits; return (height, width)."""
    with reading(source):
        data = source.read_bytes()
        pixels = sgi16.decode(data, header, max_pixels)
    colours = pixels[..., :3] if header.channels > 2 else pixels[..., 0]
    denoise_values(colours, denoise, stretches)
    with _replacing(target) as temporary:
        temporary.write_bytes(sgi16.encode(pixels, data))
    return header.height, header.width
