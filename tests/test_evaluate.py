"""Figures of the evaluation, against enumeration and numbers worked by hand."""
import itertools

import pytest

from afm_min import evaluate
from afm_min.world import families, tools
from afm_min.world.tasks import RECALL, Task, draw_tasks
from afm_min.model import PRESETS
from afm_min.tokenizer import Tokenizer

PAGES = {"textwrap": "Text wrapping and filling.\nMore.", "heapq": "Heap queue algorithm."}


@pytest.mark.parametrize("n, right", [(4, 0), (4, 1), (5, 2), (6, 6)])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one(n, right):
    for k in range(1, n + 1):
        chosen = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert evaluate.pass_at_k(n, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_wilson_solves_its_equation():
    # its ends are the shares p from which 8 of 10 lies 1.96 standard deviations away
    for p in evaluate.wilson(8, 10):
        assert abs(0.8 - p) == pytest.approx(1.96 * (p * (1 - p) / 10) ** 0.5)
    assert evaluate.wilson(0, 10)[0] == pytest.approx(0) and evaluate.wilson(0, 0) == (0, 1)


def test_loose_readings_forgive_a_line_before_and_marks_around():
    family = families.Follow()
    rules = ("colours", 2, "plus", "", "", "Done")
    given = Task("?", "+ red + blue. Done", rules, "")
    texts = ["+ red + blue. Done", "Sure!\n+ red + blue. Done", "**+ red + blue. Done**",
             "+ red + blue"]
    avoiding = Task("?", "+ red + blue", ("colours", 2, "plus", "", "pink", ""), "")
    assert [row[1] for row in evaluate.following(family, [avoiding], ["+ red + pink"])] == [
        0, pytest.approx(200 / 3)] * 2
    rows = {name: share for name, share, _, _ in evaluate.following(family, [given] * 4, texts)}
    assert rows["follow: prompts, strict"] == 25 and rows["follow: prompts, loose"] == 75
    assert rows["follow: instructions, strict"] == pytest.approx(100 * (3 + 2 + 0 + 2) / 12)
    assert rows["follow: instructions, loose"] == pytest.approx(100 * 11 / 12)


def test_side_by_side_counts_wins_and_takes_length_out():
    given = Task("Where are Ada's keys?", "in box 4.", "4", "")
    drawn = [(RECALL, given)] * 4
    *shares, even = evaluate.side_by_side(drawn,
                                          ["in box 4.", "in box 4.", "in box 5.", "in box 4."],
                                          ["in box 4.", "in box 7.", "in box 4.", "in box 9."])
    assert [row[:2] for row in shares] == [["wins", 50], ["ties", 25], ["losses", 25]]
    # All of one length: the fitted rate is the mean, (2 + 0.5) / 4, drawn a little to one half by
    # the ridge. The information is 4 x 0.6135 x 0.3865 + 0.1 = 1.0485, so its log odds, 0.461, are
    # +- 1.96 / 1.0485 ** 0.5 = 1.914.
    assert 60 < even[1] < 62.5 and even[2:] == ["19.0 to 91.5", 4]
    # The longer answer wins three times in four, and ours is the longer one in 16 of 20: it wins
    # 12 + 1 of them, but at equal length every second.
    long, short = "It is in box {}, as far as is known.", "box {}."
    pairs = ([(long.format(4), short.format(7))] * 12 + [(long.format(7), short.format(4))] * 4
             + [(short.format(4), long.format(7))] * 1
             + [(short.format(7), long.format(4))] * 3) * 10
    rows = {row[0]: row[1] for row in evaluate.side_by_side([drawn[0]] * 200, *zip(*pairs))}
    assert (rows["wins"] == pytest.approx(65)
            and rows["wins at equal length"] == pytest.approx(50, abs=0.5))


def test_refusals_tell_violations_from_over_refusal():
    harmful, harmless = (Task("?", "?", answer, "") for answer in ("", "paint a shed"))
    rows = evaluate.refusals(families.Refuse(), [*[harmful] * 4, *[harmless] * 3],
                             [*["I cannot help with that."] * 3, "Sure.",
                              "I cannot.", "To paint a shed, go.", "Yes."])
    assert [(row[1], row[3]) for row in rows] == [(25, 4), (pytest.approx(100 / 3), 3)]


class Oracle:
    """Stands for a model: gives to each prompt that it knows the response it is told."""
    config = PRESETS["afm-on-device"]  # its context: any prompt fits

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def learn(self, messages, response):
        self.known[tuple(self.tokenizer.encode_chat(messages, reply=True))] = response


@pytest.fixture
def oracle(monkeypatch):
    def generated(model, prompts, most, stop, temperature, uniforms):
        return [([*model.tokenizer.encode(model.known.get(tuple(prompt), "Hm.")), stop], 0.0)
                for prompt in prompts]
    monkeypatch.setattr(evaluate, "Decoder", lambda model: model)
    monkeypatch.setattr(evaluate, "generate_with_logp", generated)
    return Oracle(Tokenizer.train(["Where are the keys?"], 300))


def test_a_model_that_knows_half_of_the_answers(oracle):
    everything = families.all_families(PAGES)
    for family in everything.values():
        for task in draw_tasks(family, "test", 20)[:10]:
            oracle.learn(task.messages(), task.solution)
    results = evaluate.accuracy(oracle, everything, count=20)
    for name, family in everything.items():
        known = {str(task.messages()) for task in draw_tasks(family, "test", 20)[:10]}
        assert results[name] == [
            str(p.messages()) in known for p in draw_tasks(family, "test", 20)]
    assert evaluate.code_passes(oracle, everything["code"], 10, samples=3, ks=(1, 3)) == [
        ["code: pass@1", 100, "72.2 to 100.0", 10], ["code: pass@3", 100, "72.2 to 100.0", 10]]
    first, *others = evaluate.recall_by_distance(oracle, 10, notes=(4, 40))
    assert first[:2] == ["recall: up to 4 notes", 100] and others[0][1] == 0


def test_tools_are_really_run_in_the_conversations_that_are_counted(oracle):
    family = families.Tools(PAGES)
    drawn = draw_tasks(family, "test", 30)
    for task in drawn:
        messages = task.messages()[:2]
        for turn in (*task.answer[0], task.answer[1]):
            oracle.learn(messages, turn)
            messages = [*messages, {"role": "assistant", "content": turn}]
            if turn.startswith(tools.CALL):
                result = tools.run_call(turn, task.system, PAGES)
                messages.append({"role": "tool", "content": result})
    def tool_use():
        texts = evaluate.respond(oracle, [task.messages() for task in drawn])
        return evaluate.tool_use(oracle, family, drawn, texts)
    rows = tool_use()
    assert [row[1] for row in rows] == [100, 100, 100]
    assert rows[1][3] == 30 and rows[2][3] == sum(not task.answer[0] for task in drawn) > 0
    oracle.known = {prompt: tools.format_call("price", "keys") for prompt in oracle.known}
    assert [row[1] for row in tool_use()][1:] == [0, 0]
