"""The bootstrap, the verdicts, and one claim from checkpoint to table."""
import dataclasses

import numpy
import pytest

import train
from afm_min import files
from afm_min.lab import claims
from afm_min.lab.claims import CLAIMS, LOWER_IS_BETTER, Claim, bootstrap_interval, claim_row
from afm_min.lab.stages import settings_of, with_needs
from afm_min.model import PRESETS
from afm_min.run import Run
from tests.helpers.commands import SETTINGS, assert_refused, call


def test_bootstrap_interval_by_hand():
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2)
    # With 3 seeds a draw has the least mean with probability 1/27 > 2.5%, as has the greatest.
    assert bootstrap_interval([1.0, 2.0, 6.0]) == (1, 6)


def test_bootstrap_interval_of_many_seeds_is_that_of_the_central_limit_theorem():
    differences = numpy.random.default_rng(1).normal(3, 1, 400)
    error = differences.std() / 20
    expected = (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error)
    assert bootstrap_interval(differences) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("metric, treated, controls, verdict", [
    ("accuracy %", [2.0, 3.0], [1.0, 1.0], "supported"),
    ("accuracy %", [1.0, 1.0], [2.0, 3.0], "contradicted"),
    ("accuracy %", [2.0, 1.0], [1.0, 2.0], "inconclusive"),
    ("math bits/byte", [2.0, 3.0], [1.0, 1.0], "contradicted"),
    ("math bits/byte", [1.0, 1.0], [2.0, 3.0], "supported"),
    ("math bits/byte", [2.0, 1.0], [1.0, 2.0], "inconclusive")])
def test_verdict_depends_on_the_direction_of_the_metric(metric, treated, controls, verdict):
    assert claim_row(Claim("", "core", metric), treated, controls)[-1] == verdict


def test_a_row_by_hand():
    assert claim_row(Claim("x", "core", "accuracy %"), [2.0, 4.0], [1.0, 1.0]) == [
        "x", "core", "accuracy %", 3, 1, 2, "1 to 3", "supported"]


def test_every_metric_of_a_claim_has_a_direction():
    for claim in CLAIMS:
        assert (claim.metric in LOWER_IS_BETTER) != claim.metric.endswith("%")


def test_every_claim_has_a_text_of_its_own():
    assert len({claim.claim for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_a_claim_names_existing_settings_of_stages_that_it_runs(claim):
    control_stage = claim.control_stage or claim.stage
    assert (claim.treatment, claim.stage) != (claim.control, control_stage)
    for name in claim.treatment | claim.control:
        stage, _, setting = name.partition(".")
        assert setting in settings_of(stage)
        assert stage in with_needs([claim.stage, control_stage])


def test_a_claim_compares_treatment_with_control(tmp_path, capsys, monkeypatch):
    """The metric is 10 + seed for the treatment, and 4 for the control, which is of another stage.
    Both arms have the run's own settings, too."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "parent.pt").touch()
    files.write_json(run / "report.json",
                     {"parent": {"settings": {}, "seconds": 1.5, "metrics": {}}})
    model = dataclasses.asdict(PRESETS["tiny"])
    files.write_json(run / "run.json", {"set": {"rs1.lr": 2.0}} | {
        f"model.{name}": value for name, value in model.items()})
    monkeypatch.setattr(claims, "CLAIMS", [
        Claim("x", "dpo1", "all math %", {"dpo1.lr": 1.0}, {"ipo1.lr": 3.0}, "ipo1")])

    def arm_metrics(base, seeds, stage, settings, metric):
        assert metric == "all math %"
        if stage == "dpo1":
            assert settings == {"rs1.lr": 2.0, "dpo1.lr": 1.0}
            return [10.0 + seed for seed in range(seeds)]
        assert (stage, settings) == ("ipo1", {"rs1.lr": 2.0, "ipo1.lr": 3.0})
        return [4.0] * seeds
    monkeypatch.setattr(claims, "arm_metrics", arm_metrics)
    assert call(capsys, claims, "--run", run, "--seeds", 2)[::2] == (0, "")
    row = "| x | dpo1 | all math % | 10.5 | 4 | 6.5 | 6 to 7 | supported |"
    assert row in (run / "claims.md").read_text()
    assert row in (run / "report.md").read_text().partition("## Claims\n\n")[2].partition("## ")[0]
    assert_refused(call(capsys, claims, "--run", run, "--seeds", 1), "two or more")
    with Run(run).reserved():
        assert_refused(call(capsys, claims, "--run", run), "another process works on")
    assert_refused(call(capsys, claims, "--run", run, "--only", "y"), "no claim contains")


def test_arms_are_trained_once(texts, tmp_path, capsys):
    run = tmp_path / "run"
    assert_refused(call(capsys, claims, "--run", run), "has no parent")
    assert call(capsys, train, "--out", run, "--data", texts, *SETTINGS,
                "--until", "tokenizer,parent")[0] == 0
    arguments = ["--run", run, "--only", "beats random pruning", "--seeds", 2]
    code, output, errors = call(capsys, claims, *arguments)
    assert (code, errors) == (0, "")
    assert "up to date" not in output
    assert "a learned mask beats random pruning" in (run / "claims.md").read_text()
    assert len(list(run.glob("prune-*"))) == 4  # two arms with two seeds each
    assert call(capsys, claims, *arguments)[1].count("up to date") == 4
