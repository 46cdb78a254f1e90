"""What the parameters mean for training: every "auto" resolved, what is trained, and the watchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from skbert import defaults
from skbert.exceptions import InputError
from skbert.network.dropout import set_dropout
from skbert.network.memory import checkpoint_layers
from skbert.network.model import SequenceClassifier
from skbert.randomness import Generators
from skbert.starting import Start
from skbert.training.callbacks import ProgressBar, Watcher
from skbert.training.freezing import GradualUnfreezing, freeze
from skbert.training.loop import TrainingSettings
from skbert.training.lora import add_adapters, check_some_train, resolve_config
from skbert.training.optimizer import constant_schedule, linear_schedule

if TYPE_CHECKING:
    from peft import LoraConfig

    from skbert.data.outputs import TargetType


def checked_lora(parameters: Mapping[str, Any]) -> LoraConfig | None:
    """The configuration of the adapters, if `lora` is set."""
    if parameters["lora"] is None:
        return None
    if parameters["freeze"] == "encoder":
        raise InputError(
            "lora is set and freeze='encoder', but the adapters are in the encoder. Use one of the two."
        )
    return resolve_config(parameters["lora"])


def resolve_settings(
    parameters: Mapping[str, Any], n_texts: int, target_type: TargetType, start: Start, *, open_ended: bool
) -> TrainingSettings:
    """The recipe with every "auto" resolved."""
    epochs, rate = parameters["epochs"], parameters["learning_rate"]
    if rate == "auto":
        trained = _what_trains(parameters, target_type)
        rate = defaults.auto_learning_rate(start.encoder.config.hidden_size, trained)
    first_step = start.moments.steps if start.moments else 0
    return TrainingSettings(
        epochs=defaults.auto_epochs(n_texts, parameters["batch_size"]) if epochs == "auto" else epochs,
        batch_size=parameters["batch_size"],
        learning_rate=rate,
        schedule=_schedule(parameters["warmup_ratio"], first_step, open_ended=open_ended),
        layer_decay=parameters["layer_decay"],
        weight_decay=parameters["weight_decay"],
        max_grad_norm=parameters["max_grad_norm"],
        open_ended=open_ended,
        verbose=parameters["verbose"],
    )


def _schedule(warmup_ratio: float, first_step: int, *, open_ended: bool) -> Callable[[int, int], float]:
    if not open_ended:
        return partial(linear_schedule, warmup_ratio=warmup_ratio)
    warmup = defaults.WARMUP_STEPS if warmup_ratio else 1  # a ratio of how many steps is not known
    return partial(constant_schedule, first_step=first_step, warmup=warmup)


def _what_trains(parameters: Mapping[str, Any], target_type: TargetType) -> defaults.Trained:
    if parameters["lora"] is not None:
        return "adapters"
    if parameters["freeze"] != "encoder" or parameters["head_layers"] > 0:
        return "all"
    return "linear head of labels" if target_type == "multilabel-indicator" else "linear head"


def choose_trained(
    model: SequenceClassifier,
    parameters: Mapping[str, Any],
    lora: LoraConfig | None,
    generators: Generators,
) -> None:
    """Set which weights require a gradient, the dropouts, and what is kept for the backward pass."""
    model.requires_grad_()
    if lora is not None:
        add_adapters(model, lora, generators.weights)
    freeze(model, parameters["freeze"])
    if lora is not None:
        check_some_train(model, parameters["freeze"])
    set_dropout(model, parameters["dropout"], generators.dropout)
    if parameters["gradient_checkpointing"]:
        checkpoint_layers(model)


def own_watchers(model: SequenceClassifier, parameters: Mapping[str, Any]) -> list[Watcher]:
    """The watchers that the parameters ask for."""
    watchers: list[Watcher] = [ProgressBar()] if parameters["verbose"] else []
    return [*watchers, GradualUnfreezing(model)] if parameters["freeze"] == "gradual" else watchers
