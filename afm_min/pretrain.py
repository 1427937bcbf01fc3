"""Pre-training: the text, the tokenizer, and the core stage (the report's section 3).

Kept from the report: AdaStar and its constants, a cosine that ends at 0.005 of the peak, the decay,
z-loss, sources mixed by weight. Scaled to the toy: steps, batch, sequence length and warm-up. The
report's peak of 0.01 is the toy's, too: 0.02 was worse for both seeds tried (by 0.02 and 0.04 bits
per byte), 0.005 for the one tried (by 0.01).
"""
import dataclasses
import json
import math

import torch

from afm_min import corpus, gradients
from afm_min.fit import cosine, fit, seed_step
from afm_min.model import AFM, compute_dtype, save_model
from afm_min.run import save, write_text
from afm_min.tokenizer import DOCUMENT, Tokenizer

Z_LOSS = 1e-6
MIXTURE = {"web": 0.5, "licensed": 0.1, "code": 0.2, "public": 0.2, "user": 1.0}  # source -> share


def data(run, *, folder=""):
    """Collect the documents: from `folder`, or those that CPython carries."""
    documents = corpus.collect(folder)
    write_text(run.file("documents.jsonl"), "".join(json.dumps(d) + "\n" for d in documents))
    return {f"{source} MB": sum(len(d["text"]) for d in documents if d["source"] == source) / 1e6
            for source in dict.fromkeys(d["source"] for d in documents)}


def tokenizer(run, *, coverage=0.9995):
    """Train the tokenizer on all documents but the held-out ones; turn all of them into ids."""
    documents = corpus.read(run)
    trained = Tokenizer.train((d["text"] for d in documents if not d["held_out"]),
                              run.config.vocab_size, coverage)
    trained.save(run.file("tokenizer.json"))
    streams = {"train": {}, "held_out": {}}  # split -> source -> ids (N,)
    for split, source in {("held_out" if d["held_out"] else "train", d["source"]): None
                          for d in documents}:
        streams[split][source] = corpus.pack(
            [d["text"] for d in documents
             if d["source"] == source and d["held_out"] == (split == "held_out")], trained)
    save(run.file("tokens.pt"), **streams, **run.origin("tokenizer"))
    tokens = sum(len(ids) for split in streams.values() for ids in split.values())
    return {"vocabulary": trained.vocab_size,
            "characters per token": sum(len(d["text"]) for d in documents) / tokens}


def token_losses(logits, targets):
    """Cross-entropy and z-loss of each token, in nats: (B, T, V), (B, T) -> two of (B, T)."""
    cross_entropy, log_z = gradients.CrossEntropy.apply(logits.flatten(0, 1), targets.flatten())
    return cross_entropy.view(targets.shape), Z_LOSS * log_z.view(targets.shape) ** 2


def next_token_loss(model, batch):
    """The language-model loss of ids (B, T + 1): each is predicted from those before it."""
    targets = batch["ids"][:, 1:]
    cross_entropy, z_loss = token_losses(model(batch["ids"][:, :-1]), targets)
    return {"loss": (cross_entropy + z_loss).sum(), "count": targets.numel()}


@torch.no_grad()
def bits_per_byte(model, stream, tokenizer, most=16_384, rows=32):
    """Cross-entropy over `most` ids from all over a stream (N,), in bits per byte of their text.

    Bytes, not tokens, so that models with different tokenizers can be compared."""
    size = torch.tensor([len(token) for token in tokenizer.vocab])
    size[tokenizer.special(DOCUMENT)] = 0  # it must be predicted, but is no text
    nats = total = 0
    for ids in corpus.windows(stream, model.config.context, most).split(rows):
        targets = ids[:, 1:].to(model.embedding.device)
        cross_entropy, _ = token_losses(model(ids[:, :-1].to(targets.device)), targets)
        nats += cross_entropy.sum().item()
        total += size[ids[:, 1:]].sum().item()
    return nats / math.log(2) / total


def held_out_bits(model, run, tokenizer):
    """Source -> bits per byte of its held-out text."""
    streams = run.load(run.file("tokens.pt"))["held_out"]
    return {f"{source} bits/byte": bits_per_byte(model, stream, tokenizer)
            for source, stream in streams.items()}


def core(run, *, steps=500, batch=32, micro_batch=32, lr=0.01, floor=0.005, warmup=25,
         decay=3.16e-4, mixture=MIXTURE, compile=False):
    """Core pre-training, from scratch. `compile` pays when training takes minutes."""
    trained = Tokenizer.load(run.file("tokenizer.json"))
    streams = run.load(run.file("tokens.pt"))["train"]
    config = dataclasses.replace(run.config, vocab_size=trained.vocab_size)
    seed_step(run.seed, "core", -1)
    model = AFM(config, compute_dtype(run.device)).to(run.device)
    loss = torch.compile(next_token_loss) if compile else next_token_loss
    fit(model, corpus.mixture_batches(streams, mixture, batch, config.context), loss,
        steps=steps, lr=lr, schedule=cosine(steps, warmup, floor), decay=decay,
        micro_batch=micro_batch, run=run, stage="core")
    save_model(run, "core", model)
    return held_out_bits(model, run, trained)
