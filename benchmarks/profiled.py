# SPDX-License-Identifier: Apache-2.0
"""One call of each search and of attention at full size, for a profiler to look at:

    ncu --csv --page raw --metrics ... python benchmarks/profiled.py --device cuda

Smaller than Market-1501 by far: a profiler runs every kernel several times, and saves memory before each.
"""

from __future__ import annotations

import argparse

import torch
from device_scenarios import TINY, features
from roofline import DEPTH

from fastreid_ops import k_reciprocal, pairwise_distance, rank_features
from fastreid_ops.ops.attention import attention_gate, attention_pool
from fastreid_ops.ops.nearest import neighbours

SIZES = (1024, 8192, DEPTH)
MAP = (64, 256, 96, 32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    x = torch.randn((2, 16, 8, 4) if options.tiny else MAP, device=options.device, requires_grad=True)
    found = attention_pool(x)
    gated = attention_gate(x, channel=found.channel_avg + found.channel_max)
    torch.autograd.grad(gated, x, torch.randn_like(gated))
    data = features(*(TINY if options.tiny else SIZES), options.device)
    neighbours(data.gallery, data.gallery, 21, farthest=True, check_finite=False)
    rank_features(*data, check_finite=False)
    pairwise_distance(data.query, data.gallery, check_finite=False)
    k_reciprocal(data.query, data.gallery, top=100)


if __name__ == "__main__":
    main()
