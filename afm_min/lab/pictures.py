"""The pictures of report.md: accuracy from stage to stage, MDLOO's curve, losses, bits per weight.
And that of claims.md: the claims with their intervals.

They need matplotlib, an optional dependency. They are SVG files that can be read on white and on
black: transparent, with grey text. Each title states what the run found. The same run gives the
same bytes. Without matplotlib, report.md shows the curves as text (curves.py).
"""
import logging
import math
from statistics import fmean

from afm_min.lab.curves import chunks, learning_curve, stretches, training_loss
from afm_min.lab.stages import STAGES, needs_of, settings_of
from afm_min.run import atomic_write

# Three hues that the colour-blind can tell apart, after Okabe and Ito, and a grey. All have a
# middle brightness, so that they stand out from white as much as from black.
BLUE, ORANGE, GREEN, GREY = "#1f7fc0", "#d55e00", "#008a64", "#7a7a7a"
STYLE = {
    "font.size": 10, "font.sans-serif": ["DejaVu Sans"], "text.color": GREY,
    "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 10,
    "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "grid.color": GREY, "grid.alpha": 0.25, "savefig.transparent": True, "svg.fonttype": "none",
    "svg.hashsalt": "afm_min"}  # without a salt, the names inside the file would be random
NO_METADATA = {"Date": None, "Creator": None}
FLOAT_BITS = 32


def settings(report, stage):
    """Return a stage's settings, by default those of the code, as a run may be older than some."""
    return settings_of(stage) | report.get(stage, {"settings": {}})["settings"]


def changed(before, after):
    """(46.2, 60.4) -> 'from 46 to 60%'. A small change has a decimal: 'from 70.2 to 70.6%'"""
    digits = 0 if abs(after - before) >= 2 else 1
    return f"from {before:.{digits}f} to {after:.{digits}f}%"


# Accuracy from stage to stage, and the size of the files.

def draw_intervals(axes, positions, intervals, colour):
    """Draw vertical lines. intervals: texts such as "50.0 to 60.0"."""
    lows, highs = zip(*[map(float, text.split(" to ")) for text in intervals])
    axes.vlines(positions, lows, highs, color=colour, linewidth=1)
    return lows, highs


def staircase_title(rows):
    """Return what three models solve. rows: see `draw_staircase`."""
    means = {row[0].split(" ")[0]: row[3] for row in rows}  # "aligned (best2)" -> "aligned"
    solved = [f"{name} {means[name]:.0f}%" for name in ("base", "sft", "aligned") if name in means]
    return f"Test tasks solved: {', '.join(solved)}"


def draw_steps(axes, values, intervals, colour, label, above):
    """Draw a flight of stairs: for each model a tread with its interval and its value, above the
    interval or below it."""
    edges = [x - 0.5 for x in range(len(values) + 1)]
    axes.stairs(values, edges, baseline=None, color=colour, linewidth=2)
    lows, highs = draw_intervals(axes, range(len(values)), intervals, colour)
    for x, value in enumerate(values):
        axes.text(x, highs[x] + 1 if above[x] else lows[x] - 1, f"{value:.0f}", color=colour,
                  ha="center", va="bottom" if above[x] else "top", fontsize=9)
    axes.text(edges[-1] + 0.1, values[-1], label, color=colour,
              va="bottom" if above[-1] else "top")


def draw_staircase(figure, rows, sizes):
    """Draw accuracy from model to model, and beside it the sizes of their files.

    rows: those of the table "staircase" that were tested. sizes: {name: KB}, or empty."""
    widths = [4, 1] if sizes else [1]
    axes, *others = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    names, _, _, means, ends, mathematics, math_ends, *_ = zip(*rows)
    higher = [a >= b for a, b in zip(means, mathematics)]
    draw_steps(axes, means, ends, BLUE, "all tasks", higher)
    draw_steps(axes, mathematics, math_ends, ORANGE, "mathematics", [not up for up in higher])
    axes.set_xticks(range(len(names)), [name.replace(" (", "\n(") for name in names])
    axes.set(title=staircase_title(rows), ylim=(-8, 100), xlim=(-0.6, len(names) + 0.6),
             ylabel="right, % of test tasks")
    axes.grid(axis="y")
    for axes in others:
        first, last = sizes.values()
        bars = axes.bar(list(sizes), list(sizes.values()), 0.6, color=[GREY, GREEN])
        axes.bar_label(bars, [f"{size:,.0f} KB" for size in sizes.values()], padding=2)
        axes.set(title=f"{first / last:.1f} times smaller", yticks=[], ylim=(0, 1.1 * first))
        axes.spines["left"].set_visible(False)


# Reinforcement learning.

def mdloo_title(curve):
    """Return what a round did to the reward and to the share of right responses."""
    (_, reward, truth, *_), (_, last_reward, last_truth, *_) = curve[0], curve[-1]
    return f"reward {last_reward - reward:+.2f}, right responses {last_truth - truth:+.1f} points"


def draw_values(axes, curve, column, values, colour):
    """Draw the value of each iteration thinly, and a column of the curve thickly."""
    axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.8, alpha=0.4)
    middles = [(start + end + 1) / 2 for start, end in ends_of(curve, len(values))]
    axes.plot(middles, [row[column] for row in curve], color=colour, linewidth=2)


def ends_of(curve, iterations):
    """Return pairs (first, last), in iterations, of the stretches of a curve, which has steps."""
    ends = [0] + [row[0] * iterations / curve[-1][0] for row in curve]
    return list(zip(ends, ends[1:]))


def draw_mdloo(figure, rollouts, iterations):
    """Draw each round's reward and share of right responses, and below them the KL. Stretches
    in which the reward rises alone are shaded.

    rollouts: {stage: rows of metrics.jsonl}. iterations: {stage: how many}."""
    panels = figure.subplots(2, len(rollouts), sharex="col", sharey="row", height_ratios=[3, 1],
                             squeeze=False)
    twins = [axes.twinx() for axes in panels[0]]
    for axes, twin, below, (stage, rows) in zip(panels[0], twins, panels[1], rollouts.items()):
        curve, parts = learning_curve(rows), stretches(rows, iterations[stage])
        for panel, name, column, colour in ((axes, "reward", 1, BLUE), (twin, "truth %", 2, ORANGE),
                                            (below, "KL", 3, GREEN)):
            values = [fmean(row[name] for row in part) for part in parts]
            draw_values(panel, curve, column, values, colour)
        shaded = [ends for ends, row in zip(ends_of(curve, len(parts)), curve) if row[-1]]
        for start, end in shaded:
            axes.axvspan(start + 0.5, end + 0.5, color=GREY, alpha=0.2, linewidth=0)
        twin.sharey(twins[0])
        axes.set_title(f"{stage}: {mdloo_title(curve)}", fontsize=10)
        below.set_xlabel("iteration; shaded: the reward rises alone" if shaded else "iteration")
    panels[0][0].set_ylabel("reward", color=BLUE)
    panels[1][0].set_ylabel("KL", color=GREEN)
    twins[-1].set_ylabel("right, % of responses", color=ORANGE)
    twins[-1].spines["right"].set_visible(True)
    for twin in twins[:-1]:
        twin.tick_params(right=False, labelright=False)


# Losses of pre-training.

def token_spans(report):
    """Return rows [stage, the stage before it, tokens trained on before it, and after it, bits per
    byte] of the stages of pre-training. The stage before is the first that a stage needs."""
    ends, spans = {}, []
    for stage in STAGES:
        row = report.get(stage, {"metrics": {}})
        if "tokens" in row["metrics"]:
            previous = needs_of(stage, settings(report, stage))[0]
            start = ends.get(previous, 0)
            ends[stage] = start + row["metrics"]["tokens"]
            spans.append([stage, previous, start, ends[stage], row["metrics"]["bits/byte"]])
    return spans


def losses_title(spans):
    """Return the bits per byte before and after the later stages. spans: see `token_spans`."""
    bits = {stage: bits for stage, _, _, _, bits in spans}
    teacher = f"; teacher {bits.pop('teacher'):.2f}" if "teacher" in bits else ""
    first, *_, last = [*bits.values()] * 2  # the same if there is only one
    return f"Held-out text: from {first:.2f} to {last:.2f} bits per byte{teacher}"


def draw_losses(figure, losses, spans):
    """Draw bits per byte of held-out text at the end of each stage, and the training loss below.

    losses: {stage: rows of metrics.jsonl}. spans: see `token_spans`. Both the teacher and the
    pruned model follow the parent."""
    held_out, training = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    after = {stage: (end / 1e6, bits) for stage, _, _, end, bits in spans}  # millions of tokens
    size = math.ceil(max(map(len, losses.values())) / 100)  # steps that a point averages
    for i, (stage, previous, start, end, bits) in enumerate(spans):
        colour = ORANGE if stage == "teacher" else BLUE
        points = [after[name] for name in (previous, stage) if name in after]
        held_out.plot(*zip(*points), color=colour, marker="o", markersize=4)
        held_out.annotate(f"{stage} {bits:.2f}", after[stage], (0, 6 if i % 2 else -6),
                          textcoords="offset points", color=colour, fontsize=9,
                          ha="left" if i % 2 else "right", va="bottom" if i % 2 else "top")
        means = [fmean(map(training_loss, part)) for part in chunks(losses.get(stage, []), size)]
        middles = [start / 1e6 + (j + 0.5) * (end - start) / 1e6 / len(means)
                   for j in range(len(means))]
        training.plot(middles, means, color=colour, linewidth=1.5)
    held_out.set(title=losses_title(spans), ylabel="bits per byte")
    held_out.margins(x=0.08, y=0.25)
    training.set(xlabel="millions of tokens, with those of the stages before",
                 ylabel="training loss\nper token")
    for axes in (held_out, training):
        axes.grid(axis="y")


# Bits per weight.

def bits_title(before, after, recovered, bits):
    """Return the accuracy in floats, in fewer bits, and after recovery."""
    return (f"In {bits:.1f} bits accuracy goes {changed(before, after)}, with recovery to "
            f"{recovered:.1f}%")


def draw_bits(figure, models, bits):
    """Draw accuracy over the average bits of the projections, with and without recovery.

    models: {name: row of the table "staircase"} of the aligned model, the quantized and the
    recovered one. bits: of the latter two."""
    axes = figure.subplots()
    aligned, quantized, recovered = models.values()
    axes.plot([FLOAT_BITS, bits], [aligned[3], quantized[3]], color=GREY, linestyle="--")
    for row, name, x, side, colour in (
            (aligned, "float", FLOAT_BITS, "left", GREY),
            (quantized, "quantized", bits, "right", BLUE),
            (recovered, "recovered", 1.06 * bits, "left", GREEN)):  # beside the same bits
        axes.plot(x, row[3], color=colour, marker="o")
        draw_intervals(axes, x, [row[4]], colour)
        axes.annotate(f"{name} {row[3]:.1f}%", (x, row[3]), (7 if side == "left" else -7, 0),
                      textcoords="offset points", color=colour, va="center", ha=side)
    axes.set(title=bits_title(aligned[3], quantized[3], recovered[3], bits), xscale="log",
             xlim=(0.9, 130), xlabel="average bits of a projection's weight",
             ylabel="right, % of test tasks")
    axes.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")


# Claims.

VERDICT_COLOURS = {"shown": GREEN, "reversed": ORANGE, "not shown": GREY}


def draw_claims(figure, compared, title):
    """Draw the difference of each claim with its interval: what is better is on the right.

    compared: pairs (claim, Comparison). Percentages are in points, other metrics in hundredths. The
    axis is linear from -1 to 1, and logarithmic beyond."""
    axes = figure.subplots()
    for y, (claim, result) in enumerate(compared):
        unit = 1 if "%" in claim.metric else 100
        middle, half = claim.better * unit * result.difference, unit * result.half
        verdict = result.verdict(claim.better)
        colour = VERDICT_COLOURS[verdict]
        if half < math.inf:  # it is infinite with one seed
            axes.plot([middle - half, middle + half], [y, y], color=colour, linewidth=1.5)
        axes.plot(middle, y, color=colour, marker="D" if claim.main else "o", markersize=5)
        axes.annotate(f"{middle:+.1f} {verdict}", (1, y), (6, 0), color=colour, va="center",
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(compared)), [claim.claim for claim, _ in compared], fontsize=8)
    axes.set(title=title, ylim=(len(compared) - 0.5, -0.5),
             xlabel="better by, in points (bits per byte and log loss: in hundredths), with 95% "
                    "intervals;\na diamond is the main claim of a section")
    axes.set_xscale("symlog", linthresh=1)
    axes.grid(axis="x")


PICTURES = {"staircase": (draw_staircase, (9, 3.4)), "mdloo": (draw_mdloo, (9, 3.4)),
            "losses": (draw_losses, (9, 4.2)), "bits": (draw_bits, (6, 3)),
            **dict.fromkeys(["claims", "only", "null"], (draw_claims, (9, 6)))}  # inches


def write_pictures(run, data):
    """Draw pictures. Returns their links for report.md with their titles, or None if matplotlib is
    not installed. data: {name in PICTURES: arguments of its function after the figure}."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no line about its font cache
    try:
        import matplotlib.figure  # only when needed: it takes half a second
    except ImportError:
        return None
    links = ""
    with matplotlib.rc_context(STYLE):
        for name, arguments in data.items():
            draw, size = PICTURES[name]
            figure = matplotlib.figure.Figure(size, layout="constrained")
            draw(figure, *arguments)
            with atomic_write(run.file(f"{name}.svg")) as file:
                figure.savefig(file, format="svg", metadata=NO_METADATA)
            links += f"![{figure.axes[0].get_title(loc='left')}]({name}.svg)\n\n"
    return links
