"""Filters of demonstrations, selection of synthetic data, the search for a mixture, and the
fine-tuning stages, by hand."""
import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, evaluate, sft
from afm_min.data import corpus
from afm_min.model import AFM
from afm_min.run import Run, UserError
from afm_min.tokenizer import DOCUMENT, Tokenizer
from afm_min.world import families, people
from afm_min.world.tasks import MATH, Recall, Task, draw_task, draw_tasks
from tests.test_chat import TINY


# Demonstrations.

def test_an_embedding_does_not_depend_on_the_other_conversations():
    """It is the mean state over the masked tokens, scaled to length 1."""
    tokenizer = Tokenizer.train(["Hi. Yes. No. What is it?"] * 3, 272)
    torch.manual_seed(0)
    model = AFM(dataclasses.replace(TINY, vocab_size=300))
    documents = [chat.render_response([], [tokenizer.special(DOCUMENT), *tokenizer.encode(text)])
                 for text in ("Yes. No. What is it? Hi.", "Hi.", "Is it?")]
    for (ids, _), embedding in zip(documents, sft.embeddings(model, documents)):
        mean = model.hidden_states(ids[None, :-1])[0].mean(0)
        assert embedding.norm().item() == pytest.approx(1)
        assert torch.cosine_similarity(embedding, mean, dim=0).item() == pytest.approx(1, abs=1e-5)


class Words:
    """A tokenizer that returns words instead of numbers."""

    def special(self, name):
        return name

    def encode(self, text):
        return text.split()


@pytest.fixture
def demonstrations(monkeypatch):
    """Seven demonstrations: a good one, a wrong one, a copy of the first, two with questions 2.8
    and 2.6 times as unlikely as is usual, a good one with the wrong one's embedding, and a wrong
    one with the first one's. Returns a function that filters them; raters never err."""
    task = draw_task(MATH, "train", 1)
    written = [people.Demonstration(task, task.messages(), task.solution, "") for _ in range(7)]
    for i in (1, 6):
        written[i] = written[i]._replace(response="The answer is 99.", flaw="wrong")
    vectors = torch.eye(7)
    for copy, original in ((2, 0), (5, 1), (6, 0)):  # at a cosine of 0.99995
        vectors[copy] = torch.nn.functional.normalize(vectors[original] + 0.01 * vectors[copy],
                                                      dim=0)
    question, solution = task.question.split(), task.solution.split()

    def conversation_losses(model, documents):  # of the question alone
        assert documents[0][0] == [DOCUMENT, *question]
        return torch.tensor([1.0, 1.0, 1.0, 2.8, 2.6, 1.0, 1.0])

    def embeddings(model, documents):  # of the whole conversation
        assert documents[0][0] == [DOCUMENT, *question, *solution]
        return vectors
    monkeypatch.setattr(chat, "render_response", lambda prompt, ids: (ids, None))
    monkeypatch.setattr(chat, "conversation_losses", conversation_losses)
    monkeypatch.setattr(sft, "embeddings", embeddings)
    monkeypatch.setattr(people, "well_rated", lambda grades, rng: grades["truth"] == 2)
    model = SimpleNamespace(config=TINY, tokenizer=Words())
    return lambda unlikely, similar: sft.filter_demonstrations(written, MATH, model, unlikely,
                                                               similar)


def test_each_filter_drops_what_it_is_for(demonstrations):
    """A copy of one that was dropped stays. The first filter to drop one is its outcome."""
    assert demonstrations(unlikely=2.7, similar=0.9999) == [
        "kept", "rating", "copy", "model", "kept", "kept", "rating"]


def test_thresholds_of_the_filters(demonstrations):
    assert demonstrations(unlikely=2.9, similar=0.9999)[3] == "kept"
    assert demonstrations(unlikely=2.5, similar=0.9999)[4] == "model"
    assert demonstrations(unlikely=2.7, similar=0.99999)[2] == "kept"


def test_demonstrations_are_counted_by_flaw_and_outcome(monkeypatch, tmp_path):
    """Eight demonstrations of one family. Two are wrong, and a filter drops both. Two repeat an
    earlier text, one of them by chance; a filter drops the other."""
    run = Run(tmp_path)
    written = [people.Demonstration(None, [], response, flaw) for response, flaw in (
        ("a", ""), ("b", "wrong"), ("c", ""), ("d", "wordy"), ("a", "copied"), ("c", ""),
        ("e", "garbled"), ("f", "wrong"))]
    monkeypatch.setattr(sft, "load_model", lambda run, name: None)
    monkeypatch.setattr(corpus, "toy_world", lambda run, whole: {"math": MATH})
    monkeypatch.setattr(people, "write_demonstration", lambda family, i, flawed: written[i])
    monkeypatch.setattr(sft, "filter_demonstrations", lambda written, *_: [
        "rating" if i in (1, 7) else "copy" if d.flaw == "copied" else "kept"
        for i, d in enumerate(written)])
    metrics = sft.demonstrations(run, count=8, evolved=0)
    assert metrics["examples"] == 5
    # flaw, all, dropped by rating, by the model, as a copy, and kept
    assert metrics["guards"] == [["none", 2, 0, 0, 0, 2], ["wrong", 2, 2, 0, 0, 0],
                                 ["wordy", 1, 0, 0, 0, 1], ["garbled", 1, 0, 0, 0, 1],
                                 ["copied", 2, 0, 0, 1, 1]]
    examples = run.read_lines("demonstrations")
    assert [example["source"] for example in examples] == ["math"] * 5
    assert [example["messages"][-1]["content"] for example in examples] == [
        "a", "c", "d", "c", "e"]


# Synthetic data.

QUESTION = "Ada has 4 lots of 3 pens. Ada loses 5. How many pens does Ada have?"


def test_a_verified_answer():
    assert MATH.verified_answer(QUESTION, "4*3=12. 12-5=7. The answer is 7.") == "7"


@pytest.mark.parametrize("response", [
    "4*3=12. 12-5=8. The answer is 8.",  # a false step
    "4*3=12. 13-5=8. The answer is 8.",  # a step that does not start from the last result
    "4*3=12. 12-5=7. The answer is 12.",  # another answer than the last result
    "4*3=12. The answer is 12.",  # a number of the question is not used
    "4*3=12. 12-5=7. 7+1=8. The answer is 8.",  # a number that is not in the question
    "The answer is 7.", "12-5=7. The answer is 7.",
    "4*3=12. 12-5=7. The answer is 7. 7", ""])
def test_an_answer_that_is_not_verified(response):
    assert MATH.verified_answer(QUESTION, response) is None


def test_majority_vote_needs_three_quarters():
    assert sft.majority_vote(["7", "7", "9", "7"]) == "7"
    assert sft.majority_vote(["7", "7", "9"]) is None
    assert sft.majority_vote(["7"]) == "7"
    assert sft.majority_vote([]) is None


SEVEN, ONE = "4+3=7. The answer is 7.", "4-3=1. The answer is 1."


@pytest.mark.parametrize("responses, truth, selected", [
    ([ONE, SEVEN], "7", SEVEN),
    ([ONE, ONE], "7", None),  # a majority does not count if the truth is known
    (["nonsense", SEVEN, "5+2=7. The answer is 7."], None, SEVEN),  # one verified answer
    ([ONE, SEVEN], None, None),
    (["?"], None, None)])
def test_select_by_the_truth_or_by_a_majority_of_verified_answers(responses, truth, selected):
    question = "Ada has 4 pens. Ada buys 3. How many pens does Ada have?"
    assert sft.select_by_answer(MATH, question, responses, truth) == selected


def test_select_the_first_of_the_highest_scores_above_the_threshold():
    assert sft.select_by_score(["a", "b", "c", "d"], [0.5, 1.0, 1.0, 0.5], threshold=1.0) == "b"
    assert sft.select_by_score(["a", "b"], [0.5, 0.0], threshold=1.0) is None


@pytest.mark.parametrize("kind, responses", [("reversed", 1), ("deeper", 0)])
def test_synthetic_math_uses_the_truth_where_it_is_known(monkeypatch, kind, responses):
    """Of two different verified answers, none has a majority, but one is the truth."""
    task = Task("Ada has 4 pens. Ada buys 3. How many?", SEVEN, "7", "")
    monkeypatch.setattr(sft, "new_tasks", lambda family, count: [task] * count)
    monkeypatch.setattr(chat, "sample_texts", lambda model, tasks, samples: [[ONE, SEVEN]])
    examples, row = sft.synthetic_math(None, kind, count=1, samples=2)
    assert [example["messages"][-1]["content"] for example in examples] == [SEVEN] * responses
    assert row == [f"math {kind}", 1, 50, responses, 100.0 * responses]


def test_hidden_unit_tests_do_not_influence_the_selection(monkeypatch):
    """Two samples for each of six questions, in turn: one that passes all tests but the first two,
    and the solution; one that passes only these two, and the solution; the solution, and one that
    passes only these two."""
    tasks = draw_tasks(families.Code(), "train", 6)  # different ones
    monkeypatch.setattr(sft, "new_tasks", lambda family, count: tasks)

    def passed(code, tests):
        seen = {test for task in tasks for test in task.answer[:2]}
        return [(test in seen) == (code == "shallow") for test in tests]
    monkeypatch.setattr(families, "passed", passed)
    monkeypatch.setattr(chat, "sample_texts", lambda model, tasks, samples: [
        (["late", task.solution], ["shallow", task.solution], [task.solution, "shallow"])[i % 3]
        for i, task in enumerate(tasks)])
    examples, row, hidden = sft.synthetic_code(None, count=6, samples=2, threshold=1.0)
    assert [example["messages"][-1]["content"] == task.solution
            for example, task in zip(examples, tasks)] == [True, False, True] * 2
    # Of single samples, "late" and the solution pass the hidden tests.
    assert hidden == {"one sample passes hidden tests %": pytest.approx(200 / 3),
                      "kept sample passes hidden tests %": pytest.approx(200 / 3)}
    assert row == ["code", 6, 50, 6, pytest.approx(200 / 3)]


def test_the_first_solved_conversation_of_each_question_is_selected(monkeypatch):
    """Two attempts at each of six questions, in turn: none right, the second right, both right, of
    which the first ends with a space."""
    family = families.Tools({"textwrap": "Text wraps."})
    tasks = [task for task in sft.new_tasks(family, 24) if not task.turns][:6]

    def converse(reply, conversations, pages):
        for i, messages in enumerate(conversations):
            calls, answer = tasks[i // 2].answer
            attempts = (("Hm.", "Hm."), ("Hm.", answer), (answer + " ", answer))[i // 2 % 3]
            for text in (*calls, attempts[i % 2]):
                messages.append({"role": "assistant", "content": text})
    monkeypatch.setattr(sft.tools, "converse", converse)
    examples, row = sft.synthetic_tool_use(None, family, count=6, samples=2)
    assert row == ["tools", 6, 50, 4, 100]  # of 12 attempts, 6 are right
    wanted = [tasks[1].answer[1], tasks[2].answer[1] + " ",
              tasks[4].answer[1], tasks[5].answer[1] + " "]
    assert sorted(example["messages"][-1]["content"] for example in examples) == sorted(wanted)


# The mixture.

def test_ascend_climbs_to_the_optimum():
    def score(weights):  # highest where a is 4 and b is 1
        return -(weights["a"] - 4) ** 2 - (weights["b"] - 1) ** 2
    weights, trace = sft.ascend(score, score, {"a": 1.0, "b": 1.0}, rounds=6, dw=0.5)
    assert score(weights) > -1 > score({"a": 1.0, "b": 1.0})
    # a at 1.5 scores -6.25, at 0.5 -12.25; b at 1.5 or 0.5 -9.25: so a alone moves, by 1.5.
    assert trace[:3] == [[1, "a", 1.0, -6.25, -12.25], [1, "b", 1.0, -9.25, -9.25],
                         [1, "all", 0.5, -6.25, -9.0]]


def test_ascend_moves_weights_by_their_slope_over_the_steepest():
    """Slopes 2 and -1: a is multiplied by 1.5, b by 1.5^(-1/2)."""
    def score(weights):
        return 2 * weights["a"] - weights["b"]
    weights, _ = sft.ascend(score, score, {"a": 1.0, "b": 1.0}, rounds=1, dw=0.5)
    assert weights == {"a": 1.5, "b": pytest.approx(1.5 ** -0.5)}


def test_ascend_keeps_the_weights_if_the_second_score_does_not_rise():
    """Trials ask for more of a, the more precise score for no change: dw is halved."""
    weights, trace = sft.ascend(lambda w: w["a"], lambda w: -abs(w["a"] - 1), {"a": 1.0},
                                rounds=2, dw=0.5)
    assert weights == {"a": 1.0}
    assert trace == [[1, "a", 1.0, 1.5, 0.5], [1, "all", 0.5, -0.5, 0.0],
                     [2, "a", 1.0, 1.25, 0.75], [2, "all", 0.25, -0.25, 0.0]]


def test_a_mixture_is_tested_with_other_seeds_and_conversations_than_in_the_search(
        monkeypatch, tmp_path):
    """The loss of a conversation is the distance of a's weight from 1.4, so a moves from 1 to 1.5,
    which is 0.3 better."""
    run = Run(tmp_path, torch.device("cpu"))
    trainings = []  # [weight of a, seed, steps, conversations]

    class Model:
        config, tokenizer = TINY, None

    def batches(sources, weights, batch_size):
        trainings.append([weights["a"]])
        return lambda step: {}

    def fit(model, batches, loss, steps, on_step, **_):
        on_step(0)
        trainings[-1].append(steps)

    def conversation_losses(model, conversations):
        trainings[-1].append(conversations)
        return torch.tensor([abs(trainings[-1][0] - 1.4)] * len(conversations))
    monkeypatch.setattr(sft, "load_model", lambda *_: Model())
    monkeypatch.setattr(sft, "fit", fit)
    monkeypatch.setattr(sft, "seed_step", lambda seed, stage, step: trainings[-1].append(stage))
    monkeypatch.setattr(evaluate, "validation_tasks", lambda *_: [
        (None, Task("", text, "", "")) for text in ("0", "1", "2", "3", "4" * 999)])
    monkeypatch.setattr(chat, "render",
                        lambda messages, _: (messages[-1]["content"], "mask"))
    monkeypatch.setattr(chat, "read_examples", lambda *_: {"a": [], "b": []})
    monkeypatch.setattr(chat, "batches", batches)
    monkeypatch.setattr(chat, "conversation_losses", conversation_losses)
    metrics = sft.mixture(run, rounds=1, dw=0.5, steps=3, seeds=2, longer=4)
    assert run.read_json("mixture.json") == dict(metrics["weights"]) == {"a": 1.5, "b": 1.0}
    assert metrics["gain over equal weights, nats"] == pytest.approx(0.4 - 0.1)
    assert metrics["interval"] == "+-0.0000"
    searched, unseen = [("0", "mask"), ("2", "mask")], [("1", "mask"), ("3", "mask")]
    accept = [["mixture 1", 12, searched], ["mixture 2", 12, searched]]
    trials = [["mixture 0", 3, searched]] * 4
    test = [["mixture 3", 12, unseen], ["mixture 4", 12, unseen]]
    assert [row[1:] for row in trainings] == [*accept, *trials, *accept, *test, *test]
    assert [row[0] for row in trainings] == [1, 1, 1.5, 0.5, 1, 1, 1.5, 1.5, 1, 1, 1.5, 1.5]


# Fine-tuning.

@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A run with a mixture, and what draft and sft hand to `fit`, which draws three batches and
    trains nothing, and the models they save. Validation gives the sums 110, 120 and 110 to three
    checkpoints."""
    settings, run = {"saved": []}, Run(tmp_path, torch.device("cpu"))
    run.write_json("mixture.json", {"a": 1.0})
    means = itertools.cycle([50, 60, 40, 80, 30, 80,  # greedy and best of 4 of each checkpoint
                             55])  # the chosen one

    def fit(model, batches, loss, on_step=lambda step: None, **others):
        settings.update(others, model=model, loss=loss)
        for step in range(3):
            on_step(step)
            batches(step)

    def read_examples(run, model, synthetic):
        settings["synthetic"] = synthetic
        return {"a": [(torch.ones(4, dtype=torch.long), torch.ones(4))]}

    def save_model(run, name, model):
        settings["saved"].append(name)
    monkeypatch.setattr(sft, "load_model", lambda run, name: AFM(TINY))
    monkeypatch.setattr(sft, "save_model", save_model)
    monkeypatch.setattr(sft, "fit", fit)
    monkeypatch.setattr(chat, "read_examples", read_examples)
    monkeypatch.setattr(corpus, "toy_world", lambda run: {})
    monkeypatch.setattr(evaluate, "validation", lambda *_: {"mean %": next(means)})
    return run, settings


def test_the_draft_warms_up_and_then_falls_to_a_lower_rate(stage):
    run, settings = stage
    sft.draft(run, steps=60, batch_size=2, lr=0.1, fast=40, slow=0.25, mixture={"a": 1})
    assert [settings["schedule"](step) for step in (0, 9, 19, 39, 40, 59)] == [
        .05, .5, 1, 1, .25, .25]
    assert [block.dropout for block in settings["model"].blocks] == [0.0]
    assert settings["saved"] == ["draft"]
    assert (settings["steps"], settings["lr"], settings["stage"]) == (60, 0.1, "draft")
    assert settings["loss"] is chat.response_loss
    assert settings["synthetic"] is False


def test_sft_keeps_the_checkpoint_with_the_best_sum(stage):
    """Of steps 1, 2 and 4 the sums are 110, 120 and 110. Step 4 is saved after training."""
    run, settings = stage
    metrics = sft.sft(run, steps=4, batch_size=2, lr=0.1, checkpoints=3)
    assert settings["saved"] == ["sft-1", "sft-2", "sft-4", "sft"]
    assert metrics == {"checkpoint": 2, "checkpoints": [[1, 50, 60], [2, 40, 80], [4, 30, 80]],
                       "mean %": 55}


def test_sft_has_dropout_and_a_constant_rate(stage):
    run, settings = stage
    sft.sft(run, steps=60, batch_size=2, dropout=0.3)
    assert [block.dropout for block in settings["model"].blocks] == [0.3]
    assert [settings["schedule"](step) for step in (0, 9, 19, 39, 59)] == [.05, .5, 1, 1, 1]
    assert settings["synthetic"] is True


def test_sft_may_leave_synthetic_examples_out(stage):
    run, settings = stage
    sft.sft(run, steps=60, batch_size=2, synthetic=False)
    assert settings["synthetic"] is False


def test_sft_without_a_mixture_is_refused(stage):
    run, _ = stage
    run.write_json("mixture.json", {})
    with pytest.raises(UserError, match="mixture"):
        sft.sft(run)


def test_dropout_only_while_training():
    torch.manual_seed(0)
    model, ids = AFM(TINY), torch.randint(50, (2, 9))
    without = model(ids)
    for block in model.blocks:
        block.dropout = 0.5
    assert not torch.equal(model.train()(ids), without)
    assert torch.equal(model.eval()(ids), without)


# Validation, by which sft chooses a checkpoint.

def test_best_of_n_validation_counts_a_task_once(monkeypatch):
    """Two tries at four tasks: the first two solved, then the first and the third."""
    temperatures = []

    def generate_texts(model, conversations, temperature=0.0):
        temperatures.append(temperature)
        solutions = [task.solution for task in draw_tasks(MATH, "validation", 4)]
        if len(temperatures) == 1:
            return [*solutions[:2], "", ""]
        return [solutions[0], "", solutions[2], ""]
    monkeypatch.setattr(evaluate, "generate_texts", generate_texts)
    assert evaluate.validation(None, {"math": MATH}, 4, samples=2)["math %"] == 75
    assert temperatures == [1.0, 1.0]


def test_validation_of_a_family_with_fewer_tasks_than_asked_for(monkeypatch):
    monkeypatch.setattr(evaluate, "generate_texts", lambda model, conversations, temperature: [
        task.solution for task in draw_tasks(Recall(1), "validation", 100)])
    assert evaluate.validation(None, {"recall": Recall(1)}, 100)["recall %"] == 100
