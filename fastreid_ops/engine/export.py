# SPDX-License-Identifier: Apache-2.0
"""weights.safetensors: the final weights with everything a user of them must know, as text in the file's
header.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fastreid_ops._atomic import write_atomic
from fastreid_ops._version import __version__
from fastreid_ops.config import Config
from fastreid_ops.engine.state import TrainState
from fastreid_ops.models import create_model
from fastreid_ops.models.weights import read_weights

WEIGHTS = "weights.safetensors"


def label_map_hash(label_map: dict[Any, int]) -> str:
    """sha256 over the training identities in class order."""
    return hashlib.sha256(json.dumps(sorted(label_map, key=label_map.get)).encode()).hexdigest()


def metadata(config: Config, label_map: dict[Any, int], step: int, averaged: bool) -> dict[str, str]:
    """Preprocessing and architecture as strings; numbers are JSON."""
    return {
        "format": "pt",
        "model": config.model.name,
        "model_options": json.dumps(config.model.options, sort_keys=True),
        "num_classes": str(len(label_map)),
        "height": str(config.data.height),
        "width": str(config.data.width),
        "mean": json.dumps(config.data.mean),
        "std": json.dumps(config.data.std),
        "metric": config.eval.metric,
        "unit_length": json.dumps(config.eval.unit_length),
        "label_map_sha256": label_map_hash(label_map),
        "step": str(step),
        "averaged": json.dumps(averaged),
        "fastreid_ops": __version__,
    }


def export_weights(state: TrainState, path: Path) -> str:
    """Write the final weights as a whole; returns the sha256 of the file. Equal weights give equal bytes."""
    known = metadata(state.config, state.label_map, state.step, state.ema is not None)
    return write_weights(state.final_model.state_dict(), known, path)


def write_weights(weights: Mapping[str, Tensor], known: dict[str, str], path: Path) -> str:
    """As `export_weights`, from a state dict and its metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    data = with_metadata(save(tensors), known)
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def with_metadata(data: bytes, values: dict[str, str]) -> bytes:
    """A safetensors file with `values` as its metadata, sorted.

    The library itself writes metadata in an order that differs from call to call. Format: the header's length
    as 8 bytes, little endian; the header as JSON, padded with spaces to a multiple of 8; the tensors.
    """
    (length,) = struct.unpack("<Q", data[:8])
    header = {"__metadata__": dict(sorted(values.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights.safetensors of training says of itself. Errors: FileNotFoundError, ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"weights: got {path}, expected an existing file")
    try:
        with safe_open(path, "pt") as file:
            known = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"export: weights: got {path}, expected a safetensors file: {error}") from error
    missing = {"model", "model_options", "num_classes", "height", "width"} - known.keys()
    if missing:
        raise ValueError(
            f"export: weights: got {path} without {', '.join(sorted(missing))} in its metadata, expected the {WEIGHTS} "
            "that training writes (for other weights: fastreid_ops.engine.onnx.export_onnx)"
        )
    return known


def trained_model(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """The network of a weights.safetensors and the file's metadata. Errors: FileNotFoundError, ValueError."""
    weights = read_weights(path)
    known = read_metadata(path)
    model = create_model(known["model"], int(known["num_classes"]), **json.loads(known["model_options"]))
    wrong = sorted(weights.keys() ^ model.state_dict().keys())
    if wrong:
        raise ValueError(
            f"export: weights: got {path}, of which {', '.join(wrong[:3])} and {known['model']} do not fit, expected "
            "weights of this version's network"
        )
    model.load_state_dict(weights)
    return model, known
