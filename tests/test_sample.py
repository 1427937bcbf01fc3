"""sample.py as a user meets it: continuations, conversations with tools, commands, bad input."""
import argparse
import io
import random
import re
import shutil
import sys
import types

import pytest
import torch

import sample
from afm_min.files import read_json, write_json
from afm_min.lab import shell
from afm_min.lab.packages import python_command
from afm_min.lab.stages import warn_if_lost
from afm_min.run import Run
from afm_min.tokenizer import END, Tokenizer
from afm_min.world import tools
from afm_min.world.families import all_families
from afm_min.world.tasks import draw_task
from afm_min.world.tools import run_tool
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
    assert code == 2
    assert output.startswith(f"> Text number\n{first}")
    assert "> fox\nfox" in output  # after the second line, which is too long
    assert "it must have 1 to 255" in errors


QUESTION = "Ada has 4 pens. Ada buys 3. How many pens does Ada have?"
FOLLOW_UP = "/and Then 2 more come. How many now?"
INTERRUPT = KeyboardInterrupt()


def asked(question):
    """Return a question as the model sees it."""
    return f"<|user|>{question}<|end|><|assistant|>"


class ScriptedModel:
    """Stands in for a model: responds with the given texts, one after the other, each cut off after
    max_new_tokens. At INTERRUPT it is interrupted after a token."""

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.prompts = tokenizer, list(texts), []
        self.config = types.SimpleNamespace(context=999)

    def stream(self, prompts, max_new_tokens, **sampling):
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        text = self.texts.pop(0)
        if text is INTERRUPT:
            yield torch.tensor(self.tokenizer.encode("x")), torch.zeros(1)
            raise text
        tokens = [*self.tokenizer.encode(text), self.tokenizer.special(END)]
        for token in tokens[:max_new_tokens]:
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
        model = ScriptedModel(Tokenizer.train([QUESTION], 300), *texts)
        monkeypatch.setattr(shell, "stream", ScriptedModel.stream)
        monkeypatch.setattr(shell, "load_model", lambda run, stage: model)
        monkeypatch.setattr(shell, "choose_model", lambda run, stage: stage.replace("last", "sft"))
        monkeypatch.setattr(shell, "models_of", lambda run: ["core", "draft", "sft"])
        monkeypatch.setattr(shell, "warn_if_stale", lambda run, *stages: None)
        arguments = {"seed": 0, "max_new_tokens": 99, "temperature": 0, "top_p": 1, "system": None,
                     "tools": "off", "stage": None, "quantized": False, "adapter": None}
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
        "call: python(code='6*7')\n    no more calls for this response\n")


def test_a_call_that_is_cut_off_is_not_run(new_session, type_lines):
    """Even if it lacks nothing but its end token. It is the last reply of the conversation."""
    call = "call: price(item='nuts')"
    length = len(new_session().model.tokenizer.encode(call))
    result = run_tool("price", "nuts")
    for limit, output in ((length, f"{call}\n4\n"), (length + 1, f"{call}\n    {result}\n4\n")):
        session = new_session(call, "4", tools="price", max_new_tokens=limit)
        prompts, printed, errors = type_lines(session, QUESTION, *[FOLLOW_UP] * (limit == length))
        assert (printed, errors) == (output, "")
        assert len(prompts) == 2 and ("<|tool|>" in prompts[1]) == (limit > length)
        assert prompts[1].startswith(f"{prompts[0]}{call}<|end|>")


@pytest.mark.parametrize("limit, expected", [
    (0, ("", False)), (2, ("12", False)), (3, ("123", False)), (4, ("123", True)),
    (9, ("123", True))])
def test_a_response_is_complete_if_the_stop_token_ended_it(limit, expected, new_session, capsys):
    session = new_session("123", max_new_tokens=limit)
    tokenizer = session.model.tokenizer
    assert len(tokenizer.encode("123")) == 3
    ids = tokenizer.encode("Hi")
    assert session.print_response(ids, tokenizer.special(END)) == expected
    assert capsys.readouterr().out == f"{expected[0]}\n"


ALL = ("price(item), stock(item), weather(place), age(who), python(code), search(query), "
       "open(page)")


@pytest.mark.parametrize("chosen, declared", [
    ("on", ALL), ("", ALL), ("age,price", "age(who), price(item)"),
    ("price, age", "price(item), age(who)"), ("off", None)])
def test_tools_are_declared(chosen, declared, new_session, type_lines):
    """By the option --tools, and by the command."""
    system = f"<|system|>Tools: {declared}<|end|>" if declared else ""
    for session, command in ((new_session("7", tools=chosen), []),
                             (new_session("7", tools="weather"), [f"/tools {chosen}".strip()])):
        prompts, _, errors = type_lines(session, *command, QUESTION)
        assert (prompts, errors) == ([f"{system}{asked(QUESTION)}"], "")


# Conversations.

def test_and_continues_the_last_conversation(new_session, type_lines):
    """With its calls, their results, its system message and its tools."""
    session = new_session("7", "call: price(item='nuts')", "4", "6", tools="price")
    prompts, output, _ = type_lines(session, "/system Be brief.", QUESTION, "", "  ", QUESTION,
                                    "/system", "/tools off", FOLLOW_UP)
    result = run_tool("price", "nuts")
    assert output == (
        "(sft; Be brief.; Tools: price(item))\n"
        f"7\ncall: price(item='nuts')\n    {result}\n4\n"
        "(sft; Tools: price(item))\n(sft; no tools)\n6\n")
    first, second, _, last = prompts
    assert first == second == f"<|system|>Be brief.\nTools: price(item)<|end|>{asked(QUESTION)}"
    assert last == (f"{first}call: price(item='nuts')<|end|><|tool|>{result}<|end|><|assistant|>"
                    f"4<|end|>{asked(FOLLOW_UP.removeprefix('/and '))}")


def test_and_needs_a_conversation_and_a_question(new_session, type_lines):
    """A conversation whose answer was interrupted is none."""
    session = new_session(INTERRUPT, "7", "9")
    prompts, output, errors = type_lines(session, FOLLOW_UP, QUESTION, FOLLOW_UP)
    refusal = "error: /and takes a question that continues the last conversation\n"
    assert (prompts, output, errors) == ([asked(QUESTION)], "x\n", 2 * refusal)
    assert type_lines(session, QUESTION, "/and", "/and ", FOLLOW_UP)[1:] == (
        "7\n9\n", 2 * refusal)


def test_a_full_context_gets_one_line(new_session, type_lines):
    """One token of the context has to be left for the answer."""
    session = new_session("7", "9", "7")
    conversation = [{"role": role, "content": text} for role, text in (
        ("user", QUESTION), ("assistant", "7"), ("user", FOLLOW_UP.removeprefix("/and ")))]
    length = len(session.model.tokenizer.encode_chat(conversation, reply=True))
    session.model.config.context = length + 1
    assert type_lines(session, QUESTION, FOLLOW_UP)[1:] == ("7\n9\n", "")
    session.model.config.context = length
    _, output, errors = type_lines(session, QUESTION, FOLLOW_UP)
    assert output == "7\n"
    assert errors == (f"error: {length} tokens fill the model's context of {length}: shorten the "
                      "question, or ask without /and\n")


# The input.

def test_in_a_terminal_line_breaks_can_be_typed(new_session, type_lines):
    prompts, _, _ = type_lines(new_session("7"), r"Ada: Hi\nBen: Bye")
    assert prompts == [asked("Ada: Hi\nBen: Bye")]


def test_ctrl_c_ends_the_answer_or_the_line_only(new_session, type_lines):
    """The last conversation is the one that was answered."""
    prompts, output, errors = type_lines(new_session("7", INTERRUPT, "9"), QUESTION, "Hi",
                                         INTERRUPT, FOLLOW_UP)
    assert (output, errors) == ("7\nx\n\n9\n", "")
    assert prompts[2].startswith(f"{asked(QUESTION)}7<|end|>")


def test_ctrl_c_ends_a_command_with_other_input(new_session, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    with pytest.raises(KeyboardInterrupt):  # run_command turns it into exit code 130
        sample.talk(new_session(INTERRUPT), terminal=False)


@pytest.mark.parametrize("leave", ["/quit", "/exit", "quit", "exit "])
def test_other_input_has_prompts_and_commands(leave, new_session, monkeypatch, capsys):
    """Each line is printed before its answer. An empty one is skipped. quit, exit and help need no
    "/"."""
    session = new_session("7", "9", "8")
    lines = [QUESTION, FOLLOW_UP, "", "/tools price", leave, "Hi"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    sample.talk(session, terminal=False)
    assert capsys.readouterr().out == (
        f"> {QUESTION}\n7\n> {FOLLOW_UP}\n9\n"
        f"> /tools price\n(sft; Tools: price(item))\n> {leave}\n")
    assert session.model.prompts[0] == asked(QUESTION)


def test_wrong_commands_get_one_line(new_session, type_lines):
    wrong = {"/": "there is no command /: /help lists them",
             "/fox 3": "there is no command /fox: /help lists them",
             "/tools price fax": "tools fax: give on, off or some of price,",
             "/adapter fax": "adapter fax: choose from recovery, math, tools, summary, none",
             "/example fax": "example fax: choose from math, follow, "}
    _, output, errors = type_lines(new_session(), *wrong)
    assert output == ""
    for line, message in zip(errors.splitlines(), wrong.values(), strict=True):
        assert line.startswith(f"error: {message}")


def test_commands_that_change_what_is_asked_print_the_state(new_session, type_lines):
    """The model, the system message and the tools. A command that fails prints none."""
    states = {"/tools price,age": "sft; Tools: price(item), age(who)",
              "/tools age price": "sft; Tools: age(who), price(item)",
              "/tools ALL": f"sft; Tools: {ALL}",
              "/tools price, age": "sft; Tools: price(item), age(who)",
              "/system Be brief.": "sft; Be brief.; Tools: price(item), age(who)",
              "/tools fax": "", "/fox": "", "/and": "",
              "/tools off": "sft; Be brief.; no tools", "/system": "sft; no tools",
              "/tools": f"sft; Tools: {ALL}", "/stage core": "core, which continues what you write",
              "/stage draft": f"draft; Tools: {ALL}"}
    _, output, _ = type_lines(new_session(), *states)
    assert output.splitlines() == [f"({state})" for state in states.values() if state]


def test_stage_and_adapter_without_a_name_list_and_change_nothing(new_session, type_lines,
                                                                  tmp_path):
    session = new_session(stage="draft")
    model = session.model
    assert type_lines(session, "/stage", "/adapter", "/stage last")[1].splitlines() == [
        "core, draft (current), sft", "(draft; no tools)",
        "this run has none yet", "(draft; no tools)", "(sft; no tools)"]
    session.run, session.name = Run(tmp_path), "quantize with adapter none"
    for name in ("quantize", "math", "summary"):
        session.run.checkpoint(name).touch()
    assert type_lines(session, "/adapter", "/stage")[1].splitlines() == [
        "math, summary, none (current)", "(quantize with adapter none; no tools)",
        "core, draft, sft", "(quantize with adapter none; no tools)"]
    assert session.model is model


def test_a_base_model_answers_no_questions(new_session, type_lines):
    _, output, errors = type_lines(new_session(stage="core"), "/example", FOLLOW_UP)
    assert output == "" and errors.count("error: core answers no questions") == 2


def test_help_lists_the_commands(new_session, type_lines):
    prompts, output, _ = type_lines(new_session(), "/help")
    assert type_lines(new_session(), "help") == (prompts, output, "")
    names, explained = zip(*(line.split(maxsplit=1) for line in output.splitlines()))
    assert " ".join(names) == "/adapter /and /example /exit /help /quit /stage /system /tools"
    assert explained[3] == explained[5]


def test_the_banner_has_a_question_of_each_family_and_the_words_of_the_world(new_session, capsys,
                                                                             monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    session = new_session()
    sample.print_banner(session)
    first, _, *lines, only, names, things, colours, animals, cities = (
        capsys.readouterr().out.splitlines())
    assert only.startswith("It knows only these names, things, colours, animals and cities")
    assert names.split()[0] == "Ada" and things.split()[0] == "books"
    assert [row.split()[0] for row in (colours, animals, cities)] == ["black", "bear", "Bern"]
    assert first == "toy, sft; no tools. /help lists the commands."
    names = [line.split()[0] for line in lines]
    assert list(dict.fromkeys(names)) == [*all_families()]
    assert len(names) == len(all_families()) + 5  # six tools
    assert max(map(len, lines)) <= 60
    (summary,) = [line for line in lines if line.startswith("    summary")]
    assert re.match(r"    summary  /system (Summarize|Give me)[a-z ]*\. then: ", summary)
    (recall,) = [line for line in lines if line.startswith("    recall")]
    assert recall.startswith("    recall   /system ")
    monkeypatch.setenv("COLUMNS", "200")
    summaries = ""
    for _ in range(5):  # some have one message only
        sample.print_banner(session)
        summaries += "".join(line for line in capsys.readouterr().out.splitlines(keepends=True)
                             if line.startswith("    summary"))
    assert r"\n" in summaries and summaries.count("\n") == 5  # one line each
    session.do_stage("core")
    sample.print_banner(session)
    assert capsys.readouterr().out == (
        "toy, core, which continues what you write. /help lists the commands.\n")


# Examples.

@pytest.mark.parametrize("family", ["math", "math deeper", "recall"])
def test_an_example_is_asked_and_checked(family, new_session, type_lines):
    task = draw_task(shell.FAMILIES[family], "test", random.Random(0).random())
    labels = {"system": "system", "user": "question", "assistant": "earlier answer"}
    shown = "".join(f"{labels[m['role']]}: {m['content']}\n" for m in task.messages())
    for response, verdict in ((task.solution, "right"), ("x", "wrong")):
        _, output, _ = type_lines(new_session(response), f"/example {family}")
        assert output == (f"{shown}model's answer: {response}\nexpected answer: {task.solution}\n"
                          f"verdict: {verdict}\n")


def test_an_example_for_tools_runs_the_calls(new_session, type_lines):
    """It begins with the question. All calls and the answer are checked."""
    for seed in range(9):  # of the session
        rng = random.Random(seed)
        tasks = iter(lambda: draw_task(shell.FAMILIES["tools"], "test", rng.random()), None)
        task = next(task for task in tasks if not task.turns)
        *calls, answer = task.solution.split("\n")
        assert [*calls, answer] == [*task.answer[0], task.answer[1]]
        for replies, verdict in (([*calls, answer], "right"), ([*calls, "x"], "wrong"),
                                 (["x"], "wrong"), ([*calls, *calls[-1:], answer],
                                                    "wrong" if calls else "right")):
            session = new_session(*replies, seed=seed)
            _, output, _ = type_lines(session, "/example tools")
            shown = f"system: {task.system}\nquestion: {task.question}\nmodel's answer: "
            for reply in replies[:-1]:
                shown += f"{reply}\n    {tools.run_call(reply, task.system)}\n"
            assert output == (f"{shown}{replies[-1]}\nexpected answer: {task.solution}\n"
                              f"verdict: {verdict}\n")


def test_examples_are_of_random_families(new_session, type_lines):
    _, output, _ = type_lines(new_session(*"xxxxxxxxxxxx"), *["/example"] * 8)
    assert len(set(output.split("verdict: wrong\n"))) > 5


# Options.

BAD_INPUT = {  # message: arguments
    "give 0, or 0.01 to 100": ["--temperature", "nan"],
    "--top-p 0.0: give a number above 0, at most 1": ["--top-p", "0"],
    "--max-new-tokens 0: give 1 or more": ["--max-new-tokens", "0"],
    "--prompt is empty": ["--prompt", " "],
    "--seed -1: give 0 to": ["--seed", "-1"],
    f"--seed {2 ** 63}: give 0 to": ["--seed", 2 ** 63],
    "device 'meta' is not available here": ["--device", "meta"],
    f"has no model: {python_command()} train.py": ["--run", "none"],
    "it must have 1 to 255": ["--prompt", "fox " * 999],
    "has models of lookup, parent, prune, teacher, core, continued, lengthening": [
        "--stage", "sft"],
    "only continues text: --system and --tools are for draft": ["--tools", "price"],
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_gets_one_line_and_exit_code_2(message, pretrained, capsys):
    assert_refused(call(capsys, sample, "--run", pretrained[0], *BAD_INPUT[message]), message)


def test_input_that_is_not_utf_8_gets_one_line(pretrained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fox\xff\n"), "utf-8"))
    assert_refused(call(capsys, sample, "--run", pretrained[0]), "the input is not UTF-8 text")
    stdin = io.TextIOWrapper(io.BytesIO(b"fox\xff\n"), "utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)  # as in the locale C
    assert_refused(call(capsys, sample, "--run", pretrained[0]), "the input is not UTF-8 text")


def test_an_error_in_a_line_of_other_input_ends_with_exit_code_2(pretrained, capsys, monkeypatch):
    """The other lines are answered."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("/fox\nThe\n"))
    code, output, errors = call(capsys, sample, "--run", pretrained[0], "--max-new-tokens", 1)
    assert code == 2 and errors == "error: there is no command /fox: /help lists them\n"
    assert output.startswith("> /fox\n> The\nThe")


def test_the_last_stage_can_be_named(pretrained, capsys):
    arguments = ["--run", pretrained[0], "--prompt", "fox", "--max-new-tokens", 3]
    last = call(capsys, sample, *arguments)
    assert last[0] == 0 and call(capsys, sample, *arguments, "--stage", "last") == last


@pytest.mark.parametrize("name, options", [
    ("sft.pt", " --stage sft"), ("math.pt", " --adapter math"), ("quantize.pt", " --adapter none"),
    ("report.md", "")])
def test_a_file_instead_of_a_run_gets_the_right_command(name, options, tmp_path, capsys):
    (tmp_path / name).touch()
    result = call(capsys, sample, "--run", tmp_path / name)
    assert_refused(result, f"--run {tmp_path / name} is a file, but it takes the folder of a run: ")
    assert result[2].endswith(f": {python_command()} sample.py --run {tmp_path}{options}\n")


BAD_INPUT_LATER = {  # of a run that has all stages
    "leave out one of the two": ["--adapter", "math", "--stage", "sft"],
    "adapter x: choose from recovery": ["--quantized", "--adapter", "x"],
    "tools fax: give on, off or some of price": ["--tools", "fax"],
    "--stage reward1": ["--stage", "reward1"],  # a reward model does not talk
    "--stage math: this stage makes an adapter: use --adapter math, or /adapter math in":
        ["--stage", "math"],
    "--stage quantize: this stage makes the quantized model: use --adapter none":
        ["--stage", "quantize"],
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
    assert "lengthening.pt is out of date" in errors and "(continued: settings changed)" in errors
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
    assert result == call(capsys, sample, *arguments, "--stage", "best2", "--temperature", 0)


def test_adapters_are_switched_between_prompts(post_trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(
        "Hi\n/adapter tools\nHi\n/adapter fax\n/adapter none\n/adapter recovery\nHi\n"))
    code, output, errors = call(capsys, sample, "--run", post_trained[0], "--quantized",
                                "--max-new-tokens", "5")
    assert code == 2
    assert errors == "error: adapter fax: choose from recovery, math, tools, summary, none\n"
    _, first, _, last = output.split("> Hi\n")
    assert first.partition("> /adapter")[0] == last  # recovery, the default, and recovery again


def test_a_missing_last_model_is_replaced_with_a_warning(post_trained, tmp_path, capsys):
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    (folder / "best2.pt").unlink()
    arguments = ["--run", folder, "--prompt", "Hi", "--max-new-tokens", 3]
    code, _, errors = call(capsys, sample, *arguments)
    assert code == 0 and errors == (
        f"warning: {folder / 'best2.pt'} is missing, so the model is that of committee2: "
        f"{python_command()} train.py --out {folder} --resume trains best2 again\n")
    assert call(capsys, sample, *arguments, "--stage", "sft")[2] == ""
    (folder / "preferences2.jsonl").unlink()  # no model
    warn_if_lost(Run(folder), "best1")
    assert capsys.readouterr().err.startswith(f"warning: {folder / 'best2.pt'} is missing")
    shutil.copy(post_trained[0] / "best2.pt", folder)
    warn_if_lost(Run(folder), "best1")
    assert capsys.readouterr().err == ""


def test_an_adapter_that_is_not_trained_is_refused(post_trained, tmp_path, capsys):
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    (folder / "math.pt").unlink()
    arguments = ["--run", folder, "--quantized", "--adapter", "math", "--prompt", "Hi"]
    assert_refused(call(capsys, sample, *arguments), "math.pt")


def test_models_are_switched_in_a_session(post_trained, capsys, monkeypatch):
    """A model that cannot be loaded leaves the one before in place."""
    monkeypatch.setattr(sys, "stdin", Terminal("Hi", "/stage fox", "/stage core", "Hi",
                                               "/adapter math", "/stage last", "Hi"))
    code, output, errors = call(capsys, sample, "--run", post_trained[0], "--max-new-tokens", 5)
    assert code == 0 and errors.count("\n") == 1 and "--stage fox" in errors
    assert output.startswith(f"{post_trained[0]}, best2; Tools: {ALL}. /help")
    answers = output.partition("> ")[2].split("> ")
    assert [answers[i] for i in (1, 2, 4, 5)] == [
        "", "(core, which continues what you write)\n",
        f"(quantize with adapter math; Tools: {ALL})\n", f"(best2; Tools: {ALL})\n"]
    assert answers[0] == answers[-2].removesuffix("\n") + "\n"  # best2, the last one
    assert answers[3].startswith("Hi")  # core continues the prompt


def test_an_adapter_loads_the_quantized_model(post_trained, capsys, monkeypatch):
    arguments = ["--run", post_trained[0], "--max-new-tokens", 5]
    monkeypatch.setattr(sys, "stdin", io.StringIO("/adapter math\nHi\n/adapter none\nHi\n"))
    _, switched, errors = call(capsys, sample, *arguments)
    assert errors == ""
    assert switched == "".join(
        f"> /adapter {name}\n(quantize with adapter {name}; Tools: {ALL})\n> Hi\n"
        + call(capsys, sample, *arguments, "--quantized", "--adapter", name, "--prompt", "Hi")[1]
        for name in ("math", "none"))
