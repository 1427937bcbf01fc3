"""Supervised fine-tuning (the report's sections 4.1 and 4.2): from a model of text to an assistant.

    demonstrations  conversations that people write, and the filters that drop careless ones
    draft           a first model, trained on the demonstrations alone
    synthetic       examples that the draft generates, and the selection of right ones
    mixture         a search for the sources' weights
    sft             the draft trained further with these weights; the best checkpoint is kept

From the report: loss on responses only, filters by ratings, by a model and by similarity, synthetic
data by evolution and self-consistency or execution, the mixture search, a constant learning rate,
dropout 0.1 in sft, and the choice of a checkpoint by greedy accuracy and best-of-4 accuracy.
Departures: questions for synthetic data come from the toy world, as a model of this size invents
none; the draft has no dropout, and its learning rate is lower in the last steps, since arithmetic
is learned only then; the checkers, not a reward model, pick the best of 4.
"""
import collections
import copy
import random

import torch

from afm_min import chat, evaluate
from afm_min.data import corpus
from afm_min.model import load_model, save_model
from afm_min.tokenizer import DOCUMENT
from afm_min.trainer import cosine, fit, seed_step
from afm_min.world import families, people, tools
from afm_min.world.tasks import EVOLVED, Math, draw_task

# The draft's mixture. Families that take longer to learn have larger weights.
MIXTURE = {"math": 1.6, "follow": 3.2, "tools": 2.8, "code": 2.6, "summary": 0.4, "recall": 0.2,
           "refuse": 1.2}


# Demonstrations.

def embeddings(model, conversations):
    """Return the mean hidden state of each pair (ids, loss_mask), scaled to length 1: (N, C)."""
    def embed(model, ids, loss_mask):
        states = model.hidden_states(ids[:, :-1]) * loss_mask[:, 1:, None]  # (B, T, C)
        return torch.nn.functional.normalize(states.sum(1).float())
    return chat.map_conversations(embed, model, conversations)


def filter_demonstrations(written, family, model, unlikely, similar):
    """Return, for each Demonstration of a family, the first filter that drops it, or "kept".

    rating  a rater finds it bad
    model   its question's loss under the model is above `unlikely` times the median
    copy    its embedding has a cosine above `similar` to that of an earlier one, which passed the
            first two filters"""
    rng, tokenizer = random.Random(f"raters {family.name}"), model.tokenizer

    def as_document(lines):
        ids = [tokenizer.special(DOCUMENT), *tokenizer.encode("\n".join(lines))]
        return chat.render_response([], ids[:model.config.context])  # no prompt: all ids count
    questions = [as_document([m["content"] for m in d.messages if m["role"] == "user"])
                 for d in written]
    whole = [as_document([*(m["content"] for m in d.messages), d.response]) for d in written]
    losses, vectors = chat.conversation_losses(model, questions), embeddings(model, whole)
    is_similar = vectors @ vectors.T > similar  # (N, N)
    outcomes, passed = [], []  # passed: indices of those that passed the first two filters
    for i, d in enumerate(written):
        if not people.well_rated(family.grades(d.task, d.response), rng):
            outcomes.append("rating")
        elif losses[i] > unlikely * losses.median():
            outcomes.append("model")
        else:
            outcomes.append("copy" if is_similar[i, passed].any() else "kept")
            passed.append(i)
    return outcomes


def demonstrations(run, *, count=2000, evolved=100, flawed=0.15, unlikely=2.4, similar=0.9999):
    """Write demonstrations, then filter them with the base model by `filter_demonstrations`.

    There are `count` of each family, `evolved` of each kind of evolved mathematics. flawed: share
    of them that are written with a flaw. The table "guards" has a row for each flaw."""
    model, examples = load_model(run, "lengthening"), []
    counts, texts = collections.Counter(), set()  # counts: (flaw, outcome) -> demonstrations
    for family in (*corpus.toy_world(run, whole=True).values(), *EVOLVED.values()):
        n = evolved if family in EVOLVED.values() else count
        written = [people.write_demonstration(family, i, flawed) for i in range(n)]
        outcomes = filter_demonstrations(written, family, model, unlikely, similar)
        for d, outcome in zip(written, outcomes):
            text = f"{d.messages} {d.response}"
            flaw = "copied" if text in texts else d.flaw  # a repetition by chance counts, too
            counts[flaw, outcome] += 1
            texts.add(text)
            if outcome == "kept":
                examples.append(chat.example(family.name, d.messages, d.response))
    run.write_lines("demonstrations", examples)
    table = []
    for flaw in ("", *people.FLAWS):
        row = [counts[flaw, outcome] for outcome in ("rating", "model", "copy", "kept")]
        table.append([flaw or "none", sum(row), *row])
    return {"examples": len(examples), "guards": table}


# Synthetic data: the draft's own responses, and the selection of right ones.

def majority_vote(answers):
    """Return the answer that at least three quarters of the answers agree on, or None.

    ["7", "7", "9", "7"] -> "7"; ["7", "9"] -> None"""
    if not answers:
        return None
    answer, count = collections.Counter(answers).most_common(1)[0]
    return answer if 4 * count >= 3 * len(answers) else None


def select_by_answer(family, question, responses, truth=None):
    """Return the first response whose verified answer is right, or None.

    truth: the right answer; if None, the majority of the verified answers (self-consistency)."""
    answers = [family.verified_answer(question, response) for response in responses]
    right = truth or majority_vote([answer for answer in answers if answer])
    return responses[answers.index(right)] if right and right in answers else None


def select_by_score(responses, scores, threshold):
    """Return the first response with the highest score, or None if that is below the threshold."""
    best = max(scores)
    return responses[scores.index(best)] if best >= threshold else None


def new_tasks(family, count):
    """Return training tasks that no other stage draws."""
    return [draw_task(family, "train", f"synthetic {i}") for i in range(count)]


def examples_and_row(name, family, tasks, samples, selected):
    """Return examples of the selected responses, and the row of `name` in the table "yields".

    samples: a list of responses for each task; selected: one of them or None. The row has the
    number of tasks, % of samples that are right, number selected, % of these that are right."""
    chosen = [(task, response) for task, response in zip(tasks, selected) if response]
    right_samples = [family.check(task, text)
                     for task, texts in zip(tasks, samples) for text in texts]
    right = [family.check(task, response) for task, response in chosen]
    return ([chat.example(name, task.messages(), response) for task, response in chosen],
            [name, len(tasks), evaluate.percent(right_samples), len(chosen),
             evaluate.percent(right)])


def synthetic_math(model, kind, count, samples):
    """Return examples of one kind of evolved mathematics, and their row."""
    family = Math(kind)
    tasks = new_tasks(family, count)
    texts = chat.sample_texts(model, tasks, samples)
    selected = []
    for task, responses in zip(tasks, texts):
        # As in the report, the answers to problems made deeper or broader are unknown.
        truth = task.answer if kind in ("rephrased", "reversed") else None
        selected.append(select_by_answer(family, task.question, responses, truth))
    return examples_and_row(f"math {kind}", family, tasks, texts, selected)


def synthetic_code(model, count, samples, threshold, seen=2):
    """Return examples of code selected by execution, their row, and metrics on hidden tests.

    Of the samples for a task, the one that passes the most of the first `seen` unit tests is
    selected, if it passes at least a share `threshold` of them. The other tests are hidden: they
    only measure how many of the first samples, and of the selected ones, are right."""
    family = families.Code()
    tasks = new_tasks(family, count)
    texts = chat.sample_texts(model, tasks, samples)
    selected = []
    for task, responses in zip(tasks, texts):
        scores = [sum(family.is_correct(task, text, slice(seen))) / seen for text in responses]
        selected.append(select_by_score(responses, scores, threshold))

    def pass_hidden(responses):
        return evaluate.percent(all(family.is_correct(task, text, slice(seen, None)))
                                for task, text in zip(tasks, responses) if text is not None)
    examples, row = examples_and_row("code", family, tasks, texts, selected)
    return examples, row, {
        "one sample passes hidden tests %": pass_hidden([responses[0] for responses in texts]),
        "kept sample passes hidden tests %": pass_hidden(selected)}


def synthetic_tool_use(model, family, count, samples):
    """Return examples of conversations with tools, and their row.

    Each question is attempted `samples` times, and the calls are executed. The first attempt with
    the right calls and the right answer is selected."""
    # Tasks that start in the middle of a conversation are skipped, so draw more than needed.
    tasks = [task for task in new_tasks(family, 4 * count) if not task.turns][:count]
    attempts = [task.messages() for task in tasks for _ in range(samples)]
    # Append the model's messages and the tools' results to each attempt.
    tools.converse(lambda waiting: chat.generate_texts(model, waiting, temperature=1.0), attempts,
                   family.pages)
    solved = [family.solved(tasks[i // samples], messages) for i, messages in enumerate(attempts)]
    # The first solved attempt of each question: from the end, as the last one written stays.
    first = {i // samples: attempts[i] for i in reversed(range(len(attempts))) if solved[i]}
    examples = [chat.example("tools", messages[:-1], messages[-1]["content"])
                for messages in first.values()]
    return examples, ["tools", len(tasks), evaluate.percent(solved), len(first),
                      100.0 if first else 0.0]


def synthetic(run, *, math=800, code_questions=200, tool_questions=250, samples=4, threshold=1.0):
    """Generate examples with the draft model, and report the yield of each kind."""
    model, tool_family = load_model(run, "draft"), corpus.toy_world(run)["tools"]
    seed_step(run.seed, "synthetic", 0)  # so a resumed run samples the same
    results = [synthetic_math(model, kind, math, samples) for kind in Math.KINDS]
    code, row, hidden_tests = synthetic_code(model, code_questions, samples, threshold)
    results += [(code, row), synthetic_tool_use(model, tool_family, tool_questions, samples)]
    examples = [example for examples_of_kind, _ in results for example in examples_of_kind]
    run.write_lines("synthetic", examples)
    return {"examples": len(examples), **hidden_tests, "yields": [row for _, row in results]}


# Fine-tuning.

def draft(run, *, steps=1200, fast=960, batch_size=32, lr=0.005, slow=0.25, mixture=MIXTURE):
    """Fine-tune the base model on the demonstrations.

    The learning rate warms up over 20 steps, and is multiplied by `slow` after `fast` steps."""
    model = load_model(run, "lengthening")
    batches = chat.batches(chat.read_examples(run, model, synthetic=False), mixture, batch_size)
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, run=run, stage="draft",
        schedule=lambda step: min((step + 1) / 20, slow if step >= fast else 1.0))
    save_model(run, "draft", model)
    return evaluate.validation(model, corpus.toy_world(run))


def ascend(score, accept_score, weights, rounds, dw):
    """Find weights that raise a score, by the report's perturbation.

    In each round:
        try each weight w at (1 + dw) w and at (1 - dw) w: its slope is the difference of the scores
        move all weights: w <- w (1 + dw)^(slope / steepest slope)
        if that does not raise `accept_score`, undo the move and halve dw
    With dw = 0.5 and slopes 2 and -1, the weights are multiplied by 1.5 and 1.5^(-1/2).
    `accept_score` may be slower and more precise than `score`.

    Returns the weights, and the trace: a row [round, name, weight, score with more, with less] for
    each weight, and then, for each round, [round, "all", dw, accept_score after, before]."""
    trace, current = [], accept_score(weights)
    for number in range(1, rounds + 1):
        slopes = {}
        for name, weight in weights.items():
            more = score(weights | {name: weight * (1 + dw)})
            less = score(weights | {name: weight * (1 - dw)})
            slopes[name] = more - less
            trace.append([number, name, weight, more, less])
        steepest = max(map(abs, slopes.values())) or 1.0
        moved = {name: w * (1 + dw) ** (slopes[name] / steepest) for name, w in weights.items()}
        after = accept_score(moved)
        trace.append([number, "all", dw, after, current])
        if after > current:
            weights, current = moved, after
        else:
            dw /= 2
    return weights, trace


def mixture(run, *, rounds=1, dw=0.5, steps=24, batch_size=24, lr=0.002, count=48, seeds=2,
            longer=2):
    """Find weights of the sources so that a little training of the draft gives the lowest mean loss
    on validation conversations. The search starts from equal weights.

    `ascend` tries each weight with a run of `steps` steps, and accepts a move by the mean of
    `seeds` runs of `longer` * `steps` steps. At the end, the result is compared with equal weights
    by as many runs with other seeds, on conversations that the search has not seen. The 95%
    interval is over these conversations."""
    model = load_model(run, "draft")
    sources = chat.read_examples(run, model)
    examples = [chat.example("validation", task.messages(), task.solution)
                for _, task in evaluate.validation_tasks(run, count)]
    conversations = chat.render_examples(examples, model)["validation"]

    searched, unseen, equal = conversations[::2], conversations[1::2], dict.fromkeys(sources, 1.0)
    accept_seeds, test_seeds = range(1, 1 + seeds), range(1 + seeds, 1 + 2 * seeds)

    def losses(weights, conversations, seeds, steps):
        """Return each conversation's loss after training, the mean over seeds: (N,)."""
        total = 0
        for seed in seeds:
            trained = copy.deepcopy(model)
            fit(trained, chat.batches(sources, weights, batch_size), chat.response_loss,
                steps=steps, lr=lr, quiet=True,  # `fit` seeds all runs alike: seed again
                on_step=lambda step: seed_step(run.seed, f"mixture {seed}", step))
            total += chat.conversation_losses(trained, conversations) / len(seeds)
        return total
    weights, trace = ascend(
        lambda weights: -losses(weights, searched, [0], steps).mean().item(),
        lambda weights: -losses(weights, searched, accept_seeds, longer * steps).mean().item(),
        equal, rounds, dw)
    gains = (losses(equal, unseen, test_seeds, longer * steps)
             - losses(weights, unseen, test_seeds, longer * steps))  # (N,)
    run.write_json("mixture.json", weights)
    return {"gain over equal weights, nats": gains.mean().item(),
            "interval": f"+-{1.96 * gains.std().item() / len(gains) ** 0.5:.4f}",
            "weights": list(map(list, weights.items())), "trace": trace}


def sft(run, *, steps=600, batch_size=24, lr=0.001, dropout=0.1, synthetic=True, checkpoints=2,
        count=40):
    """Fine-tune the draft with the mixture that the stage mixture found.

    Of `checkpoints` evenly spaced checkpoints, keep the one with the highest sum of two validation
    accuracies: greedy, and best of 4 samples. synthetic: use synthetic examples, too."""
    model, weights = load_model(run, "draft"), run.read_json("mixture.json")
    batches = chat.batches(chat.read_examples(run, model, synthetic), weights, batch_size)
    candidates = sorted({steps * (i + 1) // checkpoints for i in range(checkpoints)} - {0})
    for block in model.blocks:
        block.dropout = dropout

    def save_candidate(step):
        if step in candidates:
            save_model(run, f"sft-{step}", model)
    # With a floor of 1.0, the learning rate is constant after the warm-up.
    fit(model, batches, chat.response_loss, steps=steps, lr=lr, run=run, stage="sft",
        schedule=cosine(steps, warmup=20, floor=1.0), on_step=save_candidate)
    save_candidate(steps)  # on_step is not called after the last step
    seed_step(run.seed, "checkpoints", 0)
    world, table = corpus.toy_world(run) | EVOLVED, []  # table: rows [step, greedy, best of 4]
    for step in candidates:
        model = load_model(run, f"sft-{step}")
        table.append([step] + [evaluate.validation(model, world, max(1, count // 4), n)["mean %"]
                               for n in (1, 4)])
    best, _, _ = max(table, key=lambda row: row[1] + row[2])
    model = load_model(run, f"sft-{best}")
    save_model(run, "sft", model)
    return {"checkpoint": best, "checkpoints": table} | evaluate.validation(model, world, count)
