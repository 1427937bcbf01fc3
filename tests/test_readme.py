"""README is short, and quotes figures that the results hold."""
import pathlib
import random
import re

import pytest
import torch

from afm_min import align, pretrain
from afm_min.lab import runner, stages
from afm_min.model import PRESETS
from afm_min.run import UserError
from afm_min.world import writing

ROOT = pathlib.Path(__file__).parents[1]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def stage_rows():
    """Return {stage: [seconds, metric, before, after]} of the results' table "Stages"."""
    results = (ROOT / ".results" / "toy.md").read_text()
    table = re.search(r"^## Stages\n\n(?:[^|].*\n\n)?.*\n.*\n((?:\|.*\n)+)", results, re.M)[1]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {stage: [seconds, *values] for stage, seconds, _, *values in cells}


def test_lines_of_stages_are_those_of_the_results():
    """The quick start quotes lines such as "[13/35] sft 21.6 s: mean 42.2 -> 50.8 %"."""
    rows = stage_rows()
    quoted = re.findall(r"^    \[\d+/(\d+)\] (\w+) ([\d.]+) s: (.*)$",
                        (ROOT / "README.md").read_text(), re.M)
    assert len(quoted) == 10
    for count, stage, seconds, text in quoted:
        row_seconds, metric, before, after = rows[stage]
        assert int(count) == len(rows) and float(seconds) == float(row_seconds), stage
        name, percent, _ = metric.partition(" %")
        assert text.startswith(name) and text.endswith(" %" if percent else "")
        values = [float(value) for value in re.findall(r"[\d.]+", text.removeprefix(name))]
        expected = [float(value) for value in (before, after) if value]
        assert values == pytest.approx(expected, abs=0.051 if percent else 1e-9), stage


def test_figures_are_found_in_the_results():
    """Each percentage, and each number of bits, that README quotes of a run or of the claims is in
    .results, rounded in the same way."""
    section = re.search(r"^Five results.*?\n\n(.*?)\n\n## Reading order",
                        (ROOT / "README.md").read_text(), re.M | re.S)[1]
    quoted = re.findall(r"(\d+(?:\.\d+)?)(?= to \d|%| bits)", section)
    results = "".join((ROOT / ".results" / name).read_text() for name in ("toy.md", "claims.md"))
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", results)]
    assert len(quoted) >= 12
    for text in quoted:
        decimals = len(text.partition(".")[2])
        assert any(f"{number:.{decimals}f}" == text for number in numbers), text


# The examples of "Extend it".

@pytest.fixture
def extensions():
    """The names that the examples define, with those of the files that they belong in."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    names = vars(writing) | vars(pretrain)
    exec(code, names)
    return names


def test_the_family_of_the_example(extensions):
    family = extensions["Backwards"]()
    task = family.draw("train", random.Random(0))
    assert task.question == f"Say {task.key} backwards." and task.solution == task.key[::-1]
    assert family.check(task, task.solution) and not family.check(task, task.key)


def test_the_stage_of_the_example(extensions, monkeypatch):
    """It trains the model of `lengthening` on licensed prose alone, and saves it as `prose`."""
    trained = {}
    monkeypatch.setitem(extensions, "load_model", lambda run, stage: stage)
    monkeypatch.setitem(extensions, "text_batches", lambda run, model, mixture, rows: mixture)
    monkeypatch.setitem(extensions, "fit", lambda model, batches, loss, **settings: trained.update(
        settings, model=model, mixture=batches, loss=loss))
    monkeypatch.setitem(extensions, "finish", lambda run, stage, model: (stage, model))
    assert extensions["prose"]("run", steps=7) == ("prose", "lengthening")
    assert trained == {"model": "lengthening", "mixture": {"licensed": 1}, "run": "run", "steps": 7,
                       "loss": pretrain.next_token_loss, "lr": 0.001, "stage": "prose"}


def test_the_stage_of_the_example_can_be_added_to_the_table(extensions, monkeypatch):
    """Its entry works where README puts it, and its settings can be changed."""
    place, name, entry = re.search(r'lab/stages.py, after "(\w+)": "(\w+)": (Stage\(.*\)),\n',
                                   (ROOT / "README.md").read_text()).groups()
    monkeypatch.setattr(pretrain, "prose", extensions["prose"], raising=False)
    table = {}
    for stage, row in stages.STAGES.items():
        table[stage] = row
        if stage == place:
            table[name] = eval(entry, vars(stages) | {"pretrain": pretrain})
    for module in (stages, runner):
        monkeypatch.setattr(module, "STAGES", table)
    assert list(stages.with_needs([name]))[-2:] == [place, name]
    assert stages.parse_setting("prose.steps=7", vars(PRESETS["tiny"])) == ("prose.steps", 7)
    assert runner.expected_seconds({}, {name: {"steps": 100}}) == 2 * table[name].seconds


def test_the_loss_of_the_example(extensions):
    """The weight exp(1) is capped at 2, so the gradient is -2 A = -6."""
    logp = torch.tensor([1.0], requires_grad=True)
    extensions["capped_loss"](logp, torch.zeros(1), torch.tensor([3.0]), clip=2.0).sum().backward()
    assert logp.grad.tolist() == [-6]


def test_the_loss_of_the_example_can_be_chosen(extensions, monkeypatch):
    """Once its entry is in LOSSES, the two settings of README choose it."""
    readme = (ROOT / "README.md").read_text()
    name, entry = re.search(r'LOSSES: "(\w+)": (\(.*\))\n', readme).groups()
    texts = re.findall(rf"--set (mdloo1\.(?:loss={name}|clip=[\d.]+))", readme)
    model = vars(PRESETS["tiny"])
    with pytest.raises(UserError, match="takes one of 'mdpo', 'ppo', 'reinforce'"):
        stages.parse_setting(texts[0], model)
    monkeypatch.setitem(align.LOSSES, name, eval(entry, extensions))
    assert [stages.parse_setting(text, model) for text in texts] == [
        ("mdloo1.loss", name), ("mdloo1.clip", 2.0)]
    function, settings = align.LOSSES[name]
    assert function is extensions["capped_loss"]
    assert set(settings) <= stages.settings_of("mdloo1").keys()
