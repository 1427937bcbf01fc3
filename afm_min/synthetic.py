"""Training examples that the model writes itself (the report's section 4.1.2, "Synthetic Data").

The questions come from the toy world, which tells a story in another way and asks for functions on
71 topics: a model of this size invents none. The responses are the model's own, several to a
question. In mathematics few are right; which to keep is found out by comparing with the truth
or, where that is hidden, with each other, and by running code and calls. What it cannot do yet is
not hidden: the yield of each kind is reported.
"""
import collections
import operator
import re

from afm_min import chat, evaluate
from afm_min.world import families, tools
from afm_min.world.tasks import Math, draw_task
from afm_min.trainer import seed_step
from afm_min.model import load_model

# As in the report, a story told in another way has a known answer, and one that is evolved has not.
TRUTH_KNOWN = ("rephrased", "reversed")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def majority(answers):
    """What three quarters of them are, or None: ["7", "7", "9", "7"] -> "7", ["7", "9"] -> None."""
    (answer, count), = collections.Counter(answers).most_common(1) or [(None, 0)]
    return answer if 4 * count >= 3 * len(answers) else None


def sound(question, response):
    """The answer of a worked answer if all its steps hold, go on from one another and use just the
    numbers of the question; else None. (Most small answers can be reached by false steps, too: of
    the responses that ended rightly in early attempts, half had got there by chance.)

    ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7" """
    worked = re.fullmatch(r"((?:\d+[-+*]\d+=\d+\. )+)The answer is (\d+)\.", response)
    if not worked:
        return None
    lefts, signs, rights, results = zip(*re.findall(r"(\d+)(.)(\d+)=(\d+)", worked[1]))
    go_on = (*lefts[1:], worked[2]) == results
    hold = all(OPERATORS[sign](int(left), int(right)) == int(result)
               for left, sign, right, result in zip(lefts, signs, rights, results))
    told = sorted([lefts[0], *rights]) == sorted(re.findall(r"\d+", question))
    return worked[2] if go_on and hold and told else None


def agreeing(question, responses, truth=None):
    """The first sound response whose answer is the truth or, if that is hidden, what three quarters
    of the sound ones say; None if there is none."""
    answers = [sound(question, response) for response in responses]
    wanted = truth or majority(list(filter(None, answers)))
    return next((response for answer, response in zip(answers, responses)
                 if answer and answer == wanted), None)


def best(responses, scores, threshold):
    """The response with the highest score, None if that is below the threshold."""
    score, response = max(zip(scores, responses), key=operator.itemgetter(0))  # the first of equals
    return response if score >= threshold else None


def drawn(family, count):
    """Training tasks that no other stage draws."""
    return [draw_task(family, "train", f"synthetic {i}") for i in range(count)]


def kept(name, family, tasks, responses, chosen):
    """Examples of the responses that were chosen, and a row of the table: questions asked, how many
    of all samples are right, to how many questions a response was chosen, and how many of those are
    right."""
    pairs = [(task, response) for task, response in zip(tasks, chosen) if response]
    samples = [family.check(p, text) for p, some in zip(tasks, responses) for text in some]
    right = [family.check(*pair) for pair in pairs]
    return ([chat.example(name, task.messages(), response) for task, response in pairs],
            [name, len(tasks), evaluate.percent(samples), len(pairs), evaluate.percent(right)])


def mathematics(model, kind, count, samples):
    """Examples of a kind of evolved task, and its row."""
    family = Math(kind)
    tasks = drawn(family, count)
    responses = evaluate.sampled(model, tasks, samples)
    chosen = [agreeing(task.question, some, task.answer if kind in TRUTH_KNOWN else None)
              for task, some in zip(tasks, responses)]
    return kept(f"math {kind}", family, tasks, responses, chosen)


def code(model, count, samples, threshold, seen=2):
    """Of each question's sampled solutions the one that passes most of the first `seen` unit tests
    is kept, if that share of them reaches the threshold. The other tests are hidden, and run apart:
    they tell how many of what was kept, and of single samples, is right."""
    family = families.Code()
    tasks = drawn(family, count)
    responses = evaluate.sampled(model, tasks, samples)
    scores = [[sum(family.is_correct(task, text, slice(seen))) / seen for text in some]
              for task, some in zip(tasks, responses)]
    chosen = [best(*each, threshold) for each in zip(responses, scores)]

    def pass_hidden(tried):
        return evaluate.percent(all(family.is_correct(task, text, slice(seen, None)))
                                for task, text in zip(tasks, tried) if text is not None)
    return *kept("code", family, tasks, responses, chosen), {
        "one sample passes hidden tests %": pass_hidden(some[0] for some in responses),
        "kept sample passes hidden tests %": pass_hidden(chosen)}


def episodes(model, family, count, samples):
    """Conversations that the model came through with the right calls, if any are wanted, which were
    run, and the right answer: of several attempts at a question the first such. And their row."""
    asked = [task for task in drawn(family, 4 * count) if not task.turns][:count]
    played = [task.messages() for task in asked for _ in range(samples)]
    tools.converse(lambda some: evaluate.respond(model, some, temperature=1.0), played,
                   family.pages)
    solved = [family.solved(asked[i // samples], messages) for i, messages in enumerate(played)]
    first = {i // samples: played[i] for i in reversed(range(len(played))) if solved[i]}
    return ([chat.example("tools", messages[:-1], messages[-1]["content"])
             for messages in first.values()],
            ["tools", len(asked), evaluate.percent(solved), len(first), 100.0 * bool(first)])


def synthetic(run, *, math=800, code_questions=200, tool_questions=250, samples=4, threshold=1.0):
    """Examples by the draft model, and of each kind the yield."""
    model, family = load_model(run, "draft"), chat.toy_world(run)["tools"]
    seed_step(run.seed, "synthetic", 0)  # as sampled whether or not the run was cut off before
    written = [mathematics(model, kind, math, samples) for kind in Math.KINDS]
    *solutions, hidden = code(model, code_questions, samples, threshold)
    written += [solutions, episodes(model, family, tool_questions, samples)]
    examples, rows = zip(*written)
    chat.write_lines(run, "synthetic", sum(examples, []))
    return {"examples": sum(map(len, examples)), **hidden, "yields": list(rows)}
