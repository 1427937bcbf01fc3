"""May a page be fetched, and what of it is its body: what comes before the filters.

RFC 9309 tells the first, Boilerpipe (Kohlschuetter et al. 2010) the second.
"""
import collections
import html.parser
import itertools
import re
from urllib.parse import quote, unquote_to_bytes

import regex


# May the page be fetched?

def robots_allow(robots, path, agent="Applebot"):
    """Whether robots.txt lets `agent` fetch `path`, a query included. RFC 9309, section 2.2.

    ('User-agent: *\\nDisallow: /a\\nAllow: /a/*.html$', '/a/b.html') -> True: the longest pattern
    that fits decides, and of equally long ones one that allows. An agent's groups add up; group *
    is for agents that have none. (urllib.robotparser goes by order, and knows neither * nor $.)"""
    entries = re.findall(r"(?im)^[ \t\ufeff]*(user-agent|allow|disallow)[ \t]*:([^#\n]*)",
                         robots.replace("\r", "\n"))
    groups, names = {}, []  # groups: agent -> [(pattern, whether it allows)]
    for opens, run in itertools.groupby(entries, lambda entry: entry[0].lower() == "user-agent"):
        names = [value.strip().lower() for _, value in run] if opens else names
        rules = [(normal_path(value.strip(), "*$"), key.lower() == "allow") for key, value in run]
        for name in names:  # of those that open a group no rules are left to read: []
            groups[name] = groups.get(name, []) + rules
    rules, octets = groups.get(agent.lower(), groups.get("*", [])), normal_path(path)
    fitting = [(len(pattern), allows) for pattern, allows in rules if path_fits(octets, pattern)]
    return path == "/robots.txt" or max([(0, True), *fitting])[1]


def normal_path(path, wildcards=""):
    """One spelling for each octet: ('/caf\u00e9/%7ea*', '*') -> '/caf%C3%A9/~a*'"""
    return re.sub("%[0-9A-Fa-f]{2}", lambda escape: quote(unquote_to_bytes(escape[0]), safe=""),
                  quote(path, safe="/?%" + wildcards))


def path_fits(path, pattern):
    """('/abcd', '/a*c') -> True; ('/abcd', '/a*c$') -> False

    What stands between two stars is best found where it first occurs, so there is no going back,
    which (?>) forbids: many stars, which stall a usual expression, cost no more than few. '^',
    which no normal path holds, marks the start."""
    pattern = "^" + (pattern[:-1] if pattern.endswith("$") else pattern + "*").replace("$", "%24")
    *pieces, last = map(regex.escape, pattern.split("*"))
    first_found = "".join(f"(?>.*?{piece})" for piece in pieces)
    return bool(regex.fullmatch(f"{first_found}.*{last}", "^" + path))


# What of the page is its body?

CONTAINERS = set("aside div footer form header nav ol section table ul".split())
SILENT = set("aside button footer form header nav noscript script style svg template title".split())
# What ends a line of text.
BLOCKS = CONTAINERS | SILENT | set("""
    address article blockquote body dd details dl dt figcaption figure h1 h2 h3 h4 h5 h6 head hr
    label li main p pre summary td th tr""".split())
# Names that authors give to what is not body. Readers such as Safari's heed them, Boilerpipe not.
NAMES = """
    ad ads advert banner comment comments consent cookie cookies footer menu nav navbar popup
    promo related share sidebar social""".split()
NAMED = re.compile(rf"(?<![a-z])(?<!has-)(?<!with-)(?:{'|'.join(NAMES)})(?![a-z])", re.I)
# How text begins that is not body.
NOISE = re.compile(r"(?:"
    r".{0,99}\baccept (all )?cookies|copyright|\(c\)|©|all rights reserved|"
    r"advertisement|leave a comment|read more|related stories|share this)(?!\w)", re.I)
# density: the share of words that stand in links; 1 if the block is a phrase like those above
Block = collections.namedtuple("Block", "tag text words density", defaults=("", "", 0, 0.0))


def extract_body(page):
    """The text of a page without menus, lists of links, banners, forms and footers.

    '<ul><li><a href=/>Home</a></ul><h1>News</h1><p>It is out.' -> 'News\\nIt is out.'
    A page is cut into blocks, and the words of a block and of its neighbours, and how many of them
    stand in links, tell whether it is body. A short block joins the body before or after it, a
    heading only the one after it."""
    blocks, end = BlockParser(page).blocks, [Block()]
    kept = list(map(is_body, end + blocks, blocks, blocks[1:] + end))
    joins = [block.density <= 1 / 3 for block in blocks]
    for i in range(1, len(blocks)):
        kept[i] |= kept[i - 1] and joins[i] and blocks[i].tag in ("p", "li")
    for i in reversed(range(len(blocks) - 1)):
        kept[i] |= kept[i + 1] and joins[i]
    return "\n".join(block.text for block, keep in zip(blocks, kept) if keep)


def is_body(previous, block, following):
    """The paper's decision tree on numbers of words, where a full sentence counts as a long block.

    A block next to a list of links must be longer."""
    sentence = block.tag == "p" and re.search(r"[.!?:](?:\s|$)", block.text)
    alone = previous.density > 5 / 9 and following.words <= 17
    return block.density <= 1 / 3 and bool(
        block.tag in ("pre", "dt", "dd") or sentence or block.words > (40 if alone else 16))


class BlockParser(html.parser.HTMLParser):
    """Gathers the blocks outside of silent elements. Lines end at <br>, in <pre> as they do there.

    BlockParser('<p>One <a href=x>two</a>').blocks -> [Block('p', 'One two', 2, 0.5)]
    An element is silent by its tag, or by a name such as "sidebar"; but a header in an article
    holds its title. One never closed is taken to end where <main> or <body> begins."""

    def __init__(self, page):
        """html.parser raises on '<![x]>', and searches to the end of the page from each tag that is
        not closed: so declarations and comments go first, and a < that begins no tag is text."""
        super().__init__()
        # Of the block that is open: pieces of its text, its words, how many of them stand in links.
        self.tag, self.parts, self.words, self.linked = "", [], 0, 0
        # What is done; whether we are in a link, and in an article; the tag of the silent element
        # that we are in, as often as elements of that tag are open.
        self.blocks, self.link, self.article, self.silent = [], False, False, []
        page = re.sub(r"(?s)<!--.*?(?:-->|\Z)|<[!?][^<>]*>?", "", page)
        self.feed(re.sub(r"<(?!/?[A-Za-z][^<>]*>)", "&lt;", page) + "<p>")  # to end the last

    def handle_starttag(self, tag, attributes):
        if self.silent and tag not in ("body", "main"):
            self.silent += [tag] * (tag in self.silent)
            return
        attributes, self.silent = dict(attributes), []
        if tag == "br":
            self.parts.append("\n")
        elif tag == "a":
            self.link = "href" in attributes
        elif tag in BLOCKS:
            self.end_block(tag)
        self.article |= tag in ("article", "main")
        named = NAMED.search(f"{attributes.get('class')} {attributes.get('id')}")
        title = tag == "header" and self.article
        if tag in CONTAINERS and named or tag in SILENT and not title:
            self.silent = [tag]

    def handle_endtag(self, tag):
        if tag in self.silent:
            self.silent.pop()
        elif tag in BLOCKS and not self.silent:
            self.end_block("")
            self.article &= tag not in ("article", "main")
        self.link &= tag != "a"

    def handle_data(self, text):
        if not self.silent:
            self.words += len(text.split())
            self.linked += len(text.split()) * self.link
            old, new = " \xa0" if self.tag == "pre" else "\n "
            self.parts.append(text.expandtabs().replace(old, new))

    def end_block(self, tag):
        """End a block where the next begins, whose tag this is. A space that is &nbsp; stays."""
        if self.words:
            text = re.sub("[ \t\r\f]+", " ", "".join(self.parts))
            text = re.sub("[ \xa0]*\n ?", "\n", text).strip(" \n").replace("\xa0", " ").rstrip()
            density = 1.0 if self.words <= 40 and NOISE.match(text) else self.linked / self.words
            self.blocks.append(Block(self.tag, text, self.words, density))
        self.parts, self.words, self.linked, self.tag = [], 0, 0, tag
