"""The transformer: dense, decoder-only, pre-norm, no biases (the report's section 2.1).

Shapes: B batch, T tokens, C model dim, H query heads, K key/value heads, G = H / K query heads per
key/value head, D head dim, V vocabulary.
"""
import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import distributed
from afm_min.run import UserError, compute_dtype, save
from afm_min.tokenizer import Tokenizer

MASKED = -1e9  # added to the score of a token that may not be seen; a row of -inf would give NaN


@dataclasses.dataclass(frozen=True)
class Config:
    dim: int  # C, width of the residual stream
    layers: int
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads
    head_dim: int  # D
    hidden: int  # feed-forward units per layer
    vocab_size: int  # V
    context: int  # length of the sequences it is trained on, and the longest one it accepts
    rope_base: float = 500_000.0  # 6,315,089 after context lengthening
    norm_eps: float = 1e-5

    def __post_init__(self):
        if min(dataclasses.astuple(self)) <= 0 or self.heads % self.kv_heads or self.head_dim % 2:
            raise UserError("all model settings must be positive, heads a multiple of kv_heads, "
                            f"and head_dim even; this is {self}")


AFM_SHAPE = {"dim": 3072, "layers": 26, "heads": 24, "kv_heads": 8, "head_dim": 128,
             "vocab_size": 49_152, "context": 4096}  # as published
PRESETS = {
    "tiny": Config(dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=84, vocab_size=384,
                   context=64),
    # With two layers of 128, it would train in three quarters of the time, but copy names and
    # numbers from a prompt less well.
    "toy": Config(dim=112, layers=3, heads=4, kv_heads=2, head_dim=28, hidden=288, vocab_size=2048,
                  context=128),
    # Larger than "toy", as AFM-server is than AFM-on-device; see also lab/settings.py.
    "toy-server": Config(dim=168, layers=4, heads=6, kv_heads=2, head_dim=28, hidden=432,
                         vocab_size=4096, context=128),
    # The feed-forward's width is from AXLearn's open recipe "honeycrisp".
    "afm-on-device": Config(**AFM_SHAPE, hidden=8064),
    # The larger model that is pruned to the one above. Pruning removes feed-forward units only, so
    # nothing else differs. The report gives 6.4B parameters; this width gives that number.
    "afm-parent": Config(**AFM_SHAPE, hidden=23_360),
    # The report gives the vocabulary (100k), the context and the key/value heads. The other sizes
    # are ours: 19 billion parameters.
    "afm-server": Config(dim=6144, layers=48, heads=48, kv_heads=8, head_dim=128, hidden=16_128,
                         vocab_size=100_000, context=4096),
}


# Two functions with their gradients written out (trainer.py has a third). F.rms_norm and plain RoPE
# have the same gradients, but autograd makes more passes over memory for them, and a small model on
# a CPU spends most of its time waiting for memory. Tests compare each function with autograd.

class RMSNormFunction(torch.autograd.Function):
    """y = weight * x / rms(x), over the last dim: x (..., C), weight (C,) -> (..., C).

    With n = x / rms(x) and gradient g of y:
        dweight = sum of g n over the rows,  dx = (weight g - n mean(weight g n)) / rms(x)"""

    @staticmethod
    def forward(ctx, x, weight, eps):
        precise = torch.promote_types(x.dtype, torch.float32)  # bfloat16 is too coarse to sum in
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
        scale = torch.rsqrt(norm ** 2 / x.shape[-1] + eps).to(x.dtype)  # 1 / rms(x): (..., 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        product = (grad * normed).flatten(0, -2)  # (rows, C)
        mean = (product @ weight / weight.numel()).view(scale.shape)
        grad_x = torch.addcmul(normed.mul_(-mean), grad, weight).mul_(scale)
        return grad_x, product.sum(0), None


class RotationFunction(torch.autograd.Function):
    """RoPE: rotate each pair (x_i, x_{i + D/2}) by an angle. Backward rotates the gradient
    by the opposite angle.

    x (..., T, D), cos and sin (T, D) as `rotary_tables` returns them: the first half of sin is
    negated. Rolling x by D/2 swaps its halves, so for halves (a, b) the result is
        (a, b) * cos + (b, a) * (-sin, sin) = (a cos - b sin, b cos + a sin)"""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        rotated = (grad * cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), sin, value=-1)
        return rotated, None, None


class RMSNorm(nn.RMSNorm):
    def forward(self, x):
        return RMSNormFunction.apply(x, self.weight.to(x.dtype), self.eps)


def init_matrix(outputs, inputs, scale=1.0):
    """Return an untrained matrix (outputs, inputs): normal, with standard deviation
    scale / sqrt(fan in)."""
    return torch.empty(outputs, inputs).normal_(std=scale * inputs ** -0.5)


class Linear(nn.Module):
    """Return x @ weight.T in the dtype of x, plus the output of an adapter if one is attached.

    The float32 weight is cast here. Autocast would do it too, but it would also choose the dtype of
    every other operation.

    An untrained weight has the standard deviation scale / sqrt(3 fan in). With a scale of 1 this is
    PyTorch's default, too. The two layers of a block that add to the residual stream have
    1 / sqrt(2 * layers), so that the stream of an untrained model is not mainly their noise: with
    larger weights, the toy does not learn to look up what a prompt says."""

    def __init__(self, inputs, outputs, scale=1.0):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(init_matrix(outputs, inputs, scale * 3 ** -0.5))
        self.adapter = None  # see lora.py

    def forward(self, x):
        y = F.linear(x, self.weight.to(x.dtype))
        return y if self.adapter is None else y + self.adapter(x)


def rotary_tables(length, head_dim, base):
    """Return RoPE's tables, cos and (-sin, sin): (2, length, D).

    Entries i and i + D/2 of a head are a pair. Its angle is position * base^(-2i/D), so each angle
    is in both halves of a table."""
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length), frequencies)  # (length, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))


class Attention(nn.Module):
    """Grouped-query attention with query/key normalisation.

    Written out because scaled_dot_product_attention has a slow bfloat16 backward on CPUs."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query, self.key = Linear(config.dim, width), Linear(config.dim, kv_width)
        self.value = Linear(config.dim, kv_width)
        self.output = Linear(width, config.dim, (2 * config.layers) ** -0.5)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x, rotation, mask):
        """x (B, T, C), rotation 2 x (1 or B, 1, T, D), mask (1 or B, 1, G*T, T) -> (B, T, C)"""
        B, T, _ = x.shape
        K, D = self.config.kv_heads, self.config.head_dim
        G = self.config.heads // K
        # Query heads are grouped by the key/value head they read, so no key is repeated.
        query = self.query(x).view(B, T, K, G, D).permute(0, 2, 3, 1, 4)  # (B, K, G, T, D)
        key = self.key(x).view(B, T, K, D).transpose(1, 2)  # (B, K, T, D)
        value = self.value(x).view(B, T, K, D).transpose(1, 2)
        cos, sin = rotation
        # RMSNorm is faster on contiguous memory.
        query = RotationFunction.apply(self.query_norm(query.contiguous()), cos.unsqueeze(1),
                                       sin.unsqueeze(1))
        # Attention divides the scores by sqrt(D). Dividing the keys is the same and cheaper.
        key = RotationFunction.apply(self.key_norm(key.contiguous()), cos, sin) / D ** 0.5
        scores = query.flatten(2, 3) @ key.transpose(-1, -2)  # (B, K, G*T, T)
        mixed = scores.add_(mask).softmax(-1) @ value  # (B, K, G*T, D)
        mixed = mixed.view(B, K, G, T, D).permute(0, 3, 1, 2, 4)  # (B, T, K, G, D)
        return self.output(mixed.flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config):
        super().__init__()
        self.gate, self.up = Linear(config.dim, config.hidden), Linear(config.dim, config.hidden)
        self.down = Linear(config.hidden, config.dim, (2 * config.layers) ** -0.5)

    def units(self, x):
        """Activations of the hidden units: (B, T, C) -> (B, T, hidden)"""
        return F.silu(self.gate(x)) * self.up(x)

    def forward(self, x):
        return self.down(self.units(x))


class Block(nn.Module):
    """Attention, then feed-forward: each reads the normalised stream and adds to it."""

    def __init__(self, config):
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = 0.0  # rate, on the outputs of attention and feed-forward; sft raises it

    def forward(self, x, rotation, mask, wanted=None):
        """(B, T, C) -> (B, T, C). With a bool mask `wanted`, (B, T), the feed-forward is computed
        for its N True tokens only, and the result is (N, C)."""
        shape = x.shape
        x = x + self.drop(self.attention(self.attention_norm(x), rotation, mask), shape)
        if wanted is not None:
            x = x[wanted]
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)), shape, wanted)

    def drop(self, added, shape, wanted=None):
        """Apply dropout to `added` in training.

        shape: (B, T, C), of the block's input. All ranks draw the same mask, for the rows of all
        ranks together, and each uses its own rows. So a row's dropout does not depend on the number
        of ranks, nor on which tokens are `wanted`."""
        if not (self.dropout and self.training):
            return added
        ones = added.new_ones(distributed.all_rows(shape[0]), *shape[1:])
        mask = distributed.own_rows(F.dropout(ones, self.dropout))
        return added * (mask if wanted is None else mask[wanted])


class AFM(nn.Module):
    """ids (B, T) -> logits (B, T, V). Input and output share one embedding matrix.

    dtype: of activations and matrix products. The parameters are always float32. Logits are
    returned as float32, but in a bfloat16 model they were rounded to bfloat16 before, unless
    `logits` is given float32 states."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.tokenizer = None  # set by load_model
        self.embedding = nn.Parameter(init_matrix(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        rotation = rotary_tables(config.context, config.head_dim, config.rope_base)
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, ids):
        return self.logits(self.hidden_states(ids))

    def hidden_states(self, ids, segment_start=None, branch=None, wanted=None):
        """Return the normalised final-layer states of each token, (B, T) -> (B, T, C).

        wanted: (B, T), bool: return the states of its N True tokens only, (N, C). This saves the
        last feed-forward, and the logits, of all other tokens.

        segment_start: (B, T), for rows that pack several texts: the index at which the text of each
        token starts, or T for padding. A token attends to its own text only.

        branch: (B, T), for rows in which several continuations share a prompt: 0 in the prompt,
        1, 2, ... in the continuations. A continuation attends to the prompt and to itself.

        RoPE's positions count from the start of a prompt, and every continuation follows right on
        it. Below, one prompt with continuations 1 and 2, then another with continuation 3:
            segment_start  0 0 0 0 0 0 0 0 8 8 8
            branch         0 0 0 1 1 2 2 2 0 3 3
            position       0 1 2 3 4 3 4 5 0 1 2"""
        mask, positions = self.mask_and_positions(ids, segment_start, branch)
        length = ids.shape[1]
        if segment_start is not None or branch is not None:  # the longest text of a packed row
            length = int(positions.max()) + 1 if len(ids) else 0
        if length > self.config.context:
            raise UserError(f"a sequence of {length} tokens is longer than the model's context of "
                            f"{self.config.context}: shorten it")
        rotation = self.rotation[:, positions].unsqueeze(2).to(self.dtype)  # (2, 1 or B, 1, T, D)
        x = self.embed(ids)  # (B, T, C)
        for block in self.blocks[:-1]:
            x = block(x, rotation, mask)
        return self.norm(self.blocks[-1](x, rotation, mask, wanted))

    def embed(self, ids):
        return F.embedding(ids, self.embedding).to(self.dtype)

    def logits(self, hidden_states):
        """(..., C) -> (..., V), computed in the precision of the states, then cast to float32."""
        return F.linear(hidden_states, self.embedding.to(hidden_states.dtype)).float()

    def mask_and_positions(self, ids, segment_start, branch):
        """Return what is added to the attention scores, 0 or MASKED, (1 or B, 1, G*T, T), and each
        token's position, (1 or B, T). See `hidden_states`."""
        T = ids.shape[1]
        positions = torch.arange(T, device=ids.device)[None]  # (1, T)
        # blocked[b, i, j]: in row b, token i may not attend to token j
        blocked = positions > positions[..., None]  # (1, T, T): the future
        if segment_start is not None:
            blocked = blocked | (positions < segment_start[..., None])  # (B, T, T)
        if branch is not None:
            query_branch, key_branch = branch[..., None], branch[:, None]
            blocked = blocked | ((key_branch > 0) & (key_branch != query_branch))
        if segment_start is not None or branch is not None:
            # A token's position is the number of tokens before it that it attends to: all T, less
            # those blocked and itself. (In padding, which attends to none, this would be -1.)
            positions = (T - 1 - blocked.sum(-1)).clamp(min=0)  # (B, T)
        mask = blocked[:, None].to(self.dtype) * MASKED
        return mask.repeat(1, 1, self.config.heads // self.config.kv_heads, 1), positions


def save_model(run, stage, model, **more):
    """Write a finished stage's checkpoint. `more`: further entries, such as quantize's `bits`."""
    weights = distributed.full_state_dict(model.state_dict(), keep=distributed.rank() == 0)
    save(run.checkpoint(stage), config=dataclasses.asdict(model.config), **more, model=weights,
         **run.provenance(stage))


def load_model(run, stage, kind=AFM, **changes):
    """Load the model that a stage ended with, and the run's tokenizer with it.

    kind: the model's class. quantize.QuantizedAFM also takes the bit widths in its checkpoint.
    changes: config fields to replace, for example context=256. Only context and rope_base can be
    replaced, as they change no parameter's shape.

    Raises UserError if the checkpoint is missing, damaged, quantized though `kind` is AFM, or made
    with another tokenizer."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    entries = run.load(run.checkpoint(stage), run.device)
    if "config" not in entries:
        raise UserError(f"{run.checkpoint(stage)} is no model: choose another stage")
    bits = {"bits": entries["bits"]} if "bits" in entries else {}
    if bits and kind is AFM:
        raise UserError(f"{run.checkpoint(stage)} is quantized, and a model of floats is needed: "
                        "choose another stage")
    model = kind(Config(**entries["config"] | changes), dtype=compute_dtype(run.device), **bits)
    model.tokenizer = tokenizer
    try:
        model.load_state_dict(entries["model"])
    except RuntimeError:  # PyTorch names every parameter, in many lines
        raise UserError(f"{run.checkpoint(stage)} does not hold the parameters of "
                        f"{kind.__name__}: choose another stage") from None
    return model.to(run.device).eval()
