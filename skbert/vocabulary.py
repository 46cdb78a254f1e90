"""Train only the rows of the embedding table that occur in the texts.

The table is half of a small BERT (52 % of MiniLM's weights), and a fit sees a part of its 30,000 rows.
A row that never occurs has a gradient of zero, so AdamW's moments stay zero and all that happens to it is
weight decay: a factor of 1 - rate * decay at every step. So:

1. `compact` keeps the rows that occur in a small table and renumbers the token ids.
2. The loop trains on that; gradients, moments and copies shrink with it.
3. `restore` puts the trained rows back and applies the product of the decay factors to the others.

The result is that of the plain update up to rounding (tests/test_vocabulary.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from skbert.encoding import Encodings
from skbert.model import SequenceClassifier


@dataclass(frozen=True, slots=True)
class FullVocabulary:
    """The table that `compact` took out of a model, and which of its rows are in training."""

    embeddings: nn.Embedding
    rows: torch.Tensor  # (n_rows_in_training,) int64


def compact(model: SequenceClassifier, *encodings: Encodings | None) -> tuple[list[Any], FullVocabulary]:
    """Shrink the embedding table to the ids that occur in any of `encodings`; returns them renumbered.

    Encoders on the padded path keep their whole table: some read positions off the padding id.
    """
    full = model.encoder.get_input_embeddings()
    occurring = np.unique(np.concatenate([e.ids for e in encodings if e is not None]))
    if not model.architecture.packed:
        occurring = np.arange(full.num_embeddings)
    renumbered = [
        None if e is None else replace(e, ids=np.searchsorted(occurring, e.ids).astype(np.int32))
        for e in encodings
    ]
    rows = torch.from_numpy(occurring.astype(np.int64))
    small = nn.Embedding.from_pretrained(full.weight.detach()[rows], freeze=not full.weight.requires_grad)
    model.encoder.set_input_embeddings(small)
    return renumbered, FullVocabulary(full, rows)


@torch.no_grad()
def restore(model: SequenceClassifier, vocabulary: FullVocabulary, decay: float) -> None:
    """Put the full table back: the trained rows, and the others times `decay`."""
    trained = model.encoder.get_input_embeddings().weight.to(vocabulary.embeddings.weight)
    weight = vocabulary.embeddings.weight.detach() * decay
    weight[vocabulary.rows] = trained
    vocabulary.embeddings.weight = nn.Parameter(weight)
    model.encoder.set_input_embeddings(vocabulary.embeddings)
