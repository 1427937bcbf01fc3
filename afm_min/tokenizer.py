"""Text to token ids and back: byte pair encoding (BPE) in the SentencePiece manner.

The base symbols are the frequent characters of the training text, the ten digits, and the 256
bytes. Digits are never merged. Any other character is spelled in its UTF-8 bytes, so there is no
unknown token, and decode(encode(text)) == text. There is no Unicode normalisation.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=300)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("low lowest 42")]
    ['low', ' lowest', ' ', '4', '2']

Ids are numbered in this order: special tokens, bytes, characters, one token for each merge.
"""
import collections
import functools
import heapq
import itertools
import re

import regex

from afm_min.files import UserError, read_json, write_json

SPECIALS = ("<|document|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
DOCUMENT, SYSTEM, USER, ASSISTANT, TOOL, END = SPECIALS
BYTES = range(len(SPECIALS), len(SPECIALS) + 256)  # the id of byte b is BYTES[b]
DIGITS = "0123456789"

# Merges never cross the border of a chunk: a word or a run of punctuation, with the space before
# it; one digit; a run of white space. The last space before a word belongs to the word:
# "a  b1" -> "a", " ", " b", "1". A chunk has at most 16 characters, like SentencePiece's longest
# piece, so the cost of encoding one is bounded, even in a text of one repeated letter.
PATTERN = r" ?[^\W\d]{1,15}|\d| ?[^\s\w]{1,15}|\s{1,16}(?!\S)|\s{1,16}"

# The same pattern for ASCII text, where Python's own `re` is used because it is faster. On other
# text its \w differs from that of `regex`: for example, it lacks combining marks.
ASCII_PATTERN = r" ?[A-Za-z_]{1,15}|[0-9]| ?[^\s\w]{1,15}|\s{1,16}(?!\S)|\s{1,16}"

# A text is split block by block, each of about 1,024 characters, so one "é" slows down only its own
# block. A block ends between a visible ASCII character and a space or newline. A chunk always ends
# there, too, so the chunks are those of the whole text.
BLOCK_PATTERN = r"(?s).{1024}.*?[!-~](?=[ \n])|.+"

CACHE_SIZE = 2**16  # chunks
EDGE = "\0"  # marks the ends of a word in training: see spell_words

split_blocks = re.compile(BLOCK_PATTERN).findall
split_ascii = re.compile(ASCII_PATTERN, re.ASCII).findall
split_unicode = regex.compile(PATTERN).findall


def split(text):
    """Iterate over the chunks of a text, the same as in regex.findall(PATTERN, text)."""
    for block in split_blocks(text):
        yield from split_ascii(block) if block.isascii() else split_unicode(block)


class Tokenizer:
    """A vocabulary of byte strings, and the merges that spell a text with it."""

    def __init__(self, characters, merges, pattern=PATTERN):
        """characters: a str without repetitions. merges: pairs of ids, in the order learned."""
        self.pattern = pattern
        self.characters = {c: BYTES.stop + i for i, c in enumerate(characters)}  # -> id
        self.vocab = [special.encode() for special in SPECIALS]  # id -> bytes
        self.vocab += [bytes([b]) for b in range(256)] + [c.encode() for c in characters]
        self.merges = {}  # (left id, right id) -> id of the merged token
        for left, right in merges:
            self.add_merge(left, right)
        self.split = split if pattern == PATTERN else regex.compile(pattern).findall
        self.encode_chunk = functools.lru_cache(CACHE_SIZE)(self.merge_chunk)  # words repeat

    @property
    def vocab_size(self):
        """Return the number of ids."""
        return len(self.vocab)

    def special(self, name):
        """'<|end|>' -> 5"""
        return SPECIALS.index(name)

    def add_merge(self, left, right):
        """Add a token: the concatenation of two others, given by their ids."""
        self.merges[left, right] = len(self.vocab)
        self.vocab.append(self.vocab[left] + self.vocab[right])

    def spell(self, chunk):
        """Return the ids of a chunk before any merge: '7é' -> [269, 300], or, if é is not in the
        vocabulary, [269, 201, 175] with its two bytes."""
        ids = []
        for c in chunk:
            ids += [self.characters[c]] if c in self.characters else [BYTES[b] for b in c.encode()]
        return ids

    def merge_chunk(self, chunk):
        """Return the ids of a chunk. As long as any merge applies, do the one learned first: it has
        the lowest id. A merge changes its two neighbouring pairs, so only these are looked up."""
        ids, merges = self.spell(chunk), self.merges
        no_merge = len(self.vocab)  # larger than every id, so `min` passes over it
        pair_ids = [merges.get(pair, no_merge) for pair in zip(ids, ids[1:])]  # what each becomes
        while pair_ids and (new := min(pair_ids)) < no_merge:
            i = pair_ids.index(new)
            ids[i] = new
            del ids[i + 1], pair_ids[i]
            if i > 0:
                pair_ids[i - 1] = merges.get((ids[i - 1], new), no_merge)
            if i < len(pair_ids):
                pair_ids[i] = merges.get((new, ids[i + 1]), no_merge)
        return ids

    def encode(self, text, specials=False):
        """Return the ids of a text, a list.

        specials: encode '<|end|>' and its like as special tokens. By default they are plain text.
        Raises UserError for a lone surrogate, which UTF-8 cannot hold."""
        if specials:
            # The group in the pattern keeps the separators: text, special, text, special, ...
            parts = regex.split("(" + "|".join(map(regex.escape, SPECIALS)) + ")", text)
            return [i for part in parts
                    for i in ([self.special(part)] if part in SPECIALS else self.encode(part))]
        try:
            return list(itertools.chain.from_iterable(map(self.encode_chunk, self.split(text))))
        except UnicodeEncodeError as error:
            raise UserError(f"the text contains {error.object[error.start]!a}, half of a surrogate "
                            "pair, which is no character: read the text as UTF-8") from None

    def decode(self, ids):
        """Return the text of a list of ids. Invalid UTF-8 (a model may emit it) becomes U+FFFD."""
        return b"".join([self.vocab[i] for i in ids]).decode("utf-8", errors="replace")

    def encode_chat(self, messages, reply=False):
        """[{"role": "user", "content": "Hi"}, ...] -> ids of '<|user|>Hi<|end|>...'

        reply: append <|assistant|>, after which a model answers. A content cannot forge a turn: a
        special token in it is encoded as text."""
        ids = []
        for message in messages:
            role = f"<|{message['role']}|>"
            if role not in (SYSTEM, USER, ASSISTANT, TOOL):
                raise UserError(f"there is no role {message['role']!r}: use system, user, "
                                "assistant or tool")
            ids += [self.special(role), *self.encode(message["content"]), self.special(END)]
        return ids + [self.special(ASSISTANT)] if reply else ids

    def save(self, path):
        """Write the tokenizer to a JSON file."""
        write_json(path, {"pattern": self.pattern, "characters": "".join(self.characters),
                          "merges": list(self.merges)})

    @classmethod
    def load(cls, path):
        """Read a file that `save` wrote. Raises UserError if it is missing or damaged."""
        try:
            entries = read_json(path)
        except FileNotFoundError:
            raise UserError(f"there is no {path}: train the tokenizer first") from None
        if entries is None or entries.keys() != {"pattern", "characters", "merges"}:
            raise UserError(f"{path} is damaged, or no tokenizer of this program: train it again")
        return cls(**entries)

    @classmethod
    def train(cls, texts, vocab_size, coverage=0.9995):
        """Learn characters, then merges, from an iterable of str.

        coverage: the most frequent characters, which make up this share of the text, become base
        symbols; the others are spelled in bytes. The vocabulary is smaller than `vocab_size` if the
        text has no more pairs to merge.
        Raises UserError as `check_vocab_size` does."""
        check_vocab_size(vocab_size)
        chunks = collections.Counter()
        for text in texts:
            chunks.update(split(text))
        tokenizer = cls(frequent_characters(chunks, coverage, vocab_size - BYTES.stop), [])
        learn_merges(tokenizer, chunks, vocab_size)
        return tokenizer


def check_vocab_size(vocab_size):
    """Raise UserError if `vocab_size` has no room for special tokens, bytes and digits."""
    least = BYTES.stop + len(DIGITS)
    if vocab_size < least:
        raise UserError(f"a vocabulary of {vocab_size} is too small: {len(SPECIALS)} special "
                        f"tokens, 256 bytes and {len(DIGITS)} digits need {least}")


def frequent_characters(chunks, coverage, room):
    """Return the digits, then the most frequent characters: as many as make up the share
    `coverage` of the text.

    chunks: {chunk: count}. room: the most characters to return."""
    counts = collections.Counter()
    for chunk, count in chunks.items():
        for c in chunk:
            counts[c] += count
    characters = DIGITS
    covered, total = sum(counts[digit] for digit in DIGITS), counts.total()
    for c in sorted(counts.keys() - DIGITS, key=lambda c: (-counts[c], c)):
        if covered >= coverage * total or len(characters) == room:
            break
        characters += c
        covered += counts[c]
    return characters


def learn_merges(tokenizer, chunks, vocab_size):
    """Add to the tokenizer a merge of the most frequent pair of neighbouring tokens, until it has
    `vocab_size` tokens or no pairs are left. Of equally frequent pairs, the lowest ids come first.

    For example, the chunks {"low": 5, "lot": 2, " low": 1}:

        pair counts                        merge     words after it
        lo 8, ow 6, ot 2, " l" 1           lo        lo-w 5, lo-t 2, " "-lo-w 1
        lo-w 6, lo-t 2, " "-lo 1           lo-w      low 5, lo-t 2, " "-low 1
        lo-t 2, " "-low 1                  lo-t      low 5, lot 2, " "-low 1

    A text has few distinct chunks (words), and a merge changes few of them. So a word is stored
    once, with its frequency; `where` lists the words that a pair occurs in; and a merge updates
    only the counts of the pairs beside the new token. Above, merging lo adds lo-w with 5 + 1 and
    lo-t with 2, and takes the same numbers from ow and ot.

    The heap finds the most frequent pair. Counts fall without touching the heap. So a popped entry
    whose count is outdated is pushed back with the current count."""
    words, frequency = spell_words(tokenizer, chunks), list(chunks.values())
    where = collections.defaultdict(list)  # pair -> indices of words, one per occurrence
    for w, word in enumerate(words):
        for i in range(1, len(word) - 2):  # all but the EDGE at both ends
            where[word[i:i + 2]].append(w)
    counts = {pair: sum([frequency[w] for w in places])  # pair -> occurrences in the text
              for pair, places in where.items() if EDGE not in pair}
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and tokenizer.vocab_size < vocab_size:
        negated, pair = heapq.heappop(heap)
        if counts[pair] != -negated:  # outdated
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        left, right = pair
        new = chr(tokenizer.vocab_size)
        tokenizer.add_merge(ord(left), ord(right))
        for new_pair, places in replace_pair(words, where.pop(pair), pair, new).items():
            if EDGE not in new_pair:
                where[new_pair] = tuple(places)  # garbage collection skips a tuple of ints
                counts[new_pair] = count = sum([frequency[w] for w in places])
                heapq.heappush(heap, (-count, new_pair))
                # This pair replaces another one: (before, new) was (before, left), (new, after) was
                # (right, after), and (new, new) was (right, left).
                before, after = new_pair
                old_pair = (right if before == new else before) + (left if after == new else after)
                counts[old_pair] -= count


def spell_words(tokenizer, chunks):
    """Return each chunk as a str with one character, chr(id), per token. Finding and replacing a
    pair of ids then takes only the fast methods of str.

    EDGE is added at both ends, so every token has neighbours. EDGE also replaces characters outside
    the vocabulary, so they are never merged. If a has id 272 and é is outside:
    'aé' -> EDGE + chr(272) + EDGE + EDGE"""
    tokens = collections.defaultdict(lambda: EDGE)
    tokens.update({ord(c): chr(i) for c, i in tokenizer.characters.items()})
    return [f"{EDGE}{chunk.translate(tokens)}{EDGE}" for chunk in chunks]


def replace_pair(words, places, pair, new):
    """Replace a pair by the token `new` in words, in place. places: indices of the words with the
    pair, one for each occurrence.

    Returns the pairs that arise, in the same form: {pair: indices}. With EDGE as '.':
    words ['.xaby.'], pair 'ab', new 'N' -> words ['.xNy.'], returns {'xN': [0], 'Ny': [0]}"""
    new_pairs = collections.defaultdict(list)
    for w in places:
        if pair in words[w]:  # else an earlier merge has used one of its two tokens
            before, after = words[w].split(pair, 1)
            words[w] = before + new + after
            new_pairs[before[-1] + new].append(w)
            if after[:2] != pair:  # else, as in 'abab', the next iteration adds new + new
                new_pairs[new + after[0]].append(w)
    return new_pairs
