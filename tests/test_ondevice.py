"""Bit allocation, accuracy recovery and feature adapters of the quantized model."""
import copy
import random
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, lora, ondevice, respond
from afm_min.model import AFM, load_model
from afm_min.quantize import GROUP, QuantizedAFM, quantize_model
from afm_min.run import Run, UserError
from afm_min.tokenizer import Tokenizer
from tests.test_chat import Letters, question
from tests.test_lora import parameters
from tests.test_quantize import TINY, make_pair


@pytest.fixture(scope="module")
def quantized_once():
    return make_pair()


@pytest.fixture
def pair(quantized_once):
    """A float model and its quantized copy, which a test may change."""
    return copy.deepcopy(quantized_once)


def packed_batch():
    """Return a batch with two conversations in one row and one in another."""
    return {"ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]),
            "loss_mask": torch.tensor([[0.0, 1, 0, 1], [0, 1, 1, 0]]),
            "segment_start": torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0]])}


# Losses and bits.

def test_token_kl_is_that_of_the_masked_tokens(pair):
    """KL(teacher || model) of the four tokens in the loss mask, each after its own text only."""
    model, quantized = pair
    prefixes = [[1], [3], [5], [5, 6]]
    with torch.no_grad():
        target = ondevice.token_log_probabilities(model, packed_batch())
        kl = ondevice.token_kl(quantized, target, packed_batch())
        p, q = (torch.stack([each(torch.tensor([prefix]))[0, -1] for prefix in prefixes])
                .log_softmax(-1) for each in (model, quantized))
        torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=1e-4)
        assert len(kl) == 4
        assert (kl > 0).all()
        assert ondevice.token_kl(model, target, packed_batch()).abs().max() < 1e-6


def test_group_sizes_by_hand():
    """16 columns of 32 or 16 outputs; of the 40 inputs of down, the last group has 8."""
    sizes = ondevice.group_sizes(AFM(TINY))
    assert len(sizes) == 14
    assert sizes["blocks.0.attention.query"] == [512, 512]
    assert sizes["blocks.1.attention.key"] == [256, 256]
    assert sizes["blocks.1.feed_forward.down"] == [512, 512, 256]


def test_average_bits_by_hand():
    """(4 * 100 + 2 * 300 + 2 * 100) / 500 = 2.4"""
    sizes = {"a": [100, 300], "b": [100]}
    assert ondevice.average_bits(sizes, {"a": [4, 2], "b": [2]}) == 2.4


@pytest.mark.parametrize("average, four_bits", [
    (2.0, []), (2.2, []), (2.5, ["a0"]), (3.1, ["a0", "b0"]), (3.5, ["a0", "b0", "b1"]),
    (4.0, ["a0", "a1", "b0", "b1"])])
def test_allocate_bits_by_hand(average, four_bits):
    """Increases per weight: a0 0.05, b0 0.02, a1 0.018, b1 0.001. There are 512 weights, so in the
    average a0 takes 128 * 2 / 512 = 0.5 bits, b0 the same, a1 0.75 and b1 0.25.

    At 3.5, 1.5 bits are spare. a0 and b0 take 1.0 of it. Of the 0.5 left, a1 would take too much,
    but b1 fits."""
    sizes = {"a": [128, 192], "b": [128, 64]}
    rises = {"a": [6.4, 3.456], "b": [2.56, 0.064]}
    bits = ondevice.allocate_bits(sizes, rises, average)
    assert [f"{name}{i}" for name in bits for i, width in enumerate(bits[name])
            if width == 4] == four_bits
    assert {width for widths in bits.values() for width in widths} <= {2, 4}


@pytest.mark.parametrize("average", [2.0, 2.5, 3.0, 3.5, 3.7, 4.0])
def test_the_average_is_met_within_the_smallest_group(average):
    """For any sensitivities, it is not exceeded, and no group that takes 2 bits would fit."""
    rng = random.Random(average)
    sizes = {name: rng.choices([256, 512, 640], k=9) for name in "abcde"}
    rises = {name: [rng.gauss(1, 1) for _ in sizes[name]] for name in sizes}
    bits = ondevice.allocate_bits(sizes, rises, average)
    total = sum(map(sum, sizes.values()))
    spare = (average - ondevice.average_bits(sizes, bits)) * total
    narrow = [size for name in sizes for size, width in zip(sizes[name], bits[name]) if width == 2]
    assert spare >= -1e-6
    assert all(2 * size > spare for size in narrow)


def test_an_average_below_2_is_an_error():
    with pytest.raises(UserError, match="give 2 or more"):
        ondevice.allocate_bits({"a": [16]}, {"a": [1.0]}, average=1.9)


def test_sensitivity_is_the_kl_that_2_bits_add_divided_by_squared_errors(pair):
    """A projection's sum equals the difference between two models quantized as a whole. Groups have
    shares of it like their errors in 2 bits."""
    model, _ = pair
    rises = ondevice.sensitivity(model, packed_batch())
    four = dict.fromkeys(lora.projections(model), 4)
    assert set(rises) == set(four)
    target = ondevice.token_log_probabilities(model, packed_batch())
    for name in ("blocks.0.attention.query", "blocks.0.feed_forward.down"):
        with torch.no_grad():
            with_2, with_4 = (
                ondevice.token_kl(quantize_model(model, bits), target, packed_batch()).mean().item()
                for bits in (four | {name: 2}, four))
            layer = quantize_model(model, dict.fromkeys(four, 2)).get_submodule(name)
            error = (layer.weight - model.get_submodule(name).weight) ** 2
        assert sum(rises[name]) == pytest.approx(with_2 - with_4)
        for i, rise in enumerate(rises[name]):
            share = error[:, GROUP * i:GROUP * (i + 1)].sum() / error.sum()
            assert rise == pytest.approx(share.item() * (with_2 - with_4), rel=1e-4)


def test_sizes_by_hand(pair, tmp_path):
    """A file of 5,000 bytes over all parameters; codes of 1 to 8 bits and LUTs of 16-bit values
    over the projections' weights."""
    run, (model, quantized) = Run(tmp_path), pair
    run.checkpoint("x").write_bytes(b"0" * 5000)
    sizes = ondevice.packed_sizes(run, "x", quantized)
    assert sizes["KB"] == 5
    all_parameters = sum(p.numel() for p in model.parameters())
    assert sizes["bits per weight"] == pytest.approx(8 * 5000 / all_parameters)
    stored = weights = 0
    for name, sizes_of_groups in ondevice.group_sizes(model).items():
        for size, width in zip(sizes_of_groups, quantized.bits[name]):
            stored += size * width / 8 + 2 * 2 ** width
            weights += size
    assert sizes["bits per projection weight"] == pytest.approx(8 * stored / weights)


# Examples.

def test_new_tasks_are_training_tasks_in_equal_shares(monkeypatch):
    """Of the families named, or of all and evolved mathematics. Run and name seed them."""
    monkeypatch.setattr(ondevice, "all_families", lambda whole: {"math": 1, "tools": whole})
    draws = []

    def draw_mixture(families, mixture, count, rng):
        draws.append((mixture, count, rng.random(), families["tools"]))
        return [(families["math"], "a task")] * count
    monkeypatch.setattr(ondevice, "draw_mixture", draw_mixture)
    run = SimpleNamespace(seed=7)
    assert ondevice.new_tasks(run, "tools", 3, ["tools"]) == ["a task"] * 3
    ondevice.new_tasks(run, "tools", 3, ["tools"])
    ondevice.new_tasks(run, "own words", 2)
    assert draws[0] == draws[1]
    assert draws[0][:2] == ({"tools": 1}, 3)
    assert draws[2][0] == dict.fromkeys(["math", "tools", *ondevice.EVOLVED], 1)
    assert draws[2][2] != draws[0][2]
    ondevice.new_tasks(run, "tools", 3, whole=True)
    assert [is_whole for *_, is_whole in draws] == [False, False, False, True]


def test_own_responses_need_one_prompt_that_fits(monkeypatch):
    monkeypatch.setattr(ondevice, "new_tasks", lambda run, name, count: [question("?")] * count)
    monkeypatch.setattr(respond, "generate_responses", lambda model, conversations: [
        respond.Response([1], [], "")] * len(conversations))
    model = SimpleNamespace(config=SimpleNamespace(context=8))
    with pytest.raises(UserError, match="none of 3 prompts fits the model's context of 8 tokens"):
        ondevice.own_responses(None, model, 3)


def test_own_responses_are_in_the_loss_mask_and_prompts_are_not(monkeypatch):
    """Empty responses, whose prompts do not fit, are left out."""
    task = SimpleNamespace(messages=lambda: "ab")
    monkeypatch.setattr(ondevice, "new_tasks", lambda run, name, count: [task] * count)
    monkeypatch.setattr(respond, "generate_responses", lambda model, conversations: [
        respond.Response(list(map(ord, messages)), ids, "")
        for messages, ids in zip(conversations, ([7, 0], []))])
    model = SimpleNamespace(tokenizer=Letters())
    (ids, loss_mask), = ondevice.own_responses(None, model, prompts=2)
    assert ids.tolist() == [97, 98, 7, 0]
    assert loss_mask.tolist() == [0, 0, 1, 1]


# The stages.

@pytest.fixture
def stage(pair, monkeypatch, tmp_path):
    """Runs the stages without training: `fit` adds 1 to the first trainable parameter and records
    its arguments in `trained`."""
    model, quantized = pair
    run, trained = Run(tmp_path), {}
    Tokenizer("ab", []).save(run.file("tokenizer.json"))

    def fit(model, batches, loss, **settings):
        parameters = [p for p in model.parameters() if p.requires_grad]
        parameters[0].data += 1
        trained.update(settings, model=model, loss=loss, batch=batches(0), parameters=parameters)
    monkeypatch.setattr(ondevice, "fit", fit)
    monkeypatch.setattr(ondevice, "load_model", lambda run, stage, kind=AFM: (
        quantized if kind is QuantizedAFM else model))
    monkeypatch.setattr(ondevice.evaluate, "validation",
                        lambda model, count: {"mean %": 40.0 + 10 * (type(model) is AFM)})
    monkeypatch.setattr(ondevice.pretrain, "held_out", lambda model, run: {"bits/byte": 2.0})
    monkeypatch.setattr(ondevice, "own_responses", lambda run, model, prompts: (
        [chat.render_response([1, 2], [3, 4], Letters())]))
    return SimpleNamespace(run=run, model=model, quantized=quantized, trained=trained)


@pytest.mark.parametrize("choice", ["sensitivity", "random"])
def test_quantize_saves_a_model_of_the_average_asked_for(stage, choice):
    """At an average of 3 bits some projections take 2 and some 4. The metrics are those of the
    quantized model, beside the mean of the float one."""
    metrics = ondevice.quantize(stage.run, average=3.0, choice=choice)
    saved = load_model(stage.run, "quantize", QuantizedAFM)
    assert {width for widths in saved.bits.values() for width in widths} == {2, 4}
    sizes = ondevice.group_sizes(stage.model)
    assert metrics["average bits"] == ondevice.average_bits(sizes, saved.bits)
    assert 2.95 < metrics["average bits"] <= 3
    weights = {name: sum(sizes[name]) for name in sizes}
    average = sum(bits * weights[name] for name, bits, _ in metrics["bits of projections"])
    assert average / sum(weights.values()) == pytest.approx(metrics["average bits"])
    assert metrics["mean %"] == 40
    assert metrics["mean % before"] == 50
    assert metrics["bits/byte"] == 2
    assert metrics["KB"] == stage.run.checkpoint("quantize").stat().st_size / 1000


def test_recovery_trains_only_an_adapter_towards_the_float_model(stage):
    """The loss is the KL from the float model, with all 14 projections adapted and the base
    frozen."""
    metrics = ondevice.recovery(stage.run, rank=2, steps=3)
    assert len(stage.trained["parameters"]) == 2 * 14
    base = [p for name, p in stage.quantized.named_parameters() if "adapter" not in name]
    assert not any(p.requires_grad for p in base)
    assert stage.trained["stage"] == "recovery"
    assert metrics["KB"] == stage.run.checkpoint("recovery").stat().st_size / 1000
    lora.use(stage.quantized, {})
    with torch.no_grad():
        target = ondevice.token_log_probabilities(stage.model, stage.trained["batch"])
        kl = ondevice.token_kl(stage.quantized, target, stage.trained["batch"])
        sums = stage.trained["loss"](stage.quantized, stage.trained["batch"])
    assert sums["loss"].item() == pytest.approx(kl.sum().item())
    assert sums["count"] == len(kl) > 0


def test_the_recipe_text_repeats_pre_and_post_training(stage, monkeypatch):
    """Demonstrations and synthetic examples, and a row of text for eight of them, all of whose
    tokens count, with the losses of pre-training and fine-tuning."""
    examples = {"math": [chat.render_response([1], [2], Letters())] * 9,
                "tools": [chat.render_response([3], [4], Letters())] * 7}
    monkeypatch.setattr(chat, "read_examples", lambda run, model: examples)
    monkeypatch.setattr(ondevice.pretrain, "text_batches", lambda run, model, mixture, rows: (
        lambda step: {"ids": torch.full((rows, 5), 6)}))
    data = ondevice.training_data(stage.run, stage.quantized)
    assert [ids.tolist() for ids, _ in data] == [[1, 2]] * 9 + [[3, 4]] * 7 + [[6] * 5] * 2
    assert data[0][1].tolist() == [0, 1]
    assert data[-1][1].tolist() == [1] * 5
    ondevice.recovery(stage.run, recipe="text", rank=2)
    assert stage.trained["loss"] is chat.response_loss
    assert stage.trained["stage"] == "recovery"


def test_a_feature_starts_from_the_recovery_adapter(stage, monkeypatch):
    """Training changes one of its parameters from 0.25 to 1.25 here, and the result is saved as
    the feature's. It learns from solved tasks."""
    adapter = lora.create(stage.quantized, 2)
    for p in parameters(adapter):
        p.data.fill_(0.25)
    lora.save_adapter(stage.run.checkpoint("recovery"), adapter)
    task = SimpleNamespace(messages=lambda: [{"role": "user", "content": "a"}], solution="b")
    names = []

    def new_tasks(run, name, count, family_names, whole):
        names.append((name, family_names, whole))
        return [task] * count
    monkeypatch.setattr(ondevice, "new_tasks", new_tasks)
    stage.quantized.tokenizer = None
    monkeypatch.setattr(chat, "render", lambda messages, tokenizer: (  # "b" -> 2
        chat.render_response([1], [ord(messages[-1]["content"]) - 96], Letters())))
    ondevice.feature("tools", stage.run, examples=2)
    assert names == [("tools", ["tools"], True)]  # whole conversations
    assert stage.trained["batch"]["ids"][0, :2].tolist() == [1, 2]
    assert stage.trained["loss"] is chat.response_loss
    first, *others = stage.trained["parameters"]
    assert (first == 1.25).all()
    assert all((p == 0.25).all() for p in others)
    saved = parameters(lora.load_adapter(stage.run.checkpoint("tools"), stage.quantized))
    assert (saved[0] == 1.25).all()
