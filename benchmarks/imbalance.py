"""Rare classes: what `class_weight="balanced"` brings, next to weights of texts and to simpler models.

    python benchmarks/imbalance.py --data DIR [--seeds 0,1,2]

1. Each cell draws training rows with the numbers of each class that it names, most of the first class.
2. Each system is fitted on them, and asked for its balanced accuracy (the mean recall over the classes) and
   its log loss on test texts, in both of which every class weighs the same.

"weights of texts" is the same estimator with the balanced weights as `sample_weight`. Every cell is written
to `benchmarks/results/imbalance.json` as soon as it is finished, so that a run can be stopped and resumed.
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
from common import Dataset, Store, fill_and_print, load_dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.utils import compute_sample_weight
from systems import LOGISTIC, TFIDF, frozen_embeddings

CELLS: dict[str, tuple[str, tuple[int, ...]]] = {  # data set, rows of each class
    "agnews, one topic of 4": ("agnews", (388, 12)),  # the other three together
    "agnews": ("agnews", (240, 80, 24, 8)),
    "clinc150, 20 intents": ("clinc150", tuple(max(2, round(50 * 0.82**i)) for i in range(20))),
    "sst2": ("sst2", (270, 30)),
}
SYSTEMS = ("skbert, balanced", "skbert, weights of texts", "skbert, no weights", "embedding+LR", "tfidf+LR")
MAX_LENGTH = 64


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    return fill_and_print(__doc__, "imbalance", CELLS, run_cell, table, argv)


def run_cell(store: Store, data: Path, cell: str, seed: int, env: dict[str, Any]) -> None:
    """Fit and judge every system on one draw, unless that is stored."""
    name, counts = CELLS[cell]
    missing = [system for system in SYSTEMS if store.get(f"{cell}/{seed}/{system}") is None]
    if not missing:
        return
    dataset = load_dataset(data, name)
    X, y, X_test, y_test = draw(dataset, counts, seed)
    for system in missing:
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a few texts are truncated, for all systems
            classes, p = probabilities(system, X, y, X_test, seed)
        p = p.astype(float) / p.sum(axis=1, dtype=float, keepdims=True)
        predicted = classes[p.argmax(axis=1)]
        weights = compute_sample_weight("balanced", y_test)
        result = {
            "cell": cell,
            "seed": seed,
            "system": system,
            "rows": counts,
            "balanced_accuracy": balanced_accuracy_score(y_test, predicted),
            "log_loss": log_loss(y_test, p, labels=classes, sample_weight=weights),
            "data": dataset.digest,
            "seconds": round(time.perf_counter() - started, 1),
        }
        store.put(f"{cell}/{seed}/{system}", result, env)
        print(f"{cell}/{seed}/{system}: {result['balanced_accuracy']:.4f}", file=sys.stderr, flush=True)


def draw(dataset: Dataset, counts: tuple[int, ...], seed: int) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Training texts and labels with so many rows of each class, and all test texts of these classes."""
    y_train, y_test = dataset.y_train, dataset.y_test
    names = np.unique(y_train)
    if len(counts) == 2 and len(names) > 2:  # one class against all others
        y_train, y_test = (np.where(y == names[0], "this", "other") for y in (y_train, y_test))
        names = np.array(["other", "this"])
    rng = np.random.default_rng(seed)
    names = rng.choice(names, len(counts), replace=False) if len(names) > 2 else names
    rows = [
        rng.choice(np.flatnonzero(y_train == name), count, replace=False)
        for name, count in zip(names, counts, strict=True)
    ]
    chosen, asked = rng.permutation(np.concatenate(rows)), np.isin(y_test, names)
    texts, test_texts = (frame.iloc[:, 0] for frame in (dataset.X_train, dataset.X_test))
    return texts.iloc[chosen], y_train[chosen], test_texts[asked], y_test[asked]


def probabilities(
    system: str, X: pd.Series, y: np.ndarray, X_test: pd.Series, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the probability of each for every test text."""
    from skbert import BertClassifier

    logistic = LogisticRegression(**LOGISTIC, class_weight="balanced")
    if system == "tfidf+LR":
        model: Any = make_pipeline(TfidfVectorizer(**TFIDF), logistic).fit(X, y)
        return model.classes_, model.predict_proba(X_test)
    if system == "embedding+LR":
        E, E_test = frozen_embeddings(X, y, X_test, max_length=MAX_LENGTH)
        return logistic.fit(E, y).classes_, logistic.predict_proba(E_test)
    balanced = "balanced" if system == "skbert, balanced" else None
    weights = compute_sample_weight("balanced", y) if system == "skbert, weights of texts" else None
    model = BertClassifier(class_weight=balanced, max_length=MAX_LENGTH, random_state=seed)
    return model.fit(X, y, sample_weight=weights).classes_, model.predict_proba(X_test)


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Balanced accuracy and, in brackets, log loss of each system: means over the seeds."""
    lines = ["| set, rows of each class | seeds | " + " | ".join(SYSTEMS) + " |"]
    lines.append("|---" * (len(SYSTEMS) + 2) + "|")
    for cell, (_, counts) in CELLS.items():
        own = [c for c in cells if c["cell"] == cell]
        shown = ", ".join(map(str, counts)) if len(counts) < 5 else f"{counts[0]} to {counts[-1]}"
        columns = []
        for system in SYSTEMS:
            some = [c for c in own if c["system"] == system]
            scores = [
                statistics.fmean(c[of] for c in some) for of in ("balanced_accuracy", "log_loss") if some
            ]
            columns.append("{:.3f} ({:.2f})".format(*scores) if scores else "-")
        lines.append(f"| {cell}: {shown} | {len({c['seed'] for c in own})} | {' | '.join(columns)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
