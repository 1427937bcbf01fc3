"""Sixty invented web pages in twelve layouts, with the words a reader came for.

pages(seed) returns tuples (html, body_words, navigation_words).  Words are the matches of
the regular expression \\w+ (see words()), with their case kept.

body_words: the words of the main text in document order, title heading included; lists, code,
quotes and tables of the text belong to it, and so do all posts of a forum thread and all answers
of a question page.
navigation_words: invented words, each used once on its page, from menus, sidebars, footers,
cookie banners, share bars, buttons, breadcrumbs, newsletter boxes and related links.
Bylines, dates, user names, prices, vote counts, infoboxes, contents boxes inside an article, the
site's name, the small words between invented ones ("the", "of") are in neither list.

Pages come layout by layout, five each, in the order of LAYOUTS; those whose (layout, variant)
is a key of AWKWARD have malformed or awkward markup.
"""

import html as _html
import random
import re

WORD = re.compile(r"\w+")


def words(text):
    """Return the words of a text, in order."""
    return WORD.findall(text)


# ---------------------------------------------------------------------------------------------
# Vocabulary: agents, things, places for each topic.

TOPICS = [
    ("harbour",
     "the ferry crews|the harbour pilots|the dock workers|the net menders|the port engineers",
     "tide gauge|mooring line|pilot boat|breakwater|signal lamp|slipway|cargo crane|buoy",
     "the northern quay|the fish market|the old customs shed|the dry dock|the ferry steps"),
    ("beekeeping",
     "the beekeepers|the orchard owners|the honey judges|the village growers|the inspectors",
     "hive|smoker|honey press|wax frame|queen cage|feeding tray|wooden stand|veil",
     "the lime avenue|the heather slope|the parish hall|the walled garden|the clover field"),
    ("clocks",
     "the clockmakers|the bell ringers|the apprentices|the museum guides|the toolmakers",
     "pendulum|escapement|dial|mainspring|striking train|brass wheel|winding key|tower clock",
     "the west tower|the guild workshop|the market square|the cathedral loft|the reading room"),
    ("railway",
     "the signalmen|the track crews|the volunteers|the station staff|the drivers",
     "signal box|branch line|tank engine|footbridge|turntable|water column|goods shed|lever frame",
     "the upper junction|the viaduct|the disused platform|the cutting|the engine yard"),
    ("astronomy",
     "the observers|the students|the telescope builders|the night staff|the astronomers",
     "mirror|dome|spectrograph|star chart|eyepiece|tracking motor|camera|finder scope",
     "the southern ridge|the observatory|the school roof|the dark valley|the lecture theatre"),
    ("pottery",
     "the potters|the kiln crew|the evening class|the collectors|the glaze makers",
     "kiln|wheel|glaze|clay body|drying rack|storage jar|salt pan|stoneware bowl",
     "the brick yard|the river bank|the craft school|the cooperative|the long barn"),
    ("orchards",
     "the pickers|the cider makers|the tree wardens|the growers|the grafting team",
     "pear tree|ladder|press|cold store|rootstock|wooden crate|hedge|irrigation channel",
     "the lower terrace|the packing house|the abbey orchard|the mill stream|the south wall"),
    ("mountains",
     "the hut wardens|the rescue team|the path builders|the climbers|the forecasters",
     "rope bridge|shelter|avalanche probe|marker post|winch|weather mast|stretcher|stone cairn",
     "the high pass|the glacier edge|the upper hut|the scree slope|the cable station"),
    ("archives",
     "the archivists|the map librarians|the binders|the researchers|the night porters",
     "ledger|parish register|map cabinet|reading lamp|card index|microfilm reader|vellum roll",
     "the basement stacks|the county archive|the bindery|the strong room|the annexe"),
    ("bicycles",
     "the mechanics|the couriers|the frame builders|the touring club|the commuters",
     "rear hub|steel frame|cargo bike|wheel stand|brake cable|front rack|chain guard|pump",
     "the canal path|the repair workshop|the velodrome|the covered market|the ring road"),
    ("weather",
     "the forecasters|the balloon crew|the lighthouse keepers|the farmers|the ship captains",
     "barometer|rain gauge|wind vane|radar dish|thermometer screen|snow stake|balloon",
     "the headland|the airfield|the marsh|the weather station|the island ferry"),
    ("theatre",
     "the stagehands|the costume makers|the actors|the lighting crew|the ushers",
     "backdrop|trapdoor|follow spot|prompt book|painted ceiling|fly tower|velvet curtain",
     "the opera house|the rehearsal room|the scene dock|the touring tent|the upper circle"),
    ("baking",
     "the bakers|the millers|the market traders|the apprentices|the tasting panel",
     "oven|rye loaf|proving basket|dough mixer|flour sack|sourdough starter|bread peel",
     "the water mill|the corner bakery|the covered market|the night kitchen|the granary"),
    ("bridges",
     "the surveyors|the welders|the divers|the council engineers|the painters",
     "bearing|suspension cable|expansion joint|parapet|pier|inspection gantry|arch|handrail",
     "the east bank|the old ford|the toll house|the site office|the downstream weir"),
]

BANK = {
    "adj": "narrow|heavy|unusual|careful|modest|quiet|damaged|portable|reliable|early|costly|"
           "simple|weathered|borrowed|familiar|delicate|spare|improved|crooked|sturdy|ordinary",
    "vd": "repaired|measured|replaced|painted|moved|tested|described|photographed|catalogued|"
          "inspected|rebuilt|borrowed|cleaned|weighed|sketched|examined|labelled|restored",
    "vi": "repair|measure|replace|move|test|describe|photograph|inspect|rebuild|clean|restore",
    "name": "Orla Fenwick|Tomas Brandt|Ines Caldera|Märta Lind|Joseph Adeyemi|Hanna Kowalska|"
            "Ruth Pellegrino|Samir Haddad|Édith Marchand|Colm Gallagher|Yuki Tanabe|Peter Vos",
    "town": "Aldermouth|Kestrel Bay|Vinterby|Saint Corrin|Lower Tarn|Ostermark|Pendle Ferry|"
            "Marrow Hill|Queensbarrow|Halvik|Port Ellery|Casterdon",
    "month": "January|February|March|April|May|June|July|August|September|October|November",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "time": "at dawn|before noon|after the storm|in late autumn|during the holidays|by midnight|"
            "over the winter|within a fortnight|last spring|after lunch",
    "org": "Fenwick and Daughters|the Halvik Trust|Brandt Instruments|the Corrin Society|"
           "Northlight Works|the Ellery Foundation|Caldera Marine|the Tarn Cooperative",
    "tool": "tarnctl|ledgerd|quillpack|hexbatch|mossql|driftwatch",
    "opt": "retry_limit|cache_dir|log_level|batch_size|worker_count|lock_file|timeout_ms",
    "obj": "record|worker|queue|snapshot|token|index|channel|schema|session|bucket",
}
BANK = {key: value.split("|") for key, value in BANK.items()}

NEWS = """{Ag} {vd} the {adj} {th} near {pl} on {day}, and a second {th2} followed a week later.
In {month}, {ag} {vd} more than {num} parts of the {th} without closing {pl}.
"Nobody had {vd} the {th} for {num} years," said {name}, who lives close to {pl}.
The {th} at {pl} was {vd} {time}, although the {th2} beside it stayed as it was.
According to {name}, the {adj} {th} costs less than {ag} had feared.
{Ag} now meet every {day} at {pl} to compare notes about the {th}.
It took {num} days to find out why the {adj} {th} kept failing {time}.
A report from {town} lists {num} reasons to {vi} the {th}, and most of them are about money.
{name} remembers when {pl} had neither a {th} nor a {th2}.
What {ag} want is a {adj} {th} that a child could {vi} with one hand.
The council of {town} will vote in {month} on whether to {vi} the {adj} {th}.
Once the {th} had been {vd}, {ag} turned to the {th2} and found it {adj} as well.
Visitors to {pl} rarely notice the {th}, yet {ag} depend on it {time}.
Neither {name} nor {ag} could say who had {vd} the {th} in the first place.
The first {th} in {town} was {vd} by hand, and its {adj} marks can still be seen.
For most of the year the {th} stands idle, and {ag} use {pl} for storage.
Some of {ag} would rather keep the {adj} {th2} than pay for a new {th}.
By {month} the {th} should be ready, provided that {pl} does not flood again.
{name} keeps a notebook in which each {th} gets {num} lines and a small drawing.
Prices for a {adj} {th} rose by {num} percent after the road to {town} was closed.
There is no plan to {vi} the {th2}, which {ag} describe as {adj} but sound.
Every {adj} {th} carries a number, and {ag} write that number on a board at {pl}.
Although {town} is small, its {th} has been {vd} by experts from {num} countries.
The work at {pl} ended {time}, two weeks earlier than {ag} had promised."""

CHAT = """I finally {vd} the {th} {time}, and it was easier than I thought.
Has anyone here tried to {vi} a {adj} {th} without taking the {th2} apart?
My neighbour in {town} swears by a {adj} {th}, but I am not convinced.
We drove out to {pl} on {day} and met {ag}, who were very patient with us.
If you only {vi} the {th} once in a season, the {adj} one is good enough.
Honestly, I would not spend more than {num} on a second-hand {th}.
The trick is to keep the {th} dry and to leave the {th2} alone for {num} hours.
I made the same mistake in {month} and had to start over with a new {th}.
It rattles when I move it, it leaks when it rains, and I still love that {th}.
Thanks to {name} for the photographs of the {th} at {pl}.
You can see the {adj} {th2} in the second picture if you look closely.
Last year I wrote that the {th} would never last, and I was wrong.
Somebody told me that {ag} at {pl} lend out a {th} for free.
After {num} attempts I gave up and asked {name} to {vi} it for me.
That is why my {th} now sits beside the {th2} and not on top of it.
Please do not {vi} the {th} alone, because it is heavier than it looks.
On the way home we talked about nothing but the {adj} {th}.
My advice is simple: buy the {adj} {th} first and worry about the {th2} later."""

DOCS = """The {opt} setting tells {tool} how long it may keep a {obj} in memory.
When a {obj} is closed, {tool} writes its {obj2} to disk and returns at once.
If {opt} is not set, every {obj} shares one {obj2} with its parent.
You can run {tool} on up to {num} machines, as long as they see the same {obj}.
A {obj} that fails {num} times is moved aside and never tried again.
The command prints one line for each {obj} and exits with zero when all went well.
Before you change {opt}, stop every {obj} that still holds a {obj2}.
Names of a {obj} may contain letters, digits and underscores, but no spaces.
Old versions of {tool} ignored {opt} and always created {num} workers.
Use a larger {opt} when the {obj} lives on a slow disk.
The {obj} and the {obj2} are independent, so either can be deleted first.
Most installations never need to touch {opt}, since the default suits a small {obj}.
Errors are raised only when the {obj} is read, not when it is declared.
Each {obj} has exactly one owner, which is recorded in the {obj2} beside it.
Reading a {obj} while another process writes it gives the older {obj2}.
To see which {obj} is busy, call {tool} with the verbose flag and wait {num} seconds.
A {obj2} without a {obj} is removed during the nightly cleanup.
Setting {opt} to zero turns the check off for the current {obj} only."""

SHOP = """The {adj} {th} weighs {num} grams and fits into any ordinary drawer.
We build each {th} in {town}, where {ag} have tested it for {num} months.
Its surface is oiled, not varnished, so a {adj} scratch can be sanded out at home.
It pairs well with a {th2}, although it works just as well alone.
Every part can be replaced with a plain screwdriver in less than {num} minutes.
The handle stays cool, and the {adj} base does not slip on wet stone.
{Ag} at {pl} have used this {th} every {day} since {month}.
Should anything break, we {vi} your {th} without asking for a receipt.
The box is made of card and contains no foam, no film and no {adj} bags.
You get one {th}, two spare screws and a booklet drawn by {name}.
Unlike our first {th}, this one can be {vd} without special tools.
It is the {adj} {th} that our own workshop in {town} reaches for {time}."""

PRESS = """{Org} today announced a {adj} {th} that will be {vd} at {pl} from {month}.
The agreement covers {num} sites in {town} and runs for {num2} years.
"We have {vd} every {th} ourselves, and we stand by the result," said {name}.
{Ag} will be trained to {vi} the {th} before it reaches {town}.
The first {th} leaves the workshop in {month}, followed by a {adj} {th2} in autumn.
Independent tests at {pl} found the {th} to be {num} percent lighter than before.
"Our customers asked for a {adj} {th}, so we made one," {name} added.
{Org} expects to {vi} about {num} units each week once the {th2} is in place.
No jobs will be lost, and {ag} will move to a new building near {pl}.
The project was paid for by {org} with support from the town of {town}.
Results of the trial will be published in {month}, together with all {adj} measurements.
Founded in {town}, the company has {vd} more than {num} machines of this kind."""

EVENT = """Join {ag} for a {adj} afternoon around the {th} at {pl}.
Doors open {num} minutes before the first talk, and seats cannot be reserved.
{name} will show how to {vi} a {th} with nothing but a {adj} knife.
Bring your own {th} if you have one, or borrow a {adj} one at the door.
The walk to {pl} takes {num} minutes and is suitable for wheelchairs.
After the break, {ag} answer questions about the {th2} and its history.
Children under twelve may {vi} the {th} as long as an adult stays with them.
If it rains, everything moves from {pl} to the hall in {town}.
Soup and bread are served {time}, and there is tea for everybody.
Last year {num} people came, and {ag} ran out of chairs.
Each group has {num} places, so that everyone can touch the {adj} {th}.
The evening ends with a slide show of every {th} ever {vd} in {town}."""

SALES = """See every {th} at a glance and know which one is {adj} before {ag} do.
Invite {ag} in one step and let them {vi} the {th} from anywhere.
Your {th2} stays yours, and you can take it with you {time}.
Teams in {town} save {num} hours a week because nobody has to {vi} the {th} twice.
No training is needed: if you can read a {th}, you can run it.
It works without a connection at {pl} and catches up when you are back.
Start with one {adj} {th}, then add the rest when {ag} are ready.
People who {vd} their {th} with us come back, and they bring {ag} along.
We answer every question within {num} minutes, even on a {day} night."""

KINDS = {"news": NEWS, "chat": CHAT, "docs": DOCS, "shop": SHOP, "press": PRESS,
         "event": EVENT, "sales": SALES}
KINDS = {key: value.split("\n") for key, value in KINDS.items()}

TITLES = {
    "news": "{Ag} save the {adj} {th} of {town}|Why {town} will {vi} its {th} after all|"
            "A {adj} {th} divides {town}|{town} waits for a new {th}|Long nights at {pl}",
    "chat": "How I {vd} my first {th}|A {adj} {th} and other mistakes|Three days at {pl}|"
            "What {ag} taught me about the {th}|Notes on a {adj} {th}",
    "docs": "Configuring {tool}|Working with a {obj} in {tool}|Getting started with {tool}|"
            "How {tool} stores a {obj}|Tuning {opt}",
    "forum": "Should I {vi} a {adj} {th} or buy a new one?|Strange noise from the {th}|"
             "Anyone else using a {adj} {th} {time}?|Best way to {vi} a {th}",
    "shop": "Workshop {th} with {adj} base|The {adj} {th} from {town}|Travel {th}, number {num}",
    "wiki": "{Th} of {town}|{town} {th}|{Th} and {th2}",
    "press": "{Org} presents a {adj} {th} for {town}|{Org} to {vi} {num} sites near {town}",
    "event": "Open day at {pl}|An evening with {ag}|{town} {th} festival|Learn to {vi} a {th}",
    "sales": "Never lose a {th} again|The calm way to {vi} a {th}|One {th}, all of {town}",
    "qa": "How do I {vi} a {th} without damaging the {th2}?|Why is my {th} so {adj} {time}?|"
          "Can {ag} {vi} a {adj} {th} {time}?",
    "qadocs": "Why does {tool} lose a {obj} when {opt} is zero?|"
              "How can {tool} share one {obj} between two workers?|"
              "Is it safe to delete a {obj} while {tool} runs?",
}

HEADS = {
    "news": "A question of money|What happens next|The view from {pl}|Slow repairs|"
            "Looking back at {month}",
    "chat": "Where it started|What I would do differently|The {adj} part|Back at {pl}|"
            "A short list of tools",
    "docs": "Before you begin|Choosing a value for {opt}|Common errors|Limits|Example|"
            "Removing a {obj}",
    "wiki": "History|Construction|Use at {pl}|In popular memory|Present condition",
    "sales": "Made for {ag}|Works at {pl}|Ready {time}|Fair from the start|A {adj} helper",
    "event": "Who should come|Getting to {pl}|What to bring|About the speakers",
    "shop": "Why we made it|Care|In the box",
}

SITES = ["Harbour Courier", "Slate and Ember", "Northern Post", "Paper Lantern", "Fieldnote",
         "Quiet Engine", "Town Ledger", "Copper Kettle", "Common Shelf", "Long Meadow"]

SMALL = ["the", "of", "and", "for", "with", "in", "to", "a", "on", "our"]


class Slots(dict):
    """Fill sentence slots; a slot name may end in a digit or begin with a capital."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def __missing__(self, key):
        base = key.rstrip("0123456789").lower()
        taken = {value.lower() for value in self.values()}
        for _ in range(20):
            value = self.text.pick(base)
            if value.lower() not in taken:
                break
        if key[0].isupper():
            value = value[0].upper() + value[1:]
        self[key] = value
        return value


class Text:
    """Sentences and blocks about one topic."""

    def __init__(self, rng, topic):
        self.rng = rng
        name, agents, things, places = TOPICS[topic % len(TOPICS)]
        self.topic = name
        self.bank = dict(BANK, ag=agents.split("|"), th=things.split("|"), pl=places.split("|"))
        self.bank["tool"] = [rng.choice(BANK["tool"])]
        self.queue = {}

    def pick(self, base):
        if base == "num":
            return str(self.rng.randint(3, 90))
        return self.rng.choice(self.bank[base])

    def fill(self, template):
        text = template.format_map(Slots(self))
        text = re.sub(r"\b([Aa]) (?=[aeioAEIO]|un)", r"\1n ", text)
        return text[0].upper() + text[1:]

    def sentence(self, kind):
        queue = self.queue.get(kind)
        if not queue:
            queue = self.queue[kind] = self.rng.sample(KINDS[kind], len(KINDS[kind]))
        return self.fill(queue.pop())

    def para(self, kind, low=2, high=5):
        return " ".join(self.sentence(kind) for _ in range(self.rng.randint(low, high)))

    def title(self, kind):
        return self.fill(self.rng.choice(TITLES[kind].split("|")))

    def head(self, kind):
        queue = self.queue.get("h" + kind)
        if not queue:
            heads = HEADS[kind].split("|")
            queue = self.queue["h" + kind] = self.rng.sample(heads, len(heads))
        return self.fill(queue.pop())

    def items(self, count):
        forms = ["a {adj} {th}", "{num} metres of rope for the {th}", "the {th} from {pl}",
                 "one {adj} {th2}, already {vd}", "gloves", "a note for {name}",
                 "spare parts of the {th}"]
        return [self.fill(form) for form in self.rng.sample(forms, count)]

    def code(self):
        tool, opt = self.pick("tool"), self.pick("opt")
        obj, num = self.pick("obj"), self.pick("num")
        return self.rng.choice([
            f"$ {tool} init --dir ./{obj}\n$ {tool} run --{opt} {num} > out.log 2>&1\n"
            f"{num} {obj} lines written",
            f"[{tool}]\n{opt} = {num}\nowner = \"{obj}\"\n\n[{tool}.limits]\nmax_{obj} = 4",
            f"def load_{obj}(path, {opt}={num}):\n    with open(path) as handle:\n"
            f"        rows = [r for r in handle if len(r) > 0 and r[0] != '<']\n"
            f"    return rows[:{opt}]",
            f"for (int i = 0; i < {num}; i++) {{\n    if ({obj}[i] && !done) {{\n"
            f"        push({obj}[i]);\n    }}\n}}",
        ])

    def blocks(self, kind, count, extras=(), heads=None, low=2, high=5):
        """Return count paragraphs with the extra blocks spread between them."""
        out = [("p", self.para(kind, low, high)) for _ in range(count)]
        heads = heads or (kind if kind in HEADS else "news")
        where = len(out)
        for extra in reversed(extras):
            where = max(1, where - max(1, count // (len(extras) + 1)))
            if extra == "h":
                block = ("h", self.head(heads))
            elif extra in ("ul", "ol"):
                block = (extra, self.items(self.rng.randint(3, 5)))
            elif extra == "pre":
                block = ("pre", self.code())
            elif extra == "quote":
                block = ("quote", self.para(kind, 1, 2))
            elif extra == "short":
                block = ("p", self.rng.choice(["It worked.", "Nobody laughed.", "Then it rained.",
                                               "That was all.", "Not quite."]))
            elif extra == "math":
                block = ("p", "Values < 40 & values > 90 are printed in grey, as in the book by "
                              "Orrin & Vale.")
            elif extra == "note":
                block = ("note", self.para(kind, 1, 2))
            else:
                block = ("table", self.table())
            out.insert(where, block)
        return out

    def table(self):
        rows = [["Part", "Number", "Remark"]]
        for thing in self.rng.sample(self.bank["th"], 4):
            rows.append([thing, self.pick("num"), self.fill("{vd} in {month}")])
        return rows


# ---------------------------------------------------------------------------------------------
# Page parts.

NAMES = {
    "nav": ["main-nav", "navbar", "primary-menu", "site-navigation", "topnav", "menu"],
    "header": ["site-header", "masthead", "page-top", "global-header", "banner"],
    "footer": ["site-footer", "footer", "page-footer", "colophon", "global-footer"],
    "side": ["sidebar", "widget-area", "right-rail", "secondary", "col-side"],
    "share": ["share-bar", "social-share", "sharedaddy", "addthis_toolbox", "share-tools"],
    "related": ["related-posts", "related", "more-stories", "recommended", "also-like"],
    "crumb": ["breadcrumb", "breadcrumbs", "crumbs", "bread-crumb-trail"],
    "news": ["newsletter-signup", "subscribe-box", "newsletter", "mc_embed_signup"],
    "cookie": ["cookie-banner", "cookie-consent", "cc-window", "gdpr-notice"],
    "pager": ["pagination", "pager", "post-navigation", "prev-next"],
    "tools": ["post-actions", "toolbar", "action-links", "buttons"],
}
SEMANTIC = {"nav": "nav", "header": "header", "footer": "footer", "side": "aside",
            "related": "aside", "crumb": "nav", "pager": "nav"}

START = "br dr kr vl zv gl tr skr sp pl fl shm tw gr kl".split()
MIDDLE = "b d g k l m n p r t v z".split()
VOWEL = "a e i o u".split()
END = "x k sh rn lk mp zz nt rth v dd lm".split()


class Page:
    """One page being built: registers body and navigation words as text is rendered."""

    def __init__(self, rng, text, style, flags):
        self.rng, self.text, self.style, self.flags = rng, text, style, set(flags)
        self.body, self.nav, self.seen = [], [], set()
        self.nav_left_open = False
        self.site = rng.choice(SITES)
        self.serial = 0

    # Navigation text.

    def coin(self):
        """Return a new invented word."""
        rng = self.rng
        while True:
            word = rng.choice(START) + rng.choice(VOWEL)
            for _ in range(rng.randint(1, 2)):
                word += rng.choice(MIDDLE) + rng.choice(VOWEL)
            word += rng.choice(END)
            if word not in self.seen:
                self.seen.add(word)
                return word

    def label(self, low=1, high=2):
        coined = [self.coin() for _ in range(self.rng.randint(low, high))]
        coined[0] = coined[0].capitalize()
        self.nav.extend(coined)
        return " ".join(coined)

    def blurb(self, count=9):
        """Return a sentence in which invented words alternate with small ones."""
        out = []
        for place in range(count):
            word = self.coin()
            if not place:
                word = word.capitalize()
            self.nav.append(word)
            out.append(word)
            if place < count - 1 and self.rng.random() < 0.6:
                out.append(self.rng.choice(SMALL))
        return " ".join(out) + "."

    def link(self, low=1, high=2, attrs=""):
        self.serial += 1
        return f'<a href="/p/{self.serial}"{attrs}>{self.label(low, high)}</a>'

    def links(self, count, form="ul", low=1, high=2):
        """Return a group of links as a list, with bars between, in blocks or nested."""
        made = [self.link(low, high) for _ in range(count)]
        close = "" if "open_li" in self.flags else "</li>"
        if form == "bars":
            return " | ".join(made)
        if form == "div":
            return "\n".join(f'<div class="item">{one}</div>' for one in made)
        if form == "nested":
            rows = []
            for one in made:
                subs = "".join(f"<li>{self.link()}{close}" for _ in range(2))
                rows.append(f"<li>{one}<ul>{subs}</ul>{close}")
            return "<ul>\n" + "\n".join(rows) + "\n</ul>"
        return "<ul>\n" + "\n".join(f"<li>{one}{close}" for one in made) + "\n</ul>"

    def hashed(self):
        return "css-" + "".join(self.rng.choice("0123456789abcdefghk") for _ in range(6))

    def box(self, kind, inner):
        """Wrap page furniture in an element that fits the page's style."""
        tag = SEMANTIC.get(kind, "div") if self.style != "plain" else "div"
        if kind == "nav" and "nav_open" in self.flags and not self.nav_left_open:
            self.nav_left_open = True
            return f"<div id=nav>\n{inner}\n"
        name = self.rng.choice(NAMES[kind])
        if self.style == "hash" and kind not in ("cookie", "share", "side"):
            name = self.hashed()
        key = "id" if self.style == "plain" and kind in ("nav", "footer", "side") else "class"
        if key == "id" and kind == "nav":
            name = self.rng.choice(["menu", "nav2", "mainmenu", "topnav"])
        return f'<{tag} {key}="{name}">\n{inner}\n</{tag}>'

    def top(self, form="ul", count=6):
        logo = f'<a class="logo" href="/">{self.site}</a>'
        return self.box("header", f"{logo}\n" + self.box("nav", self.links(count, form)))

    def foot(self, columns=2):
        parts = []
        for _ in range(columns):
            parts.append(f'<div class="col"><h4>{self.label()}</h4>{self.links(4)}</div>')
        parts.append(f'<div class="legal">&copy; 2021 {self.link()} {self.link()} '
                     f'{self.blurb(6)}</div>')
        return self.box("footer", "\n".join(parts))

    def cookie(self):
        return self.box("cookie", f"<p>{self.blurb(14)} {self.blurb(8)}</p>\n"
                        f"<button>{self.label()}</button> <button>{self.label()}</button>")

    def share(self):
        made = "".join(f'<a class="btn s{n}" href="#s{n}">{self.label(1, 1)}</a> '
                       for n in range(4))
        return self.box("share", f"<span>{self.label(1, 1)}</span> {made}")

    def crumbs(self):
        return self.box("crumb", " &raquo; ".join(self.link(1, 1) for _ in range(3)))

    def related(self, count=4, blurbs=True):
        rows = []
        for _ in range(count):
            more = f"<p>{self.blurb(8)}</p>" if blurbs else ""
            rows.append(f'<div class="card"><img src="/t.jpg" alt=""><h4>{self.link(2, 4)}</h4>'
                        f"{more}</div>")
        return self.box("related", f"<h3>{self.label()}</h3>\n" + "\n".join(rows))

    def letter(self):
        return self.box("news", f"<h3>{self.label(2, 3)}</h3><p>{self.blurb(10)}</p>"
                        f'<input type="email" name="e"><button>{self.label(1, 1)}</button>')

    def side(self, widgets=3):
        parts = []
        for number in range(widgets):
            inner = self.blurb(12) if number == 1 else self.links(5, "ul", 1, 3)
            parts.append(f'<div class="widget"><h3>{self.label()}</h3>{inner}</div>')
        return self.box("side", "\n".join(parts))

    def pager(self):
        return self.box("pager", f"{self.link(1, 3)} {self.link(1, 3)}")

    def tools(self, count=3):
        return self.box("tools", " ".join(self.link(1, 1) for _ in range(count)))

    # Main text.

    def esc(self, text):
        raw = "raw" in self.flags
        text = text if raw else _html.escape(text, quote=False)
        if "entities" in self.flags:
            for char, name in (("é", "&eacute;"), ("É", "&#201;"), ("ä", "&#xE4;"),
                               ('"', "&quot;"), (" of ", " of&nbsp;"), (", and", ", and&nbsp")):
                text = text.replace(char, name)
        return text

    def plain(self, text):
        """Register text as main text and return it escaped."""
        self.body.extend(words(text))
        return self.esc(text)

    def inline(self, text):
        """As plain(), with now and then a link or emphasis on a few words."""
        self.body.extend(words(text))
        parts = text.split(" ")
        if len(parts) > 9 and self.rng.random() < 0.45:
            first = self.rng.randint(1, len(parts) - 5)
            last = first + self.rng.randint(1, 3)
            left, mid, right = (" ".join(part) for part in
                                (parts[:first], parts[first:last], parts[last:]))
            before, after = self.rng.choice([
                ('<a href="https://example.org/a?b=1&amp;c=2">', "</a>"), ("<em>", "</em>"),
                ("<strong>", "</strong>"), ("<b>", "</b>"), ("<i>", "</i>"),
                ('<span class="hl">', "</span>")])
            if "stray" in self.flags and before == "<b>":
                before, after = "<b><i>", "</b></i>"
            return f"{self.esc(left)} {before}{self.esc(mid)}{after} {self.esc(right)}"
        return self.esc(text)

    def h(self, level, text, attrs=""):
        return f"<h{level}{attrs}>{self.plain(text)}</h{level}>"

    def p(self, text, attrs=""):
        close = "" if "open_p" in self.flags else "</p>"
        if "attrs" in self.flags and self.rng.random() < 0.3:
            attrs += ' data-rule="a > b && b < c"'
        return f"<p{attrs}>{self.inline(text)}{close}"

    def ul(self, items, tag="ul", attrs=""):
        close = "" if "open_li" in self.flags else "</li>"
        rows = "\n".join(f"<li>{self.inline(item)}{close}" for item in items)
        return f"<{tag}{attrs}>\n{rows}\n</{tag}>"

    def pre(self, code, colour=False):
        self.body.extend(words(code))
        if colour:
            out = []
            for token in re.findall(r"\w+|\W+", code):
                safe = _html.escape(token, quote=False)
                some = token.isidentifier() and self.rng.random() < 0.4
                out.append(f'<span class="k">{safe}</span>' if some else safe)
            return '<pre class="highlight"><code>' + "".join(out) + "</code></pre>"
        return "<pre>" + _html.escape(code, quote=False) + "</pre>"

    def table(self, rows, attrs=' class="data"'):
        end_td, end_tr = ("", "") if "open_td" in self.flags else ("</td>", "</tr>")
        out = []
        for number, row in enumerate(rows):
            tag = "th" if number == 0 else "td"
            end = end_td.replace("td", tag)
            out.append("<tr>" + "".join(f"<{tag}>{self.plain(c)}{end}" for c in row) + end_tr)
        return f"<table{attrs}>\n" + "\n".join(out) + "\n</table>"

    def render(self, blocks, mode="p", level=2, mid="", edit=False):
        """Render blocks in order; mid is page furniture put in the middle of them."""
        out = []
        for number, (kind, data) in enumerate(blocks):
            if number and number == len(blocks) // 2:
                out.append(mid)
                out.append(self.junk(inside=True))
            if kind == "h":
                if edit:
                    out.append(f'<h{level}><span class="mw-headline">{self.plain(data)}</span>'
                               f'<span class="mw-editsection">[{self.link(1, 1)}]</span>'
                               f"</h{level}>")
                elif mode == "old":
                    out.append(f'<p><font size="4" color="navy"><b>{self.plain(data)}'
                               "</b></font></p>")
                else:
                    out.append(self.h(level, data))
            elif kind == "p" and mode == "br":
                out.append(self.inline(data) + "<br><br>")
            elif kind == "p" and mode == "div":
                out.append(f"<div>{self.inline(data)}</div>")
            elif kind == "p" and mode == "old":
                close = "" if "open_p" in self.flags else "</font></p>"
                out.append(f'<p><font face="Arial" size="2">{self.inline(data)}{close}')
            elif kind == "p":
                out.append(self.p(data))
            elif kind in ("ul", "ol"):
                out.append(self.ul(data, kind))
            elif kind == "pre":
                out.append(self.pre(data, self.style == "sem"))
            elif kind == "quote":
                out.append(f"<blockquote>{self.p(data)}</blockquote>")
            elif kind == "note":
                out.append(f'<div class="admonition note">{self.p(data)}</div>')
            else:
                out.append(self.table(data))
        return "\n".join(part for part in out if part)

    def main(self, tag, attrs, inner):
        """Wrap the main text; the awkward pages leave it open or name it misleadingly."""
        if "names" in self.flags:
            inner = f'<div class="market-share">\n{inner}\n</div>'
        end = "" if "open_div" in self.flags and tag == "div" else f"</{tag}>"
        return f"<{tag}{attrs}>\n{inner}\n{end}"

    # Whole page.

    def junk(self, inside=False):
        """Return scripts, comments, empty elements and stray tags, as the flags say."""
        flags, rng, out = self.flags, self.rng, []
        if "scripts" in flags:
            out.append(rng.choice([
                '<script>var s = "<!-- slot"; document.write("</div><div id=\'ad\'></div>");'
                "</script>",
                "<script type=\"text/javascript\">\nvar t = '<div class=\"menu\">' + \"</div>\" "
                "+ '<!--';\nif (1 < 2 && 3 > 2) { window.t = t; }\n</script>",
                '<script>w("<p>" + x + "<\\/script>"); /* </div> <!-- */</script>']))
        if "comments" in flags:
            out.append(rng.choice([
                "<!-- start -- of -- block <div class=\"sidebar\"> -->",
                "<!--[if lt IE 9]><div class=\"old\"><![endif]-->",
                "<!------ rule ------>", "<!-- it's > or < -- \"quoted\" </article> -->"]))
        if "attrs" in flags:
            out.append(rng.choice([
                '<div class="slot" data-tpl="<div class=\'nav\'><a href=#>x</a></div>"></div>',
                "<img src=/b.gif title='a > b < c' alt=\"<b>\">",
                '<div data-when="width > 600" hidden onclick="if(a<b){go(\'</div>\')}"></div>']))
        if "stray" in flags:
            cell = "</td>" if self.style != "old" else "</li>"
            out.append(f"</span></font>{cell}</center>" if inside else "</li></ul></article></b>")
        if "stray_div" in flags and inside:
            out.append("</div>")
            flags.discard("stray_div")
        if not out and not inside and rng.random() < 0.3:
            out.append("<script>window.q = window.q || []; q.push(['view', 1]);</script>")
        return "\n".join(out)

    def finish(self, title, parts, body_attrs=""):
        """Join the parts to a document."""
        flags = self.flags
        inner = []
        for part in parts:
            inner.append(part)
            inner.append(self.junk())
        inner = "\n".join(part for part in inner if part)
        if "names" in flags:
            inner = ('<div class="no-sidebar has-menu">\n<div class="layout right-sidebar">\n'
                     f"{inner}\n</div>\n</div>")
            body_attrs = ' class="has-menu no-sidebar share-enabled"'
        if "form" in flags:
            inner = ('<form method="post" action="./page.aspx" id="aspnetForm">\n'
                     '<input type="hidden" name="__VIEWSTATE" value="/wEPDwUKLTU0" />\n'
                     f"{inner}\n</form>")
        head = (f"<title>{_html.escape(title)} - {self.site}</title>\n"
                '<meta name="viewport" content="width=device-width">\n'
                "<style>.menu > li { float: left } /* </p> */</style>")
        if self.style == "sem":
            head += ('\n<script type="application/ld+json">{"@type": "WebPage", '
                     '"url": "https://example.org/"}</script>')
        if "noroot" in flags:
            doc = f"{head}\n{inner}\n"
        else:
            kind = "<!DOCTYPE html>"
            if self.style == "old":
                kind = '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">'
            doc = (f'{kind}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}\n</head>\n'
                   f"<body{body_attrs}>\n{inner}\n</body>\n</html>\n")
        if "upper" in flags:
            doc = upper_tags(doc)
        return doc


def upper_tags(doc):
    """Write the tag names in capitals, outside scripts, styles and comments."""
    parts = re.split(r"(?s)(<script.*?</script>|<style.*?</style>|<!--.*?-->)", doc)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"(</?)([a-z][a-z0-9]*)",
                              lambda m: m.group(1) + m.group(2).upper(), parts[place])
    return "".join(parts)


# ---------------------------------------------------------------------------------------------
# Layouts.  Each builder takes a page and its variant (0 to 4) and returns the document.

def newspaper(p, v):
    t = p.text
    title = t.title("news")
    extras = [["h", "quote", "h"], ["quote", "short"], ["h", "ul", "short", "h"], ["short"],
              ["h", "table", "quote"]][v]
    blocks = t.blocks("news", 9 + v, extras)
    top, crumbs, share = p.top("nested" if v == 0 else "ul", 7), p.crumbs(), p.share()
    stand = t.sentence("news")
    byline = f'<div class="byline">By {t.pick("name")} | <time>{t.pick("month")} 4</time></div>'
    photo = '<figure><img src="/f.jpg" alt="photo"></figure>'
    more = p.related(3, False)
    if v in (0, 2):
        tag, attrs = "article", ' class="story"'
        inner = (f'<header>{p.h(1, title)}{p.p(stand, " class=standfirst")}{byline}{share}'
                 f'</header>\n{photo}\n<div class="story-body">\n'
                 f'{p.render(blocks, mid=p.letter())}\n</div>\n{more}')
    elif v == 1:
        tag, attrs = "div", ' class="article__wrap" id="story"'
        inner = (f'<div class="kicker">{p.link(1, 1)}</div>{p.h(1, title)}'
                 f'<h2 class="deck">{p.plain(stand)}</h2>{byline}{share}{photo}'
                 f'<div class="article__content">{p.render(blocks, level=3, mid=more)}</div>')
    elif v == 3:
        tag, attrs = "main", f' class="{p.hashed()}"'
        inner = (f'<div class="{p.hashed()}">{p.h(1, title)}{p.p(stand)}</div>{byline}{share}'
                 f'<section class="{p.hashed()}">')
        first, rest = blocks[0], blocks[1:]
        p.body.extend(words(first[1]))
        inner += (f'<p><span class="dropcap">{first[1][0]}</span>{p.esc(first[1][1:])}</p>'
                  f'{p.render(rest, mid=more)}</section>')
    else:
        tag, attrs = "div", ' id="content"'
        inner = (f'{p.h(1, title)}<p class="intro">{p.plain(stand)}</p>{byline}{share}{photo}'
                 f'<div class="text">{p.render(blocks)}</div>{more}')
    tags = f'<div class="tags">{p.links(4, "bars", 1, 1)}</div>'
    return p.finish(title, [p.cookie(), top, crumbs, p.main(tag, attrs, inner), tags, p.side(),
                            p.foot(3)])


def blog(p, v):
    t = p.text
    title = t.title("chat")
    blocks = t.blocks("chat", 7 + v, [["h", "ul", "h"], ["short", "quote"], ["pre", "h"],
                                      ["short", "h", "quote"], ["h", "ol", "short", "pre"]][v])
    top = p.top("ul", 5)
    meta = f'<div class="entry-meta">Posted on {t.pick("month")} 12 by {t.pick("name")}</div>'
    if v in (0, 4):
        inner = (f'<h1 class="entry-title">{p.plain(title)}</h1>{meta}'
                 f'<div class="entry-content">\n{p.render(blocks)}\n{p.share()}</div>'
                 f'<div class="entry-utility">{p.links(3, "bars")}</div>')
        main = p.main("div", ' id="post-118" class="post hentry"', inner)
        row = f'<div id="content" class="wrap">{main}\n{p.pager()}\n{p.side(4)}</div>'
    elif v == 1:
        inner = (f'<h3 class="post-title entry-title"><a href="/2011/05/x.html">{p.plain(title)}'
                 f'</a></h3>{meta}<div class="post-body entry-content">'
                 f'{p.render(blocks, "br")}<div style="clear: both;"></div></div>'
                 f'<div class="post-footer">{p.links(4, "bars")}</div>')
        main = p.main("div", ' class="post-outer"', inner)
        row = (f'<h1 class="title">{p.site}</h1><div class="columns"><div class="column-left">'
               f'{p.side(3)}</div><div class="column-center">{main}{p.pager()}</div></div>')
    elif v == 2:
        inner = (f'<header class="post-header">{p.h(1, title)}{meta}</header>'
                 f'<div class="post-content e-content">{p.render(blocks)}</div>')
        row = p.main("article", ' class="post h-entry" itemscope', inner) + p.side(2)
    else:
        hero = f'<header class="{p.hashed()}">{p.h(1, title)}{meta}</header>'
        inner = p.render(blocks, mid=p.letter())
        row = (f'{hero}<div class="{p.hashed()}">{p.main("section", "", inner)}{p.share()}'
               f"{p.side(2)}</div>{p.related()}")
    form = (f'<div id="respond"><h3>{p.label()}</h3><textarea></textarea>'
            f'<button>{p.label()}</button></div>')
    return p.finish(title, [top, row, form, p.foot(1), p.cookie()])


def documentation(p, v):
    t = p.text
    title = t.title("docs")
    blocks = t.blocks("docs", 8 + v, [["pre", "h", "ul", "h", "pre"], ["h", "note", "pre", "h"],
                                      ["h", "pre", "table", "h"], ["h", "ol", "pre"],
                                      ["pre", "h", "ul", "math", "h", "pre"]][v], "docs", 2, 4)
    for place, (kind, data) in enumerate(blocks):
        if kind in ("ul", "ol"):
            blocks[place] = (kind, [t.sentence("docs") for _ in data])
    toc = "".join(f'<li><a href="#s{n}">{p.esc(data)}</a></li>'
                  for n, (kind, data) in enumerate(blocks) if kind == "h")
    toc = f'<ul class="toc-local">{toc}</ul>'
    bar = p.links(6, "nested")
    edit = f'<div class="edit-this-page">{p.link(2, 3)}</div>'
    helpful = f'<div class="feedback"><p>{p.blurb(4)}</p>{p.links(2, "bars", 1, 1)}</div>'
    body = f"{p.h(1, title)}\n{p.render(blocks)}"
    if v == 0:
        parts = [p.box("nav", p.links(4, "bars")),
                 '<div class="document"><div class="documentwrapper"><div class="bodywrapper">'
                 + p.main("div", ' class="body" role="main"', body) + f"{edit}</div></div>"
                 f'<div class="sphinxsidebar" role="navigation">{toc}{bar}</div></div>']
    elif v == 1:
        parts = [p.top(), '<div class="main-wrapper"><aside class="theme-doc-sidebar-container">'
                 f"{bar}</aside><main>{p.crumbs()}"
                 + p.main("article", ' class="theme-doc-markdown markdown"', body)
                 + f"{helpful}{edit}{p.pager()}</main>"
                 f'<div class="table-of-contents">{toc}</div></div>']
    elif v == 2:
        parts = [p.top("bars", 4), f'<div class="md-container"><div class="md-sidebar">{bar}</div>'
                 f'<div class="md-sidebar md-sidebar--secondary">{toc}</div>'
                 f'<div class="md-content">'
                 + p.main("article", ' class="md-content__inner md-typeset"', body)
                 + f"</div></div>{helpful}"]
    elif v == 3:
        parts = [p.top(), f'<div id="side-nav" class="ui-resizable">{bar}</div>',
                 p.main("div", ' id="doc-content" class="contents"',
                        f'<div class="textblock">{body}</div>'), helpful]
    else:
        parts = [f'<div class="topNav">{p.links(6)}</div><div class="subNav">'
                 f'{p.links(4, "bars")}</div>',
                 p.main("div", " class=contentContainer", toc + body),
                 f'<div class="bottomNav">{bar}</div>{helpful}']
    return p.finish(title, parts + [p.foot(2)])


def forum(p, v):
    t = p.text
    title = t.title("forum")
    posts = [t.blocks("chat", t.rng.randint(1, 3), ("quote",) if n % 3 == 1 else
                      ("ul",) if n == 2 else (), low=2, high=4) for n in range(5 + v)]
    users = [t.pick("name").split()[0].lower() + t.pick("num") for _ in posts]
    top = p.top("bars", 6) + p.crumbs()
    page_bar = p.box("pager", f"{p.link(1, 1)} 1 2 3 {p.link(1, 1)}")
    out = []
    if v == 0:
        out.append(f'<h2 class="topic-title">{p.plain(title)}</h2>')
        for user, post in zip(users, posts):
            out.append(f'<div class="post has-profile"><div class="inner"><dl class="postprofile">'
                       f"<dt>{user}</dt><dd>Posts: {t.pick('num')}</dd></dl>"
                       f'<div class="postbody"><ul class="post-buttons"><li>{p.link(1, 1)}</li>'
                       f'<li>{p.link(1, 1)}</li></ul><p class="author">{user}</p>'
                       f'<div class="content">{p.render(post, "br")}</div></div></div></div>')
        main = p.main("div", ' id="page-body" role="main"', "\n".join(out))
    elif v in (1, 3):
        tag = "article" if v == 1 else "li"
        out.append(p.h(1, title))
        for user, post in zip(users, posts):
            name = "cooked" if v == 1 else p.hashed()
            out.append(f'<{tag} class="topic-post"><div class="names">{user}</div>'
                       f'<div class="{name}">{p.render(post)}</div>{p.tools(2)}</{tag}>')
        inner = "\n".join(out)
        if v == 3:
            inner = out[0] + "<ol>" + "\n".join(out[1:]) + "</ol>"
        main = p.main("main", ' id="main-outlet"', inner)
    elif v == 2:
        out.append(f'<table class="tborder" width="100%"><tr><td class="tcat">'
                   f"<h2>{p.plain(title)}</h2></td></tr></table>")
        for user, post in zip(users, posts):
            out.append(f'<table class="tborder" width="100%"><tr><td class="thead">May 7</td>'
                       f'<tr><td class="alt2"><table><tr><td>{user}<td>Member</table>'
                       f'<tr><td class="alt1"><div class="vb_postbit">{p.render(post, "br")}</div>'
                       f'<tr><td class="alt2"><div>{p.links(3, "bars", 1, 1)}</div></table>')
        main = p.main("div", ' class="page"', "\n".join(out))
    else:
        rows = [f'<tr><td colspan="2">{p.h(1, title)}</td></tr>']
        for user, post in zip(users, posts):
            rows.append(f'<tr valign="top"><td width="150"><b>{user}</b><br>Regular</td><td>'
                        f'<div class="postcolor">{p.render(post)}</div>'
                        f'<div class="sig-tools">{p.links(2, "bars", 1, 1)}</div></td></tr>')
        main = p.main("div", " id=ipbwrapper",
                      "<table class=ipbtable>" + "\n".join(rows) + "</table>")
    select = (f'<div class="jumpbox"><select><option>{p.label()}</option>'
              f"<option>{p.label()}</option><option>{p.label()}</option></select></div>")
    return p.finish(title, [top, page_bar, main, select, p.related(3, False), p.foot(1)])


def product(p, v):
    t = p.text
    title = t.title("shop")
    blocks = t.blocks("shop", 4 + v % 3, [["h", "ul"], ["ul"], ["short"], ["h", "ul", "quote"],
                                          ["ul", "h"]][v], "shop")
    spec = t.table()
    spec[0] = ["Property", "Value", "Note"]
    price = f'<div class="price">{t.pick("num")}.00 EUR</div>'
    buy = (f'<div class="buy"><select><option>{p.label(1, 1)}</option>'
           f"<option>{p.label(1, 1)}</option></select>"
           f"<button>{p.label()}</button> <button>{p.label()}</button></div>")
    gallery = ('<div class="gallery"><img src="/1.jpg" alt="front">'
               '<img src="/2.jpg" alt="back"></div>')
    top = p.top("nested", 5)
    if v == 0:
        inner = (f'{gallery}<div class="product-single__meta"><h1 class="product-single__title">'
                 f'{p.plain(title)}</h1>{price}{buy}<div class="product-single__description rte">'
                 f"{p.render(blocks, level=3)}\n{p.table(spec)}</div>{p.share()}</div>")
        main = p.main("main", ' class="main-content"', inner)
    elif v == 1:
        inner = (f'{gallery}<div class="summary entry-summary">{p.h(1, title)}{price}'
                 f'<div class="short">{p.p(t.sentence("shop"))}</div>{buy}</div>'
                 f'<div class="woocommerce-tabs"><ul class="tabs"><li>{p.link(1, 1)}</li>'
                 f'<li>{p.link(1, 1)}</li></ul><div class="panel" id="tab-description">'
                 f'{p.render(blocks)}</div><div class="panel">{p.table(spec)}</div></div>')
        main = p.main("div", ' id="product-7" class="product type-product"', inner)
    elif v == 2:
        inner = (f'<div class="{p.hashed()}">{gallery}</div><div class="{p.hashed()}">'
                 f'{p.h(1, title)}{price}{buy}</div><div class="{p.hashed()}">'
                 f'{p.render(blocks, "div")}{p.table(spec, "")}</div>')
        main = p.main("main", "", inner)
    elif v == 3:
        inner = (f'<h1 itemprop="name">{p.plain(title)}</h1>{gallery}{price}{buy}'
                 f'<div itemprop="description">{p.render(blocks, level=3)}</div>{p.table(spec)}')
        main = p.main("div", ' itemscope itemtype="https://schema.org/Product"', inner)
    else:
        inner = (f'<table class="prod"><tr><td>{gallery}</td><td>{p.h(1, title)}{price}{buy}'
                 f'</td></tr></table><div class="desc">{p.render(blocks, level=3)}</div>'
                 f"{p.table(spec)}")
        main = p.main("div", ' id="ctl00_Main"', inner)
    return p.finish(title, [p.cookie(), top, p.crumbs(), main, p.related(4, v % 2 == 0),
                            p.letter(), p.foot(3)])


DISHES = [
    ("Oat cookies with dried pears",
     ["{num} g rolled oats", "{num} g butter", "2 eggs", "a handful of dried pears",
      "1 teaspoon baking powder", "a pinch of salt"],
     ["Heat the oven to 180 degrees and line two trays with paper.",
      "Melt the butter slowly and let it cool for {min} minutes.",
      "Stir the oats, the salt and the baking powder into the butter.",
      "Beat the eggs and fold them in together with the chopped pears.",
      "Shape small cookies and bake them for {min} minutes until the edges are brown."]),
    ("Leek soup for a cold evening",
     ["3 large leeks", "{num} ml vegetable stock", "2 floury potatoes", "1 bay leaf",
      "a spoon of thick cream", "black pepper"],
     ["Wash the leeks well, because sand hides between the leaves.",
      "Slice them and soften them in oil for {min} minutes without letting them brown.",
      "Add the potatoes, the bay leaf and the stock, then simmer for {min} minutes.",
      "Take out the bay leaf and blend half of the soup.",
      "Season with pepper and finish with cream."]),
    ("Dark rye bread in a tin",
     ["{num} g rye flour", "{num} ml warm water", "150 g sourdough starter", "12 g salt",
      "2 spoons of molasses", "sunflower seeds"],
     ["Mix the starter with half of the flour and leave it overnight.",
      "Add the remaining flour, the salt and the molasses the next morning.",
      "Stir for {min} minutes with a wooden spoon; the dough will be sticky.",
      "Scrape it into a greased tin and scatter the seeds on top.",
      "Bake for an hour, then wait a full day before you cut the loaf."]),
    ("Lentil stew with lemon",
     ["{num} g brown lentils", "1 onion", "3 carrots", "1 lemon", "{num} g spinach",
      "half a teaspoon of cumin"],
     ["Rinse the lentils and pick out any stones.",
      "Fry the onion and the cumin until the kitchen smells warm.",
      "Add the carrots and the lentils, cover with water and cook for {min} minutes.",
      "Fold in the spinach and let it wilt.",
      "Squeeze the lemon over the stew just before serving."]),
    ("Plum cake from the tray",
     ["{num} g plain flour", "20 g fresh yeast", "{num} ml milk", "80 g sugar",
      "1 kg ripe plums", "cinnamon"],
     ["Dissolve the yeast in warm milk with a spoon of sugar.",
      "Knead it with the flour for {min} minutes and leave the dough to rise.",
      "Halve the plums and remove the stones.",
      "Roll out the dough, set the plums on it in close rows and dust them with cinnamon.",
      "Bake for {min} minutes and sprinkle with sugar while the cake is warm."]),
]
COOK = ["My grandmother in {town} made this every {day}, and she never weighed anything.",
        "I first ate it {time}, standing in a kitchen near {pl}.",
        "It keeps for several days and tastes better on the second.",
        "You can halve the amounts, but I have never regretted making too much.",
        "{name} sent me this version in {month}, and I have changed only one thing.",
        "Children can help with most steps, although the oven is a job for adults.",
        "If you cannot find one of the ingredients, leave it out and carry on.",
        "Serve it warm with a bowl of yoghurt and share it with the neighbours.",
        "The whole thing takes less than {num} minutes of real work.",
        "Do not worry about the shape; nobody in {town} ever did."]


def recipe(p, v):
    t = p.text
    name, needs, steps = DISHES[v]
    amount = [t.rng.randrange(150, 500, 25) for _ in range(8)]
    needs = [need.format(num=amount.pop()) for need in needs]
    steps = [step.format(min=t.rng.randint(5, 45)) for step in steps]
    lines = [t.fill(line) for line in t.rng.sample(COOK, len(COOK))]
    intro = [" ".join(lines[n:n + 2]) for n in (0, 2, 4, 6)]
    notes = lines[8:]
    jump = f'<div class="jump-btn">{p.link(2, 2)} {p.link(1, 1)}</div>'
    top, rail = p.top("ul", 6), p.side(3)

    def paragraphs(texts):
        return "\n".join(p.p(one) for one in texts)

    if v == 0:
        inner = (f'<h1 class="entry-title">{p.plain(name)}</h1>{jump}<div class="entry-content">'
                 f'{paragraphs(intro)}<div class="wprm-recipe-container">'
                 f'<div class="wprm-ingredients">{p.h(3, "Ingredients")}{p.ul(needs)}</div>'
                 f'<div class="wprm-instructions">{p.h(3, "Instructions")}{p.ul(steps, "ol")}'
                 f'</div><div class="wprm-notes">{p.h(3, "Notes")}{paragraphs(notes)}</div></div>'
                 f"{p.share()}</div>")
        main = p.main("article", ' class="post"', inner)
    elif v == 1:
        inner = (f"{p.h(1, name)}{paragraphs(intro)}{jump}<section>{p.h(2, 'What you need')}"
                 f"{p.ul(needs)}</section><section>{p.h(2, 'Method')}{p.ul(steps, 'ol')}"
                 f"</section><section>{p.h(2, 'Tips')}{paragraphs(notes)}</section>")
        main = p.main("main", "", inner)
    elif v == 2:
        inner = (f'{p.h(1, name)}{jump}<div class="lead">{paragraphs(intro)}</div>'
                 f'<div class="cols"><div class="col-needs">{p.h(2, "Shopping list")}'
                 f'{p.ul(needs)}</div><div class="col-steps">{p.h(2, "Step by step")}'
                 + "".join(f'<div class="step"><p>{p.inline(one)}</p></div>' for one in steps)
                 + f"</div></div>{paragraphs(notes)}")
        main = p.main("div", ' class="recipe-page"', inner)
    elif v == 3:
        inner = (f'<h2 itemprop="name">{p.plain(name)}</h2><div itemprop="description">'
                 f'{paragraphs(intro)}</div><ul>'
                 + "".join(f'<li itemprop="recipeIngredient">{p.plain(one)}</li>' for one in needs)
                 + '</ul><div itemprop="recipeInstructions">' + paragraphs(steps + notes)
                 + "</div>")
        main = p.main("div", ' itemscope itemtype="https://schema.org/Recipe"', inner)
    else:
        inner = (f'{p.h(1, name)}{jump}<div class="intro">{paragraphs(intro)}</div>'
                 f'<div class="box"><div class="needs">{p.h(3, "Ingredients")}{p.ul(needs)}'
                 f'{p.junk(True)}{p.h(3, "Preparation")}{p.ul(steps, "ol")}</div>'
                 f"{paragraphs(notes)}")
        main = p.main("div", " id=recipe", inner)
    return p.finish(name, [top, p.crumbs(), main, rail, p.related(4, False), p.letter(),
                           p.foot(2), p.cookie()])


def wiki(p, v):
    t = p.text
    title = t.title("wiki")
    lead = t.blocks("news", 2)
    rest = t.blocks("news", 8 + v, [["h", "h", "h"], ["h", "ul", "h"], ["h", "quote", "h", "h"],
                                    ["h", "h", "ul", "h", "table"], ["h", "ul", "h", "table"]][v],
                    "wiki")
    rows = [(t.fill("{th}").capitalize(), t.fill("{town}")) for _ in range(4)]
    if "open_td" in p.flags:
        box = "".join(f"<tr><th>{a}<td>{b}" for a, b in rows[:3])
        box += f"<tr><td colspan=2><table><tr><td>{rows[3][0]}<td>{rows[3][1]}</table>"
    else:
        box = "".join(f"<tr><th>{a}</th><td>{b}</td></tr>" for a, b in rows)
    box = f'<table class="infobox vcard"><caption>{t.pick("town")}</caption>{box}</table>'
    toc = "".join(f'<li><a href="#c{n}">{p.esc(data)}</a></li>'
                  for n, (kind, data) in enumerate(rest) if kind == "h")
    toc = f'<div id="toc" class="toc"><ul>{toc}</ul></div>'
    cats = f'<div id="catlinks" class="catlinks">{p.links(4, "bars")}</div>'
    navbox = (f'<table class="navbox"><tr><th>{p.label()}</th></tr><tr><td>'
              f'{p.links(8, "bars")}</td></tr></table>')
    tabs = f'<div class="vectorTabs">{p.links(5)}</div>'
    panel = (f'<div id="mw-panel"><div class="portal"><h3>{p.label()}</h3>{p.links(6)}</div>'
             f'<div class="portal"><h3>{p.label()}</h3>{p.links(5)}</div></div>')
    if v in (0, 3, 4):
        inner = (f'<h1 id="firstHeading" class="firstHeading">{p.plain(title)}</h1>'
                 f'<div id="bodyContent"><div id="mw-content-text"><div class="mw-parser-output">'
                 f"\n{box}\n{p.render(lead)}\n{toc}\n{p.render(rest, edit=True)}\n"
                 f"{navbox if v == 3 else ''}</div></div>{cats}</div>")
        main = p.main("div", ' id="content" class="mw-body" role="main"', inner)
        parts = [f'<div id="mw-head">{p.links(3, "bars")}</div>', main,
                 f'<div id="mw-navigation">{tabs}{panel}</div>', p.foot(1)]
    elif v == 1:
        body = p.main("div", ' class="page group"',
                      f"{p.h(1, title)}{toc}{p.render(lead)}{box}{p.render(rest, edit=False)}")
        parts = [p.top("bars", 4), f'<div id="dokuwiki__aside">{panel}</div>'
                 f'<div id="dokuwiki__content">{body}</div>', tabs, p.foot(1)]
    else:
        head = f'<header class="page-header"><h1>{p.plain(title)}</h1></header>'
        aside = "".join(f'<div class="pi-item"><h3>{a}</h3><div>{b}</div></div>' for a, b in rows)
        body = (f'<aside class="portable-infobox">{aside}</aside>{p.render(lead)}'
                f"{p.render(rest)}")
        main = p.main("main", ' class="page__main"', f"{head}{body}")
        parts = [p.top("nested", 4), main, p.side(3), cats, p.related(3), p.foot(2), p.cookie()]
    return p.finish(title, parts)


def landing(p, v):
    t = p.text
    title = t.title("sales")
    sub = t.para("sales", 2, 2)
    feats = [(t.head("sales"), t.para("sales", 2, 3)) for _ in range(5)]
    said = [(t.sentence("sales"), t.pick("name")) for _ in range(2)]
    asked = [(t.title("qa"), t.para("sales", 2, 2)) for _ in range(3)]
    call = f'<a class="btn btn-primary" href="/go">{p.label()}</a>'
    call2 = f'<a class="btn" href="/go2">{p.label(1, 3)}</a>'
    top = p.top("ul", 5)
    logos = f'<div class="logo-strip">{p.links(5, "bars", 1, 1)}</div>'
    names = [("hero", "feature", "grid"), ("jumbotron", "col-md-4", "row"),
             ("bg-white py-24 sm:py-32", "rounded-2xl p-8", "grid grid-cols-3 gap-8"),
             (p.hashed(), p.hashed(), p.hashed()), ("hero", "feature", "features")][v]
    tag = "div" if p.style == "plain" else "section"
    hero = f'<{tag} class="{names[0]}">{p.h(1, title)}{p.p(sub)}{call}</{tag}>'
    cards = "\n".join(f'<div class="{names[1]}"><h3>{p.plain(a)}</h3>{p.p(b)}</div>'
                      for a, b in feats)
    cards = f'<{tag} class="{names[2]}">{cards}</{tag}>'
    quotes = "".join(f"<blockquote>{p.p(a)}</blockquote>" for a, _ in said)
    quotes = f'<{tag} class="testimonials">{quotes}</{tag}>'
    if v in (0, 2):
        faq = "".join(f"<details><summary>{p.plain(a)}</summary>{p.p(b)}</details>"
                      for a, b in asked)
    else:
        faq = "".join(f"<h4>{p.plain(a)}</h4>{p.p(b)}" for a, b in asked)
    faq = f'<{tag} class="faq">{faq}</{tag}><div class="cta">{call2}</div>'
    inner = f"{hero}\n{logos}\n{cards}\n{quotes}\n{faq}"
    main = p.main("main" if v in (0, 2) else "div", ' id="page"', inner)
    return p.finish(title, [top, main, p.letter(), p.foot(4), p.cookie()])


def press(p, v):
    t = p.text
    title = t.title("press")
    town = t.pick("town")
    blocks = t.blocks("press", 5 + v, [["quote"], ["ul", "quote"], ["table"], ["short"],
                                       ["ul", "math", "quote"]][v])
    blocks[0] = ("p", f"{town}, {t.pick('month')} {t.rng.randint(1, 28)}. {blocks[0][1]}")
    about = t.para("press", 2, 2)
    sub = t.sentence("press")
    top = p.top("ul", 5)
    media = f'<div class="downloads"><h4>{p.label()}</h4>{p.links(3, "ul", 1, 3)}</div>'
    if v == 0:
        inner = (f"<header>{p.h(1, title)}{p.p(sub)}</header>{p.share()}{p.render(blocks)}"
                 f"<p>###</p>{p.h(2, 'About the company')}{p.p(about)}")
        main = p.main("article", ' class="press-release"', inner)
    elif v == 1:
        inner = (f'<h1 class="page-header">{p.plain(title)}</h1><div class="node node--type-pr">'
                 f'<div class="field field--name-subtitle"><h3>{p.plain(sub)}</h3></div>'
                 f'<div class="field field--name-body field__item">{p.render(blocks)}</div>'
                 f'<div class="field field--name-about">{p.h(3, "About")}{p.p(about)}</div></div>')
        main = p.main("div", ' class="region region-content"', inner)
    elif v == 2:
        inner = (f'<div class="title"><h2>{p.plain(title)}</h2></div><b>{p.plain(sub)}</b><br><br>'
                 f'{p.render(blocks, "br")}<b>{p.plain("About us")}</b><br>{p.plain(about)}<br>')
        main = p.main("div", ' id="release"', inner)
    elif v == 3:
        inner = (f'<div class="{p.hashed()}">{p.h(1, title)}</div><div class="{p.hashed()}">'
                 f'{p.p(sub)}{p.render(blocks, "div")}{p.p(about)}</div>')
        main = p.main("main", "", inner)
    else:
        inner = (f"{p.h(1, title)}<h3>{p.plain(sub)}</h3>{p.render(blocks)}"
                 f"{p.h(3, 'About the company')}{p.p(about)}")
        main = p.main("div", " class=newsitem", inner)
    return p.finish(title, [p.cookie(), top, p.crumbs(), main, media, p.related(3), p.foot(3)])


def questions(p, v):
    t = p.text
    kind = ("qadocs", "docs") if v % 2 == 0 else ("qa", "chat")
    title = t.title(kind[0])
    first = t.blocks(kind[1], 2, ("pre",) if v % 2 == 0 else ("ul",))
    answers = [t.blocks(kind[1], 2 + n % 2, ("pre", "short") if v % 2 == 0 and n == 0 else
                        ("quote",) if n == 1 else ()) for n in range(3)]
    top = p.top("ul", 5)
    out = []
    who = [t.pick("name") for _ in range(4)]
    if v == 0:
        head = f'<div id="question-header"><h1>{p.plain(title)}</h1>{p.link()}</div>'
        for n, blocks in enumerate([first] + answers):
            name = "answer" if n else "question"
            out.append(f'<div class="{name}"><div class="post-layout"><div class="votecell">'
                       f'{t.pick("num")}</div><div class="postcell"><div class="s-prose '
                       f'js-post-body">{p.render(blocks)}</div><div class="post-menu">'
                       f'{p.links(3, "bars", 1, 1)}</div><div class="user">{who[n]}</div>'
                       "</div></div></div>")
        main = p.main("div", ' id="mainbar" role="main"', head + "\n".join(out))
    elif v in (1, 3):
        out.append(f'<h1 itemprop="name">{p.plain(title)}</h1>')
        for n, blocks in enumerate([first] + answers):
            mark = f'class="{p.hashed()}"' if v == 3 else 'itemprop="text"'
            out.append(f'<section><div {mark}>{p.render(blocks)}</div>'
                       f"<footer>{who[n]} {p.links(2, 'bars', 1, 1)}</footer></section>")
        main = p.main("main", ' itemscope itemtype="https://schema.org/QAPage"', "\n".join(out))
    elif v == 2:
        out.append(p.h(2, title))
        for n, blocks in enumerate([first] + answers):
            out.append(f'<div class="{"a" if n else "q"}-item"><div class="by">{who[n]}</div>'
                       f'<div class="txt">{p.render(blocks, "div")}</div>{p.tools(2)}</div>')
        main = p.main("div", ' class="qa-main"', "\n".join(out))
    else:
        out.append(p.h(1, title))
        for n, blocks in enumerate([first] + answers):
            out.append(f'<div class="comment-body" id=c{n}><div class=who>{who[n]}</div>'
                       f"{p.render(blocks)}\n<div class=act>{p.links(2, 'bars', 1, 1)}</div>"
                       + ("" if n == 1 else "</div>"))
        main = p.main("div", ' class="thread"', "\n".join(out))
    return p.finish(title, [top, p.crumbs(), main, p.side(2), p.related(4, False), p.foot(3),
                            p.cookie()])


def event(p, v):
    t = p.text
    title = t.title("event")
    blocks = t.blocks("event", 4 + v, [["h", "ul"], ["h", "h"], ["quote"], ["h", "short"],
                                       ["h", "ul", "h"]][v])
    facts = [("When", t.fill("{day}, {month} {num}, at seven in the evening")),
             ("Where", t.fill("{pl}, {town}")), ("Cost", t.fill("{num} euro at the door"))]
    plan = [["Hour", "Part", "Speaker"]]
    for hour in range(3):
        plan.append([f"{17 + hour}:30", t.fill("how to {vi} the {th}"), t.pick("name")])
    book = (f'<div class="register"><a class="button" href="/r">{p.label()}</a> '
            f"{p.link(2, 2)} {p.link(2, 2)}</div>")
    top = p.top("ul", 5)
    if v == 0:
        head = f'<header class="event-header">{p.h(1, title)}</header>'
        dl = "".join(f"<dt>{p.plain(a)}</dt><dd>{p.plain(b)}</dd>" for a, b in facts)
        inner = f"{head}<dl>{dl}</dl>{book}{p.render(blocks)}{p.h(2, 'Programme')}{p.table(plan)}"
        main = p.main("article", ' class="event"', inner)
    elif v == 1:
        head = f'<div class="event-hero">{p.h(1, title)}</div>'
        inner = f'{head}<div class="event-details__main">{p.render(blocks)}'
        inner += "".join(f'<div class="fact"><strong>{p.plain(a)}</strong> {p.plain(b)}</div>'
                         for a, b in facts) + f"</div>{book}"
        main = p.main("div", ' class="event-listing"', inner)
    elif v == 2:
        inner = (f'<div class="{p.hashed()}">{p.h(1, title)}</div>{p.render(blocks)}'
                 f"{p.h(2, 'Schedule')}{p.table(plan)}{book}")
        main = p.main("main", "", inner)
    elif v == 3:
        inner = (f'<h1 class="tribe-events-single-event-title">{p.plain(title)}</h1>'
                 f'<div class="tribe-events-content">{p.render(blocks)}</div>{book}'
                 f'<div class="tribe-events-meta-group">'
                 + p.ul([f"{a}: {b}" for a, b in facts]) + "</div>")
        main = p.main("div", ' id="tribe-events-content"', inner)
    else:
        inner = (f'<center>{p.h(1, title)}</center><div class="info">'
                 + p.ul([f"{a}: {b}" for a, b in facts])
                 + f"</div><div>{p.render(blocks)}{p.table(plan)}</div>{book}")
        main = p.main("div", ' class="vevent"', inner)
    return p.finish(title, [top, main, p.share(), p.related(3), p.letter(), p.foot(2),
                            p.cookie()])


def old_tables(p, v):
    t = p.text
    title = t.title("news")
    blocks = t.blocks("news", 6 + v, [["h", "ul"], ["short", "h"], ["h", "ul", "quote"],
                                      ["h", "table"], ["ul", "h", "math"]][v])
    td, tr = ("", "") if "open_td" in p.flags else ("</td>", "</tr>")
    spacer = '<img src="spacer.gif" width="1" height="8" alt="">'
    rows = "\n".join(f'<tr><td bgcolor="#ccccff">{p.link()}{td}{tr}' for _ in range(8))
    menu = (f'<table border="0" cellpadding="2">\n<tr><td><b>{p.label()}</b>{td}{tr}\n{rows}\n'
            "</table>")
    bar = p.links(6, "bars", 1, 1)
    bar = (f'<table width="100%" bgcolor="#003366"><tr><td><img src="logo.gif" alt="logo">{td}'
           f'<td align="right"><font color="white">{bar}</font>{td}{tr}</table>')
    foot = (f'<hr><center><font size="1">{p.links(4, "bars", 1, 1)}<br>{p.blurb(7)}</font>'
            "</center>")
    if v == 0:
        text = f"<h1>{p.plain(title)}</h1>\n{p.render(blocks)}"
    elif v in (1, 4):
        text = (f'<font size="5"><b>{p.plain(title)}</b></font>{spacer}\n'
                f'{p.render(blocks, "old")}')
    elif v == 2:
        text = f"<h2>{p.plain(title)}</h2><hr>\n{p.render(blocks)}"
    else:
        text = f'<center><h2>{p.plain(title)}</h2></center>\n{p.render(blocks, "br", 3)}'
    if v in (1, 4):
        text = (f'<table width="95%" cellspacing="0"><tr><td bgcolor="black"><table width="100%">'
                f'<tr><td bgcolor="white">{text}{td}{tr}</table>{td}{tr}</table>')
    left = f'<td width="140" valign="top">{menu}{td}'
    middle = f'<td valign="top">{text}{td}'
    right = ""
    if v in (3, 4):
        ads = "\n".join(f"<p><b>{p.link(1, 3)}</b><br>{p.blurb(7)}</p>" for _ in range(3))
        right = f'<td width="150" valign="top" bgcolor="#eeeeee">{ads}{td}'
    cells = middle + left if v == 1 else left + middle + right
    grid = f'<table width="760" border="0">\n<tr>{cells}{tr}\n</table>'
    if "nav_open" in p.flags:
        bar = f"<div id=nav>{bar}"
    return p.finish(title, [bar, grid, foot], ' bgcolor="#ffffff" link="blue"')


LAYOUTS = [newspaper, blog, documentation, forum, product, recipe, wiki, landing, press,
           questions, event, old_tables]

AWKWARD = {
    (0, 2): "open_p scripts names",
    (0, 4): "nav_open attrs comments",
    (1, 4): "open_div stray names",
    (2, 4): "noroot open_p open_li comments",
    (3, 2): "upper open_td comments",
    (3, 4): "form open_div scripts",
    (4, 4): "form attrs names",
    (5, 4): "open_li open_p stray_div comments",
    (6, 4): "open_td open_li attrs",
    (7, 4): "scripts names nav_open",
    (8, 4): "noroot stray raw entities",
    (9, 4): "open_div attrs scripts open_p",
    (10, 4): "comments form stray_div upper",
    (11, 2): "upper open_td open_p open_li noroot",
    (11, 4): "open_td nav_open stray scripts raw",
}


def style_of(layout, variant):
    """Return how page furniture is marked: by elements, by class names or by hashed names."""
    if LAYOUTS[layout] is old_tables:
        return "old"
    if variant in (1, 4) or (layout, variant) in ((3, 2), (8, 2), (9, 2)):
        return "plain"
    if (layout, variant) in ((0, 3), (1, 3), (3, 3), (4, 2), (7, 3), (8, 3), (9, 3), (10, 2)):
        return "hash"
    return "sem"


def pages(seed=0):
    """Return sixty tuples (html, body_words, navigation_words)."""
    out = []
    for layout, build in enumerate(LAYOUTS):
        for variant in range(5):
            rng = random.Random(f"{seed}/{layout}/{variant}")
            text = Text(rng, layout * 5 + variant + layout // 2)
            flags = AWKWARD.get((layout, variant), "").split()
            page = Page(rng, text, style_of(layout, variant), flags)
            html = build(page, variant)
            present = set(words(html))
            out.append((html, page.body, [word for word in page.nav if word in present]))
    return out
