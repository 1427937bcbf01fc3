"""train.py as a user meets it: output, resuming after kills at any moment, and bad input."""
import math
import os
import re
import resource
import shutil
import signal

import pytest

import sample
import train
from afm_min import align, evaluate
from afm_min.lab.claims import CLAIMS
from afm_min.files import read_json, write_json
from afm_min.lab import claims, packages, stages
from afm_min.lab.packages import python_command
from afm_min.lab.settings import TINY_SETTINGS
from afm_min.lab.stages import STAGES
from afm_min.run import Run
from tests.helpers.commands import (PRETRAIN, SETTINGS, assert_refused, assert_same_weights, call,
                                    shell, weights)
from tests.helpers.launch import Launched, command
from tests.helpers.post_training import shorten


def read_report(folder):
    return read_json(folder / "report.json")


def test_a_run_prints_its_progress(pretrained):
    _, output = pretrained
    for expected in ("[1/9] data ...\n", "[2/9] tokenizer ", " s: characters per token ",
                     " tokens/s", "[7/9] core 60/60  nll ", "0:00 left (all "):
        assert expected in output
    for stage in ("lookup", "parent", "prune", "teacher", "core", "continued", "lengthening"):
        assert output.count(f"] {stage} ...\n") == 1
        assert len(re.findall(rf"\] {stage} [\d.]+ s: ", output)) == 1
    assert re.search(r"core [\d.]+ s: bits/byte [\d.]+ -> [\d.]+\n", output)
    assert "\r" not in output  # in a log, progress is printed as plain lines


def test_a_run_ends_with_what_to_try_next(pretrained, post_trained):
    assert pretrained[1].splitlines()[-4:] == [
        "", "Test tasks solved: not evaluated yet. Next:",
        f'    {python_command()} sample.py --run {pretrained[0]} --prompt "The value of"',
        f"    {python_command()} train.py --out {pretrained[0]} --resume"]
    *_, solved, first, second = post_trained[1].splitlines()
    assert re.fullmatch(r"Test tasks solved: base \d+ %, draft \d+ %, sft \d+ %, aligned \d+ %, "
                        r"quantized \d+ %, recovered \d+ %\. Next:", solved)
    assert first == f"    {python_command()} sample.py --run {post_trained[0]}"
    assert second == f"    {python_command()} train.py --list"


def test_files_of_a_run(pretrained):
    folder, _ = pretrained
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".svg")
    assert names == [
        ".lock", ".train.lock", "continued.pt", "core.pt", "documents.jsonl", "environment.json",
        "lengthening.pt", "lookup.pt", "metrics.jsonl", "parent.pt", "prune.pt",
        "report.json", "report.md", "run.json", "teacher.pt", "tokenizer.json", "tokens.pt"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 60 + 5 * 10 + 12  # steps


def test_the_report_of_a_run(pretrained):
    text = (pretrained[0] / "report.md").read_text()
    for stage in ("lookup", "parent", "prune", "teacher", "core", "continued", "lengthening"):
        assert f"| {stage} |" in text
    assert "recall at 4x % before" in text
    assert "accuracy %" in text
    assert "| peak memory, MB | " in text
    assert "| preset | tiny |" in text


def test_the_preset_tiny_has_settings_of_its_own_which_set_replaces(pretrained, texts, tmp_path,
                                                                    capsys):
    stored = read_json(pretrained[0] / "run.json")["set"]
    assert stored == TINY_SETTINGS | {"core.steps": 60, "core.distill": 0.9, "sft.checkpoints": 2,
                                      "data.folder": str(texts)}
    assert call(capsys, train, "--out", tmp_path / "toy", "--data", texts,
                "--until", "data")[0] == 0
    stored = read_json(tmp_path / "toy" / "run.json")["set"]
    assert stored == {"data.folder": str(texts)}


def test_finished_stages_are_skipped(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    before = [(folder / name).read_bytes() for name in ("core.pt", "environment.json")]
    code, output, _ = call(capsys, train, "--out", folder, "--resume", *PRETRAIN)
    assert code == 0
    assert output.count("up to date") == 9
    assert [(folder / name).read_bytes() for name in ("core.pt", "environment.json")] == before


def test_a_stage_that_lost_its_file_is_run_again(pretrained, tmp_path, capsys):
    """It ends with the same weights, so later stages stay up to date."""
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    kept = (folder / "lengthening.pt").read_bytes()
    for name in ("core.pt", "tokenizer.json"):
        (folder / name).unlink()
        arguments = ["--out", folder, "--resume", *PRETRAIN]
        stage = name.partition(".")[0]
        plan = call(capsys, train, *arguments, "--dry-run")[1]
        assert f"\n{stage}: {name} is missing\n" in f"\n{plan}"
        code, output, errors = call(capsys, train, *arguments)
        assert (code, errors) == (0, "")
        assert output.startswith(f"{stage} is out of date: {name} is missing\n")
        assert output.count("up to date") == 8 and (folder / name).exists()
    assert (folder / "lengthening.pt").read_bytes() == kept


def test_a_named_stage_is_run_again(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    code, output, errors = call(
        capsys, train, "--out", folder, "--again", "core", "--set", "core.steps=3")
    assert (code, errors) == (0, "")
    assert output.count("up to date") == 6
    assert "core 3/3  nll " in output
    assert ("\nOut of date now: continued, lengthening. --resume trains them again.\n\n"
            "Test tasks solved: ") in output
    assert output.endswith(f"    {python_command()} train.py --out {folder} --resume\n")


def test_settings_of_stages_that_did_not_run_outdate_them(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    code, output, _ = call(capsys, train, "--out", folder, "--resume", "--until", "core",
                           "--set", "continued.steps=3")
    assert code == 0
    assert "\nOut of date now: continued, lengthening. --resume trains them again.\n" in output
    assert (folder / "lengthening.pt").exists()


def train_and_kill(saves, delay, *arguments):
    """Run train.py, killed `delay` seconds after it has saved so many files. If 0, it is killed
    before the last of them is renamed into its place.

    Without a handler, SIGALRM ends a process as suddenly as SIGKILL does."""
    replace, left = os.replace, saves

    def counting_replace(source, target):
        nonlocal left
        left -= 1
        if left == 0 and not delay:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if left == 0:
            signal.setitimer(signal.ITIMER_REAL, delay)
    os.replace = counting_replace
    command("train", *arguments)


def test_a_run_killed_at_any_moment_ends_with_the_same_weights(pretrained, texts, tmp_path):
    """Kill it while it saves, and within stages, each time a little later; then --resume.

    Delays are shares of the time of the whole run, so that a slow machine makes as many kills. Each
    time, the first saves are those of run.json and report.json."""
    folder = tmp_path / "killed"
    arguments = ["--out", folder, "--data", texts, *SETTINGS, "--resume", *PRETRAIN]
    seconds = sum(row["seconds"] for row in read_report(pretrained[0]).values())
    for saves, share in ((1, 0), (3, 0), (4, 0.02), (5, 0), (5, 0.03), (4, 0), (6, 0.06), (4, 0),
                         (4, 0.02), (5, 0)):
        code, *printed = Launched(train_and_kill, saves, share * seconds, *arguments).finish()
        assert -code in (signal.SIGKILL, signal.SIGALRM), printed
    code, _, errors = Launched(command, "train", *arguments).finish()
    assert (code, errors) == (0, "")
    assert_same_weights(weights(pretrained[0], "lengthening"), weights(folder, "lengthening"))


def test_stages_after_one_that_was_run_again_are_kept_if_it_gave_the_same_result(
        pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    output = call(capsys, train, "--out", folder, "--again", "prune")[1]
    assert output.count("up to date") == 4  # its needs
    assert "Out of date" not in output
    code, output, _ = call(capsys, train, "--out", folder, "--resume", *PRETRAIN)
    assert code == 0
    assert output.count("up to date") == 9


def test_stages_after_one_that_was_run_again_are_run_if_it_gave_another_result(
        pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    assert call(capsys, train, "--out", folder, "--again", "tokenizer",
                "--set", "tokenizer.coverage=0.9")[0] == 0
    code, output, _ = call(capsys, train, "--out", folder, "--resume", *PRETRAIN)
    assert code == 0
    assert output.count("up to date") == 2
    assert "core 60/60" in output


def test_a_stage_that_was_killed_when_run_again_is_resumed(pretrained, tmp_path):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    process = Launched(command, "train", "--out", folder, "--again", "core",
                       "--set", "core.steps=3000")
    process.wait_for((folder / "core.part.pt").exists)
    process.kill()
    process = Launched(command, "train", "--out", folder, "--resume", *PRETRAIN)
    process.wait_for(lambda: "after step" in process.printed()[0])
    process.kill()


def test_a_changed_setting_changes_the_stages_that_depend_on_it(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    before = read_report(folder)
    code, output, errors = call(
        capsys, train, "--out", folder, "--resume", *PRETRAIN, "--set", "continued.steps=7")
    assert (code, errors) == (0, "")
    assert output.count("up to date") == 7
    after = read_report(folder)
    changed = [name for name in after if before[name]["metrics"] != after[name]["metrics"]]
    assert changed == ["continued", "lengthening"]
    assert after["continued"]["settings"]["steps"] == 7
    code, output, _ = call(
        capsys, train, "--out", folder, "--resume", *PRETRAIN, "--set", "continued.steps=10")
    assert code == 0
    assert_same_weights(weights(pretrained[0], "lengthening"), weights(folder, "lengthening"))


def test_an_edited_stage_is_run_again(pretrained, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    source_hash = stages.source_hash
    monkeypatch.setattr(stages, "source_hash", lambda module: (
        "edited" if module == "afm_min.pretrain" else source_hash(module)))
    code, output, errors = call(
        capsys, train, "--out", folder, "--resume", "--until", "parent")
    assert (code, errors) == (0, "")
    assert output.count("up to date") == 3  # data, tokenizer and lookup are of another module
    assert "parent 10/10" in output


def test_until_stops_after_a_stage_and_again_goes_as_far(pretrained, tmp_path, capsys):
    """Together: one stage anew, and then up to another."""
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    output = call(capsys, train, "--out", folder, "--resume", "--until", "prune,teacher")[1]
    assert output.count("is up to date") == 6 and "core" not in output
    code, output, _ = call(capsys, train, "--out", folder, "--again", "core", "--until",
                           "continued", "--set", "core.steps=3")
    assert code == 0
    assert output.count("is up to date") == 6
    assert "core 3/3" in output and "continued 10/10" in output and "] lengthening" not in output


def test_a_dry_run_prints_what_would_run_and_why_and_writes_nothing(pretrained, texts, tmp_path,
                                                                    capsys):
    folder = pretrained[0]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, output, errors = call(capsys, train, "--out", folder, "--dry-run", *PRETRAIN,
                                "--set", "core.steps=3", "--again", "teacher")
    assert (code, errors) == (0, "")
    *lines, total = output.splitlines()
    assert lines == ["teacher: --again", "core: settings changed", "continued: needs core",
                     "lengthening: needs continued"]
    assert re.fullmatch(
        r"4 of 9 stages would run, in about \d+ min at the speed of those done", total)
    *_, outdated = call(capsys, train, "--out", folder, "--dry-run", "--again",
                        "core")[1].splitlines()
    assert outdated == (
        "out of date then, unless results stay the same: continued, lengthening; "
        f"{python_command()} train.py --out {folder} --resume trains them again")
    output = call(capsys, train, "--out", folder, "--resume", "--dry-run", *PRETRAIN)[1]
    assert output == "all 9 stages are up to date\n"
    assert_refused(call(capsys, train, "--out", folder, "--dry-run", *PRETRAIN),
                   "has a run: add --resume")  # as without --dry-run
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_dry_run_estimates_the_time_of_the_toy_only_until_stages_are_done(texts, tmp_path,
                                                                            capsys):
    """Of a model of another shape, those of training: a run with text alone has no speed yet."""
    new = ["--out", tmp_path / "new", "--dry-run", "--until", "prune"]
    seconds = sum(STAGES[stage].seconds
                  for stage in ("data", "tokenizer", "lookup", "parent", "prune"))
    # The parent has 800 steps by default.
    for extra, steps in ((0, 800), (30 * STAGES["parent"].seconds, 31 * 800)):
        output = call(capsys, train, *new, "--set", f"parent.steps={steps}")[1]
        assert output.endswith("prune: no result yet\n5 of 5 stages would run, in about "
                               f"{math.ceil((seconds + extra) / 60)} min on two CPU cores\n")
    unknown = "stages would run, but their times are known for the preset toy only\n"
    for other in (["--preset", "tiny"], ["--set", "model.dim=64"]):
        assert call(capsys, train, *new, *other)[1].endswith(f"5 of 5 {unknown}")
    assert not (tmp_path / "new").exists()
    tiny = ["--out", tmp_path / "tiny", "--data", texts, "--preset", "tiny", "--until"]
    assert call(capsys, train, *tiny, "tokenizer")[0] == 0
    assert call(capsys, train, *tiny, "prune", "--resume",
                "--dry-run")[1].endswith(f"3 of 5 {unknown}")


def test_a_dry_run_refuses_the_text_that_a_run_refuses(texts, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "none", tmp_path / "empty"):
        run = tmp_path / f"run on {folder.name}"
        arguments = ["--out", run, "--data", folder, "--until", "data"]
        refused = call(capsys, train, *arguments, "--dry-run")
        assert_refused(refused, f"--data {folder}")
        assert not run.exists()
        code, _, errors = call(capsys, train, *arguments)
        assert (code, errors) == (refused[0], refused[2])
    code, output, _ = call(capsys, train, "--out", tmp_path / "new", "--data", texts, "--dry-run")
    assert code == 0 and output.startswith("data: no result yet\n")


def test_list_explains_stages_and_their_settings(capsys):
    """All in short, or one with its whole docstring."""
    code, output, _ = call(capsys, train, "--list")
    assert code == 0
    assert output.count("prune: Prune feed-forward units by Soft-Top-K, on the core mixture.") == 1
    assert "\n    sft.dropout=0.1  " in output and "soft: share of the steps" not in output
    code, output, _ = call(capsys, train, "--list", "prune")
    assert code == 0
    assert "soft: share of the steps" in output and "    prune.soft=0.8   " in output
    assert "sft" not in output


def test_list_has_the_values_of_a_preset(capsys):
    assert "    model.dim=112   " in call(capsys, train, "--list")[1]
    output = call(capsys, train, "--list", "model,core", "--preset", "tiny")[1]
    assert "    model.dim=32   " in output and "    core.steps=10   " in output
    for name in ("model", "core"):
        assert_refused(call(capsys, train, "--list", name, "--preset", "huge"), "--preset huge")


@pytest.mark.parametrize("name", ["train.py", "sample.py"])
def test_a_missing_package_gives_one_line(name):
    """Python's option -S hides all installed packages."""
    assert_refused(shell("-S", name), "has no torch 2.13 or newer, numpy 2 or newer, regex: run "
                                      "`make install` in")


def test_an_old_package_counts_as_missing(monkeypatch):
    for version, is_missing in (("2.9.1", True), ("2.12.0+cpu", True), ("2.13.0+cpu", False),
                                ("2.13", False), ("3.0", False), ("1.99", True)):
        monkeypatch.setattr(packages.importlib.metadata, "version", lambda name: version)
        assert packages.is_missing("torch", (2, 13)) == is_missing
        assert not packages.is_missing("regex", ())


def test_hints_call_the_python_of_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert python_command() == ".venv/bin/python"
    monkeypatch.setattr(packages.sys, "executable", "/usr/bin/python3")
    assert python_command() == "python"


def test_hints_to_continue_keep_the_stages_to_stop_after(tmp_path):
    assert train.resume_command(Run(tmp_path), ["core", "sft"]) == (
        f"{python_command()} train.py --out {tmp_path} --resume --until core,sft")


@pytest.mark.parametrize("command, arguments, message", [
    (train, ["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (train, ["--sets"], "unrecognized arguments: --sets"),
    (sample, ["--top-p"], "argument --top-p: expected one argument"),
    (claims, ["--jobs", "two"], "argument --jobs: invalid int value: 'two'")])
def test_a_wrong_option_gives_one_line(command, arguments, message, capsys):
    assert_refused(call(capsys, command, *arguments), message)


def test_a_second_process_on_a_run_is_refused(pretrained, tmp_path, capsys):
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    arguments = ["--out", folder, "--resume", *PRETRAIN, "--set", "core.steps=7"]
    with Run(folder).reserved():
        assert_refused(call(capsys, train, *arguments), "another process works on")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_refused_first_call_can_be_corrected(texts, tmp_path, capsys):
    folder = tmp_path / "new"
    assert_refused(call(capsys, train, "--out", folder, "--data", tmp_path / "typo"), "typo")
    # --resume does not silently use other text.
    assert_refused(call(capsys, train, "--out", folder, "--resume", *PRETRAIN), "typo")
    assert call(capsys, train, "--out", folder, "--data", texts, "--until", "data")[0] == 0


BAD_INPUT = {  # message: arguments
    "there is no such folder": ["--out", "{new}", "--data", "{new}/none"],
    "text to train on and other text": ["--out", "{new}", "--data", "{empty}"],
    "is not UTF-8 (see byte 3)": ["--out", "{new}", "--data", "{latin}"],
    "need 272": ["--out", "{new}", "--data", "{texts}", "--set", "model.vocab_size=271"],
    "--out '': expected a folder": ["--out", "", "--dry-run"],
    "a.txt': expected a folder": ["--out", "{latin}/a.txt", "--dry-run"],
    "there is no stage reward: choose from data, tokenizer": ["--until", "data,reward"],
    "there is no stage rs3: choose from": ["--out", "{run}", "--again", "core,rs3"],
    "there is no stage model: choose from": ["--until", "model"],
    "--preset huge: choose one of tiny, toy": ["--out", "{new}", "--preset", "huge"],
    "--set core.speed=3: there is no setting 'core.speed'": ["--out", "{new}", "--set",
                                                            "core.speed=3"],
    "similar names are core.steps, ": ["--out", "{run}", "--set", "core.step=3"],
    "--set core.steps: expected a value, such as core.steps=800": ["--out", "{new}", "--set",
                                                                  "core.steps"],
    "core.steps takes a whole number like 800": ["--out", "{new}", "--set", "core.steps=many"],
    "core.batch_size takes a whole number like 8, at least 1": ["--out", "{new}", "--set",
                                                         "core.batch_size=0"],
    "core.lr takes a value like 0.01, at least 0": ["--out", "{new}", "--set", "core.lr=1e999"],
    "mdloo1.rewarded takes one of 'model', 'checker'": ["--out", "{new}", "--set",
                                                        "mdloo1.rewarded=modle"],
    "sft.dropout takes a value like 0.1, at least 0, below 1": ["--out", "{new}", "--set",
                                                                "sft.dropout=2"],
    "head_dim even": ["--out", "{new}", "--set", "model.head_dim=3"],
    "device 'abacus' is not available here": ["--out", "{new}", "--device", "abacus"],
    "start several with torchrun": ["--out", "{new}", "--shard"],
    "--jobs 0: give 1 or more": ["--jobs", "0"],
    "has a run: add --resume": ["--out", "{run}"],
    "begun with preset tiny": ["--out", "{run}", "--resume", *PRETRAIN, "--preset", "toy"],
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_gets_one_line_and_exit_code_2(message, pretrained, texts, tmp_path, capsys):
    for name in ("empty", "latin"):
        (tmp_path / name).mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes("café".encode("latin-1"))
    run = pretrained[0]
    before = {path: path.read_bytes() for path in run.iterdir()}
    arguments = [argument.format(new=tmp_path / "new", empty=tmp_path / "empty",
                                 latin=tmp_path / "latin", texts=texts, run=run)
                 for argument in BAD_INPUT[message]]
    if "--jobs" in arguments:  # `call` would give --jobs, too
        code, _, errors = Launched(command, "train", *arguments).finish()
        assert_refused((code, "", errors), message)
    else:
        assert_refused(call(capsys, train, *arguments), message)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("trained", [None, [], ["lengthening"], ["lengthening", "draft", "sft"]])
def test_an_opponent_without_a_finished_run_is_refused_before_any_stage(trained, texts, tmp_path,
                                                                        capsys):
    """It needs the models that evaluation compares with, unless evaluation is not to run."""
    folder, opponent = tmp_path / "new", tmp_path / "opponent"
    if trained is not None:
        opponent.mkdir()
        write_json(opponent / "report.json", dict.fromkeys(trained, {}))
        for stage in trained:
            (opponent / f"{stage}.pt").touch()
    arguments = ["--out", folder, "--data", texts, "--set", f"evaluation.opponent={opponent}"]
    message = f"evaluation.opponent={opponent}: there is no finished run in this folder"
    assert_refused(call(capsys, train, *arguments), message)
    assert_refused(call(capsys, train, *arguments, "--dry-run"), message)
    assert not folder.exists()
    assert call(capsys, train, *arguments, "--dry-run", "--until", "math")[0] == 0
    if trained and "sft" in trained:
        aligned = ["--set", "evaluation.aligned=draft"]
        assert call(capsys, train, *arguments, "--dry-run", *aligned)[0] == 0
        (opponent / "best2.pt").touch()
        assert call(capsys, train, *arguments, "--dry-run")[0] == 0


def train_with_file_limit(size, *arguments):
    """Run train.py while no file may grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command("train", *arguments)


def test_a_full_disk_loses_nothing(pretrained, tmp_path, capsys):
    """The first save fails at 100 KB, with one line; once there is room, the run can continue."""
    folder = shutil.copytree(pretrained[0], tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = Launched(train_with_file_limit, 100_000, "--out", folder, "--again", "core").finish()
    assert_refused(result, "cannot write")
    assert "core.part.pt" in result[2]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed <= {"metrics.jsonl", "report.json"}
    code, _, errors = call(capsys, train, "--out", folder, "--resume", *PRETRAIN)
    assert (code, errors) == (0, "")
    assert not (folder / "core.part.pt").exists()
    assert_same_weights(weights(pretrained[0], "lengthening"), weights(folder, "lengthening"))


def test_post_training_runs_every_stage(post_trained):
    """Even on a model that has learned next to nothing."""
    folder, output = post_trained
    for stage in list(STAGES)[list(STAGES).index("demonstrations"):]:
        assert re.search(rf"\] {stage} [\d.]+ s: ", output)
    for name in ("draft.pt", "sft.pt", "mixture.json", "synthetic.jsonl"):
        assert (folder / name).exists()
    assert not list(folder.glob("sft-*.pt"))
    text = (folder / "report.md").read_text()
    for title in ("Guards", "Yields", "Weights", "Trace", "Checkpoints", "Evaluation",
                  "Pairs judged right, round 1", "Curve, round 2", "Aligned against sft"):
        assert f"## {title}" in text


def test_every_claim_names_a_metric_that_its_stage_reports(post_trained):
    report = read_report(post_trained[0])
    for claim in CLAIMS:
        for stage in (claim.stage, claim.control_stage or claim.stage):
            if stage != "continued" or claim.metric in ("accuracy %", "bits/byte"):
                assert claim.metric in report[stage]["metrics"]
            # Others of `continued` are of a source of the default text, which this run lacks.


def test_interrupted_fine_tuning_ends_with_the_same_weights(post_trained, tmp_path, capsys,
                                                            monkeypatch):
    """Interrupt it when one of two checkpoints has been validated. Later stages come out the same
    too, although another process runs them, after other stages than before."""
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    shorten(monkeypatch)
    validate, validated = evaluate.validation, []

    def interrupt(model, count):
        if validated:
            raise KeyboardInterrupt
        validated.append(model)
        return validate(model, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "validation", interrupt)
        code, _, errors = call(capsys, train, "--out", folder, "--again", "sft")
    assert code == 130
    assert errors == f"\nstopped: {python_command()} train.py --out {folder} --resume continues\n"
    (folder / "sft.pt").unlink()
    assert call(capsys, train, "--out", folder, "--resume")[::2] == (0, "")
    for stage in ("sft", "reward1"):
        assert_same_weights(weights(post_trained[0], stage), weights(folder, stage))


def test_interrupted_mdloo_ends_with_the_same_weights(post_trained, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(post_trained[0], tmp_path / "copy")
    shorten(monkeypatch)
    sample_rollouts = align.sample_rollouts

    def interrupt(*arguments):
        if (folder / "mdloo2.part.pt").exists():  # in the second iteration
            raise KeyboardInterrupt
        return sample_rollouts(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "sample_rollouts", interrupt)
        assert call(capsys, train, "--out", folder, "--again", "mdloo2")[0] == 130
    (folder / "mdloo2.pt").unlink()
    code, output, errors = call(capsys, train, "--out", folder, "--resume")
    assert (code, errors) == (0, "")
    assert "after step 4" in output  # where it resumed
    assert_same_weights(weights(post_trained[0], "mdloo2"), weights(folder, "mdloo2"))
