"""Talk to a trained model: it goes on from the prompt, token by token.

    python sample.py --run runs/toy --prompt "def main("
    echo "The value of" | python sample.py --run runs/toy             one prompt a line
"""
import argparse
import codecs
import sys

import torch

from afm_min.model import load_model
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.stages import STAGES
from afm_min.tokenizer import DOCUMENT, Tokenizer


def complete(model, tokenizer, prompt, arguments):
    """Print the prompt and what follows, token by token; half a character waits for the rest."""
    document = tokenizer.special(DOCUMENT)
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    generator = torch.Generator(model.embedding.device).manual_seed(arguments.seed)
    tokens = model.stream([[document, *tokenizer.encode(prompt)]], arguments.max_new_tokens,
                          temperature=arguments.temperature, top_p=arguments.top_p,
                          generator=generator)
    for i, (token,) in enumerate(map(torch.Tensor.tolist, tokens)):
        if i == 0:  # the prompt has been accepted
            print(prompt, end="")
        if token == document:  # here another text would begin
            break
        print(characters.decode(tokenizer.vocab[token]), end="", flush=True)
    print(characters.decode(b"", final=True))


def talk(arguments):
    if not (arguments.temperature == 0 or 0.01 <= arguments.temperature <= 100):
        raise UserError(f"--temperature {arguments.temperature}: give 0, or 0.01 to 100")
    if not 0 < arguments.top_p <= 1 or arguments.max_new_tokens < 1:
        raise UserError("--top-p must be above 0 and at most 1, --max-new-tokens 1 or more")
    run = Run(arguments.run, choose_device(arguments.device))
    trained = [stage for stage in STAGES if run.checkpoint(stage).exists()]
    if not trained:
        raise UserError(f"{run.path} holds no model: python train.py --out {run.path} trains one")
    if arguments.stage not in [None, *trained]:
        raise UserError(f"--stage {arguments.stage}: {run.path} has models of {', '.join(trained)}")
    tokenizer = Tokenizer.load(run.file("tokenizer.json"))
    model = load_model(run, arguments.stage or trained[-1])
    if arguments.prompt is not None:
        return complete(model, tokenizer, arguments.prompt, arguments)
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            complete(model, tokenizer, prompt, arguments)
        except UserError as error:  # one prompt was bad: the next may be good
            print(f"error: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--stage", metavar="NAME", help="whose checkpoint to load (default: the last one trained)")
    add("--prompt", metavar="TEXT", help="what to go on from (default: every line of the input)")
    add("--max-new-tokens", metavar="N", type=int, default=100, help="(default: %(default)s)")
    add("--temperature", metavar="T", type=float, default=0.8,
        help="0 takes the likeliest token (default: %(default)s)")
    add("--top-p", metavar="P", type=float, default=0.95, help="draw from the likeliest tokens "
        "that hold this probability together (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0,
        help="of the draws, the same for every prompt (default: %(default)s)")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    run_command(talk, parser.parse_args())


if __name__ == "__main__":
    main()
