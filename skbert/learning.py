"""The methods that fit: check → the stages of a fit (`fitting.py`) → fitted attributes, once, at the end.

torch and transformers take seconds to import: the stages that need them are imported where they run, so that
constructing and cloning an estimator cost nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from sklearn.utils import check_random_state

from skbert.data.columns import check_same_names, column_names
from skbert.data.fit_data import FitData, Target, check_groups, check_held_out
from skbert.data.inputs import Texts, check_texts
from skbert.exceptions import InputError
from skbert.parameters import ParametersMixin
from skbert.persistence import unfinished
from skbert.pretrained.sources import display_name, locate
from skbert.training.callbacks import HAS_CALLBACKS, ScikitLearnCallbacks, Watcher, with_callbacks
from skbert.training.distributed import on_all_ranks
from skbert.training.ranks import current
from skbert.warm_start import check_partial_fit, start_from

if TYPE_CHECKING:
    from skbert.fitting import FittedModel


class LearningMixin(ParametersMixin):
    """`fit`, and what `partial_fit` does; the two abstract methods at the end are about the target."""

    # Routed by default: what knows of groups, such as a search with GroupKFold, means those of the texts.
    __metadata_request__fit: ClassVar = {"groups": True}
    if TYPE_CHECKING:
        feature_names_in_: np.ndarray
        checkpoint_: str
        n_iter_: int
        head_init_: Literal["linear_probe", "random", "pretrained"]
        learning_rate_: float
        loss_curve_: list[float]
        validation_scores_: list[float] | None
        best_validation_score_: float | None
        history_: list[dict[str, float]]
        truncated_fraction_: float
        adapters_: dict[str, tuple[np.ndarray, np.ndarray]]

    @with_callbacks
    @on_all_ranks
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
    ) -> Self:
        """Fine-tune the checkpoint on texts and their targets.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,), (n_samples, 1) or (n_samples, 2)
            Texts (list, array, Series, one-column DataFrame, ...), or pairs of texts (two columns, or a
            list of 2-tuples).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            For a classifier, class labels: str, int, bool or categorical; or an indicator matrix of 0 and 1,
            dense or sparse, for several labels per text. For a regressor, numbers: one per text or several.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text; a weight of two counts as the text given twice.
        groups : array-like of shape (n_samples,), default=None
            Group of each text, such as its author. Where the fit holds texts out, for `early_stopping` and
            for `head_init="auto"`, those of a group are held out together, except texts that other groups
            have as well, which are trained on. Metadata routing passes it on
            unless `set_fit_request(groups=False)` is called.
        X_val, y_val : array-like, default=None
            Texts and targets to validate on after each epoch. The fitted model has the weights of the epoch
            that scored best.

        Returns
        -------
        self : estimator
            If anything fails, the estimator is as it was before the call.

        Raises
        ------
        InputError, InputTypeError
            If texts, targets, weights or groups cannot be used (the first bad row is named), or if a
            parameter is incompatible with them, the checkpoint, or another parameter.
        TypeError
            If the names of the text columns are of mixed types; with scikit-learn's message.
        ValueError
            If a parameter has a value that is not allowed (scikit-learn's InvalidParameterError), or, with
            `warm_start`, the text columns have other names.
        CheckpointError
            If the checkpoint cannot be found or is incomplete.
        MissingExtraError
            If `lora` is set and peft is not installed.
        NonFiniteLossError, NonFiniteOutputError
            If the training loss, or the model's output for a text, becomes NaN or infinite.
        InsufficientMemoryError
            If a single text, or the model, does not fit into memory.
        PersistenceError
            If the file of an interrupted fit in `checkpoint` is damaged.
        RankError
            On all ranks of a fit under torchrun, if one of them fails or was given different input.
        """
        self._validate_params()
        texts = check_texts(X)
        going_on = self.warm_start and hasattr(self, "model_")
        names = column_names(X, self if going_on else None)
        known = self._known_target() if going_on else None
        target, of_texts, of_outputs = self._read_target(y, texts, sample_weight, known)
        numbered = check_groups(groups, len(texts))
        held_out = check_held_out(X_val, y_val, texts, target)
        if held_out is not None:
            check_same_names(X_val, names)
        if not going_on:
            # A missing checkpoint is reported now, before seconds go into importing torch.
            locate(self.model, self.revision)
        start = start_from(self, texts) if going_on else None
        from skbert.fitting import fit_texts

        data = FitData(texts, target, of_texts, of_outputs, held_out, numbered)
        seed = self._draw_seed()
        settings = self._settings()
        attributes = partial(self._attributes, settings, data, names, [])
        watcher = self._watcher(X, y, sample_weight, attributes)
        if self.checkpoint is not None and current().size > 1:
            raise InputError(
                f"checkpoint={self.checkpoint!r}, but the fit runs on {current().size} ranks, and no single "
                "file holds their state. Set checkpoint to None, or fit in one process."
            )
        with unfinished.opened(self.checkpoint) as folder:
            fitted = fit_texts(data, settings, seed, start, watcher, folder=folder)
            self._set_fitted(attributes(fitted))
        return self

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _fit_one_epoch(
        self, X: Any, y: Any, sample_weight: Any, read: Callable[[Texts], tuple[Any, np.ndarray, np.ndarray]]
    ) -> Self:
        """`partial_fit`; `read` returns what `_read_target` does."""
        self._validate_params()
        settings = self._settings()
        check_partial_fit(settings)
        texts = check_texts(X)
        names = column_names(X, self if hasattr(self, "model_") else None)
        target, of_texts, of_outputs = read(texts)
        start = start_from(self, texts, getattr(self, "_moments", None)) if hasattr(self, "model_") else None
        from skbert.fitting import fit_texts

        data = FitData(texts, target, of_texts, of_outputs)
        steps = start.moments.steps if start and start.moments else 0
        seed = (self._draw_seed() + steps) % 2**31
        attributes = partial(self._attributes, settings, data, names, getattr(self, "history_", []))
        watcher = self._watcher(X, y, sample_weight, attributes)
        fitted = fit_texts(data, settings | {"epochs": 1}, seed, start, watcher, open_ended=True)
        self._set_fitted(attributes(fitted) | {"_moments": fitted.moments})
        return self

    def _settings(self) -> dict[str, Any]:
        """All parameters by name, including those that a subclass fixes; numbers as Python's own.

        numpy's numbers, as in a grid from `np.arange`, overflow if their dtype is narrow, and comparisons
        with them give numpy bools, which torch refuses.
        """
        return {name: _plain(getattr(self, name)) for name in self._parameter_constraints}

    def _watcher(
        self, X: Any, y: Any, sample_weight: Any, attributes: Callable[[FittedModel], dict[str, Any]]
    ) -> Watcher:
        """What tells scikit-learn's callbacks about the fit, if this version has them."""
        if not HAS_CALLBACKS:
            return Watcher()
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        return ScikitLearnCallbacks(self, {"X": X, "y": y, "metadata": metadata}, attributes)

    def _attributes(
        self,
        settings: dict[str, Any],
        data: FitData,
        names: dict[str, Any],
        earlier: list[dict[str, float]],
        fitted: FittedModel,
    ) -> dict[str, Any]:
        """The fitted attributes, `names` among them; `earlier` is the history of epochs before this fit."""
        scores = fitted.validation_scores
        history = [*earlier, *_history(fitted.loss_curve, scores, len(earlier) + 1)]
        attributes = {
            "n_features_in_": data.texts.n_columns,
            "model_": fitted.model,
            "tokenizer_": fitted.tokenizer,
            "adapters_": {
                n: (adapter.b.numpy(), adapter.a.numpy()) for n, adapter in fitted.adapters.items()
            },
            "checkpoint_": display_name(settings["model"], settings["revision"]),
            "max_length_": int(settings["max_length"]),
            "long_text_": settings["long_text"],
            "loss_curve_": [epoch["loss"] for epoch in history],
            "validation_scores_": scores,
            "best_validation_score_": max(scores) if scores else None,
            "history_": history,
            "n_iter_": len(history),
            "head_init_": fitted.head_init,
            "learning_rate_": fitted.learning_rate,
            "truncated_fraction_": fitted.truncated_fraction,
        }
        return data.target.attributes() | attributes | names

    def _set_fitted(self, attributes: dict[str, Any]) -> None:
        """Change the estimator, in one step, and only now that nothing can fail any more."""
        stale = ("feature_names_in_", "_moments")
        kept = {name: value for name, value in dict(vars(self)).items() if name not in stale}
        self.__dict__ = kept | attributes

    @abstractmethod
    def _known_target(self) -> Target:
        """What the fit knows about its target, without any text."""

    @abstractmethod
    def _read_target(
        self, y: Any, texts: Texts, sample_weight: Any, known: Any
    ) -> tuple[Target, np.ndarray, np.ndarray]:
        """The target, in terms of what is `known`; the weights of texts, and the weights of outputs."""


def _history(losses: list[float], scores: list[float] | None, first: int) -> list[dict[str, float]]:
    rows = [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses, start=first)]
    if scores is None:
        return rows
    return [row | {"validation_score": score} for row, score in zip(rows, scores, strict=True)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
