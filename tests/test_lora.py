"""Adapters: what they add by hand, the laws they keep, and what they refuse."""
import pytest
import torch

from afm_min import lora
from afm_min.model import AFM, PRESETS, Config
from afm_min.run import UserError

TINY = Config(dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50,
              context=40)
IDS = torch.tensor([[1, 2, 3, 4, 5]])


def base(seed=0):
    torch.manual_seed(seed)
    return AFM(TINY).eval()


def parameters(adapter):
    return [p for term in adapter.terms.values() for p in term.parameters()]


def trained(model, rank=4, seed=1):
    """An adapter that changes something."""
    torch.manual_seed(seed)
    adapter = lora.create(model, rank)
    for p in parameters(adapter):
        p.data.normal_(std=0.3)
    return adapter


def logits(model):
    with torch.no_grad():
        return model(IDS)


def test_a_term_by_hand():
    # down x = 1*1 + 2*3 = 7 and 0*1 + 1*3 = 3; up (7, 3) = (7 - 3, 2*7) = (4, 14).
    term = lora.LowRank(2, 2, 2)
    term.down.data, term.up.data = (
        torch.tensor([[1.0, 2], [0, 1]]), torch.tensor([[1.0, -1], [2, 0]]))
    assert term(torch.tensor([1.0, 3.0])).tolist() == [4, 14]


def test_a_new_adapter_changes_no_bit_and_is_on_all_projections():
    model = base()
    before, adapter = logits(model), lora.create(model, 8)
    lora.attach(model, adapter)
    assert torch.equal(logits(model), before)
    assert len(adapter.terms) == 14  # two layers: query, key, value, output; gate, up, down
    assert adapter.terms["blocks.1.feed_forward.down"].down.shape == (8, 24)
    assert adapter.terms["blocks.1.feed_forward.down"].up.shape == (16, 8)


def test_merged_equals_attached_and_detached_is_the_base():
    model = base()
    before, adapter = logits(model), trained(model)
    lora.attach(model, adapter)
    attached = logits(model)
    assert (attached - before).abs().max() > 0.1
    lora.detach(model)
    assert torch.equal(logits(model), before)
    lora.attach(model, adapter)
    lora.merge(model)
    assert not any(".adapter." in name for name in model.state_dict())
    torch.testing.assert_close(logits(model), attached, atol=1e-4, rtol=1e-4)
    assert lora.identity(model) != adapter.base  # it is another base now


def test_only_the_adapter_is_trained():
    model = base()
    for p in model.parameters():
        p.requires_grad = False
    lora.attach(model, trained(model))
    model(IDS).sum().backward()
    assert all((p.grad is not None) == (".adapter." in name)
               for name, p in model.named_parameters())


def test_adapters_do_not_mix_and_know_their_base():
    model, other = base(), base(seed=3)
    adapter, before = trained(model), logits(other)
    lora.attach(model, adapter)
    with pytest.raises(UserError, match="detach it first"):
        lora.attach(model, trained(model, seed=5))
    with pytest.raises(UserError, match="made for the base"):
        lora.attach(other, adapter)
    assert torch.equal(logits(other), before)


@pytest.mark.parametrize("rank", [1, 8, 33])
def test_saved_and_loaded_it_is_what_16_bits_hold(tmp_path, rank):
    model, path = base(), tmp_path / "a.pt"
    adapter = trained(model, rank)
    lora.save_adapter(path, adapter)
    for p in parameters(adapter):
        p.data = p.data.half().float()
    lora.attach(model, adapter)
    expected = logits(model)
    lora.detach(model)
    lora.attach(model, lora.load_adapter(path, model))
    assert torch.equal(logits(model), expected)
    values = sum(p.numel() for p in parameters(adapter))
    assert 2 * values < path.stat().st_size < 2 * values + 20_000  # and what names them


def test_bad_files_change_nothing(tmp_path):
    model, path = base(), tmp_path / "a.pt"
    switch = lora.Switch(model, lambda name: tmp_path / f"{name}.pt")
    lora.save_adapter(path, trained(model))
    switch.use("a")
    before = logits(model)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-100])
    lora.save_adapter(tmp_path / "foreign.pt", trained(base(seed=3)))
    short = trained(model)
    del short.terms["blocks.0.attention.key"]
    lora.save_adapter(tmp_path / "short.pt", short)
    rank = trained(model)
    rank.terms["blocks.0.attention.key"].up.data = torch.zeros(1, 4)
    lora.save_adapter(tmp_path / "shape.pt", rank)
    for name, said in (("cut", "damaged"), ("foreign", "made for the base"),
                       ("none", "there is no"), ("short", "does not hold terms of rank 4"),
                       ("shape", "does not hold terms")):
        with pytest.raises(UserError, match=said):
            switch.use(name)
        assert torch.equal(logits(model), before) and switch.load.cache_info().currsize == 1


def test_a_switch_keeps_the_last_few(tmp_path):
    model = base()
    outputs = {}
    for seed, name in enumerate("abc"):
        adapter = trained(model, seed=seed)
        lora.save_adapter(tmp_path / f"{name}.pt", adapter)
    switch = lora.Switch(model, lambda name: tmp_path / f"{name}.pt", keep=2)
    plain = logits(model)
    for name in "abc":
        switch.use(name)
        outputs[name] = logits(model)
    for name in "bc":
        (tmp_path / f"{name}.pt").unlink()
    for name in "cb":  # from memory
        switch.use(name)
        assert torch.equal(logits(model), outputs[name])
    switch.use("a")
    assert torch.equal(logits(model), outputs["a"])
    switch.use("b")
    with pytest.raises(UserError, match="there is no"):  # of the three it was used longest ago
        switch.use("c")
    assert torch.equal(logits(model), outputs["b"]) and switch.load.cache_info().currsize == 2
    switch.use(None)
    assert torch.equal(logits(model), plain)


def test_a_rank_16_adapter_of_the_3b_model_has_tens_of_megabytes():
    # A layer: query, output 6,144 each; key, value 4,096; gate, up, down 11,136: 53,888 times 16,
    # in 26 layers and 2 bytes: 44,834,816.
    with torch.device("meta"):
        model = AFM(PRESETS["afm-on-device"])
        terms = [lora.LowRank(16, layer.inputs, layer.outputs)
                 for layer in lora.projections(model).values()]
    assert 2 * sum(p.numel() for term in terms for p in term.parameters()) == 44_834_816
