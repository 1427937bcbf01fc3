"""Alignment (the report's section 4.3, iTeC): rejection sampling, DPO, IPO, MDLOO, the committee.

Each method is a loss, a pure function of log-probabilities, and a source of batches. A response is
one action, even if it is a conversation with tools: its log-probability is the sum over the tokens
that the model wrote, end tokens included, but not over the results of calls. pi is the model in
training, pi_ref the model that the stage starts from, pi_k the model that sampled the responses.

Shapes: N prompts, S samples of each; B pairs; R rows of a batch, each with one or more prompts and
at most K responses to them.

A round, as in the report:
    preferences  annotators compare responses of all models of the round before; in round 1, of
                 draft and sft
    reward       the reward model is trained on all preferences so far
    mdloo, rs, dpo, ipo    each trains a copy of the model that the round starts from
    committee    the reward model picks the best response to each prompt from all these models; a
                 model is fine-tuned on these responses. In the next round, it is the latest
                 fine-tuned model
    best         the best of the round's models and the one it started from, by greedy responses to
                 validation tasks and by best of N. The next round starts from it

In every stage, `count` is the number of validation tasks of each family.
"""
import functools
import math
import random
from statistics import fmean

import torch

from afm_min import chat, evaluate, reward
from afm_min.model import load_model, save_model
from afm_min.progress import track
from afm_min.run import UserError
from afm_min.trainer import Trainer, fit, linear, seed_step


# Losses and advantages.

def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """-log sigmoid(beta h), where h is log(pi / pi_ref) of the chosen response minus that of the
    rejected one. All log-probabilities (B,) -> (B,)."""
    return -torch.nn.functional.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """(h - 1 / (2 beta))^2 with h as in `dpo_loss`: a margin beyond 1 / (2 beta) is penalised."""
    return (chosen - ref_chosen - rejected + ref_rejected - 1 / (2 * beta)) ** 2


def leave_one_out(rewards):
    """Subtract from each reward the mean of its prompt's other rewards: (N, S) -> (N, S).

    [[1, 0, 0, 0]] -> [[1, -1/3, -1/3, -1/3]]. The baseline does not depend on the response itself,
    so the gradient estimate is unbiased."""
    S = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (S - 1)


def kl_penalised(rewards, old_logp, ref_logp, beta):
    """R = r - beta log(pi_k / pi_ref). Over samples of pi_k, E[R] = E[r] - beta KL(pi_k || pi_ref),
    which MDLOO maximises."""
    return rewards - beta * (old_logp - ref_logp)


def mdpo_loss(logp, old_logp, advantages, gamma):
    """-(rho A - gamma D), rho = pi / pi_k: mirror descent (MDPO, 2005.09814). The penalty gamma D
    keeps pi close to pi_k, so nothing is clipped.

    D = rho log rho - rho + 1. Over samples of pi_k the mean of rho is 1, and so the mean of D is
    KL(pi || pi_k). The gradient of D is rho log rho grad log pi, which is 0 at rho = 1. So the
    first step after sampling is REINFORCE."""
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    return -(ratio * advantages - gamma * (ratio * log_ratio - ratio + 1))


def ppo_loss(logp, old_logp, advantages, clip):
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A): PPO (1707.06347), for comparison."""
    ratio = (logp - old_logp).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def reinforce_loss(logp, old_logp, advantages):
    """-A log pi, for comparison."""
    return -logp * advantages


# Each loss, and the settings of `mdloo` that it takes as arguments.
LOSSES = {"mdpo": (mdpo_loss, ["gamma"]), "ppo": (ppo_loss, ["clip"]),
          "reinforce": (reinforce_loss, [])}
# Rewards -> advantages, (N, S) -> (N, S).
BASELINES = {"leave one out": leave_one_out, "mean": lambda rewards: rewards - rewards.mean(),
             "none": lambda rewards: rewards}


# Imitation: rejection sampling and the committee.

def best_of_n(reward_model, responses, choice="best"):
    """Choose the response with the highest reward from each of N lists. Returns a list of N
    Responses, and the reward model's probability that each is true, (N,).

    choice: "best", or "random", for comparison."""
    groups = [(candidates[0].prompt, [r.ids for r in candidates]) for candidates in responses]
    scores = torch.stack(reward.scores(reward_model, groups))  # (N, S, 2): reward, P(true)
    index = scores[..., 0].argmax(1)  # (N,)
    if choice == "random":
        index = torch.randint(scores.shape[1], index.shape)
    chosen = [candidates[i] for candidates, i in zip(responses, index.tolist())]
    return chosen, scores[torch.arange(len(index)), index, 1]


def imitate(round_number, run, method, stages, *, prompts, samples, choice, epochs, batch_size, lr,
            count):
    """Fine-tune the model that the round starts from on the best response to each prompt, for
    `epochs` passes over these responses: more prompts mean more steps.

    Each model of `stages` samples `samples` responses to a prompt, and the reward model chooses the
    best of all. A chosen response that is probably not true by its grade is dropped: the best of
    many bad ones is no good example. If all are dropped, the model stays as it was."""
    stage = f"{method}{round_number}"
    seed_step(run.seed, stage, 0)
    reward_model = load_model(run, f"reward{round_number}", reward.RewardModel)
    tasks = reward.draw_prompts(reward_model, prompts, random.Random(f"{run.seed} {stage}"))
    # The models are loaded one after the other: only one is in memory at a time.
    models = (load_model(run, name) for name in track(stages, f"{stage}: models"))
    responses = reward.sample_responses(models, tasks, samples)  # (tasks, models, samples)
    chosen, truth = best_of_n(reward_model, [sum(by_model, []) for by_model in responses], choice)
    examples = [chat.render_response(response.prompt, response.ids, reward_model.tokenizer)
                for response, p in zip(chosen, truth.tolist()) if p > 0.5]
    model = load_model(run, reward.starting_stage(round_number))
    if examples:
        batches = chat.batches({"best": examples}, {"best": 1.0}, batch_size)  # a single source
        steps = max(1, round(epochs * len(examples) / batch_size))
        fit(model, batches, chat.response_loss, steps=steps, lr=lr,
            schedule=linear(steps, warmup=20), run=run, stage=stage)
    else:
        print(f"{stage}: none of {len(chosen)} best responses is likely to be true, so none is "
              f"imitated: raise {stage}.prompts or {stage}.samples")
    save_model(run, stage, model)
    metrics = evaluate.validation(model, count)
    metrics |= {"examples": len(examples),
                "first ranked true %": evaluate.percent(reward.truths(tasks, chosen))}
    for i, name in enumerate(stages):  # share of prompts to which it sampled the best response
        metrics[f"{name} says it %"] = evaluate.percent(
            best.ids in [r.ids for r in by_model[i]] for best, by_model in zip(chosen, responses))
    return metrics


def rs(round_number, run, *, prompts=2000, samples=8, choice="best", epochs=2.0, batch_size=24,
       lr=0.0003, count=50):
    """Rejection sampling: imitate the best of the policy's own responses."""
    return imitate(round_number, run, "rs", [reward.starting_stage(round_number)], prompts=prompts,
                   samples=samples, choice=choice, epochs=epochs, batch_size=batch_size, lr=lr,
                   count=count)


def policy_stages(round_number):
    """Return the stages that train a policy in a round, before its committee."""
    return [f"{method}{round_number}" for method in ("rs", "dpo", "ipo", "mdloo")]


def committee(round_number, run, *, prompts=2000, samples=2, only="", choice="best", epochs=2.0,
              batch_size=24, lr=0.0003, count=50):
    """Distil a committee into one model: imitate the best of its members' responses to each prompt.
    The members are the round's four policies, the model of the last committee, and the model that
    the round starts from.

    only: the one stage to sample from, for comparison."""
    members = policy_stages(round_number)
    if round_number > 1:
        members.append(f"committee{round_number - 1}")  # the latest fine-tuned model
    members.append(reward.starting_stage(round_number))  # the best one; in round 1 both are sft
    return imitate(round_number, run, "committee", [only] if only else members, prompts=prompts,
                   samples=samples, choice=choice, epochs=epochs, batch_size=batch_size, lr=lr,
                   count=count)


def best(round_number, run, *, samples=4, count=50):
    """Choose the best of a round's models and the one that the round started from.

    The best has the highest sum of two accuracies on validation tasks, averaged over the families:
    of greedy responses, and of the response that the reward model prefers among `samples`."""
    reward_model = load_model(run, f"reward{round_number}", reward.RewardModel)
    tasks, table = reward.fitting(evaluate.validation_tasks(count), reward_model), []
    start = reward.starting_stage(round_number)
    for stage in [start, *policy_stages(round_number), f"committee{round_number}"]:
        model = load_model(run, stage)
        greedy = evaluate.validation(model, count)["mean %"]
        seed_step(run.seed, f"best{round_number}", 0)  # the same for every model
        responses = [by_model[0] for by_model in reward.sample_responses([model], tasks, samples)]
        preferred, _ = best_of_n(reward_model, responses)
        table.append([stage, greedy, evaluate.mean_over_families(tasks, preferred)])
    chosen, greedy, _ = max(table, key=lambda row: row[1] + row[2])
    save_model(run, f"best{round_number}", load_model(run, chosen))
    return {"best": chosen, "mean %": greedy, "mean % before": table[0][1], "candidates": table}


# Preferences: DPO and IPO.

def train_on_pairs(round_number, run, method, loss, steps, prompts, lr, count):
    """Train the model that the round starts from on the round's pairs. A batch has all pairs of
    `prompts` random prompts.

    loss: `dpo_loss` or `ipo_loss` as a function of the log-probabilities only, without beta."""
    stage = f"{method}{round_number}"
    comparisons = reward.read_preferences(run, round_number)
    model = load_model(run, reward.starting_stage(round_number))
    # The log-probabilities under pi_ref, which the model is before its first step.
    ref_logp = chat.map_responses(chat.response_logp, model, reward.groups_of(comparisons))

    def batches(step):
        indices = torch.randint(len(comparisons), (prompts,)).tolist()
        return reward.collate([comparisons[i] for i in indices],
                              ref_logp=[ref_logp[i] for i in indices])

    def pair_loss(model, batch):
        logp = chat.response_logp(model, batch["ids"], batch["branch"],
                                  batch["segment_start"])  # (R, K)
        chosen, rejected = reward.chosen_and_rejected(logp, batch["pairs"])
        ref_chosen, ref_rejected = reward.chosen_and_rejected(batch["ref_logp"], batch["pairs"])
        losses = loss(chosen, rejected, ref_chosen, ref_rejected)
        return {"loss": losses.sum(), "count": len(losses)}
    fit(model, batches, pair_loss, steps=steps, lr=lr, schedule=linear(steps, warmup=20), run=run,
        stage=stage, unit="pairs")
    save_model(run, stage, model)
    return evaluate.validation(model, count)


def dpo(round_number, run, *, beta=0.5, steps=160, prompts=32, lr=0.0003, count=50):
    """Direct preference optimization, on the pairs that annotators compared in this round."""
    loss = functools.partial(dpo_loss, beta=beta)
    return train_on_pairs(round_number, run, "dpo", loss, steps, prompts, lr, count)


def ipo(round_number, run, *, beta=0.1, steps=160, prompts=32, lr=0.0003, count=50):
    """Identity preference optimization, on the same pairs.

    The loss is scaled by beta^2, to (beta h - 1/2)^2, which has its minimum at the same h. The
    unscaled gradients have norms of 100 or more, at which AdaStar skips each step."""
    def loss(*logps):
        return beta ** 2 * ipo_loss(*logps, beta)
    return train_on_pairs(round_number, run, "ipo", loss, steps, prompts, lr, count)


# Reinforcement learning: MDLOO.

# Weights of the families from which MDLOO draws prompts: those in which the sample that the reward
# model likes best is right more often than a random one, above all tools, where the writers of
# demonstrations left out calls. Elsewhere, samples are equally good, and advantages mostly noise.
RL_PROMPTS = {"math": 3, "math rephrased": 3, "math reversed": 3, "math deeper": 2,
              "math broader": 2, "tools": 6, "code": 2, "follow": 2, "recall": 1}


def sample_rollouts(model, reference, tasks, samples, reward_model=None):
    """Sample S responses to each of N pairs (family, task), at temperature 1 and without top-p, so
    that the log-probabilities are exactly those of the distribution sampled from.

    Returns N groups (prompt, distinct responses), and a dict of tensors (N, S), for each sample:
        which               its index among the distinct responses to its prompt
        old_logp, ref_logp  its log-probability under pi_k and pi_ref
        truth               1.0 if it is right, else 0.0
        reward              from the reward model; without one, the truth
        length              in tokens, with results of calls"""
    # One model, so its responses are the only entry for each prompt: (N, 1, S) -> (N, S).
    sampled = [by_model[0] for by_model in reward.sample_responses([model], tasks, samples)]
    groups = [(responses[0].prompt, [r.ids for r in responses]) for responses in sampled]
    truth = torch.stack([reward.truths([task] * samples, responses)
                         for task, responses in zip(tasks, sampled)])
    rewards = (torch.stack(reward.scores(reward_model, groups))[..., 0] if reward_model
               else truth)
    ref_logp = torch.stack(chat.map_responses(chat.response_logp, reference, groups))
    if model.dtype == torch.float32:
        old_logp = torch.tensor([[r.logp for r in responses] for responses in sampled])
    else:  # in bfloat16, decoding and training round differently, but rho must start at exactly 1
        old_logp = torch.stack(chat.map_responses(chat.response_logp, model, groups))
    distinct_groups, which = [], []
    for prompt, responses in groups:
        distinct, indices = chat.unique_responses(responses)
        distinct_groups.append((prompt, distinct))
        which.append(indices)
    return distinct_groups, {
        "which": torch.tensor(which), "old_logp": old_logp, "ref_logp": ref_logp, "truth": truth,
        "reward": rewards,
        "length": torch.tensor([[float(len(r.ids)) for r in responses] for responses in sampled])}


def minibatch(groups, values, i, num_minibatches):
    """Return the i-th minibatch of a rollout: the prompts i, i + num_minibatches, and so on.

    ids, branch, segment_start: (R, T), see `chat.share_prompts`. Entries of `values`, (N, S),
    become (R, samples of a row), padded with 0. `which` becomes an index among all K responses of
    the row, padded with -1. Two groups in a row, the first with 2 distinct responses:
        which of each [0, 1, 0] and [0, 0, 1] -> of the row [0, 1, 0, 2, 2, 3]"""
    values = {name: x[i::num_minibatches] for name, x in values.items()}
    batch, places = chat.share_prompts(groups[i::num_minibatches])
    batch |= {name: chat.stack_by_row(x, places) for name, x in values.items()}
    offsets = torch.tensor([first for row, first in places])  # responses before a group in its row
    batch["which"] = chat.stack_by_row(values["which"] + offsets[:, None], places, fill=-1)
    return batch


def policy_loss(policy, batch, loss):
    """Return sums over a minibatch for `trainer.backward`: the loss and metrics of the rollout. KL
    and entropy are estimates from one sample for each response.

    loss: a function of logp, old_logp and advantages, such as `reinforce_loss`."""
    logp = chat.response_logp(policy, batch["ids"], batch["branch"], batch["segment_start"])
    is_sample = batch["which"] >= 0  # (R, samples of a row), False in padding
    logp = logp.gather(1, batch["which"].clamp(min=0))  # (R, K) -> (R, samples of a row)
    losses = loss(logp, batch["old_logp"], batch["advantage"])
    return {"loss": losses[is_sample].sum(), "count": is_sample.sum(),
            "reward": batch["reward"].sum(), "truth %": 100 * batch["truth"].sum(),
            "KL": (batch["old_logp"] - batch["ref_logp"]).sum(),
            "entropy": -batch["old_logp"].sum(), "length": batch["length"].sum()}


def rise(values):
    """Return the mean of the last tenth of values minus that of the first: [1, 2, 3, 5] -> 4"""
    tenth = math.ceil(len(values) / 10)
    return fmean(values[-tenth:]) - fmean(values[:tenth])


def mdloo(round_number, run, *, rewarded="model", iterations=80, prompts=64, samples=4, epochs=2,
          num_minibatches=2, lr=0.00015, beta=0.05, gamma=1.0, clip=0.2, loss="mdpo",
          baseline="leave one out", count=50):
    """Mirror descent with leave-one-out estimation: online reinforcement learning.

    An iteration draws `prompts` new prompts by the weights of RL_PROMPTS, samples `samples`
    responses to each, and trains on them in `epochs` passes. beta: see `kl_penalised`. gamma: see
    `mdpo_loss`.
    rewarded: the source of rewards, the reward "model" or the "checker" (1.0 if right, else 0.0).
    For comparison: loss="ppo", with its `clip`, or "reinforce"; baseline="mean", of all rewards, or
    "none".

    The metric "truth gain" is the `rise` of the percentage of right samples."""
    stage, start = f"mdloo{round_number}", reward.starting_stage(round_number)
    if baseline == "leave one out" and samples < 2:
        raise UserError(f"{stage}.samples={samples}: leaving one out needs 2 or more")
    if prompts < num_minibatches:
        raise UserError(f"{stage}.prompts={prompts}: give at least {num_minibatches}, one for each "
                        "minibatch")
    model, reference = load_model(run, start), load_model(run, start)  # pi, pi_ref
    reward_model = (load_model(run, f"reward{round_number}", reward.RewardModel)
                    if rewarded == "model" else None)
    updates = epochs * num_minibatches  # per iteration
    steps = iterations * updates
    function, names = LOSSES[loss]
    settings = {"gamma": gamma, "clip": clip}
    sample_loss = functools.partial(function, **{name: settings[name] for name in names})
    # A rollout is not saved, so checkpoints are only written between iterations.
    trainer = Trainer(model, functools.partial(policy_loss, loss=sample_loss), steps=steps, lr=lr,
                      schedule=linear(steps, warmup=10), run=run, stage=stage, micro_batch_size=32,
                      save_every=updates, unit="responses")
    for iteration in range(trainer.step // updates, iterations):
        trainer.seed()
        rng = random.Random(f"{run.seed} {stage} {iteration}")
        tasks = reward.draw_prompts(model, prompts, rng, RL_PROMPTS)
        groups, values = sample_rollouts(model, reference, tasks, samples, reward_model)
        rewards = kl_penalised(values["reward"], values["old_logp"], values["ref_logp"], beta)
        values["advantage"] = BASELINES[baseline](rewards)
        for epoch in range(epochs):
            for i in range(num_minibatches):
                trainer.update(minibatch(groups, values, i, num_minibatches))
    save_model(run, stage, model.eval())
    gain = rise([row["truth %"] for row in run.read_log(stage)])
    return evaluate.validation(model, count) | {"truth gain": gain}
