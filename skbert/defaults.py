"""What "auto" means: the rules behind the default recipe.

Chosen by the protocol in `benchmarks/defaults.py`; the record is in `docs/defaults.md`.
"""

from __future__ import annotations

import math
from typing import Literal

Trained = Literal["all", "adapters", "linear head", "linear head of labels"]
_RATE_AT_384 = 1e-4
_RATE_FACTORS = {"all": 1, "adapters": 10, "linear head": 30, "linear head of labels": 300}
_MIN_STEPS = 200
_MIN_EPOCHS, _MAX_EPOCHS = 3, 15
WARMUP_STEPS = 20  # for training without a known end (`partial_fit`)


def auto_learning_rate(hidden_size: int, trained: Trained = "all") -> float:
    """Peak learning rate for an encoder of this width, depending on what is trained.

    1e-4 up to a width of 384 (MiniLM), above that inversely proportional to the width: 5e-5 at 768 and
    3.75e-5 at 1024, within the range published for BERT-base and BERT-large, 2e-5 to 5e-5 (Devlin et al.,
    2019). Ten times that for low-rank adapters, which need higher rates (Hu et al., 2021, arXiv:2106.09685).
    Thirty times that for a linear head alone: large steps cannot make it forget anything. Three hundred times
    if its outputs are labels, of which most are rare: it takes larger weights to single them out.
    """
    return _RATE_FACTORS[trained] * _RATE_AT_384 * 384 / max(hidden_size, 384)


def auto_epochs(n_texts: int, batch_size: int) -> int:
    """Epochs for this many texts: three, or more where three would give too few optimizer steps."""
    steps = math.ceil(n_texts / batch_size)
    return min(_MAX_EPOCHS, max(_MIN_EPOCHS, math.ceil(_MIN_STEPS / steps)))
