"""k-means against the optimum, packing, and a packed model against its unpacked weights."""
import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from afm_min import chat, evaluate, lora, ondevice, quantize
from afm_min.generate import generate
from afm_min.model import AFM, Config, save_model
from afm_min.quantize import (GROUP, Palettized, QuantizedAFM, k_means, keep_unpacked, pack,
                              palettize, quantized, unpack)
from afm_min.run import Run, UserError, save
from afm_min.tokenizer import Tokenizer
from tests.test_lora import parameters

TINY = Config(dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=40, vocab_size=50,
              context=40)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (16, 16), (1, 2, 3)])
def test_what_is_packed_comes_back(bits, shape):
    torch.manual_seed(0)
    codes = torch.randint(2 ** bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-codes.numel() // 8) * bits
    assert torch.equal(unpack(packed, bits, codes.shape), codes)


def test_packed_by_hand():
    # 1, 2, 3 in 4 bits: the first is the low half of the first byte. 0x21, 0x03, and nothing.
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03, 0, 0]
    # 3, 0, 1 in 2 bits: 3 + 0 * 4 + 1 * 16
    assert pack(torch.tensor([3, 0, 1]), 2).tolist() == [19, 0]


def error(values, centres):
    return (values[:, :, None].double() - centres[:, None, :]).abs().min(2).values.square().sum(1)


def optimum(values, k):
    """The least squared error of k clusters of sorted values: all ways to cut them,
    by dynamic programming."""
    values, size = values.sort().values.double(), len(values)
    first, second = (F.pad((values ** n).cumsum(0), (1, 0)) for n in (1, 2))
    start, end = torch.meshgrid(torch.arange(size + 1), torch.arange(size + 1), indexing="ij")
    cost = (second[end] - second[start]
            - (first[end] - first[start]) ** 2 / (end - start).clamp(min=1))
    cost = cost.masked_fill(end < start, torch.inf)
    least = cost[0]
    for _ in range(k - 1):
        least = (least[:, None] + cost).min(0).values
    return least[-1].item()


@pytest.mark.parametrize("k", [2, 4, 16])
@pytest.mark.parametrize("size", [40, 600])
@pytest.mark.parametrize("draw", [torch.randn, torch.rand, lambda *shape: torch.randn(*shape) ** 5])
def test_k_means_is_within_one_percent_of_the_optimum(k, size, draw):
    torch.manual_seed(0)
    values = draw(3, size)
    for one, found in zip(values, error(values, k_means(values, k))):
        assert found <= 1.01 * optimum(one, k)


def test_the_optimum_by_enumeration():
    torch.manual_seed(0)
    values = torch.randn(8).sort().values.double()
    cuts = itertools.combinations(range(1, 8), 2)
    least = min(sum(((part - part.mean()) ** 2).sum().item() for part in values.tensor_split(cut))
                for cut in cuts)
    assert optimum(values, 3) == pytest.approx(least)


def test_the_first_centres_are_the_best_of_bins():
    """Of few values each is a bin, so they are the optimum;
    of many, within 5 percent before any round."""
    torch.manual_seed(0)
    for size, most in ((200, 1.000001), (600, 1.05)):
        values = torch.randn(3, size) ** 5
        ordered = values.sort(1).values.double()
        for one, found in zip(
                values, error(values, quantize.best_start(ordered, quantize.sums_of(ordered), 16))):
            assert found <= most * optimum(one, 16)


def test_rounds_end_where_centres_are_means_of_what_is_nearest():
    torch.manual_seed(0)
    values = torch.randn(1, 2000)
    centres = k_means(values, 8)
    nearest = (values[0, :, None] - centres[0]).abs().argmin(1)
    means = torch.stack([values[0, nearest == i].mean() for i in range(8)])
    torch.testing.assert_close(means.double(), centres[0], atol=1e-3, rtol=0)


def test_a_bad_start_is_no_worse_than_uniform(monkeypatch):
    torch.manual_seed(0)
    values = torch.randn(5, 300)
    monkeypatch.setattr(quantize, "best_start", lambda values, sums, k: torch.full(
        (5, k), 1e6, dtype=torch.float64))
    low, high = values.min(1, keepdim=True).values, values.max(1, keepdim=True).values
    assert (error(values, k_means(values, 4))
            <= error(values, low + (high - low) * torch.linspace(0, 1, 4))).all()


@pytest.mark.parametrize("draw", [torch.randn, torch.rand, lambda *shape: torch.randn(*shape) ** 5])
def test_k_means_is_never_worse_than_uniform(draw):
    torch.manual_seed(0)
    values = draw(50, 40)
    low, high = values.min(1, keepdim=True).values, values.max(1, keepdim=True).values
    for k in (2, 4, 16):
        uniform = low + (high - low) * torch.linspace(0, 1, k)
        assert (error(values, k_means(values, k)) <= error(values, uniform.double()) + 1e-9).all()


def test_few_or_equal_values():
    assert k_means(torch.tensor([[1.0, 2, 3]]), 4).tolist() == [[1, 2, 3, 3]]
    assert k_means(torch.ones(1, 9), 4).tolist() == [[1, 1, 1, 1]]
    assert k_means(torch.tensor([[1.0, 1, 5, 5, 5]]), 2).tolist() == [[1, 5]]


def test_columns_share_tables_by_16():
    """Columns 0 to 15 hold 1 and 2, the next two 5 and 7: with a bit each, all of it comes back."""
    torch.manual_seed(0)
    weight = torch.cat((torch.randint(1, 3, (6, 16)), torch.tensor([5, 7]).repeat(6, 1)), 1).float()
    codes, tables = palettize(weight, 1)
    assert tables.tolist() == [[1, 2], [5, 7]] and codes.shape == weight.shape
    layer = Palettized(18, 6, 1)
    layer.fill(weight)
    assert torch.equal(layer.weight.float(), weight)
    assert layer.codes.nbytes == -(-18 * 6 // 8) and layer.tables.nbytes == 2 * 2 * 2


@pytest.mark.parametrize("columns", [16, 40, 17 * 64])
def test_each_weight_takes_the_nearest_of_its_table(columns):
    torch.manual_seed(0)
    weight = torch.randn(5, columns)
    codes, tables = palettize(weight, 2)
    tables = tables.float()[torch.arange(columns) // GROUP]  # (columns, 4)
    assert torch.equal(codes.long(), (weight[:, :, None] - tables).abs().argmin(2))


@pytest.fixture(scope="module")
def packed_once():
    torch.manual_seed(0)
    model = AFM(TINY).eval()
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 1.5)
    bits = {name: 1 + i % 8 for i, name in enumerate(lora.projections(model))}
    return model, quantized(model, bits)


@pytest.fixture
def packed(packed_once):
    """A model and itself quantized, to do with as a test likes."""
    return copy.deepcopy(packed_once)


def unpacked(packed):
    """A float model with the very weights of a packed one."""
    model = AFM(TINY).eval()
    for name, layer in lora.projections(packed).items():
        model.get_submodule(name).weight.data = layer.weight.float()
    model.embedding.data = packed.embedding.float() * packed.scale.float()
    model.load_state_dict({name: x for name, x in packed.state_dict().items() if "norm" in name},
                          strict=False)
    return model


def test_a_packed_model_says_what_its_unpacked_weights_say(packed):
    model, packed = packed
    norms = {name for name in model.state_dict() if "norm" in name}
    assert len(norms) == 9 and all(
        torch.equal(model.state_dict()[name], packed.state_dict()[name]) for name in norms)
    ids = torch.randint(50, (3, 12))
    with torch.no_grad():
        torch.testing.assert_close(packed(ids), unpacked(packed)(ids), atol=1e-5, rtol=1e-5)
    prompts = [[1, 2, 3], [4, 5]]
    assert (generate(packed, prompts, 8, temperature=0)
            == generate(unpacked(packed), prompts, 8, temperature=0))


def test_the_embedding_takes_8_bits_and_a_scale_a_token(packed):
    model, packed = packed
    scale = model.embedding.abs().amax(1, keepdim=True) / 127
    rows = packed.embedding.float() * packed.scale.float()
    assert ((rows - model.embedding).abs() <= 0.51 * scale + 1e-3 * model.embedding.abs()).all()
    assert packed.embedding.abs().amax(1).min() == 127 and packed.embedding.dtype == torch.int8


def test_saved_it_is_as_small_as_in_memory(packed, tmp_path):
    run = Run(tmp_path)
    Tokenizer("ab", []).save(run.file("tokenizer.json"))
    save_model(run, "quantize", packed[1], bits=packed[1].bits)
    loaded = quantize.load_quantized(run, "quantize")
    assert loaded.bits == packed[1].bits and loaded.tokenizer.encode("b") == [263]
    assert all(torch.equal(x, loaded.state_dict()[name])
               for name, x in packed[1].state_dict().items())
    loaded.dtype = torch.float32  # whatever this processor is fast at
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([[1, 2]])), packed[1](torch.tensor([[1, 2]])))
    path = run.checkpoint("quantize")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        quantize.load_quantized(run, "quantize")
    save(path, model={}, **run.provenance("quantize"))
    with pytest.raises(UserError, match="is not quantized"):
        quantize.load_quantized(run, "quantize")


def test_packed_weights_take_no_adapter_in(packed):
    adapter = lora.create(packed[1], 2)
    lora.attach(packed[1], adapter)
    with pytest.raises(UserError, match="quantized model cannot"):
        lora.merge(packed[1])
    assert all(layer.adapter for layer in lora.projections(packed[1]).values())


def test_an_adapter_learns_through_packed_weights(packed):
    """What the loss says of an adapter is the same on a packed model as on its unpacked weights."""
    gradients = []
    for model in (packed[1], unpacked(packed[1])):
        torch.manual_seed(0)
        adapter = lora.create(model, 2)
        for term in adapter.terms.values():
            term.up.data.normal_(std=0.1)
        lora.attach(model, adapter)
        model(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters(adapter)]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_two_bits_go_where_they_do_the_least_harm_for_their_size():
    # query 32 x 32, key and value 16 x 32, output 32 x 32; gate, up, down 40 x 32
    model = AFM(TINY)
    layers = lora.projections(model)
    total = 2 * (1024 * 2 + 512 * 2 + 1280 * 3)
    rises = dict.fromkeys(layers, 1.0) | {
        "blocks.1.attention.key": 0.001, "blocks.1.feed_forward.up": 0.003,
        "blocks.0.attention.query": 0.0022}  # by weight: 2.0, 2.3 and 2.1e-6
    assert ondevice.mixed(model, rises, 4.0) == dict.fromkeys(layers, 4)
    bits = ondevice.mixed(model, rises, 4 - 2 * 1100 / total)  # key and query: 1,536 weights
    assert [name for name in bits if bits[name] == 2] == [
        "blocks.0.attention.query", "blocks.1.attention.key"]
    assert ondevice.average_bits(model, bits) == pytest.approx(4 - 2 * 1536 / total)
    rises |= {"blocks.1.attention.key": 0.0012,
              "blocks.1.feed_forward.up": 0.002}  # by weight 2.3 and 1.6e-6
    bits = ondevice.mixed(model, rises, 4 - 2 * 1200 / total)
    assert [name for name in bits if bits[name] == 2] == ["blocks.1.feed_forward.up"]
    assert set(ondevice.mixed(model, rises, 2.0).values()) == {2}
    with pytest.raises(UserError, match="give 2 or more"):
        ondevice.mixed(model, rises, 1.9)


def batch():
    """Two conversations in a row, and one alone."""
    return {"ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]),
            "weight": torch.tensor([[0.0, 1, 0, 1], [0, 1, 1, 0]]),
            "begin": torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0]])}


def test_divergence_is_that_of_the_teacher_at_tokens_with_weight(packed):
    model, packed = packed
    with torch.no_grad():
        found = ondevice.divergence(packed, model, batch())
        ids = [torch.tensor([row])
               for row in ([1], [3], [5], [5, 6])]  # what each of the four is told after
        p, q = (torch.stack([each(row)[0, -1] for row in ids]).log_softmax(-1)
                for each in (model, packed))
        expected = (p.exp() * (p - q)).sum(-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert len(found) == 4 and (found > 0).all()
        assert ondevice.divergence(model, model, batch()).abs().max() < 1e-6


def test_sensitivity_is_what_2_bits_add(packed):
    model, _ = packed
    rises = ondevice.sensitivity(model, batch())
    four = dict.fromkeys(rises, 4)
    name = "blocks.0.feed_forward.down"
    far = [ondevice.divergence(quantized(model, bits), model, batch()).mean().item()
           for bits in (four | {name: 2}, four)]
    assert rises[name] == pytest.approx(far[0] - far[1]) and set(rises) == set(four)


def test_bits_per_weight_are_of_the_file(packed, tmp_path):
    run, (model, packed) = Run(tmp_path), packed
    run.checkpoint("x").write_bytes(b"0" * 5000)
    found = ondevice.sizes(run, "x", packed)
    parameters = sum(p.numel() for p in model.parameters())
    assert found["bits per weight"] == pytest.approx(8 * 5000 / parameters) and found["KB"] == 5
    layers = lora.projections(packed).values()
    stored = sum(len(layer.codes) + 2 * layer.tables.numel() for layer in layers)
    assert found["bits per projection weight"] == pytest.approx(
        8 * stored / sum(layer.inputs * layer.outputs for layer in layers))


class World:
    """Stands for a run with one family, whose task is to say [3, 4] after [1, 2]."""
    seed, file = 0, staticmethod(str)


@pytest.fixture
def staged(packed, monkeypatch, tmp_path):
    """What the stages would train: `fit` changes one weight of the adapter,
    and keeps what it was given."""
    model, packed = packed
    given, run = {}, Run(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")

    def fit(model, batches, loss, **settings):
        trained = [p for p in model.parameters() if p.requires_grad]
        trained[0].data += 1
        given.update(settings, model=model, loss=loss, batch=batches(0), trained=trained)
    monkeypatch.setattr(ondevice, "fit", fit)
    monkeypatch.setattr(ondevice, "load_model", lambda run, stage: model)
    monkeypatch.setattr(ondevice, "load_quantized", lambda run, stage: packed)
    monkeypatch.setattr(ondevice.evaluate, "full_validation",
                        lambda run, model, count: {"mean %": 50.0})
    monkeypatch.setattr(ondevice.pretrain, "held_out", lambda model, run: {"bits/byte": 2.0})
    monkeypatch.setattr(ondevice, "own_words",
                        lambda run, model, count: [chat.answered([1, 2], [3, 4])])
    return run, model, packed, given


def test_recovery_trains_an_adapter_alone_towards_the_float_model(staged):
    run, model, packed, given = staged
    told = ondevice.recovery(run, rank=2, steps=3)
    assert len(given["trained"]) == 2 * 14 and not any(
        p.requires_grad for name, p in packed.named_parameters() if "norm" in name)
    assert (given["stage"] == "recovery"
            and told["KB"] == run.checkpoint("recovery").stat().st_size / 1000)
    lora.use(packed, {})
    with torch.no_grad():
        expected = ondevice.divergence(packed, model, given["batch"])
        found = given["loss"](packed, given["batch"])
    assert (found["loss"].item() == pytest.approx(expected.sum().item())
            and found["count"] == len(expected))


def test_a_feature_starts_from_the_recovery_adapter(staged, monkeypatch):
    run, _, packed, given = staged
    adapter = lora.create(packed, 2)
    for p in parameters(adapter):
        p.data.fill_(0.25)
    lora.save_adapter(run.checkpoint("recovery"), adapter)
    task = SimpleNamespace(messages=lambda: [{"role": "user", "content": "a"}], solution="b")
    monkeypatch.setattr(ondevice.chat, "toy_world", lambda run: {"tools": "the family"})
    monkeypatch.setattr(ondevice, "draw_mixture", lambda families, mixture, count, rng: (
        [(families["tools"], task)] * count))
    monkeypatch.setattr(ondevice.chat, "render", lambda messages, _: chat.answered(
        [1], [ord(messages[-1]["content"]) - 96]))
    ondevice.feature("tools", run, examples=2)
    assert given["batch"]["ids"][0, :2].tolist() == [1, 2] and given["loss"] is chat.response_loss
    values = {round(x, 4) for p in given["trained"][1:] for x in p.flatten().tolist()}
    assert values == {0.25} and (given["trained"][0] == 1.25).all()
    assert (parameters(lora.load_adapter(run.checkpoint("tools"), packed))[0] == 1.25).all()


def test_own_words_are_greedy_answers_that_count_alone(monkeypatch):
    task = SimpleNamespace(messages=lambda: "ab")
    monkeypatch.setattr(ondevice.chat, "toy_world", lambda run: {"say": None})
    monkeypatch.setattr(ondevice, "draw_mixture",
                        lambda families, mixture, count, rng: [(None, task)] * count)
    monkeypatch.setattr(evaluate, "replies", lambda model, conversations: [
        evaluate.Reply(list(map(ord, messages)), ids, "")
        for messages, ids in zip(conversations, ([7, 0], []))])
    pair, = ondevice.own_words(World, None, 2)
    assert pair[0].tolist() == [97, 98, 7, 0] and pair[1].tolist() == [0, 0, 1, 1]


def test_a_choice_that_there_is_not(staged):
    with pytest.raises(UserError, match="it is sensitivity or random"):
        ondevice.quantize(staged[0], choice="luck")


def test_packing_in_slices_is_packing_whole(monkeypatch):
    torch.manual_seed(0)
    codes, weight = torch.randint(8, (5, 37)), torch.randn(20, 70)
    whole, (numbers, tables) = pack(codes, 3), palettize(weight, 2)
    monkeypatch.setattr(quantize, "SLICE", 16)
    assert torch.equal(pack(codes, 3), whole) and torch.equal(unpack(whole, 3, codes.shape), codes)
    again = palettize(weight, 2)
    assert torch.equal(again[0], numbers) and torch.equal(again[1], tables)


def test_weights_kept_unpacked_are_the_same_and_let_go():
    model = quantized(AFM(TINY), dict.fromkeys(lora.projections(AFM(TINY)), 4))
    ids, layers = torch.randint(50, (2, 9)), lora.projections(model).values()
    with torch.no_grad():
        before = model(ids)
        with pytest.raises(RuntimeError), keep_unpacked(model):
            assert torch.equal(model(ids), before)
            assert all(layer.unpacked is not None for layer in layers)
            raise RuntimeError
    assert all(layer.unpacked is None for layer in layers)
