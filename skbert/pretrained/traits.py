"""How a checkpoint is to be used, as its config, its tokenizer and its folder say."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from skbert.exceptions import InputError
from skbert.network.model import Architecture, Pooling

# Families whose packed forward equals the padded one (tests/test_model.py holds them to it).
_PACKED_FAMILIES = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert"}


def architecture_of(encoder: Any, input_names: Sequence[str]) -> Architecture:
    """How an encoder wants its input.

    Parameters
    ----------
    encoder : nn.Module
    input_names : sequence of str
        What its tokenizer gives it in transformers: without "token_type_ids" all segments are 0 there.
    """
    config = encoder.config
    accepted = inspect.signature(encoder.forward).parameters
    family = config.model_type
    absolute = getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    packed = family in _PACKED_FAMILIES and absolute and not getattr(config, "is_decoder", False)
    n_segments = getattr(config, "type_vocab_size", 0) or 0
    return Architecture(
        packed=packed,
        position_offset=_position_offset(encoder),
        takes_positions=packed and "position_ids" in accepted,
        takes_segments="token_type_ids" in accepted and "token_type_ids" in input_names and n_segments > 0,
        pad_id=getattr(config, "pad_token_id", None) or 0,
        n_segments=n_segments,
    )


def max_positions(config: Any, architecture: Architecture) -> int:
    """Tokens that an encoder has positions for; XLNet, which knows distances only, says -1."""
    stated = getattr(config, "max_position_embeddings", None) or 512
    return sys.maxsize if stated < 0 else stated - architecture.position_offset


def check_max_length(max_length: int, n_positions: int, name: str) -> None:
    """Refuse more tokens than the encoder called `name` has positions for."""
    if max_length > n_positions:
        raise InputError(
            f"max_length={max_length}, but {name} has positions for {n_positions} tokens. Set "
            f"max_length={n_positions} or less."
        )


def _position_offset(encoder: Any) -> int:
    """Position id of the first token: RoBERTa and its kin keep the rows up to the padding id free."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def reads_forward(encoder: Any, transformers: Any) -> bool:
    """Whether the first token sees none of those behind it, as in most families that generate text.

    The config does not tell; so an encoder of such a family is asked, with two texts that begin alike.
    """
    names = transformers.models.auto.modeling_auto
    family = encoder.config.model_type
    generates = family in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    is_encoder = family in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not (getattr(encoder.config, "is_decoder", False) or (generates and not is_encoder)):
        return False
    with torch.no_grad():
        first, second = (
            encoder(input_ids=torch.tensor([[5, last]])).last_hidden_state[0, 0] for last in (6, 7)
        )
    return torch.allclose(first, second)


def stated_pooling(folder: Path) -> Pooling | None:
    """What a sentence-transformers checkpoint was trained with; None for a checkpoint of another kind.

    Of its other modes, some are a mean of another weighting, and are read as "mean".
    """
    settings = folder / "1_Pooling" / "config.json"
    if not ((folder / "modules.json").is_file() and settings.is_file()):
        return None
    stated = json.loads(settings.read_text(encoding="utf-8"))
    modes: dict[str, Pooling] = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    for mode, pooling in modes.items():
        if stated.get(f"pooling_mode_{mode}") or stated.get("pooling_mode") == pooling:
            return pooling
    return "mean"


def head_dropout_of(config: Any) -> float:
    """Probability of the dropout before the head."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.1
