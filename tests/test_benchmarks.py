"""Benchmarks measure what is there to be measured, and the documents show what they print."""

import importlib
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}


@pytest.fixture
def benchmark_module(monkeypatch):
    """Imports a benchmark, as `python benchmarks/...` does, and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    for name in names:  # modules of the tests may have one of them
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def tables_of(text):
    """The Markdown tables of a text, each as one string."""
    groups = groupby(text.splitlines(), key=lambda line: line.startswith("|"))
    return ["\n".join(lines) for is_table, lines in groups if is_table]


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results are not part of the source distribution")
@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("README.md", "accuracy --rows 1000 --systems skbert,trainer,embedding+LR,tfidf+LR"),
        ("caching.md", "search"),
        ("defaults.md", "accuracy"),
        ("defaults.md", "calibration"),
        ("defaults.md", "defaults"),
        ("defaults.md", "early_stopping"),
        ("defaults.md", "few_shot"),
        ("defaults.md", "imbalance"),
        ("defaults.md", "regression"),
        ("performance.md", "ablation"),
        ("performance.md", "latency"),
        ("performance.md", "long_texts"),
        ("performance.md", "precision"),
        ("performance.md", "speed"),
        ("performance.md", "speed --float32"),
        ("training.md", "techniques"),
    ],
)
def test_a_page_shows_what_a_benchmark_prints(benchmark_module, capsys, page, command):
    name, *options = command.split()
    benchmark_module(name).main(["--table", *options])
    tables = tables_of(capsys.readouterr().out)
    assert tables
    assert set(tables) <= set(tables_of(PAGES[page]))


def test_techniques_name_what_is_there(benchmark_module):
    for name, technique in benchmark_module("ablation").TECHNIQUES.items():
        missing = [attribute for place, attribute, _ in technique.patches() if not hasattr(place, attribute)]
        assert not missing, name
