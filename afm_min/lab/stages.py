"""The table of stages in order, their settings, and how a stage is run and reported.

A stage is a function of a run; its keyword arguments, with their defaults, are its settings. A
finished stage is skipped unless its settings or inputs changed: report.json has a row for each
stage, with a fingerprint of both.
"""
import ast
import collections
import concurrent.futures
import contextlib
import ctypes
import functools
import gc
import hashlib
import inspect
import json
import math
import multiprocessing
import time

import torch

from afm_min import (align, distributed, evaluate, ondevice, pretrain, reward, sft, trainer)
from afm_min.data import corpus
from afm_min.run import UserError

Stage = collections.namedtuple("Stage", "function needs")  # needs: stages that it builds on
STAGES = {function.__name__: Stage(function, needs.split()) for function, needs in (
    (corpus.data, ""),
    (corpus.tokenizer, "data"),
    (pretrain.parent, "tokenizer"),
    (pretrain.prune, "parent"),
    (pretrain.core, "prune"),
    (pretrain.continued, "core"),
    (pretrain.lengthening, "continued"),
    (sft.demonstrations, "lengthening"),
    (sft.draft, "demonstrations"),
    (sft.synthetic, "draft"),
    (sft.mixture, "synthetic"),
    (sft.sft, "mixture"))}
ROUNDS = 2  # of alignment
for n in range(1, ROUNDS + 1):
    STAGES |= {f"{function.__name__}{n}": Stage(functools.partial(function, n), needs.split())
               for function, needs in (
                   (reward.preferences, f"committee{n - 1}" if n > 1 else "sft"),
                   (reward.reward, f"preferences{n}"),
                   (align.mdloo, f"reward{n}"),  # the longest first, see run_stages
                   (align.rs, f"reward{n}"),
                   (align.dpo, f"preferences{n}"),
                   (align.ipo, f"preferences{n}"),
                   (align.committee, f"rs{n} dpo{n} ipo{n} mdloo{n}"))}
STAGES |= {"quantize": Stage(ondevice.quantize, [f"committee{ROUNDS}"]),
           "recovery": Stage(ondevice.recovery, ["quantize"]),
           "evaluation": Stage(evaluate.evaluation, ["recovery"])}
STAGES |= {name: Stage(functools.partial(ondevice.feature, name), ["recovery"])
           for name in ondevice.FEATURES}


def settings_of(stage, given=()):
    """Return {setting: value} of a stage: given["stage.setting"] if it is there, or the default."""
    parameters = inspect.signature(STAGES[stage].function).parameters.values()
    return {p.name: dict(given).get(f"{stage}.{p.name}", p.default)
            for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_value(text):
    """'20' -> 20, 'CORE' -> the mixture of that name in corpus.py, 'any other' -> itself."""
    try:
        return vars(corpus)[text] if text.isupper() else ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError):
        return text


def parse_setting(text, model):
    """'core.steps=20' -> ('core.steps', 20). model: {field: default} of the config.

    Raises UserError if there is no such setting, or if the value is of another type than its
    default."""
    name, equals, value = text.partition("=")
    section, _, key = name.partition(".")
    known = {"model": dict(model)} | {stage: settings_of(stage) for stage in STAGES}
    if not equals or key not in known.get(section, {}):
        names = ", ".join(f"{part}.{setting}" for part in known for setting in known[part])
        raise UserError(f"--set {text}: it must be NAME=VALUE, with one of the names {names}")
    default = known[section][key]
    value = value if isinstance(default, str) else parse_value(value)
    value = float(value) if type(default) is float and type(value) is int else value
    least = {int: 1, float: 0}.get(type(default))
    if type(value) is not type(default) or least is not None and not least <= value < math.inf:
        raise UserError(f"--set {text}: {name} takes a value like {default!r}"
                        + ("" if least is None else f", at least {least}"))
    return name, value


def with_needs(stages):
    """Return stages and all that they need, in the order of the table.

    ["core"] -> ["data", "tokenizer", "parent", "prune", "core"]"""
    wanted = set(stages)
    for stage in reversed(STAGES):
        wanted.update(STAGES[stage].needs if stage in wanted else ())
    return [stage for stage in STAGES if stage in wanted]


def fingerprint(report, stage, settings):
    """Return a hash, 8 hex digits, of a stage's settings and of the results that it needs."""
    needed = [[name, report[name]["fingerprint"], report[name]["metrics"]]
              for name in STAGES[stage].needs]
    return hashlib.sha256(json.dumps([settings, needed]).encode()).hexdigest()[:8]


def up_to_date(report):
    """Return the rows of a report whose fingerprints still match: {stage: row}."""
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


def describe(values):
    """{"steps": 20, "lr": 0.01, "rows": [1, 2]} -> 'steps=20 lr=0.01': tables are left out."""
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in values.items() if not isinstance(value, list))


def return_memory():
    """Return free memory to the system. glibc would keep it, a gigabyte after all stages."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # there are other C libraries
        ctypes.CDLL(None).malloc_trim(0)


def run_stage(run, stage, settings):
    """Run a stage and report it, unless it is up to date. What it needs must be up to date."""
    rows = up_to_date(run.read_json("report.json"))
    run.settings, run.fingerprint = settings, fingerprint(rows, stage, settings)
    if is_up_to_date(rows, stage, settings):
        print(f"{stage}: up to date: {describe(rows[stage]['metrics'])}")
        return
    forget(run, stage)
    print(f"{stage}: {describe(settings)}", flush=True)
    begun = time.perf_counter()
    metrics = STAGES[stage].function(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - begun, 1)
    row = {"settings": settings, "fingerprint": run.fingerprint, "seconds": seconds,
           "metrics": metrics}
    with run.locked():
        run.write_json("report.json", run.read_json("report.json") | {stage: row})
    for path in [run.partial_checkpoint(stage), *run.path.glob(f"{stage}-*.pt")]:  # what it resumes from
        path.unlink(missing_ok=True)
    run.remove_shards(stage)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def forget(run, stage):
    """Drop a stage's row before its files are rewritten, so that a row always matches its files."""
    with run.locked():
        report = run.read_json("report.json")
        report.pop(stage, None)
        run.write_json("report.json", report)  # even if unchanged: all ranks wait for each other


def independent_groups(stages):
    """Split a list of stages into groups whose stages do not need each other, in order.

    ["reward1", "rs1", "dpo1", "committee1"] -> [["reward1"], ["rs1", "dpo1"], ["committee1"]]"""
    cut = []
    for stage in stages:
        if cut and not set(STAGES[stage].needs) & set(cut[-1]):
            cut[-1].append(stage)
        else:
            cut.append([stage])
    return cut


def run_stages(run, settings, jobs=1):
    """Run stages in order. settings: {stage: its settings}. jobs: number of stages that may run at
    once, where they do not need each other, each in a process with its share of the cores.

    With matrices as small as the toy's, two threads are less than twice as fast as one, so two
    stages with one thread each end sooner than one after the other with two."""
    with contextlib.ExitStack() as stack:
        pool = None
        for group in independent_groups(settings):
            rows = up_to_date(run.read_json("report.json"))
            done = [stage for stage in group if is_up_to_date(rows, stage, settings[stage])]
            todo = [stage for stage in group if stage not in done]
            for stage in group if len(todo) == 1 or jobs == 1 else done:
                run_stage(run, stage, settings[stage])
            if len(todo) < 2 or jobs == 1:
                continue
            if pool is None:
                context = multiprocessing.get_context("spawn")  # forked, PyTorch's threads may hang
                pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(
                    jobs, context, start_job, [max(1, torch.get_num_threads() // jobs)]))
            try:
                started = [pool.submit(run_stage, run, stage, settings[stage]) for stage in todo]
                for ended in concurrent.futures.as_completed(started):
                    ended.result()
            except BaseException as error:  # end the others: they resume from their checkpoints
                for process in multiprocessing.active_children():
                    process.terminate()
                if isinstance(error, concurrent.futures.process.BrokenProcessPool):
                    raise UserError(f"a process of the stages {', '.join(todo)} ended "
                                    "early, perhaps for want of memory: call again with --resume "
                                    "--jobs 1") from None
                raise


def start_job(threads):
    """Prepare a process of `run_stages`: limit its threads, and print plain lines, as two processes
    would overwrite each other's progress line."""
    distributed.end_with_parent()
    torch.set_num_threads(threads)
    trainer.Progress.plain = True
