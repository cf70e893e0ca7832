# SPDX-License-Identifier: Apache-2.0
"""One run from its folder to its report: what `python -m fastreid_ops.train` does with a parsed request."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastreid_ops.config import difference, flatten, to_dict
from fastreid_ops.config.read import Request, dump_yaml
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import checkpoint, environment, resume, run_folder, setup
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
from fastreid_ops.engine.interrupt import Interrupt, Interrupted
from fastreid_ops.engine.log import Log, Metrics, open_board
from fastreid_ops.engine.loop import Tools, evaluation_records, fit
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.engine.state import TrainState, seed_everything
from fastreid_ops.report import write_report

# What a run may end with; each carries its sentence, the traceback goes to log.txt.
FAILURES = (OSError, ImportError, ValueError, ArithmeticError)


def run(request: Request) -> None:
    """Everything from the run folder to the report. Errors: those listed in `main`, each with its sentence."""


    if request.resume is None:
        folder, remark = run_folder.create(request.config.run.folder, request.recipe), None
    else:
        folder, remark = run_folder.reopen(request.resume)
    log = Log(folder / "log.txt")
    try:
        if remark is not None:
            log.say(remark)
        _run(request, folder, log)
    except Interrupted as stop:
        log.say(f"{stop}; go on with: python -m fastreid_ops.train --resume {folder.path}")
        raise
    except (OSError, ImportError, ValueError, ArithmeticError):
        log.note(traceback.format_exc())
        raise
    finally:
        log.close()
        folder.release()


def _run(request: Request, folder, log) -> None:

    config = request.config
    found = resume.find(folder.checkpoints, log) if request.resume is not None else None
    content = found[1] if found is not None else None
    threads = config.run.threads
    if content is not None:
        resume.check_config(content["config"], to_dict(config), request.resume_allow)
        threads = threads or content["versions"]["threads"]
    environment.prepare(threads, config.run.deterministic)
    device = environment.pick_device(config.run.device)
    facts = environment.describe(device)
    _describe(request, folder, log, facts)

    seed_everything(config.train.seed)
    policy = BadImagePolicy(config.data.bad_images)
    manifest = setup.training_manifest(config)
    training = manifest.select("train")
    label_map = training.label_map()
    sets = []
    for item in config.eval.sets:
        sets.append(setup.eval_data(item, setup.eval_manifest(item, manifest), config, policy))
    _write_manifests(folder, sets, log, len(training), len(label_map))
    loader = setup.train_loader(config, training, label_map, policy)
    state = setup.build_state(config, label_map, device, log.say)
    board = open_board(folder / "tensorboard", content["step"] if content else 0) if config.run.tensorboard else None
    metrics = Metrics(folder / "metrics.jsonl", board)
    try:
        with Interrupt() as interrupt:
            assess = setup.assessor(sets, config, device, interrupt.check)
            tools = Tools(
                loader=loader,
                step=method(config.train.method).step,
                assess=assess,
                save=_saver(folder, metrics, facts, config.run.keep),
                metrics=metrics,
                log=log,
                check=interrupt.check,
            )
            if content is not None:
                resume.restore(state, metrics, content, request.resume_allow, log)
            else:
                metrics.truncate(0)
            _baselines(state, sets, folder, tools, fresh=content is None)
            results = fit(state, tools)
            _finish(state, results, sets, folder, tools)
    finally:
        metrics.close()
        policy.write_csv(folder / "bad_files.csv")
    if config.run.report:
        log.say(f"report: {write_report(folder.path)}")


def _describe(request: Request, folder, log, facts: dict[str, Any]) -> None:
    """Say and store what runs. config.yaml comes last: a folder that has it can be resumed."""
    base, effective = request.base, to_dict(request.config)
    effective["run"]["folder"] = base["run"]["folder"] = str(folder.path)
    changed = difference(base, effective)
    if request.resume is None:
        folder.write_text("recipe.txt", request.recipe + "\n")
    else:
        earlier = folder.read_json("config_diff.json") or {}
        values = flatten(effective)
        changed = {key: [pair[0], values[key]] for key, pair in {**changed, **earlier}.items() if pair[0] != values[key]}
    folder.write_json("config_diff.json", changed)
    folder.write_json("environment.json", facts)
    folder.write_text("config.yaml", dump_yaml(effective))
    request.config = replace(request.config, run=replace(request.config.run, folder=str(folder.path)))
    log.say(f"run folder: {folder.path}")
    log.say(f"recipe: {(folder / 'recipe.txt').read_text(encoding='utf-8').strip()}" + ("" if changed else ", unchanged"))
    for key, (before, now) in changed.items():
        log.say(f"  {key}: {now!r} (recipe: {before!r})")
    log.say(f"device {facts['device']}, {facts['threads']} threads, torch {facts['torch']}, kernels {facts['isa'] or 'not loaded'}")


def _write_manifests(folder, sets, log, images: int, ids: int) -> None:
    log.say(f"training on {images} images of {ids} people")
    (folder / "manifests").mkdir(exist_ok=True)
    for data in sets:
        both = type(data.query)(**_joined(data))
        both.write_csv(folder / f"manifests/{data.name}.csv", absolute=True)
        log.say(f"evaluating on {data.name}: {len(data.query)} queries, {len(data.gallery)} gallery images; {data.label}")


def _joined(data) -> dict[str, Any]:
    """Queries and gallery of an evaluation set as the columns of one manifest."""
    columns = {"root": data.query.root}
    for name, values in data.query.columns().items():
        columns[name] = [*values, *data.gallery.columns()[name]]
    return columns


def _saver(folder, metrics, facts: dict[str, Any], keep: int):
    """The loop's `save`: best.pt before the step's own file, so that a step checkpoint never knows of a best that is not there."""

    def save(state, best: bool) -> None:
        content = state.capture(metrics.position(), facts)
        if best:
            checkpoint.write(folder.checkpoints / "best.pt", content)
        checkpoint.write(folder.checkpoints / checkpoint.step_name(state.step), content)
        checkpoint.keep_last(folder.checkpoints, keep)

    return save


def _baselines(state, sets, folder, tools, fresh: bool) -> None:
    """What training is measured against: colour alone, and the network before the first step."""

    rows = {} if fresh else folder.read_json("baselines.json") or {}
    if state.config.eval.hsv_stripes and "HSV stripes" not in rows:
        rows["HSV stripes"] = summaries({data.name: assess_colour(data) for data in sets})
    if state.config.eval.untrained and fresh:
        results = tools.assess(state.final_model)
        rows["untrained"] = summaries(results)
        for record in evaluation_records(results, 0, 0):
            tools.metrics.append(record)
    folder.write_json("baselines.json", rows)


def _finish(state, results, sets, folder, tools) -> None:
    """Final results, table and weights."""

    if results is None:
        results = tools.assess(state.final_model)
        if not state.config.eval.every:
            for record in evaluation_records(results, state.epoch, state.step):
                tools.metrics.append(record)
    write_results(folder, results, state.config.eval.ranked)
    systems = {**folder.read_json("baselines.json"), "trained": summaries(results)}
    rows = [
        table_row(name, data.name, data.label, figures[data.name])
        for data in sets
        for name, figures in systems.items()
        if data.name in figures
    ]
    folder.write_json("results/table.json", {"rows": rows})
    digest = export_weights(state, folder / "weights.safetensors")
    tools.log.say("\n" + table_text(rows) + "\n")
    tools.log.say(f"weights: {folder / 'weights.safetensors'} (sha256 {digest})")

