"""Palettization: weights as codes into small look-up tables (the report's section 5.2).

Every 16 columns of a projection share a table of 2^bits values, found by k-means: 16 values for 4
bits, 4 for 2. The embedding takes 8 bits, symmetric, and a scale per row, which is a channel of the
output. Codes stay packed in memory as on disk: a projection is unpacked where it is used, and
forgotten (in training, only after the backward pass).
"""
import contextlib
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.lora import projections
from afm_min.model import AFM, Config, Linear
from afm_min.run import UserError, compute_dtype
from afm_min.tokenizer import Tokenizer

GROUP = 16  # columns that share a table
BINS = 256  # which the first centres of k-means are chosen among
SLICE = 2 ** 20  # codes that are packed or unpacked at a time, so that memory is bounded


def cut(rows, width, new):
    """Rows of integers of `width` bits, at most 64 bits a row -> the same bits, cut into integers
    of `new` bits."""
    at, parts = torch.arange(8, device=rows.device), []
    for part in rows.split(SLICE // 8):
        words = (part.long() << (width * at[:part.shape[1]])).sum(1, keepdim=True)
        fields = (words >> (new * at[:part.shape[1] * width // new])) & (2 ** new - 1)
        parts.append(fields.to(torch.uint8).flatten())
    return torch.cat(parts)


def pack(codes, bits):
    """Integers below 2^bits, of any shape -> bytes, in which 8 of them fill `bits` bytes."""
    return cut(F.pad(codes.flatten(), (0, -codes.numel() % 8)).view(-1, 8), bits, 8)


def unpack(packed, bits, shape):
    """What `pack` was given, of that shape, as bytes."""
    return cut(packed.view(-1, bits), 8, bits)[:math.prod(shape)].view(shape)


def sums_of(values):
    """Of the first 0, 1, ... N of sorted values (G, N): how many, their sum and squares, together
    (3, G, N + 1). They give those of any stretch by a subtraction: so a round of k-means costs no
    more for a million values than for a hundred."""
    return F.pad(torch.stack((torch.ones_like(values), values, values ** 2)).cumsum(2), (1, 0))


def within(sums, cuts):
    """Ends of stretches (G, K + 1) -> how many values, their sum and squares: 3 of (G, K)."""
    return sums.gather(2, cuts.expand(3, -1, -1)).diff(dim=2)


def spread(count, total, squares):
    """Squared distance of some values from their mean."""
    return squares - total ** 2 / count.clamp(min=1)


def best_start(values, sums, k):
    """Centres (G, k) of least error, if only whole bins may share one, by dynamic programming.

    The best centres are as dense as the cube root of the values' density (Panter and Dite, 1951).
    So are the bins: between two neighbouring values the density is 1 / gap, and so gap^(2/3) is
    their share of the bins. With no more values than BINS, each has its own, and the centres are
    the optimum."""
    size = values.shape[1]
    dense = F.pad(values.diff(dim=1) ** (2 / 3), (1, 0)).cumsum(1)  # (G, N)
    edges = torch.searchsorted(dense, dense[:, -1:] * torch.linspace(0, 1, BINS + 1))  # (G, E)
    edges[:, 0], edges[:, -1] = 0, size
    if size <= BINS:
        edges = torch.arange(size + 1).expand(len(values), -1)
    at = sums.gather(2, edges.expand(3, -1, -1))  # (3, G, E)
    cost = spread(*(at[:, :, None, :] - at[:, :, :, None])).float()  # (G, E, E): of from, to
    cost = cost.masked_fill(torch.ones_like(cost[0]).tril(-1).bool(), torch.inf)
    least, paths = cost[:, 0], edges.new_empty(*edges.shape, 0)
    for _ in range(k - 1):  # least of so many clusters up to each edge, (G, E); their ends before
        least, origin = (least[:, :, None] + cost).min(1)
        origin = origin[:, :, None]
        paths = torch.cat((paths.gather(1, origin.expand_as(paths)), origin), 2)
    cuts = F.pad(F.pad(paths[:, -1], (1, 0)), (0, 1), value=edges.shape[1] - 1)  # (G, k + 1)
    count, total, _ = within(sums, edges.gather(1, cuts))
    return torch.where(count > 0, total / count, values[:, -1:]).sort(1).values


def k_means(values, k, rounds=30):
    """Centres (G, k), ascending, of each of G groups of values (G, N), of least squared error.

    By Lloyd's algorithm, from the best start by bins and from a uniform grid: the better of the two
    counts, so that it is never worse than uniform quantization."""
    values = values.sort(1).values.double()
    sums, low, high = sums_of(values), values[:, :1], values[:, -1:]
    grid = low + (high - low) * torch.linspace(0, 1, k, dtype=torch.float64)
    found = []
    for centres in (best_start(values, sums, k), grid):
        for _ in range(rounds):
            cuts = torch.searchsorted(values, (centres[:, 1:] + centres[:, :-1]) / 2)
            cuts = F.pad(F.pad(cuts, (1, 0)), (0, 1), value=values.shape[1])  # (G, k + 1)
            count, total, squares = within(sums, cuts)
            centres = torch.where(count > 0, total / count, centres)
        found.append((spread(count, total, squares).sum(1), centres))
    (error, centres), (grid_error, from_grid) = found
    return torch.where((grid_error < error)[:, None], from_grid, centres)


def palettize(weight, bits):
    """Codes (outputs, inputs) and tables (groups, 2^bits) of a weight (outputs, inputs): GROUP
    columns share a table, or as many as are left. Give the transpose to share by rows.

    Some groups at a time, so that memory is bounded: 64, as `best_start` takes BINS^2 numbers for
    each, or fewer, as they have SLICE values together."""
    codes, tables = torch.empty(weight.shape, dtype=torch.uint8), []
    columns = weight.shape[1]
    whole = columns - columns % GROUP
    step = GROUP * min(64, max(1, SLICE // (GROUP * len(weight))))
    for start, stop in itertools.pairwise(sorted({*range(0, whole, step), whole, columns})):
        part = weight[:, start:stop].T.float().cpu()  # (columns of g groups, outputs)
        values = part.reshape(-(-len(part) // GROUP), -1)  # (g, a group's columns * outputs)
        tables.append(k_means(values, 2 ** bits).half())  # (g, 2^bits)
        middles = (tables[-1][:, 1:].float() + tables[-1][:, :-1].float()) / 2
        codes[:, start:stop] = torch.searchsorted(middles, values).view(part.shape).T
    return codes.to(weight.device), torch.cat(tables).to(weight.device)


class Palettized(Linear):
    """A projection whose weight is packed: codes as bytes, and float16 tables, one per GROUP of
    columns."""

    def __init__(self, inputs, outputs, bits):
        nn.Module.__init__(self)  # not Linear's, which makes a weight
        self.inputs, self.outputs, self.bits, self.adapter = inputs, outputs, bits, None
        self.unpacked = None  # the weight, while `keep_unpacked` holds it
        size = -(-inputs * outputs // 8) * bits
        self.register_buffer("codes", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("tables", torch.zeros(-(-inputs // GROUP), 2 ** bits).half())

    def fill(self, weight):
        """Pack a weight, (outputs, inputs)."""
        codes, self.tables = palettize(weight, self.bits)
        self.codes = pack(codes, self.bits)

    @property
    def weight(self):
        """Unpacked, (outputs, inputs), float16."""
        if self.unpacked is not None:
            return self.unpacked
        codes = unpack(self.codes, self.bits, (self.outputs, self.inputs))
        groups = torch.arange(self.inputs, dtype=torch.int32, device=codes.device) // GROUP
        return self.tables.flatten()[codes + groups * 2 ** self.bits]


class QuantizedAFM(AFM):
    """A model whose projections are palettized, and its embedding in 8 bits.

    bits: name of a projection, as `lora.projections` has it -> 1 to 8."""

    def __init__(self, config, bits, dtype=torch.float32):
        super().__init__(config, dtype)
        self.bits = dict(bits)
        for name, layer in projections(self).items():
            self.set_submodule(name, Palettized(layer.inputs, layer.outputs, bits[name]))
        del self.embedding
        self.register_buffer("embedding", torch.zeros(config.vocab_size, config.dim).char())
        self.register_buffer("scale", torch.zeros(config.vocab_size, 1).half())

    def embed(self, ids):
        return self.embedding[ids].to(self.dtype) * self.scale[ids].to(self.dtype)

    def logits(self, states):
        return F.linear(states, self.embedding.to(self.dtype)).float() * self.scale[:, 0].float()


@contextlib.contextmanager
def keep_unpacked(model):
    """Hold the weights of a packed model unpacked: what trains its adapters for many steps need not
    unpack them in each."""
    layers = projections(model).values()
    for layer in layers:
        layer.unpacked = layer.weight.to(model.dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.unpacked = None


@torch.no_grad()
def quantized(model, bits):
    """A float model -> the same, packed, without any adapter. bits: as for QuantizedAFM."""
    packed = QuantizedAFM(model.config, bits, model.dtype).to(model.embedding.device)
    for name, layer in projections(model).items():
        packed.get_submodule(name).fill(layer.weight)
    state = {name: x for name, x in model.state_dict().items() if "norm" in name}
    packed.load_state_dict(packed.state_dict() | state)
    packed.scale = (model.embedding.abs().amax(1, keepdim=True) / 127).clamp(min=2 ** -14).half()
    packed.embedding = (model.embedding / packed.scale).round().clamp(-127, 127).to(torch.int8)
    packed.tokenizer = model.tokenizer
    return packed.eval()


def load_quantized(run, stage):
    """The packed model that a stage ended with. Raises UserError if that is not packed."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    entries = run.load(run.checkpoint(stage), run.device)
    if "bits" not in entries:
        raise UserError(f"{run.checkpoint(stage)} is not quantized")
    model = QuantizedAFM(Config(**entries["config"]), entries["bits"], compute_dtype(run.device))
    model.load_state_dict(entries["model"])
    model.tokenizer = tokenizer
    return model.to(run.device).eval()
