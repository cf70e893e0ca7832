# SPDX-License-Identifier: Apache-2.0
"""Samplers: what a batch holds, what an epoch holds, and that both follow from (seed, epoch) alone."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid_ops.data.samplers import PKBatches, ShuffledBatches

SIZES = {0: 1, 1: 3, 2: 4, 3: 9, 4: 16, 5: 30}
LABELS = [label for label, size in SIZES.items() for _ in range(size)]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 14), min_size=2, max_size=9),
    p=st.integers(1, 6),
    k=st.integers(1, 6),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 10**6),
    remainder=st.sampled_from(["drop", "fill"]),
)
def test_every_batch_holds_p_identities_with_k_images(sizes, p, k, seed, epoch, remainder):
    labels = [7 * label for label, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(0).permutation(len(labels))
    labels = [labels[place] for place in order]
    if p > len(sizes):
        with pytest.raises(
            ValueError, match=f"p: got {p} identities in a batch, expected at most {len(sizes)}"
        ):
            PKBatches(labels, p, k, seed)
        return
    batches = PKBatches(labels, p, k, seed, remainder=remainder)
    rows = batches.epoch(epoch)
    assert (
        batches.len_epoch(epoch)
        == len(rows)
        == PKBatches(labels, p, k, seed, remainder=remainder).len_epoch(epoch)
    )
    groups = Counter()
    for batch in rows:
        assert len(batch) == p * k
        members = [{labels[row] for row in batch[start : start + k]} for start in range(0, p * k, k)]
        assert all(len(member) == 1 for member in members)
        assert len(set.union(*members)) == p
        groups.update(label for member in members for label in member)
    for label, size in enumerate(sizes):
        drawn = Counter(row for batch in rows for row in batch if labels[row] == 7 * label)
        most = max(1, size // k if remainder == "drop" else -(-size // k))
        assert groups[7 * label] <= most
        if size >= k and remainder == "drop":
            assert max(drawn.values(), default=0) <= 1
    # The epoch ends only when fewer than P identities have groups left.
    left = sum(
        groups[7 * label] < max(1, size // k if remainder == "drop" else -(-size // k))
        for label, size in enumerate(sizes)
    )
    assert left < p


def test_few_images_are_drawn_with_replacement_into_one_group():
    batches = PKBatches(LABELS, 6, 4, seed=0)
    repeats = 0
    for epoch in range(60):
        for batch in batches.epoch(epoch):
            assert Counter(row for row in batch if LABELS[row] == 0) == {0: 4}
            repeats += max(Counter(row for row in batch if LABELS[row] == 1).values()) > 1
        assert batches.len_epoch(epoch) == 1
    assert repeats == 60  # three images for four places


def test_over_many_epochs_every_image_is_used_and_equally_often():
    batches = PKBatches([0] * 9 + [1] * 9, 2, 4, seed=3)
    drawn = Counter(row for epoch in range(900) for batch in batches.epoch(epoch) for row in batch)
    # Each image is in 8 of 9 places of an epoch: 800 expected, standard deviation 9.4.
    assert set(drawn) == set(range(18))
    assert max(abs(count - 800) for count in drawn.values()) < 45


def test_fill_shows_every_image():
    labels = [0] * 9 + [1] * 10 + [2] * 11
    batches = PKBatches(labels, 3, 4, seed=1, remainder="fill")
    for epoch in range(5):
        rows = [row for batch in batches.epoch(epoch) for row in batch]
        assert set(rows) == set(range(30))
        for batch in batches.epoch(epoch):
            assert all(len(set(batch[start : start + 4])) == 4 for start in (0, 4, 8))


def source_length(sizes: list[int], p: int, k: int, rng: random.Random) -> int:
    """Batches in an epoch of the source's sampler, simulated from its description on group counts alone."""
    groups = [max(1, size // k) for size in sizes]
    left, batches = list(range(len(sizes))), 0
    while len(left) >= p:
        for label in rng.sample(left, p):
            groups[label] -= 1
            if not groups[label]:
                left.remove(label)
        batches += 1
    return batches


def test_epoch_lengths_are_distributed_as_in_the_source():
    sizes = [1, 1, 2, 4, 5, 7, 9, 12, 20, 30]
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    batches, rng = PKBatches(labels, 4, 4, seed=0), random.Random(0)
    ours = np.array([batches.len_epoch(epoch) for epoch in range(1500)])
    theirs = np.array([source_length(sizes, 4, 4, rng) for _ in range(20000)])
    assert set(ours) == set(theirs)
    assert abs(ours.mean() - theirs.mean()) < 4.5 * theirs.std() / 1500**0.5
    assert abs(ours.std() - theirs.std()) < 0.1 * theirs.std()


def test_batches_follow_from_seed_and_epoch_alone():
    one, other = PKBatches(LABELS, 3, 4, seed=5), PKBatches(np.array(LABELS), 3, 4, seed=5)
    later = [one.epoch(epoch) for epoch in range(4)]
    np.random.seed(1)
    assert [other.epoch(epoch) for epoch in (3, 2, 1, 0)] == later[::-1]
    assert later[0] != later[1]
    assert PKBatches(LABELS, 3, 4, seed=6).epoch(0) != later[0]
    assert all(type(row) is int for batch in later[0] for row in batch)


def test_every_identity_is_as_likely_to_come_first():
    firsts = Counter(
        LABELS[batch[0]] for epoch in range(600) for batch in PKBatches(LABELS, 2, 1, 9).epoch(epoch)[:1]
    )
    # The first identity of the first batch is any of six: 100 expected of each, standard deviation 9.1.
    assert max(abs(firsts[label] - 100) for label in SIZES) < 45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (LABELS, 7, 4, 0),
            "p: got 7 identities in a batch, expected at most 6, the number of identities among the 63",
        ),
        (([], 1, 1, 0), "p: got 1 identities in a batch, expected at most 0"),
        ((LABELS, 0, 4, 0), "p: got 0"),
        ((LABELS, 2, 0, 0), "k: got 0"),
        ((LABELS, 2, 2.0, 0), "k: got 2.0"),
        ((LABELS, 2, 2, -1), "seed: got -1"),
        ((["a", "b"], 2, 2, 0), "labels: got"),
        (([0.0, 1.0], 2, 2, 0), "labels: got float64"),
        (([[0], [1]], 2, 2, 0), "labels: got"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=f"PKBatches: {message}"):
        PKBatches(*arguments)


def test_other_refusals():
    with pytest.raises(ValueError, match="remainder: got 'keep', expected 'drop' or 'fill'"):
        PKBatches(LABELS, 2, 2, 0, remainder="keep")
    with pytest.raises(ValueError, match="epoch: got -1"):
        PKBatches(LABELS, 2, 2, 0).epoch(-1)
    with pytest.raises(ValueError, match="batch_size: got 9, expected at most 8"):
        ShuffledBatches(8, 9, 0)


@pytest.mark.parametrize(
    ("count", "size", "drop", "batches"),
    [(10, 3, True, 3), (10, 3, False, 4), (9, 3, False, 3), (2, 3, False, 1)],
)
def test_shuffled_batches_hold_every_image_once(count: int, size: int, drop: bool, batches: int):
    sampler = ShuffledBatches(count, size, seed=4, drop_last=drop)
    rows = sampler.epoch(2)
    assert len(rows) == sampler.len_epoch(2) == batches
    flat = [row for batch in rows for row in batch]
    assert len(set(flat)) == len(flat) == (batches * size if drop else count)
    assert rows == ShuffledBatches(count, size, seed=4, drop_last=drop).epoch(2)
    assert len({str(sampler.epoch(epoch)) for epoch in range(20)}) > 1
