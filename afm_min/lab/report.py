"""Write report.md: the tables of a run's report.json, its claims.md, and pictures.

    python -m afm_min.lab.report --run runs/toy    writes them again from the run's results

Pictures need matplotlib, an optional dependency. All numbers are in the tables, too.
"""
import argparse
import collections
import logging
import platform
import resource
import sys

import numpy
import torch

from afm_min.lab.stages import format_value
from afm_min.run import Run, UserError, compute_dtype, atomic_write, run_command, write_text

MODELS = {"base": "0.7", "draft": "#c6dbef", "sft": "#6baed6", "aligned": "#2171b5",
          "quantized": "#fdae6b", "recovered": "#d94801"}  # evaluated model -> colour of its bar
STYLE = {"font.size": 12, "legend.frameon": False, "axes.spines.top": False, "savefig.dpi": 90,
         "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3}
# The columns of each table, except "held-out text" and "evaluation", which depend on the run.
COLUMNS = {
    "stages": "stage, seconds, tokens, metric, before, after",
    "all metrics": "stage, metric, value",
    "environment": "what, value",
    "funnel": "source, filter, documents in, out, M characters out",
    "planted": "planted, documents, got through",
    "guards": "flaw or kind, examples, dropped by rating, by the model, as copies, kept",
    "yields": "what, questions, right samples %, selected, of these right %",
    "weights": "source, weight",
    "trace": "round, weight of, weight, score with more, score with less",
    "bits of projections": "projection, bits, divergence that 2 bits add",
    "checkpoints": "step, validation %",
    "candidates": "stage, greedy %, best of N by the reward model %",
    "pairs judged right": "family, %, 95% interval, pairs, by likelihood alone %",
    "curve": "step, reward, truth %, KL, entropy, length, mark",
    **dict.fromkeys(("sft against draft", "aligned against sft", "base against opponent",
                     "sft against opponent", "aligned against opponent"),
                    "of all tasks, %, 95% interval, n"),
}
# A stage has one metric in the first table: that of MAIN_OF, else the first in MAIN that it
# reports, else the first that it reports.
MAIN_OF = {"sft": "math %", "math": "all math %", "tools": "tools %", "summary": "summary %"}
MAIN = ["all pairs %", "mean %", "recall at 4x %", "bits/byte", "labels right %", "examples",
        "characters per token"]
# The value before a stage is its own "mean % before", or that of its round's committee, or the
# metric of this stage:
BEFORE = {"prune": "parent", "teacher": "parent", "core": "prune", "continued": "core",
          "sft": "draft", "recovery": "quantize", "math": "recovery", "tools": "recovery",
          "summary": "recovery"}


def table_row(cells):
    """["x", 0.51234] -> '| x | 0.5123 |\\n'"""
    return f"| {' | '.join(map(format_value, cells))} |\n"


def table(columns, rows):
    """("a, b", [["x", 0.5]]) -> '| a | b |\\n| --- | --- |\\n| x | 0.5 |\\n\\n'"""
    columns = columns.split(", ")
    return "".join(map(table_row, [columns, ["---"] * len(columns), *rows])) + "\n"


def evaluated_models(rows):
    """Return the names of the models in the table "evaluation". A row has two cells for each model,
    between the benchmark and n. The last two models are missing if the run quantizes none."""
    return list(MODELS)[:len(rows[0]) // 2 - 1]


def stage_row(stage, row, metrics):
    """Return a stage's row of the first table: its cost, and its main metric before and after it.

    metrics: {stage: {metric: number or word}} of all stages."""
    own = metrics[stage]
    main = next((name for name in [MAIN_OF.get(stage), *MAIN, *own] if name in own), "")
    from_scratch = row["settings"].get("start") == "scratch"
    previous = {} if from_scratch else metrics.get(BEFORE.get(stage), {})
    committee = metrics.get(f"committee{stage[-1]}", {})  # of the same round: "rs2" -> committee2
    before = previous.get(main, "")
    for metrics_of in (committee, own):
        before = metrics_of.get(f"{main} before", before)
    return [stage, row["seconds"], own.get("tokens", ""), main, before, own.get(main, "")]


def learning_curve(rows, points=10):
    """Return the means of logged metrics over about `points` stretches of the training.

    A stretch is marked "reward alone" if its reward is the highest so far but its truth is not: the
    policy may be exploiting flaws of the reward model."""
    stretches, size = [], max(1, len(rows) // points)
    for start in range(0, len(rows), size):
        stretch = rows[start:start + size]
        means = [sum(row[name] for row in stretch) / len(stretch)
                 for name in ("reward", "truth %", "KL", "entropy", "length")]
        mark = ""
        if stretches:
            best_reward = max(reward for _, reward, *_ in stretches)
            best_truth = max(truth for _, _, truth, *_ in stretches)
            if means[0] > best_reward and means[1] <= best_truth:
                mark = "reward alone"
        stretches.append([stretch[-1]["step"], *means, mark])
    return stretches


def write_report(run):
    """Write report.md: pictures, claims, a row for each stage, and every table it returned."""
    report, options = run.read_json("report.json"), run.read_json("run.json")
    metrics, stage_tables = {}, {}  # {stage: {metric: number or word}}, {title: rows}
    for stage, row in report.items():
        items = row["metrics"].items()
        metrics[stage] = {name: value for name, value in items if not isinstance(value, list)}
        for name, value in items:
            if isinstance(value, list):  # two stages have a table "guards": one follows the other
                stage_tables[name] = stage_tables.get(name, []) + value
        if stage.startswith("mdloo"):
            title = stage.replace("mdloo", "curve, round ")
            stage_tables[title] = learning_curve(list(run.read_log(stage)))
    pretrained = [stage for stage in metrics if "tokens" in metrics[stage]]
    shared = list(metrics[pretrained[0]]) if pretrained else []  # all of them report these metrics
    seconds = round(sum(row["seconds"] for row in report.values()), 1)
    tables = {
        "stages": [stage_row(stage, row, metrics) for stage, row in report.items()],
        "held-out text": [[stage, *map(metrics[stage].get, shared)] for stage in pretrained],
        "all metrics": [[stage, *item] for stage in metrics for item in metrics[stage].items()],
        "environment": [["preset", options.get("preset", "")], ["seed", options.get("seed", "")],
                        *run.read_json("environment.json").items(),
                        ["seconds of all stages", seconds]],
        **stage_tables}
    columns = COLUMNS | {"held-out text": ", ".join(["stage", *shared])}
    if tables.get("evaluation"):
        models = evaluated_models(tables["evaluation"])
        cells = [f"{model} %, 95% interval" for model in models]
        columns["evaluation"] = ", ".join(["benchmark", *cells, "n"])
    text = (f"# {run.path.name}\n\nBits per byte and accuracy are of held-out text, in sequences "
            f"of the core length.\n\n{draw_pictures(run, report)}")
    if run.file("claims.md").exists():
        text += run.file("claims.md").read_text()
    else:
        text += "`make claims` tests claims of Apple's report, in runs/claims/report.md.\n\n"
    for title, rows in tables.items():
        if rows:  # "curve, round 2" has the columns of "curve"
            text += f"## {title.capitalize()}\n\n{table(columns[title.split(', round')[0]], rows)}"
    write_text(run.file("report.md"), text)


def environment(run):
    """Return the contents of environment.json: software, machine, and peak memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, but on macOS in bytes
    features = [name for name, value in torch.cpu.get_capabilities().items() if value is True]
    return {"Python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "platform": platform.platform(),
            "processor has": " ".join(sorted(features)), "threads": torch.get_num_threads(),
            "device": str(run.device),
            "computes in": str(compute_dtype(run.device)).removeprefix("torch."),
            "peak memory, MB": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)}


def draw_curve(axes, x, y, **options):
    """Draw a moving average of y over x. Each average is over a tenth of the steps, at most 20. A
    band around it contains the middle 80% of the averaged values."""
    width = min(20, 1 + len(y) // 10)
    # Now of shape (averages, width): each row has the neighbours that are averaged.
    x, y = (numpy.lib.stride_tricks.sliding_window_view(values, width) for values in (x, y))
    (line,) = axes.plot(x.mean(1), y.mean(1), linewidth=2, **options)
    low, high = numpy.quantile(y, (0.1, 0.9), axis=1)
    axes.fill_between(x.mean(1), low, high, alpha=0.25, linewidth=0, color=line.get_color())


def draw_losses(figure, report, logged):
    """Draw the loss of each stage, first step to last, in a column of its own. Pre-training and
    post-training have a panel each, if they have stages."""
    pretraining = [stage for stage in logged if "tokens" in report[stage]["metrics"]]
    post_training = [stage for stage in logged if stage not in pretraining]
    panels = [("Pre-training", "linear", pretraining), ("Post-training", "log", post_training)]
    panels = [(title, scale, stages) for title, scale, stages in panels if stages]
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, scale, stages) in zip(all_axes, panels):
        for column, stage in enumerate(stages):
            y = [row.get("nll", row["loss"]) for row in logged[stage]]  # nll: without loss weights
            draw_curve(axes, numpy.linspace(column - 0.4, column + 0.4, len(y)), y, color="C0")
        axes.set_xticks(range(len(stages)), stages, rotation=60, ha="right", rotation_mode="anchor")
        axes.set(title=title, ylabel="loss per token (reward, dpo, ipo: per pair)", yscale=scale)


def draw_mdloo(figure, report, logged):
    """Draw, for each iteration of MDLOO, the mean reward, share of right responses, and KL."""
    for axes, name in zip(figure.subplots(1, 3), ("reward", "truth %", "KL")):
        for stage, rows in logged.items():
            settings = report[stage]["settings"]
            steps = settings["epochs"] * settings["num_minibatches"]  # rows per iteration
            y = [numpy.mean([row[name] for row in rows[i:i + steps]])
                 for i in range(0, len(rows), steps)]
            draw_curve(axes, numpy.arange(1, 1 + len(y)), y, label=stage)
        axes.set(title=name, xlabel="iteration")
    axes.legend()


def draw_evaluation(figure, report, rows):
    """Draw, for each family of tasks, a bar with its interval for each model."""
    rows = [row for row in rows if ":" not in row[0]]  # not "follow: prompts, strict"
    models, axes, position = evaluated_models(rows), figure.subplots(), numpy.arange(len(rows))
    width = 0.84 / len(models)
    for i, model in enumerate(models):
        # A row is [benchmark, 55, "50 to 60", ...] with two entries for each model.
        percent = numpy.array([row[1 + 2 * i] for row in rows])
        ends = numpy.array([row[2 + 2 * i].split(" to ") for row in rows], float)  # (rows, 2)
        axes.bar(position + width * (i - (len(models) - 1) / 2), percent, width, label=model,
                 color=MODELS[model], yerr=abs(ends.T - percent), error_kw={"linewidth": 0.8})
    axes.set_xticks(position, [row[0].replace(" ", "\n") for row in rows])
    axes.set(ylabel="right, % of test tasks", ylim=(0, 100))
    axes.grid(False, axis="x")
    axes.legend(ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1))


def draw_pictures(run, report):
    """Draw each picture for which the run has data. Returns their links for report.md, or how to
    install matplotlib."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no line about its font cache
    try:
        import matplotlib.figure  # only when needed: it takes half a second
    except ImportError:
        return ("Pictures: pip install matplotlib, then python -m afm_min.lab.report --run DIR, "
                "with the path of this folder.\n\n")
    losses, mdloo = collections.defaultdict(list), collections.defaultdict(list)
    for row in run.read_log():
        if row["stage"] in report:  # a policy's loss means nothing, so MDLOO has its own picture
            picture = mdloo if "KL" in row else losses
            picture[row["stage"]].append(row)
    evaluation = report.get("evaluation", {}).get("metrics", {}).get("evaluation")
    links = ""
    with matplotlib.rc_context(STYLE):
        for name, draw, data in (("losses", draw_losses, losses), ("mdloo", draw_mdloo, mdloo),
                                 ("evaluation", draw_evaluation, evaluation)):
            if data:
                figure = matplotlib.figure.Figure((11, 4.5), layout="constrained")
                draw(figure, report, data)
                with atomic_write(run.file(f"{name}.png")) as file:
                    figure.savefig(file)
                links += f"![{name}]({name}.png)\n\n"
    return links


def rewrite(arguments):
    """Write the report of an existing run again."""
    run = Run(arguments.run)
    if not run.read_json("report.json"):
        raise UserError(f"{run.path} has no report.json: python train.py --out {run.path} "
                        "trains a run")
    write_report(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", metavar="DIR", default="runs/toy",
                        help="run directory (default: %(default)s)")
    run_command(rewrite, parser.parse_args())


if __name__ == "__main__":
    main()
