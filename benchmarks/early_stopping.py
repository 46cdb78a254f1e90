"""Which epoch a few held-out texts choose, and how good it is.

    python benchmarks/early_stopping.py --data DIR [--seeds 0,1,2,3,4]

1. Each cell draws training rows, stratified by class, and holds a tenth of them out, as `early_stopping=True`
   does.
2. One fit of all epochs writes down, after each, accuracy and log loss on the held-out texts and on 500 test
   texts.
3. The table plays rules on that: the fit ends when two epochs bring no better score of the held-out texts,
   and the best epoch's weights are taken, of equally good ones the first or the last.

Every fit is written to `benchmarks/results/early_stopping.json` as soon as it is finished, so that a run can
be stopped and resumed.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Store, fill_and_print, load_dataset, row_subset
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from systems import as_input

CELLS = (("sst2", 100), ("sst2", 300), ("agnews", 100))
N_TEST = 500
PATIENCE = 2
RULES = ("all epochs", "accuracy, of equals the first", "accuracy, of equals the last", "neg_log_loss")


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    return fill_and_print(__doc__, "early_stopping", CELLS, run_cell, table, argv)


def run_cell(store: Store, data: Path, cell: tuple[str, int], seed: int, env: dict[str, Any]) -> None:
    """Fit once, and keep what each epoch scores, unless that is stored."""
    from skbert import BertClassifier

    name, rows = cell
    if store.get(f"{name}/{rows}/{seed}") is not None:
        return
    dataset = load_dataset(data, name)
    index = row_subset(dataset, rows, seed)
    training, held = train_test_split(
        index, test_size=rows // 10, stratify=dataset.y_train[index], random_state=seed
    )
    test = np.random.default_rng(seed).permutation(len(dataset.y_test))[:N_TEST]
    X_val = [*as_input(dataset.X_train.iloc[held]), *as_input(dataset.X_test.iloc[test])]
    y_val = np.concatenate([dataset.y_train[held], dataset.y_test[test]])
    epochs: list[dict[str, float]] = []

    def score(model: Any, X: None, y: np.ndarray) -> float:
        p = model.predict_proba(X)
        epochs.append(
            scores_of(model.classes_, p[: len(held)], y[: len(held)], "held-out")
            | scores_of(model.classes_, p[len(held) :], y[len(held) :], "test")
        )
        return epochs[-1]["held-out accuracy"]

    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a few texts are truncated
        BertClassifier(scoring=score, random_state=seed).fit(
            as_input(dataset.X_train.iloc[training]), dataset.y_train[training], X_val=X_val, y_val=y_val
        )
    result = {
        "dataset": name,
        "rows": rows,
        "seed": seed,
        "epochs": epochs[1:],  # the first is before training
        "data": dataset.digest,
        "seconds": round(time.perf_counter() - started, 1),
    }
    store.put(f"{name}/{rows}/{seed}", result, env)
    print(f"{name}/{rows}/{seed}: {len(epochs) - 1} epochs", file=sys.stderr, flush=True)


def scores_of(classes: np.ndarray, p: np.ndarray, y: np.ndarray, where: str) -> dict[str, float]:
    """Accuracy and log loss of probabilities."""
    p = p.astype(float) / p.sum(axis=1, dtype=float, keepdims=True)
    return {
        f"{where} accuracy": accuracy_score(y, classes[p.argmax(axis=1)]),
        f"{where} log loss": log_loss(y, p, labels=classes),
    }


def chosen(epochs: Sequence[dict[str, float]], rule: str) -> tuple[int, int]:
    """The epoch that a rule takes, and the last one that runs; from 0."""
    if rule == "all epochs":
        return len(epochs) - 1, len(epochs) - 1
    by_loss = rule == "neg_log_loss"
    scores = [-epoch["held-out log loss"] if by_loss else epoch["held-out accuracy"] for epoch in epochs]
    best = first_best = last = 0
    for last, score in enumerate(scores):
        if score > scores[best]:
            best = first_best = last
        elif score == scores[best] and rule.endswith("the last"):
            best = last
        if last - first_best >= PATIENCE:
            break
    return best, last


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Test accuracy and, in brackets, log loss and epochs run, by rule: means over the seeds."""
    lines = ["| set, rows | held out | seeds | " + " | ".join(RULES) + " |"]
    lines.append("|---" * (len(RULES) + 3) + "|")
    for name, rows in CELLS:
        own = [cell for cell in cells if (cell["dataset"], cell["rows"]) == (name, rows)]
        columns = [_means(own, rule) for rule in RULES] if own else ["-"] * len(RULES)
        lines.append(f"| {name}, {rows} | {rows // 10} | {len(own)} | {' | '.join(columns)} |")
    return lines


def _means(cells: list[dict[str, Any]], rule: str) -> str:
    found = []
    for cell in cells:
        best, last = chosen(cell["epochs"], rule)
        epoch = cell["epochs"][best]
        found.append((epoch["test accuracy"], epoch["test log loss"], last + 1))
    return "{:.3f} ({:.2f}, {:.1f})".format(
        *(statistics.fmean(column) for column in zip(*found, strict=True))
    )


if __name__ == "__main__":
    sys.exit(main())
