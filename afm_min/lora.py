"""Low-rank adapters: what a feature adds to a frozen base model (the report's section 5.1).

An adapter gives each projection W of attention and feed-forward, (outputs, inputs), a term of low
rank: W x + up (down x), where down is (rank, inputs) and up (outputs, rank). `up` begins as zeros,
so that a new adapter changes nothing. The base never changes: it is shared by all adapters, one of
which is attached at a time.
"""
import collections
import functools
import hashlib

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.model import Linear, init_matrix
from afm_min.run import UserError, load, save


class LowRank(nn.Module):
    """The term of one projection."""

    def __init__(self, rank, inputs, outputs):
        super().__init__()
        self.down = nn.Parameter(init_matrix(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


# base: `identity` of the model that it was made for. terms: name of a projection -> LowRank.
Adapter = collections.namedtuple("Adapter", "base rank terms")


def projections(model):
    """Name -> each matrix of attention and feed-forward."""
    return {name: layer for name, layer in model.named_modules()
            if name.startswith("blocks.") and isinstance(layer, Linear)}


def identity(model):
    """Names a base by its weights, whatever adapter is attached: 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".adapter." not in name:
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def create(model, rank):
    """A new adapter of a model, which changes nothing yet. Any rank from 1; 8, 16 and 32 are what
    the report offers."""
    return Adapter(identity(model), rank, {
        name: LowRank(rank, layer.inputs, layer.outputs).to(model.embedding.device)
        for name, layer in projections(model).items()})


def check_base(what, base, model):
    """Raise UserError if what was made for a base is to be used with another."""
    if base != identity(model):
        raise UserError(f"{what} was made for the base {base}, not {identity(model)}: "
                        "train it again")


def attach(model, adapter):
    """Let a model use an adapter. Raises UserError, and changes nothing, if it has one already, or
    is not the base that the adapter was made for: all its weights are read for that."""
    if any(layer.adapter for layer in projections(model).values()):
        raise UserError("the model has an adapter already: detach it first")
    check_base("the adapter", adapter.base, model)
    use(model, adapter.terms)


def use(model, terms):
    """Set the terms of all projections, name -> LowRank, unchecked; those not named get none."""
    for name, layer in projections(model).items():
        layer.adapter = terms.get(name)


def detach(model):
    """Leave the base as it was."""
    use(model, {})


@torch.no_grad()
def merge(model):
    """Add an attached adapter to the base's own weights. The model is another base then, with no
    adapter and no extra cost. Raises UserError if its weights are packed."""
    layers = [layer for layer in projections(model).values() if layer.adapter]
    if not all(isinstance(layer.weight, nn.Parameter) for layer in layers):
        raise UserError("a quantized model cannot take in an adapter, but the float model can")
    for layer in layers:
        layer.weight += layer.adapter.up @ layer.adapter.down
        layer.adapter = None


def save_adapter(path, adapter, **origin):
    """Write an adapter, its values in 16 bits."""
    save(path, base=adapter.base, rank=adapter.rank, terms={
        name: [x.detach().half() for x in (term.down, term.up)]
        for name, term in adapter.terms.items()}, **origin)


def load_adapter(path, model):
    """Read an adapter of a model. Raises UserError if the file is damaged, or of another base."""
    entries = load(path, model.embedding.device)
    if "terms" not in entries:
        raise UserError(f"{path} is a model, not an adapter")
    check_base(path, entries["base"], model)
    adapter, values = create(model, entries["rank"]), entries["terms"]
    shapes = {name: [term.down.shape, term.up.shape] for name, term in adapter.terms.items()}
    if shapes != {name: [x.shape for x in pair] for name, pair in values.items()}:
        raise UserError(f"{path} does not hold terms of rank {adapter.rank} for this model: train "
                        "it again")
    for name, term in adapter.terms.items():
        term.down.data, term.up.data = (x.float() for x in values[name])
    return adapter


class Switch:
    """The adapters of a model that stays as it is, at files `path(name)`: one is in use at a time,
    and the last `keep` of them stay in memory, so that what is used in turn is read once."""

    def __init__(self, model, path, keep=4):
        self.model, self.path = model, path
        self.load = functools.lru_cache(keep)(lambda name: load_adapter(path(name), model))

    def use(self, name):
        """Attach the adapter of this name, or with None go back to the base. What was in use stays
        so if that fails."""
        use(self.model, self.load(name).terms if name else {})
