"""Pruning, distillation, lengthening: formulas by hand, and laws."""
import copy
import dataclasses
import math
import re

import pytest
import torch

from afm_min import lookup, pretrain
from afm_min.data import corpus
from afm_min.model import AFM, Config, load_model
from afm_min.pretrain import Masked, magnitude, next_token_loss, remove_units, soft_top_k
from afm_min.run import Run
from afm_min.tokenizer import Tokenizer
from afm_min.trainer import AdaStar, backward, parameter_groups
from afm_min.world.tasks import RECALL, draw_task

SMALL = Config(dim=12, layers=2, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


# The loss.

def test_next_token_loss_predicts_the_next_token():
    """The loss sums -log p(id t + 1) over all tokens but the last; the count is their number."""
    model, ids = AFM(SMALL), torch.randint(50, (3, 9))
    log_p = model(ids)[:, :-1].log_softmax(-1)
    expected = -sum(log_p[b, t, ids[b, t + 1]] for b in range(3) for t in range(8))
    sums = next_token_loss(model, {"ids": ids})
    assert sums["count"] == 24
    assert sums["loss"].item() == pytest.approx(expected.item(), rel=1e-3)  # z-loss is the rest


def test_next_token_loss_has_a_z_loss():
    """The loss is the cross-entropy plus 1e-6 log(Z)^2, here with logits large enough to see it."""
    torch.manual_seed(0)
    model, ids = AFM(SMALL), torch.randint(50, (3, 9))
    model.norm.weight.data.fill_(30.0)
    logits = model(ids)[:, :-1]
    cross_entropy = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).sum().item()
    z_loss = 1e-6 * (logits.logsumexp(-1) ** 2).sum().item()
    assert z_loss / cross_entropy > 1e-5
    loss = next_token_loss(model, {"ids": ids})["loss"].item()
    assert loss == pytest.approx(cross_entropy + z_loss, rel=1e-6)


def test_loss_weights_multiply_the_loss():
    """A token with weight 0 adds nothing, and one with weight 3 counts three times. The count
    stays the number of tokens."""
    torch.manual_seed(0)
    model, ids = AFM(SMALL), torch.randint(50, (1, 4))
    weights = torch.tensor([[9.0, 0.0, 3.0, 1.0]])  # the first token is not predicted
    log_p = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None]).flatten().tolist()
    sums = next_token_loss(model, {"ids": ids, "loss_weights": weights})
    assert sums["loss"].item() == pytest.approx(-3 * log_p[1] - log_p[2], rel=1e-3)
    assert sums["count"] == 3


def test_distillation_mixes_two_targets():
    """With distill 0.9 the loss is 0.9 of that on the teacher's tokens and 0.1 of that on the
    text's."""
    torch.manual_seed(0)
    model, ids, top_1 = AFM(SMALL), torch.randint(50, (2, 9)), torch.randint(50, (2, 8))
    distill = torch.full((2,), 0.9)
    loss = next_token_loss(model, {"ids": ids})["loss"].item()
    log_p = model(ids[:, :-1]).log_softmax(-1)
    on_teacher = -log_p.gather(-1, top_1[..., None]).sum().item()
    on_text = -log_p.gather(-1, ids[:, 1:, None]).sum().item()
    z_loss = loss - on_text
    sums = next_token_loss(model, {"ids": ids, "teacher": top_1, "distill": distill})
    assert sums["count"] == 16
    assert sums["loss"].item() == pytest.approx(
        0.9 * on_teacher + 0.1 * on_text + z_loss, rel=1e-5)
    same = next_token_loss(model, {"ids": ids, "teacher": ids[:, 1:], "distill": distill})
    assert same["loss"].item() == pytest.approx(loss, rel=1e-5)


def test_the_nll_is_nats_a_token_whatever_the_weights_and_the_teacher():
    """A uniform guess has log V nats a token, also where answers weigh 30 and a teacher differs.
    The gradient is that of the loss alone."""
    model, ids = AFM(SMALL), torch.randint(50, (2, 9))
    torch.nn.init.zeros_(model.embedding)
    weights = torch.ones(2, 9)
    weights[:, 4] = corpus.ANSWER_WEIGHT
    for more in ({}, {"teacher": ids[:, :8], "distill": torch.full((2,), 0.9)}):
        batch = {"ids": ids, "loss_weights": weights} | more
        metrics = backward(model, batch, next_token_loss)
        assert metrics["nll"] == pytest.approx(math.log(50))
        assert metrics["loss"] > 4 * math.log(50)  # (7 + 30) / 8
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        sums = next_token_loss(model, batch)
        expected = torch.autograd.grad(sums["loss"] / 16, list(model.parameters()))
        torch.testing.assert_close(gradient, torch.cat([x.flatten() for x in expected]))
        assert not sums["nll"].requires_grad


# Pruning.

def test_soft_top_k_by_hand():
    """If no entry reaches 1, m = k softmax(s / eps): log 3 and 0 have odds 3 : 1 at eps = 1."""
    mask = soft_top_k(torch.tensor([math.log(3), 0.0]), k=1, eps=1.0)
    assert mask.tolist() == pytest.approx([0.75, 0.25])
    # eps = 1/2: the odds are squared, 9 : 1.
    mask = soft_top_k(torch.tensor([math.log(3), 0.0]), k=1, eps=0.5)
    assert mask.tolist() == pytest.approx([0.9, 0.1])
    # s = (0, 9, log 3), k = 2: without the bound the second would be near 2. So it is 1, and the
    # others share the rest as above.
    mask = soft_top_k(torch.tensor([0.0, 9.0, math.log(3)]), k=2, eps=1.0)
    assert mask.tolist() == pytest.approx([0.25, 1.0, 0.75])
    assert soft_top_k(torch.tensor([3.0, 1.0, 2.0, -1.0]), k=2, eps=0).tolist() == [1, 0, 1, 0]
    assert soft_top_k(torch.zeros(8), k=2, eps=0.1).tolist() == pytest.approx([0.25] * 8)


def iterate_soft_top_k(s, k, eps, rounds=3000):
    """Return the mask by the paper's iteration."""
    b = torch.zeros_like(s)
    for _ in range(rounds):
        a = eps * math.log(k) - eps * torch.logsumexp((s + b) / eps, 0)
        b = torch.minimum(torch.zeros_like(s), -s - a)
    return torch.exp((s + a + b) / eps)


@pytest.mark.parametrize("k, eps", [(1, 1.0), (5, 1.0), (5, 0.3), (15, 0.3), (19, 0.1)])
def test_soft_top_k_equals_the_papers_iteration(k, eps):
    """The mask sums to k, is between 0 and 1, equals the iteration's, and has right gradients."""
    torch.manual_seed(k)
    scores = torch.randn(20, dtype=torch.double)
    mask = soft_top_k(scores, k, eps)
    assert mask.sum().item() == pytest.approx(k)
    assert 0 <= mask.min() and mask.max() <= 1
    torch.testing.assert_close(mask, iterate_soft_top_k(scores, k, eps), atol=1e-6, rtol=1e-4)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, k, eps), scores.requires_grad_())


def test_soft_top_k_maximises_its_objective():
    """No slightly different mask with the same sum has a larger s . m + eps H(m)."""
    torch.manual_seed(0)
    scores = torch.randn(6, dtype=torch.double)

    def objective(mask):
        return (scores @ mask - 0.5 * torch.xlogy(mask, mask).sum()).item()
    mask = soft_top_k(scores, k=3, eps=0.5)
    for i in range(6):
        for j in range(6):
            other = mask.clone()
            step = min(1e-3, 1 - other[i].item(), other[j].item()) if i != j else 0
            other[i] += step
            other[j] -= step
            assert objective(other) <= objective(mask) + 1e-12


def masked_model(k=7):
    """Return a model with masked feed-forward layers and random scores."""
    torch.manual_seed(0)
    model = AFM(SMALL)
    for block in model.blocks:
        block.feed_forward = Masked(block.feed_forward, k, torch.randn(20))
    return model.eval()


def test_the_pruned_model_equals_the_masked_one():
    """Removing the units whose mask is 0 leaves the logits unchanged."""
    model, ids = masked_model(), torch.randint(50, (3, 12))
    model.tokenizer = object()
    pruned = remove_units(model)
    assert pruned.tokenizer is model.tokenizer
    assert pruned.config == dataclasses.replace(SMALL, hidden=7)
    assert [block.feed_forward.mask().sum() for block in model.blocks] == [7, 7]
    torch.testing.assert_close(pruned(ids), model(ids), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(AFM(SMALL)(ids), model(ids), atol=1e-2)


def test_scores_have_gradients_only_while_the_mask_is_soft():
    """With eps 0 there is none; with eps 1 there is one in every layer."""
    model, batch = masked_model(), {"ids": torch.randint(50, (3, 12))}
    next_token_loss(model, batch)["loss"].backward()
    assert all(block.feed_forward.scores.grad is None for block in model.blocks)
    for block in model.blocks:
        block.feed_forward.eps = 1.0
    next_token_loss(model, batch)["loss"].backward()
    assert all(block.feed_forward.scores.grad.abs().max() > 0 for block in model.blocks)


def test_scores_do_not_clip_the_weights():
    """With a sharp mask the gradient of the scores has a norm far above 1. The weights change as if
    the mask were fixed, as it is in magnitude pruning."""
    torch.manual_seed(0)
    model, batch = masked_model(), {"ids": torch.randint(50, (8, 12))}
    for block in model.blocks:
        block.feed_forward.scores.data *= 0.001
        block.feed_forward.eps = 0.0002
    fixed = copy.deepcopy(model)
    for block in fixed.blocks:
        block.feed_forward.scores.requires_grad_(False)
    norms = []
    for each in (model, fixed):
        optimizer = AdaStar(parameter_groups(each), lr=0.1)
        backward(each, batch, next_token_loss)
        norms.append(optimizer.step())
    scores = [block.feed_forward.scores for block in model.blocks]
    assert torch.cat([x.grad for x in scores]).norm() > 3 * norms[0]
    assert norms[0] == norms[1]
    for name, p in fixed.named_parameters():
        assert torch.equal(model.get_parameter(name), p) == ("scores" not in name)


def test_magnitude_by_hand():
    """Norms of a unit's weights: gate (3, 4) -> 5, up (0, 2) -> 2, down (1, 0) -> 1: 5 * 2 * 1 =
    10. The other: 5 * 2 * 3 = 30."""
    config = Config(dim=2, layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2, vocab_size=4,
                    context=4)
    feed_forward = AFM(config).blocks[0].feed_forward
    feed_forward.gate.weight.data = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    feed_forward.up.weight.data = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    feed_forward.down.weight.data = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert magnitude(feed_forward).tolist() == pytest.approx([10, 30])


# The stages.

@pytest.fixture
def run(tmp_path):
    """A run with a tokenizer and a small model config."""
    run = Run(tmp_path)
    tokenizer = Tokenizer.train(
        ["é The keys of Ada are red blue green. Question: What colour?" * 9], 300)
    tokenizer.save(run.file("tokenizer.json"))
    run.config = dataclasses.replace(SMALL, vocab_size=tokenizer.vocab_size, context=64)
    return run


@pytest.mark.parametrize("method", ["learned", "magnitude", "random"])
def test_masks_of_all_methods_are_exact_from_the_same_step(run, monkeypatch, method):
    """With 10 steps, 0.8 of them soft, eps falls by one factor a step: it is sqrt(first * last)
    at step 4 of 8."""
    parent = AFM(SMALL)
    monkeypatch.setattr(pretrain, "load_model", lambda run, stage: parent)
    monkeypatch.setattr(pretrain, "text_batches", lambda *arguments: None)
    monkeypatch.setattr(pretrain, "finish", lambda run, stage, model: model)

    def train(run, stage, model, batches, *, steps, on_step, **settings):
        """Call the hook as the loop does, check the masks, and change weights as updates would."""
        for step in range(steps):
            on_step(step)
            for layer in (block.feed_forward for block in model.blocks):
                mask, kept = layer.mask(), 20 if method != "learned" and step < 8 else 7
                assert mask.sum().item() == pytest.approx(kept, rel=1e-4)
                if method == "learned" and step in (0, 4):
                    assert layer.eps == pytest.approx({0: 0.04, 4: 0.02}[step])
                    assert mask.tolist() == pytest.approx([7 / 20] * 20)  # all scores are 0
                if step < 8:  # so that sizes at step 8 count, not the first ones
                    layer.feed_forward.up.weight.data *= torch.rand(20, 1)
    monkeypatch.setattr(pretrain, "train", train)
    run.config = dataclasses.replace(SMALL, hidden=7)
    pruned = pretrain.prune(run, method=method, steps=10, soft=0.8, first_eps=0.04, last_eps=0.01)
    for layer in (block.feed_forward for block in parent.blocks):
        assert set(layer.mask().tolist()) == {0, 1}
        if method != "learned":
            largest = soft_top_k(magnitude(layer.feed_forward), k=7, eps=0)
            assert torch.equal(layer.mask(), largest) == (method == "magnitude")
    ids = torch.randint(50, (2, 9))
    assert pruned.config.hidden == 7
    torch.testing.assert_close(pruned(ids), parent(ids), atol=1e-5, rtol=1e-5)


def test_core_learns_from_the_teachers_predictions(run, monkeypatch):
    """The teacher's token at t is its top-1 prediction of the id at t + 1."""
    torch.manual_seed(0)
    teacher, ids, trained = AFM(SMALL).eval(), torch.randint(50, (2, 9)), []
    monkeypatch.setattr(pretrain, "load_model",
                        lambda run, stage: {"teacher": teacher, "prune": None}[stage])
    monkeypatch.setattr(pretrain, "text_batches", lambda *arguments: lambda step: {"ids": ids})
    monkeypatch.setattr(pretrain, "train",
                        lambda run, stage, model, batches, **settings: trained.append(batches))
    monkeypatch.setattr(pretrain, "finish", lambda run, stage, model: None)
    pretrain.core(run)
    pretrain.core(run, distill=0.0)
    with_teacher, without = trained[0](0), trained[1](0)
    assert with_teacher["teacher"].equal(teacher(ids)[:, :8].argmax(-1))
    assert with_teacher["distill"].tolist() == pytest.approx([0.9, 0.9])
    assert with_teacher["ids"] is ids
    assert without == {"ids": ids}


def test_a_teacher_reads_long_rows_in_pieces_of_its_own_context():
    """Rows of 16 tokens, and a teacher whose context is 8: each half is predicted by itself."""
    torch.manual_seed(0)
    teacher = AFM(dataclasses.replace(SMALL, context=8)).eval()
    ids = torch.randint(50, (3, 17))
    batch = pretrain.distilled(lambda step: {"ids": ids}, teacher, 0.9)(0)
    halves = [teacher(ids[:, start:start + 8]).argmax(-1) for start in (0, 8)]
    assert batch["teacher"].equal(torch.cat(halves, 1))


def test_the_parent_is_wider_only_in_its_feed_forward(run, monkeypatch):
    """Its config has `widen` times the hidden units, and its checkpoint loads with the run's
    tokenizer. Its weights are first those that `lookup` ended with."""
    monkeypatch.setattr(pretrain, "text_batches", lambda *arguments: None)
    monkeypatch.setattr(pretrain, "train", lambda *arguments, **settings: None)
    monkeypatch.setattr(pretrain, "finish", lambda run, stage, model: model)
    lookup.lookup(run, widen=3, steps=2, note_steps=1, batch_size=2)
    model = pretrain.parent(run)
    assert model.config == dataclasses.replace(run.config, hidden=3 * run.config.hidden)
    assert model.embedding.equal(load_model(run, "lookup").embedding)
    vocab = Tokenizer.load(run.file("tokenizer.json")).vocab
    assert model.tokenizer.vocab == vocab


def test_finish_saves_the_model_and_counts_its_tokens(run, monkeypatch):
    """The metrics have the tokens of all steps of this stage, and those of held-out text."""
    monkeypatch.setattr(pretrain, "held_out", lambda model, run: {"bits/byte": 2.0})
    for stage, count in (("core", 10), ("parent", 5), ("core", 20)):
        run.log(stage=stage, count=count)
    assert pretrain.finish(run, "core", AFM(run.config)) == {"tokens": 30, "bits/byte": 2.0}
    assert run.checkpoint("core").exists()


# Facts to recall.

def test_a_fact_and_its_questions_stand_at_their_places(run):
    """Of the places 2, 9 and 18 in the filler, the fact takes the first and its question the
    others. Only answers are marked."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    filler, task = [7] * 20, draw_task(RECALL, "test", 0)
    ids, is_answer = corpus.insert_facts(filler, [(2, task)], [(9, task), (18, task)], tokenizer)
    fact = tokenizer.encode(f"\n{task.fact}\n")
    question_length = len(tokenizer.encode("\n" + task.text()))
    assert ids[:2 + len(fact)] == [7, 7, *fact]
    assert ids[2 + len(fact):][:7] == [7] * 7
    assert ids[9 + len(fact) + question_length:][:9] == [7] * 9
    assert ids[-2:] == [7, 7]
    assert len(ids) == len(is_answer)
    text = tokenizer.decode(ids).replace(tokenizer.decode([7]), "")
    assert text == f"\n{task.fact}\n" + f"\n{task.text()}" * 2
    answers = [tokenizer.decode([i]) for i, marked in zip(ids, is_answer) if marked]
    assert answers == [task.answer] * 2


def test_several_facts_stand_at_their_places(run):
    """At equal places they keep their order, and a fact precedes its question."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    first, second = (draw_task(RECALL, "test", seed) for seed in (0, 1))
    ids, is_answer = corpus.insert_facts([7] * 4, [(0, first), (0, second)],
                                         [(4, first), (0, second)], tokenizer)
    facts = [tokenizer.encode(f"\n{task.fact}\n") for task in (first, second)]
    questions = [tokenizer.encode(f"\n{task.text()}") for task in (first, second)]
    assert ids == [*facts[0], *facts[1], *questions[1], 7, 7, 7, 7, *questions[0]]
    answers = [tokenizer.decode([i]) for i, marked in zip(ids, is_answer) if marked]
    assert answers == [second.answer, first.answer]


@pytest.mark.parametrize("max_facts, size", [(1, 400), (2, 400), (4, 400)])
def test_recall_rows_weight_answers_only(max_facts, size, run):
    """A row has facts, each about something else, and behind each of them questions about it, whose
    answers are its digit."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    draw_row = corpus.recall_rows({"a": torch.full((400,), 7)}, {"a": 1}, tokenizer, max_facts)
    lengths = set()
    for _ in range(20):
        ids, weights = draw_row(size)
        assert len(ids) == len(weights) == size
        assert set(weights.tolist()) == {1.0, corpus.ANSWER_WEIGHT}
        text = tokenizer.decode(ids.tolist())
        facts = re.findall(r"\n(\w+'s \w+) are in box (\d)", text)
        assert len(dict(facts)) == len(facts)
        lengths.add(len(facts))
        answers = [tokenizer.decode([i]) for i in ids[weights > 1].tolist()]
        asked = re.findall(r"Question: [^\n]*?(\w+'s \w+)[^\n]*\nAnswer: in box (\d)", text)
        assert answers == [dict(facts)[owned] for owned, _ in asked] == [box for _, box in asked]
        assert len(facts) <= len(answers) <= 10
        for owned, box in facts:
            assert text.index(f"{owned} are in box") == text.index(owned)  # the fact is first
    assert lengths == set(range(1, min(max_facts, size // 40) + 1))
