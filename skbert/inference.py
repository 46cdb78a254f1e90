"""From encodings to logits or embeddings, in the order of the texts.

1. Batches of near-equal lengths, longest first, within a token budget.
2. Each runs packed through a replica of the model in the call's precision, which may be 8-bit integers
   (`network/quantized.py`), in parts if memory is short.
3. The rows are put back in the order of the texts; a text of several windows gets their mean. Rows that are
   not finite are refused: `argmax` would silently turn NaN into the first class.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from skbert.data.batching import Batch, collate, longest_first
from skbert.data.encoding import Encodings
from skbert.exceptions import NonFiniteOutputError
from skbert.network import fingerprints
from skbert.network.memory import MicroBatches
from skbert.network.model import SequenceClassifier, cast_encoder, copy_module
from skbert.network.quantized import quantize
from skbert.process import forks
from skbert.process.scopes import inference_mode
from skbert.progress import SILENT, Progress
from skbert.runtime import Runtime


def run_model(
    model: SequenceClassifier,
    encodings: Encodings,
    runtime: Runtime,
    output: Literal["logits", "embeddings"] = "logits",
    progress: Progress = SILENT,
) -> np.ndarray:
    """Run the model over all texts.

    Parameters
    ----------
    model : SequenceClassifier
        On the CPU; it is not changed.
    encodings : Encodings
    runtime : Runtime
    output : {"logits", "embeddings"}
    progress : Progress, optional
        Advances with each batch; if it is verbose, batches split because memory ran out are reported, too.

    Returns
    -------
    ndarray of shape (n_texts, n_outputs) or (n_texts, hidden_size)
        float32, or float64 if `runtime` computes in float64.

    Raises
    ------
    NonFiniteOutputError
    CheckpointError
        If a token id is not one of the encoder's.
    """
    return run_working_model(replica(model, runtime), encodings, runtime, output, progress, model)


def run_working_model(
    model: SequenceClassifier,
    encodings: Encodings,
    runtime: Runtime,
    output: Literal["logits", "embeddings"] = "logits",
    progress: Progress = SILENT,
    original: SequenceClassifier | None = None,
) -> np.ndarray:
    """Run a model that is on the device of `runtime`, in its precision and in eval mode, over all texts.

    `original` is the model that it is a replica of, if it is one.
    """
    encodings.check_ids(model.encoder.get_input_embeddings().num_embeddings)
    function = model.forward if output == "logits" else model.embed
    width = model.head.out_features if output == "logits" else model.hidden_size
    rows = np.empty((len(encodings), width), dtype=runtime.master_dtype_in_numpy)

    computed: list[tuple[np.ndarray, torch.Tensor]] = []

    def collect() -> None:
        for indices, values in computed:
            rows[indices] = values.cpu().numpy()
        computed.clear()

    def compute(indices: np.ndarray, batch: Batch) -> None:
        values = function(batch)
        collect()  # of the batch before: a GPU computes this one meanwhile
        computed.append((indices, values))

    run_batches(compute, encodings, runtime, progress)
    collect()
    check_finite(rows.max(axis=1) if output == "logits" else rows, original or model, runtime)
    return encodings.average_windows(rows)


def run_batches(
    function: Callable[[np.ndarray, Batch], None], encodings: Encodings, runtime: Runtime, progress: Progress
) -> None:
    """Call a function for all rows, in batches on the device, with the rows' indices and their tokens."""
    parts = MicroBatches(progress.verbose, free=release_all)
    texts_per_row = len(encodings.truncated) / len(encodings)
    with inference_mode(True):
        for indices in longest_first(encodings.lengths, runtime.predict_tokens):
            parts.run(lambda some: function(some, collate(encodings, some).to(runtime.device)), indices)
            progress.move(len(indices) * texts_per_row)


def check_finite(values: np.ndarray, model: SequenceClassifier, runtime: Runtime) -> None:
    """Refuse model outputs that are not finite, and name the weight or the precision that caused them.

    Parameters
    ----------
    values : ndarray
        Embeddings, or the largest logit of each row: others may be minus infinity, which turns a class off.
    model : SequenceClassifier
        Preferably in its own precision: in a narrow one, large weights are infinite.
    runtime : Runtime
        With which it was run.

    Raises
    ------
    NonFiniteOutputError
    """
    if np.isfinite(values).all():
        return
    for name, weight in model.state_dict().items():
        # A weight that is infinite in float16 may only be large.
        if torch.isnan(weight).any() or (weight.dtype != torch.float16 and torch.isinf(weight).any()):
            raise NonFiniteOutputError(
                f"The model gives no finite numbers: its weight {name} holds NaN or infinity. Use another "
                "checkpoint, or fit the model again."
            )
    wider = {torch.float32: "float64", torch.float64: None}.get(runtime.dtype, "float32")
    raise NonFiniteOutputError(
        "The model gives NaN or infinity for a text, although its weights are finite: the values that its "
        f"layers compute become too large for {str(runtime.dtype).removeprefix('torch.')}. "
        + ("Use another checkpoint." if wider is None else f"Set precision='{wider}'.")
    )


def replica(model: SequenceClassifier, runtime: Runtime) -> SequenceClassifier:
    """The model on the device and in the precision of `runtime`, in eval mode.

    On the CPU in the model's own dtype, this is the model itself. Otherwise each model's latest replica is
    kept, as long as the model exists unchanged and such models take no more than `_KEPT_BYTES`.
    """
    if runtime.device.type == "cpu" and runtime.dtype == model.head.weight.dtype and not runtime.int8:
        return model
    key = (runtime, fingerprints.state_of(model))
    with _lock:
        one_at_a_time = _makers.setdefault(model, threading.Lock())
    with one_at_a_time:  # threads that use other models do not wait
        return _found(model, key) or _keep(model, key, _made(model, runtime))


def _found(model: SequenceClassifier, key: Any) -> SequenceClassifier | None:
    """The replica that is kept, if it matches; it becomes the last to be dropped."""
    with _lock:
        kept = _kept.pop(model, None)
        if kept is None or kept[0] != key:
            return None
        _kept[model] = kept
        return kept[1]


def _made(model: SequenceClassifier, runtime: Runtime) -> SequenceClassifier:
    working = copy_module(model).to(runtime.master_dtype)
    cast_encoder(working, runtime.dtype)  # before it moves: half as much to move, and to have room for
    if runtime.int8:
        quantize(working.encoder)
    return working.to(runtime.device).eval()


def _keep(model: SequenceClassifier, key: Any, working: SequenceClassifier) -> SequenceClassifier:
    """Keep a replica; if there is no room for all, drop others, the least recently used first."""
    with _lock:
        _kept[model] = (key, working)
        while len(_kept) > 1 and sum(map(_n_bytes, _kept.keys())) > _KEPT_BYTES:
            del _kept[next(_kept.keys())]
    return working


def _n_bytes(model: SequenceClassifier) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def release(model: SequenceClassifier) -> None:
    """Drop the replica of a model, if one is kept."""
    with _lock:
        _kept.pop(model, None)


def release_all() -> None:
    """Drop all replicas that are kept; predictions that run have theirs."""
    with _lock:
        _kept.clear()


_KEPT_BYTES = 2**32  # of the models that have a replica, which is half as large in bfloat16
_kept: weakref.WeakKeyDictionary[SequenceClassifier, tuple[Any, SequenceClassifier]] = (
    weakref.WeakKeyDictionary()
)
_makers: weakref.WeakKeyDictionary[SequenceClassifier, threading.Lock] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
forks.renew(
    globals(),
    _kept=weakref.WeakKeyDictionary,
    _makers=weakref.WeakKeyDictionary,
    _lock=threading.Lock,
)
