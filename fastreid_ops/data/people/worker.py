# SPDX-License-Identifier: Apache-2.0
"""One worker of `render_dataset`: `python -m fastreid_ops.data.people.worker FOLDER SHARE COUNT < options.json`.

Renders every COUNT-th picture from number SHARE on and prints the running number of finished ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .camera import look
from .options import PeopleOptions
from .render import render_person
from .shots import Job, pictures

REPORT_EVERY = 16


def write_picture(folder: Path, options: PeopleOptions, job: Job) -> None:
    """Render one picture and store it as JPEG with its camera's quality."""
    camera = job.camera - (options.cameras if job.infrared else 0)
    pixels = render_person(options, job.pid, camera, job.k, outfit=job.outfit, infrared=job.infrared, t=job.t)
    quality = look(options, job.camera).jpeg_quality
    Image.fromarray(pixels).save(folder / job.path, format="JPEG", quality=quality)


def render_share(folder: Path, options: PeopleOptions, share: int, count: int) -> Iterator[int]:
    """Write the share's pictures; yields how many were written since the last report."""
    pending = 0
    # Neighbouring pictures go to different workers, so all finish at about the same time.
    for job in pictures(options)[share::count]:
        write_picture(folder, options, job)
        pending += 1
        if pending == REPORT_EVERY:
            yield pending
            pending = 0
    if pending:
        yield pending


def main(arguments: list[str]) -> int:
    folder, share, count = arguments
    options = PeopleOptions(**json.load(sys.stdin))
    for number in render_share(Path(folder), options, int(share), int(count)):
        # If the parent is gone this write fails and the worker ends with it.
        print(number, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
