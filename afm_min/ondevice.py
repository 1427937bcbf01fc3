"""On device (the report's section 5): a packed model, what recovers its accuracy, and its features.

    quantize              4 bits a weight; 2 where it matters least, until an average is met
    recovery              an adapter that makes up for what was lost
    math, tools, summary  features: adapters that start from it, one of which is attached at a time

Kept from the report: the frozen packed base, adapters on all projections, rank 16, and features
that start from the recovery adapter. The report's recovery trains on text and conversations once
more; here it learns to say what the float model says, with the same probabilities, because what
alignment has taught is in no set of examples, and because the toy, tuned on conversations, has
forgotten documents: a quarter of these among the batches cost it 4 to 7 points.
"""
import os
import random

import torch
from torch.nn import functional as F

from afm_min import chat, evaluate, lora, pretrain
from afm_min.world.tasks import EVOLVED, draw_mixture
from afm_min.trainer import fit, linear, seed_step
from afm_min.lora import projections
from afm_min.model import load_model, save_model
from afm_min.quantize import Palettized, keep_unpacked, load_quantized, quantized
from afm_min.run import UserError

FEATURES = {"math": ["math", *EVOLVED], "tools": ["tools"], "summary": ["summary"]}


def divergence(model, teacher, batch):
    """KL(teacher || model) of the tokens that have weight, (N,). batch: see `chat.said_logits`."""
    with torch.no_grad():
        target = chat.said_logits(teacher, batch)[0].log_softmax(-1)  # (N, V)
    logits, said = chat.said_logits(model, batch)
    kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none").sum(-1)
    return kl[batch["weight"][:, 1:][said] > 0]


def average_bits(model, bits):
    """Of the projections' weights, without tables and without the embedding."""
    counts = {name: layer.inputs * layer.outputs for name, layer in projections(model).items()}
    return sum(bits[name] * count for name, count in counts.items()) / sum(counts.values())


def mixed(model, rises, average):
    """Name of each projection -> 2 bits or 4, so that they have `average` or less together: those
    whose loss rises least for each weight come first. rises: name -> rise of the loss. Raises
    UserError if the average is less than 2."""
    if average < 2:
        raise UserError(f"quantize.average={average}: weights take 2 or 4 bits, so give 2 or more")
    layers = projections(model)
    bits = dict.fromkeys(layers, 4)
    for name in sorted(layers, key=lambda n: rises[n] / (layers[n].inputs * layers[n].outputs)):
        if average_bits(model, bits) <= average:
            break
        bits[name] = 2
    return bits


@torch.no_grad()
def sensitivity(model, batch):
    """Name of each projection -> how far 2 bits there, and 4 elsewhere, take the packed model away
    from the float one, beyond 4 bits everywhere: in mean divergence over a batch."""
    batch = {name: x.to(model.embedding.device) for name, x in batch.items()}
    packed, rises = quantized(model, dict.fromkeys(projections(model), 4)), {}
    least = divergence(packed, model, batch).mean().item()
    for name, layer in projections(model).items():
        four, two = packed.get_submodule(name), Palettized(layer.inputs, layer.outputs, 2)
        two.fill(layer.weight)
        packed.set_submodule(name, two)
        rises[name] = divergence(packed, model, batch).mean().item() - least
        packed.set_submodule(name, four)
    return rises


def drawn(run, name, count, of=None):
    """New tasks, of all families alike or of those named."""
    families, rng = chat.toy_world(run) | EVOLVED, random.Random(f"{run.seed} {name}")
    pairs = draw_mixture(families, dict.fromkeys(of or families, 1), count, rng)
    return [task for _, task in pairs]


def own_words(run, model, prompts):
    """Conversations, as pairs (ids, weights): new prompts, and what a model answers to each,
    greedily."""
    asked = [task.messages() for task in drawn(run, "own words", prompts)]
    said = evaluate.replies(model, asked)
    return evaluate.with_prompts(reply for reply in said if reply.ids)  # none: it has no room


def sizes(run, stage, model):
    """Bytes of a packed model's file, and bits per weight: of the file over all parameters, and of
    the projections' codes and tables over their weights, which is what the report speaks of."""
    layers, size = projections(model).values(), os.path.getsize(run.checkpoint(stage))
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    packed = sum(layer.codes.nbytes + layer.tables.nbytes for layer in layers)
    others = sum(map(torch.numel, (model.embedding, *model.parameters())))  # those of the norms
    return {"KB": size / 1000, "bits per weight": 8 * size / (weights + others),
            "bits per projection weight": 8 * packed / weights}


def measured(run, model, count):
    """How much of the validation tasks a model gets right, and its bits per byte of text."""
    return evaluate.full_validation(run, model, count) | {
        "bits/byte": pretrain.held_out(model, run)["bits/byte"]}


def quantize(run, *, average=3.7, choice="sensitivity", calibration=256, start="committee2",
             count=50):
    """Pack a model. choice: which projections take 2 bits, by "sensitivity" on the model's answers
    to `calibration` prompts, or at "random", to compare with."""
    model = load_model(run, start)
    if choice == "random":
        rises = {name: random.Random(f"{run.seed} {name}").random() for name in projections(model)}
    elif choice == "sensitivity":
        rises = sensitivity(model, chat.pack(own_words(run, model, calibration)))
    else:
        raise UserError(f"quantize.choice={choice}: it is sensitivity or random")
    bits = mixed(model, rises, average)
    packed = quantized(model, bits)
    save_model(run, "quantize", packed, bits=packed.bits)
    return sizes(run, "quantize", packed) | measured(run, packed, count) | {
        "mean % before": evaluate.full_validation(run, model, count)["mean %"],
        "average bits": average_bits(model, bits),
        "bits of projections": [[name, bits[name], rises[name]] for name in bits]}


def train_adapter(run, stage, model, adapter, pairs, batch, loss, steps, lr, count):
    """Train an adapter of a packed model, and nothing else, on conversations, as pairs (ids,
    weights), `batch` a step. Returns the bytes of its file, and what is `measured` of the model
    with what is in it."""
    model.requires_grad_(False)
    lora.attach(model, adapter)
    with keep_unpacked(model):
        fit(model, chat.batches({stage: pairs}, {stage: 1.0}, batch), loss, steps=steps, lr=lr,
            schedule=linear(steps, 20), run=run, stage=stage)
    path = run.checkpoint(stage)
    lora.save_adapter(path, adapter, **run.origin(stage))
    lora.use(model, lora.load_adapter(path, model).terms)  # in 16 bits, as a feature uses it
    return {"KB": os.path.getsize(path) / 1000} | measured(run, model, count)


def recovery(run, *, rank=16, prompts=4000, steps=300, batch=24, lr=0.004, start="committee2",
             count=50):
    """Recover accuracy: an adapter learns to say what the float model says."""
    teacher, model = load_model(run, start), load_quantized(run, "quantize")
    seed_step(run.seed, "recovery", 0)
    adapter = lora.create(model, rank)

    def loss(model, batch):
        losses = divergence(model, teacher, batch)
        return {"loss": losses.sum(), "count": len(losses)}
    return train_adapter(run, "recovery", model, adapter, own_words(run, teacher, prompts), batch,
                         loss, steps, lr, count)


def feature(name, run, *, examples=2000, steps=200, batch=24, lr=0.002, count=50):
    """A feature's adapter: the recovery adapter, trained on with worked examples of the feature."""
    model = load_quantized(run, "quantize")
    adapter = lora.load_adapter(run.checkpoint("recovery"), model)
    worked = (chat.example(name, task.messages(), task.solution)
              for task in drawn(run, name, examples, FEATURES[name]))
    return train_adapter(run, name, model, adapter, chat.by_source(worked, model)[name], batch,
                         chat.response_loss, steps, lr, count)
