"""Outputs of frozen layers, computed once for all epochs, folds and grid points.

1. `FrozenLayers.vectors` gives the pooled vectors of a frozen encoder, `FrozenLayers.states` the states above
   its lowest layers: from the cache, or computed without dropout and then cached.
2. The key of a row is a digest of its token ids and segments, special tokens included: all that an encoder
   sees of the text, the tokenizer, `max_length`, `long_text` and the sides of a pair.
3. The space is everything else that the outputs depend on: the weights themselves
   (`network/fingerprints.py`), config, pooling, precision, kind of device and versions.
4. `run_with_cached_vectors` predicts with cached vectors, if a fit left the encoder unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from skbert import __version__, inference
from skbert.caching.cache import LOOK_UPS, Cache, digest
from skbert.data.batching import Batch, longest_first
from skbert.data.encoding import Encodings
from skbert.network import fingerprints
from skbert.network.layers import embedding_parts, encoder_layers
from skbert.network.model import SequenceClassifier
from skbert.process.scopes import inference_mode, own_settings
from skbert.progress import Progress
from skbert.ragged import ragged_arange
from skbert.runtime import Runtime, matmul_precision

_BLOCK_BYTES = 2**25  # of states that are computed, kept and dropped together
_NUMPY = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.int16,  # its bits
}


@dataclass(frozen=True, slots=True)
class FrozenLayers:
    """The frozen layers of one fit or prediction.

    Parameters
    ----------
    encoder : nn.Module
        With the weights that are frozen; without adapters.
    runtime : Runtime
    cache : Cache
    verbose : int, default=0
        1 shows the progress of passes over the texts on stderr.
    """

    encoder: Any
    runtime: Runtime
    cache: Cache
    verbose: int = 0

    def vectors(
        self,
        model: SequenceClassifier,
        encodings: Encodings,
        plain: Callable[[], SequenceClassifier],
    ) -> np.ndarray:
        """Pooled vectors of all rows, (n_rows, hidden_size), float32 or float64.

        Parameters
        ----------
        model : SequenceClassifier
            Defines the pooling.
        encodings : Encodings
        plain : callable
            Gives a model with the encoder's weights, if vectors must be computed.
        """
        with Progress("embed", len(encodings), self.verbose) as progress:
            if not self.cache.helps("vectors", len(encodings)):
                return self._embed(plain(), encodings, progress)

            def compute(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                values = self._embed(plain(), encodings.take(places), progress)
                return values, np.arange(len(places) + 1)

            names = [name for name, _ in self.encoder.named_parameters() if not name.startswith("pooler.")]
            pooler = None
            if model.pooler is not None:
                pooler = [fingerprints.of_weight(p) for p in model.pooler.parameters()]
            space = self._space("vectors", model, names, [model.pooling, type(model.pooler).__name__, pooler])
            like = np.empty((0, model.hidden_size), dtype=self.runtime.master_dtype_in_numpy)
            return np.concatenate(self.cache.rows(space, row_keys(encodings), compute, like))

    def _embed(self, model: SequenceClassifier, encodings: Encodings, progress: Progress) -> np.ndarray:
        every_row = encodings.take(np.arange(len(encodings)))  # each as a text of its own
        return inference.run_model(model.eval(), every_row, self.runtime, "embeddings", progress)

    def states(
        self,
        model: SequenceClassifier,
        encodings: Encodings,
        n_layers: int,
        plain: Callable[[], SequenceClassifier],
    ) -> list[np.ndarray]:
        """States above the lowest `n_layers` layers of each row: (n_tokens, hidden_size); see `_NUMPY`."""

        def compute(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return _lower_states(plain(), encodings.take(places), self.runtime, n_layers, progress)

        lower = [*embedding_parts(self.encoder), *encoder_layers(self.encoder)[:n_layers]]
        frozen = {p for part in lower for p in part.parameters()}
        names = [name for name, p in self.encoder.named_parameters() if p in frozen]
        space = self._space("states", model, names, [n_layers])
        like = np.empty((0, model.hidden_size), dtype=_NUMPY[self.runtime.dtype])
        of_a_row = max(1, like.itemsize * model.hidden_size * len(encodings.ids) // len(encodings))
        rows_per_block = max(1, _BLOCK_BYTES // of_a_row)
        with Progress("frozen layers", len(encodings), self.verbose) as progress:
            return self.cache.rows(space, row_keys(encodings), compute, like, rows_per_block)

    def _space(self, kind: str, model: SequenceClassifier, names: list[str], more: list[Any]) -> str:
        facts = [
            _versions(),
            json.dumps(self.encoder.config.to_dict(), sort_keys=True, default=str),
            repr(model.architecture),
            str(self.runtime.dtype),
            matmul_precision(self.runtime.device),
            self.runtime.device.type,
            fingerprints.of_weights(self.encoder, names),
            more,
        ]
        return f"{kind}-{digest(json.dumps(facts).encode()).hex()}"


@cache
def _versions() -> list[str]:
    return [__version__, str(torch.__version__), version("transformers")]


def row_keys(encodings: Encodings) -> list[bytes]:
    """A digest of the ids and the segments of each row."""
    ids, segments = encodings.ids.astype("<i4"), encodings.segments.astype("<i1")
    bounds = encodings.offsets.tolist()
    return [digest(ids[a:b].tobytes() + segments[a:b].tobytes()) for a, b in pairwise(bounds)]


def _lower_states(
    model: SequenceClassifier, encodings: Encodings, runtime: Runtime, n_layers: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """States above the lowest layers, end to end, and the offsets between the rows."""
    working = inference.replica(model.eval(), runtime).give_all_tokens()
    values = np.empty((len(encodings.ids), model.hidden_size), dtype=_NUMPY[runtime.dtype])

    def fill(indices: np.ndarray, batch: Batch) -> None:
        with _lowest_layers_only(working, n_layers) as caught:
            working.embed(batch)
        tokens = ragged_arange(encodings.offsets[indices], encodings.lengths[indices])
        states = caught.pop().squeeze(0)[: len(tokens)]  # (n_tokens, hidden_size), without filler
        states = states.view(torch.int16) if states.dtype == torch.bfloat16 else states
        values[tokens] = states.cpu().numpy()

    inference.run_batches(fill, encodings, runtime, progress)
    return values, encodings.offsets


@contextmanager
def _lowest_layers_only(model: SequenceClassifier, n_layers: int) -> Iterator[list[torch.Tensor]]:
    """Let the upper layers return their input unchanged, and capture that input."""
    layers = encoder_layers(model.encoder)
    caught: list[torch.Tensor] = []
    handle = layers[n_layers - 1].register_forward_hook(lambda *call: caught.append(call[-1]))
    for layer in layers[n_layers:]:
        layer.forward = hand_on
    try:
        yield caught
    finally:
        handle.remove()
        for layer in layers[n_layers:]:
            del layer.forward


def hand_on(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The states that a module is called with, returned in place of its output."""
    values = (*args, *kwargs.values())
    return next(v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point())


@own_settings()
def run_with_cached_vectors(
    model: SequenceClassifier,
    encodings: Encodings,
    runtime: Runtime,
    output: Literal["logits", "embeddings"],
    progress: Progress,
) -> np.ndarray:
    """As `inference.run_model`, but vectors that a fit of the head alone has cached are not recomputed.

    On a CPU only, where the other texts of a batch were not observed to change a vector's bits
    (`network/filler.py`): a prediction should not depend on whether its vector was cached.
    """
    known = LOOK_UPS.helps("vectors", len(encodings)) and fingerprints.knows_all(model.encoder)
    if runtime.device.type != "cpu" or runtime.int8 or not known:
        return inference.run_model(model, encodings, runtime, output, progress)
    vectors = FrozenLayers(model.encoder, runtime, LOOK_UPS).vectors(model, encodings, lambda: model)
    if output == "logits":
        vectors = _classify(model, torch.from_numpy(vectors), encodings, runtime)
    return encodings.average_windows(vectors)


def _classify(
    model: SequenceClassifier, vectors: torch.Tensor, encodings: Encodings, runtime: Runtime
) -> np.ndarray:
    """Logits of vectors in the batches that the texts would be in: a row's place can change its last bit."""
    # With bfloat16, the head is in float32 as well.
    same = runtime.master_dtype == model.head.weight.dtype
    working = model if same else inference.replica(model, runtime)
    logits = np.empty((len(vectors), model.head.out_features), dtype=runtime.master_dtype_in_numpy)
    with inference_mode(True):
        for indices in longest_first(encodings.lengths, runtime.predict_tokens):
            logits[indices] = working.classify(vectors[indices]).numpy()
    inference.check_finite(logits.max(axis=1), model, runtime)
    return logits
