"""Conversations to train on: which of their tokens the loss counts, and batches of them."""
import functools
import json

import torch
from torch.nn.utils.rnn import pad_sequence

from afm_min import corpus, families, pretrain, processes, tasks
from afm_min.run import UserError, write_text


@functools.lru_cache(2)  # so that a stage finds the problems that one before it has drawn
def toy_world(run, whole=False):
    """The families, with the run's own web pages to search. whole: see families.Tools."""
    return families.families({d["name"]: d["text"] for d in corpus.read(run)
                              if d["source"] == "web" and not d["held_out"]}, whole)


def validating(run, count):
    """Pairs (family, problem): `count` validation problems of each family, evolved ones too."""
    return [(family, problem) for family in (toy_world(run) | tasks.EVOLVED).values()
            for problem in tasks.problems(family, "validation", count)]


def example(source, messages, response):
    return {"source": source, "messages": [*messages, {"role": "assistant", "content": response}]}


def write_lines(run, stage, examples):
    """A line of JSON for each of what a stage has found to train on."""
    write_text(run.file(f"{stage}.jsonl"), "".join(json.dumps(each) + "\n" for each in examples))


def read_lines(run, stage):
    """What `write_lines` wrote."""
    path = run.file(f"{stage}.jsonl")
    if not path.exists():
        raise UserError(f"there is no {path}: run the stage {stage} first")
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(prompt, response):
    """The pair (ids, weights) of a prompt and a response, both lists of ids."""
    weights = [0.0] * len(prompt) + [1.0] * len(response)
    return torch.tensor(prompt + response), torch.tensor(weights)


def share_prompt(prompt, responses):
    """One row in which all responses to a prompt share it: the pair (ids, branch), two of (T,).

    Each response is a branch, see `AFM.states`, that begins with the prompt's last token: from that
    token's state the response's first token is predicted.
        prompt [1, 2, 3], responses [[7, 8], [9]]
        ids     1 2 | 3 7 8 | 3 9
        branch  0 0 | 1 1 1 | 2 2"""
    ids, branch = prompt[:-1], [0] * (len(prompt) - 1)
    for number, response in enumerate(responses, 1):
        ids = [*ids, prompt[-1], *response]
        branch += [number] * (1 + len(response))
    return torch.tensor(ids), torch.tensor(branch)


def response_mask(branch):
    """Which tokens but the first of a row belong to a response: (B, T) -> (B, T - 1), bool."""
    return (branch[:, 1:] > 0) & (branch[:, 1:] == branch[:, :-1])


def render(messages, tokenizer):
    """A conversation's ids, (T,), and of each its weight in the loss, (T,): 1 where the assistant
    has to say it, its end token included, and 0 elsewhere."""
    ids, weights = [], []
    for message in messages:
        turn = tokenizer.encode_chat([message])
        ids += turn
        weights += [0.0] + [float(message["role"] == "assistant")] * (len(turn) - 1)
    return torch.tensor(ids), torch.tensor(weights)


def by_source(examples, model):
    """Source -> list of pairs (ids, weights), of those examples that fit the model's context."""
    sources = {}
    for each in examples:
        pair = render(each["messages"], model.tokenizer)
        if len(pair[0]) <= model.config.context:
            sources.setdefault(each["source"], []).append(pair)
    return sources


def read_examples(run, model, synthetic=True):
    """The demonstrations, and the model's own examples if wanted: see `by_source`."""
    stages = ["demonstrations"] + ["synthetic"] * synthetic
    return by_source([each for stage in stages for each in read_lines(run, stage)], model)


def pad(rows, names=("ids", "weight", "begin")):
    """Rows of 1-D tensors as a batch, padded at the right with zeros: {name: (B, T)}."""
    columns = (pad_sequence(column, batch_first=True) for column in zip(*rows))
    return dict(zip(names, columns))


def share_prompts(groups):
    """Pairs (prompt, responses) as a batch, {"ids", "branch": (B, T)}: see `share_prompt`."""
    return pad([share_prompt(*group) for group in groups], ("ids", "branch"))


def trim(ids, branch):
    """Cut off the columns at the right that are padding in all rows: (B, T) -> (B, shorter T)."""
    length = int(branch.any(0).nonzero().max()) + 1 if branch.any() else 1
    return ids[:, :length], branch[:, :length]


def unique_responses(responses):
    """The different responses, in their order, and the index among them of each response.

    [[7, 8], [9], [7, 8]] -> [(7, 8), (9,)], [0, 1, 0]"""
    places = {}
    index = [places.setdefault(tuple(response), len(places)) for response in responses]
    return list(places), index


def pack(conversations):
    """Pairs (ids, weights) as a batch of few rows, as long as the longest of them: each goes into
    the first row that has room, longer ones first. begin: see `AFM.states`."""
    rows, used = [[] for _ in conversations], [0] * len(conversations)
    width = max(len(ids) for ids, _ in conversations)
    for ids, weight in sorted(conversations, key=lambda pair: -len(pair[0])):
        i = next(i for i, length in enumerate(used) if length + len(ids) <= width)
        rows[i].append((ids, weight, torch.full_like(ids, used[i])))
        used[i] += len(ids)
    return pad([map(torch.cat, zip(*row)) for row in rows if row])


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


def said_logits(model, batch):
    """The logits of the tokens that have weight, (N, V): ids, weight and begin (B, T + 1), see
    `pack`. Those of the others, two thirds of them, are not computed."""
    states = model.states(batch["ids"][:, :-1], begin=batch["begin"][:, :-1])
    return model.logits(states[batch["weight"][:, 1:] > 0])


def response_loss(model, batch):
    """The language-model loss of the tokens that have weight: ids, weight and begin as above."""
    said = batch["weight"][:, 1:] > 0
    weight, targets = batch["weight"][:, 1:][said], batch["ids"][:, 1:][said]  # (N,)
    cross_entropy, z_loss = pretrain.token_losses(said_logits(model, batch), targets)
    return {"loss": (weight * (cross_entropy + z_loss)).sum(), "count": weight.sum()}


def log_likelihood(model, states, ids, branch):
    """Sum the log-probabilities of each response's tokens: states (B, T, C), ids and branch (B, T),
    see `share_prompt`, -> (B, K), K responses to each of B prompts."""
    mask, K = response_mask(branch), int(branch.max())
    nll, _ = pretrain.token_losses(model.logits(states[:, :-1][mask]), ids[:, 1:][mask])  # (N,)
    response = mask.nonzero()[:, 0] * K + branch[:, 1:][mask] - 1  # which of B * K it belongs to
    return nll.new_zeros(len(ids) * K).index_add(0, response, -nll).view(-1, K)


def response_logp(model, ids, branch):
    """log pi(y|x) of each response: ids and branch (B, T) -> (B, K). See `log_likelihood`."""
    ids, branch = trim(ids, branch)
    return log_likelihood(model, model.states(ids, branch=branch), ids, branch)


def by_length(work, lengths, rows):
    """What work(numbers) says of each of N things, a list: those of like lengths are given to it
    together, `rows` at a time. Several processes share them."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def worked(some):
        return [x for i in range(0, len(some), rows) for x in work(some[i:i + rows])]
    found = dict(zip(order, processes.divided(worked, order)))
    return [found[i] for i in range(len(lengths))]


@torch.no_grad()
def of_each(function, model, conversations, rows=64):
    """What function(model, ids, weight) says of each of N pairs: (N, ...)."""
    def work(numbers):
        batch = pad([conversations[i] for i in numbers])
        device = model.embedding.device
        return function(model, batch["ids"].to(device), batch["weight"].to(device)).cpu()
    return torch.stack(by_length(work, [len(ids) for ids, _ in conversations], rows))


def of_responses(function, model, groups, rows=64, most=4):
    """function(model, ids, branch) -> (B, K, ...) of each of N groups, pairs (prompt, responses):
    a list of N tensors (responses, ...).

    Equal responses of a group are computed once, and at most `most` share a row, as the cost of
    attention grows with its square."""
    parts, places = [], []  # rows to compute; of each group, where its responses are: (row, branch)
    for prompt, responses in groups:
        unique, index = unique_responses(responses)
        places.append([(len(parts) + i // most, i % most) for i in index])
        parts += [(prompt, unique[i:i + most]) for i in range(0, len(unique), most)]

    @torch.no_grad()
    def work(numbers):
        batch, device = share_prompts([parts[i] for i in numbers]), model.embedding.device
        return function(model, batch["ids"].to(device), batch["branch"].to(device)).cpu()
    lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses in parts]
    found = by_length(work, lengths, rows)
    return [torch.stack([found[row][k] for row, k in of_group]) for of_group in places]


def losses(model, conversations):
    """The loss per response token of each of N pairs: (N,)."""
    def mean(model, ids, weight):
        loss, _ = pretrain.token_losses(model(ids[:, :-1]), ids[:, 1:])
        return (loss * weight[:, 1:]).sum(1) / weight[:, 1:].sum(1)
    return of_each(mean, model, conversations)
