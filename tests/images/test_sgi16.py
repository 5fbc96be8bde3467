"""SGI pictures of 16 bits keep their bits, encoded or not."""

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError
from tests.images.deep_pictures import random_values
from tests.images.sample_pictures import Recorder, inverted, opened


def encoded_row(row: NDArray[np.uint16]) -> bytes:
    """Return a row: 10 copied values, then runs of equal ones, then the end."""
    words = [128 | 10, *row[:10].tolist()]
    at = 10
    while at < len(row):
        count = next((n for n in range(1, len(row) - at) if row[at + n] != row[at]), len(row) - at)
        words += [count, int(row[at])]
        at += count
    return np.array([*words, 0], ">u2").tobytes()


def sgi(path: Path, pixels: NDArray[np.uint16], is_encoded: bool) -> Path:
    """Write a picture, H×W×C."""
    height, width, channels = pixels.shape
    dimensions = 3 if channels > 1 else 2
    head = struct.pack(">HBBHHHHII", 474, is_encoded, 2, dimensions, width, height, channels, 0, 9)
    head = (head + bytes(4) + b"a street at night").ljust(512, b"\0")
    rows = pixels[::-1].transpose(2, 0, 1).reshape(-1, width)
    if not is_encoded:
        path.write_bytes(head + rows.astype(">u2").tobytes())
        return path
    data = [encoded_row(row) for row in rows]
    sizes = [len(each) for each in data]
    starts = np.cumsum([512 + 8 * len(rows), *sizes[:-1]])
    path.write_bytes(head + np.array([*starts, *sizes], ">u4").tobytes() + b"".join(data))
    return path


@pytest.mark.parametrize("is_encoded", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_kept(tmp_path: Path, channels: int, is_encoded: bool) -> None:
    pixels = random_values((20, 30, channels))
    pixels[:, 15:25] = pixels[:, 15:16]
    source = sgi(tmp_path / "in.sgi", pixels, is_encoded)
    before = np.asarray(opened(source)).reshape(pixels.shape)
    np.testing.assert_array_equal(before, pixels >> 8)  # as Pillow reads it
    lines: list[str] = []
    assert denoise_file(source, tmp_path / "out.sgi", inverted, say=lines.append) == (20, 30)
    data = (tmp_path / "out.sgi").read_bytes()
    assert data[24:41] == b"a street at night"
    after = np.frombuffer(data, ">u2", offset=512).reshape(channels, 20, 30)[:, ::-1]
    after = after.transpose(1, 2, 0)
    colours = min(channels, 3)
    np.testing.assert_array_equal(after[..., :colours], 65535 - pixels[..., :colours])
    np.testing.assert_array_equal(after[..., colours:], pixels[..., colours:])
    np.testing.assert_array_equal(
        np.asarray(opened(tmp_path / "out.sgi")).reshape(pixels.shape), after >> 8
    )
    assert not any("bits" in line for line in lines)


@pytest.mark.parametrize("is_encoded", [False, True])
def test_cut_off_file_is_refused(tmp_path: Path, is_encoded: bool) -> None:
    source = sgi(tmp_path / "in.sgi", random_values((20, 30, 3)), is_encoded)
    source.write_bytes(source.read_bytes()[:-100])
    recorder = Recorder()
    with pytest.raises(PictureError, match=r"in\.sgi: the file is truncated"):
        denoise_file(source, tmp_path / "out.sgi", recorder)
    assert not recorder.arrays


def test_damaged_run_is_refused(tmp_path: Path) -> None:
    source = sgi(tmp_path / "in.sgi", random_values((20, 30, 1)), True)
    data = bytearray(source.read_bytes())
    (start,) = struct.unpack_from(">I", data, 512)
    data[start + 1] = 1  # a shorter run: the row is not full, or overflows
    source.write_bytes(data)
    with pytest.raises(PictureError, match=r"in\.sgi: a run of pixels is damaged"):
        denoise_file(source, tmp_path / "out.sgi", inverted)
