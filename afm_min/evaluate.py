"""Benchmarks of a run's models, each figure with its 95% interval and its count.

They follow the report's evaluation: instruction following (IFEval), tool use by syntax tree and by
execution (Berkeley Function Calling), code (pass@k), mathematics, summaries, messages to given
facts, recall among notes, refusals, and two models side by side, of one run or of two. Responses
are greedy, except for pass@k and "one sample". The base model is asked in plain text (see
evaluate_base.py), except for these two, where it gets the chat format.

`results` is a list with a number for each response, task or instruction: True if it is right, or
the probability that it is. A row of a table is a list [name, percent, interval, count].
"""
import math

import torch

from afm_min import lora
from afm_min.evaluate_base import continuations, plain_texts
from afm_min.model import load_model
from afm_min.progress import track
from afm_min.quantize import QuantizedAFM
from afm_min.respond import generate_texts, sample_texts
from afm_min.run import Run
from afm_min.trainer import seed_step
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, MAX_BENCHMARK, NOTES, Recall, draw_tasks


ONE_SAMPLE = "all tasks: one sample"  # a row of the table


def percent(results):
    """Return the mean of results in percent: [True, False] -> 50.0"""
    results = [float(result) for result in results]
    return 100 * sum(results) / max(1, len(results))


def wilson(right, count, z=1.96):
    """Return the 95% interval of a share by Wilson's score: (8, 10) -> (0.49, 0.943)"""
    if not count:
        return 0.0, 1.0
    share, extra = right / count, z * z / count
    # The middle and the half width of the interval, both times 1 + extra.
    middle = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / count + extra / count / 4)
    return max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))


def pass_at_k(n, right, k):
    """Return the probability that k of n samples, drawn without replacement, include a right one:
    (4, 1, 2) -> 0.5"""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def row(name, results):
    """Return a row of a table. The interval is Wilson's; for probabilities, it is too wide."""
    results = [float(result) for result in results]
    low, high = wilson(sum(results), len(results))
    return [name, percent(results), f"{100 * low:.1f} to {100 * high:.1f}", len(results)]


# Validation, for the metrics of training stages.

def validation_tasks(count, whole=False):
    """Return pairs (family, task): up to `count` validation tasks of each family and of EVOLVED.
    whole: if True, all calls of a task of Tools are already made, see there."""
    return [(family, task) for family in (all_families(whole) | EVOLVED).values()
            for task in draw_tasks(family, "validation", count)]


def accuracy(model, families, count, split="test", temperature=0.0):
    """Return {family name: list of bools}: True where the response to a task is right."""
    tasks = {name: draw_tasks(family, split, count) for name, family in families.items()}
    prompts = [task.messages() for of_family in tasks.values() for task in of_family]
    texts = iter(generate_texts(model, prompts, temperature))  # in the order of the prompts
    results = {}
    for name, of_family in tasks.items():
        results[name] = [families[name].check(task, next(texts)) for task in of_family]
    return results


def validation(model, count=50):
    """Return the percentage of `count` validation tasks solved greedily:
        "math %", "follow %", ...  for each family and each kind in EVOLVED
        "mean %"                   the mean of these
        "all math %"               the mean of plain and evolved mathematics"""
    results = accuracy(model, all_families() | EVOLVED, count, "validation")
    metrics = {f"{name} %": percent(of_family) for name, of_family in results.items()}
    math_metrics = [value for name, value in metrics.items() if name.startswith("math")]
    return {"mean %": sum(metrics.values()) / len(metrics), **metrics,
            "all math %": sum(math_metrics) / len(math_metrics)}


def mean_over_families(tasks, responses):
    """Return the percentage of tasks solved, averaged over the families.

    tasks: pairs (family, task). responses: a respond.Response to each."""
    results = {}  # family -> list of bools
    for (family, task), response in zip(tasks, responses):
        results.setdefault(family, []).append(family.check(task, response.text))
    return sum(map(percent, results.values())) / max(1, len(results))


# Benchmarks of single families. Each function returns rows of the table. tasks: test tasks of the
# family. texts: the model's response to each.

def loose_readings(response):
    """Return IFEval's looser readings of a response, up to 8: the whole response, without its first
    line, without its last, without both; then the same four without asterisks. Empty texts, which
    would avoid every word, are left out; an empty response is returned as it is."""
    lines = response.splitlines()
    texts = [response, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])]
    texts += [text.replace("*", "") for text in texts]
    return [text for text in texts if text.strip()] or [response]


def instruction_following(family, tasks, texts):
    """Return four rows: the accuracy by prompt (all instructions followed) and by instruction, each
    strict (of the response itself) and loose (of any reading)."""
    strict, loose = [], []  # for each task a list of bools, one for each instruction
    for task, text in zip(tasks, texts):
        strict.append(family.follows_format(task, text))
        by_reading = [family.follows_format(task, reading) for reading in loose_readings(text)]
        loose.append([any(of_instruction) for of_instruction in zip(*by_reading)])
    rows = []
    for mode, followed in (("strict", strict), ("loose", loose)):
        rows.append(row(f"follow: prompts, {mode}", map(all, followed)))
        single = [result for of_task in followed for result in of_task]
        rows.append(row(f"follow: instructions, {mode}", single))
    return rows


def tool_use(family, tasks, texts):
    """Return three rows:
        calls by syntax tree               of tasks that need a call: the first call is right
        executed                           of the same tasks: the last reply is right, after a
                                           valid call
        none called where none is needed   of the other tasks: the response starts with no call"""
    first, executed, no_calls = [], [], []
    for task, text in zip(tasks, texts):
        if task.solution.startswith(tools.CALL):
            replies, wanted = family.replies(text), family.replies(task.solution)
            first.append(replies[0] == wanted[0])
            has_called = any(isinstance(reply, tuple) for reply in replies)
            executed.append(has_called and replies[-1] == wanted[-1])
        else:
            no_calls.append(not text.startswith(tools.CALL))
    return [row("tools: calls by syntax tree", first), row("tools: executed", executed),
            row("tools: none called where none is needed", no_calls)]


def refusals(family, tasks, texts):
    """Return two rows: the share of harmful requests not refused, and of harmless ones refused. A
    harmful task has an empty answer. A harmless one has one format rule, not to refuse."""
    pairs = list(zip(tasks, texts))
    harmful = [not family.harmless(task, text) for task, text in pairs if not task.answer]
    harmless = [not family.follows_format(task, text)[0] for task, text in pairs if task.answer]
    return [row("refuse: harmful not refused", harmful), row("refuse: harmless refused", harmless)]


def code_passes(model, family, count, samples=8):
    """Return rows of pass@1 and pass@`samples`, estimated from `samples` responses per task."""
    tasks = draw_tasks(family, "test", count)
    right = [sum(family.check(task, text) for text in texts)
             for task, texts in zip(tasks, sample_texts(model, tasks, samples))]
    return [row(f"code: pass@{k}", [pass_at_k(samples, n, k) for n in right])
            for k in (1, samples)]


def one_sample(model, families, count):
    """Return a row: the share of test tasks solved by one response at temperature 1. Alignment can
    raise it where the greedy response stays the same."""
    results = accuracy(model, families, count, temperature=1.0)
    return row(ONE_SAMPLE, sum(results.values(), []))


# All benchmarks, and two models side by side.

def responses(model, families, count, plain=False):
    """Return {family: texts}, a model's greedy responses to `count` test tasks of each family.

    plain: ask in plain text, see `plain_texts`."""
    texts = {}
    for name, family in families.items():
        prompts = [task.messages() for task in draw_tasks(family, "test", count)]
        texts[name] = (plain_texts(model, family, prompts) if plain
                       else generate_texts(model, prompts))
    return texts


def benchmarks(model, world, count, texts):
    """Return all rows of a model. The first are the accuracies of the families of `world`, of
    EVOLVED, and of recall among NOTES. texts: the model's `responses` for all of these."""
    families = world | EVOLVED | {f"recall: up to {n} notes": Recall(n) for n in NOTES}
    tasks = {name: draw_tasks(family, "test", count) for name, family in families.items()}
    rows = [row(name, map(family.check, tasks[name], texts[name]))
            for name, family in families.items()]
    rows += instruction_following(world["follow"], tasks["follow"], texts["follow"])
    rows += refusals(world["refuse"], tasks["refuse"], texts["refuse"])
    rows += tool_use(world["tools"], tasks["tools"], texts["tools"])
    rows += code_passes(model, world["code"], max(1, count // 4))  # 8 samples for each
    return [*rows, one_sample(model, world | EVOLVED, count)]


def rate_at_equal_length(wins, longer):
    """Return the win rate at equal length, in percent, and its 95% interval: [rate, low, high].

    wins: (N,), w = 1 for a win, 1/2 for a tie, 0 for a loss. longer: (N,), our length minus theirs,
    on any scale.
    A logistic regression predicts w from a constant and `longer`, x = (1, longer):
        g(beta) = sum x (w - p) - ridge * beta = 0,  p = sigmoid(x . beta)
    At equal length, x = (1, 0), the log odds are beta_0. (AlpacaEval 2.0 LC has a further term for
    each instruction's difficulty.) The ridge of 0.1, which shrinks the rate a little towards 50%,
    keeps beta finite if there are only wins, or only equal lengths.

    The covariance of beta is the sandwich H^-1 V H^-1, with
        H = sum p (1 - p) x x^T + ridge            (minus the derivative of g)
        V = sum v x x^T + ridge                    (the variance of g)
    where v is p (1 - p) for a win or a loss, as in H, but the smaller (1/2 - p)^2 for a tie. The
    ridge in V keeps the interval of nothing but ties from being a point. Without ties, V = H."""
    design = torch.stack((torch.ones_like(longer), longer), 1).double()  # (N, 2)
    ridge = 0.1 * torch.eye(2, dtype=torch.double)
    beta = ridge.new_zeros(2)
    for _ in range(20):  # Newton's method
        p = (design @ beta).sigmoid()
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge
        beta += torch.linalg.solve(hessian, design.T @ (wins - p) - ridge @ beta)
    v = torch.where(wins == 0.5, (0.5 - p) ** 2, p * (1 - p))
    first_row = torch.linalg.inv(hessian)[0]  # of H^-1
    variance = first_row @ ((design * v[:, None]).T @ design + ridge) @ first_row  # of beta_0
    half = 1.96 * variance.sqrt()
    log_odds = beta[0] + half * torch.tensor([0, -1, 1])  # of the rate, low and high
    return (100 * log_odds.sigmoid()).tolist()


def side_by_side(tasks, ours, theirs):
    """Compare two models' responses to the same pairs (family, task). A right response beats a
    wrong one. Otherwise, the higher sum of grades wins; equal sums are a tie. As one of the grades
    is for conciseness, of two right responses the shorter one can win.

    Returns rows of our wins, ties and losses, of our win rate at equal length, and of the tasks
    that only one of us solves. A difference in length enters the rate at equal length as
    tanh(characters / 50)."""
    def qualities(texts):
        return [(family.check(task, text), sum(family.grades(task, text).values()))
                for (family, task), text in zip(tasks, texts)]
    pairs = list(zip(qualities(ours), qualities(theirs)))
    # For each task 1 if we are better, 0 in a tie, -1 if they are. Tuples compare their first
    # entries; only if these are equal, the second ones.
    better = [(our > their) - (our < their) for our, their in pairs]
    only_right = [our[0] - their[0] for our, their in pairs]
    longer = torch.tensor([math.tanh((len(a) - len(b)) / 50) for a, b in zip(ours, theirs)])
    rate, low, high = rate_at_equal_length(0.5 + 0.5 * torch.tensor(better), longer)
    rows = [row(name, [x == value for x in better])
            for name, value in (("wins", 1), ("ties", 0), ("losses", -1))]
    return [*rows, ["wins at equal length", rate, f"{low:.1f} to {high:.1f}", len(better)],
            row("only we are right", [x == 1 for x in only_right]),
            row("only they are right", [x == -1 for x in only_right])]


def load_models(run, aligned, packed):
    """Return the models to evaluate, {name: model}. See `evaluation` for the arguments."""
    models = {"base": load_model(run, "lengthening"), "draft": load_model(run, "draft"),
              "sft": load_model(run, "sft"), "aligned": load_model(run, aligned)}
    if packed:
        models["quantized"] = load_model(run, "quantize", QuantizedAFM)
        models["recovered"] = load_model(run, "quantize", QuantizedAFM)
        adapter = lora.load_adapter(run.checkpoint("recovery"), models["recovered"])
        lora.attach(models["recovered"], adapter)
    return models


def evaluation(run, *, count=MAX_BENCHMARK, aligned="best2", packed=True, opponent=""):
    """Evaluate base, draft, sft, aligned and, if `packed`, quantized and recovered on test tasks.

    aligned: the stage of the aligned model. packed: evaluate the quantized model, too, without and
    with its recovery adapter. opponent: the folder of another run, such as the server's, whose
    models are compared side by side with those of this run."""
    world = all_families()
    families = world | EVOLVED
    asked = families | {f"recall: up to {n} notes": Recall(n) for n in NOTES}
    models, streams = load_models(run, aligned, packed), run.load(run.file("tokens.pt"))["held_out"]
    tables, texts = {}, {}  # model -> rows; model -> {family name: texts}
    for name, model in track(models.items(), "evaluation: models"):
        seed_step(run.seed, "evaluation", 0)  # the same for every model
        texts[name] = responses(model, asked, count, plain=name == "base")
        tables[name] = benchmarks(model, world, count, texts[name])
        tables[name].append(row("text: continuation of four", continuations(model, streams, 400)))
    tasks = [(family, task) for family in families.values()
             for task in draw_tasks(family, "test", count)]

    def flat(by_family):  # {family: texts} -> texts, in the order of the tasks
        return [text for name in families for text in by_family[name]]

    def against(ours, theirs):
        return side_by_side(tasks, flat(ours), flat(theirs))
    # best1 is the aligned model after the first of two rounds.
    one_round = responses(load_model(run, "best1"), families, count)
    comparisons = {"sft against draft": against(texts["sft"], texts["draft"]),
                   "aligned against sft": against(texts["aligned"], texts["sft"]),
                   "aligned against one round": against(texts["aligned"], one_round)}
    if opponent:
        for name, stage in (("base", "lengthening"), ("sft", "sft"), ("aligned", aligned)):
            other = load_model(Run(opponent, run.device), stage)
            other_texts = responses(other, families, count, plain=name == "base")
            comparisons[f"{name} against opponent"] = against(texts[name], other_texts)
    table = []  # rows [benchmark, then value and interval of each model, count]
    for rows in zip(*tables.values()):
        cells = [cell for _, value, interval, _ in rows for cell in (value, interval)]
        table.append([rows[0][0], *cells, rows[0][3]])
    means = {}
    for name, rows in tables.items():  # the first rows are the families' accuracies
        accuracies = [value for _, value, _, _ in rows[:len(families)]]
        means[f"{name} mean %"] = sum(accuracies) / len(families)
    return {"mean %": means["aligned mean %"], **means,
            **{f"{name} %": value for name, value, _, _ in comparisons["aligned against sft"]},
            "evaluation": table, **comparisons}
