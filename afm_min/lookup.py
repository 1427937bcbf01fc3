"""The first stage of training: look up what was said before, before any text.

    lookup   rows of random keys and values, then rows of facts and questions about them

A large model learns to look up from text. One of this size sees too little text: it answers "Where
are Ada's keys?" with any box of its prompt, even after thousands of such questions. From random
keys and values, which stand side by side at first, it learns the principle in some hundred steps,
and keeps it if later stages have such questions, too. This stage is a departure: the report has no
such data.
"""
import functools
import random

import torch

from afm_min.data import corpus
from afm_min.model import save_model
from afm_min.pretrain import untrained_model
from afm_min.tokenizer import SPECIALS
from afm_min.trainer import MATRIX_SCALE, cosine, fit, seed_step, token_losses


def key_value_rows(tokens, rows, pairs, questions, gap):
    """Return rows in which values can only be predicted by looking up their keys: ids, and True for
    the values to predict, both (rows, T). First `pairs` keys with their values, then `questions`
    of these keys again. With two pairs and two questions:

        a k1 b v1   a k2 b v2   c k2 d v2   c k1 d v1
                                        ^           ^   True

    tokens: three tensors, the ids of keys, of values, and of the fillers a, b, c and d. Each of the
    four is up to `gap` tokens long, and the same throughout a row. Keys of a row differ, values may
    not."""
    key_ids, value_ids, filler_ids = tokens

    def filler(count):
        picks = torch.randint(len(filler_ids), (rows, 1, int(torch.randint(gap + 1, ()))))
        return filler_ids[picks].expand(-1, count, -1)  # (rows, count, length)

    keys = key_ids[torch.rand(rows, len(key_ids)).argsort(-1)[:, :pairs, None]]
    values = value_ids[torch.randint(len(value_ids), (rows, pairs, 1))]
    asked = torch.randint(pairs, (rows, questions, 1))
    facts = torch.cat((filler(pairs), keys, filler(pairs), values), -1).flatten(1)
    answers = torch.cat((filler(questions), keys.gather(1, asked),
                         filler(questions), values.gather(1, asked)), -1)
    is_answer = torch.zeros(answers.shape, dtype=torch.bool)
    is_answer[..., -1] = True
    is_answer = torch.cat((torch.zeros(facts.shape, dtype=torch.bool), is_answer.flatten(1)), 1)
    return torch.cat((facts, answers.flatten(1)), 1), is_answer


def draw_token_ids(tokenizer, num_keys):
    """Return three tensors: num_keys random token ids as keys, as many plus the digits as values,
    and all others as fillers. So `note_rows` has no token that is new to the model."""
    digits = torch.tensor(tokenizer.encode("0123456789"))
    others = torch.arange(len(SPECIALS), tokenizer.vocab_size)
    others = others[~torch.isin(others, digits)]
    others = others[torch.randperm(len(others))]
    num_keys = min(num_keys, len(others) // 3)
    keys, values, fillers = others.split((num_keys, num_keys, len(others) - 2 * num_keys))
    return keys, torch.cat((digits, values)), fillers


def answer_loss(model, batch, values):
    """Cross-entropy of the tokens marked by `is_answer` among `values`, for `trainer.backward`.

    A softmax over all tokens would move the embeddings of all others away from the states, so that
    text would start with a huge loss. The factor 0.1 leaves AdaStar's updates nearly as they are,
    but keeps gradients below the norm that it skips: the first facts have ten times the loss of the
    keys and values before them. The metric nll is the unscaled cross-entropy."""
    wanted = batch["is_answer"][:, 1:]
    states = model.hidden_states(batch["ids"][:, :-1], wanted=wanted)  # (N, C)
    logits = model.logits(states)[:, values]
    targets = (batch["ids"][:, 1:][wanted][:, None] == values).float().argmax(-1)  # (N,), indices
    cross_entropy, z_loss = token_losses(logits, targets)
    return {"loss": 0.1 * (cross_entropy + z_loss).sum(), "nll": cross_entropy.detach().sum(),
            "right": (logits.argmax(-1) == targets).sum(), "count": targets.numel()}


def note_rows(tokenizer, rows, size):
    """Return rows of facts, such as "Ada's keys are in box 4.", and of questions about them: ids,
    and True for the answers to predict, both (rows, size). There are one to four facts, or one if a
    row is short."""
    rng = random.Random(torch.randint(2**31, ()).item())  # so torch's seed decides the rows
    columns = []
    for _ in range(rows):
        tasks = corpus.draw_facts(rng, rng.randint(1, 4 if size >= 128 else 1))
        questions = [(0, rng.choice(tasks)) for _ in range(size // 12)]  # more than fit
        both = corpus.insert_facts([], [(0, task) for task in tasks], questions, tokenizer)
        columns.append(torch.tensor(both)[:, :size])
    ids, is_answer = torch.stack(columns).unbind(1)
    return ids, is_answer.bool()


def lookup(run, *, widen=3, steps=800, note_steps=400, batch_size=48, num_keys=128, largest_gap=7,
           lr=0.005, matrix_scale=MATRIX_SCALE, warmup=20):
    """Train a new model to look up: `steps` steps on `key_value_rows`, then `note_steps` on
    `note_rows`. It has `widen` times as many feed-forward units as the run's config.

    In the first half of `steps`, keys and values are neighbours. Then a growing number of tokens
    stands between them, up to `largest_gap`. A model that has learned the first soon learns the
    second; with gaps from the start, it learns neither."""
    model = untrained_model(run, "lookup", widen)
    seed_step(run.seed, "lookup", -2)
    tokens = draw_token_ids(model.tokenizer, num_keys)
    largest_gap = min(largest_gap, run.config.context // 16 - 1)  # so that 8 keys fit into a row

    def batches(step):
        ids, is_answer = None, torch.tensor(False)
        if step >= steps:
            ids, is_answer = note_rows(model.tokenizer, batch_size, run.config.context)
        if not is_answer.any():  # also in a context that is too short for a fact and a question
            gap = min(largest_gap, max(0, 2 * step - steps) * (largest_gap + 1) // steps)
            pairs = int(torch.randint(2, 5, ()))
            ids, is_answer = key_value_rows(tokens, batch_size, pairs, 8 - pairs, gap)
        return {"ids": ids, "is_answer": is_answer}

    loss = functools.partial(answer_loss, values=tokens[1].to(run.device))
    fit(model, batches, loss, steps=steps + note_steps, lr=lr,
        schedule=cosine(steps + note_steps, warmup, floor=1.0), matrix_scale=matrix_scale, run=run,
        stage="lookup", unit="answers")
    save_model(run, "lookup", model)
    metrics = {}
    for name, step in (("answers right %", steps + note_steps), ("values right %", steps - 1)):
        seed_step(run.seed, "lookup", -3)  # rows of no training step
        batch = {key: x.to(run.device) for key, x in batches(step).items()}
        with torch.no_grad():
            result = loss(model, batch)
        metrics[name] = 100 * result["right"].item() / result["count"]
    return metrics
