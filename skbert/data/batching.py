"""From ragged encodings to packed batches.

1. An order of the texts: a random permutation for training, longest first for prediction.
2. The order is cut into groups: a fixed number of texts for training (`batch_size` is what one optimizer
   step sees), a token budget for prediction.
3. `collate` lays the tokens of a group end to end: Σ lengths tokens, not one of padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from skbert.data.encoding import Encodings
from skbert.ragged import ragged_arange

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts packed end to end: Σ lengths tokens."""

    input_ids: torch.Tensor  # (n_tokens,) int64
    segments: torch.Tensor  # (n_tokens,) int64
    positions: torch.Tensor  # (n_tokens,) int64, from 0 in each text
    lengths: torch.Tensor  # (n_texts,) int64
    max_length: int  # longest text in the batch; kept here so that no device has to be asked for it
    # (n_texts,) or (n_texts, n_labels) int64, or (n_texts, n_outputs) numbers; empty for prediction
    targets: torch.Tensor
    weights: torch.Tensor  # of their shape, for numbers (n_texts, 1); mean one over the data set, or empty
    frozen: torch.Tensor | None = None  # (n_tokens, width) or (n_texts, width): outputs of frozen layers

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; the same object if it is there already.

        Small tensors go in one transfer for each dtype: every call costs time, however little it moves.
        """
        if self.input_ids.device == device:
            return self
        tensors = {name: value for name in self.__slots__ if torch.is_tensor(value := getattr(self, name))}
        moved: dict[str, Any] = {}
        if self.frozen is not None:
            moved["frozen"] = _sent(tensors.pop("frozen"), device)
        for dtype in {value.dtype for value in tensors.values()}:
            alike = {name: value for name, value in tensors.items() if value.dtype == dtype}
            flat = _sent(torch.cat([value.flatten() for value in alike.values()]), device)
            parts = flat.split([value.numel() for value in alike.values()])
            for (name, value), part in zip(alike.items(), parts, strict=True):
                moved[name] = part.view(value.shape)
        return replace(self, **moved)


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; on CUDA without waiting, from pinned memory that is kept until it was read.

    Other devices may read ordinary memory after it has been reused (MPS does).
    """
    pinned = device.type == "cuda"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


def collate(
    encodings: Encodings,
    indices: np.ndarray,
    targets: np.ndarray = _NONE,
    weights: np.ndarray = _NONE,
) -> Batch:
    """Pack the texts at `indices`, in that order.

    Parameters
    ----------
    encodings : Encodings
    indices : ndarray of shape (n_texts_in_batch,)
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs), optional
        Of all texts; those at `indices` are taken. Omitted for prediction.
    """
    chosen = encodings.take(indices)
    lengths = chosen.lengths
    positions = ragged_arange(np.zeros_like(lengths), lengths)
    return Batch(
        input_ids=torch.from_numpy(chosen.ids.astype(np.int64)),
        segments=torch.from_numpy(chosen.segments.astype(np.int64)),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(lengths),
        max_length=int(lengths.max()),
        targets=torch.from_numpy(targets[indices] if len(targets) else targets),
        weights=torch.from_numpy(weights[indices] if len(weights) else weights),
        frozen=None if chosen.frozen is None else _joined(chosen.frozen),
    )


def _joined(rows: tuple[np.ndarray, ...]) -> torch.Tensor:
    """Rows end to end. numpy has no bfloat16: int16 holds its bits."""
    values = torch.from_numpy(np.concatenate(rows))
    return values.view(torch.bfloat16) if values.dtype == torch.int16 else values


def shuffled_minibatches(n_texts: int, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Indices of every mini-batch of one epoch, drawn afresh; each text occurs once."""
    order = generator.permutation(n_texts)
    return np.split(order, range(batch_size, n_texts, batch_size))


def longest_first(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Cut the texts, longest first, into groups of at most `max_tokens` padded tokens.

    A group has nearly equal lengths, so that attention pads next to nothing; the first group is the largest,
    so that a device that lacks memory runs out of it at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, max_tokens // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop
