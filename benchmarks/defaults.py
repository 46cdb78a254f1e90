"""The protocol that chose the defaults of `BertClassifier`.

    python benchmarks/defaults.py --data DIR [--seeds 0,1]

1. Only the *training* parts of the data sets are read; no test row takes part.
2. For each task, size and seed, a stratified draw takes the training rows, and a second one, disjoint,
   1,000 rows to validate on (repeated hold-out inside the training part).
3. Each candidate is the default recipe with one thing changed: the head's start, the strength of the probe
   that it starts from, the learning rate, the number of optimizer steps, warm-up, or pooling. With a frozen
   encoder, whose head trains alone, it is the default recipe for that with another rate or start.
4. A change would have to gain more than the standard error of its paired differences to the default.

Every cell is written to `benchmarks/results/defaults.json` as soon as it is finished, so that a run can be
stopped and resumed. What was concluded from the table is in `docs/defaults.md`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Store, environment, load_dataset
from sklearn.model_selection import train_test_split

SMALL = (("sst2", 100), ("clinc150", 450), ("agnews", 100), ("sst2", 600), ("mrpc", 300))
LARGE = (("sst2", 5000),)  # does a class of more than 1,000 rows still need a probe?
CELLS = (*SMALL, *LARGE)
N_VALIDATION = 1000
BATCH_SIZE = 16

DEFAULT: dict[str, Any] = {
    "head_init": "auto",
    "rows_per_class": 30,  # of the probe's penalty, probing._ROWS_PER_CLASS
    "learning_rate": 1e-4,
    "steps": 200,  # at least, within 3 to 15 epochs
    "warmup_ratio": 0.1,
    "pooling": "auto",
}
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "head: random": {"head_init": "random"},
    "head: always the probe": {"head_init": "linear_probe"},
    "probe: ten times as strong": {"rows_per_class": 300},
    "rate: 5e-5": {"learning_rate": 5e-5},
    "rate: 2e-4": {"learning_rate": 2e-4},
    "steps: 100": {"steps": 100},
    "warm-up: none": {"warmup_ratio": 0.0},
    "pooling: cls": {"pooling": "cls"},
}
FROZEN = DEFAULT | {"freeze": "encoder", "learning_rate": 3e-3}
CHANGES_FROZEN: dict[str, dict[str, Any]] = {
    "frozen encoder": {},
    "frozen encoder / rate: 1e-4": {"learning_rate": 1e-4},
    "frozen encoder / rate: 1e-3": {"learning_rate": 1e-3},
    "frozen encoder / rate: 1e-2": {"learning_rate": 1e-2},
    "frozen encoder / head: random": {"head_init": "random"},
    "frozen encoder / head: random / rate: 1e-4": {"head_init": "random", "learning_rate": 1e-4},
}
CANDIDATES = {name: DEFAULT | change for name, change in CHANGES.items()}
CANDIDATES |= {name: FROZEN | change for name, change in CHANGES_FROZEN.items()}


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    args = parse(argv)
    store = Store(args.out)
    if not args.table:
        env = environment()
        for seed in args.seeds:
            for name, rows in CELLS:
                for change in args.changes:
                    if (name, rows) in LARGE and not change.startswith("head:"):
                        continue
                    run_cell(store, args.data, name, rows, seed, CANDIDATES[change], env)
    cells = list(store.read()["cells"].values())
    print("\n".join([*table(cells, CHANGES, DEFAULT), "", *table(cells, CHANGES_FROZEN, FROZEN)]))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; --table needs none")
    parser.add_argument("--changes", type=lambda s: s.split(","), default=list(CANDIDATES))
    parser.add_argument("--seeds", type=lambda s: [int(v) for v in s.split(",")], default=[0, 1])
    parser.add_argument("--table", action="store_true", help="run nothing, print what is stored")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "defaults.json")
    args = parser.parse_args(argv)
    if args.data is None and not args.table:
        parser.error("--data is needed")
    return args


def recipe(candidate: dict[str, Any], n_rows: int) -> dict[str, Any]:
    """Parameters of `BertClassifier`; the steps become 3 to 15 epochs over `n_rows`."""
    parameters = {name: value for name, value in candidate.items() if name not in ("steps", "rows_per_class")}
    epochs = math.ceil(candidate["steps"] / math.ceil(n_rows / BATCH_SIZE))
    return parameters | {"epochs": min(15, max(3, epochs)), "batch_size": BATCH_SIZE}


def settings_of(candidate: dict[str, Any], n_rows: int) -> dict[str, Any]:
    """All that a cell depends on besides rows, seed and versions."""
    return recipe(candidate, n_rows) | {"rows_per_class": candidate["rows_per_class"]}


def run_cell(
    store: Store, data: Path, name: str, rows: int, seed: int, candidate: dict[str, Any], env: dict[str, Any]
) -> None:
    """Fit one candidate on one draw, unless that is stored."""
    from skbert import BertClassifier

    settings = settings_of(candidate, rows)
    key = f"{name}/{rows}/{seed}/" + ",".join(f"{k}={v}" for k, v in sorted(settings.items()))
    if store.get(key) is not None:
        return
    dataset = load_dataset(data, name)
    fit, validate = train_test_split(
        np.arange(len(dataset.y_train)),
        train_size=rows,
        test_size=N_VALIDATION,
        stratify=dataset.y_train,
        random_state=seed,
    )
    started = time.perf_counter()
    with warnings.catch_warnings(), _probe_strength(candidate["rows_per_class"]):
        warnings.simplefilter("ignore", UserWarning)  # a few texts are truncated, for all candidates
        model = BertClassifier(random_state=seed, **recipe(candidate, rows))
        model.fit(dataset.X_train.iloc[fit], dataset.y_train[fit])
        accuracy = model.score(dataset.X_train.iloc[validate], dataset.y_train[validate])
    result = {
        "dataset": name,
        "rows": rows,
        "seed": seed,
        "settings": settings,
        "accuracy": accuracy,
        "head_init": model.head_init_,
        "final_loss": model.loss_curve_[-1],
        "seconds": round(time.perf_counter() - started, 1),
    }
    store.put(key, result, env)
    print(f"{key}: {accuracy:.4f} in {result['seconds']:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _probe_strength(rows_per_class: float) -> Iterator[None]:
    """Let the probe have another penalty; users cannot, there is no parameter for it."""
    from skbert.training import probing

    before = probing._ROWS_PER_CLASS
    probing._ROWS_PER_CLASS = rows_per_class
    try:
        yield
    finally:
        probing._ROWS_PER_CLASS = before


def table(
    cells: list[dict[str, Any]], changes: dict[str, dict[str, Any]], reference: dict[str, Any]
) -> list[str]:
    """Validation accuracy by candidate and cell (mean and number of draws), and gains over the reference."""
    header = [f"{name} {rows}" for name, rows in CELLS]
    lines = ["| change | " + " | ".join(header) + " | gain over the first line ± s.e. | draws |"]
    lines.append("|---" * (len(CELLS) + 3) + "|")
    default = _scores(reference, cells)
    for name, change in changes.items():
        own = _scores(reference | change, cells)
        shared = own.keys() & default.keys()
        columns = [_mean(v for (d, r, _), v in own.items() if (d, r) == cell) for cell in CELLS]
        gains = [own[key] - default[key] for key in shared]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        gain = f"{statistics.fmean(gains):+.4f} ± {error:.4f}" if gains and change else "-"
        lines.append(f"| {name} | {' | '.join(columns)} | {gain} | {len(shared)} |")
    return lines


def _scores(candidate: dict[str, Any], cells: list[dict[str, Any]]) -> dict[tuple, float]:
    return {
        (cell["dataset"], cell["rows"], cell["seed"]): cell["accuracy"]
        for cell in cells
        if cell["settings"] == settings_of(candidate, cell["rows"])
    }


def _mean(values: Any) -> str:
    numbers = list(values)
    return f"{statistics.fmean(numbers):.3f} ({len(numbers)})" if numbers else "-"


if __name__ == "__main__":
    sys.exit(main())
