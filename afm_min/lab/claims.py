"""Test the claims of the AFM report as paired experiments over seeds: make claims.

    python -m afm_min.lab.claims --seeds 0,1 --jobs 2      train what is missing for these two seeds
    python -m afm_min.lab.claims --merge                   only write claims.md from all seed*.json
    python -m afm_min.lab.claims --only distillation       claims or sections with this text
    python -m afm_min.lab.claims --null 40 --preset tiny   arms differ by their random draws alone

A claim compares two arms, a treatment and a control. An arm is a stage with the settings of all
stages that it needs. Each seed is trained from raw text on, with its own parent, order of the data
and training tasks; the two arms of a seed share all stages before they differ. Held-out text and
validation tasks are the same for all seeds, so an interval does not cover their choice.

Call it again after a kill: finished stages are kept (see arms.py). The metrics of a seed are in a
file such as seed0.json. To use several machines, give each its own --seeds, then copy all
seed*.json into one folder and call --merge.
"""
import argparse
import itertools
import math
import re
import typing

import numpy

from afm_min import distributed
from afm_min.data import corpus
from afm_min.lab.arms import arm_names, run_seeds
from afm_min.lab.report import table
from afm_min.lab.settings import PRESET_SETTINGS
from afm_min.lab.stages import format_value
from afm_min.model import PRESETS
from afm_min.run import Run, UserError, run_command, write_text

HIGHER, LOWER = 1, -1  # which values of a metric are better


class Claim(typing.NamedTuple):
    """The claim that `metric`, reported by `stage`, is better with settings `treatment` than with
    `control`."""
    section: str
    claim: str
    stage: str
    metric: str
    better: int  # HIGHER or LOWER
    treatment: dict = {}  # settings that replace the preset's, {"stage.setting": value}
    control: dict = {}  # the same for the control
    control_stage: str = ""  # the control's stage, or "" if it is the same
    main: bool = False  # the most important claim of its section
    effect: float = math.inf  # the report's own figure, in points of its benchmarks, if it has one


# Settings of every arm: more validation tasks than by default, and no packing for evaluation.
SETTINGS = {"evaluation.packed": False} | {f"{stage}.count": 400 for stage in (
    "sft", "rs1", "dpo1", "ipo1", "mdloo1", "committee1", "quantize", "recovery", "math")}
NO_TEACHER, SCRATCH = {"core.distill": 0.0}, {"core.start": "scratch"}
PRUNING, MIXTURES = "Pruning and distillation", "Mixtures and longer context"
TUNING, POLICIES = "Fine-tuning and the reward model", "Policies of the first round"
COMMITTEE, DEVICE = "Committee and rounds", "On the device"
CLAIMS = [
    Claim(PRUNING, "distillation helps after pruning", "continued", "accuracy %", HIGHER,
          control=NO_TEACHER, main=True, effect=3.0),
    Claim(PRUNING, "distillation helps from scratch", "continued", "accuracy %", HIGHER,
          SCRATCH, SCRATCH | NO_TEACHER, effect=3.0),
    Claim(PRUNING, "distillation helps in continued, too (the report: no)", "continued",
          "accuracy %", HIGHER, {"continued.distill": 0.9}),
    Claim(PRUNING, "a pruned start beats random weights", "continued", "accuracy %", HIGHER,
          NO_TEACHER, SCRATCH | NO_TEACHER, effect=2.0),
    *[Claim(PRUNING, f"learned pruning beats {method} pruning", "core", "accuracy %", HIGHER,
            control={"prune.method": method}) for method in ("magnitude", "random")],
    Claim(MIXTURES, "continued's mixture helps mathematics", "continued", "math bits/byte", LOWER,
          control={"continued.mixture": corpus.CORE}),
    Claim(MIXTURES, "training on longer text helps recall", "lengthening", "recall at 4x %", HIGHER,
          control={"lengthening.steps": 1}, main=True),
    Claim(MIXTURES, "a larger RoPE base helps recall", "lengthening", "recall at 4x %", HIGHER,
          control={"lengthening.rope_base": 500_000.0}),
    Claim(TUNING, "synthetic data helps mathematics", "sft", "all math %", HIGHER,
          control={"sft.synthetic": False}, main=True),
    Claim(TUNING, "soft labels beat hard ones", "reward1", "log loss", LOWER,
          control={"reward1.labels": "hard"}),
    Claim(TUNING, "the loss on grades helps", "reward1", "all pairs %", HIGHER,
          control={"reward1.grade_weight": 0.0}),
    Claim(TUNING, "reading the likelihood helps (not in the report)", "reward1", "all pairs %",
          HIGHER, control={"reward1.reads": "state"}),
    *[Claim(POLICIES, f"{method.upper()} beats sft, where it starts", f"{method}1", "all math %",
            HIGHER, control_stage="sft", main=method == "mdloo")
      for method in ("mdloo", "rs", "dpo", "ipo")],
    Claim(POLICIES, "MDLOO beats PPO", "mdloo1", "all math %", HIGHER,
          control={"mdloo1.loss": "ppo"}),
    *[Claim(POLICIES, f"leave one out beats the baseline: {baseline}", "mdloo1", "all math %",
            HIGHER, control={"mdloo1.baseline": baseline}) for baseline in ("mean", "none")],
    Claim(COMMITTEE, "a second round helps", "evaluation", "aligned mean %", HIGHER,
          control={"evaluation.aligned": "best1"}, main=True),
    # Five members give 2 samples each, one alone gives 10.
    Claim(COMMITTEE, "choosing among the members beats RS alone", "committee1", "mean %", HIGHER,
          control={"committee1.only": "rs1", "committee1.samples": 10}),
    Claim(COMMITTEE, "the best response beats a random one", "committee1", "mean %", HIGHER,
          control={"committee1.choice": "random"}),
    Claim(COMMITTEE, "8,000 prompts beat 500", "committee1", "mean %", HIGHER,
          {"committee1.prompts": 8000}, {"committee1.prompts": 500}),
    Claim(DEVICE, "post-training lifts the mathematics adapter", "math", "all math %", HIGHER,
          {"math.start": "best2"}, {"math.start": "lengthening"}, main=True),
    *[Claim(DEVICE, f"recovery helps at {bits} bits", "recovery", "mean %", HIGHER,
            {"quantize.average": bits}, {"quantize.average": bits}, "quantize")
      for bits in (4.0, 3.7, 3.5, 2.0)],
    Claim(DEVICE, "2 bits by sensitivity beat 2 bits at random", "quantize", "mean %", HIGHER,
          {"quantize.average": 3.0}, {"quantize.average": 3.0, "quantize.choice": "random"})]


def null_claims(claims, count):
    """Return `count` claims without an effect: in both arms, the claim's stage has the same
    settings and other random draws. Stages that draw next to nothing are left out."""
    claims = [claim for claim in claims if claim.stage not in ("quantize", "evaluation")]
    null = []
    for i, claim in enumerate(itertools.islice(itertools.cycle(claims), count)):
        treatment, control = ({f"{claim.stage}.draw": 2 * i + side} for side in (1, 2))
        null.append(Claim(claim.section, f"null {i + 1}", claim.stage, claim.metric, claim.better,
                          claim.treatment | treatment, claim.treatment | control))
    return null


# Comparisons.

# The 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom. With more, the last is used,
# which is a little too large.
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
COLUMNS = ("claim, after, metric, better, treatment, control, difference, 95% interval, same sign, "
           "verdict")
HEAD = """# Claims of the AFM report, tested on the toy

A difference is the mean over seeds of treatment - control, with a 95% interval by Student's t.
"Same sign" counts the seeds whose difference has the sign of the mean. Shown: the interval is on
the better side of 0; reversed: on the other side. Bold: the main claim of a section. Held-out text
and validation tasks are the same for all seeds, so an interval does not cover their choice.

"""


def half_width(differences):
    """Return half the width of the 95% interval of a mean: [1, 2, 3] -> 4.303 / sqrt(3)."""
    n = len(differences)
    if n == 1:
        return math.inf
    quantile = T_QUANTILES[min(n - 1, len(T_QUANTILES)) - 1]
    return quantile * numpy.std(differences, ddof=1).item() / math.sqrt(n)


def claim_row(claim, treatments, controls):
    """Return a claim's row of the table. treatments, controls: the metric with each seed."""
    differences = numpy.subtract(treatments, controls)
    mean, half = differences.mean().item(), half_width(differences)
    verdict = "not shown"
    if claim.better * mean > half:
        verdict = "shown"
    elif -claim.better * mean > half:
        verdict = "reversed"
    elif half > claim.effect:  # the interval is wider than what it should find
        verdict += f": cannot tell at this size (the report's effect: {claim.effect:g})"
    same_sign = (numpy.sign(differences) == numpy.sign(mean)).sum()
    return [f"**{claim.claim}**" if claim.main else claim.claim, claim.stage, claim.metric,
            "higher" if claim.better == HIGHER else "lower", numpy.mean(treatments).item(),
            numpy.mean(controls).item(), mean,
            f"{format_value(mean - half)} to {format_value(mean + half)}",
            f"{same_sign} of {len(differences)}", verdict]


def arms_of(claim, config, settings):
    """Return two arms of a claim: (name, stage, {"stage.setting": value})."""
    sides = [(claim.stage, settings | claim.treatment),
             (claim.control_stage or claim.stage, settings | claim.control)]
    return [(arm_names(config, stage, values)[stage][0], stage, values) for stage, values in sides]


def claims_text(claims, config, settings, results):
    """Return the tables of the claims for which a seed has both arms. results: {"seed0": {name of
    an arm: its metrics}}. Results of other settings or of older code have other names."""
    sections, dtypes = {}, set()  # sections: {title: rows}
    for claim in claims:
        treatment, control = (name for name, *_ in arms_of(claim, config, settings))
        pairs = [(of_seed[treatment], of_seed[control]) for of_seed in results.values()
                 if treatment in of_seed and control in of_seed]
        if pairs:
            dtypes |= {metrics["computes in"] for pair in pairs for metrics in pair}
            values = [[metrics[claim.metric] for metrics in side] for side in zip(*pairs)]
            sections.setdefault(claim.section, []).append(claim_row(claim, *values))
    rows = sum(sections.values(), [])
    verdicts = [row[-1] for row in rows]
    return (HEAD + "".join(f"## {title}\n\n{table(COLUMNS, of_section)}"
                           for title, of_section in sections.items())
            + f"Of {len(rows)} rows, {verdicts.count('shown')} are shown and "
            f"{verdicts.count('reversed')} reversed. If nothing had an effect, "
            f"{0.025 * len(rows):.1f} would be shown by chance alone, and as many reversed. Files: "
            f"{', '.join(results)}; computed in {', '.join(sorted(dtypes))}.\n")


def run_claims(arguments):
    """Train what the claims lack with these seeds, and write claims.md from all seeds' files."""
    if not re.fullmatch(r"\d+(,\d+)*", arguments.seeds) or arguments.jobs < 1:
        raise UserError(f"--seeds {arguments.seeds} --jobs {arguments.jobs}: expected seeds such "
                        "as 0,1,2 and 1 or more jobs")
    if arguments.preset not in PRESETS:
        raise UserError(f"--preset {arguments.preset}: choose one of {', '.join(PRESETS)}")
    claims = [claim for claim in CLAIMS if arguments.only in f"{claim.section}: {claim.claim}"]
    if arguments.null:
        claims = null_claims(claims, arguments.null)
    if not claims:
        raise UserError(f"--only {arguments.only}: no claim or section with this text to test")
    config, base, errors = PRESETS[arguments.preset], Run(arguments.out), []
    settings = SETTINGS | PRESET_SETTINGS.get(arguments.preset, {})
    arms = [arm for claim in claims for arm in arms_of(claim, config, settings)]
    base.create()
    with base.reserved():  # no other process may train the same arms
        if not arguments.merge:
            seeds = list(dict.fromkeys(map(int, arguments.seeds.split(","))))
            errors = run_seeds(base, config, seeds, arms, arguments.jobs)
        results = {file.stem: base.read_json(file.name) for file in base.path.glob("seed*.json")}
        write_text(base.file("null.md" if arguments.null else "claims.md"),
                   claims_text(claims, config, settings, dict(sorted(results.items()))))
    if errors:
        raise UserError(f"{len(errors)} arms failed, so rows lack seeds: {'; '.join(errors)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/claims", help="folder (default: %(default)s)")
    add("--seeds", metavar="LIST", default="0,1,2,3,4,5", help="(default: %(default)s)")
    add("--jobs", metavar="N", type=int, default=distributed.cores(),
        help="processes of one thread each (default: %(default)s)")
    add("--only", metavar="TEXT", default="", help="claims or sections that contain this text")
    add("--preset", metavar="NAME", default="toy", help="size of the models (default: toy)")
    add("--merge", action="store_true", help="train nothing, only write claims.md")
    add("--null", metavar="N", type=int, default=0, help="test N claims without effect: null.md")
    run_command(run_claims, parser.parse_args())


if __name__ == "__main__":
    main()
