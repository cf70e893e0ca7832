# SPDX-License-Identifier: Apache-2.0
"""From the `data` section to batches: every sampler on one small set that has modalities, outfits and tracklets."""

import dataclasses

import pytest
import torch

from fastreid_ops.config import ConfigError, from_dict, validate
from fastreid_ops.data.by_modality import ByModality
from fastreid_ops.data.columns import clothes_labels
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.people import PeopleOptions, render_dataset
from fastreid_ops.data.samplers import PKBatches, ShuffledBatches
from fastreid_ops.data.transforms import TrainTransform
from fastreid_ops.engine import setup
from fastreid_ops.engine.batches import build_batches, build_transform

CE = {"triplet": 0.0}


def config(loss=None, **data):
    given = {"height": 32, "width": 16, "cache_images": False, "batch_size": 8, "images_per_id": 2}
    return from_dict({"data": {**given, **data}, "loss": loss or {}, "eval": {"every": 0, "sets": []}})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    options = PeopleOptions(
        train_ids=5,
        test_ids=0,
        images_per_camera=2,
        height=32,
        width=16,
        like="sysu_mm01",
        clothes_change=True,
        tracklet_length=3,
    )
    return render_dataset(tmp_path_factory.mktemp("people") / "set", options, workers=1).select("train")


def batches(settings, manifest, epoch=0):
    loader = setup.train_loader(validate(settings), manifest, manifest.label_map(), BadImagePolicy())
    found = list(loader.iterate(epoch))
    assert len(found) == loader.len_epoch(epoch) > 0
    assert all(batch.images.shape == (settings.data.batch_size, 3, 32, 16) for batch in found)
    return found


def test_paired(rendered):
    for images in ("replace", "distinct"):
        for batch in batches(config(sampler="paired", paired_images=images, channel_exchange=1.0), rendered):
            assert batch.modality.tolist() == [0] * 4 + [1] * 4
            assert torch.equal(batch.pids[:4], batch.pids[4:])
            assert (batch.pids[:4:2] != batch.pids[1:4:2]).sum() == 0
            assert len(set(batch.pids.tolist())) == 2
            # Exchanged channels are equal before normalisation; what was erased is the mean colour, 0 after it.
            std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
            pixels = batch.images * std[:, None, None] + mean[:, None, None]
            spread = (pixels.amax(1) - pixels.amin(1)).masked_fill((batch.images == 0).all(dim=1), 0)
            assert (spread[:4] < 1e-4).all()


def test_clothes(rendered):
    labels = clothes_labels(rendered)
    owner = dict(zip(labels, rendered.labels(rendered.label_map()), strict=True))
    for batch in batches(config(sampler="clothes"), rendered):
        worn = batch.clothes.reshape(4, 2)
        assert (worn[:, 0] != worn[:, 1]).all()
        assert [owner[label] for label in batch.clothes.tolist()] == batch.pids.tolist()


def test_tracklet(rendered):
    for choice in ("random", "evenly"):
        settings = config(sampler="tracklet", sequence_length=3, frames=choice, batch_size=12)
        for batch in batches(settings, rendered):
            assert batch.sequences(3).shape == (4, 3, 3, 32, 16)
            assert (batch.tracklet.reshape(4, 3) == batch.tracklet[::3, None]).all()
            assert (batch.pids.reshape(2, 6) == batch.pids[::6, None]).all()
            frames = [rendered.frame[row] for row in batch.index.tolist()]
            assert frames == [0, 1, 2] * 4
    alone = batches(config(CE, sampler="tracklet", sequence_length=2, images_per_id=None), rendered)
    seen = [name for batch in alone for name in batch.tracklet[::2].tolist()]
    assert len(set(seen)) == len(seen) == len(set(rendered.tracklet)) // 4 * 4


def test_domain(rendered):
    for count, size in ((None, 12), (2, 8)):
        for batch in batches(
            config(CE, sampler="domain", domains_per_batch=count, batch_size=size), rendered
        ):
            cameras = batch.camids.reshape(count or 6, -1)
            assert (cameras == cameras[:, :1]).all()
            assert len(set(cameras[:, 0].tolist())) == (count or 6)


def test_keys_of_before_mean_what_they_meant(rendered):
    labels = rendered.labels(rendered.label_map())
    pk = build_batches(config(remainder="fill"), rendered, labels)
    assert pk.epoch(1) == PKBatches(labels, 4, 2, 0, remainder="fill").epoch(1)
    shuffled = build_batches(config(CE, images_per_id=None), rendered, labels)
    assert shuffled.epoch(1) == ShuffledBatches(len(labels), 8, 0).epoch(1)
    # Named, they are the same; `shuffled` does not look at images_per_id.
    assert build_batches(config(sampler="pk"), rendered, labels).epoch(0) == PKBatches(labels, 4, 2, 0).epoch(
        0
    )
    assert build_batches(config(CE, sampler="shuffled"), rendered, labels).epoch(1) == shuffled.epoch(1)


def test_every_option_reaches_the_transform(rendered):
    data = config(
        padding_fill="black",
        translation=0.1,
        patch=0.2,
        hue=0.3,
        scale=[0.9, 1.1],
        grey=0.4,
        channel_exchange=0.5,
        pca=0.6,
        erasing_area=[0.2, 0.8],
        erasing_aspect=0.4,
        erasing_fill="random",
    ).data
    both = build_transform(data, rendered)
    assert isinstance(both, ByModality)
    for field in dataclasses.fields(TrainTransform):
        wanted = getattr(data, field.name, None)
        if wanted is not None:
            got = getattr(both.visible, field.name)
            assert (list(got) if isinstance(got, tuple) else got) == wanted, field.name
    assert both.infrared.brightness == both.infrared.hue == both.infrared.channel_exchange == 0
    assert both.infrared.patch == 0.2
    kept = build_transform(dataclasses.replace(data, infrared_colours=True), rendered).infrared
    assert (kept.brightness, kept.contrast, kept.hue) == (0.2, 0.15, 0)
    visible = rendered.take(row for row, word in enumerate(rendered.modality) if word == "visible")
    assert build_transform(data, visible) == both.visible
    first = TrainTransform(
        128, 64, crop_padding=5, erasing=0.3, brightness=0.2, contrast=0.15, erasing_fill="mean"
    )
    assert build_transform(from_dict({}).data, visible) == first


@pytest.mark.parametrize(
    ("data", "loss", "words"),
    [
        (
            {"sampler": "paired", "batch_size": 6},
            {},
            "expected a multiple of 2 * data.images_per_id = 4 (visible",
        ),
        (
            {"sampler": "paired", "images_per_id": None},
            CE,
            "data.images_per_id: got null, expected a number for",
        ),
        ({"sampler": "clothes", "batch_size": 7}, {}, "expected a multiple of data.images_per_id = 2"),
        (
            {"sampler": "tracklet"},
            {},
            "expected a multiple of data.sequence_length * data.images_per_id = 30",
        ),
        (
            {"sampler": "tracklet", "images_per_id": None},
            CE,
            "expected a multiple of data.sequence_length = 15",
        ),
        ({"sampler": "domain", "domains_per_batch": 3}, CE, "a multiple of data.domains_per_batch = 3"),
        ({"sampler": "domain"}, {}, "loss.triplet: got data.sampler domain in a batch"),
        ({"sampler": "shuffled"}, {}, "loss.triplet: got data.sampler shuffled in a batch"),
        ({"sampler": "paired", "batch_size": 4}, {}, "loss.triplet: got 1 people x 4 images in a batch"),
        ({"sequence_length": 0}, {}, "data.sequence_length: got 0, expected a number above 0"),
        ({"domains_per_batch": 0}, {}, "data.domains_per_batch: got 0"),
        ({"patch": 1.5}, {}, "data.patch: got 1.5, expected a number from 0 to 1"),
        ({"hue": 0.6}, {}, "data.hue: got 0.6, expected a number from 0 to 0.5"),
        ({"scale": [1.1, 0.9]}, {}, "data.scale: got [1.1, 0.9], expected two factors"),
        ({"erasing_area": [0.2]}, {}, "data.erasing_area: got [0.2], expected two fractions"),
        ({"erasing_aspect": 0.0}, {}, "data.erasing_aspect: got 0.0"),
    ],
)
def test_batches_that_cannot_be_made_are_refused_in_words(data, loss, words):
    with pytest.raises(ConfigError) as error:
        validate(config(loss, **data))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"sampler": "paired", "batch_size": 24},
            "paired: PairedBatches: p: got 6 identities in a batch, expected at most 5",
        ),
        ({"batch_size": 12}, "pk: PKBatches: p: got 6 identities in a batch, expected at most 5"),
        (
            {"sampler": "domain", "batch_size": 240},
            "domain: DomainBatches: batch_size: got 40 images of each",
        ),
    ],
)
def test_what_the_data_set_cannot_give_is_refused_in_words(rendered, data, words):
    labels = rendered.labels(rendered.label_map())
    with pytest.raises(ConfigError) as error:
        build_batches(config(CE, **data), rendered, labels)
    assert f"data.sampler: {words}" in str(error.value)


@pytest.mark.parametrize(
    ("sampler", "column"), [("paired", "modality"), ("clothes", "clothes"), ("tracklet", "tracklet")]
)
def test_a_missing_column_is_named(rendered, sampler, column):
    bare = dataclasses.replace(rendered, modality=None, clothes=None, tracklet=None)
    with pytest.raises(
        ConfigError, match=f"got {sampler}, expected another one for people, which has no {column}"
    ):
        build_batches(config(sampler=sampler), bare, [0] * len(bare))
