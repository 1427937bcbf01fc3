"""Several processes do what one does: the same losses, weights and answers, whoever
computes which rows."""
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from afm_min import processes, stages
from afm_min.run import Run, UserError, replacing, save

ROOT = pathlib.Path(__file__).parent.parent


def outcome(folder, count, *options):
    command = [sys.executable] if count == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone",  # finds a free port
        "--nproc-per-node", str(count)]
    done = subprocess.run(
        [*command, "-m" if count == 1 else "--module", "tests.parallel", str(folder), *options],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return outcome(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.parametrize("count, options", [(2, ()), (3, ()), (2, ("shard",))])
def test_several_processes_do_as_one(one, count, options, tmp_path):
    several = outcome(tmp_path, count, *options)
    shares = [f"{stage}--{steps}.{i}.pt" for i in range(count) if options
              for stage, steps in (("chat", 10), ("text", 10), ("judge", 3))]
    assert (several["rows"] == one["rows"] == 23
            and several["saved"] == sorted(one["saved"] + shares))
    assert several["bytes"] == (one["bytes"] if not options else [one["bytes"][0] // count] * count)
    assert one["margin"] > 1e-4  # of every draw: so rounding, some 1e-6, changes none
    assert several["said"] == one["said"]
    for name in ("losses", "each", "logp"):
        assert several[name] == pytest.approx(one[name], rel=1e-4)
    torch.testing.assert_close(
        torch.tensor(several["state"]), torch.tensor(one["state"]), rtol=1e-2, atol=1e-6)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(
            torch.tensor(several["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-3)


def test_shares_are_put_together_in_order(monkeypatch):
    """Three processes, whose shares of 7 items are gathered: [0, 3, 6], [1, 4], [2, 5]."""
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(processes, "gathered", lambda share: [[0, 30, 60], [10, 40], [20, 50]])
    monkeypatch.setattr(processes, "rank", lambda: 1)
    asked = []
    assert processes.divided(lambda items: asked.append(items), list(range(7))) == [
        0, 10, 20, 30, 40, 50, 60]
    assert asked == [[1, 4]]


def test_a_process_that_finds_the_report_changed_already_waits_for_the_others_too(
        tmp_path, monkeypatch):
    """The first may have dropped the row before another reads: this one must not go on alone."""
    run, waited = Run(tmp_path), []
    monkeypatch.setattr(processes, "gathered",
                        lambda _: waited.append(run.read_json("report.json")) or [])
    run.write_json("report.json", {"core": {}, "sft": {}})
    for _ in range(2):
        stages.forget(run, "core")
    assert waited[1:] == [{"sft": {}}] * 2


def test_a_process_that_does_not_write_takes_nothing_away(tmp_path, monkeypatch):
    """Neither what the first is writing nor the place where its own copy goes, /dev/null."""
    monkeypatch.setattr(processes, "rank", lambda: 1)
    taken = []
    monkeypatch.setattr(pathlib.Path, "unlink", lambda path, **_: taken.append(path))
    with pytest.raises(UserError, match="cannot write .*: no room"), replacing(tmp_path / "a.pt"):
        raise RuntimeError
    assert taken == []


def test_what_is_broken_off_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.pt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_one_process_cannot_write_all_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "gathered", lambda mine: [mine, "cannot write its share: full."])
    with pytest.raises(UserError, match="cannot write its share: full. What was there"):
        save(tmp_path / "share.pt", each=True)
    assert (tmp_path / "share.pt").exists()  # this one's is there
