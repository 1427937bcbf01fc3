"""A session with a trained model: the conversation, its tools, and the commands of sample.py."""
import codecs
import functools
import random
import re
import textwrap

import torch

from afm_min import lora
from afm_min.generate import stream
from afm_min.lab.stages import STAGES, choose_model, warn_if_stale
from afm_min.model import load_model
from afm_min.ondevice import FEATURES
from afm_min.quantize import QuantizedAFM
from afm_min.run import UserError
from afm_min.tokenizer import DOCUMENT, END
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, draw_task

ADAPTERS = ["recovery", *FEATURES, "none"]
CHAT_STAGES = list(STAGES)[list(STAGES).index("draft"):]  # from "draft" on, models answer questions
FAMILIES = all_families() | EVOLVED


def parse_tools(text):
    """Return the tools to declare, or None to choose them by the question:
    "price,age" -> ["price", "age"], "off" -> [], "on" -> None"""
    if text in ("on", "off", "none"):
        return None if text == "on" else []
    names = text.split(",")
    for name in names:
        if name not in tools.PARAMETERS:
            raise UserError(f"tools {name}: give on, off or some of {','.join(tools.PARAMETERS)}")
    return names


def words(text):
    """Return the set of words of a text: "How old?" -> {"how", "old"}"""
    return set(re.findall(r"\w+", text.lower()))


@functools.cache
def training_questions(count=100):
    """Return triples (family, turn, words): the questions of `count` training tasks of each family.
    turn: 0 for a first question, 1 or 2 for a further one of the same conversation."""
    questions = []
    for name, family in FAMILIES.items():
        for i in range(count):
            messages = draw_task(family, "train", i).messages()
            asked = [message["content"] for message in messages if message["role"] == "user"]
            questions += [(name, turn, words(text)) for turn, text in enumerate(asked)]
    return questions


def most_similar(question):
    """Return family and turn of the training question with the largest share of common words:
    "And Ada's red pens?" -> ("recall", 1)"""
    asked = words(question)
    family, turn, _ = max(training_questions(),
                          key=lambda known: len(known[2] & asked) / len(known[2] | asked))
    return family, turn


class Session:
    """A model and the conversation with it so far.

    The methods do_NAME are the commands. They take the text after /NAME, and /help prints their
    docstrings."""

    def __init__(self, run, arguments):
        self.run, self.arguments = run, arguments
        self.tools, self.system = parse_tools(arguments.tools), arguments.system
        self.rng = random.Random(arguments.seed)  # draws examples
        self.model = self.adapters = None  # adapters: of a quantized model
        self.do_new()
        if arguments.quantized:
            recovered = run.checkpoint("recovery").exists()
            self.do_adapter(arguments.adapter or ("recovery" if recovered else "none"))
        else:
            self.do_stage(arguments.stage)

    def command(self, line):
        """Run a command, such as "/stage sft"."""
        name, _, text = line.removeprefix("/").partition(" ")
        commands = [method[3:] for method in dir(self) if method.startswith("do_")]
        if name not in commands:
            raise UserError(f"command /{name}: choose from /{', /'.join(commands)}")
        getattr(self, f"do_{name}")(text.strip())

    def do_help(self, _):
        r"""List the commands. (In any line, \n stands for a line break.)"""
        for name in dir(self):
            if name.startswith("do_"):
                print(f"/{name[3:]:9}{getattr(self, name).__doc__}")

    def do_quit(self, _):
        """Leave, as Ctrl-D and Ctrl-C do. During an answer, Ctrl-C ends only the answer."""
        raise EOFError

    def do_new(self, _=""):
        """Start a new conversation, as a question on another subject does."""
        self.messages = []  # those so far, without a system message

    def do_system(self, text):
        """Start a conversation with a system message: /system Always end with Done."""
        self.system = text
        self.do_new()

    def do_tools(self, text):
        """Declare tools: /tools price,age; off; or on: all, with questions like those for tools."""
        self.tools = parse_tools(text)

    def do_stage(self, name):
        """Load the model of a stage, by default of the last one, and start a conversation."""
        stage = choose_model(self.run, name)
        self.model, self.adapters = load_model(self.run, stage), None
        self.name, self.chats = stage, stage in CHAT_STAGES
        self.do_new()
        warn_if_stale(self.run, stage)

    def do_adapter(self, name):
        """Attach an adapter to the quantized model, or none: /adapter math, /adapter none."""
        if name not in ADAPTERS:
            raise UserError(f"adapter {name}: choose from {', '.join(ADAPTERS)}")
        model, adapters = self.model, self.adapters
        used = [] if name == "none" else [name]
        if adapters is None:  # another model is loaded, or none yet
            used.append("quantize")
            model = load_model(self.run, "quantize", QuantizedAFM)
            adapters = lora.AdapterCache(model, self.run.checkpoint)
        adapters.use(None if name == "none" else name)
        self.model, self.adapters = model, adapters
        self.name, self.chats = f"quantize with adapter {name}", True
        warn_if_stale(self.run, *used)

    def do_example(self, name):
        """Ask an unseen question, and check the answer: /example math, /example for any family."""
        if name and name not in FAMILIES:
            raise UserError(f"example {name}: choose from {', '.join(FAMILIES)}")
        if not self.chats:
            raise UserError(f"{self.name} answers no questions: choose another model with /stage")
        family = FAMILIES[name or self.rng.choice([*FAMILIES])]
        task = draw_task(family, "test", self.rng.random())
        messages, solution = task.messages(), task.solution
        if family.name == "tools":  # as in evaluation, the model makes all the calls
            messages, solution = messages[:2], "\n".join([*task.answer[0], task.answer[1]])
        for message in messages:
            print(f"{message['role']}: {message['content']}")
        self.converse(messages)
        if family.name == "tools":
            right = family.solved(task, messages)
        else:
            right = family.check(task, messages[-1]["content"])
        print("(right)" if right else f"(wrong, expected: {solution})")

    # Responses.

    def respond(self, prompt):
        """Print the answer to a prompt, or a continuation of it."""
        if self.chats:
            self.answer(prompt)
        else:  # up to where another document would begin
            document = self.model.tokenizer.special(DOCUMENT)
            ids = [document, *self.model.tokenizer.encode(prompt)]
            self.print_response(ids, document, prefix=prompt)

    def answer(self, question):
        """Print the answer to a question, and append both to the conversation.

        In training, only questions for tools come with declared tools, and a conversation has one
        family. A model calls tools that are declared whatever the question, and is lost if the
        subject changes. So by default tools are declared only with questions like those for tools,
        and a question like the first ones of training starts a new conversation."""
        family, turn = most_similar(question)
        declared = self.tools
        if declared is None:
            declared = [*tools.PARAMETERS] if family == "tools" else []
        lines = [self.system] if self.system else []
        if declared:
            lines.append(tools.declare(declared))
        system = [{"role": "system", "content": "\n".join(lines)}] if lines else []
        messages = [*system, *self.messages, {"role": "user", "content": question}]
        # A quarter of the context is for the answer, and for calls before it.
        length = len(self.model.tokenizer.encode_chat(messages))
        full = length > self.model.config.context * 3 // 4
        if self.messages and (turn == 0 or full):
            print("(new conversation: the context is full)" if full else "(new conversation)")
            messages = [*system, messages[-1]]
        self.converse(messages)
        self.messages = messages[len(system):]

    def converse(self, messages):
        """Append the model's turns and the results of its tool calls to a conversation, and print
        them, results indented."""
        def reply(conversations):  # only `messages`
            if messages[-1]["role"] == "tool":
                print(textwrap.indent(messages[-1]["content"], "    "))
            ids = self.model.tokenizer.encode_chat(messages, reply=True)
            return [self.print_response(ids, self.model.tokenizer.special(END))]
        tools.converse(reply, [messages])
        if messages[-1]["content"].startswith(tools.CALL):
            print("    no more calls in this conversation")  # the last one was not run

    def print_response(self, ids, stop, prefix=""):
        """Sample after ids until the token `stop`. Print prefix, then each token as it comes.

        Returns the text without prefix. A character of several tokens is printed once complete."""
        arguments, temperature = self.arguments, self.arguments.temperature
        if temperature is None:
            temperature = 0.0 if self.chats else 0.8
        generator = torch.Generator().manual_seed(arguments.seed)
        uniforms = torch.rand(1, arguments.max_new_tokens, generator=generator)
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        text = ""
        # The batch has one row, and the log-probabilities are not needed.
        for (token,), _ in stream(self.model, [ids], arguments.max_new_tokens, stop=stop,
                                  temperature=temperature, top_p=arguments.top_p,
                                  uniforms=uniforms):
            piece = utf8.decode(b"" if token == stop else self.model.tokenizer.vocab[token])
            print(prefix + piece, end="", flush=True)
            prefix = ""  # printed with the first token, so that a prompt that is too long is not
            text += piece
        rest = utf8.decode(b"", final=True)
        print(rest)
        return text + rest
