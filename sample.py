"""Talk to a trained model. A pre-trained one continues the prompt, a fine-tuned one answers it.

    python sample.py --run runs/toy
    python sample.py --run runs/toy --tools price,age --prompt "What do the red keys of Ada cost?"
    python sample.py --run runs/toy --stage lengthening --prompt "def main("
    python sample.py --run runs/toy --quantized --adapter summary
    echo "Name 3 colours. Put a dash before each." | python sample.py --run runs/toy

In a terminal, /help lists the commands, and a conversation goes on until /new or a question on
another subject. From a pipe, each prompt starts a new one. A line is a prompt or a command.
"""
import argparse
import sys

from afm_min.lab.shell import ADAPTERS, CHAT_STAGES, Session, parse_tools
from afm_min.lab.stages import choose_model
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import draw_task

try:
    import readline  # lets `input` edit lines and recall earlier ones
except ImportError:  # some builds of Python have none
    readline = None


def check_arguments(arguments, stage):
    """Raise UserError if an argument has a bad value, or does not fit the stage."""
    if arguments.temperature not in (None, 0) and not 0.01 <= arguments.temperature <= 100:
        raise UserError(f"--temperature {arguments.temperature}: give 0, or 0.01 to 100")
    if not 0 < arguments.top_p <= 1 or arguments.max_new_tokens < 1:
        raise UserError("--top-p must be above 0 and at most 1, --max-new-tokens 1 or more")
    if arguments.quantized and arguments.stage:
        raise UserError(f"--stage {arguments.stage} is not quantized: leave out one of the two")
    if arguments.adapter and not arguments.quantized:
        raise UserError(f"adapter {arguments.adapter} is for the quantized model: add --quantized")
    if stage not in CHAT_STAGES and (parse_tools(arguments.tools) or arguments.system):
        raise UserError(f"--stage {stage} continues a prompt: --system and --tools are for "
                        f"{CHAT_STAGES[0]} and later stages")


def print_banner(session):
    """Print which model answers, and an unseen question of each family."""
    print(f"{session.run.path}, {session.name}. /help lists the commands.")
    if not session.chats:
        print("It continues what you write.")
        return
    print("It can answer questions such as these, and few others:")
    for name, family in all_families().items():
        task = draw_task(family, "test", session.rng.random())
        if task.system and name != "tools":
            print(f"{name:9}/system {task.system}")
            name = ""
        print(f"{name:9}" + task.question.replace("\n", r"\n"))


def read_line():
    """Return a line from the terminal. Ctrl-C discards what has been typed; if that is nothing, it
    raises EOFError, as Ctrl-D does."""
    try:
        return input("> ").replace(r"\n", "\n")
    except KeyboardInterrupt:
        print()
        if readline and readline.get_line_buffer():
            return ""
        raise EOFError from None


def talk(session, terminal):
    """Respond to each line of the input. In a terminal, the conversation goes on; otherwise each
    prompt starts a new one."""
    while True:
        try:
            line = read_line() if terminal else input()
            if line.startswith("/"):
                session.command(line)
            elif line.strip() or not terminal:
                session.respond(line)
            if not terminal:
                session.do_new()
        except EOFError:  # the end of the input, or /quit
            return
        except KeyboardInterrupt:  # in a terminal, it ends only the answer
            if not terminal:
                raise
            print()
        except UserError as error:  # the next line may be good
            print(f"error: {error}", file=sys.stderr)


def sample(arguments):
    """Load a model, and respond to --prompt or to each line of the input."""
    run = Run(arguments.run, choose_device(arguments.device))
    check_arguments(arguments, choose_model(run, arguments.stage))
    session = Session(run, arguments)
    if arguments.prompt is not None:
        session.respond(arguments.prompt)
        return
    terminal = sys.stdin.isatty()
    if terminal:
        print_banner(session)
    talk(session, terminal)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--stage", metavar="NAME", help="stage whose model to load (default: the last one trained)")
    add("--prompt", metavar="TEXT", help="text to respond to (default: each line of the input)")
    add("--system", metavar="TEXT", help="system message of the conversation")
    add("--tools", metavar="NAME,NAME", default="on",
        help=f"tools that the model may call: {', '.join(tools.PARAMETERS)}; none; or on, all of "
             "them with questions like those for tools (default: %(default)s)")
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
