"""How to use a checkpoint, according to its config, its tokenizer and its folder."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from skbert.exceptions import CheckpointError, InputError
from skbert.network.model import Architecture
from skbert.network.pooling import Pooling
from skbert.parameters import MIN_LENGTH
from skbert.pretrained.files import MODULES, POOLING, TOKENIZING

# By their names in sentence-transformers.
MODES: dict[str, Pooling] = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
_ANY = 128  # segments: more than int8 can name
# Families whose packed forward equals the padded one (tests/test_model.py checks this).
_PACKED_FAMILIES = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert"}


def architecture_of(
    encoder: Any, input_names: Sequence[str], absent: Collection[int] | None = None
) -> Architecture:
    """How an encoder expects its input.

    Parameters
    ----------
    encoder : nn.Module
    input_names : sequence of str
        What its tokenizer passes to it in transformers; without "token_type_ids" all segments are 0 there.
    absent : collection of int, default=None
        Ids that no text has, not even in the special tokens around it. None: it does not matter which.
    """
    config = encoder.config
    accepted = inspect.signature(encoder.forward).parameters
    family = config.model_type
    offset = _position_offset(encoder)
    # Where positions depend on the padding id, and texts contain that id, too, transformers must count them.
    counts = absent is not None and offset > 0 and offset - 1 not in absent
    packed = family in _PACKED_FAMILIES and not counts and not getattr(config, "is_decoder", False)
    # Families without that entry, such as XLNet, take any number for a segment.
    n_segments = getattr(config, "type_vocab_size", _ANY) or 0
    return Architecture(
        packed=packed,
        position_offset=offset,
        takes_positions=packed and "position_ids" in accepted,
        takes_segments="token_type_ids" in accepted and "token_type_ids" in input_names and n_segments > 0,
        pad_id=max(getattr(config, "pad_token_id", None) or 0, 0),  # some say -1: they have none
        n_segments=n_segments,
    )


def max_positions(config: Any, architecture: Architecture) -> int:
    """Number of tokens that an encoder has positions for; XLNet, which has distances only, says -1."""
    stated = getattr(config, "max_position_embeddings", None) or 512
    return sys.maxsize if stated < 0 else stated - architecture.position_offset


def check_max_length(max_length: int, n_positions: int, name: str) -> None:
    """Refuse more tokens than the encoder called `name` has positions for."""
    if max_length > n_positions:
        raise InputError(
            f"max_length={max_length}, but {name} has positions for {n_positions} tokens. Set "
            f"max_length={n_positions} or less."
        )


def stated_max_length(folder: Path, n_positions: int) -> int:
    """Longest text in tokens, according to the tokenizer in a folder, within the encoder's positions."""
    stated = read_settings(folder / "tokenizer_config.json")
    length = stated.get("model_max_length", stated.get("max_len"))  # old files have the second
    if not isinstance(length, int) or isinstance(length, bool):
        return n_positions
    if length < MIN_LENGTH:
        raise CheckpointError(
            f"tokenizer_config.json in {folder} says model_max_length={length}. Expected {MIN_LENGTH} or "
            "more; pass max_length."
        )
    return min(length, n_positions)


def check_truncation_side(folder: Path) -> None:
    """Refuse a tokenizer that cuts long texts at their beginning."""
    # transformers takes what tokenizer.json says, which it writes after any call that truncates.
    used = read_settings(folder / "tokenizer.json").get("truncation") or {}
    last = used.get("direction", "Right").lower()
    side = read_settings(folder / "tokenizer_config.json").get("truncation_side", last)
    if side != "right":
        raise CheckpointError(
            f"The tokenizer in {folder} has truncation_side={side!r}, which keeps the end of long "
            "texts; long_text has no option for this. Pass long_text: 'head' reads the beginning, "
            "'head_tail' the beginning and the end, 'windows' all of each text."
        )


def read_settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}). Get the checkpoint again.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{file} holds a {type(settings).__name__}. Expected an object. Get the checkpoint again."
        )
    return settings


def _position_offset(encoder: Any) -> int:
    """Position id of the first token: RoBERTa and its kin keep the rows up to the padding id free."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def reads_forward(encoder: Any) -> bool:
    """Whether the first token sees none of those after it, as in most families that generate text.

    The config does not tell, so the encoder is run on two texts that begin alike.
    """
    ids = torch.tensor([[5, 6, 6, 6], [5, 7, 7, 7]])
    with torch.no_grad():
        first, second = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    # Not to the last bit: experts that take several tokens at once round by what they take.
    return torch.allclose(first, second, atol=1e-6)


def stated_pooling(folder: Path) -> Pooling | None:
    """The pooling that a sentence-transformers checkpoint was trained with; None for other checkpoints.

    Its other modes, some of which are means with other weights, are read as "mean".
    """
    if not (folder / MODULES).is_file():
        return None
    file = _named_pooling(folder)
    stated = read_settings(folder / (file or POOLING))
    if not stated and file is not None:  # it would be pooled differently
        raise CheckpointError(
            f"{folder} lacks {file}, which its {MODULES} names, so its pooling is not known. Get the whole "
            "checkpoint again, and pass its folder."
        )
    if not stated:
        return None
    named = stated.get("pooling_mode")  # one, or a list, since sentence-transformers 6
    for mode, pooling in MODES.items():
        if stated.get(f"pooling_mode_{mode}") or pooling in (named if isinstance(named, list) else [named]):
            return pooling
    return "mean"


def stated_lower_case(folder: Path) -> bool:
    """Whether a sentence-transformers checkpoint puts texts into lower case, whatever its tokenizer does."""
    if not (folder / MODULES).is_file():
        return False
    return any(read_settings(file).get("do_lower_case") for file in folder.glob(TOKENIZING))


def _named_pooling(folder: Path) -> str | None:
    """The settings of the pooling, according to the list of modules; it is the second module as a rule."""
    try:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        for module in modules:
            name, kind = str(module["path"]), str(module.get("type")).rpartition(".")[2]
            if kind == "Pooling" or name == POOLING.partition("/")[0]:
                return f"{name}/config.json"
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def head_dropout_of(config: Any) -> float:
    """Dropout probability before the head."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.1
