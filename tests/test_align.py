"""Every loss of alignment and its gradient, from log-probabilities chosen by hand."""
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import align, chat, evaluate, reward
from afm_min.align import (dpo_loss, ipo_loss, leave_one_out, mdpo_loss, ppo_loss, regularized)
from afm_min.chat import response_logp
from afm_min.trainer import backward
from afm_min.model import AFM, Config

TINY = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50,
              context=40)


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
    # h = 2 as above. beta 0.5: the margin wanted is 1 / (2 beta) = 1: (2 - 1)^2 = 1,
    # gradient 2 (h - 1) = 2.
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
    assert leave_one_out(torch.tensor([[1.0, 0, 0, 0]])).tolist()[0] == pytest.approx(
        [1, -1 / 3, -1 / 3, -1 / 3])
    assert leave_one_out(torch.tensor([[4.0, 2.0], [7.0, 7.0]])).tolist() == [[2, -2], [0, 0]]


def test_regularized_reward_by_hand():
    # r - beta (log pi - log pi_ref): 1 - 0.5 (-2 - -3) = 0.5;
    # of equal policies KL is 0, so r itself.
    got = regularized(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, -2.0]),
                      torch.tensor([-3.0, -2.0]), 0.5)
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
    # pi = (.2, .3, .5), pi_k = (.5, .3, .2):
    # E_k[D] = KL(pi || pi_k) = .2 log .4 + .5 log 2.5 = .274887
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


def groups(count=6, responses=2):
    """Prompts of 3 to 5 tokens, with responses of 1, 2, ..."""
    torch.manual_seed(1)
    return [(torch.randint(50, (3 + i % 3,)).tolist(),
             [torch.randint(50, (1 + i + j,)).tolist() for j in range(responses)])
            for i in range(count)]


def test_responses_share_their_prompt():
    ids, branch = chat.share_prompt([1, 2, 3], [[7, 8], [9]])
    assert ids.tolist() == [1, 2, 3, 7, 8, 3, 9] and branch.tolist() == [0, 0, 1, 1, 1, 2, 2]
    # Of the tokens with one before them, those of a response: 7, 8 and 9.
    assert chat.response_mask(branch[None]).tolist() == [[0, 0, 1, 1, 0, 1]]
    ids, branch = chat.share_prompt([5], [[]])  # nothing is said
    assert ids.tolist() == [5] and branch.tolist() == [1]


def test_response_logp_is_the_sum_over_the_response_its_end_included(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    torch.manual_seed(0)
    model = AFM(TINY)
    batch, places = chat.share_prompts(groups())
    together = response_logp(model, **batch)
    assert together.shape[0] < 6 and together.shape[1] > 2  # several prompts in a row
    for (row, first), (prompt, responses) in zip(places, groups()):
        for j, response in enumerate(responses):
            ids = torch.tensor(prompt + response)
            log_p = model(ids[None, :-1]).log_softmax(-1)[0].gather(1, ids[1:, None])[:, 0]
            assert together[row, first + j].item() == pytest.approx(
                log_p[-len(response):].sum().item(), abs=1e-4)


def test_a_process_without_rows_scores_none():
    """As of several processes one does when a batch packs into fewer rows."""
    model, (batch, _) = AFM(TINY), chat.share_prompts(groups(count=1))
    rest = {name: x[1::2] for name, x in batch.items()}
    logp, ends = chat.score_responses(model, **rest)
    assert logp.shape == (0, 0) and ends.shape == (0, 0, TINY.dim)
    logp.sum().backward()
    assert gradients(model).count_nonzero() == 0


def test_the_gradient_is_that_of_each_response_alone():
    torch.manual_seed(0)
    model, found = AFM(TINY), []
    weights = torch.randn(6, 2)
    batch, places = chat.share_prompts(groups())
    (response_logp(model, **batch) * chat.by_row(weights, places)).sum().backward()
    found.append(gradients(model).clone())
    model.zero_grad()
    for (prompt, responses), row in zip(groups(), weights):
        for response, weight in zip(responses, row):
            ids = torch.tensor(prompt + response)
            log_p = model(ids[None, :-1]).log_softmax(-1)[0].gather(1, ids[1:, None])[:, 0]
            (log_p[-len(response):].sum() * weight).backward()
    torch.testing.assert_close(found[0], gradients(model), atol=1e-5, rtol=1e-4)


def policy_loss(model, batch):
    logp = response_logp(model, batch["ids"], batch["branch"], batch["begin"])
    losses = mdpo_loss(logp, batch["old_logp"], batch["advantage"], gamma=1.0)
    return {"loss": losses.sum(), "count": losses.numel()}


@pytest.fixture
def sampled(monkeypatch):
    """A model, and a batch that it has sampled: two prompts, three responses each."""
    torch.manual_seed(0)
    model = AFM(TINY)
    monkeypatch.setattr(chat, "ROUND", 16)
    batch, places = chat.share_prompts(groups(count=2, responses=3))
    assert places == [(1, 0), (0, 0)]  # the longer one comes first
    batch = {name: x.flip(0) for name, x in batch.items()}
    with torch.no_grad():
        batch["old_logp"] = response_logp(model, **batch)
    batch["advantage"] = leave_one_out(torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    return model, batch


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_gradient_does_not_depend_on_the_micro_batch(sampled):
    model, batch = sampled
    found = []
    for micro_batch in (2, 1):
        backward(model, batch, policy_loss, micro_batch)
        found.append(gradients(model).clone())
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-6, rtol=1e-4)


def test_the_first_step_on_a_sample_is_reinforce_with_leave_one_out(sampled):
    model, batch = sampled
    backward(model, batch, policy_loss)
    ours = gradients(model).clone()
    model.zero_grad()
    logp = response_logp(model, batch["ids"], batch["branch"], batch["begin"])
    # (1, 0, 0), (0, 1, 1) -> (1, -1/2, -1/2), (-1, 1/2, 1/2), as a mean over six responses
    advantage = torch.tensor([[1, -0.5, -0.5], [-1, 0.5, 0.5]])
    (-(advantage * logp).sum() / 6).backward()
    torch.testing.assert_close(ours, gradients(model), atol=1e-6, rtol=1e-4)


def test_a_bandit_comes_to_the_known_optimum():
    """Of max E[r] - beta KL(pi || pi_ref) the optimum is pi ~ pi_ref exp(r / beta).
    With r = (1, 0.5, 0), pi_ref = (.2, .3, .5) and beta = 0.5:
    .2 e^2, .3 e, .5 = 1.4778, .8155, .5 of 2.7933."""
    rewards, reference, beta = (torch.tensor([1.0, 0.5, 0.0]),
                                torch.tensor([0.2, 0.3, 0.5]).log(), 0.5)
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
    p1 p2 (3 - 2) = 0.1875. 20,000 estimates from K = 4 samples each: their mean has a standard
    error below 0.006 without baseline, so odds of a false alarm beyond 0.03 are below 1e-6."""
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


def test_of_each_prompt_the_response_ranked_first_whoever_gave_it(monkeypatch, says):
    """Two models, two samples each, two prompts. Rewards: of the first prompt 1, 2 by the one,
    0, 5 by the other; of the second 3, 9 and 4, 4. The chances to be true are a tenth of the
    responses' names."""
    models = [Says([11], [12], [13], [14]), Says([21], [22], [23], [24])]
    rewards = {11: 1, 12: 2, 13: 3, 14: 9, 21: 0, 22: 5, 23: 4, 24: 4}
    monkeypatch.setattr(align.reward, "scores", lambda _, groups: [torch.tensor(
        [[float(rewards[ids[-1]]), ids[-1] / 10] for ids in responses])
        for _, responses in groups])
    tasks = [(Say(), SimpleNamespace(messages=lambda: "a")),
                (Say(), SimpleNamespace(messages=lambda: "bb"))]

    def first_ranked():
        return align.first_ranked(None, reward.answers(models, tasks, 2))
    chosen, true, whose = first_ranked()
    assert [[[(reply.prompt, reply.ids) for reply in some] for some in each]
            for each in reward.answers(models[:1], tasks, 2)] == [
        [[([1], [11]), ([1], [12])]], [[([2, 2], [13]), ([2, 2], [14])]]]
    assert [reply.ids for reply in chosen] == [[22], [14]]
    assert (true.tolist() == pytest.approx([2.2, 1.4])
            and whose.tolist() == [[False, True], [True, False]])
    models[0].ids[1] = [22]  # both say it, with other probabilities
    monkeypatch.setattr(evaluate, "generate_with_logp", lambda model, *_, **__: [
        (ids, -float(models.index(model))) for ids in model.ids])
    assert first_ranked()[2].tolist() == [[True, True], [True, False]]


def test_minibatches_share_out_all_samples(monkeypatch):
    """Three prompts of one token: the first has one response, sampled twice, the others two."""
    monkeypatch.setattr(chat, "ROUND", 16)
    groups = [([1], [[5]]), ([2], [[6], [7, 7]]), ([3], [[8] * 9, [9] * 5])]
    samples = {"which": torch.tensor([[0, 0], [0, 1], [1, 0]]),
               "reward": torch.tensor([[1.0, 2], [3, 4], [5, 6]])}
    batch = align.minibatch(groups, samples, 0, 2)  # the first and the third, which is longer
    assert batch["ids"].tolist() == [[3, *[8] * 9, 3, *[9] * 5], [1, 5] + [0] * 14]
    assert batch["which"].tolist() == [[1, 0], [0, 0]] and batch["begin"][0].tolist() == [0] * 16
    assert batch["reward"].tolist() == [[5, 6], [1, 2]]
    batch = align.minibatch(groups, samples, 1, 2)
    assert batch["which"].tolist() == [[0, 1]] and batch["reward"].tolist() == [[3, 4]]
    batch = align.minibatch(groups[:2], {name: x[:2] for name, x in samples.items()}, 0, 1)
    assert batch["ids"].tolist() == [[2, 6, 2, 7, 7, 1, 5] + [0] * 9]  # in one row
    assert batch["which"].tolist() == [[0, 1, 2, 2]]
    assert batch["reward"].tolist() == [[3, 4, 1, 2]]
    fuller = {name: torch.cat((x, x[:2])) for name, x in samples.items()}
    batch = align.minibatch(groups + groups[:2], fuller, 0, 1)
    assert batch["which"].tolist() == [[1, 0] + [-1] * 6, [0, 1, 2, 3, 4, 4, 5, 5]]
    assert batch["reward"].tolist() == [[5, 6] + [0] * 6, [3, 4, 3, 4, 1, 2, 1, 2]]


def test_what_is_compared_with():
    # REINFORCE: -log pi A, whatever sampled it. All rewards' mean is 2; no baseline leaves them.
    assert align.LOSSES["reinforce"](torch.tensor([-2.0]), torch.tensor([-9.0]),
                                     torch.tensor([3.0]), 1.0).item() == 6
    rewards = torch.tensor([[1.0, 2.0], [5.0, 0.0]])
    assert align.BASELINES["mean"](rewards).tolist() == [[-1, 0], [3, -2]]
    assert align.BASELINES["none"](rewards).tolist() == rewards.tolist()


class Say:
    """A family that wants the prompt said again, in letters."""
    name = "say"

    def check(self, task, text):
        return text == task


class Letters:
    """A tokenizer of one letter each; 0 ends."""
    def special(self, _):
        return 0

    def encode_chat(self, messages, reply):
        return [ord(c) - 96 for c in messages]

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


class Says:
    """Stands for a model: says these ids."""
    config, tokenizer, dtype = TINY, Letters(), torch.float32

    def __init__(self, *ids):
        self.ids = list(ids)


@pytest.fixture
def says(monkeypatch):
    """Models that stand for others say what they are to say."""
    monkeypatch.setattr(evaluate, "Decoder", lambda model: model)
    monkeypatch.setattr(evaluate, "generate_with_logp",
                        lambda model, *_, **__: [(ids, 0.0) for ids in model.ids])


def test_truth_is_the_checkers_with_the_end_or_without(says):
    said = evaluate.replies(Says([1, 2, 0], [1, 2], [1, 2, 3]), ["ab"] * 3)
    assert align.correctness([(Say(), "ab")] * 3, said).tolist() == [1, 1, 0]


RUN = SimpleNamespace(seed=0, file=lambda name: name, logged=lambda stage: [])


@pytest.fixture
def stage(monkeypatch):
    """Stages of a run that hold a tiny model each, and what they would give to `fit`,
    which trains nothing."""
    def model(name):
        torch.manual_seed(len(name))
        return AFM(TINY)
    given = {}
    monkeypatch.setattr(align, "load_model", lambda run, name, kind=None: model(name))
    monkeypatch.setattr(align, "save_model",
                        lambda run, stage, model: given.update(saved=(stage, model)))
    monkeypatch.setattr(align.evaluate, "full_validation", lambda run, model, count: {})
    monkeypatch.setattr(align, "fit", lambda model, batches, loss, **settings: given.update(
        settings, model=model, batches=batches, loss=loss))
    monkeypatch.setattr(align.chat, "toy_world", lambda run: {})
    return given


@pytest.mark.parametrize("method, loss", [(align.dpo, math.log(2)), (align.ipo, 0.25)])
def test_preferences_are_learned_against_the_reference(stage, monkeypatch, method, loss):
    """At the reference h = 0: log 2 for DPO, and beta^2 (0 - 1 / (2 beta))^2 = 1/4 for IPO.
    With the reference's chosen side lowered by 1, as if it had been raised since:
    h = 1, log(1 + e^-beta) and (beta - 1/2)^2."""
    compared = [{"prompt": [1, 2], "responses": [[4] * (4 - n), [3] * n, [5]],
                 "grades": [[2] * 4] * 3, "pairs": [[1, 0, 0, True], [1, 2, 3, True]][:n]}
                for n in (1, 2, 3)]
    monkeypatch.setattr(reward, "read_preferences", lambda run, number: compared)
    method(1, RUN, beta=0.3, prompts=5)
    batch = stage["batches"](0)
    with torch.no_grad():
        at_reference = stage["loss"](stage["model"], batch)
        assert 5 < at_reference["count"] == (batch["pairs"][..., 2] >= 0).sum() < 10
        assert at_reference["loss"].item() / at_reference["count"] == pytest.approx(loss, abs=1e-3)
        batch["reference"] = batch["reference"] - torch.tensor([0.0, 1.0, 0.0] * 5)
        raised = stage["loss"](stage["model"], batch)
    expected = math.log(1 + math.exp(-0.3)) if method is align.dpo else 0.04
    assert raised["loss"].item() / raised["count"] == pytest.approx(expected, abs=1e-3)


def test_an_iteration_of_mdloo_deals_out_advantages_of_regularized_rewards(stage, monkeypatch):
    """Two prompts, two responses each, beta = 0.5. R = r - 0.5 (old - ref):
    1 - 0.5 = 0.5 and 0; 3 and 1 - 1 = 0. So leaving one out: 0.5, -0.5; 3, -3.
    The first step has the first prompt, the second the other."""
    groups = [([10], [[9] * 2, [9] * 4]), ([12], [[9], [8]])]
    rows = {
        "old_logp": torch.tensor([[-1.0, -2], [-3, -4]]),
        "ref_logp": torch.tensor([[-2.0, -2], [-3, -6]]),
        "reward": torch.tensor([[1.0, 0], [3, 1]]), "truth": torch.tensor([[1.0, 0], [1, 0]]),
        "length": torch.tensor([[2.0, 4], [1, 1]]), "which": torch.tensor([[0, 1], [0, 1]])}
    sampled = []
    monkeypatch.setattr(align, "rollouts", lambda *_: sampled.append(1) or (groups, rows))
    monkeypatch.setattr(reward, "draw_mixture", lambda *_: [])
    align.mdloo(1, RUN, prompts=2, samples=2, beta=0.5, iterations=3)
    assert stage["steps"] == 12 and stage["save_every"] == 4
    first, second, *_ = [stage["batches"](step) for step in range(4)]
    assert len(sampled) == 1  # four steps on each sample
    assert first["ids"][:, 0].tolist() == [10] and first["advantage"].tolist() == [[0.5, -0.5]]
    assert second["ids"][:, 0].tolist() == [12] and second["advantage"].tolist() == [[3, -3]]
    with torch.no_grad():
        told = stage["loss"](stage["model"], first)
    assert told["count"] == 2 and told["reward"] == 1 and told["truth %"] == 100
    assert (told["KL"], told["entropy"], told["length"]) == (1, 3, 6)  # (-1 - -2) + 0, 1 + 2, 2 + 4
    rows |= {name: rows[name].view(1, 4)
             for name in ("old_logp", "ref_logp", "reward", "truth", "length")}
    groups[:] = [([10], [[9] * 2, [9] * 4, [9]])]
    rows["which"] = torch.tensor([[0, 1, 2, 2]])  # the last two are equal, and computed once
    align.mdloo(1, RUN, prompts=1, samples=4, parts=1, beta=0.5)  # R = 0.5, 0, 3, 0
    assert stage["batches"](0)["advantage"].tolist() == [pytest.approx(
        [0.5 - 1, 0 - 3.5 / 3, 3 - 0.5 / 3, 0 - 3.5 / 3])]
    with torch.no_grad():  # the loss counts all four
        batch = stage["batches"](0)
        batch["advantage"] = torch.tensor([[0.0, 0, 1, 1]])
        batch["old_logp"] = response_logp(stage["model"], batch["ids"], batch["branch"],
                                          batch["begin"]).gather(1, batch["which"])
        told = stage["loss"](stage["model"], batch)
        assert told["count"] == 4 and told["loss"].item() == pytest.approx(-2, abs=1e-5)
        batch["which"][0, 3] = -1  # a row that has one sample less
        batch["advantage"][0, 3] = 1e9
        told = stage["loss"](stage["model"], batch)
    assert told["count"] == 3 and told["loss"].item() == pytest.approx(-1, abs=1e-5)
    with pytest.raises(ValueError, match="two or more"):
        align.mdloo(1, RUN, samples=1)
    with pytest.raises(ValueError, match="prompts=1: give 2 or more, one for each part"):
        align.mdloo(1, RUN, prompts=1)


def test_rollouts_are_scored_as_they_were_sampled(monkeypatch):
    torch.manual_seed(0)
    model, reference = AFM(TINY), AFM(TINY)
    model.tokenizer = Letters()
    monkeypatch.setattr(align.reward, "scores", lambda judge, groups: [torch.tensor(
        [[float(len(ids)), 0.5] for ids in responses]) for _, responses in groups])
    tasks = [(Say(), SimpleNamespace(messages=lambda: "ab")),
                (Say(), SimpleNamespace(messages=lambda: "c"))]
    groups, samples = align.rollouts(model, reference, tasks, 2)
    assert [prompt for prompt, _ in groups] == [[1, 2], [3]]
    assert samples["reward"].tolist() == samples["truth"].tolist()
    with torch.no_grad():
        for name, each in (("old_logp", model), ("ref_logp", reference)):
            for (prompt, responses), which, found in zip(groups, samples["which"], samples[name]):
                batch, _ = chat.share_prompts([(prompt, responses)])
                logp = response_logp(each, **batch)[0, which]
                torch.testing.assert_close(found, logp, atol=1e-4, rtol=0)
    assert (samples["old_logp"] - samples["ref_logp"]).abs().min() > 1e-3
    for _, responses in groups:  # their last token is the end, if they come to it
        assert all(0 not in response[:-1] for response in responses)
    _, judged = align.rollouts(model, reference, tasks, 2, judge=object())
    assert judged["reward"].tolist() == judged["length"].tolist()


def test_where_decoding_rounds_otherwise_samples_are_scored_as_training_does(monkeypatch):
    """In bfloat16: so that rho is 1, and KL to an equal reference 0, at the first step."""
    torch.manual_seed(0)
    model = AFM(TINY, torch.bfloat16)
    model.tokenizer = Letters()
    tasks = [(Say(), SimpleNamespace(messages=lambda: "ab"))] * 3
    _, batch = align.rollouts(model, model, tasks, 2)
    assert torch.equal(batch["old_logp"], batch["ref_logp"])


def test_equal_responses_are_computed_once(monkeypatch, says):
    model = Says([7, 0], [8, 9], [7, 0], [5], [5], [5])
    tasks = [(Say(), SimpleNamespace(messages=lambda text=text: text)) for text in ("ab", "cd")]
    monkeypatch.setattr(chat, "of_responses", lambda _, model, groups: [torch.zeros(3)] * 2)
    found, samples = align.rollouts(model, model, tasks, 3)
    assert samples["which"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert [responses for _, responses in found] == [[(7, 0), (8, 9)], [(5,)]]
    assert samples["length"].tolist() == [[2, 2, 2], [1, 1, 1]]


def test_a_committee_hands_on_its_best(monkeypatch):
    """The best of before, the round's four, or the one that imitates:
    by the mean of validation tasks."""
    saved = []
    monkeypatch.setattr(align, "imitate", lambda number, run, method, stages, *_: {
        "mean %": 60.0, "asked": stages})
    monkeypatch.setattr(align, "load_model", lambda run, stage: stage)
    monkeypatch.setattr(align, "save_model", lambda run, stage, model: saved.append((stage, model)))
    before = {"sft": 50.0}
    monkeypatch.setattr(align.evaluate, "full_validation",
                        lambda run, model, count: {"mean %": before[model]})
    means = {"rs1": 55.0, "dpo1": 70.0, "ipo1": 40.0, "mdloo1": 65.0}
    run = SimpleNamespace(read_json=lambda _: {
        name: {"metrics": {"mean %": mean}} for name, mean in means.items()})
    told = align.committee(1, run)
    assert told["asked"] == ["rs1", "dpo1", "ipo1", "mdloo1", "sft"]
    assert (told["best"], told["best mean %"], told["mean % before"], saved) == (
        "dpo1", 70, 50, [("committee1", "dpo1")])
    saved.clear()
    means["dpo1"] = 30.0
    assert align.committee(1, run, only="mdloo1")["asked"] == ["mdloo1"]
    assert saved == [("committee1", "mdloo1")]
    saved.clear()
    means["mdloo1"] = 59.0
    assert align.committee(1, run)["best"] == "committee1" and saved == []


def test_what_is_imitated_is_what_is_found_true(stage, monkeypatch):
    """Chances of truth decide, not rewards: of three responses ranked first, those above a half;
    all, if none is."""
    chances, said = [0.4, 0.6, 0.5], [[True, True], [False, True], [False, True]]
    monkeypatch.setattr(reward, "answers", lambda models, *_: list(models))
    monkeypatch.setattr(align, "first_ranked", lambda *_: (
        [evaluate.Reply([1], [2 + i, 0], "") for i in range(3)],
        torch.tensor(chances), torch.tensor(said)))
    monkeypatch.setattr(reward, "draw_mixture",
                        lambda *_: [(Say(), SimpleNamespace(check=None))] * 3)
    monkeypatch.setattr(align, "correctness", lambda tasks, said: torch.tensor(
        [float(reply.ids == [3, 0]) for reply in said]))

    def imitated():
        told = align.imitate(1, RUN, "rs", ["a", "b"], 3, 2, 1, 4, 0.1, 1)
        rows = torch.cat([stage["batches"](step)["ids"].flatten() for step in range(4)])
        return told, set(rows.tolist())
    told, ids = imitated()
    assert (told["examples"] == 1 and told["first ranked true %"] == pytest.approx(100 / 3)
            and ids == {0, 1, 3})
    assert told["a says it %"] == pytest.approx(100 / 3) and told["b says it %"] == 100
    assert stage["saved"] == ("rs1", stage["model"])
    chances[:] = [0.4, 0.6, 0.9]
    told, ids = imitated()
    assert told["examples"] == 2 and ids == {0, 1, 3, 4}
    chances[:] = [0.2, 0.3, 0.1]  # the best there is
    told, ids = imitated()
    assert told["examples"] == 3 and ids == {0, 1, 2, 3, 4}
