"""Text to token ids and back: byte pair encoding (BPE) in the SentencePiece manner.

The base symbols are the characters seen in training, each digit alone, and the 256 bytes. A
character outside the vocabulary is spelled in its UTF-8 bytes, so nothing is ever unknown and
decode(encode(text)) == text. No Unicode normalisation.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=300)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("low lowest 42")]
    ['low', ' lowest', ' ', '4', '2']

In order of id, a vocabulary holds special tokens, bytes, characters, and a token per merge.
"""
import collections
import heapq
import itertools
import json
import re

import regex

from afm_min.run import UserError, write_text

DOCUMENT, SYSTEM, USER, ASSISTANT, TOOL, END = SPECIALS = (
    "<|document|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
BYTES = range(len(SPECIALS), len(SPECIALS) + 256)  # the id of byte b is BYTES[b]
DIGITS = "0123456789"

# Merges never cross the border of a chunk: a word, or a run of punctuation, with the space before
# it; one digit; a run of white space. A chunk has 16 characters at most (as SentencePiece's longest
# piece has), so encoding one has a bounded cost: a megabyte of one letter is as cheap as prose.
PATTERN = r" ?[^\W\d]{1,15}|\d| ?[^\s\w]{1,15}|\s{1,16}(?!\S)|\s{1,16}"

# The same for ASCII text and Python's own `re`, which splits it twice as fast as `regex` does.
ASCII_PATTERN = r" ?[A-Za-z_]{1,15}|[0-9]| ?[^\s\w]{1,15}|\s{1,16}(?!\S)|\s{1,16}"

# A text is split in blocks of about 1,024 characters, so one "é" slows down its own block only. A
# block ends at a visible ASCII character before a space or a newline, where a chunk always ends.
BLOCK_PATTERN = r"(?s).{1024}.*?[!-~](?=[ \n])|.+"

CACHE_SIZE = 2**16  # chunks
EDGE = "\0"  # marks the ends of a word in training

split_blocks = re.compile(BLOCK_PATTERN).findall
split_ascii = re.compile(ASCII_PATTERN, re.ASCII).findall
split_unicode = regex.compile(PATTERN).findall


def split(text):
    """Iterate over the chunks of a text, the same as in regex.findall(PATTERN, text)."""
    return itertools.chain.from_iterable(
        split_ascii(block) if block.isascii() else split_unicode(block)
        for block in split_blocks(text))


class Cache(dict):
    """Map a chunk to its ids, and compute them when the chunk is first looked up.

    A full cache is emptied, so its memory is bounded. Frequent chunks soon return to it."""

    def __init__(self, merge_chunk):
        super().__init__()
        self.merge_chunk = merge_chunk

    def __missing__(self, chunk):
        if len(self) >= CACHE_SIZE:
            self.clear()
        self[chunk] = ids = tuple(self.merge_chunk(chunk))
        return ids


class Tokenizer:
    def __init__(self, characters, merges, pattern=PATTERN):
        """characters: a str of distinct ones. merges: pairs of ids, in the order learned."""
        self.pattern = pattern
        self.characters = {c: BYTES.stop + i for i, c in enumerate(characters)}  # -> id
        self.vocab = [special.encode() for special in SPECIALS]  # id -> the bytes it stands for
        self.vocab += [bytes([b]) for b in range(256)] + [c.encode() for c in characters]
        self.merges = {}  # chr(left id) + chr(right id) -> merged id; a lower one is merged first
        self.ranks = [{} for _ in self.vocab]  # the same: ranks[left id][right id] -> merged id
        for left, right in merges:
            self.add_merge(chr(left) + chr(right))
        self.split = split if pattern == PATTERN else regex.compile(pattern).findall
        self.cache = Cache(self.merge_chunk)

    @property
    def vocab_size(self):
        return len(self.vocab)

    def special(self, name):
        """'<|end|>' -> 5"""
        return SPECIALS.index(name)

    def add_merge(self, pair):
        left, right = map(ord, pair)
        self.merges[pair] = self.ranks[left][right] = len(self.vocab)
        self.ranks.append({})
        self.vocab.append(self.vocab[left] + self.vocab[right])

    def spell(self, chunk):
        """Return the ids of a chunk before any merge: '7é' -> [269, 300], or if é is not in the
        vocabulary, [269, 201, 175]: its two bytes."""
        ids = list(map(self.characters.get, chunk))
        if None in ids:
            ids = []
            for c in chunk:
                known = c in self.characters
                ids += [self.characters[c]] if known else [BYTES[b] for b in c.encode()]
        return ids

    def merge_chunk(self, chunk):
        """Return the ids of a chunk: of all merges that apply do the one learned first, until none
        does. A merge changes the pairs on its two sides, so only those are looked up again."""
        ids, ranks, never = self.spell(chunk), self.ranks, len(self.vocab)
        merged = [ranks[left].get(right, never) for left, right in zip(ids, ids[1:])]
        while merged and (new := min(merged)) < never:
            i = merged.index(new)
            ids[i] = new
            del ids[i + 1], merged[i]
            if i > 0:
                merged[i - 1] = ranks[ids[i - 1]].get(new, never)
            if i < len(merged):
                merged[i] = ranks[new].get(ids[i + 1], never)
        return ids

    def encode(self, text, specials=False):
        """str -> list of ids. '<|end|>' in a text is text like any other, unless `specials` is set.

        Raises UserError for a lone surrogate, which UTF-8 cannot hold."""
        if specials:
            parts = regex.split("(" + "|".join(map(regex.escape, SPECIALS)) + ")", text)
            return [i for part in parts
                    for i in ([self.special(part)] if part in SPECIALS else self.encode(part))]
        try:
            encoded = map(self.cache.__getitem__, self.split(text))
            return list(itertools.chain.from_iterable(encoded))
        except UnicodeEncodeError as error:
            raise UserError(f"the text holds {error.object[error.start]!a}, half of a surrogate "
                            "pair: it was not read as UTF-8") from None

    def decode(self, ids):
        """list of ids -> str. Bytes that are no UTF-8, which a model may emit, become U+FFFD."""
        return b"".join([self.vocab[i] for i in ids]).decode("utf-8", errors="replace")

    def encode_chat(self, messages, reply=False):
        """[{"role": "user", "content": "Hi"}, ...] -> ids of '<|user|>Hi<|end|>...'

        `reply` adds <|assistant|>, which asks the model for its turn. A content cannot forge a
        turn: what looks like a special token in it stays text."""
        ids = []
        for message in messages:
            role, said = message["role"], self.encode(message["content"])
            if role not in ("system", "user", "assistant", "tool"):
                raise UserError(f"there is no role {role!r}: use system, user, assistant or tool")
            ids += [self.special(f"<|{role}|>"), *said, self.special(END)]
        return ids + [self.special(ASSISTANT)] * reply

    def save(self, path):
        write_text(path, json.dumps({
            "pattern": self.pattern, "characters": "".join(self.characters),
            "merges": [[ord(left), ord(right)] for left, right in self.merges]}))

    @classmethod
    def load(cls, path):
        try:
            with open(path, encoding="utf-8") as file:
                return cls(**json.load(file))
        except FileNotFoundError:
            raise UserError(f"there is no {path}: train the tokenizer first") from None
        except (ValueError, LookupError, TypeError, regex.error):
            raise UserError(f"{path} is damaged, or no tokenizer of this program: "
                            "train it again") from None

    @classmethod
    def train(cls, texts, vocab_size, coverage=0.9995):
        """Learn characters, then merges, from an iterable of str.

        coverage: share of the text's characters that become base symbols; the rarest are left to
        their bytes. The vocabulary comes out smaller if the text has no more pairs to merge.
        Raises UserError if `vocab_size` cannot hold special tokens, bytes and digits."""
        check_vocab_size(vocab_size)
        chunks = collections.Counter()
        for text in texts:
            chunks.update(split(text))
        tokenizer = cls(frequent_characters(chunks, coverage, vocab_size - BYTES.stop), [])
        learn_merges(tokenizer, chunks, vocab_size)
        return tokenizer


def check_vocab_size(vocab_size):
    least = BYTES.stop + len(DIGITS)
    if vocab_size < least:
        raise UserError(f"a vocabulary of {vocab_size} is too small: {len(SPECIALS)} special "
                        f"tokens, 256 bytes and {len(DIGITS)} digits need {least}")


def pairs(word):
    """The pairs of neighbours: 'abc' -> 'ab', 'bc'"""
    return map(str.__add__, word, word[1:])


def frequent_characters(chunks, coverage, room):
    """The digits, then the most frequent characters, until `coverage` of the text is reached."""
    counts = collections.defaultdict(int)
    for chunk, count in chunks.items():
        for c in chunk:
            counts[c] += count
    kept, covered, total = DIGITS, sum(counts[digit] for digit in DIGITS), sum(counts.values())
    for c in sorted(counts.keys() - DIGITS, key=lambda c: (-counts[c], c)):
        if covered >= coverage * total or len(kept) == room:
            break
        kept += c
        covered += counts[c]
    return kept


def learn_merges(tokenizer, chunks, vocab_size):
    """Merge the most frequent pair of neighbours (of equals, the lowest ids) until there are
    `vocab_size` tokens, or no more pairs.

    A text has few distinct chunks, and a merge touches few of those. So: count each chunk once,
    know for every pair the words it occurs in, and after a merge count anew only what is next to
    the new token. The heap is lazy: an entry whose count is out of date goes back with the true
    one when it comes up. The cost grows with the distinct chunks, not with their repetitions."""
    words, frequency = spell_words(tokenizer, chunks), list(chunks.values())
    where = collections.defaultdict(list)  # pair -> the index of a word, once per occurrence
    for w, word in enumerate(words):
        for pair in pairs(word[1:-1]):
            where[pair].append(w)
    counts = {pair: sum([frequency[w] for w in places])  # pair -> occurrences in the text
              for pair, places in where.items() if EDGE not in pair}
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and tokenizer.vocab_size < vocab_size:
        negated, pair = heapq.heappop(heap)
        if counts[pair] != -negated:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        (left, right), new = pair, chr(tokenizer.vocab_size)
        tokenizer.add_merge(pair)
        for new_pair, places in replace_pair(words, where.pop(pair), pair, new).items():
            if EDGE not in new_pair:
                where[new_pair] = tuple(places)  # the garbage collector skips a tuple of ints
                counts[new_pair] = count = sum([frequency[w] for w in places])
                heapq.heappush(heap, (-count, new_pair))
                before, after = new_pair  # and the pair that stood here had right, or left, as new
                old_pair = (right if before == new else before) + (left if after == new else after)
                counts[old_pair] -= count


def spell_words(tokenizer, chunks):
    """Return each chunk as a str of one character per token, chr(id), for str's own methods.

    EDGE is at both ends, so every token has neighbours, and stands for the characters outside the
    vocabulary, so none is merged: 'aé' -> EDGE + chr(272) + EDGE + EDGE, if é is one of those."""
    token = collections.defaultdict(lambda: EDGE)
    for c, i in tokenizer.characters.items():
        token[ord(c)] = chr(i)
    return [f"{EDGE}{chunk.translate(token)}{EDGE}" for chunk in chunks]


def replace_pair(words, places, pair, new):
    """Replace a pair by `new` in the words at `places`, the indices of words, once per occurrence.
    Return the pairs that this makes, each with such indices.

    With EDGE as '.': words ['.xaby.'], pair 'ab', new 'N' -> ['.xNy.'], {'xN': [0], 'Ny': [0]}"""
    new_pairs = collections.defaultdict(list)
    for w in places:
        if pair in words[w]:  # else another merge has used up its tokens
            before, after = words[w].split(pair, 1)
            words[w] = before + new + after
            new_pairs[before[-1] + new].append(w)
            if after[:2] != pair:  # else the next iteration replaces that, too, and adds new + new
                new_pairs[new + after[0]].append(w)
    return new_pairs
