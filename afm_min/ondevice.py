"""On device (the report's section 5): a quantized model, accuracy recovery, feature adapters.

    quantize              4 bits per weight; the least sensitive projections take 2, until the
                          average is low enough
    recovery              an adapter that recovers the accuracy lost
    math, tools, summary  features: adapters that start from the recovery adapter

From the report: the frozen quantized base, adapters on all projections, rank 16, and features that
start from the recovery adapter.

Departures: the report trains the recovery adapter on pre- and post-training data once more. Here it
learns the float model's probabilities on the float model's own responses, as no data set contains
what the model learned in alignment. Features train on the toy world's solutions.

Shapes: N positions whose next token is in the loss mask; V vocabulary.
"""
import os
import random

import torch
from torch.nn import functional as F

from afm_min import chat, evaluate, lora, pretrain
from afm_min.lora import projections
from afm_min.model import load_model, save_model
from afm_min.quantize import Palettized, QuantizedAFM, keep_unpacked, quantize_model
from afm_min.run import UserError
from afm_min.trainer import fit, linear, seed_step
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, draw_mixture

FEATURES = {"math": ["math", *EVOLVED], "tools": ["tools"], "summary": ["summary"]}


def token_kl(model, teacher, batch):
    """Return KL(teacher || model) of each token in the loss mask, 1-D. batch: as from
    `chat.pack`."""
    with torch.no_grad():
        target = chat.response_logits(teacher, batch)[0].log_softmax(-1)  # (N, V)
    logits, wanted = chat.response_logits(model, batch)
    kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none").sum(-1)  # (N,)
    return kl[batch["loss_mask"][:, 1:][wanted] > 0]


# Which projections take how many bits.

def average_bits(model, bits):
    """Return the average bits of the projections' weights, without LUTs and the embedding."""
    counts = {name: layer.inputs * layer.outputs for name, layer in projections(model).items()}
    return sum(bits[name] * count for name, count in counts.items()) / sum(counts.values())


def allocate_bits(model, sensitivities, average):
    """Return {projection: 4 or 2 bits} with at most the given average.

    sensitivities: {projection: increase of the loss if it takes 2 bits}. The projections with the
    least increase per weight take 2 bits. Raises UserError if the average is below 2."""
    if average < 2:
        raise UserError(f"quantize.average={average}: weights take 2 or 4 bits; give 2 or more")
    weights = {name: layer.inputs * layer.outputs for name, layer in projections(model).items()}
    bits = dict.fromkeys(weights, 4)
    for name in sorted(weights, key=lambda name: sensitivities[name] / weights[name]):
        if average_bits(model, bits) <= average:
            break
        bits[name] = 2
    return bits


@torch.no_grad()
def sensitivity(model, batch):
    """Return {projection: how much KL(float || quantized) rises if only this projection takes 2
    bits instead of 4}."""
    batch = {name: x.to(model.embedding.device) for name, x in batch.items()}
    quantized = quantize_model(model, dict.fromkeys(projections(model), 4))
    kl = token_kl(quantized, model, batch).mean().item()
    increases = {}
    for name, layer in projections(model).items():
        layer_4, layer_2 = quantized.get_submodule(name), Palettized(layer.inputs, layer.outputs, 2)
        layer_2.pack_weight(layer.weight)
        quantized.set_submodule(name, layer_2)
        increases[name] = token_kl(quantized, model, batch).mean().item() - kl
        quantized.set_submodule(name, layer_4)
    return increases


def new_tasks(run, name, count, family_names=None):
    """Return `count` random training tasks of the families named, or of all, in equal shares. The
    draw is seeded by the run's seed and `name`."""
    families = all_families() | EVOLVED
    mixture = dict.fromkeys(family_names or families, 1)
    rng = random.Random(f"{run.seed} {name}")
    return [task for _, task in draw_mixture(families, mixture, count, rng)]


def own_responses(run, model, prompts):
    """Return pairs (ids, loss_mask) of a model's greedy responses to new prompts."""
    conversations = [task.messages() for task in new_tasks(run, "own words", prompts)]
    # A response is empty if its prompt does not fit the context.
    return [chat.render_response(response.prompt, response.ids)
            for response in chat.generate_responses(model, conversations) if response.ids]


def sizes(run, stage, model):
    """Return the size of a quantized model's file, and bits per weight counted in two ways.

    The first divides the file by all parameters. The second divides the codes and LUTs of the
    projections by the projections' weights, as the report does."""
    file_bytes = os.path.getsize(run.checkpoint(stage))
    layers = projections(model).values()
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    packed_bytes = sum(layer.codes.nbytes + layer.luts.nbytes for layer in layers)
    # Codes and the embedding are buffers, so parameters() are the norms alone.
    others = model.embedding.numel() + sum(p.numel() for p in model.parameters())
    return {"KB": file_bytes / 1000, "bits per weight": 8 * file_bytes / (weights + others),
            "bits per projection weight": 8 * packed_bytes / weights}


def validate(run, model, count):
    """Return validation accuracies, and bits per byte of held-out text."""
    return evaluate.validation(model, count) | {
        "bits/byte": pretrain.held_out(model, run)["bits/byte"]}


# The stages.

def quantize(run, *, average=3.7, choice="sensitivity", calibration=256, start="committee2",
             count=50):
    """Quantize the model of the stage `start` to an average number of bits.

    choice: how to choose the projections that take 2 bits: by "sensitivity", measured on the
    model's responses to `calibration` prompts, or at "random", for comparison."""
    model = load_model(run, start)
    if choice == "random":
        rises = {name: random.Random(f"{run.seed} {name}").random() for name in projections(model)}
    elif choice == "sensitivity":
        rises = sensitivity(model, chat.pack(own_responses(run, model, calibration)))
    else:
        raise UserError(f"quantize.choice={choice}: choose sensitivity or random")
    bits = allocate_bits(model, rises, average)
    quantized = quantize_model(model, bits)
    save_model(run, "quantize", quantized, bits=bits)
    return sizes(run, "quantize", quantized) | validate(run, quantized, count) | {
        "mean % before": evaluate.validation(model, count)["mean %"],
        "average bits": average_bits(model, bits),
        "bits of projections": [[name, bits[name], rises[name]] for name in bits]}


def train_adapter(run, stage, model, adapter, conversations, loss, *, steps, batch_size, lr, count):
    """Train and save an adapter of a quantized model, on pairs (ids, loss_mask).

    loss: see `trainer.backward`. Returns the size of the adapter's file, and the validation of the
    model with the adapter as saved."""
    model.requires_grad_(False)
    lora.attach(model, adapter)
    with keep_unpacked(model):
        fit(model, chat.batches({stage: conversations}, {stage: 1.0}, batch_size), loss,
            steps=steps, lr=lr, schedule=linear(steps, warmup=20), run=run, stage=stage)
    path = run.checkpoint(stage)
    lora.save_adapter(path, adapter, **run.provenance(stage))
    lora.use(model, lora.load_adapter(path, model).modules)  # as saved, in 16 bits
    return {"KB": os.path.getsize(path) / 1000} | validate(run, model, count)


def recovery(run, *, rank=16, prompts=4000, steps=300, batch_size=24, lr=0.004, start="committee2",
             count=50):
    """Train the accuracy-recovery adapter to give the probabilities of the float model."""
    teacher, model = load_model(run, start), load_model(run, "quantize", QuantizedAFM)
    seed_step(run.seed, "recovery", 0)
    adapter = lora.create(model, rank)

    def loss(model, batch):
        kl = token_kl(model, teacher, batch)
        return {"loss": kl.sum(), "count": len(kl)}
    return train_adapter(run, "recovery", model, adapter, own_responses(run, teacher, prompts),
                         loss, steps=steps, batch_size=batch_size, lr=lr, count=count)


def feature(name, run, *, start="recovery", rank=16, examples=2000, steps=200, batch_size=24,
            lr=0.002, count=50):
    """Train a feature's adapter on tasks with solutions, on the packed model. It continues from the
    recovery adapter.

    start: the stage of a model of floats, to compare what post-training has given it. Then a new
    adapter of this rank is trained on that model instead."""
    if start == "recovery":
        model = load_model(run, "quantize", QuantizedAFM)
        adapter = lora.load_adapter(run.checkpoint("recovery"), model)
    else:
        model = load_model(run, start)
        seed_step(run.seed, name, -1)
        adapter = lora.create(model, rank)
    tasks = new_tasks(run, name, examples, FEATURES[name])
    solutions = [chat.example(name, task.messages(), task.solution) for task in tasks]
    return train_adapter(run, name, model, adapter, chat.render_examples(solutions, model)[name],
                         chat.response_loss, steps=steps, batch_size=batch_size, lr=lr, count=count)
