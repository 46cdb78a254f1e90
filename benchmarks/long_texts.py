"""Fits of long texts on a CPU: time and peak memory next to transformers' Trainer.

Usage: ``python benchmarks/long_texts.py``. Needs no files. About ten minutes on two quiet cores.

1. A ModernBERT of random weights, as wide as the base model and with every third layer global as there, but
   of six layers; texts of one length in tokens, 8,192 tokens in all, 4,096 in a step.
2. skbert and Trainer in float32 and, where the hardware is fast at it, in bfloat16 (``trainer-tuned``), in
   turn, after a warm-up; the ratio is the median of the pairs'.
3. Of so few steps nothing is learned. The pass over the texts by which skbert notices that is left out; in a
   fit of thousands of texts it takes no time that counts.
4. Peak memory is that of a fresh process for each of them.

Results go to a JSON file; ``--table`` prints it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from common import Store, environment
from speed_data import Workload, make_checkpoint
from speed_memory import peak_of
from speed_rows import log
from speed_systems import FITS, alternate, fast_bfloat16
from systems import quiet

from skbert import fitting

RESULTS = Path(__file__).parent / "results" / "long_texts.json"
LENGTHS = (2048, 4096)
N_TOKENS = 8192
N_LAYERS = 6
PAIRS = {"float32": ("skbert-float32", "trainer"), "bfloat16": ("skbert", "trainer-tuned")}
MIB = 1 << 20


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=3, help="pairs")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    parser.add_argument("--table", action="store_true", help="run nothing, print what the file holds")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    store = Store(args.out)
    if not args.table:
        warnings.filterwarnings("ignore", category=UserWarning)  # such a model learns nothing
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = make_modernbert(Path(folder))
            for length in args.lengths:
                run(store, workload(checkpoint, length), args.rounds)
    print("\n".join(table(store.read()["cells"])))
    return 0


def make_modernbert(folder: Path) -> Path:
    """Save a ModernBERT of random weights next to a tokenizer whose words are one token each."""
    import transformers

    quiet(transformers)
    make_checkpoint(folder, "tiny")
    config = transformers.ModernBertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()),
        num_hidden_layers=N_LAYERS,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    transformers.ModernBertModel(config).save_pretrained(folder)
    return folder


def workload(checkpoint: Path, length: int) -> Workload:
    """Texts of exactly `length` tokens."""
    words = (checkpoint / "vocab.txt").read_text(encoding="utf-8").splitlines()[5:]
    rng = np.random.default_rng(0)
    n_texts = N_TOKENS // length
    texts = pd.DataFrame({"text": [" ".join(rng.choice(words, length - 2)) for _ in range(n_texts)]})
    labels = np.arange(n_texts) % 2
    batch_size = max(1, N_TOKENS // 2 // length)
    return Workload(
        str(length), texts, labels, texts, labels, checkpoint, batch_size=batch_size, max_length=length
    )


def run(store: Store, work: Workload, rounds: int) -> None:
    """Time the pairs, measure their memory, and store both at once."""
    pairs = {name: pair for name, pair in PAIRS.items() if name == "float32" or fast_bfloat16("cpu")}
    for precision, (ours, theirs) in pairs.items():
        systems = {
            name: lambda seed, name=name: FITS[name](work, seed, "cpu").seconds for name in (ours, theirs)
        }
        with mock.patch.object(fitting, "warn_of_collapse"):
            for system in systems.values():
                system(0)
            seconds = alternate(systems, rounds, log)
        job = {"work": work, "warm-up": work.head(max(2, work.batch_size)), "device": "cpu"}
        peaks = {name: peak_of({**job, "system": name})["peak"] for name in systems}
        cell: dict[str, Any] = {"seconds": seconds, "peaks": peaks, "systems": [ours, theirs]}
        cell |= {"n_texts": len(work.y_train), "batch_size": work.batch_size}
        store.put(f"{work.name}/{precision}", cell, environment() | {"threads": torch.get_num_threads()})


def table(cells: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each length and precision."""
    lines = [
        "| tokens a text | in | time, trainer / skbert | peak memory, skbert : trainer | skbert / trainer |",
        "|---|---|---|---|---|",
    ]
    for key, cell in sorted(cells.items(), key=lambda item: int(item[0].split("/")[0])):
        length, precision = key.split("/")
        ours, theirs = cell["systems"]
        pairs = zip(cell["seconds"][theirs], cell["seconds"][ours], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        here, there = (cell["peaks"][name] / MIB for name in (ours, theirs))
        memory = f"{here:,.0f} : {there:,.0f} MiB | {here / there:.2f}"
        lines.append(f"| {int(length):,} | {precision} | {ratio:.2f} | {memory} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
