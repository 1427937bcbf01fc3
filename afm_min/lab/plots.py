"""A run's pictures, if matplotlib is there: an extra, as report.md says everything without them.

A curve is the mean of neighbouring steps, in the band that 8 of 10 of these lie in.
"""
import logging

import numpy

from afm_min.run import atomic_write

LOSS_OF = {"reward": "of a pair", "dpo": "of a pair", "ipo": "of a pair",
           "recovery": "divergence of a token"}  # and all others: of a token
MODELS = {"base": "0.7", "draft": "#c6dbef", "sft": "#6baed6", "aligned": "#2171b5",
          "quantized": "#fdae6b", "recovered": "#d94801"}  # those evaluated, and their colours
STYLE = {"font.size": 12, "legend.frameon": False, "axes.spines.top": False, "savefig.dpi": 90,
         "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3}


def curve(axes, x, y, **options):
    """Draw y over x: a moving mean of a tenth of all steps, of 20 at most, and its band."""
    width = min(20, 1 + len(y) // 10)
    x, y = (numpy.lib.stride_tricks.sliding_window_view(values, width) for values in (x, y))
    (line,) = axes.plot(x.mean(1), y.mean(1), linewidth=2, **options)
    axes.fill_between(x.mean(1), *numpy.quantile(y, (0.1, 0.9), axis=1), alpha=0.25, linewidth=0,
                      color=line.get_color())


def losses(figure, report, logged, stages):
    """A column for each stage, in which its steps go from left to right."""
    before = [stage for stage in stages if "tokens" in report[stage]["metrics"]]
    after = [stage for stage in stages if stage not in before]
    parts = [part for part in (("Pre-training", "linear", before),
                               ("Post-training", "log", after)) if part[2]]
    for i, (title, scale, shown) in enumerate(parts, 1):
        axes, colors = figure.add_subplot(1, len(parts), i), {}
        for at, stage in enumerate(shown):
            of = LOSS_OF.get(stage.rstrip("0123456789"), "of a token")
            label = None if of in colors else of
            y = [row["loss"] for row in logged[stage]]
            curve(axes, numpy.linspace(at - 0.4, at + 0.4, len(y)), y, label=label,
                  color=colors.setdefault(of, f"C{len(colors)}"))
        axes.set_xticks(range(len(shown)), shown, rotation=60, ha="right", rotation_mode="anchor")
        axes.set(title=title, ylabel="loss", yscale=scale)
        axes.legend()


def mdloo(figure, report, logged, stages):
    """Of each iteration the reward, how often it is right, and how far from the reference it is."""
    for axes, name in zip(figure.subplots(1, 3), ("reward", "truth %", "KL")):
        for stage in stages:
            steps = report[stage]["settings"]["passes"] * report[stage]["settings"]["parts"]
            y = [row[name] for row in logged[stage]]
            y = [numpy.mean(y[j:j + steps]) for j in range(0, len(y), steps)]
            curve(axes, numpy.arange(1, 1 + len(y)), y, label=stage)
        axes.set(title=name, xlabel="iteration")
    axes.legend()


def evaluation(figure, report, logged, stages):
    """Of each family a bar for each model, with its interval."""
    rows = [row for row in report["evaluation"]["metrics"]["evaluation"] if ":" not in row[0]]
    axes, at = figure.subplots(), numpy.arange(len(rows))
    for i, (model, color) in enumerate(MODELS.items()):
        share = numpy.array([row[1 + 2 * i] for row in rows])
        ends = numpy.array([row[2 + 2 * i].split(" to ") for row in rows], float)  # (rows, 2)
        axes.bar(at + 0.14 * (i - 2.5), share, 0.14, color=color, label=model,
                 yerr=abs(ends.T - share), error_kw={"linewidth": 0.8})
    axes.set_xticks(at, [row[0].replace(" ", "\n") for row in rows])
    axes.set(ylabel="right, % of test tasks", ylim=(0, 100))
    axes.grid(False, axis="x")
    axes.legend(ncols=len(MODELS), loc="lower center", bbox_to_anchor=(0.5, 1))


def pictures(run):
    """Draw into the run directory what there is to draw. Returns what report.md says of it: links,
    or how to get matplotlib."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells when it looks for fonts
    try:
        import matplotlib.figure  # not before it is asked for: it takes half a second
    except ImportError:
        return ("Pictures: pip install matplotlib, then python -m afm_min report --run DIR, DIR "
                "being this folder.\n\n")
    report, logged, text = run.read_json("report.json"), {}, ""
    for row in run.read_log():
        if row["stage"] in report:
            logged.setdefault(row["stage"], []).append(row)
    rounds = [stage for stage in logged if "KL" in logged[stage][0]]
    others = [stage for stage in logged if stage not in rounds]  # MDLOO's loss tells nothing
    evaluated = [stage for stage in report if stage == "evaluation"]
    with matplotlib.rc_context(STYLE):
        for paint, height, stages in ((losses, 4.5, others), (mdloo, 3.5, rounds),
                                      (evaluation, 4.5, evaluated)):
            if stages:
                figure = matplotlib.figure.Figure((11, height), layout="constrained")
                paint(figure, report, logged, stages)
                with atomic_write(run.file(f"{paint.__name__}.png")) as file:
                    figure.savefig(file)
                text += f"![{paint.__name__}]({paint.__name__}.png)\n\n"
    return text
