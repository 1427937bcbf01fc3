"""What all training stages share: the cross-entropy, the optimizer, two schedules, and the loop.

Each stage supplies its batches and its loss."""
import collections
import math
import zlib

import torch

from afm_min import distributed, files
from afm_min.progress import Progress
from afm_min.run import UserError, load, save

# Factor of the learning rate of weight matrices in pre-training.
MATRIX_SCALE = 0.1
Z_LOSS = 1e-6  # weight of the z-loss, which keeps the softmax's normaliser near 1


class CrossEntropyFunction(torch.autograd.Function):
    """Return -log p(target) and log Z = logsumexp(logits) of each row: (N, V), (N,) -> (N,), (N,).

    F.cross_entropy does not return log Z. The gradients by the logits are written out, as in
    model.py: softmax - onehot(target) for -log p and softmax for log Z, so one softmax serves both.
    """

    @staticmethod
    def forward(ctx, logits, targets):
        log_p = logits.log_softmax(-1)
        cross_entropy = -log_p.gather(1, targets[:, None])
        log_z = logits.gather(1, targets[:, None]) + cross_entropy  # as log p = logit - log Z
        ctx.save_for_backward(log_p, targets)
        return cross_entropy[:, 0], log_z[:, 0]

    @staticmethod
    def backward(ctx, grad_cross_entropy, grad_log_z):
        log_p, targets = ctx.saved_tensors
        grad = log_p.exp().mul_((grad_cross_entropy + grad_log_z)[:, None])
        return grad.scatter_add_(1, targets[:, None], -grad_cross_entropy[:, None]), None


def token_losses(logits, targets):
    """Return the cross-entropy and the z-loss, Z_LOSS * logsumexp(logits)^2, of each token.

    Both in nats: logits (..., V), targets (...) -> (...), (...)."""
    cross_entropy, log_z = CrossEntropyFunction.apply(logits.flatten(0, -2), targets.flatten())
    return cross_entropy.view(targets.shape), Z_LOSS * log_z.view(targets.shape) ** 2


class AdaStar(torch.optim.Optimizer):
    """RMSProp with momentum, as AXLearn's `adastar`: the optimizer that AFM was trained with.

    For each parameter tensor p with gradient g, at schedule factor s:
        if the norm of all gradients is 100 or more, nothing changes; else it is clipped to 1
        v <- 0.95 v + 0.05 (g^2 + 1e-30)        v^ = v / (1 - 0.95^t)
        u = g / sqrt(v^)                        u <- u / max(1, rms(u)), rms over the tensor
        m <- 0.95 m + 0.05 u                    no bias correction
        p <- p - s * (lr * scale * m + weight_decay * p)
    Weight decay is not multiplied by the learning rate.
    scale is below 1 for the matrices of wide models: see `parameter_groups`.

    Groups with apart=True are clipped by a norm of their own, however large that is."""
    SKIP_NORM, CLIP_NORM, DECAY = 100.0, 1.0, 0.95

    def __init__(self, groups, lr, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "scale": 1.0,
                                  "apart": False})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"t": torch.zeros(()), "v": torch.zeros_like(p),
                                 "m": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, factor=1.0):
        """Update the parameters; return the norm of all gradients before clipping, without those of
        groups apart. factor: s."""
        norm = self.step_groups(factor, apart=False)
        if norm < self.SKIP_NORM:
            self.step_groups(factor, apart=True)
        return norm

    def step_groups(self, factor, apart):
        """Update the groups with this value of `apart`; return the norm of their gradients."""
        trained = [(p, group) for group in self.param_groups if group["apart"] == apart
                   for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p, _ in trained]).item()
        if not norm < (math.inf if apart else self.SKIP_NORM):  # `not <` also catches NaN
            return norm
        clip = self.CLIP_NORM / max(norm, self.CLIP_NORM)
        for p, group in trained:
            self.update(p, p.grad * clip, factor, group)
        return norm

    def update(self, p, g, factor, group):
        """Update a parameter by its clipped gradient."""
        state = self.state[p]
        state["t"] += 1
        v, m = state["v"], state["m"]
        v.lerp_(g.square().add_(1e-30), 1 - self.DECAY)
        u = g / (v / (1 - self.DECAY ** state["t"].item())).sqrt_()
        u /= (torch.linalg.vector_norm(u) / math.sqrt(u.numel())).clamp(min=1.0)
        m.lerp_(u, 1 - self.DECAY)
        p.mul_(1 - factor * group["weight_decay"])
        p.add_(m, alpha=-factor * group["lr"] * group["scale"])


class AdamW(AdaStar):
    """The report's baseline, with betas of 0.9 and 0.95. All but `update` is as in AdaStar, so the
    two are clipped alike. Weight decay is multiplied by the learning rate."""

    def update(self, p, g, factor, group):
        state, lr = self.state[p], factor * group["lr"]
        state["t"] += 1
        t, v, m = state["t"].item(), state["v"], state["m"]
        m.lerp_(g, 1 - 0.9)
        v.lerp_(g.square(), 1 - 0.95)
        p.mul_(1 - lr * group["weight_decay"])
        p.addcdiv_(m / (1 - 0.9 ** t), (v / (1 - 0.95 ** t)).sqrt_() + 1e-8,
                   value=-lr * group["scale"])


OPTIMIZERS = {"adastar": AdaStar, "adamw": AdamW}


def parameter_groups(model, matrix_scale=1.0):
    """Split a model's trainable parameters into weight matrices and all others (embedding, norms).
    A third group has the scores of `pretrain.Masked` layers, if there are any. Their gradients grow
    as the mask sharpens, so they are clipped apart from the weights.

    This is the report's "muParam (simple)": in models wider than 768, the learning rate of the
    matrices is scaled by 768 / dim, so a rate found on a small model also suits a large one."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    scores = [p for name, p in trained if name.endswith(".scores")]
    trained = [(name, p) for name, p in trained if not name.endswith(".scores")]
    matrices = [p for name, p in trained if p.dim() == 2 and name != "embedding"]
    others = [p for name, p in trained if p.dim() != 2 or name == "embedding"]
    scale = matrix_scale * min(768 / model.config.dim, 1.0)
    groups = [{"params": matrices, "scale": scale}, {"params": others}]
    return groups + [{"params": scores, "apart": True}] if scores else groups


def cosine(steps, warmup=0, floor=0.0):
    """Return a schedule: up to 1 in `warmup` steps, then half a cosine down to `floor`. The warm-up
    takes at most half of the steps, so that a short training has a peak and an end, too.

    cosine(steps=4, warmup=2): 1/2, 1, 1/2, 0"""
    warmup = min(warmup, steps // 2)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = (step + 1 - warmup) / (steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return factor


def linear(steps, warmup):
    """Return a schedule: a line from 1 down to 1/steps, times a ramp up to 1 in `warmup` steps, or
    in half of the steps if these are fewer.

    linear(steps=4, warmup=2): 1/2, 3/4, 1/2, 1/4"""
    warmup = max(1, min(warmup, steps // 2))
    return lambda step: min((step + 1) / warmup, 1.0) * (1 - step / steps)


def seed_step(seed, stage, step):
    """Seed torch's generator for a step, so its random numbers do not depend on earlier steps."""
    torch.manual_seed(zlib.crc32(f"{seed} {stage} {step}".encode()))


def backward(model, batch, loss, micro_batch_size=None):
    """Leave the gradient of the batch's mean loss in .grad. Return the mean of every metric.

    loss(model, batch) returns sums over its rows: {"loss": tensor, "count": divisor, ...}. They are
    added over all micro-batches and ranks, and divided by the total count last. micro_batch_size:
    the most rows that a rank computes at a time. It and the number of ranks change the result by
    rounding only, except that with more micro-batches dropout draws other numbers. The batch's
    first tensor has `rows` rows. Others may have more or fewer: each is divided evenly.

    Raises UserError if the total count is 0, as it is for an empty batch."""
    rows = len(next(iter(batch.values()), ()))
    rows_at_once = distributed.world_size() * (micro_batch_size or max(1, rows))
    micro_batches = math.ceil(rows / rows_at_once)
    sums = collections.Counter()  # its update() adds
    model.zero_grad(set_to_none=True)
    for i in range(micro_batches):
        part = {name: x[i * len(x) // micro_batches:(i + 1) * len(x) // micro_batches]
                for name, x in batch.items()}
        # Dropout needs the number of rows on all ranks: see distributed.all_rows.
        distributed.total_rows = (i + 1) * rows // micro_batches - i * rows // micro_batches
        metrics = loss(model, {name: distributed.own_rows(x) for name, x in part.items()})
        metrics["loss"].backward()
        sums.update({name: torch.as_tensor(x).item() for name, x in metrics.items()})
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    distributed.all_reduce_sum(gradients)
    rank_sums = distributed.all_gather_object(sums)
    totals = {name: sum(of_rank[name] for of_rank in rank_sums) for name in sums}
    count = totals.pop("count", 0)
    if not count:
        raise UserError(f"a batch of {rows} rows has nothing to learn from, as its loss counts 0 "
                        "tokens or pairs: train on other data, or on more rows at a time")
    for gradient in gradients:
        gradient /= count
    return {name: x / count for name, x in totals.items()} | {"count": count}


class Trainer:
    """Updates a model step by step. `fit` is the usual loop around it; MDLOO writes its own.

    loss: see `backward`. schedule: step -> factor of the learning rate. unit: what the loss's count
    counts, for the progress line. With a run, the state is saved every `save_every` steps, and a
    new Trainer resumes from it. So a run that was killed and resumed ends with exactly the weights
    of an uninterrupted one."""

    def __init__(self, model, loss, *, steps, lr, schedule=lambda step: 1.0, weight_decay=0.0,
                 optimizer="adastar", matrix_scale=1.0, micro_batch_size=None, run=None,
                 stage="fit", save_every=50, quiet=False, unit="tokens"):
        self.model, self.loss, self.steps, self.lr, self.schedule = model, loss, steps, lr, schedule
        self.micro_batch_size, self.run, self.stage = micro_batch_size, run, stage
        self.save_every, self.quiet, self.step, self.skipped = save_every, quiet, 0, 0
        if run and run.shard:
            distributed.shard(model)
        groups = parameter_groups(model, matrix_scale)
        self.optimizer = OPTIMIZERS[optimizer](groups, lr, weight_decay)
        if run:
            self.step = resume(run, stage, model, self.optimizer)
            run.truncate_log(stage, after=self.step)
        self.progress = Progress(stage, steps, unit)
        model.train()

    def seed(self):
        """Seed the random numbers of the current step: those of its batch and of its dropout."""
        seed_step(self.run.seed if self.run else 0, self.stage, self.step)

    def update(self, batch):
        """Take one step: gradient, update, log, save, in this order.

        batch: dict of tensors with a row per example. Raises UserError if the loss is not finite,
        or after 20 steps in a row whose gradients were too large."""
        batch = {name: x.to(self.model.embedding.device) for name, x in batch.items()}
        metrics = backward(self.model, batch, self.loss, self.micro_batch_size)
        if not math.isfinite(metrics["loss"]):
            raise UserError(f"{self.stage}: the loss of step {self.step + 1} is {metrics['loss']}, "
                            "not a finite number: try a lower learning rate")
        factor = self.schedule(self.step)
        norm = self.optimizer.step(factor)
        self.skipped = 0 if norm < AdaStar.SKIP_NORM else self.skipped + 1
        if self.skipped == 20:
            raise UserError(f"{self.stage}: 20 steps in a row were skipped, the last with a "
                            f"gradient norm of {norm:.0f}; norms must be below "
                            f"{AdaStar.SKIP_NORM:g}: scale the loss down")
        self.step += 1
        if not self.quiet:
            self.progress.update(self.step, metrics)
        if self.run:
            self.run.log(stage=self.stage, step=self.step, lr=self.lr * factor, norm=norm,
                         **metrics)
            if self.step % self.save_every == 0 or self.step == self.steps:
                save_state(self.run, self.stage, self.model, self.optimizer, self.step)


def fit(model, batches, loss, *, on_step=None, **settings):
    """Train a model for settings["steps"] steps. settings: see `Trainer`.

    batches: step -> batch. on_step: called with each step's number before its batch is drawn."""
    trainer = Trainer(model, loss, **settings)
    while trainer.step < trainer.steps:
        trainer.seed()
        if on_step:
            on_step(trainer.step)
        trainer.update(batches(trainer.step))
    model.eval()


def save_state(run, stage, model, optimizer, step):
    """Save what `resume` needs in the stage's partial checkpoint.

    If the model is sharded, the ranks first write their shards to a folder named after the step,
    and the checkpoint only records that step. So a kill in between leaves the older state valid."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if run.shard:
        files.save_sharded(state, run.shards(stage, step))
        state = {}
    save(run.partial_checkpoint(stage), step=step, sharded=run.shard, **run.provenance(stage),
         **state)
    run.remove_shards(stage, except_step=step)


def resume(run, stage, model, optimizer):
    """Load the saved state of an unfinished stage. Return the number of steps it has done.

    Return 0 if there is no state, or if it was saved with other settings or from other inputs."""
    path = run.partial_checkpoint(stage)
    if not path.exists():
        return 0
    saved = load(path, model.embedding.device)
    if any(saved.get(name) != value for name, value in run.provenance(stage).items()):
        print(f"{stage}: {path.name} was saved with other settings, inputs or code, so the stage "
              "starts again", flush=True)
        return 0
    if saved["sharded"] != run.shard:
        raise UserError(f"{path} was saved {'with' if saved['sharded'] else 'without'} --shard: "
                        "resume in the same way")
    state = saved
    if run.shard:  # `saved` has only the step; load_sharded overwrites the tensors of `state`
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        files.load_sharded(state, run.shards(stage, saved["step"]))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"{stage}: resuming after step {saved['step']}")
    return saved["step"]
