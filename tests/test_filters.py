"""robots.txt, quality and licences, on cases worked by hand."""
import random
import urllib.robotparser

import pytest

from afm_min.data import filters

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
    ("MIT", True), ("bsd-3-clause", True), ("Apache-2.0 WITH LLVM-exception", True), ("", False),
    ("GPL-3.0-only", False), ("MIT OR GPL-2.0-only", True), ("MIT AND GPL-2.0-only", False),
    ("(MIT OR ISC) AND GPL-2.0-only", False), ("MPL-2.0", False), ("none", False),
    ("MIT License", True), ("All rights reserved.", False), ("the license", False),
    ("Permission is hereby granted, free of\n charge, to any person", True),
    ("Redistribution and use in source and binary forms, with or without modification", True),
    ("Redistribution and use in source and binary forms, for non-commercial use", False),
    ("GNU Lesser General Public License", False), ("This is not under the MIT license.", False),
    ("It isn't MIT licensed.", False), ("Use a licence other than the MIT license", False)])
def test_licences(text, allowed):
    assert filters.permissive(text) == allowed


def test_suffixes_of_code():
    assert filters.is_code("a/b.swift") and filters.is_code("B.H")
    assert not filters.is_code("README") and not filters.is_code("a.py/b")
    assert len(filters.LANGUAGES) == 14
    for suffixes in filters.LANGUAGES.values():
        assert all(filters.is_code(f"main{suffix}") for suffix in suffixes.split())
