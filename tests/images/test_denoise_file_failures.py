"""A bad picture, denoiser or target gives a one-line error, and no file is left or lost."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.core.errors import UserError
from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError, read_rgb
from raydae.images.pillow_file import can_store
from tests.images.sample_pictures import identity, inverted, opened, picture, png_claiming, saved


class TestFailures:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "bad.jpg: the file is empty$"),
            (b"a letter to my aunt\n" * 50, "not a picture"),
            (b"8BPS\0\1" + bytes(100), "not one of JPEG, PNG"),
            (png_claiming(4, 4)[:29] + b"sums", "bad.jpg: is a PNG that is damaged, or of a kind"),
            (b"\xff\xd8\xff" + bytes(100), "bad.jpg: is a JPEG that is damaged, or of a kind"),
            (b"II*\0\x08\0\0\0" + bytes(9), "bad.jpg: is a TIFF that is damaged, or of a kind"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of JPEG, PNG"),
            (png_claiming(4, 4), "cannot be read: "),
            (png_claiming(40_000, 30_000), "more than 1000000000 pixels"),
            (png_claiming(2**31 - 1, 2**31 - 1), "more than 1000000000 pixels"),
            (None, "cannot be read: No such file or directory$"),
        ],
    )
    def test_bad_file(self, tmp_path: Path, content: bytes | None, reason: str) -> None:
        source = tmp_path / "bad.jpg"
        if content is not None:
            source.write_bytes(content)
        with pytest.raises(PictureError, match=reason) as caught:
            denoise_file(source, tmp_path / "out" / "bad.jpg", identity)
        assert str(caught.value).startswith(f"{source}: ")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        with pytest.raises(PictureError, match=reason):
            read_rgb(source)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000"])
    def test_cut_off_file(self, tmp_path: Path, file_format: str) -> None:
        source = saved(picture("RGB", (200, 200)), tmp_path / "cut.jpg", file_format)
        source.write_bytes(source.read_bytes()[:-2000])
        with pytest.raises(PictureError, match=r"cut\.jpg: "):
            denoise_file(source, tmp_path / "out.jpg", identity)
        with pytest.raises(PictureError, match=r"cut\.jpg: "):
            read_rgb(source)

    def test_source_is_not_overwritten(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        (tmp_path / "link").symlink_to(tmp_path)
        for target in (source, tmp_path / "link" / "in.png"):
            with pytest.raises(UserError, match="would be overwritten: choose another"):
                denoise_file(source, target, inverted)
        assert opened(source).tobytes() == picture("RGB").tobytes()

    @pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
    def test_failing_denoiser_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        def fail(_: NDArray[Any]) -> NDArray[Any]:
            raise error

        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(type(error)):
            denoise_file(source, tmp_path / "out" / "in.png", fail)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), PictureError),
            (KeyboardInterrupt(), KeyboardInterrupt),
        ],
    )
    def test_interrupted_write_leaves_the_old_file(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        raised: type[BaseException],
    ) -> None:
        def save(_: Image.Image, path: Path, *__: object, **___: object) -> None:
            path.write_bytes(b"half a pict")
            raise error

        source = saved(picture("RGB"), tmp_path / "in.png")
        (tmp_path / "out").mkdir()
        target = tmp_path / "out" / "in.png"
        target.write_bytes(b"old")
        can_store("PNG", "RGB")  # fills the cache, which calls Image.save
        monkeypatch.setattr(Image.Image, "save", save)
        with pytest.raises(raised, match="No space left" if raised is PictureError else None):
            denoise_file(source, target, identity)
        assert [path.name for path in target.parent.iterdir()] == ["in.png"]
        assert target.read_bytes() == b"old"

    def test_target_folder_cannot_be_made(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(PictureError, match="cannot be written: "):
            denoise_file(source, source / "out.png", identity)

    @pytest.mark.parametrize(
        "wrong", [lambda array: array[:-1], lambda array: array.astype(np.float32) / 255]
    )
    def test_denoiser_that_returns_another_shape_or_dtype(
        self, tmp_path: Path, wrong: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(ValueError, match=r"was given uint8 \(31, 17, 3\) and returned"):
            denoise_file(source, tmp_path / "out.png", wrong)
