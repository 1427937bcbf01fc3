"""Talk to a trained model: one of text goes on from the prompt, one of conversations answers it.

    python sample.py --run runs/toy --tools price,age --prompt "What do the red keys of Ada cost?"
    python sample.py --run runs/toy --stage lengthening --prompt "def main("
    python sample.py --run runs/toy --quantized --adapter summary
    echo "Name 3 colours, with a dash before each." | python sample.py --run runs/toy

Without --prompt each line of the input is one. In the toy world a conversation has one question:
every line begins another one. The line "/adapter NAME" attaches another adapter.
"""
import argparse
import codecs
import contextlib
import sys
import textwrap

import torch

from afm_min import lora
from afm_min.data import corpus
from afm_min.world import tools
from afm_min.generate import stream
from afm_min.model import load_model
from afm_min.ondevice import FEATURES
from afm_min.quantize import QuantizedAFM
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.lab.stages import STAGES
from afm_min.tokenizer import DOCUMENT, END

ADAPTERS = ["recovery", *FEATURES, "none"]
# Reward models judge; what is quantized, and its adapters, have options of their own.
SPEAKING = [stage for stage in STAGES if stage not in ("quantize", *ADAPTERS)
            and not stage.startswith("reward")]
CONVERSING = SPEAKING[SPEAKING.index("draft"):]


def say(model, ids, stop, arguments, before=""):
    """Print `before` and what the model says after ids, token by token, until it says `stop`;
    return what it said. Half a character waits for the rest."""
    characters, said = codecs.getincrementaldecoder("utf-8")("replace"), ""
    uniforms = torch.rand(1, arguments.max_new_tokens,
                         generator=torch.Generator().manual_seed(arguments.seed))
    for (token,), _ in stream(model, [ids], arguments.max_new_tokens, stop=stop, uniforms=uniforms,
                                 temperature=arguments.temperature, top_p=arguments.top_p):
        piece = characters.decode(b"" if token == stop else model.tokenizer.vocab[token])
        print(before + piece, end="", flush=True)
        said, before = said + piece, ""  # the prompt has been accepted, and printed once
    rest = characters.decode(b"", final=True)
    print(rest)
    return said + rest


def complete(model, prompt, arguments):
    """Print a prompt, and how the model goes on."""
    document = model.tokenizer.special(DOCUMENT)  # where another text would begin
    say(model, [document, *model.tokenizer.encode(prompt)], document, arguments, prompt)


def answer(model, question, arguments):
    """Print what the model answers, each tool that it calls on the way, and what that says."""
    system = [arguments.system] * bool(arguments.system)
    system += [tools.declare(arguments.tools)] * bool(arguments.tools)
    messages = [{"role": "system", "content": "\n".join(system)}] * bool(system)
    messages.append({"role": "user", "content": question})

    def reply(_):  # to a list of conversations, of which there is this one
        if messages[-1]["role"] == "tool":
            print(textwrap.indent(messages[-1]["content"], "    "))
        ids = model.tokenizer.encode_chat(messages, reply=True)
        return [say(model, ids, model.tokenizer.special(END), arguments)]
    tools.converse(reply, [messages], arguments.pages)
    if messages[-1]["content"].startswith(tools.CALL):
        print("    no more calls in this conversation")


def use_adapter(switch, name):
    """Use the adapter of a quantized model that has this name; "none" is the base alone."""
    if name not in ADAPTERS:
        raise UserError(f"adapter {name}: choose from {', '.join(ADAPTERS)}")
    if not isinstance(switch.model, QuantizedAFM):
        raise UserError(f"adapter {name} is for the quantized model: add --quantized")
    switch.use(None if name == "none" else name)


def check(arguments, stage, trained):
    if arguments.temperature not in (None, 0) and not 0.01 <= arguments.temperature <= 100:
        raise UserError(f"--temperature {arguments.temperature}: give 0, or 0.01 to 100")
    if not 0 < arguments.top_p <= 1 or arguments.max_new_tokens < 1:
        raise UserError("--top-p must be above 0 and at most 1, --max-new-tokens 1 or more")
    if not trained:
        raise UserError(f"{arguments.run} holds no model: python train.py --out {arguments.run} "
                        "trains one")
    if arguments.quantized and arguments.stage:
        raise UserError(f"--stage {arguments.stage} is not quantized: leave out one of the two")
    if stage not in trained:
        raise UserError(f"--stage {stage}: {arguments.run} has models of {', '.join(trained)}")
    if stage not in CONVERSING and (arguments.tools or arguments.system):
        raise UserError(f"--stage {stage} goes on from a prompt: --system and --tools are for "
                        f"{CONVERSING[0]} and what comes after it")
    if unknown := set(arguments.tools) - set(tools.PARAMETERS):
        raise UserError(f"--tools {min(unknown)}: choose from {', '.join(tools.PARAMETERS)}")


def talk(arguments):
    run = Run(arguments.run, choose_device(arguments.device))
    trained = [stage for stage in SPEAKING if run.checkpoint(stage).exists()]
    stage = arguments.stage or (trained or [""])[-1]  # the one that was quantized, too
    arguments.tools = list(filter(None, arguments.tools.split(",")))
    check(arguments, stage, trained)
    respond, usual = (answer, 0.0) if stage in CONVERSING else (complete, 0.8)
    if arguments.temperature is None:
        arguments.temperature = usual
    model = load_model(run, "quantize", QuantizedAFM) if arguments.quantized else load_model(run, stage)
    switch = lora.AdapterCache(model, run.checkpoint)
    if arguments.adapter or arguments.quantized and run.checkpoint("recovery").exists():
        use_adapter(switch, arguments.adapter or "recovery")
    arguments.pages = corpus.toy_world(run)["tools"].pages if "search" in arguments.tools else {}
    if arguments.prompt is not None:
        return respond(model, arguments.prompt, arguments)
    with contextlib.suppress(EOFError):
        while True:
            prompt = input("> " if sys.stdin.isatty() else "")
            command, _, name = prompt.partition(" ")
            try:
                if command == "/adapter":
                    use_adapter(switch, name.strip())
                else:
                    respond(model, prompt, arguments)
            except UserError as error:  # one prompt was bad: the next may be good
                print(f"error: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--stage", metavar="NAME", help="whose checkpoint to load (default: the last one trained)")
    add("--prompt", metavar="TEXT", help="what to answer or go on from (default: every input line)")
    add("--system", metavar="TEXT", default="", help="what the conversation begins with")
    add("--tools", metavar="NAME,NAME", default="", help="what may be called: "
        f"{', '.join(tools.PARAMETERS)} (default: nothing)")
    add("--quantized", action="store_true", help="the last model, packed into few bits")
    add("--adapter", metavar="NAME", help=f"to attach to it: {', '.join(ADAPTERS)} "
        "(default: recovery, if it is trained)")
    add("--max-new-tokens", metavar="N", type=int, default=100, help="(default: %(default)s)")
    add("--temperature", metavar="T", type=float, help="0 takes the likeliest token (default: 0 in "
        "conversations, else 0.8)")
    add("--top-p", metavar="P", type=float, default=0.95, help="draw from the likeliest tokens "
        "that hold this probability together (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0,
        help="of the draws, the same for every prompt (default: %(default)s)")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    run_command(talk, parser.parse_args())


if __name__ == "__main__":
    main()
