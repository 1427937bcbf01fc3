"""Bit allocation, accuracy recovery and feature adapters of the quantized model."""
import copy
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, lora, ondevice
from afm_min.model import AFM, load_model
from afm_min.quantize import QuantizedAFM, quantize_model
from afm_min.run import Run, UserError
from afm_min.tokenizer import Tokenizer
from tests.test_lora import parameters
from tests.test_quantize import TINY, float_model


@pytest.fixture(scope="module")
def quantized_once():
    model = float_model()
    bits = {name: 1 + i % 8 for i, name in enumerate(lora.projections(model))}
    return model, quantize_model(model, bits)


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
        kl = ondevice.token_kl(quantized, model, packed_batch())
        p, q = (torch.stack([each(torch.tensor([prefix]))[0, -1] for prefix in prefixes])
                .log_softmax(-1) for each in (model, quantized))
        torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=1e-4)
        assert len(kl) == 4
        assert (kl > 0).all()
        assert ondevice.token_kl(model, model, packed_batch()).abs().max() < 1e-6


def test_allocate_bits_by_hand():
    """2 bits go where the loss rises least per weight.

    Weights: query 32 x 32, key and value 16 x 32, output 32 x 32; gate, up, down 40 x 32."""
    model = AFM(TINY)
    layers = lora.projections(model)
    total = 2 * (1024 * 2 + 512 * 2 + 1280 * 3)

    def two_bits(bits):
        return [name for name in bits if bits[name] == 2]
    rises = dict.fromkeys(layers, 1.0) | {
        "blocks.1.attention.key": 0.001, "blocks.1.feed_forward.up": 0.003,
        "blocks.0.attention.query": 0.0022}  # per weight: 2.0, 2.3 and 2.1e-6
    assert ondevice.allocate_bits(model, rises, average=4.0) == dict.fromkeys(layers, 4)
    # 1,100 weights must lose two bits: key and query have 1,536.
    bits = ondevice.allocate_bits(model, rises, average=4 - 2 * 1100 / total)
    assert two_bits(bits) == ["blocks.0.attention.query", "blocks.1.attention.key"]
    assert ondevice.average_bits(model, bits) == pytest.approx(4 - 2 * 1536 / total)
    rises |= {"blocks.1.attention.key": 0.0012, "blocks.1.feed_forward.up": 0.002}
    # Per weight now 2.3 and 1.6e-6: up, with 1,280 weights, comes first.
    bits = ondevice.allocate_bits(model, rises, average=4 - 2 * 1200 / total)
    assert two_bits(bits) == ["blocks.1.feed_forward.up"]
    assert set(ondevice.allocate_bits(model, rises, average=2.0).values()) == {2}
    with pytest.raises(UserError, match="give 2 or more"):
        ondevice.allocate_bits(model, rises, average=1.9)


def test_sensitivity_is_the_kl_that_2_bits_add(pair):
    """The rise equals the difference between two models quantized as a whole."""
    model, _ = pair
    rises = ondevice.sensitivity(model, packed_batch())
    four = dict.fromkeys(lora.projections(model), 4)
    assert set(rises) == set(four)
    for name in ("blocks.0.attention.query", "blocks.0.feed_forward.down"):
        with_2, with_4 = (
            ondevice.token_kl(quantize_model(model, bits), model, packed_batch()).mean().item()
            for bits in (four | {name: 2}, four))
        assert rises[name] == pytest.approx(with_2 - with_4)


def test_sizes_by_hand(pair, tmp_path):
    """A file of 5,000 bytes over all parameters; codes of 1 to 8 bits and LUTs of 16-bit values
    over the projections' weights."""
    run, (model, quantized) = Run(tmp_path), pair
    run.checkpoint("x").write_bytes(b"0" * 5000)
    sizes = ondevice.sizes(run, "x", quantized)
    assert sizes["KB"] == 5
    all_parameters = sum(p.numel() for p in model.parameters())
    assert sizes["bits per weight"] == pytest.approx(8 * 5000 / all_parameters)
    layers = lora.projections(quantized).values()
    stored = sum(layer.inputs * layer.outputs * layer.bits / 8
                 + 2 * 2 ** layer.bits * -(-layer.inputs // 16) for layer in layers)
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    assert sizes["bits per projection weight"] == pytest.approx(8 * stored / weights)


# Examples.

def test_new_tasks_are_training_tasks_in_equal_shares(monkeypatch):
    """Of the families named, or of all and evolved mathematics. Run and name seed them."""
    monkeypatch.setattr(ondevice, "all_families", lambda: {"math": 1, "tools": 2})
    draws = []

    def draw_mixture(families, mixture, count, rng):
        draws.append((mixture, count, rng.random()))
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


def test_own_responses_are_in_the_loss_mask_and_prompts_are_not(monkeypatch):
    """Empty responses, whose prompts do not fit, are left out."""
    task = SimpleNamespace(messages=lambda: "ab")
    monkeypatch.setattr(ondevice, "new_tasks", lambda run, name, count: [task] * count)
    monkeypatch.setattr(chat, "generate_responses", lambda model, conversations: [
        chat.Response(list(map(ord, messages)), ids, "")
        for messages, ids in zip(conversations, ([7, 0], []))])
    (ids, loss_mask), = ondevice.own_responses(None, None, prompts=2)
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
        [chat.render_response([1, 2], [3, 4])]))
    return SimpleNamespace(run=run, model=model, quantized=quantized, trained=trained)


@pytest.mark.parametrize("choice", ["sensitivity", "random"])
def test_quantize_saves_a_model_of_the_average_asked_for(stage, choice):
    """At an average of 3 bits some projections take 2 and some 4. The metrics are those of the
    quantized model, beside the mean of the float one."""
    metrics = ondevice.quantize(stage.run, average=3.0, choice=choice)
    saved = load_model(stage.run, "quantize", QuantizedAFM)
    assert set(saved.bits.values()) == {2, 4}
    assert metrics["average bits"] == ondevice.average_bits(saved, saved.bits) <= 3
    assert {name: bits for name, bits, _ in metrics["bits of projections"]} == saved.bits
    assert metrics["mean %"] == 40
    assert metrics["mean % before"] == 50
    assert metrics["bits/byte"] == 2
    assert metrics["KB"] == stage.run.checkpoint("quantize").stat().st_size / 1000


def test_an_unknown_choice_is_an_error(stage):
    """The message names the choices."""
    with pytest.raises(UserError, match="choose sensitivity or random"):
        ondevice.quantize(stage.run, choice="luck")


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
        kl = ondevice.token_kl(stage.quantized, stage.model, stage.trained["batch"])
        sums = stage.trained["loss"](stage.quantized, stage.trained["batch"])
    assert sums["loss"].item() == pytest.approx(kl.sum().item())
    assert sums["count"] == len(kl) > 0


def test_a_feature_starts_from_the_recovery_adapter(stage, monkeypatch):
    """Training changes one of its parameters from 0.25 to 1.25 here, and the result is saved as
    the feature's. It learns from solved tasks."""
    adapter = lora.create(stage.quantized, 2)
    for p in parameters(adapter):
        p.data.fill_(0.25)
    lora.save_adapter(stage.run.checkpoint("recovery"), adapter)
    task = SimpleNamespace(messages=lambda: [{"role": "user", "content": "a"}], solution="b")
    names = []

    def new_tasks(run, name, count, family_names):
        names.append((name, family_names))
        return [task] * count
    monkeypatch.setattr(ondevice, "new_tasks", new_tasks)
    stage.quantized.tokenizer = None
    monkeypatch.setattr(chat, "render", lambda messages, tokenizer: (  # "b" -> 2
        chat.render_response([1], [ord(messages[-1]["content"]) - 96])))
    ondevice.feature("tools", stage.run, examples=2)
    assert names == [("tools", ["tools"])]
    assert stage.trained["batch"]["ids"][0, :2].tolist() == [1, 2]
    assert stage.trained["loss"] is chat.response_loss
    first, *others = stage.trained["parameters"]
    assert (first == 1.25).all()
    assert all((p == 0.25).all() for p in others)
    saved = parameters(lora.load_adapter(stage.run.checkpoint("tools"), stage.quantized))
    assert (saved[0] == 1.25).all()
