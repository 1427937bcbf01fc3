"""Evaluation of base models, which continue text but do not know the format of conversations.

    held_out       bits per byte and top-1 accuracy on held-out text
    continuations  choice of the true continuation of held-out text among four
    plain_texts    responses to the toy world's tasks in plain text, after a few worked examples
    recall         recall of facts at growing distances

From the report: few-shot questions and a choice among continuations, as in MMLU and HellaSwag.
Departure: the questions are about the toy world, and the texts are the corpus's held-out ones.
"""
import math

import torch
from torch import nn

from afm_min.chat import map_by_length
from afm_min.data import corpus
from afm_min.generate import Decoder, generate
from afm_min.tokenizer import DOCUMENT
from afm_min.trainer import token_losses
from afm_min.world.tasks import RECALL, draw_task


@torch.no_grad()
def held_out(model, run, max_tokens=8192, batch_size=32):
    """Return bits per byte of each held-out source, their mean, and top-1 accuracy over all tokens.

    Bits are per byte so that models with different tokenizers can be compared. At most `max_tokens`
    tokens of each source are predicted, in evenly spaced sequences as long as the run's context."""
    token_bytes = torch.tensor([len(token) for token in model.tokenizer.vocab])
    token_bytes[model.tokenizer.special(DOCUMENT)] = 0  # it is predicted, too, but is no text
    metrics = {}
    right = count = 0
    for source, stream in run.load(run.file("tokens.pt"))["held_out"].items():
        nats = byte_count = 0
        windows = corpus.held_out_windows(stream, run.config.context, max_tokens).to(run.device)
        for ids in windows.split(batch_size):
            logits, targets = model(ids[:, :-1]), ids[:, 1:]
            nats += token_losses(logits, targets)[0].sum().item()
            right += (logits.argmax(-1) == targets).sum().item()
            byte_count += token_bytes[targets.cpu()].sum().item()
            count += targets.numel()
        metrics[f"{source} bits/byte"] = nats / math.log(2) / byte_count
    mean = sum(metrics.values()) / len(metrics)
    return {"accuracy %": 100 * right / count, "bits/byte": mean} | metrics


@torch.no_grad()
def continuations(model, streams, count, context=48, length=16):
    """Return about `count` bools: is the true continuation of held-out text the likeliest of four?

    The texts have `context` tokens and the continuations `length`. The other three are from other
    places of the same source, so a guess is right with probability 1/4. streams: {source: (N,)}"""
    results = []
    for stream in streams.values():
        windows = corpus.held_out_windows(stream.long(), context + length - 1, len(stream))
        n = min(len(windows), max(1, count // len(streams)))
        rows = windows[torch.linspace(0, len(windows) - 1, n).long()]  # (n, context + length)
        texts, ends = rows[:, :context], rows[:, context:]
        # Roll the rows by 0, 1/4, 2/4 and 3/4 of n: choice 0 is each row's own continuation.
        choices = torch.stack([ends.roll(i * n // 4, 0) for i in range(4)], 1)  # (n, 4, length)
        ids = torch.cat((texts[:, None].expand(-1, 4, -1), choices), -1)
        ids = ids.flatten(0, 1).to(model.embedding.device)  # (4n, context + length)
        nll, _ = token_losses(model(ids[:, :-1])[:, -length:], ids[:, -length:])  # (4n, length)
        results += (nll.sum(-1).view(n, 4).argmin(1) == 0).tolist()  # is choice 0 the likeliest?
    return results


def plain_texts(model, family, conversations, examples=4, max_new_tokens=64):
    """Return a base model's greedy responses to conversations in plain text.

    As in pre-training (sources.questions), a document has a line for the content of each message,
    and a last line for the solution, which the model has to write. Before it come documents of
    training tasks with their solutions, as examples, as far as they fit the context."""
    tokenizer, document = model.tokenizer, model.tokenizer.special(DOCUMENT)

    def encode(messages, solution=""):
        lines = [*(message["content"] for message in messages), solution]
        return [document, *tokenizer.encode("\n".join(lines))]
    tasks = [draw_task(family, "train", f"example {i}") for i in range(examples)]
    worked = [encode(task.messages(), task.solution) for task in tasks]
    prompts = []
    for messages in conversations:
        prompt = encode(messages)[-(model.config.context - 1):]  # room for one token of a response
        for ids in worked:
            if len(ids) + len(prompt) + max_new_tokens <= model.config.context:
                prompt = ids + prompt
        prompts.append(prompt)
    decoder = Decoder(model)

    def compute(numbers):
        generated = generate(decoder, [prompts[i] for i in numbers], max_new_tokens, document,
                             temperature=0.0)
        return [tokenizer.decode([i for i in ids if i != document]).strip() for ids in generated]
    return map_by_length(compute, list(map(len, prompts)), max_rows=100)


@torch.no_grad()
def recall(model, run, longest, count=64):
    """Return the percentage of `count` facts that a model recalls, for several sequence lengths.

    A sequence is a fact, then text, then a question about the fact: 0.5, 1, 2, ... `longest` times
    the run's context. A fact is recalled if every token of the answer is the model's top-1. Facts
    and texts are held out; each fact has a different text."""
    filler = max(run.load(run.file("tokens.pt"))["held_out"].values(), key=len).tolist()
    metrics = {}
    for times in [0.5] + [2**i for i in range(longest.bit_length())]:  # 4 -> 0.5, 1, 2, 4
        length = int(times * run.config.context)
        rows = []
        for i in range(count):
            task = draw_task(RECALL, "test", i)
            without_text, _ = corpus.insert_facts([], [(0, task)], [(0, task)],
                                                  model.tokenizer)
            room = max(0, length - len(without_text))  # tokens of text between fact and question
            # Each text starts at another place of the filler, and wraps around at its end.
            text = filler[i * len(filler) // count:] + filler * (1 + length // len(filler))
            columns = corpus.insert_facts(text[:room], [(0, task)], [(room, task)],
                                          model.tokenizer)
            rows.append(torch.tensor(columns, device=run.device).T)  # (length, 2): id, is_answer
        right = 0
        for i in range(0, count, 16):
            padded = nn.utils.rnn.pad_sequence(rows[i:i + 16], batch_first=True)
            ids, is_answer = padded.unbind(-1)  # (16, length) each
            wanted = is_answer[:, 1:] > 0  # (16, length - 1)
            answers = model.logits(model.hidden_states(ids[:, :-1], wanted=wanted)).argmax(-1)
            correct = torch.ones_like(wanted)
            correct[wanted] = answers == ids[:, 1:][wanted]
            right += correct.all(1).sum().item()
        metrics[f"recall at {times}x %"] = 100 * right / count
    return metrics
