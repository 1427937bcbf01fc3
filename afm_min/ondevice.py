"""On device (the report's section 5): a quantized model, accuracy recovery, feature adapters.

    quantize              store the groups of weights that matter most in 4 bits, others in 2
    recovery              train an adapter that recovers the accuracy lost
    math, tools, summary  train a feature: an adapter that starts from the recovery adapter

From the report: the frozen quantized base, adapters on all projections, rank 16, and features that
start from the recovery adapter.

Departures: by default, the recovery adapter learns the float model's probabilities on the float
model's own responses, as no data set contains what the model learned in alignment. The report
trains it on pre- and post-training data once more, which is the setting recipe="text" here.
Features train on the toy world's solutions.

Shapes: N positions as in `chat.response_logits`; V vocabulary.
"""
import os
import random

import torch
from torch.nn import functional as F

from afm_min import chat, evaluate, lora, pretrain, respond
from afm_min.data import corpus
from afm_min.lora import projections
from afm_min.model import load_model, save_model
from afm_min.quantize import GROUP, QuantizedAFM, group_columns, keep_unpacked, quantize_model
from afm_min.run import UserError
from afm_min.trainer import fit, linear, seed_step
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, draw_mixture

ALIGNED = "best2"  # the stage whose model is quantized
FEATURES = {"math": ["math", *EVOLVED], "tools": ["tools"], "summary": ["summary"]}


@torch.no_grad()
def token_log_probabilities(model, batch):
    """Return log-probabilities over the vocabulary, (N, V). batch: as from `chat.pack`."""
    return chat.response_logits(model, batch)[0].log_softmax(-1)


def token_kl(model, target, batch):
    """Return KL(target || model) of each token in the loss mask, one-dimensional.

    target: `token_log_probabilities` of another model for the same batch."""
    logits, wanted = chat.response_logits(model, batch)
    kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none").sum(-1)  # (N,)
    return kl[batch["loss_mask"][:, 1:][wanted] > 0]  # without those that chat.round_mask adds


# Choosing the bits of each group of columns.

def group_sizes(model):
    """Return {projection: [number of weights in each group of columns]}."""
    return {name: [layer.outputs * columns for columns in group_columns(layer.inputs)]
            for name, layer in projections(model).items()}


def average_bits(sizes, bits):
    """Return the average bits of the weights in `sizes`, without their LUTs.

    sizes: see `group_sizes`. bits: {projection: [bits of each group]}"""
    total = sum(width * size for name in sizes for width, size in zip(bits[name], sizes[name]))
    return total / sum(map(sum, sizes.values()))


def allocate_bits(sizes, sensitivities, average):
    """Return {projection: [4 or 2 bits for each group]} with at most the given average.

    sizes: see `group_sizes`. sensitivities: {projection: [increase of the loss if the group takes
    2 bits, for each group]}. Groups take 4 bits in the order of the increase per weight, largest
    first. A group that would exceed the average is passed over: a smaller one may still fit.

    Raises UserError if the average is below 2."""
    if average < 2:
        raise UserError(f"quantize.average={average}: weights take 2 or 4 bits; give 2 or more")
    groups = [(sensitivities[name][i] / size, name, i)
              for name in sizes for i, size in enumerate(sizes[name])]
    bits = {name: [2] * len(sizes[name]) for name in sizes}
    spare = (average - 2) * sum(map(sum, sizes.values()))  # bits above 2 that may still be used
    for _, name, i in sorted(groups, reverse=True):
        if 2 * sizes[name][i] <= spare:
            bits[name][i] = 4
            spare -= 2 * sizes[name][i]
    return bits


@torch.no_grad()
def sensitivity(model, batch):
    """Return {projection: [rise of KL(float || quantized) if the group takes 2 bits instead of 4,
    for each group]}.

    The rise is measured for a projection as a whole, and divided among its groups in proportion to
    their squared errors in 2 bits. Measuring each group takes longer, and chose worse groups."""
    batch = {name: x.to(model.embedding.device) for name, x in batch.items()}
    target = token_log_probabilities(model, batch)
    in_4_bits, in_2_bits = (quantize_model(model, dict.fromkeys(projections(model), width))
                            for width in (4, 2))
    kl = token_kl(in_4_bits, target, batch).mean().item()
    rises = {}
    for name, layer in projections(model).items():
        layer_4, layer_2 = in_4_bits.get_submodule(name), in_2_bits.get_submodule(name)
        in_4_bits.set_submodule(name, layer_2)
        rise = token_kl(in_4_bits, target, batch).mean().item() - kl
        in_4_bits.set_submodule(name, layer_4)
        errors = (layer_2.weight - layer.weight).square().sum(0)  # (inputs,)
        errors = torch.stack([group.sum() for group in errors.split(GROUP)])
        rises[name] = (rise * errors / errors.sum().clamp(min=1e-12)).tolist()
    return rises


def new_tasks(run, name, count, family_names=None, whole=False):
    """Return `count` random training tasks. Each is of a random one of the families named, or of
    all.

    whole: tasks of Tools have all their calls, to train on. The random numbers depend on the run's
    seed, `name` and `count`."""
    families = all_families(whole) | EVOLVED
    mixture = dict.fromkeys(family_names or families, 1)
    rng = random.Random(f"{run.seed} {name}")
    return [task for _, task in draw_mixture(families, mixture, count, rng)]


def own_responses(run, model, prompts):
    """Return pairs (ids, loss_mask) of a model's greedy responses to `prompts` training tasks."""
    conversations = [task.messages() for task in new_tasks(run, "own words", prompts)]
    # A response is empty if its prompt does not fit the context.
    answered = [response for response in respond.generate_responses(model, conversations)
                if response.ids]
    if not answered:
        raise UserError(f"none of {prompts} prompts fits the model's context of "
                        f"{model.config.context} tokens: ask for more prompts")
    return [chat.render_response(response.prompt, response.ids, model.tokenizer)
            for response in answered]


def training_data(run, model):
    """Return pairs (ids, loss_mask) for the recipe "text": all demonstrations and synthetic
    examples, and one row of pre-training text, as long as about eight examples, for eight of
    these."""
    examples = sum(chat.read_examples(run, model).values(), [])
    text = pretrain.text_batches(run, model, corpus.CONTINUED, len(examples) // 8)(0)["ids"]
    return examples + [(ids, torch.ones(len(ids))) for ids in text]


def packed_sizes(run, stage, model):
    """Return the size of a quantized model's file, and its bits per weight, counted in two ways.

    "bits per weight" divides the whole file by all parameters. "bits per projection weight"
    divides the projections' codes and LUTs by the projections' weights, as the report does."""
    file_bytes = os.path.getsize(run.checkpoint(stage))
    layers = projections(model).values()
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    # The buffers of a projection are its codes and LUTs.
    packed_bytes = sum(x.nbytes for layer in layers for x in layer.buffers())
    # Codes and the embedding are buffers, so parameters() are the norms alone.
    others = model.embedding.numel() + sum(p.numel() for p in model.parameters())
    return {"KB": file_bytes / 1000, "bits per weight": 8 * file_bytes / (weights + others),
            "bits per projection weight": 8 * packed_bytes / weights}


def validate(run, model, count):
    """Return validation accuracies, and bits per byte of held-out text."""
    return evaluate.validation(model, count) | {
        "bits/byte": pretrain.held_out(model, run)["bits/byte"]}


# The stages.

def quantize(run, *, average=3.7, choice="sensitivity", calibration=256, start=ALIGNED, count=100):
    """Quantize the model of the stage `start` to an average number of bits.

    choice: choose the groups of columns that take 4 bits by "sensitivity", measured on the model's
    responses to `calibration` prompts, or, for comparison, at "random"."""
    model = load_model(run, start)
    sizes = group_sizes(model)
    if choice == "random":
        rng = random.Random(f"{run.seed} quantize")
        rises = {name: [rng.random() for _ in sizes[name]] for name in sizes}
    else:
        rises = sensitivity(model, chat.pack(own_responses(run, model, calibration)))
    bits = allocate_bits(sizes, rises, average)
    quantized = quantize_model(model, bits)
    save_model(run, "quantize", quantized, bits=bits)
    return packed_sizes(run, "quantize", quantized) | validate(run, quantized, count) | {
        "mean % before": evaluate.validation(model, count)["mean %"],
        "average bits": average_bits(sizes, bits),
        "bits of projections": [[name, average_bits({name: sizes[name]}, bits), sum(rises[name])]
                                for name in bits]}


def train_adapter(run, stage, model, adapter, conversations, loss, *, steps, batch_size, lr, count):
    """Train an adapter of a frozen model on pairs (ids, loss_mask), and save it.

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


def recovery(run, *, recipe="imitate", rank=16, prompts=4000, steps=300, batch_size=24, lr=0.004,
             start=ALIGNED, count=100):
    """Train the accuracy-recovery adapter on the frozen quantized model.

    recipe: "imitate": learn the probabilities of the float model, that of the stage `start`, on its
    own responses; or, as in the report, "text": train on pre- and post-training data again.
    start: should be the stage that was quantized, quantize.start."""
    model = load_model(run, "quantize", QuantizedAFM)
    seed_step(run.seed, "recovery", -1)
    adapter = lora.create(model, rank)
    if recipe == "imitate":
        teacher = load_model(run, start)
        conversations = own_responses(run, teacher, prompts)

        def loss(model, batch):
            kl = token_kl(model, token_log_probabilities(teacher, batch), batch)
            return {"loss": kl.sum(), "count": len(kl)}
    else:
        conversations, loss = training_data(run, model), chat.response_loss
    return train_adapter(run, "recovery", model, adapter, conversations, loss, steps=steps,
                         batch_size=batch_size, lr=lr, count=count)


def feature(name, run, *, start="recovery", rank=16, examples=4000, steps=200, batch_size=24,
            lr=0.004, count=100):
    """Train a feature's adapter for the quantized model, starting from the recovery adapter.

    It learns the solutions of training tasks.
    start: "recovery", whose adapter determines the rank. Or, for comparison, a stage with a float
    model: then a new adapter is trained for that model. Only this one has the rank `rank`."""
    if start == "recovery":
        model = load_model(run, "quantize", QuantizedAFM)
        adapter = lora.load_adapter(run.checkpoint("recovery"), model)
    else:
        model = load_model(run, start)
        seed_step(run.seed, name, -1)
        adapter = lora.create(model, rank)
    tasks = new_tasks(run, name, examples, FEATURES[name], whole=True)
    solutions = [chat.example(name, task.messages(), task.solution) for task in tasks]
    return train_adapter(run, name, model, adapter, chat.render_examples(solutions, model)[name],
                         chat.response_loss, steps=steps, batch_size=batch_size, lr=lr, count=count)
