"""Export a run in the Hugging Face layout, which other programs load without any code of ours.

    python -m afm_min.lab.export --run runs/toy --out runs/exported
    python -m afm_min.lab.export --run runs/toy --out runs/exported --adapter recovery,math

    model = AutoModelForCausalLM.from_pretrained("runs/exported")    the same logits, in float32
    AutoTokenizer.from_pretrained("runs/exported")                   the same ids
    PeftModel.from_pretrained(model, "runs/exported/math")           one of its adapters

The architecture is exactly that of Qwen3, so only the weights' names change. Adapters were trained
for the quantized model, so --adapter exports that one, like --stage quantize. Its weights are
written as floats, so the file is no longer small.

How the exported tokenizer's calls correspond to ours:

    tokenizer(text, split_special_tokens=True)    encode(text): "<|end|>" in a text is text
    tokenizer(text)                               encode(text, specials=True): there one token
    tokenizer.apply_chat_template(messages)       encode_chat(messages)
        with add_generation_prompt=True           with reply=True
    tokenizer.decode(ids)                         decode(ids), except that where a run of fallback
                                                  bytes is not UTF-8, each byte becomes U+FFFD

The chat template refuses a message that contains a special token, which could forge a turn.
"""
import json
import os
import pathlib
import tempfile

import regex
import torch

from afm_min import lora
from afm_min.lab.stages import choose_model, warn_if_stale
from afm_min.model import Linear, RMSNorm, load_model
from afm_min.quantize import QuantizedAFM
from afm_min.run import Parser, Run, UserError, run_command
from afm_min.tokenizer import BYTES, DOCUMENT, END, SPECIALS, Tokenizer

try:
    from safetensors.torch import save as tensors_to_bytes
except ImportError:  # an optional dependency; `export` names the command that installs it
    tensors_to_bytes = None

# Our name -> Qwen3's, for each part of a weight's name. Parts that are not here stay, as "0" does.
NAMES = {"embedding": "embed_tokens", "blocks": "layers", "attention_norm": "input_layernorm",
         "attention": "self_attn", "query": "q_proj", "key": "k_proj", "value": "v_proj",
         "output": "o_proj", "query_norm": "q_norm", "key_norm": "k_norm",
         "feed_forward_norm": "post_attention_layernorm", "feed_forward": "mlp",
         "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
# Jinja that writes "<|user|>Hi<|end|>" for a message. The specials from 1 to 4 are the roles.
CHAT_TEMPLATE = f"{{%- set specials = {list(SPECIALS)} %}}" + """
{%- if tools %}{{ raise_exception('declare tools in the system message') }}{% endif %}
{%- for message in messages %}
{%- set role = '<|' + message.role + '|>' %}
{%- if role not in specials[1:5] %}{{ raise_exception('there is no role ' + role) }}{% endif %}
{%- for token in specials if token in message.content %}
{{- raise_exception('a message contains ' + token) }}{% endfor %}
{{- role + message.content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def hugging_face_name(name):
    """'blocks.0.attention.query' -> 'model.layers.0.self_attn.q_proj'"""
    return ".".join(["model", *(NAMES.get(part, part) for part in name.split("."))])


@torch.no_grad()
def float_weights(model):
    """Return {Qwen3's name: weight} of a model, in float32. Quantized weights are unpacked: the
    embedding by looking up every token, the others by the layers' property `weight`."""
    model.dtype = torch.float32
    weights = {"embedding": model.embed(torch.arange(model.config.vocab_size))}
    for name, layer in model.named_modules():
        if isinstance(layer, (Linear, RMSNorm)):
            weights[name] = layer.weight.float()
    return {f"{hugging_face_name(name)}.weight": weight for name, weight in weights.items()}


def model_config(config):
    """Return the content of config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "float32",
        "hidden_size": config.dim, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.hidden, "hidden_act": "silu",
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context,
        "rope_theta": config.rope_base, "rms_norm_eps": config.norm_eps,
        "attention_bias": False, "tie_word_embeddings": True}


def expand_classes(pattern):
    """Spell out each character class of a pattern as ranges: r'\\d' -> r'[\\x{30}-\\x{39}...]'

    Programs know different versions of Unicode, so they disagree on what is a letter or digit."""
    # Every character except surrogates, in order: then each longest match of \d+ is one range.
    characters = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)

    def expand(match):
        runs = regex.findall(f"{match[0]}+", characters)
        ranges = (rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)
        return f"[{''.join(ranges)}]"
    return regex.sub(r"\\[wWdDsS]", expand, pattern)


def tokenizer_json(tokenizer):
    """Return the content of tokenizer.json. Tokens are named by their text: "<|end|>", "the".

    Names are keys, so they must be unique. They are: no two merges result in the same text, and no
    merge results in a special token or a fallback byte."""
    names = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))]
    names += [token.decode() for token in tokenizer.vocab[BYTES.stop:]]
    flags = dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip"), False)
    return {
        "added_tokens": [flags | {"id": i, "content": name, "special": True}
                         for i, name in enumerate(SPECIALS)],
        "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False,
                          "pattern": {"Regex": expand_classes(tokenizer.pattern)}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True,
                  "vocab": {name: i for i, name in enumerate(names)},
                  "merges": [[names[token] for token in pair] for pair in tokenizer.merges]}}


def model_files(model, tokenizer):
    """Return {name: content} of a model's files: bytes, or an object that becomes JSON."""
    document, end = tokenizer.special(DOCUMENT), tokenizer.special(END)
    return {
        "config.json": model_config(model.config),
        "model.safetensors": tensors_to_bytes(float_weights(model), {"format": "pt"}),
        "generation_config.json": {"bos_token_id": document, "pad_token_id": document,
                                   "eos_token_id": [end, document]},
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "bos_token": DOCUMENT, "pad_token": DOCUMENT, "eos_token": END,
            "model_max_length": model.config.context},
        "chat_template.jinja": CHAT_TEMPLATE.encode()}


def adapter_files(name, adapter):
    """Return {name: content} of an adapter's files, in a folder `name`. Values keep 16 bits."""
    weights, targets = {}, set()
    for layer, module in adapter.modules.items():
        path = hugging_face_name(layer)
        targets.add(path.split(".")[-1])
        for letter, matrix in (("A", module.A), ("B", module.B)):
            weights[f"base_model.model.{path}.lora_{letter}.weight"] = matrix.detach().half()
    return {
        f"{name}/adapter_model.safetensors": tensors_to_bytes(weights, {"format": "pt"}),
        f"{name}/adapter_config.json": {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None,
            "r": adapter.rank, "lora_alpha": adapter.rank,  # peft multiplies B A by alpha / r = 1
            "target_modules": sorted(targets)}}


def write_folder(folder, files):
    """Write {name: content} into a new folder, which gets its name once all files are written.

    Raises UserError if the folder exists and is not empty, or if the disk is full."""
    try:
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise UserError(f"--out {folder} exists: choose another folder, or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
            new = pathlib.Path(temporary, "new")
            for name, content in files.items():
                if not isinstance(content, bytes):
                    content = json.dumps(content, indent=1).encode()
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(content)
            os.sync()  # so no crash leaves the folder's name without its content
            os.replace(new, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None


def export(arguments):
    """Export a model of a run, and any adapters."""
    if tensors_to_bytes is None:
        raise UserError('safetensors is missing: pip install "afm_min[export]"')
    run = Run(arguments.run)
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    stage = arguments.stage
    if arguments.adapter and stage not in (None, "quantize"):
        raise UserError(f"--stage {stage}: adapters are for the quantized model, so leave it out")
    if arguments.adapter or stage == "quantize":
        stage, model = "quantize", load_model(run, "quantize", QuantizedAFM)
    else:
        stage = choose_model(run, stage)
        model = load_model(run, stage)
    files = model_files(model, tokenizer)
    for name in arguments.adapter:
        files |= adapter_files(name, lora.load_adapter(run.checkpoint(name), model))
    write_folder(pathlib.Path(arguments.out).resolve(), files)
    warn_if_stale(run, stage, *arguments.adapter)
    print(f"{arguments.out}: {', '.join([stage, *arguments.adapter])}")


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--out", metavar="DIR", default="runs/exported", help="a new folder (default: %(default)s)")
    add("--stage", metavar="NAME", help="the model to export (default: the last one trained that "
        "is not quantized)")
    add("--adapter", metavar="NAME,NAME", type=lambda names: names.split(","), default=[],
        help="adapters to export with the quantized model (default: none)")
    run_command(export, parser.parse_args())


if __name__ == "__main__":
    main()
