"""Speed of skbert next to transformers' Trainer and pipeline, and how close it is to the hardware's limit.

Usage: ``python benchmarks/speed.py --data DIR [--quick]`` on a CPU, with MiniLM on real texts;
``python benchmarks/speed.py --device cuda`` on a GPU, without files: a BERT of random weights and synthetic
texts. Needs accelerate for Trainer.

Every comparison runs both systems in turn in one process (A B A B), on the same texts, checkpoint, epochs,
batch size, rate and truncation, after a warm-up; what is said is the median of the ratios of the pairs.
Results go to a JSON file, one entry a row; ``--table`` prints what it holds, ``--only fit,predict`` runs some
rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Store, environment, names_of
from speed_costs import memory_row, overhead_row, scaling_row, tokenize_row
from speed_data import Workload, make_checkpoint, real_workload, synthetic_workload
from speed_profile import profile_row
from speed_rows import Line, Plan, Row, fit_row, log, predict_row
from systems import quiet

from skbert import runtime

RESULTS = Path(__file__).parent / "results"
ROWS = ("fit", "predict", "profile", "memory", "tokenize", "overhead", "scaling")
REAL = {"sst2": 768, "mrpc": 384, "agnews": 384}  # training texts, about as many tokens each
SYNTHETIC = {"agnews-like": 16_384, "long-tail": 8_192}


def main(argv: list[str] | None = None) -> int:
    """Run the rows asked for, print the table."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.float32:  # what "auto" asks, and the benchmarks for the other systems
        runtime._has_fast_bfloat16 = lambda device: False
    store = Store(args.out)
    if not args.table:
        warnings.filterwarnings("ignore", category=UserWarning)  # a few texts are truncated, for all systems
        with tempfile.TemporaryDirectory() as folder:
            run_rows(args, store, Path(folder))
    print("\n".join(table(store.read()["cells"])))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; without it, synthetic texts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=["base", "tiny"], default="base", help="the synthetic model")
    parser.add_argument("--quick", action="store_true", help="one round, fewer texts")
    parser.add_argument("--only", type=names_of(ROWS), default=list(ROWS), help=",".join(ROWS))
    parser.add_argument("--datasets", type=lambda text: text.split(","), help="of the rows fit and memory")
    parser.add_argument("--rounds", type=int, help="pairs (3; 1 with --quick)")
    parser.add_argument("--rows", type=float, default=1.0, help="factor on the number of texts")
    parser.add_argument(
        "--float32", action="store_true", help="as on a processor without instructions for bfloat16"
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--out", type=Path, help="results file")
    parser.add_argument("--table", action="store_true", help="run nothing, print what the file holds")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not args.table and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    kind = "_gpu" if args.device == "cuda" else "_float32" if args.float32 else ""
    args.out = args.out or RESULTS / f"speed{kind}.json"
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.datasets = args.datasets or list(REAL if args.data else SYNTHETIC)
    return args


def make_plan(args: argparse.Namespace, folder: Path) -> Plan:
    """Choose texts, checkpoints and sizes; `folder` takes the checkpoints that are made here."""
    import transformers

    quiet(transformers)
    scale = args.rows * (0.2 if args.quick else 1.0)
    tiny = make_checkpoint(folder / "tiny", "tiny")

    def short(n_texts: int) -> Workload:
        return replace(synthetic_workload("short", n_texts, 8, tiny), batch_size=128)

    if args.data:
        make = partial(real_workload, args.data)
        sizes, n_test = REAL, {"fit": 400, "predict": 1_300}
        predict = partial(make, "agnews", 128, int(n_test["predict"] * scale))
    else:
        checkpoint = tiny if args.size == "tiny" else make_checkpoint(folder / "base", "base")
        make = partial(synthetic_workload, checkpoint=checkpoint)
        sizes, n_test = SYNTHETIC, {"fit": 2_000, "predict": 4_096}
        predict = partial(make, "agnews-like", 512, int(n_test["predict"] * scale))
    fits = {
        name: partial(make, name, int(sizes[name] * scale), int(n_test["fit"] * min(scale, 1.0)))
        for name in args.datasets
    }
    largest = 10_000 if args.quick else 100_000
    return Plan(
        device=args.device,
        rounds=args.rounds,
        fits=fits,
        predict=predict,
        short=short,
        n_tokenize=int(1_000_000 * (0.05 if args.quick else 1.0) * args.rows),
        sizes=(largest // 100, largest // 10, largest),
    )


def plan_rows(args: argparse.Namespace, plan: Plan) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the rows in the order of running, each with the name of its entry."""
    last = args.datasets[-1]
    rows: dict[str, list[tuple[str, Callable[[], Row]]]] = {
        "fit": [(f"fit/{name}", partial(fit_row, plan, name)) for name in args.datasets],
        "predict": [("predict", partial(predict_row, plan))],
        "profile": [("profile", partial(profile_row, plan))],
        "memory": [(f"memory/{last}", partial(memory_row, plan, last))],
        "tokenize": [("tokenize", partial(tokenize_row, plan))],
        "overhead": [(f"overhead/{args.datasets[0]}", partial(overhead_row, plan, args.datasets[0]))],
        "scaling": [("scaling", partial(scaling_row, plan))],
    }
    for name in args.only:
        yield from rows[name]


def run_rows(args: argparse.Namespace, store: Store, folder: Path) -> None:
    """Run and store row after row."""
    plan = make_plan(args, folder)
    env = environment()
    settings = {
        "quick": args.quick,
        "rounds": args.rounds,
        "rows": args.rows,
        "float32": args.float32,
        "seeds": list(range(args.rounds)),
        "model": "checkpoint" if args.data else args.size,
    }
    for key, row in plan_rows(args, plan):
        log(key)
        started = time.perf_counter()
        record, lines = row()
        took = round(time.perf_counter() - started, 1)
        cell = {
            "settings": settings,
            "took": took,
            "record": record,
            "lines": [asdict(line) for line in lines],
        }
        store.put(key, cell, env)
        log(f"{key}: {took:.0f} s")


def table(cells: dict[str, Any]) -> list[str]:
    """Build the Markdown table of all rows stored, in the order of running."""
    lines = ["| work | against | measured | target | details |", "|---|---|---|---|---|"]
    order = sorted(cells, key=lambda key: ROWS.index(key.split("/")[0]))
    for key in order:
        for entry in cells[key]["lines"]:
            line = Line(**entry)
            shown = (line.work, line.against, line.measured, line.target, line.details)
            lines.append("| " + " | ".join(shown) + " |")
    took = sum(cells[key]["took"] for key in order)
    quick = any(cells[key]["settings"]["quick"] for key in order)
    return [*lines, "", f"{took / 60:.1f} minutes" + ("; --quick: a trial, no result" if quick else "")]


if __name__ == "__main__":
    sys.exit(main())
