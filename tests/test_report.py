"""report.md: a row for each stage, the same every time;
and pictures, whose numbers are the run's."""
import json
import sys
import warnings

import numpy
import pytest
import torch

from afm_min.lab import plots, report
from afm_min.lab.report import environment
from afm_min.run import Run
from tests.test_commands import call

NO_MATPLOTLIB = {"matplotlib": None, "matplotlib.figure": None}
MODELS = ("base", "draft", "sft", "aligned", "quantized", "recovered")


def row(metrics, seconds=1.5, **settings):
    return {"settings": settings, "seconds": seconds, "metrics": metrics}


@pytest.fixture
def run(tmp_path):
    """Of a run what the report is made of: two stages of pre-training, some of post-training."""
    made = Run(tmp_path / "small")
    made.create()
    evaluated = [
        [name, *(cell for i in range(6)
                 for cell in (10.0 * i, f"{10 * i - 5 * (i > 0):.1f} to {10 * i + 7:.1f}")), 20]
        for name in ("math", "math deeper", "follow: prompts, strict")]
    made.write_json("report.json", {
        "data": row({"user M characters": 0.5, "funnel": [["user", "body", 4, 3, 0.5]]}),
        "prune": row({"tokens": 64, "bits/byte": 3.5, "web bits/byte": 3.5}),
        "core": row({"tokens": 640, "bits/byte": 2.5, "web bits/byte": 2.5}),
        "lengthening": row({"recall at 4x % before": 12.5, "tokens": 320, "bits/byte": 2.25,
                            "web bits/byte": 2.25, "recall at 4x %": 25.0}),
        "draft": row({"mean %": 50.0}), "reward1": row({"mean %": 1.0, "all pairs %": 60.0}),
        "mdloo1": row({"mean %": 55.0}, passes=2, parts=2), "rs2": row({"mean %": 56.0}),
        "committee1": row({"mean %": 57.0, "mean % before": 50.0, "best": "committee1"},
                          seconds=3.2),
        "recovery": row({"mean %": 53.0, "all math %": 33.0}),
        "math": row({"mean %": 52.0, "all math %": 44.0}),
        "evaluation": row({"mean %": 44.0, "evaluation": evaluated})})
    made.write_json("run.json", {"preset": "tiny", "seed": 3, "set": {}})
    for stage in ("core", "lengthening", "draft", "reward1",
                  "sft"):  # sft is to be redone: it is in no report
        for step in range(1, 41):
            made.log(stage=stage, step=step, loss=1 / step, count=16)
    for step in range(1, 41):
        made.log(stage="mdloo1", step=step, loss=-0.1, count=8, reward=float(step),
                 **{"truth %": 50.0, "KL": 0.1})
    return made


def painted(run, what, *rest):
    """The axes of a picture."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    logged = {}
    for each in run.read_log():
        logged.setdefault(each["stage"], []).append(each)
    what(figure, run.read_json("report.json"), logged, *rest)
    return figure.axes


def section(run, title):
    text = run.file("report.md").read_text().partition(f"## {title}\n\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_each_stage_has_a_row_with_what_it_took_and_did(run, monkeypatch):
    for name, module in NO_MATPLOTLIB.items():
        monkeypatch.setitem(sys.modules, name, module)
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
    assert section(run, "Held-out text") == [
        ["prune", "64", "3.5", "3.5"], ["core", "640", "2.5", "2.5"],
        ["lengthening", "320", "2.25", "2.25"]]
    others = section(run, "Other figures")
    assert (["committee1", "best", "committee1"] in others
            and ["lengthening", "recall at 4x %", "25"] in others)
    assert len(others) == 16  # each figure once: what the tables above and below hold is not here
    assert (section(run, "Funnel") == [["user", "body", "4", "3", "0.5"]]
            and len(section(run, "Evaluation")) == 3)
    assert section(run, "Environment") == [
        ["preset", "tiny"], ["seed", "3"], ["seconds of all stages", "19.7"]]


def test_a_stage_that_reports_nothing_has_a_row():
    assert report.in_short("rest", row({}), {"rest": {}}) == ["rest", 1.5, "", "", "", ""]


def test_a_start_from_scratch_has_no_figure_before():
    figures = {"prune": {"bits/byte": 3.0}, "core": {"bits/byte": 2.0}}
    assert report.in_short("core", row({}, start="prune"), figures)[4] == 3.0
    assert report.in_short("core", row({}, start="scratch"), figures)[4] == ""


def test_what_a_run_was_made_with_is_kept_and_shown(run):
    before = environment(run)
    ballast = numpy.ones(2 ** 24)  # 134 MB
    kept = environment(run)
    assert kept["peak memory, MB"] >= max(before["peak memory, MB"], ballast.nbytes / 1e6)
    # of a unit taken wrongly it would be a thousand times as much
    assert kept["peak memory, MB"] < 64_000
    assert (kept["torch"], kept["threads"], kept["device"]) == (
        torch.__version__, torch.get_num_threads(), "cpu")
    has_bfloat16 = {"avx512_bf16", "amx_bf16"} & set(kept["processor has"].split())
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # ATEN_CPU_CAPABILITY may limit it
    assert (kept["computes in"] == "bfloat16") == bool(has_bfloat16 and used)
    run.write_json("environment.json", kept)
    report.write_report(run)
    shown = dict(section(run, "Environment"))
    assert (shown.keys() == {"preset", "seed", *kept, "seconds of all stages"}
            and shown["Python"] == kept["Python"])


def test_a_report_comes_out_the_same(run):
    report.write_report(run)
    first = {path.name: path.read_bytes() for path in run.path.iterdir()}
    report.write_report(run)
    assert first == {path.name: path.read_bytes() for path in run.path.iterdir()}


def test_without_matplotlib_it_says_how_to_get_pictures(run, monkeypatch, capsys):
    for name, module in NO_MATPLOTLIB.items():
        monkeypatch.setitem(sys.modules, name, module)
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert (text.count("pip install matplotlib, then python -m afm_min report") == 1
            and "![" not in text)
    assert capsys.readouterr() == ("", "") and not list(run.path.glob("*.png"))


def test_claims_are_shown_or_how_to_get_them(run):
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert text.count("`make claims`") == 1 and "## Claims" not in text
    rows = [["x", "core", "bits/byte", 1.5, 2.0, -0.5, "-0.600 to -0.400", "yes"]]
    run.file("claims.md").write_text(f"3 seeds.\n\n{report.table(report.TABLES['claims'], rows)}")
    report.write_report(run)
    text = run.file("report.md").read_text()
    assert "make claims" not in text and "\n\n3 seeds.\n\n| claim | after |" in text
    assert f"\n{report.line(rows[0])}\n## Stages" in text.partition("## Claims")[2]


def test_pictures_are_drawn_and_linked(run):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write_report(run)
    text = run.file("report.md").read_text()
    assert sorted(path.name for path in run.path.glob("*.*")) == [
        "evaluation.png", "losses.png", "mdloo.png", "metrics.jsonl",
        "report.json", "report.md", "run.json"]
    for path in run.path.glob("*.png"):
        assert (path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 100_000
                and f"]({path.name})" in text)


def test_what_there_is_not_is_not_drawn(run):
    pytest.importorskip("matplotlib")
    kept = {stage: each for stage, each in run.read_json("report.json").items()
            if stage in ("data", "core")}
    run.write_json("report.json", kept)
    report.write_report(run)
    assert [path.name for path in run.path.glob("*.png")] == ["losses.png"]
    run.write_json("report.json", {"data": kept["data"]})
    run.file("losses.png").unlink()
    report.write_report(run)
    assert not list(run.path.glob("*.png")) and "![" not in run.file("report.md").read_text()


def test_losses_are_in_columns_of_their_kind(run):
    before, after = painted(run, plots.losses, ["core", "lengthening", "draft", "reward1"])
    assert [[tick.get_text() for tick in axes.get_xticklabels()] for axes in (before, after)] == [
        ["core", "lengthening"], ["draft", "reward1"]]
    assert [text.get_text() for text in after.get_legend().get_texts()] == [
        "of a token", "of a pair"]
    x, y = before.lines[1].get_data()  # 36 means of 5 of 40 steps
    assert len(y) == 36 and 0.6 < x.min() < x.max() < 1.4
    assert y[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    assert len(painted(run, plots.losses, ["draft"])) == 1


def test_a_curve_by_hand():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    plots.curve(axes, numpy.arange(30), [float(i) for i in range(30)], color="C0")
    x, y = axes.lines[0].get_data()
    assert (len(x), x[0], y[0], y[-1]) == (
        27, 1.5, 1.5, 27.5)  # of 4 neighbours each: 0 1 2 3 and 26 27 28 29
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (pytest.approx(0.3),  # a tenth of the way from 0 to 3;
                           pytest.approx(28.7))  # from 29 to 26
    plots.curve(axes, [1], [5.0])  # a stage of one step
    assert axes.lines[1].get_data()[1].tolist() == [5]


def test_a_point_of_mdloo_is_an_iteration(run):
    reward, truth, kl = painted(run, plots.mdloo, ["mdloo1"])
    assert [axes.get_title() for axes in (reward, truth, kl)] == ["reward", "truth %", "KL"]
    x, y = reward.lines[0].get_data()  # 10 iterations of 4 steps, 2.5, 6.5, ...; means of 2
    assert (x.tolist(), y.tolist()) == (
        [i + 0.5 for i in range(1, 10)], [4.5 + 4 * i for i in range(9)])


def test_bars_and_intervals_are_those_of_the_table(run):
    (axes,) = painted(run, plots.evaluation, ["evaluation"])
    assert [bars.get_label() for bars in axes.containers
            if hasattr(bars, "patches")] == list(MODELS)
    recovered = [bars for bars in axes.containers if hasattr(bars, "patches")][-1]
    assert [bar.get_height() for bar in recovered] == [
        50, 50]  # math and math deeper, no row of a part
    ((_, low), (_, high)) = recovered.errorbar.lines[2][0].get_segments()[0]
    assert (low, high) == (45, 57)


def test_the_command_writes_it_anew(run, tmp_path, capsys):
    report.write_report(run)
    before = run.file("report.md").read_text()
    run.file("report.md").unlink()
    assert (call(capsys, report, "--run", run.path) == (0, "", "")
            and run.file("report.md").read_text() == before)
    code, output, errors = call(capsys, report, "--run", tmp_path / "none")
    assert ((code, output, errors.count("\n")) == (2, "", 1)
            and "holds no run: python train.py --out" in errors)
    run.file("report.json").write_text("{")
    assert "report.json is damaged" in call(capsys, report, "--run", run.path)[2]
    assert json.loads(run.file("run.json").read_text())["seed"] == 3  # nothing else is touched


def test_commands_have_short_names(capsys, monkeypatch):
    from afm_min import __main__ as commands
    monkeypatch.setattr(sys, "argv", ["afm_min", "report", "--help"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0 and "--run" in capsys.readouterr().out
    for arguments in ([], ["reprot"]):
        monkeypatch.setattr(sys, "argv", ["afm_min", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 2 and "python -m afm_min claims" in capsys.readouterr().err
