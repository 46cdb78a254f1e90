"""From checked texts and labels to a fine-tuned model: the order of the stages of a fit.

1. Take the model to start from (`starting.py`).
2. Encode the texts; rows of weight zero are left out.
3. Hold texts out for validation, if early stopping asks for it.
4. Give a new head its first weights; choose what trains; start above what does not (`training/prefix.py`).
5. Train it, and put the weights it ends with into a fresh copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skbert import defaults
from skbert.caching.cache import open_cache
from skbert.data.encoding import Encodings, encode
from skbert.data.inputs import Texts
from skbert.data.labels import Labels
from skbert.data.outputs import make_loss
from skbert.exceptions import InputError, TruncationWarning, warn
from skbert.frozen import FrozenLayers
from skbert.network.memory import checkpoint_layers
from skbert.network.model import SequenceClassifier, set_dropout
from skbert.persistence.identity import describe
from skbert.runtime import Generators, Runtime, isolated_cuda, resolve_runtime
from skbert.starting import Start, from_checkpoint, start_head
from skbert.training.adapt import GradualThawing, freeze
from skbert.training.agreement import check_given, check_weights
from skbert.training.callbacks import ProgressBar, Watcher, Watchers
from skbert.training.diagnosis import warn_of_collapse
from skbert.training.loop import Trainer, TrainingData, TrainingResult, TrainingSettings
from skbert.training.lora import Adapter, add_adapters, resolve_config
from skbert.training.optimizer import Moments, constant_schedule, linear_schedule
from skbert.training.prefix import start_above
from skbert.training.ranks import current
from skbert.training.resume import Keeper, NoKeeper
from skbert.training.validation import NoValidation, Validation, hold_out

if TYPE_CHECKING:
    from peft import LoraConfig
    from tokenizers import Tokenizer

    from skbert.persistence.unfinished import Folder


@dataclass(frozen=True, slots=True)
class FittedModel:
    """What a fit ends with."""

    model: SequenceClassifier  # on the CPU
    tokenizer: Tokenizer
    adapters: dict[str, Adapter]  # merged into the model
    loss_curve: list[float]  # mean training loss of each epoch
    validation_scores: list[float] | None  # of each epoch; None without validation
    head_init: str  # "linear_probe" or "random"
    learning_rate: float
    truncated_fraction: float
    moments: Moments | None = None  # of the optimizer, where the training is to go on


@dataclass(frozen=True, slots=True)
class FitData:
    """What a fit is given."""

    texts: Texts
    labels: Labels
    weights: np.ndarray  # (n_samples,) or (n_samples, n_labels)
    held_out: tuple[Texts, np.ndarray] | None = None  # texts to validate on, and their labels


Finish = Callable[[TrainingResult], FittedModel]


def fit_texts(
    data: FitData,
    parameters: Mapping[str, Any],
    seed: int,
    start: Start | None = None,
    watch: Callable[[Finish], Watcher] = lambda _: Watcher(),
    *,
    going_on: bool = False,
    folder: Folder | None = None,
) -> FittedModel:
    """Fine-tune a model on texts.

    Parameters
    ----------
    data : FitData
    parameters : mapping
        The parameters of `BertClassifier`, validated.
    seed : int
        Of every random stream of the fit.
    start : Start, default=None
        A fitted model to go on from; None takes the checkpoint.
    watch : callable, optional
        Makes somebody who watches the fit, given what turns a TrainingResult into a FittedModel.
    going_on : bool, default=False
        For a training that goes on with more data: the learning rate stays up, and the optimizer's state is
        part of the result.
    folder : Folder, default=None
        Keeps the state of the fit, and may hold that of the same fit, interrupted.

    Returns
    -------
    FittedModel
    """
    ranks = current()
    place = resolve_runtime(parameters["device"], parameters["precision"])
    parameters, seed = check_given(ranks, data, parameters, place, seed)
    lora = checked_lora(parameters)
    start = start or from_checkpoint(parameters, data.labels.n_outputs)
    _check_max_length(parameters["max_length"], start)
    found = None if folder is None else folder.find(describe(data, parameters, seed, start, place))
    seed = seed if found is None else found.seed
    frozen = FrozenLayers(start.encoder, place, open_cache(parameters["memory"]))
    training, validation = encode_data(data, parameters, start, frozen, seed)
    settings = resolve_settings(parameters, len(training), start, going_on=going_on)
    generators = Generators.from_seed(seed, place.device, ranks.rank)
    with _own_torch_state(generators, place):
        model = start.new_model()
        check_weights(ranks, model)
        # The weights that an interrupted fit has come to are put back; a head must only be there until then.
        wanted = parameters["head_init"] if found is None else "random"
        head_init = start.head_init or start_head(model, training, wanted, frozen, generators)
        head_init = ranks.first(head_init if found is None else found.head_init)
        choose_trained(model, parameters, lora, generators)
        ranks.copy_first(list(model.parameters()))
        rows, validation.encodings = start_above(
            model, parameters["freeze"], lora, (training, validation.encodings), frozen, start.new_model
        )
        finish = partial(assemble, start, head_init, settings.learning_rate, training, validation)
        loss = make_loss(data.labels.target_type, parameters["label_smoothing"])
        keeper = NoKeeper()
        if folder is not None:
            keeper = Keeper(partial(folder.write, seed, head_init), None if found is None else found.state)
        found = None  # its arrays are several times the model
        with Watchers([*own_watchers(model, parameters), watch(finish)]) as watcher:
            trainer = Trainer(
                model, rows, settings, loss, place, generators, watcher, validation, start.moments, keeper
            )
            validation.check(model)
            result = trainer.fit()
        fitted = finish(result, trainer.moments() if going_on else None)
        frozen.note_unchanged(fitted.model, model)
        if not going_on:
            smoothing = parameters["label_smoothing"]
            warn_of_collapse(fitted.model, result.loss_curve[-1], training, data.labels, smoothing, place)
    ranks.end()
    return fitted


@contextmanager
def _own_torch_state(generators: Generators, place: Runtime) -> Iterator[None]:
    """Gradients on, whatever the caller has set; a CUDA device's generator as it was, afterwards."""
    with torch.inference_mode(False), torch.enable_grad(), isolated_cuda(generators.seed, place.device):
        yield


def checked_lora(parameters: Mapping[str, Any]) -> LoraConfig | None:
    """The configuration of the adapters, if there are to be any."""
    if parameters["lora"] is None:
        return None
    if parameters["freeze"] == "encoder":
        raise InputError(
            "lora is set and freeze='encoder', but the adapters are in the encoder. Use one of the two."
        )
    return resolve_config(parameters["lora"])


def encode_data(
    data: FitData, parameters: Mapping[str, Any], start: Start, frozen: FrozenLayers, seed: int
) -> tuple[TrainingData, NoValidation]:
    """Encode the texts; take those to validate on from outside, or hold some out."""
    place, max_length, long_text = frozen.place, parameters["max_length"], parameters["long_text"]
    read = partial(encode, start.tokenizer, max_length=max_length, long_text=long_text, cache=frozen.cache)
    # Texts of weight zero teach nothing.
    rows = np.flatnonzero(data.weights.reshape(len(data.weights), -1).any(axis=1))
    validation = NoValidation()
    if data.held_out is not None:
        validation = make_validation(read(data.held_out[0]), data.held_out[1], data.labels, parameters, place)
    elif parameters["early_stopping"]:
        rows, held = split_off_validation(rows, data.labels, parameters["validation_fraction"], seed)
        y = data.labels.values(held)
        validation = make_validation(read(data.texts.take(held)), y, data.labels, parameters, place)
    encodings = read(data.texts.take(rows))
    _warn_of_truncation(float(encodings.truncated.mean()), max_length)
    # A window has the label and the weight of its text.
    of_rows = rows[encodings.owners]
    return TrainingData(encodings, data.labels.codes[of_rows], data.weights[of_rows]), validation


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
        warn(
            f"The {len(held)} texts held out for early stopping do not hold every class. Raise "
            "validation_fraction, or pass X_val and y_val to fit."
        )
    return rows[training], rows[held]


def _warn_of_truncation(share: float, max_length: int) -> None:
    if share > 0:
        warn(
            f"{share:.1%} of the training texts are longer than max_length={max_length} tokens and are cut. "
            "Raise max_length, or use long_text='windows' to read all of them (truncated_fraction_ holds the "
            "share).",
            TruncationWarning,
        )


def _check_max_length(max_length: int, start: Start) -> None:
    if max_length > start.max_positions:
        raise InputError(
            f"max_length={max_length}, but {start.name} has positions for {start.max_positions} tokens. Set "
            f"max_length={start.max_positions} or less."
        )


def resolve_settings(
    parameters: Mapping[str, Any], n_texts: int, start: Start, *, going_on: bool
) -> TrainingSettings:
    """The recipe with every "auto" resolved."""
    epochs, rate = parameters["epochs"], parameters["learning_rate"]
    first_step = start.moments.steps if start.moments else 0
    return TrainingSettings(
        epochs=defaults.auto_epochs(n_texts, parameters["batch_size"]) if epochs == "auto" else epochs,
        batch_size=parameters["batch_size"],
        learning_rate=defaults.auto_learning_rate(start.hidden_size, adapters=parameters["lora"] is not None)
        if rate == "auto"
        else rate,
        schedule=partial(constant_schedule, first_step=first_step, warmup=defaults.WARMUP_STEPS)
        if going_on
        else partial(linear_schedule, warmup_ratio=parameters["warmup_ratio"]),
        layer_decay=parameters["layer_decay"],
        weight_decay=parameters["weight_decay"],
        max_grad_norm=parameters["max_grad_norm"],
        verbose=parameters["verbose"],
    )


def choose_trained(
    model: SequenceClassifier,
    parameters: Mapping[str, Any],
    lora: LoraConfig | None,
    generators: Generators,
) -> None:
    """Decide which weights require a gradient, which dropouts there are, and what the backward pass keeps."""
    model.requires_grad_()
    if lora is not None:
        add_adapters(model, lora, generators.weights)
    freeze(model, parameters["freeze"])
    set_dropout(model, parameters["dropout"], generators.dropout)
    if parameters["gradient_checkpointing"]:
        checkpoint_layers(model)


def own_watchers(model: SequenceClassifier, parameters: Mapping[str, Any]) -> list[Watcher]:
    """Those that parameters ask for."""
    watchers: list[Watcher] = [ProgressBar()] if parameters["verbose"] else []
    return [*watchers, GradualThawing(model)] if parameters["freeze"] == "gradual" else watchers


def assemble(
    start: Start,
    head_init: str,
    learning_rate: float,
    training: TrainingData,
    validation: NoValidation,
    result: TrainingResult,
    moments: Moments | None = None,
) -> FittedModel:
    """A fitted model from where a training ended: its weights in a fresh copy of what it started from."""
    model = start.new_model()
    model.load_state_dict(result.weights, assign=True)
    return FittedModel(
        model=model.eval().requires_grad_(False),
        tokenizer=start.tokenizer,
        adapters=result.adapters,
        loss_curve=result.loss_curve,
        validation_scores=None if validation.encodings is None else result.scores,
        head_init=head_init,
        learning_rate=learning_rate,
        truncated_fraction=float(training.encodings.truncated.mean()),
        moments=moments,
    )
