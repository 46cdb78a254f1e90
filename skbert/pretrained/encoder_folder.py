"""Folders of a fitted encoder without its head: for other labels, and for sentence-transformers.

1. The encoder goes into transformers' own class of its family, with its pooler if it has one.
2. Beside it are the tokenizer and, where sentence-transformers can pool as the model does, its settings.

`BertClassifier(folder)` then starts from this very encoder, and pools as it does.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from skbert.exceptions import PersistenceError
from skbert.network.head import BarePooler
from skbert.network.model import SequenceClassifier
from skbert.pretrained.families import FamilyPooler
from skbert.pretrained.files import MODULES, POOLING
from skbert.pretrained.folders import folder_to_write, new_model, tokenizer_of, write
from skbert.pretrained.traits import MODES
from skbert.process.scopes import own_settings

_PARTS = [("", "Transformer"), ("1_Pooling", "Pooling")]


def save_encoder(estimator: Any, folder: str | os.PathLike[str]) -> None:
    """Write the encoder of a fitted estimator; see `BertClassifier.save_encoder`."""
    target, estimator = folder_to_write(folder), estimator._snapshot()
    model: SequenceClassifier = estimator.model_
    encoder = _as_transformers(model)
    settings = {}
    if model.pooler is None:
        settings = _settings(model.pooling, encoder.config.hidden_size, estimator.max_length_)
    write(target, encoder, tokenizer_of(estimator), settings)


@own_settings()
def _as_transformers(model: SequenceClassifier) -> Any:
    """The encoder, and its pooler, in the class of transformers that checkpoints are read with."""
    pooler: Any = model.pooler
    if isinstance(pooler, FamilyPooler):
        raise PersistenceError(
            "The model was read by from_pretrained, with the layers of a transformers classifier, which an "
            "encoder cannot hold. save_pretrained() writes them, and a fit with model=folder then starts "
            "from that folder's encoder."
        )
    encoder = new_model(model, "AutoModel")
    if pooler is None:
        encoder.pooler = None
    weights = dict(model.encoder.state_dict())
    if pooler is not None:
        layer: nn.Module = pooler.dense if isinstance(pooler, BarePooler) else pooler
        weights |= {f"pooler.{name}": weight for name, weight in layer.state_dict().items()}
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval()


def _settings(pooling: str, width: int, max_length: int) -> dict[str, Any]:
    """What sentence-transformers reads: its modules, how they pool, and how many tokens they take."""
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(_PARTS)
    ]
    modes = {f"pooling_mode_{mode}": pooling == name for mode, name in MODES.items()}
    return {
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        POOLING: {"word_embedding_dimension": width, **modes},
        MODULES: modules,
    }
