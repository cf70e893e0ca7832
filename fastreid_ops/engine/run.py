# SPDX-License-Identifier: Apache-2.0
"""One run from its folder to its report: what `python -m fastreid_ops.train` does with a parsed request."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import torch

from fastreid_ops.config import Config, difference, flatten, to_dict
from fastreid_ops.config.read import Request, dump_yaml
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import checkpoint, dry_run, environment, resume, run_folder, setup
from fastreid_ops.engine.assess import (
    Assessment,
    EvalData,
    assess_colour,
    summaries,
    table_row,
    table_text,
    write_results,
)
from fastreid_ops.engine.export import export_weights
from fastreid_ops.engine.heap import keep_freed_memory
from fastreid_ops.engine.interrupt import Interrupt, Interrupted
from fastreid_ops.engine.log import Log, Metrics, open_board
from fastreid_ops.engine.loop import Tools, evaluation_records, fit
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.ranks import Ranks, SharedStep, leaving, local_device, naming_lost
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.engine.silent import SilentFolder, SilentLog, SilentMetrics
from fastreid_ops.engine.state import TrainState, capture_random, restore_random, seed_everything

# What a run may end with; each carries its sentence, the traceback goes to log.txt.
FAILURES = (OSError, ImportError, ValueError, ArithmeticError, RuntimeError)


def run(request: Request) -> None:
    """Train as requested, in a new run folder or in the one that is resumed.

    Errors: one of FAILURES with its sentence; Interrupted after SIGINT or SIGTERM, when a checkpoint has been
    written.
    """
    if request.dry_run:
        with TemporaryDirectory(prefix="fastreid_ops-dry-run-") as place:
            _kept_in(replace(request, config=_in_folder(request.config, Path(place) / "run")))
        return
    _kept_in(request)


def _in_folder(config: Config, folder: Path) -> Config:
    return replace(config, run=replace(config.run, folder=str(folder)))


def _kept_in(request: Request) -> None:
    settings = request.config.run
    device = environment.pick_device(local_device(settings.device))
    if settings.keep_freed_memory and device.type == "cpu":
        keep_freed_memory()
    with leaving(Ranks(device, settings.rank_timeout)) as ranks:
        folder, remark = _open(request, ranks)
        log = Log(folder / "log.txt") if ranks.first else SilentLog(ranks.rank)
        if remark is not None:
            log.say(remark)
        _logged(request, folder, log, device, ranks)


def _open(request: Request, ranks: Ranks) -> tuple[RunFolder, str | None]:
    """The first rank makes or reopens the folder, the others are told its name."""
    if not ranks.first:
        return SilentFolder(Path(ranks.tell(None))), None
    if request.resume is None:
        folder, remark = run_folder.create(request.config.run.folder, request.recipe), None
    else:
        folder, remark = run_folder.reopen(request.resume)
    ranks.tell(str(folder.path))
    return folder, remark


def _logged(request: Request, folder: RunFolder, log: Log, device: torch.device, ranks: Ranks) -> None:
    try:
        _run(request, folder, log, device, ranks)
    except Interrupted as stop:
        launcher = f"torchrun --nproc-per-node {ranks.world}" if ranks.world > 1 else "python"
        again = f"go on with: {launcher} -m fastreid_ops.train --resume {folder.path}"
        log.say(f"{stop}; {'nothing is kept' if request.dry_run else again}")
        raise
    except FAILURES:
        log.note(traceback.format_exc())
        raise
    finally:
        log.close()
        folder.release()


def _run(request: Request, folder: RunFolder, log: Log, device: torch.device, ranks: Ranks) -> None:
    found = resume.find(folder.checkpoints, log) if ranks.first and request.resume is not None else None
    content = ranks.tell(found[1] if found is not None else None)
    threads = request.config.run.threads
    if content is not None:
        resume.check_config(content["config"], to_dict(request.config), request.resume_allow)
        resume.check_ranks(content["versions"].get("ranks", 1), ranks.world)
        threads = threads or content["versions"]["threads"]
    environment.prepare(threads, request.config.run.deterministic)
    facts = environment.describe(device) | {"ranks": ranks.world}
    config = _in_folder(request.config, folder.path)
    if ranks.first:
        _describe(request, config, folder, log, facts)
    if request.dry_run:
        config = dry_run.shortened(config)

    seed_everything(config.train.seed)
    policy = BadImagePolicy(config.data.bad_images)
    whole = setup.training_manifest(config)
    training = setup.training_rows(config, whole)
    label_map = training.label_map()
    log.say(f"training on {len(training)} images of {len(label_map)} people")
    sets = [setup.eval_data(s, setup.eval_manifest(s, whole), config, policy) for s in config.eval.sets]
    if ranks.first:
        _write_manifests(folder, sets, log)
    loader = setup.train_loader(config, training, label_map, policy, ranks)
    if request.dry_run:
        loader, sets = dry_run.OneBatch(loader), [setup.fewer_files(s, config, policy) for s in sets]
    state = setup.build_state(config, training, label_map, device, log.say)
    step = content["step"] if content is not None else 0
    board = open_board(folder / "tensorboard", step) if config.run.tensorboard and ranks.first else None
    metrics = Metrics(folder / "metrics.jsonl", board) if ranks.first else SilentMetrics()
    try:
        with naming_lost(ranks), Interrupt() as interrupt:
            check = ranks.agreed(interrupt.check)
            step_of_method = method(config.train.method).step
            tools = Tools(
                loader=loader,
                step=step_of_method,
                assess=setup.assessor(sets, config, device, check, ranks),
                save=_forget if request.dry_run else _saver(folder, metrics, facts, config.run.keep, ranks),
                metrics=metrics,
                log=log,
                check=check,
                ranks=ranks,
            )
            if ranks.world > 1:
                log.say(f"{ranks.world} ranks share batches of {config.data.batch_size} images")
                shared = SharedStep(ranks, state, step_of_method)
                tools = replace(tools, step=shared.shared, adding=shared.adding)
                # Weights came from one stream on all ranks; dropout needs one on each.
                if not ranks.first:
                    seed_everything(config.train.seed + 1_000_003 * ranks.rank)
            if content is not None:
                resume.restore(state, metrics, content, request.resume_allow, log)
                if not ranks.first:
                    restore_random(content["random_of_ranks"][ranks.rank])
            else:
                metrics.truncate(0)
                _baselines(state, sets, policy, folder, tools)
            results = fit(state, tools)
            if request.dry_run:
                log.say(_verdict(state, loader.loader.len_epoch(0), sets))
                return
            _finish(state, results, sets, folder, tools)
            for files in ranks.collect(policy.files):
                policy.files.update(files)
    finally:
        metrics.close()
        if ranks.first:
            policy.write_csv(folder / "bad_files.csv")
    if config.run.report and ranks.first:
        from fastreid_ops.report import write_report  # jinja2, only where a page is made

        log.say(f"report: {write_report(folder.path)}")


def _forget(state: TrainState, best: bool) -> None:
    """The loop's `save` of a dry run."""


def _verdict(state: TrainState, batches: int, sets: list[EvalData]) -> str:
    files = ", ".join(f"{len(s.files)} files of {s.name}" for s in sets) or "nothing"
    return (
        f"dry run: one step of one batch of {batches} an epoch, evaluation on {files}: it runs. The figures say "
        "nothing, and nothing is kept"
    )


def _describe(request: Request, config: Config, folder: RunFolder, log: Log, facts: dict[str, Any]) -> None:
    """Say and store what runs. config.yaml is written last: a folder that has it can be resumed."""
    base, effective = (
        {**request.base, "run": {**request.base["run"], "folder": str(folder.path)}},
        to_dict(config),
    )
    changed = difference(base, effective)
    if request.resume is None:
        folder.write_text("recipe.txt", request.recipe + "\n")
    else:  # `base` is what the run had; its own recipe's values are in the earlier file
        earlier, values = folder.read_json("config_diff.json") or {}, flatten(effective)
        changed = {key: [pair[0], values[key]] for key, pair in {**changed, **earlier}.items()}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    folder.write_json("config_diff.json", changed)
    folder.write_json("environment.json", facts)
    folder.write_text("config.yaml", dump_yaml(effective))
    recipe = (folder / "recipe.txt").read_text(encoding="utf-8").strip()
    log.say(f"run folder: {folder.path}")
    log.say(f"recipe: {recipe}" + (" with" if changed else ", unchanged"))
    for key, (before, now) in changed.items():
        log.say(f"  {key}: {shorten(repr(now), 100)} (recipe: {shorten(repr(before), 100)})")
    log.say(
        f"device {facts['device']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"kernels {facts['isa'] or 'not loaded'}"
    )


def _write_manifests(folder: RunFolder, sets: list[EvalData], log: Log) -> None:
    (folder / "manifests").mkdir(exist_ok=True)
    for data in sets:
        query, gallery = _each_file_once(data.query), _each_file_once(data.gallery)
        columns = {name: [*values, *gallery.columns()[name]] for name, values in query.columns().items()}
        Manifest(root=data.query.root, **columns).write_csv(
            folder / f"manifests/{data.name}.csv", absolute=True
        )
        counts = f"{len(data.query)} queries, {len(data.gallery)} gallery images"
        log.say(f"evaluating on {data.name}: {counts}; {next(iter(data.labels.values()))}")
        for drawn in data.draws.values():
            log.say(f"  {drawn.protocol.describe()}")


def _each_file_once(side: Manifest) -> Manifest:
    """Without the repeated last frames of short tracklets: taking as many frames again gives them back."""
    first: dict[str, int] = {}
    for row, path in enumerate(side.path):
        first.setdefault(path, row)
    return side.take(first.values())


def _saver(
    folder: RunFolder, metrics: Metrics, facts: dict[str, Any], keep: int, ranks: Ranks
) -> Callable[[TrainState, bool], None]:
    """The loop's `save`. best.pt comes first: no step checkpoint tells of a best one that is not there. All ranks
    call it; what is their own are the random streams.
    """

    def save(state: TrainState, best: bool) -> None:
        streams = ranks.collect(capture_random()) if ranks.world > 1 else None
        if not ranks.first:
            return
        content = state.capture(metrics.position(), facts)
        if streams is not None:
            content["random_of_ranks"] = streams
        if best:
            checkpoint.write(folder.checkpoints / "best.pt", content)
        checkpoint.write(folder.checkpoints / checkpoint.step_name(state.step), content)
        checkpoint.keep_last(folder.checkpoints, keep)

    return save


def _baselines(
    state: TrainState, sets: list[EvalData], policy: BadImagePolicy, folder: RunFolder, tools: Tools
) -> None:
    """What training is measured against: colour alone, and the network before its first step; kept in
    baselines.json.
    """
    rows = {}
    if state.config.eval.hsv_stripes and tools.ranks.first:
        rows["HSV stripes"] = summaries(
            {name: found for data in sets for name, found in assess_colour(data, policy).items()}
        )
    if state.config.eval.untrained:
        results = tools.assess(state.final_model)
        rows["untrained"] = summaries(results)
        for record in evaluation_records(results, 0, 0):
            tools.metrics.append(record)
    folder.write_json("baselines.json", rows)


def _finish(
    state: TrainState,
    results: dict[str, Assessment] | None,
    sets: list[EvalData],
    folder: RunFolder,
    tools: Tools,
) -> None:
    """Final results, table and weights; evaluates again where the loop did not just do so (same weights, same
    bits).
    """
    if results is None:
        results = tools.assess(state.final_model)
        if not state.config.eval.every:
            for record in evaluation_records(results, state.epoch, state.step):
                tools.metrics.append(record)
    write_results(folder, results, state.config.eval.ranked)
    if not tools.ranks.first:
        return
    systems = {**folder.read_json("baselines.json"), "trained": summaries(results)}
    rows = [
        table_row(system, name, label, figures[name])
        for data in sets
        for name, label in data.labels.items()
        for system, figures in systems.items()
        if name in figures
    ]
    folder.write_json("results/table.json", {"rows": rows})
    digest = export_weights(state, folder / "weights.safetensors")
    tools.log.say("\n" + table_text(rows) + "\n")
    tools.log.say(f"weights: {folder / 'weights.safetensors'} (sha256 {digest})")
