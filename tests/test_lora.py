"""LoRA adapters: their term by hand, the laws they keep, and the files they refuse."""
import pytest
import torch

from afm_min import lora
from afm_min.generate import Cache, Decoder
from afm_min.model import AFM, PRESETS, Config
from afm_min.run import UserError

TINY = Config(dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50,
              context=40)
IDS = torch.tensor([[1, 2, 3, 4, 5]])


def make_base(seed=0):
    torch.manual_seed(seed)
    return AFM(TINY).eval()


def parameters(adapter):
    return [p for module in adapter.modules.values() for p in module.parameters()]


def random_adapter(model, rank=4, seed=1):
    """An adapter that changes the model's logits, unlike a new one."""
    torch.manual_seed(seed)
    adapter = lora.create(model, rank)
    for p in parameters(adapter):
        p.data.normal_(std=0.3)
    return adapter


@torch.no_grad()
def logits(model):
    return model(IDS)


def test_lora_by_hand():
    # A x = 1*1 + 2*3 = 7 and 0*1 + 1*3 = 3. B (7, 3) = (7 - 3, 2*7) = (4, 14).
    module = lora.LoRA(rank=2, inputs=2, outputs=2)
    module.A.data = torch.tensor([[1.0, 2], [0, 1]])
    module.B.data = torch.tensor([[1.0, -1], [2, 0]])
    assert module(torch.tensor([1.0, 3.0])).tolist() == [4, 14]


def test_a_new_adapter_changes_no_bit_and_covers_all_projections():
    model = make_base()
    before, adapter = logits(model), lora.create(model, rank=8)
    lora.attach(model, adapter)
    assert torch.equal(logits(model), before)
    assert len(adapter.modules) == 14  # two layers: query, key, value, output; gate, up, down
    assert adapter.modules["blocks.1.feed_forward.down"].A.shape == (8, 24)
    assert adapter.modules["blocks.1.feed_forward.down"].B.shape == (16, 8)


def test_a_detached_adapter_leaves_the_base_unchanged():
    model = make_base()
    before = logits(model)
    lora.attach(model, random_adapter(model))
    assert (logits(model) - before).abs().max() > 0.1
    lora.detach(model)
    assert torch.equal(logits(model), before)


def test_merged_equals_attached():
    """A Decoder merges the adapter into its copy of the weights."""
    model = make_base()
    lora.attach(model, random_adapter(model))
    with torch.no_grad():
        decoder = Decoder(model)
        merged = decoder.logits(decoder(IDS, Cache(decoder, rows=1, size=5)))
    torch.testing.assert_close(merged, logits(model), atol=1e-4, rtol=1e-4)


def test_the_base_id_depends_on_the_weights_but_not_on_an_adapter():
    model = make_base()
    before = lora.base_id(model)
    lora.attach(model, random_adapter(model))
    assert lora.base_id(model) == before
    model.blocks[0].attention.query.weight.data[0, 0] += 1
    assert lora.base_id(model) != before


def test_only_the_adapter_is_trained():
    model = make_base()
    for p in model.parameters():
        p.requires_grad = False
    lora.attach(model, random_adapter(model))
    model(IDS).sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (".adapter." in name)


def test_a_second_adapter_is_refused():
    model = make_base()
    lora.attach(model, random_adapter(model))
    with pytest.raises(UserError, match="detach it first"):
        lora.attach(model, random_adapter(model, seed=5))


def test_an_adapter_of_another_base_is_refused():
    model, other = make_base(), make_base(seed=3)
    adapter, before = random_adapter(model), logits(other)
    with pytest.raises(UserError, match="made for the base"):
        lora.attach(other, adapter)
    assert torch.equal(logits(other), before)


@pytest.mark.parametrize("rank", [1, 8, 33])
def test_a_loaded_adapter_has_the_values_saved_in_16_bits(tmp_path, rank):
    model, path = make_base(), tmp_path / "a.pt"
    adapter = random_adapter(model, rank)
    lora.save_adapter(path, adapter)
    for p in parameters(adapter):
        p.data = p.data.half().float()
    lora.attach(model, adapter)
    expected = logits(model)
    lora.detach(model)
    lora.attach(model, lora.load_adapter(path, model))
    assert torch.equal(logits(model), expected)
    values = sum(p.numel() for p in parameters(adapter))
    assert 2 * values < path.stat().st_size < 2 * values + 20_000  # the rest are names


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_1_is_refused(tmp_path, rank):
    """When it is made, and when it is read."""
    model, path = make_base(), tmp_path / "a.pt"
    with pytest.raises(UserError, match=f"an adapter of rank {rank} changes nothing: give a rank"):
        lora.create(model, rank)
    lora.save_adapter(path, lora.Adapter(lora.base_id(model), rank, {}))
    with pytest.raises(UserError, match=f"an adapter of rank {rank} changes nothing: give a rank"):
        lora.load_adapter(path, model)


def test_loading_hashes_the_base_once_and_draws_no_random_numbers(tmp_path, monkeypatch):
    model, path, hashed = make_base(), tmp_path / "a.pt", []
    lora.save_adapter(path, random_adapter(model))
    base_id = lora.base_id
    monkeypatch.setattr(lora, "base_id", lambda model: (hashed.append(model), base_id(model))[1])
    state = torch.get_rng_state()
    adapter = lora.load_adapter(path, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(hashed) == 1
    assert {p.dtype for p in parameters(adapter)} == {torch.float32}
    assert all(p.requires_grad for p in parameters(adapter))
    with pytest.raises(UserError, match="made for the base"):
        lora.load_adapter(path, make_base(seed=3))
    assert len(hashed) == 2


def test_a_bad_file_is_refused_and_leaves_the_adapter_in_use(tmp_path):
    model, path = make_base(), tmp_path / "a.pt"
    cache = lora.AdapterCache(model, lambda name: tmp_path / f"{name}.pt")
    lora.save_adapter(path, random_adapter(model))
    cache.use("a")
    before = logits(model)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-100])
    lora.save_adapter(tmp_path / "foreign.pt", random_adapter(make_base(seed=3)))
    short = random_adapter(model)
    del short.modules["blocks.0.attention.key"]
    lora.save_adapter(tmp_path / "short.pt", short)
    narrow = random_adapter(model)
    narrow.modules["blocks.0.attention.key"].B.data = torch.zeros(1, 4)
    lora.save_adapter(tmp_path / "shape.pt", narrow)
    for name, message in (("cut", "damaged"), ("foreign", "made for the base"),
                          ("none", "there is no"), ("short", "does not hold a LoRA of rank 4"),
                          ("shape", "does not hold a LoRA")):
        with pytest.raises(UserError, match=message):
            cache.use(name)
        assert torch.equal(logits(model), before)
        assert cache.load.cache_info().currsize == 1


def test_a_cache_keeps_the_last_adapters_used(tmp_path):
    model = make_base()
    for seed, name in enumerate("abc"):
        lora.save_adapter(tmp_path / f"{name}.pt", random_adapter(model, seed=seed))
    cache = lora.AdapterCache(model, lambda name: tmp_path / f"{name}.pt", keep=2)
    without, outputs = logits(model), {}
    for name in "abc":
        cache.use(name)
        outputs[name] = logits(model)
    for name in "bc":
        (tmp_path / f"{name}.pt").unlink()
    for name in "cb":  # both are in memory
        cache.use(name)
        assert torch.equal(logits(model), outputs[name])
    cache.use("a")
    assert torch.equal(logits(model), outputs["a"])
    cache.use("b")
    with pytest.raises(UserError, match="there is no"):  # c is the one used longest ago
        cache.use("c")
    assert torch.equal(logits(model), outputs["b"])
    assert cache.load.cache_info().currsize == 2
    cache.use(None)
    assert torch.equal(logits(model), without)


def test_a_rank_16_adapter_of_the_3b_model_has_tens_of_megabytes():
    # A layer: query, output 6,144 each; key, value 4,096; gate, up, down 11,136: 53,888 times 16,
    # in 26 layers and 2 bytes: 44,834,816.
    with torch.device("meta"):
        model = AFM(PRESETS["afm-on-device"])
        modules = [lora.LoRA(16, layer.inputs, layer.outputs)
                   for layer in lora.projections(model).values()]
    assert 2 * sum(p.numel() for module in modules for p in module.parameters()) == 44_834_816
