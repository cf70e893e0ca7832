# SPDX-License-Identifier: Apache-2.0
"""Manifests as CSV files: UTF-8, comma-separated, one header line. What is not plain is refused with file and
line."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from fastreid_ops._atomic import write_atomic
from fastreid_ops.data import ids

REQUIRED: dict[str, Callable[[object], object]] = {
    "path": ids.text,
    "pid": ids.identity,
    "camid": ids.whole,
    "split": ids.split_name,
}
OPTIONAL: dict[str, Callable[[object], object]] = {
    "modality": ids.text,
    "clothes": ids.identity,
    "tracklet": ids.identity,
    "frame": ids.whole,
}
COLUMNS = {**REQUIRED, **OPTIONAL}
MOST_PROBLEMS = 20
_OTHER_WORDS = {
    "path": ("file", "filename", "file_name", "image", "image_path", "img", "img_path", "impath", "name"),
    "pid": ("id", "person", "person_id", "personid", "identity", "label", "target", "vid", "vehicle_id"),
    "camid": ("cam", "camera", "camera_id", "cam_id", "cameraid", "view"),
    "split": ("set", "subset", "partition", "fold", "part"),
    "modality": ("modal", "spectrum", "sensor"),
    "clothes": ("cloth", "clothes_id", "clothid", "outfit"),
    "tracklet": ("track", "track_id", "tracklet_id", "trackid"),
    "frame": ("frame_id", "frameid", "time"),
}


class ManifestError(ValueError):
    """A manifest that cannot be used. `problems` holds one sentence each, with file and line where there is
    one."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def parse(path: Path) -> tuple[dict[str, list], list[int]]:
    """Read a manifest's columns.

    Returns:
        column name -> checked values, and for every row the line of the file it ended on.

    Raises:
        ManifestError: all that is wrong, up to 20 places, each as `file:line: column: got X, expected Y`.
    """
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: not a well-formed CSV line: {error}") from error
    if not rows:
        raise ManifestError(f"{path}: got an empty file, expected a header line such as path,pid,camid,split")
    names, rows, lines = rows[0], rows[1:], lines[1:]
    _check_header(path, names)
    if not rows:
        raise ManifestError(f"{path}: got a header and no rows, expected one row for each image")
    columns: dict[str, list] = {name: [] for name in names}
    problems: list[str] = []
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            problems.append(f"{path}:{line}: got {len(row)} cells, expected {len(names)} ({','.join(names)})")
        else:
            for name, cell in zip(names, row, strict=True):
                try:
                    columns[name].append(COLUMNS[name](cell))
                except ValueError as error:
                    problems.append(f"{path}:{line}: {name}: {error}{_advice(name, cell)}")
        if len(problems) >= MOST_PROBLEMS:
            raise ManifestError([*problems[:MOST_PROBLEMS], f"{path}: reading stopped after these problems"])
    if problems:
        raise ManifestError(problems)
    return columns, lines


def _decode(path: Path) -> str:
    if path.is_dir():
        raise ManifestError(f"{path}: got a folder, expected a CSV file")
    if path.exists() and not path.is_file():
        raise ManifestError(f"{path}: got a device or a pipe, expected a CSV file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f"{path}: got UTF-16 text, expected UTF-8 (save it as 'CSV UTF-8')")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ManifestError(f"{path}:{line}: got a NUL byte, expected UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        raise ManifestError(
            f"{path}:{line}: got byte 0x{byte:02x}, which is no UTF-8, expected UTF-8 text"
        ) from error


def _check_header(path: Path, names: list[str]) -> None:
    where = f"{path}:1: header"
    if len(names) == 1:
        for sign, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in names[0]:
                raise ManifestError(f"{where}: got cells separated by {word}, expected commas")
    problems = []
    if not set(names) & set(COLUMNS) and any("." in name or name.isdigit() for name in names):
        raise ManifestError(
            f"{where}: got {','.join(names)[:80]!r}, expected column names: path,pid,camid,split"
        )
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(f"{where}: got the column {name!r} {names.count(name)} times, expected once")
        if name not in COLUMNS:
            near = nearest_column(name)
            meant = f" (did you mean {near!r}?)" if near else ""
            problems.append(f"{where}: got the column {name!r}, expected one of {', '.join(COLUMNS)}{meant}")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        problems.append(
            f"{where}: got {', '.join(map(repr, names))}, the column {', '.join(missing)} is missing"
        )
    if problems:
        raise ManifestError(problems)


def nearest_column(name: str) -> str | None:
    """The column most likely meant by `name`, or None."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    for column, words in _OTHER_WORDS.items():
        if plain == column or plain in words:
            return column
    return next(iter(difflib.get_close_matches(plain, COLUMNS, n=1, cutoff=0.6)), None)


def _advice(name: str, cell: str) -> str:
    if name == "camid" and cell.strip() and not cell.strip("-").isdigit():
        return "; number the cameras 0, 1, ..."
    if name == "camid" and not cell.strip():
        return "; for data of a single camera write 0 in every row and evaluate with protocol no_camera"
    if name == "pid" and cell.startswith("-") and cell[1:].isdigit():
        return "; leave rows of junk boxes out"
    if name in OPTIONAL and not cell.strip():
        return "; leave the whole column out where it is not known for every row"
    return ""


def write(path: Path, columns: dict[str, list]) -> None:
    """Write the columns as CSV: to a temporary file beside `path`, synced, then renamed over it.

    Raises:
        ValueError: if a text cannot be written as UTF-8.
        OSError: if the folder cannot be written to; an older file of that name is then untouched.
    """
    buffer = io.StringIO(newline="")
    # Left to itself the writer does not quote a carriage return, which then ends the line when it is read.
    returns = any("\r" in str(cell) for cells in columns.values() for cell in cells)
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    writer = csv.writer(buffer, lineterminator="\n", quoting=quoting)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    try:
        data = buffer.getvalue().encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"write_csv: {path}: got a name that is no valid Unicode text: {error}") from error
    write_atomic(path, data)
