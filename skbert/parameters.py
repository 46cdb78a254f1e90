"""The parameters that all estimators have, and their allowed values. `BertClassifier` explains them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    make_constraint,
)

if TYPE_CHECKING:
    from peft import LoraConfig as LoraConfig  # to be imported from here
else:
    LoraConfig = Any  # for code that resolves type hints, such as command-line generators

Precision = Literal["auto", "bfloat16", "float16", "float32", "float64", "int8"]
MIN_LENGTH = 8  # tokens per text; fewer hold little besides special tokens


def _closest_scorer(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    begun = [name for name in get_scorer_names() if value and name.startswith(value)]
    close = begun or get_close_matches(value, get_scorer_names())
    return f" Did you mean {close[0]!r}?" if close else ""


# What is said of a bad value where scikit-learn's own message would be long, or say little.
_IN_OTHER_WORDS = {
    "model": "a name on the hub or a folder, as str or path (to continue from a fitted estimator, set "
    "its warm_start=True, or start others from its encoder, which save_encoder writes)",
    "freeze": "a number of layers, 'embeddings', 'encoder' or 'gradual'",
    "lora": "None, a rank, such as 8, or a peft.LoraConfig",
    "device": "'auto', 'cpu', 'cuda', 'cuda:1' or another device as str (str(device) of a torch.device)",
    "class_weight": "None, 'balanced' or a dict of the weight of each class, such as "
    "dict(zip(classes, weights))",
    "scoring": "None, a callable, or one of sklearn.metrics.get_scorer_names()",
}


class ParametersMixin(BaseEstimator):
    """Stores the parameters as given; `fit` checks them."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "model": [str, PathLike],
        "revision": [str, None],
        "max_length": [Interval(Integral, MIN_LENGTH, None, closed="left")],
        "long_text": [StrOptions({"head", "head_tail", "windows"})],
        "pooling": [StrOptions({"auto", "cls", "mean", "max"})],
        "head_layers": [Interval(Integral, 0, None, closed="left")],
        "head_init": [StrOptions({"auto", "linear_probe", "random"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_ratio": [Interval(Real, 0, 1, closed="both")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "freeze": [
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"embeddings", "encoder", "gradual"}),
        ],
        "lora": [Interval(Integral, 1, None, closed="left"), HasMethods("to_dict"), None],
        "gradient_checkpointing": ["boolean"],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "device": [str],
        "precision": [StrOptions({*get_args(Precision)})],
        "memory": [str, PathLike, HasMethods("cache"), None],
        "verbose": ["verbose"],
        "checkpoint": [str, PathLike, None],
    }

    def __init__(
        self,
        model: str | PathLike[str] = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        revision: str | None = None,
        max_length: int = 256,
        long_text: Literal["head", "head_tail", "windows"] = "head",
        pooling: Literal["auto", "cls", "mean", "max"] = "auto",
        head_layers: int = 0,
        head_init: Literal["auto", "linear_probe", "random"] = "auto",
        dropout: float | None = None,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 16,
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        max_grad_norm: float | None = 1.0,
        freeze: int | Literal["embeddings", "encoder", "gradual"] = 0,
        lora: int | LoraConfig | None = None,
        gradient_checkpointing: bool = False,
        layer_decay: float = 1.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        scoring: str | Callable[..., float] | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        memory: str | PathLike[str] | Any = None,
        verbose: int = 0,
        checkpoint: str | PathLike[str] | None = None,
    ) -> None:
        self.model = model
        self.revision = revision
        self.max_length = max_length
        self.long_text = long_text
        self.pooling = pooling
        self.head_layers = head_layers
        self.head_init = head_init
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.max_grad_norm = max_grad_norm
        self.freeze = freeze
        self.lora = lora
        self.gradient_checkpointing = gradient_checkpointing
        self.layer_decay = layer_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scoring = scoring
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.memory = memory
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _validate_params(self) -> None:
        """As scikit-learn does, with the messages of `_IN_OTHER_WORDS`."""
        for name, constraints in self._parameter_constraints.items():
            if name not in _IN_OTHER_WORDS:
                continue
            value, allowed = getattr(self, name), map(make_constraint, constraints)
            # To scikit-learn True is the number 1.
            if value is True or not any(constraint.is_satisfied_by(value) for constraint in allowed):
                got = (
                    repr(value) if len(repr(value)) <= 60 else f"an object of the type {type(value).__name__}"
                )
                meant = _closest_scorer(value) if name == "scoring" else ""
                raise InvalidParameterError(
                    f"The {name!r} parameter of {type(self).__name__} must be {_IN_OTHER_WORDS[name]}. Got "
                    f"{got} instead.{meant}"
                )
        super()._validate_params()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # of numbers, which is what the tag stands for
        tags.target_tags.required = True
        return tags
