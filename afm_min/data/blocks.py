"""HTML pages as blocks of text, and which of them are content, for `filters.main_content`.

A crawl is full of malformed pages. So boilerplate is not dropped while a page is read, but marked:
an element that was never closed may contain the whole page.
"""
import collections
import html
import re

import regex

CONTAINERS = set("aside div footer form header nav ol section table ul".split())
CELLS = ("td", "th")
# Tags that separate sections. An end tag does, too, wherever it is: it may be the wrong one.
BORDERS = CONTAINERS - {"ol", "ul"} | {"article", "main", *CELLS}
BOILERPLATE_TAGS = set("""
    aside button footer form header nav noscript script select style svg template title""".split())
# Tags that end a block of text.
BLOCK_TAGS = CONTAINERS | BOILERPLATE_TAGS | set("""
    address article blockquote body dd details dl dt figcaption figure h1 h2 h3 h4 h5 h6 head hr
    label li main p pre summary td th tr""".split())
# Classes and ids of boilerplate. Reader views of browsers use these, Boilerpipe does not.
BOILERPLATE_NAMES = set("""
    ad ads advert advertisement banner breadcrumb breadcrumbs comment comments consent cookie
    cookies footer menu nav navbar navigation popup promo promos related share sharing sidebar
    social""".split())
# Words that such a name may contain beside them: "left-sidebar", but not "market-share".
LAYOUT_NAMES = set("""
    area article bar block blog body bottom box button buttons col column container desktop div
    entry form global group header inner item items js left link links list main mobile notice
    outer overlay page post posts primary right secondary section side site sticky text top unit
    widget wrap wrapper""".split())
# Words of short boilerplate blocks: among the first ones, at the end, or at the start.
BOILERPLATE_TEXT = re.compile(r"""
    (?: .{0,99} \b (?: (?:accept|accept\ all|sites?\ uses?|we\ use)\ cookies | cookie\ policy |
            our\ (?:\w+\ )? newsletter | all\ rights\ reserved)
        | .* \b (?:learn|read)\ more [^\w.]* $
        | (?: about\ the\ author | advertisement | copyright | \(c\) | © | leave\ a\ comment |
            (?:page\ )? last\ (?:modified|updated) | read\ more | share\ this | sponsored\ by |
            related\ (?:articles|posts|stories) | you\ (?:may|might)\ also\ like)
    ) (?!\w)""", re.I | re.X)
MAX_LINK_DENSITY = 1 / 3
MIN_CONTENT = 40  # words; an element with less is not taken as the page
MIN_PAGE = 100  # words; a shorter page keeps its small sections
MAX_DEPTH = 100  # open elements that an end tag is compared with

# A tag or a text. A quoted value may contain < and >; but if no blank, > or /> follows its second
# quote, the first one was never closed, and it is an ordinary character. "*+" never backtracks.
MARKUP = regex.compile(r"""
    < (?P<tag>!--)
    | < (?P<tag>/?[a-z][^\s<>/]*) (?P<attributes>
        (?: [^<>"'=]+ | = \s* (?: "[^"]*" | '[^']*' ) (?=\s|/?>) | ["'=] )*+ ) (?: > | \Z)
    | <[!?/] [^<>]* >?
    | (?P<text> .[^<]*)""", regex.I | regex.S | regex.X)
# What is inside these is no markup: tag -> its end.
RAW_ENDS = {tag: re.compile(end, re.I) for tag, end in (
    ("!--", "--!?>"), ("script", r"</script\b[^<>]*>?"), ("style", r"</style\b[^<>]*>?"))}
NAMES = re.compile(r"""\s(?:class|id)\s*=\s*(?:"([^"]*)|'([^']*)|([^\s"'>]+))""", re.I)

# link_density: share of the words that are inside links; 1 for short boilerplate text
# boilerplate: number of the innermost boilerplate element that the block is in; 0 for none
# section: number of the part of the page, between two borders, that the block is in
Block = collections.namedtuple("Block", "tag text words link_density boilerplate section",
                               defaults=("", "", 0, 0.0, 0, 0))


def markup(page, raw_ends=RAW_ENDS):
    """Yield (tag, attributes, text) for each tag and each text, without scripts and comments.

    '<p class=a>1 < 2</p>' -> ('p', ' class=a', ''), ('', '', '1 '), ('', '', '< 2'), ('/p', '', '')

    The tag of a whole script or style is 'script/' or 'style/'. One that is never closed is taken
    as an ordinary tag. (html.parser would drop the rest of the page. It also raises on '<![x]>' and
    takes quadratic time for unclosed tags.)"""
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
                del raw_ends[tag]  # no later one is closed either, so do not search again
        yield tag, match["attributes"] or "", html.unescape(match["text"] or "")


def is_boilerplate_name(name):
    """'left-sidebar' and 'NavBar2' -> True; 'no-sidebar' and 'market-share' -> False"""
    words = set(re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()))
    return bool(words & BOILERPLATE_NAMES) and words <= BOILERPLATE_NAMES | LAYOUT_NAMES


class BlockParser:
    """Collect the text blocks of a page, in order.

    BlockParser('<p>One <a href=x>two</a>').blocks -> [Block('p', 'One two', 2, 0.5, 0, 0)]

    An element is boilerplate by its tag, or by a class or id such as "sidebar"; but a <header>
    inside an article is not, as it contains the title. Boilerplate elements are numbered from 1,
    and 0 is the page itself. `parents` has the element around each: [0, 0, 1] means that 1 is in
    the page and 2 is in 1."""

    def __init__(self, page, raw_ends=RAW_ENDS):
        # The open block: its tag, pieces of text, number of words, and how many are inside links.
        self.tag, self.parts, self.words, self.linked_words = "", [], 0, 0
        self.in_link = self.link_is_closed = False
        self.blocks, self.parents, self.in_article = [], [0], False
        self.section = 0
        self.well_formed = True  # False if an element was never closed
        self.open = [("", 0)]  # open elements: tag, number of the boilerplate element it is (in)
        pieces = list(markup(page, raw_ends))
        # A link that another one follows was never closed. It ends with its block.
        links = [tag for tag, _, _ in pieces if tag in ("a", "/a")]
        links.reverse()
        for tag, attributes, text in pieces:
            if tag in ("a", "/a"):
                links.pop()
                self.link_is_closed = links[-1:] == ["/a"]
            if text:
                self.add_text(text)
            elif tag.startswith("/"):
                self.end_tag(tag[1:])
            else:
                self.start_tag(tag, attributes)
        self.end_block("")
        self.well_formed = self.well_formed and len(self.open) == 1

    def start_tag(self, tag, attributes):
        if tag == "br":
            self.parts.append("\n")
        elif tag == "a":
            self.in_link = "href" in attributes.lower()
        elif tag in BLOCK_TAGS:
            self.end_block(tag)
        if tag in BORDERS:
            self.section += 1
        if tag in ("article", "main"):
            self.in_article = True
        if tag in ("body", "main"):  # these end elements that were never closed
            self.open = self.open[:1]
        is_boilerplate = tag in BOILERPLATE_TAGS
        if tag == "header" and self.in_article:
            is_boilerplate = False
        if tag in CONTAINERS:
            names = " ".join("".join(match) for match in NAMES.findall(attributes)).split()
            is_boilerplate = is_boilerplate or any(map(is_boilerplate_name, names))
        number = self.open[-1][1]
        if is_boilerplate:
            self.parents.append(number)
            number = len(self.parents) - 1
        if (is_boilerplate or tag in CONTAINERS) and not (
                tag == "svg" and attributes.endswith("/")):
            self.open.append((tag, number))

    def end_tag(self, tag):
        if tag == "a":
            self.in_link = False
        elif tag in BLOCK_TAGS:
            self.end_block("")
        if tag in BORDERS:
            self.section += 1
        if tag in ("article", "main"):
            self.in_article = False
        if tag not in CONTAINERS and tag not in BOILERPLATE_TAGS:
            return
        # Close the innermost element of this tag, and those inside it that were never closed.
        for depth in range(len(self.open) - 1, max(0, len(self.open) - MAX_DEPTH), -1):
            if self.open[depth][0] == tag:
                self.well_formed = self.well_formed and depth == len(self.open) - 1
                del self.open[depth:]
                break

    def add_text(self, text):
        self.words += len(text.split())
        if self.in_link:
            self.linked_words += len(text.split())
        # In <pre>, line ends and spaces must stay, so each space becomes \xa0 (&nbsp;), which
        # `end_block` does not merge. Elsewhere a line end is a space.
        old, new = (" ", "\xa0") if self.tag == "pre" else ("\n", " ")
        self.parts.append(text.expandtabs().replace(old, new))

    def end_block(self, next_tag):
        """Add the open block if it contains words and is no script, and open the next one.

        Its text 'a  b \\n c' becomes 'a b\\nc', but stays as it is in <pre>."""
        if self.words and self.tag not in RAW_ENDS:
            # Merge spaces, remove them around line ends, then turn each \xa0 back into a space.
            text = re.sub("[ \t\r\f]+", " ", "".join(self.parts))
            text = re.sub("[ \xa0]*\n ?", "\n", text).strip(" \n").replace("\xa0", " ").rstrip()
            boilerplate = self.words <= 60 and BOILERPLATE_TEXT.match(text)
            density = 1.0 if boilerplate else self.linked_words / self.words
            section = self.section
            if self.tag in CELLS and self.blocks and self.blocks[-1].tag in CELLS:
                section = self.blocks[-1].section  # a table of plain cells is one section
            self.blocks.append(
                Block(self.tag, text, self.words, density, self.open[-1][1], section))
        self.parts, self.words, self.linked_words, self.tag = [], 0, 0, next_tag
        self.in_link = self.in_link and self.link_is_closed


def without_boilerplate(parser):
    """Return the blocks that are in no boilerplate element.

    An element without which little of the page's content remains is no boilerplate, but a wrapper
    with such a name or a form around the page. If elements of the page were never closed, an
    element with a quarter of its content is none either."""
    max_rest = 1 / 5 if parser.well_formed else 3 / 4
    words = [0] * len(parser.parents)  # of content, per boilerplate element; 0 is the whole page
    for block in parser.blocks:
        if is_content(Block(), block, Block()):
            words[block.boilerplate] += block.words
    for i in reversed(range(1, len(words))):
        words[parser.parents[i]] += words[i]
    is_dropped = [False]
    for i in range(1, len(words)):
        rest = words[0] - words[i]
        is_wrapper = words[i] >= MIN_CONTENT and rest < max(MIN_CONTENT, max_rest * words[0])
        is_dropped.append(is_dropped[parser.parents[i]] or not is_wrapper)
    return [block for block in parser.blocks if not is_dropped[block.boilerplate]]


def is_sentence(block):
    """Return True for a <p> in which a sentence, or a quoted one, ends."""
    return block.tag == "p" and bool(re.search(r"[.!?:][\"')\u2019\u201d]*(?:\s|$)", block.text))


def is_content(previous, block, following):
    """Classify a block. This simplifies the paper's decision tree: the thresholds are its own, but
    most branches are left out.

    Content has few links and more than 16 words; more than 40 if it follows a list of links and
    precedes a short block. A full sentence in a <p>, and all of <pre>, <dt> and <dd>, are content,
    too."""
    beside_links = previous.link_density > 5 / 9 and following.words <= 17
    is_long = block.words > (40 if beside_links else 16)
    return block.link_density <= MAX_LINK_DENSITY and (
        block.tag in ("pre", "dt", "dd") or is_sentence(block) or is_long)


def keep_large_sections(blocks, keep):
    """Return `keep` without teasers, and without small sections before and after the text.

    A section is what is between two borders, such as <div> and </div>. Its size is the number of
    its words that were kept. A teaser is a section of less than 40 words in which a block consists
    of links, such as a linked headline, or one of less than 100 with a fifth of them in links, such
    as a list of related articles. Teasers stay if they hold a third of the page.

    A section is small if it has less than 40 words and less than half of the largest. This limit is
    halved until the other sections hold two thirds of the page. A small section stays if it is
    between the title and the last section that is not small. A page of less than 100 words stays
    whole.

    These are steps of Boilerpipe's ArticleExtractor: it keeps the largest block and what is between
    the title and it, and nothing after the end of the text. Here several sections may be large."""
    sizes, links = collections.Counter(), collections.Counter()  # section -> words, linked words
    for block, is_kept in zip(blocks, keep):
        if is_kept:
            sizes[block.section] += block.words
            links[block.section] += block.words * block.link_density
    if sizes.total() < MIN_PAGE:
        return keep
    # Only the links of tables are often part of the text.
    teasers = {block.section for block in blocks if block.link_density > 5 / 9
               and sizes[block.section] < MIN_CONTENT and block.tag not in CELLS}
    teasers.update(section for section, size in sizes.items()
                   if size < MIN_PAGE and links[section] >= size / 5)
    if sum(sizes[section] for section in teasers) < sizes.total() / 3:
        for section in teasers:
            del sizes[section]
    limit = min(MIN_CONTENT, max(sizes.values()) / 2)
    while sum(size for size in sizes.values() if size >= limit) < sizes.total() * 2 / 3:
        limit /= 2
    large = [section for section, size in sizes.items() if size >= limit]
    title = find_title(blocks, keep, large[0])
    first = large[0] if title is None else blocks[title].section
    stays = {section for section, size in sizes.items()
             if size >= limit or first <= section <= large[-1]}
    return [i == title or (is_kept and block.section in stays)
            for i, (block, is_kept) in enumerate(zip(blocks, keep))]


def find_title(blocks, keep, section):
    """Return the index of the last <h1> up to a section, or else of the first <h2> that is kept.

    Return None if there is neither."""
    before = [i for i, block in enumerate(blocks) if block.section <= section]
    titles = [i for i in before if blocks[i].tag == "h1"][-1:]
    titles += [i for i in before if blocks[i].tag == "h2" and keep[i]]
    return titles[0] if titles else None
