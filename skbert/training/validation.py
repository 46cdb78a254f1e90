"""Scores on held-out texts after each epoch, early stopping, and the best epoch's weights.

1. After each epoch the model in training is run over the held-out texts, and `scoring.HeldOutScorer` scores
   its outputs. Higher is better.
2. The best epoch's weights (the last one's among equals) are kept in memory, and restored at the end.
   `should_stop` is true when none of the last `patience` epochs was better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from skbert.data.encoding import Encodings
from skbert.inference import run_working_model
from skbert.progress import Progress
from skbert.runtime import Runtime
from skbert.training.ranks import current

if TYPE_CHECKING:
    import torch

    from skbert.network.model import SequenceClassifier
    from skbert.training.optimizer import MasterAdamW


class Validation:
    """What the loop asks after each epoch; by itself, it scores nothing: for a fit without held-out texts."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.best: tuple[list[torch.Tensor], float] | None = None  # the best epoch's weights; see `snapshot`

    @property
    def should_stop(self) -> bool:
        """Whether more epochs are not worth their time."""
        return False

    @property
    def best_epoch(self) -> int:
        """The epoch that scored best, the last one among equals; -1, the last one, without scores."""
        return max(range(len(self.scores)), key=lambda epoch: (self.scores[epoch], epoch), default=-1)

    def check(self, model: SequenceClassifier, held_out: Encodings | None) -> None:
        """Try the scorer before the first step, so that a bad one costs no epoch."""

    def after_epoch(
        self, model: SequenceClassifier, held_out: Encodings | None, optimizer: MasterAdamW
    ) -> None:
        """Score the model, and keep its weights if they are the best so far."""

    def restore_best(self, optimizer: MasterAdamW) -> None:
        """Put the best epoch's weights back, unless the last epoch was the best."""
        if self.best is not None and self.best_epoch != len(self.scores) - 1:
            optimizer.load_snapshot(self.best)


class HeldOutValidation(Validation):
    """Scores every epoch on held-out texts.

    Parameters
    ----------
    scorer : callable
        A model's outputs for the held-out texts → score.
    patience : int or None
        Epochs without a better score before `should_stop`; None never stops.
    runtime : Runtime
    verbose : int
        As for `BertClassifier`.
    """

    def __init__(
        self,
        scorer: Callable[[np.ndarray], float],
        patience: int | None,
        runtime: Runtime,
        verbose: int,
    ) -> None:
        super().__init__()
        self.scorer = scorer
        self.patience = patience
        self.runtime = runtime
        self.verbose = verbose

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` epochs brought no better score; asked after the first."""
        if self.patience is None:
            return False
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= self.patience

    def check(self, model: SequenceClassifier, held_out: Encodings | None) -> None:
        """Score once before the first step: a scorer that fails or gives NaN is reported at once."""
        self._score(model, held_out)

    def after_epoch(
        self, model: SequenceClassifier, held_out: Encodings | None, optimizer: MasterAdamW
    ) -> None:
        """Score, and keep the weights of the best epoch so far.

        Among equals it is the last: a few texts cannot tell epochs apart, and later ones have learned more.
        """
        self.scores.append(current().broadcast_object(self._score(model, held_out)))
        if self.best_epoch == len(self.scores) - 1:
            self.best = optimizer.snapshot()

    def _score(self, model: SequenceClassifier, held_out: Encodings | None) -> float:
        assert held_out is not None
        with Progress("validate", len(held_out.truncated), self.verbose) as progress:
            logits = run_working_model(model.eval(), held_out, self.runtime, progress=progress)
        return self.scorer(logits)
