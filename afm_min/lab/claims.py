"""Test the claims of the AFM report as experiments: make claims.

A claim compares a treatment with a control. The two arms differ only in the settings named: both
start from the same parent checkpoint, and with the same seed they draw the same text. The interval
is a bootstrap over the seeds' differences. With few seeds it is coarse: if it excludes zero, the
seeds agree on the sign, and little more is known.

Each stage of an arm is a run directory of its own, with hard links to the results that it builds
on. So finished stages survive a kill, and a stage that several claims need is trained once.
"""
import argparse
import os
import typing

import numpy

from afm_min.data import corpus
from afm_min.lab.report import table, table_row, write_report
from afm_min.lab.runner import run_stage
from afm_min.lab.stages import STAGES, fingerprint, format_value, needs_of, settings_of
from afm_min.model import Config
from afm_min.run import Run, UserError, choose_device, run_command, write_text


class Claim(typing.NamedTuple):
    """The claim: after `stage`, `metric` is better with settings `treatment` than `control`."""
    claim: str
    stage: str
    metric: str
    treatment: dict = {}  # settings that replace the run's own, {"stage.setting": value}
    control: dict = {}  # the same for the control
    control_stage: str = ""  # the control's stage, or "" if it is the same


COLUMNS = "claim, after, metric, treatment, control, difference, 95% interval, verdict"
LOWER_IS_BETTER = {"math bits/byte", "code bits/byte"}  # of all other metrics, higher is better
PRUNED = {"core.start": "prune", "core.distill": 0.0}
SCRATCH = {"core.start": "scratch", "core.distill": 0.0}
DISTILLED = {"core.distill": 0.9}
NOISE = {"preferences1.noise": 0.4}  # share of grades that are random
# The reward is whether the final answer is right, so no error of a reward model plays a part.
CHECKER = {"mdloo1.lr": 0.0003, "mdloo1.rewarded": "checker"}
CLAIMS = [
    Claim("a pruned start helps", "continued", "accuracy %", treatment=PRUNED, control=SCRATCH),
    Claim("distillation helps from scratch", "continued", "accuracy %",
          treatment=SCRATCH | DISTILLED, control=SCRATCH),
    Claim("distillation helps after pruning", "continued", "accuracy %",
          treatment=PRUNED | DISTILLED, control=PRUNED),
    Claim("training on longer text helps recall", "lengthening", "recall at 4x %",
          control={"lengthening.steps": 1}),
    Claim("a larger RoPE base helps recall", "lengthening", "recall at 4x %",
          control={"lengthening.rope_base": 500_000.0}),
    Claim("soft labels beat hard ones where grades are noisy", "reward1", "all pairs %",
          treatment=NOISE, control=NOISE | {"reward1.labels": "hard"}),
    Claim("a loss on grades helps where they are noisy", "reward1", "all pairs %",
          treatment=NOISE, control=NOISE | {"reward1.grade_weight": 0.0}),
    Claim("MDLOO beats PPO", "mdloo1", "all math %", treatment=CHECKER,
          control=CHECKER | {"mdloo1.loss": "ppo"}),
    Claim("MDLOO beats REINFORCE with a mean baseline", "mdloo1", "all math %", treatment=CHECKER,
          control=CHECKER | {"mdloo1.loss": "reinforce", "mdloo1.baseline": "mean"}),
    # Five members give 2 samples each, MDLOO alone 10.
    Claim("the best member for each prompt beats MDLOO alone", "committee1", "mean %",
          control={"committee1.only": "mdloo1", "committee1.samples": 10}),
    Claim("distillation from 8,000 prompts beats 500", "committee1", "mean %",
          treatment={"committee1.prompts": 8000}, control={"committee1.prompts": 500}),
    Claim("a round of alignment helps", "evaluation", "mean %",
          treatment={"evaluation.aligned": "committee1"}, control={"evaluation.aligned": "sft"}),
    Claim("two rounds beat one", "evaluation", "mean %",
          control={"evaluation.aligned": "committee1"}),
    Claim("2 bits by sensitivity beat 2 bits at random", "quantize", "mean %",
          treatment={"quantize.average": 3.0},
          control={"quantize.average": 3.0, "quantize.choice": "random"}),
    Claim("rank 16 recovers more than rank 8", "recovery", "mean %",
          treatment={"quantize.average": 2.0, "recovery.rank": 16},
          control={"quantize.average": 2.0, "recovery.rank": 8})]
for method in ("magnitude", "random"):
    CLAIMS.append(Claim(f"a learned mask beats {method} pruning", "prune", "accuracy %",
                        control={"prune.method": method}))
for source in ("math", "code"):
    CLAIMS.append(Claim(f"the continued mixture helps {source}", "continued", f"{source} bits/byte",
                        control={"continued.mixture": corpus.CORE}))
for kind in ("rephrased", "reversed", "deeper", "broader"):
    CLAIMS.append(Claim(f"synthetic data helps math {kind}", "sft", f"math {kind} %",
                        control={"sft.synthetic": False}))
for method in ("rs", "dpo", "ipo", "mdloo"):  # control: MDLOO of no iterations is sft, evaluated
    for family in ("all math", "follow", "summary"):
        CLAIMS.append(Claim(f"{method.upper()} helps {family}", f"{method}1", f"{family} %",
                            control={"mdloo1.iterations": 0}, control_stage="mdloo1"))
for bits in (4.0, 3.7, 3.5, 2.0):
    CLAIMS.append(Claim(f"recovery helps at {bits} bits", "recovery", "mean %",
                        treatment={"quantize.average": bits}, control={"quantize.average": bits},
                        control_stage="quantize"))
for feature, family in {"math": "all math", "tools": "tools", "summary": "summary"}.items():
    CLAIMS.append(Claim(f"an adapter for {feature} helps", feature, f"{family} %",
                        control_stage="recovery"))

CLAIMS.sort(key=lambda claim: list(STAGES).index(claim.stage))
# Files that each run writes itself. All others are linked from the runs it builds on.
OWN_FILES = ("metrics.jsonl", "report.*", "run.json", "environment.json", "claims.md", "*.png",
             "*.part.pt", ".*lock")


def run_arm(base, seed, stage, settings):
    """Run a stage, and before it the stages it needs, with these settings. Returns its run.

    `base` holds the stages data, tokenizer and parent, which all arms share. Each later stage has a
    run of its own. Its name contains a hash of its settings and inputs, so claims that need the
    same stage find it there."""
    if stage in ("data", "tokenizer", "parent"):
        return base
    values, rows = settings_of(stage, settings), {}
    sources = [run_arm(base, seed, need, settings) for need in needs_of(stage, values)]
    for source in sources:
        rows |= source.read_json("report.json")
    run = Run(base.path / f"{stage}-{seed}-{fingerprint(rows, stage, values)}", base.device)
    run.config, run.seed = base.config, seed
    run.create()
    run.write_json("report.json", rows | run.read_json("report.json"))  # keep its own row, if any
    for source in sources:
        for path in source.path.iterdir():
            shared = path.is_file() and not any(map(path.match, OWN_FILES))
            if shared and not run.file(path.name).exists():
                os.link(path, run.file(path.name))
    run_stage(run, stage, values)
    return run


def arm_metrics(base, seeds, stage, settings, metric):
    """Return a metric of a stage with each seed, as a list."""
    runs = [run_arm(base, seed, stage, settings) for seed in range(seeds)]
    return [run.read_json("report.json")[stage]["metrics"][metric] for run in runs]


def bootstrap_interval(differences, level=0.95, draws=10_000):
    """Return the interval of the mean when the seeds are resampled: [1, 2, 6] -> (1, 6)."""
    rng = numpy.random.default_rng(0)
    means = rng.choice(differences, (draws, len(differences))).mean(axis=1)
    return tuple(numpy.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist())


def claim_row(claim, treatments, controls):
    """Return a claim's row of the table. treatments, controls: the metric with each seed."""
    differences = numpy.subtract(treatments, controls)
    low, high = bootstrap_interval(differences)
    better, worse = low > 0, high < 0
    if claim.metric in LOWER_IS_BETTER:
        better, worse = worse, better
    verdict = "supported" if better else "contradicted" if worse else "inconclusive"
    means = [numpy.mean(values).item() for values in (treatments, controls, differences)]
    interval = f"{format_value(low)} to {format_value(high)}"
    return [claim.claim, claim.stage, claim.metric, *means, interval, verdict]


def write_claims(base, claims, seeds, settings):
    """Run the arms of each claim, and write its row of the table when both are done."""
    rows = []
    for claim in claims:
        treatments = arm_metrics(base, seeds, claim.stage, settings | claim.treatment, claim.metric)
        controls = arm_metrics(base, seeds, claim.control_stage or claim.stage,
                               settings | claim.control, claim.metric)
        rows.append(claim_row(claim, treatments, controls))
        write_text(base.file("claims.md"), (
            f"## Claims\n\nMeans over {seeds} seeds. A claim is supported or contradicted where "
            f"the interval of the difference excludes zero.\n\n{table(COLUMNS, rows)}"))
        print(table_row(rows[-1]), flush=True)


def run_claims(arguments):
    """Test the claims whose text contains --only, in a run that has a parent checkpoint."""
    base = Run(arguments.run, choose_device(arguments.device))
    if "parent" not in base.read_json("report.json") or not base.checkpoint("parent").exists():
        raise UserError(f"{base.path} has no parent: python train.py --out {base.path} --until "
                        "parent trains one")
    if arguments.seeds < 2:
        raise UserError(f"--seeds {arguments.seeds}: an interval takes two or more")
    claims = [claim for claim in CLAIMS if arguments.only in claim.claim]
    if not claims:
        raise UserError(f"--only {arguments.only}: no claim contains this text")
    options = base.read_json("run.json")
    base.config = Config(**{name.removeprefix("model."): value for name, value in options.items()
                            if name.startswith("model.")})
    with base.reserved():  # no other process may train the same arms
        write_claims(base, claims, arguments.seeds, options["set"])
        write_report(base)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/claims",
        help="run with the parent checkpoint; the arms go there too (default: %(default)s)")
    add("--seeds", metavar="N", type=int, default=3, help="(default: %(default)s)")
    add("--only", metavar="TEXT", default="", help="only claims that contain this text")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best available)")
    run_command(run_claims, parser.parse_args())


if __name__ == "__main__":
    main()
