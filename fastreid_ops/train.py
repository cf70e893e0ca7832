# SPDX-License-Identifier: Apache-2.0
"""python -m fastreid_ops.train: train a recipe, evaluate it, write a run folder with a report.

    python -m fastreid_ops.train                                         the embedded job, no download
    python -m fastreid_ops.train --config market1501_osnet_x1_0 --data.root DIR
    python -m fastreid_ops.train --config my.yaml --optim.lr 3e-4 --run.folder runs/mine
    torchrun --nproc-per-node 4 -m fastreid_ops.train --config ...       by four processes, see engine/ranks.py
    python -m fastreid_ops.train --config market1501_osnet_x1_0 --data.root DIR --dry_run      does it run at all?
    python -m fastreid_ops.train --resume runs/mine [--optim.lr 1e-4 --resume_allow optim.lr]

Exit status: 0 done, 1 the run failed (one sentence says why), 2 the command line or recipe is wrong, 128 + n
after signal n (a checkpoint was written).
"""

import os
import sys

from fastreid_ops.config import ConfigError, to_dict, validate
from fastreid_ops.config.check import check_shares
from fastreid_ops.config.read import dump_yaml, read


def main(argv: list[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    try:
        request = read(sys.argv[1:] if argv is None else argv)
        validate(request.config)
        check_shares(request.config, int(os.environ.get("WORLD_SIZE", "1")))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if request.print_config:
        print(dump_yaml(to_dict(request.config)), end="")
        return 0
    from fastreid_ops.engine.interrupt import Interrupted
    from fastreid_ops.engine.ranks import started
    from fastreid_ops.engine.run import (
        FAILURES,
        run,
    )  # torch and the kernels: not before the command line is known to be sound

    try:
        run(request)
    except Interrupted as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        print("interrupted before training began", file=sys.stderr)
        return 130
    except FAILURES as error:
        rank = f"rank {os.environ['RANK']}: " if started() else ""
        print(f"error: {rank}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
