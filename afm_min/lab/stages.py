"""The table of stages in order, their settings, and which results are up to date. runner.py runs
the stages.

A stage is a function of a run. Its keyword-only arguments, with their defaults, are its settings.
A finished stage is skipped unless its settings, inputs or source code changed: report.json has a
row for each stage, with a fingerprint of all three.
"""
import ast
import collections
import contextlib
import hashlib
import inspect
import json
import sys
from functools import partial

from afm_min import align, evaluate, ondevice, pretrain, reward, sft, synthetic
from afm_min.data import corpus
from afm_min.lab.settings import LARGEST, ROUNDS, problem
from afm_min.lab.source import source_hash
from afm_min.run import UserError

# A stage, and the stages whose results it uses: a list, or a function of the stage's settings.
Stage = collections.namedtuple("Stage", "function needs")


def core_needs(settings):
    start = "tokenizer" if settings["start"] == "scratch" else settings["start"]
    return [start, "teacher"] if settings["distill"] else [start]


def evaluation_needs(settings):
    return ["recovery"] if settings["packed"] else [f"best{ROUNDS}"]


STAGES = {
    "data": Stage(corpus.data, []),
    "tokenizer": Stage(corpus.tokenizer, ["data"]),
    "parent": Stage(pretrain.parent, ["tokenizer"]),
    "prune": Stage(pretrain.prune, ["parent"]),
    "teacher": Stage(pretrain.teacher, ["parent"]),
    "core": Stage(pretrain.core, core_needs),
    "continued": Stage(pretrain.continued, lambda settings: (
        ["core", "teacher"] if settings["distill"] else ["core"])),
    "lengthening": Stage(pretrain.lengthening, ["continued"]),
    "demonstrations": Stage(sft.demonstrations, ["lengthening"]),
    "draft": Stage(sft.draft, ["demonstrations"]),
    "synthetic": Stage(synthetic.synthetic, ["draft"]),
    "mixture": Stage(sft.mixture, ["synthetic"]),
    "sft": Stage(sft.sft, ["mixture"])}
# Each round of alignment starts from the model of the round before.
for n in range(1, ROUNDS + 1):
    STAGES |= {
        f"preferences{n}": Stage(partial(reward.preferences, n),
                                 ["sft" if n == 1 else f"best{n - 1}"]),
        f"reward{n}": Stage(partial(reward.reward, n), [f"preferences{n}"]),
        # mdloo takes longest of the four below, so it starts first when they run side by side.
        f"mdloo{n}": Stage(partial(align.mdloo, n), [f"reward{n}"]),
        f"rs{n}": Stage(partial(align.rs, n), [f"reward{n}"]),
        f"dpo{n}": Stage(partial(align.dpo, n), [f"preferences{n}"]),
        f"ipo{n}": Stage(partial(align.ipo, n), [f"preferences{n}"]),
        f"committee{n}": Stage(partial(align.committee, n),
                               [f"rs{n}", f"dpo{n}", f"ipo{n}", f"mdloo{n}"]),
        f"best{n}": Stage(partial(align.best, n), [f"committee{n}"])}
STAGES |= {"quantize": Stage(ondevice.quantize, [f"best{ROUNDS}"]),
           "recovery": Stage(ondevice.recovery, ["quantize"]),
           "evaluation": Stage(evaluate.evaluation, evaluation_needs)}
for name in ondevice.FEATURES:
    STAGES[name] = Stage(partial(ondevice.feature, name), ["recovery"])


def settings_of(stage, values=None):
    """Return {setting: value} of a stage: values["stage.setting"] if present, else the default."""
    values = values or {}
    parameters = inspect.signature(STAGES[stage].function).parameters.values()
    return {p.name: values.get(f"{stage}.{p.name}", p.default)
            for p in parameters if p.kind is p.KEYWORD_ONLY}


def needs_of(stage, settings):
    """Return the stages whose results a stage uses with these settings.

    ("core", {"start": "scratch", "distill": 0.0, ...}) -> ["tokenizer"]"""
    needs = STAGES[stage].needs
    return needs(settings) if callable(needs) else needs


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


def with_needs(stages, values=None):
    """Return stages and all that they need, in the order of the table. values: see `settings_of`.

    ["prune"] -> ["data", "tokenizer", "parent", "prune"]"""
    wanted = set(stages)
    for stage in reversed(STAGES):  # a stage only needs stages above it
        if stage in wanted:
            wanted.update(needs_of(stage, settings_of(stage, values)))
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
              for name in needs_of(stage, settings)]
    return hashlib.sha256(json.dumps([settings, needed, code]).encode()).hexdigest()[:8]


def up_to_date(report):
    """Return the rows of a report whose fingerprints still match: {stage: row}.

    A row is out of date, too, if that of a stage that it needs is missing or out of date."""
    rows = {}
    for stage in STAGES:
        row = report.get(stage)
        if row and rows.keys() >= set(needs_of(stage, settings_of(stage) | row["settings"])):
            if row.get("fingerprint") == fingerprint(rows, stage, row["settings"]):
                rows[stage] = row
    return rows


def is_up_to_date(rows, stage, settings):
    """Return whether rows, as from `up_to_date`, have a stage with these settings."""
    if stage not in rows or not rows.keys() >= set(needs_of(stage, settings)):
        return False
    return rows[stage]["fingerprint"] == fingerprint(rows, stage, settings)


def warn_if_stale(run, *stages):
    """Print a line on standard error for each of these stages whose checkpoint is stale: settings,
    inputs or code have changed since it was made, or its training has not been finished."""
    rows, values = up_to_date(run.read_json("report.json")), run.read_json("run.json").get("set")
    if values is None:  # an arm of claims.py has no run.json
        values = {f"{name}.{key}": value for name, row in rows.items()
                  for key, value in row["settings"].items()}
    for stage in stages:
        for name in with_needs([stage], values):
            if not is_up_to_date(rows, name, settings_of(name, values)):
                print(f"warning: {run.checkpoint(stage)} is out of date, as settings, inputs or "
                      f"code of the stage {name} have changed: train.py --out {run.path} --resume "
                      "makes it anew", file=sys.stderr)
                break


def format_value(value):
    """Format a number or word for people: 0.51234 -> '0.5123', 12345.6 -> '12,346'."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
