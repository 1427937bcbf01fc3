"""Compare arms over seeds: intervals, verdicts, and the tables of claims.md.

`results` are the metrics of all seeds' arms, {"seed0": {name of an arm: {metric: value}}}. A
comparison is paired: it uses the seeds that have both arms.
"""
import math
import typing

import numpy

from afm_min.lab.tables import table
from afm_min.lab.stages import format_value

HIGHER, LOWER = 1, -1  # which values of a metric are better

# The 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom. With more, the last is used,
# which is a little too large.
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
HEAD = """# Claims tested on {models}

{pictures}A difference is the mean over seeds of treatment - control, with a 95% interval by
Student's t. "Same sign" counts the seeds whose difference has the sign of the mean. Shown: the
interval is on the better side of 0; reversed: on the other side. Bold: the main claim of a section.
Effects that the report gives are in points of its own benchmarks. Seeds differ in initial weights,
batches, samples and prompts. Documents, tokenizer, the demonstrations before their guards, and
validation and test tasks are the same for all, so an interval does not cover their choice. An
interval is that of a number of seeds fixed beforehand.

"""


def half_width(differences):
    """Return half the width of the 95% interval of a mean: [1, 2, 3] -> 4.303 / sqrt(3)."""
    n = len(differences)
    if n == 1:
        return math.inf
    quantile = T_QUANTILES[min(n - 1, len(T_QUANTILES)) - 1]
    return quantile * numpy.std(differences, ddof=1).item() / math.sqrt(n)


class Comparison(typing.NamedTuple):
    """A metric of two arms over seeds. `half` is half the width of the difference's interval."""
    treatment: float  # means over seeds
    control: float
    difference: float
    half: float
    same_sign: int  # the number of seeds whose difference has the sign of the mean
    seeds: int

    def verdict(self, better):
        """Return "shown", "reversed" or "not shown". better: HIGHER or LOWER."""
        if better * self.difference > self.half:
            return "shown"
        return "reversed" if -better * self.difference > self.half else "not shown"


def compare(treatments, controls):
    """Compare a metric of two arms. treatments, controls: its value with each seed."""
    differences = numpy.subtract(treatments, controls)
    mean = differences.mean().item()
    return Comparison(numpy.mean(treatments).item(), numpy.mean(controls).item(), mean,
                      half_width(differences),
                      int((differences * mean > 0).sum()), len(differences))


def values_of(results, treatment, control, metric):
    """Return two lists, for treatment and control, with the value of each seed that has both."""
    pairs = [(of_seed[treatment][metric], of_seed[control][metric])
             for of_seed in results.values() if treatment in of_seed and control in of_seed]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


# The tables.

COLUMNS = ("claim, stage, metric, better, treatment, control, difference, 95% interval, same sign, "
           "verdict")


def claim_row(claim, result):
    """Return a claim's row of its section's table. result: its Comparison."""
    verdict = result.verdict(claim.better)
    best_case = claim.better * result.difference + result.half  # the better end of the interval
    if verdict == "not shown" and claim.effect is not None and best_case >= claim.effect:
        # The interval contains both 0 and the report's effect.
        verdict += f": cannot tell at this size (the report's effect: {claim.effect:g})"
    low, high = result.difference - result.half, result.difference + result.half
    return [f"**{claim.claim}**" if claim.main else claim.claim, claim.stage, claim.metric,
            "higher" if claim.better == HIGHER else "lower", result.treatment, result.control,
            result.difference, f"{format_value(low)} to {format_value(high)}",
            f"{result.same_sign} of {result.seeds}", verdict]


def family_table(results, arms, before):
    """Return a table of the accuracy by family: the model that the policies start from, and the
    change by each policy. Bold: the interval does not include 0.

    arms: {method: name of its arm}. before: the name of the arm that they start from."""
    starts = [of_seed[before] for of_seed in results.values() if before in of_seed]
    rows = []
    for metric in (name for name in (starts[0] if starts else {}) if name.endswith(" %")):
        row = [metric, numpy.mean([metrics[metric] for metrics in starts]).item()]
        for arm in arms.values():
            values = values_of(results, arm, before, metric)
            if not values[0]:
                row.append("-")  # this policy is not trained yet
                continue
            result = compare(*values)
            change = f"{result.difference:+.1f} ± {result.half:.1f}"
            row.append(f"**{change}**" if abs(result.difference) > result.half else change)
        rows.append(row)
    return table(", ".join(["family", "before", *arms]), rows)


def default_run_table(results, arms):
    """Return a table of metrics of the arms that have no special settings: mean and range.

    arms: lists [stage, metric, name of the arm]."""
    rows = []
    for stage, metric, arm in arms:
        values = [of_seed[arm][metric] for of_seed in results.values() if arm in of_seed]
        if values:
            rows.append([stage, metric, numpy.mean(values).item(), min(values), max(values),
                         len(values)])
    return table("stage, metric, mean, lowest, highest, seeds", rows)


def summary(compared):
    """Return the number of verdicts, such as "2 of 3 claims of the report shown, 0 reversed". If
    there are no claims of the report, count all.

    compared: pairs (claim, Comparison)."""
    of_report = [pair for pair in compared if pair[0].of_report]
    kind = "claims of the report" if of_report else "claims"
    verdicts = [result.verdict(claim.better) for claim, result in of_report or compared]
    return (f"{verdicts.count('shown')} of {len(verdicts)} {kind} shown, "
            f"{verdicts.count('reversed')} reversed")


def claims_text(compared, results, models, pictures="", further=""):
    """Return the text of claims.md. compared: pairs (claim, Comparison). models: what was trained,
    such as "toy models". pictures: links to them. further: tables to add."""
    sections = {}  # title -> rows
    for claim, result in compared:
        sections.setdefault(claim.section, []).append(claim_row(claim, result))
    all_metrics = [metrics for of_seed in results.values() for metrics in of_seed.values()]
    dates = {metrics["date"] for metrics in all_metrics}
    machines = {metrics["machine"] for metrics in all_metrics}
    chance = 0.025 * len(compared)
    return (HEAD.format(models=models, pictures=pictures)
            + "".join(f"## {title}\n\n{table(COLUMNS, rows)}" for title, rows in sections.items())
            + f"{further}{summary(compared)}. If nothing had an effect, {chance:.1f} of all "
            f"{len(compared)} rows would be shown by chance alone, and as many reversed.\n\n"
            f"From {', '.join(filter(results.get, results))}; trained from "
            f"{min(dates, default='-')} to {max(dates, default='-')}. Machines: "
            f"{'; '.join(sorted(machines))}.\n")
