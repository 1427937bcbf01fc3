"""Talk to a trained model. A pre-trained one continues the prompt, a fine-tuned one answers it.

    python sample.py --run runs/toy
    python sample.py --run runs/toy --tools price,age --prompt "What do the red keys of Ada cost?"
    python sample.py --run runs/toy --stage lengthening --prompt "def main("
    python sample.py --run runs/toy --quantized --adapter summary
    echo "Name 3 colours. Put a dash before each." | python sample.py --run runs/toy

Each line of the input is a prompt, or a command if it begins with "/": /help lists them; help, quit
and exit need no "/". A prompt starts a new conversation. /and QUESTION continues the last one: the
training data has follow-up questions of mathematics, instructions and recall.
"""
import contextlib
import importlib
import shutil
import signal
import sys
import textwrap

if __name__ == "__main__":  # the imports take seconds: until they end, Ctrl-C prints no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from afm_min.lab.packages import check_packages
    check_packages()

from afm_min.lab.packages import python_command
from afm_min.lab.shell import ADAPTERS, CHAT_STAGES, Session
from afm_min.lab.stages import STAGES, choose_model, model_option
from afm_min.run import Parser, Run, UserError, choose_device, run_command
from afm_min.world.families import all_families
from afm_min.world.tasks import PARAMETERS, draw_task
from afm_min.world.tools import parse_call
from afm_min.world.words import ANIMALS, CITIES, COLOURS, NAMES, THINGS

with contextlib.suppress(ImportError):  # some builds of Python have none
    importlib.import_module("readline")  # so that `input` can edit lines and recall earlier ones


def check_arguments(arguments, stage):
    """Raise UserError if an argument has a bad value, or does not fit the stage."""
    if arguments.temperature not in (None, 0) and not 0.01 <= arguments.temperature <= 100:
        raise UserError(f"--temperature {arguments.temperature}: give 0, or 0.01 to 100")
    if not 0 <= arguments.seed < 2 ** 63:
        raise UserError(f"--seed {arguments.seed}: give 0 to 2^63 - 1")
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError("--prompt is empty: write a question, or leave it out to ask several")
    if not 0 < arguments.top_p <= 1:
        raise UserError(f"--top-p {arguments.top_p}: give a number above 0, at most 1")
    if arguments.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {arguments.max_new_tokens}: give 1 or more")
    if arguments.stage and (arguments.quantized or arguments.adapter):
        raise UserError(f"--stage {arguments.stage} does not go with --quantized or --adapter: "
                        "leave out one of the two")
    if stage not in CHAT_STAGES and (arguments.tools != "on" or arguments.system):
        raise UserError(f"the model of {stage} only continues text: --system and --tools are for "
                        f"{CHAT_STAGES[0]} and later stages")


def draw_tool_tasks(rng):
    """Draw test tasks until each tool is the first that some task calls. Return the first task of
    each, {tool: task}, except for open, which follows a search."""
    tasks = dict.fromkeys(name for name in PARAMETERS if name != "open")
    while not all(tasks.values()):
        task = draw_task(all_families()["tools"], "test", rng.random())
        calls, _ = task.answer
        if calls:
            tool, _, _ = parse_call(calls[0])
            tasks[tool] = tasks[tool] or task
    return tasks


def print_banner(session):
    """Print which model responds, an unseen question of each family and of each tool, and the words
    of the toy world."""
    print(f"{session.run.path}, {session.state()}. /help lists the commands.")
    if session.chats:
        print("It answers questions such as these, and few others. /example NAME asks one in full:")
        width = max(40, shutil.get_terminal_size().columns - 14)  # of a question
        for name, family in all_families().items():
            if name == "tools":
                for task in draw_tool_tasks(session.rng).values():
                    print(f"    {'tools':9}{textwrap.shorten(task.question, width)}")
                continue
            task = draw_task(family, "test", session.rng.random())
            question = task.question.replace("\n", r"\n")  # in a terminal, \n is a line break
            system = task.system.split("\n")[0]
            if system and not system.startswith("Tools:"):  # notes to recall, or an instruction
                question = f"{textwrap.shorten(f'/system {system}', 45)} then: {question}"
            print(f"    {name:9}{textwrap.shorten(question, width)}")
        print("It knows only these names, things, colours, animals and cities:")
        for words in (NAMES, THINGS, COLOURS, ANIMALS, CITIES):
            print(f"    {' '.join(words)}")


def talk(session, terminal):
    """Respond to each line of the input, until it ends or a line is /quit or /exit. If it is no
    terminal, and a line caused an error, the exit code is 2."""
    failed = False
    while True:
        try:
            # In a terminal, typing \n gives a line break.
            line = input("> ").replace(r"\n", "\n") if terminal else input()
            if not line.strip():
                continue
            if not terminal:
                print(f"> {line}")  # so that the output shows which answer belongs to which line
            if line.startswith("/") or line.strip() in ("help", "quit", "exit"):
                session.command(line.strip())
            else:
                session.respond(line)
        except EOFError:
            if failed and not terminal:
                sys.exit(2)
            return
        except KeyboardInterrupt:  # in a terminal, Ctrl-C ends only the answer or the line
            if not terminal:
                raise
            print()
        except UnicodeDecodeError:
            raise UserError("the input is not UTF-8 text") from None
        except UserError as error:  # continue with the next line
            failed = True
            print(f"error: {error}", file=sys.stderr)


def sample(arguments):
    """Load a model, and respond to --prompt or to each line of the input."""
    run = Run(arguments.run, choose_device(arguments.device))
    if run.path.is_file():
        option = f" --{model_option(run.path.stem)}" if run.path.stem in STAGES else ""
        raise UserError(f"--run {run.path} is a file, but it takes the folder of a run: "
                        f"{python_command()} sample.py --run {run.path.parent}{option}")
    check_arguments(arguments, choose_model(run, arguments.stage))
    session = Session(run, arguments)
    if arguments.prompt is not None:
        session.respond(arguments.prompt)
        return
    terminal = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):  # in some locales, Python lets any bytes pass
        sys.stdin.reconfigure(errors="strict")
    if terminal:
        print_banner(session)
    talk(session, terminal)


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # raises KeyboardInterrupt
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--run", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--stage", metavar="NAME", help="stage whose model to load (default: the last of all)")
    add("--prompt", metavar="TEXT", help="text to respond to (default: each line of the input)")
    add("--system", metavar="TEXT", help="system message of the conversation")
    add("--tools", metavar="NAME,NAME", default="on",
        help=f"tools to declare: on, off or some of {', '.join(PARAMETERS)} (default: on)")
    add("--quantized", action="store_true", help="load the quantized model; --adapter does, too")
    add("--adapter", metavar="NAME",
        help=f"adapter of the quantized model: {', '.join(ADAPTERS)} (default: recovery)")
    add("--max-new-tokens", metavar="N", type=int, default=100, help="(default: %(default)s)")
    add("--temperature", metavar="T", type=float, help="(default: 0 for answers, 0.8 for texts)")
    add("--top-p", metavar="P", type=float, default=0.95, help="nucleus (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0,
        help="seed of each response, and of /example (default: %(default)s)")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best available)")
    run_command(sample, parser.parse_args())


if __name__ == "__main__":
    main()
