"""Supervised fine-tuning (the report's section 4.2): from a model of text to one that answers.

    draft      a first model of the demonstrations alone, which can write examples of its own
    mixture    how much of each source to train on, found by perturbation
    sft        the draft trained on with all of it, and the best of its checkpoints

Kept from the report: loss on the response only, a constant learning rate and dropout 0.1 in sft,
the search for the mixture, and the choice of a checkpoint by greedy accuracy and by the best of
several samples. Found here: at a high rate formats and copying are learned fast, but arithmetic
only once it falls; and dropout in that fast phase costs the tools up to 18 points. So the draft has
two rates and no dropout.
"""
import copy

from afm_min import chat, evaluate
from afm_min.world.tasks import EVOLVED
from afm_min.trainer import cosine, fit, seed_step
from afm_min.model import load_model, save_model
from afm_min.run import UserError

# Shares of the draft's conversations: most to what needs most of them to reach nine in ten. With
# more, summaries and recall hardly get better, and mathematics only in the slow phase.
MIXTURE = {"math": 1.6, "follow": 3.2, "tools": 2.8, "code": 2.6, "summary": 0.4, "recall": 0.2,
           "refuse": 1.2}


def draft(run, *, steps=1200, fast=960, batch=32, lr=0.005, slow=0.25, mixture=MIXTURE):
    """A first model, tuned on the demonstrations alone: `fast` steps at the full rate, the others
    at `slow` of it."""
    model = load_model(run, "lengthening")
    sources = chat.read_examples(run, model, synthetic=False)

    def schedule(step):
        return min((step + 1) / 20, slow if step >= fast else 1.0)
    fit(model, chat.batches(sources, mixture, batch), chat.response_loss, steps=steps, lr=lr,
        schedule=schedule, run=run, stage="draft")
    save_model(run, "draft", model)
    return evaluate.validation(model, chat.toy_world(run))


def ascend(score, judge, weights, rounds, dw):
    """Find weights by the report's perturbation: each is tried at (1 + dw) and (1 - dw) of itself,
    which gives its slope, the difference of their scores; then each moves by a factor of (1 + dw)
    to the power of its slope over the steepest. If the judge finds that no better than before, all
    stay where they were and dw is halved.

    score, judge: weights -> a number to be raised; the judge's may cost more. Returns the weights,
    and the trace: a row [round, name, weight, score with more, score with less] for each trial, and
    after each round [round, "all", dw, the judge's of the move, and of before]."""
    trace, at = [], judge(weights)
    for number in range(1, rounds + 1):
        slopes = {}
        for name, weight in weights.items():
            more, less = (score(weights | {name: weight * (1 + sign * dw)}) for sign in (1, -1))
            slopes[name] = more - less
            trace.append([number, name, weight, more, less])
        steepest = max(map(abs, slopes.values())) or 1.0
        moved = {name: w * (1 + dw) ** (slopes[name] / steepest) for name, w in weights.items()}
        after = judge(moved)
        trace.append([number, "all", dw, after, at])
        weights, at, dw = (moved, after, dw) if after > at else (weights, at, dw / 2)
    return weights, trace


def mixture(run, *, rounds=1, dw=0.5, steps=24, batch=24, lr=0.002, count=48, seeds=2, longer=2):
    """Weights of all sources, found from equal ones: they are to lower the mean loss of the draft,
    trained a little with them, on validation conversations.

    Slopes come from runs of a few steps, all with the same draws. What such luck suggests is mostly
    no better with others: so a move is judged by `seeds` runs `longer` times as long, and what was
    found is compared with equal weights in as many more, on conversations that the search has not
    seen. The interval is over these, of each the mean gain."""
    start = load_model(run, "draft")
    sources = chat.read_examples(run, start)
    examples = (chat.example("validation", task.messages(), task.solution)
                for _, task in chat.validating(run, count))
    validated = chat.by_source(examples, start)["validation"]
    searched, unseen = validated[::2], validated[1::2]

    def trained(weights, conversations, draws, steps):
        """The loss of each conversation, (N,), the mean over runs with these draws."""
        losses = 0
        for number in draws:
            model, draw = copy.deepcopy(start), chat.batches(sources, weights, batch)

            def seeded(step):
                seed_step(run.seed, f"mixture {number}", step)
                return draw(step)
            fit(model, seeded, chat.response_loss, steps=steps, lr=lr, quiet=True)
            losses += chat.losses(model, conversations) / len(draws)
        return losses

    def score(weights):
        return -trained(weights, searched, [0], steps).mean().item()

    def judge(weights):
        return -trained(weights, searched, range(1, 1 + seeds), longer * steps).mean().item()
    equal = dict.fromkeys(sources, 1.0)
    found, trace = ascend(score, judge, equal, rounds, dw)
    before, after = (trained(weights, unseen, range(1 + seeds, 1 + 2 * seeds), longer * steps)
                     for weights in (equal, found))
    gains = before - after  # (N,)
    half = 1.96 * gains.std().item() / len(gains) ** 0.5
    run.write_json("mixture.json", found)
    return {"gain over equal weights, nats": gains.mean().item(), "interval": f"+-{half:.4f}",
            "weights": list(map(list, found.items())), "trace": trace}


def sft(run, *, steps=600, batch=24, lr=0.001, dropout=0.1, synthetic=True, checkpoints=2,
        count=40):
    """The draft trained on, with the mixture that was found. Of some checkpoints on the way the one
    is kept that has the highest sum of two validation accuracies: greedy, and of the best of 4
    samples, as the checkers pick it. synthetic: whether the model's own examples are in it."""
    model, found = load_model(run, "draft"), run.read_json("mixture.json")
    if not found:
        raise UserError(f"there is no {run.file('mixture.json')}: run the stage mixture first")
    draw = chat.batches(chat.read_examples(run, model, synthetic), found, batch)
    at = sorted({steps * (i + 1) // checkpoints for i in range(checkpoints)} - {0})
    for block in model.blocks:
        block.dropout = dropout

    def watched(step):
        if step in at:
            save_model(run, f"sft-{step}", model)
        return draw(step)
    fit(model, watched, chat.response_loss, steps=steps, lr=lr, run=run, stage="sft",
        schedule=cosine(steps, 20, floor=1.0))  # constant, once warm
    save_model(run, f"sft-{steps}", model)
    seed_step(run.seed, "checkpoints", 0)
    families, tried = chat.toy_world(run) | EVOLVED, []
    for step in at:
        model = load_model(run, f"sft-{step}")
        tried.append([step, *(evaluate.validation(model, families, max(1, count // 4), n)["mean %"]
                              for n in (1, 4))])
    chosen = max(tried, key=lambda row: row[1] + row[2])[0]
    model = load_model(run, f"sft-{chosen}")
    save_model(run, "sft", model)
    shares = evaluate.validation(model, families, count)
    return {"checkpoint": chosen, "checkpoints": tried} | shares
