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
import hashlib
import json
import os

import numpy

from afm_min import corpus, tasks
from afm_min.model import Config
from afm_min.report import line, table
from afm_min.run import Run, UserError, choose_device, run_command, write_text
from afm_min.stages import STAGES, carry_out, settings_of

Claim = collections.namedtuple("Claim", "text stage metric treatment control")
LEARNED, LARGEST, RANDOM = ({"prune.method": name} for name in ("learned", "magnitude", "random"))
SCRATCH, PRUNED = {"core.start": "scratch"}, {"core.start": "prune"}
TAUGHT, UNTAUGHT = {"core.distill": 0.9}, {"core.distill": 0.0}
USUAL, CORE_MIXTURE = {}, {"continued.mixture": corpus.CORE}
UNTRAINED, OLD_ROPE = {"lengthening.steps": 1}, {"lengthening.rope_base": 500_000.0}
OWN = {"metrics.jsonl", "report.json", "report.md", "run.json", "claims.md"}  # of each run

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
)]


def arm(base, seed, stage, given):
    """The metrics of a stage, with the settings given for it and for those between it and the
    parent checkpoint of the run `base`."""
    names, before = list(STAGES), base
    settings = {"parent": base.read_json("report.json")["parent"]}  # so that no other one's counts
    for name in names[names.index("parent") + 1:names.index(stage) + 1]:
        settings[name] = settings_of(name, given)
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        run = Run(base.path / f"{name}-{seed}-{key}", base.device)
        run.config, run.seed = base.config, seed
        run.create()
        for path in before.path.iterdir():
            if (path.is_file() and path.name not in OWN and not path.name.endswith(".part.pt")
                    and not run.file(path.name).exists()):
                os.link(path, run.file(path.name))
        metrics, before = carry_out(run, name, settings[name]), run
    return metrics


def interval(differences, level=0.95, draws=10_000):
    """[1, 2, 6] -> (1, 6): where the mean lies if the seeds are drawn anew, with repetition."""
    rng, differences = numpy.random.default_rng(0), numpy.array(differences)
    means = rng.choice(differences, (draws, len(differences))).mean(axis=1)
    return tuple(numpy.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist())


def judge(claim, treated, controls):
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
    if not base.checkpoint("parent").exists():
        raise UserError(f"{base.path} holds no parent: python train.py --out {base.path} --stages "
                        "data,tokenizer,parent trains one")
    base.config = Config(**{name.removeprefix("model."): value for name, value in begun.items()
                            if name.startswith("model.")})
    if not 1 <= arguments.seeds:
        raise UserError(f"--seeds {arguments.seeds}: it takes one or more")
    rows, claims = [], [claim for claim in CLAIMS if arguments.only in claim.text]
    if not claims:
        raise UserError(f"--only {arguments.only}: no claim holds this text")
    for claim in claims:
        treated, controls = ([arm(base, seed, claim.stage, begun["set"] | given)[claim.metric]
                              for seed in range(arguments.seeds)]
                             for given in (claim.treatment, claim.control))
        rows.append(judge(claim, treated, controls))
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
