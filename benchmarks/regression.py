"""Numbers read off texts: `BertRegressor` next to transformers' Trainer and simpler models.

    python benchmarks/regression.py --data DIR [--seeds 0,1,2]

1. A text is four sentences of film reviews, its number how many of them are positive: 0 to 4. Training and
   test texts are made of the training and the test sentences.
2. Each system is fitted on so many texts, and asked for R² on 500 test texts: the share of the variance that
   it explains.

"skbert, classes" is `BertClassifier` on the same numbers as classes, and its answer the mean of the classes
by their probabilities. "trainer" is transformers' Trainer on the same checkpoint with one output, which is
how it learns numbers: squared error, 3 epochs, batch 16, 5e-5. "embedding+Ridge" and "tfidf+Ridge" choose
their penalty by RidgeCV. Every cell is written to `benchmarks/results/regression.json` as soon as it is
finished, so that a run can be stopped and resumed.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Store, embedded_checkpoint, fill_and_print, load_dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from systems import TFIDF, TRAINER, bf16_pays, fine_tune, frozen_embeddings, logits_of, predict_sorted, quiet

CELLS = {f"{rows:,} texts": rows for rows in (100, 400, 1600)}
SYSTEMS = ("skbert", "skbert, classes", "trainer", "embedding+Ridge", "tfidf+Ridge")
N_SENTENCES, N_TEST = 4, 500
ALPHAS = np.logspace(-3, 3, 13)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    return fill_and_print(__doc__, "regression", CELLS, run_cell, table, argv)


def run_cell(store: Store, data: Path, cell: str, seed: int, env: dict[str, Any]) -> None:
    """Fit and judge every system on one draw, unless that is stored."""
    missing = [system for system in SYSTEMS if store.get(f"{cell}/{seed}/{system}") is None]
    if not missing:
        return
    dataset, rng = load_dataset(data, "sst2"), np.random.default_rng(seed)
    X, y = draw(dataset.X_train, dataset.y_train, CELLS[cell], rng)
    X_test, y_test = draw(dataset.X_test, dataset.y_test, N_TEST, rng)
    for system in missing:
        started = time.perf_counter()
        predicted = predictions(system, X, y, X_test, seed)
        result = {
            "cell": cell,
            "seed": seed,
            "system": system,
            "rows": len(X),
            "r2": r2_score(y_test, predicted),
            "data": dataset.digest,
            "seconds": round(time.perf_counter() - started, 1),
        }
        store.put(f"{cell}/{seed}/{system}", result, env)
        print(f"{cell}/{seed}/{system}: {result['r2']:.4f}", file=sys.stderr, flush=True)


def draw(
    sentences: pd.DataFrame, labels: np.ndarray, n_texts: int, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Texts of sentences drawn with replacement, and the number of positive ones in each."""
    rows = rng.integers(len(sentences), size=(n_texts, N_SENTENCES))
    column = sentences.iloc[:, 0].to_numpy()
    return [" ".join(column[four]) for four in rows], (labels == "1")[rows].sum(axis=1).astype(float)


def predictions(system: str, X: list[str], y: np.ndarray, X_test: list[str], seed: int) -> np.ndarray:
    """A number for every test text."""
    from skbert import BertClassifier, BertRegressor

    ridge = RidgeCV(ALPHAS)
    if system == "skbert":
        return BertRegressor(random_state=seed).fit(X, y).predict(X_test)
    if system == "skbert, classes":
        classifier = BertClassifier(random_state=seed).fit(X, y)
        return classifier.predict_proba(X_test) @ classifier.classes_
    if system == "trainer":
        return train(X, y, X_test, seed)
    if system == "tfidf+Ridge":
        return make_pipeline(TfidfVectorizer(**TFIDF), ridge).fit(X, y).predict(X_test)
    E, E_test = frozen_embeddings(X, y > y.mean(), X_test)
    return ridge.fit(E, y).predict(E_test)


def train(X: list[str], y: np.ndarray, X_test: list[str], seed: int) -> np.ndarray:
    """Fine-tune with transformers' Trainer."""
    import transformers

    quiet(transformers)
    transformers.set_seed(seed)  # before the model: its head is drawn at random
    checkpoint = embedded_checkpoint()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=1, problem_type="regression", dtype=torch.float32
    )
    texts, test_texts = (pd.DataFrame({"text": part}) for part in (X, X_test))
    model, _ = fine_tune(model, tokenizer, texts, y.tolist(), TRAINER, seed)
    return predict_sorted(logits_of, model, tokenizer, test_texts, bf16=bf16_pays())[:, 0]


def table(cells: list[dict[str, Any]]) -> list[str]:
    """R² of each system: mean and standard deviation over the seeds."""
    lines = ["| training texts | seeds | " + " | ".join(SYSTEMS) + " |"]
    lines.append("|---" * (len(SYSTEMS) + 2) + "|")
    for cell in CELLS:
        own = [c for c in cells if c["cell"] == cell]
        columns = []
        for system in SYSTEMS:
            scores = [c["r2"] for c in own if c["system"] == system]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            columns.append(f"{statistics.fmean(scores):.3f} ± {spread:.3f}" if scores else "-")
        lines.append(f"| {cell} | {len({c['seed'] for c in own})} | {' | '.join(columns)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
