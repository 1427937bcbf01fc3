"""Pages of mathematics, on cases worked by hand."""
import pytest

from afm_min.data import blocks, formulas

@pytest.mark.parametrize("page, found", [
    ("<math><mi>x</mi></math>", True), ('<span class="a katex">', True), (r"<p>\(x^2\)", True),
    ('<script type="math/tex">x</script>', True),
    # A page that loads a library for formulas, and one with a formula for it.
    ('<script src="/MathJax.js"></script>', False), ("<link href=katex.css>", False),
    ('<script src="/MathJax.js"></script><p>It costs $5, not $6 + tax.', False),
    ("<body class=mathjax_process>", False), ("<div class='x MathJax_Message'>", False),
    ('<script src="/MathJax.js"></script><p>Let $x^2$ be.', True), ("<p>Let $x^2$ be.", False),
    # Formulas that were rendered.
    ("<span class='mjx-math'>x</span>", True), ("<mjx-container>x</mjx-container>", True),
    ("<div class='center MathJax_Display'>", True), ("<span id=a class=MathJax_SVG>", True),
    (r"<img alt='\frac{1}{2}' src=a>", True), ("<img src=a alt='x^2'>", True),
    (r'<img alt="{\displaystyle a<b}">', True),
    (r"<img alt='C:\letters\frames.png'>", False), ("<img alt='It costs $5'>", False),
    ("<img alt='^_^'>", False), ("<img alt='my_file_2'>", False),
    # Code and plain text.
    ("<pre>a $$ b = c $$ d", False), (r"<code>s/\(a*\)/\1/</code>", False),
    (r"<p><tt>\[a=b\]</tt>", False), (r"<p>Write \( and \) around it.", False),
    (r"<code>a</code> \(a = b\)", True), (r"<p>\(n\)", True), ("class=katex src=mathjax", False),
    ("<p>Mario's $$ Pasta, pizza. Luigi's $$ Fish", False),
    ("$$a + b$$", True), ("H<sub>2</sub>O", False), ("<model>", False), ("$5, $$ or $6", False),
    ("<script>$$('a=b'); $$('c')</script>", False), ("<p>mathematics", False),
    # Other tools' elements and classes.
    ("<m:mi>x</m:mi>", True), ("<math-renderer>$x$</math-renderer>", True), ("<x:model>", False),
    ("<span class=math>x</span>", True), ("<span id=a class='math' title=b>x", True),
    ("<div class='post math'>x</div>", False), ("<div class=math>Room 12</div>", False),
    ("<span class='math teacher'>Mr Hill", False), ("<a class=math-inline-skating>", False),
    ("<span class=math-tex>x</span>", True),
    ('<pre lang=math class="code js-render-math">x', True), ("<script type='math/mml'>", True),
    # Environments.
    (r"<p>\begin{equation*} x = 1 \end{equation*}", True), (r"\begin{array}a^2\end{array}", True),
    (r"<p>\begin{itemize} \item x = 1 \end{itemize}", False), (r"<p>Write \begin{math}", False),
    (r"<pre>\begin{gather} a &= b \end{gather}", False),
    # Formulas between backquotes, for the libraries that know these.
    ("<script src=ASCIIMathML.js></script>`a^2`", True), ("<p>`a^2` and `b_2`", False),
    ('<script src="MathJax.js?config=TeX-MML-AM_CHTML"></script>`a + b`', True),
    ("<script src=ASCIIMathML.js></script>It is `so`.<code>`a_b`</code>", False),
    ("<script src=team_page.js></script>`a^2`", False),
    ('<script type="text/x-mathjax-config">x</script> So $a_1$.', True),
    ('<script type="text/x-mathjax-config">$x = y$</script> So $5.', False),
    # Images.
    ("<img src='/cgi-bin/mimetex.cgi?a'>", True), ("<img class=tex src=a.png>", True),
    ("<img src=https://chart.example/chart?cht=tx&chl=a>", True), ("<img alt='&#92;sqrt2'>", True),
    ("<img src='https://render.example/render/math?math=e'>", True), ("<img src=math.png>", False),
    ("<img src=/_images/math/0a1b2c3d4e5f60.png>", True), ("<img class=latex-free>", False),
    ("<img src=/photos/math/hill.jpg alt='Mrs Hill'>", False), ("<img src=/latex/x.jpg>", False)])
def test_math_tags(page, found):
    assert formulas.has_math_tags(page) == found


TWO = '<p class="question">1+1?</p><p class=answer {}>3</p><p class="answer {}">2</p>'


@pytest.mark.parametrize("page, text", [
    ("<dl><dt>1+1?<dd>2</dd></dl><p>Menu", "Question: 1+1?\nAnswer: 2"),
    ("<dl><dt>1+1?</dt><dd>2</dd><dt>1+2?</dt><dd>It is <b>3</b>.</dd></dl>",
     "Question: 1+1?\nAnswer: 2\nQuestion: 1+2?\nAnswer: It is 3."),
    ("<section><h2>Sum</h2><p class='math problem'>1+1?<p class=solution>2</section>",
     "Question: 1+1?\nAnswer: 2"),
    ("<div id=question><div>How<div>many?</div></div>Now.</div><div class=answer>2</div>Menu",
     "Question: How many? Now.\nAnswer: 2"),
    # Of several answers: the first if votes are equal, the one with most votes, the accepted one.
    (TWO.format("", ""), "Question: 1+1?\nAnswer: 3"),
    (TWO.format("data-votes=2", '" data-votes="11'), "Question: 1+1?\nAnswer: 2"),
    (TWO.format("data-score=-1", ""), "Question: 1+1?\nAnswer: 2"),
    (TWO.format("data-votes=x", '" data-votes="-7'), "Question: 1+1?\nAnswer: 3"),
    (TWO.format("data-votes=99", "accepted"), "Question: 1+1?\nAnswer: 2"),
    (TWO.format("data-votes=99", "accepted-answer"), "Question: 1+1?\nAnswer: 2"),
    # The main content of pages without answers to marked questions.
    ("<nav>Menu</nav><p>Let x be 2.", "Let x be 2."), ("<p class=question>1+1?</p>", "1+1?"),
    ("<p class=answer>2</p><p class=questions>1?</p>", "2\n1?"), ("", "")])
def test_questions_and_answers(page, text):
    assert formulas.questions_and_answers(page) == text


def test_long_tags_take_linear_time():
    for piece in ("class=", " class=", " src=", "<a class=", "alt='", "$$ ", "\\(", "$a",
                  "`a", "\\begin{math}", " class=math ", " src=/math/", " src=?&?&",
                  "<dt>", "<dd>", " data-votes=", " class=answer"):
        for page in (piece * 20_000, f"<img{piece * 20_000}>", f"<dt>{piece * 20_000}"):
            formulas.has_math_tags(page)
            formulas.questions_and_answers(page)
            blocks.main_content(page)


@pytest.mark.parametrize("url, found", [
    ("math.example/a//b", True), ("math.example:80/a?b=http://c", True), ("Math.Example.", True),
    ("http://me@math.example", True), ("http://math.example@shop.example/", False),
    ("shop.example//math.example", False), ("shop.example/http://math.example/", False)])
def test_domains_are_found_however_a_url_is_written(url, found):
    assert formulas.math_domain(url) == found


def test_math_symbols_and_domains():
    assert formulas.symbol_share("a+1=2") == 0.6 + 0.2
    assert formulas.symbol_share("\u2211\u221e word") == 2 / 7
    assert formulas.symbol_share("") == formulas.symbol_share("plain words, (no more)") == 0
    assert (formulas.math_domain("https://forum.math.example/t")
            and formulas.math_domain("math.example"))
    assert (not formulas.math_domain("https://notmath.example")
            and not formulas.math_domain("a/math.example"))
