"""README is short, and quotes figures that the results hold."""
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_figures_of_stages_are_those_of_the_results():
    """The quick start quotes lines such as "core: 9.4 s: ... bits/byte=1.876"."""
    results = (ROOT / ".results" / "toy.md").read_text()
    quoted = re.findall(r"^    (\w+): ([\d.]+) s: (.*)$", (ROOT / "README.md").read_text(), re.M)
    assert len(quoted) == 10
    for stage, seconds, metrics in quoted:
        assert re.search(rf"^\| {stage} \| {float(seconds):g} \|", results, re.M), stage
        for name, value in re.findall(r"([A-Za-z][A-Za-z/ %]*)=([\d.]+)", metrics):
            assert f"| {stage} | {name.strip()} | {value} |" in results, (stage, name)
