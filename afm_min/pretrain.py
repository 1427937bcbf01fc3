"""Pre-training, stage by stage (the report's sections 3 and 5.1).

    parent       train a model with wider feed-forward layers
    prune        learn which third of its feed-forward units to keep; remove the others
    teacher      train the parent further, so that it stays ahead of the pruned model
    core         train the pruned model on text and on the teacher's predictions
    continued    continue with more code, math and licensed text, on longer sequences
    lengthening  continue on even longer sequences, with a larger RoPE base

                 tokens   in sequences of   the report's sequences
    core         819,200              128                    4,096
    continued    163,840              256                    8,192
    lengthening  102,400              512                   32,768

A server model (the presets "afm-server" and "toy-server") skips parent, prune and teacher: its core
starts from lookup, without distillation.

From the report: AdaStar and its constants, cosines that end at 0.005 (core) and 0.001 (continued)
of the peak, the weight decays, z-loss, sources mixed by weight, and distillation in core only.

Departures: the parent starts from the stage lookup (lookup.py). The teacher is the parent, trained
further; the report does not name its own. Two sources are added to core's mixture (corpus.CORE):
"questions" about the toy world, 32% of the rows, which the report does not have, and "recall", 23%,
which it has in lengthening only.
"""
import dataclasses

import torch
from torch import nn

from afm_min import distributed
from afm_min.data import corpus
from afm_min.evaluate_base import held_out, recall
from afm_min.model import AFM, load_model, save_model
from afm_min.run import compute_dtype
from afm_min.tokenizer import Tokenizer
from afm_min.trainer import MATRIX_SCALE, cosine, fit, seed_step, token_losses


def next_token_loss(model, batch):
    """Language-model loss for `trainer.backward`: each id is predicted from those before it.

    batch: ids           (B, T + 1)
           loss_weights  (B, T + 1), optional: factors of the tokens' losses. The divisor is the
                         number of tokens, so a token of weight 2 has twice the gradient.
           teacher       (B, T), optional: a teacher's top-1 predictions
           distill       (B,), with teacher: the weight of its prediction in the target. The true
                         token has the weight 1 - distill. (The report: 0.9 and 0.1)

    The metric nll, for the log only, is the unweighted cross-entropy with the true tokens."""
    targets = batch["ids"][:, 1:]
    logits = model(batch["ids"][:, :-1])
    cross_entropy, z_loss = token_losses(logits, targets)
    nll = cross_entropy.detach().sum()
    if "teacher" in batch:
        distill = batch["distill"][:, None]  # (B, 1)
        teacher_cross_entropy, _ = token_losses(logits, batch["teacher"])
        cross_entropy = distill * teacher_cross_entropy + (1 - distill) * cross_entropy
    weights = batch["loss_weights"][:, 1:] if "loss_weights" in batch else 1.0
    return {"loss": (weights * (cross_entropy + z_loss)).sum(), "nll": nll,
            "count": targets.numel()}


def soft_top_k(scores, k, eps):
    """Return a mask m, 0 <= m <= 1 with sum k, that selects large scores: (N,) -> (N,).

    It maximises scores . m + eps H(m). H is the entropy -sum m log m, so a large eps spreads the
    mask and a small one sharpens it:
        soft_top_k([3, 1, 2], 2, 100) -> about [.67, .66, .67]
        soft_top_k([3, 1, 2], 2, 0) -> [1, 0, 1]
    The optimum is m = exp(min(0, scores + a) / eps) for the shift a that makes the sum k
    (Conditional Adapters, 2304.04947, appendix). The paper finds a by iteration; sorted scores
    s_0 >= s_1 >= ... give it directly. If exactly the first j have m = 1, the others sum to k - j:
        sum_{i >= j} exp((s_i + a) / eps) = k - j
    Step 1: solve this for a, for each j. Step 2: take the first j with s_j + a <= 0, so that m_j
    and all later ones are at most 1. Before it, all s_j + a are positive: their count is j."""
    ordered, order = scores.sort(descending=True)
    if eps == 0:
        return torch.zeros_like(scores).scatter(0, order[:k], 1.0)
    tails = (ordered / eps).flip(0).logcumsumexp(0).flip(0)[:k]  # log sum_{i >= j} exp(s_i / eps)
    log_rest = torch.arange(k, 0, -1, device=scores.device).log()  # log(k - j)
    shifts = eps * (log_rest - tails)  # a for each j = 0 .. k - 1
    j = (ordered[:k] + shifts > 0).sum().clamp(max=k - 1)  # clamp: rounding can make all positive
    return ((scores + shifts[j]).clamp(max=0) / eps).exp()


class Masked(nn.Module):
    """A feed-forward layer that multiplies its hidden units by a mask: `soft_top_k` of scores."""

    def __init__(self, feed_forward, k, scores):
        super().__init__()
        self.feed_forward = feed_forward
        self.scores = nn.Parameter(scores)  # (hidden,)
        self.k, self.eps = k, 0.0

    def mask(self):
        return soft_top_k(self.scores, self.k, self.eps)

    def forward(self, x):
        return self.feed_forward.down(self.feed_forward.units(x) * self.mask().to(x.dtype))


def magnitude(feed_forward):
    """Return the product of the norms of each hidden unit's three weight vectors: (hidden,)."""
    gate, up, down = feed_forward.gate, feed_forward.up, feed_forward.down
    return (gate.weight.norm(dim=1) * up.weight.norm(dim=1) * down.weight.norm(dim=0)).detach()


def remove_units(model):
    """Return an ordinary AFM: a masked model without the hidden units whose mask is 0."""
    weights = distributed.full_state_dict(model.state_dict())
    k = model.blocks[0].feed_forward.k
    for i in range(len(model.blocks)):
        prefix = f"blocks.{i}.feed_forward."
        units = soft_top_k(weights.pop(f"{prefix}scores"), k, 0).nonzero()[:, 0]  # indices (k,)
        for name, dim in (("gate.weight", 0), ("up.weight", 0), ("down.weight", 1)):
            weight = weights.pop(f"{prefix}feed_forward.{name}")  # Masked contains the layer
            weights[f"{prefix}{name}"] = weight.index_select(dim, units)
    smaller = AFM(dataclasses.replace(model.config, hidden=k), model.dtype)
    smaller.load_state_dict(weights)
    smaller.tokenizer = model.tokenizer
    return smaller.to(model.embedding.device)


def distilled(batches, teacher, weight):
    """Return `batches` with a teacher's top-1 predictions added: see `next_token_loss`.

    Rows longer than the teacher's context, multiples of it, are cut into pieces of that length."""
    @torch.no_grad()
    def with_teacher(step):
        batch = batches(step)
        inputs = batch["ids"][:, :-1].to(teacher.embedding.device)  # (B, T)
        pieces = inputs.reshape(-1, min(inputs.shape[1], teacher.config.context))
        chunks = pieces.split(len(inputs))  # B pieces at a time
        top_1 = torch.cat([teacher(chunk).argmax(-1) for chunk in chunks])
        return batch | {"teacher": top_1.view(inputs.shape),
                        "distill": torch.full((len(inputs),), weight)}
    return with_teacher


def text_batches(run, model, mixture, batch_size):
    """Return a function from step to a batch of training text, in rows of the model's context."""
    streams = run.load(run.file("tokens.pt"))["train"]
    streams["recall"] = corpus.recall_rows(streams, mixture, model.tokenizer)  # a function
    return corpus.mixture_batches(streams, mixture, batch_size, model.config.context)


def train(run, stage, model, batches, *, steps, lr, warmup, floor, weight_decay,
          matrix_scale, optimizer="adastar", compile=False, on_step=None):
    """Train with `next_token_loss` and a cosine schedule, as all stages of this file do."""
    loss = torch.compile(next_token_loss) if compile else next_token_loss
    fit(model, batches, loss, steps=steps, lr=lr, schedule=cosine(steps, warmup, floor),
        weight_decay=weight_decay, optimizer=optimizer, matrix_scale=matrix_scale, run=run,
        stage=stage, on_step=on_step)


def finish(run, stage, model):
    """Save a stage's model and return its metrics."""
    save_model(run, stage, model)
    return {"tokens": sum(row["count"] for row in run.read_log(stage))} | held_out(model, run)


def untrained_model(run, stage, widen=1):
    """Return a new model of the run's config, with `widen` times as many feed-forward units."""
    seed_step(run.seed, stage, -1)  # -1: before the first step, which is 0
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    config = dataclasses.replace(run.config, vocab_size=tokenizer.vocab_size,
                                 hidden=widen * run.config.hidden)
    model = AFM(config, compute_dtype(run.device)).to(run.device)
    model.tokenizer = tokenizer
    return model


# The stages.

def parent(run, *, steps=800, batch_size=8, mixture=corpus.CORE, lr=0.01, warmup=20, floor=0.005,
           weight_decay=3.16e-4, matrix_scale=MATRIX_SCALE, compile=False):
    """Train the model of `lookup` on core's mixture. It has three times as many feed-forward units
    as the pruned one; the report prunes a model of 6.4B parameters to 2.7B, about a third, too."""
    model = load_model(run, "lookup")
    train(run, "parent", model, text_batches(run, model, mixture, batch_size), steps=steps, lr=lr,
          warmup=warmup, floor=floor, weight_decay=weight_decay, matrix_scale=matrix_scale,
          compile=compile)
    return finish(run, "parent", model)


def teacher(run, *, steps=1600, batch_size=8, mixture=corpus.CORE, lr=0.01, warmup=20, floor=0.005,
            weight_decay=3.16e-4, matrix_scale=MATRIX_SCALE, compile=False):
    """Train the parent further on core's mixture, as core's teacher.

    `prune` starts from the parent as it was before this stage. So the teacher is wider than its
    student, and has seen more text. The report only calls its teacher "a larger model"."""
    model = load_model(run, "parent")
    train(run, "teacher", model, text_batches(run, model, mixture, batch_size), steps=steps, lr=lr,
          warmup=warmup, floor=floor, weight_decay=weight_decay, matrix_scale=matrix_scale,
          compile=compile)
    return finish(run, "teacher", model)


def prune(run, *, method="learned", steps=100, soft=0.8, batch_size=8, mixture=corpus.CORE,
          lr=0.002, warmup=5, floor=0.1, weight_decay=0.0, matrix_scale=MATRIX_SCALE,
          first_eps=0.006, last_eps=0.0002):
    """Prune feed-forward units by Soft-Top-K, on the core mixture.

    soft: share of the steps in which eps falls from first_eps to last_eps, and each unit's score,
    first 0, is learned together with the weights. In the other steps eps is 0: the mask is 0 or 1
    and no longer changes, and the weights adapt to the remaining units.

    method: "learned"; or, for comparison, "magnitude" or "random". These two mask nothing in the
    share `soft` of the steps, and then keep the units with the largest weights, or random ones."""
    model = load_model(run, "parent")
    k, size = run.config.hidden, model.config.hidden  # keep k of `size` units
    seed_step(run.seed, "prune", -1)
    for block in model.blocks:
        scores = torch.rand(size) if method == "random" else torch.zeros(size)
        block.feed_forward = Masked(block.feed_forward, k, scores.to(run.device))
    exact_from = min(round(soft * steps), steps - 1)  # the first step with eps = 0

    def anneal(step):
        for block in model.blocks:
            layer = block.feed_forward
            if step < exact_from:
                layer.eps = first_eps * (last_eps / first_eps) ** (step / exact_from)
                layer.k = k if method == "learned" else size  # size: the mask is 1 everywhere
            else:
                layer.eps, layer.k = 0.0, k
            if method == "magnitude" and step == exact_from:
                layer.scores.data.copy_(magnitude(layer.feed_forward))

    train(run, "prune", model, text_batches(run, model, mixture, batch_size), steps=steps, lr=lr,
          warmup=warmup, floor=floor, weight_decay=weight_decay, matrix_scale=matrix_scale,
          on_step=anneal)
    return finish(run, "prune", remove_units(model))


def core(run, *, start="prune", distill=0.9, steps=800, batch_size=8, mixture=corpus.CORE,
         lr=0.01, warmup=20, floor=0.005, weight_decay=3.16e-4, matrix_scale=MATRIX_SCALE,
         optimizer="adastar", compile=False):
    """Train the model of the stage `start` on the core mixture, or a new one if it is "scratch".

    distill: weight of the teacher's top-1 prediction in each token's target. optimizer: "adastar",
    or, for comparison, "adamw"."""
    model = untrained_model(run, "core") if start == "scratch" else load_model(run, start)
    batches = text_batches(run, model, mixture, batch_size)
    if distill:
        batches = distilled(batches, load_model(run, "teacher"), distill)
    train(run, "core", model, batches, steps=steps, lr=lr, warmup=warmup, floor=floor,
          weight_decay=weight_decay, matrix_scale=matrix_scale, optimizer=optimizer,
          compile=compile)
    return finish(run, "core", model)


def continued(run, *, times=2, distill=0.0, steps=160, batch_size=4, mixture=corpus.CONTINUED,
              lr=0.003, warmup=10, floor=0.001, weight_decay=1e-5, matrix_scale=MATRIX_SCALE,
              compile=False):
    """Shift the mixture to code, math and licensed text, on sequences `times` as long as core's.

    distill: as in core. The report found that it does not help here."""
    model = load_model(run, "core", context=times * run.config.context)
    batches = text_batches(run, model, mixture, batch_size)
    if distill:
        batches = distilled(batches, load_model(run, "teacher"), distill)
    train(run, "continued", model, batches, steps=steps, lr=lr, warmup=warmup, floor=floor,
          weight_decay=weight_decay, matrix_scale=matrix_scale, compile=compile)
    return finish(run, "continued", model)


def lengthening(run, *, times=4, rope_base=6_315_089.0, steps=100, batch_size=2,
                mixture=corpus.LENGTHENING, lr=0.003, warmup=10, floor=0.001, weight_decay=1e-5,
                matrix_scale=MATRIX_SCALE, facts=128, compile=False):
    """Lengthen the context: train on sequences `times` as long as core's, with a larger RoPE base.

    More sequences than in earlier stages contain a fact and later questions about it. Recall needs
    such questions in every stage from core on, and a larger weight of their answers in the loss
    (corpus.ANSWER_WEIGHT). facts: number of held-out facts to recall, before and after training."""
    length = times * run.config.context
    before = load_model(run, "continued", context=length)
    metrics = {f"{name} before": value for name, value in recall(before, run, times, facts).items()}
    model = load_model(run, "continued", context=length, rope_base=rope_base)
    train(run, "lengthening", model, text_batches(run, model, mixture, batch_size), steps=steps,
          lr=lr, warmup=warmup, floor=floor, weight_decay=weight_decay, matrix_scale=matrix_scale,
          compile=compile)
    return metrics | finish(run, "lengthening", model) | recall(model, run, times, facts)
