"""Conversations to train on: which of their tokens the loss counts, and batches of them."""
import functools
import json

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from afm_min import distributed, pretrain
from afm_min.data import corpus
from afm_min.world import families
from afm_min.world.tasks import EVOLVED, draw_tasks
from afm_min.run import UserError, write_text

# Row lengths and token counts are rounded up to multiples of this, so that shapes repeat: on a CPU
# in bfloat16, PyTorch makes a kernel for each new shape.
ROUND = 64


@functools.lru_cache(2)  # so that a stage finds the tasks that one before it has drawn
def toy_world(run, whole=False):
    """The families, with the run's own web pages to search. whole: see families.Tools."""
    return families.all_families({d["name"]: d["text"] for d in corpus.read_documents(run)
                              if d["source"] == "web" and not d["held_out"]}, whole)


def validating(run, count):
    """Pairs (family, task): `count` validation tasks of each family, evolved ones too."""
    return [(family, task) for family in (toy_world(run) | EVOLVED).values()
            for task in draw_tasks(family, "validation", count)]


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


def lay_out(items, width):
    """Put items, tuples of 1-D tensors of one length, into rows of `width` tokens: each into the
    first row that has room, longer ones first.

    Returns a tensor (R, width) for each of the tuple's entries, filled up with zeros; begin,
    (R, width), see `AFM.states`; and where each item starts, N pairs (row, column)."""
    used, starts = [], [None] * len(items)  # used: tokens in each row
    for i in sorted(range(len(items)), key=lambda i: -len(items[i][0])):
        length = len(items[i][0])
        fitting = (row for row, taken in enumerate(used) if taken + length <= width)
        row = next(fitting, len(used))
        if row == len(used):
            used.append(0)
        starts[i] = row, used[row]
        used[row] += length
    columns = [torch.zeros(len(used), width, dtype=x.dtype) for x in items[0]]
    begin = torch.full((len(used), width), width)
    for item, (row, start) in zip(items, starts):
        stop = start + len(item[0])
        begin[row, start:stop] = start
        for column, x in zip(columns, item):
            column[row, start:stop] = x
    return columns, begin, starts


def round_up(length):
    """5 -> 64, 64 -> 64, 65 -> 128"""
    return -(-length // ROUND) * ROUND


def round_mask(mask):
    """Add tokens to a mask, (B, T), so that a multiple of ROUND are in it, as far as there are."""
    missing = -int(mask.sum()) % ROUND
    added = (~mask).flatten().nonzero()[:missing, 0]
    return mask.flatten().index_fill(0, added, True).view(mask.shape)


def share_prompts(groups):
    """N pairs (prompt, responses) as a batch {"ids", "branch", "begin": (R, T)} of fewer rows.

    Responses are numbered 1, 2, ... from the left of a row, across its groups: see `AFM.states`.
    Returned, too, is the place of each group, N pairs (row, first): its responses are those with
    the indices first, first + 1, ... in the row."""
    items = [share_prompt(*group) for group in groups]
    width = round_up(max(len(ids) for ids, _ in items))
    (ids, branch), begin, starts = lay_out(items, width)
    count, places = [0] * len(ids), [None] * len(groups)  # count: responses in each row so far
    for i in sorted(range(len(groups)), key=starts.__getitem__):  # from the left in each row
        row, start = starts[i]
        of_group = branch[row, start:start + len(items[i][0])]  # a view
        of_group[of_group > 0] += count[row]
        places[i] = row, count[row]
        count[row] += len(groups[i][1])
    return {"ids": ids, "branch": branch, "begin": begin}, places


def by_row(values, places, fill=0):
    """Collect N tensors (responses, ...) of groups as (R, K, ...), K the most that a row has;
    shorter rows end with `fill`. places: as from `share_prompts`."""
    rows = {}
    for (row, _), value in sorted(zip(places, values), key=lambda pair: pair[0]):
        rows.setdefault(row, []).append(value)
    return pad_sequence([torch.cat(of_row) for of_row in rows.values()], True, fill)


def unique_responses(responses):
    """The different responses, in their order, and the index among them of each response.

    [[7, 8], [9], [7, 8]] -> [(7, 8), (9,)], [0, 1, 0]"""
    places = {}
    index = [places.setdefault(tuple(response), len(places)) for response in responses]
    return list(places), index


def pack(conversations):
    """Pairs (ids, weights) as a batch of few rows, {"ids", "weight", "begin": (R, T + 1)}. All
    tokens but the last are fed to the model: T, a multiple of ROUND."""
    width = 1 + round_up(max(len(ids) for ids, _ in conversations) - 1)
    (ids, weight), begin, _ = lay_out(conversations, width)
    return {"ids": ids, "weight": weight, "begin": begin}


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
    """The logits of the tokens that have weight, and of a few others, (N, V); and which they are,
    (B, T), bool: ids, weight and begin (B, T + 1), see `pack`. For the others, two thirds of all,
    none are computed."""
    said = round_mask(batch["weight"][:, 1:] > 0)
    states = model.states(batch["ids"][:, :-1], begin=batch["begin"][:, :-1], wanted=said)
    return model.logits(states), said


def response_loss(model, batch):
    """The language-model loss of the tokens that have weight: ids, weight and begin as above."""
    logits, said = said_logits(model, batch)
    weight, targets = batch["weight"][:, 1:][said], batch["ids"][:, 1:][said]  # (N,)
    cross_entropy, z_loss = pretrain.token_losses(logits, targets)
    return {"loss": (weight * (cross_entropy + z_loss)).sum(), "count": weight.sum()}


def score_responses(model, ids, branch, begin):
    """log pi(y|x) of each response, (B, K), K the most that a row has, and the state of its last
    token, (B, K, C). ids, branch, begin: (B, T), see `share_prompts`."""
    B, K = len(branch), int(branch.max()) if len(branch) else 0
    wanted = round_mask(branch > 0)
    states = model.states(ids, begin, branch, wanted=wanted)  # (N, C)
    nll, _ = pretrain.token_losses(model.logits(states), ids.roll(-1, 1)[wanted])  # (N,)
    goes_on = F.pad(response_mask(branch), (0, 1))  # (B, T): the next token is of the response, too
    predicts, last = goes_on[wanted], ((branch > 0) & ~goes_on)[wanted]  # (N,) each
    row, column = wanted.nonzero(as_tuple=True)
    response = row * K + branch[row, column] - 1  # (N,): which of B * K, if it is of any
    logp = nll.new_zeros(B * K).index_add(0, response[predicts], -nll[predicts])
    ends = states.new_zeros(B * K, states.shape[-1]).index_add(0, response[last], states[last])
    return logp.view(B, K), ends.view(B, K, states.shape[-1])


def response_logp(model, ids, branch, begin):
    """log pi(y|x) of each response, (B, K): see `score_responses`."""
    return score_responses(model, ids, branch, begin)[0]


def by_length(work, lengths, rows):
    """What work(numbers) says of each of N things, a list: those of like lengths are given to it
    together, `rows` at a time. Several processes share them."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def worked(some):
        return [x for i in range(0, len(some), rows) for x in work(some[i:i + rows])]
    found = dict(zip(order, distributed.split_work(worked, order)))
    return [found[i] for i in range(len(lengths))]


@torch.no_grad()
def of_each(function, model, conversations, rows=64):
    """What function(model, ids, weight) says of each of N pairs: (N, ...)."""
    def work(numbers):
        columns = zip(*(conversations[i] for i in numbers))
        batch = (pad_sequence(column, True).to(model.embedding.device) for column in columns)
        return function(model, *batch).cpu()
    return torch.stack(by_length(work, [len(ids) for ids, _ in conversations], rows))


def of_responses(function, model, groups, rows=64, most=4):
    """function(model, ids, branch, begin) -> (B, K, ...) of each of N groups, pairs (prompt,
    responses): a list of N tensors (responses, ...).

    Equal responses of a group are computed once, and at most `most` share a prompt, as the cost of
    attention grows with the square of a row."""
    parts, index = [], []  # groups to compute; of each group, where its responses are: (part, k)
    for prompt, responses in groups:
        unique, which = unique_responses(responses)
        index.append([(len(parts) + i // most, i % most) for i in which])
        parts += [(prompt, unique[i:i + most]) for i in range(0, len(unique), most)]

    @torch.no_grad()
    def work(numbers):
        batch, places = share_prompts([parts[i] for i in numbers])
        values = function(model, **{name: x.to(model.embedding.device)
                                    for name, x in batch.items()}).cpu()
        return [values[row, first:first + len(parts[i][1])]
                for i, (row, first) in zip(numbers, places)]
    lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses in parts]
    found = by_length(work, lengths, rows)
    return [torch.stack([found[part][k] for part, k in of_group]) for of_group in index]


def losses(model, conversations):
    """The loss per response token of each of N pairs: (N,)."""
    def mean(model, ids, weight):
        weight, targets = weight[:, 1:], ids[:, 1:]  # (B, T)
        wanted = round_mask(weight > 0)
        loss, _ = pretrain.token_losses(model.logits(model.states(ids[:, :-1], wanted=wanted)),
                                        targets[wanted])  # (N,)
        row, _ = wanted.nonzero(as_tuple=True)
        return loss.new_zeros(len(ids)).index_add(0, row, loss * weight[wanted]) / weight.sum(1)
    return of_each(mean, model, conversations)
