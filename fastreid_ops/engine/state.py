# SPDX-License-Identifier: Apache-2.0
"""Everything that changes while training, in one object that goes into a checkpoint and comes back to the
bit.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastreid_ops.config import Config, digest, to_dict
from fastreid_ops.engine.ema import Ema
from fastreid_ops.engine.optim import Optimizer
from fastreid_ops.engine.schedule import Schedule

# What a parameter group takes from the configuration rather than from a checkpoint.
_OF_THE_CONFIGURATION = ("base_lr", "weight_decay", "momentum", "scheduled")
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def half_type(name: str, device: torch.device) -> torch.dtype | None:
    """What `train.amp` means on a device: None for float32. "auto" is bfloat16 where the device multiplies it itself;
    elsewhere a processor emulates it, which takes longer than float32.
    """
    if name != "auto":
        return AMP[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = (
            bool(able.get("avx512_bf16") or able.get("amx_bf16")) and torch.backends.mkldnn.is_available()
        )
    return torch.bfloat16 if native else None


@dataclass
class TrainState:
    """A run in progress. The position is (epoch, batch): `batch` batches of `epoch` are done, `step`
    optimizer steps in all.

    `criteria` are the loss modules by name, `label_map` training id -> class index, `best` None or {"set",
    "mAP", "step"}, `versions` what the run was started with.
    """

    config: Config
    model: nn.Module
    criteria: nn.ModuleDict
    optimizer: Optimizer
    schedule: Schedule
    device: torch.device
    label_map: dict[int | str, int]
    ema: Ema | None = None
    scaler: torch.amp.GradScaler | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: dict[str, Any] | None = None

    @property
    def final_model(self) -> nn.Module:
        """The weights that are evaluated and exported: the average where averaging is on."""
        return self.model if self.ema is None else self.ema.model

    def autocast(self) -> torch.autocast:
        """The context of forward passes, as `train.amp` says."""
        dtype = half_type(self.config.train.amp, self.device)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def capture(self, metrics_position: int, versions: dict[str, Any]) -> dict[str, Any]:
        """The content of a checkpoint: tensors and plain values only."""
        config = to_dict(self.config)
        return {
            "model": self.model.state_dict(),
            "criteria": self.criteria.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.model.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "best": self.best,
            "random": capture_random(),
            "config": config,
            "config_hash": digest(config),
            "label_map": [[pid, label] for pid, label in self.label_map.items()],
            "metrics_position": metrics_position,
            "versions": versions,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take over a checkpoint's content into the objects of this state; the configuration stays this
        state's own.
        """
        self.model.load_state_dict(content["model"])
        self.criteria.load_state_dict(content["criteria"])
        own = [
            {key: group[key] for key in _OF_THE_CONFIGURATION if key in group}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(content["optimizer"])
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)  # of this configuration, if changed by name
        if self.ema is not None:
            self.ema.model.load_state_dict(content["ema"] or content["model"])
        if self.scaler is not None and content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.batch, self.step = content["epoch"], content["batch"], content["step"]
        self.best = content["best"]
        restore_random(content["random"])


def capture_random() -> dict[str, Any]:
    """The states of torch's, CUDA's, Python's and NumPy's global generators as tensors and plain values."""
    version, internal, gauss = random.getstate()
    state = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, torch.tensor(internal), gauss],
        "numpy": {
            "key": torch.from_numpy(state["state"]["key"].astype(np.int64)),
            "pos": int(state["state"]["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        },
    }


def restore_random(states: dict[str, Any]) -> None:
    """Undo `capture_random`; CUDA states are taken over where the number of devices is the same."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kept = states["numpy"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": kept["key"].numpy().astype(np.uint32), "pos": kept["pos"]},
            "has_gauss": kept["has_gauss"],
            "gauss": kept["gauss"],
        }
    )


def seed_everything(seed: int) -> None:
    """Seed the global generators; data order and augmentation do not use them (they are functions of seed and
    position).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
