"""report.md has a row for each stage, is the same every time, and links its pictures."""
import sys
import warnings

import numpy
import pytest
import torch

from afm_min.evaluate import ONE_SAMPLE
from afm_min.lab import report, tables
from afm_min.lab.packages import python_command
from afm_min.run import Run
from tests.helpers.commands import assert_refused, call

MODELS = ("base", "draft", "sft", "aligned", "quantized", "recovered")

TITLE = "Test tasks solved: base 0%, sft 20%, aligned 30%"


def evaluation_rows(models):
    """Return rows of the table "evaluation": 0% for the first model, 10% for the second, ..."""
    cells = []
    for i in range(models):
        cells += [10.0 * i, f"{10 * i - 5 * (i > 0):.1f} to {10 * i + 7:.1f}"]
    rows = [[name, *cells, 20] for name in ("math", "math deeper", "follow: prompts, strict")]
    return [*rows, [ONE_SAMPLE, *(cell for i in range(models) for cell in (i + 1.0, f"{i} to 9")),
                    40]]


def stage_result(metrics, seconds=1.5, **settings):
    """Return a row of report.json."""
    return {"settings": settings, "seconds": seconds, "metrics": metrics}


@pytest.fixture
def run(tmp_path):
    """A run with what a report is made of: stages of pre-training and of post-training."""
    run = Run(tmp_path / "small")
    run.create()
    run.write_json("report.json", {
        "data": stage_result({"user M characters": 0.5, "funnel": [["user", "body", 4, 3, 0.5]]}),
        "prune": stage_result({"tokens": 64, "bits/byte": 3.5, "web bits/byte": 3.5}),
        "core": stage_result({"tokens": 640, "bits/byte": 2.5, "web bits/byte": 2.5},
                             start="prune"),
        "lengthening": stage_result({"recall at 4x % before": 12.5, "tokens": 320,
                                     "bits/byte": 2.25, "web bits/byte": 2.25,
                                     "recall at 4x %": 25.0}),
        "draft": stage_result({"mean %": 50.0, "all math %": 20.0}),
        "reward1": stage_result({"mean %": 1.0, "all pairs %": 60.0}),
        "mdloo1": stage_result({"mean %": 55.0, "all math %": 25.0}, iterations=10),
        "rs2": stage_result({"mean %": 56.0}),
        "committee1": stage_result({"mean %": 57.0, "all math %": 35.0}, seconds=3.2),
        "best1": stage_result({"best": "mdloo1", "mean %": 55.0, "mean % before": 50.0,
                               "candidates": [["sft", 50.0, 51.0], ["mdloo1", 55.0, 60.0]]}),
        "quantize": stage_result({"KB": 0.25, "mean %": 0.0, "average bits": 3.6875},
                                 start="best1"),
        "recovery": stage_result({"mean %": 53.0, "all math %": 33.0}),
        "math": stage_result({"mean %": 52.0, "all math %": 44.0}),
        "evaluation": stage_result({
            "mean %": 44.0, "evaluation": evaluation_rows(6),
            "aligned against sft": [["wins", 40.0, "30.5 to 50.5", 99], ["ties", 55.0, "", 99],
                                    ["losses", 5.0, "", 99]]}, aligned="best1")})
    run.checkpoint("best1").write_bytes(bytes(2000))
    run.write_json("run.json", {"preset": "tiny", "seed": 3, "set": {}})
    # sft is to be run again: it has a log, but is in no report.
    for stage in ("core", "lengthening", "draft", "reward1", "sft"):
        for step in range(1, 41):
            run.log(stage=stage, step=step, loss=1 / step, count=16)
    for step in range(1, 41):
        run.log(stage="mdloo1", step=step, loss=-0.1, count=8, reward=float(step),
                **{"truth %": 50.0, "KL": 0.1, "entropy": 2.0, "length": 9.0})
    return run


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Make imports of matplotlib fail."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


def section(run, title, head=False):
    """Return the rows of a table of report.md, with its head or without."""
    text = run.file("report.md").read_text().partition(f"## {title}\n\n")[2]
    if not text.startswith(("|", "<")):  # the table's note
        text = text.partition("\n\n")[2]
    if text.startswith("<details>"):
        text = text.partition("\n\n")[2]
    text = text.partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return rows[:1] + rows[2:] if head else rows[2:]


def test_table_by_hand():
    assert tables.table("a, b", [["x", 0.51234], ["y", 12345.6]]) == (
        "| a | b |\n| --- | --- |\n| x | 0.5123 |\n| y | 12,346 |\n\n")


def test_each_stage_has_a_row(run, no_matplotlib):
    report.write_report(run)
    assert section(run, "Stages") == [
        ["data", "1.5", "", "user M characters", "", "0.5"],
        ["prune", "1.5", "64", "bits/byte", "", "3.5"],
        ["core", "1.5", "640", "bits/byte", "3.5", "2.5"],
        ["lengthening", "1.5", "320", "recall at 4x %", "12.5", "25"],
        ["draft", "1.5", "", "mean %", "", "50"], ["reward1", "1.5", "", "all pairs %", "", "60"],
        ["mdloo1", "1.5", "", "mean %", "", "55"], ["rs2", "1.5", "", "mean %", "55", "56"],
        ["committee1", "3.2", "", "mean %", "", "57"], ["best1", "1.5", "", "mean %", "50", "55"],
        ["quantize", "1.5", "", "mean %", "55", "0"],
        ["recovery", "1.5", "", "mean %", "0", "53"], ["math", "1.5", "", "all math %", "", "44"],
        ["evaluation", "1.5", "", "mean %", "", "44"]]


def test_the_staircase(run, no_matplotlib):
    """Two families have 20 tasks each; "follow: prompts, strict" is a part of one. Where 10% are
    right in each, the half interval is 196 sqrt(2 * 0.1 * 0.9 / 20) / 2 = 9.3."""
    report.write_report(run)
    head, *rows = section(run, "Staircase", head=True)
    assert head == ["model", "mean %", "all math %", "test mean %", "95% interval", "test math %",
                    "95% interval", "test one sample %", "95% interval"]
    assert [row[0] for row in rows] == [
        "base", "draft", "sft", "mdloo1", "committee1", "aligned (best1)", "rs2",
        "quantized (3.7 bits)", "recovered", "math adapter"]
    assert rows[0] == ["base", "", "", "0", "0.0 to 0.0", "0", "0.0 to 0.0", "1", "0 to 9"]
    assert rows[1] == ["draft", "50", "20", "10", "0.7 to 19.3", "10", "0.7 to 19.3", "2",
                       "1 to 9"]
    # sft is to be run again: it is no longer in the report, but it was tested.
    assert rows[2] == ["sft", "", "", "20", "7.6 to 32.4", "20", "7.6 to 32.4", "3", "2 to 9"]
    assert rows[3] == ["mdloo1", "55", "25", *[""] * 6]
    # The best model is that of mdloo1, so its mathematics are, too.
    assert rows[5] == ["aligned (best1)", "55", "25", "30", "15.8 to 44.2", "30", "15.8 to 44.2",
                       "4", "3 to 9"]
    assert rows[7][:4] == ["quantized (3.7 bits)", "0", "", "40"]
    assert rows[9] == ["math adapter", "52", "44", *[""] * 6]


def test_mathematics_and_all_families_of_the_staircase():
    """Families of 36 and 64% have the mean 50, and that of mathematics is 36. Both variances are
    0.36 * 0.64 = 0.48^2. So the half intervals are 196 * 0.48 / sqrt(100) = 9.41 for one family,
    and 9.41 / sqrt(2) = 6.65 for both."""
    rows = [["math deeper", 36.0, "", 100], ["tools", 64.0, "", 100], ["tools: executed", 1, "", 9]]
    assert report.test_cells(rows)["base"] == [
        pytest.approx(50), "43.3 to 56.7", pytest.approx(36), "26.6 to 45.4"]


def test_the_report_starts_with_the_main_figures_and_ends_with_all_metrics(run, no_matplotlib):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.splitlines()[2:8] == [
        "- Test tasks solved: base 0.0%, draft 10.0%, sft 20.0%, "
        "aligned (best1) 30.0%, quantized (3.7 bits) 40.0%, recovered 50.0%.",
        "- Mathematics solved: base 0.0%, draft 10.0%, sft 20.0%, "
        "aligned (best1) 30.0%, quantized (3.7 bits) 40.0%, recovered 50.0%.",
        "- Test tasks solved by one sample at temperature 1: base 1.0%, draft 2.0%, sft 3.0%, "
        "aligned (best1) 4.0%, quantized (3.7 bits) 5.0%, recovered 6.0%.",
        "- Aligned against sft: 40.0% wins, 55.0% ties, 5.0% losses.",
        "- File: 0 KB packed, 2 KB as floats.",
        "- 14 stages took 23 seconds in all, some side by side."]
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[:3] == ["## Staircase", "## Stages", "## Held-out text"]
    assert titles[-2:] == ["## Environment", "## All metrics"]


def test_other_tables(run, no_matplotlib):
    report.write_report(run)
    assert section(run, "Held-out text") == [
        ["prune", "64", "3.5", "3.5"], ["core", "640", "2.5", "2.5"],
        ["lengthening", "320", "2.25", "2.25"]]
    metrics = section(run, "All metrics")
    assert ["best1", "best", "mdloo1"] in metrics
    assert ["lengthening", "recall at 4x %", "25"] in metrics
    assert len(metrics) == 32
    text = run.file("report.md").read_text()
    assert "\n\n<details><summary>32 rows</summary>\n\n| stage" in text
    assert text.count("<details>") == 1 and text.endswith(" |\n\n</details>\n\n")
    assert section(run, "Funnel") == [["user", "body", "4", "3", "0.5"]]
    assert len(section(run, "Evaluation")) == 4
    assert section(run, "Environment") == [["preset", "tiny"], ["seed", "3"]]
    assert section(run, "Candidates", head=True) == [
        ["model", "greedy %", "best of N by the reward model %"],
        ["sft", "50", "51"], ["mdloo1", "55", "60"]]


def test_the_tables_of_guards_follow_each_other(run, no_matplotlib):
    rows = run.read_json("report.json")
    rows["demonstrations"] = stage_result({"guards": [["wrong", 9, 4, 2, 1, 2]]})
    rows["synthetic"] = stage_result({"yields": [["code", 8, 50.0, 5, 80.0]],
                                      "guards": [["code", 5, 0, 1, 0, 4]]})
    run.write_json("report.json", rows)
    report.write_report(run)
    head, *guards = section(run, "Guards", head=True)
    assert head == ["flaw or kind", "examples", "dropped by rating", "by the model", "as copies",
                    "kept"]
    assert guards == [["wrong", "9", "4", "2", "1", "2"], ["code", "5", "0", "1", "0", "4"]]
    assert section(run, "Yields", head=True) == [
        ["what", "questions", "right samples %", "selected", "of these right %"],
        ["code", "8", "50", "5", "80"]]


@pytest.mark.parametrize("count", [4, 6])
def test_the_evaluation_has_the_columns_of_the_models_evaluated(run, no_matplotlib, count):
    """A server model is not quantized, so it has four."""
    rows = run.read_json("report.json")
    rows["evaluation"]["metrics"]["evaluation"] = evaluation_rows(count)
    run.write_json("report.json", rows)
    report.write_report(run)
    head, first, *_ = section(run, "Evaluation", head=True)
    assert head[::2] == ["benchmark"] + ["95% interval"] * count
    assert head[1::2] == [*(f"{model} %" for model in MODELS[:count]), "n"]
    assert first[1::2] == [*(str(10 * i) for i in range(count)), "20"]


@pytest.mark.parametrize("pair", ["sft against draft", "aligned against sft",
                                  "base against opponent", "sft against opponent",
                                  "aligned against opponent"])
def test_models_side_by_side(run, no_matplotlib, pair):
    rows = run.read_json("report.json")
    rows["evaluation"]["metrics"][pair] = [["wins", 40.0, "30.5 to 50.5", 99]]
    run.write_json("report.json", rows)
    report.write_report(run)
    assert section(run, pair.capitalize(), head=True) == [
        ["of all tasks", "%", "95% interval", "n"], ["wins", "40", "30.5 to 50.5", "99"]]


def test_a_stage_s_row():
    rows = {"parent": stage_result({"bits/byte": 3.0}),
            "teacher": stage_result({"tokens": 7, "bits/byte": 2.0}), "data": stage_result({})}
    assert report.stage_row("teacher", rows) == ["teacher", 1.5, 7, "bits/byte", 3.0, 2.0]
    assert report.stage_row("data", rows) == ["data", 1.5, "", "", "", ""]


def test_environment(run):
    before = report.environment(run)
    ballast = numpy.ones(2 ** 24)  # 134 MB
    found = report.environment(run)
    peak = found["peak memory, MB"]
    assert peak >= max(before["peak memory, MB"], ballast.nbytes / 1e6)
    assert peak < 64_000  # it would be more if the unit were wrong
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    if found["computes in"] == "bfloat16":
        assert "bfloat16" in found["processor has"]


@pytest.mark.parametrize("flags, line", [
    ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "sse": True, "cpu_name": "x"},
     "AVX2, AVX-512, bfloat16"),
    ({"avx2": True, "avx512_f": False, "avx512_bf16": False}, "AVX2"),
    ({"neon": True, "bf16": True}, "bfloat16"),
    ({}, "none of AVX2, AVX-512, bfloat16")])
def test_the_processor_in_one_line(run, monkeypatch, flags, line):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert report.environment(run)["processor has"] == line


def test_the_environment_is_shown(run):
    run.write_json("environment.json", {"Python": "3.12.0", "threads": 2})
    report.write_report(run)
    assert section(run, "Environment") == [
        ["preset", "tiny"], ["seed", "3"], ["Python", "3.12.0"], ["threads", "2"]]


def test_a_report_is_the_same_every_time(run):
    report.write_report(run)
    first = {path.name: path.read_bytes() for path in run.path.iterdir()}
    report.write_report(run)
    assert first == {path.name: path.read_bytes() for path in run.path.iterdir()}


def test_without_matplotlib_the_report_has_sparklines_instead_of_pictures(run, no_matplotlib,
                                                                          capsys):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.count("pip install matplotlib, then python -m afm_min.lab.report") == 1
    assert "![" not in text
    assert not list(run.path.glob("*.svg"))
    assert capsys.readouterr() == ("", "")
    assert text.count("| curve | first tenth | course | last tenth |\n") == 1
    curves = [line.strip("| ").split(" | ") for line in text.splitlines() if ": " in line
              and line.startswith(("| core:", "| lengthening:", "| draft:", "| sft:", "| mdloo1:"))]
    # A stage that is to be run again has no curve, nor do losses after pre-training.
    assert [row[0] for row in curves] == ["core: loss", "lengthening: loss", "mdloo1: reward",
                                          "mdloo1: truth %", "mdloo1: KL"]
    # Rewards of 1 to 40: the first tenth has the mean of 1 to 4, the last of 37 to 40.
    assert curves[2] == ["mdloo1: reward", "2.5", "▁▁▂▂▂▃▃▄▄▄▅▅▅▆▆▇▇▇██", "38.5"]
    assert curves[3] == ["mdloo1: truth %", "50", "▁" * 20, "50"]


def test_notes_stand_above_their_tables(run, no_matplotlib):
    """Each is of a table that the report can have."""
    assert set(tables.NOTES) - set(tables.COLUMNS) == {"held-out text", "evaluation"}
    assert set(tables.COLUMNS) - set(tables.NOTES) == {"curves", "environment"}
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert f"\n## Stages\n\n{tables.NOTES['stages']}\n\n| stage | seconds |" in text
    assert f"\n## All metrics\n\n{tables.NOTES['all metrics']}\n\n<details>" in text


def test_the_report_says_where_the_claims_are_tested(run):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.count("`make claims`") == 1 and "runs/claims/claims.md" in text


def test_pictures_are_drawn_and_linked(run):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write_report(run)
    text = run.file("report.md").read_text()
    pictures = sorted(run.path.glob("*.svg"))
    assert [path.name for path in pictures] == ["bits.svg", "losses.svg", "mdloo.svg",
                                                "staircase.svg"]
    for path in pictures:
        assert path.stat().st_size < 60_000
        assert text.count(f"]({path.name})") == 1
    assert f"![{TITLE}](staircase.svg)" in text
    # In the order of the fixture: models with 30, 40 and 50%.
    assert "![In 3.7 bits accuracy goes from 30 to 40%, with recovery to 50.0%](bits.svg)" in text
    assert "![mdloo1: reward +36.00, right responses +0.0 points](mdloo.svg)" in text
    assert "![Held-out text: from 3.50 to 2.25 bits per byte](losses.svg)" in text
    # The numbers are text in the pictures, too, and stand beside the sizes of the files.
    staircase = run.file("staircase.svg").read_text()
    for number in (TITLE, ">50</text>", "2 KB", "0 KB",
                   "8.0 times smaller"):
        assert number in staircase


def test_only_pictures_that_have_data_are_drawn(run):
    pytest.importorskip("matplotlib")
    rows = run.read_json("report.json")
    run.write_json("report.json", {"data": rows["data"], "core": rows["core"]})
    report.write_report(run)
    assert [path.name for path in run.path.glob("*.svg")] == ["losses.svg"]
    run.write_json("report.json", {"data": rows["data"]})
    run.file("losses.svg").unlink()
    report.write_report(run)
    assert not list(run.path.glob("*.svg"))
    assert "![" not in run.file("report.md").read_text()


def test_an_unfinished_run_has_a_staircase_of_validation_tasks(run):
    rows = run.read_json("report.json")
    del rows["evaluation"]
    run.write_json("report.json", rows)
    report.write_report(run)
    assert section(run, "Staircase")[3] == ["best1", "55", "25", *[""] * 6]
    assert not run.file("staircase.svg").exists() and not run.file("bits.svg").exists()


def test_a_model_that_is_not_packed_has_no_picture_of_bits(run):
    """A server model is not quantized."""
    pytest.importorskip("matplotlib")
    rows = run.read_json("report.json")
    for stage in ("quantize", "recovery", "math"):
        del rows[stage]
    rows["evaluation"]["metrics"]["evaluation"] = evaluation_rows(4)
    run.write_json("report.json", rows)
    report.write_report(run)
    assert not run.file("bits.svg").exists()
    staircase = run.file("staircase.svg").read_text()
    assert "sft 20%, aligned 30%" in staircase and "KB" not in staircase


def test_the_command_writes_the_report_again(run, capsys):
    report.write_report(run)
    before = run.file("report.md").read_text()
    run.file("report.md").unlink()
    assert call(capsys, report, "--run", run.path) == (0, "", "")
    assert run.file("report.md").read_text() == before
    assert run.read_json("run.json")["seed"] == 3  # other files are unchanged


def test_the_command_needs_a_run(run, tmp_path, capsys):
    assert_refused(call(capsys, report, "--run", tmp_path / "none"),
                   f"{python_command()} train.py --out")
    run.file("report.json").write_text("{")
    assert_refused(call(capsys, report, "--run", run.path), "report.json is damaged")
