"""Generated pages with mathematical questions and answers, in three shapes, on MATH_DOMAINS.

    plain      a list of terms: <dt> is the question, <dd> the answer
    forum      a post and three answers with votes: the right one is marked as accepted, or has the
               most votes
    tutorial   two worked examples, each a section with a problem and its solution

A page's shape is a function of problems, pairs (question, answer as HTML), that returns its body.
"""
from afm_min.data.formulas import MATH_DOMAINS
from afm_min.world.tasks import MATH, NAMES, THINGS, draw_task

BAD = ("no tags", "few symbols", "noise", "other site")  # kinds of planted pages


def plain(problems, rng):
    (question, answer), *_ = problems
    return f"<dl><dt>{question}</dt><dd>{answer}</dd></dl>"


def forum(problems, rng):
    """Return a page whose wrong answers are those of the other problems."""
    (question, right), *others = problems
    marked = rng.random() < 0.5
    votes = rng.randint(1, 5) if marked else rng.randint(11, 20)  # others have 0 to 10
    answers = [(" accepted" if marked else "", votes, right)]
    answers += [("", rng.randint(0, 10), wrong) for _, wrong in others]
    if not marked:  # an accepted answer comes first
        rng.shuffle(answers)
    posts = "".join(f'<div class="answer{mark}" data-votes="{votes}"><p>{answer}</p></div>'
                    for mark, votes, answer in answers)
    return f'<div class="question"><p>{question}</p></div><h2>Answers</h2>{posts}'


def tutorial(problems, rng):
    return "<p>Read these examples.</p>" + "".join(
        f'<section><h2>Example</h2><p class="problem">{question}</p>'
        f'<p class="solution">{solution}</p></section>' for question, solution in problems[:2])


def draw_problem(seed, kind, rng):
    """Return a question and its answer as HTML, bad if `kind` is one of BAD."""
    task = draw_task(MATH, "train", seed)
    question, (_, answer) = task.question, (*task.turns, ("assistant", task.solution))[0]
    if kind == "few symbols":
        words = [f"{rng.choice(THINGS)} does {rng.choice(NAMES)}" for _ in range(12)]
        question, *others = [f"How many {pair} have?" for pair in words]
        return question, f'<span class="katex">x</span>. {" ".join(others)}'
    if kind == "noise":
        answer = "".join(rng.choices("0123456789+-*=(){}", k=200))
    return question, answer if kind == "no tags" else f'<span class="katex">{answer}</span>'


def draw_page(i, rng):
    """Return page i: its URL, its body and its planted kind. Every tenth is bad: without tags, with
    few symbols, with noise as the answer, or from another site."""
    kind = "" if i % 10 else rng.choice(BAD)
    host = "shop.example" if kind == "other site" else rng.choice(MATH_DOMAINS)
    problems = [draw_problem(f"{i} {j}", kind, rng) for j in range(3)]
    shape = rng.choice((plain, forum, tutorial))
    return f"{host}/{i}", shape(problems, rng), kind
