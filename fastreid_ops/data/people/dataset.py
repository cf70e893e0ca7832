# SPDX-License-Identifier: Apache-2.0
"""Render a whole data set into a folder that is either complete or not there."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from fastreid_ops.data.manifest import Manifest

from .layouts import LAYOUTS
from .options import PeopleOptions
from .shots import FOLDERS, jobs, pictures
from .worker import render_share

# Below this many pictures per worker, starting another one costs more than it saves.
LEAST_SHARE = 64


def render_dataset(
    root: str | os.PathLike[str],
    options: PeopleOptions,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Render every picture of a procedural data set, laid out and named as Market-1501.

    Args:
        root: a folder that does not exist or is empty. It appears complete, by one rename, or not at all.
        options: content and difficulty.
        workers: processes; None for one per available processor. The result does not depend on it.
        progress: called with (pictures finished, pictures in all) from the calling thread.

    Returns:
        the manifest of ``root``, also written there as manifest.csv: camid from 0, clothes the outfit number,
        modality "visible" or "infrared", frame as in the file name; of tracklets their name, and frame from 0.

    Raises:
        ValueError: if ``root`` holds something, or if the test split would have no gallery.
        RuntimeError: if a worker fails; nothing is left behind.
    """
    target = Path(root)
    if workers is not None and workers < 1:
        raise ValueError(f"render_dataset: workers: got {workers}, expected at least 1")
    least = 1 if options.infrared else LAYOUTS[options.like].least
    if options.test_ids and options.images_per_camera < least:
        raise ValueError(
            f"render_dataset: images_per_camera: got {options.images_per_camera}, expected at least {least}: a "
            "query and its gallery"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"render_dataset: root: got {str(target)!r}, which exists, expected a new or empty folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        for name in FOLDERS.values():
            (partial / name).mkdir()
        _render(partial, options, workers, progress)
        manifest = _manifest(target, options)
        _manifest(partial, options).write_csv(partial / "manifest.csv")
        # mkdtemp makes private folders; a data set is as readable as any other new folder.
        partial.chmod((partial / "query").stat().st_mode & 0o777)
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _manifest(root: Path, options: PeopleOptions) -> Manifest:
    rows = jobs(options)
    return Manifest(
        root=root,
        path=[job.path for job in rows],
        pid=[job.label for job in rows],
        camid=[job.camid for job in rows],
        split=[job.split for job in rows],
        modality=["infrared" if job.infrared else "visible" for job in rows],
        clothes=[job.outfit for job in rows],
        tracklet=[job.tracklet for job in rows] if options.tracklet_length else None,
        frame=[job.t if options.tracklet_length else job.frame for job in rows],
    )


def _render(folder: Path, options: PeopleOptions, workers: int | None, progress) -> None:
    total = len(pictures(options))
    if workers is None:
        workers = max(1, min(_processors(), total // LEAST_SHARE))
    count = max(1, min(workers, total))
    done = 0

    def report(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, total)

    if count == 1:
        for number in render_share(folder, options, 0, 1):
            report(number)
    else:
        _run_workers(folder, options, count, report)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_workers(folder: Path, options: PeopleOptions, count: int, report: Callable[[int], None]) -> None:
    """Plain child processes: a process pool would either fork a parent full of threads or import its main program,
    and torch with it, in every child."""
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastreid_ops.data.people.worker", str(folder)]
    children: list[subprocess.Popen] = []
    lines: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    try:
        for share in range(count):
            child = subprocess.Popen(
                [*command, str(share), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            children.append(child)
            threading.Thread(target=_follow, args=(share, child, options, lines), daemon=True).start()
        said, running = [b""] * count, count
        while running:
            share, line = lines.get()
            if not line:
                running -= 1
            elif line.strip().isdigit():
                report(int(line))
            else:
                said[share] += line
        for child, text in zip(children, said, strict=True):
            if child.wait() != 0:
                tail = text.decode(errors="replace").strip()[-2000:]
                raise RuntimeError(f"render_dataset: a worker ended with status {child.returncode}: {tail}")
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def _follow(share: int, child: subprocess.Popen, options: PeopleOptions, lines: queue.SimpleQueue) -> None:
    """Hand the child its options and pass on what it says; an empty line means that it has ended."""
    try:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps(options.to_dict()).encode())
        with child.stdout:
            for line in child.stdout:
                lines.put((share, line))
    finally:
        lines.put((share, b""))
