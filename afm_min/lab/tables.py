"""The tables of report.md: their columns, a note on each, and how they are written."""
from afm_min.lab.stages import format_value

AGAINST = ("sft against draft", "aligned against sft", "aligned against one round",
           "base against opponent", "sft against opponent", "aligned against opponent")
FOLDED = ["trace", "all metrics"]  # long tables, which a reader has to open
# The columns of each table, except "held-out text" and "evaluation", which depend on the run.
COLUMNS = {
    "staircase": "model, mean %, all math %, test mean %, 95% interval, test math %, "
                 "95% interval, test one sample %, 95% interval",
    "curves": "curve, first tenth, course, last tenth",
    "stages": "stage, seconds, tokens, metric, before, after",
    "all metrics": "stage, metric, value",
    "environment": "what, value",
    "funnel": "source, filter, documents in, out, M characters out",
    "planted": "planted, documents, got through",
    "guards": "flaw or kind, examples, dropped by rating, by the model, as copies, kept",
    "yields": "what, questions, right samples %, selected, of these right %",
    "weights": "source, weight",
    "trace": "round, weight of, weight, score with more, score with less",
    "bits of projections": "projection, average bits, divergence that 2 bits add",
    "checkpoints": "step, greedy %",
    "candidates": "model, greedy %, best of N by the reward model %",
    "pairs judged right": "family, %, 95% interval, pairs, % by likelihood alone",
    "curve": "step, reward, truth %, KL, entropy, length, mark",
    **dict.fromkeys(AGAINST, "of all tasks, %, 95% interval, n"),
}
# A line above each table.
NOTES = {
    "staircase": "Percentages of validation tasks, 50 or 100 of each family, then of test tasks.",
    "stages": "Each stage's main metric. Bits per byte are of held-out text, in sequences of "
              "core's length. `make claims` tests claims of Apple's report, in "
              "runs/claims/claims.md.",
    "held-out text": "Accuracy is that of the likeliest next token.",
    "funnel": "What each filter lets through, in this order.",
    "planted": "Bad documents that were planted among the others, to test the filters.",
    "guards": "How many examples each quality guard drops. Some have a known flaw.",
    "yields": "Synthetic examples: of several samples for a question, the selected one is kept.",
    "weights": "The weights that the mixture search found for fine-tuning; the mean is 1.",
    "trace": "The search: the score with more and with less of each source.",
    "checkpoints": "Checkpoints of sft. The one with the most solved validation tasks is kept.",
    "candidates": "The models to choose the best of a round from, by the sum of both columns.",
    "pairs judged right": "Pairs of responses to new prompts whose better one the reward model, or "
                          "the likelihood alone, prefers.",
    "bits of projections": "The divergence is the rise of the KL to the float model's "
                           "predictions if all of a projection takes 2 bits instead of 4.",
    "evaluation": "n: test tasks. Some families have fewer than 200 different ones.",
    "curve": "Each row is the mean of a tenth of the steps. Reward, truth and length are of "
             "sampled responses. reward alone: the highest reward so far, but not the most truth.",
    "all metrics": "All numbers that stages reported.",
    **dict.fromkeys(AGAINST, "A right response beats a wrong one. Otherwise better grades win, "
                             "such as that for conciseness; equal ones are a tie."),
}


def table_row(cells):
    """["x", 0.51234] -> '| x | 0.5123 |\\n'"""
    return f"| {' | '.join(map(format_value, cells))} |\n"


def table(columns, rows):
    """("a, b", [["x", 0.5]]) -> '| a | b |\\n| --- | --- |\\n| x | 0.5 |\\n\\n'"""
    columns = columns.split(", ")
    return "".join(map(table_row, [columns, ["---"] * len(columns), *rows])) + "\n"
