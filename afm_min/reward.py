"""The reward model (the report's section 4.3), and the preference data it learns from.

The report's form, in which the heads read the last state alone, ranks fewer pairs rightly at this
size: 67, 71 and 67% of unseen ones (three seeds), where the likelihood alone, untrained, ranks 69,
77 and 72%, and the two together 76, 84 and 77%. So by default the reward reads both; see the
setting `reads`.

From the report: a linear reward head and four grade heads read the final hidden state of a
response's last token, and their losses train the whole model. The ranking targets are soft: they
depend on how much better the chosen response is. The grade loss is a regulariser. The toy world
simulates the annotators, with noise (world/people.py).

Departures: the policy has three blocks, too few to judge a response, so the reward model has
EXTRA_BLOCKS more, which begin as the identity. The reward can also depend on the response's
likelihood. A language-model loss is added, so that the model does not forget what text is like.

Shapes: R rows of a batch, T tokens of a row, at most K responses and P pairs in a row; N pairs in
the batch; C model dim. The four grades have levels 0 to 2, 2 the best.
"""
import dataclasses
import itertools
import math
import random

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import chat, evaluate, respond
from afm_min.model import AFM, Linear, load_model, save_model
from afm_min.run import UserError
from afm_min.trainer import fit, linear, seed_step
from afm_min.world import people
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, draw_mixture

GRADES = list(people.GRADE_WEIGHTS)
TRUTH = GRADES.index("truth")
# Probability that the chosen response is better, by level: negligibly to significantly better.
TARGETS = people.P_RIGHT
LANGUAGE_WEIGHT = 0.1  # of the language-model loss per token, relative to the ranking loss per pair
MAX_REPLY = 48  # tokens of one reply
MAX_PAIRS = 6  # pairs of responses to one prompt
EXTRA_BLOCKS = 1  # of the reward model, on top of the policy's
# Weights of the families from which prompts are drawn. EVOLVED are four kinds of mathematics. In
# these, tools and code, responses differ most in quality, so most prompts are of them.
PROMPTS = {"math": 1.5, **dict.fromkeys(EVOLVED, 3), "follow": 1.5, "tools": 3, "code": 3,
           "summary": 1.5, "compose": 1.5, "recall": 1.5, "refuse": 1.5, "unknown": 1}


class RewardModel(AFM):
    """A language model with a reward head and four grade heads. It scores the K responses of each
    row. ids, branch, segment_start: (R, T), as from `chat.share_prompts`."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__(config, dtype)
        self.reward = Linear(config.dim, 1)
        self.grades = nn.ModuleList(nn.Sequential(Linear(config.dim, config.dim), nn.SiLU(),
                                                  Linear(config.dim, 3)) for _ in GRADES)
        self.likelihood = Linear(2, 1)  # of two functions of log pi(y|x)
        self.register_buffer("reads_likelihood", torch.zeros(()))  # 1 if the reward has that term

    def forward(self, ids, branch, segment_start):
        """Return rewards (R, K), logits of the grades (R, K, 4, 3), log-likelihoods (R, K)."""
        logp, states = chat.score_responses(self, ids, branch, segment_start)  # (R, K), (R, K, C)
        states = states.float()
        # Soft labels ask for rewards a few units apart, and logp can differ by far more. So use two
        # functions that rise with it slowly: 2 sqrt(p), which is bounded, and -log(1 - logp / 2).
        functions = torch.stack((2 * (logp / 2).exp(), -(1 - logp / 2).log()), -1)  # (R, K, 2)
        by_likelihood = self.reads_likelihood * self.likelihood(functions)[..., 0]  # (R, K)
        grade_logits = torch.stack([head(states) for head in self.grades], 2)
        return self.reward(states)[..., 0] + by_likelihood, grade_logits, logp

    def score(self, ids, branch, segment_start):
        """Return the reward, and the probability of the best grade for truth: (R, K, 2)."""
        rewards, grade_logits, _ = self(ids, branch, segment_start)
        truth = grade_logits[:, :, TRUTH].softmax(-1)[..., 2]  # (R, K); grade 2 is the best
        return torch.stack((rewards, truth), -1)


def from_language_model(model, reads="state"):
    """Return a RewardModel with a language model's weights, EXTRA_BLOCKS more, and untrained heads.

    reads: with "state", every reward is 0 before training; with "likelihood", rewards rise with the
    response's likelihood. The new blocks add 0 to the residual stream at first, so the
    log-probabilities are those of the language model."""
    config = dataclasses.replace(model.config, layers=model.config.layers + EXTRA_BLOCKS)
    reward_model = RewardModel(config, model.dtype).to(model.embedding.device)
    reward_model.load_state_dict(reward_model.state_dict() | model.state_dict())
    reward_model.tokenizer = model.tokenizer
    nn.init.zeros_(reward_model.reward.weight)
    nn.init.ones_(reward_model.likelihood.weight)
    reward_model.reads_likelihood.fill_(reads == "likelihood")
    for block in reward_model.blocks[model.config.layers:]:
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.feed_forward.down.weight)
    return reward_model


def scores(reward_model, groups):
    """Return each response's reward and probability of truth: a list with a tensor (responses, 2)
    for each group (prompt, responses)."""
    return chat.map_responses(RewardModel.score, reward_model, groups)


# Losses.

def preference_loss(chosen, rejected, target):
    """-p log sigmoid(r_c - r_r) - (1 - p) log sigmoid(r_r - r_c): rewards and p, all (N,) -> (N,).

    The minimum is at r_c - r_r = log(p / (1 - p)): p = 0.5 asks for equal rewards."""
    margin = chosen - rejected
    return -target * F.logsigmoid(margin) - (1 - target) * F.logsigmoid(-margin)


def margin_loss(chosen, rejected, margin):
    """-log sigmoid(r_c - r_r - margin), for comparison (Llama 2, 2307.09288, section 3.2.2). The
    margin is the level of the label, 0 to 3."""
    return -F.logsigmoid(chosen - rejected - margin)


def grade_loss(logits, grades):
    """Cross-entropy summed over the four grades: (N, 4, 3), (N, 4) -> (N,)."""
    # F.cross_entropy wants the classes in dim 1.
    return F.cross_entropy(logits.transpose(1, 2), grades, reduction="none").sum(1)


def chosen_and_rejected(values, pairs):
    """Return two tensors (N, ...), with a row for each pair: the values of the chosen responses,
    and those of the rejected ones. values: (R, K, ...). pairs: (R, P, 3), as from `collate`."""
    row, column = (pairs[..., 2] >= 0).nonzero(as_tuple=True)  # the level is -1 in padding
    chosen, rejected, _ = pairs[row, column].unbind(-1)  # (N,), indices among the K responses
    return values[row, chosen], values[row, rejected]


def reward_loss(model, batch, labels="soft", grade_weight=0.25):
    """Return the number of pairs, of those ranked rightly, and the loss, summed over pairs: ranking
    loss + grade_weight * grade loss + LANGUAGE_WEIGHT * cross-entropy of the responses with the
    best grade for truth. A response in m pairs counts m times.

    batch: as from `collate`. labels: "soft" (p from TARGETS), "hard" (p = 1), or "margin"."""
    rewards, grade_logits, logp = model(batch["ids"], batch["branch"], batch["segment_start"])
    pairs = batch["pairs"]
    level = pairs[..., 2][pairs[..., 2] >= 0]  # (N,), without padding
    chosen, rejected = chosen_and_rejected(rewards, pairs)
    if labels == "margin":
        loss = margin_loss(chosen, rejected, level).sum()
    else:
        target = torch.tensor(TARGETS, device=level.device)[level] if labels == "soft" else 1.0
        loss = preference_loss(chosen, rejected, target).sum()
    # Each entry has two sides: the chosen responses, then the rejected ones.
    sides = [chosen_and_rejected(values, pairs) for values in (grade_logits, batch["grades"], logp)]
    for side_logits, side_grades, side_logp in zip(*sides):
        loss = loss + grade_weight * grade_loss(side_logits, side_grades).sum()
        loss = loss - LANGUAGE_WEIGHT * side_logp[side_grades[:, TRUTH] == 2].sum()
    return {"loss": loss, "ordered": (chosen > rejected).sum(), "count": len(level)}


# Preference data.

def committee_members(round_number):
    """Return the stages whose models answer the prompts of a round."""
    if round_number == 1:
        return ["draft", "sft"]
    return [f"{method}{round_number - 1}"
            for method in ("committee", "rs", "dpo", "ipo", "mdloo", "best")]


def starting_stage(round_number):
    """Return the stage from whose model each policy of a round starts: the last member's."""
    return committee_members(round_number)[-1]


def fitting(tasks, model):
    """Return those of the pairs (family, task) whose prompt fits the model's context."""
    return [(family, task) for family, task in tasks
            if respond.fits(model, model.tokenizer.encode_chat(task.messages(), reply=True))]


def draw_prompts(model, count, rng, weights=PROMPTS):
    """Return `count` random training tasks, as pairs (family, task), of families with these
    weights. Those that do not fit the model's context are replaced by copies of those that do."""
    tasks = fitting(draw_mixture(all_families() | EVOLVED, weights, count, rng), model)
    if not tasks:
        raise UserError(f"none of {count} prompts fits the model's context of "
                        f"{model.config.context} tokens: start a run with a larger model.context")
    return list(itertools.islice(itertools.cycle(tasks), count))


def sample_responses(models, tasks, samples):
    """Sample responses at temperature 1 to each pair (family, task) from each model. Returns nested
    lists of Response: (tasks, models, samples). models: may be a generator."""
    prompts = [task.messages() for _, task in tasks for _ in range(samples)]
    by_model = [respond.generate_responses(model, prompts, MAX_REPLY, temperature=1.0)
                for model in models]
    return [[responses[i:i + samples] for responses in by_model]
            for i in range(0, len(prompts), samples)]


def truths(tasks, responses):
    """Return, for each pair (family, task), 1.0 if the response to it is right, else 0.0: (N,)."""
    return torch.tensor([float(family.check(task, response.text))
                         for (family, task), response in zip(tasks, responses)])


def collect_comparisons(models, tasks, samples, rng, noise):
    """Have annotators compare the models' responses to each pair (family, task).

    At least `samples` responses are sampled for a task, equally many from each model. Returns one
    dict, a comparison, for each task with a pair. It has the family, the prompt, and
        responses  the ids of each response that is in a pair, as in respond.Response
        grades     the four grades that an annotator gave each of them
        pairs      [chosen, rejected, level, right]: two indices of `responses`; how much better
                   the chosen one was found, 0 to 3; and whether the true grades agree"""
    comparisons = []
    per_model = math.ceil(samples / len(models))
    for (family, task), by_model in zip(tasks, sample_responses(models, tasks, per_model)):
        distinct = {tuple(r.ids): r for of_model in by_model for r in of_model}
        responses = list(distinct.values())
        true_grades = [family.grades(task, response.text) for response in responses]
        grades, pairs = people.annotate(true_grades, rng, noise, MAX_PAIRS)
        used = sorted({i for pair in pairs for i in pair[:2]})  # responses in some pair
        if pairs:
            comparisons.append({
                "family": family.name, "prompt": responses[0].prompt,
                "responses": [responses[i].ids for i in used],
                "grades": [list(grades[i].values()) for i in used],
                "pairs": [[used.index(chosen), used.index(rejected), level, right]
                          for chosen, rejected, level, right in pairs]})
    return comparisons


def groups_of(comparisons):
    """Return the groups (prompt, responses) of comparisons."""
    return [(each["prompt"], each["responses"]) for each in comparisons]


def collate(comparisons, **values):
    """Return a batch of comparisons:
        ids, branch, segment_start  (R, T), see `chat.share_prompts`
        grades                      (R, K, 4)
        pairs                       (R, P, 3), padded with -1: chosen and rejected, as indices among
                                    the K responses of the row, and the level
        each of `values`            (R, K, ...), from a tensor (responses, ...) per comparison"""
    batch, places = chat.share_prompts(groups_of(comparisons))
    values["grades"] = [torch.tensor(each["grades"]) for each in comparisons]
    batch |= {name: chat.stack_by_row(value, places) for name, value in values.items()}
    pairs = [torch.tensor([[first + chosen, first + rejected, level]
                           for chosen, rejected, level, _ in each["pairs"]])
             for each, (_, first) in zip(comparisons, places)]
    return batch | {"pairs": chat.stack_by_row(pairs, places, fill=-1)}


def margins(comparisons, rewards):
    """Return {family: list with, for each pair, the reward of the chosen response minus that of the
    rejected one}. rewards: a list with a tensor (responses,) for each comparison."""
    by_family = {}
    for each, r in zip(comparisons, rewards):
        by_family.setdefault(each["family"], []).extend(
            (r[chosen] - r[rejected]).item() for chosen, rejected, *_ in each["pairs"])
    return by_family


def ranking_metrics(model, policy, comparisons):
    """Return how well a reward model ranks pairs that it has not seen, and a row for each family.

    The log loss is the mean of -log sigmoid(margin). policy: the model that the policies start
    from; for comparison, its log-likelihoods of the responses rank the pairs, too. All mathematics
    is one family here, so it counts once in "mean %"."""
    groups = groups_of(comparisons)
    by_reward = margins(comparisons, [score[:, 0] for score in scores(model, groups)])
    by_logp = margins(comparisons, chat.map_responses(chat.response_logp, policy, groups))
    rows = [[*evaluate.row(name, (margin > 0 for margin in by_reward[name])),
             evaluate.percent(margin > 0 for margin in by_logp[name])] for name in by_reward]
    every = torch.tensor(sum(by_reward.values(), []))
    return {"mean %": sum(percent for _, percent, *_ in rows) / max(1, len(rows)),
            "all pairs %": evaluate.percent(every > 0),
            "log loss": -F.logsigmoid(every).mean().item(),
            "all pairs by likelihood %": evaluate.percent(x > 0 for x in sum(by_logp.values(), [])),
            "pairs judged right": rows}


# The stages.

def preferences(round_number, run, *, prompts=6000, samples=4, noise=0.1):
    """Collect annotators' preferences among the responses of `committee_members`.

    samples: the least number of responses to a prompt; each member gives equally many. noise: the
    probability that a grade is random."""
    stage = f"preferences{round_number}"
    models = [load_model(run, name) for name in committee_members(round_number)]
    seed_step(run.seed, stage, 0)
    rng = random.Random(f"{run.seed} {stage}")
    tasks = draw_prompts(models[0], prompts, rng)
    comparisons = collect_comparisons(models, tasks, samples, rng, noise)
    run.write_lines(stage, comparisons)
    right = [right for each in comparisons for _, _, _, right in each["pairs"]]
    return {"pairs": len(right), "labels right %": evaluate.percent(right)}


def read_preferences(run, round_number):
    """Return the comparisons of a round. Raises UserError if there are none."""
    stage = f"preferences{round_number}"
    comparisons = run.read_lines(stage)
    if not comparisons:
        raise UserError(f"{run.file(stage)}.jsonl has 0 pairs, as no two responses differed in "
                        f"quality: raise {stage}.prompts")
    return comparisons


def reward(round_number, run, *, steps=200, prompts=32, lr=0.002, labels="soft",
           reads="likelihood", grade_weight=0.25, examples=16, held_out=60):
    """Train the reward model of a round on the preferences of all rounds so far. In round 1 it
    starts from the policy, later from the reward model of the round before.

    prompts: number in a batch, each with all its pairs. reads: used in round 1 only; "state" is the
    report's form, with "likelihood" the reward also depends on log pi(y|x).
    examples: number of demonstrations in a batch. They train the model as a language model, so that
    it does not forget families with few pairs.
    held_out: number of validation prompts of each family for the test. Each gets at least 8
    responses from the committee, compared without noise. (Pairs of one prompt are correlated, so
    the intervals reported are too narrow.)"""
    stage = f"reward{round_number}"
    models = [load_model(run, name) for name in committee_members(round_number)]
    seed_step(run.seed, f"{stage} heads", 0)
    model = (from_language_model(models[-1], reads) if round_number == 1
             else load_model(run, f"reward{round_number - 1}", RewardModel))
    comparisons = [each for n in range(1, round_number + 1) for each in read_preferences(run, n)]
    sources = chat.read_examples(run, models[-1])
    example_batches = chat.batches(sources, dict.fromkeys(sources, 1.0), examples)

    def batches(step):  # a batch is a flat dict of tensors, so the examples' names get a prefix
        indices = torch.randint(len(comparisons), (prompts,)).tolist()
        batch = collate([comparisons[i] for i in indices])
        return batch | {f"example {name}": x for name, x in example_batches(step).items()}

    def loss(model, batch):
        sums = reward_loss(model, batch, labels, grade_weight)
        example_batch = {name: batch[f"example {name}"]
                         for name in ("ids", "loss_mask", "segment_start")}
        language_loss = chat.response_loss(model, example_batch)["loss"]
        return sums | {"loss": sums["loss"] + LANGUAGE_WEIGHT * language_loss}
    fit(model, batches, loss, steps=steps, lr=lr, schedule=linear(steps, warmup=20), run=run,
        stage=stage, unit="pairs")
    save_model(run, stage, model)
    seed_step(run.seed, f"{stage} held out", 0)
    tasks = evaluate.validation_tasks(held_out)
    unseen = collect_comparisons(models, tasks, 8, random.Random(0), 0.0)  # 8 samples, no noise
    metrics = ranking_metrics(model, models[-1], unseen)
    table = metrics.pop("pairs judged right")
    return metrics | {f"pairs judged right, round {round_number}": table}
