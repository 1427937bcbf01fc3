"""The main content of HTML pages, found as in Boilerpipe (Kohlschuetter et al. 2010): cut a page
into blocks of text, then classify each by its length and its link density.

Many pages of a crawl are malformed: a menu that is never closed would contain the rest of the page.
So boilerplate is not skipped while a page is read. It is marked when its end tag is found.
"""
import collections
import dataclasses
import html
import re

import regex

# Elements whose class or id may mark boilerplate. Each of their tags starts a new section.
CONTAINERS = set("article aside div footer form header main nav section table td th".split())
BOILERPLATE_TAGS = set("""
    aside button footer form nav noscript script select style svg template title""".split())
TRACKED_TAGS = CONTAINERS | BOILERPLATE_TAGS
# Tags that end a block of text.
BLOCK_TAGS = TRACKED_TAGS | set("""
    address blockquote body dd details dl dt figcaption figure h1 h2 h3 h4 h5 h6 head hr label li ol
    p pre summary tr ul""".split())
# Words in the classes and ids of boilerplate. Boilerpipe has none, reader views of browsers do.
BOILERPLATE_NAMES = set("""
    ad ads advert advertisement banner breadcrumb breadcrumbs comments consent cookie cookies footer
    menu nav navbar navigation popup promo related share sharing sidebar social""".split())
# Words that may join them in a name: "left-sidebar" is boilerplate, "market-share" is not.
LAYOUT_NAMES = set("""
    bar block box button buttons container header inner item left links list main page right section
    site top widget wrapper""".split())
# Phrases of short boilerplate blocks.
BOILERPLATE_TEXT = re.compile(r"""
    .* \b (?: (?:accept|uses?)\ cookies | cookie\ policy | our\ (?:\w+\ )?newsletter |
        all\ rights\ reserved | (?:learn|read)\ more\W*$ )
    | (?: about\ the\ author | advertisement | copyright | © | last\ updated | share\ this |
        related\ (?:articles|posts|stories) | sponsored\ by | you\ might\ also\ like ) \b
    """, re.I | re.X)
MAX_LINK_DENSITY = 1 / 3
MIN_CONTENT = 40  # words; a section with as many is large, and a page's content is not smaller
MIN_PAGE = 100  # words; small sections of a shorter page are content
MAX_DEPTH = 100  # of the open elements, an end tag may close one of the innermost 100

# A comment's start, a tag, a declaration, or a text. A quoted value may contain < and >. A quote
# that no blank, > or /> follows is not the end of a value: then the first quote was never closed,
# and both are ordinary characters. "*+" never backtracks.
MARKUP = regex.compile(r"""
    < (?P<tag>!--)
    | < (?P<tag>/?[a-z][^\s<>/]*) (?P<attributes>
        (?: [^<>"'=]+ | = \s* (?: "[^"]*" | '[^']*' ) (?=\s|/?>) | ["'=] )*+ ) (?: > | \Z)
    | <[!?/] [^<>]* >?
    | (?P<text> .[^<]*)""", regex.I | regex.S | regex.X)
# Elements whose content is not parsed: tag -> its end.
RAW_ENDS = {tag: re.compile(end, re.I) for tag, end in (
    ("!--", "--!?>"), ("script", r"</script\b[^<>]*>?"), ("style", r"</style\b[^<>]*>?"))}
NAMES = re.compile(r"""\s(?:class|id)\s*=\s*(?:"([^"]*)|'([^']*)|([^\s"'>]+))""", re.I)


def markup(page, raw_ends=RAW_ENDS):
    """Yield (tag, attributes, text) for each tag and each text.

    '<p class=a>1 < 2</p>' -> ('p', ' class=a', ''), ('', '', '1 '), ('', '', '< 2'), ('/p', '', '')

    A comment, script or style is one tag, '!--/', 'script/' or 'style/', without its content. One
    that is never closed is an ordinary tag. (html.parser would drop the rest of the page. It also
    raises on '<![x]>' and takes quadratic time for unclosed tags.)"""
    raw_ends, start = dict(raw_ends), 0
    while match := MARKUP.match(page, start):
        start = match.end()
        tag = (match["tag"] or "").lower()
        if tag in raw_ends:
            # "<!-->" is a whole comment, so its end may overlap with its start.
            end = raw_ends[tag].search(page, start - 2 if tag == "!--" else start)
            if end:
                start, tag = end.end(), tag + "/"
            else:
                del raw_ends[tag]  # no later one is closed either: search the page only once
        yield tag, match["attributes"] or "", html.unescape(match["text"] or "")


def names_of(attributes):
    """Return the classes and ids of an element: ' class="a b" id=c' -> ['a', 'b', 'c']"""
    return " ".join("".join(groups) for groups in NAMES.findall(attributes)).split()


def is_boilerplate_name(name):
    """Return True for a class or id such as 'left-sidebar' or 'NavBar2', but not 'no-sidebar'."""
    words = set(re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()))
    return bool(words & BOILERPLATE_NAMES) and words <= BOILERPLATE_NAMES | LAYOUT_NAMES


@dataclasses.dataclass
class Block:
    tag: str
    text: str
    words: int
    link_density: float  # share of the words that are inside links; 1 for boilerplate text
    section: int  # number of tags of CONTAINERS before its text
    depth: int = 0  # number of boilerplate elements around the block


class BlockParser:
    """Collect the text blocks of a page, in order.

    BlockParser('<p>One <a href=x>two</a>').blocks -> [Block('p', 'One two', 2, 0.5, 0, 0)]

    An element is boilerplate by its tag, or by a class or id such as 'sidebar'."""

    def __init__(self, page, raw_ends=RAW_ENDS):
        self.blocks, self.section = [], 0
        self.open = []  # open elements: (tag, is boilerplate, number of blocks before it)
        # The open block: its tag, pieces of text, number of words, number of words inside links.
        self.tag, self.parts, self.words, self.linked_words = "", [], 0, 0
        self.in_link = False
        for tag, attributes, text in markup(page, raw_ends):
            if tag.strip("/") in BLOCK_TAGS:
                self.end_block("" if tag.startswith("/") else tag)
            if text:
                self.add_text(text)
            elif tag == "br":
                self.parts.append("\n")
            elif tag in ("a", "/a"):
                self.in_link = tag == "a" and "href" in attributes.lower()
            elif tag in TRACKED_TAGS:
                self.start_tag(tag, attributes)
            elif tag.startswith("/") and tag[1:] in TRACKED_TAGS:
                self.end_tag(tag[1:])
        self.end_block("")

    def start_tag(self, tag, attributes):
        is_boilerplate = tag in BOILERPLATE_TAGS
        if tag in CONTAINERS:
            self.section += 1
            is_boilerplate = is_boilerplate or any(map(is_boilerplate_name, names_of(attributes)))
        self.open.append((tag, is_boilerplate, len(self.blocks)))
        del self.open[:-MAX_DEPTH]

    def end_tag(self, tag):
        """Close the innermost element of this tag, and those inside it that were never closed."""
        if tag in CONTAINERS:
            self.section += 1
        if any(open_tag == tag for open_tag, _, _ in self.open):
            while self.open[-1][0] != tag:
                self.open.pop()
            _, is_boilerplate, start = self.open.pop()
            if is_boilerplate:
                for block in self.blocks[start:]:
                    block.depth += 1

    def add_text(self, text):
        words = len(text.split())
        self.words += words
        if self.in_link:
            self.linked_words += words
        if self.tag != "pre":  # only <br> ends a line outside <pre>
            text = text.replace("\n", " ")
        self.parts.append(text.expandtabs())

    def end_block(self, next_tag):
        """Add the open block if it contains words and is no script, and open the next one.

        Its text 'a  b \\n c' becomes 'a b\\nc'. <pre> keeps all spaces, and &nbsp; is one, too."""
        if self.words and self.tag not in RAW_ENDS:
            lines = "".join(self.parts).split("\n")
            if self.tag != "pre":
                lines = [re.sub("[ \r\f]+", " ", line).strip(" ") for line in lines]
            text = "\n".join(line.replace("\xa0", " ").rstrip() for line in lines).strip("\n")
            is_boilerplate = self.words <= 60 and BOILERPLATE_TEXT.match(text)
            density = 1.0 if is_boilerplate else self.linked_words / self.words
            self.blocks.append(Block(self.tag, text, self.words, density, self.section))
        self.tag, self.parts, self.words, self.linked_words = next_tag, [], 0, 0


def main_content(page):
    """Return the text of a page without menus, lists of links, banners, forms and footers.

    '<ul><li><a href=/>Home</a></ul><h1>News</h1><p>It is out.' -> 'News\\nIt is out.'

    A block that `is_content` accepts extends to its neighbours with few links: forwards to
    paragraphs and list items, and backwards to any block, such as a heading. If nothing is kept,
    the paragraphs of sentences are the content, provided that there are three or more."""
    blocks = without_boilerplate(BlockParser(page).blocks)
    keep = [is_content(block) for block in blocks]
    text_like = [block.link_density <= MAX_LINK_DENSITY for block in blocks]
    for i in range(1, len(blocks)):
        if keep[i - 1] and text_like[i] and blocks[i].tag in ("p", "li"):
            keep[i] = True
    for i in reversed(range(len(blocks) - 1)):
        if keep[i + 1] and text_like[i]:
            keep[i] = True
    kept = [block.text for block in large_sections(blocks, keep)]
    if not kept:  # maybe a script or comment ends too late: parse their content, too
        kept = [block.text for block in BlockParser(page, raw_ends={}).blocks if is_sentence(block)]
        if len(kept) < 3:
            return ""
    return "\n".join(kept)


def without_boilerplate(blocks):
    """Return the blocks that are in no boilerplate element.

    If little content remains, such an element is a wrapper, such as a form around the page. Then
    keep the blocks in up to one boilerplate element, or in up to two, and so on."""
    total = sum(block.words for block in blocks if is_content(block))
    for depth in range(MAX_DEPTH):
        rest = [block for block in blocks if block.depth <= depth]
        words = sum(block.words for block in rest if is_content(block))
        dropped = total - words
        if dropped < MIN_CONTENT or words >= max(MIN_CONTENT, dropped / 4):
            return rest
    return blocks


def is_sentence(block):
    """Return True for a <p> that contains the end of a sentence: 'It is out.' or 'a "Yes!" b'"""
    return block.tag == "p" and bool(re.search(r"[.!?:][\"')\u2019\u201d]*(?:\s|$)", block.text))


def is_content(block):
    """Return True for a block with few links that is long, a sentence, or code or a definition.

    The thresholds are the paper's."""
    return block.link_density <= MAX_LINK_DENSITY and (
        block.words > 16 or is_sentence(block) or block.tag in ("pre", "dt", "dd"))


def large_sections(blocks, keep):
    """Return the blocks to keep from the title, or else the first large section, to the last large
    section. This drops small sections before and after the text.

    The size of a section is the number of its words to keep. A section is large if it has 40 words,
    or half of the size of the largest one, or if it is needed for two thirds of the page, counted
    from the largest one down. A page of less than 100 words is returned whole.

    Boilerpipe's ArticleExtractor has similar steps, but one large section."""
    kept = [block for block, is_kept in zip(blocks, keep) if is_kept]
    sizes = collections.Counter()  # section -> words
    for block in kept:
        sizes[block.section] += block.words
    if sizes.total() < MIN_PAGE:
        return kept
    total = 0
    for _, size in sizes.most_common():
        total += size
        if total >= sizes.total() * 2 / 3:
            break
    # `size` is now that of the smallest section among the largest with two thirds of the words.
    limit = min(size, max(sizes.values()) / 2, MIN_CONTENT)
    large = [section for section in sizes if sizes[section] >= limit]
    titles = [block for block in blocks if block.tag == "h1" and block.section <= large[0]]
    title = titles[-1] if titles else None
    first = title.section if title else large[0]
    return [block for block, is_kept in zip(blocks, keep)
            if block is title or is_kept and first <= block.section <= large[-1]]
