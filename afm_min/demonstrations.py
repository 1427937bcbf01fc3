"""What people write for a model to imitate, some of it carelessly, and the guards that drop what is
bad (the report's section 4.1): ratings, a model, and likeness to what is there already."""
import collections
import dataclasses
import random

import torch
from torch import nn

from afm_min import chat
from afm_min.world.tasks import EVOLVED, draw_task
from afm_min.model import load_model
from afm_min.tokenizer import DOCUMENT

FLAWS = ("wrong", "wordy", "garbled", "copied")
FATES = ("rating", "model", "copy", "kept")  # the guard that drops an example, or none


def demonstration(family, i, flawed):
    """The i-th example that people write for a family: task, messages, response, and its flaw,
    "" in most. wrong: the response is that to another task; wordy: it says everything twice;
    garbled: the letters of the question are in disorder; copied: it is one of the 50 before."""
    rng, task = random.Random(f"{family.name} {i}"), draw_task(family, "train", i)
    flaw = rng.choice(FLAWS) if i and rng.random() < flawed else ""
    if flaw == "copied":
        return *demonstration(family, rng.randrange(max(0, i - 50), i), flawed)[:3], flaw
    messages, response = task.messages(), task.solution
    if flaw == "wrong":
        while family.check(task, response):
            i += 1
            response = draw_task(family, "train", i).solution
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        words = ("".join(rng.sample(word, len(word))) for word in task.question.split())
        messages = dataclasses.replace(task, question=" ".join(words)).messages()
    return task, messages, response, flaw


def rated(family, task, response, rng, raters=3, noise=0.1):
    """Whether people find a response good: of each grade, 0 to 2, the mean over raters must be
    above 1. A rater gives, with the chance `noise`, any grade at all."""
    return all(sum(rng.randint(0, 2) if rng.random() < noise else grade for _ in range(raters))
               > raters for grade in family.grades(task, response).values())


def embeddings(model, conversations):
    """Of each of N pairs (ids, weights) the mean of the last layer's states, scaled to length 1:
    (N, C)."""
    def mean(model, ids, weight):
        states = model.states(ids[:, :-1]) * weight[:, 1:, None]  # (B, T, C)
        return nn.functional.normalize(states.sum(1).float())
    return chat.of_each(mean, model, conversations)


def guarded(written, family, model, unlikely, similar):
    """Of each example what becomes of it: the first guard that drops it, or "kept"."""
    rng, tokenizer = random.Random(f"raters {family.name}"), model.tokenizer

    def read(lines):
        ids = [tokenizer.special(DOCUMENT), *tokenizer.encode("\n".join(lines))]
        return chat.answered([], ids[:model.config.context])
    surprise = chat.losses(model, [read(m["content"] for m in messages if m["role"] == "user")
                                   for _, messages, _, _ in written])
    means = embeddings(model, [read([*(m["content"] for m in messages), response])
                               for _, messages, response, _ in written])
    limit = unlikely * surprise.median()
    fates = ["rating" if not rated(family, task, response, rng) else
             "model" if loss > limit else "kept"
             for (task, _, response, _), loss in zip(written, surprise)]
    sound = torch.tensor([fate == "kept" for fate in fates])
    alike = ((means @ means.T).tril(-1) > similar)[:, sound].any(1)  # to one that is still there
    return ["copy" if fate == "kept" and copy else fate for fate, copy in zip(fates, alike)]


def demonstrations(run, *, count=2000, evolved=100, flawed=0.15, unlikely=2.4, similar=0.9999):
    """Examples of each family and a few of each kind of evolved mathematics, and what the three
    guards leave of them.

    Dropped is, in this order: what raters find bad; a question that the base model finds more than
    `unlikely` times as surprising as is usual in its family; and what has a cosine of more than
    `similar` to an earlier example, by the base model's hidden states. (In a world of templates
    different tasks look alike: at 0.999 a third of the mathematics dropped is no copy.)"""
    model, kept = load_model(run, "lengthening"), []
    fates, before = collections.Counter(), set()  # (flaw, fate) -> examples; texts
    counts = (dict.fromkeys(chat.toy_world(run, whole=True).values(), count)
              | dict.fromkeys(EVOLVED.values(), evolved))
    for family, n in counts.items():
        written = [demonstration(family, i, flawed) for i in range(n)]
        found = guarded(written, family, model, unlikely, similar)
        for (_, messages, response, flaw), fate in zip(written, found):
            text = f"{messages} {response}"
            fates["copied" if text in before else flaw, fate] += 1
            before.add(text)
            if fate == "kept":
                kept.append(chat.example(family.name, messages, response))
    chat.write_lines(run, "demonstrations", kept)
    rows = [(flaw, [fates[flaw, fate] for fate in FATES]) for flaw in ("", *FLAWS)]
    return {"examples": len(kept),
            "guards": [[flaw or "none", sum(numbers), *numbers] for flaw, numbers in rows]}
