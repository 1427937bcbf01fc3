"""Training examples that the model writes itself (the report's section 4.1.2, "Synthetic Data").

The questions come from the toy world, which tells a story in another way and asks for functions on
71 topics: a model of this size invents none. The responses are the model's own, several to a
question. In mathematics few are right; which to keep is found out by comparing with the truth
or, where that is hidden, with each other, and by running code and calls. What it cannot do yet is
not hidden: the yield of each kind is reported.
"""
import collections
import re

from afm_min import chat, evaluate, families, tasks, tools
from afm_min.fit import seed_step
from afm_min.model import load_model
from afm_min.tokenizer import Tokenizer

# As in the report, a story told in another way has a known answer, and one that is evolved has not.
TRUTH_KNOWN = {"rephrased": True, "reversed": True, "deeper": False, "broader": False}


def majority(answers):
    """What three quarters of them are, or None: ["7", "7", "9", "7"] -> "7", ["7", "9"] -> None."""
    (answer, count), = collections.Counter(answers).most_common(1)
    return answer if 4 * count >= 3 * len(answers) else None


def sound(question, response):
    """The answer of a worked answer if all its steps hold, go on from one another and use just the
    numbers of the question; else None. (Most small answers can be reached by false steps, too: of
    the responses that ended rightly in early attempts, half had got there by chance.)

    ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7" """
    steps = re.findall(r"(\d+)([-+*])(\d+)=(\d+)\.", response)
    if not steps or response != " ".join([*map("{0[0]}{0[1]}{0[2]}={0[3]}.".format, steps),
                                          f"The answer is {steps[-1][3]}."]):
        return None
    before, used = steps[0][0], [steps[0][0]]
    for left, sign, right, result in steps:
        a, b = int(left), int(right)
        if left != before or int(result) != {"+": a + b, "-": a - b, "*": a * b}[sign]:
            return None
        before, used = result, [*used, right]
    return before if sorted(used) == sorted(re.findall(r"\d+", question)) else None


def agreeing(question, responses, truth=None):
    """The first sound response whose answer is the truth or, if that is hidden, what three quarters
    of the sound ones say; None if there is none."""
    answers = [(sound(question, response), response) for response in responses]
    answers = [(answer, response) for answer, response in answers if answer]
    wanted = truth or (answers and majority([answer for answer, _ in answers]))
    return next((response for answer, response in answers if answer == wanted), None)


def best(responses, scores, threshold):
    """The response with the highest score, None if that is below the threshold."""
    i = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
    return responses[i] if scores[i] >= threshold else None


def sampled(model, tokenizer, problems, samples):
    """For each problem, as many responses at temperature 1."""
    texts = evaluate.respond(model, tokenizer, temperature=1.0, conversations=[
        problem.messages() for problem in problems for _ in range(samples)])
    return [texts[i:i + samples] for i in range(0, len(texts), samples)]


def drawn(family, count):
    return [tasks.draw(family, "train", f"synthetic {i}") for i in range(count)]


def yields(name, family, problems, responses, chosen):
    """A row of the table: questions asked, how many of all samples are right, to how many questions
    a response was kept, and how many of those are right."""
    right = [family.check(p, r) for p, some in zip(problems, responses) for r in some]
    kept = [family.check(p, r) for p, r in zip(problems, chosen) if r]
    return [name, len(problems), 100 * sum(right) / len(right), len(kept),
            100 * sum(kept) / max(1, len(kept))]


def mathematics(model, tokenizer, count, samples):
    """Examples and rows of each kind of evolved problem."""
    examples, rows = [], []
    for kind, known in TRUTH_KNOWN.items():
        family = tasks.Math(kind)
        problems = drawn(family, count)
        responses = sampled(model, tokenizer, problems, samples)
        chosen = [agreeing(problem.question, some, problem.answer if known else None)
                  for problem, some in zip(problems, responses)]
        examples += [chat.example(f"math {kind}", problem.messages(), response)
                     for problem, response in zip(problems, chosen) if response]
        rows.append(yields(f"math {kind}", family, problems, responses, chosen))
    return examples, rows


def code(model, tokenizer, count, samples, threshold, seen=2):
    """Of each question's sampled solutions the one that passes most of the first `seen` unit tests
    is kept, if that share of them reaches the threshold. The other tests are hidden, and run apart:
    they tell how many of what was kept, and of single samples, is right."""
    family = families.Code()
    problems = drawn(family, count)
    responses = sampled(model, tokenizer, problems, samples)
    kept = [best(some, [sum(family.true(problem, response, slice(seen))) / seen
                        for response in some], threshold)
            for problem, some in zip(problems, responses)]

    def pass_hidden(chosen):
        return [all(family.true(problem, response, slice(seen, None)))
                for problem, response in zip(problems, chosen) if response is not None]
    hidden = {"one sample passes hidden tests %": pass_hidden(some[0] for some in responses),
              "kept sample passes hidden tests %": pass_hidden(kept)}
    return ([chat.example("code", problem.messages(), response)
             for problem, response in zip(problems, kept) if response],
            [yields("code", family, problems, responses, kept)],
            {name: 100 * sum(right) / max(1, len(right)) for name, right in hidden.items()})


def episodes(model, tokenizer, family, count, samples):
    """Conversations that the model came through with the right calls, if any are wanted, which were
    run, and the right answer: of several attempts at each question the first such."""
    asked = [problem for problem in drawn(family, 4 * count) if not problem.turns][:count]
    played = [problem.messages() for problem in asked for _ in range(samples)]
    tools.converse(lambda some: evaluate.respond(model, tokenizer, some, temperature=1.0),
                   played, family.pages)
    solved = [family.solved(asked[i // samples], messages) for i, messages in enumerate(played)]
    first = {i // samples: played[i] for i in reversed(range(len(played))) if solved[i]}
    examples = [chat.example("tools", messages[:-1], messages[-1]["content"])
                for messages in first.values()]
    row = ["tools", len(asked), 100 * sum(solved) / len(solved), len(first), 100.0 * bool(first)]
    return examples, [row]


def synthetic(run, *, math=800, code_questions=200, tool_questions=250, samples=4, threshold=1.0):
    """Examples by the draft model, and of each kind the yield."""
    model = load_model(run, "draft")
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    seed_step(run.seed, "synthetic", 0)  # as sampled whether or not the run was cut off before
    examples, rows = mathematics(model, tokenizer, math, samples)
    code_examples, code_rows, metrics = code(model, tokenizer, code_questions, samples, threshold)
    tool_examples, tool_rows = episodes(model, tokenizer, chat.toy_world(run)["tools"],
                                        tool_questions, samples)
    written = examples + code_examples + tool_examples
    chat.write_examples(run, "synthetic", written)
    return {"examples": len(written), **metrics,
            "yields": rows + code_rows + tool_rows}
