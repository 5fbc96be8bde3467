"""Denoised pictures keep what they say beside their pixels; what a format loses is said."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from raydae.images import pictures
from raydae.images.denoise_file import denoise_file
from raydae.images.iso_boxes import boxes_of, find_box, make_box
from raydae.images.jpeg_segments import split
from tests.images.sample_pictures import identity, inverted, opened, picture, saved, smooth

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"http://ns.adobe.com/xap/1.0/\0"
SEGMENTS = [
    (0xE0, b"JFIF\0\1\2\1" + struct.pack(">HHBB", 72, 144, 0, 0)),  # pixels that are not square
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    (0xE1, XMP + b"<x:xmpmeta hdrgm:Version='1.0'/>"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b"<more/>"),
    (0xE2, b"ICC_PROFILE\0\1\1" + PROFILE),
    (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
    (0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x0a\x1c\x02\x50\0\5Dupin"),
    (0xFE, "kühl, am Abend".encode()),
    (0xFE, b"a second comment"),
    (0xEC, b"private"),
]


def jpeg(path: Path, segments: list[tuple[int, bytes]], trailer: bytes = b"") -> Path:
    buffer = io.BytesIO()
    smooth().save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()[20:]  # behind SOI and JFIF
    stored = b"".join(
        struct.pack(">BBH", 0xFF, kind, len(part) + 2) + part for kind, part in segments
    )
    path.write_bytes(b"\xff\xd8" + stored + data + trailer)
    return path


def denoised(source: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    target = source.with_name(f"out{source.suffix}")
    denoise_file(source, target, inverted, say=lines.append)
    return target, lines


class TestJpeg:
    def test_segments_are_kept_byte_by_byte(self, tmp_path: Path) -> None:
        source = jpeg(tmp_path / "in.jpg", SEGMENTS)
        target, lines = denoised(source)
        after = [tuple(segment) for segment in split(target.read_bytes()).segments]
        assert after[: len(SEGMENTS)] == SEGMENTS
        assert all(marker not in range(0xE0, 0xF0) for marker, _ in after[len(SEGMENTS) :])
        assert lines == []
        expected = 255 - np.asarray(opened(source), int)
        np.testing.assert_allclose(np.asarray(opened(target), int), expected, atol=6)

    def test_what_describes_old_colours_or_old_pixels_is_not_copied(self, tmp_path: Path) -> None:
        adobe = (0xEE, b"Adobe\0\x64\0\0\0\0\1")
        credentials = (0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumb" + bytes(20))
        target, lines = denoised(jpeg(tmp_path / "in.jpg", [*SEGMENTS, adobe, credentials]))
        after = [tuple(segment) for segment in split(target.read_bytes()).segments]
        assert adobe not in after
        assert credentials not in after
        assert lines == ["lost content credentials"]

    @pytest.mark.parametrize(
        ("segments", "trailer", "name"),
        [
            (SEGMENTS, b"\xff\xd8\xff\xe0 a gain map \xff\xd9", "gain map"),
            (SEGMENTS[:1], b"\xff\xd8\xff\xe0 a preview \xff\xd9", "further pictures"),
            (SEGMENTS[:1], b"\0\0\0\x18ftypmp42" + bytes(90), "video"),
        ],
    )
    def test_what_follows_the_picture_is_kept_and_said(
        self, tmp_path: Path, segments: list[tuple[int, bytes]], trailer: bytes, name: str
    ) -> None:
        target, lines = denoised(jpeg(tmp_path / "in.jpg", segments, trailer))
        assert target.read_bytes().endswith(b"\xff\xd9" + trailer)
        assert lines == [f"not denoised, but kept: {name}"]

    def test_further_pictures_are_found_through_the_index(self, tmp_path: Path) -> None:
        others = [picture("RGB"), picture("L").convert("RGB")]
        options = {"save_all": True, "append_images": others, "quality": 40}
        source = saved(smooth(), tmp_path / "in.jpg", "MPO", **options)
        target, lines = denoised(source)
        assert lines == ["not denoised, but kept: further pictures"]
        assert len(target.read_bytes()) != len(source.read_bytes())
        before, after = Image.open(source), Image.open(target)
        with before, after:
            assert (before.format, after.format) == ("MPO", "MPO")
            entries = after.mpinfo[0xB002]  # type: ignore[attr-defined]
            picture_size = len(target.read_bytes()) - len(split(target.read_bytes()).trailer)
            assert entries[0]["Size"] == picture_size
            for frame in (1, 2):
                before.seek(frame)
                after.seek(frame)
                assert after.tobytes() == before.tobytes()

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_segments_of_other_modes(self, tmp_path: Path, mode: str) -> None:
        options = {"icc_profile": b"a profile", "comment": b"a comment"}
        source = saved(smooth(mode), tmp_path / "in.jpg", "JPEG", **options)
        denoise_file(source, tmp_path / "out.jpg", identity)
        after = opened(tmp_path / "out.jpg")
        assert after.mode == mode
        assert (after.info["icc_profile"], after.info["comment"]) == tuple(options.values())
        np.testing.assert_allclose(np.asarray(after, int), np.asarray(opened(source), int), atol=4)


def jp2(path: Path, image: Image.Image, colours: bytes, *boxes: bytes) -> Path:
    """Write a JPEG 2000 with another colour box, a resolution, and further boxes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG2000")
    data = buffer.getvalue()
    header = find_box(data, b"jp2h")
    assert header is not None
    parts = boxes_of(data, header.body, header.end)
    inner = [data[box.start : box.end] for box in parts if box.kind != b"colr"]
    inner[1:1] = [make_box(b"colr", colours)]
    resolution = make_box(b"resc", struct.pack(">4H2b", 300, 1, 150, 1, 2, 2))
    inner.append(make_box(b"res ", resolution))
    head = data[: header.start] + make_box(b"jp2h", b"".join(inner))
    path.write_bytes(head + b"".join(boxes) + data[header.end :])
    return path


class TestJpeg2000:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_boxes_are_kept(self, tmp_path: Path, mode: str) -> None:
        extra = [make_box(b"xml ", b"<a/>"), make_box(b"uuid", b"JpgTiffExif->JP2II*\0")]
        colours = b"\2\0\0" + PROFILE
        source = jp2(tmp_path / "in.jp2", picture(mode), colours, *extra)
        target, lines = denoised(source)
        data = target.read_bytes()
        header = find_box(data, b"jp2h")
        assert header is not None
        inner = boxes_of(data, header.body, header.end)
        assert [data[box.body : box.end] for box in inner if box.kind == b"colr"] == [colours]
        assert any(box.kind == b"res " for box in inner)
        assert all(box in data for box in extra)
        assert lines == []
        before, after = opened(source), opened(target)
        assert (after.mode, after.size) == (mode, before.size)
        if mode != "RGBA":
            np.testing.assert_array_equal(np.asarray(after), 255 - np.asarray(before))

    def test_other_colour_spaces_are_kept(self, tmp_path: Path) -> None:
        colours = b"\1\0\0" + struct.pack(">I", 21)  # ROMM RGB
        target, _ = denoised(jp2(tmp_path / "in.jp2", picture("RGB"), colours))
        assert make_box(b"colr", colours) in target.read_bytes()

    def test_unknown_boxes_are_lost_and_said(self, tmp_path: Path) -> None:
        colours = b"\1\0\0" + struct.pack(">I", 16)
        box = make_box(b"mine", b"of the old pixels")
        target, lines = denoised(jp2(tmp_path / "in.jp2", picture("RGB"), colours, box))
        assert box not in target.read_bytes()
        assert lines == ["lost box mine"]


@pytest.mark.skipif("AVIF" not in pictures.formats(), reason="Pillow without AVIF")
class TestAvif:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_primaries_and_transfer_function_are_kept(self, tmp_path: Path, mode: str) -> None:
        source = saved(smooth(mode), tmp_path / "in.avif", "AVIF", quality=95)
        data = source.read_bytes()
        srgb, pq = (b"colrnclx" + struct.pack(">HH", *pair) for pair in ((1, 13), (9, 16)))
        assert srgb in data
        source.write_bytes(data.replace(srgb, pq))
        target, lines = denoised(source)
        assert pq in target.read_bytes()
        assert srgb not in target.read_bytes()
        assert lines == []
        after = opened(target)
        expected = 255 - np.asarray(smooth(), int)
        if mode == "RGB":
            assert np.abs(np.asarray(after, int) - expected).mean() < 2

    def test_colours_that_are_not_told_are_not_invented(self, tmp_path: Path) -> None:
        source = saved(smooth(), tmp_path / "in.avif", "AVIF")
        source.write_bytes(source.read_bytes().replace(b"colrnclx", b"freenclx"))
        target, lines = denoised(source)
        at = target.read_bytes().find(b"colrnclx")
        assert struct.unpack_from(">HH", target.read_bytes(), at + 8) == (2, 2), "unspecified"
        assert lines == []

    def test_grey_with_alpha_stays_grey(self, tmp_path: Path) -> None:
        image = smooth("LA")
        image.putalpha(90)
        options = {"subsampling": "4:0:0", "quality": 100}
        source = saved(image, tmp_path / "in.avif", "AVIF", **options)
        if opened(source).mode != "RGBA":
            pytest.skip("old Pillow")
        target, _ = denoised(source)
        data = target.read_bytes()
        assert data[data.find(b"av1C") + 6] & 0x10  # monochrome
        np.testing.assert_allclose(
            np.asarray(opened(target), int)[..., 0], 255 - np.asarray(image, int)[..., 0], atol=8
        )
        assert set(opened(target).getchannel("A").tobytes()) == {90}


class TestOthers:
    def test_webp(self, tmp_path: Path) -> None:
        options = {"xmp": b"<x:xmpmeta/>", "icc_profile": PROFILE}
        source = saved(picture("RGB"), tmp_path / "in.webp", "WEBP", **options)
        data = source.read_bytes() + b"C2PA\2\0\0\0ok" + b"MINE\3\0\0\0own\0"
        source.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
        target, lines = denoised(source)
        assert lines == ["lost content credentials"]
        after = target.read_bytes()
        assert after.endswith(b"MINE\3\0\0\0own\0")
        assert struct.unpack_from("<I", after, 4) == (len(after) - 8,)
        assert b"C2PA" not in after
        assert {key: opened(target).info[key] for key in options} == options

    @pytest.mark.parametrize(
        "head",
        [b"P6\n# from the balcony\n2 1\n255\n", b"P6\n#one\n2 #two\n1\n#three\n255\n"],
    )
    def test_comments_of_a_ppm(self, tmp_path: Path, head: bytes) -> None:
        source = tmp_path / "in.ppm"
        source.write_bytes(head + b"ab#def")
        target, lines = denoised(source)
        comments = b"".join(b"#" + part.split(b"\n")[0] + b"\n" for part in head.split(b"#")[1:])
        assert target.read_bytes() == b"P6\n" + comments + b"2 1\n255\n" + bytes(
            255 - value for value in b"ab#def"
        )
        assert lines == []

    def test_extension_of_a_tga_is_lost_and_said(self, tmp_path: Path) -> None:
        source = saved(smooth(), tmp_path / "in.tga", "TGA")
        data = source.read_bytes()
        footer = struct.pack("<II", len(data), 0) + b"TRUEVISION-XFILE.\0"
        source.write_bytes(data + bytes(495) + footer)
        assert denoised(source)[1] == ["lost TGA extension area"]

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "TGA"])
    def test_nothing_is_said_if_nothing_is_lost(self, tmp_path: Path, file_format: str) -> None:
        source = saved(smooth(), tmp_path / "in", file_format)
        assert denoised(source)[1] == []

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [
            *(("PCX", {}), ("BMP", {"dpi": (300, 150)}), ("TGA", {"id_section": b"a street"})),
            ("JPEG2000", {"comment": b"from the balcony"}),
        ],
    )
    def test_what_these_formats_hold(
        self, tmp_path: Path, file_format: str, options: dict[str, Any]
    ) -> None:
        source = saved(smooth(), tmp_path / "in", file_format, **options)
        if file_format == "PCX":
            data = source.read_bytes()
            source.write_bytes(data[:12] + struct.pack("<HH", 300, 150) + data[16:])
        before, after = opened(source).info, opened(denoised(source)[0]).info
        keys = [*options, "dpi"] if file_format in ("PCX", "BMP") else list(options)
        assert {key: after[key] for key in keys} == {key: before[key] for key in keys}

    @pytest.mark.parametrize("mode", ["L", "RGBA"])
    def test_the_name_of_an_sgi_picture(self, tmp_path: Path, mode: str) -> None:
        source = saved(picture(mode), tmp_path / "in.sgi", "SGI")
        data = bytearray(source.read_bytes())
        data[24:104] = b"a street at night".ljust(80, b"\0")
        source.write_bytes(data)
        target, lines = denoised(source)
        assert target.read_bytes()[24:104] == data[24:104]
        assert lines == []

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("size", [108, 124])
    def test_colours_of_a_bmp(self, tmp_path: Path, mode: str, size: int) -> None:
        source = saved(smooth(mode), tmp_path / "in.bmp", "BMP")
        data = source.read_bytes()
        kind = b"DEBM" if size == 124 else bytes(4)  # an embedded profile; primaries and gamma
        tail = bytes(16) + kind + bytes(range(48))
        profile = PROFILE if size == 124 else b""
        if profile:
            tail += struct.pack("<4I", 4, len(data) - 14 + size - 40, len(profile), 0)
        head = data[:10] + struct.pack("<I", struct.unpack_from("<I", data, 10)[0] + size - 40)
        header = struct.pack("<I", size) + data[18:54] + tail
        assert len(header) == size
        source.write_bytes(head + header + data[54:] + profile)
        target, lines = denoised(source)
        after = target.read_bytes()
        assert after[14:18] + after[54:] != data[14:18] + data[54:]
        assert after[70:122] == kind + bytes(range(48))
        assert after.endswith(profile)
        assert struct.unpack_from("<I", after, 2) == (len(after),)
        if profile:
            start, length = struct.unpack_from("<II", after, 14 + 112)
            assert after[14 + start : 14 + start + length] == profile
        np.testing.assert_array_equal(np.asarray(opened(target)), 255 - np.asarray(smooth(mode)))
        assert lines == []
