# SPDX-License-Identifier: Apache-2.0
"""A network as an ONNX file: its evaluation graph, compared with torch before the file gets its name.

Every entry of the model table can be written. The packages that this needs are the extra ``[export]``; they are
imported when an export begins and at no other time.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import inspect
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fastreid_ops._atomic import write_atomic
from fastreid_ops.ops import _checks as check

if TYPE_CHECKING:
    import onnx

OP = "export_onnx"
# torch.onnx translates to operator set 18 and converts from there; 23 is the last it knows.
OPSETS = range(18, 24)
# A protobuf message holds less than 2 GiB; the graph itself needs some of it.
MOST_BYTES = 2**31 - 2**24
# Batches of the comparison: two sizes other than the one that is traced.
BATCHES = (1, 3)


class ExportError(RuntimeError):
    """The network cannot be written, or what was written computes something else; the message has the figures."""


class Exported(NamedTuple):
    """What `export_onnx` wrote.

    Attributes:
        path: the file.
        sha256: of its content; equal weights and versions give equal bytes.
        difference: largest difference between onnxruntime's features and torch's, over the largest value of
            torch's; None without the comparison.
    """

    path: Path
    sha256: str
    difference: float | None


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    image_size: tuple[int, int],
    *,
    mode: int | None = None,
    batch_size: int | None = None,
    opset: int = 20,
    verify: bool = True,
    tolerance: float = 1e-3,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write a network's evaluation graph as one ONNX file, and run it with onnxruntime before the file gets its name.

    The file has one input, ``images`` (B, 3, H, W), float32, and one output, ``features`` (B, feature_dim), float32.
    Images come as the network takes them: RGB, scaled and normalised; nothing of that is in the graph. Weights have
    their names of the state dict; batch normalisation is folded into the convolution before it where there is one.
    ``model`` itself stays as it is, in its mode and on its device.

    Args:
        model: a network of `fastreid_ops.models` or any other from images to one feature tensor, float32.
        path: of the file, in a folder that exists.
        image_size: H and W in pixels; the file takes no other. Networks with an embedding of positions get it laid
            out for this size.
        mode: for a network of two modalities, and only there: 1 for visible, 2 for infrared images. Half and half
            (0) is an arrangement of training and test batches, not of a deployed network.
        batch_size: B of the file; None leaves it free.
        opset: version of ONNX's operators, 18 to 23.
        verify: compare with torch on random images (B of 1 and 3 where it is free) and write nothing when they
            differ.
        tolerance: largest difference that passes, over the largest absolute value of the features.
        metadata: keys and values, both text, for the file's own metadata.

    Returns:
        path, sha256 and the difference seen.

    Raises:
        ImportError: a package of the extra ``[export]`` is missing.
        FileExistsError: there is such a file already; nothing is ever overwritten.
        FileNotFoundError: its folder is not there.
        TypeError, ValueError: an argument of the wrong kind or value, a network that is not float32, more weights
            than one ONNX file holds, images of a size that the network refuses.
        ExportError: the features are not finite or all zero, torch.onnx has no translation, or onnxruntime computes
            something else.
    """
    path = _checked_path(path)
    height, width = _checked_numbers(image_size, batch_size, opset, tolerance)
    text = _checked_metadata(metadata)
    _require("onnx", "onnxscript", *(("onnxruntime",) if verify else ()))
    network = _evaluation(model, (height, width), mode)
    batches = BATCHES if batch_size is None else (batch_size,)
    images = torch.randn(2 if batch_size is None else batch_size, 3, height, width)
    with torch.no_grad():
        _features(network, images)  # sizes that the network refuses: its own words, before the export's work
        proto = _trace(network, images, batch_size is None, opset)
    data = _serialised(proto, text)
    difference = None
    if verify:
        difference = max(_difference(data, network, batch, (height, width)) for batch in batches)
        if not difference <= tolerance:
            got = f"features that differ from torch's by {difference:.2e} of their largest value"
            raise ExportError(check.message(OP, "model", got, f"at most {tolerance:g}; no file was written"))
    write_atomic(path, data)
    return Exported(path, hashlib.sha256(data).hexdigest(), difference)


def takes_mode(model: nn.Module) -> bool:
    """Whether a network is one of two modalities, called with ``mode``."""
    return "mode" in inspect.signature(model.forward).parameters


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.exists():
        raise FileExistsError(check.message(OP, "path", f"{path}, which exists", "a new file"))
    if not path.parent.is_dir():
        raise FileNotFoundError(check.message(OP, "path", path, f"an existing folder {path.parent}"))
    return path


def _checked_numbers(
    image_size: tuple[int, int], batch_size: int | None, opset: int, tolerance: float
) -> tuple[int, int]:
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise TypeError(check.message(OP, "image_size", repr(image_size), "height and width"))
    for value in image_size:
        check.positive_int(OP, "image_size", value)
    if batch_size is not None:
        check.positive_int(OP, "batch_size", batch_size)
    check.positive_int(OP, "opset", opset)
    if opset not in OPSETS:
        raise ValueError(check.message(OP, "opset", opset, f"{OPSETS[0]} to {OPSETS[-1]}"))
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise TypeError(check.message(OP, "tolerance", type(tolerance).__name__, "a number above 0"))
    if not tolerance > 0:
        raise ValueError(check.message(OP, "tolerance", tolerance, "a number above 0"))
    return tuple(image_size)


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    for key, value in (metadata or {}).items():
        for one in (key, value):
            if not isinstance(one, str):
                got = f"{type(one).__name__} in {key!r}"
                raise TypeError(check.message(OP, "metadata", got, "text for text"))
    return dict(sorted((metadata or {}).items()))


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{OP}: got no {', no '.join(missing)}, expected them installed: pip install 'fastreid-ops[export]'"
        )


def _evaluation(model: nn.Module, image_size: tuple[int, int], mode: int | None) -> nn.Module:
    """A copy of the network that takes images and nothing else."""
    if not isinstance(model, nn.Module):
        raise TypeError(check.message(OP, "model", type(model).__name__, "an nn.Module"))
    values = [*model.parameters(), *model.buffers()]
    wrong = next((v.dtype for v in values if v.is_floating_point() and v.dtype != torch.float32), None)
    if wrong is not None:
        got = f"weights of {str(wrong).removeprefix('torch.')}"
        raise TypeError(check.message(OP, "model", got, "float32 (model.float())"))
    size = sum(v.numel() * v.element_size() for v in values)
    if size > MOST_BYTES:
        raise ValueError(
            check.message(OP, "model", f"{size} bytes of weights", f"at most {MOST_BYTES}, ONNX's limit")
        )
    if takes_mode(model):
        if mode not in (1, 2):
            expected = "1 (visible) or 2 (infrared): one file for each modality"
            raise ValueError(check.message(OP, "mode", repr(mode), expected))
    elif mode is not None:
        raise ValueError(check.message(OP, "mode", repr(mode), "None: the network has one modality"))
    network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "resize"):  # an embedding of positions: ONNX's interpolation is not torch's
            module.resize(image_size)
    if mode is not None:
        # On the instance rather than in a module around it: the names of the weights stay those of the state dict.
        network.forward = functools.partial(network.forward, mode=mode)
    return network


def _features(network: nn.Module, images: Tensor) -> Tensor:
    features = network(images)
    if not isinstance(features, Tensor) or features.dim() != 2:
        got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            check.message(OP, "model", f"{got} in evaluation", "one feature tensor (B, feature_dim)")
        )
    if not features.isfinite().all() or not features.any():
        got = f"features from {features.min().item():g} to {features.max().item():g} for random images"
        raise ExportError(check.message(OP, "model", got, "finite ones that are not all zero"))
    return features


def _trace(network: nn.Module, images: Tensor, free: bool, opset: int) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own modules about each other
        try:
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["images"],
                output_names=["features"],
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            why = str(error).strip().splitlines()[0]
            got = f"{type(network).__name__}, which torch.onnx does not translate: {why}"
            raise ExportError(check.message(OP, "model", got, "known operators")) from error
    proto = program.model_proto
    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if free and first.HasField("dim_value"):
        got = f"{type(network).__name__}, whose graph holds for batches of {first.dim_value} only"
        raise ExportError(check.message(OP, "model", got, "a graph for any batch, or batch_size given"))
    written = proto.opset_import[0].version
    if written != opset:
        got = f"{opset}, which torch.onnx could not convert this network to"
        raise ExportError(check.message(OP, "opset", got, f"{written}"))
    return proto


def _serialised(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, without the exporter's notes: those name the source files of this machine."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.ClearField("metadata_props")
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True)


def _difference(data: bytes, network: nn.Module, batch: int, size: tuple[int, int]) -> float:
    """Largest difference of onnxruntime's features from torch's, over the largest value."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    generator = torch.Generator().manual_seed(batch)
    images = torch.randn(batch, 3, *size, generator=generator)
    with torch.no_grad():
        want = _features(network, images)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (features,) = session.run(["features"], {"images": images.numpy()})
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        got = f"{type(network).__name__}, whose file onnxruntime does not run: {error}"
        raise ExportError(check.message(OP, "model", got, "a file that runs")) from error
    got = torch.from_numpy(features)
    if got.shape != want.shape or not got.isfinite().all():
        return float("inf")
    return float((got - want).abs().max() / want.abs().max())
