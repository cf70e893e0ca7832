# SPDX-License-Identifier: Apache-2.0
"""The table of data sets: each module has `read(root, ...) -> Manifest`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping

from fastreid_ops.data.datasets._layout import Tree
from fastreid_ops.data.manifest import Manifest

DATASETS = {
    "csv": "fastreid_ops.data.datasets.csv_file:read",
    "people": "fastreid_ops.data.datasets.people:read",
    "sample": "fastreid_ops.data.datasets.sample:read",
    # images
    "market1501": "fastreid_ops.data.datasets.market1501:read",
    "dukemtmcreid": "fastreid_ops.data.datasets.dukemtmcreid:read",
    "cuhk01": "fastreid_ops.data.datasets.cuhk01:read",
    "cuhk02": "fastreid_ops.data.datasets.cuhk02:read",
    "cuhk03": "fastreid_ops.data.datasets.cuhk03:read",
    "msmt17": "fastreid_ops.data.datasets.msmt17:read",
    "viper": "fastreid_ops.data.datasets.viper:read",
    "grid": "fastreid_ops.data.datasets.grid:read",
    "ilids": "fastreid_ops.data.datasets.ilids:read",
    "prid450s": "fastreid_ops.data.datasets.prid450s:read",
    "prid": "fastreid_ops.data.datasets.prid:read",
    "sensereid": "fastreid_ops.data.datasets.sensereid:read",
    "university1652": "fastreid_ops.data.datasets.university1652:read",
    "cuhksysu": "fastreid_ops.data.datasets.cuhksysu:read",
    "att_faces": "fastreid_ops.data.datasets.att_faces:read",
    # video: tracklets
    "mars": "fastreid_ops.data.datasets.mars:read",
    "ilidsvid": "fastreid_ops.data.datasets.ilidsvid:read",
    "prid2011": "fastreid_ops.data.datasets.prid2011:read",
    "dukemtmcvidreid": "fastreid_ops.data.datasets.dukemtmcvidreid:read",
    # visible and infrared
    "sysu_mm01": "fastreid_ops.data.datasets.sysu_mm01:read",
    "regdb": "fastreid_ops.data.datasets.regdb:read",
    "llcm": "fastreid_ops.data.datasets.llcm:read",
    # changed clothes
    "prcc": "fastreid_ops.data.datasets.prcc:read",
    "ltcc": "fastreid_ops.data.datasets.ltcc:read",
    "vcclothes": "fastreid_ops.data.datasets.vcclothes:read",
    "deepchange": "fastreid_ops.data.datasets.deepchange:read",
    # competition
    "naic": "fastreid_ops.data.datasets.naic:read",
}

# What a data set is called where its numbers are shown, and what must be said beside them.
DESCRIPTIONS = {
    "people": (
        "procedural people, unseen ids",
        "Rendered by this package; none of these ids was trained on.",
    ),
    "sample": (
        "real crops, zero-shot",
        "589 crops of eleven people, one real camera cut into two pseudo-cameras; never trained on.",
    ),
    # images
    "market1501": ("Market-1501", "Single query."),
    "dukemtmcreid": ("DukeMTMC-reID", "Single query."),
    "cuhk01": (
        "CUHK01",
        "One of 20 splits, two pictures a person and camera; publications average over their own.",
    ),
    "cuhk02": ("CUHK02", "Camera pair P5; its people of P1 are those of CUHK01."),
    "cuhk03": ("CUHK03", "New split 767/700 unless classic; their figures are not comparable."),
    "msmt17": ("MSMT17", "Single query."),
    "viper": ("VIPeR", "One of 20 splits; publications average over their own."),
    "grid": ("GRID", "One of 10 fixed splits, 775 distractors in the gallery."),
    "ilids": ("i-LIDS", "One of 10 splits; cameras are not told, so none is held against a match."),
    "prid450s": ("PRID-450S", "One of 10 splits; publications average over their own."),
    "prid": ("PRID 2011, single shot", "One of 10 splits, 549 distractors in the gallery."),
    "sensereid": ("SenseReID", "Test only."),
    "university1652": (
        "University-1652",
        "Drone images among satellite images unless chosen otherwise; buildings.",
    ),
    "cuhksysu": ("CUHK-SYSU crops", "Train only."),
    "att_faces": (
        "AT&T faces",
        "New photos of the 40 people trained on, unless the split is people; photos stand for cameras.",
    ),
    # video: tracklets
    "mars": ("MARS", "Tracklets; gallery with distractors."),
    "ilidsvid": ("iLIDS-VID", "Tracklets; one of ten splits."),
    "prid2011": ("PRID 2011", "Tracklets; one of ten splits of 178 people."),
    "dukemtmcvidreid": ("DukeMTMC-VideoReID", "Tracklets; gallery with distractors."),
    # visible and infrared
    "sysu_mm01": ("SYSU-MM01", "Infrared queries, visible gallery drawn by the protocol."),
    "regdb": ("RegDB", "One of ten trials; both directions."),
    "llcm": ("LLCM", "Both directions, gallery drawn by the protocol."),
    # changed clothes
    "prcc": ("PRCC", "Gallery camera A; queries B (same clothes) and C (other clothes)."),
    "ltcc": ("LTCC", "Standard or changed clothes, as the protocol says."),
    "vcclothes": ("VC-Clothes", "Rendered people; the protocol picks the cameras."),
    "deepchange": ("DeepChange", "The tracklet stands in the place of the camera."),
    # competition
    "naic": ("NAIC", "Test identities are not published: rankings, no figures."),
}


def describe_dataset(name: str) -> tuple[str, str]:
    """Label and note of a data set; a CSV manifest is called by its file name."""
    return DESCRIPTIONS.get(name, (os.path.basename(name), ""))


def read_dataset(name: str, root: str | os.PathLike[str] | None = None, **options: object) -> Manifest:
    """Read a data set by its name in `DATASETS`, or a manifest by its file name ending in .csv.

    Args:
        name: "market1501", "people", "sample", "csv" or the name of a CSV file.
        root: the data set's folder; for a CSV file the folder its relative paths start from (None: its own).
            "people" and "sample" need none.
        options: what the reader takes beyond that.

    Raises:
        ValueError: for a name that is not in the table (with the nearest one), a missing root, unknown
            options, and whatever the reader finds wrong.
    """
    if str(name).lower().endswith(".csv"):
        reader, arguments = _reader("csv"), {"path": name, "root": root, **options}
        return reader(**_known("csv", reader, arguments))
    reader = _reader(_listed(name))
    if name == "csv":
        if root is None:
            raise ValueError("read_dataset: root: got None, expected the name of a CSV file")
        return reader(**_known(name, reader, {"path": root, **options}))
    return reader(_needed_root(name, reader, root), **_known(name, reader, options))


def scan_dataset(name: str, root: str | os.PathLike[str] | None = None, **options: object) -> Tree | None:
    """Everything that lies in a data set's folder, what cannot be used included; arguments and errors as
    `read_dataset`. None where the reader has no `scan`, as those of data sets that are not published trees.
    """
    reader = _reader(_listed(name))
    scan = getattr(importlib.import_module(reader.__module__), "scan", None)
    if scan is None:
        return None
    return scan(_needed_root(name, reader, root), **_known(name, reader, options))


def _listed(name: str) -> str:
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name).lower(), DATASETS, n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"read_dataset: name: got {name!r}, expected one of {', '.join(DATASETS)} or the name of a .csv "
            f"file{meant}"
        )
    return name


def _needed_root(name: str, reader, root: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    needed = inspect.signature(reader).parameters["root"].default is inspect.Parameter.empty
    if needed and root is None:
        raise ValueError(f"read_dataset: root: got None, expected the folder that holds {name}")
    return root


def gallery_permutations(name: str, root: str | os.PathLike[str] | None) -> Mapping | None:
    """The table of permutations by which a data set's own protocol draws its gallery (SYSU-MM01), if its file is there;
    None for all other data sets.

    Raises:
        ValueError: whatever the module finds wrong with the file.
    """
    if name not in DATASETS or root is None:
        return None
    module = importlib.import_module(DATASETS[name].split(":")[0])
    there = getattr(module, "has_permutations", None)
    return module.permutations(root) if there is not None and there(root) else None


def _reader(name: str):
    module, function = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), function)


def _known(name: str, reader, options: dict[str, object]) -> dict[str, object]:
    parameters = inspect.signature(reader).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        unknown = [option for option in options if option not in parameters]
        if unknown:
            takes = ", ".join(option for option in parameters if option not in ("root", "path")) or "none"
            raise ValueError(
                f"read_dataset: options: got {unknown[0]!r}, expected options of {name}: {takes}"
            )
    for option, value in options.items():
        # "false" as text would count as true.
        if option in parameters and isinstance(parameters[option].default, bool) and type(value) is not bool:
            raise ValueError(f"read_dataset: options: {option}: got {value!r}, expected true or false")
    return options


# The argument ``--option NAME=VALUE`` of the commands that read a data set, for argparse.
OPTION = {
    "action": "append",
    "default": [],
    "metavar": "NAME=VALUE",
    "help": "an option of the data set, such as split=3 or labeled=true; may be repeated",
}


def named_options(pairs: Iterable[str]) -> dict[str, object]:
    """{"split": 3} from ["split=3"], for `read_dataset`: JSON values, and text where it is none.

    Raises:
        ValueError: a pair without a name or an equals sign.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"--option: got {pair!r}, expected NAME=VALUE")
        try:
            options[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            options[name] = value
    return options
