"""The main content of pages, on cases worked by hand."""
import pytest

from afm_min.data import blocks, formulas

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
    assert blocks.main_content(PAGE).splitlines() == [
        "How to prune roses",
        "Roses need pruning in late winter, just above a bud that faces outward.",
        "What you need", "Shears", "Gloves", "Clean them & dry them.",
        "for cane in rose:", "    cane.cut()"]


def test_items_join_what_comes_before_and_headings_do_not():
    page = "<p>You need this.<ul><li>Shears<li>Gloves</ul><h2>Links</h2><a href=x>Go there</a>"
    assert blocks.main_content(page) == "You need this.\nShears\nGloves"


def test_definition_lists_keep_their_layout():
    page = ('<table><tr><td>&nbsp;<br>shelve</td><td><a href=".">index</a><br>shelve.py</td></tr>'
            "</table><h2>Functions</h2><dl><dt><a name=x>open</a>(path)</dt>"
            "<dd><span>Opens:<br>\n"
            "&nbsp;&nbsp;a&nbsp;shelf<br>\n&nbsp;<br>\nIt&nbsp;stays.</span></dd></dl>")
    assert blocks.main_content(page) == "Functions\nopen(path)\nOpens:\n  a shelf\n\nIt stays."


@pytest.mark.parametrize("page, body", [
    ("", ""), ("<", ""), ("<p>1 < 2 is so.", "1 < 2 is so."), ("<![x]><p>It is.", "It is."),
    ("<nav>Menu<main><p>It is.", "Menu\nIt is."), ("<p>It is.</b></p></p>", "It is."),
    ("<p title='a > b'>It is.", "It is."), ("<P CLASS=x>It is.</P>", "It is."),
    ('<div class="nav/">It was.<div>So?</div></div><p>It is.', "It is.")])
def test_malformed_pages(page, body):
    assert blocks.main_content(page) == body


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
    text = blocks.main_content(f"{before}{PARAGRAPHS}{after}").splitlines()
    assert text[-3:] == SENTENCES
    assert not {"Home", "About us"}.intersection(text)


@pytest.mark.parametrize("page", [
    "".join(f"<{tag}><p>It is so.</p></{tag}>" for tag in ("nav", "aside", "footer")),
    "".join(f"<p>{start} is a word.</p>" for start in ("Copyright", "Advertisement", "Share this")),
    "<p><a href=x>It is so.</a></p>" * 3,
    "<p>He said: \u201cgo.\u201d</p>" * 3,
    "<script>" + "<p>It is so.</p>" * 3 + "</script>"])
def test_three_paragraphs_never_yield_nothing(page):
    assert len(blocks.main_content(page).splitlines()) == 3
    assert blocks.main_content("<nav><p>It is so.</p></nav>" * 2) == ""


def test_a_link_around_blocks():
    card = "<a href=/><h3>Canals</h3><p>They are old.</p></a>"
    assert blocks.main_content(PARAGRAPHS + card).splitlines() == SENTENCES


@pytest.mark.parametrize("name", [
    "no-sidebar", "right-sidebar-layout", "market-share", "menu_card", "has-footer", "Unrelated"])
def test_a_part_of_a_name_marks_no_boilerplate(name):
    page = f"{PARAGRAPHS}<div class='x {name}'><p>So it is.</p></div>"
    assert blocks.main_content(page).splitlines() == [*SENTENCES, "So it is."]


@pytest.mark.parametrize("name", [
    "sidebar", "left-sidebar", "SiteFooter", "share_buttons", "nav2", "cookie-banner main"])
def test_boilerplate_with_sentences_is_dropped(name):
    # It is small beside the page, even if the element around all of it has such a name, too.
    page = f"<form>{PARAGRAPHS}<div id='{name}'><p>So it is.</p></div></form>"
    assert blocks.main_content(page).splitlines() == SENTENCES


def test_long_comments_do_not_count_as_the_page():
    comments = f"<div class=comments>{PARAGRAPHS * 3}</div>"
    assert blocks.main_content(PARAGRAPHS + comments).splitlines() == SENTENCES


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
        assert blocks.main_content(page).splitlines() == text, page


@pytest.mark.parametrize("words", [
    "To serve you well this site uses cookies", "By reading on you agree to our cookie policy",
    "Get our weekly newsletter", "1999-2009 Tower Press, all rights reserved", "About the author",
    "Last updated in spring", "Sponsored by Tower Press", "You might also like"])
def test_words_of_boilerplate(words):
    tail = ", and it is so for all of those who read it" * 2
    page = f"{PARAGRAPHS}<p>{words}{tail}.</p>"
    assert blocks.main_content(page).splitlines() == SENTENCES
    page = page.replace(words, f"They say: {words}".replace(" ", "-"))
    assert len(blocks.main_content(page).splitlines()) == 4


@pytest.mark.parametrize("part", [
    "<div><p>Mind the steps.</p></div>", "<div>Mind the steps.<p>They are wet.</p></div>",
    "<div><blockquote><p>I saw it.</p></blockquote></div>"])
def test_small_sections_within_the_text_stay(part):
    words = len(blocks.main_content(part).split())
    for page in (f"<div>{ARTICLE}{part}{PARAGRAPHS * 3}</div>",
                 f"<h1>The tower</h1><div>Share</div>{part}{PARAGRAPHS * 3}"):
        rest = blocks.main_content(page.replace(part, "<div></div>"))
        assert len(blocks.main_content(page).split()) == len(rest.split()) + words > words


@pytest.mark.parametrize("part", [
    "<div><h4><a href=/u>Ada</a></h4><p>{}</p></div>",  # a forum
    "<div><h3>Spring <a href=#>edit</a></h3><p>{}</p></div>",
    "<table><tr><td><a href=/x>Spring</a></td><td>A day</td><td><p>{}</p></td></tr></table>",
    "<h2>Steps</h2><div><ol><li>{}</li></ol></div>"])
def test_a_large_footer_is_not_taken_as_the_page(part):
    parts = "".join(map(part.format, SENTENCES * 3))
    page = f"<div>{MENU}</div>{parts}<div><p>{'Nothing here may be copied. ' * 9}</p></div>"
    lines = blocks.main_content(page).splitlines()
    assert [line for line in lines if line in SENTENCES] == SENTENCES * 3


def test_every_paragraph_in_a_section():
    page = "".join(f"<div><p>{sentence}</p></div>" for sentence in SENTENCES * 4)
    assert blocks.main_content(page).splitlines() == SENTENCES * 4


def test_a_title_behind_a_menu():
    page = f"<h1><a href=/t>The tower</a></h1><div>{MENU}</div><div>{PARAGRAPHS * 3}</div>"
    assert blocks.main_content(page).splitlines() == ["The tower", *SENTENCES * 3]


@pytest.mark.parametrize("tag", [
    "<p title='a<b'>", "<p title='a>b<c>'>", '<p class="a" title = "<p>">', "<p x='a'y>",
    "<p title='a<b' >", "<p title=\"it's <b>\">", "</div><p><![x>", "<p></ x>", "<p></i <!---->"])
def test_no_markup_in_the_text(tag):
    assert blocks.main_content(f"{tag}It is.</p") == "It is."


def test_unclosed_tags_take_linear_time():
    # Searching to the end of the page from each of 100,000 tags would take hours.
    for piece in ("<a \"", "<div class='", "<![", "<!--", "<script>", "<p>", "&nbsp;\n",
                  "<nav>", "<div></p>", "<a b=\"' c='", "<a =\"", "</", "<style><!--"):
        blocks.main_content(piece * 100_000)
        formulas.has_math_tags(piece * 10_000)
