"""Where the time of a fit and of a prediction goes, operation by operation: what could still be saved.

torch's profiler records every operation's own time. They are put into a few kinds by name; all that is not
named there is "other": element-wise arithmetic, views, and what torch itself needs to call an operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from speed_rows import Line, Plan, Row, in_int8
from speed_systems import fit_skbert
from torch.profiler import ProfilerActivity, profile

# The first that fits: kernels of attention and the optimizer also name the libraries that they are made with.
KINDS = {
    "attention's products": ("bmm", "baddbmm", "scaled_dot_product", "flash", "fmha"),
    "optimizer": ("adamw", "fusedadam", "linalg_vector_norm", "lpnorm", "foreach", "multi_tensor"),
    "dropout masks": ("random", "bernoulli", "ge", "fused_dropout"),
    "matrix products": ("mm", "addmm", "qlinear", "int_mm", "mkldnn_linear", "gemm", "cutlass", "nvjet"),
    "softmax and norms": ("softmax", "layer_norm"),
    "GELU": ("gelu",),
    "copies": ("copy", "index_select", "index_copy", "fill", "cat", "memcpy", "memset"),
}
N_TEXTS = 64


def profile_row(plan: Plan) -> Row:
    """Shares of the time in a fit of each data set, and in predictions by default and in int8."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, make in plan.fits.items():
        work = make().head(N_TEXTS)
        runs[f"fit, {name}"] = partial(fit_skbert, work, 0, plan.device, head_init="random")
    work = plan.predict()
    texts = work.X_test.iloc[: 2 * N_TEXTS, 0].tolist()
    classifier = fit_skbert(work.head(32), 0, plan.device, head_init="random").model
    runs[f"predict_proba, {work.name}"] = partial(classifier.predict_proba, texts)
    if plan.device == "cpu":
        runs[f"predict_proba, {work.name}, int8"] = partial(in_int8(classifier).predict_proba, texts)
    record = {what: shares(run, plan.device) for what, run in runs.items()}
    return {"shares": record}, [_line(what, own) for what, own in record.items()]


def shares(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Share of each kind of operation in the time of the second of two runs, the largest first."""
    run()
    activities = [ProfilerActivity.CPU] if device == "cpu" else [ProfilerActivity.CUDA]
    with profile(activities=activities) as recorded:
        run()
    seconds: Counter[str] = Counter()
    for event in recorded.key_averages():
        own = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        seconds[kind_of(event.key)] += own
    whole = sum(seconds.values())
    return {kind: own / whole for kind, own in seconds.most_common()}


def kind_of(operation: str) -> str:
    """The kind of an operation by its name: "aten::addmm" on a CPU, a kernel's signature on a GPU."""
    if operation.startswith("autograd::") or operation.endswith("Backward0"):
        return "other"  # what calls an operation, not the operation
    bare = operation.removeprefix("aten::").lower().strip("_")
    for kind, names in KINDS.items():
        if bare in names or any(len(name) > 3 and name in bare for name in names):
            return kind
    return "other"


def _line(what: str, own: dict[str, float]) -> Line:
    details = ", ".join(f"{kind} {share:.0%}" for kind, share in own.items() if share >= 0.005)
    products = own.get("matrix products", 0.0)
    return Line(f"profile, {what}", "matrix products' share of the time", f"{products:.0%}", "", details)
