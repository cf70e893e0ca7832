# SPDX-License-Identifier: Apache-2.0
"""``python -m fastreid_ops.doctor``: what is loaded, what is missing, and the one command that mends it.

Exit code 0 where the native operators load and agree with their references, else 1. ``--json`` prints the same facts
for programs (and for a bug report).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from fastreid_ops import _library
from fastreid_ops._version import __version__

# What an operator, or the import of its module, may reasonably raise on a broken installation.
_FAILURES = (ImportError, AttributeError, RuntimeError, ValueError, TypeError, OSError)


def _check_distance(torch) -> float:
    """Largest difference between `pairwise_distance` and its reference on 5 x 7 points in 16 dimensions."""
    module = importlib.import_module("fastreid_ops.ops.distance")
    x = torch.sin(torch.arange(80, dtype=torch.float32)).reshape(5, 16)
    y = torch.cos(torch.arange(112, dtype=torch.float32)).reshape(7, 16)
    found, expected = module.pairwise_distance(x, y), module.reference(x, y, metric="euclidean")
    return float((found - expected).abs().max())


def _check_ranking(torch) -> float:
    """Largest difference between `rank_metrics` and its reference on 4 queries and 12 gallery images."""
    module = importlib.import_module("fastreid_ops.ops.ranking")
    distance = torch.sin(torch.arange(48, dtype=torch.float32)).reshape(4, 12)
    query_pids, gallery_pids = torch.arange(4), torch.arange(12) % 4
    query_camids, gallery_camids = torch.zeros(4, dtype=torch.int64), torch.arange(12) % 3
    arguments = (distance, query_pids, gallery_pids, query_camids, gallery_camids)
    found, expected = module.rank_metrics(*arguments), module.reference(*arguments)
    return _largest(found, expected)


def _rows(torch):
    """12 queries and 60 gallery images of length 16."""
    x = torch.sin(torch.arange(12 * 16, dtype=torch.float32) ** 1.5).reshape(12, 16)
    return x, torch.sin(torch.arange(60 * 16, dtype=torch.float32) ** 1.3).reshape(60, 16)


def _largest(found, expected) -> float:
    """Largest difference between two tuples of tensors."""
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a.numel()]
    return max(float((a - b).abs().max()) for a, b in pairs)


def _check_nearest(torch) -> float:
    """Largest difference between `neighbours` and its reference, 9 of each of 60 rows among themselves."""
    module = importlib.import_module("fastreid_ops.ops.nearest")
    _, x = _rows(torch)
    return _largest(module.neighbours(x, x, 9, farthest=True), module.reference(x, x, 9, farthest=True))


def _check_features(torch) -> float:
    """Largest difference between `rank_features` and its reference on 12 queries and 60 gallery images."""
    module = importlib.import_module("fastreid_ops.ops.feature_ranking")
    arguments = (
        *_rows(torch),
        torch.arange(12) % 4,
        torch.arange(60) % 4,
        torch.arange(12) % 3,
        torch.arange(60) % 3,
    )
    return _largest(module.rank_features(*arguments), module.reference(*arguments))


def _check_rerank(torch) -> float:
    """Largest difference between `k_reciprocal` and its reference on 12 queries and 60 gallery images."""
    module = importlib.import_module("fastreid_ops.ops.rerank")
    settings = {"k1": 8, "k2": 3, "lambda_value": 0.3, "variant": "zhong2017", "metric": "euclidean"}
    return _largest(
        [module.k_reciprocal(*_rows(torch), **settings)], [module.reference(*_rows(torch), **settings)]
    )


def _check_attention(torch) -> float:
    """Largest difference between `channel_attention` and its reference on a map of 2 x 6 x 4 x 5."""
    module = importlib.import_module("fastreid_ops.ops.attention")
    plain = importlib.import_module("fastreid_ops.ops._attention_reference")
    x = torch.sin(torch.arange(240, dtype=torch.float32)).reshape(2, 6, 4, 5)
    weights = [
        torch.cos(torch.arange(n, dtype=torch.float32) * n).reshape(s)
        for n, s in ((24, (2, 12)), (12, (6, 2)))
    ]
    found = module.channel_attention(x, weights[0], None, weights[1], None, statistics=("avg", "max"))
    statistics = plain.pool(x, ("avg", "max"), (), "first")[:2]
    logits = plain.network(statistics, weights[0], None, weights[1], None, False)
    expected = plain.gate([x], [logits], [], None, None, None, "sigmoid", False)
    return _largest([found], [expected])


CHECKS = {
    "pairwise_distance": (_check_distance, 1e-5),
    "rank_metrics": (_check_ranking, 1e-12),
    "nearest": (_check_nearest, 1e-12),
    "rank_features": (_check_features, 1e-12),
    "k_reciprocal": (_check_rerank, 1e-5),
    "channel_attention": (_check_attention, 1e-5),
}


def _self_checks(torch) -> dict[str, dict[str, Any]]:
    results = {}
    for name, (check, tolerance) in CHECKS.items():
        try:
            difference = check(torch)
        except _FAILURES as error:
            results[name] = {"ok": False, "detail": f"{type(error).__name__}: {error}"}
        else:
            results[name] = {
                "ok": difference <= tolerance,
                "detail": f"differs from reference() by {difference:.1e} (allowed {tolerance:.0e})",
            }
    return results


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def _devices(torch) -> list[str]:
    names = [f"cpu: {_processor()}, {len(os.sched_getaffinity(0))} usable cores"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            size = facts.total_memory / 2**30
            names.append(f"cuda:{index}: {facts.name}, sm_{facts.major}{facts.minor}, {size:.0f} GiB")
    return names


def extras() -> dict[str, dict[str, bool]]:
    """Extra -> {distribution: installed?}, as the installed metadata names them; empty where there is no metadata."""
    try:
        requirements = importlib.metadata.requires("fastreid-ops") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, dict[str, bool]] = {}
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if name and extra:
            found.setdefault(extra[1], {})[name[0]] = _installed(name[0])
    return found


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def examine() -> dict[str, Any]:
    """All facts as plain data. ``ok``: the native operators work; ``problems``: {problem, fix} entries."""
    facts: dict[str, Any] = {
        "ok": False,
        "fastreid_ops": __version__,
        "package": str(Path(_library.__file__).parent),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "extras": extras(),
        "problems": [],
    }
    problems: list[dict[str, str]] = facts["problems"]
    try:
        status = _library.status()
    except ImportError as error:
        fix = f"{sys.executable} -m pip install 'torch>=2.11,<2.14'"
        problems.append({"problem": f"torch cannot be imported: {error}", "fix": fix})
        return facts
    except ValueError as error:
        problems.append({"problem": str(error), "fix": "unset FASTREID_ISA"})
        return facts
    import torch

    facts["torch"] = {"running": status.torch, "built with": status.built_torch}
    facts["cuda"] = {"running": status.torch_cuda, "built with": status.built_cuda}
    facts["native"], facts["native_cuda"] = status.native, status.cuda
    facts["libraries"] = {name: [file.name for file in files] for name, files in _library.libraries().items()}
    facts["threads"] = torch.get_num_threads()
    facts["devices"] = _devices(torch)
    if status.native:
        from fastreid_ops import _C

        facts["isa"] = {"best": _C.best_isa().name, "active": _C.active_isa().name}
        facts["compiler"] = _C.compiler
        facts["cuda architectures"] = _C.cuda_arch_list
    if status.reason is not None:
        problems.append({"problem": status.reason, "fix": status.fix or ""})
    facts["checks"] = _self_checks(torch) if status.native else {}
    for name, result in facts["checks"].items():
        if not result["ok"]:
            problem = f"{name} is wrong: {result['detail']}"
            problems.append({"problem": problem, "fix": _library.rebuild_command()})
    facts["ok"] = status.native and all(result["ok"] for result in facts["checks"].values())
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    rows = [
        ("fastreid-ops", f"{facts['fastreid_ops']}  {facts['package']}"),
        ("python", facts["python"]),
        ("system", facts["system"]),
    ]
    if "torch" in facts:
        built = facts["torch"]["built with"] or "nothing"
        rows.append(("torch", f"{facts['torch']['running']}  (native library built with {built})"))
        cuda, built = facts["cuda"]["running"] or "none", facts["cuda"]["built with"] or "none"
        rows.append(("CUDA", f"torch's: {cuda}, built with: {built}"))
        loaded = {"_C": facts["native"], "_cuda": facts["native_cuda"]}
        for name, files in facts["libraries"].items():
            state = (
                {True: "loaded", False: "not loaded", None: "there"}[loaded.get(name)] if files else "absent"
            )
            rows.append((f"  {name}", f"{state}  {' '.join(files)}".rstrip()))
        if "isa" in facts:
            rows.append(
                (
                    "CPU kernels",
                    f"{facts['isa']['active']}  (best here: {facts['isa']['best']}; {facts['compiler']})",
                )
            )
            if facts["cuda architectures"]:
                rows.append(("CUDA kernels", facts["cuda architectures"]))
        rows.append(("threads", str(facts["threads"])))
        rows += [("device" if i == 0 else "", device) for i, device in enumerate(facts["devices"])]
        for name, result in facts["checks"].items():
            rows.append((name, ("ok: " if result["ok"] else "WRONG: ") + result["detail"]))
    for extra, packages in facts["extras"].items():
        missing = [name for name, installed in packages.items() if not installed]
        text = (
            f"missing {', '.join(missing)}: pip install 'fastreid-ops[{extra}]'" if missing else "installed"
        )
        rows.append((f"extra [{extra}]", text))
    width = max(len(label) for label, _ in rows) + 2
    lines = [f"{label:<{width}}{text}" for label, text in rows]
    for entry in facts["problems"]:
        lines += ["", f"Problem: {entry['problem']}", f"To mend:  {entry['fix']}"]
    lines += [
        "",
        "All is well."
        if not facts["problems"]
        else "Works, with the remark above."
        if facts["ok"]
        else "Not working.",
    ]
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastreid_ops.doctor", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    options = parser.parse_args(arguments)
    facts = examine()
    print(json.dumps(facts, indent=2) if options.json else "\n".join(_lines(facts)))
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
