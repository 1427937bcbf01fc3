"""AdaStar by hand, schedules, and the laws of the loop."""
import json
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import distributed
from afm_min.trainer import AdaStar, backward, cosine, fit, linear, parameter_groups, seed_step
from afm_min.model import AFM, Config
from afm_min.pretrain import Z_LOSS, next_token_loss, token_losses
from afm_min.run import Run, UserError

SMALL = Config(dim=12, layers=1, heads=2, kv_heads=1, head_dim=4, hidden=20, vocab_size=50,
               context=16)


def test_adastar_three_steps_by_hand():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = AdaStar([{"params": [p], "scale": 0.5}], lr=0.1, weight_decay=0.01)

    # Step 1, s = 1, g = (0.6, 0): norm 0.6, no clip. v = 0.05 g^2, so v^ = g^2 and u = (1, 0).
    # rms(u) = sqrt(1/2) < 1: u stays. m = 0.05 u = (0.05, 0), not corrected for its bias.
    # p = (1, -2) - (0.1 * 0.5 * (0.05, 0) + 0.01 * (1, -2)) = (0.9875, -1.98)
    p.grad = torch.tensor([0.6, 0.0])
    assert optimizer.step(1.0) == pytest.approx(0.6)
    assert p.tolist() == pytest.approx([0.9875, -1.98])

    # Step 2, s = 0.5, g = (3, 4): norm 5, clipped to (0.6, 0.8).
    # v = 0.95 * (0.018, 0) + 0.05 * (0.36, 0.64) = (0.0351, 0.032);
    # v^ = v / 0.0975 = (0.36, 0.328205)
    # u = (1, 0.8 / 0.572892) = (1, 1.396424); rms = sqrt((1 + 1.95) / 2) = 1.214496, so
    # u = (0.823387, 1.149797); m = 0.95 * (0.05, 0) + 0.05 u = (0.0886694, 0.0574898)
    # p = (0.9875, -1.98) - 0.5 * (0.05 m + 0.01 p) = (0.9803458, -1.9715372)
    p.grad = torch.tensor([3.0, 4.0])
    assert optimizer.step(0.5) == pytest.approx(5.0)
    assert p.tolist() == pytest.approx([0.9803458, -1.9715372], abs=1e-6)
    assert optimizer.state[p]["m"].tolist() == pytest.approx([0.0886694, 0.0574898], abs=1e-6)

    # Step 3, norm 100: nothing changes, not even the count of steps. NaN likewise.
    for gradient in ([60.0, 80.0], [float("nan"), 0.0]):
        p.grad = torch.tensor(gradient)
        optimizer.step(1.0)
        assert p.tolist() == pytest.approx([0.9803458, -1.9715372], abs=1e-6)
        assert optimizer.state[p]["t"] == 2
    p.grad = torch.tensor([59.0, 80.0])  # norm 99.4
    optimizer.step(1.0)
    assert optimizer.state[p]["t"] == 3


def test_adastar_clips_over_all_tensors_and_per_tensor():
    # Two tensors with gradients 3 and 4: one norm, 5. In the first step u = 1 for both
    # whatever the clip.
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = AdaStar([{"params": [a, b]}], lr=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert optimizer.step() == pytest.approx(5.0)
    assert [optimizer.state[p]["v"].item() for p in (a, b)] == pytest.approx(
        [0.05 * 0.36, 0.05 * 0.64])
    assert [a.item(), b.item()] == pytest.approx([-0.05, 0.05])
    # a zero gradient divides by no zero; one not there is skipped
    a.grad, b.grad = torch.zeros(1), None
    optimizer.step()
    assert math.isfinite(a.item()) and optimizer.state[b]["t"] == 1


def test_mu_param():
    with torch.device("meta"):
        wide = AFM(Config(dim=3072, layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2,
                          vocab_size=2, context=2))
    matrices, others = parameter_groups(wide)
    assert matrices["scale"] == 0.25 and "scale" not in others
    assert len(matrices["params"]) == 7 and wide.embedding in set(others["params"])
    assert parameter_groups(AFM(SMALL))[0]["scale"] == 1.0


def test_cosine():
    # 2 steps of warm-up, then 4 down to 0.2: at 1/4, 2/4, 3/4 and 4/4 of half a cosine.
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2]
    assert [cosine(6, 2, 0.2)(step) for step in range(6)] == pytest.approx(expected)
    assert cosine(1)(0) == pytest.approx(0.0)


def test_token_losses_by_hand():
    # Logits log(1, 2, 5) have Z = 8. Target 2: cross-entropy log(8/5); z-loss 1e-6 log(8)^2.
    cross_entropy, z_loss = token_losses(
        torch.tensor([[[1.0, 2.0, 5.0]]]).log(), torch.tensor([[2]]))
    assert cross_entropy.item() == pytest.approx(math.log(8 / 5))
    assert Z_LOSS == 1e-6 and z_loss.item() == pytest.approx(1e-6 * math.log(8) ** 2)


def test_next_token_loss_predicts_the_next_token():
    model, ids = AFM(SMALL), torch.randint(50, (3, 9))
    logits = model(ids)[:, :-1].log_softmax(-1)
    plain = -sum(logits[b, t, ids[b, t + 1]] for b in range(3) for t in range(8))
    sums = next_token_loss(model, {"ids": ids})
    assert sums["count"] == 24
    assert sums["loss"].item() == pytest.approx(plain.item(), rel=1e-3)  # z-loss is the rest


@pytest.mark.parametrize("micro_batch_size", [1, 2, 5, 8])
def test_micro_batches_change_nothing(micro_batch_size):
    # The rows count differently: a division per micro-batch would weigh them wrongly.
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
    assert parts == pytest.approx(whole) and parts["twice"] == pytest.approx(2 * parts["loss"])
    for p, gradient in zip(model.parameters(), gradients):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-4)


def train(steps, run=None, lr=0.01, **options):
    seed_step(0, "test", -1)
    model = AFM(SMALL)
    batches = lambda step: {
        "ids": torch.randint(50, (4, 1)).repeat(1, 9)}  # the same id again and again
    fit(model, batches, next_token_loss, steps=steps, lr=lr, run=run, stage="test", **options)
    return model


def test_fit_learns():
    model, ids = train(80, lr=0.03), torch.arange(50)[:, None].repeat(1, 9)
    assert next_token_loss(model, {"ids": ids})["loss"].item() / 400 < 1 < math.log(50)


def test_a_broken_run_ends_as_an_unbroken_one(tmp_path):
    (tmp_path / "tokenizer.json").write_text("any")
    run = Run(tmp_path)
    schedule = cosine(12, 2)
    unbroken = train(12, schedule=schedule)

    def break_off(step):
        if step == 7:
            raise KeyboardInterrupt
        return schedule(step)

    with pytest.raises(KeyboardInterrupt):
        train(12, run, schedule=break_off, save_every=5)
    with open(run.file("metrics.jsonl"), "a") as file:
        file.write('{"stage": "te')  # the kill came in mid-line
    resumed = train(12, run, schedule=schedule, save_every=5)
    for a, b in zip(unbroken.parameters(), resumed.parameters()):
        assert torch.equal(a, b)

    rows = [json.loads(line) for line in run.file("metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))


def test_a_state_that_began_otherwise_is_not_gone_on_with(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text("any")
    run = Run(tmp_path)
    for changed in ({}, {"settings": {"lr": 1.0}}, {"fingerprint": "another model"}):
        vars(run).update(changed)
        train(3, run)
        assert "resuming" not in capsys.readouterr().out
    train(4, run)
    assert "resuming after step 3" in capsys.readouterr().out


def test_a_whole_state_is_not_resumed_as_a_sharded_one(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("any")
    run = Run(tmp_path)
    train(3, run)
    before = run.partial_checkpoint("test").read_bytes()
    monkeypatch.setattr(distributed, "shard", lambda model: None)
    run.shard = True
    with pytest.raises(UserError, match="test.part.pt was saved without --shard: resume in the"):
        train(4, run)
    assert run.partial_checkpoint("test").read_bytes() == before


def test_on_step_is_called_before_each_batch_is_drawn():
    calls = []

    def batches(step):
        calls.append(("batch", step))
        return {"ids": torch.zeros(1, 9, dtype=torch.long)}
    fit(AFM(SMALL), batches, next_token_loss, steps=2, lr=0.01, quiet=True,
        on_step=lambda step: calls.append(("hook", step)))
    assert calls == [("hook", 0), ("batch", 0), ("hook", 1), ("batch", 1)]


def test_a_loss_that_is_no_number_stops_the_stage():
    with pytest.raises(UserError, match="the loss of step 2 is nan"):
        train(9, schedule=lambda step: float("inf"))


def test_linear_rises_and_falls():
    # 10 steps, 2 of warm-up: half and then all, of 1, .9, .8 ... .1
    factors = [linear(10, 2)(step) for step in range(10)]
    assert factors == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_training_that_skips_every_step_does_not_pass_for_one():
    """A gradient of norm 200 is skipped, by the recipe: 20 in a row are an error, 19 are not."""
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Parameter(torch.zeros(1))
            self.config = SimpleNamespace(dim=1)

    def steep(model, batch):
        return {"loss": 200 * model.embedding.sum(), "count": 1}
    def train(steps, loss=steep):
        fit(Model(), lambda step: {"x": torch.tensor([float(step)])}, loss, steps=steps, lr=0.1,
            quiet=True)
    train(19)
    with pytest.raises(UserError, match="20 steps in a row were skipped.* gradient norm of 200"):
        train(20)
    train(40, lambda model, batch: {
        "loss": (200.0 if batch["x"] % 20 else 2.0) * model.embedding.sum(), "count": 1})
