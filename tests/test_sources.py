"""The toy crawl and the other sources."""
import collections
import itertools
import pathlib
import random
import re
from types import SimpleNamespace

import pytest

from afm_min.data import filters, formulas, languages, math_pages, sources
from afm_min.data.funnel import NearDuplicates, signature
from afm_min.world.tasks import MATH, draw_task


def test_the_crawl_is_the_same_every_time(monkeypatch):
    reference = sources.reference
    monkeypatch.setattr(sources, "reference", lambda: itertools.islice(reference(), 20))
    pairs = list(zip(sources.web(), sources.web(), strict=True))  # both are rendered at once
    assert len(pairs) > 20
    assert all(first["text"] == second["text"] for first, second in pairs)


@pytest.mark.parametrize("source", ["code", "public"])
def test_a_file_that_is_no_python_is_left_out_with_a_warning(source, tmp_path, monkeypatch, capsys):
    text = "x = 'caf\u00e9'  # " + 30 * "long text "
    string = "y = 'caf\u00e9" + 30 * " long text" + "'\n"
    contents = {"good": string.encode(), "bom": b"\xef\xbb\xbf" + string.encode(),
                "latin": b"# coding: latin-1\n" + string.encode("latin-1"),
                "bytes": text.encode("latin-1"), "syntax": b"def f(:\n", "null": b"x = 1\0"}
    package = tmp_path / "numpy"
    package.mkdir()
    for name, content in contents.items():
        (package / f"{name}.py").write_bytes(content)
    monkeypatch.setattr(sources, "STDLIB", package)
    monkeypatch.setattr(sources, "PLANTED", 0)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: (
        SimpleNamespace(origin=str(package / "__init__.py"))))
    documents = [d for d in getattr(sources, source)() if d["text"] and d["name"].endswith(".py")]
    left_out = {"bytes"} if source == "code" else {"bytes", "syntax", "null"}
    texts = {pathlib.Path(d["name"]).stem: d["text"] for d in documents}
    assert texts.keys() == contents.keys() - left_out
    for name in ("good", "bom", "latin"):
        assert "caf\u00e9 long text" in texts[name]
    lines = set(capsys.readouterr().err.splitlines())  # public finds the same files twice
    assert len(lines) == len(left_out)
    for name in left_out:
        assert any(re.match(f"warning: .*{name}.py is left out: ", line) for line in lines)


def test_only_the_first_rank_warns(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    sources.warn("odd")
    monkeypatch.setenv("RANK", "0")
    sources.warn("odd")
    assert capsys.readouterr().err == "warning: odd\n"


def test_licensed_documents_are_long_and_repeat_no_text():
    names = " ".join(sources.CHAPTERS).split()
    assert len(names) == len(set(names))
    documents = list(sources.licensed())
    assert len(documents) == len({d["name"] for d in documents}) >= 30
    assert min(len(d["text"]) for d in documents) > 3000  # more than 512 tokens
    lines = [{line for line in d["text"].splitlines() if len(line) >= 40} for d in documents]
    for one, other in itertools.permutations(lines, 2):
        assert len(one & other) < 0.05 * len(one)


def draw_pages(shape, count):
    """Yield (page, its tasks) of good pages of mathematics with this shape."""
    for i in range(count):
        seeds = [f"{i} {j}" for j in range(3)]
        rng = random.Random(i)
        body = shape([math_pages.draw_problem(seed, "", rng) for seed in seeds], rng)
        yield sources.layout("Title", body), [draw_task(MATH, "train", seed) for seed in seeds]


@pytest.mark.parametrize("shape, questions", [
    (math_pages.plain, 1), (math_pages.forum, 1), (math_pages.tutorial, 2)])
def test_questions_and_their_right_answers_are_found_on_pages_of_every_shape(shape, questions):
    for page, tasks in draw_pages(shape, 100):
        first_lines = [line for task in tasks[:questions]
                       for line in task.text().splitlines()[:2]]  # without follow-up questions
        assert formulas.questions_and_answers(page).splitlines() == first_lines


def test_forums_have_wrong_answers_and_the_right_one_is_marked_or_has_most_votes():
    pages = [page for page, _ in draw_pages(math_pages.forum, 100)]
    assert {page.count('class="answer') for page in pages} == {3}
    assert 30 < sum("accepted" in page for page in pages) < 70
    votes = [[int(n) for n in re.findall('data-votes="(.*?)"', page)] for page in pages]
    firsts = [max(numbers) == numbers[0] for numbers in votes]
    assert 30 < sum(firsts) < 70
    assert all("accepted" in page for page, numbers in zip(pages, votes) if max(numbers) <= 10)


def test_pages_of_mathematics_have_all_shapes_domains_and_kinds():
    pages = list(sources.math(1000))
    assert len(formulas.MATH_DOMAINS) == len(set(formulas.MATH_DOMAINS)) == 20
    hosts = collections.Counter(page["url"].split("/")[0] for page in pages)
    assert hosts.keys() == {*formulas.MATH_DOMAINS, "shop.example"}
    for part in ("<dt>", 'class="answer', 'class="solution"'):
        assert 250 < sum(part in page["text"] for page in pages) < 420
    kinds = collections.Counter(page["planted"] for page in pages)
    assert kinds.keys() == {"", *math_pages.BAD} and kinds[""] == 900


class First:
    """Draws the first of a list, and the lowest number."""
    def choice(self, values):
        return values[0]

    def randint(self, low, high):
        return low


def test_a_generated_function():
    assert languages.draw_function(".java", First()) == (
        "// Return the sum of the even books.\n"
        "static int sumEvenBooks(int[] books) {\n"
        "    int total = 0;\n"
        "    for (int book : books) {\n"
        "        if (book % 2 == 0) {\n"
        "            total += book;\n"
        "        }\n"
        "    }\n"
        "    return total;\n"
        "}\n")
    assert "fn sumEvenBooks(books: &[i32]) -> i32 {" in languages.draw_function(".rs", First())


def test_generated_files_are_good_code_in_ten_languages():
    files, index = list(languages.files(10)), NearDuplicates()
    assert len(languages.SYNTAX) == 10 and len(files) == 100
    for file in files:
        assert filters.is_code(file["name"]) and filters.permissive(file["licence"])
        assert filters.check_code(file["text"]) == "", file["text"]
        assert not index.seen(signature(file["text"]))
        assert file["text"].count("{") == file["text"].count("}")
