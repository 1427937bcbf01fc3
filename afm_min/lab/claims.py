"""What the AFM report claims, as experiments: make claims.

A claim, which is a line of claims.txt, compares a treatment with a control that differ in the
settings named, and in nothing else: both go on from one parent checkpoint, seed by seed, with the
same draws of text. The interval is a bootstrap over the seeds' differences, so with few seeds it is
coarse: clear of zero means little more than that all of them agree.

Every arm is a run directory of its own that shares what came before: so what is done is kept after
a kill, and arms that several claims need are trained once.
"""
import argparse
import collections
import os
import pathlib

import numpy

from afm_min.model import Config
from afm_min.lab.report import TABLES, line, table, write_report
from afm_min.run import Run, UserError, choose_device, run_command, write_text
from afm_min.lab.stages import STAGES, run_stage, fingerprint, settings_of, parse_value

OWN = {"metrics.jsonl", "report.json", "report.md", "run.json", "environment.json", "claims.md",
       "losses.png", "mdloo.png", "evaluation.png"}  # what a run does not share with what it needs
Claim = collections.namedtuple("Claim", "text stage metric treatment control control_stage")


def parse_settings(text):
    """'prune.soft=0.0, prune.method=random' -> {"prune.soft": 0.0, "prune.method": "random"}"""
    pairs = (pair.split("=") for pair in text.split(", ") if text != "as it is")
    return {name: parse_value(value) for name, value in pairs}


def parse_claim(row):
    """A line of claims.txt as a Claim. If it names no stage of the control, that is the same."""
    text, stage, metric, treatment, control, *other = row.split(" | ")
    return Claim(text, stage, metric, parse_settings(treatment), parse_settings(control),
                 *(other or [stage]))


CLAIMS = [parse_claim(row)
          for row in pathlib.Path(__file__).with_suffix(".txt").read_text().splitlines()
          if not row.startswith("#")]


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
    run = Run(base.path / f"{stage}-{seed}-{fingerprint(rows, stage, settings)}", base.device)
    run.config, run.seed = base.config, seed
    run.create()
    run.write_json("report.json", rows | run.read_json("report.json"))
    for path in (path for each in before for path in each.path.iterdir()):
        if (path.is_file() and path.name not in OWN and not path.name.endswith(".part.pt")
                and not run.file(path.name).exists()):
            os.link(path, run.file(path.name))
    run_stage(run, stage, settings)
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
    better, worse = low > 0, high < 0
    if not claim.metric.endswith("%"):  # of bits, fewer are better
        better, worse = worse, better
    return [claim.text, claim.stage, claim.metric, numpy.mean(treated).item(),
            numpy.mean(controls).item(), numpy.mean(differences).item(),
            f"{low:.3f} to {high:.3f}", "yes" if better else "the contrary" if worse else "no"]


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
        sides = (claim.stage, claim.treatment), (claim.control_stage, claim.control)
        treated, controls = ([arm(base, seed, stage, begun["set"] | given)[claim.metric]
                              for seed in range(arguments.seeds)] for stage, given in sides)
        rows.append(verdict(claim, treated, controls))
        write_text(base.file("claims.md"),
                   f"{arguments.seeds} seeds.\n\n{table(TABLES['claims'], rows)}")
        print(line(rows[-1]), flush=True)
    write_report(base)


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
