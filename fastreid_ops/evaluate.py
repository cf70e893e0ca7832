# SPDX-License-Identifier: Apache-2.0
"""python -m fastreid_ops.evaluate RUN: evaluate the weights of a run folder again, to the same bits as at the
end of training.

    python -m fastreid_ops.evaluate runs/mine                  every set of the run, from the last checkpoint
    python -m fastreid_ops.evaluate runs/mine --checkpoint best --set people
    python -m fastreid_ops.evaluate runs/mine --dataset market1501 --root DIR --protocol market1501
    torchrun --nproc-per-node 2 -m fastreid_ops.evaluate runs/mine        shared by two processes, the same bits

Results of the run's own sets from its last checkpoint go to results/<set>.json, all others to
evaluations/<set>-<checkpoint>.json of the run folder; with --dry nothing is written. A family of protocols, such as
llcm in both directions, has a result <set>-<protocol> for each member. Where the protocol asks for it (naic), the first
200 gallery names of each query go to rankings/ under the same name.
Not to be confused with the package fastreid_ops.evaluation, which turns distances into
figures.
"""

import argparse
import os
import sys
from pathlib import Path

from fastreid_ops.data.datasets import OPTION


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m fastreid_ops.evaluate", description=__doc__.split("\n")[0])
    made.add_argument("run", type=Path, help="run folder")
    made.add_argument("--checkpoint", default="last", help="last, best or a checkpoint file (default: last)")
    made.add_argument(
        "--set",
        action="append",
        dest="sets",
        metavar="NAME",
        help="only this set of the run; may be repeated",
    )
    made.add_argument("--dataset", help="evaluate on another data set: a name of the table or a CSV manifest")
    made.add_argument("--root", help="folder of --dataset")
    made.add_argument("--option", **OPTION)
    made.add_argument(
        "--protocol", default="market1501", help="protocol or family for --dataset (default: market1501)"
    )
    made.add_argument("--dry", action="store_true", help="print the table, write nothing")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the verb; returns the exit status: 0 done, 1 with one sentence on what failed."""
    asked = parser().parse_args(argv)
    from fastreid_ops.engine.ranks import RankError, started

    try:
        text = evaluate_run(asked)
    except (ValueError, OSError, RankError) as error:
        rank = f"rank {os.environ['RANK']}: " if started() else ""
        print(f"error: {rank}{error}", file=sys.stderr)
        return 1
    if text:
        print(text)
    return 0


def evaluate_run(asked: argparse.Namespace) -> str:
    """Evaluate as asked; returns the table as text, of several ranks on the first alone. Errors: ValueError and OSError
    with their sentence; RankError where a rank is lost.
    """
    from fastreid_ops.config import ConfigError, from_dict
    from fastreid_ops.engine import environment
    from fastreid_ops.engine.ranks import Ranks, leaving, local_device

    if not (asked.run / "config.yaml").is_file():
        raise ConfigError(f"RUN: got {asked.run}, expected a run folder (with a config.yaml)")
    path, content = _checkpoint(asked)
    config = from_dict(content["config"], str(path))
    environment.prepare(config.run.threads or content["versions"]["threads"], config.run.deterministic)
    device = environment.pick_device(local_device(config.run.device))
    with leaving(Ranks(device, config.run.rank_timeout)) as ranks:
        return _evaluated(asked, path, content, config, ranks, device)


def _evaluated(asked: argparse.Namespace, path: Path, content, config, ranks, device) -> str:
    from fastreid_ops.data.images import BadImagePolicy
    from fastreid_ops.engine import setup
    from fastreid_ops.engine.assess import summaries, table_row, table_text, write_results
    from fastreid_ops.engine.run_folder import RunFolder
    from fastreid_ops.engine.silent import SilentFolder

    model = setup.build_network(config, len(content["label_map"]), device)
    model.load_state_dict(content["ema"] or content["model"])
    policy = BadImagePolicy(config.data.bad_images)
    sets = _sets(asked, config, policy)
    results = setup.assessor(sets, config, device, ranks=ranks)(model)
    if not asked.dry:
        folder = (RunFolder if ranks.first else SilentFolder)(asked.run)
        own = asked.checkpoint == "last" and asked.dataset is None
        place = "results/{name}.json" if own else f"evaluations/{{name}}-{path.stem}.json"
        # All ranks: what is shown of a result may be found by all of them together.
        written = write_results(folder, results, config.eval.ranked, place)
        for file in written if ranks.first else ():
            print(f"written: {file}")
    if not ranks.first:
        return ""
    figures = summaries(results)
    rows = [
        table_row(path.name, name, label, figures[name])
        for data in sets
        for name, label in data.labels.items()
    ]
    return table_text(rows)


def _checkpoint(asked: argparse.Namespace):
    from fastreid_ops.engine import checkpoint

    folder = asked.run / "checkpoints"
    if asked.checkpoint == "last":
        found = checkpoint.newest(folder, lambda text: print(f"warning: {text}", file=sys.stderr))
        if found is None:
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder}: got none, expected at least one; was the run stopped at once?"
            )
        return found
    path = folder / "best.pt" if asked.checkpoint == "best" else Path(asked.checkpoint)
    return path, checkpoint.read(path)


def _sets(asked: argparse.Namespace, config, policy):
    """The sets asked for: those of the run from its own manifests, or one other data set."""
    from fastreid_ops.config import ConfigError, EvalSet
    from fastreid_ops.config.values import nearest
    from fastreid_ops.data.datasets import named_options, read_dataset
    from fastreid_ops.data.manifest import Manifest
    from fastreid_ops.engine import setup

    if asked.dataset is not None:
        options = named_options(asked.option)
        manifest = read_dataset(asked.dataset, asked.root, **options)
        item = EvalSet(
            name=Path(asked.dataset).stem, dataset=asked.dataset, options=options, protocol=asked.protocol
        )
        return [setup.eval_data(item, manifest, config, policy)]
    if asked.option:
        raise ConfigError(f"--option: got {asked.option[0]!r}, expected it beside --dataset only")
    known = {item.name: item for item in config.eval.sets}
    for name in asked.sets or []:
        if name not in known:
            raise ConfigError(f"--set: got {name!r}, expected a set of the run{nearest(name, known)}")
    chosen = [known[name] for name in asked.sets or known]
    manifests = {
        item.name: Manifest.read_csv(asked.run / "manifests" / f"{item.name}.csv") for item in chosen
    }
    return [setup.eval_data(item, manifests[item.name], config, policy) for item in chosen]


if __name__ == "__main__":
    sys.exit(main())
