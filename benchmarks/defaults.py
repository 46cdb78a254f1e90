"""The protocol that chose the defaults of `BertClassifier`.

    python benchmarks/defaults.py --data DIR [--stages start,length] [--seeds 0,1]

1. Only the *training* parts of the data sets are read; no test row takes part.
2. For each task, size and seed, a stratified draw takes the training rows, and a second one, disjoint,
   1,000 rows to validate on (repeated hold-out inside the training part).
3. Stage "start": every head initialisation with every learning rate, at the same number of steps.
4. Stage "length": the best rate with fewer and with more optimizer steps, and the head started by the rule
   that stage "start" led to (a linear probe where it generalizes).
5. Of each stage the candidate with the best mean accuracy over all cells wins; a difference within the
   standard error of the paired differences goes to the candidate that is cheaper, or came first.

Every cell is written to `benchmarks/results/defaults.json` as soon as it is finished, so that a run can be
stopped and resumed. The decision that was drawn from the table is recorded in `docs/defaults.md`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import Store, environment, load_dataset
from sklearn.model_selection import train_test_split

CELLS = (("sst2", 100), ("sst2", 600), ("clinc150", 450), ("agnews", 100), ("mrpc", 600))
N_VALIDATION = 1000
BATCH_SIZE = 16
STEPS = 200  # of stage "start"

START = {
    f"{head}, {rate:g}": {"head_init": head, "learning_rate": rate, "steps": STEPS}
    for head in ("random", "linear_probe")
    for rate in (1e-4, 2e-4)
}
LENGTH = {
    f"auto, 0.0001, {steps} steps": {
        "head_init": "auto",
        "learning_rate": 1e-4,
        "steps": steps,
    }
    for steps in (100, STEPS, 400)
}
STAGES = {"start": START, "length": LENGTH}


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then print a table for each stage."""
    args = parse(argv)
    store = Store(args.out)
    if not args.table:
        env = environment()
        for seed in args.seeds:
            for stage in args.stages:
                for name, rows in CELLS:
                    for candidate in STAGES[stage].values():
                        run_cell(store, args.data, name, rows, seed, candidate, env)
    cells = store.read()["cells"].values()
    for stage in args.stages:
        print(f"\n{stage}\n" + "\n".join(table(STAGES[stage], list(cells))))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--stages", type=lambda s: s.split(","), default=list(STAGES))
    parser.add_argument("--seeds", type=lambda s: [int(v) for v in s.split(",")], default=[0, 1])
    parser.add_argument("--table", action="store_true", help="run nothing, print what is stored")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "defaults.json")
    return parser.parse_args(argv)


def recipe(candidate: dict[str, Any], n_rows: int) -> dict[str, Any]:
    """Parameters of `BertClassifier`; the steps become 3 to 15 epochs over `n_rows`."""
    parameters = dict(candidate)
    per_epoch = math.ceil(n_rows / BATCH_SIZE)
    epochs = min(15, max(3, math.ceil(parameters.pop("steps") / per_epoch)))
    return parameters | {"epochs": epochs, "batch_size": BATCH_SIZE}


def run_cell(
    store: Store,
    data: Path,
    name: str,
    rows: int,
    seed: int,
    candidate: dict[str, Any],
    env: dict[str, Any],
) -> None:
    """Fit one candidate on one draw, unless that is stored."""
    from skbert import BertClassifier

    parameters = recipe(candidate, rows)
    key = f"{name}/{rows}/{seed}/" + ",".join(f"{k}={v}" for k, v in sorted(parameters.items()))
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a few texts are truncated, for all candidates
        model = BertClassifier(random_state=seed, **parameters)
        model.fit(dataset.X_train.iloc[fit], dataset.y_train[fit])
        accuracy = model.score(dataset.X_train.iloc[validate], dataset.y_train[validate])
    result = {
        "dataset": name,
        "rows": rows,
        "seed": seed,
        "settings": parameters,
        "accuracy": accuracy,
        "head_init": model.head_init_,
        "final_loss": model.loss_curve_[-1],
        "seconds": round(time.perf_counter() - started, 1),
    }
    store.put(key, result, env)
    print(f"{key}: {accuracy:.4f} in {result['seconds']:.0f} s", file=sys.stderr, flush=True)


def table(candidates: dict[str, dict[str, Any]], cells: list[dict[str, Any]]) -> list[str]:
    """Validation accuracy by candidate and cell (mean over the seeds), means, and gaps to the best."""
    header = [f"{name} {rows}" for name, rows in CELLS]
    lines = ["| candidate | " + " | ".join(header) + " | mean | gap to the best ± s.e. |"]
    lines.append("|---" * (len(CELLS) + 3) + "|")
    scores = {name: _scores(candidate, cells) for name, candidate in candidates.items()}
    shared = set.intersection(*map(set, scores.values()))  # cells that every candidate has
    if not shared:
        return [*lines, "no cell that every candidate has"]
    means = {name: statistics.fmean(own[key] for key in shared) for name, own in scores.items()}
    best = max(means, key=means.__getitem__)
    for name, own in scores.items():
        columns = [_mean(v for (d, r, _), v in own.items() if (d, r) == cell) for cell in CELLS]
        gaps = [scores[best][key] - own[key] for key in shared]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        lines.append(
            f"| {name} | {' | '.join(columns)} | {means[name]:.4f} "
            f"| {statistics.fmean(gaps):.4f} ± {error:.4f} |"
        )
    return [*lines, f"{len(shared)} draws shared by all candidates"]


def _scores(candidate: dict[str, Any], cells: list[dict[str, Any]]) -> dict[tuple, float]:
    return {
        (cell["dataset"], cell["rows"], cell["seed"]): cell["accuracy"]
        for cell in cells
        if cell["settings"] == recipe(candidate, cell["rows"])
    }


def _mean(values: Any) -> str:
    numbers = list(values)
    return f"{statistics.fmean(numbers):.3f}" if numbers else "-"


if __name__ == "__main__":
    sys.exit(main())
