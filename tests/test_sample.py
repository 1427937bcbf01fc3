"""sample.py as a user meets it: continuations, conversations with tools, commands, bad input."""
import argparse
import io
import math
import random
import shutil
import sys
import types

import pytest
import torch

import sample
from afm_min.files import read_json, write_json
from afm_min.lab import shell
from afm_min.run import Run
from afm_min.tokenizer import END, Tokenizer
from afm_min.world.tasks import draw_task, draw_tasks
from tests.helpers.commands import assert_refused, call, shell as run_shell
from tests.helpers.post_training import shorten


def test_a_pre_trained_model_continues_a_prompt(pretrained, capsys):
    arguments = ["--run", pretrained[0], "--max-new-tokens", 8, "--prompt", "Text number"]
    code, output, errors = call(capsys, sample, *arguments)
    assert (code, errors) == (0, "")
    assert output.startswith("Text number")
    assert len(output) > len("Text number\n")
    assert call(capsys, sample, *arguments) == (code, output, errors)  # the seed is the same


def test_each_line_of_the_input_is_a_prompt(pretrained, capsys):
    arguments = ["--run", pretrained[0], "--max-new-tokens", 8]
    _, first, _ = call(capsys, sample, *arguments, "--prompt", "Text number")
    code, output, errors = run_shell("sample.py", *arguments,
                                     lines=f"Text number\n{'fox ' * 999}\nfox\n")
    assert code == 0
    assert output.startswith(first)
    assert "\nfox" in output  # after the second line, which is too long
    assert "it must have 1 to 255" in errors


MATH_QUESTION = "Ada has 4 pens. Ada buys 3. How many pens does Ada have?"
FOLLOW_UP = "Then 2 more come. How many now?"
PRICE_QUESTION = "What do the red keys of Ada cost?"
INTERRUPT = KeyboardInterrupt()
ALL_TOOLS = ("price(item), stock(item), weather(place), age(who), python(code), search(query), "
             "open(page)")


class ScriptedModel:
    """Stands in for a model: responds with the given texts, one after the other. At INTERRUPT it is
    interrupted after a token."""

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.prompts = tokenizer, list(texts), []
        self.config = types.SimpleNamespace(context=256)

    def stream(self, prompts, max_new_tokens, **sampling):
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        text = self.texts.pop(0)
        if text is INTERRUPT:
            yield torch.tensor(self.tokenizer.encode("x")), torch.zeros(1)
            raise text
        for token in [*self.tokenizer.encode(text), self.tokenizer.special(END)]:
            yield torch.tensor([token]), torch.zeros(1)


class Terminal:
    """Stands in for a terminal: `lines` are typed. At INTERRUPT, Ctrl-C is."""

    def __init__(self, *lines):
        self.lines = [*lines]

    def isatty(self):
        return True

    def readline(self):
        line = self.lines.pop(0) if self.lines else None
        if line is INTERRUPT:
            raise line
        return "" if line is None else f"{line}\n"


@pytest.fixture
def new_session(monkeypatch):
    """A function that returns a session with a scripted model of these texts."""
    def new_session(*texts, **changes):
        model = ScriptedModel(Tokenizer.train([MATH_QUESTION], 300), *texts)
        monkeypatch.setattr(shell, "stream", ScriptedModel.stream)
        monkeypatch.setattr(shell, "load_model", lambda run, stage: model)
        monkeypatch.setattr(shell, "choose_model", lambda run, stage: stage or "sft")
        monkeypatch.setattr(shell, "warn_if_stale", lambda run, *stages: None)
        arguments = {"seed": 0, "max_new_tokens": 9, "temperature": 0, "top_p": 1, "system": None,
                     "tools": "on", "stage": None, "quantized": False, "adapter": None}
        return shell.Session(Run("toy"), argparse.Namespace(**arguments | changes))
    return new_session


@pytest.fixture
def type_lines(monkeypatch, capsys):
    """A function: type lines into a session. Returns (prompts of its model, output, errors)."""
    def type_lines(session, *lines):
        monkeypatch.setattr(sys, "stdin", Terminal(*lines))
        sample.talk(session, terminal=True)
        output, errors = capsys.readouterr()
        return session.model.prompts, output.replace("> ", ""), errors
    return type_lines


# Tools.

def test_tool_calls_are_run_and_shown(new_session, capsys):
    session = new_session("call: python(code='6*7')", "call: price(item='keys')", "It is 42.",
                          system="Be brief.", tools="python")
    session.respond("What is 6*7?")
    assert capsys.readouterr().out == (
        "call: python(code='6*7')\n    42\n"
        "call: price(item='keys')\n    error: there is no tool price(item)\n"
        "It is 42.\n")
    first, second, _ = session.model.prompts
    assert first == ("<|system|>Be brief.\nTools: python(code)<|end|>"
                     "<|user|>What is 6*7?<|end|><|assistant|>")
    assert second == (f"{first}call: python(code='6*7')<|end|><|tool|>42<|end|><|assistant|>")


def test_tool_calls_end_after_four(new_session, capsys):
    new_session(*["call: python(code='6*7')"] * 5, tools="python").respond("What is 6*7?")
    assert capsys.readouterr().out == "call: python(code='6*7')\n    42\n" * 4 + (
        "call: python(code='6*7')\n    no more calls in this conversation\n")


@pytest.mark.parametrize("chosen, for_price, for_math", [
    ("on", ALL_TOOLS, ""), ("none", "", ""), ("off", "", ""),
    ("age,price", "age(who), price(item)", "age(who), price(item)")])
def test_tools_are_declared(chosen, for_price, for_math, new_session, type_lines):
    """By default with questions like those for tools, else always or never."""
    for session, command in ((new_session("4", "7", tools=chosen), []),
                             (new_session("4", "7"), [f"/tools {chosen}"])):
        prompts, _, errors = type_lines(session, *command, PRICE_QUESTION, "/new", MATH_QUESTION)
        assert errors == ""
        for prompt, tools in zip(prompts, (for_price, for_math), strict=True):
            assert prompt.startswith(f"<|system|>Tools: {tools}<|end|><|user|>" if tools
                                     else "<|user|>")


def test_unseen_questions_resemble_those_of_their_kind():
    """Questions for tools resemble such questions, and first questions first ones."""
    for name, family in shell.FAMILIES.items():
        for task in draw_tasks(family, "test", 20):
            asked = [m["content"] for m in task.messages() if m["role"] == "user"]
            for i, question in enumerate(asked):
                similar, turn = shell.most_similar(question)
                assert (similar == "tools", turn > 0) == (name == "tools", i > 0), question
    assert shell.most_similar("") == shell.most_similar("?!") == ("math", 0)  # no word in common


# Conversations.

def test_a_conversation_continues(new_session, type_lines):
    prompts, output, _ = type_lines(new_session("It is 7.", "It is 9."), MATH_QUESTION, "", "  ",
                                    FOLLOW_UP)
    assert output == "It is 7.\nIt is 9.\n"
    assert prompts == [f"<|user|>{MATH_QUESTION}<|end|><|assistant|>",
                       f"<|user|>{MATH_QUESTION}<|end|><|assistant|>It is 7.<|end|>"
                       f"<|user|>{FOLLOW_UP}<|end|><|assistant|>"]


def test_calls_and_results_stay_in_the_conversation(new_session, type_lines):
    session = new_session("call: price(item='nuts')", "4", "6")
    prompts, _, _ = type_lines(session, PRICE_QUESTION, FOLLOW_UP)
    result = shell.tools.run_tool("price", "nuts")
    assert prompts[2] == (f"<|user|>{PRICE_QUESTION}<|end|><|assistant|>call: price(item='nuts')"
                          f"<|end|><|tool|>{result}<|end|><|assistant|>4<|end|>"
                          f"<|user|>{FOLLOW_UP}<|end|><|assistant|>")


@pytest.mark.parametrize("lines, output", [
    (["/new", FOLLOW_UP], "7\n9\n"),
    (["/stage draft", FOLLOW_UP], "7\n9\n"),
    (["/system", FOLLOW_UP], "7\n9\n"),
    (["Write g(x): x plus 3."], "7\n(new conversation)\n9\n")])
def test_a_conversation_starts_anew(lines, output, new_session, type_lines):
    prompts, printed, _ = type_lines(new_session("7", "9"), MATH_QUESTION, *lines)
    assert printed == output
    assert prompts[1] == f"<|user|>{lines[-1]}<|end|><|assistant|>"


def test_a_full_context_starts_a_conversation(new_session, type_lines):
    """A quarter of the context is left for the answer."""
    texts = [MATH_QUESTION, "7", FOLLOW_UP]
    session = new_session("7", "9", "7", "9")
    length = sum(2 + len(session.model.tokenizer.encode(text)) for text in texts)
    note = "(new conversation: the context is full)\n"
    for allowed, expected in ((length, "7\n9\n"), (length - 1, f"7\n{note}9\n")):
        session.model.config.context = math.ceil(allowed * 4 / 3)
        session.do_new()
        prompts, output, _ = type_lines(session, MATH_QUESTION, FOLLOW_UP)
        assert output == expected
    assert prompts[-1] == f"<|user|>{FOLLOW_UP}<|end|><|assistant|>"


def test_system_messages_and_line_breaks(new_session, type_lines):
    prompts, _, _ = type_lines(new_session("7", tools="off"), "/system Be brief.",
                               r"Ada: Hi\nBen: Bye")
    assert prompts == ["<|system|>Be brief.<|end|><|user|>Ada: Hi\nBen: Bye<|end|><|assistant|>"]


# The terminal.

def test_ctrl_c_ends_the_answer_only(new_session, type_lines):
    """The conversation is as before the question."""
    prompts, output, errors = type_lines(new_session("7", INTERRUPT, "9"), MATH_QUESTION,
                                         "Then 4 go.", FOLLOW_UP)
    assert (output, errors) == ("7\nx\n9\n", "")
    assert prompts[2] == (f"<|user|>{MATH_QUESTION}<|end|><|assistant|>7<|end|>"
                          f"<|user|>{FOLLOW_UP}<|end|><|assistant|>")


@pytest.mark.parametrize("end", [INTERRUPT, "/quit", None])
def test_the_session_ends(end, new_session, type_lines, monkeypatch):
    """By Ctrl-C at an empty prompt, /quit, or the end of the input (Ctrl-D)."""
    monkeypatch.setattr(sample, "readline", None)  # some builds of Python have none
    prompts, _, errors = type_lines(new_session("7"), *[end] * (end is not None), MATH_QUESTION)
    assert len(prompts) == (end is None) and errors == ""


def test_ctrl_c_discards_what_has_been_typed(new_session, type_lines, monkeypatch):
    typed = types.SimpleNamespace(get_line_buffer=lambda: "What do")
    monkeypatch.setattr(sample, "readline", typed)
    prompts, _, _ = type_lines(new_session("7"), INTERRUPT, MATH_QUESTION)
    assert len(prompts) == 1


def test_ctrl_c_ends_a_command_with_other_input(new_session, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{MATH_QUESTION}\n"))
    with pytest.raises(KeyboardInterrupt):  # run_command turns it into exit code 130
        sample.talk(new_session(INTERRUPT), terminal=False)


def test_other_input_starts_a_conversation_with_each_line(new_session, monkeypatch, capsys):
    session = new_session("7", "9", "8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{MATH_QUESTION}\n{FOLLOW_UP}\n\n/quit\nHi\n"))
    sample.talk(session, terminal=False)
    assert capsys.readouterr().out == "7\n9\n8\n"
    assert session.model.prompts == [f"<|user|>{question}<|end|><|assistant|>"
                                     for question in (MATH_QUESTION, FOLLOW_UP, "")]


def test_wrong_commands_get_one_line(new_session, type_lines):
    names = "/adapter, /example, /help, /new, /quit, /stage, /system, /tools"
    wrong = {"/": f"command /: choose from {names}",
             "/fox 3": f"command /fox: choose from {names}",
             "/tools price,fax": "tools fax: give on, off or some of price,",
             "/adapter fax": "adapter fax: choose from recovery, math, tools, summary, none",
             "/example fax": "example fax: choose from math, follow, "}
    _, output, errors = type_lines(new_session(), *wrong)
    assert output == ""
    for line, message in zip(errors.splitlines(), wrong.values(), strict=True):
        assert line.startswith(f"error: {message}")


def test_help_lists_the_commands(new_session, type_lines):
    _, output, _ = type_lines(new_session(), "/help")
    names = [line.split()[0] for line in output.splitlines()]
    assert names == "/adapter /example /help /new /quit /stage /system /tools".split()


def test_the_banner_has_a_question_of_each_family(new_session, capsys):
    session = new_session("7")
    sample.print_banner(session)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy, sft. /help lists the commands."
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == [
        "math", "follow", "tools", "code", "summary", "compose", "recall", "refuse"]
    questions = [line[9:] for line in lines[2:] if "/system" not in line]
    assert [shell.most_similar(question) for question in questions] == [
        (name, 0) for name in shell.all_families()]
    session.do_stage("core")
    sample.print_banner(session)
    assert "It continues what you write." in capsys.readouterr().out


# Examples.

def example_task(family, seed=0):
    """Return the first task that /example draws with a seed."""
    return draw_task(shell.FAMILIES[family], "test", random.Random(seed).random())


@pytest.mark.parametrize("family", ["math", "follow", "math deeper", "recall"])
def test_an_example_is_asked_and_checked(family, new_session, type_lines):
    task = example_task(family)
    shown = "".join(f"{m['role']}: {m['content']}\n" for m in task.messages())
    session = new_session(task.solution, "x", "9")
    session.messages = [{"role": "user", "content": "Hi"}]
    _, output, _ = type_lines(session, f"/example {family}")
    assert output == f"{shown}{task.solution}\n(right)\n"
    assert session.messages == [{"role": "user", "content": "Hi"}]  # the user's own
    session.rng = random.Random(0)
    assert type_lines(session, f"/example {family}")[1] == (
        f"{shown}x\n(wrong, expected: {task.solution})\n")


def test_an_example_for_tools_runs_the_calls(new_session, type_lines):
    """A right first call is not enough: the whole conversation counts, as in evaluation."""
    seed = next(seed for seed in range(99) if len(example_task("tools", seed).answer[0]) > 1)
    task = example_task("tools", seed)
    calls, answer = task.answer
    _, output, _ = type_lines(new_session(*calls, answer, seed=seed), "/example tools")
    assert output.startswith(f"system: {task.system}\nuser: {task.question}\n{calls[0]}\n    ")
    assert output.endswith(f"{answer}\n(right)\n")
    _, output, _ = type_lines(new_session(*calls, "It is blue.", seed=seed), "/example tools")
    solution = "\n".join([*calls, answer])
    assert output.endswith(f"It is blue.\n(wrong, expected: {solution})\n")


def test_examples_are_of_random_families(new_session, type_lines):
    _, output, _ = type_lines(new_session(*"xxxxxxxxxxxx"), *["/example"] * 8)
    assert len(set(output.split("\nx\n"))) > 5


def test_a_base_model_has_no_examples(new_session, type_lines):
    _, output, errors = type_lines(new_session(stage="core"), "/example")
    assert output == "" and errors.startswith("error: core answers no questions")


BAD_INPUT = {  # message: arguments
    "give 0, or 0.01 to 100": ["--temperature", "nan"],
    "--top-p must be above 0": ["--top-p", "0"],
    "device 'meta' is not available here": ["--device", "meta"],
    "has no model: python train.py": ["--run", "none"],
    "it must have 1 to 255": ["--prompt", "fox " * 999],
    "has models of parent, prune, teacher, core, continued, lengthening": ["--stage", "sft"],
    "continues a prompt: --system and --tools are for draft": ["--tools", "price"],
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_gets_one_line_and_exit_code_2(message, pretrained, capsys):
    assert_refused(call(capsys, sample, "--run", pretrained[0], *BAD_INPUT[message]), message)


BAD_INPUT_LATER = {  # of a run that has all stages
    "leave out one of the two": ["--quantized", "--stage", "sft"],
    "add --quantized": ["--adapter", "math"],
    "adapter x: choose from recovery": ["--quantized", "--adapter", "x"],
    "tools fax: give on, off or some of price": ["--tools", "fax"],
    "--stage reward1": ["--stage", "reward1"],  # a reward model does not talk
}


@pytest.mark.parametrize("message", BAD_INPUT_LATER)
def test_bad_input_for_a_fine_tuned_model(message, post_trained, capsys):
    arguments = ["--run", post_trained[0], "--prompt", "Hi", *BAD_INPUT_LATER[message]]
    assert_refused(call(capsys, sample, *arguments), message)


def test_a_damaged_or_foreign_checkpoint_is_refused(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    path = folder / "lengthening.pt"
    whole = path.read_bytes()
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    for content in (b"", whole[:100], whole[:len(whole) // 2], whole[:-1], b"PK" + whole[:50],
                    (tmp_path / "foreign.pt").read_bytes()):
        path.write_bytes(content)
        assert_refused(call(capsys, sample, "--run", folder, "--prompt", "Text"),
                       "lengthening.pt is damaged, or")


def test_a_checkpoint_of_another_tokenizer_is_refused(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert_refused(call(capsys, sample, "--run", folder, "--prompt", "Text"), "another tokenizer")


def test_a_stale_checkpoint_is_named(pretrained, tmp_path, capsys):
    """Once, and the model answers all the same."""
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    options = read_json(folder / "run.json")
    options["set"]["continued.steps"] = 7
    write_json(folder / "run.json", options)
    arguments = ["--run", folder, "--max-new-tokens", 8, "--prompt", "Text number"]
    code, output, errors = call(capsys, sample, *arguments)
    assert code == 0 and output.startswith("Text number")
    assert errors.count("\n") == 1
    assert "lengthening.pt is out of date" in errors and "of the stage continued" in errors
    assert call(capsys, sample, *arguments, "--stage", "core")[2] == ""


def test_a_stale_adapter_is_named(post_trained, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    options = read_json(folder / "run.json")
    options["set"]["math.steps"] = 7
    write_json(folder / "run.json", options)
    monkeypatch.setattr(sys, "stdin", io.StringIO("/adapter tools\n/adapter math\nHi\n"))
    code, _, errors = call(capsys, sample, "--run", folder, "--quantized", "--max-new-tokens", 5)
    assert code == 0
    assert errors.count("\n") == 1 and "math.pt is out of date" in errors


def test_the_last_model_answers_greedily_by_default(post_trained, capsys, monkeypatch):
    shorten(monkeypatch)
    arguments = ["--run", post_trained[0], "--tools", "search,price",
                 "--prompt", "What do keys cost?"]
    result = call(capsys, sample, *arguments)
    assert result[0] == 0
    assert result == call(capsys, sample, *arguments, "--stage", "committee2", "--temperature", 0)


def test_adapters_are_switched_between_prompts(post_trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(
        "Hi\n/adapter tools\nHi\n/adapter fax\n/adapter none\n/adapter recovery\nHi\n"))
    code, output, errors = call(capsys, sample, "--run", post_trained[0], "--quantized",
                                "--max-new-tokens", "5")
    assert code == 0
    assert errors == "error: adapter fax: choose from recovery, math, tools, summary, none\n"
    lines = output.split("\n")
    assert lines[0] == lines[-2]  # recovery, the default, and recovery again


def test_an_adapter_that_is_not_trained_is_refused(post_trained, tmp_path, capsys):
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    (folder / "math.pt").unlink()
    arguments = ["--run", folder, "--quantized", "--adapter", "math", "--prompt", "Hi"]
    assert_refused(call(capsys, sample, *arguments), "math.pt")


def test_models_are_switched_in_a_session(post_trained, capsys, monkeypatch):
    """A model that cannot be loaded leaves the one before in place."""
    monkeypatch.setattr(sys, "stdin", Terminal("Hi", "/stage fox", "/stage core", "Hi",
                                               "/adapter math", "/stage", "Hi"))
    code, output, errors = call(capsys, sample, "--run", post_trained[0], "--max-new-tokens", 5)
    assert code == 0 and errors.count("\n") == 1 and "--stage fox" in errors
    assert output.startswith(f"{post_trained[0]}, committee2. /help")
    answers = output.partition("> ")[2].split("> ")
    assert answers[0] == answers[-2].removesuffix("\n") + "\n"  # committee2, the last one
    assert answers[3].startswith("Hi")  # core continues the prompt


def test_an_adapter_loads_the_quantized_model(post_trained, capsys, monkeypatch):
    arguments = ["--run", post_trained[0], "--max-new-tokens", 5]
    monkeypatch.setattr(sys, "stdin", io.StringIO("/adapter math\nHi\n/adapter none\nHi\n"))
    _, switched, errors = call(capsys, sample, *arguments)
    assert errors == ""
    assert switched == "".join(
        call(capsys, sample, *arguments, "--quantized", "--adapter", name, "--prompt", "Hi")[1]
        for name in ("math", "none"))
