"""Demonstrations, the search for a mixture, and the fine-tuning stages, by hand."""
import itertools
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, evaluate, guards, sft
from afm_min.data import corpus
from afm_min.model import AFM
from afm_min.run import Run, UserError
from afm_min.world import people
from afm_min.world.tasks import MATH, Recall, Task, draw_tasks
from tests.test_chat import TINY


# Demonstrations.

def test_demonstrations_are_counted_by_flaw_and_outcome(monkeypatch, tmp_path):
    """Eight demonstrations of one family. Two are wrong: the raters find both, and nothing else.
    Two repeat an earlier text, one of them by chance; a guard drops the other."""
    run = Run(tmp_path)
    written = [people.Demonstration(response, [], response, flaw) for response, flaw in (
        ("a", ""), ("b", "wrong"), ("c", ""), ("d", "wordy"), ("a", "copied"), ("c", ""),
        ("e", "garbled"), ("f", "wrong"))]
    family = SimpleNamespace(name="math", grades=lambda task, response: (task, response))
    monkeypatch.setattr(sft, "load_model", lambda run, name: name)
    monkeypatch.setattr(corpus, "toy_world", lambda run, whole: {"math": family})
    monkeypatch.setattr(people, "write_demonstration", lambda family, i, flawed: written[i])
    monkeypatch.setattr(people, "well_rated",
                        lambda grades, rng: grades not in (("b", "b"), ("f", "f")))

    def first_guards(examples, well_rated, model, unlikely, similar):
        assert (model, unlikely, similar) == ("lengthening", 3.0, 0.9)
        return ["kept" if well and i != 4 else "copy" if well else "rating"
                for i, well in enumerate(well_rated)]
    monkeypatch.setattr(guards, "first_guards", first_guards)
    monkeypatch.setattr(sft, "EVOLVED", {})
    metrics = sft.demonstrations(run, count=8, evolved=0, unlikely=3.0, similar=0.9)
    assert metrics["examples"] == 5
    # flaw, all, dropped by rating, by the model, as a copy, and kept
    assert metrics["guards"] == [["none", 2, 0, 0, 0, 2], ["wrong", 2, 2, 0, 0, 0],
                                 ["wordy", 1, 0, 0, 0, 1], ["garbled", 1, 0, 0, 0, 1],
                                 ["copied", 2, 0, 0, 1, 1]]
    for name, source, responses in (("demonstrations", "math", "acdce"),
                                    ("rejected", "rejected", "baf")):
        examples = run.read_lines(name)
        assert [example["source"] for example in examples] == [source] * len(responses)
        assert [example["messages"][-1]["content"] for example in examples] == list(responses)


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
