"""report.md: what a run's report.json and claims.md say, as tables to read, and pictures.

    python -m afm_min report --run runs/toy    writes it anew, from what the run holds
"""
import argparse
import platform
import resource
import sys

import numpy
import torch

from afm_min.lab import plots
from afm_min.run import Run, UserError, compute_dtype, run_command, write_text

# The columns of each table; those of held-out text are what pre-training reports.
TABLES = {name: columns.split(", ") for name, columns in {
    "claims": "claim, after, metric, treatment, control, difference, 95% interval, shown",
    "stages": "stage, seconds, tokens, metric, before, after",
    "other figures": "stage, what, value",
    "environment": "what, value",
    "funnel": "source, filter, documents in, out, M characters out",
    "planted": "planted, documents, got through",
    "guards": "flaw, examples, dropped by rating, by the model, as copies, kept",
    "yields": "what, questions, right samples %, kept, of these right %",
    "weights": "source, weight",
    "trace": "round, weight of (all: dw), was, score with more (all: moved), with less (all: not)",
    "bits of projections": "projection, bits, divergence that 2 bits add",
    "checkpoints": "step, greedy %, best of 4 %",
    "pairs judged right": "family, %, 95% interval, pairs",
    "curve": "step, reward, truth %, KL, entropy, length, rising",
    "evaluation": ", ".join(["benchmark", *(f"{model} %, 95% interval" for model in plots.MODELS),
                             "n"]),
    "sft against draft": "of all tasks, %, 95% interval, n",
    "aligned against sft": "of all tasks, %, 95% interval, n",
}.items()}
# What a stage is for: this, or else the first of those in MAIN that it reports.
AIMS = {"sft": "math %", "math": "all math %", "tools": "tools %", "summary": "summary %"}
MAIN = ["all pairs %", "mean %", "recall at 4x %", "bits/byte", "labels right %", "examples",
        "characters per token"]
# Stage -> the one whose figures were true before it. (Of a round's stages, committee tells that.)
BEGAN = {"prune": "parent", "core": "prune", "continued": "core", "sft": "draft",
         "recovery": "quantize", **dict.fromkeys(("math", "tools", "summary"), "recovery")}


def line(row):
    """["x", 0.51234] -> '| x | 0.5123 |\\n'"""
    cells = (f"{cell:,.{4 if abs(cell) < 1e4 else 9}g}" if isinstance(cell, float) else str(cell)
             for cell in row)
    return f"| {' | '.join(cells)} |\n"


def table(head, rows):
    """(["a", "b"], [["x", 0.5]]) -> '| a | b |\\n| --- | --- |\\n| x | 0.5 |\\n\\n'"""
    return "".join(map(line, [head, ["---"] * len(head), *rows])) + "\n"


def in_short(stage, row, figures):
    """A row of the first table: what a stage took, and its main metric before it and after.
    figures: stage -> {name: number or word}, of all."""
    own, of_round = figures[stage], figures.get(f"committee{stage[-1]}", {})
    began = figures.get(BEGAN.get(stage), {}) if row["settings"].get("start") != "scratch" else {}
    main = AIMS.get(stage) or next((name for name in MAIN if name in own), next(iter(own), ""))
    name = f"{main} before"
    before = own.get(name, of_round.get(name, began.get(main, "")))
    return [stage, row["seconds"], own.get("tokens", ""), main, before, own.get(main, "")]


def claims(run):
    """The section with the table that `make claims` wrote; without one, how to get it."""
    if not run.file("claims.md").exists():
        return ("Claims: `make claims` sets what Apple's report claims beside what is seen, in "
                "runs/claims/report.md.\n\n")
    return ("## Claims\n\nWhat Apple's report claims, and what is seen: a metric after a stage, "
            "with the treatment and with the control. The interval is that of their difference, "
            "over seeds; where it is clear of zero, the claim is shown, or the contrary.\n\n"
            + run.file("claims.md").read_text())


def write_report(run):
    """Pictures, claims, a row for each stage, what else each tells, every table it returned."""
    report, begun = run.read_json("report.json"), run.read_json("run.json")
    figures, returned = {}, {}  # stage -> {name: number or word}; name of a table -> its rows
    for stage, row in report.items():
        returned |= {name: x for name, x in row["metrics"].items() if type(x) is list}
        figures[stage] = {name: x for name, x in row["metrics"].items() if type(x) is not list}
    trained = [stage for stage in figures if "tokens" in figures[stage]]  # those of pre-training
    shared = list(figures[trained[0]]) if trained else []  # what each of them reports
    made = {name: begun[name] for name in ("preset", "seed") if name in begun}
    made |= run.read_json("environment.json")
    made["seconds of all stages"] = round(sum(row["seconds"] for row in report.values()), 1)
    tables = {"stages": [in_short(stage, row, figures) for stage, row in report.items()],
              "held-out text": [[stage, *map(figures[stage].get, shared)] for stage in trained],
              "other figures": [[stage, name, x] for stage in figures
                                for name, x in figures[stage].items()
                                if not (stage in trained and name in shared)],
              "environment": made.items()} | returned
    columns = TABLES | {"held-out text": ["stage", *shared]}
    text = (f"# {run.path.name}\n\nBits per byte and accuracy are of held-out text, in sequences "
            "of the core length. A stage of pre-training begins where the one before it ends.\n\n"
            + plots.pictures(run) + claims(run))
    for name, rows in tables.items():
        if rows:  # "curve, round 2" has the columns of "curve"
            text += f"## {name.capitalize()}\n\n{table(columns[name.split(', round')[0]], rows)}"
    write_text(run.file("report.md"), text)


def environment(run):
    """What a run is made with, for environment.json: software, machine, and the most memory that
    this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, but on a Mac in bytes
    has = [name for name, value in torch.cpu.get_capabilities().items() if value is True]
    return {"Python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "platform": platform.platform(),
            "processor has": " ".join(sorted(has)), "threads": torch.get_num_threads(),
            "device": str(run.device),
            "computes in": str(compute_dtype(run.device)).removeprefix("torch."),
            "peak memory, MB": round(most * (1 if sys.platform == "darwin" else 1024) / 1e6)}


def redraw(arguments):
    run = Run(arguments.run)
    if not run.read_json("report.json"):
        raise UserError(f"{run.path} holds no run: python train.py --out {run.path} makes one")
    write_report(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", metavar="DIR", default="runs/toy",
                        help="run directory (default: %(default)s)")
    run_command(redraw, parser.parse_args())


if __name__ == "__main__":
    main()
