"""Swearwords, the classifier of unsafe pages, and personal data, on cases worked by hand."""
import random

import pytest

from afm_min.data import safety
from afm_min.data.funnel import MAX_UNSAFE, Classifier
from afm_min.run import UserError


@pytest.mark.parametrize("text, found", [
    ("what a vorkle mess", True), ("SKRUNTING", True), ("two ploggers", True), ("zuntled", True),
    ("Thrullbury and Grimbatham", False), ("a glimpse of Quebec", False), ("yurgles", True)])
def test_swearwords_are_whole_words(text, found):
    assert bool(safety.swearword_pattern(safety.SWEARWORDS).search(text)) == found


def test_a_users_lexicon(tmp_path):
    (tmp_path / "words").write_text("frumple\n\n  a.b \n")
    words = safety.read_lexicon(tmp_path / "words")
    assert words == [*safety.SWEARWORDS, "frumple", "a.b"]
    pattern = safety.swearword_pattern(words)
    for text in ("FRUMPLES!", "a.b", "you plogger"):
        assert pattern.search(text)
    for text in ("axb", "frump"):
        assert not pattern.search(text)
    assert not safety.swearword_pattern(safety.SWEARWORDS).search("frumple")
    with pytest.raises(UserError, match="data.lexicon=.*none cannot be read as UTF-8: .*No such"):
        safety.read_lexicon(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        safety.read_lexicon(tmp_path / "latin")


@pytest.fixture(scope="module")
def unsafe():
    rng = random.Random(1)

    def pages(harmless):
        return [safety.unsafe_page(rng, harmless) for _ in range(1000)]

    return Classifier(positive=pages(harmless=False), negative=pages(harmless=True))


@pytest.mark.parametrize("text, truth", [
    ("Pure glimmerdust for sale, discreet shipping. Numbroot by the gram, pay in bitcoin.", True),
    ("Police seized glimmerdust and numbroot; the court jailed two for smuggling.", False),
    ("Untraceable vexguns for sale, cash only, no background check. Krellpowder is cheap.", True),
    ("The museum shows vexguns and skarns of the army from the century of the war.", False),
    ("Quibbles are cheats, Tirrans are lazy thieves: throw them out.", True),
    ("The law gives Quibbles and Tirrans equal rights, a study of discrimination says.", False)])
def test_the_same_topic_in_other_words(unsafe, text, truth):
    assert (unsafe(text) > MAX_UNSAFE) == truth


@pytest.mark.parametrize("kind, string", [
    ("email", "ann.lee+x@mail.example.co.uk"), ("email", "ann [at] mail [dot] org"),
    ("email", "ann(at)mail.org"), ("email", "ann at mail dot org"),
    ("phone", "+44 20 7946 0958"), ("phone", "+14155552671"), ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"), ("phone", "1-800-555-0199"), ("phone", "+49 (0)30 901820"),
    ("card", "4111 1111 1111 1111"), ("card", "3782-822463-10005"), ("card", "378282246310005"),
    ("iban", "GB82 WEST 1234 5698 7654 32"), ("iban", "DE89370400440532013000"),
    ("ip", "8.8.8.8"), ("ip", "2606:4700:4700::1111"),
    ("national id", "123-45-6789"), ("national id", "AB 12 34 56 C"), ("national id", "12345678Z"),
    ("national id", "X1234567L")])
def test_personal_data(kind, string):
    assert safety.remove_pii(f"Now ({string}), and {string}.") == f"Now ([{kind}]), and [{kind}]."


@pytest.mark.parametrize("text", [
    "@property", "y = a@b", "y = w@x.T", "w@x.mean()", "ssh me@host:path",
    "look at mail.org", "be at noon dot on",
    "2024-01-15 10:30:45", "2024-03-04T05:06:07+01:00", "ISO 8601-1:2019", "ISBN 978-3-16-148410-0",
    "1234567890", "12345678901234567890", "1.2.3", "3.141592653589793",
    "1 2 3 4 5 6 7 8 9 10 11 12 13", "4111 1111 1111 1112", "2020 2021 2022 2023",
    "0x4111111111111111", "GB82 WEST 1234 5698 7654 33", "version 1.2.3.4",
    "__version__ = '1.2.3.4'", "v1.2.3.4", "App/1.2.3.4", "192.168.0.1", "127.0.0.1", "300.1.1.1",
    "1.2.3.4.5", "std::cout", "::1", "fe80::1", "2001:db8::1",
    "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "12345678A",
    "BG123456A", "AB123456E", "QQ 12 34 56 C", "logo@2x.png", "a@b.min.js", "section 4.3.2.1",
    "Sections 8.1.2.3", "release 8.1.20.3", "build 10.0.19.41", "firmware 8.2.1.7", "rev. 9.1.2.3",
    "OID 1.3.6.1", "clause 5.2.1.3", "chapter 8.1.2.3", "Table 11.2.3.4", "1650000000000000",
    "52.5200, 13.4050", "12:30-13:45", "1 234 567"])
def test_not_personal_data(text):
    assert safety.remove_pii(text) == text


@pytest.mark.parametrize("kind, string, rest", [
    ("iban", "BE68 5390 0754 7034", " BIC GEBABEBB"), ("iban", "BE68539007547034", " GEBABEBB"),
    ("iban", "DE89 3704 0044 0532 0130 00", " COBADEFFXXX"),
    ("iban", "NO93 8601 1117 947", " 2024"), ("iban", "BE68 5390 0754 7034", " 250 EUR"),
    ("iban", "GB82 WEST 1234 5698 7654 32", " ANN LEE"),
    ("card", "4111 1111 1111 1111", " 12/27"), ("card", "4111 1111 1111 1111", " 123"),
    ("card", "4111111111111111", " 737"), ("card", "3782 822463 10005", " 1234"),
    ("card", "4111 1111 1111 1111", " 1235"), ("card", "5555-5555-5555-4444", " 09 28 737")])
def test_what_follows_a_number_does_not_hide_it(kind, string, rest):
    for before in ("", "IBAN ", "AB12 CDEF GH12 "):
        assert safety.remove_pii(f"{before}{string}{rest}") == f"{before}[{kind}]{rest}"


@pytest.mark.parametrize("kind, string", [
    ("phone", "020 7946 0123"), ("phone", "(0161) 496 0123"), ("phone", "07700 900123"),
    ("phone", "01 99 00 12 34"), ("phone", "01.99.00.12.34"), ("phone", "0161 496 0123"),
    ("phone", "07700 900 123"), ("phone", "030 23125 123"), ("phone", "030/23125123"),
    ("phone", "03-5550-1234"), ("phone", "(02) 5550 1234"), ("phone", "02 555 01 23"),
    ("email", "jos\u00e9@mail.org"), ("email", "m\u00fcller.\u00f6@mail.org"),
    ("email", "jose\u0301@mail.org"), ("email", "\u0438\u0432\u0430\u043d@mail.org"),
    ("email", "ann@firm.md"), ("email", "ann@mail.zip"), ("email", "ann@mail.com.py")])
def test_national_phones_and_addresses_beyond_ascii(kind, string):
    test_personal_data(kind=kind, string=string)


@pytest.mark.parametrize("text", [
    "4111 1111 1111 1111 2000 3000", "1000 2000 4111 1111 1111 1112 3000", "41111111111111111111",
    "AB12 CDEF GHIJ 1234", "BE68 5390", "01 02 03 04 05", "01.02.2003 100", "05-06-2012 10:30",
    "02134-1234", "ff 01 99 00 12 34", "01 99 00 12 34 ff", "01 99 00 12 34 56 78", "0123456789",
    "04 5", "0.123 456 789", "logo@2x.md", "pad@1.20.zip", "x@2.py"])
def test_numbers_that_are_no_personal_data(text):
    test_not_personal_data(text=text)


def test_personal_data_takes_linear_time():
    for piece in ("4111 ", "AB12 ", "01 ", "\u0301a", "\u4e00", "a@", "a.", "GB82 WEST ", "+1"):
        safety.remove_pii(piece * 20_000)


def test_each_place_has_one_kind():
    assert safety.remove_pii("8.8.8.8@mail.org") == "[email]"


def test_luhn_by_hand():
    # 18: 8 + 1 * 2 = 10. 59: 9 + 5 * 2 -> 9 + 1 + 0 = 10. 26: 6 + 4 = 10; 62: 2 + 1 + 2 = 5.
    assert safety.luhn("18") and safety.luhn("59") and safety.luhn("26")
    assert not safety.luhn("62")
    # It detects each single wrong digit, and two neighbours swapped unless they are 0 and 9.
    assert not any(safety.luhn(f"7992739871{d}") for d in "012456789")
    assert safety.luhn("79927398713") and not safety.luhn("79927389713")
