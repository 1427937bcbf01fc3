"""Generated pages with mathematical questions and answers, in three shapes, on MATH_DOMAINS.

    plain      a description list: <dt> is the question, <dd> the answer
    forum      a question and three answers with votes: the right one is marked as accepted, or has
               the most votes
    tutorial   two worked examples, each a section with a problem and its solution

Each shape is a function from three problems, pairs (question, answer as HTML), to a page's body.
"""
from afm_min.data.formulas import MATH_DOMAINS
from afm_min.world.tasks import MATH, draw_task
from afm_min.world.words import NAMES, THINGS

BAD = ("no tags", "few symbols", "noise", "other site")  # kinds of pages that filters should drop


def plain(problems, rng):
    (question, answer), *_ = problems
    return f"<dl><dt>{question}</dt><dd>{answer}</dd></dl>"


def forum(problems, rng):
    """Answer the first problem's question rightly, and wrongly with the other problems' answers."""
    (question, right), *others = problems
    marked = rng.random() < 0.5  # as accepted
    votes = rng.randint(1, 5) if marked else rng.randint(11, 20)  # others have 0 to 10
    answers = [(" accepted" if marked else "", votes, right)]
    answers += [("", rng.randint(0, 10), wrong) for _, wrong in others]
    if not marked:  # an accepted answer stays the first
        rng.shuffle(answers)
    posts = "".join(f'<div class="answer{mark}" data-votes="{votes}"><p>{answer}</p></div>'
                    for mark, votes, answer in answers)
    return f'<div class="question"><p>{question}</p></div><h2>Answers</h2>{posts}'


def tutorial(problems, rng):
    return "<p>Read these examples.</p>" + "".join(
        f'<section><h2>Example</h2><p class="problem">{question}</p>'
        f'<p class="solution">{solution}</p></section>' for question, solution in problems[:2])


def draw_problem(seed, kind, rng):
    """Return a question and its answer as HTML. `kind` is one of BAD, or ''."""
    task = draw_task(MATH, "train", seed)
    # If further questions follow, the first of the turns is the answer to the first question.
    question, answer = task.question, task.turns[0][1] if task.turns else task.solution
    if kind == "few symbols":
        words = [f"{rng.choice(THINGS)} does {rng.choice(NAMES)}" for _ in range(12)]
        question, *others = [f"How many {pair} have?" for pair in words]
        return question, f'<span class="katex">x</span>. {" ".join(others)}'
    if kind == "noise":
        answer = "".join(rng.choices("0123456789+-*=(){}", k=200))
    return question, answer if kind == "no tags" else f'<span class="katex">{answer}</span>'


def draw_page(i, rng):
    """Return page i: URL, body and kind. Every tenth is of a kind in BAD: without tags of formulas,
    with few symbols, with noise as the answer, or from another site. Others have the kind ''."""
    kind = "" if i % 10 else rng.choice(BAD)
    host = "shop.example" if kind == "other site" else rng.choice(MATH_DOMAINS)
    problems = [draw_problem(f"{i} {j}", kind, rng) for j in range(3)]
    shape = rng.choice((plain, forum, tutorial))
    return f"{host}/{i}", shape(problems, rng), kind
