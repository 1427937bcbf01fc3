"""Pictures show the numbers that they are given, and their titles state them."""
import warnings

import pytest

from afm_min.lab import curves, pictures
from afm_min.lab.claims import Claim
from afm_min.lab.evidence import HIGHER, LOWER, compare
from afm_min.run import Run

STAIRCASE = [["base", "", "", 10.0, "8.0 to 12.0", 7.0, "5.0 to 9.0"],
             ["sft", 66.0, 60.0, 62.0, "60.0 to 64.0", 46.2, "43.2 to 49.2"],
             ["aligned (best2)", 70.0, 66.0, 70.2, "68.2 to 72.2", 60.4, "57.4 to 63.4"],
             ["quantized (3.7 bits)", 69.0, 64.0, 68.7, "66.7 to 70.7", 58.0, "55.0 to 61.0"],
             ["recovered", 70.0, 65.0, 70.1, "68.1 to 72.1", 75.0, "72.0 to 78.0"]]
TITLE = "Test tasks solved: base 10%, sft 62%, aligned 70%"
PACKED = {row[0].split()[0]: row for row in STAIRCASE[2:]}
SPANS = [["parent", "tokenizer", 0, 400_000, 2.0], ["prune", "parent", 400_000, 500_000, 2.01],
         ["teacher", "parent", 400_000, 2_400_000, 1.46],
         ["core", "prune", 500_000, 1_300_000, 1.8]]
LOSSES = {"parent": [{"loss": 9.0, "nll": 4.0}] * 100 + [{"loss": 9.0, "nll": 2.0}] * 100,
          "prune": [{"loss": 3.0}] * 50}


def rollouts(*points, repeat=1):
    """Return rows of a log with these pairs of reward and truth, each several times."""
    pairs = [pair for pair in points for _ in range(repeat)]
    return [{"step": step, "reward": reward, "truth %": truth, "KL": 0.1, "entropy": 1.0,
             "length": 5.0} for step, (reward, truth) in enumerate(pairs, 1)]


@pytest.fixture
def figure():
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure
    with matplotlib.rc_context(pictures.STYLE):
        yield Figure()


def texts(axes):
    return [text.get_text() for text in axes.texts]


def luminance(colour):
    """Return the relative luminance of a colour "#rrggbb", as the Web's guidelines define it."""
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("colour", [pictures.BLUE, pictures.ORANGE, pictures.GREEN, pictures.GREY])
@pytest.mark.parametrize("background", ["#ffffff", "#0d1117", "#000000"])
def test_colours_stand_out_from_white_and_from_black(colour, background):
    """The guidelines ask for a contrast of 3 for large text and graphics."""
    dark, bright = sorted([luminance(colour), luminance(background)])
    assert (bright + 0.05) / (dark + 0.05) > 3.5


def test_stretches_by_hand():
    assert curves.stretches([1, 2, 3, 4, 5, 6, 7], 3) == [[1, 2, 3], [4, 5, 6], [7]]
    assert curves.stretches([1, 2], 3) == [[1], [2]]
    assert curves.stretches([], 3) == []


def test_sparkline_by_hand():
    assert curves.sparkline([1, 2, 3]) == "▁▅█"  # 1, 2 and 3 are blocks 0, 3.5 and 7 of 0 to 7
    assert curves.sparkline([3, 1]) == "█▁"
    assert curves.sparkline([5.0, 5.0]) == "▁▁"
    assert curves.sparkline([0, 2, 6, 8], width=2) == "▁█"  # means 1 and 7
    assert len(curves.sparkline(range(1000))) <= 24


def test_changes_in_words():
    assert pictures.changed(46.2, 60.4) == "from 46 to 60%"
    assert pictures.changed(70.2, 70.6) == "from 70.2 to 70.6%"


def test_settings_of_older_runs_have_the_defaults_of_new_settings():
    report = {"core": {"settings": {"start": "scratch"}}}
    assert pictures.settings(report, "core")["start"] == "scratch"
    assert pictures.settings(report, "core")["distill"] > 0
    assert pictures.settings(report, "mdloo1")["iterations"] > 0  # not in the report at all


def test_curve_averages_stretches_of_the_training():
    rows = rollouts((1, 10), (2, 20), (3, 15), (2, 30), (4, 30), (5, 31))
    assert curves.learning_curve(rows, points=6)[0] == [1, 1, 10, 0.1, 1, 5, ""]
    curve = curves.learning_curve(rows, points=3)
    assert [row[0] for row in curve] == [2, 4, 6]
    assert curve[0][1:3] == [1.5, 15]


def test_curve_marks_where_the_reward_rises_alone():
    """A new highest reward without a new highest truth."""
    rows = rollouts((1, 10), (2, 20), (3, 15), (2, 30), (4, 30), (5, 31))
    assert [row[-1] for row in curves.learning_curve(rows, points=6)] == [
        "", "", "reward alone", "", "reward alone", ""]
    rows = rollouts((1, 10), (5, 20), (2, 15), (3, 12), (6, 18))  # 3 is higher than 2 only
    assert [row[-1] for row in curves.learning_curve(rows, points=5)] == [
        "", "", "", "", "reward alone"]


def test_the_staircase_has_a_tread_and_an_interval_for_each_model(figure):
    pictures.draw_staircase(figure, STAIRCASE, {"float": 2485.0, "packed": 443.0})
    axes, sizes = figure.axes
    assert axes.get_title(loc="left") == TITLE
    every, mathematics = axes.patches
    assert every.get_data().values.tolist() == [10, 62, 70.2, 68.7, 70.1]
    assert mathematics.get_data().values.tolist() == [7, 46.2, 60.4, 58, 75]
    ends = axes.collections[1].get_segments()[1]
    assert ends.tolist() == [[1, 43.2], [1, 49.2]]
    assert texts(axes) == ["10", "62", "70", "69", "70", "all tasks",
                           "7", "46", "60", "58", "75", "mathematics"]
    # A value stands above the higher of two treads and below the lower one.
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights[1] == 65 and heights[7] == 42.2
    assert heights[4] == 67.1 and heights[10] == 79  # recovered: mathematics are higher
    assert [label.get_text() for label in axes.get_xticklabels()][2:4] == [
        "aligned\n(best2)", "quantized\n(3.7 bits)"]
    assert [bar.get_height() for bar in sizes.patches] == [2485, 443]
    assert texts(sizes) == ["2,485 KB", "443 KB"]
    assert sizes.get_title(loc="left") == "5.6 times smaller"


def test_the_title_of_the_staircase_without_a_base_model():
    assert pictures.staircase_title(STAIRCASE[1:3]) == "Test tasks solved: sft 62%, aligned 70%"


def test_mdloo_has_iterations_and_shaded_stretches(figure):
    """20 iterations of 4 steps, in 10 stretches of 2. The reward rises all the time, truth in the
    first half of it."""
    points = [(float(i), float(min(i, 10))) for i in range(1, 21)]
    rows = rollouts(*points, repeat=4)
    pictures.draw_mdloo(figure, {"mdloo1": rows, "mdloo2": rows[:40]}, {"mdloo1": 20, "mdloo2": 10})
    reward, _, kl, _, truth, _ = figure.axes
    thin, thick = reward.lines
    assert thin.get_xdata().tolist() == list(range(1, 21))
    assert thin.get_ydata().tolist() == list(range(1, 21))
    assert thick.get_xdata().tolist() == [i + 0.5 for i in range(1, 21, 2)]
    assert thick.get_ydata().tolist() == [i + 0.5 for i in range(1, 21, 2)]
    assert truth.lines[1].get_ydata().tolist() == [1.5, 3.5, 5.5, 7.5, 9.5] + [10] * 5
    assert kl.lines[1].get_ydata().tolist() == pytest.approx([0.1] * 10)
    # The stretch from iteration 11 to 12 is the first whose truth, 10, rises over 9.5. After it
    # the truth does not rise, so iterations 13 to 20 are shaded.
    assert [(bar.get_x(), bar.get_width()) for bar in reward.patches] == [
        (12.5, 2), (14.5, 2), (16.5, 2), (18.5, 2)]
    assert reward.get_title(loc="left") == "mdloo1: reward +18.00, right responses +8.5 points"
    assert kl.get_xlabel() == "iteration; shaded: the reward rises alone"
    assert figure.axes[3].get_xlabel() == "iteration"  # of the second round: nothing is shaded


def test_losses_over_tokens(figure):
    pictures.draw_losses(figure, LOSSES, SPANS)
    held_out, training = figure.axes
    assert held_out.get_title(loc="left") == (
        "Held-out text: from 2.00 to 1.80 bits per byte; teacher 1.46")
    assert texts(held_out) == ["parent 2.00", "prune 2.01", "teacher 1.46", "core 1.80"]
    # The teacher and the pruned model follow the parent, core follows the pruned one.
    assert [line.get_xydata().tolist() for line in held_out.lines] == [
        [[0.4, 2.0]], [[0.4, 2.0], [0.5, 2.01]], [[0.4, 2.0], [2.4, 1.46]],
        [[0.5, 2.01], [1.3, 1.8]]]
    # 200 steps are drawn as 100 points of 2 steps, without loss weights if that is logged.
    x, y = training.lines[0].get_data()
    assert len(x) == 100 and x[0] == pytest.approx(0.002) and x[-1] == pytest.approx(0.398)
    assert y.tolist() == [4.0] * 50 + [2.0] * 50
    x, y = training.lines[1].get_data()
    assert len(x) == 25 and x[0] == pytest.approx(0.402) and set(y.tolist()) == {3.0}
    assert len(training.lines[2].get_xdata()) == 0  # no log


def test_tokens_add_up_along_a_model_s_history():
    def row(tokens, **settings):
        return {"settings": settings, "metrics": {"tokens": tokens, "bits/byte": 2.0}}
    report = {"teacher": row(2000), "parent": row(400), "prune": row(100),
              "core": row(800, start="prune"), "continued": row(160), "draft": {"metrics": {}}}
    assert [span[:4] for span in pictures.token_spans(report)] == [
        ["parent", "lookup", 0, 400], ["prune", "parent", 400, 500],
        ["teacher", "parent", 400, 2400], ["core", "prune", 500, 1300],
        ["continued", "core", 1300, 1460]]
    report["core"] = row(800, start="scratch")
    assert pictures.token_spans(report)[3] == ["core", "tokenizer", 0, 800, 2.0]


def test_bits_and_accuracy(figure):
    pictures.draw_bits(figure, PACKED, 3.7)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == (
        "In 3.7 bits accuracy goes from 70.2 to 68.7%, with recovery to 70.1%")
    assert texts(axes) == ["float 70.2%", "quantized 68.7%", "recovered 70.1%"]
    assert axes.lines[0].get_xydata().tolist() == [[32, 70.2], [3.7, 68.7]]
    assert axes.collections[1].get_segments()[0].tolist() == [[3.7, 66.7], [3.7, 70.7]]


# A claim: a better one has a lower log loss by 0.02; one that costs 3 points; one of one seed.
CLAIMS = [(Claim("s", "a", "reward1", "log loss", LOWER, main=True), compare([.4, .5], [.42, .52])),
          (Claim("s", "b", "sft", "mean %", HIGHER), compare([1.0, 2.0], [4.0, 5.0])),
          (Claim("s", "c", "sft", "mean %", HIGHER), compare([1.0], [0.5]))]


def test_claims_and_their_intervals(figure):
    pictures.draw_claims(figure, CLAIMS, "one shown")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "one shown"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert texts(axes) == ["+2.0 shown", "-3.0 reversed", "+0.5 not shown"]
    assert [text.get_color() for text in axes.texts] == [pictures.GREEN, pictures.ORANGE,
                                                         pictures.GREY]
    ends = [line.get_xydata().round(6).tolist() for line in axes.lines]
    assert ends == [[[2, 0], [2, 0]], [[2, 0]], [[-3, 1], [-3, 1]], [[-3, 1]],
                    [[0.5, 2]],  # with one seed, there is no interval
                    [[0, 0], [0, 1]]]


def test_an_interval_is_scaled_like_its_middle(figure):
    """Differences .01 and .03: .02 +- 12.706 x .01, in hundredths 2 +- 12.706."""
    claim = Claim("s", "a", "core", "math bits/byte", HIGHER)
    pictures.draw_claims(figure, [(claim, compare([.01, .03], [0.0, 0.0]))], "")
    assert figure.axes[0].lines[0].get_xdata() == pytest.approx([-10.706, 14.706])


def test_pictures_are_small_text_stays_text_and_bytes_are_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    data = {"staircase": (STAIRCASE, {"float": 2485.0, "packed": 443.0}), "bits": (PACKED, 3.7),
            "mdloo": ({"mdloo1": rollouts(*[(i, i) for i in range(160)])}, {"mdloo1": 40}),
            "losses": (LOSSES, SPANS), "claims": (CLAIMS, "1 shown")}
    contents = []
    for name in ("one", "two"):
        run = Run(tmp_path / name)
        run.create()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            links = pictures.write_pictures(run, data)
        contents.append({path.name: path.read_text() for path in run.path.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"staircase.svg", "bits.svg", "mdloo.svg", "losses.svg",
                                  "claims.svg"}
    assert links.startswith(f"![{TITLE}](staircase.svg)\n\n![In")
    for text in contents[0].values():
        assert len(text) < 60_000
        assert "date>" not in text and "Matplotlib" not in text
        assert "#000000" not in text and "#ffffff" not in text  # black and white would vanish
    assert f">{TITLE}</text>" in contents[0]["staircase.svg"]
