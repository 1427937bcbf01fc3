"""One optimizer, one schedule, one loop. A training stage gives it batches and a loss."""
import collections
import math
import sys
import time
import zlib

import torch

from afm_min import distributed
from afm_min.run import UserError, load, save


class AdaStar(torch.optim.Optimizer):
    """RMSProp with momentum, as AXLearn's `adastar`: the optimizer that AFM was trained with.

    For each parameter tensor p with gradient g, at schedule factor s:
        if the norm of all gradients is 100 or more, nothing changes; else it is clipped to 1
        v <- 0.95 v + 0.05 (g^2 + 1e-30)        v^ = v / (1 - 0.95^t)
        u = g / sqrt(v^)                        u <- u / max(1, rms(u)), rms over the tensor
        m <- 0.95 m + 0.05 u                    no bias correction
        p <- p - s (lr scale m + decay p)       decay is not scaled by lr
    scale: muParam (simple), see `parameter_groups`."""
    SKIP_NORM, CLIP_NORM, MEMORY = 100.0, 1.0, 0.95

    def __init__(self, groups, lr, decay=0.0):
        super().__init__(groups, {"lr": lr, "decay": decay, "scale": 1.0})

    @torch.no_grad()
    def step(self, factor=1.0):
        """Update at schedule factor s; return the norm of all gradients before clipping."""
        trained = [(p, group) for group in self.param_groups for p in group["params"]
                   if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p, _ in trained]).item()
        if not norm < self.SKIP_NORM:  # so put, a norm that is NaN is skipped, too
            return norm
        clip = self.CLIP_NORM / max(norm, self.CLIP_NORM)
        for p, group in trained:
            state = self.state[p]
            if not state:
                state.update(t=0, v=torch.zeros_like(p), m=torch.zeros_like(p))
            state["t"] += 1
            g, v, m = p.grad * clip, state["v"], state["m"]
            v.lerp_(g.square().add_(1e-30), 1 - self.MEMORY)
            u = g / (v / (1 - self.MEMORY ** state["t"])).sqrt_()
            u /= (torch.linalg.vector_norm(u) / math.sqrt(u.numel())).clamp(min=1.0)
            m.lerp_(u, 1 - self.MEMORY)
            p.mul_(1 - factor * group["decay"])
            p.add_(m, alpha=-factor * group["lr"] * group["scale"])
        return norm


def parameter_groups(model):
    """muParam (simple): attention and feed-forward matrices take 768 / model dim of the learning
    rate in models wider than 768, so that a rate found on a small model holds for a large one."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.dim() == 2 and name != "embedding"]
    others = [p for name, p in trained if p.dim() != 2 or name == "embedding"]
    return [{"params": matrices, "scale": min(768 / model.config.dim, 1.0)}, {"params": others}]


def cosine(steps, warmup=0, floor=0.0):
    """Schedule: 1/warmup, 2/warmup, ..., 1, then half a cosine that is `floor` at the last step."""
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = (step + 1 - warmup) / (steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return factor


def linear(steps, warmup):
    """Schedule: 1, 1 - 1/steps, ..., 1/steps, and the first `warmup` of these times 1/warmup,
    2/warmup, ..., 1."""
    return lambda step: min((step + 1) / warmup, 1.0) * (1 - step / steps)


class Progress:
    """The line that tells how far a stage is: redrawn on a terminal, every 5 seconds in a log."""
    plain = False  # as in a log, on a terminal too

    def __init__(self, stage, steps, unit):
        self.stage, self.steps, self.unit, self.loss = stage, steps, unit, None
        self.begun = self.shown = time.perf_counter()
        self.done = self.count = 0  # steps and units since then
        self.live = sys.stdout.isatty() and not self.plain

    def update(self, step, loss, count):
        self.done, self.count = self.done + 1, self.count + count
        self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        now, last = time.perf_counter(), step == self.steps
        if now - self.shown < (0.1 if self.live else 5) and not last:
            return
        self.shown, seconds = now, now - self.begun
        left = round(seconds / self.done * (self.steps - step))
        line = (f"{self.stage:10} step {step:5}/{self.steps}  loss {self.loss:.3f}  "
                f"{self.count / seconds:7,.0f} {self.unit}/s  {left // 60}:{left % 60:02} left")
        if self.live:
            print(f"\r{line:79}", end="\n" if last else "", flush=True)
        else:
            print(line, flush=True)


def seed_step(seed, stage, step):
    """Seed all of a step's randomness: it comes out the same whatever ran before it."""
    torch.manual_seed(zlib.crc32(f"{seed} {stage} {step}".encode()))


def backward(model, batch, loss, micro_batch=None):
    """Leave in .grad the gradient of the batch's mean loss; return the mean of all metrics.

    loss(model, batch) returns sums: {"loss": tensor, "count": what to divide by, others to report}.
    Sums are added up and the division comes last. So nothing changes if the batch is cut into
    micro-batches, or if of several processes each takes every n-th row of these."""
    rows = len(next(iter(batch.values())))
    pieces = math.ceil(rows / (distributed.world_size() * (micro_batch or rows)))
    sums = collections.Counter()
    model.zero_grad(set_to_none=True)
    for i in range(pieces):
        piece = {name: t[i * len(t) // pieces:(i + 1) * len(t) // pieces]
                 for name, t in batch.items()}
        distributed.total_rows = len(next(iter(piece.values())))
        part = loss(model, {name: distributed.own_rows(t) for name, t in piece.items()})
        part["loss"].backward()
        sums.update({name: torch.as_tensor(x).item() for name, x in part.items()})
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    distributed.all_reduce_sum(gradients)
    parts = distributed.all_gather_object(sums)
    sums = {name: sum(part[name] for part in parts) for name in sums}
    count = sums.pop("count")
    for gradient in gradients:
        gradient /= count
    return {name: x / count for name, x in sums.items()} | {"count": count}


def fit(model, batches, loss, *, steps, lr, schedule=lambda step: 1.0, decay=0.0,
        micro_batch=None, run=None, stage="fit", save_every=50, quiet=False, unit="tokens"):
    """Train: seed, batch, gradient, update, log, save, in this order, `steps` times.

    batches: step -> dict of tensors with a row per example; rollouts of `model` itself in RL.
    loss: see `backward`; unit: of its count. schedule: step -> factor of the learning rate.
    With a run, the state is saved every `save_every` steps, and training goes on from what is
    saved: a run that was killed ends with the very weights of one that was not."""
    device, step = model.embedding.device, 0
    if run and run.shard:
        distributed.shard(model)
    optimizer = AdaStar(parameter_groups(model), lr, decay)
    if run:
        step = resume(run, stage, model, optimizer)
        run.forget(stage, after=step)
    progress, skipped = Progress(stage, steps, unit), 0
    model.train()
    while step < steps:
        seed_step(run.seed if run else 0, stage, step)
        batch = {name: tensor.to(device) for name, tensor in batches(step).items()}
        metrics = backward(model, batch, loss, micro_batch)
        if not math.isfinite(metrics["loss"]):
            raise UserError(f"{stage}: the loss of step {step + 1} is {metrics['loss']}: a lower "
                            "learning rate may help")
        factor = schedule(step)
        norm = optimizer.step(factor)
        skipped = 0 if norm < optimizer.SKIP_NORM else skipped + 1
        if skipped == 20:
            raise UserError(f"{stage}: 20 steps in a row were skipped, as their gradients had "
                            f"norms of {optimizer.SKIP_NORM:g} or more, lastly {norm:.0f}: it "
                            "learns nothing; scale its loss down")
        step += 1
        if not quiet:
            progress.update(step, metrics["loss"], metrics["count"])
        if run:
            run.log(stage=stage, step=step, lr=lr * factor, norm=norm, **metrics)
            if step % save_every == 0 or step == steps:
                save_state(run, stage, model, optimizer, step)
    model.eval()


def save_state(run, stage, model, optimizer, step):
    """Save what to go on from. Of a sharded model each process has a file with its share, which
    counts as soon as the one that all read names its step: a kill leaves no mixture of two."""
    state = {"model": distributed.local_state_dict(model.state_dict()),
             "optimizer": distributed.local_state_dict(optimizer.state_dict())}
    if run.shard:
        save(run.share(stage, step), each=True, **state)
        state = {}
    save(run.partial(stage), step=step, shares=run.share_count(), **run.origin(stage), **state)
    for path in run.path.glob(run.share(stage, "*").name):
        if path != run.share(stage, step):  # of an earlier step, or one that a kill came before
            path.unlink()


def resume(run, stage, model, optimizer):
    """Put in what a stage that was cut off has saved; return how many steps were done: 0 if there
    is nothing, or if it began otherwise, with other settings or from another model."""
    path, device = run.partial(stage), model.embedding.device
    saved = load(path, device) if path.exists() else {}
    if any(saved.get(name) != value for name, value in run.origin(stage).items()):
        return 0
    if saved.get("shares", 0) != run.share_count():
        way = f"by {saved['shares']} processes with" if saved["shares"] else "without"
        raise UserError(f"{path} was saved {way} --shard: go on so, or delete it to begin anew")
    if run.shard:
        saved |= load(run.share(stage, saved["step"]), device)
    for name, x in distributed.local_state_dict(model.state_dict()).items():
        x.copy_(saved["model"][name])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, state in saved["optimizer"]["state"].items():
        state.update({m: distributed.shard_like(parameters[i], state[m]) for m in ("v", "m")})
    optimizer.load_state_dict(saved["optimizer"])
    print(f"{stage}: going on from step {saved['step']}")
    return saved["step"]
