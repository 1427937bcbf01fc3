"""The reward model (the report's section 4.3), and the preference data it learns from.

From the report: a linear reward head and four grade heads read the final hidden state of a
response's last token, and their losses train the whole model. The ranking targets are soft: they
depend on how much better the chosen response is. The grade loss is a regulariser. The toy world
simulates the annotators, with noise (world/people.py).

Departures: the policy has two blocks, too few to judge a response, so the reward model has
EXTRA_BLOCKS more, which begin as the identity. A language-model loss is added, so that it does not
forget what it has learned about text.

Shapes: R rows of a batch, T tokens of a row, K responses and at most P pairs of a row; N pairs in
the batch; C model dim. The four grades have levels 0 to 2, 2 the best.
"""
import dataclasses
import random

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import chat, evaluate
from afm_min.model import AFM, Linear, load_model, save_model
from afm_min.run import UserError
from afm_min.trainer import fit, linear, seed_step
from afm_min.world import people
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, draw_mixture

GRADES = list(people.GRADE_WORTH)
TRUTH = GRADES.index("truth")
# Probability that the chosen response is better, by level: negligibly to significantly better.
TARGETS = people.RIGHT
LANGUAGE_WEIGHT = 0.1  # weight of cross-entropy per token, beside a ranking loss per pair
MAX_RESPONSE = 48  # tokens
MAX_PAIRS = 6  # for one prompt
EXTRA_BLOCKS = 2  # of the reward model, on top of the policy's
# Weights of the families. EVOLVED are four kinds of mathematics. In these and in tools, responses
# differ most in quality, so most prompts are of them.
PROMPTS = {"math": 1.5, **dict.fromkeys(EVOLVED, 3), "follow": 1.5, "tools": 3, "code": 1.5,
           "summary": 1.5, "compose": 1.5, "recall": 1.5, "refuse": 1.5}


class RewardModel(AFM):
    """Scores K responses in each row. ids, branch, segment_start: (R, T), as from
    `chat.share_prompts`."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__(config, dtype)
        self.reward = Linear(config.dim, 1)
        self.grades = nn.ModuleList(nn.Sequential(Linear(config.dim, config.dim), nn.SiLU(),
                                                  Linear(config.dim, 3)) for _ in GRADES)
        # Weights of two functions of log pi(y|x) in the reward, and 1 if it reads them, else 0.
        self.likelihood = nn.Parameter(torch.ones(2))
        self.register_buffer("reads_likelihood", torch.zeros(()))

    def forward(self, ids, branch, segment_start):
        """Return rewards (R, K), logits of the grades (R, K, 4, 3), log-likelihoods (R, K)."""
        logp, states = chat.score_responses(self, ids, branch, segment_start)  # (R, K), (R, K, C)
        states = states.float()
        # Soft labels ask for rewards a few units apart, and logp can differ by far more. So use two
        # functions that rise with it slowly: 2 sqrt(p), which is bounded, and -log(1 - logp / 2).
        functions = torch.stack((2 * (logp / 2).exp(), -(1 - logp / 2).log()), -1)
        by_likelihood = self.reads_likelihood * (functions @ self.likelihood)
        grade_logits = torch.stack([head(states) for head in self.grades], 2)
        return self.reward(states)[..., 0] + by_likelihood, grade_logits, logp

    def score(self, ids, branch, segment_start):
        """Return the reward, and the probability of the best grade for truth: (R, K, 2)."""
        rewards, grade_logits, _ = self(ids, branch, segment_start)
        # The last of a head's three logits is that of the best grade.
        return torch.stack((rewards, grade_logits[:, :, TRUTH].softmax(-1)[..., 2]), -1)


def from_language_model(model, reads="state"):
    """Return a RewardModel with a language model's weights, EXTRA_BLOCKS more, and untrained heads.
    Before training, it gives every response 0, or, if it reads the likelihood, ranks by that.

    The new blocks add 0 to the stream at first, so it begins with the same log-probabilities."""
    config = dataclasses.replace(model.config, layers=model.config.layers + EXTRA_BLOCKS)
    reward_model = RewardModel(config, model.dtype).to(model.embedding.device)
    reward_model.load_state_dict(reward_model.state_dict() | model.state_dict())
    nn.init.zeros_(reward_model.reward.weight)
    reward_model.reads_likelihood.fill_(reads == "likelihood")
    for block in reward_model.blocks[model.config.layers:]:
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.feed_forward.down.weight)
    return reward_model


def scores(reward_model, groups):
    """Return, for each group (prompt, responses), the responses' rewards and probabilities of
    truth: a list of tensors (responses, 2)."""
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
    return F.cross_entropy(logits.transpose(1, 2), grades, reduction="none").sum(1)


def chosen_and_rejected(values, pairs):
    """Select the values of the chosen and of the rejected response of each pair: values
    (R, K, ...), pairs (R, P, 3) as from `collate` -> two of (N, ...)."""
    row, column = (pairs[..., 2] >= 0).nonzero(as_tuple=True)  # the level is -1 in padding
    chosen, rejected, _ = pairs[row, column].unbind(-1)
    return values[row, chosen], values[row, rejected]


def reward_loss(model, batch, labels="soft", grade_weight=0.25):
    """Ranking loss + grade_weight * grade loss + LANGUAGE_WEIGHT * cross-entropy of the responses
    with the best grade for truth. Sums over pairs: a response in m pairs counts m times.

    batch: as from `collate`. labels: "soft" (p from TARGETS), "hard" (p = 1), or "margin"."""
    rewards, logits, logp = model(batch["ids"], batch["branch"], batch["segment_start"])
    pairs = batch["pairs"]
    level = pairs[..., 2][pairs[..., 2] >= 0]  # (N,)
    chosen, rejected = chosen_and_rejected(rewards, pairs)
    if labels == "margin":
        loss = margin_loss(chosen, rejected, level).sum()
    else:
        target = torch.tensor(TARGETS, device=level.device)[level] if labels == "soft" else 1.0
        loss = preference_loss(chosen, rejected, target).sum()
    logits = chosen_and_rejected(logits, pairs)
    grades = chosen_and_rejected(batch["grades"], pairs)
    logp = chosen_and_rejected(logp, pairs)
    for side in (0, 1):  # the chosen responses, then the rejected ones
        loss = loss + grade_weight * grade_loss(logits[side], grades[side]).sum()
        loss = loss - LANGUAGE_WEIGHT * logp[side][grades[side][:, TRUTH] == 2].sum()
    return {"loss": loss, "ordered": (chosen > rejected).sum(), "count": len(level)}


# Preference data.

def committee_members(round_number):
    """Return the stages whose models answer the prompts of a round."""
    if round_number == 1:
        return ["draft", "sft"]
    return [f"{method}{round_number - 1}"
            for method in ("committee", "rs", "dpo", "ipo", "mdloo", "best")]


def starting_stage(round_number):
    """Return the stage whose model the policies of a round start from: the last of its members."""
    return committee_members(round_number)[-1]


def draw_prompts(count, rng):
    """Return `count` random training tasks by the weights of PROMPTS, as pairs (family, task)."""
    return draw_mixture(all_families() | EVOLVED, PROMPTS, count, rng)


def sample_responses(models, tasks, samples):
    """Sample responses at temperature 1 to each pair (family, task) from each model. Returns lists
    of Response: (tasks, models, samples)."""
    prompts = [task.messages() for _, task in tasks for _ in range(samples)]
    by_model = [chat.generate_responses(model, prompts, MAX_RESPONSE, temperature=1.0)
                for model in models]
    return [[responses[i:i + samples] for responses in by_model]
            for i in range(0, len(prompts), samples)]


def truths(tasks, responses):
    """Return for each response to a pair (family, task) 1.0 if it is right and 0.0 if not."""
    return torch.tensor([float(family.check(task, response.text))
                         for (family, task), response in zip(tasks, responses)])


def collect_comparisons(models, tasks, samples, rng, noise):
    """Have annotators compare the models' responses to each pair (family, task).

    At least `samples` responses are sampled for a task, equally many from each model. Returns a
    dict for each task in which a response was preferred; beside family and prompt it has
        responses  the ids of each response that is in a pair
        grades     the four grades that an annotator gave each of them
        pairs      [chosen, rejected, level, right]: two indices of `responses`; how much better
                   the chosen one was found, 0 to 3; and whether the true grades agree"""
    comparisons = []
    per_model = -(-samples // len(models))  # rounded up
    for (family, task), by_model in zip(tasks, sample_responses(models, tasks, per_model)):
        responses = list({tuple(r.ids): r for r in sum(by_model, [])}.values())  # distinct
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
        values                      (R, K, ...), from a tensor (responses, ...) per comparison"""
    batch, places = chat.share_prompts(groups_of(comparisons))
    values["grades"] = [torch.tensor(each["grades"]) for each in comparisons]
    batch |= {name: chat.stack_by_row(value, places) for name, value in values.items()}
    pairs = [torch.tensor([[first + chosen, first + rejected, level]
                           for chosen, rejected, level, _ in each["pairs"]])
             for each, (_, first) in zip(comparisons, places)]
    return batch | {"pairs": chat.stack_by_row(pairs, places, fill=-1)}


def margins(comparisons, rewards):
    """Return {family: list}: the reward of the chosen response minus that of the rejected one, of
    each pair. rewards: a tensor (responses,) for each comparison."""
    by_family = {}
    for each, of_responses in zip(comparisons, rewards):
        by_family.setdefault(each["family"], []).extend(
            (of_responses[chosen] - of_responses[rejected]).item()
            for chosen, rejected, *_ in each["pairs"])
    return by_family


def ranking_metrics(model, policy, comparisons):
    """Return how well a reward model ranks pairs that it has not seen, and a row for each family.

    The log loss is the mean of -log sigmoid(margin). policy: the model that the policies start
    from. Its log-likelihoods of the responses are ranked beside, for comparison."""
    groups = groups_of(comparisons)
    trained = margins(comparisons, [score[:, 0] for score in scores(model, groups)])
    likely = margins(comparisons, chat.map_responses(chat.response_logp, policy, groups))
    rows = [evaluate.row(name, (margin > 0 for margin in trained[name]))
            + [evaluate.percent(margin > 0 for margin in likely[name])] for name in trained]
    every = torch.tensor(sum(trained.values(), []))
    return {"mean %": sum(percent for _, percent, *_ in rows) / max(1, len(rows)),
            "all pairs %": evaluate.percent(every > 0),
            "log loss": -F.logsigmoid(every).mean().item(),
            "all pairs by likelihood %": evaluate.percent(x > 0 for x in sum(likely.values(), [])),
            "pairs judged right": rows}


# The stages.

def preferences(round_number, run, *, prompts=6000, samples=4, noise=0.1):
    """Collect annotators' preferences among the responses of `committee_members`. noise: the
    probability that a grade is random."""
    stage = f"preferences{round_number}"
    models = [load_model(run, name) for name in committee_members(round_number)]
    seed_step(run.seed, stage, 0)
    rng = random.Random(f"{run.seed} {stage}")
    comparisons = collect_comparisons(models, draw_prompts(prompts, rng), samples, rng, noise)
    run.write_lines(stage, comparisons)
    right = [pair[3] for each in comparisons for pair in each["pairs"]]
    return {"pairs": len(right), "labels right %": evaluate.percent(right)}


def read_preferences(run, round_number):
    """Return the comparisons of a round. Raises UserError if there are none."""
    stage = f"preferences{round_number}"
    comparisons = run.read_lines(stage)
    if not comparisons:
        raise UserError(f"{run.file(stage)}.jsonl has 0 pairs, as no two responses differed in "
                        f"quality: raise {stage}.prompts")
    return comparisons


def reward(round_number, run, *, steps=300, prompts=32, lr=0.002, labels="soft",
           reads="likelihood", grade_weight=0.25, examples=16, held_out=60):
    """Train the reward model of a round on the preferences of all rounds so far. It starts from the
    reward model of the round before, in round 1 from the policy.

    prompts: number in a batch, each with all its pairs. reads: of round 1; "state" is the report's
    form, with "likelihood" the reward also depends on log pi(y|x). examples: number of
    demonstrations in a batch. They train its language model, so that it does not forget families
    with few pairs.
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

    def batches(step):  # one flat dict of tensors, so the examples' keys get a prefix
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
    comparisons = collect_comparisons(models, tasks, 8, random.Random(0), 0.0)
    metrics = ranking_metrics(model, models[-1], comparisons)
    table = metrics.pop("pairs judged right")
    return metrics | {f"pairs judged right, round {round_number}": table}
