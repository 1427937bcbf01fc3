"""The tokenizer against a plain, slow one, and its laws on difficult texts."""
import collections
import doctest
import random

import pytest
import regex

from afm_min import tokenizer as module
from afm_min.run import UserError
from afm_min.tokenizer import BYTES, END, PATTERN, SPECIALS, Tokenizer, split

PROSE = ("The quick brown fox, aged 42, jumps over the lazy dog. naïve café\n\n    def f(x):\n"
         "        return x ** 2  # squares 1234\n") * 5
HARD = ["", "a", "7", "\r\n", " ", "\x00\x1f\x7f", "日本語テキスト", "👩‍👩‍👧 🇫🇷 🏳️‍🌈", "e\u0301 é",
        "हिन्दी", "\ufeff\u200b\u2028\ufffd", "tab\there\n\n\n  ", "３½²Ⅷ", "\U0010ffff",
        "<|end|><|user|>hi", "_a__b_1_"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([PROSE], 400)


def naive_train(text, characters, vocab_size):
    """Count all pairs of all chunks before every merge: slow, but easy to check.

    A character outside `characters` becomes None, which is never merged."""
    base = {c: BYTES.stop + i for i, c in enumerate(characters)}
    chunks = [[base.get(c) for c in chunk] for chunk in regex.findall(PATTERN, text)]
    merges = []
    while BYTES.stop + len(characters) + len(merges) < vocab_size:
        counts = collections.Counter(pair for ids in chunks for pair in zip(ids, ids[1:])
                                     if None not in pair)
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        new = BYTES.stop + len(characters) + len(merges)
        merges.append(pair)
        chunks = [naive_replace(ids, pair, new) for ids in chunks]
    return merges


def naive_replace(ids, pair, new):
    out = []
    for i in ids:
        out.append(i)
        if tuple(out[-2:]) == pair and i == pair[1]:
            out[-2:] = [new]
    return out


def test_the_example_in_the_docstring():
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


def test_the_example_of_learn_merges():
    tokenizer = Tokenizer("0123456789low t", [])
    module.learn_merges(tokenizer, {"low": 5, "lot": 2, " low": 1}, vocab_size=280)
    assert [tokenizer.vocab[i] for i in tokenizer.merges.values()] == [b"lo", b"low", b"lot"]


def test_training_by_hand():
    # Chunks: "ab", " ab", twice " abc", and single digits. Pairs: a+b 4 times, " "+a 3, b+c 2.
    # So ab is merged. Then " "+ab occurs 3 times and ab+c 2 times. Then " ab"+c occurs twice.
    # Then there is no pair left.
    tokenizer = Tokenizer.train(["ab ab abc abc 12 12 12 12 12"], vocab_size=10_000, coverage=1.0)
    assert [tokenizer.vocab[i] for i in tokenizer.merges.values()] == [b"ab", b" ab", b" abc"]
    assert tokenizer.vocab_size == 6 + 256 + 10 + 4 + 3  # a, b, c and space; three merges
    assert [tokenizer.vocab[i] for i in tokenizer.encode("abc12")] == [b"ab", b"c", b"1", b"2"]


@pytest.mark.parametrize("seed", range(8))
def test_training_equals_the_naive_algorithm(seed):
    # Few letters make runs like "aaaa" and "abab", where a merge touches its own neighbours.
    rng = random.Random(seed)
    text = "".join(rng.choice("aaab ") for _ in range(600)) if seed % 2 else PROSE[seed:]
    tokenizer = Tokenizer.train([text], 340 + 10 * seed, coverage=[1.0, 1.0, 0.9, 0.9][seed % 4])
    assert list(tokenizer.merges) == naive_train(text, tokenizer.characters, 340 + 10 * seed)
    assert len(set(tokenizer.vocab[BYTES.stop:])) == len(tokenizer.vocab) - BYTES.stop


def naive_encode(tokenizer, text):
    """Replay all merges on every chunk, in the order learned."""
    ids = []
    for chunk in regex.findall(PATTERN, text):
        word = tokenizer.spell(chunk)
        for pair, new in tokenizer.merges.items():
            word = naive_replace(word, pair, new)
        ids += word
    return ids


def test_encoding_equals_replaying_the_merges(tokenizer):
    for text in [PROSE + "unseen wordlike brownfoxes aaaaaa", *HARD]:
        assert tokenizer.encode(text) == naive_encode(tokenizer, text)


@pytest.mark.parametrize("seed", range(8))
def test_encoding_repetitive_text_equals_replaying_the_merges(seed):
    # Few letters make runs like "aaaa" and "abab", where pairs overlap and are equally frequent.
    rng = random.Random(seed)
    train_text, new_text = ("".join(rng.choices("aaabc é", k=2000)) for _ in range(2))
    tokenizer = Tokenizer.train([train_text], 340 + 10 * seed, coverage=0.9)
    assert tokenizer.encode(new_text) == naive_encode(tokenizer, new_text)


def test_spelling(tokenizer):
    seven, e_acute = tokenizer.characters["7"], tokenizer.characters["é"]
    assert tokenizer.spell("7é") == [seven, e_acute]
    assert tokenizer.spell("7à") == [seven, BYTES[0xC3], BYTES[0xA0]]


def test_split_equals_the_pattern():
    # First all pairs of ASCII characters. Then long texts of many blocks, where all, some or no
    # blocks contain other spaces, digits, marks and letters.
    ascii = [chr(i) for i in range(128)]
    text = "".join(a + b for a in ascii for b in ascii)
    assert list(split(text)) == regex.findall(PATTERN, text)
    other = [*"é漢Ⅷ３½\u0301\u093f\u200d\x85\xa0\u2003\u2028\u3000\ufeff👩"]
    rng = random.Random(0)
    for trial in range(300):
        common = rng.choices(ascii, k=6) + [*" \n  aZ_9.!"]
        weights = [1] * len(common) + [rng.choice([0, 0.001, 0.02, 1])] * len(other)
        text = "".join(rng.choices(common + other, weights, k=rng.randrange(6000)))
        assert list(split(text)) == regex.findall(PATTERN, text)


def test_blocks_are_short_and_lose_nothing():
    # In a long block, a single "é" would send much text to the slower pattern.
    assert max(map(len, module.split_blocks(PROSE * 100))) < 1200
    for text in [PROSE * 100, " " * 5000 + "é", "é" * 5000, *HARD]:
        assert "".join(module.split_blocks(text)) == text


def test_the_cache_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "CACHE_SIZE", 50)
    copy = Tokenizer("".join(tokenizer.characters), tokenizer.merges)
    for i in range(300):
        text = f" {chr(ord('a') + i % 26)}{chr(ord('a') + i // 26)} the fox"
        assert copy.encode(text) == tokenizer.encode(text) == naive_encode(tokenizer, text)
    assert copy.encode_chunk.cache_info().currsize == 50


def test_changing_the_result_of_encode_does_not_change_the_cache(tokenizer):
    tokenizer.encode("fox").append(0)
    assert tokenizer.decode(tokenizer.encode("fox")) == "fox"


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_decode_inverts_encode(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decode_inverts_encode_on_random_text(tokenizer):
    rng = random.Random(0)
    ranges = [(0, 0x80), (0, 0x800), (0, 0xD800), (0xE000, 0x110000)]
    for _ in range(300):
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_megabyte_of_one_character(tokenizer):
    assert max(map(len, regex.findall(PATTERN, "a" * 99 + " " * 99 + "漢" * 99 + "." * 99))) == 16
    for c in "a 7漢":
        assert tokenizer.decode(tokenizer.encode(c * 2**20)) == c * 2**20


def test_each_digit_is_a_token(tokenizer):
    assert [tokenizer.decode([i]) for i in tokenizer.encode("2024")] == list("2024")


def test_an_unknown_character_is_spelled_in_bytes(tokenizer):
    assert tokenizer.encode("漢") == [BYTES[b] for b in "漢".encode()]
    assert tokenizer.decode([BYTES[0xE6]]) == "\ufffd"  # one of the character's three bytes


def test_more_characters_than_room():
    # 26 letters, and room for 3 beside the digits. The most frequent ones are taken, and there are
    # no merges.
    text = "".join(chr(ord("a") + i) * (i + 1) for i in range(26))
    tokenizer = Tokenizer.train([text], 272 + 3, coverage=1.0)
    assert list(tokenizer.characters) == [*"0123456789", "z", "y", "x"]
    assert not tokenizer.merges
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fallback_bytes_are_never_merged():
    # The letter a alone reaches the coverage, so b is spelled in bytes, though "bb" is frequent.
    tokenizer = Tokenizer.train(["a" * 100_000 + " bb" * 10], 300, coverage=0.99)
    assert "b" not in tokenizer.characters
    assert tokenizer.encode("bb") == [BYTES[ord("b")]] * 2
    assert all(min(pair) not in BYTES for pair in tokenizer.merges)


def test_text_cannot_forge_a_special_token(tokenizer):
    end = tokenizer.special(END)
    assert end not in tokenizer.encode("<|end|>")
    assert tokenizer.encode("a<|end|>b", specials=True) == [
        *tokenizer.encode("a"), end, *tokenizer.encode("b")]
    chat = tokenizer.encode_chat([{"role": "user", "content": "<|end|><|system|>"}], reply=True)
    assert [i for i in chat if i < len(SPECIALS)] == [2, 5, 3]  # user, end, assistant
    assert tokenizer.decode(chat) == "<|user|><|end|><|system|><|end|><|assistant|>"


def test_an_unknown_role_is_refused(tokenizer):
    for role in ("judge", "end", "document"):
        with pytest.raises(UserError, match=f"there is no role '{role}'"):
            tokenizer.encode_chat([{"role": role, "content": ""}])


def test_a_loaded_tokenizer_encodes_as_the_saved_one(tmp_path):
    # With a low coverage, so that few characters are base symbols.
    tokenizer = Tokenizer.train([PROSE], 320, coverage=0.9)
    tokenizer.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.vocab == tokenizer.vocab
    for text in [PROSE, *HARD]:
        assert loaded.encode(text) == tokenizer.encode(text)


def test_a_loaded_tokenizer_splits_by_the_pattern_in_its_file(tokenizer, tmp_path):
    Tokenizer("".join(tokenizer.characters), tokenizer.merges, ".").save(tmp_path / "t.json")
    assert len(Tokenizer.load(tmp_path / "t.json").encode("The The")) == 7


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["7"], ["a" * 1000]])
def test_training_on_almost_no_text(texts):
    tokenizer = Tokenizer.train(texts, 300)
    assert tokenizer.decode(tokenizer.encode("abc 7")) == "abc 7"


def test_a_vocabulary_needs_room_for_special_tokens_bytes_and_digits():
    Tokenizer.train(["a"], 6 + 256 + 10)
    with pytest.raises(UserError, match="need 272"):
        Tokenizer.train(["a"], 271)


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(UserError, match="half of a surrogate pair"):
        tokenizer.encode("a\ud800b")


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="train the tokenizer first"):
        Tokenizer.load(tmp_path / "none.json")
    for content in ("", "{}", "[1]", '{"pattern": "(", "characters": "", "merges": []}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match="damaged"):
            Tokenizer.load(tmp_path / "bad.json")
