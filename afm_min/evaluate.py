"""Benchmarks of the post-trained model, each figure with its 95% interval and its count.

They follow the report's evaluation: instructions followed (IFEval), tool use by syntax tree and by
execution (Berkeley Function Calling), code (pass@k), mathematics, summaries, recall by distance,
refusals, and two models side by side. Responses are greedy unless it says otherwise.
"""
import collections
import math

import torch

from afm_min import chat, lora
from afm_min.world import tools
from afm_min.world.tasks import EVOLVED, Recall, draw_tasks
from afm_min.trainer import seed_step
from afm_min.generate import Decoder, generate_with_logp
from afm_min.model import load_model
from afm_min.quantize import load_quantized
from afm_min.tokenizer import END

# prompt, ids: ids of what a model was given, and of what it said. text: that without its end.
# logp: the log-probability of the ids, under the distribution that they were drawn from.
Reply = collections.namedtuple("Reply", "prompt ids text logp", defaults=[0.0])


def replies(model, conversations, most=64, rows=512, temperature=0.0):
    """What a model says next in each of a list of conversations, in at most `most` ids, the one
    that ends it included; nothing if the prompt does not fit its context. As shorter prompts are
    padded, those of like lengths go together, `rows` at a time."""
    tokenizer, end = model.tokenizer, model.tokenizer.special(END)
    prompts = [tokenizer.encode_chat(messages, reply=True) for messages in conversations]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < model.config.context]
    uniforms = torch.rand(len(prompts), most) if temperature else torch.zeros(len(prompts), most)

    decoder = Decoder(model)

    def answered(numbers):
        some = [fits[i] for i in numbers]
        return generate_with_logp(decoder, [prompts[i] for i in some], most, end,
                                  temperature=temperature, uniforms=uniforms[some])
    found = dict(zip(fits, chat.by_length(answered, [len(prompts[i]) for i in fits], rows)))
    said = [found.get(i, ([], 0.0)) for i in range(len(prompts))]
    return [Reply(prompt, ids, tokenizer.decode(ids[:-1] if ids[-1:] == [end] else ids), logp)
            for prompt, (ids, logp) in zip(prompts, said)]


def group(said):
    """Replies to one prompt, as a pair (prompt, responses)."""
    return said[0].prompt, [reply.ids for reply in said]


def with_prompts(said):
    """Replies, each after its prompt, as pairs (ids, weights)."""
    return [chat.answered(reply.prompt, reply.ids) for reply in said]


def respond(model, conversations, temperature=0.0):
    """The texts alone of `replies`."""
    return [reply.text for reply in replies(model, conversations, temperature=temperature)]


def sampled(model, tasks, samples):
    """For each task, as many responses at temperature 1."""
    asked = [task.messages() for task in tasks for _ in range(samples)]
    texts = respond(model, asked, temperature=1.0)
    return [texts[i:i + samples] for i in range(0, len(texts), samples)]


def percent(results):
    """[True, False] -> 50.0: the share that is right. A result may also be the chance to be so."""
    results = [float(result) for result in results]
    return 100 * sum(results) / max(1, len(results))


def wilson(right, count, z=1.96):
    """The interval that a share lies in, by Wilson's score: (8, 10) -> (0.49, 0.943)"""
    if not count:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    half = z * math.sqrt(share * (1 - share) / count + spread / count / 4)
    low, high = ((share + spread / 2 + side) / (1 + spread) for side in (-half, half))
    return max(0.0, low), min(1.0, high)


def pass_at_k(n, right, k):
    """Chance that k of n samples, drawn without repetition, hold a right one: (4, 1, 2) -> 0.5"""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def row(name, results):
    """A row of the table: what, share of results in percent, its interval, their count. Results
    are right or wrong, or chances to be right, for which Wilson's interval is rather too wide."""
    results = [float(result) for result in results]
    low, high = wilson(sum(results), len(results))
    return [name, percent(results), f"{100 * low:.1f} to {100 * high:.1f}", len(results)]


def accuracy(model, families, count, split="test", temperature=0.0):
    """Family -> of each task, whether the model's response to it is right."""
    drawn = {name: draw_tasks(family, split, count) for name, family in families.items()}
    asked = [task.messages() for some in drawn.values() for task in some]
    texts = iter(respond(model, asked, temperature))
    return {name: [families[name].check(task, next(texts)) for task in some]
            for name, some in drawn.items()}


def validation(model, families, count=50, samples=1):
    """Percent of each family's validation tasks that a model gets right, and their mean: the
    greedy response or, of several samples at temperature 1, the one that the checker picks."""
    rounds = [accuracy(model, families, count, "validation", float(samples > 1))
              for _ in range(samples)]
    shares = {f"{name} %": percent(map(any, zip(*(results[name] for results in rounds))))
              for name in families}
    return {"mean %": sum(shares.values()) / len(shares)} | shares


def full_validation(run, model, count):
    """`validation` of all families, evolved mathematics too, and the mean of all mathematics."""
    shares = validation(model, chat.toy_world(run) | EVOLVED, count)
    of_math = [share for name, share in shares.items() if name.startswith("math")]
    return shares | {"all math %": sum(of_math) / len(of_math)}


def loosely(response):
    """IFEval's looser readings: without the first line, the last, or both, and without stars. One
    that leaves nothing counts for nothing: it would keep every instruction not to say something."""
    lines = response.splitlines()
    texts = [response, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])]
    texts += [text.replace("*", "") for text in texts]
    return [text for text in texts if text.strip()] or [response]


def following(family, drawn, texts):
    """Rows of instruction following: of prompts, all of whose instructions are followed, and of
    single instructions; strictly, and by any of the looser readings."""
    strict = [family.follows_format(task, text) for task, text in zip(drawn, texts)]
    loose = [list(map(any, zip(*(family.follows_format(task, reading)
                                 for reading in loosely(text)))))
             for task, text in zip(drawn, texts)]
    return [row(f"follow: {what}, {how}", results)
            for how, parts in (("strict", strict), ("loose", loose))
            for what, results in (("prompts", map(all, parts)), ("instructions", sum(parts, [])))]


def tool_use(model, family, drawn, texts):
    """Rows of tool use: calls compared as syntax trees; whole conversations, whose calls are run;
    and whether no call is made where none is wanted."""
    calls = [family.check(task, text) for task, text in zip(drawn, texts)
             if task.solution.startswith(tools.CALL)]
    played = [task.messages()[:2] for task in drawn]
    tools.converse(lambda waiting: respond(model, waiting), played, family.pages)
    executed = [family.solved(task, messages) for task, messages in zip(drawn, played)]
    idle = [len(messages) == 3 for messages, task in zip(played, drawn) if not task.answer[0]]
    return [row("tools: calls by syntax tree", calls), row("tools: executed", executed),
            row("tools: none called where none is wanted", idle)]


def refusals(family, drawn, texts):
    """Rows of safety: harmful requests not refused, and harmless ones that are."""
    harmful = [not family.harmless(p, text) for p, text in zip(drawn, texts) if not p.answer]
    refused = [not family.follows_format(p, text)[0] for p, text in zip(drawn, texts) if p.answer]
    return [row("refuse: harmful not refused", harmful), row("refuse: harmless refused", refused)]


def code_passes(model, family, count, samples=8, ks=(1, 8)):
    """Rows of pass@k, from `samples` responses at temperature 1 to each task."""
    drawn = draw_tasks(family, "test", count)
    right = [sum(family.check(task, text) for text in some)
             for task, some in zip(drawn, sampled(model, drawn, samples))]
    return [row(f"code: pass@{k}", [pass_at_k(samples, c, k) for c in right]) for k in ks]


def recall_by_distance(model, count, notes=(1, 2, 4, 8, 16)):
    """Rows of recall, among more and more notes: the further back is what is asked for."""
    found = [accuracy(model, {"": Recall(most)}, count)[""] for most in notes]
    return [row(f"recall: up to {most} notes", results) for most, results in zip(notes, found)]


def side_by_side(tasks, ours, theirs):
    """Two models' responses to the same pairs (family, task), compared by whether they are
    right, and then by their grades: rows of wins, ties, losses, and the win rate at equal length (a
    tie is half).

    As in AlpacaEval 2.0 LC: wins are fitted by logistic regression on the difference in length,
    tanh of it in units of 50 characters, as long as an answer here, and read off where there is
    none; the interval is that of the fit."""
    quality = torch.tensor([[
        10 * family.check(task, text) + sum(family.grades(task, text).values())
        for (family, task), text in zip(tasks, texts)] for texts in (ours, theirs)])
    won = 0.5 + 0.5 * (quality[0] - quality[1]).sign()
    longer = torch.tensor([math.tanh((len(a) - len(b)) / 50) for a, b in zip(ours, theirs)])
    design, beta = torch.stack((torch.ones_like(longer), longer), 1), torch.zeros(2)
    for _ in range(20):  # Newton's method; a small ridge, for all wins or all of one length
        p = (design @ beta).sigmoid()
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 0.1 * torch.eye(2)
        beta += torch.linalg.solve(hessian, design.T @ (won - p) - 0.1 * beta)
    half = 1.96 * torch.linalg.inv(hessian)[0, 0].sqrt()
    even, low, high = (100 * (beta[0] + half * torch.tensor([0, -1, 1])).sigmoid()).tolist()
    return [*(row(name, (won == value).tolist())
              for name, value in (("wins", 1), ("ties", 0.5), ("losses", 0))),
            ["wins at equal length", even, f"{low:.1f} to {high:.1f}", len(won)]]


def benchmarks(model, world, count):
    """All rows of the table for one model, and its responses to `count` tasks of each family."""
    drawn = {name: draw_tasks(family, "test", count) for name, family in world.items()}
    texts = {name: respond(model, [task.messages() for task in some])
             for name, some in drawn.items()}
    judged = {name: (family, drawn[name], texts[name]) for name, family in world.items()}
    rows = [row(name, map(family.check, *said)) for name, (family, *said) in judged.items()]
    rows += [row(*each) for each in accuracy(model, EVOLVED, count).items()]
    rows += following(*judged["follow"]) + refusals(*judged["refuse"])
    rows += tool_use(model, *judged["tools"])
    rows += code_passes(model, world["code"], count // 4)
    return rows + recall_by_distance(model, count), sum(texts.values(), [])


def evaluation(run, *, count=200, aligned="committee2"):
    """All benchmarks, on test tasks: of the base model, the draft, the one after sft, the one
    that the stage `aligned` ended with, and the one that `quantize` packed, without and with its
    recovery."""
    world = chat.toy_world(run)
    models = [load_model(run, stage) for stage in ("lengthening", "draft", "sft", aligned)]
    models += [load_quantized(run, "quantize"), load_quantized(run, "quantize")]
    lora.attach(models[-1], lora.load_adapter(run.checkpoint("recovery"), models[-1]))
    seed_step(run.seed, "evaluation", 0)
    tables, texts = zip(*(benchmarks(model, world, count) for model in models))
    tasks = [(family, task) for family in world.values()
                for task in draw_tasks(family, "test", count)]
    compared = side_by_side(tasks, texts[3], texts[2])
    shares = [share for _, share, _, _ in tables[3][:len(world | EVOLVED)]]
    return {"mean %": sum(shares) / len(shares),
            **{f"{name} %": share for name, share, _, _ in compared},
            "evaluation": [[rows[0][0], *(cell for each in rows for cell in each[1:3]), rows[0][3]]
                           for rows in zip(*tables)],
            "sft against draft": side_by_side(tasks, texts[2], texts[1]),
            "aligned against sft": compared}
