"""LoRA adapters: small trained additions to a frozen base model, usually one for each feature, such
as summaries (the report's section 5.1).

An adapter adds a low-rank term to each matrix W, (outputs, inputs), of attention and feed-forward:
W x + B (A x), with A (rank, inputs) and B (outputs, rank). B starts as zeros, so a new adapter
changes nothing. The base never changes, and all adapters share it. At most one is attached at a
time. `generate.Decoder` merges an attached adapter into its own copy of the weights.
"""
import collections
import functools
import hashlib

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.model import Linear, init_matrix
from afm_min.run import UserError, load, save

# base: `base_id` of the model that the adapter was trained for. modules: {projection's name: LoRA}
Adapter = collections.namedtuple("Adapter", "base rank modules")


class LoRA(nn.Module):
    """The low-rank term of one projection: (..., inputs) -> (..., outputs), x -> B (A x)."""

    def __init__(self, rank, inputs, outputs):
        super().__init__()
        self.A = nn.Parameter(init_matrix(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))


def projections(model):
    """Return the Linear layers of attention and feed-forward by name:
    {"blocks.0.attention.query": Linear, ...}"""
    return {name: layer for name, layer in model.named_modules()
            if name.startswith("blocks.") and isinstance(layer, Linear)}


def base_id(model):
    """Return a hash, 16 hex digits, of a model's weights without those of an adapter."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".adapter." not in name:
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def make_modules(model, rank):
    """Return a new LoRA for each projection of a model: {projection's name: LoRA}."""
    if rank < 1:
        raise UserError(f"an adapter of rank {rank} changes nothing: give a rank of 1 or more")
    return {name: LoRA(rank, layer.inputs, layer.outputs)
            for name, layer in projections(model).items()}


def create(model, rank):
    """Return a new adapter for a model. The report offers ranks 8, 16 and 32."""
    modules = {name: module.to(model.embedding.device)
               for name, module in make_modules(model, rank).items()}
    return Adapter(base_id(model), rank, modules)


def check_base(name, base, model):
    """Raise UserError if `base`, an adapter's base_id, is not this model's. name: of the adapter in
    the message, such as its path."""
    expected = base_id(model)
    if base != expected:
        raise UserError(f"{name} was made for the base {base}, but this model has the base "
                        f"{expected}: train it again")


def attach(model, adapter):
    """Attach an adapter to a model.

    Raises UserError, and attaches nothing, if the model has an adapter already, or if the adapter
    was made for another base. To check this, all weights are hashed."""
    if any(layer.adapter for layer in projections(model).values()):
        raise UserError("the model has an adapter already: detach it first")
    check_base("the adapter", adapter.base, model)
    use(model, adapter.modules)


def use(model, modules):
    """Replace the LoRA of every projection, without checking the base as `attach` does.

    modules: {projection's name: LoRA}. A projection that is not in it has no LoRA afterwards."""
    for name, layer in projections(model).items():
        layer.adapter = modules.get(name)


def detach(model):
    """Remove the adapter of a model. Its base is unchanged."""
    use(model, {})


def save_adapter(path, adapter, **provenance):
    """Write an adapter to a file, as float16."""
    weights = {name: {key: x.half() for key, x in module.state_dict().items()}
               for name, module in adapter.modules.items()}
    save(path, base=adapter.base, rank=adapter.rank, modules=weights, **provenance)


def load_adapter(path, model):
    """Read an adapter for a model from a file, without attaching it. The base is hashed once.

    Raises UserError if the file is damaged, no adapter, or for another base."""
    entries = load(path, model.embedding.device)
    if "modules" not in entries:
        raise UserError(f"{path} is a model, not an adapter: choose an adapter's file")
    check_base(path, entries["base"], model)
    base, rank = entries["base"], entries["rank"]
    with torch.device("meta"):  # shapes only: the values are in the file, so none are drawn
        modules = make_modules(model, rank)
    try:
        for name, module in modules.items():
            module.to_empty(device=model.embedding.device)
            module.load_state_dict(entries["modules"][name])
    except (KeyError, RuntimeError):
        raise UserError(f"{path} does not hold a LoRA of rank {rank} for each projection of this "
                        "model: train it again") from None
    return Adapter(base, rank, modules)


class AdapterCache:
    """Switch a base model between adapters. The `keep` adapters used last stay in memory, so
    switching between them reads no file.

    path: function from an adapter's name to its file. Do not change the base's weights while the
    cache is in use: an adapter in memory is not checked again."""

    def __init__(self, model, path, keep=4):
        self.model, self.path = model, path
        self.load = functools.lru_cache(keep)(lambda name: load_adapter(path(name), model))

    def use(self, name):
        """Replace the attached adapter by the one of this name. None: only detach it.

        If loading fails, the adapter attached before stays attached."""
        use(self.model, self.load(name).modules if name else {})
