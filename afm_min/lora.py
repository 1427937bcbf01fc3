"""LoRA adapters: what a feature adds to a frozen base model (the report's section 5.1).

An adapter gives each projection W, (outputs, inputs), of attention and feed-forward a low-rank
term: W x + B (A x), with A (rank, inputs) and B (outputs, rank). B starts as zeros, so a new
adapter changes nothing. The base never changes. All adapters share it, and one at a time is
attached. `generate.Decoder` merges an attached adapter into its own copy of the weights.
"""
import collections
import functools
import hashlib

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.model import Linear, init_matrix
from afm_min.run import UserError, load, save

# base: `base_id` of the model that it was made for. modules: name of a projection -> LoRA.
Adapter = collections.namedtuple("Adapter", "base rank modules")


class LoRA(nn.Module):
    """The low-rank term of one projection: x -> B (A x)."""

    def __init__(self, rank, inputs, outputs):
        super().__init__()
        self.A = nn.Parameter(init_matrix(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))


def projections(model):
    """Return the matrices of attention and feed-forward: {name: Linear}."""
    return {name: layer for name, layer in model.named_modules()
            if name.startswith("blocks.") and isinstance(layer, Linear)}


def base_id(model):
    """Return a hash, 16 hex digits, of a model's weights without those of an adapter."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".adapter." not in name:
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def create(model, rank):
    """Return a new adapter for a model. The report offers ranks 8, 16 and 32."""
    return Adapter(base_id(model), rank, {
        name: LoRA(rank, layer.inputs, layer.outputs).to(model.embedding.device)
        for name, layer in projections(model).items()})


def check_base(name, base, model):
    """Raise UserError if an adapter's base is not this model. name: the adapter's, for messages."""
    if base != base_id(model):
        raise UserError(f"{name} was made for the base {base}, but this model is {base_id(model)}: "
                        "train it again")


def attach(model, adapter):
    """Attach an adapter to a model.

    Raises UserError, and changes nothing, if the model has one already, or is not the base that the
    adapter was made for. To check this, all weights are read."""
    if any(layer.adapter for layer in projections(model).values()):
        raise UserError("the model has an adapter already: detach it first")
    check_base("the adapter", adapter.base, model)
    use(model, adapter.modules)


def use(model, modules):
    """Set the LoRA of every projection, unchecked. A projection without one in `modules` gets None.

    modules: {name of a projection: LoRA}"""
    for name, layer in projections(model).items():
        layer.adapter = modules.get(name)


def detach(model):
    """Remove the adapter of a model. Its base is unchanged."""
    use(model, {})


def save_adapter(path, adapter, **provenance):
    """Write an adapter in 16 bits."""
    weights = {name: {key: x.half() for key, x in module.state_dict().items()}
               for name, module in adapter.modules.items()}
    save(path, base=adapter.base, rank=adapter.rank, modules=weights, **provenance)


def load_adapter(path, model):
    """Read an adapter for a model. Raises UserError if the file is damaged or for another base."""
    entries = load(path, model.embedding.device)
    if "modules" not in entries:
        raise UserError(f"{path} is a model, not an adapter: choose an adapter's file")
    check_base(path, entries["base"], model)
    adapter = create(model, entries["rank"])
    try:
        for name, module in adapter.modules.items():
            module.load_state_dict(entries["modules"][name])
    except (KeyError, RuntimeError):
        raise UserError(f"{path} does not hold a LoRA of rank {adapter.rank} for each projection "
                        "of this model: train it again") from None
    return adapter


class AdapterCache:
    """The adapters of one base model, in files path(name). The last `keep` ones used stay in
    memory, so switching between them reads no file.

    The base must not change, as it is only checked when a file is read."""

    def __init__(self, model, path, keep=4):
        self.model, self.path = model, path
        self.load = functools.lru_cache(keep)(lambda name: load_adapter(path(name), model))

    def use(self, name):
        """Attach the adapter of this name, or none if it is None.

        If loading fails, the adapter attached before stays."""
        use(self.model, self.load(name).modules if name else {})
