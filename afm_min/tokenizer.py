"""Text to token ids and back: byte pair encoding (BPE) in the SentencePiece manner.

The base symbols are the characters seen in training, each digit alone, and the 256 bytes. A
character outside the vocabulary is spelled in its UTF-8 bytes, so nothing is ever unknown and
decode(encode(text)) == text. No Unicode normalisation.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=300)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("low lowest 42")]
    ['low', ' lowest', ' ', '4', '2']

In order of id, a vocabulary holds special tokens, bytes, characters, and a token per merge. While
it is being merged, a chunk of text is a str of one character per token, chr(id): so str's own
replace and split do the work.
"""
import collections
import functools
import heapq
import itertools
import json

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


class Tokenizer:
    def __init__(self, characters, merges, pattern=PATTERN):
        """characters: a str of distinct ones. merges: pairs of ids, in the order learned."""
        self.pattern = pattern
        self.characters = {c: chr(BYTES.stop + i) for i, c in enumerate(characters)}  # -> token
        self.vocab = [special.encode() for special in SPECIALS]  # id -> the bytes it stands for
        self.vocab += [bytes([b]) for b in range(256)] + [c.encode() for c in characters]
        self.merges = {}  # chr(left id) + chr(right id) -> merged id; a lower one is merged first
        for left, right in merges:
            self.add_merge(chr(left) + chr(right))
        self.split = regex.compile(pattern).findall
        self.encode_chunk = functools.lru_cache(2**16)(self.merge_chunk)  # words recur

    @property
    def vocab_size(self):
        return len(self.vocab)

    def special(self, name):
        """'<|end|>' -> 5"""
        return SPECIALS.index(name)

    def add_merge(self, pair):
        self.merges[pair] = len(self.vocab)
        self.vocab.append(b"".join(self.vocab[ord(token)] for token in pair))

    def spell(self, chunk):
        """A chunk before any merge: '7é' -> a token, and one more for é or two for its bytes."""
        return "".join(self.characters.get(c) or "".join(chr(BYTES[b]) for b in c.encode())
                       for c in chunk)

    def merge_chunk(self, chunk):
        """Ids of a chunk: of all merges that apply do the one learned first, until none does."""
        word, never = self.spell(chunk), len(self.vocab)
        while len(word) > 1:
            pair = min(pairs(word), key=lambda pair: self.merges.get(pair, never))
            if pair not in self.merges:
                break
            word = word.replace(pair, chr(self.merges[pair]))
        return [ord(token) for token in word]

    def encode(self, text, specials=False):
        """str -> list of ids. '<|end|>' in a text is text like any other, unless `specials` is set.

        Raises UserError for a lone surrogate, which UTF-8 cannot hold."""
        if specials:
            parts = regex.split("(" + "|".join(map(regex.escape, SPECIALS)) + ")", text)
            return [i for part in parts
                    for i in ([self.special(part)] if part in SPECIALS else self.encode(part))]
        try:
            return list(itertools.chain.from_iterable(map(self.encode_chunk, self.split(text))))
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
            chunks.update(regex.findall(PATTERN, text))
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
    counts = collections.Counter()
    for chunk, count in chunks.items():
        for c in chunk:
            counts[c] += count
    kept, covered, total = DIGITS, sum(counts[digit] for digit in DIGITS), counts.total()
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
    know for every pair the chunks it stands in, and after a merge count anew only what is next to
    the new token. The heap is lazy: an entry whose count is out of date goes back with the true
    one when it comes up. The cost grows with the distinct chunks, not with their repetitions."""
    words = [f"\0{tokenizer.spell(chunk)}\0" for chunk in chunks]  # so every token has neighbours
    frequency, heap = list(chunks.values()), []
    counts, where = {}, {}  # pair -> occurrences in the text; the words that have, or had, it
    made = collections.defaultdict(list)  # new pair -> the word of each occurrence, by its index
    for w, word in enumerate(words):
        for pair in pairs(word):
            made[pair].append(w)
    while (made or heap) and tokenizer.vocab_size < vocab_size:
        for pair, places in made.items():
            counts[pair] = sum(frequency[w] for w in places)
            heapq.heappush(heap, (-counts[pair], pair))
        where |= made
        made = collections.defaultdict(list)
        negated, pair = heapq.heappop(heap)
        if counts[pair] != -negated:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
        elif ord(min(pair)) >= BYTES.stop:  # neither an end of a word nor a fallback byte
            (left, right), new = pair, chr(tokenizer.vocab_size)
            tokenizer.add_merge(pair)
            for w in where.pop(pair):
                parts = words[w].split(pair)
                words[w] = new.join(parts)
                for before, after in itertools.pairwise(parts):  # a merge stands between the two
                    counts[(before[-1:] or right) + left] -= frequency[w]  # or a merge is before it
                    made[(before[-1:] or new) + new].append(w)
                    if after:  # else a merge comes after it, and counts what is between them
                        counts[right + after[0]] -= frequency[w]
                        made[new + after[0]].append(w)
