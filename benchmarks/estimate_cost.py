"""What work of a given size costs, on paper, from a measured rate.

    python benchmarks/estimate_cost.py --measure  # measures this machine, and stores the rates
    python benchmarks/estimate_cost.py --texts 10e6 --length 64 --devices 1,8,64
    python benchmarks/estimate_cost.py --training-rate 1000 --prediction-rate 3000 --devices 1,8,64

1. `measure` times fits and predictions of two sizes on synthetic texts: the difference, per token, is the
   rate without what every call costs once. On a CPU it is the rate of one core, in CPU time, so that other
   work on the machine counts little; on a GPU that of one GPU, in wall-clock time.
2. `table` divides tokens by rates. It knows no losses: to bring the gradients of N devices together takes
   time that is not in it, nor is the time to tokenize where few cores feed a GPU. It gives a lower bound.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "estimate_cost.json"
WORDS = "the a good bad film story was very new old and of in it that not book time day night man".split()


def measure(device: str, length: int, n_texts: int) -> dict[str, Any]:
    """Tokens a second in training and in prediction, with the default checkpoint."""
    import torch

    from skbert import BertClassifier

    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    if not device.startswith("cuda"):
        torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def texts(n: int) -> list[str]:
        return [" ".join(rng.choice(WORDS, length - 2)) for _ in range(n)]  # a word is a token

    def seconds(n: int) -> tuple[float, float]:
        X, y = texts(n), np.arange(n) % 2
        model = BertClassifier(
            epochs=1, max_length=length, head_init="random", device=device, random_state=0, learning_rate=1e-5
        )
        began = clock()
        model.fit(X, y)
        fitted = clock()
        model.predict(X[:1])  # puts the weights in place
        placed = clock()
        model.predict(X)
        return fitted - began, clock() - placed

    seconds(n_texts // 4)  # warms up
    (small_fit, small_predict), (large_fit, large_predict) = seconds(n_texts), seconds(3 * n_texts)
    tokens = 2 * n_texts * length
    return {
        "training": tokens / (large_fit - small_fit),
        "prediction": tokens / (large_predict - small_predict),
        "length": length,
        "of": "one GPU" if device.startswith("cuda") else "one core, CPU time",
    }


def hours(rates: dict[str, float], plan: argparse.Namespace, devices: int) -> dict[str, float]:
    """Hours of each piece of work on so many devices."""
    tokens = plan.texts * plan.length
    fit = (
        plan.search_texts
        * plan.length
        * (
            (plan.folds - 1) / plan.folds * plan.epochs / rates["training"]
            + 1 / plan.folds / rates["prediction"]
        )
    )
    rounds = math.ceil(plan.points * plan.folds / devices)  # fits that one device runs, one after the other
    return {
        f"fit {plan.texts:,.0f} texts, {plan.epochs} epochs": tokens
        * plan.epochs
        / rates["training"]
        / devices
        / 3600,
        f"predict {plan.texts:,.0f} texts": tokens / rates["prediction"] / devices / 3600,
        f"search {plan.points} points, {plan.folds} folds, {plan.search_texts:,.0f} texts": rounds
        * fit
        / 3600,
    }


def table(rates: dict[str, float], plan: argparse.Namespace) -> str:
    """Rows of work, columns of devices, as Markdown."""
    columns = [hours(rates, plan, devices) for devices in plan.devices]
    head = " | ".join(f"{devices} devices" if devices > 1 else "1 device" for devices in plan.devices)
    lines = [f"| hours | {head} |", "|---" * (len(columns) + 1) + "|"]
    for work in columns[0]:
        lines.append(f"| {work} | " + " | ".join(_text_of(column[work]) for column in columns) + " |")
    return "\n".join(lines)


def _text_of(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="measure this machine first")
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda: what is measured, or whose rates are used"
    )
    parser.add_argument("--training-rate", type=float, help="tokens a second, in place of the stored rate")
    parser.add_argument("--prediction-rate", type=float)
    parser.add_argument("--texts", type=float, default=10e6)
    parser.add_argument("--length", type=int, default=64, help="tokens a text")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--points", type=int, default=500, help="of the search")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--search-texts", type=float, default=10_000)
    parser.add_argument("--devices", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 64])
    parser.add_argument(
        "--measured-texts", type=int, help="of the smaller measurement; 128 on a CPU, 16,384 on a GPU"
    )
    plan = parser.parse_args()
    if plan.measured_texts is None:
        # Each rate is that of the texts by which the larger measurement is larger: many batches on a GPU.
        plan.measured_texts = 128 if plan.device == "cpu" else 2**14
    return plan


def main() -> None:
    plan = read_arguments()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if plan.measure:
        from common import environment

        rates = measure(plan.device, plan.length, plan.measured_texts)
        stored[plan.device] = rates | {"environment": environment()}
        RESULTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    if plan.training_rate and plan.prediction_rate:
        rates = {"training": plan.training_rate, "prediction": plan.prediction_rate, "of": "as given"}
    elif plan.device in stored:
        rates = stored[plan.device]
    else:
        raise SystemExit(
            f"No rate of {plan.device!r} is stored. Measure it with --measure, or give both rates."
        )
    print(
        f"tokens a second ({rates['of']}): {rates['training']:,.0f} in training, "
        f"{rates['prediction']:,.0f} in prediction"
    )
    print(table(rates, plan))


if __name__ == "__main__":
    main()
