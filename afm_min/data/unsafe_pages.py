"""Unsafe pages of the toy crawl, which the safety filter learns to drop, and harmless pages about
the same things, which it must keep.

Goods, peoples, threats and swearwords are made up, so that nobody who reads this meets real ones.
How sellers, bullies and reporters speak is not.
"""


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


def unsafe_page(rng, harmless=False):
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
