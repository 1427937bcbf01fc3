"""Held-out pages with known truth for the web-data filters: invented, seeded, and from the standard library alone.

They are written without a look at any filter. People and domains are made up, telephone numbers come from the ranges
kept for fiction, other numbers from generators. Unsafe pages are in planted_unsafe.py.
"""
import ipaddress
import random
import re

TEXT = """topic:: lighthouse/lamp/keepers/coast/guide ships past the rocks|bakery/oven/bakers/valley/feed the early
shift|library/catalogue/readers/old town/find a book in minutes|beehive/queen/beekeepers/orchard/store honey for
winter|compiler/parser/programmers/laboratory/catch mistakes early|canal/lock/boatmen/lowlands/lift barges over a
hill|database/index/engineers/data centre/answer a query quickly
adj:: small|patient|careful|costly|simple|modern|old|quiet|rough|useful|strange when:: tonight|tomorrow|on
Friday|next week|this winter|before dawn|in spring|after the match|by noon|at weekends place:: the station|the
market|the school|the harbour|the office|our street|the town hall|the mall|the clinic who:: that traitor|the judge|my
neighbour|her boss|the mayor|the guard|your ex|every cop
name:: Marla Quint|Tobin Hale|Ines Varro|Piet Oskam|Dara Finch|Leo Brandt|Suri Malik|Ona Petric|Ruth Calloway group::
foreigners|immigrants|refugees|people of that religion|gays|those tribes n:: 1|2|3|4|5|6|7|8|9 few::
two|three|four|five|six|twelve
prose:: The {b} is the heart of a {a}, and most {c} look after it first.|In the {d}, {c} learned to {e} long before
anyone wrote the method down.|It takes {few} years of practice to work with a {a} well.|When the {b} fails, the whole
{a} stops, so a spare is kept at hand.|A {adj} design is usually better than a clever one, because it can be
mended.|The cost of a new {a} rose in 19{n}#, which led people in the {d} to share one.| Although the idea is {adj},
it explains why the {a} still helps us to {e}.|Visitors often ask {name} how the {b} was made.|There are {few} kinds
of {a}, and they differ mainly in the {b}.|For this reason the {b} should be checked {when} and again a month
later.|A report by {name} compared {few} sites in the {d} and found little difference.|Because the {b} wears slowly,
{c} write its age in a book.|If you want to {e}, begin with the {b} and change one thing at a time.|Weather matters
too: a cold night can move the {b} by a hair.|Some of them disagree, and their reasons are {adj}.|Where the ground is
wet, {c} prefer a {adj} frame.|Early {c} had no {adj} instruments and relied on habit.|This does not mean that every
{a} is alike.|What remains unclear is how the {b} behaved before it was measured.|The answer depends on who is asked
and what they hope to gain.
context:: {label} {x}|{label} {x}, {when}.|¶{name}¶{label}: {x}¶|The {adj} form gives {x} for {name}.|{name} ({x})
will be at {place} {when}.|record = {"name": "{name}", "key": "{x}"}|It was {x}, said {name}.|<b>{name}</b> {label}
{x} email:: Write to|E-mail|git config user.email|Contact, phone:: Call|Tel.|My mobile is|Text us on|Fax and phone:
card:: Card number|He paid with|Charge|Visa or other card: ip:: Login from|Failed password for root from|Ban|ssh -p
22 id:: National identity number|Applicant|Insurance no.|The passport desk noted
safe:: The visit moved from 20##-0{n}-1# to 1#.0{n}.20##.|[20##-0{n}-2#T1#:4#:0#.###Z] job {n}### done in {n}.#
s|Please install version {version} {when}.|We shipped v{version} and withdrew v{version} {when}.|The reprint is ISBN
{isbn}, {n}## pages.|Order number {bad} left {place} {when}.|The router at {private} answers, but {private} does
not.|$ ping -c 4 {private}|The server listens on 127.0.0.1:80## and on ::1, netmask 255.255.255.0.|Since 2**{n}# +
### < {n}#######, the sum 3 + {n}.## * 10**{n} is safe.|It costs ${n},###.## or €{n}##.## (section
{n}.{n}.1.{n}).|commit {h}{h}{h}{h}{h} ¶Author: the {adj} team|The checksum is {h}{h}{h}{h}, the id
{h}-^^^^-4^^^-a^^^-{h}^^^^.|eth0 has the hardware address 0{n}:^^:4{n}:^^:3a:b^.|Laps took 01:0{n}:4#.## and
00:1{n}:0{n}:1#.|¶@app.route("/orders/<int:key>")¶def show(key): return
orders[key]¶|¶@timed¶@functools.lru_cache(maxsize={n}28)¶def area(self): ...¶|In NumPy a @ b multiplies matrices, so
y = W @ x + c.|Follow @quiet_heron{n} and @the.{adj}.baker for more.|The counter reached {n}######### before it
wrapped.|From 1990-2005 the club sold {n}##-{n}## seats.|The {adj} seed was {bad}.|RFC {n}### and bug {n}####
describe it.|The hut lies at 4#.####{n}, -1{n}.####{n}.|pip install fastcsv=={n}.1#.{n} && npm i
pad@1.{n}.0|background: url(logo@2x.png)| std::map<int, beef::cafe> m = face::b0::add(a::b);|Screw set 000-{n}#-####
replaces set 666-{n}#-####.|Locker tag {dni} hangs at {place}.|The leaflet prints the specimen QQ 12 34 56 C.|Unix
time 17########, or 17########### in milliseconds.|SNMP tree 1.3.6.1.4.1.{n}##.{n}|Pages 415-555 cover 1{n}##-0{n}#.
version:: 10.4.3.{n}|{n}.{n}.{n}.{n}|1.2.3.4|{n}.1{n}.{n}|{n}.0.{n}###.{n}# h:: ^^^^^^^^ private::
10.{n}#.{n}.{n}|192.168.{n}.2{n}|172.16.{n}.{n}|169.254.{n}.{n}#|192.0.2.{n}|198.51.100.{n}#|fe80::{n}^^:^^ff|
2001:db8::{n}^|fd{n}^::{n} isbn:: 978-0-306-40615-7|9783161484100|0-306-40615-2 dni:: 12345678A|87654321B|00000001T
phone_number:: ({us}) 555-01##|{us}.555.01##|{us}-555-01##|{us} 555 01##|+1 {us} 555 01##|+1-{us}-555-01##|+1 ({us})
555-01##|+1{us}55501##|+44 20 7946 0###|+44 (0)20 7946 0###|020 7946 0###|+44 7700 900###|+49 (0)30 23125 ###|+49 30
23125###|+33 1 99 00 ## ##|+46 8 465 004 ##|+353 20 911 ####|+61 2 5550 #### us:: 212|415|312|617|206
email_address:: {f}.{l}@{site}|{f}{l}#@{site}|{f}_{l}@{site}|{f}+{tag}@{site}|{l}{n}#@{site}|{f}-{l}@{sub}.{site}|
{f}.{l} [at] {host} [dot] {tld}|{f} (at) {host} (dot) {tld} f:: marla|Tobin|ines|piet|dara|SURI|ona l::
quint|hale|varro|oskam|finch|Petric tag:: news|lists|shop{n} sub:: mail|cs|staff|post.uni site:: {host}.{tld} host::
brindlewick|harnock-field|quillgate{n}|tarrowsoft|oxlipworks tld:: com|org|net|co.uk|de|io|info|edu nino:: {nn} ## ##
## {nl}|{nn}######{nl} nn:: AB|CE|JK|LM|SR|WM|YZ nl:: A|B|C|D
menu:: Home|About us|Contact|Log in|Archive|Shop|Help|News|Sport|Next|Privacy|Terms|Careers|Most read|Share lorem::
lorem|ipsum|dolor|sit|amet|consectetur|adipiscing|elit|sed|do|eiusmod|tempor|incididunt|ut|labore|et
keyword:: cheap flights|best price|buy online|casino bonus|free download|hotel deals|weight loss|replica
watches|loans ad:: BUY NOW!!! BEST {adj} DEAL AT {place}!!!|CALL {when} !!! SAVE {n}0%|CLICK HERE $$$ {few}
WINNERS!!!|FREE * FREE log:: 20##-0{n}-1# 1#:2#:3# ERROR [worker-{n}] 0x^^^^^^^^ retry={n}|127.0.0.1 - - "GET
/{n}##.png" 200 {n}### rows:: {n}#.## {n}### 0.### {n}# -{n}.#|{n}; {n}#; {n}##; {n}###; 0.0#
body:: <h1>{head}</h1><div class="date">12 May 2014, {name}</div>{p}{p}<h2>{head}</h2>{p}<blockquote>{p}
</blockquote>{ul}{p}|<h2>{head}</h2>{p}<img src="a.jpg" alt="">{p}{p}{s}<br><br>{s}{p}|<h1>{head}</h1>
{p}<dl><dt><code>{w}</code></dt><dd>{s}</dd><dt>{w}</dt><dd>{s}</dd></dl>{pre}
<h2>{head}</h2>{p}{pre}{p}|<h1>{head}</h1>{post}
{post}{post}{post}|<h1>{head}</h1>{p}<h3>Ingredients</h3>{ul}<h3>Method</h3><ol><li>{s}</li><li>{s}</li><li>{s}
{s}</li></ol> <p>{s}</p>
p:: <p>{s}</p>|<p>{s} {t}</p>|<p>{t} {t}</p>|<p>{t} {t} {t}</p> t:: {s} {s} head:: The {adj} {w} {w}|How {name} saw
{w}|{w} and a {adj} {w} ul:: <ul><li>{s}</li><li>{w}</li><li>two cups of {w}</li></ul> pre:: <pre><code>for i in
range(3):¶ {w} = {w}(i) &lt; 2¶ print({w})</code></pre> post:: <div class="post"><div
class="u"><b>{name}</b></div><div>{p}{p}</div><div class="tools">{bar}</div></div> links::
<ul>{item}{item}{item}</ul>|<div>{link}</div><div>{link}</div>|{bar}
bar:: {link} / {link} / {link}|{link} &middot; {link} &middot; {link} &middot; {link} item:: <li>{link}</li> link::
<a href="/go/{n}">{menu} {v}</a>|<a href="{n}.html">{v}</a> cookie:: <div class="cookie-banner">We use cookies to
improve {v}. <button>Accept {v}</button> {link}</div>|| foot:: <p>&copy; 2014 {v}. All rights reserved.
{bar}</p>|{bar}<br>Powered by {v}
layout:: {cookie}<header><nav>{links}</nav></header><main><article>{body}</article><aside><h3>Most read</h3>{links}
</aside></main><footer>{foot}</footer>|<div id="top"><div class="navbar">{links}</div></div><div
class="breadcrumb">{link} &gt; {link}</div><div id="content">{body}<div class="share-buttons">{bar}</div></div><div
class="sidebar">{links}</div><div id="footer">{foot}</div>{cookie}|<table><tr><td colspan="2">{bar}<tr><td
width="160">{links}{links}</td><td>{body}</td></tr></table>{foot}|<div class="c1">{links}</div><div class="c2"><div
class="c3">{body}</div><div class="c4">{links}</div></div><div class="c5">{foot}</div> page:: <!DOCTYPE
html><html><head><title>A page</title><style>p {margin: 0}</style><script>var menu = '{v}';</script>
</head><body>{layout}</body></html>|{layout}"""
TEXT = re.split(r"(\w+)::(?=\s)", " ".join(TEXT.split()))
TEXT = {name: [s.strip() for s in body.split("|")]  # 'a:: x|y b:: z' -> {'a': ['x', 'y'], 'b': ['z']}
        for name, body in zip(TEXT[1::2], TEXT[2::2])}
ROBOTS = """D: /a => -/a -/a/b -/ab +/b +/A +/ +/robots.txt ;; D: / => -/ -/x?y=1 +/robots.txt ;;
USER-AGENT: aPPLEbot|DISALLOW: /a|aLLow: /a/b => -/a/c +/a/b ;; U: *|D: / => -/a +/robots.txt ;;
U: *|D: /a||U: Applebot|D: /b => +/a -/b ;; D: /b||U: *|D: /a => +/a -/b ;; U: *|D: /|U: Applebot => +/a ;;
A: /a||U: Other|D: /a||U: Applebot|D: /b|A: /b/c => +/a -/b +/b/c ;;
U: *|D: /a||U: Other|D: /||U: *|D: /b => -/a -/b +/c ;; U: Other|U: Applebot|U: Third|D: /a => -/a +/b ;;
U: Other||U: Applebot|||D: /a||D: /b => -/a -/b ;;
U: Other|Sitemap: https://oxlipworks.com/s.xml|U: Applebot|D: /a => -/a +/b ;;
U: Applebot|Crawl-delay: 5|Noindex: /c|D: /a => -/a +/c ;; U: Applebot-Extended|D: / => +/a ;; U: Apple|D: / => +/a ;;
U: MyApplebot|D: /||U: *|D: /b => +/a -/b ;; U: Applebot-Extended|D: /||U: Applebot|D: /x||U: *|D: /y => -/x +/y ;;
|D: /a||U: Other|D: /b => +/a +/b ;; D: /a|A: /a/b|D: /a/b/c => -/a/x +/a/b/x -/a/b/c/d ;;
D: /page|A: /page|D: /p => +/page -/pa ;; A: /page|D: /*.ph => +/page.php5 ;; A: /$|D: / => +/ -/a.html ;;
D: /*.gif$ => -/x/y.gif +/x.gif?a=1 +/x.gifs +/X.GIF ;; D: /*? => -/a?b -/? +/a ;;
D: /s?q= => -/s?q=1 +/s?p=1&q=2 +/s ;; D: /a*b*c => -/a/x/b/c -/abcd +/acb ;; D: /fish* => -/fish -/fishing +/Fish ;;
D: /a/*/c$ => -/a/b/c -/a/b/d/c +/a/c +/a/b/c/ ;; D: /a.b+(c) => -/a.b+(c) +/axb+(c) ;;
D: /a # not here|# D: /b|D: /c#d => -/a +/b -/c ;; U: Applebot # us|   D :   /a   => -/a +/b ;;
D: /foo/bar/%62%61%7A => -/foo/bar/baz -/foo/bar/%62az ;; D: /foo/ツ => -/foo/%E3%83%84 +/foo/%E3%83%85 ;;
D: /foo/%E3%83%84 => -/foo/ツ -/foo/%e3%83%84 ;; D: /a%2Fb => +/a/b -/a%2Fb ;;
D: /f-%2A.html|D: /g-%24 => -/f-*.html +/f-x.html -/g-$ ;; D:|D: /a => -/a +/b ;; D: => +/ ;; A:|D: / => -/a ;;
U: Applebot|nonsense|<html>|: /b|D /c|D: /a => -/a +/b ;; <html><body>404 D: /</body></html> => +/a"""


def fill(rng, text, slots=TEXT):
    """Replace {slot} from its list or generator, # by a digit, ^ by a hex digit, ¶ by a new line: 'v{n}' -> 'v4'."""
    def value(match):
        slot = slots[match[1]]
        return fill(rng, slot(rng) if callable(slot) else rng.choice(slot), slots)
    marks = {"#": "0123456789", "^": "0123456789abcdef", "¶": "\n"}
    return re.sub("[#^¶]", lambda match: rng.choice(marks[match[0]]), re.sub(r"\{(\w+)\}", value, text))


def prose(rng, count):
    """`count` different expository sentences on one topic (at most 20)."""
    slots = TEXT | dict(zip("abcde", ([word] for word in rng.choice(TEXT["topic"]).split("/"))))
    return [fill(rng, text, slots) for text in rng.sample(TEXT["prose"], count)]


def luhn(digits):
    """Whether the check digit is right: '79927398713' -> True."""
    return sum(sum(divmod(2 * int(c), 10)) if i % 2 else int(c) for i, c in enumerate(digits[::-1])) % 10 == 0


def pii(rng, kind):
    """One exact string of this kind; kind 'bad' is a long number that is no card by its check digit."""
    if kind in ("card", "bad"):
        prefix, sizes = rng.choice("4/4444 4/4333 4/44443 53/4444 2221/4444 37/465 6011/4444 36/464".split()).split("/")
        body = prefix + fill(rng, "#" * (sum(map(int, sizes)) - len(prefix) - 1))
        body += rng.choice([c for c in "0123456789" if luhn(body + c) == (kind == "card")])
        return rng.choice(["", " ", "-"]).join(re.match("".join(f"(.{{{size}}})" for size in sizes), body).groups())
    if kind == "ip":
        address = ipaddress.ip_address("::1")
        while not address.is_global:
            v6 = rng.choice([0x2600, 0x2606, 0x2803, 0x2A02, 0x2C0F]) << 112 | rng.getrandbits(32) << 80
            v6 |= rng.getrandbits(rng.choice([16, 64]))
            address = ipaddress.ip_address(rng.choice([rng.randrange(1 << 24, 224 << 24), v6]))
        return rng.choice([str(address), str(address), address.exploded, str(address).upper()])
    if kind == "id":
        number, area = rng.randrange(10 ** 7, 10 ** 8), rng.choice([*range(1, 666), *range(667, 900)])
        dni = f"{number}{rng.choice(['', '-'])}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"
        return rng.choice([f"{area:03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}", fill(rng, "{nino}"), dni])
    return fill(rng, {"email": "{email_address}", "phone": "{phone_number}"}[kind])


def pii_pages(seed, count):
    """[(text, [(kind, exact string), ...] in reading order)]; every second page has no PII, but much that looks so."""
    rng, pages, slots = random.Random(seed), [], TEXT | {"bad": lambda rng: pii(rng, "bad")}
    for page in range(count):
        safe = rng.sample(TEXT["safe"], rng.randint(0, 2) if page % 2 else rng.randint(2, 6))
        plain = prose(rng, rng.randint(1, 5)) + [fill(rng, text, slots) for text in safe]
        parts = [(text + rng.choice("  \n"), None) for text in plain]
        for kind in rng.choices(["card", "email", "ip", "id", "phone"], k=rng.randint(1, 4) * (page % 2)):
            found = pii(rng, kind)
            text = fill(rng, rng.choice(TEXT["context"]), TEXT | {"label": TEXT[kind], "x": [found]})
            parts.append((text + rng.choice(" \n"), ("national id" if kind == "id" else kind, found)))
        rng.shuffle(parts)
        pages.append(("".join(text for text, _ in parts).strip(), [span for _, span in parts if span]))
    return pages


def near_duplicates(seed, count):
    """[(text, edited)]; six kinds of edit in turn, each of an amount drawn evenly from none to all."""
    rng, pages = random.Random(seed), []
    vocabulary = re.findall("[a-z]+", " ".join(text for _ in range(40) for text in prose(rng, 20)).lower())

    def sentences(low, high):
        lengths = [rng.randint(5, 18) for _ in range(rng.randint(low, high))]
        return [" ".join(rng.choices(vocabulary, k=k)).capitalize() + rng.choice("...!?") for k in lengths]

    for page in range(count):
        keep, old = rng.random(), sentences(17, 31)
        words, rate = " ".join(old).split(), 1 - (2 * keep / (1 + keep)) ** 0.2  # an edit breaks five 5-grams
        new = " ".join([
            lambda: [rng.choice(vocabulary) if rng.random() < rate else word for word in words],
            lambda: [word for word in words if rng.random() > rate],
            lambda: old[:round(len(old) * keep)] + sentences(1, 5),
            lambda: [text for s in old for text in sentences(1, 2) * (rng.random() > keep) + [s]],
            lambda: [old[i] for i in sorted(range(len(old)), key=lambda i: i + 9 * (1 - keep) * rng.random())],
            lambda: old][page % 6]())
        if page % 6 == 5 or rng.random() < 0.2:  # the surface, a header and a footer
            new = rng.choice([str.upper, str.lower, str.title, lambda text: re.sub("[.!?]", " -", text)])(new)
            new = "\n\n".join(sentences(0, 1) + [new] + sentences(0, 3))
        pages.append((" ".join(old), new))
    return pages


def html_pages(seed, count):
    """[(html, body_words, navigation_words)]; the made-up words have 7 letters and stand once in their page."""
    rng, pages = random.Random(seed), []

    def mark(words):
        word = "".join(rng.choice(letters) for letters in ("bdfgkpv", "aiou") * 3) + rng.choice("xz")
        return mark(words) if word in body + navigation else words.append(word) or word

    def sentence(rng):
        words = prose(rng, 1)[0].split()
        for _ in range(rng.randint(1, 3)):
            word = rng.choice(["{}", "{}", '<a href="/x">{}</a>']).format(mark(body))
            words.insert(rng.randrange(1, len(words)), word)
        return " ".join(words)

    for page in range(count):
        body, navigation = [], []
        slots = TEXT | {"s": sentence, "w": lambda rng: mark(body), "v": lambda rng: mark(navigation)}
        text = fill(rng, "{page}", slots)
        if rng.random() < 0.3:  # end tags lost, capitals, no quotes, a stray tag
            text = re.sub("</(p|li|dt|dd|td|tr|body|html)>", lambda match: match[0] * (rng.random() < 0.5), text)
            text = re.sub(r"</?\w+", lambda match: match[0].upper(), text).replace('"', "").replace("<H2>", "</B><H2>")
        pages.append((re.sub("(</?(?:p|div|li|tr|h1)>)", r"\1\n", text) if page % 2 else text, body, navigation))
    return pages


def robots_cases():
    """[(robots.txt, path, allowed for Applebot)] by RFC 9309; the first rows also with other line ends."""
    cases = []
    for row in re.split(r" ;;\s", ROBOTS):
        robots, paths = row.split(" => ")
        robots = "U: Applebot|" * (robots[0] in "AD") + robots
        for name in ("User-agent", "Allow", "Disallow"):
            robots = re.sub(rf"(^|\|\s*|# ){name[0]}(?= ?:)", rf"\1{name}", robots)
        for end in ("\n", "\r\n", "\r") if len(cases) < 9 else ("\n",):
            cases += [(robots.replace("|", end) + end, path[1:], path[0] == "+") for path in paths.split()]
    return cases


def quality_pages(seed, count):
    """[(text, good)]; good: paragraphs of prose, some with a heading or a list; bad: nine kinds in turn."""
    rng, pages = random.Random(seed), []
    for page in range(count):
        size = rng.randint(15, 60)
        sentences, cut = prose(rng, rng.randint(7, 18)), rng.randint(1, 6)
        paragraphs = [" ".join(sentences[:cut]), " ".join(sentences[cut:])]

        def several(name, join, rng=rng, size=size):
            return join.join(fill(rng, rng.choice(TEXT[name])) for _ in range(size))
        bad = [lambda: several("keyword", rng.choice([", ", " "])), lambda: several("menu", "\n"),
               lambda: "".join(rng.choices("xqzvkjw%$#@&*{}[]~^ \\/;=+0173", k=10 * size)),
               lambda: rng.choice("\n ").join(prose(rng, 1) * size), lambda: several("lorem", " ") + ".",
               lambda: several("ad", " ").upper(), lambda: several("log", "\n"), lambda: several("rows", "\n"),
               lambda: re.sub("[aeis,.]", lambda _: rng.choice(["Ã©", "â€™", "\ufffd", "Â\xa0"]), " ".join(sentences))]
        good = [fill(rng, "Notes by {name}")] * rng.randint(0, 1) + paragraphs
        good += ["- " + "\n- ".join(prose(rng, 3))] * rng.randint(0, 1)
        pages.append((bad[page // 2 % 9]() if page % 2 else "\n\n".join(good), page % 2 == 0))
    return pages


def contaminated_pages(seed, questions):
    """[(text, index or None)]: per question a page that quotes it or 13 words or more of it, and a clean page.

    A clean page may hold a few words of the question (less than half, at most 8), or all of them in another order.
    """
    rng, pages = random.Random(seed), []
    changes = [str.upper, str.lower, str.title, lambda text: re.sub(r"[,;:.?!]+(?=\s|$)", rng.choice(["", " -"]), text),
               lambda text: text.replace(" ", rng.choice(["  ", "\t", "\xa0", "\n> "])), "&quot;{}&quot;".format,
               lambda text: f"“{text}”".replace("'", "’"), lambda text: re.sub(" ", lambda _: rng.choice("\n  "), text)]
    for index, question in enumerate(questions):
        words = question.split()
        real, quote = [i for i, word in enumerate(words) if any(map(str.isalnum, word))], question
        if len(real) > 13 and rng.random() < 0.5:
            first = rng.randint(0, len(real) - 13)
            quote = " ".join(words[real[first]:real[rng.randint(first + 12, len(real) - 1)] + 1])
        for change in rng.sample(changes, rng.randint(0, 2)):
            quote = change(quote)
        half = min(8, max(0, len(words) - 1) // 2)
        clean = rng.choice([words[:half], words[len(words) - half:], rng.sample(words, len(words) * (len(words) > 6))])
        for text, label in ((quote, index), (" ".join(clean), None)):
            parts = prose(rng, rng.randint(2, 12))
            parts.insert(rng.randint(0, len(parts)), text)
            pages.append((rng.choice([" ", " ", "\n"]).join(parts), label))
    return rng.sample(pages, len(pages))
