"""The transformer: dense, decoder-only, pre-norm, no biases (the report's section 2.1).

Shapes: B batch, T tokens fed, S tokens attended to (T, or more with a cache), C model dim,
H query heads, K key/value heads, G = H / K queries per key, D head dim, V vocabulary.
"""
import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import distributed, gradients
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
    context: int  # tokens it is trained to look at, and the longest sequence it takes
    rope_base: float = 500_000.0  # 6,315,089 after context lengthening
    norm_eps: float = 1e-5

    def __post_init__(self):
        if min(dataclasses.astuple(self)) <= 0 or self.heads % self.kv_heads or self.head_dim % 2:
            raise UserError("all model settings must be positive, heads a multiple of kv_heads, "
                            f"and head_dim even; this is {self}")


PRESETS = {  # Config(dim, layers, heads, kv_heads, head_dim, hidden, vocab_size, context)
    "tiny": Config(32, 2, 4, 2, 8, 84, 384, 64),
    "toy": Config(128, 2, 4, 2, 32, 336, 2048, 128),
    # As published; the feed-forward's width is from AXLearn's open recipe "honeycrisp".
    "afm-on-device": Config(3072, 26, 24, 8, 128, 8064, 49_152, 4096),
    # Pruning takes feed-forward units only, so all else is the same. The width: what makes it 6.4B.
    "afm-parent": Config(3072, 26, 24, 8, 128, 23_360, 49_152, 4096),
}


class RMSNorm(nn.RMSNorm):
    def forward(self, x):
        return gradients.RMSNorm.apply(x, self.weight.to(x.dtype), self.eps)


def normal(outputs, inputs):
    """A matrix as training begins with it: std 1/sqrt(fan in)."""
    return torch.empty(outputs, inputs).normal_(std=inputs ** -0.5)


class Linear(nn.Module):
    """x weight^T, in the precision of x; and an adapter's term, if one is attached."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(normal(outputs, inputs))
        self.adapter = None  # see lora.py

    def forward(self, x):
        y = F.linear(x, self.weight.to(x.dtype))
        return y if self.adapter is None else y + self.adapter(x)


def rotary_tables(length, head_dim, base):
    """RoPE's angles, position * base^(-2i/D): their cos, and their sin with sign, (2, length, D).

    The two halves of the head dim are two coordinates: (a, b) -> (a cos - b sin, b cos + a sin)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length), frequencies)  # (length, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))


class Attention(nn.Module):
    """Grouped-query attention with query/key normalisation."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query, self.key = Linear(config.dim, width), Linear(config.dim, kv_width)
        self.value, self.output = Linear(config.dim, kv_width), Linear(width, config.dim)
        self.query_norm, self.key_norm = (RMSNorm(config.head_dim, config.norm_eps)
                                          for _ in range(2))

    def forward(self, x, rotation, mask):
        """x (B, T, C), rotation 2 x (1 or B, 1, T, D), mask (1 or B, 1, G*T, T) -> (B, T, C)"""
        (B, T, _), K, D = x.shape, self.config.kv_heads, self.config.head_dim
        G = self.config.heads // K
        # Query heads are grouped with the key/value head they read, so that no key is repeated.
        query = self.query(x).view(B, T, K, G, D).permute(0, 2, 3, 1, 4)  # (B, K, G, T, D)
        key = self.key(x).view(B, T, K, D).transpose(1, 2)  # (B, K, T, D)
        value = self.value(x).view(B, T, K, D).transpose(1, 2)
        # The scores' factor, 1/sqrt(D), is applied to the keys, which are fewer.
        of_groups = [table.unsqueeze(1) for table in rotation]  # (1 or B, 1, 1, T, D)
        query = gradients.Rotation.apply(self.query_norm(query.contiguous()), *of_groups)
        key = gradients.Rotation.apply(self.key_norm(key.contiguous()), *rotation) / D ** 0.5
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
        """What the hidden units say: (B, T, C) -> (B, T, hidden)"""
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
        self.dropout = 0.0  # of what a block adds, while training: set by fine-tuning

    def forward(self, x, rotation, mask, wanted=None):
        """(B, T, C) -> (B, T, C), or (N, C) for the N tokens of a mask `wanted`, (B, T)."""
        shape, attended = x.shape, self.attention(self.attention_norm(x), rotation, mask)
        x = x + self.dropped(attended, shape)
        if wanted is not None:
            x = x[wanted]
        return x + self.dropped(self.feed_forward(self.feed_forward_norm(x)), shape, wanted)

    def dropped(self, added, shape, wanted=None):
        if not (self.dropout and self.training):
            return added
        ones = added.new_ones(distributed.all_rows(shape[0]), *shape[1:])
        # Every rank draws for all rows, so a row's dropout does not depend on who has it.
        kept = distributed.own_rows(F.dropout(ones, self.dropout))
        return added * (kept if wanted is None else kept[wanted])


class AFM(nn.Module):
    """ids (B, T) -> logits (B, T, V), float32. Input and output share one embedding matrix.

    dtype: what forward and backward compute in; the parameters are float32 whatever it is."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.tokenizer = None  # of the run that holds it: see load_model
        self.embedding = nn.Parameter(normal(config.vocab_size, config.dim))  # as an output layer
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        rotation = rotary_tables(config.context, config.head_dim, config.rope_base)
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, ids):
        return self.logits(self.states(ids))

    def states(self, ids, begin=None, branch=None, wanted=None):
        """Final-layer hidden states of each token, normalised: (B, T) -> (B, T, C).

        wanted: (B, T), bool: return the states of these N tokens alone, (N, C). What follows the
        last attention is then computed for them only.

        begin: (B, T), several texts in a row: the index at which the text of each token begins, T
        for padding. A token sees nothing before its text, and padding sees nothing.

        branch: (B, T), several continuations of a prompt in a row: 0 in the prompt, 1, 2, ... in
        each continuation, which sees the prompt and itself. Positions are as if each stood alone:
            begin    0 0 0 0 0 0 0 0 8 8 8
            branch   0 0 0 1 1 2 2 2 0 3 3
            position 0 1 2 3 4 3 4 5 0 1 2"""
        mask, positions = self.mask(ids, begin, branch)
        length = ids.shape[1]
        if begin is not None or branch is not None:
            length = int(positions.max()) + 1 if len(ids) else 0
        if length > self.config.context:
            raise UserError(f"{length} tokens do not fit the context of {self.config.context}")
        rotation = self.rotation[:, positions].unsqueeze(2).to(self.dtype)  # (2, 1 or B, 1, T, D)
        x = self.embed(ids)  # (B, T, C)
        for block in self.blocks[:-1]:
            x = block(x, rotation, mask)
        return self.norm(self.blocks[-1](x, rotation, mask, wanted))

    def embed(self, ids):
        return F.embedding(ids, self.embedding).to(self.dtype)

    def logits(self, states):
        """States (..., C) -> logits (..., V), float32."""
        return F.linear(states, self.embedding.to(self.dtype)).float()

    def mask(self, ids, begin, branch):
        """What each token may not see, as a term of its scores, (1 or B, 1, G*T, T), and each
        token's position, (1 or B, T): see `states`."""
        T = ids.shape[1]
        positions = torch.arange(T, device=ids.device)[None]  # (1, T)
        hidden = positions > positions.mT[None]  # (1, T, T): the future
        if begin is not None:
            hidden = hidden | (positions < begin[..., None])  # (B, T, T)
        if branch is not None:
            of_keys, of_queries = branch[:, None], branch[..., None]
            hidden = hidden | (of_keys > 0) & (of_keys != of_queries)
        if begin is not None or branch is not None:
            positions = (T - 1 - hidden.sum(-1)).clamp(min=0)  # (B, T): tokens seen, less itself
        mask = hidden[:, None].to(self.dtype) * MASKED
        return mask.repeat(1, 1, self.config.heads // self.config.kv_heads, 1), positions


def save_model(run, stage, model, **more):
    """Write a finished stage's checkpoint, with more entries if wanted."""
    weights = distributed.full_state_dict(model.state_dict(), keep=distributed.rank() == 0)
    save(run.checkpoint(stage), config=dataclasses.asdict(model.config), **more, model=weights,
         **run.origin(stage))


def load_model(run, stage, kind=AFM, **changes):
    """The model that a stage ended with, of the class `kind`, with the run's tokenizer, and with
    `changes` to its config that leave the parameters as they are (context, rope_base). Raises
    UserError if it was trained with another tokenizer."""
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    entries = run.load(run.checkpoint(stage), run.device)
    model = kind(Config(**entries["config"] | changes), compute_dtype(run.device)).to(run.device)
    model.tokenizer = tokenizer
    model.load_state_dict(entries["model"])
    return model.eval()
