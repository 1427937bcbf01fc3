"""The bootstrap, the verdicts, and one claim from checkpoint to table."""
import dataclasses
import json

import numpy
import pytest

import train
from afm_min.lab import claims
from afm_min.lab.claims import CLAIMS, Claim, interval, verdict
from afm_min.model import PRESETS
from afm_min.lab.stages import settings_of, with_needs
from tests.test_commands import TRAIN, call


def test_interval():
    assert interval([2.0, 2.0, 2.0]) == (2, 2)
    # Of 3 seeds the mean of a draw is the least with probability 1/27 > 2.5%, and so the greatest.
    assert interval([1.0, 2.0, 6.0]) == (1, 6)
    # Many seeds: nearly mean +- 1.96 standard errors, by the central limit theorem.
    differences = numpy.random.default_rng(1).normal(3, 1, 400)
    error = differences.std() / 20
    assert interval(differences) == pytest.approx((differences.mean() - 1.96 * error,
                                                   differences.mean() + 1.96 * error), abs=0.02)


def test_verdicts():
    up, down = (Claim("", "core", metric, {}, {}, "core") for metric in ("accuracy %", "bits/byte"))
    shown = lambda claim, a, b: verdict(claim, a, b)[-1]
    more, less = [2.0, 3.0], [1.0, 1.0]
    assert shown(up, more, less) == shown(down, less, more) == "yes"
    assert shown(up, less, more) == shown(down, more, less) == "the contrary"
    assert shown(up, [2.0, 1.0], [1.0, 2.0]) == shown(down, [2.0, 1.0], [1.0, 2.0]) == "no"
    assert verdict(up, [2.0, 4.0], [1.0, 1.0])[3:6] == [3, 1, 2]


def test_a_line_of_the_table_by_hand():
    assert (claims.parse_claim("x | core | bits/byte | core.lr=0.1, core.start=prune | as it is")
            == Claim("x", "core", "bits/byte", {"core.lr": 0.1, "core.start": "prune"}, {}, "core"))
    assert (claims.parse_claim("x | rs1 | all math % | as it is | mdloo1.iterations=0 | mdloo1")[4:]
            == ({"mdloo1.iterations": 0}, "mdloo1"))


def test_every_claim_names_real_settings():
    for claim in CLAIMS:
        assert (claim.treatment, claim.stage) != (claim.control, claim.control_stage)
        for name in claim.treatment | claim.control:
            stage, _, setting = name.partition(".")
            assert setting in settings_of(stage)
            assert stage in with_needs([claim.stage, claim.control_stage])


def test_a_claim_compares_treatment_with_control(tmp_path, capsys, monkeypatch):
    """An arm's metric is 10 for the treatment, to which the seed adds, and 4 for the control, which
    is of another stage."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "parent.pt").touch()
    (run / "report.json").write_text('{"parent": {"settings": {}, "seconds": 1.5, "metrics": {}}}')
    (run / "run.json").write_text(json.dumps({"set": {"rs1.lr": 2.0}} | {
        f"model.{name}": value for name, value in dataclasses.asdict(PRESETS["tiny"]).items()}))
    monkeypatch.setattr(claims, "CLAIMS", [
        Claim("x", "dpo1", "all math %", {"dpo1.lr": 1.0}, {"ipo1.lr": 3.0}, "ipo1")])
    found = {("dpo1", 1.0): 10, ("ipo1", 3.0): 4}
    monkeypatch.setattr(claims, "arm", lambda base, seed, stage, given: {
        "all math %": (found[stage, given[f"{stage}.lr"]] + seed * (stage == "dpo1")
                       + 0 * given["rs1.lr"])})
    assert call(capsys, claims, "--run", run, "--seeds", 2)[::2] == (0, "")
    row = "| x | dpo1 | all math % | 10.5 | 4 | 6.5 | 6.000 to 7.000 | yes |"
    assert row in (run / "claims.md").read_text()
    assert row in (run / "report.md").read_text().partition("## Claims\n\n")[2].partition("## ")[0]
    assert "two or more" in call(capsys, claims, "--run", run, "--seeds", 1)[2]


def test_a_claim_runs_and_is_not_run_twice(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for i in range(2):
        (tmp_path / "texts" / f"{i}.txt").write_text(
            f"Text {i} tells of a fox, and of what it did then.\n" * 60)
    run = tmp_path / "run"
    assert call(capsys, claims, "--run", run)[0] == 2
    assert call(capsys, train, "--out", run, "--data", tmp_path / "texts", *TRAIN,
                "--stages", "data,tokenizer,parent")[0] == 0
    arguments = ["--run", run, "--only", "a random one", "--seeds", 2]
    code, output, errors = call(capsys, claims, *arguments)
    assert ((code, errors) == (0, "")
            and "a learned mask beats a random one" in (run / "claims.md").read_text())
    assert len(list(run.glob("prune-*"))) == 4 and output.count("up to date") == 0
    assert call(capsys, claims, *arguments)[1].count("up to date") == 4
