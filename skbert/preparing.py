"""From checked texts to the input of training: encoded texts, and those to validate on.

1. Rows of weight zero are left out.
2. Texts to validate on are given, or held out for early stopping.
3. Warnings about cut texts and unknown tokens are issued once, before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from skbert.caching.cache import Cache
from skbert.data.encoding import LongText, encode
from skbert.data.fit_data import FitData, Target, TrainingData
from skbert.data.inputs import Texts, factorize
from skbert.data.labels import Labels
from skbert.data.literal import unknown_tokens
from skbert.exceptions import TruncationWarning, UnknownTokensWarning, shown, warn
from skbert.process.float_errors import ignoring_float_errors
from skbert.runtime import Runtime
from skbert.starting import Start
from skbert.training.hold_out import hold_out
from skbert.training.scoring import HeldOutScorer
from skbert.training.validation import HeldOutValidation, Validation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MANY_UNKNOWN = 0.1  # of all tokens


def encode_data(
    data: FitData, parameters: Mapping[str, Any], start: Start, cache: Cache, runtime: Runtime, seed: int
) -> tuple[TrainingData, Validation]:
    """Encode the texts; use the given texts to validate on, or hold some out."""
    max_length, long_text = parameters["max_length"], parameters["long_text"]
    read = partial(encode, start.tokenizer, max_length=max_length, long_text=long_text, cache=cache)
    # Texts of weight zero teach nothing.
    rows = np.flatnonzero(data.weights.reshape(len(data.weights), -1).any(axis=1))
    held_out = data.held_out
    if held_out is None and parameters["early_stopping"]:
        fraction = parameters["validation_fraction"]
        rows, held = split_off_validation(rows, data, fraction, seed)
        held_out = data.texts.take(held), data.target.values(held)
    validation = Validation()
    if held_out is not None:  # first: an incompatible scorer is refused before any text is encoded
        validation = make_validation(*held_out, data.target, parameters, runtime)
    encodings = read(data.texts.take(rows))
    _warn_of_truncation(float(encodings.truncated.mean()), max_length, long_text)
    _warn_of_unknown_tokens(encodings.ids, start.tokenizer)
    owners = encodings.owners  # a window has its text's target
    weights = _weights_of_windows(data.weights[rows], owners)
    targets = data.target.targets[rows[owners]]
    encoded_held_out = None if held_out is None else read(held_out[0])
    groups = None if data.groups is None else data.groups[rows[owners]]
    return TrainingData(encodings, targets, weights, data.class_weights, encoded_held_out, groups), validation


@ignoring_float_errors
def _weights_of_windows(weights: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """An equal share of its text's weight for each window; the texts' weights have mean one."""
    weights = weights / weights.mean()
    return (weights[owners].T / np.bincount(owners)[owners]).T


def make_validation(
    texts: Texts, y: np.ndarray, target: Target, parameters: Mapping[str, Any], runtime: Runtime
) -> HeldOutValidation:
    """Scoring of a model's outputs for texts whose y is known; with `early_stopping` it may end the fit.

    Not while layers thaw: the head alone may gain little for some epochs.
    """
    stops = parameters["early_stopping"] and parameters["freeze"] != "gradual"
    patience = parameters["n_iter_no_change"] if stops else None
    scorer = HeldOutScorer(parameters["scoring"], target, texts.rows, y)
    return HeldOutValidation(scorer, patience, runtime, parameters["verbose"])


def split_off_validation(
    rows: np.ndarray, data: FitData, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split a fraction of the rows off for validation; returns training and validation rows."""
    _, texts = factorize(data.texts.take(rows).rows)
    groups = None if data.groups is None else data.groups[rows]
    split = hold_out(data.target.targets[rows], texts, fraction, seed, groups)
    if isinstance(data.target, Labels) and not split.complete:
        unit = "text" if groups is None else "group"
        _warn_of_unscored(data.target, rows, rows[split.validation], f"the last {unit} of a class")
    if not split.unseen:
        why = "There are so few different texts that those held out for early stopping are"
        if groups is not None:
            why = "No group can be held out that training does without: the groups of held-out texts are"
        warn(
            f"{why} also used for training, and the validation scores say nothing about new ones. Pass X_val "
            "and y_val to fit."
        )
    return rows[split.training], rows[split.validation]


def _warn_of_unscored(labels: Labels, rows: np.ndarray, held: np.ndarray, kept: str) -> None:
    """Warn of classes, or labels, that no held-out row has."""
    codes = labels.codes
    if codes.ndim == 1:
        what, missing = "classes", np.setdiff1d(codes[rows], codes[held])
    else:
        what, missing = "labels", np.flatnonzero(codes[rows].any(axis=0) & ~codes[held].any(axis=0))
    warn(
        f"The texts held out for early stopping ({len(held)}) have none of the {what} "
        f"{shown(labels.classes[missing].tolist(), 5)}: their score says nothing about these. Raise "
        f"validation_fraction ({kept} stays in training), or pass X_val and y_val to fit."
    )


def _warn_of_truncation(share: float, max_length: int, long_text: LongText) -> None:
    if share == 0:
        return
    if long_text == "windows":
        told = (
            f"In about {_about(share)} of the training pairs both sides take more than half of "
            f"max_length={max_length} tokens; the shorter side, which is in all windows, is cut to that. "
            "Raise max_length"
        )
    else:
        told = (
            f"About {_about(share)} of the training texts are longer than max_length={max_length} tokens and "
            "are cut. Raise max_length, or use long_text='windows' to read all of them"
        )
    warn(f"{told} (truncated_fraction_ holds the share).", TruncationWarning)


def _warn_of_unknown_tokens(ids: np.ndarray, tokenizer: Tokenizer) -> None:
    known = {tokenizer.token_to_id(token) for token in unknown_tokens(tokenizer)} - {None}
    share = sum(np.count_nonzero(ids == token) for token in known) / len(ids)
    if share >= _MANY_UNKNOWN:
        warn(
            f"About {_about(share)} of the tokens of the training texts are unknown to the tokenizer, which "
            "cannot tell them apart. For texts in another script, or with many symbols, use a checkpoint "
            "that knows them, such as 'xlm-roberta-base', which covers a hundred languages.",
            UnknownTokensWarning,
        )


def _about(share: float) -> str:
    """Rounded to one digit: Python shows equal warnings once, so most searches show this one only once."""
    return f"{100 * float(f'{share:.0e}'):g}%"
