"""Training to look up: rows by hand and laws, the loss, the curriculum."""
import dataclasses
import math
import re

import pytest
import torch

from afm_min import lookup
from afm_min.lookup import key_value_rows
from afm_min.model import AFM, Config, load_model
from afm_min.run import Run
from afm_min.tokenizer import SPECIALS, Tokenizer

SMALL = Config(dim=12, layers=2, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


@pytest.fixture
def run(tmp_path):
    """A run with a tokenizer and a small model config."""
    run = Run(tmp_path)
    tokenizer = Tokenizer.train(
        ["The keys of Ada are in box 4. Question: Where are they? Answer: in box 0123456789" * 9],
        300)
    tokenizer.save(run.file("tokenizer.json"))
    run.config = dataclasses.replace(SMALL, vocab_size=tokenizer.vocab_size, context=64)
    return run


def test_the_values_in_questions_are_those_of_their_keys():
    """In a row, ids below 10 are keys, from 10 to 19 values, from 20 on fillers. The first
    `pairs` pieces are facts; behind them each value is that of its key, and is marked."""
    torch.manual_seed(0)
    tokens = torch.arange(30).view(3, 10)
    lengths, askings = set(), set()
    for _ in range(50):
        rows, is_answer = key_value_rows(tokens, 4, pairs=3, questions=5, gap=2)
        assert rows.shape == is_answer.shape
        lengths.add(rows.shape[1])
        for ids, marked in zip(rows.tolist(), is_answer.tolist()):
            keys = [i for i in ids if i < 10]
            values = [i for i in ids if 10 <= i < 20]
            assert len(keys) == len(values) == 8
            facts = dict(zip(keys[:3], values[:3]))
            assert len(facts) == 3
            assert values[3:] == [facts[key] for key in keys[3:]]
            assert [i for i, mark in zip(ids, marked) if mark] == values[3:]
            askings.add(tuple(keys[:3].index(key) for key in keys[3:]))
    assert min(lengths) >= 16 and max(lengths) == 16 + 8 * 4  # a key, a value, up to 4 fillers
    assert len(lengths) > 4  # gaps are of any length up to the largest
    assert len(askings) > 50  # any key may be asked for at any place


def test_the_fillers_of_a_row_are_the_same_in_all_facts_and_in_all_questions():
    torch.manual_seed(1)
    tokens = torch.arange(30).view(3, 10)
    for _ in range(20):
        rows, _ = key_value_rows(tokens, 2, pairs=2, questions=2, gap=3)
        for ids in rows.tolist():
            ends = [i + 1 for i, token in enumerate(ids) if 10 <= token < 20]
            pieces = [ids[a:b] for a, b in zip([0, *ends], ends)]
            shapes = [[i if i >= 20 else "key" if i < 10 else "value" for i in piece]
                      for piece in pieces]
            assert shapes[0] == shapes[1] and shapes[2] == shapes[3]


def test_every_token_is_a_key_a_value_or_a_filler(run):
    """Digits, the answers of `note_rows`, are among the values. Special tokens are left out."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    size = tokenizer.vocab_size - len(SPECIALS)
    for num_keys, expected in ((20, 20), (10**6, (size - 10) // 3)):
        keys, values, fillers = lookup.draw_token_ids(tokenizer, num_keys)
        assert len(keys) == expected and len(values) == expected + 10
        assert set(tokenizer.encode("0123456789")) <= set(values.tolist())
        every = torch.cat((keys, values, fillers)).sort().values
        assert every.tolist() == list(range(len(SPECIALS), tokenizer.vocab_size))
        again = lookup.draw_token_ids(tokenizer, num_keys)[0]
        assert again.tolist() != keys.tolist()  # drawn at random


def test_answers_are_predicted_among_the_values():
    """With equal logits, -log p is log 4 for each of the 3 answers, as there are 4 values."""
    model, values = AFM(SMALL), torch.tensor([3, 40, 7, 12])
    model.norm.weight.data.zero_()
    ids, is_answer = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.bool)
    for row, place, value in ((0, 4, 40), (0, 8, 3), (1, 2, 12)):
        ids[row, place], is_answer[row, place] = value, True
    sums = lookup.answer_loss(model, {"ids": ids, "is_answer": is_answer}, values)
    assert sums["count"] == 3
    assert sums["nll"].item() == pytest.approx(3 * math.log(4), rel=1e-6)
    assert sums["loss"].item() == pytest.approx(0.3 * (math.log(4) + 1e-6 * math.log(4) ** 2),
                                                rel=1e-6)
    assert sums["right"].item() == 1  # the first of equal logits is the argmax


def test_answers_are_predicted_from_the_states_before_them():
    torch.manual_seed(0)
    model, values = AFM(SMALL), torch.arange(10, 20)
    ids, is_answer = torch.randint(10, 20, (2, 9)), torch.rand(2, 9) < 0.5
    is_answer[:, 0] = False
    log_p = model(ids)[:, :-1, 10:20].log_softmax(-1)
    expected = -sum(log_p[b, t, ids[b, t + 1] - 10] for b in range(2) for t in range(8)
                    if is_answer[b, t + 1])
    sums = lookup.answer_loss(model, {"ids": ids, "is_answer": is_answer}, values)
    assert sums["nll"].item() == pytest.approx(expected.item(), rel=1e-5)
    sums["loss"].backward()
    # The embeddings of tokens that are neither in the rows nor values are not moved.
    assert model.embedding.grad[20:].abs().sum() == 0
    assert model.embedding.grad[:10].abs().sum() == 0


def test_gaps_grow_in_the_second_half_of_lookup(run, monkeypatch):
    """A context of 48 has room for gaps of 2, as 8 keys then take 8 * (2 + 2 * 2) tokens."""
    run.config = dataclasses.replace(run.config, context=48)
    gaps, pieces = [], set()
    draw = lookup.key_value_rows
    monkeypatch.setattr(lookup, "key_value_rows", lambda tokens, rows, pairs, questions, gap: (
        gaps.append(gap), pieces.add((pairs, questions)),
        draw(tokens, rows, pairs, questions, gap))[-1])
    metrics = lookup.lookup(run, widen=1, steps=12, note_steps=2, batch_size=2)
    assert gaps[:12] == [0] * 6 + [0, 0, 1, 1, 2, 2]
    assert pieces == {(2, 6), (3, 5), (4, 4)}
    assert list(metrics) == ["answers right %", "values right %"]
    assert all(0 <= value <= 100 for value in metrics.values())
    assert len(load_model(run, "lookup").blocks) == run.config.layers


def test_notes_are_facts_and_then_questions_about_them(run):
    """A row has one to four facts about different people, and the answers are theirs."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    ids, is_answer = lookup.note_rows(tokenizer, 60, 160)
    assert ids.shape == is_answer.shape == (60, 160)
    counts, places = set(), set()
    for row, marked in zip(ids, is_answer):
        text = tokenizer.decode(row.tolist())
        facts = re.findall(r"\n(\w+)'s \w+ are in box (\d)", text)
        assert len(dict(facts)) == len(facts)
        counts.add(len(facts))
        asked = re.findall(r"Question: [^\n]*?(\w+)'s \w+[^\n]*\nAnswer: in box (\d)", text)
        assert asked and all(dict(facts)[name] == box for name, box in asked)
        assert [tokenizer.decode([i]) for i in row[marked].tolist()] == [box for _, box in asked]
        places |= {list(dict(facts)).index(name) for name, _ in asked}
        assert text.rindex("\n" + facts[-1][0]) < text.index("Question:")
    assert counts == {1, 2, 3, 4} and places == {0, 1, 2, 3}


def test_lookup_first_trains_on_keys_and_then_on_notes(run, monkeypatch):
    run.config = dataclasses.replace(run.config, context=160)  # a fact and a question fit
    kinds = []
    for name in ("key_value_rows", "note_rows"):
        draw = getattr(lookup, name)
        monkeypatch.setattr(lookup, name, lambda *arguments, name=name, draw=draw: (
            kinds.append(name), draw(*arguments))[1])
    lookup.lookup(run, widen=1, steps=3, note_steps=2, batch_size=2)
    assert kinds[:5] == ["key_value_rows"] * 3 + ["note_rows"] * 2
