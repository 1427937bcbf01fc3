"""k-means against the optimum, packing, and a quantized model against its unpacked weights."""
import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

from afm_min import lora, quantize
from afm_min.generate import Cache, Decoder, generate
from afm_min.model import AFM, Config, load_model, save_model
from afm_min.quantize import (GROUP, Palettized, QuantizedAFM, group_columns, initial_centres,
                              interval_moments, k_means, keep_unpacked, pack, palettize,
                              prefix_sums, quantize_model, squared_error, unpack)
from afm_min.run import Run, UserError
from afm_min.tokenizer import Tokenizer
from tests.test_lora import parameters

TINY = Config(dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=40, vocab_size=50,
              context=40)


# Packing.

@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (16, 16), (1, 2, 3)])
def test_unpack_inverts_pack(bits, shape):
    """For all widths and shapes, in as many bytes as the codes need."""
    torch.manual_seed(0)
    codes = torch.randint(2 ** bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-codes.numel() // 8) * bits
    assert torch.equal(unpack(packed, bits, codes.shape), codes)


def test_pack_by_hand():
    """Lower bits come first. In 4 bits 1, 2, 3 are 0x21 and 0x03. In 2 bits 3, 0, 1 are
    3 + 0 * 4 + 1 * 16. In 3 bits 1, 2, 3 are 1 + 2 * 8 + 3 * 64 = 209."""
    assert pack(torch.tensor([1, 2, 3]), bits=4).tolist() == [0x21, 0x03, 0, 0]
    assert pack(torch.tensor([3, 0, 1]), bits=2).tolist() == [19, 0]
    assert pack(torch.tensor([1, 2, 3]), bits=3).tolist() == [209, 0, 0]


# k-means.

def error(values, centres):
    """Return the squared distance of values (N,) from the nearest of centres (k,)."""
    distance = (values[:, None].double() - centres.double()).abs().min(1).values
    return distance.square().sum().item()


def uniform_grid(values, k):
    """Return k centres from the least to the largest value."""
    low, high = values.double().min(), values.double().max()
    return low + (high - low) * torch.linspace(0, 1, k, dtype=torch.float64)


def optimum(values, k):
    """Return the least squared error of k clusters of values (N,).

    Dynamic programming over all ways to cut the sorted values into k intervals."""
    values, size = values.sort().values.double(), len(values)
    first, second = (F.pad((values ** n).cumsum(0), (1, 0)) for n in (1, 2))
    end, start = torch.meshgrid(torch.arange(size + 1), torch.arange(size + 1), indexing="ij")
    cost = (second[end] - second[start]
            - (first[end] - first[start]) ** 2 / (end - start).clamp(min=1))
    cost = cost.masked_fill(end < start, torch.inf)
    least = cost[:, 0]  # of the first 0, 1, ... N values
    for _ in range(k - 1):
        least = (cost + least).min(1).values
    return least[-1].item()


def test_the_optimum_equals_enumeration():
    """The best of all cuts of 8 values into 3 clusters."""
    torch.manual_seed(0)
    values = torch.randn(8).sort().values.double()
    cuts = itertools.combinations(range(1, 8), 2)
    least = min(sum(((part - part.mean()) ** 2).sum().item() for part in values.tensor_split(cut))
                for cut in cuts)
    assert optimum(values, 3) == pytest.approx(least)


def test_moments_by_hand():
    """Of 1, 2, 4 cut into (1, 2), nothing and (4): the mean of the first is 1.5, so its error is
    0.25 twice."""
    sums = prefix_sums(torch.tensor([1.0, 2.0, 4.0]))
    assert sums.tolist() == [[0, 1, 2, 3], [0, 1, 3, 7], [0, 1, 5, 21]]
    moments = interval_moments(sums, edges=torch.tensor([0, 2, 2, 3]))
    assert moments.tolist() == [[2, 0, 1], [3, 0, 4], [5, 0, 16]]
    assert squared_error(*moments).tolist() == [0.5, 0, 0]


def test_initial_centres_by_hand():
    """Gaps 1, 8 and 27 have the masses 1, 4 and 9, which add up to 1, 5 and 14."""
    values = torch.tensor([0.0, 1.0, 9.0, 36.0]).double()
    assert initial_centres(values, 2).tolist() == [9, 36]  # at 3.5 and 10.5
    assert initial_centres(values, 14).tolist() == [1] + 4 * [9] + 9 * [36]  # at 0.5, 1.5, ...
    assert initial_centres(values - 5, 14).tolist() == [-4] + 4 * [4] + 9 * [31]


@pytest.mark.parametrize("k, before_rounds, most", [(4, 1.3, 1.01), (16, 1.2, 1.1)])
def test_k_means_is_near_the_optimum_for_the_values_of_a_projection(k, before_rounds, most):
    """Normal values, as in 16 columns of 128 outputs. A uniform grid as the start would be
    1.66 times the optimum or more at k = 16 before any round, and 1.16 times after them."""
    torch.manual_seed(0)
    for values in torch.randn(4, GROUP * 128, dtype=torch.float64):
        least = optimum(values, k)
        start = initial_centres(values.sort().values, k)
        assert error(values, start) <= before_rounds * least
        assert error(values, k_means(values, k)) <= most * least


def test_rounds_end_where_centres_are_means_of_the_nearest_values():
    """The fixed point of Lloyd's algorithm."""
    torch.manual_seed(0)
    values = torch.randn(2000)
    centres = k_means(values, 8)
    nearest = (values[:, None] - centres).abs().argmin(1)
    means = torch.stack([values[nearest == i].mean() for i in range(8)])
    torch.testing.assert_close(means.double(), centres, atol=1e-3, rtol=0)


def fifth_power(*shape):
    return torch.randn(*shape) ** 5


def cauchy(*shape):
    return torch.tan(torch.pi * (torch.rand(*shape) - 0.5))


def few_integers(*shape):
    return torch.randint(-3, 4, shape).float()


@pytest.mark.parametrize("draw", [torch.randn, torch.rand, fifth_power, cauchy, few_integers])
@pytest.mark.parametrize("size", [3, 40, 300])
def test_k_means_is_never_worse_than_a_uniform_grid(draw, size):
    """Whatever the values, heavy tails included, up to the rounding of a sum of squares."""
    torch.manual_seed(0)
    for values in draw(20, size):
        rounding = 1e-14 * values.double().square().sum().item()
        for k in (2, 4, 16):
            most = error(values, uniform_grid(values, k)) + rounding
            assert error(values, k_means(values, k)) <= most


def test_a_bad_start_is_no_worse_than_a_uniform_grid(monkeypatch):
    """If all initial centres are far away, the result is that of the grid."""
    torch.manual_seed(0)
    values = torch.randn(300)
    monkeypatch.setattr(quantize, "initial_centres",
                        lambda values, k: torch.full((k,), 1e6, dtype=torch.float64))
    assert error(values, k_means(values, 4)) <= error(values, uniform_grid(values, 4))


def test_values_of_which_a_grid_is_the_optimum():
    """16 values a step apart are all centres, which initial centres alone do not find."""
    torch.manual_seed(0)
    values = (torch.arange(400) % 16).float()
    assert k_means(values, 16).tolist() == list(range(16))


def test_centres_move_with_their_values():
    """A large mean costs no precision: sums of squares are float64."""
    torch.manual_seed(0)
    values = (64 * torch.randn(2000)).round() / 64  # so that the sum with 512 is exact
    centres = k_means(values, 8)
    torch.testing.assert_close(k_means(values + 512, 8) - 512, centres, atol=1e-6, rtol=0)


def test_few_or_equal_values():
    """Values come back exactly, and centres without values repeat others."""
    assert k_means(torch.tensor([1.0, 2, 3]), 4).tolist() == [1, 2, 3, 3]
    assert k_means(torch.ones(9), 4).tolist() == [1, 1, 1, 1]
    assert k_means(torch.tensor([1.0, 1, 5, 5, 5]), 2).tolist() == [1, 5]


# Palettized weights.

def test_16_columns_share_a_lut():
    """Columns 0 to 15 have the values 1 and 2, the next two 5 and 7: one bit each restores all."""
    torch.manual_seed(0)
    weight = torch.cat((torch.randint(1, 3, (6, 16)), torch.tensor([5, 7]).repeat(6, 1)), 1).float()
    layer = Palettized(inputs=18, outputs=6, bits=1)
    layer.pack_weight(weight)
    assert layer.luts.tolist() == [1, 2, 5, 7]
    assert torch.equal(layer.weight.float(), weight)
    assert layer.codes.nbytes == 6 * 16 // 8 + -(-6 * 2 // 8)
    assert layer.luts.nbytes == 2 * 2 * 2


def test_a_projection_with_two_widths_by_hand():
    """One output. Its first 16 weights are 0 to 15: with 4 bits, each is its own code. The last
    two are 7 and 5: with 2 bits, the LUT repeats 7, and the codes are 1 and 0: 1 + 0 * 4."""
    layer = Palettized(inputs=18, outputs=1, bits=[4, 2])
    weight = torch.tensor([[*range(16), 7.0, 5.0]])
    layer.pack_weight(weight)
    codes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert layer.codes.tolist() == [*codes, 1, 0]
    assert layer.luts[:16].tolist() == list(range(16))
    assert layer.luts[16:].tolist() == [5, 7, 7, 7]
    assert torch.equal(layer.weight.float(), weight)


@pytest.mark.parametrize("bits", [[4, 2, 4], [2, 2, 4], [1, 8, 3]])
def test_groups_do_not_affect_each_other(bits):
    """A group's weights are those that it has as a projection of its own, of the same width."""
    torch.manual_seed(0)
    weight = torch.randn(5, 40)
    layer = Palettized(inputs=40, outputs=5, bits=bits)
    layer.pack_weight(weight)
    for start, width in zip((0, 16, 32), bits):
        group = weight[:, start:start + 16]
        alone = Palettized(inputs=group.shape[1], outputs=5, bits=width)
        alone.pack_weight(group)
        assert torch.equal(layer.weight[:, start:start + 16], alone.weight)
        assert len(alone.weight.unique()) <= 2 ** width


def test_each_group_needs_its_width():
    with pytest.raises(ValueError):
        Palettized(inputs=40, outputs=5, bits=[4, 2])


def test_columns_of_groups():
    """The last group has what remains."""
    assert group_columns(40) == [16, 16, 8]
    assert group_columns(32) == [16, 16]
    assert group_columns(3) == [3]


def test_each_weight_takes_the_nearest_value_of_its_lut():
    torch.manual_seed(0)
    weight = torch.randn(5, 16)
    codes, lut = palettize(weight, bits=2)
    assert torch.equal(codes.long(), (weight[:, :, None] - lut.float()).abs().argmin(2))


@pytest.mark.parametrize("value, shown", [
    (float("nan"), "nan"), (float("-inf"), "inf"), (7e4, "70000"), (-65520.0, "65520")])
@pytest.mark.parametrize("column", [3, 17])
def test_weights_beyond_float16_are_refused(value, shown, column):
    """In a whole group of columns, and in the one that is left over."""
    weight = torch.randn(5, 20)
    weight[2, column] = value
    with pytest.raises(UserError, match=f"largest magnitude is {shown}: float16 holds 0"):
        Palettized(inputs=20, outputs=5, bits=4).pack_weight(weight)


@pytest.mark.parametrize("value", [1e-9, -1e-5, 6e-5])
def test_a_group_of_tiny_weights_is_refused(value):
    """Below 2^-14 = 0.000061, float16 has fewer digits, and below 2^-25 none."""
    weight = torch.randn(5, 20)
    weight[:, 16:] = value
    with pytest.raises(UserError, match="largest magnitude is [1-9.]+e-0[0-9]: float16 holds 0"):
        Palettized(inputs=20, outputs=5, bits=4).pack_weight(weight)


def test_the_largest_and_least_weights_that_float16_holds():
    """Both ends of its range, and groups of zeros, come back exactly."""
    weight = torch.cat((torch.tensor([65504.0, -65504.0]).repeat(5, 8),
                        torch.tensor([2.0 ** -14, 0.0]).repeat(5, 8), torch.zeros(5, 3)), 1)
    layer = Palettized(inputs=35, outputs=5, bits=1)
    layer.pack_weight(weight)
    assert torch.equal(layer.weight.float(), weight)


def test_a_tiny_weight_beside_larger_ones_takes_the_nearest_value():
    weight = torch.tensor([[1e-9, 1.0, -1.0, 1.0]])
    codes, lut = palettize(weight, bits=2)
    assert lut[codes.long()].tolist() == [[0, 1, -1, 1]]


@pytest.mark.parametrize("bits", [-1, 0, 9, 16, 2.5])
def test_codes_have_1_to_8_bits(bits):
    with pytest.raises(UserError, match=f"to {bits} bits: give a whole number, 1 to 8"):
        palettize(torch.randn(3, 4), bits)
    with pytest.raises(UserError, match=f"to {bits} bits: give a whole number, 1 to 8"):
        pack(torch.tensor([1]), bits)


# Quantized models.

def float_model():
    """Return a model whose norm weights are random too."""
    torch.manual_seed(0)
    model = AFM(TINY).eval()
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 1.5)
    return model


def make_pair():
    """Return a float model and its quantized copy, whose groups have all widths from 1 to 8."""
    model, widths = float_model(), itertools.cycle(range(1, 9))
    bits = {name: [next(widths) for _ in group_columns(layer.inputs)]
            for name, layer in lora.projections(model).items()}
    return model, quantize_model(model, bits)


@pytest.fixture(scope="module")
def quantized_once():
    return make_pair()


@pytest.fixture
def pair(quantized_once):
    """A float model and its quantized copy, which a test may change."""
    return copy.deepcopy(quantized_once)


def unpack_model(quantized):
    """Return a float model with exactly the weights of a quantized one."""
    model = AFM(TINY).eval()
    for name, layer in lora.projections(quantized).items():
        model.get_submodule(name).weight.data = layer.weight.float()
    model.embedding.data = quantized.embedding.float() * quantized.scale.float()
    norms = {name: x for name, x in quantized.state_dict().items() if "norm" in name}
    model.load_state_dict(norms, strict=False)
    return model


def test_a_quantized_model_equals_its_unpacked_weights(pair):
    """Logits and greedy responses are those of the float model with the unpacked weights."""
    _, quantized = pair
    ids = torch.randint(50, (3, 12))
    with torch.no_grad():
        expected = unpack_model(quantized)(ids)
        torch.testing.assert_close(quantized(ids), expected, atol=1e-5, rtol=1e-5)
    prompts = [[1, 2, 3], [4, 5]]
    assert (generate(quantized, prompts, 8, temperature=0)
            == generate(unpack_model(quantized), prompts, 8, temperature=0))


def test_norms_are_kept_as_they_are(pair):
    """All 9 norm weights are equal."""
    model, quantized = pair
    norms = [name for name in model.state_dict() if "norm" in name]
    assert len(norms) == 9
    for name in norms:
        assert torch.equal(model.state_dict()[name], quantized.state_dict()[name])


def test_the_embedding_takes_8_bits_and_a_scale_per_row(pair):
    """Rounding errs by half a step at most, and each row's largest code is 127."""
    model, quantized = pair
    step = model.embedding.abs().amax(1, keepdim=True) / 127
    rows = quantized.embedding.float() * quantized.scale.float()
    most = 0.51 * step + 1e-3 * model.embedding.abs()  # the scale has 16 bits
    assert ((rows - model.embedding).abs() <= most).all()
    assert quantized.embedding.dtype == torch.int8
    assert quantized.embedding.abs().amax(1).min() == 127


def test_an_embedding_row_of_zeros_stays_zero():
    """Its scale is no zero to divide by."""
    model = float_model()
    model.embedding.data[3] = 0
    quantized = quantize_model(model, dict.fromkeys(lora.projections(model), 4))
    assert quantized.scale[3] > 0
    assert (quantized.embedding[3] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7, 1e-9])
def test_an_embedding_beyond_float16_is_refused(value):
    """A number too large, or a row of tiny ones, for which no scale is left."""
    model = float_model()
    model.embedding.data[3] = value
    with pytest.raises(UserError, match="cannot quantize weights whose largest magnitude is"):
        quantize_model(model, dict.fromkeys(lora.projections(model), 4))


def test_a_saved_model_loads_with_its_bits_and_tokenizer(pair, tmp_path):
    """All buffers and the logits are equal. A damaged file raises UserError."""
    _, quantized = pair
    run = Run(tmp_path)
    Tokenizer("ab", []).save(run.file("tokenizer.json"))
    save_model(run, "quantize", quantized, bits=quantized.bits)
    loaded = load_model(run, "quantize", QuantizedAFM)
    assert loaded.bits == quantized.bits
    assert loaded.tokenizer.encode("b") == [263]
    for name, x in quantized.state_dict().items():
        assert torch.equal(x, loaded.state_dict()[name])
    loaded.dtype = torch.float32  # not the one this processor is fast at
    ids = torch.tensor([[1, 2]])
    with torch.no_grad():
        assert torch.equal(loaded(ids), quantized(ids))
    with pytest.raises(UserError, match="quantize.pt is quantized, and a model of floats"):
        load_model(run, "quantize")
    path = run.checkpoint("quantize")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        load_model(run, "quantize", QuantizedAFM)


def test_an_adapters_gradients_equal_those_on_unpacked_weights(pair):
    """Quantized weights pass the same gradients on to an adapter."""
    _, quantized = pair
    gradients = []
    for model in (quantized, unpack_model(quantized)):
        torch.manual_seed(0)
        adapter = lora.create(model, 2)
        for p in parameters(adapter):
            p.data.normal_(std=0.1)
        lora.attach(model, adapter)
        model(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters(adapter)]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_an_adapter_merged_into_packed_weights_equals_the_attached_one(pair):
    """A Decoder unpacks groups of all widths, and adds B A."""
    _, quantized = pair
    torch.manual_seed(0)
    adapter, ids = lora.create(quantized, 2), torch.tensor([[1, 2, 3, 4]])
    for p in parameters(adapter):
        p.data.normal_(std=0.1)
    with torch.no_grad():
        without = quantized(ids)
        lora.attach(quantized, adapter)
        decoder = Decoder(quantized)
        merged = decoder.logits(decoder(ids, Cache(decoder, rows=1, size=4)))
        torch.testing.assert_close(merged, quantized(ids), atol=1e-4, rtol=1e-4)
        assert (merged - without).abs().max() > 0.01


def test_a_float_model_has_nothing_to_keep_unpacked(pair):
    """Its parameters stay those that it has, so that checkpoints do not contain them twice."""
    model, _ = pair
    before = list(model.state_dict())
    with keep_unpacked(model):
        assert list(model.state_dict()) == before


def test_logits_are_computed_in_the_precision_of_the_states(pair):
    """States of float32 give logits that are not rounded to bfloat16, as in the float model."""
    model, quantized = pair
    states = torch.randn(3, model.config.dim)
    expected = states @ (quantized.embedding * quantized.scale.float()).T
    quantized.dtype = torch.bfloat16
    torch.testing.assert_close(quantized.logits(states), expected)


def test_weights_kept_unpacked_are_equal_and_released(pair):
    """Logits stay the same while weights are kept, and an error in the block releases them."""
    _, quantized = pair
    ids, layers = torch.randint(50, (2, 9)), lora.projections(quantized).values()
    with torch.no_grad():
        before = quantized(ids)
        with pytest.raises(RuntimeError), keep_unpacked(quantized):
            assert torch.equal(quantized(ids), before)
            assert all(layer.unpacked is not None for layer in layers)
            raise RuntimeError
    assert all(layer.unpacked is None for layer in layers)
