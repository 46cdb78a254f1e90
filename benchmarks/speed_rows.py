"""The rows of the speed benchmark: each a function from the plan to measurements and lines of the table.

A line says what is compared with what, the figure measured, the target, and details. Where two systems are
compared they alternate, and the figure is the median of the ratios, pair by pair.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flops import matrix_rate, shape_of, square_rate, useful_flops
from speed_data import Workload
from speed_systems import (
    FITS,
    PIPELINES,
    Fitted,
    alternate,
    fast_bfloat16,
    fit_skbert,
    make_pipeline,
    run_pipeline,
    sequence_classifier,
    timed,
)

INT8 = "skbert, int8"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PREDICT_TOKENS = {"cpu": 2_048, "cuda": 65_536}  # rows of the products that predictions are judged by
TARGETS = {
    "fit trainer": {"cpu": 3.5, "cuda": 4.0},
    "fit trainer-tuned": {"cpu": 1.7, "cuda": 1.8},
    "predict": {"cpu": 3.5, "cuda": 2.5},
    "fit mfu": {"cpu": 0.60, "cuda": 0.38},
    "predict mfu": {"cpu": 0.65, "cuda": 0.45},
}


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    device: str
    rounds: int
    fits: dict[str, Callable[[], Workload]]
    predict: Callable[[], Workload]
    short: Callable[[int], Workload]  # so many short texts and a small model
    n_tokenize: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    work: str
    against: str
    measured: str
    target: str = ""
    details: str = ""


Row = tuple[dict[str, Any], list[Line]]  # measurements for the JSON file, lines for the table


def fit_row(plan: Plan, name: str) -> Row:
    """Time fits of one data set: skbert, Trainer at its defaults, Trainer tuned."""
    work = plan.fits[name]()
    lengths = work.lengths(work.X_train)
    warm = work.head(2 * work.batch_size)
    for system in FITS.values():
        system(warm, 0, plan.device)

    def measure(system: str) -> Callable[[int], dict[str, Any]]:
        def run(seed: int) -> dict[str, Any]:
            fitted = FITS[system](work, seed, plan.device)
            accuracy = float((fitted.predict(work.X_test) == work.y_test).mean())
            return _fit_record(fitted, accuracy)

        return run

    shape = shape_of(work.checkpoint)
    n_tokens = int(lengths.mean() * work.batch_size)
    rates = rates_of(plan, shape, n_tokens)
    runs = alternate({system: measure(system) for system in FITS}, plan.rounds, log)
    rates = max_rates(rates, rates_of(plan, shape, n_tokens))
    flops = work.epochs * useful_flops(shape, lengths, training=True)
    record = {
        "n_texts": len(lengths),
        "tokens": int(lengths.sum()),
        "epochs": work.epochs,
        "batch_size": work.batch_size,
        "learning_rate": work.learning_rate,
        "rates": rates,
        "runs": runs,
        "systems": {
            system: _fit_summary(own, work.epochs * int(lengths.sum()), flops, rates)
            for system, own in runs.items()
        },
    }
    return record, _fit_lines(plan, name, record)


def _fit_record(fitted: Fitted, accuracy: float) -> dict[str, Any]:
    return {
        "seconds": fitted.seconds,
        "accuracy": accuracy,
        "padding": fitted.padding,
        "precision": fitted.precision,
    }


def _fit_summary(
    runs: list[dict[str, Any]], tokens: int, flops: float, rates: dict[str, Any]
) -> dict[str, Any]:
    seconds = statistics.median(run["seconds"] for run in runs)
    precision = runs[0]["precision"]
    return {
        "seconds": seconds,
        "useful_tokens_per_second": tokens / seconds,
        "accuracy": statistics.fmean(run["accuracy"] for run in runs),
        "padding": statistics.fmean(run["padding"] for run in runs),
        "precision": precision,
        "useful_mfu": flops / seconds / rates[precision]["layer"],
        "useful_mfu_of_square": flops / seconds / rates[precision]["square"],
    }


def _fit_lines(plan: Plan, name: str, record: dict[str, Any]) -> list[Line]:
    systems, runs = record["systems"], record["runs"]
    ours = systems["skbert"]
    lines = []
    for other in ("trainer", "trainer-tuned"):
        theirs = systems[other]
        ratio = paired_ratio(runs[other], runs["skbert"])
        details = (
            f"{ours['useful_tokens_per_second']:,.0f} : {theirs['useful_tokens_per_second']:,.0f} tokens/s; "
            f"accuracy {ours['accuracy']:.3f} : {theirs['accuracy']:.3f}; padding {theirs['padding']:.0%}; "
            f"MFU {theirs['useful_mfu']:.0%}"
        )
        target = TARGETS[f"fit {other}"][plan.device]
        lines.append(Line(f"fit, {name}", other, f"{ratio:.2f}", f"≥ {target}", details))
    auto = systems["skbert-auto"]
    details = f"accuracy {auto['accuracy']:.3f}; its start of the head is a pass over the texts"
    ratio = paired_ratio(runs["trainer"], runs["skbert-auto"])
    lines.append(Line(f"fit, {name}, default head", "trainer", f"{ratio:.2f}", "", details))
    return [*lines, _mfu_line(f"fit, {name}", ours, TARGETS["fit mfu"][plan.device])]


def _mfu_line(work: str, ours: dict[str, Any], target: float) -> Line:
    details = f"{ours['useful_mfu_of_square']:.0%} of a large square product"
    rate = f"rate of the layer's products, {ours['precision']}"
    return Line(f"useful MFU, {work}", rate, f"{ours['useful_mfu']:.0%}", f"≥ {target:.0%}", details)


def predict_row(plan: Plan) -> Row:
    """Time `predict_proba` next to pipelines that run the same weights, and with the default pooling."""
    work = plan.predict()
    texts = work.X_test.iloc[:, 0].tolist()
    lengths = work.lengths(work.X_test)
    same = fit_skbert(work, 0, plan.device, pooling="cls", head_init="random").model
    usual = fit_skbert(work, 0, plan.device, head_init="random").model
    twin = sequence_classifier(same, work)
    systems = {"skbert": same.predict_proba, "skbert, default pooling": usual.predict_proba}
    if plan.device == "cpu":
        systems |= {
            INT8: in_int8(same).predict_proba,
            f"{INT8}, default pooling": in_int8(usual).predict_proba,
        }
    for name, (batch_size, dtype) in PIPELINES.items():
        fast = fast_bfloat16(plan.device) if dtype is torch.bfloat16 else plan.device != "cpu"
        if dtype is not torch.float32 and not fast:
            continue
        pipe = make_pipeline(twin, work, plan.device, dtype)
        systems[name] = lambda X, p=pipe, b=batch_size: run_pipeline(p, X, b, work.max_length)
    answers = {name: system(texts[:64]) for name, system in systems.items()}  # warm

    def measure(name: str) -> Callable[[int], dict[str, Any]]:
        def run(_: int) -> dict[str, Any]:
            systems[name](texts[:64])  # the copy of a model in another precision is kept for one model only
            seconds = timed(lambda: answers.update({name: systems[name](texts)}), plan.device)
            return {"seconds": seconds}

        return run

    shape = shape_of(work.checkpoint)
    rates = rates_of(plan, shape, PREDICT_TOKENS[plan.device])
    runs = alternate({name: measure(name) for name in systems}, plan.rounds, log)
    rates = max_rates(rates, rates_of(plan, shape, PREDICT_TOKENS[plan.device]))
    record = _predict_record(plan, work, lengths, runs, answers, same.classes_)
    flops = useful_flops(shape, lengths, training=False)
    for summary in record["systems"].values():
        rate = rates[record["precision"]]
        summary["useful_mfu"] = flops / summary["seconds"] / rate["layer"]
        summary["useful_mfu_of_square"] = flops / summary["seconds"] / rate["square"]
        summary["precision"] = record["precision"]
    record["rates"] = rates
    return record, _predict_lines(plan, work.name, record)


def _predict_record(
    plan: Plan,
    work: Workload,
    lengths: np.ndarray,
    runs: dict[str, Any],
    answers: dict[str, np.ndarray],
    classes: np.ndarray,
) -> dict[str, Any]:
    from skbert.runtime import resolve_runtime

    systems = {}
    for name, own in runs.items():
        seconds = statistics.median(run["seconds"] for run in own)
        systems[name] = {
            "seconds": seconds,
            "useful_tokens_per_second": float(lengths.sum() / seconds),
            "accuracy": float((classes[answers[name].argmax(axis=1)] == work.y_test).mean()),
        }
    return {
        "n_texts": len(lengths),
        "tokens": int(lengths.sum()),
        "precision": str(resolve_runtime(plan.device, "auto").dtype).removeprefix("torch."),
        "runs": runs,
        "systems": systems,
    }


def _predict_lines(plan: Plan, name: str, record: dict[str, Any]) -> list[Line]:
    systems = record["systems"]
    ours, usual = systems["skbert"], systems["skbert, default pooling"]
    lines = _race_lines(plan, f"predict_proba, {name}", "skbert", record)
    if INT8 in systems:
        lines += _race_lines(plan, f"predict_proba, {name}, int8", INT8, record)
    slower = max(usual, ours, key=lambda summary: summary["seconds"])
    return [*lines, _mfu_line("predict", slower, TARGETS["predict mfu"][plan.device])]


def _race_lines(plan: Plan, work: str, system: str, record: dict[str, Any]) -> list[Line]:
    """One of skbert's predictions next to each pipeline, and with the default pooling to the fastest."""
    systems, runs = record["systems"], record["runs"]
    ours, least = systems[system], TARGETS["predict"][plan.device]
    others = [other for other in runs if not other.startswith("skbert")]
    lines = []
    for other in others:
        details = (
            f"{ours['useful_tokens_per_second']:,.0f} : {systems[other]['useful_tokens_per_second']:,.0f} "
            f"tokens/s; accuracy {ours['accuracy']:.3f} : {systems[other]['accuracy']:.3f}"
        )
        ratio = f"{paired_ratio(runs[other], runs[system]):.2f}"
        target = "" if other[-4:] in ("bf16", "fp16") and plan.device == "cpu" else f"≥ {least}"
        lines.append(Line(work, other, ratio, target, details))
    best = min(others, key=lambda other: systems[other]["seconds"])
    ratio = f"{paired_ratio(runs[best], runs[f'{system}, default pooling']):.2f}"
    return [*lines, Line(f"{work}, default pooling", f"{best} (the fastest)", ratio)]


def in_int8(classifier: Any) -> Any:
    """A copy of a fitted classifier that predicts in 8-bit integers."""
    return copy.deepcopy(classifier).set_params(precision="int8")


def paired_ratio(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> float:
    """Median over the rounds of the ratio of seconds."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True))


def rates_of(plan: Plan, shape: Any, n_tokens: int) -> dict[str, dict[str, float]]:
    """Operations a second of matrix products, by precision: one layer's, and a large square one's."""
    return {
        name: {
            "layer": matrix_rate(shape, n_tokens, dtype, plan.device),
            "square": square_rate(dtype, plan.device),
        }
        for name, dtype in DTYPES.items()
    }


def max_rates(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The higher of two measurements, so that noise makes nothing look better than it is."""
    return {
        name: {kind: max(rates[kind], second[name][kind]) for kind in rates} for name, rates in first.items()
    }


def log(message: str) -> None:
    """Tell how far the run is."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
