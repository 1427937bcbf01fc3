"""Palettization: weights as codes into small look-up tables (the report's section 5.2).

A code is an index into a look-up table (LUT). Every GROUP columns of a projection share a LUT of
2^bits values, found by k-means: 16 values at 4 bits, 4 at 2 bits. Each group has its own number of
bits. The embedding takes 8 bits, symmetric, with a scale per row.

Codes stay packed in memory, as on disk, and a projection is unpacked each time it is used. Only the
training of adapters keeps the weights unpacked, see `keep_unpacked`.

Shapes: N values of a group; k = 2^bits centres; M bytes.
"""
import contextlib
import math

import torch
from torch import nn
from torch.nn import functional as F

from afm_min.lora import projections
from afm_min.model import AFM, Linear
from afm_min.run import UserError

GROUP = 16  # columns that share a LUT


def check_bits(bits):
    """Raise UserError unless codes of so many bits fit a byte."""
    if bits not in range(1, 9):
        raise UserError(f"weights cannot be quantized to {bits} bits: give a whole number, 1 to 8")


def check_range(largest):
    """Raise UserError unless float16 can hold the largest magnitude of the weights of each LUT or
    scale. It must be 0, or in float16's normal range, 2^-14 to 65504.

    So if all weights of a LUT are tiny, they are refused. If only some are, they become the nearest
    value of the LUT."""
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
    rows = F.pad(codes.flatten(), (0, -codes.numel() % 8)).view(-1, 8)  # 13 codes: 3 zeros more
    words = (rows.long() << code_shifts).sum(1, keepdim=True)  # 8 codes in a 64-bit integer
    return ((words >> byte_shifts) & 255).to(torch.uint8).flatten()


def unpack(packed, bits, shape):
    """Inverse of `pack`: return the codes in their original shape, as bytes."""
    code_shifts = bits * torch.arange(8, device=packed.device)
    byte_shifts = 8 * torch.arange(bits, device=packed.device)
    words = (packed.view(-1, bits).long() << byte_shifts).sum(1, keepdim=True)
    codes = ((words >> code_shifts) & (2 ** bits - 1)).to(torch.uint8).flatten()
    return codes[:math.prod(shape)].view(shape)


def prefix_sums(values):
    """Return prefix sums of (1, x, x^2) over sorted values, so that the moments of any interval are
    one subtraction: (N,) -> (3, N + 1). [2, 5] -> [[0, 1, 2], [0, 2, 7], [0, 4, 29]]"""
    return F.pad(torch.stack((torch.ones_like(values), values, values ** 2)).cumsum(1), (1, 0))


def interval_moments(sums, edges):
    """Return count, sum and sum of squares of the values between successive edges, which are
    indices: (3, N + 1), (k + 1,) -> (3, k). sums: see `prefix_sums`."""
    return sums[:, edges].diff(dim=1)


def squared_error(count, total, squares):
    """Return the sum of squared distances from the mean, by the moments of an interval."""
    return squares - total ** 2 / count.clamp(min=1)


def initial_centres(values, k):
    """Return k centres, (k,), for sorted values (N,), dense where the values are dense.

    The best density of centres is proportional to the cube root of the density of values (Panter
    and Dite, 1951). Between neighbours the values' density is 1 / gap, so the centres' is
    gap^(-1/3), a mass of gap * gap^(-1/3) = gap^(2/3). The centres are k quantiles of this mass."""
    mass = F.pad(values.diff() ** (2 / 3), (1, 0)).cumsum(0)  # (N,)
    quantiles = (torch.arange(k) + 0.5) / k
    index = torch.searchsorted(mass, mass[-1] * quantiles.to(mass))  # (k,)
    return values[index.clamp(max=len(values) - 1)]


def k_means(values, k, rounds=30):
    """Return the centres (k,), ascending, that Lloyd's algorithm finds for values (N,).

    It starts once from `initial_centres` and once from a uniform grid; the result with the smaller
    error is returned. The algorithm never increases the error, so the result is no worse than
    uniform quantization (before LUTs are rounded to float16)."""
    values = values.sort().values.double()
    sums = prefix_sums(values)
    grid = values[0] + (values[-1] - values[0]) * torch.linspace(0, 1, k, dtype=torch.float64)
    results = []
    for centres in (initial_centres(values, k), grid):
        for _ in range(rounds):
            # A centre's values lie between its midpoints with the centres before and after it.
            edges = torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
            # With 0 in front and N behind, centre i has the values from edge i to edge i + 1.
            edges = F.pad(F.pad(edges, (1, 0)), (0, 1), value=len(values))  # (k + 1,)
            count, total, squares = interval_moments(sums, edges)
            centres = torch.where(count > 0, total / count, centres)  # one without values stays
        results.append((squared_error(count, total, squares).sum().item(), centres))
    return min(results, key=lambda result: result[0])[1]


def palettize(weight, bits):
    """Return the codes (outputs, columns) and the LUT (k,), ascending, of a group of columns.

    weight: (outputs, columns), float32 on a CPU. Raises UserError for weights that float16 cannot
    hold, see `check_range`."""
    check_bits(bits)
    check_range(weight.abs().max())
    lut = k_means(weight.flatten(), 2 ** bits).half()
    midpoints = (lut[1:].float() + lut[:-1].float()) / 2
    # The index of the nearest value of the LUT is the number of midpoints below the weight.
    return torch.searchsorted(midpoints, weight.contiguous()).to(torch.uint8), lut


def group_columns(inputs):
    """Return the number of columns in each group: 40 -> [16, 16, 8]"""
    return [min(GROUP, inputs - start) for start in range(0, inputs, GROUP)]


class Palettized(Linear):
    """A projection with packed codes, and a float16 LUT for each group of columns.

    bits: the bits of each group's codes, a list, or of all groups' codes, a number. The buffers
    `codes`, each group packed into whole bytes, and `luts` have one group after the other."""

    def __init__(self, inputs, outputs, bits):
        nn.Module.__init__(self)  # not Linear's, which allocates a weight
        self.inputs, self.outputs, self.adapter = inputs, outputs, None
        self.columns = group_columns(inputs)
        self.bits = [bits] * len(self.columns) if isinstance(bits, int) else list(bits)
        self.unpacked = None  # the weight, while `keep_unpacked` holds it
        self.packed_bytes = [math.ceil(outputs * columns / 8) * width  # of each group
                             for columns, width in zip(self.columns, self.bits, strict=True)]
        self.register_buffer("codes", torch.zeros(sum(self.packed_bytes), dtype=torch.uint8))
        self.register_buffer("luts", torch.zeros(sum(2 ** width for width in self.bits)).half())

    def pack_weight(self, weight):
        """Store a weight (outputs, inputs)."""
        packed, luts = [], []
        for group, width in zip(weight.float().cpu().split(GROUP, 1), self.bits):
            codes, lut = palettize(group, width)
            packed.append(pack(codes, width))
            luts.append(lut)
        self.codes = torch.cat(packed).to(weight.device)
        self.luts = torch.cat(luts).to(weight.device)

    @property
    def weight(self):
        """The unpacked weight, (outputs, inputs): float16, or as `keep_unpacked` holds it."""
        if self.unpacked is not None:
            return self.unpacked
        packed = self.codes.split(self.packed_bytes)
        luts = self.luts.split([2 ** width for width in self.bits])
        groups = [lut[unpack(codes, width, (self.outputs, columns)).int()]
                  for columns, width, codes, lut in zip(self.columns, self.bits, packed, luts)]
        return torch.cat(groups, 1)


class QuantizedAFM(AFM):
    """An AFM with palettized projections and an 8-bit embedding.

    bits: {projection's name: bits of its groups}, see `lora.projections` and `Palettized`."""

    def __init__(self, config, bits, dtype=torch.float32):
        super().__init__(config, dtype)
        for name, layer in projections(self).items():
            self.set_submodule(name, Palettized(layer.inputs, layer.outputs, bits[name]))
        self.bits = {name: layer.bits for name, layer in projections(self).items()}
        del self.embedding  # a float parameter; the codes, -127 to 127, are a buffer
        self.register_buffer("embedding", torch.zeros(config.vocab_size, config.dim,
                                                      dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(config.vocab_size, 1).half())

    def embed(self, ids):
        return self.embedding[ids].to(self.dtype) * self.scale[ids].to(self.dtype)

    def logits(self, hidden_states):
        # Scaling the logits is cheaper than scaling the embedding: h @ (s E)^T = s (h @ E^T).
        logits = F.linear(hidden_states, self.embedding.to(hidden_states.dtype)).float()
        return logits * self.scale[:, 0].float()


@contextlib.contextmanager
def keep_unpacked(model):
    """Keep a quantized model's weights unpacked inside a `with` block: training an adapter for many
    steps then unpacks them only once."""
    layers = [layer for layer in projections(model).values() if isinstance(layer, Palettized)]
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
