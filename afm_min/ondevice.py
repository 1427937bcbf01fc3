"""On device (the report's section 5): a quantized model, accuracy recovery, feature adapters.

    quantize              4 bits a weight, but 2 for projections where that costs least, until an
                          average is reached
    recovery              an adapter that recovers the accuracy lost
    math, tools, summary  features: adapters that start from the recovery adapter

From the report: the frozen quantized base, adapters on all projections, rank 16, and features that
start from the recovery adapter. Departures: the recovery adapter learns the float model's
probabilities on its own responses, while the report's trains on text and conversations once more;
no set of examples holds what alignment has taught. Features train on the toy world's solutions.
"""
import os
import random

import torch
from torch.nn import functional as F

from afm_min import chat, evaluate, lora, pretrain
from afm_min.data import corpus
from afm_min.lora import projections
from afm_min.model import load_model, save_model
from afm_min.quantize import Palettized, QuantizedAFM, keep_unpacked, quantize_model
from afm_min.run import UserError
from afm_min.trainer import fit, linear, seed_step
from afm_min.world.tasks import EVOLVED, draw_mixture

FEATURES = {"math": ["math", *EVOLVED], "tools": ["tools"], "summary": ["summary"]}


def token_kl(model, teacher, batch):
    """Return KL(teacher || model) of each token in the loss mask, (N,). batch: as from
    `chat.pack`."""
    with torch.no_grad():
        target = chat.response_logits(teacher, batch)[0].log_softmax(-1)  # (N, V)
    logits, wanted = chat.response_logits(model, batch)
    kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none").sum(-1)
    return kl[batch["loss_mask"][:, 1:][wanted] > 0]


# Which projections take how many bits.

def average_bits(model, bits):
    """Return the average bits of the projections' weights, without LUTs and the embedding."""
    counts = {name: layer.inputs * layer.outputs for name, layer in projections(model).items()}
    return sum(bits[name] * count for name, count in counts.items()) / sum(counts.values())


def allocate_bits(model, rises, average):
    """Return {projection: 4 or 2 bits} with at most the given average.

    rises: {projection: rise of the loss at 2 bits}; those that rise least per weight take 2 bits.
    Raises UserError if the average is below 2."""
    if average < 2:
        raise UserError(f"quantize.average={average}: weights take 2 or 4 bits; give 2 or more")
    layers = projections(model)
    bits = dict.fromkeys(layers, 4)
    for name in sorted(layers, key=lambda n: rises[n] / (layers[n].inputs * layers[n].outputs)):
        if average_bits(model, bits) <= average:
            break
        bits[name] = 2
    return bits


@torch.no_grad()
def sensitivity(model, batch):
    """Return {projection: rise of the mean KL from the float model}: 2 bits there and 4 elsewhere,
    compared with 4 everywhere."""
    batch = {name: x.to(model.embedding.device) for name, x in batch.items()}
    quantized, rises = quantize_model(model, dict.fromkeys(projections(model), 4)), {}
    kl = token_kl(quantized, model, batch).mean().item()
    for name, layer in projections(model).items():
        four, two = quantized.get_submodule(name), Palettized(layer.inputs, layer.outputs, 2)
        two.pack_weight(layer.weight)
        quantized.set_submodule(name, two)
        rises[name] = token_kl(quantized, model, batch).mean().item() - kl
        quantized.set_submodule(name, four)
    return rises


def new_tasks(run, name, count, family_names=None):
    """Return training tasks of the families named, or of all, in equal shares."""
    families, rng = corpus.toy_world(run) | EVOLVED, random.Random(f"{run.seed} {name}")
    shares = dict.fromkeys(family_names or families, 1)
    return [task for _, task in draw_mixture(families, shares, count, rng)]


def own_responses(run, model, prompts):
    """Return pairs (ids, loss_mask) of new prompts and a model's greedy responses to them."""
    conversations = [task.messages() for task in new_tasks(run, "own words", prompts)]
    return [chat.render_response(response.prompt, response.ids)
            for response in chat.generate_responses(model, conversations) if response.ids]


def sizes(run, stage, model):
    """Return the size of a quantized model's file, and bits per weight: of the file over all
    parameters, and of the projections' codes and LUTs over their weights, as the report counts."""
    layers, file_bytes = projections(model).values(), os.path.getsize(run.checkpoint(stage))
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    packed_bytes = sum(layer.codes.nbytes + layer.luts.nbytes for layer in layers)
    others = model.embedding.numel() + sum(p.numel() for p in model.parameters())  # the norms
    return {"KB": file_bytes / 1000, "bits per weight": 8 * file_bytes / (weights + others),
            "bits per projection weight": 8 * packed_bytes / weights}


def validate(run, model, count):
    """Return validation accuracies, and bits per byte of held-out text."""
    return evaluate.full_validation(run, model, count) | {
        "bits/byte": pretrain.held_out(model, run)["bits/byte"]}


# The stages.

def quantize(run, *, average=3.7, choice="sensitivity", calibration=256, start="committee2",
             count=50):
    """Quantize a model to an average number of bits. choice: which projections take 2 bits, by
    "sensitivity" on the model's responses to `calibration` prompts or, for comparison, "random"."""
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
        "mean % before": evaluate.full_validation(run, model, count)["mean %"],
        "average bits": average_bits(model, bits),
        "bits of projections": [[name, bits[name], rises[name]] for name in bits]}


def train_adapter(run, stage, model, adapter, conversations, loss, *, steps, batch_size, lr, count):
    """Train and save an adapter of a quantized model, on pairs (ids, loss_mask). Returns the size
    of its file, and the model's validation with the adapter as saved."""
    model.requires_grad_(False)
    lora.attach(model, adapter)
    with keep_unpacked(model):
        fit(model, chat.batches({stage: conversations}, {stage: 1.0}, batch_size), loss,
            steps=steps, lr=lr, schedule=linear(steps, 20), run=run, stage=stage)
    path = run.checkpoint(stage)
    lora.save_adapter(path, adapter, **run.provenance(stage))
    lora.use(model, lora.load_adapter(path, model).modules)  # in 16 bits, as a feature uses it
    return {"KB": os.path.getsize(path) / 1000} | validate(run, model, count)


def recovery(run, *, rank=16, prompts=4000, steps=300, batch_size=24, lr=0.004, start="committee2",
             count=50):
    """Train the accuracy-recovery adapter to predict what the float model predicts."""
    teacher, model = load_model(run, start), load_model(run, "quantize", QuantizedAFM)
    seed_step(run.seed, "recovery", 0)
    adapter = lora.create(model, rank)

    def loss(model, batch):
        kl = token_kl(model, teacher, batch)
        return {"loss": kl.sum(), "count": len(kl)}
    return train_adapter(run, "recovery", model, adapter, own_responses(run, teacher, prompts),
                         loss, steps=steps, batch_size=batch_size, lr=lr, count=count)


def feature(name, run, *, examples=2000, steps=200, batch_size=24, lr=0.002, count=50):
    """Train a feature's adapter: the recovery adapter, trained further on solved tasks."""
    model = load_model(run, "quantize", QuantizedAFM)
    adapter = lora.load_adapter(run.checkpoint("recovery"), model)
    tasks = new_tasks(run, name, examples, FEATURES[name])
    solved = [chat.example(name, task.messages(), task.solution) for task in tasks]
    return train_adapter(run, name, model, adapter, chat.render_examples(solved, model)[name],
                         chat.response_loss, steps=steps, batch_size=batch_size, lr=lr, count=count)
