"""How far probabilities can be trusted: the log loss of fits of few rows, as they come and calibrated.

    python benchmarks/calibration.py --data DIR [--seeds 0,1,2]

1. Each cell draws training rows, stratified by class.
2. Each system is fitted on them, and gives the probabilities of the whole test part. Their accuracy and
   their log loss are kept.

"calibrated" is `CalibratedClassifierCV(BertClassifier(), method="temperature", cv=3, ensemble=False)`: three
fits on two thirds of the rows, whose predictions for the last third give the temperature, and one on all
rows. Every cell is written to `benchmarks/results/calibration.json` as soon as it is finished, so that a run
can be stopped and resumed.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Store, fill_and_print, load_dataset, row_subset
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from systems import LOGISTIC, as_input, frozen_embeddings

CELLS = (("sst2", 100), ("sst2", 600), ("mrpc", 300), ("agnews", 100), ("agnews", 400), ("clinc150", 450))
SYSTEMS = ("skbert", "skbert, calibrated", "skbert, label_smoothing=0.1", "embedding+LR")


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    return fill_and_print(__doc__, "calibration", CELLS, run_cell, table, argv)


def run_cell(store: Store, data: Path, cell: tuple[str, int], seed: int, env: dict[str, Any]) -> None:
    """Fit and judge every system on one draw, unless that is stored."""
    name, rows = cell
    missing = [system for system in SYSTEMS if store.get(f"{name}/{rows}/{seed}/{system}") is None]
    if not missing:
        return
    dataset = load_dataset(data, name)
    index = row_subset(dataset, rows, seed)
    X, X_test = (as_input(frame) for frame in (dataset.X_train.iloc[index], dataset.X_test))
    for system in missing:
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a few texts are truncated, for all systems
            classes, p = probabilities(system, X, dataset.y_train[index], X_test, seed)
        p = p.astype(float) / p.sum(axis=1, dtype=float, keepdims=True)
        result = {
            "dataset": name,
            "rows": rows,
            "seed": seed,
            "system": system,
            "accuracy": accuracy_score(dataset.y_test, classes[p.argmax(axis=1)]),
            "log_loss": log_loss(dataset.y_test, p, labels=classes),
            "data": dataset.digest,
            "seconds": round(time.perf_counter() - started, 1),
        }
        store.put(f"{name}/{rows}/{seed}/{system}", result, env)
        print(f"{name}/{rows}/{seed}/{system}: {result['log_loss']:.4f}", file=sys.stderr, flush=True)


def probabilities(
    system: str, X: pd.Series | pd.DataFrame, y: np.ndarray, X_test: pd.Series | pd.DataFrame, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the probability of each for every test text."""
    from skbert import BertClassifier

    if system == "embedding+LR":
        E, E_test = frozen_embeddings(X, y, X_test)
        logistic = LogisticRegression(**LOGISTIC).fit(E, y)
        return logistic.classes_, logistic.predict_proba(E_test)
    smoothing = 0.1 if system == "skbert, label_smoothing=0.1" else 0.0
    model: Any = BertClassifier(label_smoothing=smoothing, random_state=seed)
    if system == "skbert, calibrated":
        model = CalibratedClassifierCV(model, method="temperature", cv=3, ensemble=False)
    return model.fit(X, y).classes_, model.predict_proba(X_test)


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Accuracy and, in brackets, log loss of each system: means over the seeds."""
    lines = ["| set, rows | seeds | " + " | ".join(SYSTEMS) + " |"]
    lines.append("|---" * (len(SYSTEMS) + 2) + "|")
    for name, rows in CELLS:
        own = [c for c in cells if (c["dataset"], c["rows"]) == (name, rows)]
        columns = []
        for system in SYSTEMS:
            some = [c for c in own if c["system"] == system]
            scores = [statistics.fmean(c[of] for c in some) for of in ("accuracy", "log_loss") if some]
            columns.append("{:.3f} ({:.2f})".format(*scores) if scores else "-")
        lines.append(f"| {name}, {rows} | {len({c['seed'] for c in own})} | {' | '.join(columns)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
