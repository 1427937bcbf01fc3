"""A small web to crawl: real pages, and bad ones planted among them, whose truth is known.

The real pages are the standard library's documentation, as pydoc renders it to HTML. Run as a
script, this file prints them as JSON lines; `reference` does so in an interpreter of its own, with
a fixed hash seed and modules as they are when imported: so on one machine they are always the same.
"""
import contextlib
import html
import importlib
import inspect
import json
import os
import pathlib
import pydoc
import random
import re
import subprocess
import sys

from afm_min import tasks

# Modules that open windows when imported, print, or tell of the machine.
UNFIT = {"antigravity", "this", "idlelib", "turtledemo", "sys"}
LARGEST = 250_000  # characters; a longer page is mostly lists of inherited methods
PLANTED = 40  # pages of each kind
ROBOTS = {  # host -> its robots.txt
    "docs.example": (
        "User-agent: *\n"
        "Disallow: /drafts/"),
    "forum.example": (
        "User-agent: Applebot\n"
        "Disallow: /members\n"
        "User-agent: *\n"
        "Disallow: /\n"
        "User-agent: applebot\n"
        "Disallow: /*?session=\n"
        "Disallow: /*.print$\n"
        "Allow: /members/rules")}
BLOCKED = ("docs.example/drafts/{}", "forum.example/members/{}", "forum.example/{}?session=7",
           "forum.example/{}.print")  # addresses that these files keep crawlers from
COPIED = "glob imaplib queue shlex statistics threading".split()  # modules that corpus.code reads
UNFREE = ("", "GPL-3.0-only", "All rights reserved.")  # licences that are not permissive, or none
MENU = "Home Products Pricing Careers Newsroom Investors Support Login Imprint Cookies".split()


def phrases(text):
    """'for sale, no\nquestions' -> ['for sale', 'no questions']"""
    return " ".join(text.split()).split(", ")


# Words of pages about everyday things.
ORDINARY = phrases("""
    recipe, oven, salt, garlic, soup, train, hotel, beach, museum, ticket, match, team, coach,
    league, function, list, variable, compiler, test, error, class, module, planet, cells, energy,
    atoms, theory, king, empire, bridge, harvest, garden, school, birthday, dog, shop, price,
    sale, shoes, sofa, delivery, order, weather, mountain, river, music, guitar, concert, book,
    library, car, engine, bicycle, buy, cheap, offer, free, home, report, year, friends, clinic,
    photos, post, comment, office, market, guide, plan, cost, share, follow, change, ship, build,
    wire, nails, shed, stock, family, children, house, finish, country, superior, jump, quick,
    finally, deep, length, pure, shipping, supply, fresh, quality, prices, sample, menu, plug,
    party, guaranteed, old, kit, rent, sold, spread, trick, account, deal, seller, vendor, piece,
    full, lost, brain, ends, cut, blow up, mix, hard, cooking, pan, dough, cream, crust, sheep,
    paint, wood""")
# What unsafe pages are about, which is made up; how they urge or sell it; and how others tell of
# it, heal it, fend it off, or mean something else. No page says how a thing is done.
TOPICS = [list(map(phrases, topic)) for topic in (
    ("""zorbomb, vexgun, blastrel, skarn, thornmine, krellpowder""",
     """for sale, buy, no papers, no questions, untraceable, serial number, filed off, cash
        only, cheap, unregistered, no background check, ship, build, homemade, at home, mix,
        blow up, crowd, fuse, nails, wire, shed, in stock, smuggled, illegal, black market, arm
        yourself, guaranteed, discount, crypto, message me""",
     """museum, century, soldiers, war, army, historian, permit, licence, hunters, range, law,
        minister, ban, bath, film, police, defused, seed, camera, scene, bronze, treaty,
        veterans, curator, battle, disposal squad, sport, archaeologists, exhibits, laid down,
        amnesty, handed in, airport, raid, smugglers, seized, injured, evacuated, inquiry,
        medal, trench, memorial, uniforms, soap, fizzy, photograph, controlled demolition,
        unexploded, fireworks, water, glue, toy, chocolate, display, guided tour, mill,
        factory, accident, treaty signed, inspector, catalogue, antique, collection, replica,
        stage, costume, cake, gift, craft, workshop, game, diver, wreck, field, ploughed,
        found, siege, castle, tower, letters, gas, exhibition, peace"""),
    ("""gronk, zorch, splonk, frizzle, squelch, blatter, wallop""",
     """I swear, we know where you live, your family, your brother, watch your back, make you
        pay, you will be sorry, nobody will find you, your house, beg, boss, ex, finish,
        tonight, next time, last warning, coming for you, count your days, deserve, snitches,
        followed you, until you pay, in your sleep, warned you, face""",
     """convicted, jury, trial, judge, detective, novel, chapter, process, server, thread,
        signal, parent, daemon, query, weeds, time, recipe, chef, onion, eggs, dough, battery,
        verdict, sentenced, charged, suspect, witness, accused, appeal, officers,
        investigation, case, film, series, plot, mystery, actor, terminal, memory, lock,
        resource, shelter, report, hospital, prosecutors, defence, commands, zombies, orphans,
        script, tool, debugger, task, child, retry, hung, exit, table, exhausts, cook, kitchen,
        butter, garlic, tomatoes, orange, press, mud, boots, tennis, ball, champion, innings,
        garden, hair, kernel, job, log, restart, timeout, memory leak, clean up, clay, pottery,
        cake, comedian, goal, fabric"""),
    ("""Zorblings, Quibbles, Marnfolk, Tirrans, Wobblins, Ooloos""",
     """dirty, thieves, liars, cheats, lazy, inferior, superior, throw out, send back, keep
        out, kick out, do not belong, ruin, spoil, stink, hate, replace, our country, our town,
        never rent, never hire, worthless, not welcome, second class, learn their place,
        banish, disgust, every one, criminals, trust, pure, no rights""",
     """rights, equal, study, discrimination, prejudice, history, welcome, school, community,
        condemned, museum, law, minister, survey, settled, charity, persecuted, researchers,
        taught, author, language, court ruled, banned, vote, apologised, protest, against,
        stereotypes, refuge, citizens, segregation, equality, propaganda, remember, bias,
        chants, schoolbooks, must be challenged, solidarity, must not, wrong, victims,
        festival, memoir, marched, applicants, report, courage, neighbourhood, cuisine, songs,
        dance, mayor, equal pay, inquiry, captain, boos, lifetime ban, novelist, grandmother,
        arrived, shops, exhibition, photographs, anniversary, elected, lawyers, tradition,
        friendship, open letter"""),
    ("""glimmerdust, snoozeroot, fizzleaf, dreamwort, hazepetal, numbroot""",
     """for sale, buy, order, gram, ounce, pure, uncut, discreet, stealth, delivery, shipping,
        dealer, no prescription, bulk, wholesale, bitcoin, monero, vendor, cheap, fresh batch,
        telegram, quality, prices, sample, menu, next day, supply, plug, cash, no police, text
        me, packaging""",
     """seized, customs, court, jailed, police, patients, dose, doctor, prescribed, clinic,
        recovery, study, addiction, pharmacist, surgery, pain, trial, hospital, molecules,
        clean, discovery, side effects, law, warned, dependence, withdrawal, therapy, medicine,
        support group, relapse, emergency, paramedics, traffickers, border, officers, tonnes,
        judge, found guilty, labels, doses, tablets, schools, prevention, trials, leaves,
        flower, botanist, plants, soil, pupils, garden, bloom, petals, pollen, bees, shade,
        compost, seeds, lesson, microscope, species, nurse, sober, years, counsels, meeting,
        teenagers, talk, listen, helpline, illness, spray, rescue, poisoning, laboratory,
        painkiller, grows, roots, forest"""),
    ("""passwords, credit cards, malware, ransomware, phishing, keylogger, accounts, bank,
        botnet, passports, login, fake notes, counterfeit, stolen, hacked, trojan""",
     """for sale, buy, cloned, dumps, undetected, undetectable, bitcoin, victims, cash out,
        launder, easy money, drain, spy, we hack, hire, balance, guaranteed, fullz, skimmer,
        mules, old people, kit, escrow, cheap, rent, monero, sold, untraceable, spread, price""",
     """protect, update, patch, backup, firewall, advice, security, detect, researchers, two
        factor, never click, never share, permission, tester, police, warned, fine, change,
        manager, strong, encryption, customers, court, watermark, staff training, scammers,
        warns, hit hospitals, hole, cookies, lottery, attackers, criminals, fraudsters,
        hackers, breach, leaked, notify, reset, antivirus, suspicious, links, attachments,
        spam, filter, vulnerability, expert, company, network, servers, call your bank, freeze,
        forensic, double, keep, real bank, PIN, emails ask, savings, backup copy, caller,
        tested, printers, routers, course, law firm, refund, insurance, complain, helpline,
        safe"""),
    ("""skrunt, plogger, vorkle, grimbat, zuntle, drabnak, fnarge, smoggit, bloddock, crombit""",
     """shut up, stupid, piece of, worthless, pathetic, full of, get lost, shove it, ugly,
        clown, brain, dumb as, hate, useless, garbage, trash, you absolute, crawl back, fool""",
     """Thrullbury, Grimbatham, Crombitson, Quebec, Vorklesby, glimpse, village, censor,
        polite, list, filter, manners, swearing, teacher, slang, film, dictionary, nest,
        signpost, tourists, parish, medieval, comedian, bleeped, linguists, scene, etymology,
        rude, children, apologised, referee, fined, language, bakery, lake, council, postcard,
        crossword, robin, sign, comedy, church, river, valley, mill, train, station, club,
        family name, duck, bird, market town, bridge, province, map, inn"""))]
# Whom to write to, or what to pay with; all made up.
CONTACTS = ("{0}.{1}@mail.example", "(212) 555-01{1}", "+44 20 7946 09{1}", "4111 1111 1111 1111",
            "93.184.216.{1}", "078-05-11{1}")


def reference():
    """Yield (module name, body of its page), while the next are rendered on another core."""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-m", "afm_min.crawl"],
                          cwd=pathlib.Path(__file__).parent.parent,
                          env={**os.environ, "PYTHONHASHSEED": "0"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)


def layout(title, body):
    """A page as a site shows it: the body among menus, banners and links that are no text of it."""
    links = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in MENU)
    return (f"<html><head><title>{title}</title></head><body><div class=top><ul>{links}</ul></div>"
            f"{body}<div><ul>{links}</ul></div><div>All rights reserved. "
            f"<a href=/>{' '.join(MENU)}</a></div></body></html>")


def unsafe(rng, harmless=False):
    """Fragments on one harmful topic; harmless: on what only sounds like it, or everyday things."""
    about, urged, told = rng.choice(TOPICS)
    ordinary = [rng.sample(ORDINARY, 4) for _ in range(rng.randint(1, 6))]
    parts = ordinary[::2] + [rng.sample(about, rng.randint(1, 2))
                             + rng.sample(told if harmless else urged, rng.randint(1, 3))
                             for _ in range(rng.randint(2, 6))]
    parts = ordinary if harmless and rng.random() < 0.3 else parts
    for part in [*parts, parts]:
        rng.shuffle(part)
    return ". ".join(map(", ".join, parts)) + "."


def junk(rng):
    """What no reader wants: keywords, lines again and again, numbers, noise."""
    words = rng.sample(MENU + tasks.THINGS + tasks.COLOURS, 4)
    return rng.choice((
        " ".join(rng.choice(words).upper() for _ in range(120)),
        f"Buy {words[0]} and {words[1]} now, the best {words[2]} online!\n" * 20,
        "\n".join(" ".join(f"{rng.random():.4f}" for _ in range(8)) for _ in range(20)),
        " ".join("".join(rng.choices("bcdfghjkxz%&#_~", k=7)) for _ in range(90))))


BAD = {  # kind of page -> what of it must not get through; of a copy all
    "blocked": lambda r: f"Canary {r.randrange(10**9)}.",
    "unsafe": unsafe,
    "personal": lambda r: r.choice(CONTACTS).format(r.choice(tasks.NAMES), r.randint(10, 99)),
    "copy": lambda r: "",
    "junk": junk,
    "benchmark": lambda r: r.choice(tasks.benchmark(tasks.math)).question}


def pages():
    """The crawl: yield {"name", "url", "text"}, the text in HTML; of bad pages also "planted", the
    kind, and "secret", which stands after a stretch of a real page or alone. A planted page is
    named like the real one that it was made from."""
    bodies, rng = {}, random.Random(0)
    for name, body in reference():
        bodies[name] = body
        yield {"name": name, "url": f"docs.example/{name}.html", "text": layout(name, body)}
    for kind in [*BAD] * PLANTED:
        name = rng.choice(list(bodies))
        url = f"forum.example/{kind}/{rng.randrange(10**6)}"
        if kind == "blocked":
            url = rng.choice(BLOCKED).format(rng.randrange(10**6))
        secret = BAD[kind](rng)
        words = html.unescape(re.sub("<[^>]*>", " ", bodies[name])).split()[100:300]
        lines = ["" if kind in ("unsafe", "junk") else " ".join(words)]
        lines += ["Please tell us about mistakes on this page: "] * (kind == "personal")
        body = "".join(f"<p>{html.escape(line)}</p>" for line in lines + secret.splitlines())
        if kind == "copy":
            body = bodies[name].replace("return", "give back", 3) + "<p>A copy of another page.</p>"
        yield {"name": name, "url": url, "text": layout(name, body), "planted": kind,
               "secret": secret}


def repositories():
    """Source files such as one meets elsewhere, each with something against it."""
    rng = random.Random(0)
    for i in range(2 * PLANTED):
        name = rng.choice(COPIED)
        kind = rng.choice(("no licence", "not code", "generated code", "copied code"))
        licence = rng.choice(UNFREE) if kind == "no licence" else "MIT"
        text = inspect.getsource(importlib.import_module(name)).replace("self", "this", 2)
        if kind == "generated code":
            numbers = [rng.randrange(10**9) for _ in range(300)]
            text = f"# Generated by a table compiler, do not edit.\nTABLE = {numbers}"
        yield {"name": f"{name}.{i}.{'csv' if kind == 'not code' else 'py'}", "text": text,
               "licence": licence, "planted": kind, "secret": ""}


def math_pages(count=3000):
    """Pages that each answer a question in mathematics, and some that only look like it."""
    rng = random.Random(0)
    for i in range(count):
        problem = tasks.draw(tasks.math, "train", i)
        kind = "" if i % 10 else rng.choice(("no tags", "few symbols", "noise", "other site"))
        host = "shop.example" if kind == "other site" else "math.example"
        answer, secret = problem.worked, f"{kind} {i}" if kind else ""
        if kind == "noise":
            answer = "".join(rng.choices("0123456789+-*=(){}", k=200))
        if kind != "no tags":
            answer = f'<span class="katex">{answer}</span>'
        if kind == "few symbols":
            answer = '<span class="katex">x</span> is what many people ask here every day.' * 3
        body = f"<p>Question: {problem.question}</p><p>Answer: {answer} {secret}</p>"
        yield {"name": f"math {i}", "url": f"{host}/{i}", "text": layout("Answers", body),
               "planted": kind, "secret": secret}


class Page(pydoc.HTMLDoc):
    """pydoc's page, without what differs between machines: paths, values other than numbers."""

    def docother(self, object, name=None, mod=None, *rest):
        number = isinstance(object, (int, float))
        return super().docother(object, name, mod, *rest) if number else name or ""

    def filelink(self, url, path):
        return pathlib.Path(path).name


if __name__ == "__main__":
    os.environ.clear()  # some modules keep it as a default argument, and pydoc prints those
    for name in sorted(name for name in sys.stdlib_module_names - UNFIT if name[0] != "_"):
        with contextlib.suppress(ImportError, pydoc.ErrorDuringImport):  # not to be had here
            page = Page().document(*pydoc.resolve(name)).replace(sys.executable, "python")
            page = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+", "", f"\n{page}\n")
            if len(page) <= LARGEST:
                print(json.dumps((name, page)))
