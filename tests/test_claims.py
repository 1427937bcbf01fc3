"""Intervals, verdicts, the table of claims, and arms that are shared, resumed and merged."""
import datetime
import json
import math

import numpy
import pytest

from afm_min.files import read_json, write_json
from afm_min.lab import claims
from afm_min.lab.arms import arm_names, run_arm, run_seed
from afm_min.lab.claims import CLAIMS, DEFAULT_RUN, Claim, arms_of, compare_claims, null_claims
from afm_min.lab.evidence import (HIGHER, LOWER, T_QUANTILES, claim_row, compare,
                                  default_run_table, family_table, half_width, summary)
from afm_min.lab.settings import TINY_SETTINGS
from afm_min.lab.stages import STAGES, Stage, parse_setting, settings_of, with_needs
from afm_min.model import PRESETS
from afm_min.run import Run, UserError
from tests.helpers.commands import assert_refused, call

TINY = PRESETS["tiny"]


# Intervals and verdicts.

def test_half_width_by_hand():
    """Of 1, 2, 3 the deviation is 1, and t with 2 degrees of freedom 4.303. Of 1, 1, 3, 3 the
    variance is 4/3, its square root over 2 is 0.57735, and t is 3.182."""
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert half_width([1.0, 1.0, 3.0, 3.0]) == pytest.approx(3.182 * 0.57735, rel=1e-4)
    assert half_width([2.0, 2.0]) == 0
    assert half_width([2.0]) == math.inf


def test_quantiles_leave_five_percent_outside():
    """Student's t is a normal number over the root of a mean square of `degrees` others."""
    rng = numpy.random.default_rng(0)
    for degrees, quantile in enumerate(T_QUANTILES, 1):
        normal = rng.normal(size=(degrees + 1, 400_000))
        t = normal[0] / numpy.sqrt((normal[1:] ** 2).mean(axis=0))
        assert numpy.mean(abs(t) > quantile) == pytest.approx(0.05, abs=0.002)


def test_intervals_contain_the_mean_of_19_in_20_experiments():
    experiments = numpy.random.default_rng(1).normal(3, 2, (4000, 6))
    contained = [abs(x.mean() - 3) < half_width(x) for x in experiments]
    assert numpy.mean(contained) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("better, differences, verdict", [
    (HIGHER, [1.0, 1.1, 0.9], "shown"), (LOWER, [1.0, 1.1, 0.9], "reversed"),
    (HIGHER, [-1.0, -1.1, -0.9], "reversed"), (LOWER, [-1.0, -1.1, -0.9], "shown"),
    (HIGHER, [1.0, 1.0, -1.0], "not shown"), (LOWER, [1.0, 1.0, -1.0], "not shown"),
    (HIGHER, [0.0, 0.0, 0.0], "not shown"), (HIGHER, [5.0], "not shown"),
    # All of one sign, as a bootstrap over three seeds would find; but t does not exclude 0.
    (HIGHER, [1.0, 2.0, 6.0], "not shown")])
def test_verdict(better, differences, verdict):
    zeros = [0.0] * len(differences)
    claim = Claim("", "x", "core", "m", better)
    assert claim_row(claim, compare(differences, zeros))[-1] == verdict


def test_a_summary_counts_claims_of_the_report_or_all_if_there_are_none():
    up, none = compare([2.0, 2.1], [0.0, 0.0]), compare([1.0, -1.0], [0.0, 0.0])
    said, unsaid = (Claim("", "x", "core", "m", HIGHER, of_report=x) for x in (True, False))
    assert summary([(said, none), (unsaid, up)]) == "0 of 1 claims of the report shown, 0 reversed"
    assert summary([(unsaid, up), (unsaid, none)]) == "1 of 2 claims shown, 0 reversed"


def test_a_row_by_hand():
    """Differences 1, 2, 3: 2 +- 4.303 / sqrt(3) = 2 +- 2.484."""
    claim = Claim("section", "x", "core", "accuracy %", HIGHER, main=True)
    assert claim_row(claim, compare([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])) == [
        "**x**", "core", "accuracy %", "higher", 4, 2, 2, "-0.4843 to 4.484", "3 of 3",
        "not shown"]


def test_same_sign_counts_the_seeds_that_agree_with_the_mean():
    claim = Claim("", "x", "core", "m", LOWER)
    assert claim_row(claim, compare([-3.0, -4.0, 1.0, 0.0], [0.0] * 4))[-2] == "2 of 4"


@pytest.mark.parametrize("better, effect, note", [
    (HIGHER, 4.4, True), (HIGHER, 4.5, False), (HIGHER, None, False),
    (LOWER, 0.4, True), (LOWER, 0.5, False)])
def test_cannot_tell_where_the_interval_includes_the_effect(better, effect, note):
    """The interval is 2 +- 2.484: see above."""
    claim = Claim("", "x", "core", "m", better, effect=effect)
    verdict = claim_row(claim, compare([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]))[-1]
    assert verdict.startswith("not shown") and ("cannot tell" in verdict) == note
    decided = "shown" if better == HIGHER else "reversed"
    assert claim_row(claim, compare([9.0, 9.1, 9.2], [0.0, 0.0, 0.0]))[-1] == decided


# The table of claims.

def test_there_are_at_most_30_claims_with_texts_of_their_own():
    assert len({claim.claim for claim in CLAIMS}) == len(CLAIMS) <= 30


def test_each_section_has_one_main_claim():
    for section in {claim.section for claim in CLAIMS}:
        assert sum(claim.main for claim in CLAIMS if claim.section == section) == 1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_a_claim_has_a_direction_and_its_arms_differ(claim):
    assert claim.better in (HIGHER, LOWER)
    treatment, control = arms_of(claim, TINY, claims.SETTINGS)
    assert treatment[0] != control[0]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_a_claim_names_existing_settings_of_stages_that_it_runs(claim):
    control_stage = claim.control_stage or claim.stage
    for stage, values in ((claim.stage, claim.treatment), (control_stage, claim.control)):
        for name, value in values.items():
            assert name.partition(".")[0] in with_needs([stage], values)
            assert parse_setting(f"{name}={value}", vars(TINY)) == (name, value)


def test_what_is_compared_is_validated_on_the_same_tasks():
    for claim in CLAIMS:
        sides = [settings_of(stage, claims.SETTINGS | values).get("count") for stage, values in (
            (claim.stage, claim.treatment), (claim.control_stage or claim.stage, claim.control))]
        assert sides[0] == sides[1]


def test_null_claims_differ_by_draws_alone():
    null = null_claims(CLAIMS, 40)
    assert len({claim.claim for claim in null}) == 40
    names = set()
    for claim in null:
        assert claim.stage not in ("quantize", "evaluation")
        sides = arms_of(claim, TINY, TINY_SETTINGS)
        assert sides[0][1] == sides[1][1] == claim.stage
        before = [arm_names(TINY, stage, values) for _, stage, values in sides]
        names |= {name for name, *_ in sides}
        for stage in before[0]:  # the same settings, and before the last stage the same arms
            assert before[0][stage][1] == before[1][stage][1]
            assert (before[0][stage][0] == before[1][stage][0]) == (stage != claim.stage)
    assert len(names) == 80  # all draws are independent
    assert null_claims([], 40) == []


# Arms, with stages that only count.

@pytest.fixture
def stub(monkeypatch):
    """Replace the stages by four that run in no time. Yields the list of those that have run."""
    runs = []

    def first(run, *, size=1):
        runs.append(("first", run.seed))
        run.write_json("first.json", {"size": size})
        return {"size": size, "table": [[1]]}

    def left(run, *, bad=False):
        runs.append(("left", run.seed))
        if bad and run.seed == 1:
            raise UserError("it diverged")
        run.write_json("left.json", {"size": run.read_json("first.json")["size"] + run.seed})
        return {"noise": float(run.seed)}

    def right(run, *, size=2):
        runs.append(("right", run.seed))
        run.write_json("right.json", {"size": size})
        return {"size": size}

    def last(run, *, scale=1.0):
        runs.append(("last", run.seed))
        total = run.read_json("left.json")["size"] + run.read_json("right.json")["size"]
        return {"m": scale * total}

    monkeypatch.setattr("afm_min.lab.arms.source_hash", lambda module: "code")
    monkeypatch.setattr("afm_min.lab.stages.source_hash", lambda module: "code")
    monkeypatch.setattr("afm_min.lab.arms.machine", lambda: "processor with AVX2")
    stages = {"first": Stage(first, [], 1), "left": Stage(left, ["first"], 1),
              "right": Stage(right, ["first"], 1), "last": Stage(last, ["left", "right"], 1),
              "evaluation": STAGES["evaluation"]}
    saved = dict(STAGES)
    STAGES.clear()  # keep the dict, which several modules have imported, and later its order
    STAGES.update(stages)
    yield runs
    STAGES.clear()
    STAGES.update(saved)


def test_arms_share_the_stages_before_they_differ(stub, tmp_path):
    assert run_arm(tmp_path, TINY, 3, "last", {}) == {"m": 6.0}  # 1 + 3 + 2
    assert stub == [("first", 3), ("left", 3), ("right", 3), ("last", 3)]
    assert run_arm(tmp_path, TINY, 3, "last", {"last.scale": 2.0}) == {"m": 12.0}
    assert stub[4:] == [("last", 3)]
    assert run_arm(tmp_path, TINY, 3, "last", {"right.size": 5}) == {"m": 9.0}
    assert stub[5:] == [("right", 3), ("last", 3)]
    assert run_arm(tmp_path, TINY, 3, "last", {}) == {"m": 6.0}
    assert len(stub) == 7  # a finished arm is not run again
    run_arm(tmp_path, TINY, 4, "right", {})
    assert stub[7:] == [("first", 4), ("right", 4)]  # another seed shares nothing
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "seed3").iterdir()) == [
        "first", "last", "last", "last", "left", "right", "right"]


def test_a_killed_arm_continues_with_the_stage_in_progress(stub, tmp_path):
    last = STAGES["last"]

    def killed(run):
        raise KeyboardInterrupt
    STAGES["last"] = last._replace(function=killed)
    with pytest.raises(KeyboardInterrupt):
        run_arm(tmp_path, TINY, 0, "last", {})
    STAGES["last"] = last
    assert stub == [("first", 0), ("left", 0), ("right", 0)]
    (linked,) = (tmp_path / "seed0").glob("last-*/left.json")
    linked.unlink()  # as if the kill had come before this file was linked
    assert run_arm(tmp_path, TINY, 0, "last", {}) == {"m": 3.0}
    assert stub[3:] == [("last", 0)]


def test_other_draws_change_the_stage_and_those_after_it(stub, tmp_path):
    assert run_arm(tmp_path, TINY, 2, "last", {"left.draw": 7}) == {"m": 1 + 7002 + 2}
    assert stub == [("first", 2), ("left", 7002), ("right", 2), ("last", 2)]


def test_names_depend_on_size_settings_and_code(stub, monkeypatch):
    def name(config=TINY, **values):
        return arm_names(config, "last", values)["last"][0]
    names = [name(), name(PRESETS["toy"]), name(**{"first.size": 4}), name(**{"last.scale": 3.0}),
             name(**{"left.draw": 1}), name(**{"right.draw": 1})]
    monkeypatch.setattr("afm_min.lab.arms.source_hash", lambda module: "edited")
    names.append(name())
    assert len(set(names)) == 7
    assert name() == names[-1]


def test_a_seed_keeps_its_results_and_runs_what_is_missing(stub, tmp_path):
    """An arm that fails is reported, and does not stop the others."""
    base, arms_ = Run(tmp_path), [(arm_names(TINY, stage, values)[stage][0], stage, values)
                                  for stage, values in (("first", {}), ("left", {"left.bad": True}),
                                                        ("right", {}))]
    errors = run_seed(base, TINY, 1, arms_)
    assert errors == [f"seed 1, {arms_[1][0]}: it diverged"]
    results = read_json(tmp_path / "seed1.json")
    where = {"machine": "processor with AVX2", "date": str(datetime.date.today())}
    assert results == {arms_[0][0]: {"size": 1} | where, arms_[2][0]: {"size": 2} | where}
    del results[arms_[0][0]]
    write_json(tmp_path / "seed1.json", results)
    assert run_seed(base, TINY, 1, [arms_[0], arms_[2]]) == []
    assert len(stub) == 3  # first, left, right: the folder of `first` was still there
    assert len(read_json(tmp_path / "seed1.json")) == 2


# The command.

@pytest.fixture
def one_process(monkeypatch):
    """Run seeds in this process, one after the other."""
    monkeypatch.setattr(claims, "run_seeds", lambda base, config, seeds, arms_, jobs: sum(
        (run_seed(base, config, seed, arms_) for seed in seeds), []))


@pytest.fixture
def two_claims(stub, one_process, monkeypatch):
    monkeypatch.setattr(claims, "DEFAULT_RUN", [("right", "size")])
    monkeypatch.setattr(claims, "further_tables", lambda *arguments: "## Further\n\n")
    monkeypatch.setattr(claims, "CLAIMS", [
        Claim("Up", "more", "last", "m", HIGHER, {"right.size": 5}),  # 3 more with each seed
        Claim("Down", "noise", "left", "noise", LOWER, control={"first.size": 9})])  # no effect
    return stub


def test_the_command_writes_a_table_and_merges_seeds(two_claims, tmp_path, capsys):
    for machine, seeds in (("a", "0,1"), ("b", "2")):
        code, output, errors = call(capsys, claims, "--out", tmp_path / machine, "--preset", "tiny",
                                    "--seeds", seeds)
        assert (code, errors) == (0, "")
        assert output.count("last-") == 2 * len(seeds.split(","))
    text = (tmp_path / "a" / "claims.md").read_text()
    assert "| more | last | m | higher | 6.5 | 3.5 | 3 | 3 to 3 | 2 of 2 | shown |" in text
    assert "| noise | left | noise | lower | 0.5 | 0.5 | 0 | 0 to 0 | 0 of 2 | not shown |" in text
    (tmp_path / "a" / "seed2.json").write_bytes((tmp_path / "b" / "seed2.json").read_bytes())
    count = len(two_claims)
    assert call(capsys, claims, "--out", tmp_path / "a", "--preset", "tiny", "--merge")[0] == 0
    assert len(two_claims) == count
    text = (tmp_path / "a" / "claims.md").read_text()
    assert "| more | last | m | higher | 7 | 4 | 3 | 3 to 3 | 3 of 3 | shown |" in text
    assert text.index("## Up") < text.index("## Down")
    assert "1 of 2 claims of the report shown, 0 reversed" in text and "## Further" in text
    assert "0.1 of all 2 rows would be shown by chance alone" in text  # 2.5% each
    assert text.startswith("# Claims tested on tiny models")
    assert "From seed0, seed1, seed2; trained from 20" in text
    assert "Machines: processor with AVX2.\n" in text


def test_results_of_older_code_are_ignored(two_claims, tmp_path, capsys, monkeypatch):
    arguments = ["--out", tmp_path, "--preset", "tiny", "--seeds", "0"]
    assert call(capsys, claims, *arguments)[0] == 0
    text = (tmp_path / "claims.md").read_text()
    call(capsys, claims, *arguments[:-1], "1")
    monkeypatch.setattr("afm_min.lab.arms.source_hash", lambda module: "edited")
    before = (tmp_path / "claims.md").read_text()
    result = call(capsys, claims, *arguments, "--merge")
    assert_refused(result, "no seed*.json has results of these claims by the current code")
    assert (tmp_path / "claims.md").read_text() == before != text  # not replaced by nothing
    assert call(capsys, claims, *arguments)[0] == 0
    assert "From seed0; trained" in (tmp_path / "claims.md").read_text()  # seed 1 is of older code


def test_some_claims_have_a_table_of_their_own(two_claims, tmp_path, capsys):
    arguments = ["--out", tmp_path, "--preset", "tiny", "--seeds", "0,1"]
    assert call(capsys, claims, *arguments)[0] == 0
    before = (tmp_path / "claims.md").read_text()
    assert call(capsys, claims, *arguments, "--only", "Down: noise")[0] == 0
    text = (tmp_path / "only.md").read_text()
    assert "0 of 1 claims of the report shown" in text and "Further" not in text
    assert (tmp_path / "claims.md").read_text() == before


def test_a_preset_that_makes_both_arms_equal_is_refused(tmp_path, capsys):
    """The server has no distillation, so no arm differs from the one without."""
    result = call(capsys, claims, "--out", tmp_path / "x", "--preset", "toy-server", "--only",
                  "distillation helps after")
    assert_refused(result, "the same settings: distillation helps after pruning; choose other")
    assert not (tmp_path / "x").exists()


def test_a_row_counts_the_seeds_that_have_both_arms():
    claim = Claim("s", "x", "core", "m", HIGHER, control={"core.steps": 1})
    (treatment, *_), (control, *_) = arms_of(claim, TINY, {})
    results = {f"seed{i}": {treatment: {"m": 2.0 + i}, control: {"m": 1.0}} for i in range(2)}
    results["seed2"] = {treatment: {"m": 99.0}}
    (_, result), = compare_claims([claim], TINY, {}, results)
    assert (result.treatment, result.control, result.difference, result.seeds) == (2.5, 1, 1.5, 2)


def test_the_family_table_by_hand():
    """Differences 1, 2, 3: 2 +- 2.484. Differences 9.0, 9.1, 9.2: 9.1 +- 0.2484."""
    results = {f"seed{i}": {"sft": {"math %": 50.0, "x": 1},
                            "rs1": {"math %": 51.0 + i}, "dpo1": {"math %": 59.0 + 0.1 * i}}
               for i in range(3)}
    text = family_table(results, {"rs1": "rs1", "dpo1": "dpo1"}, "sft")
    assert text.splitlines()[0] == "| family | before | rs1 | dpo1 |"
    assert text.splitlines()[2:] == ["| math % | 50 | +2.0 ± 2.5 | **+9.1 ± 0.2** |", ""]
    text = family_table(results, {"rs1": "rs1", "ipo1": "not trained"}, "sft")
    assert text.splitlines()[2] == "| math % | 50 | +2.0 ± 2.5 | - |"


def test_the_default_run_by_hand():
    results = {"seed0": {"a": {"m": 1.0}, "b": {"n": 5}}, "seed1": {"a": {"m": 4.0}}}
    arms = [["core", "m", "a"], ["sft", "n", "b"], ["x", "m", "absent"]]
    assert default_run_table(results, arms).splitlines()[2:] == [
        "| core | m | 2.5 | 1 | 4 | 2 |", "| sft | n | 5 | 5 | 5 | 1 |", ""]


def test_the_default_run_names_existing_stages():
    assert {stage for stage, _ in DEFAULT_RUN} <= STAGES.keys()


def test_null_experiment_in_one_command(two_claims, tmp_path, capsys):
    arguments = ["--out", tmp_path, "--preset", "tiny", "--seeds", "0,1,2", "--null", "4"]
    assert call(capsys, claims, *arguments)[0] == 0
    text = (tmp_path / "null.md").read_text()
    assert text.count("| null ") == 4 and " of 4 claims shown" in text
    assert not (tmp_path / "claims.md").exists()


def test_failed_arms_end_the_command_with_an_error(two_claims, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(claims, "CLAIMS", [
        Claim("s", "x", "left", "noise", HIGHER, {"left.bad": True})])
    result = call(capsys, claims, "--out", tmp_path, "--preset", "tiny", "--seeds", "0,1")
    assert_refused(result, "1 arms failed, so rows lack seeds: seed 1, left-")
    assert "| 0 of 1 |" in (tmp_path / "claims.md").read_text()  # of seed 0


@pytest.mark.parametrize("arguments, message", [
    (["--seeds", "0,x"], "--seeds 0,x"), (["--seeds", ""], "expected numbers up to 999, such as"),
    (["--seeds", "0,1000"], "--seeds 0,1000"), (["--null", -3], "--null -3"),
    (["--jobs", 0], "--jobs 0"), (["--preset", "huge"], "choose one of tiny, toy"),
    (["--only", "no such words"], "--only no such words")])
def test_user_errors(arguments, message, tmp_path, capsys):
    assert_refused(call(capsys, claims, "--out", tmp_path / "x", *arguments), message)
    assert not (tmp_path / "x").exists()


def test_two_commands_do_not_train_the_same_arms(two_claims, tmp_path, capsys):
    with Run(tmp_path).reserved():
        assert_refused(call(capsys, claims, "--out", tmp_path), "another process works on")


def test_a_damaged_file_of_results_is_refused(two_claims, tmp_path, capsys):
    (tmp_path / "seed0.json").write_text(json.dumps({"content": {}}))
    assert_refused(call(capsys, claims, "--out", tmp_path, "--preset", "tiny"), "is damaged")


def test_seeds_run_side_by_side_from_raw_text_on(texts, tmp_path, capsys, monkeypatch):
    """With the real stages and processes of their own."""
    monkeypatch.setattr(claims, "SETTINGS", claims.SETTINGS | {"data.folder": str(texts)})
    code, _, errors = call(capsys, claims, "--out", tmp_path, "--preset", "tiny", "--jobs", 2,
                           "--seeds", "0,1", "--only", "pruning by magnitude")
    assert (code, errors) == (0, "")
    for seed in (0, 1):
        names = sorted(path.name.partition("-")[0] for path in (tmp_path / f"seed{seed}").iterdir())
        assert names == ["core", "core", "data", "lookup", "parent", "prune", "prune", "teacher",
                         "tokenizer"]
    weights = [next((tmp_path / f"seed{seed}").glob("parent-*/parent.pt")).read_bytes()
               for seed in (0, 1)]
    assert weights[0] != weights[1]
    assert "of 2 |" in (tmp_path / "only.md").read_text()
    (log,) = (tmp_path / "seed0").glob("teacher-*/metrics.jsonl")
    assert b'"parent"' not in log.read_bytes()  # a stage's own log is not linked into the next
