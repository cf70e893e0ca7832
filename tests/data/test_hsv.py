# SPDX-License-Identifier: Apache-2.0
"""The colour-only baseline, checked by a ranking written here and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.data.datasets import sample
from fastreid_ops.data.hsv import DIMENSION, hsv_stripes
from fastreid_ops.data.images import read_image


def rank(distance: np.ndarray, pids: np.ndarray, camids: np.ndarray) -> tuple[int, float, float]:
    """Queries, mAP and Rank-1 with every image as query and as gallery, same pid under the same camera
    removed."""
    precisions, firsts = [], []
    for query in range(len(distance)):
        kept = np.flatnonzero(~((pids == pids[query]) & (camids == camids[query])))
        order = kept[np.argsort(distance[query, kept], kind="stable")]
        hits = np.flatnonzero(pids[order] == pids[query])
        if len(hits):
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
            firsts.append(hits[0] == 0)
    return len(precisions), float(np.mean(precisions)), float(np.mean(firsts))


def test_score_on_the_packaged_crops():
    gallery = sample.read().select("gallery")
    features = np.stack([hsv_stripes(read_image(gallery.file(i))) for i in range(len(gallery))]).astype(
        np.float64
    )
    pids, camids = np.asarray(gallery.pid), np.asarray(gallery.camid)
    queries, mean_ap, rank1 = rank(1.0 - features @ features.T, pids, camids)
    assert queries == 563
    # Resampling and JPEG decoding differ by a grey level between library versions; the figures must not.
    assert mean_ap == pytest.approx(0.408, abs=0.004)
    assert rank1 == pytest.approx(0.433, abs=0.009)
    noise = np.random.default_rng(0).random((len(gallery), len(gallery)))
    assert rank(noise, pids, camids)[1] < 0.07


def test_descriptor_is_a_unit_vector_and_sees_only_the_middle():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (120, 64, 3), dtype=np.uint8)
    feature = hsv_stripes(Image.fromarray(pixels))
    assert feature.shape == (DIMENSION,)
    assert feature.dtype == np.float32
    assert np.linalg.norm(feature) == pytest.approx(1.0, abs=1e-6)
    painted = pixels.copy()
    painted[:, :8], painted[:, -8:] = 0, 255
    assert np.array_equal(hsv_stripes(Image.fromarray(painted)), feature)
    painted[:, 28:36] = 255
    assert not np.array_equal(hsv_stripes(Image.fromarray(painted)), feature)


def test_stripes_do_not_mix():
    pixels = np.zeros((60, 32, 3), dtype=np.uint8)
    pixels[10:20] = (255, 0, 0)
    feature = hsv_stripes(Image.fromarray(pixels)).reshape(6, -1)
    assert np.allclose((feature**2).sum(1), 1 / 6)
    assert np.array_equal(
        np.argmax(feature, axis=1) == np.argmax(feature[0]), [True, False, True, True, True, True]
    )


def test_refuses_what_is_no_image():
    with pytest.raises(TypeError, match="hsv_stripes: image: got ndarray"):
        hsv_stripes(np.zeros((3, 3, 3), dtype=np.uint8))
