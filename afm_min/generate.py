"""Generate text with a key/value cache and a batched decoding loop.

Decoding one token takes little arithmetic, so most of its time is the fixed cost of each PyTorch
operation. `Decoder` computes the same as `AFM.forward` with fewer and larger operations: one matrix
for query, key and value, one for gate and up, weights cast once, no autograd.

Shapes: B prompts, P distinct prompts, R rows computed, T tokens fed, S tokens attended to
(those in the cache and the T fed), and C, H, K, G, D, V as in model.py.
"""
import torch
from torch.nn import functional as F

from afm_min import distributed
from afm_min.model import MASKED
from afm_min.run import UserError


class Cache:
    """Keys and values of the tokens so far, and the position of the next token.

    Keys are stored after rotation. On a CPU the cache is float32: it grows with every token, and
    PyTorch would compile a new bfloat16 kernel for every length."""

    def __init__(self, decoder, rows, size, padding=0):
        """size: the most tokens a row can have. padding: the number of padding tokens at the left
        of each row: a tensor (R,), or one number for all rows."""
        config, device = decoder.config, decoder.embedding.device
        shape = (2, config.layers, rows, config.kv_heads, size, config.head_dim)
        dtype = torch.float32 if device.type == "cpu" else decoder.dtype
        self.keys, self.values = torch.empty(shape, device=device, dtype=dtype)  # (layers, R, ...)
        self.position = 0
        # (R, 1, 1, 1, 1), which broadcasts against attention scores (R, K, G, T, S)
        self.padding = torch.as_tensor(padding, device=device).expand(rows).view(-1, 1, 1, 1, 1)

    def bias(self, length):
        """Return what to add to the attention scores of the next T = `length` tokens: MASKED for
        later tokens and for padding, else 0. (R, 1, 1, T, S), which broadcasts over K and G.

        With M for MASKED: if the cache holds one token, and that is padding, the bias of the next
        two tokens is [[M, 0, M], [M, 0, 0]]."""
        keys = torch.arange(self.position + length, device=self.keys.device)  # (S,)
        queries = keys[self.position:, None]  # (T, 1)
        blocked = (keys > queries) | (keys < self.padding)  # (R, 1, 1, T, S)
        return blocked.to(self.keys.dtype) * MASKED

    def select(self, rows):
        """Keep only some rows. rows: a bool mask, or indices; a repeated index copies its row."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.padding = self.padding[rows]


def normalize(x, eps):
    """Return x / sqrt(sum x^2 + N eps), over the last dim, of size N.

    RMSNorm(x) = weight * sqrt(N) * normalize(x), and `Decoder` folds sqrt(N) into the weight."""
    # hypot(a, b) = sqrt(a^2 + b^2). So the divisor is hypot(|x|, sqrt(N eps)), which takes fewer
    # operations than F.rms_norm does on a CPU.
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x / length.hypot(length.new_tensor((x.shape[-1] * eps) ** 0.5)).to(x.dtype)


class Decoder:
    """A copy of a model's weights for generation, in the model's compute precision.

    Packed weights are unpacked, adapters merged, shards gathered, and the norms' weights multiplied
    into the matrices that follow them. Later changes of the model have no effect. All ranks must
    make it together, as shards are gathered; afterwards each rank may call it on its own."""

    @torch.no_grad()
    def __init__(self, model):
        self.config, self.dtype, self.rotation = model.config, model.dtype, model.rotation
        config = model.config
        embedding = distributed.full_tensor(model.embedding.detach())
        if hasattr(model, "scale"):  # a quantized model: (V, 1), one for each row
            embedding = embedding.float() * model.scale.float()
        self.embedding = embedding.to(model.dtype, copy=True)  # (V, C)
        self.norm = self.norm_weight(model.norm).to(model.dtype)
        self.layers = []
        for block in model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            query_norm = self.norm_weight(attention.query_norm).expand(config.heads, -1)
            key_norm = self.norm_weight(attention.key_norm).expand(config.kv_heads, -1)
            key_norm = key_norm / config.head_dim ** 0.5  # so scores need not be divided
            self.layers.append({
                "qkv": self.fuse(block.attention_norm, attention.query, attention.key,
                                 attention.value),
                "head_norms": torch.cat((query_norm, key_norm)).to(model.dtype),  # (H + K, D)
                "output": self.fuse(None, attention.output),
                "gate_up": self.fuse(block.feed_forward_norm, feed_forward.gate, feed_forward.up),
                "down": self.fuse(None, feed_forward.down)})

    def norm_weight(self, norm):
        """Return a norm's weight, (N,), times sqrt(N): see `normalize`."""
        weight = distributed.full_tensor(norm.weight.detach())
        return weight * len(weight) ** 0.5

    def fuse(self, norm, *projections):
        """Return one matrix, (inputs, all outputs), for projections that read the same input.

        norm: the RMSNorm of that input, or None."""
        weights = []
        for projection in projections:
            weight = distributed.full_tensor(projection.weight.detach()).float()
            if projection.adapter is not None:
                weight = weight + projection.adapter.B @ projection.adapter.A
            weights.append(weight)
        fused = torch.cat(weights)
        if norm is not None:
            fused = fused * self.norm_weight(norm)
        return fused.to(self.dtype).T

    def __call__(self, ids, cache, fill=False):
        """Append the keys and values of new tokens to the cache, and return their final-layer
        hidden states: (R, T) -> (R, T, C). With fill=True only fill the cache: the rest of the last
        layer is skipped, and None returned.

        Attention is written out, because for the large batches of rollouts this is faster on a CPU
        than F.scaled_dot_product_attention."""
        config, eps = self.config, self.config.norm_eps
        R, T = ids.shape
        H, K, D, G = config.heads, config.kv_heads, config.head_dim, config.heads // config.kv_heads
        start, stop = cache.position, cache.position + T  # stop is S
        cos, sin = self.rotation[:, start:stop, None].to(self.dtype)  # (T, 1, D) each
        bias = cache.bias(T)
        x = F.embedding(ids, self.embedding).view(R * T, -1)
        for i, layer in enumerate(self.layers):
            qkv = (normalize(x, eps) @ layer["qkv"]).view(R, T, H + 2 * K, D)
            # Normalise and rotate queries and keys together. Each head has its row of head_norms.
            normed = normalize(qkv[:, :, :H + K], eps) * layer["head_norms"]
            rotated = (normed * cos).addcmul_(normed.roll(D // 2, -1), sin)
            query = rotated[:, :, :H].view(R, T, K, G, D).permute(0, 2, 3, 1, 4)
            cache.keys[i, :, :, start:stop] = rotated[:, :, H:].transpose(1, 2)
            cache.values[i, :, :, start:stop] = qkv[:, :, H + K:].transpose(1, 2)
            if fill and layer is self.layers[-1]:
                break  # the cache is complete
            key, value = cache.keys[i, :, :, :stop], cache.values[i, :, :, :stop]  # (R, K, S, D)
            scores = query.reshape(R, K, G * T, D).to(key.dtype) @ key.mT  # (R, K, G*T, S)
            scores.view(R, K, G, T, stop).add_(bias)
            mixed = (scores.softmax(-1) @ value).view(R, K, G, T, D)
            mixed = mixed.permute(0, 3, 1, 2, 4).reshape(R * T, H * D).to(self.dtype)
            x = torch.addmm(x, mixed, layer["output"])
            gate, up = (normalize(x, eps) @ layer["gate_up"]).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * up, layer["down"])
        cache.position = stop
        return None if fill else (normalize(x, eps) * self.norm).view(R, T, -1)

    def logits(self, hidden_states):
        """(..., C) -> (..., V), computed in the precision of the weights, then cast to float32."""
        return F.linear(hidden_states, self.embedding).float()


def prefill(decoder, prompts, max_new_tokens):
    """Return (cache, last_ids). The cache holds each of B prompts without its last token, and has
    room for the new tokens, up to the context. last_ids, (B,), are the first input of decoding.

    A prompt that occurs several times is computed once and copied. Prompts are padded on the left,
    so that all rows continue at the same position."""
    # The P distinct prompts, in order of first occurrence: prompt -> its index
    distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(prompt) for prompt in distinct])  # (P,)
    padded = [(0,) * (longest - len(prompt)) + prompt for prompt in distinct]
    ids = torch.tensor(padded, device=decoder.embedding.device)  # (P, T)
    size = min(longest + max_new_tokens, decoder.config.context)
    cache = Cache(decoder, len(ids), size, padding)
    if longest > 1:
        decoder(ids[:, :-1], cache, fill=True)
    copies = [distinct[tuple(prompt)] for prompt in prompts]  # B indices
    cache.select(copies)
    return cache, ids[copies, -1]


@torch.no_grad()
def stream(model, prompts, max_new_tokens, stop=-1, temperature=1.0, top_p=1.0, uniforms=None):
    """Yield the next id of every row and its log-probability, two tensors (B,), step by step.

    Ends after max_new_tokens, when the longest row fills the context, or when all rows have
    produced the id `stop`. A finished row repeats `stop`, with log-probability 0. Without prompts
    there are no steps. The first step raises UserError if a prompt is empty or too long.

    model: an AFM or a `Decoder`, which can be made once for several calls. prompts: B lists of ids,
    of any lengths. temperature: 0 is greedy. top_p: below 1, sample from the fewest likeliest
    ids whose probabilities add up to it; leave it at 1 for training, which scores responses under
    the whole distribution. uniforms: (B, max_new_tokens), random numbers in [0, 1) that choose the
    ids.

    In float32, with the same uniforms, a row's result does not depend on the other rows, up to
    rounding. In bfloat16 it depends on them more: the longest prompt decides the padding, which
    shifts a row's positions, and its rotary embeddings are rounded differently."""
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    context, lengths = decoder.config.context, list(map(len, prompts))
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens={max_new_tokens}: give 0 or more")
    if not prompts:
        return
    if min(lengths) < 1 or max(lengths) > context - 1:
        raise UserError(f"a prompt has {max(lengths) if min(lengths) else 0} tokens: it must have "
                        f"1 to {context - 1}, one less than the model's context; shorten it")
    if uniforms is None:
        uniforms = torch.rand(len(prompts), max_new_tokens)
    cache, next_ids = prefill(decoder, prompts, max_new_tokens)
    B, uniforms = len(prompts), uniforms.to(next_ids.device)
    rows = torch.arange(B, device=next_ids.device)  # (R,), rows still computed: at first all B
    active = torch.ones_like(rows, dtype=torch.bool)  # (R,), True until a row produces `stop`
    for step in range(min(max_new_tokens, context - max(lengths))):
        if not active.any():
            return
        logits = decoder.logits(decoder(next_ids[:, None], cache)[:, 0])  # (R, V)
        sampled, logp = sample(logits, uniforms[rows, step], temperature, top_p)
        next_ids = sampled.where(active, stop)
        # Scatter the R computed rows into B. Finished rows get `stop` and log-probability 0.
        yield (next_ids.new_full((B,), stop).scatter(0, rows, next_ids),
               logp.new_zeros(B).scatter(0, rows, logp * active))
        active = next_ids != stop
        # Compaction, an optimisation: once half of the rows have finished, stop computing them.
        if 2 * active.sum() <= len(rows):
            cache.select(active)
            rows, next_ids, active = rows[active], next_ids[active], active[active]  # all True


def generate(model, prompts, max_new_tokens, stop=-1, **sampling):
    """Return the new ids of every row: B lists, each cut after its first `stop`.

    sampling: as for `stream`."""
    return [ids for ids, _ in generate_with_logp(model, prompts, max_new_tokens, stop, **sampling)]


def generate_with_logp(model, prompts, max_new_tokens, stop=-1, **sampling):
    """Return B pairs: the new ids of a row, as `generate` does, and the sum of their
    log-probabilities under the distribution that they were sampled from."""
    steps = list(stream(model, prompts, max_new_tokens, stop, **sampling))
    if not steps:
        return [([], 0.0) for _ in prompts]
    ids, logp = (torch.stack(columns, 1) for columns in zip(*steps))  # two (B, steps)
    rows = [row[:row.index(stop) + 1] if stop in row else row for row in ids.tolist()]
    return list(zip(rows, logp.sum(1).tolist()))


def sample(logits, uniforms, temperature=1.0, top_p=1.0):
    """Sample an id from each row: logits (R, V), uniforms (R,) in [0, 1) -> ids (R,), logp (R,).

    logp: log-probabilities of the ids under the distribution that they are sampled from.

    The id is the first whose cumulative probability exceeds the uniform: with probabilities
    0.2, 0.5, 0.3 (cumulative 0.2, 0.7, 1), 0.6 chooses id 1. torch.multinomial is slower, and draws
    its own random numbers, so a row would depend on the rows before it.

    Raises UserError if a row has NaN or infinite logits; those of single ids may be -inf."""
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise UserError(f"temperature={temperature} and top_p={top_p}: give a temperature of 0 or "
                        "more, and a top_p above 0 and at most 1")
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise UserError("a uniform random number is not in [0, 1), so it chooses no id: draw them "
                        "with torch.rand, in float32")
    if temperature not in (0, 1):
        logits = logits / temperature
    if not logits.amax(-1).isfinite().all():
        raise UserError("the model's logits are not finite numbers: train it again, with a lower "
                        "learning rate")
    if temperature == 0:  # greedy: probability 1
        return logits.argmax(-1), logits.new_zeros(len(logits))
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # total probability of the likelier ids
        probabilities = probabilities.scatter(-1, order, ordered.where(before < top_p, 0.0))
        probabilities /= probabilities.sum(-1, keepdim=True)
    cumulative = probabilities.cumsum(-1)
    points = uniforms[:, None] * cumulative[:, -1:]  # the last is 1 only up to rounding
    ids = torch.searchsorted(cumulative, points, right=True)  # (R, 1)
    return ids[:, 0], probabilities.gather(1, ids)[:, 0].log()
