"""Errors and warnings of skbert.

Each error is both an `SkbertError` and the built-in that people already catch::

    SkbertError
    ├── InputError             (ValueError)      texts, labels, weights or parameters that cannot be used
    │   └── InputTypeError     (TypeError too)   a cell or a container of the wrong type
    ├── CheckpointError        (OSError, ValueError)  weights or tokenizer missing or incomplete
    ├── PersistenceError       (ValueError)      a model file that cannot be written or read exactly
    ├── NonFiniteLossError     (ArithmeticError) the training loss became NaN or infinite
    ├── NonFiniteOutputError   (ArithmeticError) a model gives NaN or infinity for a text
    ├── InsufficientMemoryError (MemoryError)    a single text does not fit into memory
    ├── MissingExtraError      (ImportError)     a parameter needs an optional dependency
    └── RankError              (RuntimeError)    ranks of one fit differ, or one of them failed

    SkbertWarning              (UserWarning)
    ├── TruncationWarning      texts longer than `max_length` were cut
    ├── UnknownTokensWarning   the tokenizer does not know much of the texts
    ├── CollapseWarning        the fitted model predicts the same for every text
    └── CacheWarning           a folder of `memory` cannot be written, or a file in it cannot be read
"""

import sys
import warnings
from collections.abc import Iterable
from typing import Any


class SkbertError(Exception):
    """Base of the errors of estimators; those that scikit-learn raises come as they are."""


class InputError(SkbertError, ValueError):
    """Texts, labels, weights or parameters that cannot be used as given."""


class InputTypeError(InputError, TypeError):
    """A cell or a container of a type that is not text."""


class CheckpointError(SkbertError, OSError, ValueError):
    """A checkpoint that cannot be found, or whose files are incomplete."""


class PersistenceError(SkbertError, ValueError):
    """A model that cannot be written exactly, or a file that is not one, or not one any more."""


class NonFiniteLossError(SkbertError, ArithmeticError):
    """The training loss became NaN or infinite; nothing of the fit was kept."""


class NonFiniteOutputError(SkbertError, ArithmeticError):
    """A model gives NaN or infinity for a text, of which no label and no probability can be made."""


class InsufficientMemoryError(MemoryError, SkbertError):  # in this order: else its `__new__` raises
    """A single text does not fit into the memory of the device."""


class MissingExtraError(SkbertError, ImportError):
    """An optional dependency that a parameter needs is not installed."""


class RankError(SkbertError, RuntimeError):
    """The processes of one fit (torchrun) were not given the same, or one of them failed or is gone."""


class SkbertWarning(UserWarning):
    """Base of every warning that skbert gives."""


def warn(message: str, category: type[Warning] = SkbertWarning) -> None:
    """Give a warning that points at the line that called skbert."""
    frame, level = sys._getframe(1), 3  # the level of the caller of `frame`
    # Decorators of scikit-learn and of contextlib stand between functions of skbert.
    inside = ("skbert.", "sklearn.callback", "contextlib")
    while frame.f_back is not None and frame.f_back.f_globals.get("__name__", "").startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class TruncationWarning(SkbertWarning):
    """Texts longer than `max_length` tokens were cut."""


class UnknownTokensWarning(SkbertWarning):
    """The checkpoint's tokenizer does not know much of the training texts."""


class CollapseWarning(SkbertWarning):
    """A fit ended with a model that predicts the same for every text."""


class CacheWarning(SkbertWarning):
    """A folder of `memory` cannot be written, or a file in it is damaged; the fit goes on without."""


def shown(values: Iterable[Any], n: int = 10) -> str:
    """The first of some values, for a message that also tells how many it leaves out."""
    values = list(values)
    return repr(values[:n]) + (f" and {len(values) - n} more" if len(values) > n else "")


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust, as that of tokenizers, has given up: of which Python knows no Exception."""
    return type(error).__name__ == "PanicException"
