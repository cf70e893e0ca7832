# SPDX-License-Identifier: Apache-2.0
"""Paired, clothes-aware, domain and tracklet batches: what each holds, how often, and torchreid's own beside them."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rivals.ranking import load_file, package_file

from fastreid_ops.data.frames import frame_positions
from fastreid_ops.data.samplers import (
    ClothesBatches,
    DomainBatches,
    PairedBatches,
    PKBatches,
    TrackletBatches,
)

# Six people; person 4 was never seen in infrared, person 5 never in visible light.
VISIBLE = {0: 9, 1: 2, 2: 5, 3: 7, 4: 6, 5: 0}
INFRARED = {0: 3, 1: 8, 2: 5, 3: 1, 4: 0, 5: 4}
PAIRS = [(pid, side) for pid in range(6) for side in (0, 1) for _ in range((VISIBLE, INFRARED)[side][pid])]
LABELS, MODALITIES = map(list, zip(*PAIRS, strict=True))


def torchreid_sampler():
    place = package_file("torchreid", "reid/data/sampler.py")
    if place is None:
        pytest.skip("torchreid is not installed")
    random.seed(0)
    np.random.seed(0)
    return load_file(place)


@pytest.mark.parametrize("images", ["replace", "distinct"])
@pytest.mark.parametrize("epoch", [0, 7])
def test_paired_batches_show_the_same_people_twice(images: str, epoch: int):
    sampler = PairedBatches(LABELS, MODALITIES, 3, 4, seed=2, images=images)
    assert sampler.left_out == [4, 5]
    batches = sampler.epoch(epoch)
    # DEEN: the larger modality among those that can be drawn, 23 visible images.
    assert len(batches) == sampler.len_epoch(epoch) == 23 // 12 + 1
    for batch in batches:
        assert len(batch) == 24
        assert [MODALITIES[row] for row in batch] == [0] * 12 + [1] * 12
        people = [LABELS[row] for row in batch]
        assert people[:12] == people[12:]
        assert all(len(set(people[start : start + 4])) == 1 for start in range(0, 12, 4))
        assert len(set(people)) == 3
        if images == "distinct":
            for start in range(0, 24, 4):
                size = (VISIBLE, INFRARED)[start // 12][people[start]]
                most = Counter(batch[start : start + 4]).most_common(1)[0][1]
                assert (most == 1) == (size >= 4)


def test_paired_batches_draw_people_and_images_evenly():
    sampler = PairedBatches(LABELS, MODALITIES, 2, 3, seed=0, batches=4000)
    batches = sampler.epoch(0)
    people = Counter(LABELS[row] for batch in batches for row in batch[:6:3])
    # Two of four people each time: 2000 of 4000, standard deviation 31.6.
    assert max(abs(people[pid] - 2000) for pid in range(4)) < 4.5 * 31.6
    rows = Counter(row for batch in batches for row in batch)
    repeats = 0
    for side, sizes in ((0, VISIBLE), (1, INFRARED)):
        for pid in range(4):
            own = [row for row in range(len(LABELS)) if (LABELS[row], MODALITIES[row]) == (pid, side)]
            expected = 3 * people[pid] / sizes[pid]
            assert max(abs(rows[row] - expected) for row in own) < 5 * expected**0.5 + 1
    for batch in batches:
        place = next((p for p in (0, 3) if LABELS[batch[p]] == 0), None)
        if place is not None:
            repeats += len(set(batch[place : place + 3])) < 3
    # With replacement, three draws from nine images are different with probability 8/9 * 7/9.
    share = 1 - 8 / 9 * 7 / 9
    assert abs(repeats - people[0] * share) < 4.5 * (people[0] * share * (1 - share)) ** 0.5


LOOKS = {0: [5, 3], 1: [1, 1, 9], 2: [6], 3: [2, 2]}
CLOTHED = [
    (pid, outfit) for pid, sizes in LOOKS.items() for outfit, size in enumerate(sizes) for _ in range(size)
]
PEOPLE, CLOTHES = map(list, zip(*CLOTHED, strict=True))


def test_clothes_batches_spread_each_group_over_the_outfits():
    sampler, plain = ClothesBatches(PEOPLE, CLOTHES, 3, 4, seed=1), PKBatches(PEOPLE, 3, 4, seed=1)
    groups = Counter()
    single = 0
    for epoch in range(40):
        batches = sampler.epoch(epoch)
        assert len(batches) == sampler.len_epoch(epoch) > 0
        for batch in batches:
            assert len({PEOPLE[row] for row in batch}) == 3
            for start in range(0, 12, 4):
                group = batch[start : start + 4]
                (person,) = {PEOPLE[row] for row in group}
                worn = Counter(CLOTHES[row] for row in group)
                assert len(worn) == min(4, len(LOOKS[person]))
                assert max(worn.values()) - min(worn.values()) <= 1
                groups[epoch, person] += 1
        for batch in plain.epoch(epoch):
            single += sum(
                len({CLOTHES[row] for row in batch[start : start + 4]}) == 1 and PEOPLE[batch[start]] != 2
                for start in range(0, 12, 4)
            )
    assert single > 10  # what the clothes-blind sampler leaves
    # As many groups for each person as P x K without clothes may take.
    assert all(count <= max(1, sum(LOOKS[p]) // 4) for (_, p), count in groups.items())


def test_an_outfits_images_all_come_before_any_comes_again():
    sampler = ClothesBatches([0] * 12 + [1] * 12, [0, 1] * 6 + [0] * 11 + [1], 2, 4, seed=3)
    for epoch in range(30):
        rows = [row for batch in sampler.epoch(epoch) for row in batch]
        for person, outfit in ((0, 0), (0, 1), (1, 0)):
            own = range(12 * person, 12 * person + 12)
            own = [row for row in own if (person == 0 and row % 2 == outfit) or (person == 1 and row < 23)]
            times = Counter(row for row in rows if row in own)
            assert max(times.values()) - min(times[row] for row in own) <= 1
        assert rows.count(23) == 6  # the one image of an outfit stands in half of every group


DOMAINS = ["b"] * 13 + ["a"] * 30 + ["c"] * 21


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 20), min_size=1, max_size=6),
    count=st.integers(1, 6),
    each=st.integers(1, 3),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 1000),
)
def test_domain_batches_end_when_a_domain_runs_short(sizes, count, each, seed, epoch):
    domains = [camera for camera, size in enumerate(sizes) for _ in range(size)]
    if count > len(sizes):
        with pytest.raises(ValueError, match=f"count: got {count} domains in a batch, expected at most"):
            DomainBatches(domains, count * each, seed, count=count)
        return
    sampler = DomainBatches(domains, count * each, seed, count=count)
    batches = sampler.epoch(epoch)
    assert len(batches) == sampler.len_epoch(epoch)
    assert DomainBatches(domains, count * each, seed, count=count).epoch(epoch) == batches
    left = Counter(domains)
    for step, batch in enumerate(batches):
        shown = Counter(domains[row] for row in batch)
        assert len(batch) == count * each
        assert set(shown.values()) == {each}
        left -= shown
        short = any(left[domain] < each for domain in shown)
        assert short == (step == len(batches) - 1)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)


def test_domain_epochs_are_as_long_as_torchreids():
    module = torchreid_sampler()
    sampler = DomainBatches(DOMAINS, 8, seed=0, count=2)
    ours = Counter(sampler.len_epoch(epoch) for epoch in range(1500))
    source = module.RandomDomainSampler([("", 0, domain, 0) for domain in DOMAINS], 8, 2)
    theirs = Counter(len(list(source)) // 8 for _ in range(1500))
    assert ours.keys() <= theirs.keys() | set(range(min(theirs), max(theirs) + 1))
    mean = [sum(length * times for length, times in found.items()) / 1500 for found in (ours, theirs)]
    assert abs(mean[0] - mean[1]) < 0.2
    every = DomainBatches(DOMAINS, 9, seed=0)
    assert (
        every.len_epoch(0)
        == len(list(module.RandomDatasetSampler([("", 0, 0, d) for d in DOMAINS], 9, 0))) // 9
    )


def test_identity_epochs_hold_what_torchreids_hold():
    """The sets of both: the same sizes of batches and groups, each identity as often, lengths alike."""
    module = torchreid_sampler()
    sizes = [1, 3, 4, 9, 16]
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    source = module.RandomIdentitySampler([("", label, 0, 0) for label in labels], 8, 4)
    sampler = PKBatches(labels, 2, 4, seed=0)
    found = []
    for epochs in (
        [list(source) for _ in range(800)],
        [[row for batch in sampler.epoch(e) for row in batch] for e in range(800)],
    ):
        groups = Counter()
        for rows in epochs:
            groups.update(labels[row] for row in rows[::4])
            assert all(len({labels[row] for row in rows[i : i + 4]}) == 1 for i in range(0, len(rows), 4))
        found.append([groups[label] / 800 for label in range(5)])
    assert np.abs(np.subtract(*found)).max() < 0.12


TRACKLETS = [f"t{t}" for t in range(8) for _ in range(3 + t)]
OWNERS = [t // 2 for t in range(8) for _ in range(3 + t)]


@pytest.mark.parametrize("choice", ["random", "evenly"])
@pytest.mark.parametrize("per_id", [2, None])
def test_tracklet_batches_are_sequences(choice: str, per_id: int | None):
    frames = [3 * place for t in range(8) for place in range(3 + t)]
    order = np.random.default_rng(1).permutation(len(TRACKLETS))
    owners, tracklets, frames = ([values[row] for row in order] for values in (OWNERS, TRACKLETS, frames))
    sampler = TrackletBatches(
        owners, tracklets, 4, 5, seed=6, frames=frames, tracklets_per_id=per_id, frame_choice=choice
    )
    again = TrackletBatches(
        owners, tracklets, 4, 5, seed=6, frames=frames, tracklets_per_id=per_id, frame_choice=choice
    )
    assert again.epoch(3) == sampler.epoch(3)
    shown = Counter()
    for epoch in range(6):
        batches = sampler.epoch(epoch)
        assert len(batches) == sampler.len_epoch(epoch) == 2
        for batch in batches:
            assert len(batch) == 20
            names = []
            for start in range(0, 20, 5):
                rows = batch[start : start + 5]
                (name,) = {tracklets[row] for row in rows}
                names.append(name)
                seen = [frames[row] // 3 for row in rows]
                count = 3 + int(name[1])
                assert seen == sorted(seen)
                assert choice == "random" or seen == frame_positions(count, 5, "evenly")
                assert (len(set(seen)) == 5) == (count >= 5)
            assert len(set(names)) == 4
            shown.update(names)
            if per_id == 2:
                people = [owners[row] for row in batch[::5]]
                assert people[0] == people[1] != people[2] == people[3]
    assert shown == {f"t{t}": 6 for t in range(8)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(PairedBatches, LABELS, MODALITIES, 5, 2, 0),
            r"PairedBatches: p: got 5 identities in a batch, expected at most 4, the number of identities with "
            r"visible and infrared images \(6 in all\)",
        ),
        (partial(PairedBatches, LABELS, [2] * len(LABELS), 1, 1, 0), "modalities: got 2, expected 0"),
        (
            partial(PairedBatches, LABELS, MODALITIES[1:], 1, 1, 0),
            f"modalities: got {len(LABELS) - 1} values, expected {len(LABELS)}",
        ),
        (partial(PairedBatches, LABELS, MODALITIES, 1, 1, 0, images="all"), "images: got 'all', expected"),
        (partial(PairedBatches, LABELS, MODALITIES, 1, 1, 0, batches=0), "batches: got 0"),
        (partial(ClothesBatches, [0, 0, 1, 1], [1, 1, 2, 2], 2, 2, 0), "one outfit for every identity"),
        (partial(ClothesBatches, [0, 0], [1], 1, 2, 0), "clothes: got 1 values, expected 2"),
        (
            partial(ClothesBatches, [0, 0], [1, 2], 2, 2, 0),
            "p: got 2 identities in a batch, expected at most 1",
        ),
        (partial(DomainBatches, DOMAINS, 8, 0), "batch_size: got 8, expected a multiple of the 3 domains"),
        (partial(DomainBatches, DOMAINS, 42, 0), r"batch_size: got 14 images of each domain, expected .* 13"),
        (partial(DomainBatches, [], 8, 0), "count: got 0"),
        (
            partial(TrackletBatches, OWNERS, ["x"] * len(OWNERS), 1, 2, 0),
            "tracklets: got 1 with more than one",
        ),
        (partial(TrackletBatches, OWNERS, TRACKLETS, 9, 2, 0), "batch_size: got 9, expected at most 8"),
        (
            partial(TrackletBatches, OWNERS, TRACKLETS, 3, 2, 0, tracklets_per_id=2),
            "got 3, expected a multiple",
        ),
        (partial(TrackletBatches, OWNERS, TRACKLETS, 3, 2, 0, frame_choice="all"), "frame_choice: got 'all'"),
        (partial(TrackletBatches, OWNERS, TRACKLETS, 3, 0, 0), "length: got 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused_at_once(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
