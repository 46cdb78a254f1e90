"""From checked texts and labels to a fine-tuned model: the order of the stages of a fit.

1. Load the checkpoint, once per process.
2. Encode the texts; rows of weight zero are left out.
3. Hold texts out for validation, if early stopping asks for it.
4. Put a new head on a copy of the encoder, and give it its first weights.
5. Freeze what is not to train, and train the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from skbert import checkpoints, defaults, inference, probing
from skbert.adapt import freeze
from skbert.callbacks import make_progress
from skbert.checkpoints import Checkpoint
from skbert.encoding import Encodings, encode
from skbert.exceptions import InputError, SkbertWarning
from skbert.inputs import Texts
from skbert.labels import Labels
from skbert.model import SequenceClassifier, reset_head, set_dropout
from skbert.outputs import make_loss
from skbert.runtime import Generators, Runtime, isolated_generators, resolve_runtime
from skbert.training import Trainer, TrainingData, TrainingSettings
from skbert.validation import NoValidation, Validation, hold_out

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class FittedModel:
    """What a fit ends with."""

    model: SequenceClassifier  # on the CPU
    tokenizer: Tokenizer
    loss_curve: list[float]  # mean training loss of each epoch
    validation_scores: list[float] | None  # of each epoch; None without validation
    head_init: str  # "linear_probe" or "random"
    learning_rate: float
    truncated_fraction: float


def fit_texts(
    texts: Texts,
    labels: Labels,
    weights: np.ndarray,
    held_out: tuple[Texts, np.ndarray] | None,
    parameters: Mapping[str, Any],
    seed: int,
) -> FittedModel:
    """Fine-tune a checkpoint on texts.

    Parameters
    ----------
    texts : Texts
    labels : Labels
    weights : ndarray of shape (n_samples,) or (n_samples, n_labels)
        Weight of each text, or of each label of each text.
    held_out : tuple of Texts and ndarray, or None
        Texts to validate on, and their labels.
    parameters : mapping
        The parameters of `BertClassifier`, validated.
    seed : int
        Of every random stream of the fit.

    Returns
    -------
    FittedModel
    """
    place = resolve_runtime(parameters["device"], parameters["precision"])
    checkpoint = checkpoints.load(parameters["model"], parameters["revision"])
    _check_max_length(parameters["max_length"], checkpoint)
    tokenizer = checkpoints.new_tokenizer(checkpoint.tokenizer_json)
    read = partial(encode, tokenizer, max_length=parameters["max_length"], long_text=parameters["long_text"])
    # Texts of weight zero teach nothing.
    rows = np.flatnonzero(weights.reshape(len(weights), -1).any(axis=1))
    validation = NoValidation()
    if held_out is not None:
        validation = make_validation(read(held_out[0]), held_out[1], labels, parameters, place)
    elif parameters["early_stopping"]:
        rows, held = split_off_validation(rows, labels, parameters["validation_fraction"], seed)
        validation = make_validation(read(texts.take(held)), labels.values(held), labels, parameters, place)
    encodings = read(texts.take(rows))
    # A window has the label and the weight of its text.
    of_rows = rows[encodings.owners]
    data = TrainingData(encodings, labels.codes[of_rows], weights[of_rows])
    settings = resolve_settings(parameters, len(data), checkpoint.hidden_size)
    generators = Generators.from_seed(seed, place.device)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),  # whatever the caller has set
        isolated_generators(generators.seed, place.device),
        make_progress(parameters["verbose"], settings.epochs, len(data)) as progress,
    ):
        model = new_model(checkpoint, labels.n_outputs, parameters["pooling"])
        head_init = start_head(model, data, parameters["head_init"], place, generators)
        set_dropout(model, parameters["dropout"], generators.dropout)
        freeze(model, parameters["freeze"])
        loss = make_loss(labels.target_type, parameters["label_smoothing"])
        trainer = Trainer(model, data, settings, loss, place, generators, progress, validation)
        validation.check(model)
        result = trainer.fit()
    return FittedModel(
        model=model,
        tokenizer=tokenizer,
        loss_curve=result.loss_curve,
        validation_scores=None if validation.encodings is None else result.scores,
        head_init=head_init,
        learning_rate=settings.learning_rate,
        truncated_fraction=float(encodings.truncated.mean()),
    )


def make_validation(
    encodings: Encodings, y: np.ndarray, labels: Labels, parameters: Mapping[str, Any], place: Runtime
) -> Validation:
    """Scoring on held-out texts; with `early_stopping` it may end the fit."""
    return Validation(
        encodings,
        y,
        labels,
        parameters["scoring"],
        parameters["n_iter_no_change"] if parameters["early_stopping"] else None,
        place,
    )


def split_off_validation(
    rows: np.ndarray, labels: Labels, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split a fraction of the rows off for validation; returns training and validation rows."""
    training, held, complete = hold_out(labels.codes[rows], fraction, seed)
    if not complete:
        warnings.warn(
            f"The {len(held)} texts held out for early stopping do not hold every class. Raise "
            "validation_fraction, or pass X_val and y_val to fit.",
            SkbertWarning,
            stacklevel=4,
        )
    return rows[training], rows[held]


def _check_max_length(max_length: int, checkpoint: Checkpoint) -> None:
    if max_length > checkpoint.max_positions:
        raise InputError(
            f"max_length={max_length}, but {checkpoint.name} has positions for "
            f"{checkpoint.max_positions} tokens. Set max_length={checkpoint.max_positions} or less."
        )


def resolve_settings(parameters: Mapping[str, Any], n_texts: int, hidden_size: int) -> TrainingSettings:
    """The recipe with every "auto" resolved."""
    epochs, rate = parameters["epochs"], parameters["learning_rate"]
    return TrainingSettings(
        epochs=defaults.auto_epochs(n_texts, parameters["batch_size"]) if epochs == "auto" else epochs,
        batch_size=parameters["batch_size"],
        learning_rate=defaults.auto_learning_rate(hidden_size) if rate == "auto" else rate,
        layer_decay=parameters["layer_decay"],
        weight_decay=parameters["weight_decay"],
        warmup_ratio=parameters["warmup_ratio"],
        max_grad_norm=parameters["max_grad_norm"],
    )


def new_model(
    checkpoint: Checkpoint, n_outputs: int, pooling: Literal["auto", "cls", "mean"]
) -> SequenceClassifier:
    """A copy of the pretrained encoder with a head whose weights are not set yet."""
    return SequenceClassifier(
        checkpoint.new_encoder(),
        checkpoint.architecture,
        checkpoint.pooling if pooling == "auto" else pooling,
        n_outputs,
        checkpoint.head_dropout,
        checkpoint.rebuild(),
    )


def start_head(
    model: SequenceClassifier,
    data: TrainingData,
    head_init: str,
    place: Runtime,
    generators: Generators,
) -> str:
    """Give the head its first weights; returns how: "linear_probe" or "random"."""
    reset_head(model, generators.weights)
    if head_init == "random":
        return "random"
    rows = probing.choose_rows(len(data), generators.probe)
    embeddings = inference.run_model(model.eval(), data.encodings.take(rows), place, "embeddings")
    inference.release(model)
    seen = (embeddings, data.targets[rows], data.weights[rows])
    if head_init == "auto" and not probing.generalizes(*seen, model.head.out_features, generators.probe):
        return "random"
    probing.start_head(model, *seen)
    return "linear_probe"
