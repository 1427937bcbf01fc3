"""The reward model, and the annotators whose preferences it learns (the report's section 4.3).

Kept from the report: the language model's last layer at the last token, a linear head for the
reward, four heads for single-sided grades; soft labels by how much better a response is; the loss
of the grades as regularisation. Annotators are played by the toy world's graders, with noise.

Added here is one input of the heads: how likely the language model finds the whole response.
Whether a step of arithmetic is right shows when the token that was said is compared with the one
that was to be expected. A large model has layers left for that comparison; one of two layers needs
both to expect anything, and heads on its last state alone judge 58% of held-out pairs right. The
likelihood of the response is that comparison. So the ranking loss reaches the layers below through
the likelihood alone; the reward is mostly as good as the language model is at the task; and
training goes on teaching it the responses that were found true.
"""
import itertools
import random

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import chat, evaluate
from afm_min.world.tasks import EVOLVED, draw_mixture
from afm_min.trainer import fit, linear, seed_step
from afm_min.model import AFM, Linear, load_model, save_model
from afm_min.run import UserError

GRADES = {"if": 2, "verb": 1, "truth": 2, "harm": 2}  # and what each of their levels is worth
TRUTH = list(GRADES).index("truth")
# The chance that the chosen response is better, from negligibly to significantly better.
TARGETS = (0.65, 0.75, 0.85, 0.95)
LANGUAGE = 0.1  # the weight of a token's cross-entropy beside a pair's loss
LONGEST = 48  # tokens of a response
MOST_PAIRS = 6  # of the responses to one prompt
# Shares of the prompts. Most are of mathematics, where responses differ in quality.
PROMPTS = {"math": 1.5, **dict.fromkeys(EVOLVED, 3), "follow": 1.5, "tools": 1.5,
           "code": 1.5, "summary": 1.5, "recall": 1.5, "refuse": 1.5}


class RewardModel(AFM):
    """Scores K responses in each row: ids, branch and begin (B, T), see `chat.share_prompts`."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__(config, dtype)
        width = config.dim + 2  # a state, and two functions of the response's likelihood
        self.reward = Linear(width, 1)
        self.grades = nn.ModuleList(nn.Sequential(Linear(width, config.dim), nn.SiLU(),
                                                  Linear(config.dim, 3)) for _ in GRADES)
        # Untrained, it ranks by likelihood.
        self.reward.weight.data = torch.tensor([[0.0] * config.dim + [1.0, 1.0]])

    def judge_all(self, ids, branch, begin):
        """Rewards (B, K), logits of the grades (B, K, 4, 3), log-likelihoods (B, K)."""
        logp, last = chat.score_responses(self, ids, branch, begin)  # (B, K), (B, K, C)
        # Bounded, or growing slowly: soft labels want rewards a few units apart. Given logp itself,
        # the heads spent their training on undoing its scale.
        told = torch.stack((2 * (logp / 2).exp(), -(1 - logp / 2).log()), -1)
        known = torch.cat((last.detach().float(), told), -1)
        grades = torch.stack([head(known) for head in self.grades], 2)
        return self.reward(known)[..., 0], grades, logp

    def score(self, ids, branch, begin):
        """The reward, and the chance that the grade of truth is the best one: (B, K, 2)."""
        rewards, grades, _ = self.judge_all(ids, branch, begin)
        return torch.stack((rewards, grades[:, :, TRUTH].softmax(-1)[..., 2]), -1)


def preference_loss(chosen, rejected, target):
    """-p log sigmoid(r_c - r_r) - (1 - p) log sigmoid(r_r - r_c): rewards and p, all (B,) -> (B,).

    Least at r_c - r_r = log(p / (1 - p)): so p = 0.5 wants equal rewards, and no label is followed
    further than people are sure of it."""
    margin = chosen - rejected
    return -target * F.logsigmoid(margin) - (1 - target) * F.logsigmoid(-margin)


def margin_loss(chosen, rejected, margin):
    """-log sigmoid(r_c - r_r - margin), to compare with (Llama 2, 2307.09288, section 3.2.2). The
    margin is the level of the label here: 0 to 3."""
    return -F.logsigmoid(chosen - rejected - margin)


def grade_loss(logits, grades):
    """Cross-entropy of each response's grades, summed over the four: (B, 4, 3), (B, 4) -> (B,)."""
    return F.cross_entropy(logits.transpose(1, 2), grades, reduction="none").sum(1)


def reward_loss(model, batch, labels="soft", grade_weight=0.25):
    """L_rank + grade_weight * L_regu + LANGUAGE * the cross-entropy of what was found true.

    batch: as from `collate`. labels: soft, hard (p = 1), or margin."""
    rewards, logits, logp = model.judge_all(batch["ids"], batch["branch"], batch["begin"])
    level = batch["pairs"][..., 2]
    level = level[level >= 0]  # (N,)
    chosen, rejected = sides(rewards, batch["pairs"])
    if labels == "margin":
        ranked = margin_loss(chosen, rejected, level)
    else:
        target = torch.tensor(TARGETS, device=level.device)[level] if labels == "soft" else 1.0
        ranked = preference_loss(chosen, rejected, target)
    loss = ranked.sum()
    for of_logits, grades, logp in zip(*(sides(x, batch["pairs"])
                                         for x in (logits, batch["grades"], logp))):
        loss = loss + grade_weight * grade_loss(of_logits, grades).sum()
        loss = loss - LANGUAGE * logp[grades[:, TRUTH] == 2].sum()
    return {"loss": loss, "ordered": (chosen > rejected).sum(), "count": len(level)}


def sides(values, pairs):
    """Values of the chosen and of the rejected responses of N pairs: values (B, K, ...), pairs
    (B, P, 3), see `collate`, -> two of (N, ...)."""
    row, column = (pairs[..., 2] >= 0).nonzero(as_tuple=True)
    return tuple(values[row, pairs[row, column, side]] for side in (0, 1))


def perceived(grades, rng, noise):
    """Grades, as given by somebody who with the chance `noise` gives a random one."""
    return {name: rng.randint(0, 2) if rng.random() < noise else grades[name] for name in GRADES}


def preferred(first, second):
    """Which of two responses is better by its grades, 0 or 1, and how much, as a level of TARGETS;
    (None, 0) if they are equal.

    ({"if": 2, "verb": 2, "truth": 0, "harm": 2}, {"if": 2, "verb": 1, "truth": 2, "harm": 2})
    -> (1, 1): worth 10 and 13, by 3, so slightly better"""
    gap = sum(worth * (first[name] - second[name]) for name, worth in GRADES.items())
    return (int(gap < 0), min(abs(gap) // 2, 3)) if gap else (None, 0)


def start(model):
    """The reward model that a language model becomes, its new parts untrained."""
    judge = RewardModel(model.config, model.dtype).to(model.embedding.device)
    judge.load_state_dict(judge.state_dict() | model.state_dict())
    return judge


def scores(judge, groups):
    """The rewards of the responses in N groups, pairs (prompt, responses), and the chances that
    they are true: a list of N tensors (responses, 2)."""
    return chat.of_responses(RewardModel.score, judge, groups)


def answers(models, tasks, samples):
    """Of each of N pairs (family, task) what each model says, a list of `samples` replies at
    temperature 1: (N, models, samples)."""
    asked = [task.messages() for _, task in tasks for _ in range(samples)]
    said = [evaluate.replies(model, asked, LONGEST, temperature=1.0) for model in models]
    return [[some[i:i + samples] for some in said] for i in range(0, len(asked), samples)]


def compare(models, tasks, samples, rng, noise):
    """Have annotators compare responses: a list of dicts, one for each prompt with a preference.

    tasks: pairs (family, task). Each is answered by every model, `samples` times or a little
    oftener in all; any two answers that differ are compared, at most MOST_PAIRS of a task, and a
    pair is left out if found equal. Returned, beside family and prompt:
        responses  ids of those that are in a pair
        grades     of each, as annotators perceived them
        pairs      [chosen, rejected, level, right], the first two as indices of responses. right:
                   whether the chosen one is better by its true grades, None if these are equal"""
    found, said = [], answers(models, tasks, -(-samples // len(models)))
    for (family, task), each in zip(tasks, said):
        replies = list({tuple(reply.ids): reply for reply in sum(each, [])}.values())  # each once
        true = [family.grades(task, reply.text) for reply in replies]
        seen = [perceived(grades, rng, noise) for grades in true]
        pairs = []
        candidates = list(itertools.combinations(range(len(replies)), 2))
        for pair in rng.sample(candidates, min(len(candidates), MOST_PAIRS)):
            first, level = preferred(*(seen[i] for i in pair))
            if first is not None:
                chosen, rejected = pair[first], pair[1 - first]
                better, _ = preferred(true[chosen], true[rejected])
                pairs.append([chosen, rejected, level, None if better is None else better == 0])
        used = sorted({i for chosen, rejected, *_ in pairs for i in (chosen, rejected)})
        if pairs:
            found.append({
                "family": family.name, "prompt": replies[0].prompt,
                "responses": [replies[i].ids for i in used],
                "grades": [list(seen[i].values()) for i in used],
                "pairs": [[used.index(chosen), used.index(rejected), *rest]
                          for chosen, rejected, *rest in pairs]})
    return found


def groups(compared):
    """What `compare` found as pairs (prompt, responses)."""
    return [(each["prompt"], each["responses"]) for each in compared]


def collate(compared, **values):
    """A batch of what `compare` found: ids, branch and begin (B, T), see `chat.share_prompts`;
    grades (B, K, 4); pairs (B, P, 3) of chosen, rejected and level, filled up with -1; and other
    values of each prompt's responses, lists of tensors (responses, ...), as (B, K, ...)."""
    batch, places = chat.share_prompts(groups(compared))
    values["grades"] = [torch.tensor(each["grades"]) for each in compared]
    batch |= {name: chat.by_row(of_prompts, places) for name, of_prompts in values.items()}
    pairs = [torch.tensor([[first + chosen, first + rejected, level]
                           for chosen, rejected, level, _ in each["pairs"]])
             for each, (_, first) in zip(compared, places)]
    return batch | {"pairs": chat.by_row(pairs, places, fill=-1)}


def judged(judge, compared):
    """Family -> of each of its pairs, whether the reward model finds the better response better."""
    results = {}
    for each, score in zip(compared, scores(judge, groups(compared))):
        for chosen, rejected, _, right in each["pairs"]:
            first = bool(score[chosen, 0] > score[rejected, 0])
            results.setdefault(each["family"], []).append(first == right)
    return results


def members(number):
    """The committee at the beginning of a round: whose responses are compared."""
    methods = ("rs", "dpo", "ipo", "mdloo", "committee")
    return [f"{method}{number - 1}" for method in methods] if number > 1 else ["draft", "sft"]


def asked(run, count, rng):
    """`count` training tasks by the shares of PROMPTS, as pairs (family, task)."""
    return draw_mixture(chat.toy_world(run) | EVOLVED, PROMPTS, count, rng)


def preferences(number, run, *, prompts=4000, samples=4, noise=0.1):
    """What annotators prefer of the committee's responses. noise: how often a grade is random."""
    stage = f"preferences{number}"
    models = [load_model(run, name) for name in members(number)]
    seed_step(run.seed, stage, 0)
    rng = random.Random(f"{run.seed} {stage}")
    compared = compare(models, asked(run, prompts, rng), samples, rng, noise)
    chat.write_lines(run, stage, compared)
    right = [right for each in compared for *_, right in each["pairs"]]
    return {"pairs": len(right),
            "labels right %": evaluate.percent(x for x in right if x is not None)}


def read_preferences(run, number):
    """What annotators compared in a round, see `compare`: at least one pair."""
    stage = f"preferences{number}"
    compared = chat.read_lines(run, stage)
    if not compared:
        raise UserError(f"{run.file(stage)}.jsonl holds no pairs, as no two responses differed in "
                        f"quality: raise {stage}.prompts")
    return compared


def reward(number, run, *, steps=320, prompts=32, lr=0.002, labels="soft", grade_weight=0.25,
           examples=16, held_out=60):
    """The reward model of a round, from the one before or the first policy, and the preferences of
    all rounds so far.

    prompts: in each batch, with all their pairs. examples: those for fine-tuning in each batch,
    from which the language model learns, too: taught what was chosen alone, it forgets what is
    seldom compared. held_out: new prompts of each family, to which 8 responses or a few more are
    compared without noise. (Pairs of one prompt are alike, so that the intervals are rather
    narrow.)"""
    stage, models = f"reward{number}", [load_model(run, name) for name in members(number)]
    seed_step(run.seed, f"{stage} heads", 0)
    judge = (start(models[-1]) if number == 1
             else load_model(run, f"reward{number - 1}", RewardModel))
    compared = [each for n in range(1, number + 1) for each in read_preferences(run, n)]
    sources = chat.read_examples(run, models[-1])
    shown = chat.batches(sources, dict.fromkeys(sources, 1.0), examples)

    def draw(step):
        drawn = collate([compared[i] for i in torch.randint(len(compared), (prompts,)).tolist()])
        return drawn | {f"shown {name}": x for name, x in shown(step).items()}

    def loss(model, batch):
        sums = reward_loss(model, batch, labels, grade_weight)
        said = {name: batch[f"shown {name}"] for name in ("ids", "weight", "begin")}
        return sums | {"loss": sums["loss"] + LANGUAGE * chat.response_loss(model, said)["loss"]}
    fit(judge, draw, loss, steps=steps, lr=lr, schedule=linear(steps, 20), run=run, stage=stage,
        unit="pairs")
    save_model(run, stage, judge)
    seed_step(run.seed, f"{stage} held out", 0)
    new = compare(models, chat.validating(run, held_out), 8, random.Random(0), noise=0.0)
    results = judged(judge, new)
    rows = [evaluate.row(f"reward: {name}", some) for name, some in results.items()]
    return {"mean %": sum(row[1] for row in rows) / max(1, len(rows)),
            "all pairs %": evaluate.percent(sum(results.values(), [])),
            "all math %": evaluate.percent(results.get("math", [])),
            f"pairs judged right, round {number}": rows}
