"""Demonstrations, the search for a mixture, and the fine-tuning stages, by hand."""
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, evaluate, guards, sft
from afm_min.model import AFM
from afm_min.run import Run, UserError
from afm_min.world import people
from afm_min.world.tasks import Task
from tests.test_chat import TINY, Letters


# Demonstrations.

def test_demonstrations_are_counted_by_flaw_and_outcome(monkeypatch, tmp_path):
    """Eight demonstrations of one family. Two are wrong: the raters find both, and nothing else.
    Two repeat an earlier text, one of them by chance; a guard drops the other."""
    run = Run(tmp_path)
    written = [people.Demonstration(response, [], response, flaw) for response, flaw in (
        ("a", ""), ("b", "wrong"), ("c", ""), ("d", "repeated"), ("a", "copied"), ("c", ""),
        ("e", "garbled"), ("f", "wrong"))]
    family = SimpleNamespace(name="math", grades=lambda task, response: (task, response))
    monkeypatch.setattr(sft, "load_model", lambda run, name: name)
    monkeypatch.setattr(sft, "all_families", lambda whole: {"math": family})
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
                                 ["repeated", 1, 0, 0, 0, 1], ["garbled", 1, 0, 0, 0, 1],
                                 ["copied", 2, 0, 0, 1, 1]]
    for name, source, responses in (("demonstrations", "math", "acdce"),
                                    ("rejected", "rejected", "baf")):
        examples = run.read_lines(name)
        assert [example["source"] for example in examples] == [source] * len(responses)
        assert [example["messages"][-1]["content"] for example in examples] == list(responses)
    assert sft.demonstrations(run, count=8, evolved=0, guarded=False)["examples"] == 8
    assert run.read_lines("rejected") == []


# The mixture.

def test_solution_probabilities_are_products_over_the_tokens_of_responses():
    torch.manual_seed(0)
    model = AFM(TINY)
    conversations = [chat.render_response([3, 4], [5, 6, 7], Letters()),
                     chat.render_response([8], [9], Letters())]
    wanted = []
    for ids, loss_mask in conversations:
        log_p = model(ids[None, :-1])[0].log_softmax(-1)
        log_p = log_p.gather(1, ids[1:, None])[:, 0]
        wanted.append(math.prod(p.exp().item() for p, counts in zip(log_p, loss_mask[1:])
                                if counts))
    assert sft.solution_probabilities(model, conversations).tolist() == pytest.approx(wanted)


def test_a_factorial_design_of_three_weights():
    assert sft.factorial_design(["a", "b", "c"]) == [
        {"a": 1, "b": 1, "c": 1}, {"a": -1, "b": 1, "c": -1},
        {"a": 1, "b": -1, "c": -1}, {"a": -1, "b": -1, "c": 1}]


@pytest.mark.parametrize("names, runs", [("a", 2), ("ab", 4), ("abcdefghijklm", 16),
                                         ("abcdefghijklmno", 16), ("abcdefghijklmnop", 32)])
def test_a_factorial_design_is_balanced(names, runs):
    """Each name has as many runs with more as with less, also among those with more of another."""
    design = sft.factorial_design(names)
    assert len(design) == runs
    for a, b in itertools.combinations_with_replacement(names, 2):
        assert sum(sign[a] for sign in design) == 0
        assert sum(sign[a] * sign[b] for sign in design) == (runs if a == b else 0)


def test_ascend_moves_weights_by_their_effect_over_the_largest():
    """Effects 2 and -1: a is multiplied by 1.5 and b by 1.5^(-1/2), before their mean is 1."""
    weights, trace = sft.ascend(lambda weights, number: 2 * weights["a"] - weights["b"],
                                {"a": 1.0, "b": 1.0}, rounds=1, dw=0.5)
    mean = (1.5 + 1.5 ** -0.5) / 2
    assert weights == {"a": pytest.approx(1.5 / mean), "b": pytest.approx(1.5 ** -0.5 / mean)}
    # With more of a, 2 * 1.5 - 1 on average; with less, 2 * 0.5 - 1.
    assert trace == [[1, "a", 1.0, 2.0, 0.0], [1, "b", 1.0, 0.5, 1.5]]


def test_ascend_halves_the_step_each_round():
    """More of a is always better: the ratio of the weights grows by 1.5^2, then by 1.25^2."""
    numbers = []

    def score(weights, number):
        numbers.append(number)
        return weights["a"] - weights["b"]
    weights, trace = sft.ascend(score, {"a": 1.0, "b": 1.0}, rounds=1, dw=0.5)
    assert weights["a"] / weights["b"] == pytest.approx(1.5 ** 2)
    weights, trace = sft.ascend(lambda w, number: math.log(w["a"]) - math.log(w["b"]),
                                {"a": 1.0, "b": 1.0}, rounds=2, dw=0.5)
    assert weights["a"] / weights["b"] == pytest.approx(1.5 ** 2 * 1.25 ** 2)
    assert [row[0] for row in trace] == [1, 1, 2, 2]
    assert numbers == [1] * 4


def test_ascend_climbs_to_the_optimum():
    def score(weights, number=0):  # highest where a is twice b and c half of b
        a, b, c = (math.log2(weights[name]) for name in "abc")
        return -(a - b - 1) ** 2 - (c - b + 1) ** 2
    weights, _ = sft.ascend(score, dict.fromkeys("abc", 1.0), rounds=4, dw=0.5)
    assert score(weights) > -0.1 > score(dict.fromkeys("abc", 1.0))
    assert sum(weights.values()) == pytest.approx(3)


def test_equal_scores_move_no_weight():
    weights, _ = sft.ascend(lambda weights, number: 0.5, {"a": 1.0, "b": 1.0}, rounds=2, dw=0.5)
    assert weights == {"a": 1.0, "b": 1.0}


def test_a_mixture_is_tested_with_other_seeds_and_conversations_than_in_the_search(
        monkeypatch, tmp_path):
    """The score is the share of a among a and "rejected", so the weights move from 1 : 1 to
    1.5 : 1 / 1.5, and a's share from 1 / 2 to 9 / 13."""
    run = Run(tmp_path, torch.device("cpu"))
    trainings = []  # [share of a, seed, steps, conversations]

    class Model:
        config, tokenizer = TINY, None

    def batches(sources, weights, batch_size):
        assert set(sources) == {"a", "rejected"}
        trainings.append([weights["a"] / (weights["a"] + weights["rejected"])])
        return lambda step: {}

    def fit(model, batches, loss, steps, on_step, schedule, **_):
        assert schedule(steps - 1) < 0.5
        on_step(0)
        trainings[-1].append(steps)

    def solution_probabilities(model, conversations):
        trainings[-1].append([text for text, _ in conversations])
        return torch.tensor([trainings[-1][0]] * len(conversations))
    monkeypatch.setattr(sft, "load_model", lambda *_: Model())
    monkeypatch.setattr(sft, "fit", fit)
    monkeypatch.setattr(sft, "seed_step", lambda seed, stage, step: trainings[-1].append(stage))
    monkeypatch.setattr(evaluate, "validation_tasks", lambda count, whole: whole and [
        (None, Task("", text, "", "")) for text in ("0", "1", "2", "3", "4" * 999)])
    monkeypatch.setattr(chat, "render", lambda messages, _: (messages[-1]["content"], "mask"))
    monkeypatch.setattr(chat, "read_examples", lambda *_: {"a": []})
    run.write_lines("rejected", [chat.example("rejected", [], "?")])
    monkeypatch.setattr(chat, "batches", batches)
    monkeypatch.setattr(sft, "solution_probabilities", solution_probabilities)
    metrics = sft.mixture(run, rounds=1, dw=0.5, steps=3, seeds=2, longer=4)
    assert run.read_json("mixture.json") == dict(metrics["weights"]) == {
        "a": pytest.approx(18 / 13), "rejected": pytest.approx(8 / 13)}
    assert metrics["gain over equal weights %"] == pytest.approx(100 * (9 / 13 - 1 / 2))
    assert metrics["interval"] == "+-0.00"
    trials = [["mixture 1", 3, ["0", "3"]]] * 4
    test = [[f"mixture {seed}", 12, ["1", "2"]] for seed in (2, 2, 3, 3)]
    assert [row[1:] for row in trainings] == [*trials, *test]
    shares = [1 / 2, 1 / 4, 3 / 4, 1 / 2, 9 / 13, 1 / 2, 9 / 13, 1 / 2]
    assert [row[0] for row in trainings] == pytest.approx(shares)


# Fine-tuning.

@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A run with a mixture, and what draft and sft hand to `fit`, which draws three batches and
    trains nothing, and the models they save. Three checkpoints have 50, 60 and 40%."""
    settings, run = {"saved": []}, Run(tmp_path, torch.device("cpu"))
    run.write_json("mixture.json", {"a": 1.0})
    run.write_lines("rejected", [])
    means = itertools.cycle([50, 60, 40])

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
    monkeypatch.setattr(evaluate, "validation", lambda *_: {"mean %": next(means)})
    return run, settings


def test_the_rate_of_the_draft_warms_up_while_it_falls_to_0(stage):
    """A ramp over 20 steps, times a line: at step 9, 10/20 * 51/60."""
    run, settings = stage
    sft.draft(run, steps=60, batch_size=2, lr=0.1, warmup=20, mixture={"a": 1})
    assert [settings["schedule"](step) for step in (0, 9, 19, 30, 59)] == pytest.approx([
        1 / 20, 51 / 120, 41 / 60, 1 / 2, 1 / 60])
    assert [block.dropout for block in settings["model"].blocks] == [0.0]
    assert settings["saved"] == ["draft"]
    assert (settings["steps"], settings["lr"], settings["stage"]) == (60, 0.1, "draft")
    assert settings["loss"] is chat.response_loss
    assert settings["synthetic"] is False


def test_sft_keeps_the_checkpoint_with_the_highest_accuracy(stage):
    """Of steps 1, 2 and 4. Step 4 is saved after training."""
    run, settings = stage
    metrics = sft.sft(run, steps=4, batch_size=2, lr=0.1, checkpoints=3)
    assert settings["saved"] == ["sft-1", "sft-2", "sft-4", "sft"]
    assert metrics == {"checkpoint": 2, "checkpoints": [[1, 50], [2, 60], [4, 40]], "mean %": 60}


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


@pytest.mark.parametrize("weight, sources", [(0.99, {"a"}), (1.0, {"a", "rejected"})])
def test_sft_leaves_rejected_demonstrations_out_if_their_weight_fell(stage, monkeypatch, weight,
                                                                     sources):
    run, settings = stage
    run.write_lines("rejected", [chat.example("rejected", [], "?")])
    run.write_json("mixture.json", {"a": 1.0, "rejected": weight})
    monkeypatch.setattr(chat, "render_examples", lambda examples, model: {
        examples[0]["source"]: [(torch.ones(4, dtype=torch.long), torch.ones(4))]})
    monkeypatch.setattr(chat, "batches", lambda sources, weights, batch_size: settings.update(
        sources=set(sources), weights=weights) or (lambda step: None))
    sft.sft(run, steps=4, batch_size=2)
    assert settings["sources"] == sources
    assert settings["weights"] == {"a": 1.0, "rejected": weight}


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
