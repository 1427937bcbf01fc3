"""The transformer: dense, decoder-only, pre-norm, no biases (the report's section 2.1).

Shapes: B batch, T tokens fed, S tokens attended to (T, or more with a cache), C model dim,
H query heads, K key/value heads, G = H / K queries per key, D head dim, V vocabulary.
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
    "toy": Config(dim=128, layers=2, heads=4, kv_heads=2, head_dim=32, hidden=336, vocab_size=2048,
                  context=128),
    # The feed-forward's width is from AXLearn's open recipe "honeycrisp".
    "afm-on-device": Config(**AFM_SHAPE, hidden=8064),
    # Pruning removes feed-forward units only, so all else is equal. This width makes 6.4B.
    "afm-parent": Config(**AFM_SHAPE, hidden=23_360),
}


# Two functions with their gradients written out (trainer.py has a third). Autograd would derive the
# same gradients from F.rms_norm and a line for RoPE, but with three times as many passes over
# memory, and memory is what a small model on a CPU waits for. Tests compare each with autograd.

class RMSNormFunction(torch.autograd.Function):
    """y = weight * x / rms(x), over the last dim: x (..., C), weight (C,) -> (..., C).

    With n = x / rms(x) and gradient g of y:
        dweight = sum of g n over the rows,  dx = (weight g - n mean(weight g n)) / rms(x)"""

    @staticmethod
    def forward(ctx, x, weight, eps):
        precise = torch.promote_types(x.dtype, torch.float32)  # for the sum of squares
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
    """RoPE: rotate each pair (x_i, x_{i + D/2}) by an angle. The gradient is rotated back.

    x (..., T, D), cos (T, D), sin (T, D), whose first half is negated: see `rotary_tables`."""

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


def init_matrix(outputs, inputs):
    """Return an untrained matrix (outputs, inputs): normal, with standard deviation
    1/sqrt(fan in)."""
    return torch.empty(outputs, inputs).normal_(std=inputs ** -0.5)


class Linear(nn.Module):
    """x weight^T in the precision of x, plus the term of an adapter if one is attached.

    The weight is cast here and not by autocast, which would also cast what must stay float32."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(init_matrix(outputs, inputs))
        self.adapter = None  # see lora.py

    def forward(self, x):
        y = F.linear(x, self.weight.to(x.dtype))
        return y if self.adapter is None else y + self.adapter(x)


def rotary_tables(length, head_dim, base):
    """Return cos and signed sin of RoPE's angles, position * base^(-2i/D): (2, length, D).

    Halves of the head dim are the two coordinates: (a, b) -> (a cos - b sin, b cos + a sin)."""
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
        self.value, self.output = Linear(config.dim, kv_width), Linear(width, config.dim)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x, rotation, mask):
        """x (B, T, C), rotation 2 x (1 or B, 1, T, D), mask (1 or B, 1, G*T, T) -> (B, T, C)"""
        (B, T, _), K, D = x.shape, self.config.kv_heads, self.config.head_dim
        G = self.config.heads // K
        # Query heads are grouped by the key/value head they read, so no key is repeated.
        query = self.query(x).view(B, T, K, G, D).permute(0, 2, 3, 1, 4)  # (B, K, G, T, D)
        key = self.key(x).view(B, T, K, D).transpose(1, 2)  # (B, K, T, D)
        value = self.value(x).view(B, T, K, D).transpose(1, 2)
        cos, sin = rotation
        query = RotationFunction.apply(self.query_norm(query.contiguous()), cos.unsqueeze(1),
                                       sin.unsqueeze(1))
        # The scores' factor, 1/sqrt(D), is applied to the keys, which are fewer.
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
        self.down = Linear(config.hidden, config.dim)

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
        self.dropout = 0.0  # on what a block adds to the stream; fine-tuning sets it

    def forward(self, x, rotation, mask, wanted=None):
        """(B, T, C) -> (B, T, C), or (N, C) for the N tokens of a mask `wanted`, (B, T)."""
        shape, attended = x.shape, self.attention(self.attention_norm(x), rotation, mask)
        x = x + self.drop(attended, shape)
        if wanted is not None:
            x = x[wanted]
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)), shape, wanted)

    def drop(self, added, shape, wanted=None):
        """Apply dropout in training. Each rank draws for the rows of all ranks and takes its own,
        so a row's dropout does not depend on the number of ranks."""
        if not (self.dropout and self.training):
            return added
        ones = added.new_ones(distributed.all_rows(shape[0]), *shape[1:])
        mask = distributed.own_rows(F.dropout(ones, self.dropout))
        return added * (mask if wanted is None else mask[wanted])


class AFM(nn.Module):
    """ids (B, T) -> logits (B, T, V). Input and output share one embedding matrix.

    dtype: precision of forward and backward; the parameters are always float32. Logits are float32
    numbers, but in a bfloat16 model with the precision of bfloat16."""

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

        wanted: (B, T), bool: return the states of these N tokens only, (N, C). Then what follows
        the last attention is computed for them only.

        segment_start: (B, T), for rows that pack several texts: the index at which the text of each
        token starts, or T for padding. A token sees nothing before its own text, padding nothing.

        branch: (B, T), for rows in which several continuations share a prompt: 0 in the prompt,
        1, 2, ... in the continuations, each of which sees the prompt and itself. Positions are
        those that each would have alone:
            segment_start  0 0 0 0 0 0 0 0 8 8 8
            branch         0 0 0 1 1 2 2 2 0 3 3
            position       0 1 2 3 4 3 4 5 0 1 2"""
        mask, positions = self.mask(ids, segment_start, branch)
        length = ids.shape[1]
        if segment_start is not None or branch is not None:
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
        """(..., C) -> (..., V)"""
        return F.linear(hidden_states, self.embedding.to(self.dtype)).float()

    def mask(self, ids, segment_start, branch):
        """Return the attention bias that hides what each token may not see, (1 or B, 1, G*T, T),
        and each token's position, (1 or B, T). See `hidden_states`."""
        T = ids.shape[1]
        positions = torch.arange(T, device=ids.device)[None]  # (1, T)
        hidden = positions > positions.mT[None]  # (1, T, T): the future
        if segment_start is not None:
            hidden = hidden | (positions < segment_start[..., None])  # (B, T, T)
        if branch is not None:
            of_keys, of_queries = branch[:, None], branch[..., None]
            hidden = hidden | (of_keys > 0) & (of_keys != of_queries)
        if segment_start is not None or branch is not None:
            positions = (T - 1 - hidden.sum(-1)).clamp(min=0)  # (B, T): tokens seen before it
        mask = hidden[:, None].to(self.dtype) * MASKED
        return mask.repeat(1, 1, self.config.heads // self.config.kv_heads, 1), positions


def save_model(run, stage, model, **more):
    """Write a finished stage's checkpoint, with further entries if given."""
    weights = distributed.full_state_dict(model.state_dict(), keep=distributed.rank() == 0)
    save(run.checkpoint(stage), config=dataclasses.asdict(model.config), **more, model=weights,
         **run.provenance(stage))


def load_model(run, stage, kind=AFM, **changes):
    """Load the model that a stage ended with, and the run's tokenizer with it.

    kind: its class; quantize.QuantizedAFM also takes the checkpoint's bit widths. changes: to its
    config, of fields that leave the parameters as they are (context, rope_base). Raises UserError
    if the checkpoint is missing, damaged, or was trained with another tokenizer."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    entries = run.load(run.checkpoint(stage), run.device)
    bits = {"bits": entries["bits"]} if "bits" in entries else {}
    model = kind(Config(**entries["config"] | changes), dtype=compute_dtype(run.device), **bits)
    model.tokenizer = tokenizer
    model.load_state_dict(entries["model"])
    return model.to(run.device).eval()
