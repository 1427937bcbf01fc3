"""sample.py as a user meets it: continuations, conversations with tools, adapters, bad input."""
import argparse
import io
import shutil
import sys

import pytest
import torch

import sample
from afm_min.files import read_json, write_json
from afm_min.tokenizer import END, Tokenizer
from tests.helpers.commands import assert_refused, call, shell
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
    code, output, errors = shell("sample.py", *arguments,
                                 lines=f"Text number\n{'fox ' * 999}\nfox\n")
    assert code == 0
    assert output.startswith(first)
    assert "\nfox" in output  # after the second line, which is too long
    assert "it must have 1 to 255" in errors


class ScriptedModel:
    """Stands in for a model: responds with the given texts, one after the other."""

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.prompts = tokenizer, list(texts), []

    def stream(self, prompts, max_new_tokens, **sampling):
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        for token in [*self.tokenizer.encode(self.texts.pop(0)), self.tokenizer.special(END)]:
            yield torch.tensor([token]), torch.zeros(1)


@pytest.fixture
def ask(monkeypatch, capsys):
    """A function: ask a scripted model one question. Returns the model and what was printed."""
    monkeypatch.setattr(sample, "stream", ScriptedModel.stream)
    arguments = argparse.Namespace(seed=0, max_new_tokens=9, temperature=0, top_p=1,
                                   system="Be brief.", tools=["python"])

    def ask(*texts):
        model = ScriptedModel(Tokenizer.train(["What do keys cost?"], 300), *texts)
        sample.answer_question(model, "What is 6*7?", arguments)
        return model, capsys.readouterr().out
    return ask


def test_tool_calls_are_run_and_shown(ask):
    model, output = ask("call: python(code='6*7')", "call: price(item='keys')", "It is 42.")
    assert output == ("call: python(code='6*7')\n    42\n"
                      "call: price(item='keys')\n    error: there is no tool price(item)\n"
                      "It is 42.\n")
    assert model.prompts[0] == ("<|system|>Be brief.\nTools: python(code)<|end|>"
                                "<|user|>What is 6*7?<|end|><|assistant|>")
    assert model.prompts[1] == (model.prompts[0] + "call: python(code='6*7')<|end|>"
                                "<|tool|>42<|end|><|assistant|>")


def test_tool_calls_end_after_four(ask):
    _, output = ask(*["call: python(code='6*7')"] * 5)
    assert output == "call: python(code='6*7')\n    42\n" * 4 + (
        "call: python(code='6*7')\n    no more calls in this conversation\n")


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
    "--tools fax: choose from price": ["--tools", "fax"],
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
