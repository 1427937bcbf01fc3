"""How fast this machine is at what we do: python -m tests.bench, or make bench.

A machine's speed drifts, so figures are compared within one run only: each is a median over rounds
in which all take turns.
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

from afm_min import corpus, crawl, lora
from afm_min.fit import AdaStar, backward, parameter_groups
from afm_min.funnel import Funnel
from afm_min.model import AFM, PRESETS, sample
from afm_min.pretrain import next_token_loss
from afm_min.quantize import palettize, quantized
from afm_min.run import compute_dtype
from afm_min.tokenizer import Tokenizer

ROWS, ROUNDS = 32, 7


def seconds(tasks, rounds=ROUNDS, warmup=2):
    """Median seconds of each task: {name: function} -> {name: float}."""
    times = {name: [] for name in tasks}
    for r in range(rounds + warmup):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(measured[warmup:]) for name, measured in times.items()}


def training_step(config, dtype, compiled=False):
    model = AFM(config, dtype)
    loss = torch.compile(next_token_loss) if compiled else next_token_loss
    optimizer = AdaStar(parameter_groups(model), lr=1e-3)
    ids = torch.randint(config.vocab_size, (ROWS, config.context + 1))

    def step():
        backward(model, {"ids": ids}, loss)
        optimizer.step()
    return step


def training(compiled):
    config = PRESETS["toy"]
    dtypes = {torch.float32, compute_dtype("cpu")}
    steps = {f"train {str(dtype)[6:]}": training_step(config, dtype) for dtype in dtypes}
    if compiled:
        steps |= {f"train {str(dtype)[6:]} compiled": training_step(config, dtype, True)
                  for dtype in dtypes}
    large = {dtype: torch.randn(2048, 2048).to(dtype) for dtype in dtypes}
    products = {f"matmul {str(dtype)[6:]}": lambda m=m: m @ m for dtype, m in large.items()}
    measured = seconds(steps | products)
    tokens = ROWS * config.context
    # 6 operations per matrix parameter and token; attention: 12 per layer, head dim and pair seen
    matrices = sum(p.numel() for p in AFM(config).parameters() if p.dim() == 2)
    operations = 6 * matrices + 12 * config.layers * config.heads * config.head_dim * config.context
    print(f"Training the toy, {ROWS} x {config.context} tokens a step:")
    for name in steps:
        peak = 2 * 2048 ** 3 / measured[f"matmul {name.split()[1]}"]
        rate = tokens / measured[name]
        print(f"  {name:26} {rate:9,.0f} tokens/s   {rate * operations / 1e9:6.1f} GFLOP/s, "
              f"{rate * operations / peak:.0%} of a matrix product's {peak / 1e9:,.0f}")


@torch.no_grad()
def uncached(model, prompts, count):
    """What `generate` says, all that stands before a token computed anew for it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    begin = torch.tensor([[longest - len(prompt)] for prompt in prompts])
    for _ in range(count):
        drawn = sample(model.logits(model.states(ids, begin=begin if begin.any() else None)[:, -1]),
                       torch.rand(len(ids)))
        ids = torch.cat((ids, drawn[:, None]), 1)


def generation():
    config = PRESETS["toy"].__class__(**{**PRESETS["toy"].__dict__, "context": 512})
    model = AFM(config, compute_dtype("cpu")).eval()
    prompt = torch.randint(1024, (32,)).tolist()
    ragged = [prompt[:8 + 3 * i] for i in range(8)]
    measured = seconds({
        "8 prompts, cached": lambda: model.generate(ragged, 256),
        "8 prompts, uncached": lambda: uncached(model, ragged, 256),
        "1 prompt, cached": lambda: model.generate([prompt], 256),
        "1 prompt, uncached": lambda: uncached(model, [prompt], 256),
        "64 prompts, cached": lambda: model.generate([prompt] * 64, 256)}, rounds=3, warmup=1)
    print("Generating 256 tokens each:")
    for name, elapsed in measured.items():
        print(f"  {name:26} {int(name.split()[0]) * 256 / elapsed:9,.0f} tokens/s")
    for rows in ("8 prompts", "1 prompt"):
        ratio = measured[f"{rows}, uncached"] / measured[f"{rows}, cached"]
        print(f"  {rows}: cached {ratio:.1f} times as fast as uncached")
    print(f"  64 rows: {64 * measured['1 prompt, cached'] / measured['64 prompts, cached']:.1f} "
          "times the rate of one")


def rollouts():
    """256 responses, 8 to each of 32 prompts, beside a forward pass over what then stands there."""
    model = AFM(PRESETS["toy"], compute_dtype("cpu")).eval()
    prompts = [torch.randint(1024, (40,)).tolist() for _ in range(32) for _ in range(8)]
    whole = torch.randint(1024, (256, 64))
    forward = torch.no_grad()(lambda: model(whole))
    measured = seconds({"rollouts": lambda: model.generate(prompts, 24, temperature=1.0),
                        "forward": forward})
    print(f"256 responses of 24 tokens to prompts of 40: {measured['rollouts']:.3f} s, "
          f"{measured['rollouts'] / measured['forward']:.1f} times a forward pass over the "
          "finished sequences")


def on_device():
    """Packing, generation from packed weights beside float ones, and switching adapters."""
    model = AFM(PRESETS["toy"], compute_dtype("cpu")).eval()
    four = dict.fromkeys(lora.projections(model), 4)
    packed = quantized(model, four)
    prompts = [torch.randint(1024, (40,)).tolist() for _ in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        switch = lora.Switch(packed, lambda name: f"{folder}/{name}.pt")
        for name in ("one", "other"):
            lora.save_adapter(switch.path(name), lora.create(packed, 16))
            switch.use(name)
        turns = itertools.cycle(("one", "other"))
        measured = seconds({"pack": lambda: quantized(model, four),
                            "switch": lambda: switch.use(next(turns)),
                            "attached": lambda: packed.generate(prompts, 24, temperature=1.0)})
        switch.use(None)
    measured |= seconds({"float": lambda: model.generate(prompts, 24, temperature=1.0),
                         "packed": lambda: packed.generate(prompts, 24, temperature=1.0)})
    begun = time.perf_counter()
    palettize(torch.randn(3072, 8064), 4)
    print(f"On device: the toy in 4 bits in {measured['pack']:.2f} s, a matrix of 3,072 x 8,064 in "
          f"{time.perf_counter() - begun:.1f} s; adapters switched in "
          f"{1000 * measured['switch']:.2f} ms; 64 responses from packed weights take "
          f"{measured['packed'] / measured['float']:.2f} times as long as from float ones, with an "
          f"adapter {measured['attached'] / measured['float']:.2f} times")


def tokenizer():
    text = "\n".join(path.read_text(encoding="utf-8")
                     for path in sorted(corpus.STDLIB.rglob("*.py"))
                     if not corpus.LEFT_OUT & set(path.parts))
    known, new = text[:5_000_000], text[5_000_000:6_000_000]
    trained = Tokenizer.train([known], 4096)
    trained.encode(known[:1_000_000])
    begun = time.perf_counter()
    trained.encode(new)
    first = time.perf_counter() - begun
    measured = seconds({"5 MB": lambda: Tokenizer.train([known], 4096),
                        "2.5 MB": lambda: Tokenizer.train([known[:2_500_000]], 4096)},
                       rounds=3, warmup=1)
    print(f"Tokenizer: 4,096 tokens from 5 MB in {measured['5 MB']:.2f} s, from 2.5 MB in "
          f"{measured['2.5 MB']:.2f} s; encodes {len(new) / first / 1e6:.1f} MB/s of new text")


def funnel(count=10_000, size=2000):
    """Pages of sentences drawn from the language reference: different ones, so that few
    are dropped."""
    rng = random.Random(0)
    sentences = re.findall(r"[A-Z][^.:]{40,200}\.", " ".join(
        " ".join(corpus.pydoc_data.topics.topics.values()).split()))
    filters = Funnel(corpus.pydoc_data.topics.topics.values(), common=5)

    def pages():
        for i in range(count):
            body = ""
            while len(body) < size:
                body += f"<p>{rng.choice(sentences)}</p>"
            yield {"source": "web", "name": str(i), "url": f"docs.example/{i}",
                   "text": crawl.layout("Page", body)}

    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    kept = sum(1 for _ in filters.run(pages()))
    elapsed, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"Funnel: {count:,} pages of {size:,} characters, {kept:,} of which pass all filters, "
          f"in {elapsed:.0f} s; memory grows by {(after - before) / count:.1f} KB a page")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true",
                        help="torch.compile, too (needs a C++ compiler)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    funnel()  # first: its memory is measured as the most that the process ever had
    training(arguments.compiled)
    generation()
    rollouts()
    on_device()
    tokenizer()
