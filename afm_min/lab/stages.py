"""The table of stages, their settings, and which results are up to date. runner.py runs stages.

A stage is a function of a run. Its keyword-only arguments, with their defaults, are its settings.
A finished stage is skipped unless its settings, its source code, or the results of the stages that
it needs have changed: its row in report.json has a fingerprint of all three. Files outside the run
are not compared: after editing those of --data, use --again data.

    settings      of one stage, {"steps": 800, ...}
    all_settings  {stage: its settings}, in the order of the table
    values        what the user changed, {"core.steps": 2000}
"""
import ast
import collections
import contextlib
import difflib
import hashlib
import inspect
import json
import sys
from functools import partial

from afm_min import align, evaluate, lookup, ondevice, pretrain, reward, sft, synthetic
from afm_min.data import corpus
from afm_min.lab.packages import python_command
from afm_min.lab.settings import LARGEST, ROUNDS, meaning, problem
from afm_min.lab.source import source_hash
from afm_min.run import UserError

# needs: the stages whose results a stage uses, a list or a function of its settings. seconds: its
# time in a default run on two cores, minus half of the time side by side with another stage.
Stage = collections.namedtuple("Stage", "function needs seconds")


def core_needs(settings):
    """Return the needs of core: the stage that it starts from, and the teacher if it distills."""
    start = "tokenizer" if settings["start"] == "scratch" else settings["start"]
    return [start, "teacher"] if settings["distill"] else [start]


# A stage needs only stages above it.
STAGES = {
    "data": Stage(corpus.data, [], 29),
    "tokenizer": Stage(corpus.tokenizer, ["data"], 2),
    "lookup": Stage(lookup.lookup, ["tokenizer"], 113),
    "parent": Stage(pretrain.parent, ["lookup"], 53),
    "prune": Stage(pretrain.prune, ["parent"], 9),
    "teacher": Stage(pretrain.teacher, ["parent"], 118),
    "core": Stage(pretrain.core, core_needs, 68),
    "continued": Stage(pretrain.continued, lambda settings: (
        ["core", "teacher"] if settings["distill"] else ["core"]), 10),
    "lengthening": Stage(pretrain.lengthening, ["continued"], 11),
    "demonstrations": Stage(sft.demonstrations, ["lengthening"], 64),
    "draft": Stage(sft.draft, ["demonstrations"], 341),
    "synthetic": Stage(synthetic.synthetic, ["draft"], 21),
    "mixture": Stage(sft.mixture, ["synthetic"], 45),
    "sft": Stage(sft.sft, ["mixture"], 30)}
# Each round of alignment starts from the model of the round before.
for n in range(1, ROUNDS + 1):
    STAGES |= {
        f"preferences{n}": Stage(partial(reward.preferences, n),
                                 [reward.starting_stage(n)], 50),
        f"reward{n}": Stage(partial(reward.reward, n), [f"preferences{n}"], 63),
        # mdloo takes longest of the four below, so it starts first when they run side by side.
        f"mdloo{n}": Stage(partial(align.mdloo, n), [f"reward{n}"], 75),
        f"rs{n}": Stage(partial(align.rs, n), [f"reward{n}"], 20),
        f"dpo{n}": Stage(partial(align.dpo, n), [f"preferences{n}"], 23),
        f"ipo{n}": Stage(partial(align.ipo, n), [f"preferences{n}"], 23),
        f"committee{n}": Stage(partial(align.committee, n),
                               [f"rs{n}", f"dpo{n}", f"ipo{n}", f"mdloo{n}"], 41),
        f"best{n}": Stage(partial(align.best, n), [f"committee{n}"], 30)}
STAGES |= {"quantize": Stage(ondevice.quantize, [f"best{ROUNDS}"], 13),
           "recovery": Stage(ondevice.recovery, ["quantize"], 49),
           "evaluation": Stage(evaluate.evaluation, lambda settings: (
               ["recovery"] if settings["packed"] else [f"best{ROUNDS}"]), 91)}
for name in ondevice.FEATURES:
    STAGES[name] = Stage(partial(ondevice.feature, name), ["recovery"], 13)

# The stages that make the quantized model or an adapter of it.
ON_DEVICE = ["quantize", "recovery", *ondevice.FEATURES]

# A stage's main metric: its entry in MAIN_OF, else the first name in MAIN that it reports, else the
# first metric that it reports.
MAIN_OF = {"math": "all math %", "tools": "tools %", "summary": "summary %"}
MAIN = ["all pairs %", "mean %", "recall at 4x %", "bits/byte", "labels right %", "examples",
        "characters per token"]
# stage -> the stage that its metrics are compared with; by default that of its setting `start`.
BEFORE = {"prune": "parent", "teacher": "parent", "continued": "core", "sft": "draft",
          "recovery": "quantize",
          **{f"{method}{n}": reward.starting_stage(n) for n in range(1, ROUNDS + 1)
             for method in ("mdloo", "rs", "dpo", "ipo", "committee", "best")}}


def function_of(stage):
    """Return the function of a stage. For rounds and features, unwrap the partial call."""
    return getattr(STAGES[stage].function, "func", STAGES[stage].function)


def settings_of(stage, values=None):
    """Return {setting: value} of a stage: values["stage.setting"] if present, else the default."""
    defaults = function_of(stage).__kwdefaults__ or {}
    return {name: (values or {}).get(f"{stage}.{name}", default)
            for name, default in defaults.items()}


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
    if name not in defaults:
        similar = difflib.get_close_matches(name, defaults, cutoff=0)  # always three names
        raise UserError(f"--set {text}: there is no setting {name!r}; similar names are "
                        f"{', '.join(similar)}; --list shows all")
    if not equals:
        raise UserError(f"--set {text}: expected a value, such as {name}={defaults[name]}")
    default = defaults[name]
    if not isinstance(default, str):
        # What is not a Python literal stays a string, which `problem` refuses below.
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    if type(default) is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)  # a larger integer could overflow, and is refused below
    if wrong := problem(name, value, default):
        raise UserError(f"--set {text}: {name} {wrong}")
    return name, value


def explain(stage, settings, whole):
    """Return a stage's docstring or only its first sentence, then a line for each setting: its
    value and its meaning. The stage "model" has the settings of the model's shape."""
    doc = (inspect.getdoc(function_of(stage)) if stage in STAGES
           else "Shape of the model, which a run keeps.")
    text = f"{stage}: {doc}\n" if whole else f"{stage}: {' '.join(doc.partition('.')[0].split())}."
    lines = [f"    {f'{stage}.{name}={value}':36} {meaning(f'{stage}.{name}')}"
             for name, value in settings.items()]
    return "\n".join([text, *lines])


def with_needs(stages, values=None):
    """Return {stage: its settings} for these stages and all that they need, in the table's order:
    ["prune"] -> the settings of data, tokenizer, parent and prune. values: see `settings_of`.

    Without stages, return those of a whole run. With evaluation.packed=False, it ends with
    evaluation: without quantize, recovery and the features."""
    whole_run = STAGES if settings_of("evaluation", values)["packed"] else ["evaluation"]
    wanted = set(stages or whole_run)
    for stage in reversed(STAGES):
        if stage in wanted:
            wanted.update(needs_of(stage, settings_of(stage, values)))
    return {stage: settings_of(stage, values) for stage in STAGES if stage in wanted}


def models_of(run):
    """Return the stages whose language models the run has, in the table's order.

    Reward models, quantized models and adapters do not count."""
    return [name for name in STAGES if run.checkpoint(name).exists()
            and name not in ON_DEVICE and not name.startswith("reward")]


def model_option(stage):
    """Return the option of sample.py that loads a stage: "sft" -> "stage sft", "math" -> "adapter
    math". The quantized model without an adapter is "adapter none"."""
    if stage in ON_DEVICE:
        return f"adapter {'none' if stage == 'quantize' else stage}"
    return f"stage {stage}"


def choose_model(run, stage=None):
    """Return `stage` if the run has its language model, or for None or "last", the last stage in
    the table that has one.

    Raises UserError if the run has no model, or none of `stage`."""
    stage, trained = None if stage == "last" else stage, models_of(run)
    if stage in ON_DEVICE:
        raise UserError(f"--stage {stage}: this stage makes "
                        f"{'the quantized model' if stage == 'quantize' else 'an adapter'}: use "
                        f"--{model_option(stage)}, or /{model_option(stage)} in a session")
    if not trained:
        raise UserError(f"{run.path} has no model: {python_command()} train.py --out {run.path} "
                        "trains one")
    if stage and stage not in trained:
        raise UserError(f"--stage {stage}: {run.path} has models of {', '.join(trained)}")
    return stage or trained[-1]


def fingerprint(rows, stage, settings):
    """Return a hash, 8 hex digits, of a stage's settings, the rows of its needs, and its code.

    rows: {stage: row} as in report.json. The code is that of the stage's module and of all modules
    that it imports. So an edited stage runs again, and so do the stages that need it."""
    code = source_hash(function_of(stage).__module__)
    needed = [[name, rows[name]["fingerprint"], rows[name]["metrics"]]
              for name in needs_of(stage, settings)]
    return hashlib.sha256(json.dumps([settings, needed, code]).encode()).hexdigest()[:8]


def reasons_to_run(report, all_settings):
    """Return {stage: why it has to run}, for those stages that are not up to date.

    report: {stage: row} as in report.json."""
    reasons = {}
    for stage, settings in all_settings.items():
        # An old report may lack settings that were added since: take their defaults.
        stale = [name for name in needs_of(stage, settings_of(stage) | settings)
                 if name in reasons or name not in report]
        if stage not in report:
            reasons[stage] = "no result yet"
        elif report[stage]["settings"] != settings:
            reasons[stage] = "settings changed"
        elif stale:
            reasons[stage] = f"needs {', '.join(stale)}"
        elif report[stage].get("fingerprint") != fingerprint(report, stage, settings):
            reasons[stage] = "inputs or code changed"
    return reasons


def lost_files(run, report):
    """Return {stage: a file of it that the run no longer has}, for those that have lost one. A row
    lists the files that are named after its stage, such as sft.pt."""
    lost = {}
    for stage, row in report.items():
        missing = [name for name in row.get("files", []) if not run.file(name).exists()]
        if missing:
            lost[stage] = missing[0]
    return lost


def up_to_date(report):
    """Return {stage: row} of a report, without the rows whose inputs or code have changed."""
    all_settings = {stage: report[stage]["settings"] for stage in STAGES if stage in report}
    reasons = reasons_to_run(report, all_settings)
    return {stage: report[stage] for stage in all_settings if stage not in reasons}


def warn_if_stale(run, *stages):
    """Print a line on standard error for each of these stages whose checkpoint is stale: settings,
    inputs or code have changed since it was made, or its training has not been finished."""
    report = run.read_json("report.json")
    values = run.read_json("run.json").get("set")
    if values is None:  # an arm of claims.py has no run.json
        values = {f"{name}.{key}": value for name, row in report.items()
                  for key, value in row["settings"].items()}
    for stage in stages:
        for name, reason in reasons_to_run(report, with_needs([stage], values)).items():
            print(f"warning: {run.checkpoint(stage)} is out of date ({name}: {reason}): train it "
                  f"again with {python_command()} train.py --out {run.path} --resume",
                  file=sys.stderr)
            break  # the first stage is enough: the others need it


def warn_if_lost(run, stage):
    """Print a line on standard error if a later stage than this one had a model that is missing."""
    later = list(STAGES)[list(STAGES).index(stage) + 1:]
    lost = [name for name, file in lost_files(run, run.read_json("report.json")).items()
            if name in later and name not in ON_DEVICE and not name.startswith("reward")
            and file == f"{name}.pt"]  # not preferences1.jsonl
    if lost:
        print(f"warning: {run.checkpoint(lost[-1])} is missing, so the model is that of {stage}: "
              f"{python_command()} train.py --out {run.path} --resume trains {lost[-1]} again",
              file=sys.stderr)


def main_metric(stage, report):
    """Return a stage's main metric and its values before and after the stage, "" if unknown:
    ("mean %", 68.3, 71.3). report: the content of report.json."""
    metrics = report[stage]["metrics"]
    names = [name for name, value in metrics.items() if not isinstance(value, list)]  # no tables
    main = next((name for name in [MAIN_OF.get(stage), *MAIN, *names] if name in names), "")
    start = BEFORE.get(stage, report[stage]["settings"].get("start"))
    previous = report[start]["metrics"] if start in report else {}
    before = metrics.get(f"{main} before", previous.get(main, ""))
    return main, before, metrics.get(main, "")


def summary(stage, report):
    """Return a stage's main metric before and after it as text: "mean 68.3 -> 71.3 %"."""
    main, before, after = main_metric(stage, report)
    name, percent, _ = main.partition(" %")  # percent: " %" or ""
    known = [f"{value:.1f}" if percent else format_value(value)
             for value in (before, after) if value != ""]
    return f"{name} {' -> '.join(known)}{percent}".strip()


def format_value(value):
    """Format a number or word for display: 0.51234 -> '0.5123', 12345.6 -> '12,346'."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
