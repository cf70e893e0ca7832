# SPDX-License-Identifier: Apache-2.0
"""What a report says where equal weights give other features."""

from __future__ import annotations

import pytest
from weights_support import empty, shapes, tags

from fastreid_ops.models import load_weights


def notes(name, file, **options):
    return load_weights(empty(name, **options), file).notes


@pytest.mark.parametrize(
    ("options", "own", "count"),
    [({}, False, 1), ({"align_corners": True}, False, 0), ({"learn_region": False}, False, 0), ({}, True, 0)],
)
def test_hacnn(options, own, count):
    file = tags(shapes("hacnn"))
    if own:  # a checkpoint of this package was trained as it is run
        file = {"format": "fastreid_ops.checkpoint", "model": file}
    said = notes("hacnn", file, **options)
    assert len(said) == count
    assert all("Create it with align_corners=True" in note for note in said)


def test_densenets_of_2018(need_timm):
    need_timm("densenet121")
    today = tags(shapes("densenet121"))
    old = {key.replace("features.", "base."): value for key, value in today.items()}
    assert notes("densenet121", today) == ()
    (said,) = notes("densenet121", old)
    assert "final_relu=False" in said
    assert notes("densenet121", old, final_relu=False) == ()


BASELINE = (("backbone.", "backbone."), ("bottleneck.", "heads.bottleneck.0."), ("classifier.", "heads."))


def fast_reid(name, changes=BASELINE):
    return {
        there + key.removeprefix(here): value
        for key, value in tags(shapes(name)).items()
        for here, there in changes
        if key.startswith(here)
    }


def test_fast_reids_resnest():
    changes = (("base.", "backbone."), ("bottleneck.", "heads.bottleneck.0."), ("classifier.", "heads."))
    file = fast_reid("naic_resnest50", changes)
    (said,) = notes("naic_resnest50", file)
    assert "equal with last_stride=2 only" in said
    assert notes("naic_resnest50", file, last_stride=2) == ()
    assert notes("naic_resnest50", tags(shapes("naic_resnest50"))) == ()


def test_fast_reids_pooling():
    file = fast_reid("resnet50_bnneck")
    (said,) = notes("resnet50_bnneck", file)
    assert "ceil_pool=True" in said
    assert notes("resnet50_bnneck", file, ceil_pool=True) == ()
    assert notes("mdinet", file) == ()
    grouped = {**file, "backbone.layer1.0.conv2.weight": file["backbone.layer1.0.conv2.weight"][:, :2]}
    assert notes("resnet50_bnneck", grouped) == ()  # its ResNeXt pools as everybody does
    assert notes("resnet50_bnneck", tags(shapes("resnet50_bnneck"))) == ()


def test_naics_own_resnet50():
    file = tags(shapes("naic_resnet50"))
    (said,) = notes("naic_resnet50", file)
    assert "legacy_stem=True" in said
    assert notes("naic_resnet50", file, legacy_stem=True) == ()
    assert notes("naic_resnet50_ibn_a", tags(shapes("naic_resnet50_ibn_a"))) == ()
