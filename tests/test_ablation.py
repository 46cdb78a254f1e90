"""What `benchmarks/ablation.py` switches off is there to be switched off."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import ablation

    yield ablation
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_techniques_name_what_is_there(ablation):
    for name, technique in ablation.TECHNIQUES.items():
        missing = [attribute for place, attribute, _ in technique.patches() if not hasattr(place, attribute)]
        assert not missing, name
