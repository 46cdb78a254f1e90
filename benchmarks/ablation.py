"""What each technique brings: the time of a fit or a prediction without it over the time with it.

Usage: ``python benchmarks/ablation.py --data DIR``. About four minutes on two quiet cores.

1. A technique is switched off by putting the plain form of one step in its place, or by a parameter.
2. With and without it run in turn (A B A B), after a warm-up, in one process and on the same texts; what is
   said is the median of the ratios of the pairs. Results go to a JSON file; ``--table`` prints it.
3. What matters only beside another thread has one: it has fitted, and waits until the clock has stopped.

Techniques overlap: their ratios must not be multiplied.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import Store, environment, names_of
from speed_data import Workload, real_workload
from speed_rows import log
from speed_systems import alternate, timed
from systems import as_input, quiet

RESULTS = Path(__file__).parent / "results" / "ablation.json"
FIT_SETS = ("sst2", "agnews")
PREDICT_SET = "agnews"
N_TEXTS = {"fit": 96, "predict": 512}
ROUNDS = 3
PLAIN_BATCH = 32  # texts of a batch in the order given

Patch = tuple[
    Any, str, Any
]  # an object, the name of its attribute, and what stands there without the technique


@dataclass(frozen=True)
class Technique:
    """One of them, and how it is switched off."""

    work: str  # "fit" or "predict"
    patches: Callable[[], list[Patch]] = list
    parameters: dict[str, Any] = field(default_factory=dict)  # of the classifier, with and without
    without: dict[str, Any] = field(default_factory=dict)  # parameters that switch it off
    keeps: bool = False  # whether fits may find what earlier ones have kept; without it they never do
    beside: bool = False  # another thread that has computed


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the table."""
    args = parse(argv)
    store = Store(args.out)
    if not args.table:
        warnings.filterwarnings("ignore", category=UserWarning)  # some texts are truncated, both times
        import transformers

        quiet(transformers)
        run(args, store)
    print("\n".join(table(store.read()["cells"])))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--only", type=names_of(TECHNIQUES), default=list(TECHNIQUES), help="names, a,b")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs")
    parser.add_argument("--rows", type=float, default=1.0, help="factor on the number of texts")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    parser.add_argument("--table", action="store_true", help="run nothing, print what the file holds")
    args = parser.parse_args(argv)
    if not args.table and not args.data:
        parser.error("--data is needed")
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def run(args: argparse.Namespace, store: Store) -> None:
    """Measure the techniques, each on its data sets, and store every result at once."""
    env = environment() | {"threads": torch.get_num_threads()}
    for name in args.only:
        technique = TECHNIQUES[name]
        for dataset in FIT_SETS if technique.work == "fit" else (PREDICT_SET,):
            n_texts = int(N_TEXTS[technique.work] * args.rows)
            sizes = (n_texts, 1) if technique.work == "fit" else (64, n_texts)
            runs = measure(technique, real_workload(args.data, dataset, *sizes), args.rounds)
            ratio = statistics.median(a / b for a, b in zip(runs["without"], runs["with"], strict=True))
            cell = {"work": technique.work, "n_texts": n_texts, "runs": runs, "ratio": ratio}
            store.put(f"{name}/{dataset}", cell, env)
            log(f"{name}, {dataset}: {ratio:.2f}")


def measure(technique: Technique, work: Workload, rounds: int) -> dict[str, list[float]]:
    """Seconds with and without the technique, in turn."""
    timer = fit_seconds if technique.work == "fit" else predict_seconds()

    beside = idle_thread if technique.beside else nullcontext

    def on(_: int) -> float:
        with beside():
            return timer(work, technique.parameters, technique.keeps)

    def off(_: int) -> float:
        with ExitStack() as stack:
            for patch in technique.patches():
                stack.enter_context(mock.patch.object(*patch))
            stack.enter_context(beside())
            return timer(work, technique.parameters | technique.without, False)

    for system in (on, off):
        system(0)
    return alternate({"with": on, "without": off}, rounds, lambda _: None)


@contextmanager
def idle_thread() -> Iterator[None]:
    """Have another thread, as a server has, which computes first and then does nothing."""
    import skbert

    has_fitted, is_over = threading.Event(), threading.Event()

    def fit_and_wait() -> None:
        skbert.BertClassifier(epochs=1, random_state=0).fit(["a warm film", "a dull film"] * 8, [0, 1] * 8)
        has_fitted.set()
        is_over.wait()

    thread = threading.Thread(target=fit_and_wait)
    thread.start()
    has_fitted.wait()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def fit_seconds(work: Workload, parameters: dict[str, Any], keeps: bool) -> float:
    """Time a fit of one epoch, from strings to a trained model."""
    import skbert

    if not keeps:
        skbert.clear_caches()
    classifier = skbert.BertClassifier(
        **{"epochs": 1, "head_init": "random", "random_state": 0, "max_length": work.max_length} | parameters
    )
    return timed(lambda: classifier.fit(as_input(work.X_train), work.y_train), "cpu")


def predict_seconds() -> Callable[[Workload, dict[str, Any], bool], float]:
    """Return what times a prediction of a classifier, fitted once for each pooling."""
    import skbert

    fitted: dict[str, Any] = {}

    def seconds(work: Workload, parameters: dict[str, Any], _: bool) -> float:
        pooling = parameters.get("pooling", "mean")
        if pooling not in fitted or "pooling" in parameters:  # a patch may be about how a model is made
            settings = {"pooling": pooling, "epochs": 1, "head_init": "random", "random_state": 0}
            classifier = skbert.BertClassifier(max_length=work.max_length, **settings)
            fitted[pooling] = classifier.fit(as_input(work.X_train), work.y_train)
        classifier = fitted[pooling].set_params(precision=parameters.get("precision", "auto"))
        texts = as_input(work.X_test)
        classifier.predict_proba(texts[:64])  # the replica in this precision is made here
        return timed(lambda: classifier.predict_proba(texts), "cpu")

    return seconds


def table(cells: dict[str, Any]) -> list[str]:
    """Build the Markdown table."""
    lines = ["| technique | work | without it / with it |", "|---|---|---|"]
    for name, technique in TECHNIQUES.items():
        own = {key.split("/")[1]: cell for key, cell in cells.items() if key.split("/")[0] == name}
        if own:
            shown = ", ".join(f"{cell['ratio']:.2f} ({dataset})" for dataset, cell in own.items())
            lines.append(f"| {name} | {technique.work} | {shown} |")
    return lines


def _padded() -> list[Patch]:
    from skbert.pretrained import checkpoints, traits

    return [
        (traits, "_PACKED_FAMILIES", frozenset()),
        (checkpoints, "_attention_of", lambda packed: "sdpa"),
        (checkpoints, "_loaded", _loaded_padded),
    ]


_loaded_padded: OrderedDict[Any, Any] = OrderedDict()  # checkpoints, as they are loaded once per process


def _one_group() -> list[Patch]:
    from skbert.network import attention_layout

    return [(attention_layout, "_WASTE", float("inf"))]


def _plain_masks() -> list[Patch]:
    from skbert.network import dropout, grouped_attention

    def mask(x: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
        return torch.empty_like(x).bernoulli_(1.0 - p, generator=generator).div_(1.0 - p)

    return [(module, "scaled_mask", mask) for module in (dropout, grouped_attention)]


def _whole_vocabulary() -> list[Patch]:
    from skbert.data.encoding import Encodings
    from skbert.training import loop
    from skbert.training.vocabulary import compact

    def whole(model: Any, data: Any, moments: Any) -> Any:
        n = model.encoder.get_input_embeddings().num_embeddings
        zeros = np.zeros(1, dtype=np.int64)
        everything = Encodings(np.arange(n), np.array([0, n]), np.zeros(n, dtype=np.int8), zeros, zeros > 0)
        assert data.held_out is None
        found, vocabulary = compact(model, replace(data, held_out=everything), moments)
        return replace(found, held_out=None), vocabulary

    return [(loop, "compact", whole)]


def _plain_adamw() -> list[Patch]:
    class Plain(torch.optim.AdamW):
        def __init__(self, *args: Any, fused: bool, **settings: Any) -> None:
            super().__init__(*args, **settings)

    return [(torch.optim, "AdamW", Plain)]


def _all_tokens() -> list[Patch]:
    from skbert.network import model

    return [(model, "restrict_last_layer", lambda layers: False)]


def _any_order() -> list[Patch]:
    from skbert import inference

    def in_order(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
        return np.split(np.arange(len(lengths)), range(PLAIN_BATCH, len(lengths), PLAIN_BATCH))

    return [(inference, "longest_first", in_order)]


def _quantized_each_time() -> list[Patch]:
    from skbert.network.quantized import LastInput, quantized_rows

    return [(LastInput, "quantized", lambda self, x, offset: quantized_rows(x.flatten(0, -2), offset))]


def _threads_kept() -> list[Patch]:
    from skbert.process import openmp

    return [(openmp, "_give_back", lambda: None)]


TECHNIQUES = {
    "packed batches": Technique("fit", _padded),
    "attention in groups of like length": Technique("fit", _one_group),
    "dropout masks of 16 bits": Technique("fit", _plain_masks),
    "embedding rows that occur": Technique("fit", _whole_vocabulary),
    "fused AdamW": Technique("fit", _plain_adamw),
    "first tokens in the last layer": Technique("fit", _all_tokens, {"pooling": "cls"}),
    "what earlier fits kept": Technique("fit", parameters={"head_init": "auto"}, keeps=True),
    "longest first": Technique("predict", _any_order),
    "first tokens when predicting": Technique("predict", _all_tokens, {"pooling": "cls"}),
    "8-bit integers": Technique("predict", parameters={"precision": "int8"}, without={"precision": "auto"}),
    "threads given back beside an idle thread": Technique("fit", _threads_kept, beside=True),
    "threads given back beside an idle thread (int8)": Technique(
        "predict", _threads_kept, {"precision": "int8"}, beside=True
    ),
    "one quantization for three layers": Technique("predict", _quantized_each_time, {"precision": "int8"}),
}


if __name__ == "__main__":
    sys.exit(main())
