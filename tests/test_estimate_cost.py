"""What work costs on paper: the arithmetic, and the table that docs/scaling.md shows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def estimate(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "estimate_cost.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_table_of_the_page_is_what_is_printed():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rates, *table = estimate()
    assert "\n".join(table) in page
    training, prediction = (part.split()[0] for part in rates.split(": ")[1].split(", "))
    assert f"({training} tokens a second in training, {prediction} in prediction)" in page


def test_table_of_assumed_rates_is_what_is_printed():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    command = "--training-rate 700000 --prediction-rate 2500000"
    assert f"python benchmarks/estimate_cost.py {command}`" in " ".join(page.split())
    assert "\n".join(estimate(*command.split())[1:]) in page


def test_hours():
    # 3600 texts of 10 tokens, at 10 tokens a second: 3600 seconds an epoch; prediction twice as fast.
    sizes = ["--texts", "3600", "--length", "10", "--epochs", "2", "--devices", "1,4"]
    search = ["--points", "3", "--folds", "2", "--search-texts", "7200"]
    *_, fit, predict, found = estimate("--training-rate", "10", "--prediction-rate", "20", *sizes, *search)
    assert fit.endswith("| 2.00 | 0.50 |")
    assert predict.endswith("| 0.50 | 0.12 |")
    # Six fits, each of 3600 texts twice and a prediction of 3600: 2.5 hours; on four devices two in a row.
    assert found.endswith("| 15.00 | 5.00 |")


def test_a_device_that_was_not_measured():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        estimate("--device", "xpu")
    assert "--measure" in caught.value.stderr
