"""Every loss of alignment and its gradient, from log-probabilities chosen by hand."""
import math

import pytest
import torch

from afm_min import align, chat
from afm_min.align import (dpo_loss, ipo_loss, leave_one_out, mdpo_loss, ppo_loss, regularized,
                           response_logp)
from afm_min.fit import backward
from afm_min.model import AFM, Config

TINY = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50, context=40)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_dpo_by_hand():
    # h = (-1 - -2) - (-4 - -3) = 1 + 1 = 2; beta h = 1: -log sigmoid(1) = log(1 + e^-1) = 0.313262.
    # d/d chosen = -beta sigmoid(-beta h) = -0.5 * 0.268941 = -0.134471, d/d rejected the opposite.
    chosen, rejected = tensor(-1.0), tensor(-4.0)
    loss = dpo_loss(chosen, rejected, torch.tensor([-2.0]), torch.tensor([-3.0]), beta=0.5)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)
    loss.sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.134471, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.134471, abs=1e-6)
    # At the reference h = 0: log 2, and a pull of beta / 2.
    same = torch.tensor([-2.0])
    assert dpo_loss(same, same, same, same, 0.5).item() == pytest.approx(math.log(2))


def test_ipo_by_hand():
    # h = 2 as above. beta 0.5: the margin wanted is 1 / (2 beta) = 1: (2 - 1)^2 = 1, gradient 2 (h - 1) = 2.
    chosen, rejected = tensor(-1.0), tensor(-4.0)
    loss = ipo_loss(chosen, rejected, torch.tensor([-2.0]), torch.tensor([-3.0]), beta=0.5)
    loss.sum().backward()
    assert (loss.item(), chosen.grad.item(), rejected.grad.item()) == (1, 2, -2)
    # Its minimum, 0 with no pull, is at h = 1 / (2 beta): for beta 0.1 at 5.
    chosen, zero = tensor(5.0), torch.zeros(1)
    loss = ipo_loss(chosen, zero, zero, zero, beta=0.1)
    loss.sum().backward()
    assert (loss.item(), chosen.grad.item()) == (0, 0)


def test_leave_one_out_by_hand():
    # (1, 0, 0, 0): the first less the mean of three zeros; each other less the mean of (1, 0, 0).
    # (4, 2): 4 - 2 and 2 - 4. Prompts have nothing to do with each other.
    assert leave_one_out(torch.tensor([[1.0, 0, 0, 0]])).tolist()[0] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert leave_one_out(torch.tensor([[4.0, 2.0], [7.0, 7.0]])).tolist() == [[2, -2], [0, 0]]


def test_regularized_reward_by_hand():
    # r - beta (log pi - log pi_ref): 1 - 0.5 (-2 - -3) = 0.5; of equal policies KL is 0, so r itself.
    got = regularized(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, -2.0]), torch.tensor([-3.0, -2.0]), 0.5)
    assert got.tolist() == [0.5, 1.0]


def test_mdpo_by_hand():
    # rho = e^(log 2) = 2: -(2 A - gamma (2 log 2 - 2 + 1)) = -(2 * 3 - 0.5 * 0.386294) = -5.806853.
    # Its gradient: -(rho A - gamma rho log rho) = -(6 - 0.5 * 1.386294) = -5.306853.
    logp, old = tensor(-1.0), torch.tensor([-1.0 - math.log(2)], dtype=torch.float64)
    loss = mdpo_loss(logp, old, torch.tensor([3.0]), gamma=0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-5.806853, abs=1e-6)
    assert logp.grad.item() == pytest.approx(-5.306853, abs=1e-6)


def test_the_divergence_of_equal_policies_is_0_and_otherwise_its_mean_is_kl():
    logp = torch.tensor([0.5, 0.3, 0.2]).log()
    assert mdpo_loss(logp, logp, torch.zeros(3), gamma=1.0).tolist() == [0, 0, 0]
    # pi = (.2, .3, .5), pi_k = (.5, .3, .2): E_k[D] = KL(pi || pi_k) = .2 log .4 + .5 log 2.5 = .274887
    other = torch.tensor([0.2, 0.3, 0.5]).log()
    mean = (logp.exp() * mdpo_loss(other, logp, torch.zeros(3), gamma=1.0)).sum().item()
    assert mean == pytest.approx(0.274887, abs=1e-6)


@pytest.mark.parametrize("ratio, advantage, loss, gradient", [
    (1.1, 2.0, -2.2, -2.2),  # within the clip of 0.2: -rho A, whose gradient is the same
    (1.5, 2.0, -2.4, 0.0),  # beyond it where A wants more: -1.2 A, and no pull
    (1.5, -2.0, 3.0, 3.0),  # beyond it where A wants it back: pulled
    (0.5, -2.0, 1.6, 0.0)])  # min(-1, -1.6): -0.8 A, and no pull
def test_ppo_by_hand(ratio, advantage, loss, gradient):
    logp = tensor(math.log(ratio))
    got = ppo_loss(logp, torch.zeros(1), torch.tensor([advantage]), 0.2)
    got.sum().backward()
    assert got.item() == pytest.approx(loss) and logp.grad.item() == pytest.approx(gradient)


def conversations(count=6):
    torch.manual_seed(1)
    return [chat.answered(torch.randint(50, (3 + i % 3,)).tolist(), torch.randint(50, (1 + i,)).tolist())
            for i in range(count)]


def test_response_logp_is_the_sum_over_the_response_its_end_included():
    torch.manual_seed(0)
    model = AFM(TINY)
    batch = chat.pad(conversations())
    together = response_logp(model, **batch)
    for i, (ids, weight) in enumerate(conversations()):
        log_p = model(ids[None, :-1]).log_softmax(-1)[0].gather(1, ids[1:, None])[:, 0]
        said = int(weight.sum())
        assert together[i].item() == pytest.approx(log_p[-said:].sum().item(), abs=1e-4)


def policy_loss(model, batch):
    logp = response_logp(model, batch["ids"], batch["weight"])
    losses = mdpo_loss(logp, batch["old_logp"], batch["advantage"], gamma=1.0)
    return {"loss": losses.sum(), "count": len(losses)}


@pytest.fixture
def sampled():
    """A model, and a batch that it has sampled."""
    torch.manual_seed(0)
    model = AFM(TINY)
    batch = chat.pad(conversations())
    with torch.no_grad():
        batch["old_logp"] = response_logp(model, batch["ids"], batch["weight"])
    batch["advantage"] = leave_one_out(torch.tensor([[1.0, 0, 0], [0, 1, 1]])).flatten()
    return model, batch


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_gradient_does_not_depend_on_the_micro_batch(sampled):
    model, batch = sampled
    found = []
    for micro_batch in (6, 4, 1):
        backward(model, batch, policy_loss, micro_batch)
        found.append(gradients(model).clone())
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-6, rtol=1e-4)


def test_the_first_step_on_a_sample_is_reinforce_with_leave_one_out(sampled):
    model, batch = sampled
    backward(model, batch, policy_loss)
    ours = gradients(model).clone()
    model.zero_grad()
    logp = response_logp(model, batch["ids"], batch["weight"])
    # (1, 0, 0), (0, 1, 1) -> (1, -1/2, -1/2), (-1, 1/2, 1/2), as a mean over six responses
    advantage = torch.tensor([1, -0.5, -0.5, -1, 0.5, 0.5])
    (-(advantage * logp).sum() / 6).backward()
    torch.testing.assert_close(ours, gradients(model), atol=1e-6, rtol=1e-4)


def test_a_bandit_comes_to_the_known_optimum():
    """Of max E[r] - beta KL(pi || pi_ref) the optimum is pi ~ pi_ref exp(r / beta). With r = (1, 0.5, 0),
    pi_ref = (.2, .3, .5) and beta = 0.5: .2 e^2, .3 e, .5 = 1.4778, .8155, .5 of 2.7933."""
    rewards, reference, beta = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.2, 0.3, 0.5]).log(), 0.5
    torch.manual_seed(0)
    logits = reference.clone().requires_grad_()
    for iteration in range(150):
        with torch.no_grad():
            old = logits.log_softmax(0)
            arms = torch.multinomial(old.exp().expand(256, 3), 4, replacement=True)  # (prompts, K)
            R = regularized(rewards[arms], old[arms], reference[arms], beta)
            advantages = leave_one_out(R)
        for _ in range(3):
            logp = logits.log_softmax(0)[arms]
            loss = mdpo_loss(logp, old[arms], advantages, gamma=1.0).mean()
            gradient, = torch.autograd.grad(loss, logits)
            with torch.no_grad():
                logits -= 0.5 * gradient
    optimum = torch.tensor([0.5290, 0.2920, 0.1790])
    torch.testing.assert_close(logits.softmax(0), optimum, atol=0.02, rtol=0)


def test_the_leave_one_out_estimate_has_no_bias_and_less_variance_than_none():
    """Of a policy of two arms, p = (.25, .75), rewards (3, 2): the gradient by the first logit is
    p1 p2 (3 - 2) = 0.1875. 20,000 estimates from K = 4 samples each: their mean has a standard error below
    0.006 without baseline, so odds of a false alarm beyond 0.03 are below 1e-6."""
    torch.manual_seed(0)
    p, rewards = torch.tensor([0.25, 0.75]), torch.tensor([3.0, 2.0])
    arms = torch.multinomial(p.expand(20_000, 2), 4, replacement=True)
    score = (arms == 0).float() - 0.25  # of the first logit: d log p(arm) / d logit
    plain = (rewards[arms] * score).mean(1)
    ours = (leave_one_out(rewards[arms]) * score).mean(1)
    assert plain.mean().item() == pytest.approx(0.1875, abs=0.03)
    assert ours.mean().item() == pytest.approx(0.1875, abs=0.03)
    assert ours.var() < plain.var() / 5


def test_curve_marks_where_reward_rises_alone():
    rows = [{"step": i, "reward": r, "truth %": t, "KL": 0.0, "entropy": 1.0, "length": 5.0}
            for i, (r, t) in enumerate([(1, 10), (2, 20), (3, 15), (2, 30), (4, 30), (5, 31)], 1)]
    table = align.curve(rows, points=6)
    assert [row[-1] for row in table] == ["", "", "reward alone", "", "reward alone", ""]
    assert [row[0] for row in align.curve(rows, points=3)] == [2, 4, 6]
    assert align.curve(rows, points=3)[0][1:3] == [1.5, 15]


def test_of_each_prompt_the_response_ranked_first_whoever_gave_it(monkeypatch):
    """Two models, two samples each, two prompts. Rewards: of the first prompt 1, 2 by the one, 0, 5 by the
    other; of the second 9, 3 and 4, 4. The chances to be true are a tenth of the responses' names."""
    given = {"a": [[11], [12], [13], [14]], "b": [[21], [22], [23], [24]]}
    rewards = {11: 1, 12: 2, 13: 9, 14: 3, 21: 0, 22: 5, 23: 4, 24: 4}

    class Tokenizer:
        load, special = classmethod(lambda cls, _: cls()), lambda self, _: 0
    monkeypatch.setattr(align, "Tokenizer", Tokenizer)
    monkeypatch.setattr(align, "load_model", lambda run, stage: stage)
    monkeypatch.setattr(align.evaluate, "replies", lambda stage, prompts, *_, **__: given[stage])
    monkeypatch.setattr(align.reward, "scores", lambda _, pairs: torch.tensor(
        [[float(rewards[ids[-1].item()]), ids[-1].item() / 10] for ids, _ in pairs]))

    class Run:
        file = staticmethod(lambda name: name)
    chosen, true, whose = align.first_ranked(Run, ["a", "b"], None, [[1], [2, 2]], 2)
    assert [ids.tolist() for ids, _ in chosen] == [[1, 22], [2, 2, 13]]
    assert true.tolist() == pytest.approx([2.2, 1.3]) and whose.tolist() == [1, 0]


def test_only_what_is_likelier_true_than_not_is_imitated():
    assert align.believed(["a", "b", "c"], [0.45, 0.55, 0.5]) == ["b"]
    assert align.believed(["a", "b"], [0.2, 0.3]) == ["a", "b"]  # the best there is


def test_steps_share_out_all_rows_of_their_samples():
    rows = {"row": torch.arange(5)}
    assert [align.dealt(rows, step, 2)["row"].tolist() for step in range(4)] == [[0, 2, 4], [1, 3]] * 2
    assert align.dealt(rows, 7, 1)["row"].tolist() == [0, 1, 2, 3, 4]
