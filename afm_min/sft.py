"""Supervised fine-tuning (the report's section 4.2): from a model of text to one that answers.

    demonstrations  what people would write, some of them carelessly; guards drop what is bad
    draft           a first model of these alone, which can write examples of its own (synthetic.py)
    mixture         how much of each kind to train on, found by perturbation
    sft             the draft trained on with all of it, and the best of its checkpoints

Kept from the report: loss on the response only, a constant learning rate, dropout 0.1, guards by
rating, by a model and by embeddings, and the choice of a checkpoint by benchmark and best-of-N.
"""
import collections
import copy
import json
import random

import torch
from torch import nn

from afm_min import corpus, evaluate, families, pretrain, tasks
from afm_min.fit import fit, seed_step
from afm_min.model import load_model, save_model
from afm_min.run import UserError, write_text
from afm_min.tokenizer import DOCUMENT, Tokenizer

# Shares of the conversations. To begin with by how much each family needs to be learned at all.
MIXTURE = {"math": 1.2, "follow": 1.2, "tools": 2.0, "code": 1.0, "summary": 0.6, "recall": 0.3,
           "refuse": 0.7}
FLAWS = ("wrong", "wordy", "garbled", "copied")  # of demonstrations
GUARDS = ("rating", "model", "copy", "kept")  # what becomes of one


def render(messages, tokenizer):
    """A conversation's ids, (T,), and of each its weight in the loss, (T,): 1 where the assistant
    has to say it, its end token included, and 0 elsewhere."""
    ids, weights = [], []
    for message in messages:
        turn = tokenizer.encode_chat([message])
        ids += turn
        weights += [0.0] + [float(message["role"] == "assistant")] * (len(turn) - 1)
    return torch.tensor(ids), torch.tensor(weights)


def response_loss(model, batch):
    """The language-model loss of the tokens that have weight: ids, weight (B, T + 1). Logits of
    the others are not computed, which is two thirds of them."""
    weight, targets = batch["weight"][:, 1:], batch["ids"][:, 1:]
    said = weight > 0
    logits = model.logits(model.states(batch["ids"][:, :-1])[said])  # (N, V)
    cross_entropy, z_loss = pretrain.token_losses(logits[None], targets[said][None])
    return {"loss": (weight[said] * (cross_entropy + z_loss)).sum(), "count": weight.sum()}


def pad(conversations):
    """Pairs (ids, weights) as a batch, padded at the right with what has no weight."""
    ids, weight = (nn.utils.rnn.pad_sequence(x, batch_first=True) for x in zip(*conversations))
    return {"ids": ids, "weight": weight}


def batches(sources, mixture, rows, among=4):
    """A function from step to a batch of `rows` conversations, of like lengths so that little of
    it is padding: those drawn are `among` times as many, and a stretch of them in order is taken.

    sources: name -> list of pairs (ids, weights). mixture: name -> share of the conversations."""
    names = [name for name in sources if mixture.get(name, 0) > 0]
    if not names:
        raise UserError(f"the mixture {mixture} names none of {', '.join(sources)}")
    shares = torch.tensor([float(mixture[name]) for name in names])

    def batch(step):
        drawn = [sources[names[i]] for i in torch.multinomial(shares, among * rows, True)]
        drawn = [source[torch.randint(len(source), ())] for source in drawn]
        start = rows * torch.randint(among, ()).item()
        return pad(sorted(drawn, key=lambda pair: len(pair[0]))[start:start + rows])
    return batch


def tune(run, stage, model, sources, mixture, *, steps, rows, lr, dropout,
         schedule=lambda step: 1.0, watch=None):
    """The loop of all stages here. watch(step): called before each step."""
    for block in model.blocks:
        block.dropout = dropout
    draw = batches(sources, mixture, rows)

    def watched(step):
        if watch:
            watch(step)
        return draw(step)
    fit(model, watched, response_loss, steps=steps, lr=lr, run=run, stage=stage, schedule=schedule)


def toy_world(run):
    """The families, with the run's own web pages to search."""
    return families.families({d["name"]: d["text"] for d in corpus.read(run)
                              if d["source"] == "web" and not d["held_out"]})


def write_examples(run, stage, examples):
    write_text(run.file(f"{stage}.jsonl"), "".join(json.dumps(e) + "\n" for e in examples))


def read_examples(run, stage, tokenizer):
    """Source -> list of pairs (ids, weights), of what a stage wrote."""
    sources = {}
    try:
        with open(run.file(f"{stage}.jsonl"), encoding="utf-8") as file:
            for example in map(json.loads, file):
                sources.setdefault(example["source"], []).append(
                    render(example["messages"], tokenizer))
    except FileNotFoundError:
        raise UserError(f"{run.path} has no {stage}.jsonl: run the stage {stage} first") from None
    return sources


def example(source, messages, response):
    return {"source": source,
            "messages": [*messages, {"role": "assistant", "content": response}]}


def demonstration(family, i, flawed):
    """The i-th example that people write for a family, as problem, messages, response, and its
    flaw, "" in most: the response belongs to another problem, or says everything twice; or the
    letters of the question are in disorder, or it was given before."""
    rng, problem = random.Random(f"{family.name} {i}"), tasks.draw(family, "train", i)
    flaw = rng.choice(FLAWS) if i and rng.random() < flawed else ""
    if flaw == "copied":
        return *demonstration(family, rng.randrange(max(0, i - 50), i), 0)[:3], flaw
    messages, response = problem.messages(), problem.worked
    if flaw == "wrong":
        response = tasks.draw(family, "train", i + 1).worked
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        messages = [m if m["role"] != "user" else m | {"content": " ".join(
            "".join(rng.sample(word, len(word))) for word in m["content"].split())}
            for m in messages]
    return problem, messages, response, flaw


def rated(family, problem, response, rng, raters=3, noise=0.1):
    """Whether people find a response good: of each grade the mean over raters must be above 1,
    each of whom gives, one time in `noise`, any grade."""
    return all(sum(rng.randint(0, 2) if rng.random() < noise else grade for _ in range(raters))
               > raters for grade in family.grades(problem, response).values())


@torch.no_grad()
def read_texts(model, tokenizer, texts, rows=64):
    """What a model makes of texts: the mean of its last layer's states, of length 1, (N, C), and
    its loss per token, (N,)."""
    ids = [torch.tensor([tokenizer.special(DOCUMENT), *tokenizer.encode(text)]) for text in texts]
    means, losses = torch.zeros(len(ids), model.config.dim), torch.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for part in (order[i:i + rows] for i in range(0, len(order), rows)):
        padded = pad([(ids[i], torch.ones(len(ids[i]))) for i in part])
        padded = {name: x.to(model.embedding.device) for name, x in padded.items()}
        said, states = padded["weight"][:, 1:], model.states(padded["ids"][:, :-1])
        loss, _ = pretrain.token_losses(model.logits(states), padded["ids"][:, 1:])
        losses[part] = ((loss * said).sum(1) / said.sum(1)).cpu()
        means[part] = nn.functional.normalize((states * said[..., None]).sum(1).float()).cpu()
    return means, losses


def demonstrations(run, *, count=2000, flawed=0.15, unlikely=3.0, similar=0.9999):
    """Examples of each family, and what the three guards leave of them.

    Dropped is, in this order: what raters find bad; a question that the base model finds more than
    `unlikely` times as surprising as is usual in its family; and what has a cosine of more than
    `similar` to an earlier example, by the base model's hidden states. (In a world of templates
    different problems look much alike: at 0.995 half of all would go.)"""
    model, kept = load_model(run, "lengthening"), []
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    fates = collections.Counter()  # (flaw, what became of it) -> examples
    for name, family in toy_world(run).items():
        rng = random.Random(f"raters {name}")
        written = [demonstration(family, i, flawed) for i in range(count)]
        asked = ["\n".join(m["content"] for m in messages if m["role"] == "user")
                 for _, messages, _, _ in written]
        all_of_it = ["\n".join(m["content"] for m in [*messages, {"content": response}])
                     for _, messages, response, _ in written]
        surprise = read_texts(model, tokenizer, asked)[1]
        means = read_texts(model, tokenizer, all_of_it)[0]
        alike = ((means @ means.T).tril(-1) > similar).any(1)
        for i, (problem, messages, response, flaw) in enumerate(written):
            fate = ("rating" if not rated(family, problem, response, rng) else
                    "model" if surprise[i] > unlikely * surprise.median() else
                    "copy" if alike[i] else "kept")
            fates[flaw, fate] += 1
            if fate == "kept":
                kept.append(example(name, messages, response))
    write_examples(run, "demonstrations", kept)
    return {"examples": len(kept), "guards": [
        [flaw or "none", sum(fates[flaw, fate] for fate in GUARDS), *(fates[flaw, fate] for fate in GUARDS)]
        for flaw in ("", *FLAWS)]}


def draft(run, *, steps=750, fast=500, rows=24, lr=0.008, slow=0.25, dropout=0.0, mixture=MIXTURE):
    """A first model, tuned on the demonstrations alone. The learning rate is constant, but for one
    fall to `slow` of it after `fast` steps."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    model = load_model(run, "lengthening")
    tune(run, "draft", model, read_examples(run, "demonstrations", tokenizer), mixture,
         steps=steps, rows=rows, lr=lr, dropout=dropout,
         schedule=lambda step: min(1.0, (step + 1) / 20) if step < fast else slow)
    save_model(run, "draft", model)
    return validation(run, model.eval(), tokenizer)


def validation(run, model, tokenizer, count=50):
    """Percent of each family's validation problems that a model gets right, and their mean."""
    results = evaluate.accuracy(model, tokenizer, toy_world(run), "validation", count)
    shares = {f"{name} %": 100 * sum(right) / count for name, right in results.items()}
    return {"mean %": sum(shares.values()) / len(shares)} | shares


@torch.no_grad()
def losses(model, conversations):
    """The loss per response token of each conversation: a list of pairs -> (N,)."""
    found = []
    for part in (conversations[i:i + 64] for i in range(0, len(conversations), 64)):
        batch = {name: x.to(model.embedding.device) for name, x in pad(part).items()}
        weight = batch["weight"][:, 1:]
        loss, _ = pretrain.token_losses(model(batch["ids"][:, :-1]), batch["ids"][:, 1:])
        found.append(((loss * weight).sum(1) / weight.sum(1)).cpu())
    return torch.cat(found)


def held_back(run, tokenizer, count):
    """Validation conversations of each family and each kind of mathematics, as pairs."""
    everything = [*toy_world(run).values(), *map(tasks.Math, tasks.KINDS)]
    return [render(example("", problem.messages(), problem.worked)["messages"], tokenizer)
            for family in everything for problem in evaluate.problems(family, "validation", count)]


def ascend(score, weights, rounds, dw):
    """Find weights by the report's perturbation: each is tried at (1 + dw) and (1 - dw) of itself,
    then all move by a factor of up to 1 + dw to the side that scored better, by how much more; if
    that is no better than where they were, they stay and dw is halved.

    score: weights -> a number to be raised. Returns the weights, and the trace: a row
    [round, name, weight, score with more, score with less] for each trial, and after each round
    [round, "all", dw, score of the move, score before]."""
    trace, at = [], score(weights)
    for number in range(1, rounds + 1):
        slopes = {}
        for name, weight in weights.items():
            more, less = (score(weights | {name: weight * (1 + sign * dw)}) for sign in (1, -1))
            slopes[name] = more - less
            trace.append([number, name, weight, more, less])
        steepest = max(map(abs, slopes.values())) or 1.0
        moved = {name: weight * (1 + dw) ** (slopes[name] / steepest)
                 for name, weight in weights.items()}
        after = score(moved)
        trace.append([number, "all", dw, after, at])
        if after > at:
            weights, at = moved, after
        else:
            dw /= 2
    return weights, trace


def mixture(run, *, rounds=2, dw=0.5, steps=15, rows=24, lr=0.002, count=16, seeds=3):
    """Weights of all sources, found from equal ones: of the draft, trained for a few steps with the
    same draws each time, the mean loss on validation conversations is to fall."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    sources = read_examples(run, "demonstrations", tokenizer)
    sources |= read_examples(run, "synthetic", tokenizer)
    validated, weights = held_back(run, tokenizer, count), dict.fromkeys(sources, 1.0)
    draft = load_model(run, "draft")

    def trained(weights, seed, steps):
        model, draw = copy.deepcopy(draft), batches(sources, weights, rows)
        fit(model, lambda step: (seed_step(seed, "mixture", step), draw(step))[1], response_loss,
            steps=steps, lr=lr, quiet=True)
        return losses(model.eval(), validated)

    found, trace = ascend(lambda w: -trained(w, run.seed, steps).mean().item(), weights, rounds, dw)
    gains = torch.cat([trained(weights, seed, 4 * steps) - trained(found, seed, 4 * steps)
                       for seed in range(run.seed + 1, run.seed + 1 + seeds)])
    half = 1.96 * gains.std().item() / len(gains) ** 0.5
    run.write_json("mixture.json", found)
    return {"gain over equal weights, nats": gains.mean().item(), "interval": f"+-{half:.4f}",
            "weights": [[name, weight] for name, weight in found.items()], "trace": trace}


def sft(run, *, steps=500, rows=24, lr=0.002, dropout=0.1, synthetic=True, checkpoints=4):
    """The draft trained on, with the mixture that was found; of some checkpoints on the way the one
    is taken whose validation accuracy, greedily and as the best of 4 samples by the checkers, is
    highest. synthetic: whether the model's own examples are among them."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    model, sources = load_model(run, "draft"), read_examples(run, "demonstrations", tokenizer)
    if synthetic:
        sources |= read_examples(run, "synthetic", tokenizer)
    every = max(1, steps // checkpoints)

    def watch(step):
        if step % every == 0 and step:
            save_model(run, f"sft-{step}", model)
    tune(run, "sft", model, sources, run.read_json("mixture.json"), steps=steps, rows=rows, lr=lr,
         dropout=dropout, watch=watch)
    save_model(run, f"sft-{steps}", model)
    rows, best = [], (-1.0,)
    for step in [*range(every, steps, every), steps]:
        model = load_model(run, f"sft-{step}")
        greedy = validation(run, model, tokenizer)["mean %"]
        best_of = best_of_n(run, model, tokenizer)
        rows.append([step, greedy, best_of])
        best = max(best, (greedy + best_of, step))
    model = load_model(run, f"sft-{best[1]}")
    save_model(run, "sft", model)
    for step in [*range(every, steps, every), steps]:
        run.checkpoint(f"sft-{step}").unlink(missing_ok=True)
    return {"checkpoint": best[1], "checkpoints": rows} | validation(run, model, tokenizer)
