# SPDX-License-Identifier: Apache-2.0
"""Draws against the loops of the sources over real folders; official tables; selections; what is missing."""

import os
import random
import tracemalloc

import pytest
import torch

from fastreid_ops.data.manifest import Manifest
from fastreid_ops.evaluation import (
    PROTOCOLS,
    Columns,
    Labels,
    Result,
    Trials,
    draw,
    evaluate,
    evaluate_features,
    evaluate_protocol,
    evaluate_trials,
    protocols,
)

CAMERAS = {"visible": (1, 2, 4, 5), "infrared": (3, 6)}


@pytest.fixture(scope="module")
def sysu(tmp_path_factory):
    """cam<C>/<pid>/<number>.jpg as SYSU-MM01 has it, empty files; not every pid was seen by every camera."""
    root, rng = tmp_path_factory.mktemp("sysu"), random.Random(5)
    rows = []
    for modality, cameras in CAMERAS.items():
        for pid in (4, 27, 6, 101, 333):
            for camera in cameras:
                if rng.random() < 0.25:
                    continue
                folder = root / f"cam{camera}" / f"{pid:04d}"
                folder.mkdir(parents=True)
                for number in range(1, rng.randrange(2, 23)):
                    (folder / f"{number:04d}.jpg").touch()
                    rows.append((f"cam{camera}/{pid:04d}/{number:04d}.jpg", pid, camera - 1, modality))
    rng.shuffle(rows)  # the order of a manifest must not matter to the draw
    path, pid, camid, modality = (list(column) for column in zip(*rows, strict=True))
    split = ["query" if each == "infrared" else "gallery" for each in modality]
    return Manifest(root, path, pid, camid, split, modality=modality)


def drawn_from_folders(root, cameras, trial):
    """process_gallery_sysu of AGW and DEEN, with the module's own generator."""
    random.seed(trial)
    files = []
    ids = [f"{pid:04d}" for pid in (333, 4, 101, 27, 6)]
    for name in sorted(ids):
        for camera in cameras:
            folder = os.path.join(root, f"cam{camera}", name)
            if os.path.isdir(folder):
                files.append(random.choice(sorted(folder + "/" + file for file in os.listdir(folder))))
    return files


@pytest.mark.parametrize(("name", "cameras"), [("sysu_mm01", (1, 2, 4, 5)), ("sysu_mm01_indoor", (1, 2))])
def test_sysu_is_drawn_as_by_its_loop(sysu, name, cameras):
    query, gallery = sysu.select("query"), sysu.select("gallery")
    made = draw(name, query, gallery)
    assert len(made.trials) == 10
    for number, trial in enumerate(made.trials):
        assert [str(gallery.file(g)) for g in trial.gallery.tolist()] == drawn_from_folders(
            sysu.root, cameras, number
        )
        assert trial.query.tolist() == list(range(len(query)))
    assert made.protocol.draw_seeding == "each_trial"
    assert "drawn by random.seed(0 + trial)" in made.protocol.describe()
    assert len({tuple(trial.gallery.tolist()) for trial in made.trials}) == 10


def permutations(gallery, base=1, trials=10):
    counts = {}
    for key in zip(gallery.pid, gallery.camid, strict=True):
        counts[key] = counts.get(key, 0) + 1
    rng = random.Random(9)
    return {
        key: [[number + base for number in rng.sample(range(n), n)] for _ in range(trials)]
        for key, n in counts.items()
    }


@pytest.mark.parametrize("shots", [1, 10])
def test_the_official_table_decides(sysu, shots):
    query, gallery = sysu.select("query"), sysu.select("gallery")
    table = permutations(gallery)
    name = "sysu_mm01" if shots == 1 else "sysu_mm01_multishot"
    made = draw(name, query, gallery, table)
    assert made.protocol == PROTOCOLS[name]
    assert "official" in made.protocol.describe()
    for number, trial in enumerate(made.trials):
        wanted = [
            f"cam{camera}/{pid:04d}/{image:04d}.jpg"
            for pid in (4, 6, 27, 101, 333)
            for camera in CAMERAS["visible"]
            if (pid, camera - 1) in table
            for image in table[pid, camera - 1][number][:shots]
        ]
        assert [gallery.path[g] for g in trial.gallery.tolist()] == wanted
    tensors = {key: torch.tensor(rows) - 1 for key, rows in table.items()}  # from 0, as arrays
    again = draw(name, query, gallery, tensors)
    assert all(torch.equal(a.gallery, b.gallery) for a, b in zip(made.trials, again.trials, strict=True))


def test_a_table_that_does_not_fit_is_refused(sysu):
    query, gallery = sysu.select("query"), sysu.select("gallery")
    good = permutations(gallery)
    key = next(iter(good))
    for change, words in (
        (None, "got nothing, expected the permutations of its"),
        (good[key][:9], "got 9 trials, expected at least 10"),
        (
            [row[:-1] for row in good[key]] if len(good[key][0]) > 1 else [[7]] * 10,
            "expected a permutation of 1 to",
        ),
    ):
        table = {**good, key: change}
        if change is None:
            del table[key]
        with pytest.raises(ValueError, match=r"draw: permutations\[\(") as caught:
            draw("sysu_mm01", query, gallery, table)
        assert words in str(caught.value)


def llcm():
    """Every test image stands on both sides."""
    rng = random.Random(2)
    rows = []
    for pid in (700, 3, 41):
        for modality, folder in (("visible", "test_vis"), ("infrared", "test_nir")):
            for camera in range(1, 10):
                if (modality == "infrared" and camera == 3) or rng.random() < 0.3:
                    continue
                rows += [
                    (
                        f"{folder}/cam{camera}/{pid:04d}/{rng.randrange(10**6):06d}.jpg",
                        pid,
                        camera - 1,
                        modality,
                    )
                    for _ in range(rng.randrange(1, 9))
                ]
    path, pid, camid, modality = (list(column) for column in zip(*rows, strict=True))
    return Columns(pid, camid, modality=modality, names=path)


@pytest.mark.parametrize(
    ("name", "drawn", "other", "side"),
    [
        ("llcm_vis2nir", "infrared", "visible", "gallery"),
        ("llcm_nir2vis", "visible", "infrared", "gallery"),
        ("llcm_vis2nir_transposed", "infrared", "visible", "query"),
    ],
)
def test_llcm_is_drawn_as_by_its_loop(name, drawn, other, side):
    columns = llcm()
    made = draw(name, columns, columns)
    cameras = range(1, 10) if drawn == "visible" else (1, 2, 4, 5, 6, 7, 8, 9)
    for number, trial in enumerate(made.trials):
        random.seed(number)
        wanted = []
        for pid in sorted(f"{pid:04d}" for pid in set(columns.pids)):
            for camera in cameras:
                here = [
                    path
                    for path, modality in zip(columns.names, columns.modality, strict=True)
                    if modality == drawn and f"/cam{camera}/{pid}/" in path
                ]
                if here:
                    wanted.append(random.choice(sorted(here)))
        others = [n for n, m in zip(columns.names, columns.modality, strict=True) if m == other]
        found = {
            name: [columns.names[i] for i in getattr(trial, name).tolist()] for name in ("query", "gallery")
        }
        assert found.pop(side) == wanted
        assert list(found.values()) == [others]


def test_prcc_single_shot_goes_on_with_one_stream():
    names = [f"A/{pid}/{n}.jpg" for pid in (7, 12) for n in range(5)] + ["C/7/0.jpg", "B/12/0.jpg"]
    columns = Columns([7] * 5 + [12] * 5 + [7, 12], [0] * 10 + [2, 1], names=names)
    made = draw("prcc_cross_clothes_single", columns, columns)
    random.seed(3)
    for trial in made.trials:
        assert trial.gallery.tolist() == [random.choice(range(5)), random.choice(range(5, 10))]
        assert trial.query.tolist() == [10]


def test_random_gallery_leaves_the_others_to_search():
    names = [f"{pid}/{n}.jpg" for pid in (1, 2, 3) for n in range(4)]
    columns = Columns([1] * 4 + [2] * 4 + [3] * 4, names=names)
    for number, trial in enumerate(draw("random_gallery", columns, columns).trials):
        random.seed(number)
        wanted = [random.choice(range(first, first + 4)) for first in (0, 4, 8)]
        assert trial.gallery.tolist() == wanted
        assert trial.query.tolist() == sorted(set(range(12)) - set(wanted))


def test_selections_are_of_the_columns():
    rng = random.Random(0)
    columns = Columns(
        [rng.randrange(9) for _ in range(50)],
        [rng.randrange(6) for _ in range(50)],
        modality=[rng.choice(("visible", "infrared")) for _ in range(50)],
        names=[str(n) for n in range(50)],
    )
    (rules,) = protocols(
        "market1501", query_modality="infrared", gallery_modality="visible", gallery_cameras=[4, 1]
    )
    (trial,) = draw(rules, columns, columns).trials
    rows = list(zip(columns.modality, columns.camids, strict=True))
    assert trial.query.tolist() == [i for i, (m, _) in enumerate(rows) if m == "infrared"]
    assert trial.gallery.tolist() == [i for i, (m, c) in enumerate(rows) if m == "visible" and c in (1, 4)]
    (rules,) = protocols("sysu_mm01", gallery_cameras=[4, 1], trials=1)  # draws go through them in this order
    gallery = draw(rules, columns, columns).trials[0].gallery.tolist()
    pids = sorted({columns.pids[g] for g in gallery})
    order = [(pid, c) for pid in pids for c in (4, 1)]
    found = [(columns.pids[g], columns.camids[g]) for g in gallery]
    assert found == [key for key in order if key in found]


def test_memory_is_indices_only():
    """2,000 ids x 6 cameras, ten draws: 12,000 numbers a trial, not a copy of anything."""
    columns = Columns(
        [row // 18 for row in range(36000)],
        [row // 3 % 6 for row in range(36000)],
        modality=["visible"] * 36000,
        names=[f"{row:06d}" for row in range(36000)],
    )
    (rules,) = protocols("llcm_nir2vis", query_modality="visible")
    tracemalloc.start()
    made = draw(rules, columns, columns)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(len(trial.gallery) == 12000 for trial in made.trials)
    assert len({trial.query.data_ptr() for trial in made.trials}) == 1
    assert peak < 12e6
    assert kept < 1e6  # the tensors are torch's


def problem(seed=0, queries=15, gallery=40):
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for count, word in ((queries, "q"), (gallery, "g")):
        pids, camids = (torch.randint(kinds, (count,), generator=generator) for kinds in (4, 3))
        names = [f"{word}{n:03d}" for n in range(count)]
        sides.append(Columns(pids.tolist(), camids.tolist(), modality=["visible"] * count, names=names))
    features = [torch.randn(count, 5, generator=generator) for count in (queries, gallery)]
    return features, sides


def test_trials_are_the_draws_one_by_one():
    features, sides = problem()
    (rules,) = protocols("llcm_nir2vis", query_modality="visible", trials=4)
    found = evaluate_protocol(*features, *sides, rules, metric="cosine")
    assert isinstance(found, Trials)
    assert found.protocol == rules
    query, gallery = (Labels(torch.tensor(s.pids), torch.tensor(s.camids)) for s in sides)
    for trial, result in zip(draw(rules, *sides).trials, found.results, strict=True):
        by_hand = evaluate_features(
            features[0],
            features[1][trial.gallery],
            query,
            gallery.at(trial.gallery),
            "llcm_nir2vis",
            metric="cosine",
        )
        assert result.ap == by_hand.ap
        assert result.cmc == by_hand.cmc
        assert by_hand.protocol == PROTOCOLS["llcm_nir2vis"].rows_as_given()
    distance = torch.cdist(*(torch.nn.functional.normalize(f.double()) for f in features))
    matrix = evaluate_trials(
        distance, query, gallery, rules, galleries=[trial.gallery for trial in draw(rules, *sides).trials]
    )
    assert matrix.mAP == pytest.approx(found.mAP, abs=1e-12)


def test_labels_manifests_and_columns_are_one(tmp_path):
    features, sides = problem(1)
    as_labels = [Labels(torch.tensor(s.pids), torch.tensor(s.camids)) for s in sides]
    as_manifests = [
        Manifest(tmp_path, s.names, s.pids, s.camids, ["query"] * len(s), modality=s.modality) for s in sides
    ]
    named = [Columns([f"id {pid}" for pid in s.pids], s.camids) for s in sides]
    wanted = evaluate_features(*features, *as_labels)
    for given in (sides, as_labels, as_manifests, named):
        assert evaluate_protocol(*features, *given) == wanted


def test_junk_pids_keep_their_meaning_beside_names():
    features, sides = problem(2)
    q_pids = ["name" if pid == 3 else pid for pid in sides[0].pids]
    g_pids = [-1 if n % 5 == 0 else "name" if pid == 3 else pid for n, pid in enumerate(sides[1].pids)]
    columns = Columns(q_pids, sides[0].camids), Columns(g_pids, sides[1].camids)
    number = {"name": 3}
    labels = [
        Labels(torch.tensor([number.get(pid, pid) for pid in c.pids]), torch.tensor(c.camids))
        for c in columns
    ]
    found = evaluate_protocol(*features, *columns, "market1501_trapezoid")
    distance = torch.cdist(*(f.double() for f in features))
    assert found.ap == evaluate(distance, *labels, "market1501_trapezoid").ap


def test_rows_without_a_feature_are_missing_and_the_draw_is_the_same():
    features, sides = problem(3)
    (rules,) = protocols("llcm_nir2vis", query_modality="visible", trials=3)
    gone = int(draw(rules, *sides).trials[0].gallery[0])
    rows = torch.tensor([row for row in range(40) if row != gone])
    found = evaluate_protocol(
        features[0], features[1][rows], *sides, rules, gallery_rows=rows, query_rows=torch.arange(15)
    )
    query, gallery = (Labels(torch.tensor(s.pids), torch.tensor(s.camids)) for s in sides)
    seen = []
    for trial, result in zip(draw(rules, *sides).trials, found.results, strict=True):
        left = trial.gallery[trial.gallery != gone]
        seen.append(len(left) < len(trial.gallery))
        by_hand = evaluate_features(features[0], features[1][left], query, gallery.at(left), rules)
        assert (result.ap, result.gallery) == (by_hand.ap, len(left))
    assert any(seen)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "llcm_vis2nir",
            {"modality": None},
            "query.modality: got None, expected a value for each row: llcm_vis2nir",
        ),
        ("llcm_vis2nir", {"names": None}, "gallery.names: got None"),
        ("prcc_same_clothes", {"camids": None}, "query.camids: got None"),
        ("market1501", {"camids": None}, "query.camids: got None"),
        ("clothes_changing", {}, "query.clothes: got None"),
        ("deepchange_tracklet_column", {}, r"query.tracklets: got None, .* cameras \(tracklet\)"),
        ("mars", {}, "query.tracklets: got None, .* pools"),
        ("llcm_vis2nir", {}, "gallery: got no row in trial 0 of llcm_vis2nir out of 15, expected some"),
        ("prcc_same_clothes", {"camids": [0] * 15}, "query: got no row in trial 0 of prcc_same_clothes"),
        ("market1501", {"camids": [0]}, "camids: got 1 values, expected 15"),
    ],
)
def test_what_is_not_there_is_named(name, change, words):
    features, (columns, _) = problem(4)
    columns = Columns(
        **{**{n: getattr(columns, n) for n in ("pids", "camids", "modality", "names")}, **change}
    )
    with pytest.raises(ValueError, match=words):
        evaluate_protocol(features[0], features[0], columns, columns, name)


def test_other_refusals():
    features, sides = problem(5)
    with pytest.raises(TypeError, match="source: got list, expected a Manifest, Labels or Columns"):
        draw("market1501", [1], sides[1])
    with pytest.raises(ValueError, match="evaluate_protocol: gallery_features"):
        evaluate_protocol(features[0], features[1][:9], *sides)
    with pytest.raises(ValueError, match="query_rows: got 1 outside"):
        evaluate_protocol(features[0][:2], features[1], *sides, query_rows=torch.tensor([0, 15]))
    with pytest.raises(ValueError, match="query_rows: got one twice"):
        evaluate_protocol(features[0][:2], features[1], *sides, query_rows=torch.tensor([1, 1]))
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="gallery: got no row with a feature in trial 0"):
        evaluate_protocol(features[0], features[1][:0], *sides, gallery_rows=empty)
    one = Columns([1, 2], [0, 0], modality=["visible"] * 2, names=["a", "b"])
    (rules,) = protocols("llcm_nir2vis", query_modality="visible")
    with pytest.raises(
        ValueError, match=r"evaluate_protocol: trial 0: rank_features: .*only under their own camera"
    ):
        evaluate_protocol(features[0][:2], features[0][:2], one, one, rules)
    assert isinstance(evaluate_protocol(features[0][:2], features[0][:2], one, one, "no_camera"), Result)
