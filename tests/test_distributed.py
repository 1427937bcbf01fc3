"""Several ranks do what one process does: the same losses, weights and responses."""
import json

import pytest
import torch
import torch.distributed.run

from afm_min import distributed
from afm_min.lab import runner
from afm_min.run import Run
from tests.helpers import parallel
from tests.helpers.launch import FORKS, Launched


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    code, _, errors = Launched(parallel.main, folder, "whole").finish()
    assert code == 0, errors
    return json.loads((folder / "outcome.json").read_text())["whole"]


def torchrun(count, folder, *ways):
    """Return the outcomes of parallel.py in `count` processes. torchrun finds a free port."""
    code, _, errors = Launched(torch.distributed.run.main, [
        "--standalone", "--nproc-per-node", str(count), "--log-dir", str(folder / "log"),
        "--redirects", "3", "--run-path", "--start-method", "fork" if FORKS else "spawn",
        parallel.__file__, str(folder), *ways]).finish()
    printed = [path.read_text() for path in folder.glob("log/**/stderr.log")]
    assert code == 0, (errors, *printed)
    return json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize("count, ways", [(2, ("whole", "sharded", "damaged")),
                                         (3, ("whole",))])
def test_several_ranks_do_what_one_process_does(one, count, ways, tmp_path):
    outcomes = torchrun(count, tmp_path, *ways)
    assert list(outcomes) == list(ways)
    for error in outcomes.pop("damaged", []):  # of each rank
        assert f"chat--{parallel.CHAT_STEPS}.shards is damaged (__1_0.distcp)" in error
    for way, several in outcomes.items():
        compare(one, several, count, way == "sharded")


def compare(one, several, count, sharded):
    steps = {"chat": parallel.CHAT_STEPS, "text": parallel.TEXT_STEPS,
             "judge": parallel.JUDGE_STEPS}
    folders = [f"{stage}--{steps[stage]}.shards" for stage in steps if sharded]
    assert (several["rows"] == one["rows"] == sum(steps.values())
            and several["saved"] == sorted(one["saved"] + folders))
    if sharded:  # each rank has written its part
        assert len(several["bytes"]) == count
        assert max(several["bytes"]) < 0.75 * sum(several["bytes"])
    assert one["margin"] > 1e-4  # far more than rounding, about 1e-6, so it changes no sample
    assert several["responses"] == one["responses"]
    for name in ("losses", "losses of each", "logp"):
        assert several[name] == pytest.approx(one[name], rel=1e-4)
    torch.testing.assert_close(torch.tensor(several["decoded"]), torch.tensor(one["decoded"]),
                               rtol=0, atol=0.02)  # the states' RMS is 1
    torch.testing.assert_close(
        torch.tensor(several["state"]), torch.tensor(one["state"]), rtol=1e-2, atol=1e-6)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(
            torch.tensor(several["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-3)


def test_split_work_returns_results_in_order(monkeypatch):
    """Three ranks compute 7 items: [0, 3, 6], [1, 4], [2, 5]. This is rank 1."""
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_gather_object",
                        lambda part: [[0, 30, 60], [10, 40], [20, 50]])
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    computed = []
    assert distributed.split_work(lambda items: computed.append(items), list(range(7))) == [
        0, 10, 20, 30, 40, 50, 60]
    assert computed == [[1, 4]]


def test_a_rank_waits_for_the_others_even_if_the_report_has_changed_already(tmp_path, monkeypatch):
    """Rank 0 may have dropped the row before this rank reads the report. It must wait as well."""
    run, reports = Run(tmp_path), []  # reports: the report at each time that this rank waits

    def all_gather_object(value):
        reports.append(run.read_json("report.json"))
        return []
    monkeypatch.setattr(distributed, "all_gather_object", all_gather_object)
    run.write_json("report.json", {"core": {}, "sft": {}})
    for _ in range(2):
        runner.forget(run, "core")
    assert reports[1:] == [{"sft": {}}] * 2


def test_cores_counts_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(distributed.os, "sched_getaffinity", lambda _: {2, 3, 7}, raising=False)
    monkeypatch.setattr(distributed.os, "cpu_count", lambda: 16)
    assert distributed.cores() == 3
    monkeypatch.delattr(distributed.os, "sched_getaffinity")  # as on macOS
    assert distributed.cores() == 16
