"""Train only the rows of the embedding table that occur in the texts.

The table is half of a small BERT (52 % of MiniLM's weights), and a fit sees a part of its 30,000 rows.
A row that never occurs has a gradient of zero, so AdamW's moments stay zero and only weight decay changes it:
a factor of 1 - rate * decay at every step. Therefore:

1. `compact` keeps the rows that occur in a small table and renumbers the token ids.
2. The loop trains that table; gradients, moments and copies shrink with it.
3. `whole_table` puts the trained rows back and applies the product of the decay factors to the others.

The result equals that of the plain update up to rounding (tests/test_vocabulary.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from skbert.data.fit_data import TrainingData
from skbert.network.model import SequenceClassifier
from skbert.training.optimizer import Moments


@dataclass(frozen=True, slots=True)
class FullVocabulary:
    """The table that `compact` took out of a model, and which of its rows are in training."""

    table: torch.Tensor  # (vocabulary_size, width)
    rows: torch.Tensor  # (n_rows_in_training,) int64
    name: str  # of the table among the model's weights

    def with_table_moments(self, moments: Moments) -> Moments:
        """The moments, those of the table laid out for the rows in training: zero where there were none."""
        if self.name not in moments.of_weights:
            return moments
        places = torch.from_numpy(np.searchsorted(self.rows.numpy(), moments.rows.numpy()))
        spread = tuple(
            moment.new_zeros(len(self.rows), moment.shape[1]).index_copy_(0, places, moment)
            for moment in moments.of_weights[self.name]
        )
        return replace(moments, rows=self.rows, of_weights=moments.of_weights | {self.name: spread})

    def whole_table(self, trained: torch.Tensor, decay: float) -> torch.Tensor:
        """The full table again: the trained rows, and the others times `decay`."""
        weight = self.table * decay
        weight[self.rows] = trained.to(weight)
        return weight


def compact(
    model: SequenceClassifier, data: TrainingData, moments: Moments | None = None
) -> tuple[TrainingData, FullVocabulary]:
    """Shrink the embedding table to the ids that occur in any of the texts; returns the texts renumbered.

    Encoders on the padded path keep their whole table unchanged: some derive positions from the padding id,
    some scale the embeddings that they look up.

    Parameters
    ----------
    model : SequenceClassifier
    data : TrainingData
    moments : Moments, default=None
        Of an optimizer to continue from: the rows that it has moved keep moving, whether they occur or not.
    """
    full = model.encoder.get_input_embeddings()
    for encodings in data.all_encodings:
        encodings.check_ids(full.num_embeddings)
    name = next(n for n, p in model.named_parameters() if p is full.weight)
    if not model.architecture.packed:
        return data, FullVocabulary(full.weight.detach(), torch.arange(full.num_embeddings), name)
    found = [encodings.ids for encodings in data.all_encodings]
    occurring = np.unique(np.concatenate(found if moments is None else [*found, moments.rows.numpy()]))
    renumbered = data.reencoded(lambda e: replace(e, ids=np.searchsorted(occurring, e.ids).astype(np.int32)))
    rows = torch.from_numpy(occurring.astype(np.int64))
    # torch gives the row of the padding id no gradient, even if texts have that id.
    (unmoved,) = np.nonzero(occurring == (-1 if full.padding_idx is None else full.padding_idx))
    small = nn.Embedding.from_pretrained(
        full.weight.detach()[rows],
        freeze=not full.weight.requires_grad,
        padding_idx=int(unmoved[0]) if len(unmoved) else None,
    )
    model.encoder.set_input_embeddings(small)
    return renumbered, FullVocabulary(full.weight.detach(), rows, name)
