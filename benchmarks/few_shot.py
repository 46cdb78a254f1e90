"""A few texts of each class: skbert next to SetFit, which was made for that, and a frozen embedding.

    python benchmarks/few_shot.py --data DIR [--seeds 0,1,2]

1. Each cell draws training rows, stratified by class.
2. Each system is fitted on them as it comes, on the same checkpoint, and predicts the whole test part.
   Accuracy and the seconds of the fit, loading the checkpoint included, are kept. Seeds alternate the order
   of the systems.

"SetFit" (Tunstall et al., 2022, arXiv:2209.11055) trains the encoder on pairs of texts, of one class or of
two, and then a logistic regression on its embeddings. The number of pairs grows with the square of the
number of texts, hence the small cells. Every cell is written to `benchmarks/results/few_shot.json` as soon as
it is finished, so that a run can be stopped and resumed. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Store, embedded_checkpoint, fill_and_print, load_dataset, row_subset
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from systems import LOGISTIC, as_input, frozen_embeddings, quiet

CELLS = (("sst2", 16), ("sst2", 32), ("sst2", 64), ("agnews", 16), ("agnews", 32))


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    return fill_and_print(__doc__, "few_shot", CELLS, run_cell, table, argv)


def silence() -> None:
    """Import what SetFit needs, so that no fit pays for it, without bars and reports."""
    import datasets
    import setfit  # noqa: F401  # its import takes seconds
    import transformers

    quiet(transformers)
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)


def run_cell(store: Store, data: Path, cell: tuple[str, int], seed: int, env: dict[str, Any]) -> None:
    """Fit and judge every system on one draw, unless that is stored."""
    name, rows = cell
    dataset = load_dataset(data, name)
    index = row_subset(dataset, rows, seed)
    X, X_test = (as_input(frame) for frame in (dataset.X_train.iloc[index], dataset.X_test))
    for system in list(SYSTEMS)[:: 1 if seed % 2 else -1]:
        key = f"{name}/{rows}/{seed}/{system}"
        if store.get(key) is not None:
            continue
        silence()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions to come, and of a few truncated texts
            predicted, seconds = SYSTEMS[system](X, dataset.y_train[index], X_test, seed)
        result = {
            "dataset": name,
            "rows": rows,
            "seed": seed,
            "system": system,
            "accuracy": accuracy_score(dataset.y_test, predicted),
            "data": dataset.digest,
            "seconds": round(seconds, 2),
        }
        store.put(key, result, env)
        print(f"{key}: {result['accuracy']:.4f} in {seconds:.0f} s", file=sys.stderr, flush=True)


def run_skbert(X: list[str], y: np.ndarray, X_test: list[str], seed: int) -> tuple[np.ndarray, float]:
    """`BertClassifier` as it comes."""
    from skbert import BertClassifier, clear_caches

    clear_caches()
    started = time.perf_counter()
    model = BertClassifier(random_state=seed).fit(X, y)
    seconds = time.perf_counter() - started
    return model.predict(X_test), seconds


def run_setfit(X: list[str], y: np.ndarray, X_test: list[str], seed: int) -> tuple[np.ndarray, float]:
    """SetFit's Trainer with its own defaults: one epoch over all pairs, the rarer kind of pair repeated."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    classes, codes = np.unique(y, return_inverse=True)
    started = time.perf_counter()
    model = SetFitModel.from_pretrained(str(embedded_checkpoint()))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            show_progress_bar=False,
        )
        rows = Dataset.from_dict({"text": X, "label": codes})
        Trainer(model, args=arguments, train_dataset=rows).train()
    seconds = time.perf_counter() - started
    return classes[np.asarray(model.predict(X_test))], seconds


def run_embedding(X: list[str], y: np.ndarray, X_test: list[str], seed: int) -> tuple[np.ndarray, float]:
    """Logistic regression on the frozen, mean-pooled, normalised embedding; its fit without embedding."""
    E, E_test = frozen_embeddings(X, y, X_test)
    started = time.perf_counter()
    model = LogisticRegression(**LOGISTIC).fit(E, y)
    return model.predict(E_test), time.perf_counter() - started


SYSTEMS: dict[str, Callable[[list[str], np.ndarray, list[str], int], tuple[np.ndarray, float]]] = {
    "skbert": run_skbert,
    "SetFit": run_setfit,
    "embedding+LR": run_embedding,
}


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Mean accuracy ± standard deviation over the draws, and how many fits of skbert one of SetFit takes."""
    lines = ["| set, rows | draws | " + " | ".join(SYSTEMS) + " | seconds of a fit, SetFit : skbert |"]
    lines.append("|---" * (len(SYSTEMS) + 3) + "|")
    for name, rows in CELLS:
        own = [c for c in cells if (c["dataset"], c["rows"]) == (name, rows)]
        by_system = {s: {c["seed"]: c for c in own if c["system"] == s} for s in SYSTEMS}
        columns = [_spread([c["accuracy"] for c in by_system[s].values()]) for s in SYSTEMS]
        ratios = [
            by_system["SetFit"][seed]["seconds"] / cell["seconds"]
            for seed, cell in by_system["skbert"].items()
            if seed in by_system["SetFit"]
        ]
        ratio = f"{statistics.median(ratios):.1f}" if ratios else "-"
        lines.append(f"| {name}, {rows} | {len(by_system['skbert'])} | {' | '.join(columns)} | {ratio} |")
    return lines


def _spread(scores: list[float]) -> str:
    if not scores:
        return "-"
    return f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores) if len(scores) > 1 else 0.0:.3f}"


if __name__ == "__main__":
    sys.exit(main())
