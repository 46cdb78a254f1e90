"""What predictions in bfloat16 and in 8-bit integers change, next to float32.

Usage: ``python benchmarks/precision.py --data DIR``; ``--table`` prints what is stored. Needs the default
checkpoint.

1. Fit the default recipe on 1,000 training rows of each data set, in float32. A model that has learned little
   is unsure of all texts, and its probabilities hardly move.
2. Predict the test part with that model in float32, bfloat16 and int8.
3. Print accuracy, log loss, how many labels are others than in float32, and how far probabilities move: the
   largest move, and the 99th percentile over the texts of each text's largest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from common import DATASETS, fill_by_dataset, load_dataset, row_subset
from sklearn.metrics import accuracy_score, log_loss

PRECISIONS = ("float32", "bfloat16", "int8")
SETTINGS = {"rows": 1000, "seed": 0, "precision of the fit": "float32"}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    fill_by_dataset(__doc__, "precision", DATASETS, SETTINGS, measure, table, argv)


def measure(data: Path, name: str) -> dict[str, Any]:
    """Fit once, predict in each precision."""
    from skbert import BertClassifier

    dataset = load_dataset(data, name)
    rows = row_subset(dataset, SETTINGS["rows"], SETTINGS["seed"])
    classifier = BertClassifier(precision="float32", device="cpu", random_state=SETTINGS["seed"])
    classifier.fit(dataset.X_train.iloc[rows], dataset.y_train[rows])
    found = {
        precision: classifier.set_params(precision=precision).predict_proba(dataset.X_test)
        for precision in PRECISIONS
    }
    classes = classifier.classes_
    measured = {p: summary(found[p], found["float32"], classes, dataset.y_test) for p in PRECISIONS}
    print(f"{name}: {measured}", file=sys.stderr, flush=True)
    return {"settings": SETTINGS, "n_train": len(rows), "n_test": len(dataset.y_test), "precisions": measured}


def summary(
    probabilities: np.ndarray, exact: np.ndarray, classes: np.ndarray, y: np.ndarray
) -> dict[str, float]:
    """How good some probabilities are, and how far they are from those in float32."""
    labels, of_exact = (classes[p.argmax(axis=1)] for p in (probabilities, exact))
    moves = np.abs(probabilities - exact).max(axis=1)
    return {
        "accuracy": float(accuracy_score(y, labels)),
        "log loss": float(log_loss(y, probabilities, labels=classes)),
        "other labels": int((labels != of_exact).sum()),
        "largest move": float(moves.max()),
        "move of one in a hundred": float(np.quantile(moves, 0.99)),
    }


def table(cells: dict[str, Any], datasets: list[str]) -> list[str]:
    """Build the Markdown table."""
    header = ("set, rows", "in", "accuracy", "log loss", "other labels", "move, p99", "largest move")
    lines = [_row(header), _row(["---"] * len(header)).replace(" ", "")]
    for name in datasets:
        cell = cells.get(name)
        for precision in PRECISIONS if cell else ():
            of = cell["precisions"][precision]
            moved = (
                f"{of['other labels']} of {cell['n_test']:,}",
                f"{of['move of one in a hundred']:.4f}",
                f"{of['largest move']:.4f}",
            )
            head = f"{name}, {cell['n_train']:,}", precision, f"{of['accuracy']:.4f}", f"{of['log loss']:.4f}"
            lines.append(_row(head + (("-", "-", "-") if precision == "float32" else moved)))
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
