"""robots.txt, main content, quality, licences and mathematics, on cases worked by hand."""
import random
import urllib.robotparser

import pytest

from afm_min.data import filters, formulas

ROBOTS = """\ufeffUser-agent: OtherBot
User-agent: applebot   # two lines open one group
Crawl-delay: 5
Disallow: /private
Sitemap: https://news.example/map.xml
Allow: /private/open

User-agent: *
Disallow: /

User-Agent: APPLEBOT
Disallow: /later
"""


@pytest.mark.parametrize("path, agent, allowed", [
    ("/", "Applebot", True),
    ("/private/x", "Applebot", False),
    ("/private/x", "otherbot", False),
    ("/private/open/x", "Applebot", True),  # the longer pattern, whatever the order
    ("/later", "Applebot", False),  # a second group for the same agent adds to the first
    ("/later", "OtherBot", True),
    ("/", "ThirdBot", False),  # * is for agents without a group
    ("/robots.txt", "ThirdBot", True)])
def test_robots_groups(path, agent, allowed):
    assert filters.robots_allow(ROBOTS, path, agent) == allowed
    for line_end in ("\r\n", "\r"):
        assert filters.robots_allow(ROBOTS.replace("\n", line_end), path, agent) == allowed


@pytest.mark.parametrize("line, allowed", [
    ("Applebot/0.1", False), ("Applebot (any)", False), ("applebot\t0.1", False),
    ("Applebot-Extended/1", True), ("Apple", True), ("Applebot_2", True),
    ("Mozilla Applebot", True), ("*", False), ("", True)])
def test_only_the_letters_of_an_agent_count(line, allowed):
    robots = f"User-agent: {line}\nDisallow: /"
    assert filters.robots_allow(robots, "/") == allowed
    assert filters.robots_allow(robots, "/", agent="Applebot/0.1 (any)") == allowed


@pytest.mark.parametrize("path, root, allowed", [
    ("", "/", False), ("", "/$", False), ("", "/a", True), ("?q=1", "/?q", False)])
def test_an_empty_path_is_a_slash(path, root, allowed):
    assert filters.robots_allow(f"User-agent: *\nDisallow: {root}", path) == allowed


@pytest.mark.parametrize("rules, path, allowed", [
    ("", "/x", True),
    ("Disallow:", "/x", True),  # forbids nothing
    ("Disallow: /a", "/abc?q", False),
    ("Disallow: /A", "/abc", True),
    ("Disallow: /a\nAllow: /a", "/a", True),  # equally long: allow
    ("Allow: /page\nDisallow: /*.html", "/page.html", False),  # 5 octets, 7 octets
    ("Allow: /page/x\nDisallow: /*.html", "/page/x.html", True),  # 7 octets each
    ("Disallow: /*.gif$", "/a.gif", False),
    ("Disallow: /*.gif$", "/a.gif?x", True),
    ("Disallow: /x$", "/x", False),
    ("Disallow: /x$", "/xx", True),
    ("Disallow: /a*b*b$", "/ab", True),  # one b cannot match both
    ("Disallow: /a*b*b$", "/a-b-b", False),
    ("Disallow: /*b*a", "/ab", True),  # b, and a after it
    ("Disallow: /*?id=", "/shop?id=7", False),
    ("Disallow: /caf\u00e9", "/caf%c3%a9", False),
    ("Disallow: /%7Ejoe", "/~joe", False),
    ("Disallow: /a%2Fb", "/a/b", True),  # an escaped slash is no separator
    ("Disallow: /%2A", "/x", True),  # a literal star
    ("Disallow: /%2A", "/*", False),
    ("Disallow: /a$b", "/a$b", False)])  # $ is special at the end only
def test_robots_patterns(rules, path, allowed):
    assert filters.robots_allow("User-agent: *\n" + rules, path) == allowed


def test_robots_where_urllib_errs():
    lines = ["User-agent: *", "Disallow: /a", "Allow: /a/open", "Disallow: /*.pdf$"]
    parser = urllib.robotparser.RobotFileParser()
    parser.parse(lines)
    for path, allowed in (("/a/open", True), ("/b.pdf", False)):
        assert filters.robots_allow("\n".join(lines), path) == allowed
        assert parser.can_fetch("Applebot", path) != allowed


def test_many_stars_cost_no_more_than_few():
    # With backtracking, 60 stars over 5,000 letters would never end.
    assert not filters.path_matches("/" + "a" * 5000, "/" + "*a" * 60 + "*b")
    assert not filters.robots_allow("User-agent: *\nDisallow: /" + "*a" * 60, "/" + "a" * 5000)


PAGE = """<!DOCTYPE html><html><head><title>Roses and more</title><style>p {}</style>
<script>if (1 < 2) { var a = "<p>Script text. It is long.</p>" }</script></head><body>
<div class="cookie-bar"><p>This site stores things. Do you agree?</p></div>
<div><p>By staying here you accept cookies. Thank you.</p></div>
<div><a href="/">Start</a> | <a href="/a">About us</a></div>
<ul><li><a href=/1>Garden</a><li><a href=/2>Kitchen</a></ul>
<div class="has-sidebar"><article><header><h1>How to prune roses</h1></header>
<p>Roses need <b>pruning</b> in late <a href="/winter">winter</a>, just above a bud that faces
outward.<h2>What you need</h2><ul><li>Shears</li><li>Gloves</li></ul>
<p>Clean them&nbsp;&amp; dry them.</p>
<pre>
for cane in rose:
    cane.cut()
</pre></article></div>
<h3>Related stories</h3><ul><li><a href=x>Ten flowers that will surprise all of your neighbours this
spring, and how to keep them well</a></li></ul>
<form><p>Your address will not be published. Fields with a star are required.</p></form>
<div>Share this: mail and more</div>
<footer><p>All roses are ours. Nothing may be copied.</p></footer></body></html>"""


def test_main_content_of_a_page():
    assert filters.main_content(PAGE).splitlines() == [
        "How to prune roses",
        "Roses need pruning in late winter, just above a bud that faces outward.",
        "What you need", "Shears", "Gloves", "Clean them & dry them.",
        "for cane in rose:", "    cane.cut()"]


def test_content_depends_on_the_neighbours():
    words, links = (
        "some words that are in no sentence and in no link " * 2, "<a href=x>Go there</a>")
    for page, body in [
            (f"<div>{links}</div><div>{words}</div><div>{links}</div>", ""),  # 22 words among links
            (f"<div>Go there</div><div>{words}</div><div>{links}</div>", f"Go there\n{words}"),
            (f"<div>{links}</div><div>{words * 2}</div>", words * 2),
            ("<p>You need this.<ul><li>Shears<li>Gloves</ul><h2>Links</h2>" + links,
             "You need this.\nShears\nGloves")]:  # items join what comes before, headings do not
        assert filters.main_content(page) == body.strip()


def test_definition_lists_keep_their_layout():
    page = ('<table><tr><td>&nbsp;<br>shelve</td><td><a href=".">index</a><br>shelve.py</td></tr>'
            "</table><h2>Functions</h2><dl><dt><a name=x>open</a>(path)</dt>"
            "<dd><span>Opens:<br>\n"
            "&nbsp;&nbsp;a&nbsp;shelf<br>\n&nbsp;<br>\nIt&nbsp;stays.</span></dd></dl>")
    assert filters.main_content(page) == "Functions\nopen(path)\nOpens:\n  a shelf\n\nIt stays."


@pytest.mark.parametrize("page, body", [
    ("", ""), ("<", ""), ("<p>1 < 2 is so.", "1 < 2 is so."), ("<![x]><p>It is.", "It is."),
    ("<nav>Menu<main><p>It is.", "It is."), ("<p>It is.</b></p></p>", "It is."),
    ("<p title='a > b'>It is.", "It is."), ("<P CLASS=x>It is.</P>", "It is."),
    ('<div class="nav/">It was.<div>So?</div></div><p>It is.', "It is.")])
def test_malformed_pages(page, body):
    assert filters.main_content(page) == body


SENTENCES = ["The tower was built in spring, and it was the only one of its kind for many years.",
             "People came from afar to see what it was like to look down from the top of it.",
             "In the end a museum bought it, and keeps it open to all who wish to climb."]
PARAGRAPHS = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)
MENU = "<ul><li><a href=/1>Home</a><li><a href=/2>About us</a></ul>"


@pytest.mark.parametrize("before, after", [
    ("<div id=nav>" + MENU, ""),  # never closed
    ("<nav>" + MENU, "</body>"), ("<header>" + MENU, ""), ("<aside>", ""), ("<button>Go", ""),
    ("<title>The tower", ""), ("<svg><path d='M1'>", ""), ("<svg/>", ""), ("<noscript>", ""),
    ("<div class=page><ul class=menu>" + MENU[4:-5], "</div>"),
    ("<form id=f>" + MENU, "</form>"),  # around the whole page
    ("<div class=no-sidebar>", "</div>"), ("<div class='layout right-sidebar'>", "</div>"),
    ("<div id=market-share>", "</div>"), ("<section class=commentary>", "</section>"),
    ("<div class=footer>", "</div>"), ("<header class=banner>", "</header>"),
    ("<script>var a='<!--'</script>", ""), ("<style>/* <!-- */</style>", ""),
    ("<script>var a = 1;", ""), ("<style>p {}", ""), ("<!-- start", ""), ("<!-->", ""),
    ("<!-- a --!>", ""), ("<!-- start ->", "<!-- end -->"), ("<script>", "<script></script>"),
    ("<a href=/>", ""), ("<p><a href=/>Home", "<a href=/b></a>"), ("<a href='/>Home</a>", ""),
    ("<a href='/>Home</a>", "<a href='/b'>Home</a>"), ("<p title=don't>", ""), ("<div<div>", "")])
def test_no_page_is_lost(before, after):
    text = filters.main_content(f"{before}{PARAGRAPHS}{after}").splitlines()
    assert text[-3:] == SENTENCES
    assert not {"Home", "About us"}.intersection(text)


@pytest.mark.parametrize("page", [
    "".join(f"<{tag}><p>It is so.</p></{tag}>" for tag in ("nav", "aside", "footer")),
    "".join(f"<p>{start} is a word.</p>" for start in ("Copyright", "Advertisement", "Read more")),
    "<p><a href=x>It is so.</a></p>" * 3,
    "<p>He said: \u201cgo.\u201d</p>" * 3,
    "<script>" + "<p>It is so.</p>" * 3 + "</script>"])
def test_three_paragraphs_never_yield_nothing(page):
    assert len(filters.main_content(page).splitlines()) == 3
    assert filters.main_content("<nav><p>It is so.</p></nav>" * 2) == ""


def test_a_link_around_blocks():
    card = "<a href=/><h3>Canals</h3><p>They are old.</p></a>"
    assert filters.main_content(PARAGRAPHS + card).splitlines() == SENTENCES


@pytest.mark.parametrize("name", [
    "no-sidebar", "right-sidebar-layout", "market-share", "menu_card", "has-footer", "Unrelated"])
def test_a_part_of_a_name_marks_no_boilerplate(name):
    page = f"{PARAGRAPHS}<div class='x {name}'><p>So it is.</p></div>"
    assert filters.main_content(page).splitlines() == [*SENTENCES, "So it is."]


@pytest.mark.parametrize("name", [
    "sidebar", "left-sidebar", "SiteFooter", "share_buttons", "nav2", "cookie-banner main"])
def test_boilerplate_with_sentences_is_dropped(name):
    # It is small beside the page, even if the element around all of it has such a name, too.
    page = f"<form>{PARAGRAPHS}<div id='{name}'><p>So it is.</p></div></form>"
    assert filters.main_content(page).splitlines() == SENTENCES


def test_long_comments_do_not_count_as_the_page():
    comments = f"<div class=comments>{PARAGRAPHS * 3}</div>"
    assert filters.main_content(PARAGRAPHS + comments).splitlines() == SENTENCES


ARTICLE = f"<h1>The tower</h1>{PARAGRAPHS * 3}"
TEASER = "<div><h4><a href=/c>Canals</a></h4><p>They are old, and few boats use them now.</p></div>"


@pytest.mark.parametrize("box", [
    "<p>We use cookies and the like to see who reads what, and when.</p>",
    "<p>Ada Day writes about towers. She lives in the north with two cats.</p>",
    "<h3>17 comments</h3><p>Ann wrote: I was there!</p><p>Bob replied: so was I.</p>",
    "<p>Tower Street 4, telephone 555 0177. Do not copy anything without asking us.</p>",
    "<h4>Weather</h4><p>It will be cloudy.</p>", TEASER * 4])
@pytest.mark.parametrize("end", ["</div>", ""])
def test_small_sections_around_the_text_are_dropped(box, end):
    text = ["The tower", *SENTENCES * 3]
    for page in (f"<div>{ARTICLE}</div><div>{box}{end}",
                 f"<div>{box}</div><div>{ARTICLE}{end}",
                 f"<table><tr><td>{box}<td>{ARTICLE}</table>"):
        assert filters.main_content(page).splitlines() == text, page


def test_teasers_within_the_text_are_dropped():
    for teaser in (TEASER, "<div><h4>Canals</h4><p>They are old. <a href=/c>Read more</a></div>"):
        page = f"<div>{ARTICLE}{teaser}{PARAGRAPHS * 2}</div>"
        assert filters.main_content(page).splitlines() == ["The tower", *SENTENCES * 5]
    assert len(filters.main_content(TEASER * 12).splitlines()) == 12  # there is nothing else


def test_a_list_of_related_articles_is_dropped():
    items = "<li><a href=/c>Of old canals</a>: they are old, and few boats use them.</li>" * 5
    for page in (f"<div>{ARTICLE}</div><div><ul>{items}</ul></div>",
                 f"<div>{ARTICLE}<section><ul>{items}</ul></section>{PARAGRAPHS}</div>"):
        assert set(filters.main_content(page).splitlines()) == {"The tower", *SENTENCES}


@pytest.mark.parametrize("words", [
    "To serve you well this site uses cookies", "By reading on you agree to our cookie policy",
    "Get our weekly newsletter", "1999-2009 Tower Press, all rights reserved", "About the author",
    "Last updated in spring", "Sponsored by Tower Press", "You might also like"])
def test_words_of_boilerplate(words):
    tail = ", and it is so for all of those who read it" * 2
    page = f"{PARAGRAPHS}<p>{words}{tail}.</p>"
    assert filters.main_content(page).splitlines() == SENTENCES
    page = page.replace(words, f"They say: {words}".replace(" ", "-"))
    assert len(filters.main_content(page).splitlines()) == 4


@pytest.mark.parametrize("part", [
    "<div><p>Mind the steps.</p></div>", "<div>Mind the steps.<p>They are wet.</p></div>",
    "<div><blockquote><p>I saw it.</p></blockquote></div>"])
def test_small_sections_within_the_text_stay(part):
    words = len(filters.main_content(part).split())
    for page in (f"<div>{ARTICLE}{part}{PARAGRAPHS * 3}</div>",
                 f"<h1>The tower</h1><div>Share</div>{part}{PARAGRAPHS * 3}"):
        rest = filters.main_content(page.replace(part, "<div></div>"))
        assert len(filters.main_content(page).split()) == len(rest.split()) + words > words


@pytest.mark.parametrize("part", [
    "<div><h4><a href=/u>Ada</a></h4><p>{}</p></div>",  # a forum
    "<div><h3>Spring <a href=#>edit</a></h3><p>{}</p></div>",
    "<table><tr><td><a href=/x>Spring</a></td><td>A day</td><td><p>{}</p></td></tr></table>",
    "<h2>Steps</h2><div><ol><li>{}</li></ol></div>"])
def test_a_large_footer_is_not_taken_as_the_page(part):
    parts = "".join(map(part.format, SENTENCES * 3))
    page = f"<div>{MENU}</div>{parts}<div><p>{'Nothing here may be copied. ' * 9}</p></div>"
    lines = filters.main_content(page).splitlines()
    assert [line for line in lines if line in SENTENCES] == SENTENCES * 3


def test_every_paragraph_in_a_section():
    page = "".join(f"<div><p>{sentence}</p></div>" for sentence in SENTENCES * 4)
    assert filters.main_content(page).splitlines() == SENTENCES * 4


def test_a_table_of_cells_is_one_section():
    rows = "".join(f"<tr><th>{sentence[4:9]}</th><td>{sentence}</td></tr>"
                   for sentence in SENTENCES)
    text = filters.main_content(f"<div>{ARTICLE}</div><table>{rows}</table>")
    assert text.splitlines()[-5:] == [line for sentence in SENTENCES
                                      for line in (sentence[4:9], sentence)][1:]


def test_a_title_behind_a_menu():
    page = f"<h1><a href=/t>The tower</a></h1><div>{MENU}</div><div>{PARAGRAPHS * 3}</div>"
    assert filters.main_content(page).splitlines() == ["The tower", *SENTENCES * 3]


@pytest.mark.parametrize("tag", [
    "<p title='a<b'>", "<p title='a>b<c>'>", '<p class="a" title = "<p>">', "<p x='a'y>",
    "<p title='a<b' >", "<p title=\"it's <b>\">", "</div><p><![x>", "<p></ x>", "<p></i <!---->"])
def test_no_markup_in_the_text(tag):
    assert filters.main_content(f"{tag}It is.</p") == "It is."


def test_unclosed_tags_take_linear_time():
    # Searching to the end of the page from each of 100,000 tags would take hours.
    for piece in ("<a \"", "<div class='", "<![", "<!--", "<script>", "<p>", "&nbsp;\n",
                  "<nav>", "<div></p>", "<a b=\"' c='", "<a =\"", "</", "<style><!--"):
        filters.main_content(piece * 100_000)
        formulas.has_math_tags(piece * 10_000)


PROSE = """The tower was built in the spring, and for many years it was the only one of its kind.
People came from afar to see it, and those who climbed to the top told of the view that it has.
In the end it was sold to a museum, which keeps it open to all who wish to see how it works.
"""
CODE = ("def mean(values):\n    # undefined for an empty list\n"
        "    return sum(values) / len(values)\n")


RNG = random.Random(0)
NAMES = ["".join(RNG.choices("abcdefgh", k=5)) for _ in range(60)]


@pytest.mark.parametrize("text, rule", [
    (PROSE, ""),
    (PROSE.split("\n")[0], "50 words"),
    ("", "50 words"),
    (PROSE.replace("e", "e" * 25), "3 to 10 characters per word"),
    (" ".join(RNG.choices("a as at be by in is it of on or to".split(), k=80)) + ".",
     "3 to 10 characters per word"),
    (PROSE.replace(" ", " 123456 "), "half letters"),
    (" ".join(NAMES) + ".", "function words"),
    (" ".join(NAMES[:50] + "the road is to be in a".split()) + ".", ""),
    (PROSE.replace("e", "e#"), "few symbols"),
    ("You click on it and this is what you get. " * 20, "distinct trigrams"),
    (PROSE + "---\n" * 30, "distinct lines"),
    (PROSE.replace(".", "").replace("\n", " so and\n"), "sentence ends")])
def test_rules_of_prose(text, rule):
    assert filters.check_prose(text) == rule


@pytest.mark.parametrize("text, rule", [
    (CODE, ""),
    ("# Generated by a tool. DO NOT EDIT.\n" + CODE, "not generated"),
    ("// @generated\n" + CODE, "not generated"),
    ("/* @generated by a tool */\n" + CODE, "not generated"),
    ("# This file was generated by a tool.\n" + CODE, "not generated"),
    ("// Code generated with a tool; version 2.\n" + CODE, "not generated"),
    ("# Names are generated from a list, and streams\n# generated with it are read.\n" + CODE, ""),
    (CODE + "x = [" + " 0x1f, 12, 77,\n" * 40 + "]", "little data"),
    (CODE + "y = 'a;b;" + "c=d;" * 400 + "'", "100 characters per line"),  # minified
    (CODE + "{ ( ; ) }\n" * 100, "a quarter letters or digits"),
    (CODE + ("# a long line " * 20 + "\n") * 20, "100 characters per line"),
    (CODE * 20 + "# a long line " * 60, ""),
    (CODE * 20 + "# a long line " * 80, "1000 characters in a line"),
    ("values\nother values\n", "comments or definitions"),
    ("", "comments or definitions")])
def test_rules_of_code(text, rule):
    assert filters.check_code(text) == rule


@pytest.mark.parametrize("text, allowed", [
    ("MIT", True), ("bsd-3-clause", True), ("Apache-2.0 WITH LLVM-exception", True),
    ("GPL-3.0-only", False), ("MIT OR GPL-2.0-only", True), ("MIT AND GPL-2.0-only", False),
    ("(MIT OR ISC)", True), ("(MIT OR ISC) AND GPL-2.0-only", False), ("MPL-2.0", False),
    ("none", False), ("", False), ("// SPDX-License-Identifier: Zlib\nint x;", True),
    ("/* SPDX-License-Identifier: AGPL-3.0 */", False), ("MIT License", True),
    ("# Licensed under the Apache License,\n# Version 2.0", True),
    (" * Permission is hereby granted, free of\n * charge, to any person", True),
    ("GNU Lesser General Public License", False), ("all rights reserved", False), ("x = 1", False),
    ("Redistribution and use in source and binary forms, for non-commercial use", False)])
def test_licences(text, allowed):
    assert filters.permissive(text) == allowed


@pytest.mark.parametrize("text, allowed", [
    ("This file is not under the MIT license.", False), ("It isn't MIT licensed.", False),
    ("no longer under the terms of the BSD license", False),
    ("Use it under a licence other than the MIT license", False),
    ("Do not remove this line. MIT License", True),  # another sentence
    ("not under the GNU GPL, but the MIT license", False),  # unclear
    ("BSD", True), ("New BSD License", True), ("BSD 3-Clause", True), ("Apache 2.0", True),
    ("apache2", True), ("Apache License, Version 2.0", True), ("The MIT License", True),
    ("MIT/BSD", True), ("Apache", True), ("not MIT", False), ("BSD and GPL", False),
    ("BSL 1.1", False), ("the license", False), ("BSD 3-Clause with a clause on trains", False),
    ("/* Permission to use, copy, modify, and/or distribute this software for any\n"
     " * purpose with or without fee is hereby granted */", True)])
def test_names_of_licences_and_their_negation(text, allowed):
    assert filters.permissive(text) == allowed


def test_suffixes_of_code():
    assert filters.is_code("a/b.swift") and filters.is_code("B.H")
    assert not filters.is_code("README") and not filters.is_code("a.py/b")
    assert len(filters.LANGUAGES) == 14
    for suffixes in filters.LANGUAGES.values():
        assert all(filters.is_code(f"main{suffix}") for suffix in suffixes.split())


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
    ('<img alt="$a < b$">', True), (r'<img alt="{\displaystyle a<b}">', True),
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
    ("<span class=math-tex>x</span>", True), ("<div class='math notranslate nohighlight'>", True),
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
            filters.main_content(page)


@pytest.mark.parametrize("url", [
    "http://[x/1", "//[", "", "http://", "http://math.example:x/", "http://a\u2100b/"])
def test_bad_urls_are_in_no_domain(url):
    assert formulas.math_domain(url) == ("math.example" in url)


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
