"""What a grid search costs with skbert, with a wrapper around transformers' Trainer, and with skorch.

Usage: ``python benchmarks/search.py --data DIR [--quick]`` on a CPU: learning rates and epochs, 2 × 2 by 3
folds, on 400 texts of agnews; ``--device cuda``: 3 × 3 by 5 folds on all of them. Needs accelerate and skorch
(``pip install '.[bench]'``).

1. Each search runs in a process of its own, after a warm-up fit on a few texts, with empty caches.
2. All systems get the same texts, folds, rates, epochs, batch size and truncation; the systems take turns,
   round after round, and a ratio is the median over rounds of the pairs' ratios.
3. What is told: seconds of the search without a refit, the best mean accuracy over the folds, the peak of the
   process's memory, and by how much the search made it grow (on a GPU, both of torch's allocator).

Results go to a JSON file, one entry a system, written after each search; ``--table`` prints what it holds.
``--systems "skbert|trainer"`` runs some.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Store, embedded_checkpoint, environment, load_dataset, row_subset
from search_systems import BATCH_SIZE, MAX_LENGTH, SEED, SYSTEMS, grid_of
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from speed_memory import _peak, _reset_peak, _status

RESULTS = Path(__file__).parent / "results"
PLANS: dict[str, dict[str, Any]] = {
    "cpu": {"rows": 400, "folds": 3, "grid": {"learning_rate": [5e-5, 1e-4], "epochs": [1, 2]}},
    "cuda": {"rows": "all", "folds": 5, "grid": {"learning_rate": [2e-5, 5e-5, 1e-4], "epochs": [1, 2, 3]}},
    "quick": {"rows": 120, "folds": 2, "grid": {"learning_rate": [5e-5, 1e-4], "epochs": [1]}},
}
TARGETS = {  # ratios to a search that trains everything
    "skbert": 2.5,
    "skbert, half frozen": 5.0,
    "skbert, head only": 30.0,
}
PEERS = ("trainer", "skorch", "trainer, head only")


def main(argv: list[str] | None = None) -> int:
    """Run the searches that are asked for, print the table."""
    args = parse(argv)
    if args.one:
        print(json.dumps(run_search(args)))
        return 0
    store = Store(args.out)
    if not args.table:
        run_rounds(args, store)
    print("\n".join(table(store.read()["cells"])))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer texts, folds and points: a trial")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--systems", type=lambda text: text.split("|"), default=list(SYSTEMS))
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--out", type=Path, help="results file")
    parser.add_argument("--table", action="store_true", help="run nothing, print what the file holds")
    parser.add_argument("--one", choices=list(SYSTEMS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.data is None and not args.table:
        parser.error("--data is needed")
    if unknown := set(args.systems) - set(SYSTEMS):
        parser.error(f"unknown systems {sorted(unknown)}; known: {'|'.join(SYSTEMS)}")
    args.plan = PLANS["quick" if args.quick else args.device]
    args.out = args.out or RESULTS / ("search_gpu.json" if args.device == "cuda" else "search.json")
    return args


def run_rounds(args: argparse.Namespace, store: Store) -> None:
    """Run all systems in turn, each search in a fresh process, and store what they took."""
    if args.threads:
        torch.set_num_threads(args.threads)
    env = environment()
    settings = args.plan | {"quick": args.quick, "max_length": MAX_LENGTH, "batch_size": BATCH_SIZE}
    settings |= {"seed": SEED, "rounds": args.rounds}
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in args.systems}
    for number in range(args.rounds):
        for system in args.systems:
            runs[system].append(run_child(args, system))
            store.put(system, {"settings": settings, "runs": runs[system]}, env)
            took = runs[system][-1]["seconds"]
            print(f"{time.strftime('%H:%M:%S')} round {number + 1}: {system}: {took:.1f} s", file=sys.stderr)


def run_child(args: argparse.Namespace, system: str) -> dict[str, Any]:
    """One search in a process of its own."""
    command = [sys.executable, __file__, "--one", system, "--data", str(args.data), "--device", args.device]
    command += ["--quick"] if args.quick else []
    command += ["--threads", str(args.threads)] if args.threads else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_search(args: argparse.Namespace) -> dict[str, Any]:
    """The search of one system, in this process."""
    warnings.filterwarnings("ignore", category=UserWarning)
    if args.threads:
        torch.set_num_threads(args.threads)
    plan = args.plan
    dataset = load_dataset(args.data, "agnews")
    rows = np.random.default_rng(SEED).permutation(row_subset(dataset, plan["rows"], SEED))
    texts, y = dataset.X_train.iloc[rows, 0].tolist(), dataset.y_train[rows]
    codes = np.unique(y, return_inverse=True)[1]  # skorch's criterion takes int64
    estimator, prefix = SYSTEMS[args.one](embedded_checkpoint(), dataset.n_classes, args.device)
    warm_up(estimator, grid_of(args.one, {"epochs": [1]}, prefix), texts, codes)
    folds = StratifiedKFold(plan["folds"], shuffle=True, random_state=SEED)
    search = GridSearchCV(
        estimator, grid_of(args.one, plan["grid"], prefix), cv=folds, scoring="accuracy", refit=False
    )
    before = _reset_peak(args.device)
    started, cpu_started = time.perf_counter(), time.process_time()
    search.fit(texts, codes)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    after = torch.cuda.memory_allocated() if args.device == "cuda" else _status("VmRSS")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "score": round(float(search.cv_results_["mean_test_score"].max()), 4),
        "n_fits": len(search.cv_results_["params"]) * plan["folds"],
        "peak": _peak(args.device),
        "growth": after - before,
    }


def warm_up(estimator: Any, one_epoch: dict[str, list[Any]], texts: list[str], codes: np.ndarray) -> None:
    """A small fit, so that imports and first calls are not timed; skbert's caches are emptied after it."""
    import skbert

    rows = np.concatenate([np.flatnonzero(codes == code)[:8] for code in np.unique(codes)])
    quick = {name: values[0] for name, values in one_epoch.items()}
    estimator.set_params(**quick).fit([texts[i] for i in rows], codes[rows])
    estimator.predict([texts[i] for i in rows])
    skbert.clear_caches()


def table(cells: dict[str, Any]) -> list[str]:
    """Build the Markdown table of what is stored."""
    lines = ["| system | seconds | CPU seconds | best score | peak MiB | growth MiB | "]
    lines[0] += " | ".join(PEERS) + " | target |"
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    shown = [system for system in SYSTEMS if system in cells]
    for system in shown:
        runs = cells[system]["runs"]
        figures = [f"{_median(runs, name):,.1f}" for name in ("seconds", "cpu_seconds")]
        figures.append(f"{_median(runs, 'score'):.3f}")
        figures += [f"{_median(runs, name) / 2**20:,.0f}" for name in ("peak", "growth")]
        ours = system in TARGETS
        figures += [_ratios(cells, peer, system) if ours and peer in cells else "" for peer in PEERS]
        figures.append(f"≥ {TARGETS[system]:g}" if ours else "")
        lines.append(f"| {system} | " + " | ".join(figures) + " |")
    if not shown:
        return ["nothing is stored"]
    settings = cells[shown[0]]["settings"]
    points = " by ".join(str(len(values)) for values in settings["grid"].values())
    trial = "; --quick: a trial, no result" if settings["quick"] else ""
    took = sum(run["seconds"] for system in shown for run in cells[system]["runs"])
    return [
        *lines,
        "",
        f"agnews, {settings['rows']} texts, grid {points}, {settings['folds']} folds, {settings['rounds']} "
        "rounds. A peer's column holds the ratios of its seconds and of its CPU seconds to the row's; "
        "targets are for the first two.",
        f"{took / 60:.1f} minutes of searching{trial}",
    ]


def _ratios(cells: dict[str, Any], peer: str, system: str) -> str:
    return " / ".join(f"{ratio(cells, peer, system, what):.1f}" for what in ("seconds", "cpu_seconds"))


def ratio(cells: dict[str, Any], peer: str, system: str, what: str) -> float:
    """Median over the rounds of the peer's seconds over the system's."""
    pairs = zip(cells[peer]["runs"], cells[system]["runs"], strict=False)
    return statistics.median(theirs[what] / ours[what] for theirs, ours in pairs)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


if __name__ == "__main__":
    sys.exit(main())
