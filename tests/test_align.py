"""Losses of alignment and their gradients by hand; best of N, pairs and rollouts; and the loops."""
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import align, chat, respond, reward
from afm_min.align import (dpo_loss, ipo_loss, kl_penalised, leave_one_out, mdpo_loss, ppo_loss,
                           reinforce_loss)
from afm_min.chat import response_logp
from afm_min.model import AFM
from afm_min.respond import Response
from afm_min.run import Run, UserError
from afm_min.trainer import Trainer, backward
from tests.test_chat import (TINY, FakeModel, gradients, make_groups, question, tiny_model,
                             use_fake_models)


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# Losses.

def test_dpo_by_hand():
    # h = (-1 - -2) - (-4 - -3) = 1 + 1 = 2; beta h = 1: -log sigmoid(1) = log(1 + e^-1) = 0.313262.
    # d/d chosen = -beta sigmoid(-beta h) = -0.5 * 0.268941 = -0.134471, d/d rejected the opposite.
    chosen, rejected = parameter(-1.0), parameter(-4.0)
    loss = dpo_loss(chosen, rejected, ref_chosen=torch.tensor([-2.0]),
                    ref_rejected=torch.tensor([-3.0]), beta=0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)
    assert chosen.grad.item() == pytest.approx(-0.134471, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.134471, abs=1e-6)


def test_dpo_at_the_reference():
    """h = 0: log 2, and a gradient of -beta / 2."""
    chosen, same = parameter(-2.0), torch.tensor([-2.0])
    loss = dpo_loss(chosen, same, same, same, beta=0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert chosen.grad.item() == pytest.approx(-0.25)


def test_ipo_by_hand():
    # h = 2 as above. For beta = 0.5 the margin asked for is 1 / (2 beta) = 1: (2 - 1)^2 = 1,
    # gradient 2 (h - 1) = 2.
    chosen, rejected = parameter(-1.0), parameter(-4.0)
    loss = ipo_loss(chosen, rejected, ref_chosen=torch.tensor([-2.0]),
                    ref_rejected=torch.tensor([-3.0]), beta=0.5)
    loss.sum().backward()
    assert (loss.item(), chosen.grad.item(), rejected.grad.item()) == (1, 2, -2)


def test_ipo_has_its_minimum_at_the_margin():
    """h = 1 / (2 beta), for beta = 0.1 that is 5: the loss and its gradient are 0."""
    chosen, zero = parameter(5.0), torch.zeros(1)
    loss = ipo_loss(chosen, zero, zero, zero, beta=0.1)
    loss.sum().backward()
    assert (loss.item(), chosen.grad.item()) == (0, 0)


def test_leave_one_out_by_hand():
    # (1, 0, 0, 0): 1 minus the mean of three zeros; 0 minus the mean of (1, 0, 0).
    assert leave_one_out(torch.tensor([[1.0, 0, 0, 0]])).tolist()[0] == pytest.approx(
        [1, -1 / 3, -1 / 3, -1 / 3])
    # (4, 2): 4 - 2 and 2 - 4. The prompts' rewards are not mixed.
    assert leave_one_out(torch.tensor([[4.0, 2.0], [7.0, 7.0]])).tolist() == [[2, -2], [0, 0]]


def test_kl_penalised_reward_by_hand():
    # r - beta (log pi - log pi_ref): 1 - 0.5 (-2 - -3) = 0.5. Equal policies: r itself.
    rewards = kl_penalised(torch.tensor([1.0, 1.0]), old_logp=torch.tensor([-2.0, -2.0]),
                           ref_logp=torch.tensor([-3.0, -2.0]), beta=0.5)
    assert rewards.tolist() == [0.5, 1.0]


def test_mdpo_by_hand():
    # rho = e^(log 2) = 2: -(2 A - gamma (2 log 2 - 2 + 1)) = -(2 * 3 - 0.5 * 0.386294) = -5.806853.
    # Its gradient: -(rho A - gamma rho log rho) = -(6 - 0.5 * 1.386294) = -5.306853.
    logp, old = parameter(-1.0), torch.tensor([-1.0 - math.log(2)], dtype=torch.float64)
    loss = mdpo_loss(logp, old, advantages=torch.tensor([3.0]), gamma=0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-5.806853, abs=1e-6)
    assert logp.grad.item() == pytest.approx(-5.306853, abs=1e-6)


def test_mdpo_divergence_is_0_for_equal_policies():
    logp = torch.tensor([0.5, 0.3, 0.2]).log()
    assert mdpo_loss(logp, logp, torch.zeros(3), gamma=1.0).tolist() == [0, 0, 0]


def test_mdpo_divergence_has_the_mean_kl():
    # pi = (.2, .3, .5), pi_k = (.5, .3, .2): E_k[D] = KL(pi || pi_k) = .2 log .4 + .5 log 2.5
    # = .274887
    logp, old_logp = torch.tensor([0.2, 0.3, 0.5]).log(), torch.tensor([0.5, 0.3, 0.2]).log()
    divergence = mdpo_loss(logp, old_logp, torch.zeros(3), gamma=1.0)
    assert (old_logp.exp() * divergence).sum().item() == pytest.approx(0.274887, abs=1e-6)


@pytest.mark.parametrize("ratio, advantage, loss, gradient", [
    (1.1, 2.0, -2.2, -2.2),  # inside the clip of 0.2: -rho A, whose gradient is the same
    (1.5, 2.0, -2.4, 0.0),  # beyond it, and A asks for more: -1.2 A, no gradient
    (1.5, -2.0, 3.0, 3.0),  # beyond it, and A asks for less: -rho A
    (0.5, -2.0, 1.6, 0.0)])  # -min(-1, -1.6): -0.8 A, no gradient
def test_ppo_by_hand(ratio, advantage, loss, gradient):
    logp = parameter(math.log(ratio))
    result = ppo_loss(logp, torch.zeros(1), torch.tensor([advantage]), clip=0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(gradient)


def test_reinforce_by_hand():
    """-A log pi, whatever policy sampled."""
    loss = reinforce_loss(torch.tensor([-2.0]), torch.tensor([-9.0]), torch.tensor([3.0]))
    assert loss.item() == 6


def test_losses_and_baselines_by_name():
    assert align.LOSSES == {"mdpo": (mdpo_loss, ["gamma"]), "ppo": (ppo_loss, ["clip"]),
                            "reinforce": (reinforce_loss, [])}
    rewards = torch.tensor([[1.0, 2.0], [5.0, 0.0]])  # their mean is 2
    assert align.BASELINES["leave one out"] is leave_one_out
    assert align.BASELINES["mean"](rewards).tolist() == [[-1, 0], [3, -2]]
    assert align.BASELINES["none"](rewards).tolist() == rewards.tolist()


# Policy gradients.

def policy_loss(model, batch):
    logp = response_logp(model, batch["ids"], batch["branch"], batch["segment_start"])
    losses = mdpo_loss(logp, batch["old_logp"], batch["advantage"], gamma=1.0)
    return {"loss": losses.sum(), "count": losses.numel()}


@pytest.fixture
def rollout(monkeypatch):
    """A model, and a batch of its samples: two prompts with three responses each."""
    torch.manual_seed(0)
    model = tiny_model()
    monkeypatch.setattr(chat, "ROUND", 16)
    batch, places = chat.share_prompts(make_groups(count=2, responses=3))
    assert places == [(1, 0), (0, 0)]  # the longer one comes first
    batch = {name: x.flip(0) for name, x in batch.items()}
    with torch.no_grad():
        batch["old_logp"] = response_logp(model, **batch)
    batch["advantage"] = leave_one_out(torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    return model, batch


def test_gradient_does_not_depend_on_the_micro_batch(rollout):
    model, batch = rollout
    backward(model, batch, policy_loss, micro_batch_size=2)
    whole = gradients(model).clone()
    backward(model, batch, policy_loss, micro_batch_size=1)
    torch.testing.assert_close(whole, gradients(model), atol=1e-6, rtol=1e-4)


def test_first_step_on_a_sample_is_reinforce_with_leave_one_out(rollout):
    model, batch = rollout
    backward(model, batch, policy_loss)
    mdpo = gradients(model).clone()
    model.zero_grad()
    logp = response_logp(model, batch["ids"], batch["branch"], batch["segment_start"])
    # (1, 0, 0), (0, 1, 1) -> (1, -1/2, -1/2), (-1, 1/2, 1/2), as a mean over six responses
    advantage = torch.tensor([[1, -0.5, -0.5], [-1, 0.5, 0.5]])
    (-(advantage * logp).sum() / 6).backward()
    torch.testing.assert_close(mdpo, gradients(model), atol=1e-6, rtol=1e-4)


def test_a_bandit_converges_to_the_known_optimum():
    """max E[r] - beta KL(pi || pi_ref) has its optimum at pi ~ pi_ref exp(r / beta).
    With r = (1, 0.5, 0), pi_ref = (.2, .3, .5) and beta = 0.5:
    .2 e^2, .3 e, .5 = 1.4778, .8155, .5 of 2.7933."""
    rewards, beta = torch.tensor([1.0, 0.5, 0.0]), 0.5
    reference = torch.tensor([0.2, 0.3, 0.5]).log()
    torch.manual_seed(0)
    logits = reference.clone().requires_grad_()
    for iteration in range(150):
        with torch.no_grad():
            old = logits.log_softmax(0)
            arms = torch.multinomial(old.exp().expand(256, 3), 4, replacement=True)  # (N, S)
            advantages = leave_one_out(
                kl_penalised(rewards[arms], old[arms], reference[arms], beta))
        for _ in range(3):
            logp = logits.log_softmax(0)[arms]
            loss = mdpo_loss(logp, old[arms], advantages, gamma=1.0).mean()
            gradient, = torch.autograd.grad(loss, logits)
            with torch.no_grad():
                logits -= 0.5 * gradient
    optimum = torch.tensor([0.5290, 0.2920, 0.1790])
    torch.testing.assert_close(logits.softmax(0), optimum, atol=0.02, rtol=0)


def test_leave_one_out_has_no_bias_and_less_variance_than_no_baseline():
    """Two arms with p = (.25, .75) and rewards (3, 2): the gradient by the first logit is
    p1 p2 (3 - 2) = 0.1875. 20,000 estimates from S = 4 samples each: their mean has a standard
    error below 0.006 without a baseline, so odds of a false alarm beyond 0.03 are below 1e-6."""
    torch.manual_seed(0)
    p, rewards = torch.tensor([0.25, 0.75]), torch.tensor([3.0, 2.0])
    arms = torch.multinomial(p.expand(20_000, 2), 4, replacement=True)
    score = (arms == 0).float() - 0.25  # of the first logit: d log p(arm) / d logit
    plain = (rewards[arms] * score).mean(1)
    ours = (leave_one_out(rewards[arms]) * score).mean(1)
    assert plain.mean().item() == pytest.approx(0.1875, abs=0.03)
    assert ours.mean().item() == pytest.approx(0.1875, abs=0.03)
    assert ours.var() < plain.var() / 5


# Stages with fakes.

RUN = SimpleNamespace(seed=0, file=lambda name: name,
                      read_log=lambda stage: [{"truth %": 50.0}])


class Echo:
    """A family whose solution is the question."""
    name = "echo"

    def check(self, task, text):
        return text == task.question


def echo(*questions):
    return [(Echo(), question(text)) for text in questions]


@pytest.fixture
def stage(monkeypatch):
    """Settings that a stage hands to `fit`, which trains nothing here, the checkpoints it loads and
    the model it saves. All checkpoints are tiny models."""
    settings = {"loaded": []}

    def load_model(run, name, kind=AFM):
        settings["loaded"].append(name)
        torch.manual_seed(len(name))
        return tiny_model()

    def fit(model, batches, loss, **others):
        settings.update(others, model=model, batches=batches, loss=loss)

    def save_model(run, stage, model):
        settings["saved"] = (stage, model)
    monkeypatch.setattr(align, "load_model", load_model)
    monkeypatch.setattr(align, "fit", fit)
    monkeypatch.setattr(align, "save_model", save_model)
    monkeypatch.setattr(align.evaluate, "validation", lambda model, count: {})
    return settings


# Imitation.

def test_truth_is_that_of_the_text_with_or_without_the_end(monkeypatch):
    use_fake_models(monkeypatch)
    tasks = echo("ab", "ab", "ab")
    responses = respond.generate_responses(FakeModel({"ab": [[1, 2, 0], [1, 2], [1, 2, 3]]}),
                                        [task.messages() for _, task in tasks])
    assert reward.truths(tasks, responses).tolist() == [1, 1, 0]


def test_best_of_n_has_the_highest_reward(monkeypatch):
    """Two prompts, four responses each, with rewards 1, 2, 0, 5 and 3, 9, 4, 4. Here a tenth of
    the response's token is its probability of truth."""
    rewards = {11: 1, 12: 2, 21: 0, 22: 5, 13: 3, 14: 9, 23: 4, 24: 4}

    def scores(reward_model, groups):
        assert groups == [([1], [[11], [12], [21], [22]]), ([2, 2], [[13], [14], [23], [24]])]
        return [torch.tensor([[float(rewards[i]), i / 10] for i, in responses])
                for _, responses in groups]
    monkeypatch.setattr(reward, "scores", scores)
    best, truth = align.best_of_n(None, [[Response([1], [i], "") for i in (11, 12, 21, 22)],
                                         [Response([2, 2], [i], "") for i in (13, 14, 23, 24)]])
    assert [response.ids for response in best] == [[22], [14]]
    assert truth.tolist() == pytest.approx([2.2, 1.4])


@pytest.fixture
def imitate(stage, monkeypatch):
    """Return a function that imitates the best of three prompts' responses, [2, 0], [3, 0], [4, 0],
    given the reward model's probabilities of their truth. Only [3, 0] is true. The function returns
    the metrics and the set of ids in the batches."""
    best = [Response([1], [2 + i, 0], "") for i in range(3)]
    other = Response([1], [9], "")
    # Model a gives the first one. Model b gives all three, the first one with another probability.
    by_model = [[[best[0], other], [other, best[0]._replace(logp=-1.0)]],
                [[other, other], [best[1], other]],
                [[other, other], [other, best[2]]]]
    monkeypatch.setattr(reward, "draw_prompts", lambda *_: echo("a", "b", "c"))
    monkeypatch.setattr(reward, "sample_responses", lambda models, tasks, samples: by_model)
    monkeypatch.setattr(reward, "truths", lambda tasks, responses: torch.tensor(
        [float(response.ids == [3, 0]) for response in responses]))

    def run_imitate(probabilities):
        def best_of_n(reward_model, responses, choice):
            assert responses == [sum(drawn, []) for drawn in by_model]
            return best, torch.tensor(probabilities)
        monkeypatch.setattr(align, "best_of_n", best_of_n)
        metrics = align.imitate(1, RUN, "rs", ["a", "b"], prompts=3, samples=2, choice="best",
                                epochs=200, batch_size=2, lr=0.1, count=1)
        batches = [stage["batches"](step) for step in range(4)] if "batches" in stage else []
        return metrics, {i for batch in batches for i in batch["ids"].flatten().tolist()}
    return run_imitate


@pytest.mark.parametrize("probabilities, examples, ids", [
    ([0.4, 0.6, 0.5], 1, {0, 1, 3}), ([0.4, 0.6, 0.9], 2, {0, 1, 3, 4})])
def test_responses_more_likely_true_than_not_are_imitated(imitate, probabilities, examples, ids):
    metrics, batch_ids = imitate(probabilities)
    assert metrics["examples"] == examples
    assert batch_ids == ids


@pytest.mark.parametrize("probabilities", [[0.2, 0.3, 0.1], [0.5, 0.5, 0.5]])
def test_without_a_response_likely_to_be_true_none_is_imitated(imitate, stage, probabilities,
                                                               capsys):
    """The stage ends with the model that it started from, and one line says why."""
    metrics, batch_ids = imitate(probabilities)
    assert metrics["examples"] == 0
    assert "steps" not in stage and batch_ids == set()  # nothing was trained
    assert metrics["first ranked true %"] == pytest.approx(100 / 3)
    name, model = stage["saved"]
    assert name == "rs1"
    torch.manual_seed(len("sft"))
    for p, start in zip(model.parameters(), AFM(TINY).parameters()):
        assert torch.equal(p, start)
    assert capsys.readouterr().out == (
        "rs1: none of 3 best responses is likely to be true, so none is imitated: raise "
        "rs1.prompts or rs1.samples\n")


def test_metrics_of_imitation(imitate):
    metrics, _ = imitate([0.4, 0.6, 0.5])
    assert metrics["first ranked true %"] == pytest.approx(100 / 3)
    assert metrics["a says it %"] == pytest.approx(100 / 3)
    assert metrics["b says it %"] == 100


def test_settings_of_imitation(imitate, stage):
    imitate([0.4, 0.6, 0.5])
    assert stage["loaded"] == ["reward1", "sft"]
    assert stage["saved"] == ("rs1", stage["model"])
    assert stage["loss"] is chat.response_loss
    assert (stage["steps"], stage["lr"], stage["stage"]) == (100, 0.1, "rs1")
    # 20 steps of warm-up, then linear to 0
    assert [stage["schedule"](step) for step in (0, 50)] == pytest.approx([0.05, 0.5])


def test_a_random_response_instead_of_the_best(monkeypatch):
    """A control: its response may be any, and its probability of truth is its own."""
    monkeypatch.setattr(reward, "scores", lambda reward_model, groups: [
        torch.tensor([[float(i), i / 10] for i, in responses]) for _, responses in groups])
    torch.manual_seed(0)
    chosen, truth = align.best_of_n(None, [[Response([1], [i], "") for i in range(1, 9)]] * 50,
                                    "random")
    assert {response.ids[0] for response in chosen} == set(range(1, 9))
    assert truth.tolist() == pytest.approx([response.ids[0] / 10 for response in chosen])


@pytest.mark.parametrize("round_number, members", [
    (1, ["rs1", "dpo1", "ipo1", "mdloo1", "sft"]),
    (2, ["rs2", "dpo2", "ipo2", "mdloo2", "committee1", "best1"])])
def test_the_committee_has_the_latest_models_and_the_best_of_before(monkeypatch, round_number,
                                                                    members):
    asked = []
    monkeypatch.setattr(align, "imitate",
                        lambda number, run, method, stages, **_: asked.append((method, stages)))
    align.committee(round_number, None)
    align.committee(round_number, None, only="mdloo1")
    assert asked == [("committee", members), ("committee", ["mdloo1"])]


def test_the_best_model_has_the_highest_sum_of_two_accuracies(monkeypatch):
    """By greedy accuracy alone, dpo1 would be the best; by the reward model's choice, ipo1."""
    greedy = {"sft": 50.0, "rs1": 55.0, "dpo1": 70.0, "ipo1": 40.0, "mdloo1": 65.0,
              "committee1": 60.0}
    preferred = {"sft": 50.0, "rs1": 60.0, "dpo1": 55.0, "ipo1": 83.0, "mdloo1": 61.0,
                 "committee1": 64.0}
    saved = []
    monkeypatch.setattr(align, "load_model", lambda run, stage, kind=None: stage)
    monkeypatch.setattr(align, "save_model", lambda run, stage, model: saved.append((stage, model)))
    monkeypatch.setattr(align.evaluate, "validation_tasks", lambda count: ["short", "too long"])
    monkeypatch.setattr(reward, "fitting", lambda tasks, model: [tasks[0]])
    monkeypatch.setattr(align.evaluate, "validation",
                        lambda model, count: {"mean %": greedy[model]})
    monkeypatch.setattr(reward, "sample_responses",
                        lambda models, tasks, samples: [models for _ in tasks])
    monkeypatch.setattr(align, "best_of_n", lambda reward_model, responses: (*responses, None))
    monkeypatch.setattr(align.evaluate, "mean_over_families",
                        lambda tasks, responses: preferred[responses])
    metrics = align.best(1, RUN)
    assert saved == [("best1", "mdloo1")]
    assert (metrics["best"], metrics["mean %"], metrics["mean % before"]) == ("mdloo1", 65, 50)
    assert metrics["candidates"] == [[stage, greedy[stage], preferred[stage]] for stage in greedy]


# Preferences.

@pytest.fixture
def preferences(monkeypatch):
    """Comparisons of three prompts with 1, 2 and 2 pairs."""
    comparisons = [{"prompt": [1, 2], "responses": [[4] * (4 - n), [3] * n, [5]],
                    "grades": [[2] * 4] * 3, "pairs": [[1, 0, 0, True], [1, 2, 3, True]][:n]}
                   for n in (1, 2, 3)]
    monkeypatch.setattr(reward, "read_preferences", lambda run, round_number: comparisons)


@pytest.mark.parametrize("method, at_reference, raised", [
    (align.dpo, math.log(2), math.log(1 + math.exp(-0.3))), (align.ipo, 0.25, 0.04)])
def test_preference_losses_are_relative_to_the_reference(stage, preferences, method, at_reference,
                                                         raised):
    """At the reference h = 0: log 2 for DPO, and beta^2 (0 - 1 / (2 beta))^2 = 1/4 for IPO.
    If pi_ref gives the chosen response 1 less, h = 1: log(1 + e^-beta), and (beta - 1/2)^2."""
    method(1, RUN, beta=0.3, prompts=5)
    batch = stage["batches"](0)
    pairs = (batch["pairs"][..., 2] >= 0).sum()
    assert 5 < pairs < 10
    with torch.no_grad():
        metrics = stage["loss"](stage["model"], batch)
        assert metrics["count"] == pairs
        assert metrics["loss"].item() / pairs == pytest.approx(at_reference, abs=1e-3)
        batch["ref_logp"] = batch["ref_logp"] - torch.tensor([0.0, 1.0, 0.0] * 5)
        metrics = stage["loss"](stage["model"], batch)
    assert metrics["loss"].item() / pairs == pytest.approx(raised, abs=1e-3)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_settings_of_preference_optimization(stage, preferences, method):
    getattr(align, method)(1, RUN, steps=100, lr=0.1)
    assert stage["loaded"] == ["sft"]
    assert stage["saved"] == (f"{method}1", stage["model"])
    assert (stage["steps"], stage["lr"], stage["stage"]) == (100, 0.1, f"{method}1")
    assert [stage["schedule"](step) for step in (0, 50)] == pytest.approx([0.05, 0.5])


# Rollouts and minibatches.

def test_log_probabilities_of_rollouts():
    torch.manual_seed(0)
    model, reference = tiny_model(), tiny_model()
    groups, values = align.sample_rollouts(model, reference, echo("ab", "c"), samples=2)
    assert [prompt for prompt, _ in groups] == [[1, 2], [3]]
    with torch.no_grad():
        for name, policy in (("old_logp", model), ("ref_logp", reference)):
            for group, which, logps in zip(groups, values["which"], values[name]):
                batch, _ = chat.share_prompts([group])
                expected = response_logp(policy, **batch)[0, which]
                torch.testing.assert_close(logps, expected, atol=1e-4, rtol=0)
    assert (values["old_logp"] - values["ref_logp"]).abs().min() > 1e-3
    for _, responses in groups:  # nothing follows the end token
        assert all(0 not in response[:-1] for response in responses)


def test_rewards_of_rollouts(monkeypatch):
    """By the reward model, or, without one, the truth. Here the reward is a response's length."""
    use_fake_models(monkeypatch)
    monkeypatch.setattr(chat, "map_responses",
                        lambda function, model, groups: [torch.zeros(2) for _ in groups])
    monkeypatch.setattr(reward, "scores", lambda reward_model, groups: [
        torch.tensor([[float(len(response)), 0.5] for response in responses])
        for _, responses in groups])
    model = FakeModel({"ab": [[1, 2, 0], [3]], "c": [[4, 0], [3, 0]]})
    _, values = align.sample_rollouts(model, model, echo("ab", "c"), samples=2)
    assert values["truth"].tolist() == values["reward"].tolist() == [[1, 0], [0, 1]]
    _, values = align.sample_rollouts(model, model, echo("ab", "c"), 2, reward_model=object())
    assert values["truth"].tolist() == [[1, 0], [0, 1]]
    assert values["reward"].tolist() == values["length"].tolist() == [[3, 1], [2, 2]]


def test_equal_responses_of_a_rollout_are_kept_once(monkeypatch):
    use_fake_models(monkeypatch)
    monkeypatch.setattr(chat, "map_responses",
                        lambda function, model, groups: [torch.zeros(3)] * 2)
    model = FakeModel({"ab": [[7, 0], [8, 9], [7, 0]], "cd": [[5], [5], [5]]}, logp=-2.0)
    groups, values = align.sample_rollouts(model, model, echo("ab", "cd"), samples=3)
    assert groups == [([1, 2], [(7, 0), (8, 9)]), ([3, 4], [(5,)])]
    assert values["which"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert values["length"].tolist() == [[2, 2, 2], [1, 1, 1]]
    assert values["old_logp"].tolist() == [[-2.0] * 3] * 2


def test_in_bfloat16_rollouts_are_scored_as_in_training():
    """Decoding rounds differently. Scored alike, equal policies have the ratio 1 and a KL of 0."""
    torch.manual_seed(0)
    model = tiny_model(torch.bfloat16)
    _, values = align.sample_rollouts(model, model, echo("ab", "ab", "ab"), samples=2)
    assert torch.equal(values["old_logp"], values["ref_logp"])


# Three prompts of one token, two samples each. The first prompt has one distinct response.
GROUPS = [([1], [[5]]), ([2], [[6], [7, 7]]), ([3], [[8] * 9, [9] * 5])]
VALUES = {"which": torch.tensor([[0, 0], [0, 1], [1, 0]]),
          "reward": torch.tensor([[1.0, 2], [3, 4], [5, 6]])}


def test_minibatches_take_every_nth_prompt(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    batch = align.minibatch(GROUPS, VALUES, 0, 2)  # the first and the third, which is longer
    assert batch["ids"].tolist() == [[3, *[8] * 9, 3, *[9] * 5], [1, 5] + [0] * 14]
    assert batch["segment_start"].tolist() == [[0] * 16, [0] * 2 + [16] * 14]
    assert batch["which"].tolist() == [[1, 0], [0, 0]]
    assert batch["reward"].tolist() == [[5, 6], [1, 2]]
    batch = align.minibatch(GROUPS, VALUES, 1, 2)  # the second
    assert batch["which"].tolist() == [[0, 1]]
    assert batch["reward"].tolist() == [[3, 4]]


def test_minibatch_numbers_the_responses_of_a_row(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    first_two = {name: x[:2] for name, x in VALUES.items()}
    batch = align.minibatch(GROUPS[:2], first_two, 0, 1)
    assert batch["ids"].tolist() == [[2, 6, 2, 7, 7, 1, 5] + [0] * 9]
    assert batch["which"].tolist() == [[0, 1, 2, 2]]
    assert batch["reward"].tolist() == [[3, 4, 1, 2]]


def test_minibatch_pads_rows_with_fewer_samples(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    values = {name: torch.cat((x, x[:2])) for name, x in VALUES.items()}
    batch = align.minibatch(GROUPS + GROUPS[:2], values, 0, 1)
    assert batch["which"].tolist() == [[1, 0] + [-1] * 6, [0, 1, 2, 3, 4, 4, 5, 5]]
    assert batch["reward"].tolist() == [[5, 6] + [0] * 6, [3, 4, 3, 4, 1, 2, 1, 2]]


# MDLOO.

def test_rise_by_hand():
    """Of 11 values, a tenth is rounded up to 2: (20 + 31) / 2 - (1 + 4) / 2 = 23."""
    assert align.rise([1.0, 4.0, *[9.0] * 7, 20.0, 31.0]) == 23
    assert align.rise([1.0, 2.0, 3.0, 5.0]) == 4
    assert align.rise([7.0]) == 0


class FakeTrainer:
    """Records what MDLOO does, and trains nothing. start: the step from which it resumes."""
    start = 0

    def __init__(self, model, loss, **settings):
        self.model, self.loss, self.settings, self.step = model, loss, settings, self.start
        self.events = []  # in order: ("seed", step), ("sample", tasks), ("update", batch)
        FakeTrainer.latest = self

    def seed(self):
        self.events.append(("seed", self.step))

    def update(self, batch):
        self.events.append(("update", batch))
        self.step += 1


@pytest.fixture
def mdloo(stage, monkeypatch):
    """Return a function that runs MDLOO with given rollouts, and returns the FakeTrainer. `tasks`
    are random numbers here."""
    monkeypatch.setattr(align, "Trainer", FakeTrainer)
    monkeypatch.setattr(reward, "draw_prompts",
                        lambda model, count, rng, weights: [rng.random() for _ in range(count)])

    def run_mdloo(groups, values, start=0, **settings):
        def sample_rollouts(model, reference, tasks, samples, reward_model):
            FakeTrainer.latest.events.append(("sample", tasks))
            assert model is FakeTrainer.latest.model and reference is not model
            assert samples == settings["samples"]
            return groups, {name: x.clone() for name, x in values.items()}
        monkeypatch.setattr(align, "sample_rollouts", sample_rollouts)
        monkeypatch.setattr(FakeTrainer, "start", start)
        align.mdloo(1, RUN, prompts=len(groups), **settings)
        return FakeTrainer.latest
    return run_mdloo


def rollout_values(N, S):
    """Return values of N prompts with S samples each, all of the first response."""
    values = {name: torch.zeros(N, S) for name in ("old_logp", "ref_logp", "truth", "reward")}
    return values | {"length": torch.ones(N, S), "which": torch.zeros(N, S, dtype=torch.long)}


def outline(events):
    """Return events with a batch as the first tokens of its rows, and tasks left out."""
    return [(kind, sorted(value["ids"][:, 0].tolist())) if kind == "update" else
            (kind, value if kind == "seed" else None) for kind, value in events]


# Six prompts in three minibatches. Rows are full, so that each prompt has its own.
SIX_PROMPTS = [([10 + i], [[9] * 15]) for i in range(6)]
EPOCH = [("update", [10, 13]), ("update", [11, 14]), ("update", [12, 15])]


def test_mdloo_samples_once_per_iteration_and_takes_each_minibatch_once_per_epoch(
        mdloo, monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    trainer = mdloo(SIX_PROMPTS, rollout_values(6, 2), samples=2, iterations=3, epochs=2,
                    num_minibatches=3)
    assert outline(trainer.events) == [("seed", 0), ("sample", None), *EPOCH, *EPOCH,
                                       ("seed", 6), ("sample", None), *EPOCH, *EPOCH,
                                       ("seed", 12), ("sample", None), *EPOCH, *EPOCH]


def test_mdloo_draws_new_prompts_in_each_iteration(mdloo):
    trainer = mdloo(SIX_PROMPTS, rollout_values(6, 2), samples=2, iterations=3)
    draws = [tuple(tasks) for kind, tasks in trainer.events if kind == "sample"]
    assert len(set(draws)) == 3


@pytest.mark.parametrize("done", [1, 2, 3])
def test_mdloo_resumes_with_the_next_iteration(mdloo, done):
    settings = {"samples": 2, "iterations": 3, "epochs": 2, "num_minibatches": 3}
    whole = mdloo(SIX_PROMPTS, rollout_values(6, 2), **settings)
    resumed = mdloo(SIX_PROMPTS, rollout_values(6, 2), start=6 * done, **settings)
    assert outline(resumed.events) == outline(whole.events)[8 * done:]
    tasks = [tasks for kind, tasks in whole.events if kind == "sample"]
    assert [tasks for kind, tasks in resumed.events if kind == "sample"] == tasks[done:]


def test_settings_of_mdloo(mdloo, stage):
    trainer = mdloo(SIX_PROMPTS, rollout_values(6, 2), samples=2, iterations=10, epochs=2,
                    num_minibatches=3, lr=0.1)
    assert trainer.settings["steps"] == 60
    assert trainer.settings["save_every"] == 6  # at the end of an iteration
    assert (trainer.settings["lr"], trainer.settings["stage"]) == (0.1, "mdloo1")
    schedule = trainer.settings["schedule"]  # 10 steps of warm-up, then linear to 0
    assert [schedule(step) for step in (0, 30)] == pytest.approx([0.1, 0.5])
    assert stage["loaded"] == ["sft", "sft", "reward1"]
    assert stage["saved"] == ("mdloo1", trainer.model)
    assert not trainer.model.training


def test_mdloo_advantages_are_of_kl_penalised_rewards(mdloo):
    """Two prompts, two responses each, beta = 0.5. R = r - 0.5 (old - ref):
    1 - 0.5 = 0.5 and 0; 3 and 1 - 1 = 0. Leaving one out: 0.5, -0.5; 3, -3."""
    groups = [([10], [[9] * 2, [9] * 4]), ([12], [[9], [8]])]
    values = {
        "old_logp": torch.tensor([[-1.0, -2], [-3, -4]]),
        "ref_logp": torch.tensor([[-2.0, -2], [-3, -6]]),
        "reward": torch.tensor([[1.0, 0], [3, 1]]), "truth": torch.tensor([[1.0, 0], [1, 0]]),
        "length": torch.tensor([[2.0, 4], [1, 1]]), "which": torch.tensor([[0, 1], [0, 1]])}
    trainer = mdloo(groups, values, samples=2, beta=0.5, iterations=1)
    first, second = [batch for kind, batch in trainer.events if kind == "update"][:2]
    assert first["advantage"].tolist() == [[0.5, -0.5]]
    assert second["advantage"].tolist() == [[3, -3]]
    with torch.no_grad():
        metrics = trainer.loss(trainer.model, first)
    assert metrics["count"] == 2
    assert metrics["reward"] == 1
    assert metrics["truth %"] == 100
    assert metrics["KL"] == 1  # (-1 - -2) + 0
    assert metrics["entropy"] == 3  # 1 + 2
    assert metrics["length"] == 6  # 2 + 4
    trainer = mdloo(groups, values, samples=2, beta=0.5, iterations=1, baseline="none")
    assert trainer.events[2][1]["advantage"].tolist() == [[0.5, 0]]


@pytest.fixture
def four_samples(mdloo):
    """MDLOO on one prompt with four samples, of which the last two are equal, and its batch."""
    values = {
        "old_logp": torch.tensor([[-1.0, -2, -3, -4]]),
        "ref_logp": torch.tensor([[-2.0, -2, -3, -6]]), "reward": torch.tensor([[1.0, 0, 3, 1]]),
        "truth": torch.zeros(1, 4), "length": torch.ones(1, 4),
        "which": torch.tensor([[0, 1, 2, 2]])}
    trainer = mdloo([([10], [[9] * 2, [9] * 4, [9]])], values, samples=4, num_minibatches=1,
                    beta=0.5, iterations=1)
    return trainer, trainer.events[2][1]


def test_mdloo_advantages_of_equal_samples(four_samples):
    """R = 0.5, 0, 3, 0."""
    _, batch = four_samples
    assert batch["advantage"].tolist() == [pytest.approx(
        [0.5 - 1, 0 - 3.5 / 3, 3 - 0.5 / 3, 0 - 3.5 / 3])]


def test_mdloo_loss_counts_all_samples(four_samples):
    """At ratio 1 the loss of a sample is -A: two samples with A = 1 give -2. A row's padding counts
    for nothing."""
    trainer, batch = four_samples
    batch["advantage"] = torch.tensor([[0.0, 0, 1, 1]])
    with torch.no_grad():
        logp = response_logp(trainer.model, batch["ids"], batch["branch"], batch["segment_start"])
        batch["old_logp"] = logp.gather(1, batch["which"])
        metrics = trainer.loss(trainer.model, batch)
        assert metrics["count"] == 4
        assert metrics["loss"].item() == pytest.approx(-2, abs=1e-5)
        batch["which"][0, 3] = -1  # padding
        batch["advantage"][0, 3] = 1e9
        metrics = trainer.loss(trainer.model, batch)
    assert metrics["count"] == 3
    assert metrics["loss"].item() == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("loss, settings, expected_loss", [
    ("mdpo", {}, lambda *x: mdpo_loss(*x, gamma=1.0)),
    ("mdpo", {"gamma": 0.3}, lambda *x: mdpo_loss(*x, gamma=0.3)),
    ("mdpo", {"clip": 0.7}, lambda *x: mdpo_loss(*x, gamma=1.0)),
    ("ppo", {}, lambda *x: ppo_loss(*x, clip=0.2)),
    ("ppo", {"gamma": 0.3}, lambda *x: ppo_loss(*x, clip=0.2)),
    ("ppo", {"clip": 0.3}, lambda *x: ppo_loss(*x, clip=0.3)),
    ("reinforce", {}, reinforce_loss), ("reinforce", {"gamma": 0.3}, reinforce_loss)])
def test_mdloo_uses_the_loss_of_its_name(mdloo, loss, settings, expected_loss):
    """Each with its own setting. Policies are apart by 0.5, so gamma and the clip matter."""
    trainer = mdloo([([10], [[9, 8]])], rollout_values(1, 2), samples=2, num_minibatches=1,
                    iterations=1, loss=loss, **settings)
    batch = trainer.events[2][1]
    batch["advantage"] = torch.tensor([[1.0, -2.0]])
    with torch.no_grad():
        logp = response_logp(trainer.model, batch["ids"], batch["branch"], batch["segment_start"])
        batch["old_logp"] = logp.expand(1, 2) - 0.5
        expected = expected_loss(logp, batch["old_logp"], batch["advantage"])
        result = trainer.loss(trainer.model, batch)["loss"]
    assert result.item() == pytest.approx(expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize("rewarded", ["model", "checker"])
def test_mdloo_is_rewarded_by_the_model_or_the_checker(stage, monkeypatch, rewarded):
    received = []

    def sample_rollouts(model, reference, tasks, samples, reward_model):
        received.append(reward_model)
        return SIX_PROMPTS, rollout_values(6, 4)
    monkeypatch.setattr(align, "Trainer", FakeTrainer)
    monkeypatch.setattr(align, "sample_rollouts", sample_rollouts)
    monkeypatch.setattr(reward, "draw_prompts", lambda *_: [])
    align.mdloo(1, RUN, rewarded=rewarded, iterations=1)
    assert (received[0] is None) == (rewarded == "checker")


def test_mdloo_draws_its_own_mixture_of_prompts(stage, monkeypatch):
    weights = []
    monkeypatch.setattr(align, "Trainer", FakeTrainer)
    monkeypatch.setattr(align, "sample_rollouts", lambda *_: (SIX_PROMPTS, rollout_values(6, 4)))
    monkeypatch.setattr(reward, "draw_prompts",
                        lambda model, count, rng, given: weights.append(given))
    align.mdloo(1, RUN, rewarded="checker", iterations=2)
    assert weights == [align.RL_PROMPTS] * 2
    assert set(align.RL_PROMPTS) <= set(reward.PROMPTS)


def test_mdloo_refuses_too_few_samples_or_prompts(stage):
    with pytest.raises(UserError, match="samples=1: leaving one out needs 2 or more"):
        align.mdloo(1, RUN, samples=1)
    with pytest.raises(UserError, match="prompts=1: give at least 2, one for each minibatch"):
        align.mdloo(1, RUN, prompts=1)


def test_a_killed_mdloo_ends_with_the_weights_of_an_unbroken_one(stage, monkeypatch, tmp_path):
    """Killed in the second of three iterations, after the first of its four updates."""
    class Even:
        """A family in which responses of an even length are right, so that rewards differ."""
        def check(self, task, text):
            return len(text) % 2 == 0

    def load_model(run, name, kind=AFM):
        torch.manual_seed(0)
        return tiny_model()
    monkeypatch.setattr(align, "load_model", load_model)
    monkeypatch.setattr(reward, "draw_prompts", lambda model, count, rng, _: [
        (Even(), question(rng.choice("abcdefgh"))) for _ in range(count)])

    def run_mdloo(run):
        align.mdloo(1, run, rewarded="checker", iterations=3, prompts=2, samples=3, lr=0.05)
        return stage["saved"][1]
    runs = []
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("any")
        runs.append(Run(tmp_path / name))
    unbroken = run_mdloo(runs[0])
    update = Trainer.update

    def killed_update(trainer, batch):
        if trainer.step == 5:
            raise KeyboardInterrupt
        update(trainer, batch)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed_update)
        with pytest.raises(KeyboardInterrupt):
            run_mdloo(runs[1])
    resumed = run_mdloo(runs[1])
    assert not torch.equal(unbroken.embedding, load_model(None, "start").embedding)
    for a, b in zip(unbroken.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
    assert [row["step"] for row in runs[1].read_log("mdloo1")] == list(range(1, 13))
