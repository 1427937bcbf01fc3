"""Supervised fine-tuning (the report's sections 4.1 and 4.2): from a model of text to an assistant.

    demonstrations  conversations that people write, and the guards that drop careless ones
    draft           a first model, trained on the demonstrations alone
    (synthetic      examples that the draft generates: see synthetic.py)
    mixture         a search for the sources' weights
    sft             the draft trained further with these weights; the best checkpoint is kept

From the report: loss on responses only, quality guards, the mixture search by w +- dw scored on
accuracy, a constant learning rate, dropout 0.1 in sft, and the choice of a checkpoint by greedy
accuracy and best-of-4 accuracy. Departures: the draft has no dropout, and its learning rate is
lower in the last steps, since arithmetic is learned only then; the checkers, not a reward model,
pick the best of 4.
"""
import collections
import copy
import random

from afm_min import chat, evaluate, guards
from afm_min.data import corpus
from afm_min.model import load_model, save_model
from afm_min.trainer import cosine, fit, seed_step
from afm_min.world import people
from afm_min.world.tasks import EVOLVED

# The draft's mixture. Families that take longer to learn have larger weights.
MIXTURE = {"math": 1.6, "follow": 3.2, "tools": 2.8, "code": 2.6, "summary": 0.4, "recall": 0.2,
           "refuse": 1.2}


# Demonstrations.

def demonstrations(run, *, count=2000, evolved=100, flawed=0.15, unlikely=2.4, similar=0.9999):
    """Write demonstrations, then filter them by the quality guards, whose model is the base model.
    Those that a guard drops become examples of a source "rejected".

    There are `count` of each family, `evolved` of each kind of evolved mathematics. flawed: share
    of them that are written with a flaw. unlikely, similar: see `guards.first_guards`. The table
    "guards" has a row for each flaw."""
    model, kept, rejected = load_model(run, "lengthening"), [], []
    by_flaw, texts = collections.defaultdict(list), set()  # by_flaw: flaw -> outcomes
    for family in (*corpus.toy_world(run, whole=True).values(), *EVOLVED.values()):
        n = evolved if family in EVOLVED.values() else count
        written = [people.write_demonstration(family, i, flawed) for i in range(n)]
        examples = [chat.example(family.name, d.messages, d.response) for d in written]
        rng = random.Random(f"raters {family.name}")
        well_rated = [people.well_rated(family.grades(d.task, d.response), rng) for d in written]
        outcomes = guards.first_guards(examples, well_rated, model, unlikely, similar)
        for d, example, outcome in zip(written, examples, outcomes):
            text = f"{d.messages} {d.response}"
            flaw = "copied" if text in texts else d.flaw  # a repetition by chance counts, too
            by_flaw[flaw].append(outcome)
            texts.add(text)
            if outcome == "kept":
                kept.append(example)
            else:
                rejected.append(example | {"source": "rejected"})
    run.write_lines("demonstrations", kept)
    run.write_lines("rejected", rejected)
    return {"examples": len(kept), "guards": [guards.table_row(flaw or "none", by_flaw[flaw])
                                              for flaw in ("", *people.FLAWS)]}


# Fine-tuning.

def draft(run, *, steps=1200, fast=960, batch_size=32, lr=0.005, slow=0.25, mixture=MIXTURE):
    """Fine-tune the base model on the demonstrations.

    The learning rate warms up over 20 steps, and is multiplied by `slow` after `fast` steps."""
    model = load_model(run, "lengthening")
    batches = chat.batches(chat.read_examples(run, model, synthetic=False), mixture, batch_size)
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, run=run, stage="draft",
        schedule=lambda step: min((step + 1) / 20, slow if step >= fast else 1.0))
    save_model(run, "draft", model)
    return evaluate.validation(model, corpus.toy_world(run))


def ascend(score, accept_score, weights, rounds, dw):
    """Find weights that raise a score, by the report's perturbation.

    In each round:
        try each weight w at (1 + dw) w and at (1 - dw) w: its slope is the difference of the scores
        move all weights: w <- w (1 + dw)^(slope / steepest slope)
        if that does not raise `accept_score`, undo the move and halve dw
    With dw = 0.5 and slopes 2 and -1, the weights are multiplied by 1.5 and 1.5^(-1/2).
    `accept_score` may be slower and more precise than `score`.

    Returns the weights, and the trace: a row [round, name, weight, score with more, with less] for
    each weight, and then, for each round, [round, "all", dw, accept_score after, before]."""
    trace, current = [], accept_score(weights)
    for number in range(1, rounds + 1):
        slopes = {}
        for name, weight in weights.items():
            more = score(weights | {name: weight * (1 + dw)})
            less = score(weights | {name: weight * (1 - dw)})
            slopes[name] = more - less
            trace.append([number, name, weight, more, less])
        steepest = max(map(abs, slopes.values())) or 1.0
        moved = {name: w * (1 + dw) ** (slopes[name] / steepest) for name, w in weights.items()}
        after = accept_score(moved)
        trace.append([number, "all", dw, after, current])
        if after > current:
            weights, current = moved, after
        else:
            dw /= 2
    return weights, trace


def mixture(run, *, rounds=1, dw=0.5, steps=24, batch_size=24, lr=0.002, count=48, seeds=2,
            longer=2):
    """Find weights of the sources so that a little training of the draft gives the lowest mean loss
    on validation conversations. The search starts from equal weights.

    `ascend` tries each weight with a run of `steps` steps, and accepts a move by the mean of
    `seeds` runs of `longer` * `steps` steps. At the end, the result is compared with equal weights
    by as many runs with other seeds, on conversations that the search has not seen. The 95%
    interval is over these conversations."""
    model = load_model(run, "draft")
    sources = chat.read_examples(run, model)
    examples = [chat.example("validation", task.messages(), task.solution)
                for _, task in evaluate.validation_tasks(run, count)]
    conversations = chat.render_examples(examples, model)["validation"]

    searched, unseen, equal = conversations[::2], conversations[1::2], dict.fromkeys(sources, 1.0)
    accept_seeds, test_seeds = range(1, 1 + seeds), range(1 + seeds, 1 + 2 * seeds)

    def losses(weights, conversations, seeds, steps):
        """Return each conversation's loss after training, the mean over seeds: (N,)."""
        total = 0
        for seed in seeds:
            trained = copy.deepcopy(model)
            fit(trained, chat.batches(sources, weights, batch_size), chat.response_loss,
                steps=steps, lr=lr, quiet=True,  # `fit` seeds all runs alike: seed again
                on_step=lambda step: seed_step(run.seed, f"mixture {seed}", step))
            total += chat.conversation_losses(trained, conversations) / len(seeds)
        return total
    weights, trace = ascend(
        lambda weights: -losses(weights, searched, [0], steps).mean().item(),
        lambda weights: -losses(weights, searched, accept_seeds, longer * steps).mean().item(),
        equal, rounds, dw)
    gains = (losses(equal, unseen, test_seeds, longer * steps)
             - losses(weights, unseen, test_seeds, longer * steps))  # (N,)
    run.write_json("mixture.json", weights)
    return {"gain over equal weights, nats": gains.mean().item(),
            "interval": f"+-{1.96 * gains.std().item() / len(gains) ** 0.5:.4f}",
            "weights": list(map(list, weights.items())), "trace": trace}


def sft(run, *, steps=600, batch_size=24, lr=0.001, dropout=0.1, synthetic=True, checkpoints=2,
        count=40):
    """Fine-tune the draft with the mixture that the stage mixture found.

    Of `checkpoints` evenly spaced checkpoints, keep the one with the highest sum of two validation
    accuracies: greedy, and best of 4 samples. synthetic: use synthetic examples, too."""
    model, weights = load_model(run, "draft"), run.read_json("mixture.json")
    batches = chat.batches(chat.read_examples(run, model, synthetic), weights, batch_size)
    candidates = sorted({steps * (i + 1) // checkpoints for i in range(checkpoints)} - {0})
    for block in model.blocks:
        block.dropout = dropout

    def save_candidate(step):
        if step in candidates:
            save_model(run, f"sft-{step}", model)
    # With a floor of 1.0, the learning rate is constant after the warm-up.
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, run=run, stage="sft",
        schedule=cosine(steps, warmup=20, floor=1.0), on_step=save_candidate)
    save_candidate(steps)  # on_step is not called after the last step
    seed_step(run.seed, "checkpoints", 0)
    world, table = corpus.toy_world(run) | EVOLVED, []  # table: rows [step, greedy, best of 4]
    for step in candidates:
        model = load_model(run, f"sft-{step}")
        table.append([step] + [evaluate.validation(model, world, max(1, count // 4), n)["mean %"]
                               for n in (1, 4)])
    best, _, _ = max(table, key=lambda row: row[1] + row[2])
    model = load_model(run, f"sft-{best}")
    save_model(run, "sft", model)
    return {"checkpoint": best, "checkpoints": table} | evaluate.validation(model, world, count)
