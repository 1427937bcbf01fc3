"""The table of stages in order, their settings, and how one is carried out and reported.

Each stage is a function of a run; its keyword arguments, with their defaults, are its settings.
"""
import functools
import inspect
import time

from afm_min import (align, corpus, demonstrations, evaluate, ondevice, pretrain, reward, sft,
                     synthetic)

STAGES = {"data": corpus.data, "tokenizer": corpus.tokenizer, "parent": pretrain.parent,
          "prune": pretrain.prune, "core": pretrain.core, "continued": pretrain.continued,
          "lengthening": pretrain.lengthening, "demonstrations": demonstrations.demonstrations,
          "draft": sft.draft, "synthetic": synthetic.synthetic, "mixture": sft.mixture,
          "sft": sft.sft}
ROUNDS = 2
for number in range(1, ROUNDS + 1):
    for stage in (reward.preferences, reward.reward, align.rs, align.dpo, align.ipo, align.mdloo,
                  align.committee):
        STAGES[f"{stage.__name__}{number}"] = functools.partial(stage, number)
STAGES |= {"quantize": ondevice.quantize, "recovery": ondevice.recovery}
STAGES |= {name: functools.partial(ondevice.feature, name) for name in ondevice.FEATURES}
STAGES["evaluation"] = evaluate.evaluation


def settings_of(stage, given=()):
    """Setting -> value of one stage: its default, or what `given` says of "stage.setting"."""
    parameters = inspect.signature(STAGES[stage]).parameters.values()
    return {p.name: dict(given).get(f"{stage}.{p.name}", p.default)
            for p in parameters if p.kind is p.KEYWORD_ONLY}


def describe(values):
    """{"steps": 20, "lr": 0.01, "rows": [1, 2]} -> 'steps=20 lr=0.01': without the tables."""
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in values.items() if not isinstance(value, list))


def carry_out(run, stage, settings):
    """Do a stage, unless its row in report.json says that it is done. Returns its metrics."""
    report = run.read_json("report.json")
    if stage in report:
        print(f"{stage}: done before: {describe(report[stage]['metrics'])}")
        return report[stage]["metrics"]
    run.settings = settings
    print(f"{stage}: {describe(settings)}", flush=True)
    begun = time.perf_counter()
    metrics = STAGES[stage](run, **settings)
    seconds = round(time.perf_counter() - begun, 1)
    row = {"settings": settings, "seconds": seconds, "metrics": metrics}
    run.write_json("report.json", report | {stage: row})
    for path in [run.partial(stage), *run.path.glob(f"{stage}-*.pt")]:  # what it went on from
        path.unlink(missing_ok=True)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)
    return metrics
