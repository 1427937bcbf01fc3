"""report.md: what a run's report.json says, as tables to read."""
from afm_min.run import write_text


TABLES = {name: columns.split(", ") for name, columns in {
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
    "evaluation": "benchmark, base %, 95% interval, draft %, 95% interval, sft %, 95% interval, "
                  "aligned %, 95% interval, quantized %, 95% interval, recovered %, "
                  "95% interval, n",
    "sft against draft": "of all problems, %, 95% interval, n",
    "aligned against sft": "of all problems, %, 95% interval, n",
}.items()}


def line(row):
    """["x", 0.51234] -> '| x | 0.5123 |\\n'"""
    cells = (f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row)
    return f"| {' | '.join(cells)} |\n"


def table(head, rows):
    """(["a", "b"], [["x", 0.5]]) -> '| a | b |\\n| --- | --- |\\n| x | 0.5 |\\n\\n'"""
    return "".join(map(line, [head, ["---"] * len(head), *rows])) + "\n"


def write_report(run):
    """A row for each stage, with time, tokens and metrics; and every table that one returned."""
    report = run.read_json("report.json")
    metrics = {stage: row["metrics"] for stage, row in report.items()}
    trained = [stage for stage in metrics if "tokens" in metrics[stage]]
    shared = [name for name in metrics[trained[0]]] if trained else []
    parts = [f"# {run.path.name}\n\n## Stages\n\nBits per byte and accuracy are of held-out text, "
             "in sequences of the core length. A stage begins where the row above ends.\n\n",
             table(["stage", "seconds", *shared],
                   [[stage, report[stage]["seconds"], *(metrics[stage][name] for name in shared)]
                    for stage in trained])]
    others = [[stage, report[stage]["seconds"], name, value] for stage in report
              for name, value in metrics[stage].items()
              if not isinstance(value, list) and not (stage in trained and name in shared)]
    parts.append(table(["stage", "seconds", "what", "value"], others))
    for name, rows in ((name, rows) for each in metrics.values() for name, rows in each.items()
                       if isinstance(rows, list)):
        parts += [f"## {name.capitalize()}\n\n", table(TABLES[name.partition(", round")[0]], rows)]
    write_text(run.file("report.md"), "".join(parts))
