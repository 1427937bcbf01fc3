"""Several processes do what one does: the same losses, weights and answers, whoever
computes which rows."""
import json
import pathlib

import pytest
import torch
import torch.distributed.run

from afm_min import distributed
from afm_min.lab import stages
from afm_min.run import Run, UserError, replacing, save
from tests.helpers import parallel
from tests.helpers.launch import FORKS, Launched


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    code, _, errors = Launched(parallel.main, folder, "whole").finish()
    assert code == 0, errors
    return json.loads((folder / "outcome.json").read_text())["whole"]


def torchrun(count, folder, *ways):
    """What `count` processes find that torchrun starts; it also finds a free port."""
    code, _, errors = Launched(torch.distributed.run.main, [
        "--standalone", "--nproc-per-node", str(count), "--log-dir", str(folder / "log"),
        "--redirects", "3", "--run-path", "--start-method", "fork" if FORKS else "spawn",
        parallel.__file__, str(folder), *ways]).finish()
    printed = [path.read_text() for path in folder.glob("log/**/stderr.log")]
    assert code == 0, (errors, *printed)
    return json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize("count, ways", [(2, ("whole", "sharded")), (3, ("whole",))])
def test_several_processes_do_as_one(one, count, ways, tmp_path):
    outcomes = torchrun(count, tmp_path, *ways)
    assert list(outcomes) == list(ways)
    for way, several in outcomes.items():
        compare(one, several, count, way == "sharded")


def compare(one, several, count, sharded):
    steps = {"chat": parallel.CHAT_STEPS, "text": parallel.TEXT_STEPS,
             "judge": parallel.JUDGE_STEPS}
    shares = [f"{stage}--{steps[stage]}.{i}.pt" for stage in steps for i in range(count) if sharded]
    assert (several["rows"] == one["rows"] == sum(steps.values())
            and several["saved"] == sorted(one["saved"] + shares))
    assert several["bytes"] == (
        [one["bytes"][0] // count] * count if sharded else one["bytes"])
    assert one["margin"] > 1e-4  # of every draw: so rounding, some 1e-6, changes none
    assert several["responses"] == one["responses"]
    for name in ("losses", "losses of each", "logp"):
        assert several[name] == pytest.approx(one[name], rel=1e-4)
    torch.testing.assert_close(torch.tensor(several["decoded"]), torch.tensor(one["decoded"]),
                               rtol=0, atol=0.02)  # of states of size 1
    torch.testing.assert_close(
        torch.tensor(several["state"]), torch.tensor(one["state"]), rtol=1e-2, atol=1e-6)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(
            torch.tensor(several["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-3)


def test_shares_are_put_together_in_order(monkeypatch):
    """Three processes, whose shares of 7 items are gathered: [0, 3, 6], [1, 4], [2, 5]."""
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_gather_object",
                        lambda share: [[0, 30, 60], [10, 40], [20, 50]])
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    asked = []
    assert distributed.split_work(lambda items: asked.append(items), list(range(7))) == [
        0, 10, 20, 30, 40, 50, 60]
    assert asked == [[1, 4]]


def test_a_process_that_finds_the_report_changed_already_waits_for_the_others_too(
        tmp_path, monkeypatch):
    """The first may have dropped the row before another reads: this one must not go on alone."""
    run, waited = Run(tmp_path), []
    monkeypatch.setattr(distributed, "all_gather_object",
                        lambda _: waited.append(run.read_json("report.json")) or [])
    run.write_json("report.json", {"core": {}, "sft": {}})
    for _ in range(2):
        stages.forget(run, "core")
    assert waited[1:] == [{"sft": {}}] * 2


def test_a_process_that_does_not_write_takes_nothing_away(tmp_path, monkeypatch):
    """Neither what the first is writing nor the place where its own copy goes, /dev/null."""
    monkeypatch.setattr(distributed, "rank", lambda: 1)
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
    monkeypatch.setattr(distributed, "all_gather_object",
                        lambda mine: [mine, "cannot write its share: full."])
    with pytest.raises(UserError, match="cannot write its share: full. What was there"):
        save(tmp_path / "share.pt", each=True)
    assert (tmp_path / "share.pt").exists()  # this one's is there


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(distributed.os, "sched_getaffinity", lambda _: {2, 3, 7}, raising=False)
    monkeypatch.setattr(distributed.os, "cpu_count", lambda: 16)
    assert distributed.cores() == 3
    monkeypatch.delattr(distributed.os, "sched_getaffinity")  # as on macOS
    assert distributed.cores() == 16
