# SPDX-License-Identifier: Apache-2.0
"""A corpus of bad images, each refused with its name, and good ones of every mode with the pixels they must
give."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from fastreid_ops.data import images
from fastreid_ops.data.images import BadImageError, BadImagePolicy, read_image


def picture(width: int = 40, height: int = 80) -> Image.Image:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (10, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def bad_content() -> dict[str, bytes]:
    """File name -> bytes that must be refused."""
    image = picture()
    bad = {
        "empty.jpg": b"",
        "one_byte.jpg": b"\xff",
        "text.jpg": b"this is no picture\n" * 40,
        "zeros.jpg": bytes(4096),
    }
    whole = {
        "baseline.jpg": encoded(image, "JPEG", quality=90),
        "progressive.jpg": encoded(image, "JPEG", quality=90, progressive=True),
        "plain.png": encoded(image, "PNG"),
        "plain.bmp": encoded(image, "BMP"),
        "lossy.webp": encoded(image, "WEBP"),
        "plain.tif": encoded(image, "TIFF"),
        "plain.ppm": encoded(image, "PPM"),
    }
    for name, data in whole.items():
        shares = (
            (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95) if name.endswith("jpg") else (0.1, 0.5, 0.9)
        )
        for share in shares:
            bad[f"cut_{int(share * 100):02d}_{name}"] = data[: int(len(data) * share)]
        if name.endswith("jpg"):
            bad[f"no_end_{name}"] = data[:-2]
            half = len(data) // 2
            bad[f"zero_tail_{name}"] = data[:half] + bytes(len(data) - half)
    thumbnail = whole["baseline.jpg"]
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    bad["end_marker_only_in_thumbnail.jpg"] = thumbnail[:2] + app1 + thumbnail[2:-200] + bytes(200)
    frames = [picture().rotate(angle) for angle in (0, 90, 180)]
    bad["animated.gif"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    bad["animated.png"] = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    bad["animated.webp"] = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    bad["pages.tif"] = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    bad["bomb_wide.png"] = png(60000, 60000)
    bad["bomb_at_limit.png"] = png(2**13, 2**12 + 1)
    bad["bomb_pillow_warns.png"] = png(10000, 10000)
    bad["bomb.bmp"] = whole["plain.bmp"][:18] + struct.pack("<ii", 50000, 50000) + whole["plain.bmp"][26:]
    bad["bomb.ppm"] = b"P6 40000 40000 255\n" + bytes(100)
    bad["no_rows.png"] = png(40, 0)
    bad["no_data.png"] = png(40, 80)
    bad["too_little_data.png"] = png(40, 80, body=bytes(500))
    bad["broken_zlib.png"] = whole["plain.png"].replace(b"IDAT", b"IDAT", 1)[:60] + bytes(
        len(whole["plain.png"]) - 60
    )
    bad["strange_depth.png"] = png(40, 80, depth=7)
    bad["float.tif"] = encoded(Image.new("F", (8, 8), 0.5), "TIFF")
    bad["int32.tif"] = encoded(Image.new("I", (8, 8), 70000), "TIFF")
    bad["script.eps"] = encoded(image, "EPS")
    bad["document.pdf.jpg"] = encoded(image, "PDF")
    bad["icon.ico"] = encoded(image.resize((32, 32)), "ICO")
    bad["page.html.jpg"] = b"<!DOCTYPE html><title>404</title>"
    bad["git_lfs.jpg"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    bad["archive.jpg"] = b"PK\x03\x04" + bytes(200)
    return bad


BAD = bad_content()


def test_the_corpus_is_large():
    assert len(BAD) + 9 >= 60  # nine more that are no content: folders, links, pipes, permissions, names


@pytest.mark.timeout(10)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_refused_by_name(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_bytes(BAD[name])
    with pytest.raises(BadImageError) as caught:
        read_image(file)
    assert caught.value.path == str(file)
    assert caught.value.reason
    assert str(caught.value) == f"{file}: {caught.value.reason}"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "kind", ["folder", "missing", "loop", "dangling", "through_file", "pipe", "device", "nul", "long"]
)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str):
    file = tmp_path / "x.jpg"
    if kind == "folder":
        file.mkdir()
    elif kind == "loop":
        (tmp_path / "y.jpg").symlink_to(file)
        file.symlink_to(tmp_path / "y.jpg")
    elif kind == "dangling":
        file.symlink_to(tmp_path / "nowhere.jpg")
    elif kind == "through_file":
        file.write_bytes(b"x")
        file = file / "y.jpg"
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file = Path("/dev/zero")
    elif kind == "nul":
        file = tmp_path / "a\0b.jpg"
    elif kind == "long":
        file = tmp_path / ("x" * 300 + ".jpg")
    with pytest.raises(BadImageError):
        read_image(file)


def test_no_permission_is_refused(tmp_path: Path):
    file = tmp_path / "x.jpg"
    file.write_bytes(encoded(picture(), "JPEG"))
    file.chmod(0)
    if os.access(file, os.R_OK):
        # The superuser may read everything: then the picture is read, not refused.
        assert read_image(file).size == (40, 80)
    else:
        with pytest.raises(BadImageError, match="Permission denied"):
            read_image(file)


def test_a_file_over_the_size_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "x.jpg"
    file.write_bytes(encoded(picture(), "JPEG"))
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(BadImageError, match=r"more than 100 \(images.MAX_BYTES\)"):
        read_image(file)


def test_every_cut_is_either_refused_or_changes_no_pixel(tmp_path: Path):
    for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})):
        data = encoded(picture(20, 30), form, **options)
        whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        file = tmp_path / "cut"
        for length in range(0, len(data), 7):
            file.write_bytes(data[:length])
            try:
                read = read_image(file)
            except BadImageError:
                continue
            assert np.array_equal(np.asarray(read), whole), (form, length)


def test_truncated_images_switched_on_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "x.jpg"
    file.write_bytes(encoded(picture(), "JPEG"))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES: got True, expected False"):
        read_image(file)


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    file = folder / name
    image.save(file, **options)
    return file


def pixel(file: Path) -> tuple[int, ...]:
    image = read_image(file)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_grey_bilevel_and_palette(tmp_path: Path):
    assert pixel(save(tmp_path, "l.png", Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(save(tmp_path, "1.png", Image.new("1", (4, 4), 1))) == (255, 255, 255)
    colours = Image.new("P", (4, 4), 1)
    colours.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(save(tmp_path, "p.png", colours)) == (10, 20, 30)
    assert pixel(save(tmp_path, "still.gif", colours)) == (10, 20, 30)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    for value, expected in ((0, 0), (257, 1), (385, 1), (386, 2), (32896, 128), (65535, 255)):
        levels = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
        for name in ("a.png", "a.tif", "a.pgm"):
            assert pixel(save(tmp_path, name, levels)) == (expected,) * 3, (value, name)


def test_transparency_is_laid_on_white(tmp_path: Path):
    assert pixel(save(tmp_path, "a.png", Image.new("RGBA", (4, 4), (255, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(save(tmp_path, "b.png", Image.new("RGBA", (4, 4), (255, 0, 0, 255)))) == (255, 0, 0)
    assert pixel(save(tmp_path, "c.png", Image.new("LA", (4, 4), (0, 0)))) == (255, 255, 255)
    half = pixel(save(tmp_path, "d.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert half == (127, 127, 127)
    clear = Image.new("P", (4, 4), 1)
    clear.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(save(tmp_path, "e.png", clear, transparency=1)) == (255, 255, 255)
    assert (
        pixel(save(tmp_path, "f.png", Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9)))
        == (255,) * 3
    )


def test_cmyk(tmp_path: Path):
    red, green, blue = pixel(
        save(tmp_path, "c.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
    )
    assert red > 240
    assert max(green, blue) < 15


def test_a_sixteen_bit_picture_with_a_transparent_value_is_refused(tmp_path: Path):
    file = save(tmp_path, "t.png", Image.fromarray(np.full((4, 4), 500, dtype=np.uint16)), transparency=500)
    with pytest.raises(BadImageError, match="16-bit grey with a transparent value"):
        read_image(file)


def test_every_exif_orientation_is_turned_upright(tmp_path: Path):
    upright = np.asarray(picture(16, 32))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[images.ORIENTATION] = orientation
        file = save(tmp_path, f"{orientation}.png", Image.fromarray(np.ascontiguousarray(pixels)), exif=exif)
        assert np.array_equal(np.asarray(read_image(file)), upright), orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_or_strange_exif_block_leaves_the_picture_as_stored(tmp_path: Path):
    data = encoded(picture(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for block in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        file = tmp_path / "x.jpg"
        file.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
        assert np.array_equal(np.asarray(read_image(file)), expected)
    exif = Image.Exif()
    exif[images.ORIENTATION] = 99
    assert read_image(save(tmp_path, "99.png", picture(), exif=exif)).size == (40, 80)


def test_odd_shapes_names_and_trailing_bytes_are_read(tmp_path: Path):
    assert read_image(save(tmp_path, "1x1.png", Image.new("RGB", (1, 1)))).size == (1, 1)
    assert read_image(save(tmp_path, "wide.png", Image.new("RGB", (60000, 1)))).size == (60000, 1)
    for name in ("ümlaut 人 \U0001f6b6.png", "new\nline.png", "quote'\".png", "no_extension"):
        file = tmp_path / name
        file.write_bytes(encoded(picture(), "PNG"))
        assert read_image(file).size == (40, 80)
    file = tmp_path / os.fsdecode(b"latin\xe9.png")
    file.write_bytes(encoded(picture(), "PNG"))
    assert read_image(file).size == (40, 80)
    file = tmp_path / "trailing.jpg"
    file.write_bytes(encoded(picture(), "JPEG") + b"appended by a camera")
    assert read_image(file).size == (40, 80)
    (tmp_path / "link.jpg").symlink_to(file)
    assert read_image(tmp_path / "link.jpg").size == (40, 80)


def test_errors_survive_a_process_border():
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "empty")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "empty", "a.jpg: empty")


def test_reading_leaves_no_file_open(tmp_path: Path):
    good = save(tmp_path, "a.png", picture())
    bad = tmp_path / "b.png"
    bad.write_bytes(b"nothing")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        read_image(good)
        with pytest.raises(BadImageError):
            read_image(bad)
    assert len(os.listdir("/proc/self/fd")) <= before + threading.active_count()


def test_policy_raises_counts_and_lists(tmp_path: Path):
    with pytest.raises(BadImageError, match=r"a\.jpg: empty"):
        BadImagePolicy().record("a.jpg", "empty")
    policy = BadImagePolicy("skip")
    for name in ("b.jpg", "a,comma.jpg", "b.jpg"):
        policy.record(name, "empty")
    assert policy.uses == 3
    assert policy.files == {"b.jpg": "empty", "a,comma.jpg": "empty"}
    policy.write_csv(tmp_path / "bad_files.csv")
    assert (tmp_path / "bad_files.csv").read_text() == 'path,reason\n"a,comma.jpg",empty\nb.jpg,empty\n'
    BadImagePolicy("skip").write_csv(tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()
    with pytest.raises(
        ValueError, match="BadImagePolicy: mode: got 'ignore', expected one of raise, skip, replace"
    ):
        BadImagePolicy("ignore")


def long_way(data: bytes) -> np.ndarray | None:
    """What Pillow's own opening gives, or None where it fails."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except images.DECODE_ERRORS:
        return None


def jpeg(rng: np.random.Generator) -> tuple[bytes, bool]:
    """A JPEG file of any kind, and whether nothing about it asks for the long way."""
    height, width = (int(value) for value in rng.integers(8, 60, 2))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8))
    mode = ("RGB", "RGB", "RGB", "L", "CMYK")[int(rng.integers(5))]
    options = {"quality": int(rng.integers(20, 101)), "subsampling": int(rng.integers(3))}
    options |= {"progressive": bool(rng.integers(2)), "restart_marker_blocks": int(rng.integers(3))}
    more = int(rng.integers(4))
    if more == 1:
        options["exif"] = Image.Exif()
        options["exif"][images.ORIENTATION] = 6
    elif more == 2:
        options["icc_profile"] = b"profile"
    elif more == 3:
        options["comment"] = b"a comment"
    file = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **options)
    return file.getvalue(), mode == "RGB" and more in (0, 3)


def test_short_and_long_way_to_a_jpeg_agree(tmp_path: Path):
    rng, file, short = np.random.default_rng(0), tmp_path / "x.jpg", 0
    for _ in range(60):
        data, plain = jpeg(rng)
        file.write_bytes(data)
        assert (images._plain_jpeg(data) is not None) == plain
        short += plain
        assert np.array_equal(np.asarray(read_image(file)), long_way(data))
    assert 15 < short < 45


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_jpegs_are_read_as_by_the_long_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng, file, outcomes = np.random.default_rng(1), tmp_path / "x.jpg", set()

    def outcome() -> tuple:
        try:
            return "read", np.asarray(read_image(file)).tobytes()
        except BadImageError as error:
            return "refused", error.reason

    for trial in range(300):
        data = bytearray(jpeg(rng)[0])
        if trial % 3 == 0:
            del data[int(rng.integers(1, len(data))) :]
        else:
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(min(len(data), 700 if trial % 3 == 1 else 9999)))] = int(
                    rng.integers(256)
                )
        file.write_bytes(data)
        both = outcome()
        with monkeypatch.context() as patch:
            patch.setattr(images, "_plain_jpeg", lambda data: None)
            assert outcome() == both
        outcomes.add((both[0], images._plain_jpeg(bytes(data)) is not None))
    assert outcomes == {("read", True), ("read", False), ("refused", False)}


def test_limits_hold_on_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = save(tmp_path, "x.jpg", picture())
    assert images._plain_jpeg(file.read_bytes()).size == (40, 80)
    monkeypatch.setattr(images, "MAX_PIXELS", 3199)
    with pytest.raises(BadImageError, match="40 x 80 pixels, more than 3199"):
        read_image(file)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    with pytest.raises(BadImageError, match="more than"):
        read_image(file)


def test_pictures_of_every_format_are_free_of_their_file(tmp_path: Path):
    for name in ("x.jpg", "x.png", "x.bmp", "x.ppm", "x.tif", "x.webp"):
        file = save(tmp_path, name, picture())
        image = read_image(file)
        file.unlink()
        expected = np.asarray(image).copy()
        assert getattr(image, "fp", None) is None
        assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(image))), expected)
        assert image.resize((20, 40)).size == (20, 40)
        assert np.array_equal(np.asarray(image.transpose(Image.Transpose.ROTATE_90)), np.rot90(expected))
