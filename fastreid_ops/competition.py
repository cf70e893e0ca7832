# SPDX-License-Identifier: Apache-2.0
"""python -m fastreid_ops.competition: from data to the ranking file of a competition, by one command.

    python -m fastreid_ops.competition                                    a small plan on procedural people, no download
    python -m fastreid_ops.competition --plan naic2020 --data.root data/MyDataSet
    python -m fastreid_ops.competition --plan mine.yaml --folder runs/mine --rerank.method chunked
    python -m fastreid_ops.competition --plan naic2020 --data.root data/MyDataSet --status

A plan (fastreid_ops.config.plan) names models to train or to take, rounds of pseudo-labels, and how the models'
rankings become one: features, exact re-ranking, the unweighted mean, the first 200 names of each query; where it is
known who the test people are, also how good each ranking is. What a stage made lies in the folder with a seal. The
same command again goes on where the last one stopped, a training run in the middle of an epoch included, and does
again only what a changed plan asks for. --status says what is done and does nothing. The command is one process; a
model that several are to train is trained by torchrun before, and the plan takes its run folder as `weights`.

Exit status: 0 done, 1 it failed (one sentence says why), 2 the command line or the plan is wrong, 128 + n after
signal n.
"""

import argparse
import os
import sys
from pathlib import Path

from fastreid_ops.config import ConfigError
from fastreid_ops.config.plan import plans, read_plan

DEFAULT = "people"


def parser() -> argparse.ArgumentParser:
    """The command line; other words are keys of the plan."""
    made = argparse.ArgumentParser(
        prog="python -m fastreid_ops.competition", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    made.add_argument(
        "--plan", default=DEFAULT, help=f"plan or YAML file (default: {DEFAULT}); plans: {', '.join(plans())}"
    )
    made.add_argument("--status", action="store_true", help="say what is done and what is to do, do nothing")
    return made


def check_alone() -> None:
    """Errors: ConfigError where a launcher started several of this."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise ConfigError(
            f"competition: processes: got {ranks} of a launcher, expected one; train a model by several with torchrun "
            "-m fastreid_ops.train, and let the plan take its run folder: {name: NAME, weights: RUN}"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    asked, words = parser().parse_known_args(argv)
    try:
        check_alone()
        plan = read_plan(asked.plan, words)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from fastreid_ops.engine.competition import (
        pipeline,
    )  # torch and the kernels: once the plan is known to be sound
    from fastreid_ops.engine.interrupt import Interrupted
    from fastreid_ops.engine.run import FAILURES

    folder = Path(plan.folder or f"runs/{Path(asked.plan).stem}")
    try:
        if asked.status:
            for name, state in pipeline.status(plan, folder).items():
                print(f"{name}: {state}")
        else:
            pipeline.make_entry(plan, folder)
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from here", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
