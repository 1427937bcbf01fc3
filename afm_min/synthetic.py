"""The stage synthetic (the report's section 4.1): examples that the draft generates, and the
selection of right ones.

    mathematics  evolved problems: keep a response with the known answer, or with the majority's
    code         keep a response that passes unit tests
    tools        the calls are executed: keep a conversation with the right calls and answer

Departure: the questions come from the toy world, as a model of this size invents none.
"""
import collections

from afm_min import chat, evaluate, guards, respond
from afm_min.model import load_model
from afm_min.progress import track
from afm_min.trainer import seed_step
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, Math, draw_task


def majority_vote(answers):
    """Return the answer that is given at least twice and by at least three quarters, or None.

    ["7", "7", "9", "7"] -> "7"; ["7", "7", "9"] -> None; ["7"] -> None"""
    if not answers:
        return None
    answer, count = collections.Counter(answers).most_common(1)[0]
    return answer if count >= 2 and 4 * count >= 3 * len(answers) else None


def select_by_answer(family, question, responses, truth=None):
    """Return the first response whose verified answer is right, or None.

    truth: the right answer; if None, the majority of the verified answers (self-consistency). If it
    is given, a response without steps is accepted, too. Short wrong answers agree by chance, so
    without it none is."""
    # The verified answer is None if a step is wrong, or if the form is.
    answers = [family.verified_answer(question, response) for response in responses]
    right = truth or majority_vote([answer for answer in answers if answer])
    without_steps = family.solution([], truth)
    for response, answer in zip(responses, answers):
        if right and answer == right or truth and response == without_steps:
            return response
    return None


def select_by_score(responses, scores, threshold):
    """Return the first response with the highest score, or None if this is below the threshold."""
    best = max(scores)
    return responses[scores.index(best)] if best >= threshold else None


def new_tasks(family, count):
    """Return training tasks, drawn with seeds that no other stage uses."""
    return [draw_task(family, "train", f"synthetic {i}") for i in range(count)]


def examples_and_row(name, is_right, tasks, samples, selected):
    """Return examples of the selected responses, and the row of `name` in the table "yields".

    is_right: a function of a task and a response. samples: a list of responses for each task.
    selected: for each task one of these, or None. The row is the name, the number of tasks, % of
    the samples that are right, the number of selected responses, and % of these that are right."""
    chosen = [(task, response) for task, response in zip(tasks, selected) if response]
    examples = [chat.example(name, task.messages(), response) for task, response in chosen]
    samples_right = [is_right(task, text) for task, texts in zip(tasks, samples) for text in texts]
    chosen_right = [is_right(task, response) for task, response in chosen]
    return examples, [name, len(tasks), evaluate.percent(samples_right), len(chosen),
                      evaluate.percent(chosen_right)]


def synthetic_math(model, family, kind, count, samples):
    """Return examples of one kind of evolved mathematics, and their row."""
    tasks = new_tasks(family, count)
    texts = respond.sample_texts(model, tasks, samples)
    selected = []
    for task, responses in zip(tasks, texts):
        # As in the report, the answers to problems made deeper or broader are unknown.
        truth = task.answer if kind in ("rephrased", "reversed") else None
        selected.append(select_by_answer(family, task.question, responses, truth))
    return examples_and_row(f"math {kind}", family.check, tasks, texts, selected)


def synthetic_code(model, family, count, samples, threshold, seen_tests):
    """Return examples of code selected by execution, their row, and metrics on hidden tests.

    The model sees no unit test. The selection sees the first `seen_tests` tests of a task: it takes
    the sample that passes the most of them, if it passes at least a share `threshold`. The other
    tests are hidden. They only measure how many are right, of the first samples and of the selected
    ones."""
    tasks = new_tasks(family, count)
    texts = respond.sample_texts(model, tasks, samples)

    def share_passed(task, text):  # of the seen tests
        return sum(family.is_correct(task, text, slice(seen_tests))) / seen_tests

    def passes_hidden(task, text):
        return all(family.is_correct(task, text, slice(seen_tests, None)))

    def is_right(task, text):
        return share_passed(task, text) == 1 and passes_hidden(task, text)
    selected = [select_by_score(responses, [share_passed(task, text) for text in responses],
                                threshold) for task, responses in zip(tasks, texts)]
    examples, row = examples_and_row("code", is_right, tasks, texts, selected)
    return examples, row, {
        "one sample passes hidden tests %": evaluate.percent(
            passes_hidden(task, responses[0]) for task, responses in zip(tasks, texts)),
        "selected sample passes hidden tests %": evaluate.percent(
            passes_hidden(task, text) for task, text in zip(tasks, selected) if text)}


def synthetic_tool_use(model, family, count, samples):
    """Return examples of conversations with tools, and their row.

    Each question is attempted `samples` times, and the calls are executed. The first attempt with
    the right calls and the right answer is selected."""
    tasks = new_tasks(family, count)
    texts = respond.sample_texts(model, tasks, samples)
    selected = [next((text for text in attempts if family.check(task, text)), None)
                for task, attempts in zip(tasks, texts)]
    _, row = examples_and_row("tools", family.check, tasks, texts, selected)
    examples = []
    for task, text in zip(tasks, selected):
        if text:  # one reply a line: write out the conversation, with the results of the calls
            messages = task.messages()
            *calls, answer = text.strip().split("\n")
            for call in calls:
                messages += [{"role": "assistant", "content": call},
                             tools.answer_call(call, messages)]
            examples.append(chat.example("tools", messages, answer))
    return examples, row


def synthetic(run, *, math=800, code_questions=200, tool_questions=1000, samples=4, threshold=1.0,
              seen_tests=4, unlikely=2.4, similar=0.9999):
    """Generate examples with the draft model, select right ones, and keep those that pass the
    quality guards. The table "yields" counts the selection, the table "guards" the guards.

    math: number of problems of each kind. threshold, seen_tests: see `synthetic_code`.
    unlikely, similar: see `guards.first_guards`, whose model is the base model, as in the stage
    demonstrations. There are no ratings: the selection takes their place."""
    model, world = load_model(run, "draft"), all_families()
    seed_step(run.seed, "synthetic", 0)  # so that a resumed run samples the same responses
    results = [synthetic_math(model, EVOLVED[f"math {kind}"], kind, math, samples)
               for kind in track(Math.KINDS, "synthetic: mathematics")]
    code, row, hidden_tests = synthetic_code(model, world["code"], code_questions, samples,
                                             threshold, seen_tests)
    results += [(code, row), synthetic_tool_use(model, world["tools"], tool_questions, samples)]
    base, kept, guards_table = load_model(run, "lengthening"), [], []
    for examples, (name, *_) in results:
        outcomes = guards.first_guards(examples, [True] * len(examples), base, unlikely, similar)
        kept += [example for example, outcome in zip(examples, outcomes) if outcome == "kept"]
        guards_table.append(guards.table_row(name, outcomes))
    run.write_lines("synthetic", kept)
    return {"examples": len(kept), **hidden_tests, "yields": [row for _, row in results],
            "guards": guards_table}
