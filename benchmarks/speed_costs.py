"""The rows of the speed benchmark that are not races: memory, tokenization, overhead, cost against size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from speed_data import Workload
from speed_memory import peak_of
from speed_rows import Line, Plan, Row, log
from speed_systems import alternate, fit_skbert, timed

MIB = 1 << 20
N_OVERHEAD = 200
CHUNK = 1024  # texts a call to the bare tokenizer


def memory_row(plan: Plan, name: str) -> Row:
    """Peak memory of a fit, each system in a fresh process, at the same batch."""
    work = plan.fits[name]()
    job = {"work": work, "warm-up": work.head(2 * work.batch_size), "device": plan.device}
    record: dict[str, Any] = {"n_texts": len(work.y_train), "batch_size": work.batch_size, "systems": {}}
    for system in ("skbert", "trainer", "trainer-tuned"):
        record["systems"][system] = peak_of({**job, "system": system})
        log(f"  {system}")
    systems, lines = record["systems"], []
    ours = systems["skbert"]
    for other in ("trainer", "trainer-tuned"):
        theirs = systems[other]
        details = f"{ours['peak'] / MIB:,.0f} : {theirs['peak'] / MIB:,.0f} MiB"
        ratio = f"{ours['peak'] / theirs['peak']:.2f}"
        lines.append(Line(f"peak memory, fit, {name}", other, ratio, "≤ 1.0", details))
    return record, lines


def tokenize_row(plan: Plan) -> Row:
    """Rate of skbert's encoding of short texts, and its share of the bare tokenizer's."""
    from tokenizers import Tokenizer

    from skbert.data.encoding import encode
    from skbert.data.inputs import check_texts
    from skbert.pretrained.checkpoints import new_tokenizer

    work = plan.short(15_000)
    lines = work.X_train.iloc[:, 0].tolist()
    texts = [f"{lines[i % len(lines)]} {i}" for i in range(plan.n_tokenize)]
    tokenizer = Tokenizer.from_file(str(work.checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ours = new_tokenizer(tokenizer.to_str())

    def bare(_: int) -> float:
        def run() -> None:
            for start in range(0, len(texts), CHUNK):
                tokenizer.encode_batch_fast(texts[start : start + CHUNK], add_special_tokens=False)

        return timed(run, plan.device)

    def skbert(_: int) -> float:
        return timed(lambda: encode(ours, check_texts(texts), work.max_length), plan.device)

    runs = alternate({"encode_batch_fast": bare, "skbert": skbert}, plan.rounds, log)
    share = statistics.median(a / b for a, b in zip(runs["encode_batch_fast"], runs["skbert"], strict=True))
    rates = {name: len(texts) / statistics.median(seconds) for name, seconds in runs.items()}
    details = f"{rates['skbert']:,.0f} : {rates['encode_batch_fast']:,.0f} texts/s"
    record = {"n_texts": len(texts), "runs": runs, "texts_per_second": rates, "share": share}
    title = f"tokenizing {len(texts):,} short texts"
    return record, [Line(title, "encode_batch_fast alone", f"{share:.2f}", "≥ 0.9", details)]


def overhead_row(plan: Plan, name: str) -> Row:
    """What a fit of 200 texts costs beyond its steps, second in the process.

    The cost of a pass over the texts is the slope of the time over epochs 1 and 3; the overhead is what is
    left of the time of the first.
    """
    work = plan.fits[name]().head(N_OVERHEAD)

    def fit(epochs: int, head_init: str) -> Callable[[int], float]:
        job = replace(work, epochs=epochs)
        return lambda seed: fit_skbert(job, seed, plan.device, head_init=head_init).seconds

    starts = ("random", "auto")
    fit(1, "auto")(0)  # the first in the process
    systems = {f"{start}, {epochs}": fit(epochs, start) for start in starts for epochs in (1, 3)}
    runs = alternate(systems, max(plan.rounds, 2), log)
    record: dict[str, Any] = {"n_texts": len(work.y_train), "runs": runs, "overhead": {}}
    lines = []
    for start, what in zip(starts, ("head at random", "default head, its pass included"), strict=True):
        pairs = list(zip(runs[f"{start}, 1"], runs[f"{start}, 3"], strict=True))
        overhead = statistics.median(one - (three - one) / 2 for one, three in pairs)
        whole = statistics.median(one for one, _ in pairs)
        record["overhead"][start] = overhead
        target = "< 0.3 s" if start == "random" else ""
        title = f"overhead of a {N_OVERHEAD}-row fit, {name}"
        lines.append(Line(title, what, f"{overhead:.2f} s", target, f"of {whole:.2f} s"))
    return record, lines


def scaling_row(plan: Plan) -> Row:
    """Cost of a text at growing sizes, and the growth of the memory that a prediction needs."""
    works = {n: plan.short(n) for n in plan.sizes}
    classifier = fit_skbert(works[plan.sizes[0]], 0, plan.device, head_init="random").model

    def fit(work: Workload) -> Callable[[int], float]:
        return lambda seed: fit_skbert(work, seed, plan.device, head_init="random").seconds

    def predict(work: Workload) -> Callable[[int], float]:
        texts = work.X_train.iloc[:, 0].tolist()
        return lambda _: timed(lambda: classifier.predict_proba(texts), plan.device)

    record: dict[str, Any] = {"sizes": plan.sizes, "seconds": {}}
    lines = []
    for name, make in (("fit", fit), ("predict_proba", predict)):
        runs = alternate({str(n): make(work) for n, work in works.items()}, plan.rounds, log)
        seconds = {int(n): statistics.median(own) for n, own in runs.items()}
        record["seconds"][name] = seconds
        lines.append(_linearity(name, seconds))
    several = 2 * plan.sizes[-1], 8 * plan.sizes[-1]  # windows of rows
    peaks = {n: _predict_peak(plan, classifier, plan.short(n)) for n in several}
    record["peaks"] = peaks
    return record, [*lines, _memory_line(peaks)]


def _linearity(name: str, seconds: dict[int, float]) -> Line:
    """Cost of a further text between the two larger sizes over that between the two smaller ones."""
    (a, ta), (b, tb), (c, tc) = list(seconds.items())[-3:]
    ratio = ((tc - tb) / (c - b)) / ((tb - ta) / (b - a))
    details = ", ".join(f"{n:,}: {s:.2f} s" for n, s in seconds.items())
    return Line(f"{name}, {a:,} to {c:,} texts", "linear", f"{ratio:.2f}", "0.9 to 1.1", details)


def _predict_peak(plan: Plan, classifier: Any, work: Workload) -> dict[str, Any]:
    log(f"  memory of {len(work.y_train):,} texts")
    texts = work.X_train.iloc[:, 0].tolist()
    job = {"system": "predict", "classifier": classifier, "texts": texts, "device": plan.device}
    return peak_of(job) | {"tokens": int(work.lengths(work.X_train).sum())}


def _memory_line(peaks: dict[int, dict[str, Any]]) -> Line:
    """Bytes that a prediction's peak grows by for a further text, its output left out."""
    small, large = peaks
    grown = {n: peaks[n]["growth"] - peaks[n]["output"] for n in (small, large)}
    a_text = (grown[large] - grown[small]) / (large - small)
    tokens = peaks[large]["tokens"] / large
    details = f"{grown[large] / MIB:.0f} MiB at {large:,} texts of {tokens:.0f} tokens"
    return Line(
        "predict_proba, peak beyond inputs and outputs", "flat", f"{a_text:,.0f} bytes/text", "0", details
    )
