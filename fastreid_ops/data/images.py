# SPDX-License-Identifier: Apache-2.0
"""Reading one image file: either an upright RGB picture or a BadImageError, never a hang and never a guess.

How other modes become RGB: grey is repeated; 16-bit grey is taken as full range (0-65535) and rounded to 8
bits; palettes are looked up; anything with transparency is laid on white; CMYK, YCbCr and HSV follow Pillow's
own conversion. Refused: 32-bit and floating-point pixels (their range is unknown), animations and multi-page
files (which picture is meant is unknown), everything truncated, empty, over the limits below, or no regular
file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# The picture formats that need no outside program (PostScript, for one, would start Ghostscript). Imported by
# name, since a plugin registers its format when imported and Pillow fails on a list with one that is missing:
# WebP is, where Pillow was built without it. JPEG includes the multi-picture MPO files of telephones.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        GifImagePlugin.GifImageFile,
    )
    if plugin.format in Image.OPEN
)
# An 8K video frame has 33.2 million pixels; a person crop has a few thousand. Checked before anything is
# decoded.
MAX_PIXELS = 2**25
MAX_BYTES = 2**28
# What Pillow's decoders raise on malformed data; SyntaxError is its word for a broken header.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
ORIENTATION = 0x0112
# JPEG's quantisation and Huffman tables, restart interval, comment and JFIF header: what the decoder needs, and nothing
# that could change what a picture means.
_PLAIN_SEGMENTS = frozenset((0xDB, 0xC4, 0xDD, 0xFE, 0xE0))
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
POLICIES = ("raise", "skip", "replace")


class BadImageError(ValueError):
    """An image that cannot be used: `path` says which, `reason` why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path, self.reason = os.fspath(path), reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture completely, turned upright by its EXIF orientation.

    Args:
        path: file name. Only regular files (or links to them) are opened: a pipe or a device never blocks.

    Returns:
        a loaded PIL image of mode RGB; the file is closed.

    Raises:
        BadImageError: whatever is wrong with the file, its size or its content.
        RuntimeError: if `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` has been switched on, which would turn the
            missing part of every truncated file into grey without a word.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "read_image: PIL.ImageFile.LOAD_TRUNCATED_IMAGES: got True, expected False; other code of this "
            "process switched it on, and truncated images would be read as if they were whole"
        )
    data = read_bytes(path)
    image = _plain_jpeg(data)
    if image is not None:
        return image
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            reason = _refusal(image, data)
            if reason is not None:
                raise BadImageError(path, reason)
            image.load()
            return _rgb(_upright(image))
    except BadImageError as error:
        # Raised inside by a step that does not know the file's name.
        raise BadImageError(path, error.reason) from None
    except Image.UnidentifiedImageError as error:
        raise BadImageError(path, f"no picture of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(path, f"more than {MAX_PIXELS} pixels (images.MAX_PIXELS)") from error
    except DECODE_ERRORS as error:
        raise BadImageError(path, f"cannot be decoded: {str(error) or type(error).__name__}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular, non-empty file of at most MAX_BYTES.

    Raises:
        BadImageError: for folders, pipes, devices, missing, unreadable, empty and oversized files.
    """
    # Non-blocking: opening a pipe that nobody writes to would otherwise wait for ever.
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise BadImageError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
            raise BadImageError(path, f"{kind}, no file")
        if status.st_size == 0:
            raise BadImageError(path, "empty: 0 bytes")
        if status.st_size > MAX_BYTES:
            raise BadImageError(path, f"{status.st_size} bytes, more than {MAX_BYTES} (images.MAX_BYTES)")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise BadImageError(path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _plain_jpeg(data: bytes) -> Image.Image | None:
    """The picture of a JPEG file without a question to answer: three colours of 8 bits, no EXIF block that may turn it,
    nothing unknown before its scan. Pillow's decoder, given the whole file at once: a sixth faster than through
    `Image.open`, which reads the headers in Python for what nobody asks here. None for every other file and where
    decoding fails: the long way says what is wrong.
    """
    size = _plain_jpeg_size(data)
    if size is None or size[0] * size[1] > min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
        return None
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return None
    try:
        return Image.frombytes("RGB", size, data, "jpeg", "RGB", "")
    except DECODE_ERRORS:
        return None


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the segments before the scan, (marker, length, content) each; None if any of them is
    unusual."""
    size, at, end = None, 2, len(data)
    if data[:2] != b"\xff\xd8":
        return None
    while at + 10 <= end and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == 0xDA:
            return size
        if marker in (0xC0, 0xC1, 0xC2):  # a frame: baseline, extended or progressive
            if size is not None or length != 17 or data[at + 4] != 8 or data[at + 9] != 3:
                return None
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            if 0 in size:
                return None
        elif marker not in _PLAIN_SEGMENTS or (marker == 0xE0 and length < 16):
            return None
        at += 2 + length
    return None


def _refusal(image: Image.Image, data: bytes) -> str | None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels, more than {MAX_PIXELS} (images.MAX_PIXELS)"
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "several pictures in one file (an animation or pages)"
    # A copy that broke off is often filled up with zeros, which a JPEG decoder takes for picture data. A
    # whole file has its end marker after its last scan.
    if image.format in ("JPEG", "MPO") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return "truncated: no end-of-image marker after the last scan"
    return None


def _upright(image: Image.Image) -> Image.Image:
    orientation: object = 1
    # A broken EXIF block says nothing about the pixels: the picture is then taken as it is stored.
    with contextlib.suppress(*DECODE_ERRORS):
        orientation = image.getexif().get(ORIENTATION, 1)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        if "transparency" in image.info:
            raise BadImageError("", "16-bit grey with a transparent value is not supported")
        levels = np.asarray(image).astype(np.int64)
        # round(v / 257) maps 0 ... 65535 onto 0 ... 255; Pillow itself would clip everything above 255 to
        # white.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImageError("", f"pixels of mode {image.mode} have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    # As it was loaded, where it is RGB: read_image has let go of the file, and a copy costs as much as normalising.
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass
class BadImagePolicy:
    """What happens to images that cannot be read; every one of them is counted and listed.

    Attributes:
        mode: "raise" stops at the first, naming it. "skip" leaves the image out of an evaluation; "replace"
            puts a picture of the mean colour in its place there, so that rows keep their numbers. In training
            both give the slot to another image of the same identity: a batch keeps its size and its P x K
            composition.
        files: bad file -> reason.
        uses: how often a bad file came up.
    """

    mode: str = "raise"
    files: dict[str, str] = field(default_factory=dict)
    uses: int = 0

    def __post_init__(self) -> None:
        if self.mode not in POLICIES:
            raise ValueError(
                f"BadImagePolicy: mode: got {self.mode!r}, expected one of {', '.join(POLICIES)}"
            )

    def record(self, path: str | os.PathLike[str], reason: str) -> None:
        """Count and list a bad file, or raise BadImageError where the mode is "raise"."""
        self.uses += 1
        self.files[os.fspath(path)] = reason
        if self.mode == "raise":
            raise BadImageError(path, reason)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write path,reason of every bad file, sorted by path; writes nothing when there are none."""
        if not self.files:
            return
        with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "reason"))
            writer.writerows(sorted(self.files.items()))
