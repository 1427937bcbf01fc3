"""The sheet against what is built, and against a pocket calculator."""
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from afm_min import fit, lora, plan
from afm_min.model import AFM, PRESETS
from afm_min.pretrain import next_token_loss
from afm_min.quantize import QuantizedAFM
from afm_min.run import save
from tests.test_commands import call


def values(preset, **given):
    sheet = plan.fill_in(
        preset, {name: default for name, (default, *_) in plan.OPTIONS.items()} | given)
    return {what: value for what, (_, value, _) in sheet.items()}


def build(preset, dtype=torch.bfloat16):
    with torch.device("meta"):
        return AFM(PRESETS[preset], dtype)


def test_a_formula_by_hand():
    assert plan.calculate("2 layers x (1,000 + 3) bytes") == 2006
    assert plan.calculate("6.3 x 10^2 / 4 - 0.5 seconds") == 157
    assert [plan.shown(x) for x in (128, 999.96, 2_586_574_848, 0.4)] == [
        "128", "1000", "2,586,574,848", "0.4"]


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_of_the_model(preset):
    model, sheet = build(preset), values(preset)
    assert sheet["parameters"] == sum(p.numel() for p in model.parameters())
    assert sheet["parameters in the embedding"] == model.embedding.numel()
    assert sheet["parameters of a layer"] == sum(p.numel() for p in model.blocks[0].parameters())
    assert (sheet["parameters outside the embedding"]
            == sheet["parameters"] - model.embedding.numel())


def test_published_sizes():
    sheet = values("afm-on-device")
    assert int(sheet["parameters outside the embedding"] / 1e7) == 258  # 2.58B
    assert sheet["inputs and outputs of a layer"] == 53_888
    assert sheet["adapter, rank 16"] == 26 * 53_888 * 16 * 2  # 44.8 MB: tens of MB, says the report
    assert 3.7 < sheet["bits a projection weight"] < 3.71


@pytest.mark.parametrize("preset", ["tiny", "toy"])
def test_a_checkpoint_and_a_device_hold_what_adastar_keeps(preset, tmp_path):
    model, sheet = AFM(PRESETS[preset]), values(preset, devices=1)
    optimizer = fit.AdaStar(fit.parameter_groups(model), lr=0.1)
    fit.backward(model, {"ids": torch.zeros(1, 3, dtype=torch.long)}, next_token_loss)
    optimizer.step()
    kept = [x for p in model.parameters()
            for x in (p, *(optimizer.state[p][name] for name in ("v", "m")))]
    assert sheet["checkpoint"] == sum(p.nbytes for p in model.parameters())
    assert sheet["checkpoint with AdaStar's v and m"] == sum(x.nbytes for x in kept)
    assert sheet["memory of a device, replicated"] == sum(
        x.nbytes for x in [*kept, *(p.grad for p in model.parameters())])
    save(tmp_path / "x.pt", model=model.state_dict())
    assert (sheet["checkpoint"] < (tmp_path / "x.pt").stat().st_size
            < sheet["checkpoint"] + 20_000)  # names and places


def test_sharded_memory_by_hand():
    # tiny: a layer has 32 (8 + 4) 8 + 3 * 32 * 84 + 64 + 16 = 11,216 parameters, the embedding
    # 384 * 32 = 12,288.
    sheet = values("tiny", devices=4)
    assert sheet["parameters"] == 2 * 11_216 + 32 + 12_288 == 34_752
    assert (sheet["memory of a device, fully_shard"]
            == 34_752 * 16 / 4 + (12_288 + 11_216) * 8 == 327_040)


@pytest.mark.parametrize("preset", ["toy", "afm-on-device", "afm-parent"])
def test_what_autograd_keeps_and_the_operations_it_takes(preset):
    """One sequence forward and backward: no tensor is computed, but all are there."""
    model, sheet, kept = build(preset), values(preset), {}
    own = {p.untyped_storage()._cdata for p in model.parameters()} | {
        b.untyped_storage()._cdata for b in model.buffers()}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor
    ids = torch.zeros(1, model.config.context + 1, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(
            pack, lambda x: x):
        next_token_loss(model, {"ids": ids})["loss"].backward()
    size = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    expected = sheet["besides, weights in bfloat16"] + sheet["besides, activations of a sequence"]
    # left out are ids, the scales of norms, RoPE's tables
    assert size == pytest.approx(expected, rel=0.01)
    assert counter.get_total_flops() / model.config.context == pytest.approx(
        sheet["training on a token"], rel=0.002)


@pytest.mark.parametrize("preset", ["tiny", "toy"])
def test_adapters_are_those_created(preset):
    model, sheet = AFM(PRESETS[preset]), values(preset, rank=5)
    for rank in (5, 8, 16, 32):
        assert sheet[f"adapter, rank {rank}"] == sum(
            2 * p.numel() for term in lora.create(model, rank).terms.values()
            for p in term.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("bits", [2, 4])
def test_packed_sizes_are_those_of_the_buffers(preset, bits):
    names, sheet = lora.projections(build(preset)), values(preset, bits=bits)
    with torch.device("meta"):
        model = QuantizedAFM(PRESETS[preset], dict.fromkeys(names, bits))
    state = model.state_dict()
    assert sheet["packed codes"] == sum(
        x.nbytes for name, x in state.items() if name.endswith("codes"))
    assert sheet["packed look-up tables"] == sum(
        x.nbytes for name, x in state.items() if name.endswith("tables"))
    assert sheet["packed embedding"] == state["embedding"].nbytes + state["scale"].nbytes
    assert sheet["packed model"] == sum(x.nbytes for x in state.values())


def test_mixed_bits_lie_between():
    names = list(lora.projections(build("afm-on-device")))
    with torch.device("meta"):  # layers in 2 bits, 5 of 26: on average (5 * 2 + 21 * 4) / 26
        model = QuantizedAFM(PRESETS["afm-on-device"], {
            name: 2 if int(name.split(".")[1]) < 5 else 4 for name in names})
    whole = sum(x.nbytes for x in model.state_dict().values())
    assert values("afm-on-device", bits=94 / 26)["packed model"] == pytest.approx(whole, rel=1e-3)


def test_days_by_hand():
    sheet = values("afm-on-device", devices=10, flops=100.0, share=0.5, batch_tokens=10 ** 6)
    assert sheet["tokens a day"] == pytest.approx(5e14 * 86_400 / sheet["training on a token"])
    assert sheet["core, days"] == pytest.approx(6.3e12 / sheet["tokens a day"])
    assert (sheet["continued, a token"] - sheet["core, a token"]
            == 12 * 26 * 24 * 128 * 4096)  # twice as far to look back
    assert sheet["lengthening, steps"] == pytest.approx(100_000)
    assert "pruning, days" in values("afm-parent") and not any(
        "days" in what for what in values("toy"))


def test_each_line_is_right_by_a_pocket_calculator(capsys):
    code, output, errors = call(
        capsys, plan, "--preset", "afm-on-device", "--devices", 3, "--share", 0.37)
    assert (code, errors) == (0, "") and output.count("\n") == 32
    assert ("adapter, rank 16: 26 layers x 53,888 inputs and outputs x 16 x 2 bytes = 44.83 MB\n"
            in output)
    for line in output.splitlines():
        formula, _, result = line.partition(": ")[2].partition(" = ")
        number, _, unit = result.partition(" ")
        scale = 1000 ** " KMGT".index(unit[0]) if unit[1:] else 1
        assert plan.calculate(formula) == pytest.approx(
            float(number.replace(",", "")) * scale, rel=1e-3)


@pytest.mark.parametrize("option, value, message", [
    ("--preset", "huge", "choose one of tiny, toy, afm-on-device, afm-parent"),
    ("--devices", 0, "give 1 to 1,000,000"), ("--share", "nan", "give 0.001 to 1"),
    ("--bits", 5, "give 2 to 4"), ("--batch-tokens", -1, "give 1 to"), ("--rank", 0, "give 1 to")])
def test_bad_input_gets_one_line(option, value, message, capsys):
    code, output, errors = call(capsys, plan, option, value)
    assert ((code, output, errors.count("\n")) == (2, "", 1)
            and errors.startswith(f"error: {option} ") and message in errors)
