# SPDX-License-Identifier: Apache-2.0
"""A run folder as the engine leaves it, made of drawn pictures and smooth figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

QUERIES = {"people": 14, "sample": 6}
LABELS = {"people": "procedural people, unseen ids", "sample": "real crops"}
SHOWN = 10


def draw(path: Path, pid: int, shade: int, size: tuple[int, int]) -> None:
    """A figure whose clothes depend on the id."""
    rng = np.random.default_rng(pid)
    image = Image.new("RGB", size, (120 + shade, 130, 140 - shade))
    pen, (w, h) = ImageDraw.Draw(image), size
    top, bottom = (tuple(int(v) for v in rng.integers(20, 235, 3)) for _ in range(2))
    pen.ellipse((w * 0.38, h * 0.06, w * 0.62, h * 0.2), fill=(200, 160, 130))
    pen.rectangle((w * 0.3, h * 0.2, w * 0.7, h * 0.55), fill=top)
    pen.rectangle((w * 0.34, h * 0.55, w * 0.66, h * 0.95), fill=bottom)
    image.save(path, quality=90)


def result(name: str, images: Path) -> dict:
    rng = np.random.default_rng(len(name))
    count = QUERIES[name]
    files = []
    for pid in range(count):
        for camera in (1, 2):
            path = images / f"{name}_{pid:04d}_c{camera}.jpg"
            draw(path, pid, 12 * camera, (64, 128) if name == "people" else (30, 74))
            files.append({"path": str(path), "pid": pid, "camid": camera})
    queries, ranked = [], []
    for i in range(count):
        query = files[2 * i]
        invalid = name == "people" and i == 3
        first = 1 if i % 3 else 1 + int(rng.integers(1, 6))
        ap = 0.0 if invalid else 1.0 / first
        queries.append(
            {**query, "ap": ap, "inp": ap, "first_rank": 0 if invalid else first, "status": 2 * invalid}
        )
        others = [f for f in files if f["pid"] != query["pid"]]
        picked = [others[j] for j in rng.permutation(len(others))[:SHOWN]]
        if not invalid:
            picked.insert(first - 1, files[2 * i + 1])
        gallery = [
            {**f, "distance": 0.3 + 0.07 * k, "match": f["pid"] == query["pid"]}
            for k, f in enumerate(picked[:SHOWN])
        ]
        ranked.append({"query": i, "gallery": gallery})
    valid = [q for q in queries if q["status"] == 0]
    cmc = [sum(q["first_rank"] <= k for q in valid) / len(valid) for k in range(1, 51)]
    return {
        "set": name,
        "label": LABELS[name],
        "note": "ids that training has not seen" if name == "people" else "",
        "protocol": {
            "name": "market1501",
            "ap": "step",
            "ties": "gallery_index",
            "camera_rule": "same_pid",
            "max_rank": 50,
        },
        "mAP": sum(q["ap"] for q in valid) / len(valid),
        "mINP": sum(q["inp"] for q in valid) / len(valid),
        "cmc": cmc,
        "counts": {
            "queries": count,
            "gallery": 2 * count,
            "valid": len(valid),
            "absent_pid": 0,
            "same_camera_only": count - len(valid),
        },
        "queries": queries,
        "ranked": ranked,
    }


def make_run(folder: Path) -> Path:
    images = folder / "images"
    for sub in (images, folder / "results"):
        sub.mkdir(parents=True)
    results = {name: result(name, images) for name in QUERIES}
    for name, content in results.items():
        (folder / "results" / f"{name}.json").write_text(json.dumps(content))
    rows = []
    for name, content in results.items():
        trained = {
            "mAP": content["mAP"],
            "mINP": content["mINP"],
            **{f"rank{k}": content["cmc"][k - 1] for k in (1, 5, 10)},
        }
        for system, factor in (("HSV stripes", 0.55), ("untrained", 0.2), ("trained", 1.0)):
            figures = {key: value * factor for key, value in trained.items()}
            rows.append({"system": system, "set": name, "label": LABELS[name], **figures})
    (folder / "results" / "table.json").write_text(json.dumps({"rows": rows}))
    rng, records = np.random.default_rng(0), []
    for step in range(1, 601):
        decay, noise = math.exp(-step / 200), float(rng.normal(0, 0.05))
        losses = {"id": 1.2 + 4.0 * decay + noise, "triplet": 0.1 + 0.8 * decay + noise / 3}
        lr = 3.5e-4 * min(1.0, step / 60) * (1.0 if step < 400 else 0.1)
        records.append(
            {"kind": "train", "epoch": (step - 1) // 60, "step": step, "loss": sum(losses.values()), "losses": losses,
             "lr": lr, "grad_norm": 2 + 5 * decay, "images_per_s": 88.0 + 4 * noise}
        )  # fmt: skip
        if step % 120 == 0:
            for name, content in results.items():
                figures = dict.fromkeys(
                    ("mAP", "mINP", "rank1", "rank5", "rank10"), content["mAP"] * (1 - decay)
                )
                records.append(
                    {"kind": "eval", "epoch": (step - 1) // 60, "step": step, "set": name, **figures}
                )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "recipe.txt").write_text("people_osnet_x0_25\n")
    (folder / "config.yaml").write_text(
        "model:\n  name: osnet_x0_25\noptim:\n  lr: 0.00035\n  weight_decay: 0.0005\n"
    )
    (folder / "config_diff.json").write_text(
        json.dumps({"optim.lr": [0.001, 0.00035], "data.root": [None, "somewhere"]})
    )
    environment = {
        "python": "3.11.2",
        "torch": "2.13.0+cpu",
        "isa": "avx512",
        "threads": 2,
        "cuda": None,
        "argv": ["train.py", "--x"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture
def run_folder(tmp_path) -> Path:
    return make_run(tmp_path / "people-run")
