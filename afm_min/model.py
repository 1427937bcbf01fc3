"""The transformer: dense, decoder-only, pre-norm, no biases (the report's section 2.1).

Shapes: B batch, T tokens fed, S tokens attended to (T, or more with a cache), C model dim,
H query heads, K key/value heads, G = H / K queries per key, D head dim, V vocabulary.
"""
import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import gradients, processes
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


class Cache:
    """Keys (rotated, scaled) and values of the tokens so far. It owns the next one's position."""

    def __init__(self, config, batch, size, device, dtype):
        shape = (2, config.layers, batch, config.kv_heads, size, config.head_dim)
        self.keys, self.values = torch.empty(shape, device=device, dtype=dtype)
        self.position = 0

    def append(self, layer, key, value):
        """Take in one layer's new key and value (B, K, T, D); return all it has, (B, K, S, D)."""
        end = self.position + key.shape[2]
        self.keys[layer, :, :, self.position:end] = key
        self.values[layer, :, :, self.position:end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep(self, rows):
        """Hold these rows only: a mask, (B,), or their numbers, (R,), which may repeat."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class Attention(nn.Module):
    """Grouped-query attention with query/key normalisation."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query, self.key = Linear(config.dim, width), Linear(config.dim, kv_width)
        self.value, self.output = Linear(config.dim, kv_width), Linear(width, config.dim)
        self.query_norm, self.key_norm = (RMSNorm(config.head_dim, config.norm_eps)
                                          for _ in range(2))

    def forward(self, x, rotation, mask, cache):
        """x (B, T, C), rotation 2 x (T, D), mask (1 or B, 1, G*T, S) -> (B, T, C)"""
        (B, T, _), K, D = x.shape, self.config.kv_heads, self.config.head_dim
        G = self.config.heads // K
        # Query heads are grouped with the key/value head they read, so that no key is repeated.
        query = self.query(x).view(B, T, K, G, D).permute(0, 2, 3, 1, 4)  # (B, K, G, T, D)
        key = self.key(x).view(B, T, K, D).transpose(1, 2)  # (B, K, T, D)
        value = self.value(x).view(B, T, K, D).transpose(1, 2)
        # The scores' factor, 1/sqrt(D), is applied to the keys, which are fewer.
        query = gradients.Rotation.apply(self.query_norm(query.contiguous()), *rotation)
        key = gradients.Rotation.apply(self.key_norm(key.contiguous()), *rotation) / D ** 0.5
        if cache is not None:
            key, value = cache.append(self.layer, key, value)  # (B, K, S, D)
        scores = query.flatten(2, 3) @ key.transpose(-1, -2)  # (B, K, G*T, S)
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

    def __init__(self, config, layer):
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = 0.0  # of what a block adds, while training: set by fine-tuning

    def forward(self, x, rotation, mask, cache):
        x = x + self.dropped(self.attention(self.attention_norm(x), rotation, mask, cache))
        return x + self.dropped(self.feed_forward(self.feed_forward_norm(x)))

    def dropped(self, added):
        if not (self.dropout and self.training):
            return added
        ones = added.new_ones(processes.all_rows(len(added)), *added.shape[1:])
        return added * processes.mine(F.dropout(ones, self.dropout))  # whoever has which rows


class AFM(nn.Module):
    """ids (B, T) -> logits (B, T, V), float32. Input and output share one embedding matrix.

    dtype: what forward and backward compute in; the parameters are float32 whatever it is."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.tokenizer = None  # of the run that holds it: see load_model
        self.embedding = nn.Parameter(normal(config.vocab_size, config.dim))  # as an output layer
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        rotation = rotary_tables(config.context, config.head_dim, config.rope_base)
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, ids, cache=None, begin=None):
        return self.logits(self.states(ids, cache, begin))

    def states(self, ids, cache=None, begin=None):
        """What the last layer says of each token, normalised: (B, T) -> (B, T, C).

        begin: (B, 1 or T), where in its row each token's text begins: it sees nothing before that,
        neither padding nor another text. RoPE sees distances only, so that such a text needs no
        positions of its own."""
        start = 0 if cache is None else cache.position
        stop = start + ids.shape[1]
        if stop > self.config.context:
            raise UserError(f"{stop} tokens do not fit the context of {self.config.context}")
        rotation = self.rotation[:, start:stop].to(self.dtype).unbind()  # 2 x (T, D)
        mask = self.mask(start, stop, begin)
        x = self.embed(ids)  # (B, T, C)
        for block in self.blocks:
            x = block(x, rotation, mask, cache)
        if cache is not None:
            cache.position = stop
        return self.norm(x)

    def embed(self, ids):
        return F.embedding(ids, self.embedding).to(self.dtype)

    def logits(self, states):
        """States (..., C) -> logits (..., V), float32."""
        return F.linear(states, self.embedding.to(self.dtype)).float()

    def mask(self, start, stop, begin):
        """What each query may not see, as a term of its score: (1 or B, 1, G*T, S)."""
        keys = torch.arange(stop, device=self.embedding.device)
        masked = (keys > keys[start:, None])[None]  # (1, T, S): the future
        if begin is not None:
            masked = masked | (keys < begin[..., None])  # (B, T, S)
        mask = masked[:, None].to(self.dtype) * MASKED
        return mask.repeat(1, 1, self.config.heads // self.config.kv_heads, 1)

    @torch.no_grad()
    def stream(self, prompts, max_new_tokens, stop=-1, temperature=1.0, top_p=1.0, chances=None):
        """Yield the next id of every row, (B,), until max_new_tokens, or the context is full, or
        all rows have said the id `stop`, which is all that a row says from then on.

        prompts: B lists of ids, of any lengths. temperature 0 is greedy. top_p < 1 draws from the
        likeliest ids that hold this probability together: for talking only, as training must score
        the very distribution it sampled. chances: (B, max_new_tokens) in 0 to 1, by which ids are
        drawn, random if not given: with the same ones a row says the same, whoever is beside it.
        As shorter prompts are padded, the longest says when the context is full. The first step
        raises UserError if a prompt is empty or too long."""
        longest, most = max(map(len, prompts)), self.config.context - 1
        if not all(prompts) or longest > most:
            raise UserError(f"a prompt has {longest if all(prompts) else 0} tokens: it must have 1 "
                            f"to {most}, one less than the model's context")
        device, size = self.embedding.device, min(longest + max_new_tokens, self.config.context)
        asked = {}  # different prompts -> their numbers
        copies = [asked.setdefault(tuple(prompt), len(asked)) for prompt in prompts]  # B numbers
        padding = [longest - len(prompt) for prompt in asked]
        ids = torch.tensor([(0,) * n + prompt for n, prompt in zip(padding, asked)], device=device)
        begin = torch.tensor(padding, device=device)[:, None]  # (different prompts, 1)
        cache = Cache(self.config, len(asked), size, device, self.dtype)
        if longest > 1:  # what the copies of a prompt share is computed once
            self.states(ids[:, :-1], cache, begin)
        cache.keep(copies)
        following, begin = ids[copies, -1], begin[copies]  # what is fed next, (B,); (B, 1)
        rows = torch.arange(len(prompts), device=device)  # those computed: R of B
        if chances is None:
            chances = torch.rand(len(prompts), max_new_tokens)
        going = rows >= 0  # of these, (R,): all that have not said `stop`
        while going.any() and cache.position < size - 1:
            chance = chances[:, cache.position + 1 - longest].to(device)[rows]  # (R,)
            states = self.states(following[rows, None], cache, begin)[:, -1]  # (R, C)
            drawn = sample(self.logits(states), chance, temperature, top_p)
            following = following.scatter(0, rows, drawn.where(going, stop))
            yield following
            going = following[rows] != stop
            if 2 * going.sum() <= len(rows):  # the rest of the work is halved
                cache.keep(going)
                rows, begin, going = rows[going], begin[going], going[going]

    def generate(self, prompts, max_new_tokens, stop=-1, **sampling):
        """The new ids of every row, as B lists: up to and with the id `stop`, or until `stream`
        ends. prompts, sampling: as for `stream`."""
        rows = torch.stack(list(self.stream(prompts, max_new_tokens, stop, **sampling)), 1).tolist()
        return [row[:row.index(stop) + 1] if stop in row else row for row in rows]


def sample(logits, chances, temperature=1.0, top_p=1.0):
    """Draw an id from each row by a chance in 0 to 1: (B, V), (B,) -> (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        likelier = ordered.cumsum(-1) - ordered  # the probability of all that come before
        probabilities = probabilities.scatter(-1, order, ordered.where(likelier < top_p, 0.0))
    cumulative = probabilities.cumsum(-1)  # a point on it: 14 times as fast as multinomial
    return (cumulative <= chances[:, None] * cumulative[:, -1:]).sum(-1)


def save_model(run, stage, model, **more):
    """Write a finished stage's checkpoint, with more entries if wanted."""
    weights = processes.whole(model.state_dict(), keep=processes.rank() == 0)  # who writes them
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
