"""Palettization: weights as codes into small look-up tables (the report's section 5.2).

A code is an index into a look-up table (LUT). Every GROUP columns of a projection share a LUT of
2^bits values, found by k-means: 16 values at 4 bits, 4 at 2 bits. The embedding takes 8 bits,
symmetric, with a scale per row.

Codes stay packed in memory, as on disk. A projection is unpacked each time it is used. In training,
autograd holds the unpacked weight until the backward pass has used it.

Shapes: G groups of columns, each with N values; k = 2^bits centres; M bytes.
"""
import contextlib
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.lora import projections
from afm_min.model import AFM, Linear
from afm_min.run import UserError

GROUP = 16  # columns that share a LUT
SLICE = 2 ** 20  # codes or values that are processed at a time, so that memory is bounded


def check_bits(bits):
    """Raise UserError unless codes of so many bits fit a byte."""
    if bits not in range(1, 9):
        raise UserError(f"weights cannot be quantized to {bits} bits: give a whole number, 1 to 8")


def check_range(largest):
    """Raise UserError unless float16 can hold weights of these largest magnitudes, one for each
    LUT or scale: 0, or from its smallest normal number, 2^-14, to its largest, 65504.

    So tiny weights are refused if they have a LUT or scale of their own, as it would round to 0.
    Beside larger ones they become the nearest value of the LUT, as all weights do."""
    fits = (largest == 0) | ((largest >= 2 ** -14) & (largest <= 65504))
    if not fits.all():  # NaN does not fit either
        raise UserError(f"cannot quantize weights whose largest magnitude is {largest[~fits][0]:g}:"
                        " float16 holds 0, and 0.000061 to 65504; train the model again, with "
                        "another learning rate or weight decay")


def pack(codes, bits):
    """Pack integers below 2^bits, of any shape, into bytes (M,): every 8 codes fill `bits` bytes.

    Codes a, b, c, ... of 2 bits, highest bit of each byte first:
        byte 0  d d c c b b a a     byte 1  h h g g f f e e"""
    check_bits(bits)
    code_shifts = bits * torch.arange(8, device=codes.device)
    byte_shifts = 8 * torch.arange(bits, device=codes.device)
    rows = F.pad(codes.flatten(), (0, -codes.numel() % 8)).view(-1, 8)  # -n % 8 zeros: 13 -> 3
    parts = []
    for part in rows.split(SLICE // 8):
        words = (part.long() << code_shifts).sum(1, keepdim=True)  # 8 codes in a 64-bit integer
        parts.append(((words >> byte_shifts) & 255).to(torch.uint8).flatten())
    return torch.cat(parts)


def unpack(packed, bits, shape):
    """Inverse of `pack`: return the codes in their original shape, as bytes."""
    code_shifts = bits * torch.arange(8, device=packed.device)
    byte_shifts = 8 * torch.arange(bits, device=packed.device)
    parts = []
    for part in packed.view(-1, bits).split(SLICE // 8):
        words = (part.long() << byte_shifts).sum(1, keepdim=True)
        parts.append(((words >> code_shifts) & (2 ** bits - 1)).to(torch.uint8).flatten())
    return torch.cat(parts)[:math.prod(shape)].view(shape)


def prefix_sums(values):
    """Prefix sums of (1, x, x^2) over sorted values, so that the moments of any interval are one
    subtraction: (G, N) -> (3, G, N + 1). They start with 0: [2, 5] -> [0, 1, 2], [0, 2, 7],
    [0, 4, 29]"""
    return F.pad(torch.stack((torch.ones_like(values), values, values ** 2)).cumsum(2), (1, 0))


def interval_moments(sums, edges):
    """Return count, sum and sum of squares of the values between successive edges, which are
    indices: (3, G, N + 1), (G, k + 1) -> (3, G, k)."""
    return sums.gather(2, edges.expand(3, -1, -1)).diff(dim=2)


def squared_error(count, total, squares):
    """Return the summed squared distance of some values from their mean, from their moments."""
    return squares - total ** 2 / count.clamp(min=1)


def initial_centres(values, k):
    """Return k centres, (G, k), for sorted values (G, N), dense where the values are dense.

    The best density of centres is the cube root of the density of values (Panter and Dite, 1951).
    Between two neighbours the density of values is 1 / gap, so that of centres is gap^(-1/3), and
    the gap gets the mass gap * gap^(-1/3) = gap^(2/3). The centres are k quantiles of this mass."""
    mass = F.pad(values.diff(dim=1) ** (2 / 3), (1, 0)).cumsum(1)  # (G, N)
    quantiles = (torch.arange(k) + 0.5) / k
    index = torch.searchsorted(mass, mass[:, -1:] * quantiles.to(mass))  # (G, k)
    return values.gather(1, index.clamp(max=values.shape[1] - 1))


def k_means(values, k, rounds=30):
    """Return the centres (G, k), ascending, that Lloyd's algorithm finds for values (G, N).

    It runs from `initial_centres` and from a uniform grid, and each group takes the result with the
    smaller error. Lloyd's algorithm never increases the error, so no group ends up worse than
    uniform quantization (before tables are rounded to float16)."""
    values = values.sort(1).values.double()
    sums = prefix_sums(values)
    low, high = values[:, :1], values[:, -1:]
    grid = low + (high - low) * torch.linspace(0, 1, k, dtype=torch.float64)
    results = []
    for centres in (initial_centres(values, k), grid):
        for _ in range(rounds):
            # The values nearest to a centre lie between the middles to its two neighbours.
            edges = torch.searchsorted(values, (centres[:, 1:] + centres[:, :-1]) / 2)
            # With 0 in front and N behind, successive edges enclose each centre's values.
            edges = F.pad(F.pad(edges, (1, 0)), (0, 1), value=values.shape[1])  # (G, k + 1)
            count, total, squares = interval_moments(sums, edges)
            centres = torch.where(count > 0, total / count, centres)  # one without values stays
        results.append((squared_error(count, total, squares).sum(1), centres))
    (error, centres), (grid_error, grid_centres) = results
    return torch.where((grid_error < error)[:, None], grid_centres, centres)


def palettize(weight, bits):
    """Return codes (outputs, inputs) and LUTs (groups, 2^bits) of a weight (outputs, inputs).

    The last group has fewer columns if GROUP does not divide their number. Pass the transpose to
    group rows. Raises UserError for weights beyond float16: see `check_range`."""
    check_bits(bits)
    codes, luts = torch.empty(weight.shape, dtype=torch.uint8), []
    outputs, columns = weight.shape
    whole = columns - columns % GROUP  # columns in whole groups
    groups_at_once = min(64, max(1, SLICE // (GROUP * outputs)))
    # The incomplete group is a part of its own, as k_means takes groups of equal size:
    # 70 columns, 2 groups at once -> parts 0 to 32, 32 to 64, 64 to 70.
    boundaries = sorted({*range(0, whole, GROUP * groups_at_once), whole, columns})
    for start, stop in itertools.pairwise(boundaries):
        part = weight[:, start:stop].T.float().cpu()  # (columns of some groups, outputs)
        values = part.reshape(-(-len(part) // GROUP), -1)  # (groups, a group's columns * outputs)
        check_range(values.abs().amax(1))
        lut = k_means(values, 2 ** bits).half()
        luts.append(lut)
        middles = (lut[:, 1:].float() + lut[:, :-1].float()) / 2
        codes[:, start:stop] = torch.searchsorted(middles, values).view(part.shape).T
    return codes.to(weight.device), torch.cat(luts).to(weight.device)


class Palettized(Linear):
    """A projection with packed codes and a float16 LUT for each GROUP of columns."""

    def __init__(self, inputs, outputs, bits):
        nn.Module.__init__(self)  # not Linear's, which allocates a weight
        self.inputs, self.outputs, self.bits, self.adapter = inputs, outputs, bits, None
        self.unpacked = None  # the weight, while `keep_unpacked` holds it
        packed_bytes = -(-inputs * outputs // 8) * bits
        self.register_buffer("codes", torch.zeros(packed_bytes, dtype=torch.uint8))
        self.register_buffer("luts", torch.zeros(-(-inputs // GROUP), 2 ** bits).half())

    def pack_weight(self, weight):
        """Store a weight (outputs, inputs)."""
        codes, self.luts = palettize(weight, self.bits)
        self.codes = pack(codes, self.bits)

    @property
    def weight(self):
        """The unpacked weight, (outputs, inputs), float16."""
        if self.unpacked is not None:
            return self.unpacked
        codes = unpack(self.codes, self.bits, (self.outputs, self.inputs))
        # The LUTs one after the other: column c's starts at 2^bits * (c // GROUP).
        group = torch.arange(self.inputs, dtype=torch.int32, device=codes.device) // GROUP
        return self.luts.flatten()[codes + group * 2 ** self.bits]


class QuantizedAFM(AFM):
    """An AFM with palettized projections and an 8-bit embedding.

    bits: {name of a projection, see `lora.projections`: 1 to 8}"""

    def __init__(self, config, bits, dtype=torch.float32):
        super().__init__(config, dtype)
        self.bits = dict(bits)
        for name, layer in projections(self).items():
            self.set_submodule(name, Palettized(layer.inputs, layer.outputs, bits[name]))
        del self.embedding  # a float parameter; the codes, -127 to 127, are a buffer
        self.register_buffer("embedding", torch.zeros(config.vocab_size, config.dim,
                                                      dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(config.vocab_size, 1).half())

    def embed(self, ids):
        return self.embedding[ids].to(self.dtype) * self.scale[ids].to(self.dtype)

    def logits(self, hidden_states):
        # Scaling the logits is cheaper than scaling the embedding: h @ (s E)^T = s (h @ E^T).
        logits = F.linear(hidden_states, self.embedding.to(self.dtype)).float()
        return logits * self.scale[:, 0].float()


@contextlib.contextmanager
def keep_unpacked(model):
    """Keep a quantized model's weights unpacked inside a `with` block, so that training an adapter
    for many steps unpacks them once."""
    layers = projections(model).values()
    for layer in layers:
        layer.unpacked = layer.weight.to(model.dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.unpacked = None


@torch.no_grad()
def quantize_model(model, bits):
    """Return a quantized copy of a float model, without any adapter. bits: see QuantizedAFM."""
    quantized = QuantizedAFM(model.config, bits, model.dtype).to(model.embedding.device)
    for name, layer in projections(model).items():
        quantized.get_submodule(name).pack_weight(layer.weight)
    norms = {name: x for name, x in model.state_dict().items() if "norm" in name}
    quantized.load_state_dict(quantized.state_dict() | norms)
    largest = model.embedding.abs().amax(1, keepdim=True)  # (V, 1)
    check_range(largest)
    # 2^-14 is the smallest normal float16, so a row of zeros is not divided by 0.
    quantized.scale = (largest / 127).clamp(min=2 ** -14).half()
    quantized.embedding = (model.embedding / quantized.scale).round().clamp(-127, 127).char()
    quantized.tokenizer = model.tokenizer
    return quantized.eval()
