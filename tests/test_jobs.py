"""Stages side by side: which may be, and that they do what they do one after the other."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch

from afm_min.lab import stages
from afm_min.model import AFM, Config, save_model
from afm_min.run import Run, UserError
from afm_min.tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).parent.parent


def test_stages_that_need_each_other_are_in_different_groups():
    assert stages.independent_groups(["reward1", "rs1", "dpo1", "committee1"]) == [
        ["reward1"], ["rs1", "dpo1"], ["committee1"]]
    everything = stages.independent_groups(stages.STAGES)
    assert sum(everything, []) == list(stages.STAGES)
    for group in everything:
        assert not any(set(stages.STAGES[stage].needs) & set(group) for stage in group)
    assert ["mdloo1", "rs1", "dpo1", "ipo1"] in everything
    assert everything[-1] == ["evaluation", "math", "tools", "summary"]


def prepared(folder):
    """A run whose stages up to preferences1 are done, with a tiny model; what DPO and IPO need."""
    run = Run(folder)
    run.create()
    tokenizer = Tokenizer.train(["How many pens does Ada have? The answer is 7."], 300)
    tokenizer.save(run.file("tokenizer.json"))
    torch.manual_seed(0)
    config = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24,
                    vocab_size=tokenizer.vocab_size, context=200)
    save_model(run, "sft", AFM(config))
    run.file("documents.jsonl").write_text("")
    run.file("preferences1.jsonl").write_text("".join(json.dumps({
        "family": "math", "prompt": [1, 20 + i], "responses": [[7, i], [8]],
        "grades": [[2, 2, 2, 2], [2, 2, 0, 2]], "pairs": [[0, 1, 2, True]]}) + "\n"
        for i in range(20)))
    rows = {}
    for stage in stages.with_needs(["preferences1"]):
        settings = stages.settings_of(stage)
        rows[stage] = {"settings": settings, "metrics": {},
                       "fingerprint": stages.fingerprint(rows, stage, settings)}
    run.write_json("report.json", rows)
    return run


def settings(**changes):
    return {stage: stages.settings_of(stage) | {"steps": 3, "prompts": 2, "count": 1} | changes
            for stage in ("dpo1", "ipo1")}


def test_side_by_side_ends_as_one_after_the_other(tmp_path):
    """The same weights, bit for bit, with one thread each; the report and the log have them all."""
    before = torch.get_num_threads()
    runs = [prepared(tmp_path / name) for name in ("together", "apart")]
    try:
        torch.set_num_threads(1)
        for run, jobs in zip(runs, (2, 1)):
            stages.run_stages(run, settings(), jobs)
    finally:
        torch.set_num_threads(before)
    for stage in ("dpo1", "ipo1"):
        models = [run.load(run.checkpoint(stage))["model"] for run in runs]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        rows = [[row for row in run.read_log() if row["stage"] == stage] for run in runs]
        assert rows[0] == rows[1] and len(rows[0]) == 3
    reports = [run.read_json("report.json") for run in runs]
    assert list(reports[0]) and set(reports[0]) == set(reports[1]) > {"dpo1", "ipo1"}
    for stage in ("dpo1", "ipo1"):
        assert reports[0][stage]["metrics"] == reports[1][stage]["metrics"]


def test_what_one_of_them_cannot_do_is_told(tmp_path):
    run = prepared(tmp_path)
    run.file("preferences1.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no pairs"):
        stages.run_stages(run, settings(), 2)


def running():
    """Number of each running process -> that of its parent. Ended ones that wait to be collected
    are not among them."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True,
                           text=True).stdout.splitlines()
    return {int(pid): int(parent) for pid, parent, state in map(str.split, lines)
            if not state.startswith("Z")}


def test_they_end_with_the_process_that_started_them(tmp_path):
    """Killed without a word, as for memory: nothing of it goes on writing into the run."""
    prepared(tmp_path)
    code = ("import sys; from tests import test_jobs; from afm_min.lab import stages; "
            "from afm_min.run import Run\n"
            "if __name__ == '__main__':\n"
            "    stages.run_stages(Run(sys.argv[1]), test_jobs.settings(steps=10**6), 2)\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], cwd=ROOT, stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    run, children = Run(tmp_path), set()
    try:
        while len({row["stage"] for row in run.read_log()}) < 2:  # both are at work
            assert parent.poll() is None
            time.sleep(0.1)
        children = {pid for pid, of in running().items() if of == parent.pid}
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(children) >= 2
    for _ in range(3000):  # five minutes, where a moment is enough
        if not children & running().keys():
            return
        time.sleep(0.1)
    raise AssertionError(f"of {children} some still run")
