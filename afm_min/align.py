"""Alignment (the report's section 4.3): rejection sampling, DPO, IPO and MDLOO.

Each is a loss, a pure function of log-probabilities, and where its batches come from. A response is
one action: its log-probability is the sum over its tokens, the one that ends it included. B
responses; pi the model that is trained, pi_ref the one it began as, pi_k the one that sampled.
"""
import itertools
import random

import torch

from afm_min import chat, evaluate, reward
from afm_min.trainer import fit, linear, seed_step
from afm_min.model import load_model, save_model
from afm_min.run import UserError


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """-log sigmoid(beta h), where h = log pi/pi_ref of the chosen less that of the rejected."""
    return -torch.nn.functional.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """(h - 1 / (2 beta))^2, with h as in `dpo_loss`: it wants no more than this margin."""
    return (chosen - ref_chosen - rejected + ref_rejected - 1 / (2 * beta)) ** 2


def leave_one_out(rewards):
    """Each reward less the mean of the others that its prompt got: (prompts, K) -> (prompts, K).

    [[1, 0, 0, 0]] -> [[1, -1/3, -1/3, -1/3]]. So the baseline is independent of the response, and
    the estimate of the gradient has no bias."""
    K = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (K - 1)


def regularized(rewards, logp, ref_logp, beta):
    """R = r - beta log(pi_k / pi_ref): its mean is what is to be raised, reward less beta times
    KL(pi_k || pi_ref)."""
    return rewards - beta * (logp - ref_logp)


def mdpo_loss(logp, old_logp, advantages, gamma):
    """-(rho A - gamma D), rho = pi / pi_k: mirror descent (MDPO, 2005.09814), in which a step
    further away costs more, and nothing is clipped.

    D = rho log rho - rho + 1 is a sample's part of KL(pi || pi_k), as rho has the mean 1. The
    gradient of D is rho log rho grad log pi, so at the first step on a sample, where rho = 1, there
    is A grad log pi alone: REINFORCE."""
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    return -(ratio * advantages - gamma * (ratio * log_ratio - ratio + 1))


def ppo_loss(logp, old_logp, advantages, clip):
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A): PPO (1707.06347), to compare with."""
    ratio = (logp - old_logp).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


LOSSES = {"mdpo": mdpo_loss, "ppo": ppo_loss,
          "reinforce": lambda logp, old_logp, advantages, _: -logp * advantages}
BASELINES = {"leave one out": leave_one_out, "mean": lambda rewards: rewards - rewards.mean(),
             "none": lambda rewards: rewards}


def train(run, stage, model, batches, loss, steps, lr, count, warmup=20, **settings):
    """What the stages share: the loop, the checkpoint, and the accuracy on validation tasks."""
    fit(model, batches, loss, steps=steps, lr=lr, schedule=linear(steps, warmup), run=run,
        stage=stage, **settings)
    save_model(run, stage, model)
    return evaluate.full_validation(run, model, count)


def correctness(tasks, said):
    """Of each reply to a pair (family, task), 1.0 if its checker finds it right, and 0.0 if not:
    (N,)."""
    return torch.tensor([float(family.check(task, reply.text))
                         for (family, task), reply in zip(tasks, said)])


def first_ranked(judge, said):
    """Of all replies to each of N tasks, as from `reward.answers`, the one that the reward model
    ranks first; the chance that it is true, as the reward model sees it, (N,); and which models say
    it, (N, models)."""
    replies = [sum(each, []) for each in said]
    scored = reward.scores(judge, [evaluate.group(some) for some in replies])
    rewards, true = torch.stack(scored).unbind(2)  # (N, replies to each)
    best = rewards.argmax(1, keepdim=True)  # (N, 1)
    chosen = [some[i] for some, (i,) in zip(replies, best.tolist())]
    whose = [[any(reply.ids == other.ids for other in some) for some in each]
             for reply, each in zip(chosen, said)]
    return chosen, true.gather(1, best)[:, 0], torch.tensor(whose)


def imitate(number, run, method, stages, prompts, samples, steps, batch, lr, count):
    """Fine-tune the last round's model on what the reward model ranks first of the stages'
    responses, where it finds it more likely true than not: the best of many bad responses is no
    example."""
    stage = f"{method}{number}"
    seed_step(run.seed, stage, 0)
    tasks = reward.asked(run, prompts, random.Random(f"{run.seed} {stage}"))
    judge = load_model(run, f"reward{number}", reward.RewardModel)
    models = (load_model(run, name) for name in stages)
    ranked, chances, whose = first_ranked(judge, reward.answers(models, tasks, samples))
    truth, pairs = correctness(tasks, ranked), evaluate.with_prompts(ranked)
    chosen = [pair for pair, chance in zip(pairs, chances.tolist()) if chance > 0.5] or pairs
    draw = chat.batches({"chosen": chosen}, {"chosen": 1.0}, batch)
    model = load_model(run, reward.members(number)[-1])
    metrics = train(run, stage, model, draw, chat.response_loss, steps, lr, count)
    shares = (100 * whose.float().mean(0)).tolist()
    return metrics | {"examples": len(chosen), "first ranked true %": 100 * truth.mean().item()} | {
        f"{name} says it %": share for name, share in zip(stages, shares)}


def rs(number, run, *, prompts=2000, samples=8, steps=100, batch=24, lr=0.001, count=50):
    """Rejection sampling: trained on, with the best of the policy's own responses."""
    stages = reward.members(number)[-1:]
    return imitate(number, run, "rs", stages, prompts, samples, steps, batch, lr, count)


def prefer(number, run, method, loss, beta, steps, prompts, lr, count, scale=1.0):
    """What DPO and IPO share: pairs of this round, the model they start from as reference. A batch
    has all pairs of `prompts` prompts."""
    compared = reward.read_preferences(run, number)
    model = load_model(run, reward.members(number)[-1])
    reference = chat.of_responses(chat.response_logp, model, reward.groups(compared))

    def draw(_):
        drawn = torch.randint(len(compared), (prompts,)).tolist()
        return reward.collate([compared[i] for i in drawn],
                              reference=[reference[i] for i in drawn])

    def pair_loss(model, batch):
        logp = chat.response_logp(model, batch["ids"], batch["branch"], batch["begin"])  # (B, K)
        sides = (reward.sides(x, batch["pairs"]) for x in (logp, batch["reference"]))
        losses = scale * loss(*itertools.chain(*sides), beta)
        return {"loss": losses.sum(), "count": len(losses)}
    return train(run, f"{method}{number}", model, draw, pair_loss, steps, lr, count, unit="pairs")


def dpo(number, run, *, beta=0.5, steps=80, prompts=32, lr=0.0003, count=50):
    """Direct preference optimization, on the pairs that annotators compared in this round."""
    return prefer(number, run, "dpo", dpo_loss, beta, steps, prompts, lr, count)


def ipo(number, run, *, beta=0.1, steps=80, prompts=32, lr=0.0003, count=50):
    """Identity preference optimization, on the same pairs.

    As (beta h - 1/2)^2, which is beta^2 times the loss and has the same minimum: unscaled,
    gradients have a norm of 200, and the optimizer skips each step."""
    return prefer(number, run, "ipo", ipo_loss, beta, steps, prompts, lr, count, scale=beta ** 2)


def rollouts(model, reference, tasks, samples, judge=None):
    """Sample `samples` responses to each of N tasks, at temperature 1 and of all tokens: exactly
    the distribution that is scored.

    Returns N pairs (prompt, responses), equal responses once, and for each sample, (N, samples):
    `which` of these responses it is; its log-probabilities under the model and the reference; the
    reward (the checker's, if there is no judge), the truth and the length in tokens."""
    said = [some for (some,) in reward.answers([model], tasks, samples)]
    groups = [evaluate.group(some) for some in said]
    unique, which = zip(*(chat.unique_responses(responses) for _, responses in groups))
    truth = torch.stack([correctness([pair] * samples, some) for pair, some in zip(tasks, said)])
    rewards = torch.stack(reward.scores(judge, groups))[..., 0] if judge else truth
    ref = torch.stack(chat.of_responses(chat.response_logp, reference, groups))
    if model.dtype == torch.float32:
        old = torch.tensor([[reply.logp for reply in some] for some in said])
    else:  # decoding rounds in other places than training, and rho must begin at 1
        old = torch.stack(chat.of_responses(chat.response_logp, model, groups))
    length = torch.tensor([[float(len(reply.ids)) for reply in some] for some in said])
    return [(prompt, some) for (prompt, _), some in zip(groups, unique)], {
        "which": torch.tensor(which), "old_logp": old, "ref_logp": ref, "truth": truth,
        "reward": rewards, "length": length}


def minibatch(groups, samples, part, parts):
    """Every parts-th task of the rollouts as a batch: ids, branch and begin (B, T), see
    `chat.share_prompts`, and each entry of samples as (B, S), S the most samples of a row.

    which: the index of the response in its row, or -1 where a row has fewer samples."""
    samples = {name: x[part::parts] for name, x in samples.items()}
    batch, places = chat.share_prompts(groups[part::parts])
    firsts = torch.tensor([first for _, first in places])
    batch |= {name: chat.by_row(x, places) for name, x in samples.items()}
    batch["which"] = chat.by_row(samples["which"] + firsts[:, None], places, fill=-1)
    return batch


def mdloo(number, run, *, rewarded="model", iterations=40, prompts=64, samples=4, passes=2, parts=2,
          lr=0.0007, beta=0.05, gamma=1.0, loss="mdpo", baseline="leave one out", count=50):
    """Online reinforcement learning: mirror descent with a leave-one-out estimate.

    An iteration samples responses to new prompts and takes passes * parts steps on them, each of
    one part. rewarded: by the reward model, or the checker. loss, baseline: to compare with,
    "ppo", where gamma is its clip, and "reinforce"; "mean", of all rewards, and "none"."""
    stage, start = f"mdloo{number}", reward.members(number)[-1]
    model, reference = load_model(run, start), load_model(run, start)
    judge = load_model(run, f"reward{number}", reward.RewardModel) if rewarded == "model" else None
    inner, held = passes * parts, []
    if baseline == "leave one out" and samples < 2:
        raise UserError(f"{stage}.samples={samples}: to leave one out takes two or more")
    if prompts < parts:
        raise UserError(f"{stage}.prompts={prompts}: give {parts} or more, one for each part")

    def draw(step):
        if step % inner == 0:
            rng = random.Random(f"{run.seed} {stage} {step // inner}")
            tasks = reward.asked(run, prompts, rng)
            groups, sampled = rollouts(model, reference, tasks, samples, judge)
            R = regularized(sampled["reward"], sampled["old_logp"], sampled["ref_logp"], beta)
            sampled["advantage"] = BASELINES[baseline](R)  # (prompts, samples)
            held[:] = [minibatch(groups, sampled, part, parts) for part in range(parts)]
        return held[step % parts]

    def policy_loss(model, batch):
        logp = chat.response_logp(model, batch["ids"], batch["branch"], batch["begin"])
        there = batch["which"] >= 0  # (B, S): false where a row has fewer samples
        logp = logp.gather(1, batch["which"].clamp(min=0))
        losses = LOSSES[loss](logp, batch["old_logp"], batch["advantage"], gamma)
        kl, entropy = (batch["old_logp"] - batch["ref_logp"]).sum(), -batch["old_logp"].sum()
        return {"loss": losses[there].sum(), "count": there.sum(), "reward": batch["reward"].sum(),
                "truth %": 100 * batch["truth"].sum(), "KL": kl, "entropy": entropy,
                "length": batch["length"].sum()}
    metrics = train(run, stage, model, draw, policy_loss, iterations * inner, lr, count, warmup=10,
                    micro_batch=32, save_every=inner, unit="responses")
    return metrics | {f"curve, round {number}": curve(list(run.logged(stage)))}


def curve(rows, points=10):
    """Means of the training steps' logged figures, over about `points` parts of the training, and a
    mark where the reward is higher than in all parts before, and truth is not."""
    table, size = [], max(1, len(rows) // points)
    for some in (rows[i:i + size] for i in range(0, len(rows), size)):
        means = [sum(row[name] for row in some) / len(some)
                 for name in ("reward", "truth %", "KL", "entropy", "length")]
        best = [max(column) for column in zip(*table)]  # so far
        alone = table and means[0] > best[1] and means[1] <= best[2]
        table.append([some[-1]["step"], *means, "reward alone" if alone else ""])
    return table


def committee(number, run, *, prompts=2000, samples=2, only="", steps=100, batch=24, lr=0.001,
              count=50):
    """The end of a round: its models, and the best of before, answer each prompt; a model is tuned
    on the response ranked first; and the best of all goes on to the next round. only: a stage whose
    responses alone are ranked, to compare with."""
    start, (*trained, stage) = reward.members(number)[-1], reward.members(number + 1)
    stages = [only] if only else [*trained, start]
    metrics = imitate(number, run, "committee", stages, prompts, samples, steps, batch, lr, count)
    report = run.read_json("report.json")
    means = {name: report[name]["metrics"]["mean %"] for name in trained}
    means[start] = evaluate.full_validation(run, load_model(run, start), count)["mean %"]
    means[stage] = metrics["mean %"]
    best = max(means, key=means.get)
    if best != stage:
        save_model(run, stage, load_model(run, best))
    return metrics | {"mean % before": means[start], "best": best, "best mean %": means[best]}
