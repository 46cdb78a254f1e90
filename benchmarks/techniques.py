"""What the techniques bring: several labels per text, early stopping, adapters, frozen layers, windows.

Usage: ``python benchmarks/techniques.py --data DIR``; ``accuracy.py --techniques`` does the same.

1. ``labels``: nlupp_banking, micro-F1 of `BertClassifier()`, of its head alone (``freeze="encoder"``), and of
   LogisticRegression, one a label, on the checkpoint's embeddings and on TF-IDF.
2. ``stopping``: sst2, 1,000 rows, 8 epochs with early stopping: the fitted model scores on the held-out texts
   what the best epoch scored. The held-out texts are passed as X_val, so that they can be scored again.
3. ``parts``: sst2, all rows: full fine-tuning, half of the layers frozen, adapters of rank 16.
4. ``windows``: documents of three news items with a sentence of a film review before the last of them, read
   64 tokens at a time: what their beginning tells of the review, and what all of their windows do.

Each cell is stored in `benchmarks/results/techniques.json` once it is finished, and not run again.
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
from common import Store, environment, load_dataset, parse_results, results_parser
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer, Normalizer

PARTS: dict[str, dict[str, Any]] = {"full": {}, "freeze=3": {"freeze": 3}, "lora=16": {"lora": 16}}
HEADS: dict[str, dict[str, Any]] = {"skbert": {}, "skbert, head alone": {"freeze": "encoder"}}
HEADS |= {f"head alone, rate {r:g}": {"freeze": "encoder", "learning_rate": r} for r in (3e-3, 1e-2)}
WINDOWS = {"head": {"long_text": "head"}, "windows": {"long_text": "windows"}}
N_DOCUMENTS = 600


def labels(data: Path, system: str, seed: int) -> dict[str, Any]:
    """Micro-F1 on the multi-label task."""
    parts = [
        pd.read_csv(data / "nlupp_banking" / f"{p}.csv", keep_default_na=False) for p in ("train", "test")
    ]
    (X, y), (X_test, y_test) = [(p["text"].tolist(), p["labels"].str.split("|")) for p in parts]
    binarizer = MultiLabelBinarizer()
    Y = binarizer.fit_transform([[name for name in names if name] for names in y])
    known = set(binarizer.classes_)
    Y_test = binarizer.transform([[name for name in names if name in known] for names in y_test])
    of_labels = OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000))
    if system == "tfidf+LR":
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), of_labels)
    elif system == "embedding+LR":
        embedder = _classifier(seed, freeze="encoder", epochs=1).fit(["one", "other"], [0, 1])
        model = make_pipeline(FunctionTransformer(embedder.transform), Normalizer(), of_labels)
    else:
        model = _classifier(seed, **HEADS[system])
    model.fit(X, Y)
    return {"score": f1_score(Y_test, model.predict(X_test), average="micro"), "n_labels": Y.shape[1]}


def stopping(data: Path, system: str, seed: int) -> dict[str, Any]:
    """Whether the best epoch's weights came back."""
    dataset = load_dataset(data, "sst2")
    X, X_val, y, y_val = train_test_split(
        dataset.X_train["text"].tolist(), dataset.y_train, train_size=1000, test_size=500, random_state=seed
    )
    model = _classifier(seed, epochs=8, early_stopping=True, learning_rate=2e-4)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    return {
        "score": model.score(X_val, y_val),
        "best": model.best_validation_score_,
        "validation_scores": model.validation_scores_,
    }


def parts(data: Path, system: str, seed: int) -> dict[str, Any]:
    """Test accuracy on sst2 with a part of the weights in training."""
    dataset = load_dataset(data, "sst2")
    model = _classifier(seed, **PARTS[system]).fit(dataset.X_train["text"].tolist(), dataset.y_train)
    score = model.score(dataset.X_test["text"].tolist(), dataset.y_test)
    return {"score": score, "n_iter": model.n_iter_, "learning_rate": model.learning_rate_}


def windows(data: Path, system: str, seed: int) -> dict[str, Any]:
    """Test accuracy on documents that tell their class late."""
    X, y = documents(data, "train", N_DOCUMENTS, seed)
    X_test, y_test = documents(data, "test", N_DOCUMENTS, seed)
    model = _classifier(seed, max_length=64, **WINDOWS[system]).fit(X, y)
    return {"score": model.score(X_test, y_test), "truncated_fraction": model.truncated_fraction_}


def documents(data: Path, part: str, n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """News, news, review, news: most reviews begin behind the 64th token, where "head" does not read."""
    reviews, news = (pd.read_csv(data / name / f"{part}.csv") for name in ("sst2", "agnews"))
    rng = np.random.default_rng(seed)
    review = reviews.iloc[rng.permutation(len(reviews))[:n]]
    items = news["text"].to_numpy()[rng.permutation(len(news))[: 3 * n % len(news)]]
    items = np.resize(items, 3 * n).reshape(n, 3)
    texts = [f"{a} {b} {r} {c}" for (a, b, c), r in zip(items, review["text"], strict=True)]
    return texts, review["label"].to_numpy()


def _classifier(seed: int, **parameters: Any) -> Any:
    from skbert import BertClassifier

    return BertClassifier(random_state=seed, **parameters)


TASKS: dict[str, tuple[Any, tuple[str, ...], tuple[int, ...]]] = {
    "labels": (labels, (*HEADS, "embedding+LR", "tfidf+LR"), (0, 1, 2)),
    "stopping": (stopping, ("skbert",), (0, 1, 2)),
    "windows": (windows, tuple(WINDOWS), (0,)),
    "parts": (parts, tuple(PARTS), (0,)),
}


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, print the table; the exit status is 1 if an expectation does not hold."""
    parser = results_parser(__doc__, "techniques")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    args = parse_results(parser, argv)
    store = Store(args.out)
    if not args.table:
        env = environment()
        for task in args.tasks:
            run, systems, seeds = TASKS[task]
            for seed in seeds:
                for system in systems:
                    run_cell(store, env, run, args.data, task, system, seed)
    cells = store.read()["cells"]
    print("\n".join(table(cells)))
    return 0 if all(holds for _, holds in verdicts(cells)) else 1


def run_cell(
    store: Store, env: dict[str, Any], run: Any, data: Path, task: str, system: str, seed: int
) -> None:
    """Run one cell unless the store holds it."""
    key = f"{task}/{system}/{seed}"
    if store.get(key) is not None:
        return
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # texts are cut on purpose
        result = run(data, system, seed)
    seconds = round(time.perf_counter() - started, 1)
    store.put(
        key, {"task": task, "system": system, "seed": seed, "settings": {}, "seconds": seconds} | result, env
    )
    print(f"{key}: {result['score']:.4f} in {seconds:.0f} s", file=sys.stderr, flush=True)


def table(cells: dict[str, Any]) -> list[str]:
    """One line a system, then one for each expectation."""
    lines = ["| task | system | score | seeds |", "|---|---|---|---|"]
    for task, (_, systems, _) in TASKS.items():
        for system in systems:
            scores = _scores(cells, task, system)
            if scores:
                lines.append(f"| {task} | {system} | {statistics.fmean(scores):.3f} | {len(scores)} |")
    return [*lines, "", *(f"{'yes' if holds else 'NO '}  {said}" for said, holds in verdicts(cells))]


def verdicts(cells: dict[str, Any]) -> list[tuple[str, bool]]:
    """What was expected, and whether it holds in the stored cells."""
    mean = {
        (task, system): statistics.fmean(scores)
        for task, (_, systems, _) in TASKS.items()
        for system in systems
        if (scores := _scores(cells, task, system))
    }
    found = []
    if ("labels", "skbert") in mean and ("labels", "tfidf+LR") in mean:
        gap = mean["labels", "skbert"] - mean["labels", "tfidf+LR"]
        found.append(
            (f"several labels: micro-F1 {gap:+.3f} against TF-IDF, expected above +0.02", gap > 0.02)
        )
    runs = [cell for cell in cells.values() if cell["task"] == "stopping"]
    if runs:
        back = [run["score"] == run["best"] == max(run["validation_scores"]) for run in runs]
        found.append((f"early stopping: the best epoch came back in {sum(back)} of {len(runs)}", all(back)))
    for system in list(PARTS)[1:]:
        if ("parts", "full") in mean and ("parts", system) in mean:
            gap = mean["parts", system] - mean["parts", "full"]
            found.append((f"{system}: {gap:+.3f} against all weights, expected above -0.015", gap > -0.015))
    if ("windows", "windows") in mean and ("windows", "head") in mean:
        gap = mean["windows", "windows"] - mean["windows", "head"]
        found.append((f"windows: {gap:+.3f} against the head of the documents, expected above 0", gap > 0))
    return found


def _scores(cells: dict[str, Any], task: str, system: str) -> list[float]:
    return [cell["score"] for cell in cells.values() if (cell["task"], cell["system"]) == (task, system)]


if __name__ == "__main__":
    sys.exit(main())
