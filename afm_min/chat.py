"""Conversations to train on: which of their tokens the loss counts, and batches of them."""
import functools
import json

import torch
from torch import nn

from afm_min import corpus, families, gradients, pretrain, processes
from afm_min.fit import fit
from afm_min.run import UserError, write_text


@functools.lru_cache(2)  # so that a stage finds the problems that one before it has drawn
def toy_world(run, whole=False):
    """The families, with the run's own web pages to search. whole: see families.Tools."""
    return families.families({d["name"]: d["text"] for d in corpus.read(run)
                              if d["source"] == "web" and not d["held_out"]}, whole)


def example(source, messages, response):
    return {"source": source,
            "messages": [*messages, {"role": "assistant", "content": response}]}


def write_examples(run, stage, examples):
    write_text(run.file(f"{stage}.jsonl"), "".join(json.dumps(e) + "\n" for e in examples))


def read_examples(run, tokenizer, context, *stages):
    """Source -> list of pairs (ids, weights), of what stages wrote and fits the context."""
    sources = {}
    for path in (run.file(f"{stage}.jsonl") for stage in stages):
        try:
            with open(path, encoding="utf-8") as file:
                for each in map(json.loads, file):
                    pair = render(each["messages"], tokenizer)
                    if len(pair[0]) <= context:
                        sources.setdefault(each["source"], []).append(pair)
        except FileNotFoundError:
            raise UserError(f"there is no {path}: run the stage {path.stem} first") from None
    return sources


def answered(prompt, response):
    """The pair (ids, weights) of a prompt and a response, both lists of ids."""
    return (torch.tensor(prompt + response),
            torch.tensor([0.0] * len(prompt) + [1.0] * len(response)))


def render(messages, tokenizer):
    """A conversation's ids, (T,), and of each its weight in the loss, (T,): 1 where the assistant
    has to say it, its end token included, and 0 elsewhere."""
    ids, weights = [], []
    for message in messages:
        turn = tokenizer.encode_chat([message])
        ids += turn
        weights += [0.0] + [float(message["role"] == "assistant")] * (len(turn) - 1)
    return torch.tensor(ids), torch.tensor(weights)


def pad(conversations):
    """Pairs (ids, weights) as a batch, padded at the right with what has no weight."""
    ids, weight = (nn.utils.rnn.pad_sequence(x, batch_first=True) for x in zip(*conversations))
    return {"ids": ids, "weight": weight}


def pack(conversations):
    """Pairs (ids, weights) as a batch of few rows, as long as the longest of them: each goes into
    the first row that has room, longer ones first. begin: see `AFM.states`."""
    rows, width = [], max(len(ids) for ids, _ in conversations)
    for pair in sorted(conversations, key=lambda pair: -len(pair[0])):
        row = next((row for row in rows if sum(map(len, row[0])) + len(pair[0]) <= width), None)
        if row is None:
            rows.append(row := ([], [], []))
        begin = torch.full(pair[0].shape, sum(map(len, row[0])))
        for entries, entry in zip(row, (*pair, begin)):
            entries.append(entry)
    return dict(zip(("ids", "weight", "begin"), (
        nn.utils.rnn.pad_sequence([torch.cat(entries) for entries in column], batch_first=True)
        for column in zip(*rows))))


def batches(sources, mixture, count):
    """A function from step to a batch of `count` conversations.

    sources: name -> list of pairs (ids, weights). mixture: name -> share of the conversations."""
    names = [name for name in sources if mixture.get(name, 0) > 0]
    if not names:
        raise UserError(f"the mixture {mixture} names none of {', '.join(sources)}")
    shares = torch.tensor([float(mixture[name]) for name in names])

    def batch(step):
        drawn = [sources[names[i]] for i in torch.multinomial(shares, count, replacement=True)]
        return pack([source[torch.randint(len(source), ())] for source in drawn])
    return batch


def response_loss(model, batch):
    """The language-model loss of the tokens that have weight: ids, weight and begin (B, T + 1), see
    `pack`. Logits of the others, two thirds of them, are not computed."""
    weight, targets = batch["weight"][:, 1:], batch["ids"][:, 1:]
    said = weight > 0
    states = model.states(batch["ids"][:, :-1], begin=batch["begin"][:, :-1])
    logits = model.logits(states[said])  # (N, V)
    cross_entropy, z_loss = pretrain.token_losses(logits[None], targets[said][None])
    return {"loss": (weight[said] * (cross_entropy + z_loss)).sum(), "count": weight.sum()}


def log_likelihood(model, states, ids, weight):
    """log p of the tokens of each row that have weight, together: states (B, T - 1, C) of all but
    the last token, ids and weight (B, T) -> (B,)."""
    said = weight[:, 1:] > 0
    surprise, _ = gradients.CrossEntropy.apply(model.logits(states[said]), ids[:, 1:][said])  # (N,)
    return surprise.new_zeros(len(ids)).index_add(0, said.nonzero()[:, 0], -surprise)


def tune(model, sources, mixture, *, steps, batch, lr, dropout=0.0, fast=None, slow=1.0, watch=None,
         warmup=20, **saving):
    """Train on conversations: warm up, then go on at `lr` and, from step `fast` on if that is
    given, at `slow` * `lr`. batch: conversations a step. watch(step): called before each. saving:
    of `fit`, where to log and save."""
    for block in model.blocks:
        block.dropout = dropout
    draw = batches(sources, mixture, batch)

    def watched(step):
        if watch:
            watch(step)
        return draw(step)

    def schedule(step):
        return min(slow if fast is not None and step >= fast else 1.0, (step + 1) / warmup)
    fit(model, watched, response_loss, steps=steps, lr=lr, schedule=schedule, **saving)


@torch.no_grad()
def of_each(function, conversations, device, rows=64):
    """What function(ids, weight) says of each of N pairs, (N, ...): those of like lengths are given
    to it together, `rows` at a time."""
    order = sorted(range(len(conversations)), key=lambda i: len(conversations[i][0]))

    def found(some):
        return [row for start in range(0, len(some), rows) for row in function(
            **{name: x.to(device) for name, x in pad(
                [conversations[i] for i in some[start:start + rows]]).items()}).cpu()]
    return torch.stack(processes.divided(found, order))[torch.tensor(order).argsort()]


def losses(model, conversations):
    """The loss per response token of each conversation: a list of pairs -> (N,)."""
    def mean(ids, weight):
        loss, _ = pretrain.token_losses(model(ids[:, :-1]), ids[:, 1:])
        return (loss * weight[:, 1:]).sum(1) / weight[:, 1:].sum(1)
    return of_each(mean, conversations, model.embedding.device)
