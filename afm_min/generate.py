"""Generate text: a key/value cache, and a batched decoding loop that computes prompts once.

Decoding a token takes little arithmetic and many small operations, so their number decides the
speed. `Decoder` computes what `AFM.forward` does with fewer and larger ones: one matrix for query,
key and value, one for gate and up, weights cast once, no autograd.

Shapes: R rows computed, T tokens fed, S tokens attended to, C model dim, H query heads,
K key/value heads, G = H / K, D head dim, V vocabulary.
"""
import torch
from torch.nn import functional as F

from afm_min import distributed
from afm_min.model import MASKED
from afm_min.run import UserError


class Cache:
    """Rotated keys and values of the tokens so far, and the next token's position.

    On a CPU they are float32: in bfloat16, every new length costs a new kernel there."""

    def __init__(self, decoder, rows, size):
        config, device = decoder.config, decoder.embedding.device
        shape = (2, config.layers, rows, config.kv_heads, size, config.head_dim)
        dtype = torch.float32 if device.type == "cpu" else decoder.dtype
        self.keys, self.values = torch.empty(shape, device=device, dtype=dtype)
        self.position = 0

    def append(self, layer, key, value):
        """Store one layer's new key and value (R, K, T, D); return all so far, (R, K, S, D)."""
        end = self.position + key.shape[2]
        self.keys[layer, :, :, self.position:end] = key
        self.values[layer, :, :, self.position:end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows):
        """Keep these rows only: a mask, or indices, which may repeat."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def normalize(x, eps):
    """x / rms(x) / sqrt(N) over the last dim, of size N: sqrt(N) is left to the caller's weights.

    sqrt(sum x^2 + N eps) is the length of (|x|, sqrt(N eps)): two operations where F.rms_norm has
    six on a CPU."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x / length.hypot(length.new_tensor((x.shape[-1] * eps) ** 0.5)).to(x.dtype)


class Decoder:
    """A copy of a model's weights for generation, in the model's compute precision.

    Packed weights are unpacked, adapters merged, sharded tensors put together, and the norms'
    weights multiplied into the matrices behind them. So later changes of the model have no effect,
    and of several processes each may generate for as long as it needs."""

    @torch.no_grad()
    def __init__(self, model):
        self.config, self.dtype, self.rotation = model.config, model.dtype, model.rotation
        config = model.config
        embedding = distributed.full_tensor(model.embedding.detach())
        if hasattr(model, "scale"):  # a packed model's, of each row
            embedding = embedding.float() * model.scale.float()
        self.embedding = embedding.to(model.dtype, copy=True)  # (V, C)
        self.norm = self.scale(model.norm).to(model.dtype)
        self.layers = []
        for block in model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            head_norms = [self.scale(attention.query_norm).expand(config.heads, -1),
                          # The scores' factor, 1/sqrt(D), is applied to the keys.
                          self.scale(attention.key_norm).expand(config.kv_heads, -1)
                          / config.head_dim ** 0.5]
            self.layers.append({
                "qkv": self.fuse(block.attention_norm, attention.query, attention.key,
                                 attention.value),
                "head_norms": torch.cat(head_norms).to(model.dtype),  # (H + K, D)
                "output": self.fuse(None, attention.output),
                "gate_up": self.fuse(block.feed_forward_norm, feed_forward.gate, feed_forward.up),
                "down": self.fuse(None, feed_forward.down)})

    def scale(self, norm):
        """A norm's weight, (N,), times sqrt(N): see `normalize`."""
        weight = distributed.full_tensor(norm.weight.detach())
        return weight * len(weight) ** 0.5

    def fuse(self, norm, *projections):
        """One matrix (inputs, all outputs) of projections that read the same, normalised input."""
        weights = []
        for projection in projections:
            weight = distributed.full_tensor(projection.weight.detach()).float()
            if projection.adapter is not None:
                weight = weight + projection.adapter.up @ projection.adapter.down
            weights.append(weight)
        fused = torch.cat(weights)
        return (fused if norm is None else fused * self.scale(norm)).to(self.dtype).T

    def __call__(self, ids, cache, bias=None, fill=False):
        """Final-layer hidden states of new tokens, (R, T) -> (R, T, C).

        Appends their keys and values to the cache; with fill it does only that, and returns None.
        bias: added to the scores, (R, 1, T, S), which must mask later tokens; None masks nothing,
        for one token at a time."""
        config, eps, dtype = self.config, self.config.norm_eps, self.dtype
        (R, T), H, K, D = ids.shape, config.heads, config.kv_heads, config.head_dim
        G, start, stop = H // K, cache.position, cache.position + T
        cos, sin = self.rotation[:, start:stop, None].to(dtype)  # (T, 1, D) each
        if bias is not None and T > 1:
            bias = bias.repeat(1, 1, G, 1)  # (R, 1, G*T, S)
        x = F.embedding(ids, self.embedding).view(R * T, -1)
        for i, layer in enumerate(self.layers):
            qkv = (normalize(x, eps) @ layer["qkv"]).view(R, T, H + 2 * K, D)
            # Normalise and rotate queries and keys together.
            normed = normalize(qkv[:, :, :H + K], eps) * layer["head_norms"]
            rotated = (normed * cos).addcmul_(normed.roll(D // 2, -1), sin)
            query = rotated[:, :, :H].view(R, T, K, G, D).permute(0, 2, 3, 1, 4)
            key, value = cache.append(i, rotated[:, :, H:].transpose(1, 2),
                                      qkv[:, :, H + K:].transpose(1, 2))  # (R, K, S, D)
            if fill and layer is self.layers[-1]:
                break
            scores = query.reshape(R, K, G * T, D).to(key.dtype) @ key.mT  # (R, K, G*T, S)
            if bias is not None:
                scores += bias
            mixed = (scores.softmax(-1) @ value).view(R, K, G, T, D)
            mixed = mixed.permute(0, 3, 1, 2, 4).reshape(R * T, H * D).to(dtype)
            x = torch.addmm(x, mixed, layer["output"])
            gate, up = (normalize(x, eps) @ layer["gate_up"]).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * up, layer["down"])
        cache.position = stop
        return None if fill else (normalize(x, eps) * self.norm).view(R, T, -1)

    def logits(self, states):
        """States (..., C) -> logits (..., V), float32."""
        return F.linear(states, self.embedding).float()


def padding_bias(padding, size, dtype):
    """Return a bias that masks the padding at the left of each row, or None if there is none.

    padding (R,), the number of its tokens, -> (R, 1, 1, size).

    padding [0, 2], size 4 -> [[0, 0, 0, 0], [MASKED, MASKED, 0, 0]]"""
    if not padding.any():
        return None
    hidden = torch.arange(size, device=padding.device) < padding[:, None]
    return (hidden * MASKED).to(dtype)[:, None, None]


def prefill(decoder, prompts, cache, padding):
    """Fill the cache with prompts, ids (P, T), that `padding` tokens, (P,), stand before."""
    length = prompts.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=prompts.device).triu(1)
    before = torch.arange(length, device=prompts.device) < padding[:, None]  # (P, T)
    bias = ((future | before[:, None]) * MASKED).to(cache.keys.dtype)[:, None]  # (P, 1, T, T)
    decoder(prompts, cache, bias, fill=True)


@torch.no_grad()
def stream(model, prompts, max_new_tokens, stop=-1, temperature=1.0, top_p=1.0, uniforms=None):
    """Yield the next id of every row and its log-probability, two of (B,), step by step.

    Ends after max_new_tokens, when the context is full, or when all rows have produced the id
    `stop`; a row repeats `stop`, with log-probability 0, from then on.

    model: an AFM, or a `Decoder` of one, to make that only once. prompts: B lists of ids, of any
    lengths. temperature 0 is greedy. top_p < 1 draws from the
    likeliest ids that hold this probability together: for conversations only, as training must
    score the very distribution it sampled. uniforms: (B, max_new_tokens), the random numbers in
    0 to 1 that choose the ids; with the same ones a row is the same whoever is beside it. As
    shorter prompts are padded, the longest decides when the context is full. The first step raises
    UserError if a prompt is empty or too long."""
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    config, longest = decoder.config, max(map(len, prompts))
    if not all(prompts) or longest > config.context - 1:
        raise UserError(f"a prompt has {longest if all(prompts) else 0} tokens: it must have 1 to "
                        f"{config.context - 1}, one less than the model's context")
    device = decoder.embedding.device
    if uniforms is None:
        uniforms = torch.rand(len(prompts), max_new_tokens)
    unique = {}  # prompt -> its index
    copies = torch.tensor([unique.setdefault(tuple(prompt), len(unique)) for prompt in prompts],
                          device=device)  # (B,)
    padding = torch.tensor([longest - len(prompt) for prompt in unique], device=device)
    ids = torch.tensor([(0,) * (longest - len(prompt)) + prompt for prompt in unique],
                       device=device)

    # Prefill: every prompt once, however many rows continue it.
    size = min(longest + max_new_tokens, config.context)
    cache = Cache(decoder, len(unique), size)
    if longest > 1:
        prefill(decoder, ids[:, :-1], cache, padding)
    cache.select(copies)
    bias = padding_bias(padding[copies], size, cache.keys.dtype)

    # Decode. `rows` are the R of B rows still computed, `following` what they are fed next.
    rows = torch.arange(len(prompts), device=device)
    following, running = ids[copies, -1], rows >= 0  # running: has not produced `stop`
    while running.any() and cache.position < size - 1:
        step = cache.position + 1 - longest
        visible = None if bias is None else bias[..., :cache.position + 1]
        states = decoder(following[:, None], cache, visible)[:, 0]  # (R, C)
        drawn, logp = sample(decoder.logits(states), uniforms[:, step].to(device)[rows],
                             temperature, top_p)
        following = drawn.where(running, stop)
        yield (following.new_full(copies.shape, stop).scatter(0, rows, following),
               logp.new_zeros(copies.shape).scatter(0, rows, logp * running))
        running = following != stop
        if 2 * running.sum() <= len(rows):  # an optimisation: drop the rows that have stopped
            cache.select(running)
            bias = None if bias is None else bias[running]
            rows, following, running = rows[running], following[running], running[running]


def generate(model, prompts, max_new_tokens, stop=-1, **sampling):
    """Return the new ids of every row, B lists that end with the id `stop` or where `stream` does.

    prompts, sampling: as for `stream`."""
    return [ids for ids, _ in generate_with_logp(model, prompts, max_new_tokens, stop, **sampling)]


def generate_with_logp(model, prompts, max_new_tokens, stop=-1, **sampling):
    """Return B pairs: the new ids of a row, as `generate`, and the log-probability of all of them
    under the distribution they were drawn from."""
    steps = list(stream(model, prompts, max_new_tokens, stop, **sampling))
    if not steps:
        return [([], 0.0) for _ in prompts]
    rows = torch.stack([ids for ids, _ in steps], 1).tolist()
    logps = torch.stack([logp for _, logp in steps], 1).sum(1).tolist()
    rows = [row[:row.index(stop) + 1] if stop in row else row for row in rows]
    return list(zip(rows, logps))


def sample(logits, uniforms, temperature=1.0, top_p=1.0):
    """Draw an id from each row by a random number in 0 to 1: (R, V), (R,) -> two of (R,).

    Returns the ids and their log-probabilities under the distribution they are drawn from."""
    if temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits))
    probabilities = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        likelier = ordered.cumsum(-1) - ordered  # the probability of all that come before
        probabilities = probabilities.scatter(-1, order, ordered.where(likelier < top_p, 0.0))
        probabilities /= probabilities.sum(-1, keepdim=True)
    # Invert the cumulative distribution: many times as fast as torch.multinomial.
    cumulative = probabilities.cumsum(-1)
    points = uniforms[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, points, right=True)  # (R, 1)
    ids = ids.clamp(max=logits.shape[1] - 1)  # of a row of NaN, the search finds no place
    return ids[:, 0], probabilities.gather(1, ids)[:, 0].log()
