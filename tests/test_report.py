"""report.md has a row for each stage, is the same every time, and pictures show its numbers."""
import sys
import warnings

import numpy
import pytest
import torch

from afm_min.lab import report
from afm_min.run import Run
from tests.helpers.commands import assert_refused, call

MODELS = ("base", "draft", "sft", "aligned", "quantized", "recovered")


def evaluation_rows(models):
    """Return rows of the table "evaluation": 0% for the first model, 10% for the second, ..."""
    cells = []
    for i in range(models):
        cells += [10.0 * i, f"{10 * i - 5 * (i > 0):.1f} to {10 * i + 7:.1f}"]
    return [[name, *cells, 20] for name in ("math", "math deeper", "follow: prompts, strict")]


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
        "core": stage_result({"tokens": 640, "bits/byte": 2.5, "web bits/byte": 2.5}),
        "lengthening": stage_result({"recall at 4x % before": 12.5, "tokens": 320,
                                     "bits/byte": 2.25, "web bits/byte": 2.25,
                                     "recall at 4x %": 25.0}),
        "draft": stage_result({"mean %": 50.0}),
        "reward1": stage_result({"mean %": 1.0, "all pairs %": 60.0}),
        "mdloo1": stage_result({"mean %": 55.0}, epochs=2, num_minibatches=2),
        "rs2": stage_result({"mean %": 56.0}),
        "committee1": stage_result({"mean %": 57.0, "mean % before": 50.0, "best": "committee1"},
                                   seconds=3.2),
        "recovery": stage_result({"mean %": 53.0, "all math %": 33.0}),
        "math": stage_result({"mean %": 52.0, "all math %": 44.0}),
        "evaluation": stage_result({"mean %": 44.0, "evaluation": evaluation_rows(6)})})
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


def draw(function, *arguments):
    """Return the axes of a picture."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    function(figure, *arguments)
    return figure.axes


def logged(run, *stages):
    return {stage: list(run.read_log(stage)) for stage in stages}


def section(run, title, head=False):
    """Return the rows of a table of report.md, with its head or without."""
    text = run.file("report.md").read_text().partition(f"## {title}\n\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return rows[:1] + rows[2:] if head else rows[2:]


def test_table_by_hand():
    assert report.table("a, b", [["x", 0.51234], ["y", 12345.6]]) == (
        "| a | b |\n| --- | --- |\n| x | 0.5123 |\n| y | 12,346 |\n\n")


def test_each_stage_has_a_row(run, no_matplotlib):
    report.write_report(run)
    assert section(run, "Stages") == [
        ["data", "1.5", "", "user M characters", "", "0.5"],
        ["prune", "1.5", "64", "bits/byte", "", "3.5"],
        ["core", "1.5", "640", "bits/byte", "3.5", "2.5"],
        ["lengthening", "1.5", "320", "recall at 4x %", "12.5", "25"],
        ["draft", "1.5", "", "mean %", "", "50"], ["reward1", "1.5", "", "all pairs %", "", "60"],
        ["mdloo1", "1.5", "", "mean %", "50", "55"], ["rs2", "1.5", "", "mean %", "", "56"],
        ["committee1", "3.2", "", "mean %", "50", "57"],
        ["recovery", "1.5", "", "mean %", "", "53"], ["math", "1.5", "", "all math %", "33", "44"],
        ["evaluation", "1.5", "", "mean %", "", "44"]]


def test_other_tables(run, no_matplotlib):
    report.write_report(run)
    assert section(run, "Held-out text") == [
        ["prune", "64", "3.5", "3.5"], ["core", "640", "2.5", "2.5"],
        ["lengthening", "320", "2.25", "2.25"]]
    metrics = section(run, "All metrics")
    assert ["committee1", "best", "committee1"] in metrics
    assert ["lengthening", "recall at 4x %", "25"] in metrics
    assert len(metrics) == 25
    assert section(run, "Funnel") == [["user", "body", "4", "3", "0.5"]]
    assert len(section(run, "Evaluation")) == 3
    assert section(run, "Environment") == [
        ["preset", "tiny"], ["seed", "3"], ["seconds of all stages", "19.7"]]


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


def test_the_teacher_is_compared_with_the_parent_that_it_continues():
    metrics = {"parent": {"bits/byte": 3.0}, "teacher": {"bits/byte": 2.0}}
    assert report.stage_row("teacher", stage_result({}), metrics)[4:] == [3.0, 2.0]


def test_a_stage_without_metrics_has_a_row():
    assert report.stage_row("rest", stage_result({}), {"rest": {}}) == ["rest", 1.5, "", "", "", ""]


def test_a_start_from_scratch_has_no_value_before():
    metrics = {"prune": {"bits/byte": 3.0}, "core": {"bits/byte": 2.0}}
    assert report.stage_row("core", stage_result({}, start="prune"), metrics)[4] == 3.0
    assert report.stage_row("core", stage_result({}, start="scratch"), metrics)[4] == ""


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
    has_bfloat16 = {"avx512_bf16", "amx_bf16"} & set(found["processor has"].split())
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # ATEN_CPU_CAPABILITY may limit it
    assert (found["computes in"] == "bfloat16") == bool(has_bfloat16 and used)


def test_the_environment_is_shown(run):
    run.write_json("environment.json", {"Python": "3.12.0", "threads": 2})
    report.write_report(run)
    assert section(run, "Environment") == [
        ["preset", "tiny"], ["seed", "3"], ["Python", "3.12.0"], ["threads", "2"],
        ["seconds of all stages", "19.7"]]


def test_a_report_is_the_same_every_time(run):
    report.write_report(run)
    first = {path.name: path.read_bytes() for path in run.path.iterdir()}
    report.write_report(run)
    assert first == {path.name: path.read_bytes() for path in run.path.iterdir()}


def test_without_matplotlib_the_report_has_a_hint_instead_of_pictures(run, no_matplotlib, capsys):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.count("pip install matplotlib, then python -m afm_min.lab.report") == 1
    assert "![" not in text
    assert not list(run.path.glob("*.png"))
    assert capsys.readouterr() == ("", "")


def test_the_table_of_claims_is_included_or_how_to_get_it(run):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.count("`make claims`") == 1
    run.file("claims.md").write_text("## Claims\n\n3 seeds.\n\n| claim |\n| --- |\n| x |\n\n")
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert "make claims" not in text
    assert "\n\n## Claims\n\n3 seeds.\n\n| claim |\n| --- |\n| x |\n\n## Stages" in text


def test_pictures_are_drawn_and_linked(run):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write_report(run)
    text = run.file("report.md").read_text()
    pictures = sorted(run.path.glob("*.png"))
    assert [path.name for path in pictures] == ["evaluation.png", "losses.png", "mdloo.png"]
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 100_000
        assert f"]({path.name})" in text


def test_only_pictures_that_have_data_are_drawn(run):
    pytest.importorskip("matplotlib")
    rows = run.read_json("report.json")
    run.write_json("report.json", {"data": rows["data"], "core": rows["core"]})
    report.write_report(run)
    assert [path.name for path in run.path.glob("*.png")] == ["losses.png"]
    run.write_json("report.json", {"data": rows["data"]})
    run.file("losses.png").unlink()
    report.write_report(run)
    assert not list(run.path.glob("*.png"))
    assert "![" not in run.file("report.md").read_text()


def test_losses_of_pre_training_and_post_training_are_apart(run):
    rows = logged(run, "core", "lengthening", "draft", "reward1")
    before, after = draw(report.draw_losses, run.read_json("report.json"), rows)
    assert [tick.get_text() for tick in before.get_xticklabels()] == ["core", "lengthening"]
    assert [tick.get_text() for tick in after.get_xticklabels()] == ["draft", "reward1"]
    x, y = before.lines[1].get_data()  # 36 means of 5 of 40 steps
    assert len(y) == 36
    assert 0.6 < x.min() < x.max() < 1.4  # the second column
    assert y[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    assert len(draw(report.draw_losses, run.read_json("report.json"), logged(run, "draft"))) == 1


def test_a_curve_by_hand():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    report.draw_curve(axes, numpy.arange(30), [float(i) for i in range(30)], color="C0")
    x, y = axes.lines[0].get_data()
    assert len(x) == 27  # means of 4 neighbours: 0 1 2 3 to 26 27 28 29
    assert (x[0], y[0], y[-1]) == (1.5, 1.5, 27.5)
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert low == pytest.approx(0.3)  # a tenth of the way from 0 to 3
    assert high == pytest.approx(28.7)  # a tenth of the way from 29 to 26


def test_a_curve_of_one_step():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    report.draw_curve(axes, [1], [5.0])
    assert axes.lines[0].get_data()[1].tolist() == [5]


def test_a_point_of_mdloo_is_an_iteration(run):
    axes = draw(report.draw_mdloo, run.read_json("report.json"), logged(run, "mdloo1"))
    assert [panel.get_title() for panel in axes] == ["reward", "truth %", "KL"]
    x, y = axes[0].lines[0].get_data()  # 10 iterations of 4 steps: 2.5, 6.5, ...; means of 2
    assert x.tolist() == [i + 0.5 for i in range(1, 10)]
    assert y.tolist() == [4.5 + 4 * i for i in range(9)]


@pytest.mark.parametrize("count", [4, 6])
def test_bars_and_intervals_are_those_of_the_table(count):
    (axes,) = draw(report.draw_evaluation, {}, evaluation_rows(count))
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    assert [container.get_label() for container in bars] == list(MODELS[:count])
    # math and math deeper, but no row of a part
    highest = 10 * (count - 1)
    assert [bar.get_height() for bar in bars[-1]] == [highest, highest]
    ((_, low), (_, high)) = bars[-1].errorbar.lines[2][0].get_segments()[0]
    assert (low, high) == (highest - 5, highest + 7)
    # The bars of a family are side by side, and its tick is in the middle.
    assert bars[0][0].get_x() == pytest.approx(-0.42)
    assert bars[1][0].get_x() == pytest.approx(-0.42 + 0.84 / count)
    assert bars[-1][0].get_x() + bars[-1][0].get_width() == pytest.approx(0.42)


def test_the_command_writes_the_report_again(run, capsys):
    report.write_report(run)
    before = run.file("report.md").read_text()
    run.file("report.md").unlink()
    assert call(capsys, report, "--run", run.path) == (0, "", "")
    assert run.file("report.md").read_text() == before
    assert run.read_json("run.json")["seed"] == 3  # other files are unchanged


def test_the_command_needs_a_run(run, tmp_path, capsys):
    assert_refused(call(capsys, report, "--run", tmp_path / "none"), "python train.py --out")
    run.file("report.json").write_text("{")
    assert_refused(call(capsys, report, "--run", run.path), "report.json is damaged")


def curve_rows(*points):
    """Return rows of a log with these pairs of reward and truth."""
    return [{"step": step, "reward": reward, "truth %": truth, "KL": 0.0, "entropy": 1.0,
             "length": 5.0} for step, (reward, truth) in enumerate(points, 1)]


def test_curve_averages_stretches_of_the_training():
    rows = curve_rows((1, 10), (2, 20), (3, 15), (2, 30), (4, 30), (5, 31))
    assert report.learning_curve(rows, points=6)[0] == [1, 1, 10, 0, 1, 5, ""]
    table = report.learning_curve(rows, points=3)
    assert [row[0] for row in table] == [2, 4, 6]
    assert table[0][1:3] == [1.5, 15]


def test_curve_marks_where_the_reward_rises_alone():
    """A new highest reward without a new highest truth."""
    rows = curve_rows((1, 10), (2, 20), (3, 15), (2, 30), (4, 30), (5, 31))
    assert [row[-1] for row in report.learning_curve(rows, points=6)] == [
        "", "", "reward alone", "", "reward alone", ""]
    rows = curve_rows((1, 10), (5, 20), (2, 15), (3, 12), (6, 18))  # 3 is higher than 2 only
    assert [row[-1] for row in report.learning_curve(rows, points=5)] == ["", "", "", "", "reward alone"]
