# SPDX-License-Identifier: Apache-2.0
"""Every op once or twice at small sizes, for a sanitizer that makes each call a hundred times slower:

    compute-sanitizer --tool memcheck python tools/gpu/small_set.py --device cuda --seconds 60

One line for each call that ran; "every call ran" at the end, or the ones that time did not reach. The samples are those
of the op contracts (tests/ops), and a few of more than one tile, slab and chunk.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "ops"), str(ROOT / "tests" / "gpu")]

Call = tuple[str, Callable[[], object]]


def larger(device: str) -> Iterator[Call]:
    """A call of each kernel with edges in every direction; the most telling ones first."""
    import device_calls

    import fastreid_ops

    x, y = (torch.randn(n, 72, generator=torch.Generator().manual_seed(n)).to(device) for n in (140, 300))
    pids = [torch.arange(len(side), device=device) % 20 for side in (x, y)]
    cameras = [torch.zeros_like(pids[0]), torch.ones_like(pids[1])]
    yield "nearest", lambda: fastreid_ops.nearest(x, y, 21)
    yield "nearest, few", lambda: fastreid_ops.nearest(x[:3], y, 5, metric="cosine")
    yield "rank_features", lambda: fastreid_ops.rank_features(x, y, *pids, *cameras)
    yield "k_reciprocal", lambda: fastreid_ops.k_reciprocal(x[:20], y, top=50)
    yield "jaccard", lambda: fastreid_ops.jaccard(y[:150])
    yield "gnn_rerank", lambda: fastreid_ops.gnn_rerank(x[:20], y[:150])
    yield "pairwise_distance", lambda: fastreid_ops.pairwise_distance(x, y)
    yield "rank_metrics", lambda: fastreid_ops.rank_metrics(torch.cdist(x, y), *pids, *cameras)
    given = [torch.cdist(a, b) for a, b in ((x[:20], y), (x[:20], x[:20]), (y, y))]
    yield "k_reciprocal_from_distances", lambda: fastreid_ops.k_reciprocal_from_distances(*given)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = torch.randn(3, 36, 14, 10, device=device).contiguous(memory_format=layout)
        for name, call in device_calls.CALLS.items():
            # `weights_of` is for 32 channels.
            part = maps[:, :32].contiguous(memory_format=layout)
            yield f"{name}, with gradient", lambda c=call, m=part: _step(c, m)


def _step(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    leaf = x.detach().requires_grad_()
    torch.autograd.grad(call(leaf).sum(), leaf)


def samples(device: str) -> Iterator[Call]:
    """The first sample of each variant, in float32 and bfloat16."""
    from specs import SPECS

    for dtype in (torch.float32, torch.bfloat16):
        for spec in SPECS:
            seen = set()
            for sample in spec.sample_inputs(dtype, "cpu", 0) if dtype in spec.dtypes else ():
                variant = sample.name.split("/")[0]
                if variant in seen:
                    continue
                seen.add(variant)
                there = sample.map(lambda value: value.to(device))
                yield f"{spec.name} {sample.name} {dtype}", lambda s=spec, t=there: s.fn(*t.args, **t.kwargs)


def main() -> int:
    """0 where nothing raised, whether or not time was enough."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=60, help="no call is begun after these")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    left = 0
    for source in (larger, samples):
        for name, call in source(options.device):
            if time.monotonic() > end:
                left += 1
                continue
            call()
            if options.device == "cuda":
                torch.cuda.synchronize()
            print(f"ran {name}", flush=True)
    print(f"{left} calls were not reached" if left else "every call ran", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
