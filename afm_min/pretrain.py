"""Pre-training, stage by stage (the report's sections 3 and 5.1).

    parent      a wide model, trained from scratch: it will be pruned, and can teach
    prune       which third of its feed-forward units to keep is learned; the others are cut out
    core        what is left goes on learning, from the text and, if wanted, from the parent
    continued   the mixture shifts to code, math and licensed text
    lengthening sequences four times as long, RoPE's base raised, questions about what is far back

Kept from the report: AdaStar and its constants, cosines that end at 0.005 (core) and 0.001
(continued) of the peak, the decays, z-loss, sources mixed by weight.
"""
import dataclasses
import math

import torch
from torch import nn

from afm_min import distributed, gradients
from afm_min.data import corpus
from afm_min.world.tasks import RECALL, draw_task
from afm_min.trainer import cosine, fit, seed_step
from afm_min.model import AFM, load_model, save_model
from afm_min.run import compute_dtype
from afm_min.tokenizer import DOCUMENT, Tokenizer

Z_LOSS = 1e-6  # weight of log^2 of what the softmax divides by, which so stays near 1


def token_losses(logits, targets):
    """Cross-entropy and z-loss of each token, in nats: (..., V), (...) -> two of (...)."""
    cross_entropy, log_z = gradients.CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())
    return cross_entropy.view(targets.shape), Z_LOSS * log_z.view(targets.shape) ** 2


def next_token_loss(model, batch):
    """The language-model loss of ids (B, T + 1): each is predicted from those before it, and counts
    as much as its weight, (B, T + 1), if there is one.

    With the top-1 predictions of a teacher, (B, T), the target is a mixture: distill of the
    teacher's token and 1 - distill of the true one (the report: 0.9 and 0.1)."""
    targets = batch["ids"][:, 1:]
    logits = model(batch["ids"][:, :-1])
    cross_entropy, z_loss = token_losses(logits, targets)
    if "teacher" in batch:
        distill = batch["distill"][:, None]  # (B, 1)
        taught, _ = token_losses(logits, batch["teacher"])
        cross_entropy = distill * taught + (1 - distill) * cross_entropy
    weight = batch["weight"][:, 1:] if "weight" in batch else 1.0
    return {"loss": (weight * (cross_entropy + z_loss)).sum(), "count": targets.numel()}


def soft_top_k(scores, k, eps):
    """The mask m that maximises scores . m + eps H(m) over 0 <= m <= 1, sum m = k: (N,) -> (N,).

    H is the entropy -sum m log m, so a large eps spreads the mask and a small one sharpens it:
        soft_top_k([3, 1, 2], 2, 100) -> about [.67, .66, .67]
        soft_top_k([3, 1, 2], 2, 0) -> [1, 0, 1]
    The optimum is m = exp(min(0, scores + a) / eps) (Conditional Adapters, 2304.04947, appendix),
    where a makes the sum k. The paper finds a by iteration; sorted scores give it at once: if
    exactly the j largest have m = 1, the others must sum to k - j."""
    ordered, order = scores.sort(descending=True)
    if eps == 0:
        return torch.zeros_like(scores).scatter(0, order[:k], 1.0)
    tails = (ordered / eps).flip(0).logcumsumexp(0).flip(0)[:k]  # log sum_{i >= j} exp(s_i / eps)
    room = torch.arange(k, 0, -1, device=scores.device).log()  # log (k - j)
    shifts = eps * (room - tails)  # a, for j = 0 .. k - 1
    j = (ordered[:k] + shifts > 0).sum().clamp(max=k - 1)  # the first at which the next m is < 1
    return ((scores + shifts[j]).clamp(max=0) / eps).exp()


class Masked(nn.Module):
    """A feed-forward whose every hidden unit is scaled by a mask, `soft_top_k` of its scores."""

    def __init__(self, feed_forward, k, scores):
        super().__init__()
        self.feed_forward, self.k, self.eps = feed_forward, k, 0.0
        self.scores = nn.Parameter(scores)  # (hidden,)

    def mask(self):
        return soft_top_k(self.scores, self.k, self.eps)

    def forward(self, x):
        return self.feed_forward.down(self.feed_forward.units(x) * self.mask().to(x.dtype))


def magnitude(feed_forward):
    """How large each unit's three weight vectors are, the product of their norms: (hidden,)."""
    gate, up, down = (getattr(feed_forward, name).weight for name in ("gate", "up", "down"))
    return (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).detach()


def cut(model):
    """A model whose feed-forwards are Masked -> an ordinary AFM of the units whose mask is 1."""
    weights, k = distributed.full_state_dict(model.state_dict()), model.blocks[0].feed_forward.k
    for i in range(len(model.blocks)):
        at = f"blocks.{i}.feed_forward."
        kept = soft_top_k(weights.pop(f"{at}scores"), k, 0).nonzero()[:, 0]
        for name, dim in (("gate.weight", 0), ("up.weight", 0), ("down.weight", 1)):
            weight = weights.pop(f"{at}feed_forward.{name}")
            weights[f"{at}{name}"] = weight.index_select(dim, kept)
    smaller = AFM(dataclasses.replace(model.config, hidden=k), model.dtype)
    smaller.load_state_dict(weights)
    smaller.tokenizer = model.tokenizer
    return smaller.to(model.embedding.device)


@torch.no_grad()
def held_out(model, run, most=8192, rows=32):
    """How well a model predicts each source's held-out text, in sequences of the run's context:
    bits per byte, their mean, and the percentage of all tokens that it ranks first.

    Bytes, not tokens, so that models with different tokenizers can be compared. most: tokens of
    each source, from all over it."""
    size = torch.tensor([len(token) for token in model.tokenizer.vocab])
    size[model.tokenizer.special(DOCUMENT)] = 0  # it must be predicted, but is no text
    metrics, right, count = {}, 0, 0
    for source, stream in run.load(run.file("tokens.pt"))["held_out"].items():
        nats = total = 0
        windows = corpus.held_out_windows(stream, run.config.context, most).to(run.device)
        for ids in windows.split(rows):
            logits, targets = model(ids[:, :-1]), ids[:, 1:]
            nats += token_losses(logits, targets)[0].sum().item()
            right += (logits.argmax(-1) == targets).sum().item()
            total += size[targets.cpu()].sum().item()
            count += targets.numel()
        metrics[f"{source} bits/byte"] = nats / math.log(2) / total
    mean = sum(metrics.values()) / len(metrics)
    return {"accuracy %": 100 * right / count, "bits/byte": mean} | metrics


def train(run, stage, model, batches, steps, lr, warmup, floor, decay, compile=False, finish=None):
    """What the stages share: the loop, then `finish`, the checkpoint, and the held-out metrics."""
    loss = torch.compile(next_token_loss) if compile else next_token_loss
    fit(model, batches, loss, steps=steps, lr=lr, schedule=cosine(steps, warmup, floor),
        decay=decay, run=run, stage=stage)
    model = finish(model) if finish else model
    save_model(run, stage, model)
    tokens = sum(row["count"] for row in run.logged(stage))
    return {"tokens": tokens} | held_out(model, run)


def batches(run, model, mixture, batch):
    """Batches of the run's training text, in sequences as long as the model's context."""
    streams = run.load(run.file("tokens.pt"))["train"]
    streams["recall"] = corpus.recall_rows(dict(streams), mixture, model.tokenizer)
    return corpus.mixture_batches(streams, mixture, batch, model.config.context)


def from_scratch(run, stage, widen=1):
    """A new model of the run's config, with `widen` times as many feed-forward units."""
    seed_step(run.seed, stage, -1)
    tokenizer, hidden = Tokenizer.load(run.file("tokenizer.json")), widen * run.config.hidden
    config = dataclasses.replace(run.config, vocab_size=tokenizer.vocab_size, hidden=hidden)
    model = AFM(config, compute_dtype(run.device)).to(run.device)
    model.tokenizer = tokenizer
    return model


def parent(run, *, widen=3, steps=400, batch=8, mixture=corpus.CORE, lr=0.005, warmup=20,
           floor=0.005, decay=3.16e-4, compile=False):
    """Core pre-training from scratch of a model with `widen` times as many feed-forward units
    (report: 6.4B parameters for 2.7B, which is 2.9 times the units)."""
    model = from_scratch(run, "parent", widen)
    return train(run, "parent", model, batches(run, model, mixture, batch), steps, lr, warmup,
                 floor, decay, compile)


def prune(run, *, method="learned", steps=100, soft=0.8, batch=8, mixture=corpus.CORE, lr=0.002,
          warmup=5, floor=0.1, decay=0.0, first_eps=0.006, last_eps=0.0002):
    """Soft-Top-K pruning: scores, 0 at first, are learned with the weights, on the core mixture,
    and eps falls from first_eps to last_eps. After `soft` of the steps it is 0: the mask is exact,
    and stays.

    method: "learned"; or, to compare, "magnitude" or "random": nothing is masked before that step,
    and from it on all but the largest units, or but random ones. Weights learn alike in all.

    Without any repair, a mask learned in 60 steps on frozen weights costs 0.09 bits per byte, that
    of the largest units 0.19, a random one 0.49. Scores that begin as sizes learn worse (0.11) than
    from 0. Repair makes up for much of it: with either mask held fixed for 20, 40 or 100 steps of
    training, the learned one is ahead by 0.024, 0.009 and 0.002. (One seed, on claims' parent.)
    """
    model, kept = load_model(run, "parent"), run.config.hidden
    seed_step(run.seed, "prune", -1)
    for block in model.blocks:
        scores = (torch.rand if method == "random" else torch.zeros)(model.config.hidden)
        block.feed_forward = Masked(block.feed_forward, kept, scores.to(run.device))
    draw, exact = batches(run, model, mixture, batch), min(round(soft * steps), steps - 1)

    def annealed(step):
        for masked in (block.feed_forward for block in model.blocks):
            masked.eps = first_eps * (last_eps / first_eps) ** (step / exact) if step < exact else 0
            masked.k = len(masked.scores) if method != "learned" and step < exact else kept
            if method == "magnitude" and step == exact:
                masked.scores.data.copy_(magnitude(masked.feed_forward))
        return draw(step)

    return train(run, "prune", model, annealed, steps, lr, warmup, floor, decay, finish=cut)


def core(run, *, start="prune", distill=0.0, steps=250, batch=8, mixture=corpus.CORE, lr=0.005,
         warmup=20, floor=0.005, decay=3.16e-4, compile=False):
    """Core pre-training of the model itself, of the stage `start` or from "scratch", distilled
    from the parent: a token's target is `distill` parts the parent's likeliest one.

    The report has 0.9. Here that helps a model from scratch; a pruned one, which begins nearly as
    good as its teacher, is held back (README, claims), so the default is not to. Cross-entropy
    rises with it until continued pre-training calibrates the model again."""
    model = from_scratch(run, "core") if start == "scratch" else load_model(run, start)
    draw = batches(run, model, mixture, batch)
    teacher = load_model(run, "parent") if distill else None

    @torch.no_grad()
    def taught(step):
        batch = draw(step)
        top = teacher(batch["ids"][:, :-1].to(run.device)).argmax(-1)  # (B, T)
        return batch | {"teacher": top, "distill": torch.full((len(top),), distill)}

    return train(run, "core", model, taught if distill else draw, steps, lr, warmup, floor, decay,
                 compile)


def continued(run, *, steps=250, batch=8, mixture=corpus.CONTINUED, lr=0.003, warmup=10,
              floor=0.001, decay=1e-5, compile=False):
    """Continued pre-training: web weighted down, code and math up, licensed text in. The parent
    teaches no more: the report saw no gain from it here."""
    model = load_model(run, "core")
    return train(run, "continued", model, batches(run, model, mixture, batch), steps, lr, warmup,
                 floor, decay, compile)


def lengthening(run, *, times=4, rope_base=6_315_089.0, steps=200, batch=2,
                mixture=corpus.LENGTHENING, lr=0.003, warmup=10, floor=0.001, decay=1e-5,
                compile=False):
    """Context lengthening: sequences `times` as long, RoPE's base raised, and among the text
    questions about facts that stand far back.

    Before it a model recalls most facts within the length it was trained on, and ever fewer beyond.
    What it takes, by trials of a seed or two each: such questions from core on (from text alone,
    after a million tokens, what stands twice in the context costs 3.84 nats a token the second
    time, 3.90 the first); answers that weigh some 30 in the loss (at 1, or at 10 with twice as many
    questions, recall after 300 steps from scratch is near chance); and facts told early, so that
    questions are far from them. Then raising RoPE's base alone does most of it (README, claims)."""
    length = times * run.config.context
    before = load_model(run, "continued", context=length)
    model = load_model(run, "continued", context=length, rope_base=rope_base)
    metrics = {f"{name} before": value for name, value in recall(before, run, times).items()}
    metrics |= train(run, "lengthening", model, batches(run, model, mixture, batch), steps, lr,
                     warmup, floor, decay, compile)
    return metrics | recall(model, run, times)


@torch.no_grad()
def recall(model, run, most, count=64):
    """Percent of held-out facts that a model recalls at the end of sequences that begin with them:
    greedily, all tokens of the answer right. Their lengths are 0.5, 1, 2, ... up to `most` times
    the run's context. Each has held-out text of its own in between: with one text for all, a seed
    may have 6% where the next has 60."""
    filler = max(run.load(run.file("tokens.pt"))["held_out"].values(), key=len).tolist()
    metrics = {}
    for times in (0.5, *(2**i for i in range(most.bit_length()))):
        rows, length = [], int(times * run.config.context)
        for i in range(count):
            task, begin = draw_task(RECALL, "test", i), i * len(filler) // count
            text = filler[begin:] + filler * (1 + length // len(filler))
            end = max(0, length - len(corpus.insert_fact([], task, (0, 0), model.tokenizer)[0]))
            row = corpus.insert_fact(text[:end], task, (0, end), model.tokenizer)
            rows.append(torch.tensor(row, device=run.device).T)  # ids, and if they are asked for
        right = 0
        for i in range(0, count, 16):
            # (16, length) each; what is padded is not wanted
            ids, wanted = nn.utils.rnn.pad_sequence(rows[i:i + 16], batch_first=True).unbind(-1)
            predicted = model(ids[:, :-1]).argmax(-1)
            right += ((predicted == ids[:, 1:]) | (wanted[:, 1:] == 0)).all(1).sum().item()
        metrics[f"recall at {times}x %"] = 100 * right / count
    return metrics
