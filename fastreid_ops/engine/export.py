# SPDX-License-Identifier: Apache-2.0
"""weights.safetensors: the final weights with everything a user of them must know, as text in the file's
header.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fastreid_ops._atomic import write_atomic
from fastreid_ops._version import __version__
from fastreid_ops.engine.state import TrainState


def label_map_hash(label_map: dict[Any, int]) -> str:
    """sha256 over the training identities in class order."""
    return hashlib.sha256(json.dumps(sorted(label_map, key=label_map.get)).encode()).hexdigest()


def metadata(state: TrainState) -> dict[str, str]:
    """Preprocessing and architecture as strings; numbers are JSON."""
    config = state.config
    return {
        "format": "pt",
        "model": config.model.name,
        "model_options": json.dumps(config.model.options, sort_keys=True),
        "num_classes": str(len(state.label_map)),
        "height": str(config.data.height),
        "width": str(config.data.width),
        "mean": json.dumps(config.data.mean),
        "std": json.dumps(config.data.std),
        "metric": config.eval.metric,
        "label_map_sha256": label_map_hash(state.label_map),
        "step": str(state.step),
        "averaged": json.dumps(state.ema is not None),
        "fastreid_ops": __version__,
    }


def export_weights(state: TrainState, path: Path) -> str:
    """Write the final weights as a whole; returns the sha256 of the file. Equal weights give equal bytes."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in state.final_model.state_dict().items()
    }
    data = with_metadata(save(tensors), metadata(state))
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
