# SPDX-License-Identifier: Apache-2.0
"""From the `data` section to what a training loader needs: the sampler over the rows, and the transform."""

from fastreid_ops.config import Config, ConfigError
from fastreid_ops.config.schema import DataConfig
from fastreid_ops.data import columns
from fastreid_ops.data.by_modality import ByModality, without_colours
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.samplers import (
    Batches,
    ClothesBatches,
    DomainBatches,
    PairedBatches,
    PKBatches,
    ShuffledBatches,
    TrackletBatches,
)
from fastreid_ops.data.transforms import TrainTransform

_NEEDS = {"paired": "modality", "clothes": "clothes", "tracklet": "tracklet"}


def build_batches(config: Config, manifest: Manifest, labels: list[int]) -> Batches:
    """The sampler that `data.sampler` names, over the training rows.

    Errors: ConfigError for a column that the data set does not have, and for what the sampler refuses.
    """
    data, kind = config.data, config.data.sampler_kind
    needed = _NEEDS.get(kind)
    if needed is not None and getattr(manifest, needed) is None:
        raise ConfigError(
            f"data.sampler: got {kind}, expected another one for {data.dataset}, which has no {needed} column"
        )
    try:
        return _sampler(kind, data, config.train.seed, manifest, labels)
    except ValueError as error:
        # Batch size and numbers per identity are the configuration's; the data set decides whether they fit.
        raise ConfigError(f"data.sampler: {kind}: {error}") from error


def _sampler(kind: str, data: DataConfig, seed: int, manifest: Manifest, labels: list[int]) -> Batches:
    size, each = data.batch_size, data.images_per_id
    if kind == "pk":
        return PKBatches(labels, size // each, each, seed, remainder=data.remainder)
    if kind == "clothes":
        return ClothesBatches(labels, columns.clothes_labels(manifest), size // each, each, seed)
    if kind == "paired":
        codes = columns.modality_codes(manifest)
        return PairedBatches(labels, codes, size // (2 * each), each, seed, images=data.paired_images)
    if kind == "tracklet":
        return TrackletBatches(
            labels,
            columns.tracklet_numbers(manifest),
            size // data.sequence_length,
            data.sequence_length,
            seed,
            frames=manifest.frame,
            tracklets_per_id=each,
            frame_choice=data.frames,
            remainder=data.remainder,
        )
    if kind == "domain":
        domains = columns.domains(manifest, data.domains)
        return DomainBatches(domains, size, seed, count=data.domains_per_batch)
    return ShuffledBatches(len(labels), size, seed)


def build_transform(data: DataConfig, manifest: Manifest) -> TrainTransform | ByModality:
    """The augmentation of the `data` section; a `ByModality` where there are infrared images."""
    transform = TrainTransform(
        data.height,
        data.width,
        tuple(data.mean),
        tuple(data.std),
        crop_padding=data.crop_padding,
        padding_fill=data.padding_fill,
        flip=data.flip,
        erasing=data.erasing,
        erasing_area=tuple(data.erasing_area),
        erasing_aspect=data.erasing_aspect,
        erasing_fill=data.erasing_fill,
        brightness=data.brightness,
        contrast=data.contrast,
        saturation=data.saturation,
        hue=data.hue,
        translation=data.translation,
        patch=data.patch,
        scale=tuple(data.scale),
        grey=data.grey,
        channel_exchange=data.channel_exchange,
        pca=data.pca,
    )
    if "infrared" not in (manifest.modality or ()):
        return transform
    kept = ("brightness", "contrast") if data.infrared_colours else ()
    return ByModality(transform, without_colours(transform, keep=kept))
