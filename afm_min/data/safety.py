"""Safety and personal data: what a page must not contain, and what is removed from it.

A page is dropped if it contains a swearword, or if a classifier finds it unsafe. The classifier
learns from generated pages, and knows words, not sentences: it misses many unsafe pages that were
written freely (tests/test_planted.py prints how many). Forbidden goods, violent acts, insulted
peoples and swearwords are made up, so that no reader of this file meets real ones. The phrases
around them are those that real sellers, bullies and reporters use.
"""
import ipaddress
import pathlib
import re

from afm_min.run import UserError


# Safety

# Made-up swearwords. The setting data.lexicon adds a list of words for a real crawl.
SWEARWORDS = """
    bloddock crombit drabnak fnarge glimp grimbat plogger queb skrunt smoggit snargle thrull trozzle
    vorkle yurgle zuntle""".split()


def swearword_pattern(words):
    """Return a pattern for these words as whole words, with the usual endings: -s -es -d -ed -er
    -ers -in -ing -y -ty. With plogger and glimp it matches "ploggers", but not "glimpse"."""
    alternatives = "|".join(map(re.escape, words))
    return re.compile(rf"\b(?:{alternatives})(?:e?s|e?d|ers?|ing?|t?y)?\b", re.I)


def read_lexicon(path):
    """Return SWEARWORDS and the words in a file, one a line."""
    try:
        lines = pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.lexicon={path} cannot be read as UTF-8: {error}") from None
    return SWEARWORDS + [line.strip() for line in lines if line.strip()]


def phrases(text):
    """'for sale, no\\nquestions' -> ['for sale', 'no questions']"""
    return " ".join(text.split()).split(", ")


# Phrases of harmless pages: everyday things, and reports about crime, war, drugs and prejudice.
HARMLESS = phrases("""
    oven, salt, garlic, soup, train, beach, museum, ticket, match, team, league, function, list,
    variable, compiler, error, class, module, planet, cells, atoms, theory, king, empire, bridge,
    garden, school, birthday, dog, shop, sale, shoes, sofa, delivery, order, mountain, river, music,
    guitar, concert, library, car, engine, bicycle, buy, offer, free, report, friends, clinic, post,
    comment, office, market, guide, cost, share, follow, change, ship, wire, nails, shed, stock,
    family, finish, country, superior, jump, quick, deep, length, pure, shipping, supply, quality,
    prices, sample, menu, plug, guaranteed, kit, rent, sold, spread, account, deal, seller, vendor,
    piece, brain, cut, blow up, mix, hard, pan, dough, cream, crust, sheep, wood, century, soldiers,
    war, army, permit, licence, hunters, range, law, ban, bath, film, police, defused, camera,
    scene, bronze, treaty, veterans, battle, disposal squad, sport, archaeologists, exhibits,
    amnesty, handed in, airport, raid, smugglers, injured, evacuated, inquiry, medal, trench,
    uniforms, soap, fizzy, photograph, controlled demolition, fireworks, water, glue, toy,
    chocolate, guided tour, mill, factory, accident, treaty signed, catalogue, antique, collection,
    replica, stage, cake, gift, craft, workshop, game, wreck, field, ploughed, found, siege, tower,
    letters, gas, exhibition, peace, jury, trial, judge, detective, novel, process, server, thread,
    signal, parent, query, weeds, chef, onion, eggs, verdict, sentenced, charged, suspect, witness,
    appeal, officers, investigation, case, series, mystery, actor, terminal, memory, lock, shelter,
    hospital, prosecutors, defence, commands, orphans, script, tool, debugger, task, retry, hung,
    exit, table, exhausts, kitchen, butter, tomatoes, orange, press, boots, tennis, ball, champion,
    innings, kernel, job, log, restart, timeout, clean up, clay, pottery, comedian, goal, rights,
    equal, study, discrimination, prejudice, welcome, community, condemned, survey, settled,
    persecuted, researchers, taught, author, language, banned, vote, apologised, protest, against,
    refuge, citizens, segregation, equality, propaganda, bias, chants, schoolbooks, must be
    challenged, solidarity, victims, festival, memoir, marched, applicants, neighbourhood, cuisine,
    songs, dance, mayor, captain, boos, lifetime ban, novelist, grandmother, shops, photographs,
    anniversary, elected, lawyers, friendship, open letter, customs, court, jailed, dose, doctor,
    prescribed, recovery, addiction, surgery, pain, molecules, clean, discovery, warned, dependence,
    withdrawal, therapy, medicine, relapse, emergency, paramedics, traffickers, border, found
    guilty, labels, doses, tablets, schools, trials, leaves, flower, botanist, plants, pupils,
    bloom, petals, pollen, bees, compost, seeds, lesson, microscope, species, sober, counsels,
    meeting, teenagers, talk, helpline, illness, spray, rescue, poisoning, painkiller, grows, roots,
    forest, protect, patch, backup, firewall, advice, security, two factor, never click, never
    share, permission, tester, manager, strong, encryption, customers, watermark, scammers, warns,
    hit hospitals, hole, cookies, attackers, criminals, fraudsters, hackers, breach, notify, reset,
    antivirus, suspicious, links, spam, filter, vulnerability, expert, company, servers, call your
    bank, freeze, forensic, double, PIN, emails ask, savings, backup copy, caller, printers,
    routers, course, law firm, refund, complain, safe, Thrullbury, Grimbatham, Crombitson,
    Vorklesby, glimpse, village, censor, polite, swearing, teacher, slang, dictionary, nest,
    tourists, parish, medieval, bleeped, linguists, rude, referee, fined, bakery, lake, postcard,
    crossword, robin, sign, comedy, valley, station, club, family name, duck, market town, province,
    map, inn""")
# Phrases of unsafe pages.
SALES = phrases("""
    for sale, buy, no papers, no questions, untraceable, serial number, filed off, cash only, cheap,
    unregistered, no background check, ship, build, homemade, at home, mix, blow up, crowd, fuse,
    nails, wire, shed, in stock, smuggled, illegal, black market, arm yourself, guaranteed,
    discount, crypto, message me, order, gram, ounce, pure, uncut, discreet, stealth, delivery,
    shipping, dealer, no prescription, bulk, wholesale, bitcoin, monero, vendor, fresh batch,
    telegram, quality, prices, sample, menu, next day, supply, plug, cash, no police, text me,
    packaging, cloned, dumps, undetected, undetectable, victims, cash out, launder, easy money,
    drain, spy, we hack, hire, balance, fullz, skimmer, mules, old people, kit, escrow, rent, sold,
    spread, price""")
THREATS = phrases("""
    I swear, we know where you live, your family, your brother, watch your back, make you pay, you
    will be sorry, nobody will find you, your house, beg, boss, ex, finish, tonight, next time, last
    warning, coming for you, count your days, deserve, snitches, followed you, until you pay, in
    your sleep, warned you, face""")
HATE = phrases("""
    dirty, thieves, liars, cheats, lazy, inferior, superior, throw out, send back, keep out, kick
    out, do not belong, ruin, spoil, stink, hate, replace, our country, our town, never rent, never
    hire, worthless, not welcome, second class, learn their place, banish, disgust, every one,
    criminals, trust, pure, no rights""")
INSULTS = phrases("""
    shut up, stupid, piece of, worthless, pathetic, full of, get lost, shove it, ugly, clown, brain,
    dumb as, hate, useless, garbage, trash, you absolute, crawl back, fool""")
FRAUD = phrases("""
    passwords, credit cards, malware, ransomware, phishing, keylogger, accounts, bank, botnet,
    passports, login, fake notes, counterfeit, stolen, hacked, trojan""")
# Subjects of pages, each with the phrases that make a page about it unsafe.
SUBJECTS = [
    ("zorbomb vexgun blastrel skarn thornmine krellpowder".split(), SALES),
    ("glimmerdust snoozeroot fizzleaf dreamwort hazepetal numbroot".split(), SALES),
    (FRAUD, SALES),
    ("gronk zorch splonk frizzle squelch blatter wallop".split(), THREATS),
    ("Zorblings Quibbles Marnfolk Tirrans Wobblins Ooloos".split(), HATE),
    (SWEARWORDS, INSULTS)]


def unsafe_page(rng, harmless=False):
    """Return a page of fragments, such as "skarn, no papers. train, oven, soup, mix."

    Some fragments are everyday phrases, the others combine a subject with phrases that make the
    page unsafe. On a harmless page the subject is combined with phrases of HARMLESS instead, so the
    classifier learns that a subject alone is not unsafe. Three in ten harmless pages have none."""
    subject, unsafe_phrases = rng.choice(SUBJECTS)
    context = HARMLESS if harmless else unsafe_phrases
    everyday = [rng.sample(HARMLESS, 4) for _ in range(rng.randint(1, 6))]
    about = [rng.sample(subject, rng.randint(1, 2)) + rng.sample(context, rng.randint(1, 3))
             for _ in range(rng.randint(2, 6))]
    if harmless and rng.random() < 0.3:
        fragments = everyday
    else:
        fragments = everyday[::2] + about  # half of the everyday fragments, and the others
    for fragment in fragments:
        rng.shuffle(fragment)
    rng.shuffle(fragments)
    return ". ".join(map(", ".join, fragments)) + "."


# Personal data

def is_public(address):
    """'8.8.8.8' -> True; '192.168.0.1' and '300.1.1.1' -> False"""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def luhn(digits):
    """'79927398713' -> True: double every other digit from the right; the sum of all digits must be
    a multiple of 10. (Doubled, 8 is 16, and counts as 1 + 6.)"""
    doubled = [str(int(digit) * (1 + i % 2)) for i, digit in enumerate(reversed(digits))]
    return sum(map(int, "".join(doubled))) % 10 == 0


def card(digits):
    """'4111111111111111' -> True: 13 to 19 digits, the last of which is a check digit."""
    return 13 <= len(digits) <= 19 and luhn(digits)


def iban(code):
    """'GB82WEST12345698765432' -> True: move the first 4 characters to the end and read A as 10 to
    Z as 35; the number modulo 97 must be 1. The shortest IBAN has 15 characters."""
    return len(code) >= 15 and int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1


def dni(code):
    """'12345678Z' -> True: the letter encodes the number modulo 23. Foreigners' numbers begin with
    X, Y or Z, which count as 0, 1 and 2."""
    number = int(code[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == code[-1]


# (kind of personal data, pattern, check): the check returns True if a match, without blanks and
# dashes, is valid. In patterns (re.X) blanks are ignored, and [ ] matches a space. The kinds are
# removed in this order. The lookarounds at both ends reject parts of longer words and numbers.
PII = [
    # GB82 WEST 1234 5698 7654 32
    ("iban", r"\b [A-Z]{2} \d\d (?:[ ]?[A-Z\d]{4}){2,7} (?:[ ]?[A-Z\d]{1,3})? \b", iban),
    # me@mail.org, me [at] mail [dot] org, me at mail dot org; but no file name: icon@2x.png. Before
    # the @, (?u:) lets \w match letters beyond ASCII, and accents that are characters of their own.
    ("email", r"""(?u: (?<![\w\u0300-\u036f.+%-]) [\w\u0300-\u036f.+%-]+) (?:
        (?: @ (?! \d [\w.-]* \. (?: md | py | zip) \b) | \s? [\[({] \s? at \s? [\])}] \s?)
        (?: [\w-]+ (?: \. | \s? [\[({] \s? dot \s? [\])}] \s?))+ (?! (?: png | jpe?g | gif | svg |
        webp | css | js | ts | json | html? | txt | pdf | xml | ya?ml | exe | tgz | mp[34]) \b)
        [A-Za-z]{2,} (?![\w(]|\.\w)
        | [ ]at[ ] (?:[\w-]+[ ]dot[ ])+ (?:com|edu|gov|net|org) \b)""", bool),
    # 4111 1111 1111 1111: 13 digits or more that begin like a card's; but no six numbers in a row
    ("card", r"""\b (?<![.-]) (?= (?:[ -]?\d){13}) (?! (?:\d{4}[ -]){5} \d{4})
        (?:4\d|5[0-8]|2[2-7]|3[04-9]|6\d) \d\d (?:[ -]?\d{4,6}){2,3} (?:[ -]?\d{1,4})?
        (?![\w-]|\.\d)""", card),
    # 12345678-Z
    ("national id", r"\b (?<!-) [\dXYZ]\d{7}-?[A-Z] (?![\w-])", dni),
    # 123-45-6789 or AB 12 34 56 C, without the numbers that are never given out
    ("national id", r"""\b (?<!-) (?:
        (?!000|666|9) \d{3} ([ -]) (?!00)\d\d \1 (?!0000)\d{4}
        | (?!BG|GB|NK|KN|TN|NT|ZZ) [A-CEGHJ-PR-TW-Z] [A-CEGHJ-NPR-TW-Z] (?:[ ]?\d\d){3} [ ]?[A-D])
        (?![\w-])""", bool),
    # 8.8.8.8 or 2001:4860::8888
    ("ip", r"""(?<![\w.:]) (?: \d{1,3} (?:\.\d{1,3}){3} (?!\w|\.\d)
        | [23] [\da-fA-F]{3} (?: :[\da-fA-F]{0,4}){2,7} (?![\w:]))""", is_public),
    # +44 20 7946 0958, (212) 555-0123, or 9 to 11 digits that begin with 0, such as 020 7946 0123
    # and 01 99 00 12 34; but no date, no ZIP code, and no bytes between others.
    ("phone", r"""(?<![\w.+-]) (?: \+[1-9] (?= (?:\D{0,2}\d){8,14} (?!\d)) \d{0,2}
        (?: [ .-]? (?:\d{1,4} | \(\d{1,4}\))){2,6}
        | (?: 1[ .-])? (?: \([2-9]\d\d\)[ ]? | [2-9]\d\d[ .-]) [2-9]\d\d [ .-] \d{4}
        | (?<! [\da-fA-F]{2} [ ]) (?! 01[ ]02[ ]03 | \d\d[./-]\d\d[./-]\d{4} | \d{5}-\d{4}\b)
        (?= \(?0[1-9] (?:[ ()./-]{0,2}\d){7,9} (?![ ./-]?\d))
        (?: \(0\d{1,4}\)[ ]? | 0\d{1,4}[ ./-]) \d{2,8} (?:[ .-]\d{2,8}){0,3}
        (?! [ .:/-]\d | [ ][\da-fA-F]{2}\b))
        (?![\w-]|\.\d)""", bool)]
# After such a text, four numbers are a version and not an address: "version 1.2.3.4", "Browser/".
VERSION = re.compile(r"""(?: \w/ | (?<![^\W_]) (?: version\w* | v | (?: release | build | firmware |
    rev | section | clause | chapter | figure | table | oid | kernel )s?)) [\s:='"#.v]* \Z""",
    re.I | re.X)


def valid_length(found, check):
    """Return the length of the longest beginning that is valid, or 0.

    ('4111 1111 1111 1111 12', card) -> 19

    A pattern also matches what follows a number, such as a card's expiry date. So shorter
    beginnings are tried, too, each of which ends before a blank or a dash."""
    ends = [*(blank.start() for blank in re.finditer("[ -]", found)), len(found)]
    return max((end for end in ends if check(re.sub("[ -]", "", found[:end]))), default=0)


def remove_pii(text):
    """Replace personally identifiable information by its kind.

    'write to me@mail.org' -> 'write to [email]'

    Kinds: email, phone, card, iban, ip (public ones), national id (American, British, Spanish)."""
    for kind, pattern, check in PII:
        pattern, position = re.compile(pattern, re.ASCII | re.X), 0
        while match := pattern.search(text, position):
            start = match.start()
            end = start + valid_length(match[0], check)
            is_version = kind == "ip" and VERSION.search(text, max(0, start - 20), start)
            if end > start and not is_version:
                text = f"{text[:start]}[{kind}]{text[end:]}"
            position = start + 1  # another match may begin inside one that is not valid
    return text
