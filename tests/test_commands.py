"""The two commands as a user meets them: from text to sample, kills at any moment, bad input."""
import argparse
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import sample
import train
from afm_min import align, evaluate, generate
from afm_min.lab.claims import CLAIMS
from afm_min.run import UserError, load, save
from afm_min.lab.stages import STAGES
from afm_min.tokenizer import END, Tokenizer
from tests.launch import PATIENCE, Launched, command

ROOT = pathlib.Path(__file__).parent.parent
PRETRAIN = ["--stages", "data,tokenizer,parent,prune,core,continued,lengthening"]


def settings():
    """Those with which every stage takes a second or so."""
    yield from ("core.batch=4 core.warmup=2 core.steps=60 core.distill=0.9 demonstrations.count=30 "
                "demonstrations.evolved=3 draft.batch=4 synthetic.math=2 "
                "synthetic.code_questions=2 synthetic.tool_questions=2 synthetic.samples=2 "
                "mixture.rounds=1 mixture.steps=1 mixture.batch=4 mixture.count=2 mixture.seeds=1 "
                "sft.batch=4 sft.checkpoints=2 sft.count=1 quantize.calibration=4 quantize.count=1 "
                "recovery.prompts=8 evaluation.count=4").split()
    for stage in ("parent", "prune", "continued", "lengthening", "draft", "sft"):
        yield f"{stage}.steps=6"
    for stage in ("recovery", "math", "tools", "summary"):
        yield from (f"{stage}.steps=2", f"{stage}.batch=4", f"{stage}.count=1")
    for stage in ("math", "tools", "summary"):
        yield f"{stage}.examples=8"
    for n in (1, 2):
        yield from (f"preferences{n}.prompts=24", f"reward{n}.prompts=4", f"reward{n}.held_out=2",
                    f"reward{n}.examples=4", f"rs{n}.prompts=8", f"rs{n}.batch=4",
                    f"dpo{n}.prompts=4", f"ipo{n}.prompts=4", f"mdloo{n}.prompts=4",
                    f"mdloo{n}.iterations=2", f"committee{n}.prompts=8", f"committee{n}.batch=4")
        yield from (f"{stage}{n}.steps=2" for stage in ("reward", "rs", "dpo", "ipo", "committee"))
        yield from (f"{stage}{n}.count=1" for stage in ("rs", "dpo", "ipo", "mdloo", "committee"))


TRAIN = [*PRETRAIN, "--preset", "tiny",
         *(word for setting in settings() for word in ("--set", setting))]
LAST = "lengthening.pt"


def call(capsys, command, *arguments):
    """Call a command in this process, and no others: (exit code, output, errors)."""
    if command is train:
        arguments += ("--jobs", 1)
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, (command.__file__, *arguments))))
        try:
            command.main()
        except SystemExit as end:
            code = end.code
    return code, *capsys.readouterr()


def shell(*arguments, lines=""):
    """Run a command as a user does: (exit code, output, errors)."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, input=lines,
                          capture_output=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"Text number {i} says: the quick brown fox jumps.\n" * 40)
    return folder


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    """An unbroken run of 60 steps. (run directory, what it printed)"""
    out = tmp_path_factory.mktemp("runs") / "finished"
    code, output, errors = shell("train.py", "--out", out, "--data", texts, *TRAIN)
    assert (code, errors) == (0, "")
    return out, output


def weights(out, name=LAST):
    return torch.load(out / name, weights_only=True)["model"]


def same(expected, found):
    return all(torch.equal(expected[name], found[name]) for name in expected | found)


def test_a_run_says_what_it_does(finished):
    out, output = finished
    for expected in ("data: folder=", "characters per token=", "tokens/s", "0:00 left",
                     "core: start=prune distill=0.9 steps=60 batch=4", "step    60/60  loss ",
                     "user bits/byte="):
        assert expected in output
    assert "\r" not in output  # plain lines in a log
    made = sorted(path.name for path in out.iterdir())
    assert [name for name in made if not name.endswith(".png")] == [  # if matplotlib is there
        ".lock", "continued.pt", "core.pt", "documents.jsonl", "environment.json", "lengthening.pt",
        "metrics.jsonl", "parent.pt", "prune.pt", "report.json", "report.md", "run.json",
        "tokenizer.json", "tokens.pt"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 60 + 4 * 6
    report = (out / "report.md").read_text()
    for stage in ("parent", "prune", "core", "continued", "lengthening"):
        assert f"| {stage} |" in report
    assert "recall at 4x % before" in report and "accuracy %" in report
    assert "| peak memory, MB | " in report and "| preset | tiny |" in report


def test_done_stages_are_skipped(finished, capsys):
    out, _ = finished
    before = [(out / name).read_bytes() for name in ("core.pt", "environment.json")]
    code, output, _ = call(capsys, train, "--out", out, "--resume", *PRETRAIN)
    assert code == 0 and output.count("up to date") == 7
    assert [(out / name).read_bytes() for name in ("core.pt", "environment.json")] == before


def test_a_stage_can_be_run_anew(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "copy")
    code, output, errors = call(
        capsys, train, "--out", out, "--stages", "core", "--set", "core.steps=3")
    assert ((code, errors) == (0, "") and output.count("up to date") == 4
            and "step     3/3" in output)


def killed(saves, delay, *arguments):
    """train.py, killed so many seconds after it saved so many files; if 0, before the last one of
    them is in its place. Without a handler, SIGALRM ends a process as suddenly as SIGKILL does."""
    replace, left = os.replace, saves

    def counted(source, target):
        nonlocal left
        left -= 1
        if left == 0 and not delay:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if left == 0:
            signal.setitimer(signal.ITIMER_REAL, delay)
    os.replace = counted
    command("train", *arguments)


def test_killed_at_any_moment_a_run_ends_with_the_same_weights(finished, texts, tmp_path):
    """Killed in saving, and somewhere in the stages, each time a little later; then --resume.

    Delays are shares of what the whole run takes here, so that a slow machine makes as many kills.
    Of the saves those of run.json and report.json come first, each time."""
    out = tmp_path / "killed"
    arguments = ["--out", out, "--data", texts, *TRAIN, "--resume", *PRETRAIN]
    report = json.loads((finished[0] / "report.json").read_text())
    seconds = sum(row["seconds"] for row in report.values())
    for saves, share in ((1, 0), (3, 0), (4, 0.02), (5, 0), (5, 0.03), (4, 0), (6, 0.06), (4, 0),
                         (4, 0.02), (5, 0)):
        code, *printed = Launched(killed, saves, share * seconds, *arguments).finish()
        assert -code in (signal.SIGKILL, signal.SIGALRM), printed
    code, _, errors = Launched(command, "train", *arguments).finish()
    assert (code, errors) == (0, "")
    assert same(weights(finished[0]), weights(out))


def test_what_was_built_on_a_redone_stage_is_redone(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "copy")
    assert call(capsys, train, "--out", out, "--stages", "prune")[1].count(
        "up to date") == 3  # what it needs
    code, output, _ = call(capsys, train, "--out", out, "--resume", *PRETRAIN)
    assert code == 0 and output.count("up to date") == 7  # as prune came out as before
    assert call(capsys, train, "--out", out, "--stages", "tokenizer",
                "--set", "tokenizer.coverage=0.9")[0] == 0
    assert "made with another tokenizer" in call(
        capsys, sample, "--run", out, "--prompt", "Text")[2]
    code, output, _ = call(capsys, train, "--out", out, "--resume", *PRETRAIN)
    assert code == 0 and output.count("up to date") == 2 and "step    60/60" in output


def test_a_redone_stage_can_be_cut_off_and_resumed(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "copy")
    process = Launched(command, "train", "--out", out, "--stages", "core",
                       "--set", "core.steps=3000")
    process.wait_for((out / "core.part.pt").exists)
    process.kill()
    process = Launched(command, "train", "--out", out, "--resume", *PRETRAIN)
    process.wait_for(lambda: "core: going on from step" in process.printed()[0])
    process.kill()


def test_a_changed_setting_makes_anew_what_depends_on_it(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "copy")
    before = json.loads((out / "report.json").read_text())
    code, output, errors = call(
        capsys, train, "--out", out, "--resume", *PRETRAIN, "--set", "continued.steps=7")
    assert (code, errors) == (0, "") and output.count("up to date") == 5
    after = json.loads((out / "report.json").read_text())
    changed = [name for name in after if before[name]["metrics"] != after[name]["metrics"]]
    assert changed == ["continued", "lengthening"] and after["continued"]["settings"]["steps"] == 7
    code, output, _ = call(
        capsys, train, "--out", out, "--resume", *PRETRAIN, "--set", "continued.steps=6")
    assert code == 0 and same(weights(finished[0]), weights(out))


def test_a_refused_first_call_leaves_the_way_free(texts, tmp_path, capsys):
    assert call(capsys, train, "--out", tmp_path / "new", "--data", tmp_path / "typo")[0] == 2
    again = call(capsys, train, "--out", tmp_path / "new",
                 "--resume", *PRETRAIN)  # not with other text in silence
    assert again[0] == 2 and "typo" in again[2]
    assert call(capsys, train, "--out", tmp_path / "new", "--data", texts,
                "--stages", "data")[0] == 0


def test_sample(finished, capsys):
    options = ["--run", finished[0], "--max-new-tokens", 8]
    first = call(capsys, sample, *options, "--prompt", "Text number")
    assert (first[0] == 0 and first[1].startswith("Text number")
            and len(first[1]) > len("Text number\n"))
    assert first == call(capsys, sample, *options, "--prompt", "Text number")
    code, output, errors = shell(
        "sample.py", *options, lines=f"Text number\n{'fox ' * 999}\nfox\n")
    assert code == 0 and output.startswith(first[1]) and "\nfox" in output
    assert "it must have 1 to 255" in errors


class Scripted:
    """Stands for a model: says what it is told, one text each time."""

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.asked = tokenizer, list(texts), []

    def stream(self, prompts, most, **sampling):
        self.asked.append(self.tokenizer.decode(prompts[0]))
        for token in [*self.tokenizer.encode(self.texts.pop(0)), self.tokenizer.special(END)]:
            yield torch.tensor([token]), torch.zeros(1)


def test_a_conversation_shows_calls_runs_them_and_goes_on_with_what_they_say(
        capsys, monkeypatch):
    monkeypatch.setattr(sample, "stream", Scripted.stream)
    tokenizer = Tokenizer.train(["What do keys cost?"], 300)
    arguments = argparse.Namespace(seed=0, max_new_tokens=9, temperature=0, top_p=1,
                                   system="Be brief.", tools=["python"], pages={})
    model = Scripted(tokenizer, "call: python(code='6*7')", "call: price(item='keys')", "It is 42.")
    sample.answer(model, "What is 6*7?", arguments)
    assert capsys.readouterr().out == (
        "call: python(code='6*7')\n    42\ncall: price(item='keys')\n"
        "    error: there is no tool price\nIt is 42.\n")
    assert model.asked[0] == ("<|system|>Be brief.\nTools: python(code)<|end|>"
                              "<|user|>What is 6*7?<|end|><|assistant|>")
    assert model.asked[1] == (model.asked[0] + "call: python(code='6*7')<|end|>"
                              "<|tool|>42<|end|><|assistant|>")
    model = Scripted(tokenizer, *["call: python(code='6*7')"] * 5)  # and then it may not again
    sample.answer(model, "What is 6*7?", arguments)
    assert capsys.readouterr().out == "call: python(code='6*7')\n    42\n" * 4 + (
        "call: python(code='6*7')\n    no more calls in this conversation\n")


def cases():
    new, old, talk = (
        [train, "--out", "{new}"], [train, "--out", "{run}"], [sample, "--run", "{run}"])
    return {
        "there is no such folder": [*new, "--data", "{new}/none"],
        "needs text to train on": [*new, "--data", "{empty}"],
        "is not UTF-8 (see byte 3)": [*new, "--data", "{latin}"],
        "need 272": [*new, "--data", "{texts}", "--set", "model.vocab_size=271"],
        "--stages reward: choose from data, tokenizer, parent": [*new, "--stages", "reward"],
        "--preset huge: choose one of tiny, toy": [*new, "--preset", "huge"],
        "--set core.speed=3: it must be NAME=VALUE": [*new, "--set", "core.speed=3"],
        "with one of the names model.dim, model.layers": [*old, "--set", "help"],
        "core.steps takes a value like 250": [*new, "--set", "core.steps=many"],
        "head_dim even": [*new, "--set", "model.head_dim=3"],
        "--device abacus is not to be had": [*new, "--device", "abacus"],
        "start several with torchrun": [*new, "--shard"],
        "holds a run: add --resume": [*old],
        "begun with preset tiny": [*old, "--resume", *PRETRAIN, "--preset", "toy"],
        "core.batch takes a value like 8, at least 1": [*new, "--set", "core.batch=0"],
        "core.lr takes a value like 0.005, at least 0": [*new, "--set", "core.lr=1e999"],
        "give 0, or 0.01 to 100": [*talk, "--temperature", "nan"],
        "--device meta is not to be had": [*talk, "--device", "meta"],
        "holds no model: python train.py": [sample, "--run", "{new}"],
        "it must have 1 to 255": [*talk, "--prompt", "fox " * 999],
        "has models of parent, prune, core, continued, lengthening": [*talk, "--stage", "sft"],
        "--top-p must be above 0": [*talk, "--top-p", "0"],
        "goes on from a prompt: --system and --tools are for draft": [*talk, "--tools", "price"],
    }


@pytest.mark.parametrize("message", cases())
def test_bad_input_gets_one_line_and_exit_code_2(message, finished, texts, tmp_path, capsys):
    for name, content in (("empty", {}), ("latin", {"a.txt": "café".encode("latin-1")})):
        (tmp_path / name).mkdir()
        for file, data in content.items():
            (tmp_path / name / file).write_bytes(data)
    before = {path: path.read_bytes() for path in finished[0].iterdir()}
    command, *arguments = cases()[message]
    code, _, errors = call(capsys, command, *[part.format(
        new=tmp_path / "new", empty=tmp_path / "empty", latin=tmp_path / "latin", texts=texts,
        run=finished[0]) for part in arguments])
    assert (code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
            and message in errors)
    assert {path: path.read_bytes() for path in finished[0].iterdir()} == before


def test_a_damaged_or_foreign_checkpoint_is_refused(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "copy")
    whole = (out / LAST).read_bytes()
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": {}}, foreign)
    for content in (b"", whole[:100], whole[:len(whole) // 2], whole[:-1], b"PK" + whole[:50],
                    foreign.read_bytes()):
        (out / LAST).write_bytes(content)
        code, _, errors = call(capsys, sample, "--run", out, "--prompt", "Text")
        assert (code == 2 and errors.count("\n") == 1
                and "lengthening.pt is damaged, or no checkpoint" in errors)
    (out / LAST).write_bytes(whole)
    (out / "tokenizer.json").write_text((out / "tokenizer.json").read_text() + " ")
    assert "made with another tokenizer" in call(
        capsys, sample, "--run", out, "--prompt", "Text")[2]


@pytest.mark.parametrize("limit", [0, 1000, 70_000])
def test_a_failed_save_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "state.pt"
    save(path, x=torch.ones(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*state.pt"):
            save(path, x=torch.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(path)["x"].sum() == 100_000 and os.listdir(tmp_path) == ["state.pt"]


def limited(size, *arguments):
    """train.py, while no file may grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command("train", *arguments)


def test_a_full_disk_loses_nothing(finished, tmp_path, capsys):
    """No file may grow beyond 100 KB: the first save fails, in one line, and room made
    lets it go on."""
    out = shutil.copytree(finished[0], tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, errors = Launched(limited, 100_000, "--out", out, "--stages", "core").finish()
    assert (code == 2 and errors.count("\n") == 1 and "cannot write" in errors
            and "core.part.pt" in errors)
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {name for name in after if before.get(name) != after[name]} <= {
        "metrics.jsonl", "report.json"}
    code, _, errors = call(capsys, train, "--out", out, "--resume", *PRETRAIN)
    assert (code, errors) == (0, "") and os.listdir(out).count("core.part.pt") == 0
    assert same(weights(finished[0]), weights(out))


def hasten(patch):
    """Do less of what takes most of the time: 6 tokens of each response, as a model that has
    learned next to nothing ends few, and 4 tasks of each family for the draft's validation."""
    def cut_off(model, prompts, most, *rest, **sampling):
        return generate.generate_with_logp(model, prompts, min(most, 6), *rest, **sampling)
    patch.setattr(evaluate, "generate_with_logp", cut_off)
    patch.setattr(evaluate.validation, "__defaults__", (4, 1))


def post_train(out):
    hasten(pytest.MonkeyPatch())
    command("train", "--out", out, "--resume", "--jobs", "1")  # in this process, which is hastened


def test_post_training_goes_on_from_there(finished, tmp_path, capsys, monkeypatch):
    """On a model that has learned next to nothing every stage goes through, and says so."""
    out = shutil.copytree(finished[0], tmp_path / "run")
    code, output, errors = Launched(post_train, out).finish()
    assert (code, errors) == (0, "")
    hasten(monkeypatch)
    for stage in list(STAGES)[list(STAGES).index("demonstrations"):]:
        assert f"\n{stage}: " in output
    for name in ("draft.pt", "sft.pt", "mixture.json", "synthetic.jsonl"):
        assert (out / name).exists()
    assert not list(out.glob("sft-*.pt"))
    expected, validate = weights(out, "sft.pt"), evaluate.validation
    judge, report = weights(out, "reward1.pt"), json.loads((out / "report.json").read_text())
    for claim in CLAIMS:  # but those of continued: the test's own text has no sources
        for stage in {claim.stage, claim.control_stage} - {"continued"}:
            assert claim.metric in report[stage]["metrics"]

    def killed(model, families, *rest):  # when all checkpoints have been compared
        if "math deeper" in families:
            raise KeyboardInterrupt
        return validate(model, families, *rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "validation", killed)
        assert call(capsys, train, "--out", out, "--stages", "sft")[0] == 130
    (out / "sft.pt").unlink()
    assert call(capsys, train, "--out", out, "--resume")[::2] == (0, "")
    assert same(expected, weights(out, "sft.pt"))
    # Done after other stages than before, and by another process.
    assert same(judge, weights(out, "reward1.pt"))
    expected, rollouts = weights(out, "mdloo2.pt"), align.rollouts
    judging = call(capsys, sample, "--run", out, "--stage", "reward1", "--prompt", "Hi")
    assert judging[0] == 2  # it does not talk

    def cut_off(*arguments):  # in the second iteration
        if (out / "mdloo2.part.pt").exists():
            raise KeyboardInterrupt
        return rollouts(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "rollouts", cut_off)
        assert call(capsys, train, "--out", out, "--stages", "mdloo2")[0] == 130
    (out / "mdloo2.pt").unlink()
    code, output, errors = call(capsys, train, "--out", out, "--resume")
    assert (code, errors) == (0, "") and "mdloo2: going on from step 4" in output
    assert same(expected, weights(out, "mdloo2.pt"))
    ask = [sample, "--run", out, "--tools", "search,price", "--prompt", "What do keys cost?"]
    answered = call(capsys, *ask)
    assert answered[0] == 0
    assert answered == call(capsys, *ask, "--stage", "committee2", "--temperature", 0)
    packed = ["--run", out, "--quantized"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(
        "Hi\n/adapter tools\nHi\n/adapter fax\n/adapter none\n/adapter recovery\nHi\n"))
    code, output, errors = call(capsys, sample, *packed, "--max-new-tokens", "5")
    said = output.split("\n")
    assert (code, errors) == (
        0, "error: adapter fax: choose from recovery, math, tools, summary, none\n")
    assert said[0] == said[-2]
    for arguments, message in (([*packed, "--stage", "sft"], "leave out one of the two"),
                               (["--run", out, "--adapter", "math"], "add --quantized"),
                               ([*packed, "--adapter", "x"], "adapter x: choose from recovery")):
        assert message in call(capsys, sample, *arguments, "--prompt", "Hi")[2]
    (out / "math.pt").rename(out / "math.kept")
    missing = call(capsys, sample, *packed, "--adapter", "math", "--prompt", "Hi")
    assert "math.pt: train the stage first" in missing[2]
    assert "--tools fax: choose from price" in call(
        capsys, sample, "--run", out, "--tools", "fax")[2]
    report = (out / "report.md").read_text()
    for head in ("Guards", "Yields", "Weights", "Trace", "Checkpoints", "Evaluation",
                 "Pairs judged right, round 1", "Curve, round 2", "Aligned against sft"):
        assert f"## {head}" in report
