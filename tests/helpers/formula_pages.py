r"""Held-out pages with and without formulas, for `formulas.has_math_tags` to be counted on.

They were written without a look at the filter. It was then extended on other pages, which are in
test_filters.py, but with knowledge of the kinds that it missed here. To improve it further, write
other pages, not these. WITH contain a formula in the markup of a real tool. WITHOUT contain none,
but something that resembles one: dollars, brackets, a library, a class name."""

WITH = {
    "MathML": """<p>The roots are <math xmlns="http://www.w3.org/1998/Math/MathML"><mfrac><mrow>
        <mo>-</mo><mi>b</mi></mrow><mrow><mn>2</mn><mi>a</mi></mrow></mfrac></math>.</p>""",
    "MathML with a prefix": """<p>So <mml:math><mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn>
        </mml:msup><mml:mo>=</mml:mo><mml:mn>9</mml:mn></mml:math>, hence x is 3 or -3.</p>""",
    "LaTeXML": """<p>Let <math id="S1.p1.m1" class="ltx_Math" alttext="\\alpha\\in\\mathbb{R}"
        display="inline"><semantics><mi>a</mi></semantics></math> be given.</p>""",
    "MathJax 2": """<p>We get <span class="MathJax_Preview"></span><span class="MathJax"
        id="MathJax-Element-1-Frame"><nobr><span class="math"><span class="mi">y</span></span>
        </nobr></span> at last.</p>""",
    "MathJax 3": """<p>Energy is <mjx-container class="MathJax" jax="CHTML"><mjx-math
        class="MJX-TEX"><mjx-mi class="mjx-i"><mjx-c></mjx-c></mjx-mi></mjx-math></mjx-container>
        in joules.</p>""",
    "MathJax as SVG": """<p>It holds that <mjx-container jax="SVG"><svg viewBox="0 -750 500 800">
        <g data-mml-node="math"><g data-mml-node="mi"></g></g></svg></mjx-container>.</p>""",
    "KaTeX": """<p>Area: <span class="katex"><span class="katex-mathml"></span><span
        class="katex-html" aria-hidden="true"><span class="base"><span class="mord mathnormal">r
        </span></span></span></span></p>""",
    "round delimiters": r"""<p>If \(a\) divides \(b\), then \(a \le b\) or \(b = 0\).</p>""",
    "square delimiters": r"""<p>Adding up both sides,</p><p>\[ \sum_{i=1}^n i =
        \frac{n(n+1)}{2} \]</p><p>as was to be shown.</p>""",
    "double dollars": r"""<p>Gauss found that</p>$$\int_{-\infty}^{\infty} e^{-x^2}\,dx =
        \sqrt{\pi}$$<p>in this way.</p>""",
    "configuration and dollars": r"""<script>MathJax = {tex: {inlineMath: [['$', '$']]}};</script>
        <script src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js"></script>
        <p>For every prime $p > 2$ the number $p^2 - 1$ is a multiple of 8.</p>""",
    "an environment": r"""<p>Expand the brackets:</p><p>\begin{align} (a+b)^2 &= a^2 + 2ab + b^2 \\
        (a-b)^2 &= a^2 - 2ab + b^2 \end{align}</p>""",
    "script": """<p>Here <script type="math/tex">x_1 + x_2</script> is the sum.</p>""",
    "display script": """<p>And then</p><script type="math/tex; mode=display">\\lim_{n \\to \\infty}
        a_n = 0</script><p>for the sequence.</p>""",
    "AsciiMath": """<script src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/asciimath.js"></script>
        <p>The slope is `(y_2 - y_1)/(x_2 - x_1)` if `x_1 != x_2`.</p>""",
    "encyclopaedia": """<p>The norm <span class="mwe-math-element"><img src="/math/render/svg/9f"
        class="mwe-math-fallback-image-inline" alt="{\\displaystyle \\|x\\|_{2}}"></span> of x.</p>
        """,
    "blog image": """<p>With <img src="https://s0.wp.com/latex.php?latex=%5Cphi+%3D+1.618&bg=fff"
        alt="&#92;phi = 1.618" class="latex" /> we are done.</p>""",
    "image service": r"""<p>The formula:</p><img
        src="https://latex.codecogs.com/gif.latex?\frac{mv^2}{2}" title="kinetic energy">""",
    "questions and answers": """<div class="s-prose"><p>Why is <span class="math-container">$0! = 1$
        </span>? I expected zero.</p></div>""",
    "document converter": """<p>Then <span class="math inline"><em>f</em>(<em>x</em>) =
        <em>x</em><sup>3</sup></span> is odd.</p>"""}

WITHOUT = {
    "shell": """<p>Set both variables:</p><pre>export PATH=$HOME/bin:$PATH
        echo "$USER has $# arguments"; kill -9 $$; echo $$</pre>""",
    "prices": """<p>Tickets are $12 on weekdays and $18 on Sundays. A family pays $40 in all, or
        $35 if you book ahead.</p>""",
    "stock symbols": """<p>Both $ACME and $GLOBX fell. $ACME lost 3% = $1.20 a share.</p>""",
    "basic expressions": r"""<p>Swap two words with sed:</p>
        <pre>sed 's/\([a-z]*\) \([a-z]*\)/\2 \1/' names.txt</pre>""",
    "editor expressions": r"""<p>In the editor, search for <code>\(foo\|bar\)\[0\]</code> and press
        return.</p>""",
    "expressions in prose": r"""<p>To match a bracket itself, put a backslash before it, as in \( or
        \[, or else it opens a group.</p>""",
    "library only": """<script src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js">
        </script><p>Welcome to my blog. Today I went to the market and bought plums.</p>""",
    "style sheet only": """<link rel="stylesheet" href="/assets/katex/katex.min.css"><script defer
        src="/assets/katex/auto-render.min.js"></script><p>Our office is closed on Monday.</p>""",
    "configuration only": r"""<script>window.MathJax = {tex: {inlineMath: [['$', '$'], ['\\(',
        '\\)']], displayMath: [['$$', '$$'], ['\\[', '\\]']]}};</script>
        <p>This site is about gardens. The beds are dug over in March.</p>""",
    "chemistry": """<p>Burning methane: CH<sub>4</sub> + 2 O<sub>2</sub> gives CO<sub>2</sub> and
        2 H<sub>2</sub>O. The ion is SO<sub>4</sub><sup>2-</sup>.</p>""",
    "class names": """<div class="math-department timetable"><h2 id="math">Mathematics</h2><p
        class="mathematics">Room 12, with Mrs Hill, on Tuesdays at ten.</p></div>""",
    "page scripts": """<script>jQuery(function($) { $('.menu').hide(); $$('a').each(f); });</script>
        <p>Read our newsletter, or write to us.</p>""",
    "server code": """<pre>&lt;?php $total = $price * $count; $x = $y - $z; ?&gt;</pre>
        <p>The total stands below the table.</p>""",
    "make": """<pre>all: $(OBJECTS)
        for i in $(DIRS); do $(MAKE) -C $$i; done</pre><p>Then type make.</p>""",
    "queries": """<p>Give the values apart from the query:
        <code>SELECT * FROM t WHERE a = $1 AND b = $2</code>.</p>""",
    "templates": """<p>Write <code>`Hello ${name}, you owe $${sum}`</code> to insert values.</p>""",
    "programming": """<h1>math: mathematical functions</h1><p>Call <code>math.sqrt(x)</code> or
        <code>Math.max(a, b)</code>; both return a float.</p>""",
    "documents": r"""<p>A minimal file:</p><pre>\documentclass{article}
        \begin{document} Hello. \end{document}</pre><p>Compile it twice.</p>""",
    "image of a coupon": """<p>Cut it out:</p><img src="/coupon.png" alt="$5 off, \\o/ hurray"
        class="coupon"><p>Valid until June.</p>""",
    "folders": r"""<p>The copies are in C:\[backup]\(old) and \\server\share$\new$, as
        always.</p>"""}
