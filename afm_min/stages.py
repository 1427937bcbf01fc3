"""The table of stages in order, their settings, and how one is carried out and reported.

Each stage is a function of a run; its keyword arguments, with their defaults, are its settings. It
is done if report.json has a row for it that was made with these settings, from the results that
those it needs have now: so a changed setting makes anew what depends on it, and nothing else.
"""
import ast
import collections
import contextlib
import ctypes
import functools
import gc
import hashlib
import inspect
import json
import math
import time

from afm_min import (align, corpus, demonstrations, evaluate, ondevice, pretrain, reward, sft,
                     synthetic)
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
                   (align.rs, f"reward{n}"),
                   (align.dpo, f"preferences{n}"),
                   (align.ipo, f"preferences{n}"),
                   (align.mdloo, f"reward{n}"),
                   (align.committee, f"rs{n} dpo{n} ipo{n} mdloo{n}"))}
STAGES |= {"quantize": Stage(ondevice.quantize, [f"committee{ROUNDS}"]),
           "recovery": Stage(ondevice.recovery, ["quantize"])}
STAGES |= {name: Stage(functools.partial(ondevice.feature, name), ["recovery"])
           for name in ondevice.FEATURES}
STAGES["evaluation"] = Stage(evaluate.evaluation, ["recovery"])


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
    if stage in rows and rows[stage]["made_of"] == run.made_of:
        print(f"{stage}: done before: {describe(rows[stage]['metrics'])}")
        return
    forget(run, stage)
    print(f"{stage}: {describe(settings)}", flush=True)
    begun = time.perf_counter()
    metrics = STAGES[stage].carry_out(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - begun, 1)
    row = {"settings": settings, "made_of": run.made_of, "seconds": seconds, "metrics": metrics}
    run.write_json("report.json", run.read_json("report.json") | {stage: row})
    for path in [run.partial(stage), *run.path.glob(f"{stage}-*.pt")]:  # to go on from
        path.unlink(missing_ok=True)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def forget(run, stage):
    """Drop a stage's row before its files are written anew: so a row is always of what is there."""
    report = run.read_json("report.json")
    report.pop(stage, None)
    run.write_json("report.json", report)  # changed or not: to write is to wait for the others
