"""What a base model can do: figures of models whose answers are known."""
import dataclasses
import math

import pytest
import torch

from afm_min import evaluate_base
from afm_min.evaluate_base import continuations, held_out, plain_texts, recall
from afm_min.model import AFM, Config
from afm_min.run import Run, save
from afm_min.tokenizer import DOCUMENT, Tokenizer
from afm_min.world.tasks import MATH, draw_task, draw_tasks

SMALL = Config(dim=12, layers=2, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


@pytest.fixture
def run(tmp_path):
    """A run with a tokenizer and a small model config."""
    run = Run(tmp_path)
    tokenizer = Tokenizer.train(
        ["é The keys of Ada are red blue green. Question: What colour?" * 9], 300)
    tokenizer.save(run.file("tokenizer.json"))
    run.config = dataclasses.replace(SMALL, vocab_size=tokenizer.vocab_size, context=64)
    return run


def test_held_out_of_a_uniform_model(run):
    """With an embedding of zeros all V tokens are equally likely: log2(V) bits each, and id 0 ranks
    first.

    The stream of 33: <|document|>, 16 times é, <|document|>, 15 times é, of 2 bytes each. One
    window of 33 predicts all but the first: 31 é and a <|document|>, which has no bytes."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    assert len(tokenizer.encode("é")) == 1
    ids = [0, *tokenizer.encode("é") * 16, 0, *tokenizer.encode("é") * 15]
    save(run.file("tokens.pt"), held_out={"a": torch.tensor(ids, dtype=torch.int32)},
         **run.provenance("tokenizer"))
    model = AFM(run.config)
    model.tokenizer = tokenizer
    torch.nn.init.zeros_(model.embedding)
    bits = 32 * math.log2(tokenizer.vocab_size) / (31 * 2)
    assert held_out(model, run) == pytest.approx(
        {"accuracy %": 100 / 32, "bits/byte": bits, "a bits/byte": bits})


def test_held_out_averages_the_sources(run):
    """Bits per byte are the mean over sources, whatever their sizes; the accuracy is over all
    tokens. Here source a has 1-byte tokens and b 2-byte ones, of log2(V) bits each."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    a, = tokenizer.encode("q")
    b, = tokenizer.encode("é")
    streams = {"a": torch.tensor([a] * 11), "b": torch.tensor([b] * 31)}
    save(run.file("tokens.pt"), held_out=streams, **run.provenance("tokenizer"))
    model = AFM(run.config)
    model.tokenizer = tokenizer
    torch.nn.init.zeros_(model.embedding)
    bits = math.log2(tokenizer.vocab_size)
    assert held_out(model, run) == pytest.approx(
        {"accuracy %": 0, "bits/byte": 0.75 * bits, "a bits/byte": bits, "b bits/byte": bits / 2})


class Bigrams(torch.nn.Module):
    """The likeliest next id is the id plus 1."""
    embedding = torch.zeros(())

    def forward(self, ids):
        return 10 * torch.nn.functional.one_hot(ids + 1, 2000).float()


def test_the_true_continuation_is_the_likeliest_of_four():
    """In a stream that counts up, only the true continuation follows on its text; in a constant
    one all four are equally likely, and the first is chosen: it is the true one. A model that
    prefers what does not follow is never right."""
    counting = {"a": torch.arange(1500), "b": torch.arange(1500)}
    assert continuations(Bigrams(), counting, count=20) == [True] * 20

    class Contrary(Bigrams):
        def forward(self, ids):
            return -super().forward(ids)
    assert continuations(Contrary(), counting, count=20) == [False] * 20


def test_an_ignorant_model_chooses_one_continuation_in_four():
    torch.manual_seed(0)
    stream = torch.randint(50, (40_000,))
    model = AFM(dataclasses.replace(SMALL, context=64)).eval()
    results = continuations(model, {"a": stream}, count=500)
    assert len(results) == 500
    assert 0.15 < sum(results) / 500 < 0.35  # 5 standard deviations around 1/4


def test_plain_questions_come_after_worked_examples(monkeypatch):
    """Each document of a prompt begins with <|document|>; the last one lacks its solution. The
    response ends before the next document."""
    tokenizer = Tokenizer.train(["How many keys does Ada have? The answer is 7."], 300)
    document, seen = tokenizer.special(DOCUMENT), []

    class Model:
        config = dataclasses.replace(SMALL, context=2000)
    Model.tokenizer = tokenizer

    def generate(model, prompts, max_new_tokens, stop, temperature):
        seen.extend(prompts)
        assert (stop, temperature) == (document, 0.0)
        return [[*tokenizer.encode(" It is 7.\n"), document] for _ in prompts]
    monkeypatch.setattr(evaluate_base, "generate", generate)
    monkeypatch.setattr(evaluate_base, "Decoder", lambda model: model)
    tasks = draw_tasks(MATH, "test", 3)
    texts = plain_texts(Model(), MATH, [task.messages() for task in tasks], examples=2)
    assert texts == ["It is 7."] * 3
    examples = [draw_task(MATH, "train", f"example {i}") for i in range(2)]

    def text_of(task, *solution):  # some declare tools, and some have earlier questions
        return "\n".join([*(message["content"] for message in task.messages()), *solution])
    worked = {text_of(example, example.solution) for example in examples}
    questions = set()
    for prompt in seen:
        text = "".join("|" if i == document else tokenizer.decode([i]) for i in prompt)
        nothing, *documents = text.split("|")
        assert nothing == "" and set(documents[:2]) == worked
        questions.add(documents[2])
    assert questions == {f"{text_of(task)}\n" for task in tasks}


def test_examples_that_do_not_fit_are_left_out(monkeypatch):
    tokenizer = Tokenizer.train(["How many keys does Ada have? The answer is 7."], 300)
    lengths = []

    class Model:
        config = dataclasses.replace(SMALL, context=150)
    Model.tokenizer = tokenizer

    def generate(model, prompts, max_new_tokens, stop, temperature):
        lengths.extend(map(len, prompts))
        return [[] for _ in prompts]
    monkeypatch.setattr(evaluate_base, "generate", generate)
    monkeypatch.setattr(evaluate_base, "Decoder", lambda model: model)
    prompts = [task.messages() for task in draw_tasks(MATH, "test", 5)]
    assert plain_texts(Model(), MATH, prompts, examples=9, max_new_tokens=10) == [""] * 5
    assert max(lengths) < 150


def test_recall_of_a_model_that_copies_and_of_one_that_does_not(run):
    """A model that copies recalls all facts, at every length; one with constant logits none."""
    save(run.file("tokens.pt"), held_out={"a": torch.full((400,), 7)},
         **run.provenance("tokenizer"))
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))

    class Copies(torch.nn.Module):
        """Predicts the token that followed the longest repeated end of the text."""
        def __init__(self, factors=1):  # factors: of each token's logit
            super().__init__()
            self.tokenizer, self.factors = tokenizer, factors

        def forward(self, ids):
            logits = torch.zeros(*ids.shape, tokenizer.vocab_size)
            for b, row in enumerate(ids.tolist()):
                for t in range(len(row)):
                    for n in range(min(t, 12), 0, -1):
                        ends = [s for s in range(n, t + 1) if row[s - n:s] == row[t + 1 - n:t + 1]]
                        if ends:
                            logits[b, t, row[ends[0]]] = 1
                            break
            return logits * self.factors

        def hidden_states(self, ids, wanted):
            return self(ids)[wanted]

        def logits(self, hidden_states):
            return hidden_states

    metrics = recall(Copies(), run, longest=4, count=3)
    assert metrics == {f"recall at {times}x %": 100.0 for times in (0.5, 1, 2, 4)}
    digits = torch.tensor([token.isdigit() for token in tokenizer.vocab])  # answers are digits
    assert set(recall(Copies(digits), run, longest=1, count=3).values()) == {100.0}
    assert set(recall(Copies(0), run, longest=4, count=3).values()) == {0.0}


def test_each_fact_to_recall_has_its_own_text_before_the_question(run):
    """Facts 0 to 3 take the longest held-out stream from 0, 1/4, 2/4 and 3/4 on, and come first
    in their rows."""
    streams = {"b": torch.arange(2000, 2010), "a": torch.arange(1000, 1400)}
    save(run.file("tokens.pt"), held_out=streams, **run.provenance("tokenizer"))
    run.config, rows = dataclasses.replace(SMALL, context=256), []

    class Model:
        tokenizer = Tokenizer.load(run.file("tokenizer.json"))

        def hidden_states(self, ids, wanted):
            rows.extend(ids.tolist())
            return torch.zeros(int(wanted.sum()), 9)

        def logits(self, hidden_states):
            return hidden_states
    recall(Model(), run, longest=1, count=4)
    begins = [next(i for i in row if i >= 1000) for row in rows]  # the first id of the stream
    assert begins == [1000, 1100, 1200, 1300] * 2
    assert all(row[0] < 1000 for row in rows)
    assert [len(row) for row in rows] == [127] * 4 + [255] * 4  # the last id is only predicted
