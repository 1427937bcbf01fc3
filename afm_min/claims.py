"""What the AFM report claims, as experiments: make claims.

A claim compares a treatment with a control that differ in the settings named, and in nothing else:
both go on from one parent checkpoint, seed by seed, with the same draws of text. The interval is a
bootstrap over the seeds' differences, so with few seeds it is coarse: clear of zero means little
more than that all of them agree.

Every arm is a run directory of its own that shares what came before: so what is done is kept after
a kill, and arms that several claims need are trained once.
"""
import argparse
import collections
import os

import numpy

from afm_min import corpus, tasks
from afm_min.model import Config
from afm_min.report import line, table
from afm_min.run import Run, UserError, choose_device, run_command, write_text
from afm_min.stages import STAGES, carry_out, made_of, settings_of

# The control is of the same stage, if no other is named.
Claim = collections.namedtuple("Claim", "text stage metric treatment control control_stage",
                               defaults=[None])
LEARNED, LARGEST, RANDOM = ({"prune.method": name} for name in ("learned", "magnitude", "random"))
SCRATCH, PRUNED = {"core.start": "scratch"}, {"core.start": "prune"}
TAUGHT, UNTAUGHT = {"core.distill": 0.9}, {"core.distill": 0.0}
USUAL, CORE_MIXTURE = {}, {"continued.mixture": corpus.CORE}
UNTRAINED, OLD_ROPE = {"lengthening.steps": 1}, {"lengthening.rope_base": 500_000.0}
LONG, IDLE = {"mdloo1.iterations": 100}, {"mdloo1.iterations": 0}  # IDLE: it stays as sft left it
TWO_BITS = {"quantize.average": 2.0}
RATES = (0.0001, 0.0003, 0.0007)
OWN = {"metrics.jsonl", "report.json", "report.md", "run.json", "claims.md"}  # of each run


def mdloo_at(rate):
    """MDLOO at this rate, in the run's usual number of iterations, with the checker as reward."""
    return {"mdloo1.lr": rate, "mdloo1.rewarded": "checker"}


CLAIMS = [Claim(*row) for row in (
    ("a learned mask beats one of the largest units", "prune", "accuracy %", LEARNED, LARGEST),
    ("... even one held fixed from the first step", "prune", "accuracy %",
     LEARNED, LARGEST | {"prune.soft": 0.0}),
    ("a learned mask beats a random one", "prune", "accuracy %", LEARNED, RANDOM),
    *((claim, "continued", metric, treatment, control)
      for metric in ("accuracy %", "bits/byte") for claim, treatment, control in (
          ("a pruned start helps", PRUNED | UNTAUGHT, SCRATCH | UNTAUGHT),
          ("distillation helps from scratch", SCRATCH | TAUGHT, SCRATCH | UNTAUGHT),
          ("distillation helps after a pruned start", PRUNED | TAUGHT, PRUNED | UNTAUGHT),
          ("both help", PRUNED | TAUGHT, SCRATCH | UNTAUGHT))),
    ("the continued mixture helps mathematics", "continued", "math bits/byte",
     USUAL, CORE_MIXTURE),
    ("... and code", "continued", "code bits/byte", USUAL, CORE_MIXTURE),
    ("... while the core mixture is better for the web", "continued", "web bits/byte",
     CORE_MIXTURE, USUAL),
    *((claim, "lengthening", metric, USUAL, control) for claim, metric, control in (
        ("lengthening helps recall at 4 times the length", "recall at 4x %", UNTRAINED | OLD_ROPE),
        ("... and at 2 times", "recall at 2x %", UNTRAINED | OLD_ROPE),
        ("... for which RoPE's base must be raised", "recall at 4x %", OLD_ROPE),
        ("... and the model trained", "recall at 4x %", UNTRAINED),
        ("... and helps text of the old length", "bits/byte", UNTRAINED | OLD_ROPE))),
    *((f"synthetic data helps mathematics {kind}", "sft", f"math {kind} %", USUAL,
       {"sft.synthetic": False}) for kind in tasks.KINDS),
    *((f"{claim}, with {noise:.0%} of grades random" if noise == 0.1 else
       f"... with {noise:.0%} of them", "reward1", "all pairs %", {"preferences1.noise": noise},
       {"preferences1.noise": noise} | control)
      for claim, control in (
          ("soft labels judge pairs better than hard ones", {"reward1.labels": "hard"}),
          ("soft labels judge pairs better than a margin", {"reward1.labels": "margin"}),
          ("grades help judge pairs", {"reward1.grade_weight": 0.0})) for noise in (0.1, 0.4)),
    ("MDLOO with the checker helps mathematics", "mdloo1", "all math %",
     LONG | {"mdloo1.rewarded": "checker"}, IDLE),
    ("MDLOO with the reward model helps mathematics", "mdloo1", "all math %", LONG, IDLE),
    *((f"MDLOO beats {other}, at {rate:g}", "mdloo1", "all math %", mdloo_at(rate),
       mdloo_at(rate) | control) for rate in RATES for other, control in (
           ("PPO's clip", {"mdloo1.loss": "ppo", "mdloo1.gamma": 0.2}),
           ("REINFORCE with a mean baseline",
            {"mdloo1.loss": "reinforce", "mdloo1.baseline": "mean"}))),
    *((f"{method.upper()} helps {family.removesuffix(' %')}", f"{method}1", family, USUAL, IDLE,
       "mdloo1") for method in ("rs", "dpo", "ipo", "mdloo")
      for family in ("all math %", "follow %", "summary %")),
    *((f"choice per prompt beats MDLOO's model alone, {what}", "committee1", metric, USUAL,
       {"committee1.only": "mdloo1"} | more)
      for what, more in (("at as many samples of each model", {}),
                         ("at as many samples in all", {"committee1.samples": 10}))
      for metric in ("first ranked true %", "mean %")),
    *((f"distillation of {4 * few} prompts beats that of {few}", "committee1", "mean %",
       {"committee1.prompts": 4 * few}, {"committee1.prompts": few}) for few in (125, 500, 2000)),
    *((f"2 bits where it matters least beat 2 bits anywhere, {average:g} on average", "quantize",
       "mean %", {"quantize.average": average},
       {"quantize.average": average, "quantize.choice": "random"}) for average in (3.5, 3.0, 2.5)),
    *((f"recovery helps, at {average:g} bits", "recovery", "mean %", {"quantize.average": average},
       {"quantize.average": average}, "quantize") for average in (4.0, 3.7, 3.5, 2.0)),
    *((f"rank {2 * rank} recovers more than rank {rank}, at 2 bits", "recovery", "mean %",
       TWO_BITS | {"recovery.rank": 2 * rank}, TWO_BITS | {"recovery.rank": rank})
      for rank in (8, 16)),
    *((f"... and in {4 * few} steps more than in {few}", "recovery", "mean %",
       TWO_BITS | {"recovery.steps": 4 * few}, TWO_BITS | {"recovery.steps": few})
      for few in (5, 20, 75)),
    *((f"an adapter for {name} helps there", name, metric, USUAL, USUAL, "recovery")
      for name, metric in (("math", "all math %"), ("tools", "tools %"), ("summary", "summary %"))),
    ("a round helps", "evaluation", "mean %", {"evaluation.aligned": "committee1"},
     {"evaluation.aligned": "sft"}),
    ("two rounds beat one", "evaluation", "mean %", USUAL, {"evaluation.aligned": "committee1"}),
)]


def arm(base, seed, stage, given):
    """The metrics of a stage, with the settings given for it and for what it needs."""
    return arm_run(base, seed, stage, given).read_json("report.json")[stage]["metrics"]


def arm_run(base, seed, stage, given):
    """The run in which a stage is done so: up to the parent it is `base`, which all arms share."""
    if stage in ("data", "tokenizer", "parent"):
        return base
    before = [arm_run(base, seed, need, given) for need in STAGES[stage].needs]
    rows = {name: row for run in before for name, row in run.read_json("report.json").items()}
    settings = settings_of(stage, given)
    run = Run(base.path / f"{stage}-{seed}-{made_of(rows, stage, settings)}", base.device)
    run.config, run.seed = base.config, seed
    run.create()
    run.write_json("report.json", rows | run.read_json("report.json"))
    for path in (path for each in before for path in each.path.iterdir()):
        if (path.is_file() and path.name not in OWN and not path.name.endswith(".part.pt")
                and not run.file(path.name).exists()):
            os.link(path, run.file(path.name))
    carry_out(run, stage, settings)
    return run


def interval(differences, level=0.95, draws=10_000):
    """[1, 2, 6] -> (1, 6): where the mean lies if the seeds are drawn anew, with repetition."""
    rng, differences = numpy.random.default_rng(0), numpy.array(differences)
    means = rng.choice(differences, (draws, len(differences))).mean(axis=1)
    return tuple(numpy.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist())


def verdict(claim, treated, controls):
    """A row of the table, from the metric of each seed."""
    differences = [a - b for a, b in zip(treated, controls)]
    low, high = interval(differences)
    wanted_up = claim.metric.endswith("%")
    shown = low > 0 if wanted_up else high < 0
    against = high < 0 if wanted_up else low > 0
    return [claim.text, claim.stage, claim.metric, numpy.mean(treated).item(),
            numpy.mean(controls).item(), numpy.mean(differences).item(),
            f"{low:.3f} to {high:.3f}", "yes" if shown else "the contrary" if against else "no"]


def run_claims(arguments):
    base = Run(arguments.run, choose_device(arguments.device))
    begun = base.read_json("run.json")
    if "parent" not in base.read_json("report.json") or not base.checkpoint("parent").exists():
        raise UserError(f"{base.path} holds no parent: python train.py --out {base.path} --stages "
                        "data,tokenizer,parent trains one")
    base.config = Config(**{name.removeprefix("model."): value for name, value in begun.items()
                            if name.startswith("model.")})
    if arguments.seeds < 2:
        raise UserError(f"--seeds {arguments.seeds}: an interval takes two or more")
    rows, claims = [], [claim for claim in CLAIMS if arguments.only in claim.text]
    if not claims:
        raise UserError(f"--only {arguments.only}: no claim holds this text")
    for claim in claims:
        sides = ((claim.stage, claim.treatment),
                 (claim.control_stage or claim.stage, claim.control))
        treated, controls = ([arm(base, seed, stage, begun["set"] | given)[claim.metric]
                              for seed in range(arguments.seeds)] for stage, given in sides)
        rows.append(verdict(claim, treated, controls))
        head = ["claim", "after", "metric", "treatment", "control", "difference", "95% interval",
                "shown"]
        write_text(base.file("claims.md"), f"{arguments.seeds} seeds.\n\n{table(head, rows)}")
        print(line(rows[-1]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/claims", help="where the parent checkpoint is, and "
        "the arms go (default: %(default)s)")
    add("--seeds", metavar="N", type=int, default=3, help="(default: %(default)s)")
    add("--only", metavar="TEXT", default="", help="only claims that hold this text")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    run_command(run_claims, parser.parse_args())


if __name__ == "__main__":
    main()
