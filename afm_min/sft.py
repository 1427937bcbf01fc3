"""Supervised fine-tuning (the report's sections 4.1 and 4.2): from a base model to an assistant.

    demonstrations  conversations that simulated people write; guards drop flawed ones, but not
                    hasty and wordy ones, which alignment corrects
    draft           a first model, trained on the demonstrations alone
    (synthetic      examples that the draft generates: see synthetic.py)
    mixture         a search for the sources' weights
    sft             the draft trained further with these weights; the best checkpoint is kept

From the report: loss on responses only, quality guards, the mixture search by w +- dw scored on
accuracy, a constant learning rate, dropout 0.1 in sft, and a checkpoint chosen by benchmarks.

Departures: the draft has no dropout, and its learning rate falls from step to step, since formats
and copying need a high rate, and arithmetic a low one. The search varies all weights at once, by a
two-level factorial design, and one of its sources is the demonstrations that the guards dropped. A
trial's score is the mean probability of the solutions of validation tasks. The report also chooses
checkpoints by best of N with the reward model; here that model comes later, and `align.best` uses
it.
"""
import collections
import copy
import random

import torch

from afm_min import chat, evaluate, guards
from afm_min.model import load_model, save_model
from afm_min.progress import track
from afm_min.trainer import cosine, fit, linear, seed_step
from afm_min.world import people
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED

# The draft's mixture. Families that take longer to learn have larger weights. "math" includes the
# evolved demonstrations.
MIXTURE = {"math": 8.0, "follow": 2.4, "tools": 4.0, "code": 2.8, "summary": 2.4, "compose": 2.4,
           "recall": 1.5, "refuse": 1.2, "unknown": 1.2}


# Demonstrations.

def demonstrations(run, *, count=4000, evolved=2000, flawed=0.15, guarded=True, unlikely=2.4,
                   similar=0.9999):
    """Write demonstrations, then filter them by the quality guards, whose model is the base model.
    Those that a guard drops become examples of a source "rejected".

    There are `count` of each family, `evolved` of each kind of evolved mathematics. flawed: the
    share of demonstrations with a flaw. guarded: if False, none is dropped, for comparison.
    unlikely, similar: see `guards.first_guards`. The table "guards" has a row for those without a
    flaw, and one for each flaw."""
    model = load_model(run, "lengthening")
    kept, rejected, texts = [], [], set()
    by_flaw = collections.defaultdict(list)  # flaw -> outcomes of the demonstrations that have it
    families = (*all_families(whole=True).values(), *EVOLVED.values())
    for family in track(families, "demonstrations: families"):
        n = evolved if family in EVOLVED.values() else count
        written = [people.write_demonstration(family, i, flawed) for i in range(n)]
        examples = [chat.example(family.name, d.messages, d.response) for d in written]
        rng = random.Random(f"raters {family.name}")
        well_rated = [people.well_rated(family.grades(d.task, d.response), rng) for d in written]
        outcomes = ["kept"] * len(examples)
        if guarded:
            outcomes = guards.first_guards(examples, well_rated, model, unlikely, similar)
        for d, example, outcome in zip(written, examples, outcomes):
            text = f"{d.messages} {d.response}"
            # One that repeats an earlier one by chance counts as copied, too.
            by_flaw["copied" if text in texts else d.flaw].append(outcome)
            texts.add(text)
            if outcome == "kept":
                kept.append(example)
            else:
                rejected.append(example | {"source": "rejected"})
    run.write_lines("demonstrations", kept)
    run.write_lines("rejected", rejected)
    table = [guards.table_row(flaw or "none", by_flaw[flaw]) for flaw in ("", *people.FLAWS)]
    return {"examples": len(kept), "guards": table}


# The draft.

def draft(run, *, steps=4000, batch_size=40, lr=0.008, matrix_scale=0.4, warmup=400,
          mixture=MIXTURE, count=50):
    """Fine-tune the base model on the demonstrations, with a learning rate that falls to 0.

    The warm-up is long and `matrix_scale` below 1. Else the model could unlearn how to look up one
    of several facts before it has learned the format of chats."""
    model = load_model(run, "lengthening")
    batches = chat.batches(chat.read_examples(run, model, synthetic=False), mixture, batch_size)
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, schedule=linear(steps, warmup),
        matrix_scale=matrix_scale, run=run, stage="draft")
    save_model(run, "draft", model)
    return evaluate.validation(model, count)


# The mixture.

def read_sources(run, model, synthetic=True):
    """Return the sources of `chat.read_examples`, and "rejected", the demonstrations dropped."""
    rejected = chat.render_examples(run.read_lines("rejected", stage="demonstrations"), model)
    return chat.read_examples(run, model, synthetic) | rejected


def solution_probabilities(model, conversations):
    """Return, for each conversation, the probability that the model at temperature 1 samples all
    its assistant turns, each after the turns before it: (N,). The mean over solved tasks is a
    smooth measure of accuracy, computed without sampling."""
    counts = torch.stack([loss_mask.sum() for _, loss_mask in conversations])  # (N,)
    return torch.exp(-counts * chat.conversation_losses(model, conversations))


def factorial_design(names):
    """Return a two-level design, a list of runs {name: +1 or -1}. Of the runs in which one name has
    +1, half have +1 for any other name, so one name's effect does not bias another's.

    Row i of a Hadamard matrix is run i, and column j the signs of the j-th name, from 1 on. The
    entry is -1 if i and j have an odd number of common bits. With three names, in runs 0 to 3:
        ["a", "b", "c"] -> a + - + -,  b + + - -,  c + - - +"""
    num_runs = 2 ** len(names).bit_length()  # the least power of 2 above the number of names
    return [{name: -1 if (i & j).bit_count() % 2 else 1 for j, name in enumerate(names, 1)}
            for i in range(num_runs)]


def ascend(score, weights, rounds, dw):
    """Find weights that raise a score, by the report's perturbation of each weight w to w +- dw.

    In each round:
        score all runs of a factorial design, in which each weight is (1 + dw) w or (1 - dw) w
        effect of a weight = mean score of the runs with more of it - mean score of those with less
        move all weights: w <- w (1 + dw)^(effect / largest effect), then scale their mean to 1
        dw <- dw / 2
    With dw = 0.5 and effects 2 and -1, the weights are multiplied by 1.5 and 1.5^(-1/2).

    score: a function of weights and the number of the round. Returns the weights, and the trace: a
    row [round, name, weight, score with more, score with less] for each weight in each round."""
    trace = []
    for number in range(1, rounds + 1):
        runs = factorial_design(weights)
        scores = [score({name: w * (1 + sign[name] * dw) for name, w in weights.items()}, number)
                  for sign in track(runs, "mixture: trials")]
        effects = {}
        for name, weight in weights.items():
            # Half of the runs have more of it, half have less.
            more = sum(x for x, sign in zip(scores, runs) if sign[name] > 0) / (len(runs) / 2)
            less = sum(x for x, sign in zip(scores, runs) if sign[name] < 0) / (len(runs) / 2)
            effects[name] = more - less
            trace.append([number, name, weight, more, less])
        largest = max(map(abs, effects.values())) or 1.0  # if there is no effect, nothing moves
        moved = {name: w * (1 + dw) ** (effects[name] / largest) for name, w in weights.items()}
        mean = sum(moved.values()) / len(moved)
        weights = {name: w / mean for name, w in moved.items()}
        dw /= 2
    return weights, trace


def mixture(run, *, rounds=3, dw=0.75, steps=8, batch_size=24, lr=0.002, count=60, seeds=2,
            longer=3):
    """Find weights of the sources so that a little training of the draft gives the highest accuracy
    on validation tasks. The search starts from equal weights.

    The accuracy is the mean of `solution_probabilities`, as greedy accuracy moves in steps too
    coarse for so few tasks. `ascend` scores weights by a training of `steps` steps, with the same
    random numbers in all trainings of a round. The learning rate falls to 0, as trainings at a
    constant rate differ more by chance than by their weights. At the end, the result is compared
    with equal weights, by `seeds` trainings of `longer` * `steps` steps with each, on tasks that
    the search has not seen. The 95% interval is over these tasks."""
    model = load_model(run, "draft")
    sources = read_sources(run, model)
    examples = [chat.example("validation", task.messages(), task.solution)
                for _, task in evaluate.validation_tasks(count, whole=True)]
    conversations = chat.render_examples(examples, model)["validation"]
    searched, unseen = conversations[::3], [x for i, x in enumerate(conversations) if i % 3]

    def accuracies(weights, conversations, seed, steps):
        """Return each conversation's solution probability after training: (N,)."""
        trained = copy.deepcopy(model)
        fit(trained, chat.batches(sources, weights, batch_size), chat.response_loss,
            steps=steps, lr=lr, schedule=linear(steps, warmup=2), quiet=True,
            # `fit` seeds all trainings alike, so seed each step again.
            on_step=lambda step: seed_step(run.seed, f"mixture {seed}", step))
        return solution_probabilities(trained, conversations)

    def score(weights, number):
        return accuracies(weights, searched, number, steps).mean().item()
    equal = dict.fromkeys(sources, 1.0)
    weights, trace = ascend(score, equal, rounds, dw)
    # One gain for each task, (N,). The search has used the seeds 1 to `rounds`.
    gains = 100 * sum(accuracies(weights, unseen, seed, longer * steps)
                      - accuracies(equal, unseen, seed, longer * steps)
                      for seed in range(rounds + 1, rounds + 1 + seeds)) / seeds
    run.write_json("mixture.json", weights)
    return {"gain over equal weights %": gains.mean().item(),
            "interval": f"+-{1.96 * gains.std().item() / len(gains) ** 0.5:.2f}",
            "weights": [[name, weight] for name, weight in weights.items()], "trace": trace}


# Fine-tuning.

def sft(run, *, steps=300, batch_size=24, lr=0.0002, dropout=0.1, synthetic=True, checkpoints=2,
        count=50):
    """Fine-tune the draft with the weights that the stage mixture found. Rejected demonstrations
    are left out if their weight is below 1, the mean.

    Of `checkpoints` evenly spaced checkpoints, keep the one with the highest accuracy on validation
    tasks. synthetic: use synthetic examples, too."""
    model, weights = load_model(run, "draft"), run.read_json("mixture.json")
    sources = read_sources(run, model, synthetic)
    if weights.get("rejected", 0) < 1:
        sources.pop("rejected", None)
    batches = chat.batches(sources, weights, batch_size)
    candidates = sorted({steps * (i + 1) // checkpoints for i in range(checkpoints)} - {0})
    for block in model.blocks:
        block.dropout = dropout

    def save_candidate(step):
        if step in candidates:
            save_model(run, f"sft-{step}", model)
    # With a floor of 1.0, the learning rate is constant after the warm-up.
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, run=run, stage="sft",
        schedule=cosine(steps, warmup=20, floor=1.0), on_step=save_candidate)
    save_candidate(steps)  # `fit` calls on_step before each step, so not after the last one
    metrics = {step: evaluate.validation(load_model(run, f"sft-{step}"), count)
               for step in candidates}
    best = max(candidates, key=lambda step: metrics[step]["mean %"])
    save_model(run, "sft", load_model(run, f"sft-{best}"))
    return metrics[best] | {"checkpoint": best, "checkpoints": [
        [step, metrics[step]["mean %"]] for step in candidates]}
