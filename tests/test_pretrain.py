"""Pruning, distillation, lengthening: formulas by hand, and laws."""
import math

import pytest
import torch

from afm_min import pretrain
from afm_min.data import corpus
from afm_min.world.tasks import RECALL, draw_task
from afm_min.model import AFM, Config, load_model, save_model
from afm_min.pretrain import Masked, cut, held_out, magnitude, next_token_loss, recall, soft_top_k
from afm_min.run import Run, save
from afm_min.tokenizer import Tokenizer

SMALL = Config(dim=12, layers=2, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


def test_soft_top_k_by_hand():
    # N = 2, k = 1, nothing at its bound: m = softmax(s / eps). s = (log 3, 0), eps = 1: (3/4, 1/4).
    assert soft_top_k(torch.tensor([math.log(3), 0.0]), 1, 1.0).tolist() == pytest.approx(
        [0.75, 0.25])
    # eps = 1/2: the odds are squared, 9 : 1.
    assert soft_top_k(torch.tensor([math.log(3), 0.0]), 1, 0.5).tolist() == pytest.approx(
        [0.9, 0.1])
    # s = (9, log 3, 0), k = 2, eps = 1: without bounds the first would be near 2, so it is 1, and
    # the others share what is left as above.
    assert soft_top_k(torch.tensor([0.0, 9.0, math.log(3)]), 2, 1.0).tolist() == pytest.approx(
        [0.25, 1.0, 0.75])
    assert soft_top_k(torch.tensor([3.0, 1.0, 2.0, -1.0]), 2, 0).tolist() == [1, 0, 1, 0]
    assert soft_top_k(torch.zeros(8), 2, 0.1).tolist() == pytest.approx([0.25] * 8)


def iterated(s, k, eps, rounds=3000):
    """The mask by the paper's iteration, plainly."""
    b = torch.zeros_like(s)
    for _ in range(rounds):
        a = eps * math.log(k) - eps * torch.logsumexp((s + b) / eps, 0)
        b = torch.minimum(torch.zeros_like(s), -s - a)
    return torch.exp((s + a + b) / eps)


@pytest.mark.parametrize("k, eps", [(1, 1.0), (5, 1.0), (5, 0.3), (15, 0.3), (19, 0.1)])
def test_soft_top_k_equals_the_papers_iteration(k, eps):
    torch.manual_seed(k)
    scores = torch.randn(20, dtype=torch.double)
    mask = soft_top_k(scores, k, eps)
    assert mask.sum().item() == pytest.approx(k) and 0 <= mask.min() and mask.max() <= 1
    torch.testing.assert_close(mask, iterated(scores, k, eps), atol=1e-6, rtol=1e-4)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, k, eps), scores.requires_grad_())


def test_soft_top_k_maximises_its_objective():
    # No mask of the same sum that is a little different has more of s.m + eps H(m).
    torch.manual_seed(0)
    scores, value = (torch.randn(6, dtype=torch.double),
                     lambda m: (scores @ m - 0.5 * torch.xlogy(m, m).sum()).item())
    mask = soft_top_k(scores, 3, 0.5)
    for i in range(6):
        for j in range(6):
            other = mask.clone()
            step = min(1e-3, 1 - other[i].item(), other[j].item()) if i != j else 0
            other[i] += step
            other[j] -= step
            assert value(other) <= value(mask) + 1e-12


def masked_model(k=7):
    torch.manual_seed(0)
    model = AFM(SMALL)
    for block in model.blocks:
        block.feed_forward = Masked(block.feed_forward, k, torch.randn(20))
    return model.eval()


def test_the_cut_model_equals_the_masked_one():
    model, ids = masked_model(), torch.randint(50, (3, 12))
    model.tokenizer = object()
    small = cut(model)
    assert small.tokenizer is model.tokenizer
    assert (small.config.hidden == 7
            and [m.mask().sum() for m in (b.feed_forward for b in model.blocks)] == [7, 7])
    torch.testing.assert_close(small(ids), model(ids), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(AFM(SMALL)(ids), model(ids), atol=1e-2)


def test_scores_learn_while_the_mask_is_soft_and_rest_when_it_is_exact():
    model, batch = masked_model(), {"ids": torch.randint(50, (3, 12))}
    next_token_loss(model, batch)["loss"].backward()
    assert all(block.feed_forward.scores.grad is None for block in model.blocks)
    for block in model.blocks:
        block.feed_forward.eps = 1.0
    next_token_loss(model, batch)["loss"].backward()
    assert all(block.feed_forward.scores.grad.abs().max() > 0 for block in model.blocks)


def test_magnitude_by_hand():
    # Norms of a unit's weights: gate (3, 4) -> 5, up (0, 2) -> 2, down (1, 0) -> 1: 10.
    # The other: 30.
    feed_forward = AFM(Config(2, 1, 1, 1, 2, 2, 4, 4)).blocks[0].feed_forward
    for name, weight in (("gate", [[3.0, 4.0], [0.0, 5.0]]), ("up", [[0.0, 2.0], [2.0, 0.0]]),
                         ("down", [[1.0, 0.0], [0.0, 3.0]])):
        getattr(feed_forward, name).weight.data = torch.tensor(weight)
    assert magnitude(feed_forward).tolist() == pytest.approx([10, 30])


def test_distillation_mixes_the_two_targets():
    # With distill 0.9 the loss is 0.9 of the loss on the teacher's tokens
    # and 0.1 of that on the text's.
    torch.manual_seed(0)
    model, ids, top = AFM(SMALL), torch.randint(50, (2, 9)), torch.randint(50, (2, 8))
    plain = next_token_loss(model, {"ids": ids})["loss"].item()
    log_p = model(ids[:, :-1]).log_softmax(-1)
    taught = -log_p.gather(-1, top[..., None]).sum().item()
    label = -log_p.gather(-1, ids[:, 1:, None]).sum().item()
    sums = next_token_loss(model, {"ids": ids, "teacher": top, "distill": torch.full((2,), 0.9)})
    assert sums["count"] == 16
    assert sums["loss"].item() == pytest.approx(
        0.9 * taught + 0.1 * label + plain - label, rel=1e-5)
    same = next_token_loss(
        model, {"ids": ids, "teacher": ids[:, 1:], "distill": torch.full((2,), 0.9)})
    assert same["loss"].item() == pytest.approx(plain, rel=1e-5)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    tokenizer = Tokenizer.train(
        ["é The keys of Ada are red blue green. Question: What colour?" * 9], 300)
    tokenizer.save(run.file("tokenizer.json"))
    run.config = Config(**{**SMALL.__dict__, "vocab_size": tokenizer.vocab_size, "context": 64})
    return run


def test_held_out_of_a_uniform_model(run):
    # With an embedding of zeros all V tokens are equally likely: log2(V) bits each, and id 0 ranks
    # first. The stream of 33: <|document|>, 16 times é, <|document|>, 15 times é, of 2 bytes each.
    # One window of 33 predicts all but the first: 31 é and one document, which has no bytes.
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    ids = [0, *tokenizer.encode("é") * 16, 0, *tokenizer.encode("é") * 15]
    save(run.file("tokens.pt"), held_out={"a": torch.tensor(ids, dtype=torch.int32)},
         **run.provenance("tokenizer"))
    model = AFM(run.config)
    model.tokenizer = tokenizer
    torch.nn.init.zeros_(model.embedding)
    bits = 32 * math.log2(tokenizer.vocab_size) / (31 * 2)
    assert len(tokenizer.encode("é")) == 1
    assert held_out(model, run) == pytest.approx(
        {"accuracy %": 100 / 32, "bits/byte": bits, "a bits/byte": bits})


@pytest.mark.parametrize("method", ["learned", "magnitude", "random"])
def test_all_masks_are_exact_from_the_same_step_on(run, monkeypatch, method):
    """With 10 steps, 0.8 of them soft, eps falls by one factor a step:
    sqrt(first * last) at step 4, of 8."""
    parent, staged = AFM(SMALL), {}
    monkeypatch.setattr(pretrain, "load_model", lambda run, stage: parent)
    monkeypatch.setattr(pretrain, "batches", lambda *arguments: lambda step: step)
    monkeypatch.setattr(pretrain, "train", lambda run, stage, model, batches, *_, **rest: (
        staged.update(draw=batches, **rest)))
    run.config = Config(**{**SMALL.__dict__, "hidden": 7})
    pretrain.prune(run, method=method, steps=10, soft=0.8, first_eps=0.04, last_eps=0.01)
    masked = [block.feed_forward for block in parent.blocks]
    for step in range(10):
        assert staged["draw"](step) == step
        for m in masked:
            assert m.mask().sum().item() == pytest.approx(
                20 if method != "learned" and step < 8 else 7, rel=1e-4)
            if method == "learned" and step in (0, 4):
                assert m.eps == pytest.approx({0: 0.04, 4: 0.02}[step])
                assert m.mask().tolist() == pytest.approx([7 / 20] * 20)  # scores are 0 at first
        if step < 8:
            for m in masked:  # so that what is largest at step 8 counts, not what was at first
                m.feed_forward.up.weight.data *= torch.rand(20, 1)
    for m in masked:
        assert set(m.mask().tolist()) == {0, 1}
        if method != "learned":
            largest = m.mask().bool().equal(soft_top_k(magnitude(m.feed_forward), 7, 0).bool())
            assert largest == (method == "magnitude")
    assert staged["finish"](parent).config.hidden == 7


def test_core_is_taught_what_the_parent_would_say_next(run, monkeypatch):
    torch.manual_seed(0)
    teacher, staged, ids = AFM(SMALL).eval(), {}, torch.randint(50, (2, 9))
    monkeypatch.setattr(pretrain, "load_model",
                        lambda run, stage: {"parent": teacher, "prune": None}[stage])
    monkeypatch.setattr(pretrain, "batches", lambda *arguments: lambda step: {"ids": ids})
    monkeypatch.setattr(pretrain, "train",
                        lambda run, stage, model, batches, *_: staged.update(draw=batches))
    pretrain.core(run, distill=0.9)
    batch = staged["draw"](0)
    assert batch["teacher"].equal(teacher(ids)[:, :8].argmax(-1))  # at t, of what comes at t + 1
    assert batch["distill"].tolist() == pytest.approx([0.9, 0.9]) and batch["ids"] is ids
    pretrain.core(run)
    assert staged["draw"](0) == {"ids": ids}


def test_the_parent_is_wider_in_its_feed_forward_only(run, monkeypatch):
    monkeypatch.setattr(pretrain, "batches", lambda *arguments: None)
    monkeypatch.setattr(pretrain, "train", lambda run, stage, model, batches, *_: model)
    model = pretrain.parent(run, widen=3)
    assert model.config == Config(**{**run.config.__dict__, "hidden": 3 * run.config.hidden})
    save_model(run, "parent", model)
    assert (model.tokenizer.vocab == load_model(run, "parent").tokenizer.vocab
            == Tokenizer.load(run.file("tokenizer.json")).vocab)


def test_the_fact_and_its_questions_stand_where_they_should(run):
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    filler, task = [7] * 20, draw_task(RECALL, "test", 0)
    ids, wanted = corpus.insert_fact(filler, task, (2, 9, 18), tokenizer)
    told = f"\n{task.fact}\n"
    fact, asked = tokenizer.encode(told), len(tokenizer.encode("\n" + task.text()))
    assert ids[:2 + len(fact)] == [7, 7, *fact] and ids[2 + len(fact):][:7] == [7] * 7
    assert (ids[9 + len(fact) + asked:][:9] == [7] * 9 and ids[-2:] == [7, 7]
            and len(ids) == len(wanted))
    texts = tokenizer.decode(ids).replace(tokenizer.decode([7]), "")
    assert texts == told + f"\n{task.text()}" * 2
    assert [tokenizer.decode([i]) for i, w in zip(ids, wanted) if w] == [task.answer] * 2


def test_recall_rows_weigh_answers_only(run):
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    row = corpus.recall_rows({"a": torch.full((400,), 7)}, {"a": 1}, tokenizer)
    ids, weights = row(400)
    assert len(ids) == len(weights) == 400
    answers = [tokenizer.decode([i]) for i in ids[weights > 1].tolist()]
    assert 1 <= len(answers) <= 10 and len(set(answers)) == 1 and answers[0].isdigit()
    assert set(weights.tolist()) == {1.0, corpus.ANSWER_WEIGHT}
    assert (tokenizer.decode(ids.tolist()).index("are in box")
            < tokenizer.decode(ids.tolist()).index("Where"))


def test_weights_count_in_the_loss():
    # Weight 0 leaves a token out, weight 3 is as if it stood there three times.
    torch.manual_seed(0)
    model, ids, weight = AFM(SMALL), torch.randint(50, (1, 4)), torch.tensor([[9.0, 0.0, 3.0, 1.0]])
    log_p = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None]).flatten().tolist()
    sums = next_token_loss(model, {"ids": ids, "weight": weight})
    assert (sums["loss"].item() == pytest.approx(-3 * log_p[1] - log_p[2], rel=1e-3)
            and sums["count"] == 3)


def test_recall_of_a_model_that_copies_and_of_one_that_does_not(run):
    save(run.file("tokens.pt"), held_out={"a": torch.full((400,), 7)}, **run.provenance("tokenizer"))
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))

    class Copies(torch.nn.Module):
        """Predicts the token that followed the longest repeated end of the text."""
        def __init__(self, known=1):  # a factor of each token's logit
            super().__init__()
            self.tokenizer, self.known = tokenizer, known

        def forward(self, ids):
            logits = torch.zeros(*ids.shape, tokenizer.vocab_size)
            for b, row in enumerate(ids.tolist()):
                for t in range(len(row)):
                    for n in range(min(t, 12), 0, -1):
                        ends = [s for s in range(n, t + 1) if row[s - n:s] == row[t + 1 - n:t + 1]]
                        if ends:
                            logits[b, t, row[ends[0]]] = 1
                            break
            return logits * self.known

    assert set(recall(Copies(), run, 4, count=3).values()) == {100.0}
    digits = torch.tensor([token.isdigit() for token in tokenizer.vocab])  # no more than answers
    assert set(recall(Copies(digits), run, 1, count=3).values()) == {100.0}
    assert max(recall(Copies(0), run, 4, count=3).values()) == 0


def test_each_fact_to_recall_has_text_of_its_own_before_the_question(run):
    """One text for all of them made the measure a matter of luck."""
    streams = {"b": torch.arange(2000, 2010), "a": torch.arange(1000, 1400)}  # the longest is taken
    save(run.file("tokens.pt"), held_out=streams, **run.provenance("tokenizer"))
    run.config, seen = Config(**{**SMALL.__dict__, "context": 256}), []

    def model(ids):
        seen.extend(ids.tolist())
        return torch.zeros(*ids.shape, 9)
    model.tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    recall(model, run, 1, count=4)
    begins = [next(i for i in row if i >= 1000)
              for row in seen]  # where in the stream the text is from
    assert begins == [1000, 1100, 1200, 1300] * 2
    assert all(row[0] < 1000 for row in seen)  # the fact comes first
