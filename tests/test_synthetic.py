"""The selection of synthetic examples, by hand."""
import dataclasses

import pytest

from afm_min import chat, guards, respond, synthetic
from afm_min.run import Run
from afm_min.world import families, tool_tasks, tools
from afm_min.world.tasks import EVOLVED, MATH, Math, Task, draw_task, draw_tasks

CODE = families.all_families()["code"]
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


def test_majority_vote_needs_two_answers_and_three_quarters():
    assert synthetic.majority_vote(["7", "7", "9", "7"]) == "7"
    assert synthetic.majority_vote(["7", "7"]) == "7"
    assert synthetic.majority_vote(["7", "7", "9"]) is None
    assert synthetic.majority_vote(["7"]) is None
    assert synthetic.majority_vote([]) is None


SEVEN, ONE = "4+3=7. The answer is 7.", "4-3=1. The answer is 1."


@pytest.mark.parametrize("responses, truth, selected", [
    ([ONE, SEVEN], "7", SEVEN),
    ([ONE, ONE], "7", None),  # a majority does not count if the truth is known
    (["The answer is 1.", "The answer is 7.", SEVEN], "7", "The answer is 7."),
    (["The answer is 7.", "The answer is 7."], None, None),
    (["nonsense", SEVEN, "The answer is 1.", SEVEN], None, SEVEN),  # two verified answers
    (["nonsense", SEVEN, "The answer is 7."], None, None),  # one
    ([ONE, SEVEN], None, None),
    (["?"], None, None)])
def test_select_by_the_truth_or_by_a_majority_of_verified_answers(responses, truth, selected):
    question = "Ada has 4 pens. Ada buys 3. How many pens does Ada have?"
    assert synthetic.select_by_answer(MATH, question, responses, truth) == selected


def test_select_the_first_of_the_highest_scores_above_the_threshold():
    assert synthetic.select_by_score(["a", "b", "c", "d"], [0.5, 1.0, 1.0, 0.5], 1.0) == "b"
    assert synthetic.select_by_score(["a", "b"], [0.5, 0.0], threshold=1.0) is None


@pytest.mark.parametrize("kind, responses", [("reversed", 1), ("deeper", 0)])
def test_synthetic_math_uses_the_truth_where_it_is_known(monkeypatch, kind, responses):
    """Of two different verified answers, none has a majority, but one is the truth."""
    task = Task("Ada has 4 pens. Ada buys 3. How many?", SEVEN, "7", "")
    monkeypatch.setattr(synthetic, "new_tasks", lambda family, count: [task] * count)
    monkeypatch.setattr(respond, "sample_texts", lambda model, tasks, samples: [[ONE, SEVEN]])
    examples, row = synthetic.synthetic_math(None, EVOLVED[f"math {kind}"], kind, 1, samples=2)
    assert [example["messages"][-1]["content"] for example in examples] == [SEVEN] * responses
    assert row == [f"math {kind}", 1, 50, responses, 100.0 * responses]


def test_hidden_unit_tests_do_not_influence_the_selection(monkeypatch):
    """Two samples for each of six questions, in turn: one that passes all tests but the first
    four, and the solution; one that passes only these four, and the solution; the solution, and one
    that passes only these four."""
    tasks = draw_tasks(CODE, "train", 6)  # different ones
    monkeypatch.setattr(synthetic, "new_tasks", lambda family, count: tasks)

    def is_correct(task, text, tests):
        results = {"late": 4 * [False] + 16 * [True], "shallow": 4 * [True] + 16 * [False],
                   task.solution: 20 * [True]}[text]
        return results[tests]
    monkeypatch.setattr(CODE, "is_correct", is_correct)
    monkeypatch.setattr(respond, "sample_texts", lambda model, tasks, samples: [
        (["late", task.solution], ["shallow", task.solution], [task.solution, "shallow"])[i % 3]
        for i, task in enumerate(tasks)])
    examples, row, hidden = synthetic.synthetic_code(None, CODE, 6, samples=2, threshold=1.0,
                                                   seen_tests=4)
    assert [example["messages"][-1]["content"] == task.solution
            for example, task in zip(examples, tasks)] == [True, False, True] * 2
    # Of single samples, "late" and the solution pass the hidden tests.
    assert hidden == {"one sample passes hidden tests %": pytest.approx(200 / 3),
                      "selected sample passes hidden tests %": pytest.approx(200 / 3)}
    assert row == ["code", 6, 50, 6, pytest.approx(200 / 3)]


def test_hidden_tests_measure_the_selection(monkeypatch):
    """Two samples for each of four questions. One of four first samples is right, and all three of
    those that are kept: the other question has no sample that passes the seen tests."""
    tasks = draw_tasks(CODE, "train", 4)
    monkeypatch.setattr(synthetic, "new_tasks", lambda family, count: tasks)
    monkeypatch.setattr(CODE, "is_correct", lambda task, text, tests: (
        20 * [text == task.solution])[tests])
    monkeypatch.setattr(respond, "sample_texts", lambda model, tasks, samples: [
        ["bad", "bad"], [tasks[1].solution, "bad"], ["bad", tasks[2].solution],
        ["bad", tasks[3].solution]])
    _, row, hidden = synthetic.synthetic_code(None, CODE, 4, samples=2, threshold=1.0, seen_tests=4)
    assert list(hidden.values()) == [25, 100]
    assert row == ["code", 4, 37.5, 3, 100]


def test_the_first_right_attempt_at_each_question_is_selected(monkeypatch):
    """Two attempts at each of six questions, in turn: none right, the second right, both right, of
    which the first ends with a space. The examples are whole conversations, with the results of the
    calls, as in the tasks of Tools(whole=True)."""
    whole = [draw_task(tool_tasks.Tools(whole=True), "train", seed) for seed in range(6)]
    family = tool_tasks.Tools()
    tasks = [dataclasses.replace(task, solution="\n".join([*task.answer[0], task.answer[1]]),
                                 turns=()) for task in whole]
    assert sum(len(task.turns) for task in whole) > 12  # 2 for each call
    monkeypatch.setattr(synthetic, "new_tasks", lambda family, count: tasks)
    monkeypatch.setattr(respond, "sample_texts", lambda model, tasks, samples: [
        (["Hm.", "Hm."], ["Hm.", task.solution], [task.solution + " ", task.solution])[i % 3]
        for i, task in enumerate(tasks)])
    examples, row = synthetic.synthetic_tool_use(None, family, count=6, samples=2)
    assert row == ["tools", 6, 50, 4, 100]  # of 12 attempts, 6 are right
    assert [example["source"] for example in examples] == ["tools"] * 4
    for example, i in zip(examples, (1, 2, 4, 5), strict=True):
        *messages, answer = example["messages"]
        assert messages == whole[i].messages()
        assert answer == {"role": "assistant", "content": whole[i].answer[1]}


def test_an_attempt_may_begin_after_some_calls(monkeypatch):
    """These stay in the conversation, and the attempt is the rest."""
    tasks = [task for task in synthetic.new_tasks(tool_tasks.Tools(), 60)
             if task.turns and "\n" in task.solution]
    monkeypatch.setattr(synthetic, "new_tasks", lambda family, count: tasks)
    monkeypatch.setattr(respond, "sample_texts", lambda model, tasks, samples: [
        [task.solution] for task in tasks])
    examples, row = synthetic.synthetic_tool_use(None, tool_tasks.Tools(), len(tasks), samples=1)
    assert row == ["tools", len(tasks), 100, len(tasks), 100]
    for example, task in zip(examples, tasks, strict=True):
        messages = example["messages"]
        assert messages[:len(task.messages())] == task.messages()
        replies = [m["content"] for m in messages if m["role"] == "assistant"]
        assert replies == [*task.answer[0], task.answer[1]]
        results = [m["content"] for m in messages if m["role"] == "tool"]
        assert results == [tools.run_call(call, task.system) for call in task.answer[0]]


def test_the_guards_drop_synthetic_examples_too(monkeypatch, tmp_path):
    """Each kind yields two examples. A guard drops the second one of code, and of tools both."""
    run = Run(tmp_path)

    def results(name):
        return [chat.example(name, [], text) for text in "ab"], [name, 9, 50, 2, 100]
    monkeypatch.setattr(synthetic, "load_model", lambda run, name: name)
    monkeypatch.setattr(synthetic, "all_families", lambda: {"code": None, "tools": None})
    monkeypatch.setattr(synthetic, "synthetic_math",
                        lambda model, family, kind, *_: results(f"math {kind}"))
    monkeypatch.setattr(synthetic, "synthetic_code",
                        lambda *_: (*results("code"), {"hidden": 1}))
    monkeypatch.setattr(synthetic, "synthetic_tool_use", lambda *_: results("tools"))

    def first_guards(examples, well_rated, model, unlikely, similar):
        assert (well_rated, model, unlikely, similar) == ([True, True], "lengthening", 3.0, 0.9)
        return {"code": ["kept", "model"], "tools": ["copy", "model"]}.get(
            examples[0]["source"], ["kept", "kept"])
    monkeypatch.setattr(guards, "first_guards", first_guards)
    metrics = synthetic.synthetic(run, unlikely=3.0, similar=0.9)
    kinds = [f"math {kind}" for kind in Math.KINDS]
    assert metrics == {
        "examples": 9, "hidden": 1,
        "yields": [[name, 9, 50, 2, 100] for name in (*kinds, "code", "tools")],
        "guards": [*([name, 2, 0, 0, 0, 2] for name in kinds), ["code", 2, 0, 1, 0, 1],
                   ["tools", 2, 0, 1, 1, 0]]}
    assert [example["source"] for example in run.read_lines("synthetic")] == [
        *(name for name in kinds for _ in range(2)), "code"]
