# SPDX-License-Identifier: Apache-2.0
"""Going on with an earlier run: the newest sound checkpoint, the same configuration and the same people, or a
refusal with reasons.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid_ops.config import difference, flatten
from fastreid_ops.engine import checkpoint
from fastreid_ops.engine.log import Log, Metrics
from fastreid_ops.engine.state import TrainState

_ELSEWHERE = {"run.folder"}  # a run may have been moved


class ResumeError(ValueError):
    """The run cannot be continued as asked; the message names every key or identity that differs."""


def check_config(old: dict[str, Any], new: dict[str, Any], allowed: list[str]) -> dict[str, list[Any]]:
    """The keys that differ and may. Errors: ResumeError listing those that differ and were not allowed by
    name.
    """
    changed = {key: values for key, values in difference(old, new).items() if key not in _ELSEWHERE}
    refused = [key for key in changed if key not in allowed]
    if refused:
        lines = "\n".join(
            f"  {key}: got {changed[key][1]!r}, expected {changed[key][0]!r} of the run" for key in refused
        )
        raise ResumeError(
            f"--resume: got a changed configuration:\n{lines}\nto go on with the change nevertheless: "
            f"--resume_allow {' '.join(refused)}"
        )
    return changed


def check_ranks(old: int, new: int) -> None:
    """Errors: ResumeError for another number of ranks: the random streams of the missing ones exist nowhere."""
    if old != new:
        launcher = f"torchrun --nproc-per-node {old} -m" if old > 1 else "python -m"
        raise ResumeError(
            f"--resume: ranks: got {new}, expected the {old} of the run; go on with: {launcher} fastreid_ops.train "
            "--resume ... (or start a new run from its weights: --model.weights)"
        )


def check_labels(old: list[list[Any]], new: Mapping[int | str, int]) -> None:
    """Errors: ResumeError if the training identities or their order are not those of the checkpoint."""
    before = dict(map(tuple, old))
    if before == dict(new):
        return
    gone, come = [p for p in before if p not in new], [p for p in new if p not in before]
    raise ResumeError(
        f"--resume: training identities: got {len(new)}, expected the {len(before)} of the run; "
        f"missing {len(gone)}{_some(gone)}, new {len(come)}{_some(come)}"
    )


def _some(pids: list[Any]) -> str:
    return f" ({', '.join(map(repr, pids[:3]))}{', ...' if len(pids) > 3 else ''})" if pids else ""


def find(folder: Path, log: Log) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound checkpoint under a run's `checkpoints` folder, None if the run had not written one
    yet.
    """
    found = checkpoint.newest(folder, log.warn)
    if found is None:
        log.say("no checkpoint was written yet: starting from the beginning")
    return found


def restore(
    state: TrainState, metrics: Metrics, content: dict[str, Any], allowed: list[str], log: Log
) -> None:
    """Put a checkpoint's content into `state` and take metrics.jsonl back to its position."""
    check_labels(content["label_map"], state.label_map)
    for key in allowed:
        if key in flatten(content["config"]):
            log.say(f"changed on resume: {key}")
    state.restore(content)
    missing = metrics.truncate(content["metrics_position"])
    if missing:
        log.warn(f"metrics.jsonl: {missing} bytes are missing at the end; curves will have a gap")
    if state.epoch >= state.config.train.epochs:
        log.say(f"training was complete at step {state.step}; evaluating it again")
    else:
        log.say(f"resumed at epoch {state.epoch + 1}, batch {state.batch}, step {state.step}")
