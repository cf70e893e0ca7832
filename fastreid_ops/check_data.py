# SPDX-License-Identifier: Apache-2.0
"""Say everything that is wrong with a data set before a second of training is spent on it.

    python -m fastreid_ops.check_data ROOT --dataset market1501
    python -m fastreid_ops.check_data ROOT --dataset viper --option split=3
    python -m fastreid_ops.check_data --dataset sample
    python -m fastreid_ops.check_data file.csv [--root FOLDER] [--verify] [--json]

Exit status: 0 nothing wrong, 1 problems found, 2 the data set cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastreid_ops.data.checks import Finding, counts, label_findings
from fastreid_ops.data.datasets import DATASETS, OPTION, named_options, read_dataset, sample, scan_dataset
from fastreid_ops.data.datasets._layout import Published
from fastreid_ops.data.file_checks import file_findings
from fastreid_ops.data.manifest import Manifest

CLEAN, PROBLEMS, UNREADABLE = 0, 1, 2


def check(
    source: str | None,
    dataset: str | None = None,
    root: str | None = None,
    *,
    verify: bool = False,
    options: Mapping[str, object] | None = None,
    progress: bool = False,
) -> tuple[str, Manifest, list[Finding], Published]:
    """Read a data set and look for everything that is wrong.

    Args:
        source: the data set's folder, or a CSV manifest. dataset: a name of `DATASETS`; None for a CSV
            manifest.
        root: for a CSV manifest, the folder its relative paths start from. verify: decode every image.
        options: what the data set's reader takes. progress: show a bar while standard error is a terminal.

    Returns:
        the name of the data set, its manifest, the findings, the published counts.

    Raises:
        ValueError: when it cannot be read at all.
    """
    if dataset in (None, "csv"):
        if source is None:
            raise ValueError(
                f"check_data: got no data set, expected a CSV file or --dataset with one of "
                f"{', '.join(DATASETS)}"
            )
        if dataset is None and Path(source).is_dir():
            raise ValueError(
                f"check_data: got the folder {source!r}, expected --dataset beside it, one of "
                f"{', '.join(DATASETS)}"
            )
        if options:
            raise ValueError(
                f"check_data: --option: got {next(iter(options))!r}, expected none for a CSV file"
            )
        # Not through the csv reader: a missing image is one finding among others here.
        manifest = Manifest.read_csv(source, root)
        return (
            "csv",
            manifest,
            [*label_findings(manifest), *file_findings(manifest, verify=verify, progress=progress)],
            {},
        )
    if root is not None:
        raise ValueError(f"check_data: --root: got {root!r}, expected it with a CSV file only")
    options = dict(options or {})
    tree = scan_dataset(dataset, source, **options)
    if tree is None:
        manifest, findings, published = read_dataset(dataset, source, **options), [], {}
    else:
        manifest, findings, published = tree.manifest(), tree.findings(), tree.published
    if dataset == "sample":
        findings.append(Finding("note", "sample", f"this is {sample.DESCRIPTION}", 0))
    seen_people = tree is not None and tree.seen_people
    findings += label_findings(manifest, seen_people=seen_people)
    findings += file_findings(manifest, verify=verify, progress=progress)
    return dataset, manifest, findings, published


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastreid_ops.check_data",
        description="Say everything that is wrong with a data set before a second of training is spent on "
        "it.",
        epilog="Exit status: 0 nothing wrong, 1 problems found, 2 the data set cannot be read.",
    )
    parser.add_argument("source", nargs="?", help="folder of the data set, or a CSV manifest")
    parser.add_argument("--dataset", help=f"how to read the folder: one of {', '.join(DATASETS)}")
    parser.add_argument(
        "--root", help="for a CSV manifest: folder that relative paths start from (default: its own)"
    )
    parser.add_argument("--option", **OPTION)
    parser.add_argument("--verify", action="store_true", help="decode every image, not only its first bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # File names may be no valid text in the terminal's encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        name, manifest, findings, published = check(
            chosen.source,
            chosen.dataset,
            chosen.root,
            verify=chosen.verify,
            options=named_options(chosen.option),
            progress=True,
        )
    except (ValueError, OSError) as error:
        if chosen.json:
            print(json.dumps({"readable": False, "error": str(error)}))
        print(error, file=sys.stderr)
        return UNREADABLE
    problems = sum(finding.level == "problem" for finding in findings)
    if chosen.json:
        print(json.dumps(_as_json(name, manifest, findings, published, problems, chosen.verify), indent=1))
    else:
        print("\n".join(_as_text(name, manifest, findings, published, problems, chosen.verify)))
    return PROBLEMS if problems else CLEAN


def _as_json(
    name: str,
    manifest: Manifest,
    findings: list[Finding],
    published: Published,
    problems: int,
    verified: bool,
) -> dict:
    return {
        "readable": True,
        "dataset": name,
        "root": str(manifest.root),
        "verified": verified,
        "problems": problems,
        "counts": counts(manifest),
        "published": published or None,
        "findings": [finding._asdict() for finding in findings],
    }


def _as_text(
    name: str,
    manifest: Manifest,
    findings: list[Finding],
    published: Published,
    problems: int,
    verified: bool,
) -> list[str]:
    lines = [f"{name}: {manifest.root}"]
    for split, numbers in counts(manifest).items():
        beside = published.get(split, {})
        shown = [
            f"{number:>7} {key}" + (f" (published {beside[key]})" if key in beside else "")
            for key, number in numbers.items()
        ]
        lines.append(f"  {split:8}{'  '.join(shown)}")
    for level in ("problem", "note"):
        for item in findings:
            if item.level == level:
                lines.append(f"{level}: {item.text}")
                lines += [f"    {example}" for example in item.examples]
                if len(item.examples) < item.count and item.examples:
                    lines.append(f"    and {item.count - len(item.examples)} more")
    depth = "every image decoded" if verified else "images not decoded; --verify does"
    lines.append(f"{problems} problem{'s' if problems != 1 else ''} found ({depth})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
