"""The table of stages, their settings, and stages that run side by side."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from afm_min import align, ondevice
from afm_min.lab import claims, runner, source, stages
from afm_min.lab.settings import (MEANINGS, PRESET_SETTINGS, TINY_SETTINGS, WORDS,
                                    meaning)
from afm_min.model import AFM, PRESETS, Config, save_model
from afm_min.run import Run, UserError, save
from afm_min.tokenizer import Tokenizer

PATHS = ["data.folder", "data.lexicon", "evaluation.opponent"]  # any string is allowed
ROOT = pathlib.Path(__file__).parent.parent


def test_every_stage_comes_after_its_needs():
    seen = set()
    for name in stages.STAGES:
        assert seen >= set(stages.needs_of(name, stages.settings_of(name)))
        seen.add(name)


def test_needs_of_the_first_stages_and_of_a_round():
    needs = {name: stages.needs_of(name, stages.settings_of(name)) for name in stages.STAGES}
    assert (needs["data"], needs["tokenizer"], needs["sft"]) == ([], ["data"], ["mixture"])
    assert (needs["preferences1"], needs["preferences2"]) == (["sft"], ["best1"])
    assert needs["committee2"] == ["rs2", "dpo2", "ipo2", "mdloo2"]
    assert needs["best2"] == ["committee2"]
    assert needs["tools"] == ["recovery"]


def test_with_needs():
    """Without stages, those of a whole run."""
    wanted = stages.with_needs(["prune"], {"parent.steps": 7})
    assert list(wanted) == ["data", "tokenizer", "lookup", "parent", "prune"]
    assert wanted["parent"] == stages.settings_of("parent") | {"steps": 7}
    assert stages.with_needs([]).keys() == stages.STAGES.keys()


@pytest.mark.parametrize("values, needed", [
    ({}, ["prune", "teacher"]), ({"core.distill": 0.0}, ["prune"]),
    ({"core.start": "scratch"}, ["tokenizer", "teacher"]),
    ({"core.start": "scratch", "core.distill": 0.0}, ["tokenizer"])])
def test_what_core_needs_depends_on_its_settings(values, needed):
    assert stages.needs_of("core", stages.settings_of("core", values)) == needed
    assert ("prune" in stages.with_needs(["core"], values)) == ("prune" in needed)


def test_a_server_needs_no_parent_and_is_not_packed():
    values = PRESET_SETTINGS["toy-server"]
    unneeded = set(stages.STAGES) - set(stages.with_needs([], values))
    assert unneeded == {"parent", "prune", "teacher", "quantize", "recovery", *ondevice.FEATURES}


def test_settings_are_defaults_unless_given():
    default = stages.settings_of("core")
    assert stages.settings_of("core", {"core.steps": 3, "sft.steps": 5}) == default | {"steps": 3}


def test_settings_of_the_preset_tiny_exist():
    for name in TINY_SETTINGS:
        stage, _, setting = name.partition(".")
        assert setting in stages.settings_of(stage)


@pytest.mark.parametrize("text, value", [
    ("core.steps=20", 20), ("core.lr=1", 1.0), ("core.start=scratch", "scratch"),
    ("data.folder=12", "12"), ("sft.synthetic=False", False), ("model.dim=64", 64),
    ("core.mixture={'web': 1}", {"web": 1})])
def test_a_setting_is_parsed_by_the_type_of_its_default(text, value):
    name = text.partition("=")[0]
    parsed = stages.parse_setting(text, vars(PRESETS["tiny"]))
    assert parsed == (name, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", [
    "core.steps", "core.speed=3", "help", "steps=3", "core.steps=2.5", "core.steps=0",
    "core.steps=x", "core.lr=-1", "core.lr=1e999", "core.steps=True", "core.mixture=3",
    "sft.synthetic=0"])
def test_a_bad_setting_is_refused(text):
    with pytest.raises(UserError, match=f"--set {text}: "):
        stages.parse_setting(text, vars(PRESETS["tiny"]))


@pytest.mark.parametrize("text, message", [
    ("core.step=3", "similar names are core.steps, "), ("help", "--list shows all"),
    ("mdloo1.rewarded=modle", "takes one of 'model', 'checker'"),
    ("mdloo2.loss=x", "takes one of 'mdpo', 'ppo', 'reinforce'"),
    ("mdloo1.baseline=median", "takes one of 'leave one out', 'mean', 'none'"),
    ("reward1.labels=sfot", "takes one of 'soft', 'hard', 'margin'"),
    ("prune.method=magnitud", "takes one of 'learned', 'magnitude', 'random'"),
    ("quantize.choice=", "takes one of 'sensitivity', 'random'"),
    ("core.start=parent2", "takes one of 'prune', 'parent', 'lookup', 'scratch'"),
    ("evaluation.aligned=quantize", "takes one of 'draft', 'sft'"),
    ("committee2.only=rs1", "takes one of '', 'sft', 'best1', 'rs2'"),
    ("committee1.only=best1", "takes one of '', 'sft', 'rs1'"),
    ("sft.dropout=2", "like 0.1, at least 0, below 1"), ("sft.dropout=1", "below 1"),
    ("prune.first_eps=0", "above 0"), ("ipo1.beta=0", "above 0"), ("dpo2.beta=-1", "above 0"),
    ("core.distill=1.5", "from 0 to 1"), ("preferences1.noise=2", "from 0 to 1"),
    ("data.share=0", "above 0, at most 1"), ("quantize.average=8", "from 2 to 4"),
    ("core.steps=1" + "0" * 400, "at most 1,000,000,000"), ("core.lr=1e30", "at most"),
    ("core.lr=1" + "0" * 400, "at most"), ("model.rope_base=0", "above 0"),
    ("core.mixture={'web': -1}", "weights of sources"), ("core.mixture={}", "weights of sources"),
    ("core.mixture={'web': 0}", "weights of sources"), ("core.mixture={[]: 1}", "weights of"),
    ("core.mixture={'wbe': 1}", "weights of sources"), ("core.mixture={'web': True}", "weights"),
    ("draft.mixture={'web': 1}", "weights of sources"), ("sft.synthetic=yes", "like True")])
def test_a_bad_word_or_number_is_refused_with_what_is_allowed(text, message):
    with pytest.raises(UserError) as error:
        stages.parse_setting(text, vars(PRESETS["tiny"]))
    assert message in str(error.value)


def all_settings():
    """Return {name: default} of every setting."""
    settings = {f"model.{name}": value for name, value in vars(PRESETS["tiny"]).items()}
    for stage in stages.STAGES:
        settings |= {f"{stage}.{key}": value for key, value in stages.settings_of(stage).items()}
    return settings


def test_defaults_and_the_settings_of_claims_are_allowed():
    settings = all_settings()
    values = list(settings.items()) + list(TINY_SETTINGS.items())
    for claim in claims.CLAIMS:
        values += [*claim.treatment.items(), *claim.control.items()]
    for name, value in values:
        if value != 0 or type(value) is not int:  # of claims: no iterations of MDLOO
            assert stages.parse_setting(f"{name}={value}", vars(PRESETS["tiny"]))[1] == value


@pytest.mark.parametrize("value", ["wrong", "-1", "0", "1e99", "nan", "[1]", "None", "{1: 2}", ""])
def test_a_bad_value_is_refused_or_has_the_type_and_range_of_the_default(value):
    for name, default in all_settings().items():
        try:
            _, parsed = stages.parse_setting(f"{name}={value}", vars(PRESETS["tiny"]))
        except UserError as error:
            assert "\n" not in str(error)
        else:  # a path, a word, or a number such as 0
            assert type(parsed) is type(default)
            assert type(default) is str or 0 <= parsed <= 1
            assert type(default) is not str or name in PATHS or value == ""


@pytest.mark.parametrize("text, choices", [
    ("mdloo2.loss=new", align.LOSSES), ("mdloo1.baseline=new", align.BASELINES)])
def test_a_new_loss_or_baseline_may_be_chosen(text, choices, monkeypatch):
    monkeypatch.setitem(choices, "new", None)
    assert stages.parse_setting(text, vars(PRESETS["tiny"]))[1] == "new"
    with pytest.raises(UserError, match="takes one of .*, 'new'"):
        stages.parse_setting(f"{text}er", vars(PRESETS["tiny"]))


def test_each_meaning_is_of_a_setting():
    """That every setting has a meaning is tested with `explain`."""
    names = {re.sub(r"\d\.", ".", name) for name in all_settings()}
    names |= {name.partition(".")[2] for name in names}
    assert MEANINGS.keys() <= names


@pytest.mark.parametrize("name, text", [
    ("mdloo2.iterations", "rounds of sampling and training"),
    ("core.steps", "optimizer steps"), ("mixture.steps", "optimizer steps of one trial"),
    ("rs1.choice", "which response to imitate: best, random"),
    ("recovery.start", "the float model to imitate")])
def test_meaning_by_hand(name, text):
    assert meaning(name) == text


def test_every_setting_that_is_a_word_lists_its_words():
    words = {re.sub(r"\d\.", ".", name) for name, default in all_settings().items()
             if isinstance(default, str)}
    assert words - set(PATHS) == {re.sub(r"\d\.", ".", name) for name in WORDS}


@pytest.mark.parametrize("value, text", [
    (0.51234, "0.5123"), (50.0, "50"), (-0.5, "-0.5"), (12345.6, "12,346"), (6_315_089.0,
    "6,315,089"), (7, "7"), ("word", "word"), (True, "True"), (1e-5, "1e-05")])
def test_format_value(value, text):
    assert stages.format_value(value) == text


def result(settings=None, seconds=1.0, **metrics):
    """Return a row of report.json. Metric names have " %" for "_"."""
    return {"settings": settings or {}, "seconds": seconds,
            "metrics": {name.replace("_", " %"): value for name, value in metrics.items()}}


@pytest.mark.parametrize("stage, report, text", [
    # A stage's own value before it, or that of the stage that it starts from.
    ("quantize", {"quantize": result(mean_=68.83, **{"mean_ before": 71.33})},
     "mean 71.3 -> 68.8 %"),
    ("prune", {"parent": result(**{"bits/byte": 1.996}), "prune": result(**{"bits/byte": 2.009})},
     "bits/byte 1.996 -> 2.009"),
    ("core", {"parent": result(loss=3), "core": result({"start": "scratch"}, **{"bits/byte": 2.0})},
     "bits/byte 2"),
    ("core", {"prune": result(**{"bits/byte": 2.5}),
              "core": result({"start": "prune"}, **{"bits/byte": 2.0})}, "bits/byte 2.5 -> 2"),
    ("dpo1", {"sft": result(mean_=60.0), "dpo1": result(mean_=61.04)}, "mean 60.0 -> 61.0 %"),
    # A committee's model is the best of its round.
    ("dpo2", {"best1": result(mean_=66.0),
              "dpo2": result(mean_=67.0)}, "mean 66.0 -> 67.0 %"),
    # The main metric: of MAIN_OF, of MAIN, or the first that is no table.
    ("tools", {"tools": result(mean_=60.0, tools_=50.0)}, "tools 50.0 %"),
    ("draft", {"draft": result(math_=60.0, mean_=50.0)}, "mean 50.0 %"),
    ("data", {"data": result(funnel=[1], documents=12345.0)}, "documents 12,345"),
    ("demonstrations", {"demonstrations": result(examples=14576)}, "examples 14576"),
    ("data", {"data": result(funnel=[1])}, "")])
def test_a_stage_is_summed_up_by_one_metric(stage, report, text):
    assert stages.summary(stage, report) == text


def test_the_stages_before_exist_and_come_before():
    order = list(stages.STAGES)
    for stage, before in stages.BEFORE.items():
        assert order.index(before) < order.index(stage)


def test_the_expected_time_follows_that_of_finished_stages():
    """data took 3 times, tokenizer 2 and parent 100 times as long as in a default run. The median
    is 3, as one stage with other settings must not count."""
    seconds = {stage: stages.STAGES[stage].seconds for stage in stages.STAGES}
    settings = stages.with_needs(["draft"])
    core = {"core": settings["core"]}
    assert runner.expected_seconds({}, core | {"draft": settings["draft"]}) == (
        seconds["core"] + seconds["draft"])
    report = {stage: result(seconds=times * seconds[stage])
              for stage, times in (("data", 3), ("tokenizer", 2), ("parent", 100))}
    assert runner.expected_seconds(report, core) == pytest.approx(3 * seconds["core"])
    assert runner.expected_seconds(report, {}) == 0


@pytest.mark.parametrize("stage, changes, times", [
    ("core", {"steps": 1600}, 2), ("core", {"lr": 1.0}, 1), ("mdloo1", {"iterations": 20}, 1 / 4),
    ("rs2", {"prompts": 6000, "count": 1}, 3), ("recovery", {"prompts": 1, "steps": 600}, 2),
    ("evaluation", {"count": 100}, 1 / 2), ("tokenizer", {"coverage": 0.5}, 1)])
def test_the_expected_time_follows_the_settings(stage, changes, times):
    """Those of stages to run and those of finished stages, such as one with half of the steps."""
    seconds = stages.STAGES[stage].seconds
    settings = {stage: stages.settings_of(stage) | changes}
    assert runner.expected_seconds({}, settings) == pytest.approx(times * seconds)
    half = {"parent": result({"steps": 400}, seconds=stages.STAGES["parent"].seconds),
            "mdloo2": result({"iterations": 0}, seconds=1.0)}  # has no speed
    assert runner.expected_seconds(half, settings) == pytest.approx(2 * times * seconds)


def test_why_a_stage_has_to_run(tmp_path):
    report = make_run(tmp_path).read_json("report.json")
    settings = stages.with_needs(["dpo1"])
    assert stages.reasons_to_run(report, settings) == {"dpo1": "no result yet"}
    settings = stages.with_needs(["dpo1"], {"synthetic.math": 7})
    assert stages.reasons_to_run(report, settings) == {
        "synthetic": "settings changed", "mixture": "needs synthetic", "sft": "needs mixture",
        "preferences1": "needs sft", "dpo1": "no result yet"}
    report["mixture"]["metrics"] = {"gain": 1.0}  # another result than sft was trained with
    report.pop("preferences1")
    settings = stages.with_needs(["dpo1"])
    assert stages.reasons_to_run(report, settings) == {
        "sft": "inputs or code changed", "preferences1": "no result yet", "dpo1": "no result yet"}


@pytest.mark.parametrize("stage", ["model", *stages.STAGES])
def test_a_stage_is_explained(stage):
    """One sentence, then every setting. The whole docstring if only this stage is asked for."""
    settings = vars(PRESETS["toy"]) if stage == "model" else stages.settings_of(stage)
    lines = stages.explain(stage, settings, whole=False).splitlines()
    assert re.match(rf"{stage}: [A-Z].*\.$", lines[0])
    assert len(lines) == 1 + len(settings)
    for line, (name, value) in zip(lines[1:], settings.items()):
        start = f"    {stage}.{name}={value} "
        assert line.startswith(start) and len(line) > len(start) + 5  # the meaning of the setting
    assert len(stages.explain(stage, settings, whole=True).splitlines()) > len(lines)


def test_stages_that_need_each_other_are_in_different_groups():
    settings = {stage: stages.settings_of(stage) for stage in stages.STAGES}
    assert runner.independent_groups({stage: settings[stage] for stage in (
        "reward1", "rs1", "dpo1", "committee1")}) == [["reward1"], ["rs1", "dpo1"], ["committee1"]]
    groups = runner.independent_groups(settings)
    assert sum(groups, []) == list(stages.STAGES)
    for group in groups:
        assert not any(set(stages.needs_of(stage, settings[stage])) & set(group)
                       for stage in group)
    assert ["prune"] in groups and ["teacher"] in groups  # the teacher trains alone
    assert ["mdloo1", "rs1", "dpo1", "ipo1"] in groups
    assert groups[-1] == ["evaluation", "math", "tools", "summary"]


def test_a_fingerprint_depends_on_the_code_of_the_stage(tmp_path, monkeypatch):
    rows = make_run(tmp_path).read_json("report.json")
    before = {stage: stages.fingerprint(rows, stage, {}) for stage in ("sft", "reward1")}
    monkeypatch.setattr(stages, "source_hash", lambda module: module)
    edited = {stage: stages.fingerprint(rows, stage, {}) for stage in before}
    assert edited["sft"] != before["sft"] and edited["reward1"] != before["reward1"]
    monkeypatch.setattr(stages, "source_hash",
                        lambda module: "edited" if module == "afm_min.reward" else module)
    assert stages.fingerprint(rows, "sft", {}) == edited["sft"]
    assert stages.fingerprint(rows, "reward1", {}) != edited["reward1"]


def test_the_source_hash_changes_with_code_that_a_module_imports(tmp_path):
    """Not with comments, docstrings, or modules that it does not import."""
    (tmp_path / "afm_min" / "data").mkdir(parents=True)

    def source_hash(one="x = 1", two="y = 2", three="z = 3"):
        one = f"from afm_min import data\nfrom afm_min.data import two\n{one}"
        for name, text in (("one", one), ("data/two", two), ("three", three)):
            (tmp_path / "afm_min" / f"{name}.py").write_text(text)
        return source.source_hash.__wrapped__("afm_min.one", tmp_path)
    before = source_hash()
    assert source_hash(one="x = 2") != before
    assert source_hash(two="y = 3") != before
    assert source_hash(three="z = 4") == before
    assert source_hash(one="x  =  1  # one", two='"""Two."""\n\ny = 2') == before
    assert source_hash(one="def f():\n    pass") == source_hash(one='def f():\n    """F."""')


def test_every_stage_has_a_source_hash(monkeypatch):
    rows = {name: {"fingerprint": "", "metrics": {}} for name in stages.STAGES}
    with_code = {name: stages.fingerprint(rows, name, stages.settings_of(name)) for name in rows}
    monkeypatch.setattr(stages, "source_hash", lambda module: "")
    for name in rows:
        assert stages.fingerprint(rows, name, stages.settings_of(name)) != with_code[name]


def test_a_stale_checkpoint_is_named_with_the_stage_that_changed(tmp_path, capsys):
    run = make_run(tmp_path)
    stages.warn_if_stale(run, "sft")
    assert capsys.readouterr().err == ""
    run.write_json("run.json", {"set": {"draft.steps": 7, "rs1.steps": 7}})
    stages.warn_if_stale(run, "draft", "sft", "lengthening")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is out of date (draft: settings changed): train it again ")[0]
            for line in lines] == [f"warning: {run.checkpoint(name)}" for name in ("draft", "sft")]
    runner.forget(run, "core")  # as when it is trained again
    stages.warn_if_stale(run, "lengthening")
    assert "is out of date (core: no result yet)" in capsys.readouterr().err


def test_a_state_that_cannot_be_resumed_is_reported(tmp_path, capsys):
    run = make_run(tmp_path)
    run.settings, run.fingerprint = {}, "other"
    save(run.partial_checkpoint("dpo1"), step=2, sharded=False, **run.provenance("dpo1"))
    runner.run_stage(run, "dpo1", small_settings()["dpo1"])
    assert "dpo1.part.pt was saved with other settings, inputs or code" in capsys.readouterr().out


def make_run(folder):
    """Make a run of a tiny model that has what DPO and IPO need, the stages up to preferences1."""
    run = Run(folder)
    run.create()
    tokenizer = Tokenizer.train(["How many pens does Ada have? The answer is 7."], 300)
    tokenizer.save(run.file("tokenizer.json"))
    torch.manual_seed(0)
    config = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24,
                    vocab_size=tokenizer.vocab_size, context=200)
    save_model(run, "sft", AFM(config))
    run.write_lines("documents", [])
    preferences = [{"family": "math", "prompt": [1, 20 + i], "responses": [[7, i], [8]],
                    "grades": [[2, 2, 2, 2], [2, 2, 0, 2]], "pairs": [[0, 1, 2, True]]}
                   for i in range(20)]
    run.write_lines("preferences1", preferences)
    rows = {}
    for stage in stages.with_needs(["preferences1"]):
        settings = stages.settings_of(stage)
        rows[stage] = {"settings": settings, "metrics": {}, "seconds": 1.0,
                       "fingerprint": stages.fingerprint(rows, stage, settings)}
    run.write_json("report.json", rows)
    return run


def small_settings(**changes):
    return {stage: stages.settings_of(stage) | {"steps": 3, "prompts": 2, "count": 1} | changes
            for stage in ("dpo1", "ipo1")}


def test_stages_side_by_side_end_as_one_after_the_other(tmp_path):
    """With one thread each: the same weights, bit for bit, the same report and log."""
    threads = torch.get_num_threads()
    runs = [make_run(tmp_path / name) for name in ("together", "apart")]
    try:
        torch.set_num_threads(1)
        for run, jobs in zip(runs, (2, 1)):
            runner.run_stages(run, small_settings(), jobs)
    finally:
        torch.set_num_threads(threads)
    reports = [run.read_json("report.json") for run in runs]
    assert set(reports[0]) == set(reports[1]) > {"dpo1", "ipo1"}
    for stage in ("dpo1", "ipo1"):
        models = [run.load(run.checkpoint(stage))["model"] for run in runs]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        rows = [list(run.read_log(stage)) for run in runs]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 3
        assert reports[0][stage]["metrics"] == reports[1][stage]["metrics"]


def test_stages_that_are_up_to_date_are_not_run_again(tmp_path, capsys):
    run = make_run(tmp_path)
    settings = small_settings()
    runner.run_stages(run, settings)
    capsys.readouterr()
    runner.run_stages(run, settings, jobs=2)
    assert capsys.readouterr().out.count("up to date") == 2


def test_an_error_of_a_stage_that_runs_side_by_side_is_raised(tmp_path):
    run = make_run(tmp_path)
    run.write_lines("preferences1", [])
    with pytest.raises(UserError, match="has 0 pairs"):
        runner.run_stages(run, small_settings(), 2)


def kill_process(*arguments):
    """Stands in for `run_stage`, in a process that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_stage", kill_process)
    with pytest.raises(UserError, match="dpo1, ipo1 was killed, perhaps for lack of memory"):
        runner.run_stages(make_run(tmp_path), small_settings(), 2)


def running_processes():
    """Return {process id: its parent's}, without ended ones that wait to be collected."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True,
                           text=True).stdout.splitlines()
    return {int(pid): int(parent) for pid, parent, state in map(str.split, lines)
            if not state.startswith("Z")}


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Even if it was killed without warning: nothing continues to write into the run."""
    run = make_run(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from tests import test_stages; from afm_min.lab import runner; "
        "from afm_min.run import Run\n"
        "if __name__ == '__main__':\n"
        "    runner.run_stages(Run(sys.argv[1]), test_stages.small_settings(steps=10**6), 2)\n")
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], cwd=ROOT, stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    children = set()
    try:
        while len({row["stage"] for row in run.read_log()}) < 2:  # until both train
            assert parent.poll() is None
            time.sleep(0.1)
        children = {pid for pid, of in running_processes().items() if of == parent.pid}
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(children) >= 2
    for _ in range(3000):  # five minutes, where a moment is enough
        if not children & running_processes().keys():
            return
        time.sleep(0.1)
    raise AssertionError(f"some of {children} still run")
