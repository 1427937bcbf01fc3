"""AdaStar by hand, schedules, gradients of a batch, and laws of the training loop."""
import json
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import distributed
from afm_min.model import AFM, Config
from afm_min.pretrain import next_token_loss
from afm_min.run import Run, UserError
from afm_min.trainer import (AdamW, AdaStar, Trainer, backward, cosine, fit, linear,
                             parameter_groups, seed_step, token_losses)

SMALL = Config(dim=12, layers=1, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


def test_adastar_three_steps_by_hand():
    """Two updates worked by hand, and steps that are skipped."""
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = AdaStar([{"params": [p], "scale": 0.5}], lr=0.1, weight_decay=0.01)

    # Step 1, s = 1, g = (0.6, 0): norm 0.6, no clip. v = 0.05 g^2, so v^ = g^2 and u = (1, 0).
    # rms(u) = sqrt(1/2) < 1: u stays. m = 0.05 u = (0.05, 0), not corrected for its bias.
    # p = (1, -2) - (0.1 * 0.5 * (0.05, 0) + 0.01 * (1, -2)) = (0.9875, -1.98)
    p.grad = torch.tensor([0.6, 0.0])
    assert optimizer.step(factor=1.0) == pytest.approx(0.6)
    assert p.tolist() == pytest.approx([0.9875, -1.98])

    # Step 2, s = 0.5, g = (3, 4): norm 5, clipped to (0.6, 0.8).
    # v = 0.95 * (0.018, 0) + 0.05 * (0.36, 0.64) = (0.0351, 0.032);
    # v^ = v / 0.0975 = (0.36, 0.328205)
    # u = (1, 0.8 / 0.572892) = (1, 1.396424); rms = sqrt((1 + 1.95) / 2) = 1.214496, so
    # u = (0.823387, 1.149797); m = 0.95 * (0.05, 0) + 0.05 u = (0.0886694, 0.0574898)
    # p = (0.9875, -1.98) - 0.5 * (0.05 m + 0.01 p) = (0.9803458, -1.9715372)
    p.grad = torch.tensor([3.0, 4.0])
    assert optimizer.step(factor=0.5) == pytest.approx(5.0)
    assert p.tolist() == pytest.approx([0.9803458, -1.9715372], abs=1e-6)
    assert optimizer.state[p]["m"].tolist() == pytest.approx([0.0886694, 0.0574898], abs=1e-6)

    # A norm of 100: nothing changes, not even the count of steps. NaN likewise.
    for gradient in ([60.0, 80.0], [float("nan"), 0.0]):
        p.grad = torch.tensor(gradient)
        optimizer.step(factor=1.0)
        assert p.tolist() == pytest.approx([0.9803458, -1.9715372], abs=1e-6)
        assert optimizer.state[p]["t"] == 2
    p.grad = torch.tensor([59.0, 80.0])  # norm 99.4
    optimizer.step(factor=1.0)
    assert optimizer.state[p]["t"] == 3


def test_adamw_is_that_of_pytorch():
    """Gradients below the norm at which they are clipped, and a schedule, for five steps."""
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    optimizer = AdamW([{"params": [ours], "scale": 0.5}], lr=0.2, weight_decay=0.02)
    # `scale` multiplies the learning rate, but not the weight decay.
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.04)
    generator = torch.Generator().manual_seed(0)
    for factor in (0.5, 1.0, 1.0, 0.3, 0.1):
        gradient = 0.3 * torch.rand(3, generator=generator)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step(factor)
        reference.param_groups[0]["lr"] = 0.1 * factor
        reference.step()
        assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-5)


def test_adamw_clips_and_skips_as_adastar_does():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = AdamW([{"params": [p]}], lr=0.1)
    p.grad = torch.tensor([60.0, 80.0])
    assert optimizer.step() == pytest.approx(100)
    assert p.tolist() == [0, 0]
    p.grad = torch.tensor([3.0, 4.0])  # norm 5, clipped to (0.6, 0.8)
    optimizer.step()
    assert optimizer.state[p]["m"].tolist() == pytest.approx([0.06, 0.08])


def test_adastar_clips_by_the_norm_of_all_gradients():
    """Gradients 3 and -4 of two tensors have one norm, 5. In the first step |u| = 1 for both,
    whatever the clip, as u is scaled for each tensor."""
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = AdaStar([{"params": [a, b]}], lr=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert optimizer.step() == pytest.approx(5.0)
    assert optimizer.state[a]["v"].item() == pytest.approx(0.05 * 0.36)
    assert optimizer.state[b]["v"].item() == pytest.approx(0.05 * 0.64)
    assert [a.item(), b.item()] == pytest.approx([-0.05, 0.05])


def test_adastar_clips_groups_apart_by_their_own_norm():
    """Of gradients 0.6 and 500, the second is clipped to 1, the first not at all. NaN apart skips
    that group only, and a norm of 100 elsewhere skips all."""
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = AdaStar([{"params": [a]}, {"params": [b], "apart": True}], lr=1.0)
    a.grad, b.grad = torch.tensor([0.6]), torch.tensor([500.0])
    assert optimizer.step() == pytest.approx(0.6)
    assert optimizer.state[a]["v"].item() == pytest.approx(0.05 * 0.36)
    assert optimizer.state[b]["v"].item() == pytest.approx(0.05)
    for gradients, counts in (([0.6, math.nan], [2, 1]), ([100.0, 0.6], [2, 1]),
                              ([0.6, 0.6], [3, 2])):
        a.grad, b.grad = (torch.tensor([gradient]) for gradient in gradients)
        assert optimizer.step() == pytest.approx(gradients[0])
        assert [optimizer.state[p]["t"].item() for p in (a, b)] == counts


def test_adastar_takes_zero_and_missing_gradients():
    """A gradient of zero does not divide by zero, and a missing one leaves its state unchanged."""
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = AdaStar([{"params": [a, b]}], lr=1.0, weight_decay=0.5)
    a.grad = torch.zeros(1)
    optimizer.step()
    assert a.item() == pytest.approx(0.5)  # the weight decay alone
    assert b.item() == 1
    assert [optimizer.state[p]["t"].item() for p in (a, b)] == [1, 0]


def test_mu_param():
    """At dim 3072, matrices take 768 / 3072 of the learning rate; the embedding, norms and small
    models take all of it."""
    with torch.device("meta"):
        wide = AFM(Config(dim=3072, layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2,
                          vocab_size=2, context=2))
    matrices, others = parameter_groups(wide)
    assert matrices["scale"] == 0.25
    assert "scale" not in others
    assert len(matrices["params"]) == 7
    assert len(others["params"]) == 6  # the embedding, five norms
    assert wide.embedding in set(others["params"])
    assert parameter_groups(wide, matrix_scale=0.1)[0]["scale"] == pytest.approx(0.025)
    assert parameter_groups(AFM(SMALL))[0]["scale"] == 1.0


def test_matrices_learn_at_a_scaled_rate():
    """One step with a matrix scale of 0.1 moves matrices a tenth as far as one with 1, and the
    embedding and norms as far."""
    moved = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        model = AFM(SMALL)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        fit(model, lambda step: {"ids": torch.arange(32).view(2, 16)}, next_token_loss, steps=1,
            lr=0.01, matrix_scale=scale, quiet=True)
        moved.append({name: (p - before[name]).norm().item()
                      for name, p in model.named_parameters()})
    for name, distance in moved[0].items():
        factor = 0.1 if "weight" in name and "norm" not in name else 1.0
        assert moved[1][name] == pytest.approx(factor * distance, rel=1e-3), name


def test_frozen_parameters_are_not_optimized():
    """parameter_groups leaves out what requires no gradient."""
    model = AFM(SMALL).requires_grad_(False)
    model.norm.weight.requires_grad_()
    matrices, others = parameter_groups(model)
    assert matrices["params"] == []
    assert len(others["params"]) == 1
    assert others["params"][0] is model.norm.weight


def test_cosine():
    """2 steps of warm-up, then 4 down to 0.2: at 1/4, 2/4, 3/4 and 4/4 of half a cosine."""
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2]
    schedule = cosine(steps=6, warmup=2, floor=0.2)
    assert [schedule(step) for step in range(6)] == pytest.approx(expected)
    assert cosine(steps=1)(0) == pytest.approx(0.0)


def test_linear():
    """10 steps, 2 of warm-up: half and then all, of 1, .9, .8, ..., .1"""
    schedule = linear(steps=10, warmup=2)
    factors = [schedule(step) for step in range(10)]
    assert factors == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("steps, warmup, expected", [
    (4, 4, [0.5, 1, 0.5, 0]), (4, 99, [0.5, 1, 0.5, 0]), (3, 3, [1, 0.5, 0]), (1, 1, [0]),
    (1, 20, [0])])
def test_a_cosine_warms_up_in_no_more_than_half_of_its_steps(steps, warmup, expected):
    schedule = cosine(steps, warmup)
    assert [schedule(step) for step in range(steps)] == pytest.approx(expected)


@pytest.mark.parametrize("steps, warmup, expected", [
    (4, 0, [1, 0.75, 0.5, 0.25]), (1, 0, [1]), (1, 20, [1]), (4, 99, [0.5, 0.75, 0.5, 0.25])])
def test_a_line_without_a_warmup_or_with_a_long_one(steps, warmup, expected):
    schedule = linear(steps, warmup)
    assert [schedule(step) for step in range(steps)] == pytest.approx(expected)


def test_a_step_is_seeded_by_run_stage_and_number():
    """The same three give the same draws; any other gives different ones."""
    def draw(seed, stage, step):
        seed_step(seed, stage, step)
        return torch.rand(()).item()
    first = draw(0, "core", 3)
    torch.rand(9)
    assert draw(0, "core", 3) == first
    assert first not in (draw(1, "core", 3), draw(0, "sft", 3), draw(0, "core", 4))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 5, 8])
def test_micro_batches_leave_gradients_and_metrics_unchanged(micro_batch_size):
    """Rows have different weights, so dividing by the count of each micro-batch would be wrong."""
    torch.manual_seed(0)
    model, batch = AFM(SMALL), {"ids": torch.randint(50, (8, 9)), "weight": torch.arange(8.0)}

    def loss(model, batch):
        cross_entropy, _ = token_losses(model(batch["ids"][:, :-1]), batch["ids"][:, 1:])
        weighted = cross_entropy * batch["weight"][:, None]
        return {"loss": weighted.sum(), "count": 8 * float(batch["weight"].sum()),
                "twice": 2 * weighted.sum()}

    sums = loss(model, batch)
    gradients = torch.autograd.grad(sums["loss"] / sums["count"], list(model.parameters()))
    whole = backward(model, batch, loss)
    parts = backward(model, batch, loss, micro_batch_size)
    assert parts == pytest.approx(whole)
    assert parts["loss"] == pytest.approx((sums["loss"] / sums["count"]).item())
    assert parts["twice"] == pytest.approx(2 * parts["loss"])
    assert parts["count"] == 8 * 28
    for p, gradient in zip(model.parameters(), gradients):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("micro_batch_size, sizes", [(None, [5]), (2, [1, 2, 2]), (5, [5])])
def test_micro_batches_have_at_most_so_many_rows(micro_batch_size, sizes):
    """5 rows in micro-batches of 2: three, with every row in one of them."""
    model, batches = AFM(SMALL), []

    def loss(model, batch):
        batches.append(batch["x"].tolist())
        return {"loss": model.norm.weight.sum(), "count": 1}
    backward(model, {"x": torch.arange(5)}, loss, micro_batch_size)
    assert [len(x) for x in batches] == sizes
    assert sum(batches, []) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("micro_batch_size, sizes", [
    (None, [(4, 6)]), (2, [(2, 3), (2, 3)]), (1, [(1, 1), (1, 2), (1, 1), (1, 2)])])
def test_tensors_of_a_batch_may_differ_in_their_rows(micro_batch_size, sizes):
    """4 rows and 6: each is divided evenly, with every row in one micro-batch. The sum of the loss,
    0 + 1 + 2 + 3 + 10 + ... + 15 = 81 times a weight, divided by the count 10, has the gradient
    8.1."""
    model, batches = AFM(SMALL), []

    def loss(model, batch):
        x, y = batch["x"], batch["y"]
        batches.append((x.tolist(), y.tolist()))
        assert distributed.total_rows == len(x)
        return {"loss": (x.sum() + y.sum()) * model.norm.weight[0], "count": len(x) + len(y),
                "y": y.sum()}
    batch = {"x": torch.arange(4.0), "y": torch.arange(10.0, 16.0)}
    assert backward(model, batch, loss, micro_batch_size) == pytest.approx(
        {"loss": 8.1, "y": 7.5, "count": 10})
    assert model.norm.weight.grad[0].item() == pytest.approx(8.1)
    assert [(len(x), len(y)) for x, y in batches] == sizes
    assert sum((x for x, _ in batches), []) == batch["x"].tolist()
    assert sum((y for _, y in batches), []) == batch["y"].tolist()


@pytest.mark.parametrize("batch, rows", [
    ({"x": torch.zeros(3)}, 3), ({"x": torch.zeros(0)}, 0), ({}, 0)])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_batch_with_nothing_to_learn_from_is_refused(batch, rows, micro_batch_size):
    """By `backward`, and by `fit`, which leaves the model as it was."""
    model = AFM(SMALL)
    before = [p.detach().clone() for p in model.parameters()]

    def loss(model, batch):
        return {"loss": 0 * model.norm.weight.sum(), "count": batch["x"].sum()}
    message = f"a batch of {rows} rows has nothing to learn from, as its loss counts 0 tokens"
    with pytest.raises(UserError, match=message):
        backward(model, batch, loss, micro_batch_size)
    with pytest.raises(UserError, match=message):
        fit(model, lambda step: batch, loss, steps=1, lr=0.1, weight_decay=0.1,
            micro_batch_size=micro_batch_size)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before))


def repeated_ids(step):
    """Return a batch of 4 rows that repeat an id."""
    return {"ids": torch.randint(50, (4, 1)).repeat(1, 9)}


def train(steps, run=None, lr=0.01, **settings):
    """Train a new small model to repeat an id."""
    seed_step(0, "test", -1)
    model = AFM(SMALL)
    fit(model, repeated_ids, next_token_loss, steps=steps, lr=lr, run=run, stage="test", **settings)
    return model


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tokenizer.json").write_text("any")
    return Run(tmp_path)


def test_fit_learns():
    """80 steps bring the loss below 1; that of a uniform guess is log 50."""
    model, ids = train(80, lr=0.03), torch.arange(50)[:, None].repeat(1, 9)
    assert next_token_loss(model, {"ids": ids})["loss"].item() / 400 < 1 < math.log(50)
    assert not model.training


def test_a_loop_around_trainer_equals_fit():
    """Seed, draw and update by hand give the same weights as `fit`."""
    model = train(5, schedule=cosine(5, 2), weight_decay=0.1, micro_batch_size=3)
    seed_step(0, "test", -1)
    other = AFM(SMALL).eval()
    loop = Trainer(other, next_token_loss, steps=5, lr=0.01, schedule=cosine(5, 2),
                   weight_decay=0.1, micro_batch_size=3, stage="test")
    assert other.training
    for step in range(5):
        assert loop.step == step
        loop.seed()
        loop.update(repeated_ids(step))
    for p, q in zip(model.parameters(), other.parameters()):
        assert torch.equal(p, q)


def test_a_step_applies_the_settings():
    """Without a learning rate, weights lose s * weight_decay = 0.5 * 0.1 of themselves. 4 rows in
    micro-batches of 3 are two calls of the loss."""
    model, sizes = AFM(SMALL), []

    def loss(model, batch):
        sizes.append(len(batch["ids"]))
        return next_token_loss(model, batch)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, repeated_ids, loss, steps=1, lr=0.0, schedule=lambda step: 0.5, weight_decay=0.1,
        micro_batch_size=3, quiet=True)
    for p, old in zip(model.parameters(), before):
        torch.testing.assert_close(p.detach(), 0.95 * old)
    assert sizes == [2, 2]


def test_a_resumed_run_equals_an_uninterrupted_one(run, capsys):
    """Stopped in step 7 and resumed from step 5, training ends with exactly the same weights."""
    schedule = cosine(12, 2)
    uninterrupted = train(12, schedule=schedule)

    def stop_at_7(step):
        if step == 7:
            raise KeyboardInterrupt
        return schedule(step)

    with pytest.raises(KeyboardInterrupt):
        train(12, run, schedule=stop_at_7, save_every=5)
    with open(run.file("metrics.jsonl"), "a") as file:
        file.write('{"stage": "te')  # as if killed in mid-line
    resumed = train(12, run, schedule=schedule, save_every=5)
    assert "resuming after step 5" in capsys.readouterr().out
    for p, q in zip(uninterrupted.parameters(), resumed.parameters()):
        assert torch.equal(p, q)

    rows = [json.loads(line) for line in run.file("metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["lr"] for row in rows] == pytest.approx([0.01 * schedule(i) for i in range(12)])


def test_a_state_is_resumed_only_with_the_same_settings_and_inputs(run, capsys):
    """Another setting or fingerprint starts anew; the same ones resume."""
    reason = "test.part.pt was saved with other settings, inputs or code"
    train(3, run)
    output = capsys.readouterr().out
    assert "resuming" not in output and reason not in output
    for changed in ({"settings": {"lr": 1.0}}, {"fingerprint": "another model"}):
        vars(run).update(changed)
        train(3, run)
        output = capsys.readouterr().out
        assert "resuming" not in output and reason in output
    train(4, run)
    output = capsys.readouterr().out
    assert "resuming after step 3" in output and reason not in output


def test_a_whole_state_is_not_resumed_as_a_sharded_one(run, monkeypatch):
    """It raises UserError and leaves the saved state unchanged."""
    train(3, run)
    before = run.partial_checkpoint("test").read_bytes()
    monkeypatch.setattr(distributed, "shard", lambda model: None)
    run.shard = True
    with pytest.raises(UserError, match="test.part.pt was saved without --shard: resume in the"):
        train(4, run)
    assert run.partial_checkpoint("test").read_bytes() == before


def test_progress_shows_the_nll_if_the_loss_has_weights(run, capsys):
    """A loss may weight tokens, so that it is not nats a token. The log has both."""
    def loss(model, batch):
        return {"loss": 30 * model.norm.weight.sum(), "nll": 2 * len(batch["x"]),
                "count": len(batch["x"])}
    fit(AFM(SMALL), lambda step: {"x": torch.zeros(4)}, loss, steps=1, lr=0.1, run=run)
    assert "fit 1/1  nll 2.000  " in capsys.readouterr().out
    row, = run.read_log("fit")
    assert (row["nll"], row["loss"], row["count"]) == (2, 90, 4)


def test_on_step_is_called_before_each_batch_is_drawn():
    """The hook may change what the batch is computed with, such as a mask."""
    calls = []

    def batches(step):
        calls.append(("batch", step))
        return {"ids": torch.zeros(1, 9, dtype=torch.long)}
    fit(AFM(SMALL), batches, next_token_loss, steps=2, lr=0.01, quiet=True,
        on_step=lambda step: calls.append(("hook", step)))
    assert calls == [("hook", 0), ("batch", 0), ("hook", 1), ("batch", 1)]


def test_a_loss_that_is_not_finite_stops_the_stage():
    """An infinite factor makes the weights, and the next loss, NaN."""
    with pytest.raises(UserError, match="the loss of step 2 is nan"):
        train(9, schedule=lambda step: float("inf"))


def test_20_skipped_steps_in_a_row_are_an_error():
    """A gradient of norm 200 is skipped. 19 in a row are accepted, 20 are not."""
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Parameter(torch.zeros(1))
            self.config = SimpleNamespace(dim=1)

    def train_with_norm(norm, steps):
        """Train with a loss whose gradient has the norm norm(step)."""
        fit(Model(), lambda step: {"norm": torch.tensor([norm(step)])}, lambda model, batch: {
            "loss": (batch["norm"] * model.embedding).sum(), "count": 1},
            steps=steps, lr=0.1, quiet=True)
    train_with_norm(lambda step: 200.0, steps=19)
    with pytest.raises(UserError, match="20 steps in a row were skipped.* gradient norm of 200"):
        train_with_norm(lambda step: 200.0, steps=20)
    train_with_norm(lambda step: 200.0 if step % 20 else 2.0, steps=40)  # 19, and 19 again
