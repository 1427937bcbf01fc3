"""A run in the Hugging Face layout, which other programs load without any code of ours.

    python -m afm_min export --run runs/toy --out runs/exported
    python -m afm_min export --run runs/toy --out runs/exported --adapter recovery,math

    model = AutoModelForCausalLM.from_pretrained("runs/exported")    the same logits, in float32
    AutoTokenizer.from_pretrained("runs/exported")                   the same ids
    PeftModel.from_pretrained(model, "runs/exported/math")           one of its adapters

The architecture is exactly that of Qwen3, so the weights need nothing but their names there. They
are one file, whatever their size. Adapters were made for the packed model, so --adapter exports
that one, as --stage quantize does: each packed weight as the float it stands for, no longer small.

What transformers' tokenizer does, and what it is here:

    tokenizer(text, split_special_tokens=True)    encode(text): '<|end|>' in a text is text
    tokenizer(text)                               encode(text, specials=True): it is one token
    tokenizer.apply_chat_template(messages)       encode_chat(messages); with add_generation_prompt,
                                                  reply=True. A content that holds a special token
                                                  would forge a turn there, so it is refused
    tokenizer.decode(ids)                         decode(ids); but if a run of fallback bytes is not
                                                  UTF-8 throughout, all its bytes become U+FFFD
"""
import argparse
import json
import os
import pathlib
import tempfile

import regex
import torch

from afm_min import lora
from afm_min.model import AFM, Linear, RMSNorm, load_model
from afm_min.quantize import QuantizedAFM
from afm_min.run import Run, UserError, run_command
from afm_min.lab.stages import STAGES
from afm_min.tokenizer import BYTES, DOCUMENT, END, SPECIALS, Tokenizer

try:
    from safetensors.torch import save as tensors_to_bytes
except ImportError:  # an extra, and the command says how to get it
    tensors_to_bytes = None

MODELS = ["quantize", *(stage for stage in list(STAGES)[:list(STAGES).index("quantize")]
                        if not stage.startswith("reward"))]  # their heads are unknown to Qwen3
NAMES = {"embedding": "embed_tokens", "blocks": "layers", "attention_norm": "input_layernorm",
         "attention": "self_attn", "query": "q_proj", "key": "k_proj", "value": "v_proj",
         "output": "o_proj", "query_norm": "q_norm", "key_norm": "k_norm",
         "feed_forward_norm": "post_attention_layernorm", "feed_forward": "mlp",
         "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def renamed(name):
    """'blocks.0.attention.query' -> 'model.layers.0.self_attn.q_proj'"""
    return ".".join(["model", *(NAMES.get(part, part) for part in name.split("."))])


@torch.no_grad()
def weights(model):
    """Name there -> each weight of a model, in float32; a packed one is unpacked."""
    model.dtype = torch.float32
    found = {"embedding": model.embed(torch.arange(model.config.vocab_size))}
    found |= {name: layer.weight.float() for name, layer in model.named_modules()
              if isinstance(layer, (Linear, RMSNorm))}
    return {f"{renamed(name)}.weight": weight for name, weight in found.items()}


def describe_model(config):
    """The content of config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "float32",
        "hidden_size": config.dim, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.hidden, "hidden_act": "silu",
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context,
        "rope_theta": config.rope_base, "rms_norm_eps": config.norm_eps,
        "attention_bias": False, "tie_word_embeddings": True}


def listed(pattern):
    """A pattern with each class of characters spelled out: r'\\d' -> r'[\\x{30}-\\x{39}...]'

    What is a letter or a digit differs by the version of Unicode that a program knows."""
    characters = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)

    def ranges(match):
        runs = regex.findall(f"{match[0]}+", characters)
        pairs = (rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)
        return f"[{''.join(pairs)}]"
    return regex.sub(r"\\[wWdDsS]", ranges, pattern)


def describe_tokenizer(tokenizer):
    """The content of tokenizer.json. A token is named by its text, which no other has: a text is
    merged in one way only, and neither bytes nor special tokens are merged."""
    names = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))]
    names += [token.decode() for token in tokenizer.vocab[BYTES.stop:]]
    flags = dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip"), False)
    return {
        "added_tokens": [flags | {"id": i, "content": name, "special": True}
                         for i, name in enumerate(SPECIALS)],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": listed(tokenizer.pattern)},
                          "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True,
                  "vocab": {name: i for i, name in enumerate(names)},
                  "merges": [[names[token] for token in pair] for pair in tokenizer.merges]}}


def files_of(model, tokenizer):
    """Name -> content of each file of a model: bytes, or what is written as JSON."""
    document, end = tokenizer.special(DOCUMENT), tokenizer.special(END)
    return {
        "config.json": describe_model(model.config),
        "model.safetensors": tensors_to_bytes(weights(model), {"format": "pt"}),
        "generation_config.json": {"bos_token_id": document, "pad_token_id": document,
                                   "eos_token_id": [end, document]},
        "tokenizer.json": describe_tokenizer(tokenizer),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "bos_token": DOCUMENT, "pad_token": DOCUMENT, "eos_token": END,
            "model_max_length": model.config.context},
        "chat_template.jinja": pathlib.Path(__file__).with_name("chat_template.jinja").read_bytes()}


def adapter_files(name, adapter):
    """Name -> content of each file of an adapter, in a folder of its name; values in 16 bits, as
    they were saved."""
    terms = {f"base_model.model.{renamed(layer)}.lora_{letter}.weight": values.detach().half()
             for layer, term in adapter.modules.items()
             for letter, values in (("A", term.down), ("B", term.up))}
    return {
        f"{name}/adapter_model.safetensors": tensors_to_bytes(terms, {"format": "pt"}),
        f"{name}/adapter_config.json": {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None,
            "r": adapter.rank, "lora_alpha": adapter.rank,  # their quotient scales the term: 1
            "target_modules": sorted({renamed(layer).split(".")[-1] for layer in adapter.modules})}}


def write(out, files):
    """Make a folder of these files, name -> content, with its final name only once it is whole.

    Raises UserError if there is something already, or no room."""
    try:
        if out.exists() and (out.is_file() or any(out.iterdir())):
            raise UserError(f"--out {out} exists: choose another folder, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as beside:
            new = pathlib.Path(beside, "new")
            for name, content in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(content if isinstance(content, bytes) else
                                         json.dumps(content, indent=1).encode())
            os.sync()  # the bytes before the name, as in run.atomic_write
            os.replace(new, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def export(arguments):
    if tensors_to_bytes is None:
        raise UserError('safetensors is missing: pip install "afm_min[export]"')
    run, names = Run(arguments.run), list(filter(None, arguments.adapter.split(",")))
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    trained = [stage for stage in MODELS if run.checkpoint(stage).exists()]
    stage = arguments.stage or ("quantize" if names else trained[-1] if trained else "sft")
    if stage not in trained:
        raise UserError(f"--stage {stage}: {run.path} has models of {', '.join(trained) or 'none'}")
    if names and stage != "quantize":
        raise UserError(f"--stage {stage}: adapters are for the packed model, so leave it out")
    model = load_model(run, stage, QuantizedAFM if stage == "quantize" else AFM)
    files = files_of(model, tokenizer)
    for name in names:
        files |= adapter_files(name, lora.load_adapter(run.checkpoint(name), model))
    write(pathlib.Path(arguments.out).resolve(), files)
    print(f"{arguments.out}: {stage}{' with ' * bool(names)}{', '.join(names)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--out", metavar="DIR", default="runs/exported", help="a new folder (default: %(default)s)")
    add("--stage", metavar="NAME", help="whose model to export (default: the last one that is not "
        "packed)")
    add("--adapter", metavar="NAME,NAME", default="", help="adapters to export with the model they "
        "are for: --stage quantize, each weight unpacked to a float (default: none)")
    run_command(export, parser.parse_args())


if __name__ == "__main__":
    main()
