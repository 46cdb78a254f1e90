"""What a fit is given, checked; and what its loop reads of that, encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skbert.data.encoding import Encodings
from skbert.data.inputs import Texts
from skbert.data.labels import Labels
from skbert.data.numbers import Numbers

Target = Labels | Numbers  # what a fit learns


@dataclass(frozen=True, slots=True)
class FitData:
    """What a fit is given."""

    texts: Texts
    target: Target
    weights: np.ndarray  # (n_samples,) or (n_samples, n_labels); of numbers (n_samples, 1)
    class_weights: np.ndarray  # (n_outputs,), of numbers all 1
    held_out: tuple[Texts, np.ndarray] | None = None  # texts to validate on, and their targets


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads: tokens, targets and weights of every row, a text or a window of one."""

    encodings: Encodings
    # (n_rows,) int64: class codes; (n_rows, n_labels) int64: 0 and 1; (n_rows, n_outputs) float64: numbers
    targets: np.ndarray
    weights: np.ndarray  # of their shape, of numbers (n_rows, 1), float64; of no row all zero
    class_weights: np.ndarray  # (n_outputs,) float64, above zero; for the head's start and the loss
    held_out: Encodings | None = None  # of the texts to validate on

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def all_encodings(self) -> list[Encodings]:
        """All that the model will be run over."""
        return [self.encodings] if self.held_out is None else [self.encodings, self.held_out]

    def reencoded(self, change: Callable[[Encodings], Encodings]) -> TrainingData:
        """The same texts, both those to train and those to validate on, read by the model in another way."""
        encodings = change(self.encodings)
        held_out = None if self.held_out is None else change(self.held_out)
        return replace(self, encodings=encodings, held_out=held_out)
