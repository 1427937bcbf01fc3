"""Talk to a trained model. A pre-trained one continues the prompt, a fine-tuned one answers it.

    python sample.py --run runs/toy --tools price,age --prompt "What do the red keys of Ada cost?"
    python sample.py --run runs/toy --stage lengthening --prompt "def main("
    python sample.py --run runs/toy --quantized --adapter summary
    echo "Name 3 colours, with a dash before each." | python sample.py --run runs/toy

Without --prompt, each line of the input is a prompt and starts a new conversation. With
--quantized, the line "/adapter NAME" attaches another adapter.
"""
import argparse
import codecs
import contextlib
import sys
import textwrap

import torch

from afm_min import lora
from afm_min.generate import stream
from afm_min.lab.stages import STAGES, choose_model, warn_if_stale
from afm_min.model import load_model
from afm_min.ondevice import FEATURES
from afm_min.quantize import QuantizedAFM
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.tokenizer import DOCUMENT, END
from afm_min.world import tools

ADAPTERS = ["recovery", *FEATURES, "none"]
CHAT_STAGES = list(STAGES)[list(STAGES).index("draft"):]  # from "draft" on, models answer questions


def print_response(model, ids, stop, arguments, prefix=""):
    """Sample after ids until the token `stop`. Print prefix, then each token as it comes.

    Returns the text without prefix. A character of several tokens is printed once complete."""
    generator = torch.Generator().manual_seed(arguments.seed)
    uniforms = torch.rand(1, arguments.max_new_tokens, generator=generator)
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    # The batch has one row, and the log-probabilities are not needed.
    for (token,), _ in stream(model, [ids], arguments.max_new_tokens, stop=stop, uniforms=uniforms,
                              temperature=arguments.temperature, top_p=arguments.top_p):
        piece = utf8.decode(b"" if token == stop else model.tokenizer.vocab[token])
        print(prefix + piece, end="", flush=True)
        prefix = ""  # printed with the first token, so that a prompt that is too long is not
        text += piece
    rest = utf8.decode(b"", final=True)
    print(rest)
    return text + rest


def continue_text(model, prompt, arguments):
    """Print a prompt and its continuation, up to where another document would begin."""
    document = model.tokenizer.special(DOCUMENT)
    ids = [document, *model.tokenizer.encode(prompt)]
    print_response(model, ids, document, arguments, prefix=prompt)


def answer_question(model, question, arguments):
    """Print the model's turns, and the results of its tool calls, indented."""
    system = [arguments.system] if arguments.system else []
    if arguments.tools:
        system.append(tools.declare(arguments.tools))
    messages = [{"role": "system", "content": "\n".join(system)}] if system else []
    messages.append({"role": "user", "content": question})

    def respond(conversations):  # only `messages`, which `converse` extends
        if messages[-1]["role"] == "tool":
            print(textwrap.indent(messages[-1]["content"], "    "))
        ids = model.tokenizer.encode_chat(messages, reply=True)
        return [print_response(model, ids, model.tokenizer.special(END), arguments)]
    tools.converse(respond, [messages])
    if messages[-1]["content"].startswith(tools.CALL):
        print("    no more calls in this conversation")  # the last one was not run


def use_adapter(adapters, name):
    """Attach an adapter to the quantized model; with "none", detach it."""
    if adapters is None:
        raise UserError(f"adapter {name} is for the quantized model: add --quantized")
    if name not in ADAPTERS:
        raise UserError(f"adapter {name}: choose from {', '.join(ADAPTERS)}")
    adapters.use(None if name == "none" else name)


def check_arguments(arguments, stage):
    """Raise UserError if an argument has a bad value, or does not fit the stage."""
    if arguments.temperature not in (None, 0) and not 0.01 <= arguments.temperature <= 100:
        raise UserError(f"--temperature {arguments.temperature}: give 0, or 0.01 to 100")
    if not 0 < arguments.top_p <= 1 or arguments.max_new_tokens < 1:
        raise UserError("--top-p must be above 0 and at most 1, --max-new-tokens 1 or more")
    if arguments.quantized and arguments.stage:
        raise UserError(f"--stage {arguments.stage} is not quantized: leave out one of the two")
    if stage not in CHAT_STAGES and (arguments.tools or arguments.system):
        raise UserError(f"--stage {stage} continues a prompt: --system and --tools are for "
                        f"{CHAT_STAGES[0]} and later stages")
    for tool in arguments.tools:
        if tool not in tools.PARAMETERS:
            raise UserError(f"--tools {tool}: choose from {', '.join(tools.PARAMETERS)}")


def sample(arguments):
    """Load a model, and respond to --prompt or to each line of the input."""
    run = Run(arguments.run, choose_device(arguments.device))
    stage = choose_model(run, arguments.stage)  # with --quantized, the one it was made from
    check_arguments(arguments, stage)
    chats = stage in CHAT_STAGES
    respond = answer_question if chats else continue_text
    if arguments.temperature is None:
        arguments.temperature = 0.0 if chats else 0.8
    if arguments.quantized:
        model = load_model(run, "quantize", QuantizedAFM)
        adapters = lora.AdapterCache(model, run.checkpoint)
    else:
        model, adapters = load_model(run, stage), None
    if arguments.adapter is None and arguments.quantized and run.checkpoint("recovery").exists():
        arguments.adapter = "recovery"
    if arguments.adapter:
        use_adapter(adapters, arguments.adapter)
    loaded = ["quantize", arguments.adapter] if arguments.quantized else [stage]
    warn_if_stale(run, *(name for name in loaded if name in STAGES))
    if arguments.prompt is not None:
        respond(model, arguments.prompt, arguments)
        return
    with contextlib.suppress(EOFError):  # raised at the end of the input
        while True:
            prompt = input("> " if sys.stdin.isatty() else "")
            command, _, name = prompt.partition(" ")
            try:
                if command == "/adapter":
                    use_adapter(adapters, name.strip())
                    warn_if_stale(run, *STAGES.keys() & {name.strip()})
                else:
                    respond(model, prompt, arguments)
            except UserError as error:  # the next prompt may be good
                print(f"error: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--stage", metavar="NAME", help="stage whose model to load (default: the last one trained)")
    add("--prompt", metavar="TEXT", help="text to respond to (default: each line of the input)")
    add("--system", metavar="TEXT", help="system message of the conversation")
    add("--tools", metavar="NAME,NAME", type=lambda names: names.split(","), default=[],
        help=f"tools that the model may call: {', '.join(tools.PARAMETERS)} (default: none)")
    add("--quantized", action="store_true", help="load the quantized model")
    add("--adapter", metavar="NAME",
        help=f"adapter of the quantized model: {', '.join(ADAPTERS)} (default: recovery)")
    add("--max-new-tokens", metavar="N", type=int, default=100, help="(default: %(default)s)")
    add("--temperature", metavar="T", type=float,
        help="0 takes the likeliest token (default: 0 for answers, 0.8 for continuations)")
    add("--top-p", metavar="P", type=float, default=0.95, help="nucleus (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="the same for each prompt (default: 0)")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best available)")
    run_command(sample, parser.parse_args())


if __name__ == "__main__":
    main()
