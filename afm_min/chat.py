"""Conversations: render them as tokens, pack them into batches, score responses.

Shapes: R rows of a batch, T tokens of a row, K responses in a row, C model dim, V vocabulary. N is
the number of items of a list, or of tokens selected from a batch.
"""
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from afm_min import distributed
from afm_min.run import UserError
from afm_min.tokenizer import ASSISTANT, END
from afm_min.trainer import token_losses

# Round row lengths and numbers of selected tokens up to a multiple of this, so that shapes repeat:
# on a CPU in bfloat16, PyTorch compiles a kernel for each new shape.
ROUND = 64


# Examples: dicts {"source", "messages"}, stored as JSON lines.

def example(source, messages, response):
    """Return an example: a conversation that ends with the assistant's response."""
    return {"source": source, "messages": [*messages, {"role": "assistant", "content": response}]}


def render(messages, tokenizer):
    """Return a conversation's ids and loss mask, both (T,).

    The mask is 1 for tokens that the assistant produces, its end token included, and 0 elsewhere:
    <|user|> H i <|end|> <|assistant|> Y o <|end|>
       0     0 0    0          0       1 1    1"""
    ids, loss_mask = [], []
    for message in messages:
        turn = tokenizer.encode_chat([message])
        ids += turn
        # A turn's first token is its role, which the model is given.
        loss_mask += [0.0] + [float(message["role"] == "assistant")] * (len(turn) - 1)
    return torch.tensor(ids), torch.tensor(loss_mask)


def model_writes_next(ids, tokenizer):
    """Return a bool mask, (..., T): True where the model writes the next id. It is False from each
    <|end|> up to the next <|assistant|>, where a user or a tool writes, and True before the first
    <|end|>.

    ids   <|assistant|> c a l l <|end|> <|tool|> 4 <|end|> <|assistant|> 4 . <|end|>
    mask        1       1 1 1 1    0       0     0    0         1        1 1    0"""
    # For each token, the positions of the last <|end|> and of the last <|assistant|> up to there.
    position = torch.arange(1, ids.shape[-1] + 1, device=ids.device)  # 0 means "none so far"
    last_end = (position * (ids == tokenizer.special(END))).cummax(-1).values
    last_assistant = (position * (ids == tokenizer.special(ASSISTANT))).cummax(-1).values
    return last_assistant >= last_end


def render_response(prompt, response, tokenizer):
    """Return the ids and loss mask of a prompt and a response, which are lists of ids. The mask is
    0 for the prompt and for the results of tool calls."""
    ids = torch.tensor(prompt + response)
    # Shift by one: the model writes an id if it writes next at the id before.
    loss_mask = F.pad(model_writes_next(ids, tokenizer)[:-1], (1, 0)).float()
    loss_mask[:len(prompt)] = 0
    return ids, loss_mask


def render_examples(examples, model):
    """Return {source: list of (ids, loss_mask)} of the examples that fit the model's context."""
    sources = {}
    for conversation in examples:
        ids, loss_mask = render(conversation["messages"], model.tokenizer)
        if len(ids) <= model.config.context:
            sources.setdefault(conversation["source"], []).append((ids, loss_mask))
    return sources


def read_examples(run, model, synthetic=True):
    """Return the run's training examples, {source: list of (ids, loss_mask)}: the demonstrations
    and, if `synthetic`, what the stage synthetic generated."""
    examples = run.read_lines("demonstrations")
    if synthetic:
        examples += run.read_lines("synthetic")
    return render_examples(examples, model)


# Batches: several conversations share a row, so that little is padding.

def round_up(length):
    """Round up to a multiple of ROUND: 5 -> 64, 64 -> 64, 65 -> 128."""
    return (length + ROUND - 1) // ROUND * ROUND


def round_mask(mask):
    """Return a copy of a bool mask, (R, T), with extra entries set until their number is a multiple
    of ROUND, or all are set. Callers must ignore the extra tokens.

    With ROUND = 4: 0 1 0 1 0 1 -> 1 1 0 1 0 1"""
    missing = round_up(int(mask.sum())) - int(mask.sum())
    added = (~mask).flatten().nonzero()[:missing, 0]  # the first entries that are not set
    return mask.flatten().index_fill(0, added, True).view(mask.shape)


def pack_rows(items, width):
    """Pack items into rows of `width` tokens. An item is a tuple of 1-D tensors of one length; the
    length differs between items.

    The longest items come first, each in the first row with room (first-fit decreasing). Returns
        packed         a list: for each entry of the tuples a tensor (R, width), padded with zeros
        segment_start  (R, width), see `AFM.hidden_states`
        places         for each item, the (row, column) at which it starts"""
    used, places = [], [None] * len(items)  # used: tokens in each row
    for i in sorted(range(len(items)), key=lambda i: -len(items[i][0])):
        length = len(items[i][0])
        with_room = [row for row, tokens in enumerate(used) if tokens + length <= width]
        row = with_room[0] if with_room else len(used)
        if row == len(used):  # a new row
            used.append(0)
        places[i] = (row, used[row])
        used[row] += length
    packed = [torch.zeros(len(used), width, dtype=x.dtype) for x in items[0]]
    segment_start = torch.full((len(used), width), width)  # in padding: beyond every token
    for item, (row, start) in zip(items, places):
        stop = start + len(item[0])
        segment_start[row, start:stop] = start
        for tensor, values in zip(packed, item):
            tensor[row, start:stop] = values
    return packed, segment_start, places


def pack(conversations):
    """Pack pairs (ids, loss_mask) into a batch {"ids", "loss_mask", "segment_start": (R, T + 1)}.

    The model is fed the first T tokens of a row, a multiple of ROUND; the last is only a target."""
    width = 1 + round_up(max(len(ids) for ids, _ in conversations) - 1)
    (ids, loss_mask), segment_start, _ = pack_rows(conversations, width)
    return {"ids": ids, "loss_mask": loss_mask, "segment_start": segment_start}


def batches(sources, mixture, batch_size):
    """Return a function from step to a packed batch of `batch_size` random conversations.

    sources: name -> list of (ids, loss_mask). mixture: name -> weight; conversations are drawn in
    proportion to the weights."""
    names = [name for name in sources if mixture.get(name, 0) > 0]
    if not names:
        raise UserError(f"the mixture {mixture} has no weight for any of the sources "
                        f"{', '.join(sources)}: give one of them a positive weight")
    shares = torch.tensor([float(mixture[name]) for name in names])

    def batch(step):  # `step` is not needed: `fit` has seeded the random numbers with it
        indices = torch.multinomial(shares, batch_size, replacement=True)
        chosen = [sources[names[i]] for i in indices]
        return pack([source[torch.randint(len(source), ())] for source in chosen])
    return batch


# Groups: a prompt and several responses to it, in one row that has the prompt's tokens once.

def share_prompt(prompt, responses):
    """Return ids and branch numbers, both (T,), of a row in which responses share a prompt.

    Each response is a branch, see `AFM.hidden_states`. Each branch starts with its own copy of the
    prompt's last token, whose logits predict the response's first token.
        prompt [1, 2, 3], responses [[7, 8], [9]]
        ids     1 2 | 3 7 8 | 3 9
        branch  0 0 | 1 1 1 | 2 2"""
    ids, branch = prompt[:-1], [0] * (len(prompt) - 1)
    for number, response in enumerate(responses, 1):
        ids = [*ids, prompt[-1], *response]
        branch += [number] * (1 + len(response))
    return torch.tensor(ids), torch.tensor(branch)


def share_prompts(groups):
    """Pack groups (prompt, responses) into a batch {"ids", "branch", "segment_start": (R, T)}.

    Branches are numbered 1, 2, ... from left to right in a row, across its groups. Also returns
    each group's place, (row, first): `first` responses are to its left in the row, so its own have
    the branches first + 1, first + 2, ...
        branch of two groups in row 0  0 0 1 1 2 2 | 0 0 3 3
        places                         (0, 0) and (0, 2)"""
    items = [share_prompt(prompt, responses) for prompt, responses in groups]
    width = round_up(max(len(ids) for ids, _ in items))
    (ids, branch), segment_start, starts = pack_rows(items, width)
    count, places = [0] * len(ids), [None] * len(groups)  # count: responses in each row so far
    for i in sorted(range(len(groups)), key=lambda i: starts[i]):  # left to right in each row
        row, start = starts[i]
        group_branch = branch[row, start:start + len(items[i][0])]  # a view: `branch` changes, too
        group_branch[group_branch > 0] += count[row]
        places[i] = (row, count[row])
        count[row] += len(groups[i][1])
    return {"ids": ids, "branch": branch, "segment_start": segment_start}, places


def stack_by_row(values, places, fill=0):
    """Concatenate the values of the groups in each row: tensors (responses, ...) -> (R, K, ...).

    places: as from `share_prompts`; each row has a group. Short rows end with `fill`:
        values [1, 2], [3], [4, 5], places (1, 0), (0, 0), (0, 1) -> [[3, 4, 5], [1, 2, fill]]"""
    rows = {}  # row -> values of its groups, from left to right
    for (row, _), value in sorted(zip(places, values), key=lambda pair: pair[0]):
        rows.setdefault(row, []).append(value)
    return pad_sequence([torch.cat(x) for x in rows.values()], batch_first=True, padding_value=fill)


def unique_responses(responses):
    """Return the distinct responses in their order, and each response's index among them.

    [[7, 8], [9], [7, 8]] -> [(7, 8), (9,)], [0, 1, 0]"""
    distinct = list(dict.fromkeys(map(tuple, responses)))
    index = {response: i for i, response in enumerate(distinct)}
    return distinct, [index[tuple(response)] for response in responses]


# Losses and log-probabilities.

def response_logits(model, batch):
    """Return logits (N, V), and the bool mask (R, T) of their N positions: those whose next token
    is in the loss mask, and a few extra ones, see `round_mask`.

    batch: as from `pack`."""
    wanted = round_mask(batch["loss_mask"][:, 1:] > 0)
    states = model.hidden_states(batch["ids"][:, :-1],
                                 segment_start=batch["segment_start"][:, :-1], wanted=wanted)
    return model.logits(states), wanted


def response_loss(model, batch):
    """Return the summed cross-entropy and z-loss of the tokens in the loss mask, and the number of
    these tokens, for `trainer.backward`. batch: as from `pack`."""
    logits, wanted = response_logits(model, batch)
    mask, targets = batch["loss_mask"][:, 1:][wanted], batch["ids"][:, 1:][wanted]  # (N,)
    cross_entropy, z_loss = token_losses(logits, targets)
    return {"loss": (mask * (cross_entropy + z_loss)).sum(), "count": mask.sum()}


def score_responses(model, ids, branch, segment_start):
    """Return each response's log pi(y|x), (R, K), and its last token's hidden state, (R, K, C).
    log pi(y|x) is the sum over the tokens that the model wrote: results of calls do not count.

    ids, branch, segment_start: (R, T), as from `share_prompts`. Prompts must end with
    <|assistant|>, by which `model_writes_next` sees that a response begins. Entries of rows with
    fewer than K responses are 0."""
    R, C = len(branch), model.config.dim
    K = int(branch.max()) if R else 0  # R is 0 on a rank without rows
    wanted = round_mask(branch > 0)
    states = model.hidden_states(ids, segment_start, branch, wanted=wanted)  # (N, C)
    # The losses use small differences of log-probabilities, so logits are not rounded to bfloat16.
    # Targets are the ids one to the right. The last column gets the first id, which is not used.
    nll, _ = token_losses(model.logits(states.float()), ids.roll(-1, dims=1)[wanted])  # (N,)
    # A token of a branch is followed by one of the same branch, which it predicts, or is the last:
    #     ids 1 2 | 3 7 8 | 3 9    predicts 0 0 | 1 1 0 | 1 0    last 0 0 | 0 0 1 | 0 1
    same_branch = F.pad(branch[:, 1:] == branch[:, :-1], (0, 1))  # (R, T)
    written = model_writes_next(ids, model.tokenizer)
    predicts = ((branch > 0) & same_branch & written)[wanted]  # (N,)
    last = ((branch > 0) & ~same_branch)[wanted]
    row, column = wanted.nonzero(as_tuple=True)
    # Each token's response, (N,): an index into (R, K), flattened. Not used where branch is 0.
    response = row * K + branch[row, column] - 1
    logp = nll.new_zeros(R * K).index_add(0, response[predicts], -nll[predicts])
    # A response has one last token, so this index_add copies its state and sums nothing.
    last_states = states.new_zeros(R * K, C).index_add(0, response[last], states[last])
    return logp.view(R, K), last_states.view(R, K, C)


def response_logp(model, ids, branch, segment_start):
    """Return log pi(y|x) of each response, (R, K): see `score_responses`."""
    return score_responses(model, ids, branch, segment_start)[0]


# Functions of lists of any length: in batches of similar length, split among all ranks.

def map_by_length(function, lengths, max_rows):
    """Apply a function to N items, in batches of similar length, split among all ranks. Return the
    N results in the order of the items.

    function: takes a list of up to `max_rows` indices of items, and returns a list of results.
    lengths: the length of each item."""
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])

    def compute(indices):
        chunks = [indices[i:i + max_rows] for i in range(0, len(indices), max_rows)]
        return [result for chunk in chunks for result in function(chunk)]
    # split_work returns the results of all ranks, in the order of its items.
    results = dict(zip(by_length, distributed.split_work(compute, by_length)))
    return [results[i] for i in range(len(lengths))]


@torch.no_grad()
def map_conversations(function, model, conversations, max_rows=64):
    """Apply a function to N > 0 conversations, pairs (ids, loss_mask), in batches: (N, ...).

    function: model, ids (R, T), loss_mask (R, T) -> (R, ...), with one conversation in each row"""
    def compute(indices):
        columns = zip(*(conversations[i] for i in indices))  # all ids, then all loss masks
        batch = [pad_sequence(x, batch_first=True).to(model.embedding.device) for x in columns]
        return function(model, *batch).cpu()
    lengths = [len(ids) for ids, _ in conversations]
    return torch.stack(map_by_length(compute, lengths, max_rows))


@torch.no_grad()
def map_responses(function, model, groups, max_rows=64, max_branches=4):
    """Apply a function to N groups (prompt, responses), in batches. Returns a list of N tensors
    (responses, ...).

    function: model, ids, branch, segment_start, as from `share_prompts` -> (R, K, ...)
    Equal responses of a group are computed once. At most `max_branches` responses share one
    copy of the prompt, as the cost of attention grows with the square of the row's length."""
    parts = []  # the groups, split: (prompt, up to `max_branches` distinct responses)
    locations = []  # for each group and each of its responses: (index in parts, index in that part)
    for prompt, responses in groups:
        unique, index = unique_responses(responses)
        locations.append([(len(parts) + i // max_branches, i % max_branches) for i in index])
        parts += [(prompt, unique[i:i + max_branches])
                  for i in range(0, len(unique), max_branches)]

    def compute(indices):
        batch, places = share_prompts([parts[i] for i in indices])
        batch = {name: x.to(model.embedding.device) for name, x in batch.items()}
        values = function(model, **batch).cpu()
        return [values[row, first:first + len(parts[i][1])]
                for i, (row, first) in zip(indices, places)]
    lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses in parts]
    values = map_by_length(compute, lengths, max_rows)
    return [torch.stack([values[part][i] for part, i in of_group]) for of_group in locations]


def conversation_losses(model, conversations):
    """Return each conversation's mean cross-entropy over the tokens in its loss mask, which must
    have one or more: (N,).

    conversations: pairs (ids, loss_mask)"""
    def mean_loss(model, ids, loss_mask):
        mask, targets = loss_mask[:, 1:], ids[:, 1:]
        wanted = round_mask(mask > 0)
        logits = model.logits(model.hidden_states(ids[:, :-1], wanted=wanted))  # (N, V)
        nll, _ = token_losses(logits, targets[wanted])
        row, _ = wanted.nonzero(as_tuple=True)
        return nll.new_zeros(len(ids)).index_add(0, row, nll * mask[wanted]) / mask.sum(1)
    return map_conversations(mean_loss, model, conversations)
