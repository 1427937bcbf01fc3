"""The quality guards, by hand."""
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, guards
from afm_min.model import AFM
from afm_min.tokenizer import DOCUMENT, Tokenizer
from afm_min.world.tasks import MATH, draw_task
from tests.test_chat import TINY


def test_an_embedding_does_not_depend_on_the_other_conversations():
    """It is the mean state over the masked tokens, scaled to length 1."""
    tokenizer = Tokenizer.train(["Hi. Yes. No. What is it?"] * 3, 272)
    torch.manual_seed(0)
    model = AFM(dataclasses.replace(TINY, vocab_size=300))
    documents = [chat.render_response([], [tokenizer.special(DOCUMENT), *tokenizer.encode(text)],
                                      tokenizer)
                 for text in ("Yes. No. What is it? Hi.", "Hi.", "Is it?")]
    for (ids, _), embedding in zip(documents, guards.embeddings(model, documents)):
        mean = model.hidden_states(ids[None, :-1])[0].mean(0)
        assert embedding.norm().item() == pytest.approx(1)
        assert torch.cosine_similarity(embedding, mean, dim=0).item() == pytest.approx(1, abs=1e-5)


class Words:
    """A tokenizer that returns words instead of numbers."""

    def special(self, name):
        return name

    def encode(self, text):
        return text.split()


@pytest.fixture
def drop(monkeypatch):
    """Seven examples: a good one, one that is rated badly, a copy of the first, two with questions
    2.8 and 2.6 times as unlikely as is usual, a good one with the second one's embedding, and a
    badly rated one with the first one's. Returns a function that applies the guards to them."""
    task = dataclasses.replace(draw_task(MATH, "train", 1), system="", turns=())
    examples = [chat.example("math", task.messages(), task.solution)] * 7
    vectors = torch.eye(7)
    for copy, original in ((2, 0), (5, 1), (6, 0)):  # at a cosine of 0.99995
        vectors[copy] = torch.nn.functional.normalize(vectors[original] + 0.01 * vectors[copy],
                                                      dim=0)
    question, solution = task.question.split(), task.solution.split()

    def conversation_losses(model, documents):  # of the question alone
        assert documents[0][0] == [DOCUMENT, *question]
        return torch.tensor([1.0, 1.0, 1.0, 2.8, 2.6, 1.0, 1.0])

    def embeddings(model, documents):  # of the whole conversation
        assert documents[0][0] == [DOCUMENT, *question, *solution]
        return vectors
    monkeypatch.setattr(chat, "render_response", lambda prompt, ids, tokenizer: (ids, None))
    monkeypatch.setattr(chat, "conversation_losses", conversation_losses)
    monkeypatch.setattr(guards, "embeddings", embeddings)
    well_rated = [i not in (1, 6) for i in range(7)]
    model = SimpleNamespace(config=TINY, tokenizer=Words())
    return lambda unlikely, similar: guards.first_guards(examples, well_rated, model, unlikely,
                                                         similar)


def test_each_guard_drops_what_it_is_for(drop):
    """A copy of one that was dropped stays. The first guard to drop one is its outcome."""
    assert drop(unlikely=2.7, similar=0.9999) == [
        "kept", "rating", "copy", "model", "kept", "kept", "rating"]


def test_thresholds_of_the_guards(drop):
    assert drop(unlikely=2.9, similar=0.9999)[3] == "kept"
    assert drop(unlikely=2.5, similar=0.9999)[4] == "model"
    assert drop(unlikely=2.7, similar=0.99999)[2] == "kept"


def test_no_examples_have_no_outcomes():
    assert guards.first_guards([], [], SimpleNamespace(tokenizer=None), 2.4, 0.9999) == []


def test_a_row_counts_examples_and_outcomes():
    assert guards.table_row("math", ["kept", "copy", "model", "kept", "kept", "rating", "rating"]
                            ) == ["math", 7, 2, 1, 1, 3]
