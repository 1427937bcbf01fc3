"""Measure the speed of this machine: python -m tests.bench, or make bench.

A machine's speed drifts, so compare figures within one run only. Each is a median over rounds, in
which all tasks take turns.
"""
import argparse
import itertools
import random
import re
import resource
import statistics
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

from afm_min import lora
from afm_min.data import corpus, sources
from afm_min.trainer import AdaStar, backward, parameter_groups
from afm_min.data.funnel import Funnel
from afm_min.generate import generate, sample
from afm_min.model import AFM, PRESETS, Config
from afm_min.pretrain import next_token_loss
from afm_min.quantize import Palettized, quantize_model
from afm_min.run import compute_dtype
from afm_min.tokenizer import Tokenizer

ROWS, ROUNDS = 32, 7


def seconds(tasks, rounds=ROUNDS, warmup=2):
    """Return the median seconds of each task: {name: function} -> {name: float}."""
    times = {name: [] for name in tasks}
    for r in range(rounds + warmup):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}


class GPT(nn.Module):
    """A baseline: GPT-2's architecture in usual PyTorch, of the shape of one of our configs.

    It has one matrix for query, key and value, PyTorch's own attention, norms and loss, and mixed
    precision by autocast. Its feed-forward has 4 C units, which is as many parameters as the three
    matrices of SwiGLU with 8/3 C."""

    def __init__(self, config):
        super().__init__()
        C = config.dim
        self.heads = config.heads
        self.token = nn.Embedding(config.vocab_size, C)
        self.position = nn.Embedding(config.context, C)
        self.blocks = nn.ModuleList(nn.ModuleList([
            nn.LayerNorm(C, bias=False), nn.Linear(C, 3 * C, bias=False),
            nn.Linear(C, C, bias=False), nn.LayerNorm(C, bias=False),
            nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)])
            for _ in range(config.layers))
        self.norm = nn.LayerNorm(C, bias=False)

    def forward(self, ids):
        B, T = ids.shape
        x = self.token(ids) + self.position(torch.arange(T))
        for norm, qkv, output, norm2, up, down in self.blocks:
            heads = (part.view(B, T, self.heads, -1).transpose(1, 2)
                     for part in qkv(norm(x)).chunk(3, -1))
            mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + output(mixed.transpose(1, 2).reshape(B, T, -1))
            x = x + down(F.gelu(up(norm2(x))))
        return F.linear(self.norm(x), self.token.weight)


def gpt_step(config, dtype, compiled=False):
    """Return a function: one training step of `GPT` with AdamW and clipping."""
    model = GPT(config)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(config.vocab_size, (ROWS, config.context + 1))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = forward(ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def training_step(config, dtype, compiled=False):
    """Return a function: one training step of our model, as in `trainer.fit`."""
    model = AFM(config, dtype)
    loss = torch.compile(next_token_loss) if compiled else next_token_loss
    optimizer = AdaStar(parameter_groups(model), lr=1e-3)
    ids = torch.randint(config.vocab_size, (ROWS, config.context + 1))

    def step():
        backward(model, {"ids": ids}, loss)
        optimizer.step()
    return step


def operations(config):
    """Return the operations of training on a token: 6 for each parameter of a matrix, and for
    attention 12 for each layer, head dimension and token of the context."""
    with torch.device("meta"):
        matrices = sum(p.numel() for p in AFM(config).parameters() if p.dim() == 2)
    return 6 * matrices + 12 * config.layers * config.heads * config.head_dim * config.context


def training(compiled):
    """Measure training beside the GPT and a plain matrix product."""
    config = PRESETS["toy"]
    dtypes = sorted({torch.float32, compute_dtype("cpu")}, key=str)
    steps = {f"{who} {str(dtype)[6:]}{how}": make(config, dtype, bool(how))
             for dtype in dtypes for how in ["", " compiled"][:1 + compiled]
             for who, make in (("ours", training_step), ("GPT", gpt_step))}
    large = {dtype: torch.randn(2048, 2048).to(dtype) for dtype in dtypes}
    products = {f"matmul {str(dtype)[6:]}": lambda m=m: m @ m for dtype, m in large.items()}
    measured = seconds(steps | products)
    tokens = ROWS * config.context
    print(f"Training the toy, {ROWS} x {config.context} tokens a step, beside a GPT of that shape:")
    for name in (name for name in steps if name.startswith("ours")):
        peak = 2 * 2048 ** 3 / measured[f"matmul {name.split()[1]}"]
        rate, other = tokens / measured[name], measured[name.replace("ours", "GPT")]
        flops = rate * operations(config)
        print(f"  {name[5:]:18} {rate:9,.0f} tokens/s   {flops / 1e9:6.1f} GFLOP/s, "
              f"{flops / peak:.0%} of a matrix product's {peak / 1e9:,.0f}; "
              f"{other / measured[name]:.2f} times the GPT's speed")


def growth():
    """Measure training time per token by the size of the model."""
    print("Cost of training by size, in float32, and its ratio to 6 N + attention, first 1:")
    sizes = [(64, 2), (128, 2), (192, 4), (256, 6), (384, 8), (512, 12)]
    configs = [Config(dim, layers, dim // 32, dim // 64, 32, 8 * dim // 3, 2048, 128)
               for dim, layers in sizes]
    first = None
    for config in configs:
        model = AFM(config)
        optimizer = AdaStar(parameter_groups(model), lr=1e-3)
        ids = torch.randint(config.vocab_size, (8, config.context + 1))

        def step():
            backward(model, {"ids": ids}, next_token_loss)
            optimizer.step()
        elapsed = seconds({"step": step}, rounds=5)["step"] / (8 * config.context)
        ratio = elapsed / operations(config)
        first = first or ratio
        print(f"  {sum(p.numel() for p in model.parameters()) / 1e6:5.1f} M parameters: "
              f"{1e6 * elapsed:7.1f} us a token, {operations(config) / elapsed / 1e9:6.1f} "
              f"GFLOP/s, {ratio / first:.2f}")


@torch.no_grad()
def uncached(model, prompts, count):
    """Generate without a cache: compute all tokens again for each new one."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    begin = torch.tensor([[longest - len(prompt)] for prompt in prompts])
    for _ in range(count):
        start = begin.expand_as(ids) if begin.any() else None
        states = model.hidden_states(ids, segment_start=start)[:, -1]
        token, _ = sample(model.logits(states), torch.rand(len(ids)))
        ids = torch.cat((ids, token[:, None]), 1)


def generation():
    """Measure generation by batch size, with the KV cache and without."""
    config = PRESETS["toy"].__class__(**{**PRESETS["toy"].__dict__, "context": 512})
    model = AFM(config, compute_dtype("cpu")).eval()
    prompt = torch.randint(1024, (32,)).tolist()
    ragged = [prompt[:8 + 3 * i] for i in range(8)]
    measured = seconds({
        "8 prompts, cached": lambda: generate(model, ragged, 256),
        "8 prompts, uncached": lambda: uncached(model, ragged, 256),
        "1 prompt, cached": lambda: generate(model, [prompt], 256),
        "1 prompt, uncached": lambda: uncached(model, [prompt], 256),
        "64 prompts, cached": lambda: generate(model, [prompt] * 64, 256)}, rounds=3, warmup=1)
    print("Generating 256 tokens each:")
    for name, elapsed in measured.items():
        print(f"  {name:26} {int(name.split()[0]) * 256 / elapsed:9,.0f} tokens/s")
    for rows in ("8 prompts", "1 prompt"):
        ratio = measured[f"{rows}, uncached"] / measured[f"{rows}, cached"]
        print(f"  {rows}: cached {ratio:.1f} times as fast as uncached")
    print(f"  64 rows: {64 * measured['1 prompt, cached'] / measured['64 prompts, cached']:.1f} "
          "times the rate of one")


def rollouts():
    """Measure sampling 8 responses to each of 32 prompts, beside a forward pass over all tokens."""
    model = AFM(PRESETS["toy"], compute_dtype("cpu")).eval()
    prompts = [torch.randint(1024, (40,)).tolist() for _ in range(32) for _ in range(8)]
    whole = torch.randint(1024, (256, 64))
    forward = torch.no_grad()(lambda: model(whole))
    measured = seconds({"rollouts": lambda: generate(model, prompts, 24, temperature=1.0),
                        "forward": forward})
    print(f"256 responses of 24 tokens to prompts of 40: {measured['rollouts']:.3f} s, "
          f"{measured['rollouts'] / measured['forward']:.1f} times a forward pass over the "
          "finished sequences")


def on_device():
    """Measure quantizing, generating from quantized weights, and switching adapters."""
    model = AFM(PRESETS["toy"], compute_dtype("cpu")).eval()
    four = dict.fromkeys(lora.projections(model), 4)
    packed = quantize_model(model, four)
    prompts = [torch.randint(1024, (40,)).tolist() for _ in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        switch = lora.AdapterCache(packed, lambda name: f"{folder}/{name}.pt")
        for name in ("one", "other"):
            lora.save_adapter(switch.path(name), lora.create(packed, 16))
            switch.use(name)
        turns = itertools.cycle(("one", "other"))
        measured = seconds({"pack": lambda: quantize_model(model, four),
                            "switch": lambda: switch.use(next(turns)),
                            "attached": lambda: generate(packed, prompts, 24, temperature=1.0)})
        switch.use(None)
    measured |= seconds({"float": lambda: generate(model, prompts, 24, temperature=1.0),
                         "packed": lambda: generate(packed, prompts, 24, temperature=1.0)})
    start = time.perf_counter()
    Palettized(8064, 3072, 4).pack_weight(torch.randn(3072, 8064))
    print(f"On device: the toy in 4 bits in {measured['pack']:.2f} s, a matrix of 3,072 x 8,064 in "
          f"{time.perf_counter() - start:.1f} s; adapters switched in "
          f"{1000 * measured['switch']:.2f} ms; 64 responses from packed weights take "
          f"{measured['packed'] / measured['float']:.2f} times as long as from float ones, with an "
          f"adapter {measured['attached'] / measured['float']:.2f} times")


def tokenizer():
    """Measure training of the tokenizer, and encoding of new text."""
    text = "\n".join(path.read_text(encoding="utf-8")
                     for path in sorted(sources.STDLIB.rglob("*.py"))
                     if not sources.EXCLUDED & set(path.parts))
    known, new = text[:5_000_000], text[5_000_000:6_000_000]
    trained = Tokenizer.train([known], 4096)
    trained.encode(known[:1_000_000])
    start = time.perf_counter()
    trained.encode(new)
    first = time.perf_counter() - start
    measured = seconds({"5 MB": lambda: Tokenizer.train([known], 4096),
                        "2.5 MB": lambda: Tokenizer.train([known[:2_500_000]], 4096)},
                       rounds=3, warmup=1)
    print(f"Tokenizer: 4,096 tokens from 5 MB in {measured['5 MB']:.2f} s, from 2.5 MB in "
          f"{measured['2.5 MB']:.2f} s; encodes {len(new) / first / 1e6:.1f} MB/s of new text")


def funnel(counts=(2_500, 10_000, 40_000), size=2000):
    """Measure the funnel on pages of random sentences from the language reference.

    Few of the pages are duplicates. Time and memory per page must not grow with their number."""
    rng = random.Random(0)
    sentences = re.findall(r"[A-Z][^.:]{40,200}\.", " ".join(
        " ".join(corpus.pydoc_data.topics.topics.values()).split()))

    def pages(count):
        for i in range(count):
            body = ""
            while len(body) < size:
                body += f"<p>{rng.choice(sentences)}</p>"
            yield {"source": "web", "name": str(i), "url": f"docs.example/{i}",
                   "text": sources.layout("Page", body)}

    print(f"Funnel, pages of {size:,} characters:")
    for count in counts:
        filters = Funnel(corpus.pydoc_data.topics.topics.values(), common=5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        kept = sum(1 for _ in filters.run(pages(count)))
        elapsed = time.perf_counter() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"  {count:6,}, {kept:6,} of which pass: {1e6 * elapsed / count:5.0f} us and "
              f"{grown / count:.1f} KB a page")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true",
                        help="measure torch.compile, too (needs a C++ compiler)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    funnel()  # first, as its memory is measured by the peak of the whole process
    training(arguments.compiled)
    growth()
    generation()
    rollouts()
    on_device()
    tokenizer()
