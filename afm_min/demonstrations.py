"""What people write for a model to imitate, some of it carelessly, and the guards that drop what is
bad (the report's section 4.1): ratings, a model, and likeness to what is there already."""
import collections
import random

import torch
from torch import nn

from afm_min import chat, pretrain, tasks
from afm_min.model import load_model
from afm_min.tokenizer import DOCUMENT, Tokenizer

FLAWS = ("wrong", "wordy", "garbled", "copied")
FATES = ("rating", "model", "copy", "kept")  # the guard that drops an example, or none


def demonstration(family, i, flawed):
    """The i-th example that people write for a family: problem, messages, response, and its flaw,
    "" in most. wrong: the response is that to another problem; wordy: it says everything twice;
    garbled: the letters of the question are in disorder; copied: it is one of the 50 before."""
    rng, problem = random.Random(f"{family.name} {i}"), tasks.draw(family, "train", i)
    flaw = rng.choice(FLAWS) if i and rng.random() < flawed else ""
    if flaw == "copied":
        return *demonstration(family, rng.randrange(max(0, i - 50), i), flawed)[:3], flaw
    messages, response = problem.messages(), problem.worked
    if flaw == "wrong":
        while family.check(problem, response):
            i += 1
            response = tasks.draw(family, "train", i).worked
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        messages = [m if m["role"] != "user" else m | {"content": " ".join(
            "".join(rng.sample(word, len(word))) for word in m["content"].split())}
            for m in messages]
    return problem, messages, response, flaw


def rated(family, problem, response, rng, raters=3, noise=0.1):
    """Whether people find a response good: of each grade, 0 to 2, the mean over raters must be
    above 1. A rater gives, with the chance `noise`, any grade at all."""
    return all(sum(rng.randint(0, 2) if rng.random() < noise else grade for _ in range(raters))
               > raters for grade in family.grades(problem, response).values())


@torch.no_grad()
def read_texts(model, tokenizer, texts, rows=64):
    """What a model makes of N texts, cut to its context: the mean of its last layer's states,
    scaled to length 1, (N, C), and its loss per token, (N,)."""
    ids = [torch.tensor([tokenizer.special(DOCUMENT), *tokenizer.encode(text)]
                        [:model.config.context]) for text in texts]
    means, losses = torch.zeros(len(ids), model.config.dim), torch.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for part in (order[i:i + rows] for i in range(0, len(order), rows)):
        padded = chat.pad([(ids[i], torch.ones(len(ids[i]))) for i in part])
        padded = {name: x.to(model.embedding.device) for name, x in padded.items()}
        mask, states = padded["weight"][:, 1:], model.states(padded["ids"][:, :-1])
        loss, _ = pretrain.token_losses(model.logits(states), padded["ids"][:, 1:])
        losses[part] = ((loss * mask).sum(1) / mask.sum(1)).cpu()
        means[part] = nn.functional.normalize((states * mask[..., None]).sum(1).float()).cpu()
    return means, losses


def guarded(written, family, rng, model, tokenizer, unlikely, similar):
    """Of each example what becomes of it: the first guard that drops it, or "kept"."""
    asked = ["\n".join(m["content"] for m in messages if m["role"] == "user")
             for _, messages, _, _ in written]
    whole = ["\n".join([*(m["content"] for m in messages), response])
             for _, messages, response, _ in written]
    surprise, means = read_texts(model, tokenizer, asked)[1], read_texts(model, tokenizer, whole)[0]
    limit = unlikely * surprise.median()
    fates = ["rating" if not rated(family, problem, response, rng) else
             "model" if surprise[i] > limit else "kept"
             for i, (problem, _, response, _) in enumerate(written)]
    sound = torch.tensor([fate == "kept" for fate in fates])
    alike = ((means @ means.T).tril(-1) > similar)[:, sound].any(1)  # to one that is still there
    return ["copy" if fate == "kept" and copy else fate for fate, copy in zip(fates, alike)]


def demonstrations(run, *, count=2000, evolved=100, flawed=0.15, unlikely=2.4, similar=0.9999):
    """Examples of each family and a few of each kind of evolved mathematics, and what the three
    guards leave of them.

    Dropped is, in this order: what raters find bad; a question that the base model finds more than
    `unlikely` times as surprising as is usual in its family; and what has a cosine of more than
    `similar` to an earlier example, by the base model's hidden states. (In a world of templates
    different problems look alike: at 0.999 a third of the mathematics dropped is no copy.)"""
    model, kept = load_model(run, "lengthening"), []
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    fates, before = collections.Counter(), set()  # (flaw, fate) -> examples; texts
    for family, n in [*((family, count) for family in chat.toy_world(run, whole=True).values()),
                      *((family, evolved) for family in tasks.EVOLVED.values())]:
        written = [demonstration(family, i, flawed) for i in range(n)]
        found = guarded(written, family, random.Random(f"raters {family.name}"), model, tokenizer,
                        unlikely, similar)
        for (_, messages, response, flaw), fate in zip(written, found):
            text = f"{messages} {response}"
            fates["copied" if text in before else flaw, fate] += 1
            before.add(text)
        kept += [chat.example(family.name, messages, response)
                 for (_, messages, response, _), fate in zip(written, found) if fate == "kept"]
    chat.write_examples(run, "demonstrations", kept)
    return {"examples": len(kept), "guards": [
        [flaw or "none", sum(fates[flaw, fate] for fate in FATES),
         *(fates[flaw, fate] for fate in FATES)] for flaw in ("", *FLAWS)]}
