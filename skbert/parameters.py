"""The parameters that all estimators have, and what each may be. `BertClassifier` says what they mean."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

if TYPE_CHECKING:
    from peft import LoraConfig
else:
    LoraConfig = Any  # for those who resolve type hints, such as makers of command lines

Precision = Literal["auto", "bfloat16", "float16", "float32", "float64", "int8"]
MIN_LENGTH = 8  # tokens of a text; what is less holds little besides special tokens


class ParametersMixin(BaseEstimator):
    """Takes the parameters as they are given; `fit` checks them."""

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # of numbers, which is what the tag stands for
        tags.target_tags.required = True
        return tags
