"""The table of stages in order, their settings, and how one is carried out and reported.

Each stage is a function of a run; its keyword arguments, with their defaults, are its settings. It
is done if report.json has a row for it that was made with these settings, from the results that
those it needs have now: so a changed setting makes anew what depends on it, and nothing else.
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

from afm_min import (align, demonstrations, distributed, evaluate, ondevice, pretrain, reward,
                     sft, synthetic, trainer)
from afm_min.data import corpus
from afm_min.run import UserError

Stage = collections.namedtuple("Stage", "carry_out needs")  # those before it that it builds on
STAGES = {function.__name__: Stage(function, needs.split()) for function, needs in (
    (corpus.data, ""),
    (corpus.tokenizer, "data"),
    (pretrain.parent, "tokenizer"),
    (pretrain.prune, "parent"),
    (pretrain.core, "prune"),
    (pretrain.continued, "core"),
    (pretrain.lengthening, "continued"),
    (demonstrations.demonstrations, "lengthening"),
    (sft.draft, "demonstrations"),
    (synthetic.synthetic, "draft"),
    (sft.mixture, "synthetic"),
    (sft.sft, "mixture"))}
ROUNDS = 2  # of alignment
for n in range(1, ROUNDS + 1):
    STAGES |= {f"{function.__name__}{n}": Stage(functools.partial(function, n), needs.split())
               for function, needs in (
                   (reward.preferences, f"committee{n - 1}" if n > 1 else "sft"),
                   (reward.reward, f"preferences{n}"),
                   (align.mdloo, f"reward{n}"),  # the longest begins, see carry_out_all
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
    """Setting -> value of one stage: its default, or what `given` says of "stage.setting"."""
    parameters = inspect.signature(STAGES[stage].carry_out).parameters.values()
    return {p.name: dict(given).get(f"{stage}.{p.name}", p.default)
            for p in parameters if p.kind is p.KEYWORD_ONLY}


def value_of(text):
    """'20' -> 20, 'CORE' -> the mixture of this name in corpus.py, 'any other' -> itself."""
    try:
        return vars(corpus)[text] if text.isupper() else ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError):
        return text


def parse_setting(text, model):
    """'core.steps=20' -> ('core.steps', 20). model: the config's fields, with their defaults.

    Raises UserError if there is no such setting, or the value is not like the default."""
    name, equals, value = text.partition("=")
    section, _, key = name.partition(".")
    known = {"model": dict(model)} | {stage: settings_of(stage) for stage in STAGES}
    if not equals or key not in known.get(section, {}):
        names = ", ".join(f"{part}.{setting}" for part in known for setting in known[part])
        raise UserError(f"--set {text}: it must be NAME=VALUE, with one of the names {names}")
    default = known[section][key]
    value = value if isinstance(default, str) else value_of(value)
    value = float(value) if type(default) is float and type(value) is int else value
    least = {int: 1, float: 0}.get(type(default))
    if type(value) is not type(default) or least is not None and not least <= value < math.inf:
        raise UserError(f"--set {text}: {name} takes a value like {default!r}"
                        + ("" if least is None else f", at least {least}"))
    return name, value


def with_needs(stages):
    """["core"] -> data, tokenizer, parent, prune, core: in the order of the table."""
    wanted = set(stages)
    for stage in reversed(STAGES):
        wanted.update(STAGES[stage].needs if stage in wanted else ())
    return [stage for stage in STAGES if stage in wanted]


def made_of(report, stage, settings):
    """What a stage is made of: 8 hex digits, by its settings and the results that it needs."""
    needed = [[name, report[name]["made_of"], report[name]["metrics"]]
              for name in STAGES[stage].needs]
    return hashlib.sha256(json.dumps([settings, needed]).encode()).hexdigest()[:8]


def standing(report):
    """The rows of a report that still hold: what they were made of is what the others are now."""
    rows = {}
    for stage in STAGES:
        if stage in report and rows.keys() >= set(STAGES[stage].needs):
            row = report[stage]
            if row.get("made_of") == made_of(rows, stage, row["settings"]):
                rows[stage] = row
    return rows


def is_done(rows, stage, settings):
    """Whether a report's rows, as from `standing`, have a stage with these settings."""
    return stage in rows and rows[stage]["made_of"] == made_of(rows, stage, settings)


def describe(values):
    """{"steps": 20, "lr": 0.01, "rows": [1, 2]} -> 'steps=20 lr=0.01': without the tables."""
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in values.items() if not isinstance(value, list))


def return_memory():
    """Give back what is free. glibc keeps it, stage for stage more: in the end a gigabyte."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # there are other C libraries
        ctypes.CDLL(None).malloc_trim(0)


def carry_out(run, stage, settings):
    """Do a stage and report it, unless it is done with these settings; what it needs must be."""
    rows = standing(run.read_json("report.json"))
    run.settings, run.made_of = settings, made_of(rows, stage, settings)
    if is_done(rows, stage, settings):
        print(f"{stage}: done before: {describe(rows[stage]['metrics'])}")
        return
    forget(run, stage)
    print(f"{stage}: {describe(settings)}", flush=True)
    begun = time.perf_counter()
    metrics = STAGES[stage].carry_out(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - begun, 1)
    row = {"settings": settings, "made_of": run.made_of, "seconds": seconds, "metrics": metrics}
    with run.locked():
        run.write_json("report.json", run.read_json("report.json") | {stage: row})
    for path in [run.partial(stage), *run.path.glob(f"{stage}-*.pt")]:  # to go on from
        path.unlink(missing_ok=True)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def forget(run, stage):
    """Drop a stage's row before its files are written anew: so a row is always of what is there."""
    with run.locked():
        report = run.read_json("report.json")
        report.pop(stage, None)
        run.write_json("report.json", report)  # changed or not: to write is to wait for the others


def groups(stages):
    """Cut a list of stages where one needs another of its group: a group may run side by side.

    ["reward1", "rs1", "dpo1", "committee1"] -> [["reward1"], ["rs1", "dpo1"], ["committee1"]]"""
    cut = []
    for stage in stages:
        if cut and not set(STAGES[stage].needs) & set(cut[-1]):
            cut[-1].append(stage)
        else:
            cut.append([stage])
    return cut


def carry_out_all(run, settings, jobs=1):
    """Carry out stages in order: settings has those of each. Of stages that do not need each other
    `jobs` run side by side, each in a process that has its share of the cores.

    Two threads are 1.6 times as fast as one at matrices as small as the toy's, so two stages with
    one thread each are done sooner than one after the other with two."""
    with contextlib.ExitStack() as stack:
        pool = None
        for group in groups(settings):
            rows = standing(run.read_json("report.json"))
            done = [stage for stage in group if is_done(rows, stage, settings[stage])]
            todo = [stage for stage in group if stage not in done]
            for stage in group if len(todo) == 1 or jobs == 1 else done:
                carry_out(run, stage, settings[stage])
            if len(todo) < 2 or jobs == 1:
                continue
            if pool is None:
                context = multiprocessing.get_context("spawn")  # forked, PyTorch's threads may hang
                pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(
                    jobs, context, start_job, [max(1, torch.get_num_threads() // jobs)]))
            try:
                started = [pool.submit(carry_out, run, stage, settings[stage]) for stage in todo]
                for ended in concurrent.futures.as_completed(started):
                    ended.result()
            except BaseException as error:  # end the others: they go on from their checkpoints
                for process in multiprocessing.active_children():
                    process.terminate()
                if isinstance(error, concurrent.futures.process.BrokenProcessPool):
                    raise UserError(f"a process of the stages {', '.join(todo)} ended "
                                    "early, perhaps for want of memory: call again with --resume "
                                    "--jobs 1") from None
                raise


def start_job(threads):
    """Prepare a process of `carry_out_all`: its threads, and plain lines instead of a progress line
    that two would write over."""
    distributed.end_with_parent()
    torch.set_num_threads(threads)
    trainer.Progress.plain = True
