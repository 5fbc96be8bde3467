"""TIFFs with parts that are missing, damaged or of another kind are refused."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError
from tests.images.deep_pictures import random_values, tiff
from tests.images.sample_pictures import identity


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Image.new("1", (9, 9)), "1 bits a channel are not supported: save 8, 16 or 32 bits"),
        (Image.new("P", (9, 9)), "pixels of kind PALETTE are not supported: save as RGB"),
    ],
)
def test_a_page_of_another_kind_is_named(tmp_path: Path, page: Image.Image, reason: str) -> None:
    source = tmp_path / "in.tif"
    Image.new("L", (9, 9)).save(source, save_all=True, append_images=[page])
    with pytest.raises(PictureError, match=rf"in\.tif: page 2 of 2: {reason}"):
        denoise_file(source, tmp_path / "out.tif", identity, pages=True)
    assert not (tmp_path / "out.tif").exists()


def test_missing_tiles_are_not_filled_with_black(tmp_path: Path) -> None:
    options = {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}
    source = tiff(tmp_path / "in.tif", random_values((32, 32, 3), np.uint8), **options)
    with tifffile.TiffFile(source, mode="r+") as file:
        tags = file.pages.first.tags
        for code in (324, 325):
            tags[code].overwrite(tags[code].value[:3])
    with pytest.raises(PictureError, match=r"in\.tif: "):
        denoise_file(source, tmp_path / "out.tif", identity)
    assert not (tmp_path / "out.tif").exists()


def test_a_layout_of_channels_with_a_wrong_type(tmp_path: Path) -> None:
    options = {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}
    source = tiff(tmp_path / "in.tif", random_values((32, 32, 3)), **options)
    with tifffile.TiffFile(source, mode="r+") as file:
        file.pages.first.tags[284].overwrite(b"\1", dtype=1)
    with pytest.raises(PictureError, match="does not say whether channels lie in planes"):
        denoise_file(source, tmp_path / "out.tif", identity)
