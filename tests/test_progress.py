"""The progress line by hand: what it shows, in which width, on a terminal and in a log."""
import pytest

from afm_min import progress
from afm_min.progress import Progress, clock, show, track


@pytest.fixture(autouse=True)
def no_run(monkeypatch):
    """Forget what stages that ran before, in this process, have set."""
    monkeypatch.setattr(progress, "plain", False)
    monkeypatch.setattr(progress, "place", "")
    monkeypatch.setattr(progress, "rest", 0.0)


@pytest.fixture
def terminal(monkeypatch):
    """Make the output a terminal of 60 columns, in the third of 7 stages: 100 seconds follow it."""
    monkeypatch.setattr(progress, "is_live", lambda: not progress.plain)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress, "place", "[3/7] ")
    monkeypatch.setattr(progress, "rest", 100.0)


def tick(monkeypatch, *times):
    """Make the clock show these times, one after the other."""
    times = iter(times)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))


@pytest.mark.parametrize("seconds, text", [
    (0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (75.4, "1:15"), (3661, "61:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_line_in_a_log_by_hand(monkeypatch, capsys):
    """Steps of 10 seconds with 500 tokens. The loss is smoothed: 0.9 * 2 + 0.1 * 1 = 1.9."""
    tick(monkeypatch, 0, 10, 20)
    bar = Progress("core", steps=4, unit="tokens")
    bar.update(1, {"loss": 2.0, "count": 500})
    bar.update(2, {"loss": 1.0, "count": 500})
    assert capsys.readouterr().out.splitlines() == [
        "core 1/4  loss 2.000  50 tokens/s  0:30 left",
        "core 2/4  loss 1.900  50 tokens/s  0:20 left"]


def test_a_log_has_a_line_every_5_seconds_and_one_at_the_end(monkeypatch, capsys):
    tick(monkeypatch, 0, 2, 4, 6, 8, 10, 11)
    bar = Progress("core", steps=6)
    for step in range(1, 7):
        bar.update(step, {"loss": 1.0})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["3/6", "6/6"]


def test_a_resumed_stage_is_timed_from_where_it_resumes(monkeypatch, capsys):
    """Step 91 of 100 takes 10 seconds, so 9 more take 90."""
    tick(monkeypatch, 0, 10)
    Progress("core", steps=100).update(91, {"loss": 1.0})
    assert "1:30 left" in capsys.readouterr().out


def test_a_terminal_redraws_one_line_with_a_bar(terminal, monkeypatch, capsys):
    """2 of 4 steps in 20 seconds, so 20 are left, and 120 with the stages that follow. The rest
    takes 48 of 59 columns, so 11 are left for the bar, and half of them, 5, are done."""
    tick(monkeypatch, 0, 10, 20)
    bar = Progress("sft", steps=4)
    bar.update(1, {"loss": 1.0})
    bar.update(2, {"loss": 1.0})
    line = "[3/7] sft =====>----- 2/4  loss 1.000  0:20 left (all 2:00)"
    assert len(line) == 59
    assert capsys.readouterr().out.split("\r")[1:] == [line, ""]


def test_the_last_step_fills_the_bar(terminal, monkeypatch, capsys):
    tick(monkeypatch, 0, 1)
    Progress("a", steps=1).update(1, {})
    assert "[3/7] a ==================== 1/1  0:00 left (all 1:40)" in capsys.readouterr().out


@pytest.mark.parametrize("columns, figures", [
    (99, "reward 0.981  truth 71%  KL 0.312  64 responses/s  0:01 left (all 1:41)"),
    (80, "reward 0.981  truth 71%  KL 0.312  0:01 left (all 1:41)"),
    (70, "reward 0.981  truth 71%  0:01 left (all 1:41)"),
    (60, "reward 0.981  0:01 left (all 1:41)"),
    (50, "0:01 left (all 1:41)"), (20, "0")])
def test_a_narrow_line_has_fewer_figures(columns, figures, terminal, monkeypatch):
    """The figures of MDLOO, whose loss means nothing."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(progress, "plain", True)  # without a bar
    tick(monkeypatch, 0, 1)
    bar = Progress("mdloo1", 2, "responses")
    bar.update(1, {"loss": -3.0, "reward": 0.981, "truth %": 71.2, "KL": 0.312, "entropy": 2.0,
                   "count": 64})
    assert bar.line(1, 1.0) == f"[3/7] mdloo1 1/2  {figures}"
    assert len(bar.line(1, 1.0)) < columns


@pytest.mark.parametrize("metrics, figures", [
    ({"loss": 3.0, "nll": 2.0}, {"nll": 2.0}), ({"loss": 3.0, "ordered": 1.0}, {"loss": 3.0}),
    ({}, {})])
def test_the_nll_is_shown_rather_than_the_loss(metrics, figures):
    bar = Progress("core", steps=4)
    bar.update(1, metrics)
    assert bar.figures == figures


def test_lines_that_stay_and_lines_that_do_not(terminal, capsys):
    show("a", stays=False)
    show("b")
    assert capsys.readouterr().out == "a".ljust(59) + "\r" + "b".ljust(59) + "\n"


def test_a_log_is_never_redrawn(capsys):
    show("a", stays=False)
    assert capsys.readouterr().out == "a\n"


def test_processes_side_by_side_print_whole_lines(terminal, monkeypatch, capsys):
    monkeypatch.setattr(progress, "plain", True)
    show("a", stays=False)
    assert capsys.readouterr().out == "a\n"


def test_track_counts_the_items_that_are_done(monkeypatch, capsys):
    """In a log, a loop that ends within 5 seconds has no line."""
    tick(monkeypatch, 0, 6, 7, 12)
    assert list(track(iter("xyz"), "evaluation: models")) == ["x", "y", "z"]
    assert capsys.readouterr().out.splitlines() == [
        "evaluation: models 1/3  0:12 left", "evaluation: models 3/3  0:00 left"]
    tick(monkeypatch, 0, 1, 2)
    assert list(track([1, 2], "evaluation: models")) == [1, 2]
    assert capsys.readouterr().out == ""
