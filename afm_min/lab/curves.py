"""The curves of a training as numbers and as text, from the rows of metrics.jsonl."""
import math
from statistics import fmean

BLOCKS = "▁▂▃▄▅▆▇█"


def chunks(rows, size):
    """Cut a list into parts of `size` elements: ([1, 2, 3, 4, 5], 2) -> [[1, 2], [3, 4], [5]]"""
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def stretches(rows, count):
    """Cut a list into at most `count` parts, all of the same length but the last:
    ([1, 2, 3, 4, 5, 6, 7], 3) -> [[1, 2, 3], [4, 5, 6], [7]]"""
    return chunks(rows, max(1, math.ceil(len(rows) / count)))


def training_loss(row):
    """Return the loss of a logged step, without loss weights and distillation if it is logged."""
    return row.get("nll", row["loss"])


def learning_curve(rows, points=10):
    """Return the means of logged metrics over at most `points` stretches of the training.

    A stretch is marked "reward alone" if its reward is the highest so far but its truth is not: the
    policy may be exploiting flaws of the reward model."""
    curve = []
    for stretch in stretches(rows, points):
        means = [fmean(row[name] for row in stretch)
                 for name in ("reward", "truth %", "KL", "entropy", "length")]
        mark = ""
        if curve:
            best_reward = max(reward for _, reward, *_ in curve)
            best_truth = max(truth for _, _, truth, *_ in curve)
            if means[0] > best_reward and means[1] <= best_truth:
                mark = "reward alone"
        curve.append([stretch[-1]["step"], *means, mark])
    return curve


def sparkline(values, width=24):
    """Return a line of blocks whose heights are averages of values: [1, 2, 3] -> '▁▅█'"""
    heights = [fmean(stretch) for stretch in stretches(values, width)]
    low, high = min(heights), max(heights)
    scale = (len(BLOCKS) - 1) / (high - low or 1)
    return "".join(BLOCKS[round((height - low) * scale)] for height in heights)


def curve_rows(losses, rollouts):
    """Return rows [curve, first tenth, course, last tenth] of a table: see `write_pictures`."""
    curves = {f"{stage}: loss": list(map(training_loss, rows)) for stage, rows in losses.items()}
    for stage, rows in rollouts.items():
        for name in ("reward", "truth %", "KL"):
            curves[f"{stage}: {name}"] = [row[name] for row in rows]
    return [[name, fmean(stretches(values, 10)[0]), sparkline(values),
             fmean(stretches(values, 10)[-1])] for name, values in curves.items()]
