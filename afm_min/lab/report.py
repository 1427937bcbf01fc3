"""Write report.md: the tables of a run's report.json, and pictures.

    python -m afm_min.lab.report --run runs/toy    writes them again from the run's results

Pictures need matplotlib, an optional dependency: see pictures.py. All numbers are in the tables,
too.
"""
import collections
import platform
import resource
import sys

import numpy
import torch

from afm_min.evaluate import ONE_SAMPLE
from afm_min.lab import curves, pictures
from afm_min.lab.packages import python_command
from afm_min.lab.settings import ROUNDS
from afm_min.lab.stages import main_metric
from afm_min.lab.tables import COLUMNS, FOLDED, NOTES, table
from afm_min.ondevice import FEATURES
from afm_min.run import Parser, Run, UserError, compute_dtype, run_command, write_text

PACKED = ("aligned", "quantized", "recovered")
MODELS = ["base", "draft", "sft", *PACKED]  # that evaluation compares
# What makes a processor fast at matrix products, and PyTorch's names for it.
PROCESSOR = {"AVX2": ["avx2"], "AVX-512": ["avx512_f"],
             "bfloat16": ["avx512_bf16", "amx_bf16", "bf16"]}
# The stages of the staircase: each row is a model, from the base model on.
STAIRCASE = ["lengthening", "draft", "sft", *(
    f"{method}{n}" for n in range(1, ROUNDS + 1)
    for method in ("rs", "dpo", "ipo", "mdloo", "committee", "best")),
    "quantize", "recovery", *FEATURES]


def mean_with_interval(rows, column):
    """Return the mean of a column of percentages, and its 95% interval as text.

    rows: of the table "evaluation", with the number of tasks at the end. Each family counts the
    same: the mean's variance is the sum of p (1 - p) / n over them, divided by their number
    squared."""
    shares = [row[column] / 100 for row in rows]
    variance = sum(p * (1 - p) / row[-1] for p, row in zip(shares, rows)) / len(rows) ** 2
    mean, half = 100 * sum(shares) / len(rows), 196 * variance ** 0.5
    return [mean, f"{max(0, mean - half):.1f} to {min(100, mean + half):.1f}"]


def test_cells(evaluation):
    """Return {model: [mean %, interval, mathematics %, interval, one sample %, interval]} for the
    table "evaluation".

    A row has two cells for each model, between the benchmark and n. The last two models are missing
    if the run quantizes none."""
    families = [row for row in evaluation if ":" not in row[0]]  # not "follow: prompts, strict"
    mathematics = [row for row in families if row[0].startswith("math")]
    (sampled,) = [row for row in evaluation if row[0] == ONE_SAMPLE] or [[]]
    models = MODELS[:len(evaluation[0]) // 2 - 1] if evaluation else []
    return {model: mean_with_interval(families, 1 + 2 * i)
            + mean_with_interval(mathematics or families, 1 + 2 * i) + sampled[1 + 2 * i:3 + 2 * i]
            for i, model in enumerate(models)}


def staircase_rows(report):
    """Return a row for each model from the base on, see COLUMNS. One that is not validated or
    tested has no row.

    The mathematics of the best model of a round are reported by the stage that trained it."""
    def metrics(stage):
        return report[stage]["metrics"] if stage in report else {}
    aligned = "evaluation" in report and pictures.settings(report, "evaluation")["aligned"]
    tested = {"lengthening": "base", "draft": "draft", "sft": "sft", aligned: "aligned",
              "quantize": "quantized", "recovery": "recovered"}  # stage -> in table "evaluation"
    names = {"lengthening": "base", aligned: f"aligned ({aligned})", "recovery": "recovered",
             "quantize": f"quantized ({metrics('quantize').get('average bits', 0):.1f} bits)",
             **{feature: f"{feature} adapter" for feature in FEATURES}}
    cells, rows, all_math = test_cells(metrics("evaluation").get("evaluation", [])), [], {}
    for stage in STAIRCASE:
        own = metrics(stage)
        all_math[stage] = own.get("all math %", all_math.get(own.get("best"), ""))
        row = [own.get("mean %", ""), all_math[stage], *cells.get(tested.get(stage), [""] * 6)]
        if row != [""] * 8:
            rows.append([names.get(stage, stage), *row])
    return rows


def stage_row(stage, report):
    """Return a stage's row of the table "stages": its cost, main metric, and that before it."""
    row = report[stage]
    return [stage, row["seconds"], row["metrics"].get("tokens", ""), *main_metric(stage, report)]


def file_sizes(run, report):
    """Return {"float": KB, "packed": KB} of the model that was quantized, {} if there is none."""
    if "quantize" not in report:
        return {}
    path = run.checkpoint(pictures.settings(report, "quantize")["start"])
    packed = report["quantize"]["metrics"]["KB"]
    return {"float": path.stat().st_size / 1000, "packed": packed} if path.exists() else {}


def draw_pictures(run, report, staircase, losses, rollouts):
    """Draw the pictures that the run has data for. Returns their links, or without matplotlib the
    curves as text, and how to install it.

    losses, rollouts: {stage: rows of metrics.jsonl} of pre-training, and of MDLOO."""
    tested = [row for row in staircase if row[3] != ""]
    packed = {row[0].split(" ")[0]: row for row in tested if row[0].startswith(PACKED)}
    data = {}  # picture -> arguments of the function that draws it
    if tested:
        data["staircase"] = tested, file_sizes(run, report)
    if len(packed) == len(PACKED):
        data["bits"] = packed, report["quantize"]["metrics"]["average bits"]
    if rollouts:
        data["mdloo"] = rollouts, {stage: pictures.settings(report, stage)["iterations"]
                                   for stage in rollouts}
    if losses:
        data["losses"] = losses, pictures.token_spans(report)
    links = pictures.write_pictures(run, data)
    if links is not None:
        return links
    rows = curves.curve_rows(losses, rollouts)
    return ("Pictures: pip install matplotlib, then python -m afm_min.lab.report --run DIR, with "
            "the path of this folder.\n\n") + (table(COLUMNS["curves"], rows) if rows else "")


def headlines(run, report, staircase):
    """Return the main figures as a list in Markdown."""
    lines = []
    for what, column in (("Test tasks solved", 3), ("Mathematics solved", 5),
                         ("Test tasks solved by one sample at temperature 1", 7)):
        tests = [f"{row[0]} {row[column]:.1f}%" for row in staircase if row[column] != ""]
        if tests:
            lines.append(f"{what}: {', '.join(tests)}.")
    compared = report.get("evaluation", {}).get("metrics", {}).get("aligned against sft", [])
    if compared:
        outcomes = [f"{percent:.1f}% {outcome}" for outcome, percent, *_ in compared[:3]]
        lines.append(f"Aligned against sft: {', '.join(outcomes)}.")
    if sizes := file_sizes(run, report):
        lines.append(f"File: {sizes['packed']:,.0f} KB packed, {sizes['float']:,.0f} KB as floats.")
    seconds = sum(row["seconds"] for row in report.values())
    lines.append(f"{len(report)} stages took {seconds:,.0f} seconds in all, some side by side.")
    return "".join(f"- {line}\n" for line in lines) + "\n"


def tables_of_stages(report):
    """Return {title: rows} of the tables that stages returned. Two stages have a table "guards":
    one follows the other."""
    tables = {}
    for row in report.values():
        for name, value in row["metrics"].items():
            if isinstance(value, list):
                tables[name] = tables.get(name, []) + value
    return tables


def write_report(run):
    """Write report.md: the main figures and pictures, then tables, the longest one last."""
    report, options = run.read_json("report.json"), run.read_json("run.json")
    metrics = {stage: {name: value for name, value in row["metrics"].items()
                       if not isinstance(value, list)} for stage, row in report.items()}
    logged = collections.defaultdict(list)
    for row in run.read_log():
        logged[row["stage"]].append(row)
    pretrained = [stage for stage in metrics if "tokens" in metrics[stage]]
    losses = {stage: logged[stage] for stage in pretrained if stage in logged}
    rollouts = {stage: logged[stage] for stage in metrics
                if stage.startswith("mdloo") and stage in logged}
    staircase = staircase_rows(report)
    shared = list(metrics[pretrained[0]]) if pretrained else []  # all of them report these metrics
    tables = {
        "staircase": staircase,
        "stages": [stage_row(stage, report) for stage in report],
        "held-out text": [[stage, *map(metrics[stage].get, shared)] for stage in pretrained],
        **tables_of_stages(report),
        **{stage.replace("mdloo", "curve, round "): curves.learning_curve(rows)
           for stage, rows in rollouts.items()},
        "environment": [["preset", options.get("preset", "")], ["seed", options.get("seed", "")],
                        *run.read_json("environment.json").items()],
        "all metrics": [[stage, *item] for stage in metrics for item in metrics[stage].items()]}
    cells = [f"{model} %, 95% interval" for model in test_cells(tables.get("evaluation", []))]
    columns = COLUMNS | {"held-out text": ", ".join(["stage", *shared]),
                         "evaluation": ", ".join(["benchmark", *cells, "n"])}
    text = (f"# {run.path.name}\n\n{headlines(run, report, staircase)}"
            f"{draw_pictures(run, report, staircase, losses, rollouts)}")
    for title, rows in tables.items():
        if rows:  # "curve, round 2" has the columns of "curve"
            kind = title.split(", round")[0]
            body = table(columns[kind], rows)
            if title in FOLDED:
                body = f"<details><summary>{len(rows)} rows</summary>\n\n{body}</details>\n\n"
            note = f"{NOTES[kind]}\n\n" if kind in NOTES else ""
            text += f"## {title.capitalize()}\n\n{note}{body}"
    write_text(run.file("report.md"), text)


def environment(run):
    """Return the contents of environment.json: software, machine, and peak memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, but on macOS in bytes
    has = torch.cpu.get_capabilities()
    features = [name for name, flags in PROCESSOR.items() if any(map(has.get, flags))]
    return {"Python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "platform": platform.platform(),
            "processor has": ", ".join(features) or f"none of {', '.join(PROCESSOR)}",
            "threads": torch.get_num_threads(), "device": str(run.device),
            "computes in": str(compute_dtype(run.device)).removeprefix("torch."),
            "peak memory, MB": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)}


def rewrite(arguments):
    """Write the report of an existing run again."""
    run = Run(arguments.run)
    if not run.read_json("report.json"):
        raise UserError(f"{run.path} has no report.json: {python_command()} train.py "
                        f"--out {run.path} trains a run")
    write_report(run)


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--run", metavar="DIR", default="runs/toy",
                        help="run directory (default: %(default)s)")
    run_command(rewrite, parser.parse_args())


if __name__ == "__main__":
    main()
