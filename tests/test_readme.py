"""README is short, and quotes figures that the results hold."""
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def stage_rows():
    """Return {stage: [seconds, metric, before, after]} of the results' table "Stages"."""
    results = (ROOT / ".results" / "toy.md").read_text()
    table = re.search(r"^## Stages\n\n.*\n.*\n((?:\|.*\n)+)", results, re.M)[1]
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
