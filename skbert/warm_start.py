"""Continuing from a fitted estimator: what `warm_start` and `partial_fit` start from, and refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skbert.data.inputs import Texts, check_same_n_columns
from skbert.exceptions import InputError
from skbert.pretrained.sources import display_name

if TYPE_CHECKING:
    from skbert.starting import Start
    from skbert.training.optimizer import Moments


def check_partial_fit(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that make no sense for one more epoch.

    Raises
    ------
    InputError
    """
    for name, bad, why in (
        ("early_stopping", True, "which needs all texts at once. Unset it"),
        ("class_weight", "balanced", "which needs all texts at once. Unset it"),
        (
            "freeze",
            "gradual",
            "which unfreezes layers from epoch to epoch of one fit. Set a number of layers",
        ),
    ):
        if parameters.get(name) == bad:
            raise InputError(f"partial_fit does not support {name}={bad!r}, {why}.")
    if parameters["lora"] is not None:
        raise InputError(
            "partial_fit does not support lora: adapters are merged at the end of each call. Set it to None."
        )
    if parameters["checkpoint"] is not None:
        raise InputError(
            "partial_fit does not support checkpoint. Set it to None, and save the estimator between calls."
        )


def start_from(estimator: Any, texts: Texts, moments: Moments | None = None) -> Start:
    """The fitted model as the start of a fit, if it is what the parameters describe.

    Parameters
    ----------
    estimator : estimator
    texts : Texts
        Texts to train on.
    moments : Moments, default=None
        Of the optimizer that trained the model.

    Raises
    ------
    InputError
        If texts or parameters do not match the model.
    """
    check_same_n_columns(texts, estimator.n_features_in_, type(estimator).__name__)
    model = estimator.model_
    named = display_name(estimator.model, estimator.revision)
    for name, wanted, found in (
        ("model", named, getattr(estimator, "checkpoint_", None)),
        ("pooling", model.pooling if estimator.pooling == "auto" else estimator.pooling, model.pooling),
        ("head_layers", estimator.head_layers, len(model.hidden)),
    ):
        if found not in (wanted, None):
            raise InputError(
                f"{name} is {wanted!r}, but the model to continue from was fitted with {found!r}. Set it "
                "back, or fit a new estimator."
            )
    from skbert.starting import from_fitted

    called = getattr(estimator, "checkpoint_", str(estimator.model))
    head_init = getattr(estimator, "head_init_", "pretrained")
    return from_fitted(model, estimator.tokenizer_, called, head_init, moments)
