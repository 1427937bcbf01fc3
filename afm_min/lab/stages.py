"""The table of stages in order, their settings, and the code that runs and reports them.

A stage is a function of a run. Its keyword-only arguments, with their defaults, are its settings.
A finished stage is skipped unless its settings, inputs or source code changed: report.json has a
row for each stage, with a fingerprint of all three.
"""
import ast
import collections
import concurrent.futures
import contextlib
import ctypes
import gc
import hashlib
import inspect
import json
import multiprocessing
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from afm_min import (align, distributed, evaluate, ondevice, pretrain, reward, sft, synthetic,
                     trainer)
from afm_min.data import corpus
from afm_min.lab.settings import LARGEST, ROUNDS, problem
from afm_min.lab.source import source_hash
from afm_min.run import UserError

Stage = collections.namedtuple("Stage", "function needs")  # needs: stages whose results it uses
STAGES = {}
for function in (corpus.data, corpus.tokenizer, pretrain.parent, pretrain.prune, pretrain.core,
                 pretrain.continued, pretrain.lengthening, sft.demonstrations, sft.draft,
                 synthetic.synthetic, sft.mixture, sft.sft):
    needs = list(STAGES)[-1:]  # the stage before, if any
    STAGES[function.__name__] = Stage(function, needs)
# Each round of alignment starts from the model of the round before.
for n in range(1, ROUNDS + 1):
    STAGES |= {
        f"preferences{n}": Stage(partial(reward.preferences, n),
                                 ["sft" if n == 1 else f"committee{n - 1}"]),
        f"reward{n}": Stage(partial(reward.reward, n), [f"preferences{n}"]),
        # mdloo takes longest of the four below, so it starts first when they run side by side.
        f"mdloo{n}": Stage(partial(align.mdloo, n), [f"reward{n}"]),
        f"rs{n}": Stage(partial(align.rs, n), [f"reward{n}"]),
        f"dpo{n}": Stage(partial(align.dpo, n), [f"preferences{n}"]),
        f"ipo{n}": Stage(partial(align.ipo, n), [f"preferences{n}"]),
        f"committee{n}": Stage(partial(align.committee, n),
                               [f"rs{n}", f"dpo{n}", f"ipo{n}", f"mdloo{n}"])}
STAGES |= {"quantize": Stage(ondevice.quantize, [f"committee{ROUNDS}"]),
           "recovery": Stage(ondevice.recovery, ["quantize"]),
           "evaluation": Stage(evaluate.evaluation, ["recovery"])}
for name in ondevice.FEATURES:
    STAGES[name] = Stage(partial(ondevice.feature, name), ["recovery"])


def settings_of(stage, values=None):
    """Return {setting: value} of a stage: values["stage.setting"] if present, else the default."""
    values = values or {}
    parameters = inspect.signature(STAGES[stage].function).parameters.values()
    return {p.name: values.get(f"{stage}.{p.name}", p.default)
            for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_setting(text, model):
    """'core.steps=20' -> ('core.steps', 20). model: {field: default} of the model's config.

    Raises UserError if there is no such setting, or if it cannot have this value."""
    defaults = {f"model.{field}": value for field, value in model.items()}
    for stage in STAGES:
        defaults |= {f"{stage}.{key}": value for key, value in settings_of(stage).items()}
    name, equals, value = text.partition("=")
    if not equals or name not in defaults:
        raise UserError(f"--set {text}: expected NAME=VALUE, with NAME one of "
                        f"{', '.join(defaults)}")
    default = defaults[name]
    if not isinstance(default, str):
        # If it is no Python value, it stays a string.
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    if type(default) is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if wrong := problem(name, value, default):
        raise UserError(f"--set {text}: {name} {wrong}")
    return name, value


def with_needs(stages):
    """Return stages and all that they need, in the order of the table.

    ["core"] -> ["data", "tokenizer", "parent", "prune", "core"]"""
    wanted = set(stages)
    for stage in reversed(STAGES):  # a stage only needs stages above it
        if stage in wanted:
            wanted.update(STAGES[stage].needs)
    return [stage for stage in STAGES if stage in wanted]


def choose_model(run, stage=None):
    """Return `stage`, or else the last stage with a checkpoint of a whole language model.

    Reward models, quantized weights and adapters are no such models. Raises UserError if the run
    has no model, or none of `stage`."""
    packed = ("quantize", "recovery", *ondevice.FEATURES)
    trained = [name for name in STAGES if run.checkpoint(name).exists()
               and name not in packed and not name.startswith("reward")]
    if not trained:
        raise UserError(f"{run.path} has no model: python train.py --out {run.path} trains one")
    if stage and stage not in trained:
        raise UserError(f"--stage {stage}: {run.path} has models of {', '.join(trained)}")
    return stage or trained[-1]


def fingerprint(rows, stage, settings):
    """Return a hash, 8 hex digits, of a stage's settings, the results that it needs, and its code.

    rows: {stage: row} as in report.json. The code is that of the stage's module and of all modules
    that it imports, so an edited stage runs again, as do the stages that need it."""
    function = STAGES[stage].function
    code = source_hash(getattr(function, "func", function).__module__)  # func: of a partial
    needed = [[name, rows[name]["fingerprint"], rows[name]["metrics"]]
              for name in STAGES[stage].needs]
    return hashlib.sha256(json.dumps([settings, needed, code]).encode()).hexdigest()[:8]


def up_to_date(report):
    """Return the rows of a report whose fingerprints still match: {stage: row}.

    A row is out of date, too, if that of a stage that it needs is missing or out of date."""
    rows = {}
    for stage in STAGES:
        if stage in report and rows.keys() >= set(STAGES[stage].needs):
            row = report[stage]
            if row.get("fingerprint") == fingerprint(rows, stage, row["settings"]):
                rows[stage] = row
    return rows


def is_up_to_date(rows, stage, settings):
    """Return whether rows, as from `up_to_date`, have a stage with these settings."""
    return stage in rows and rows[stage]["fingerprint"] == fingerprint(rows, stage, settings)


def warn_if_stale(run, *stages):
    """Print a line on standard error for each of these stages whose checkpoint is stale: settings,
    inputs or code have changed since it was made, or its training has not been finished."""
    rows, values = up_to_date(run.read_json("report.json")), run.read_json("run.json").get("set")
    for stage in stages:
        for name in with_needs([stage]):
            settings = settings_of(name, values)
            if values is None and name in rows:  # an arm of claims.py has no run.json
                settings = rows[name]["settings"]
            if not is_up_to_date(rows, name, settings):
                print(f"warning: {run.checkpoint(stage)} is out of date, as settings, inputs or "
                      f"code of the stage {name} have changed: train.py --out {run.path} --resume "
                      "makes it anew", file=sys.stderr)
                break


def format_value(value):
    """Format a number or word for people: 0.51234 -> '0.5123', 12345.6 -> '12,346'."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def describe(values):
    """{"steps": 20, "lr": 0.01, "rows": [1, 2]} -> 'steps=20 lr=0.01'. Tables are left out."""
    return " ".join(f"{name}={format_value(value)}" for name, value in values.items()
                    if not isinstance(value, list))


def return_memory():
    """Return free memory to the system. glibc would keep it, and it adds up over the stages."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def forget(run, stage):
    """Drop a stage's row before its files are rewritten, so that a row always matches its files."""
    with run.locked():
        report = run.read_json("report.json")
        report.pop(stage, None)
        run.write_json("report.json", report)  # even if unchanged: every rank must call this


def run_stage(run, stage, settings):
    """Run a stage and report it, unless it is up to date. Its needs must be up to date."""
    rows = up_to_date(run.read_json("report.json"))
    if is_up_to_date(rows, stage, settings):
        print(f"{stage}: up to date: {describe(rows[stage]['metrics'])}")
        return
    run.settings, run.fingerprint = settings, fingerprint(rows, stage, settings)
    forget(run, stage)
    print(f"{stage}: {describe(settings)}", flush=True)
    start = time.perf_counter()
    metrics = STAGES[stage].function(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - start, 1)
    row = {"settings": settings, "fingerprint": run.fingerprint, "seconds": seconds,
           "metrics": metrics}
    with run.locked():
        run.write_json("report.json", run.read_json("report.json") | {stage: row})
    run.partial_checkpoint(stage).unlink(missing_ok=True)
    run.remove_shards(stage)
    for path in run.path.glob(f"{stage}-*.pt"):  # candidates that the stage chose from
        path.unlink(missing_ok=True)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def independent_groups(stages):
    """Split a list of stages into groups whose stages do not need each other, in order.

    ["reward1", "rs1", "dpo1", "committee1"] -> [["reward1"], ["rs1", "dpo1"], ["committee1"]]"""
    groups = []
    for stage in stages:
        if groups and not set(STAGES[stage].needs) & set(groups[-1]):  # needs none of the group
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def run_stages(run, settings, jobs=1):
    """Run stages in order. settings: {stage: its settings}. With jobs > 1, stages that do not need
    each other run side by side, in up to that many processes."""
    for group in independent_groups(settings):
        rows = up_to_date(run.read_json("report.json"))
        pending = [stage for stage in group if not is_up_to_date(rows, stage, settings[stage])]
        side_by_side = pending if jobs > 1 and len(pending) > 1 else []
        for stage in group:
            if stage not in side_by_side:  # an up-to-date stage only reports that it is
                run_stage(run, stage, settings[stage])
        if side_by_side:
            run_side_by_side(run, {stage: settings[stage] for stage in side_by_side}, jobs)


def run_side_by_side(run, settings, jobs):
    """Run stages that do not need each other in several processes, which share the cores.

    With matrices as small as the toy's, two threads are less than twice as fast as one, so two
    single-threaded stages side by side end sooner than one after the other. If one of them fails,
    the others are ended; --resume continues them."""
    context = multiprocessing.get_context("spawn")  # with "fork" PyTorch's threads may hang
    threads = max(1, torch.get_num_threads() // jobs)
    with concurrent.futures.ProcessPoolExecutor(jobs, context, start_worker, [threads]) as pool:
        try:
            futures = [pool.submit(run_stage, run, *item) for item in settings.items()]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BrokenProcessPool:
            raise UserError(f"a process running {', '.join(settings)} was killed, perhaps for lack "
                            "of memory: try --resume --jobs 1") from None
        except BaseException:  # a stage failed, or Ctrl-C: do not wait for the other stages
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def start_worker(threads):
    """Prepare a process of `run_side_by_side`: limit its threads, and print progress as plain
    lines, since processes that redraw one line would overwrite each other."""
    distributed.end_with_parent()
    torch.set_num_threads(threads)
    trainer.Progress.plain = True
