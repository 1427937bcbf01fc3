"""Figures of the evaluation, against enumeration and numbers worked by hand."""
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import evaluate, respond
from afm_min.model import PRESETS
from afm_min.respond import Response
from afm_min.tokenizer import Tokenizer
from afm_min.world import families, tools
from afm_min.world.tasks import EVOLVED, MATH, NOTES, RECALL, Math, Recall, Task, draw_tasks


# Shares and intervals.

@pytest.mark.parametrize("n, right", [(4, 0), (4, 1), (5, 2), (6, 6)])
def test_pass_at_k_is_the_share_of_choices_with_a_right_sample(n, right):
    """Against all ways to choose k of n samples."""
    samples = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        choices = list(itertools.combinations(samples, k))
        share = sum(map(any, choices)) / len(choices)
        assert evaluate.pass_at_k(n, right, k) == pytest.approx(share)


def test_wilson_solves_its_equation():
    """Its ends are the shares p from which 8 of 10 is 1.96 standard deviations away."""
    low, high = evaluate.wilson(8, 10)
    assert low < 0.8 < high
    for p in (low, high):
        assert abs(0.8 - p) == pytest.approx(1.96 * (p * (1 - p) / 10) ** 0.5)
    assert evaluate.wilson(0, 10)[0] == pytest.approx(0)
    assert evaluate.wilson(0, 0) == (0, 1)
    for count in range(1, 100):  # despite rounding
        assert evaluate.wilson(0, count)[0] >= 0
        assert evaluate.wilson(count, count)[1] <= 1


def test_a_row_by_hand():
    """8 of 10 are 80%, with an interval of 49.0 to 94.3. Results may be probabilities."""
    assert evaluate.row("math", [True] * 8 + [False] * 2) == ["math", 80, "49.0 to 94.3", 10]
    assert evaluate.row("code", [0.25, 0.75])[:2] == ["code", 50]
    assert evaluate.percent([]) == 0


# Benchmarks of single families.

def test_loose_readings_of_three_lines():
    """Without the first line, the last, or both, and each without stars. Empty ones are left out,
    unless all are."""
    assert evaluate.loose_readings("*a\nb\nc") == [
        "*a\nb\nc", "b\nc", "*a\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert evaluate.loose_readings("*a") == ["*a", "a"]
    assert evaluate.loose_readings("") == [""]


def test_instructions_followed_strictly_and_loosely():
    """Four responses to one task with three instructions: right; right after a line before; right
    between stars; without its end."""
    family = families.Follow()
    task = Task("?", "+ red + blue. Done", ("colours", 2, "plus", "", "", "Done"), "")
    texts = ["+ red + blue. Done", "Sure!\n+ red + blue. Done", "**+ red + blue. Done**",
             "+ red + blue"]
    rows = evaluate.instruction_following(family, [task] * 4, texts)
    assert {name: (percent, count) for name, percent, _, count in rows} == {
        "follow: prompts, strict": (25, 4), "follow: prompts, loose": (75, 4),
        "follow: instructions, strict": (pytest.approx(100 * (3 + 2 + 0 + 2) / 12), 12),
        "follow: instructions, loose": (pytest.approx(100 * 11 / 12), 12)}


def test_a_response_that_breaks_an_instruction_breaks_it_loosely_too():
    """No empty reading keeps the instruction to avoid a word."""
    task = Task("?", "+ red + blue", ("colours", 2, "plus", "", "pink", ""), "")
    rows = evaluate.instruction_following(families.Follow(), [task], ["+ red + pink"])
    assert [percent for _, percent, _, _ in rows] == [0, pytest.approx(200 / 3)] * 2


def test_refusals_by_hand():
    """One of four harmful requests is not refused, and one of three harmless ones is."""
    harmful, harmless = (Task("?", "?", answer, "") for answer in ("", "paint a shed"))
    texts = ["I cannot help with that."] * 3 + ["Sure."]
    texts += ["I cannot.", "To paint a shed, go.", "Yes."]
    rows = evaluate.refusals(families.Refuse(), [harmful] * 4 + [harmless] * 3, texts)
    assert [(percent, count) for _, percent, _, count in rows] == [
        (25, 4), (pytest.approx(100 / 3), 3)]


# Two models side by side.

KEYS = Task("Where are Ada's keys?", "in box 4.", "4", "")


def test_side_by_side_counts_wins_ties_and_losses():
    """Right against wrong wins, and right against right ties.

    All are of one length. So the fitted rate is the mean, (2 + 0.5) / 4, drawn a little to one half
    by the ridge. H = 4 x 0.6135 x 0.3865 + 0.1 = 1.0485 and, with one tie, V = 3 x 0.6135 x 0.3865
    + 0.1135^2 + 0.1 = 0.8242. So the log odds, 0.461, are +- 1.96 x 0.8242^0.5 / 1.0485 = 1.697."""
    *shares, even, only_we, only_they = evaluate.side_by_side(
        [(RECALL, KEYS)] * 4, ours=["in box 4.", "in box 4.", "in box 5.", "in box 4."],
        theirs=["in box 4.", "in box 7.", "in box 4.", "in box 9."])
    assert [row[:2] for row in shares] == [["wins", 50], ["ties", 25], ["losses", 25]]
    assert even[0] == "wins at equal length"
    assert 60 < even[1] < 62.5
    assert even[2:] == ["22.5 to 89.7", 4]
    assert only_we[:2] == ["only we are right", 50]
    assert only_they[:2] == ["only they are right", 25]


def outcomes(wins, ties, losses):
    return torch.tensor([1.0] * wins + [0.5] * ties + [0.0] * losses)


def test_ties_narrow_the_interval_of_equal_lengths():
    """Of 30 wins, 360 ties and 10 losses, the mean is p = 210 / 400 = 0.525. With the variances
    40 x 0.525 x 0.475 + 360 x 0.025^2 = 10.2, it is known to 1.96 sqrt(10.2) / 400 = 1.565%. As 400
    tosses of a coin it would be +- 4.89%. The standard error of the mean is 1.53%."""
    rate, low, high = evaluate.rate_at_equal_length(outcomes(30, 360, 10), torch.zeros(400))
    assert rate == pytest.approx(52.5, abs=0.01)
    assert (high - low) / 2 == pytest.approx(1.565, abs=0.01)


def test_without_ties_the_interval_is_that_of_a_logistic_regression():
    """60 wins of 100: log(1.5) +- 1.96 / sqrt(24), by the information 100 x 0.6 x 0.4."""
    interval = evaluate.rate_at_equal_length(outcomes(60, 0, 40), torch.zeros(100))
    odds = [math.log(1.5) + sign * 1.96 / math.sqrt(24) for sign in (0, -1, 1)]
    assert interval == pytest.approx([100 / (1 + math.exp(-x)) for x in odds], abs=0.1)


@pytest.mark.parametrize("count", [4, 200])
def test_an_interval_of_ties_alone_is_narrow_but_no_point(count):
    rate, low, high = evaluate.rate_at_equal_length(outcomes(0, count, 0), torch.zeros(count))
    assert rate == 50
    assert 0 < high - low < 150 / count


def test_ties_that_the_regression_does_not_fit_do_not_narrow_the_interval():
    """30 wins of medium length, 30 losses of more length, and 10 ties at equal length, where the
    regression extrapolates to p = 0.94. There a tie adds 0.44^2 to the variance, a win 0.06."""
    longer = torch.tensor([0.5] * 30 + [0.0] * 10 + [1.0] * 30)
    rate, low, high = evaluate.rate_at_equal_length(outcomes(30, 10, 30), longer)
    assert rate == pytest.approx(94.2, abs=0.1)
    without_ties = evaluate.rate_at_equal_length(outcomes(30, 0, 30), longer[longer > 0])
    assert high - low > 15
    assert high - low > 0.7 * (without_ties[2] - without_ties[1])


def test_few_tasks_leave_one_to_measure_code_by(monkeypatch):
    counts = []
    monkeypatch.setattr(evaluate, "one_sample", lambda *arguments: ["one sample"])
    monkeypatch.setattr(evaluate, "code_passes",
                        lambda model, family, count: counts.append(count) or [])
    world = families.all_families()
    names = [*world, *EVOLVED, *(f"recall: up to {n} notes" for n in NOTES)]
    evaluate.benchmarks(None, world, 3, dict.fromkeys(names, ["?"] * 3))
    assert counts == [1]


@pytest.mark.parametrize("ties", [0.0, 0.4, 0.9])
def test_the_interval_at_equal_length_is_that_of_a_bootstrap(ties):
    """400 outcomes whose log odds rise with the length, and 250 resamples of them, whose standard
    error has itself one of 1 / sqrt(500) = 4.5%."""
    torch.manual_seed(0)
    longer = torch.randn(400).tanh()
    wins = torch.where(torch.rand(400) < ties, 0.5,
                       (torch.rand(400) < (0.3 + longer).sigmoid()).float())
    _, low, high = evaluate.rate_at_equal_length(wins, longer)
    resamples = torch.randint(400, (250, 400))
    rates = [evaluate.rate_at_equal_length(wins[i], longer[i])[0] for i in resamples]
    assert (high - low) / 2 == pytest.approx(1.96 * torch.tensor(rates).std().item(), rel=0.15)


def test_side_by_side_compares_grades_if_both_are_right_or_wrong():
    """Of two right responses the more concise one wins, but a right one wins over a concise one."""
    long = "It is in box number 4, as far as is known."
    rows = evaluate.side_by_side([(RECALL, KEYS)] * 2, ours=["in box 4.", "in box 7."],
                                 theirs=[long, long])
    assert [row[1] for row in rows[:3]] == [50, 0, 50]
    assert [row[1] for row in rows[4:]] == [0, 50]  # only we, and only they are right


def test_all_wins_have_a_finite_rate_at_equal_length():
    """At 200 wins of 200 the gradient is zero where 200 (1 - p) = 0.1 log(p / (1 - p)): at log odds
    of 5.834."""
    rows = evaluate.side_by_side([(RECALL, KEYS)] * 200, ["in box 4."] * 200, ["in box 7."] * 200)
    assert [row[1] for row in rows[:3]] == [100, 0, 0]
    assert rows[3][1] == pytest.approx(100 / (1 + math.exp(-5.834)), abs=0.001)


def test_side_by_side_removes_the_effect_of_length():
    """The longer response wins three times in four, and ours is the longer one in 16 of 20: it
    wins 12 + 1 of them, but at equal length one in two."""
    long, short = "It is in box {}, as far as is known.", "box {}."
    pairs = ([(long.format(4), short.format(7))] * 12 + [(long.format(7), short.format(4))] * 4
             + [(short.format(4), long.format(7))] * 1
             + [(short.format(7), long.format(4))] * 3) * 10
    rows = evaluate.side_by_side([(RECALL, KEYS)] * 200, *zip(*pairs))
    percents = {row[0]: row[1] for row in rows}
    assert percents["wins"] == pytest.approx(65)
    assert percents["wins at equal length"] == pytest.approx(50, abs=0.5)


def test_length_counts_as_tanh_of_50_characters():
    """Wins whose log odds are 0.4 + 1.5 tanh(characters / 50) have the rate sigmoid(0.4) = 0.5987
    at equal length. At 0, 50 and 100 characters more they are 0.5987, 0.8239 and 0.8637."""
    pairs = []
    for characters, wins in ((0, 599), (50, 824), (100, 864)):  # of 1,000
        suffix = "." * characters
        pairs += [("in box 4." + suffix, "in box 7.")] * wins
        pairs += [("in box 7." + suffix, "in box 4.")] * (1000 - wins)
    rows = evaluate.side_by_side([(RECALL, KEYS)] * 3000, *zip(*pairs))
    assert rows[0][1] == pytest.approx(100 * (599 + 824 + 864) / 3000)
    assert rows[3][1] == pytest.approx(59.87, abs=0.1)


# A model that knows some answers.

class Oracle:
    """Stands for a model: returns the known response to a prompt, or "Hm."."""
    config = PRESETS["afm-on-device"]  # any prompt fits its context

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def learn(self, messages, response):
        self.known[tuple(self.tokenizer.encode_chat(messages, reply=True))] = response

    def learn_tasks(self, tasks):
        """Learn the solutions. One with calls is several replies, the last one after all calls."""
        for task in tasks:
            messages, solution = task.messages(), task.solution
            while solution.startswith(tools.CALL):
                call, solution = solution.split("\n", 1)
                self.learn(messages, call)
                messages.append({"role": "assistant", "content": call})
                messages.append(tools.answer_call(call, messages))
            self.learn(messages, solution)


@pytest.fixture
def oracle(monkeypatch):
    """An oracle that `chat` generates from. It lists the temperatures used."""
    oracle = Oracle(Tokenizer.train(["Where are the keys?"], 300))
    oracle.temperatures = []

    def generate_with_logp(model, prompts, max_new_tokens, stop, temperature, uniforms):
        model.temperatures.append(temperature)
        texts = [model.known.get(tuple(prompt), "Hm.") for prompt in prompts]
        return [([*model.tokenizer.encode(text), stop], 0.0) for text in texts]
    monkeypatch.setattr(respond, "Decoder", lambda model: model)
    monkeypatch.setattr(respond, "generate_with_logp", generate_with_logp)
    return oracle


def test_accuracy_of_a_model_that_knows_half_of_the_answers(oracle):
    """Results are in the order of the tasks, and true for those whose solution is known."""
    world = families.all_families()
    for family in world.values():
        oracle.learn_tasks(draw_tasks(family, "test", 20)[:10])
    results = evaluate.accuracy(oracle, world, count=20)
    assert list(results) == list(world)
    for name, family in world.items():
        known = [str(task.messages()) for task in draw_tasks(family, "test", 20)[:10]]
        assert results[name] == [
            str(task.messages()) in known for task in draw_tasks(family, "test", 20)]
    assert set(oracle.temperatures) == {0.0}


def test_code_passes_of_a_model_that_knows_all_answers(oracle):
    """Rows of pass@1 and pass@samples, from samples at temperature 1."""
    code = families.Code()
    oracle.learn_tasks(draw_tasks(code, "test", 10))
    assert evaluate.code_passes(oracle, code, 10, samples=3) == [
        ["code: pass@1", 100, "72.2 to 100.0", 10], ["code: pass@3", 100, "72.2 to 100.0", 10]]
    assert set(oracle.temperatures) == {1.0}


def test_code_passes_by_hand(monkeypatch):
    """One of 4 samples passes: pass@1 is 1/4 and pass@4 is 1."""
    code = families.Code()
    task, = draw_tasks(code, "test", 1)
    monkeypatch.setattr(evaluate, "sample_texts", lambda model, tasks, samples: (
        [[task.solution] + ["?"] * (samples - 1)]))
    rows = evaluate.code_passes(None, code, 1, samples=4)
    assert [row[:2] for row in rows] == [["code: pass@1", 25], ["code: pass@4", 100]]


def test_tool_use_by_hand():
    """Ten solutions have a call. Five of the responses begin with it. Four call a tool and end with
    the right answer, two of them after a wrong first call. One has the answer without a call, and
    two after a call that is not valid.
    Three solutions have no call, but one response calls a tool."""
    call, other = tools.format_call("price", "keys"), tools.format_call("stock", "keys")
    called = Task("?", f"{call}\nThey cost 4.", ((call,), "They cost 4."), "")
    uncalled = Task("?", "Hello, Ada!", ((), "Hello, Ada!"), "")
    pairs = [(called, f"{call}\nThey cost 4."), (called, f"{call}\nThey cost 5."),
             (called, 'call: price(item="keys")\nThey cost 4.'), (called, f"{other}\nThey cost 4."),
             (called, f"{other}\n{call}\nThey cost 4."), (called, "They cost 4."), (called, call),
             (called, f"{call}\nThey cost 4.\nBye."), (called, "call: 7\nThey cost 4."),
             (called, "call: price('keys')\nThey cost 4."),
             (uncalled, "Hello, Ada!"), (uncalled, "Hello!"), (uncalled, f"{call}\nHello, Ada!")]
    rows = evaluate.tool_use(families.Tools(), *zip(*pairs))
    assert [(name, percent, count) for name, percent, _, count in rows] == [
        ("tools: calls by syntax tree", 50, 10), ("tools: executed", 40, 10),
        ("tools: none called where none is needed", pytest.approx(200 / 3), 3)]


def test_tools_are_executed_in_the_conversations(oracle):
    """A model that knows all replies gives the solutions. One that always calls the same tool has
    no conversation right, and calls where none is needed."""
    family = families.Tools()
    tasks = draw_tasks(family, "test", 30)
    oracle.learn_tasks(tasks)

    def tool_use():
        texts = respond.generate_texts(oracle, [task.messages() for task in tasks])
        return texts, evaluate.tool_use(family, tasks, texts)
    texts, rows = tool_use()
    assert texts == [task.solution for task in tasks]
    with_calls = sum(task.solution.startswith(tools.CALL) for task in tasks)
    assert 0 < with_calls < 30 and any(task.turns for task in tasks)
    assert [row[1] for row in rows] == [100, 100, 100]
    assert [row[3] for row in rows] == [with_calls, with_calls, 30 - with_calls]
    oracle.known = {prompt: tools.format_call("price", "keys") for prompt in oracle.known}
    assert [row[1] for row in tool_use()[1]][1:] == [0, 0]


def test_conversations_with_tools_are_whole_if_asked_for():
    """Otherwise some begin in the middle. Other families have the same tasks."""
    some, whole = (evaluate.validation_tasks(8, whole=whole) for whole in (False, True))
    for tasks, whole_ones in ((some, False), (whole, True)):
        of_tools = [task for family, task in tasks if family.name == "tools"]
        assert len(of_tools) == 8
        assert whole_ones == all(len(task.turns) == 2 * len(task.answer[0]) for task in of_tools)
    assert [family.name for family, _ in some] == [family.name for family, _ in whole]
    for (family, task), (_, other) in zip(some, whole):
        assert family.name == "tools" or task == other


# Validation.

def test_validation_by_family_and_on_average(monkeypatch):
    """Solved: half of plain mathematics, a quarter of the rephrased, all of recall's 4. Families
    with fewer tasks than asked for count those that they have."""
    asked = []
    monkeypatch.setattr(evaluate, "all_families", lambda: {"math": MATH, "recall": Recall(1)})
    monkeypatch.setattr(evaluate, "EVOLVED", {"math rephrased": Math("rephrased")})
    solved = {"math": 2, "math rephrased": 1, "recall": 4}

    def generate_texts(model, conversations, temperature):
        asked.append((len(conversations), temperature))
        return [task.solution if i < solved[name] else ""
                for name, family in (evaluate.all_families() | evaluate.EVOLVED).items()
                for i, task in enumerate(draw_tasks(family, "validation", 4))]
    monkeypatch.setattr(evaluate, "generate_texts", generate_texts)
    assert evaluate.validation(None, 4) == {
        "mean %": pytest.approx(175 / 3), "math %": 50, "recall %": 100, "math rephrased %": 25,
        "all math %": 37.5}
    assert asked == [(12, 0.0)]


def test_mean_over_families():
    """Half of one family's two tasks, and none of the other's one: 25%."""
    first, second = draw_tasks(MATH, "validation", 2)
    other, = draw_tasks(RECALL, "validation", 1)
    responses = [Response([], [], text) for text in (first.solution, "", "")]
    assert evaluate.mean_over_families([(MATH, first), (MATH, second), (RECALL, other)],
                                       responses) == 25


# All benchmarks.

def asked(world):
    """Return all families that the stage evaluation asks."""
    return world | EVOLVED | {f"recall: up to {n} notes": Recall(n) for n in NOTES}


def test_benchmarks_have_a_row_for_each_figure(oracle):
    """A model that knows all solutions of test tasks, but only up to 4 notes."""
    world = families.all_families()
    for family in [*world.values(), *EVOLVED.values(), *map(Recall, (1, 2, 4))]:
        oracle.learn_tasks(draw_tasks(family, "test", 8))
    texts = evaluate.responses(oracle, asked(world), count=8)
    rows = evaluate.benchmarks(oracle, world, 8, texts)
    assert [row[0] for row in rows[:len(world) + 9]] == [*asked(world)]
    assert [row[1] for row in rows[:len(world) + 7]] == [100] * (len(world) + 7)
    percents = {name: (percent, count) for name, percent, _, count in rows}
    assert percents["follow: prompts, strict"] == (100, 8)
    assert percents["refuse: harmful not refused"][0] == 0
    assert percents["refuse: harmless refused"][0] == 0
    assert percents["tools: calls by syntax tree"][0] == 100
    assert percents["code: pass@8"] == (100, 2)  # a quarter of the tasks
    assert percents["all tasks: one sample"][0] == 100
    assert percents["recall: up to 8 notes"][0] < 100
    assert percents["recall: up to 16 notes"] == (0, 8)


def test_one_sample_counts_all_tasks_at_temperature_1(oracle):
    """It knows all 4 tasks of one family and none of the other's."""
    oracle.learn_tasks(draw_tasks(RECALL, "test", 4))
    rows = evaluate.one_sample(oracle, {"recall": RECALL, "math": EVOLVED["math deeper"]}, 4)
    assert rows[1] == 50 and rows[3] == 8
    assert set(oracle.temperatures) == {1.0}


def test_base_models_are_asked_in_plain_text(monkeypatch):
    monkeypatch.setattr(evaluate, "plain_texts", lambda model, family, prompts: [
        f"plain {family.name}"] * len(prompts))
    monkeypatch.setattr(evaluate, "generate_texts", lambda model, prompts: ["chat"] * len(prompts))
    world = {"recall": RECALL}
    assert evaluate.responses(None, world, 2, plain=True) == {"recall": ["plain recall"] * 2}
    assert evaluate.responses(None, world, 2) == {"recall": ["chat"] * 2}


@pytest.mark.parametrize("packed, opponent", [(True, ""), (False, "runs/other")])
def test_evaluation_compares_the_right_models(monkeypatch, packed, opponent):
    """The table has a column for each model, and side by side stand aligned against sft and sft
    against draft, and each against the opponent's model of its stage."""
    stages, attached = [], []

    def load_model(run, stage, kind=None):
        stages.append(stage)
        return f"{stage} of {run.path}"
    run = SimpleNamespace(seed=0, path="runs/toy", device="cpu", file=str,
                          checkpoint=lambda stage: f"{stage}.pt",
                          load=lambda path: {"held_out": {}})
    monkeypatch.setattr(evaluate, "Run", lambda path, device: SimpleNamespace(path=path))
    monkeypatch.setattr(evaluate, "all_families", lambda: {"recall": RECALL})
    monkeypatch.setattr(evaluate, "load_model", load_model)
    monkeypatch.setattr(evaluate.lora, "load_adapter", lambda path, model: path)
    monkeypatch.setattr(evaluate.lora, "attach", lambda *pair: attached.append(pair))
    monkeypatch.setattr(evaluate, "continuations", lambda model, streams, count: [True, False])
    monkeypatch.setattr(evaluate, "responses", lambda model, families, count, plain=False: (
        {name: [f"{model} plain" if plain else model] for name in families}))
    monkeypatch.setattr(evaluate, "benchmarks", lambda model, world, count, texts: (
        [[name, 40 + i, texts[name], count] for i, name in enumerate(asked(world))]))
    monkeypatch.setattr(evaluate, "side_by_side", lambda tasks, ours, theirs: (
        [["wins", set(ours), set(theirs), len(tasks)]]))
    metrics = evaluate.evaluation(run, count=3, aligned="mdloo2", packed=packed,
                                  opponent=opponent)
    expected = ["lengthening", "draft", "sft", "mdloo2"] + ["quantize"] * 2 * packed
    assert stages[:len(expected)] == expected
    assert attached == ([("quantize of runs/toy", "recovery.pt")] if packed else [])
    assert metrics["mean %"] == metrics["sft mean %"] == 42  # recall, evolved mathematics: 40 .. 44
    assert len(metrics["evaluation"][0]) == 2 + 2 * len(expected)
    assert metrics["evaluation"][0][:5] == ["recall", 40, ["lengthening of runs/toy plain"],
                                            40, ["draft of runs/toy"]]
    assert metrics["evaluation"][-1][:2] == ["text: continuation of four", 50]
    count = sum(len(draw_tasks(family, "test", 3)) for family in (RECALL, *EVOLVED.values()))
    for name, ours, theirs in (("aligned against sft", "mdloo2", "sft"),
                               ("sft against draft", "sft", "draft"),
                               ("aligned against one round", "mdloo2", "best1")):
        assert metrics[name] == [
            ["wins", {f"{ours} of runs/toy"}, {f"{theirs} of runs/toy"}, count]]
    assert metrics["wins %"] == {"mdloo2 of runs/toy"}
    against = {name: rows for name, rows in metrics.items() if name.endswith("opponent")}
    assert against == ({} if not opponent else {
        "base against opponent": [["wins", {"lengthening of runs/toy plain"},
                                   {"lengthening of runs/other plain"}, count]],
        "sft against opponent": [["wins", {"sft of runs/toy"}, {"sft of runs/other"}, count]],
        "aligned against opponent": [
            ["wins", {"mdloo2 of runs/toy"}, {"mdloo2 of runs/other"}, count]]})
