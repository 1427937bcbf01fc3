"""Files that were damaged, replaced or cannot be read: refused, and never loaded changed."""
import builtins
import errno
import io
import json
import random

import pytest
import torch

from afm_min import files, lora
from afm_min.files import UserError, atomic_write, load, save
from afm_min.model import AFM, Config, load_model, save_model
from afm_min.quantize import QuantizedAFM, quantize_model
from afm_min.reward import RewardModel
from afm_min.run import Run
from afm_min.tokenizer import Tokenizer
from afm_min.trainer import AdaStar, parameter_groups, save_state


def make_run(folder):
    """Make a run with a small file of every kind."""
    run, tokenizer = Run(folder), Tokenizer.train(["One fish, two fish, red fish."], 275)
    run.create()
    tokenizer.save(run.file("tokenizer.json"))
    torch.manual_seed(0)
    config = Config(dim=8, layers=1, heads=2, kv_heads=1, head_dim=4, hidden=8,
                    vocab_size=tokenizer.vocab_size, context=16)
    model = AFM(config)
    save_model(run, "core", model)
    save_model(run, "sft", AFM(config))
    save_model(run, "reward1", RewardModel(config))
    save_state(run, "sft", model, AdaStar(parameter_groups(model), 0.1), 50)
    packed = quantize_model(model, dict.fromkeys(lora.projections(model), 4))
    save_model(run, "quantize", packed, bits=packed.bits)
    lora.save_adapter(run.checkpoint("math"), lora.create(packed, 2), **run.provenance("math"))
    save(run.file("tokens.pt"), train={"a": torch.arange(99)}, **run.provenance("tokenizer"))
    run.write_json("report.json", {"core": {"metrics": {"loss": 1.25, "table": [[1, "x"]]}}})
    run.write_json("run.json", {"preset": "tiny", "seed": 0, "set": {"core.steps": 3}})
    run.write_json("mixture.json", {"math": 1.5, "tools": 0.25})
    run.write_lines("demonstrations", [{"text": f"number {i}"} for i in range(9)])
    run.write_lines("preferences1", [{"pairs": [[0, 1]], "grades": [2, 0]}] * 9)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "files")


def read(path):
    """Return the content of a file of a run, as the code that uses it reads it, as a string."""
    if path.name == "tokenizer.json":
        tokenizer = Tokenizer.load(path)
        content = [tokenizer.pattern, list(tokenizer.characters), list(tokenizer.merges)]
    elif path.suffix == ".pt":
        content = load(path)
    elif path.suffix == ".json":
        content = Run(path.parent).read_json(path.name)
    else:
        content = Run(path.parent).read_lines(path.stem)
    return json.dumps(content, default=torch.Tensor.tolist)


def damage(whole, others, draw):
    """Return the content of a file after a random kind of damage. others: contents of others."""
    kind, changed = draw.choice(("cut", "bit", "bits", "zeros", "empty", "foreign", "swapped",
                                 "text")), bytearray(whole)
    if kind == "cut":
        return whole[:draw.randrange(len(whole))]
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 8):
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == "zeros":
        start = draw.randrange(len(whole))
        return whole[:start] + bytes(len(whole[start:start + 64])) + whole[start + 64:]
    if kind == "text":  # a digit becomes another one, as in an edited file
        places = [i for i, byte in enumerate(whole) if byte in b"0123456789"]
        changed[draw.choice(places)] = draw.choice(b"0123456789")
        return bytes(changed)
    if kind == "swapped":
        return draw.choice(others)
    return b"" if kind == "empty" else draw.choice((
        draw.randbytes(300), b"PK" + draw.randbytes(99), b"{}", b"[]", b"\x80\x02", b"null\n",
        b"{}\n" + whole, whole + b"\n{}\n", b"[" * 5000))


def test_a_damaged_file_of_any_kind_is_refused_or_loads_unchanged(run, tmp_path):
    """A few changes, such as of blanks in JSON, do not change the content."""
    contents = {path: path.read_bytes() for path in sorted(run.path.iterdir())}
    draw, refused = random.Random(0), 0
    for i in range(400):
        path, whole = draw.choice(list(contents.items()))
        others = [content for other, content in contents.items() if other != path]
        copy = tmp_path / path.name
        copy.write_bytes(damage(whole, others, draw))
        try:
            content = read(copy)
        except UserError as error:
            refused += 1
            assert "damaged" in str(error) and "\n" not in str(error)
            assert "delete" not in str(error)
        else:
            assert content == read(path), (i, path.name)
    assert refused > 300


def test_every_file_is_readable_where_it_is(run):
    for path in run.path.iterdir():
        assert read(path)


def test_the_checksum_of_a_checkpoint_does_not_disturb_torch_load(run):
    assert torch.load(run.checkpoint("core"), weights_only=True).keys() == load(
        run.checkpoint("core")).keys()


@pytest.mark.parametrize("stage, kind, message", [
    ("math", AFM, "is no model"), ("math", QuantizedAFM, "is no model"),
    ("quantize", AFM, "is quantized"), ("reward1", AFM, "does not hold the parameters of AFM"),
    ("core", RewardModel, "does not hold the parameters of RewardModel")])
def test_a_model_of_another_kind_is_refused(run, stage, kind, message):
    with pytest.raises(UserError, match=message) as error:
        load_model(run, stage, kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error, message", [
    (OSError(errno.EMFILE, "Too many open files"), "cannot read .*a.pt: Too many open files"),
    (PermissionError(errno.EACCES, "Permission denied"), "cannot read .*a.pt: Permission denied")])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch, error, message):
    save(tmp_path / "a.pt", x=1)

    def fail(*_):
        raise error
    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        patch.setattr(builtins, "open", fail)
        load(tmp_path / "a.pt")
    assert load(tmp_path / "a.pt") == {"x": 1}


@pytest.mark.parametrize("error, message", [
    (MemoryError(), "cannot load .*a.pt: out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory.\nMore"), "cannot load .*a.pt: CUDA out of"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory")])
def test_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch, error, message):
    save(tmp_path / "a.pt", x=1)

    def fail(*_, **__):
        raise error
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match=message) as refused:
        load(tmp_path / "a.pt")
    assert "damaged" not in str(refused.value) and "\n" not in str(refused.value)


class FullDisk(io.BytesIO):
    def write(self, _):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_failed_write_names_its_cause(tmp_path):
    with pytest.raises(UserError, match="cannot write .*a.pt: Disk quota exceeded; what was there"):
        with atomic_write(tmp_path / "a.pt"):
            torch.save({"x": torch.ones(1000)}, FullDisk())
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_no_failed_write_is_raised_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA error"), atomic_write(tmp_path / "a.pt"):
        raise RuntimeError("CUDA error: device-side assert")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_named(tmp_path):
    """Whichever rank wrote it: in one process, there is one file of weights."""
    folder = tmp_path / "core-50.shards"
    files.save_sharded({"model": {"w": torch.arange(9.0)}}, folder)
    state = {"model": {"w": torch.zeros(9)}}
    files.load_sharded(state, folder)
    assert state["model"]["w"].tolist() == list(range(9))
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for changed in (whole[:-9], whole[:20] + b"?" + whole[21:], b""):
            path.write_bytes(changed)
            with pytest.raises(UserError, match="core-50.shards is damaged .*: train its stage"):
                files.load_sharded(state, folder)
        path.write_bytes(whole)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match="core-50.shards is damaged"):
            files.load_sharded(state, folder)
        path.write_bytes(whole)
    with pytest.raises(UserError, match="none is damaged"):
        files.load_sharded(state, tmp_path / "none")
    files.load_sharded(state, folder)
