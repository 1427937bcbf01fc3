"""An interactive session with a trained model: its last conversation, commands and responses."""
import codecs
import random
import textwrap

import torch

from afm_min import lora
from afm_min.generate import stream
from afm_min.lab.stages import STAGES, choose_model, models_of, warn_if_lost, warn_if_stale
from afm_min.model import load_model
from afm_min.ondevice import FEATURES
from afm_min.quantize import QuantizedAFM
from afm_min.run import UserError
from afm_min.tokenizer import DOCUMENT, END
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import EVOLVED, PARAMETERS, declare, draw_task

ADAPTERS = ["recovery", *FEATURES, "none"]
QUANTIZED = "quantize with adapter "  # `Session.name` begins so if the model is quantized
CHAT_STAGES = list(STAGES)[list(STAGES).index("draft"):]  # from "draft" on, models answer questions
FAMILIES = all_families() | EVOLVED
LABELS = {"system": "system", "user": "question", "assistant": "earlier answer"}  # in /example


class Session:
    """A model, and the last conversation with it.

    The method do_NAME is the command /NAME. It takes the text after /NAME, and its docstring is its
    line in /help."""

    def __init__(self, run, arguments):
        self.run, self.arguments = run, arguments
        self.system = arguments.system
        self.messages = []  # of the last conversation
        self.rng = random.Random(arguments.seed)  # draws examples
        self.adapters = None  # an AdapterCache if the model is the quantized one
        self.do_tools(arguments.tools)
        if arguments.quantized or arguments.adapter:
            has_recovery = run.checkpoint("recovery").exists()
            self.do_adapter(arguments.adapter or ("recovery" if has_recovery else "none"))
        else:
            self.do_stage(arguments.stage or "last")

    def command(self, line):
        """Run a command, such as "/stage sft"."""
        name, _, text = line.removeprefix("/").partition(" ")
        method = getattr(self, f"do_{name}", None)
        if method is None:
            raise UserError(f"there is no command /{name}: /help lists them")
        method(text.strip())
        if name in ("stage", "adapter", "system", "tools"):
            print(f"({self.state()})")

    def state(self):
        """Describe the model, and the system message and tools of the next conversation:
        "best2; Tools: price(item)"."""
        if not self.chats:
            return f"{self.name}, which continues what you write"
        parts = [self.name, self.system, self.tools or "no tools"]
        return "; ".join(filter(None, parts))

    def print_names(self, names, prefix=""):
        """Print names, and mark the current model's. prefix: what precedes it in `self.name`."""
        print(", ".join(f"{name} (current)" if prefix + name == self.name else name
                        for name in names) or "this run has none yet")

    def do_help(self, _):
        """List the commands."""
        for name in dir(self):
            if name.startswith("do_"):
                print(f"/{name[3:]:9}{getattr(self, name).__doc__}")

    def do_quit(self, _):
        """Leave, as Ctrl-D does. Ctrl-C ends only the answer, or the line you type."""
        raise EOFError

    do_exit = do_quit

    def do_and(self, question):
        """Continue the last conversation: /and Then 2 more come. How many now?"""
        self.require_chat()
        if not self.messages or not question:
            raise UserError("/and takes a question that continues the last conversation")
        self.converse([*self.messages, {"role": "user", "content": question}])

    def do_system(self, text):
        """Set the system message of new conversations, or remove it: /system Be brief; /system"""
        self.system = text

    def do_tools(self, text):
        """Declare tools in new conversations: /tools price age; /tools all; /tools off"""
        groups = {"": list(PARAMETERS), "on": list(PARAMETERS), "all": list(PARAMETERS), "off": []}
        names = groups.get(text.lower(), text.replace(",", " ").split())
        for name in names:
            if name not in PARAMETERS:
                raise UserError(f"tools {name}: give on, off or some of {','.join(PARAMETERS)}")
        self.tools = declare(names) if names else ""

    def do_stage(self, name):
        """Load a stage's model: /stage sft; /stage last (as without --stage); /stage (lists)"""
        if not name:
            self.print_names(models_of(self.run))
            return
        stage = choose_model(self.run, name)
        self.model = load_model(self.run, stage)  # if it fails, the session keeps its model
        self.adapters = None
        self.name, self.chats = stage, stage in CHAT_STAGES
        warn_if_stale(self.run, stage)
        if name == "last":
            warn_if_lost(self.run, stage)

    def do_adapter(self, name):
        """Use an adapter of the quantized model: /adapter math; /adapter none; /adapter (lists)"""
        if not name:
            self.print_names([name for name in ADAPTERS if self.run.checkpoint(
                "quantize" if name == "none" else name).exists()], QUANTIZED)
            return
        if name not in ADAPTERS:
            raise UserError(f"adapter {name}: choose from {', '.join(ADAPTERS)}")
        adapters = self.adapters or lora.AdapterCache(
            load_model(self.run, "quantize", QuantizedAFM), self.run.checkpoint)
        adapters.use(None if name == "none" else name)
        self.model, self.adapters = adapters.model, adapters
        self.name, self.chats = QUANTIZED + name, True
        warn_if_stale(self.run, "quantize" if name == "none" else name)

    def do_example(self, name):
        """Ask an unseen question, and check the answer: /example math; /example (any family)"""
        self.require_chat()
        if name and name not in FAMILIES:
            raise UserError(f"example {name}: choose from {', '.join(FAMILIES)}")
        family = FAMILIES[name or self.rng.choice([*FAMILIES])]
        task = draw_task(family, "test", self.rng.random())
        while family.name == "tools" and task.turns:  # some calls are already made
            task = draw_task(family, "test", self.rng.random())
        messages = task.messages()
        for message in messages:
            print(f"{LABELS[message['role']]}: {message['content']}")
        print("model's answer: ", end="", flush=True)
        self.converse(messages)
        replies = [m["content"] for m in self.messages[len(task.messages()):]
                   if m["role"] == "assistant"]
        is_right = family.check(task, "\n".join(replies))
        print(f"expected answer: {task.solution}\nverdict: {'right' if is_right else 'wrong'}")

    # Responses.

    def require_chat(self):
        """Raise UserError if the model is a base model, which only continues texts."""
        if not self.chats:
            raise UserError(f"{self.name} answers no questions: choose another model with /stage")

    def respond(self, prompt):
        """Print the answer to a question in a new conversation. A base model continues the text."""
        if self.chats:
            system = "\n".join(text for text in (self.system, self.tools) if text)
            messages = [{"role": "system", "content": system}] if system else []
            self.converse([*messages, {"role": "user", "content": prompt}])
        else:  # stop where another document would begin
            document = self.model.tokenizer.special(DOCUMENT)
            ids = [document, *self.model.tokenizer.encode(prompt)]
            self.print_response(ids, document, prefix=prompt)

    def converse(self, messages):
        """Print the model's replies, and the results of its tool calls, indented. Append both to
        `messages`, in place. If nothing fails, these become the last conversation."""
        for calls in range(tools.MAX_CALLS + 1):
            ids = self.model.tokenizer.encode_chat(messages, reply=True)
            if len(ids) >= self.model.config.context:
                raise UserError(f"{len(ids)} tokens fill the model's context of "
                                f"{self.model.config.context}: shorten the question, or ask "
                                "without /and")
            text, is_complete = self.print_response(ids, self.model.tokenizer.special(END))
            messages.append({"role": "assistant", "content": text})
            if not (text.startswith(tools.CALL) and is_complete):
                break
            if calls == tools.MAX_CALLS:
                print("    no more calls for this response")
                break
            result = tools.answer_call(text, messages)
            messages.append(result)
            print(textwrap.indent(result["content"], "    "))
        self.messages = messages

    def print_response(self, ids, stop, prefix=""):
        """Sample tokens after ids until the token `stop`. Print prefix, and each token as it comes.

        Returns the text without prefix, and True if `stop` ended it. A character of several tokens
        is printed once complete."""
        arguments = self.arguments
        temperature = arguments.temperature
        if temperature is None:
            temperature = 0.0 if self.chats else 0.8
        torch.manual_seed(arguments.seed)
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        text, token = "", None
        # `stream` yields the tokens of a batch, here of one row, and their log-probabilities.
        for (token,), _ in stream(self.model, [ids], arguments.max_new_tokens, stop=stop,
                                  temperature=temperature, top_p=arguments.top_p):
            piece = utf8.decode(b"" if token == stop else self.model.tokenizer.vocab[token])
            # The prefix comes with the first token: before it, a long prompt may raise an error.
            print(prefix + piece, end="", flush=True)
            prefix = ""
            text += piece
        print(utf8.decode(b"", final=True))
        return text, token == stop
