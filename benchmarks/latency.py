"""How long a call takes that predicts one text, or a few, next to transformers' pipeline.

Usage: ``python benchmarks/latency.py --data DIR``; ``--table`` prints what is stored. Needs the default
checkpoint.

1. Fit a model on a few texts of each data set, with CLS pooling, and give the same weights to a pipeline.
2. Call both in turn (A B A B) with 1, 2, 8 and 32 test texts, other ones each time; one thread, float32.
3. Print the medians, and the median of the ratios call by call. The probabilities are checked to be equal.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import fill_by_dataset, load_dataset, row_subset

DATASETS = ("sst2", "agnews")
SETTINGS = {"texts a call": [1, 2, 8, 32], "calls": 60, "threads": 1, "precision": "float32"}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    fill_by_dataset(__doc__, "latency", DATASETS, SETTINGS, measure, table, argv)


def measure(data: Path, name: str) -> dict[str, Any]:
    """Time both systems with each number of texts."""
    import torch
    from transformers import pipeline

    from skbert import BertClassifier

    torch.set_num_threads(SETTINGS["threads"])
    dataset = load_dataset(data, name)
    rows = row_subset(dataset, 100, 0)
    classifier = BertClassifier(pooling="cls", epochs=1, precision="float32", device="cpu", random_state=0)
    classifier.fit(dataset.X_train.iloc[rows], dataset.y_train[rows])
    texts = dataset.X_test.iloc[:, 0].tolist()
    with tempfile.TemporaryDirectory() as folder:
        classifier.save_pretrained(folder)
        theirs = pipeline("text-classification", folder, device="cpu", truncation=True, top_k=None)
    times = {str(n): race(classifier, theirs, texts, n) for n in SETTINGS["texts a call"]}
    print(f"{name}: done", file=sys.stderr, flush=True)
    return {"settings": SETTINGS, "seconds": times}


def race(classifier: Any, theirs: Any, texts: list[str], n_texts: int) -> dict[str, list[float]]:
    """Seconds of each call of both."""
    seconds: dict[str, list[float]] = {"skbert": [], "pipeline": []}
    for call in range(-3, SETTINGS["calls"]):  # three to warm up
        begin = (call * n_texts) % (len(texts) - n_texts)
        some = texts[begin : begin + n_texts]
        start = time.perf_counter()
        ours = classifier.predict_proba(some)
        between = time.perf_counter()
        scores = theirs(some)
        end = time.perf_counter()
        found = [
            [next(s["score"] for s in row if s["label"] == c) for c in classifier.classes_] for row in scores
        ]
        np.testing.assert_allclose(ours, found, atol=1e-4)
        if call >= 0:
            seconds["skbert"].append(between - start)
            seconds["pipeline"].append(end - between)
    return seconds


def table(cells: dict[str, Any], datasets: list[str]) -> list[str]:
    """Build the Markdown table."""
    lines = [
        "| set | texts a call | skbert, ms a call | pipeline, ms a call | pipeline / skbert |",
        "|---|---|---|---|---|",
    ]
    for name in datasets:
        for n_texts in SETTINGS["texts a call"] if name in cells else ():
            seconds = cells[name]["seconds"][str(n_texts)]
            ours, theirs = seconds["skbert"], seconds["pipeline"]
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            medians = " | ".join(f"{1000 * statistics.median(each):.1f}" for each in (ours, theirs))
            lines.append(f"| {name} | {n_texts} | {medians} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
