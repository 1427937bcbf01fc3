"""The bootstrap, the verdicts, and one claim from checkpoint to table."""
import numpy
import pytest

import train
from afm_min import claims
from afm_min.claims import CLAIMS, Claim, interval, judge
from afm_min.stages import STAGES, settings_of
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
    up, down = (Claim("", "core", metric, {}, {}) for metric in ("accuracy %", "bits/byte"))
    verdict = lambda claim, a, b: judge(claim, a, b)[-1]
    assert verdict(up, [2.0, 3.0], [1.0, 1.0]) == "yes" and verdict(down, [2.0, 3.0], [1.0, 1.0]) == "the contrary"
    assert verdict(up, [1.0, 1.0], [2.0, 3.0]) == "the contrary" and verdict(down, [1.0, 1.0], [2.0, 3.0]) == "yes"
    assert verdict(up, [2.0, 1.0], [1.0, 2.0]) == verdict(down, [2.0, 1.0], [1.0, 2.0]) == "no"
    assert judge(up, [2.0, 4.0], [1.0, 1.0])[3:6] == [3, 1, 2]


def test_every_claim_names_real_settings():
    for claim in CLAIMS:
        assert (claim.treatment, claim.stage) != (claim.control, claim.other or claim.stage)
        for name in claim.treatment | claim.control:
            stage, _, setting = name.partition(".")
            assert setting in settings_of(stage)
            last = max(map(list(STAGES).index, (claim.stage, claim.other or claim.stage)))
            assert list(STAGES).index(stage) <= last


def test_a_claim_runs_and_is_not_run_twice(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for i in range(2):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text {i} tells of a fox, and of what it did then.\n" * 60)
    run = tmp_path / "run"
    assert call(capsys, claims, "--run", run)[0] == 2
    assert call(capsys, train, "--out", run, "--data", tmp_path / "texts", *TRAIN,
                "--stages", "data,tokenizer,parent")[0] == 0
    arguments = ["--run", run, "--only", "a random one", "--seeds", 2]
    code, output, errors = call(capsys, claims, *arguments)
    assert (code, errors) == (0, "") and "a learned mask beats a random one" in (run / "claims.md").read_text()
    assert len(list(run.glob("prune-*"))) == 4 and output.count("done before") == 0
    assert call(capsys, claims, *arguments)[1].count("done before") == 4
