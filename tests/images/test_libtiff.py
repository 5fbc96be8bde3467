"""What libtiff prints becomes the reason why a picture is refused."""

import io
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydae.images.denoise_file import denoise_file
from raydae.images.listed import Listed
from raydae.images.pictures import PictureError, read_rgb
from raydae.images.scan import scan
from tests.images.sample_pictures import identity

Printed = pytest.CaptureFixture[str]


def fax(path: Path, damaged: bool) -> Path:
    """Save a bilevel TIFF; damaged, libtiff decodes it, but prints errors."""
    pixels = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(buffer, "TIFF", compression="group4")
    data = bytearray(buffer.getvalue())
    if damaged:
        data[400:460] = data[700:760] = b"\xff" * 60
    path.write_bytes(data)
    return path


def test_a_damaged_tiff_is_refused_and_nothing_is_printed(tmp_path: Path, capfd: Printed) -> None:
    source = fax(tmp_path / "a.tif", damaged=True)
    reason = (
        rf"^{source}: is damaged: Bad code word at line \d+ of strip 0 \(x \d+\), and \d+ more err"
    )
    with pytest.raises(PictureError, match=reason):
        read_rgb(source)
    with pytest.raises(PictureError, match=reason), source.open("rb") as stream:
        read_rgb(stream)
    with pytest.raises(PictureError, match=reason):
        denoise_file(source, tmp_path / "out.tif", identity)
    assert not (tmp_path / "out.tif").exists()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_an_error_that_ends_the_decoding_has_its_reason(tmp_path: Path, capfd: Printed) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_deflate")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(PictureError, match="is damaged: Decoding error at scanline 0, incorrect"):
        read_rgb(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def test_threads_tell_damaged_files_from_whole_ones(tmp_path: Path, capfd: Printed) -> None:
    files = [fax(tmp_path / f"{i}.tif", damaged=i % 3 == 0) for i in range(30)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.write, 2, b"of another thread\n")
        whole, damaged = scan(Listed.of((str(path), path.name) for path in files))
    assert len(damaged) == 10
    assert all("is damaged: " in line for line in damaged)
    assert {file.name for file in whole} == {f"{i}.tif" for i in range(30) if i % 3}
    assert capfd.readouterr().err == "of another thread\n"


def test_what_others_print_meanwhile_is_printed_afterwards(tmp_path: Path, capfd: Printed) -> None:
    from raydae.images.libtiff import watching

    with (
        Image.open(fax(tmp_path / "a.tif", damaged=False)) as image,
        watching(image, lambda: None),
    ):
        os.write(2, b"/lib/x.py:3: UserWarning: not of libtiff\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "/lib/x.py:3: UserWarning: not of libtiff\n"


def test_without_a_standard_error(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from raydae.images.pictures import read_rgb; "
        "print(read_rgb(Path(sys.argv[1])).shape)"
    )
    source = fax(tmp_path / "a.tif", damaged=False)
    command = shlex.join([sys.executable, "-c", program, str(source)])
    run = subprocess.run(f"{command} 2>&-", shell=True, stdout=subprocess.PIPE, check=True)
    assert run.stdout == b"(64, 64, 3)\n"
