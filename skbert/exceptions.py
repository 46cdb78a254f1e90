"""Errors and warnings of skbert.

Each error is both an `SkbertError` and the built-in error that callers already catch::

    SkbertError
    ├── InputError             (ValueError)      texts, labels, weights or parameters that cannot be used
    │   └── InputTypeError     (TypeError too)   a cell or a container of the wrong type
    ├── CheckpointError        (OSError, ValueError)  weights or tokenizer missing or incomplete
    ├── PersistenceError       (ValueError)      a model file that cannot be written or read exactly
    ├── NonFiniteLossError     (ArithmeticError) the training loss became NaN or infinite
    ├── NonFiniteOutputError   (ArithmeticError) a model gives NaN or infinity for a text
    ├── InsufficientMemoryError (MemoryError)    a text, or the model, does not fit into memory
    ├── MissingExtraError      (ImportError)     a parameter needs an optional dependency
    └── RankError              (RuntimeError)    ranks of one fit differ, or one of them failed

    SkbertWarning              (UserWarning)
    ├── TruncationWarning      texts longer than `max_length` were cut
    ├── UnknownTokensWarning   much of the texts is unknown to the tokenizer
    ├── CollapseWarning        the fitted model predicts the same for every text
    └── CacheWarning           a folder of `memory` cannot be written, or a file in it cannot be read
"""

import sys
import warnings
from collections.abc import Iterable
from typing import Any


class SkbertError(Exception):
    """Base class of the estimators' errors; errors that scikit-learn raises are passed on unchanged."""


class InputError(SkbertError, ValueError):
    """Texts, labels, weights or parameters that cannot be used as given."""


class InputTypeError(InputError, TypeError):
    """A cell or a container of a type that is not text."""


class CheckpointError(SkbertError, OSError, ValueError):
    """A checkpoint that cannot be found, or whose files are incomplete."""


class PersistenceError(SkbertError, ValueError):
    """A model that cannot be written exactly, or a file that is not a model, or no longer one."""


class NonFiniteLossError(SkbertError, ArithmeticError):
    """The training loss became NaN or infinite; nothing of the fit was kept."""


class NonFiniteOutputError(SkbertError, ArithmeticError):
    """A model gives NaN or infinity for a text, which yields no label and no probability."""


class InsufficientMemoryError(MemoryError, SkbertError):  # in this order: else its `__new__` raises
    """A single text, or the model itself, does not fit into the memory of the device."""


class MissingExtraError(SkbertError, ImportError):
    """An optional dependency that a parameter needs is not installed."""


class RankError(SkbertError, RuntimeError):
    """The processes of one fit (torchrun) were given different input, or one of them failed or is gone."""


class SkbertWarning(UserWarning):
    """Base class of skbert's warnings, except scikit-learn's DataConversionWarning for a y in one column."""


class TruncationWarning(SkbertWarning):
    """Texts longer than `max_length` tokens were cut."""


class UnknownTokensWarning(SkbertWarning):
    """Much of the training texts is unknown to the checkpoint's tokenizer."""


class CollapseWarning(SkbertWarning):
    """A fit ended with a model that predicts the same for every text."""


class CacheWarning(SkbertWarning):
    """A folder of `memory` cannot be written, or a file in it is damaged; the fit continues without it."""


def warn(message: str, category: type[Warning] = SkbertWarning) -> None:
    """Issue a warning that points at the line that called skbert."""
    frame, level = sys._getframe(1), 3  # the level of the caller of `frame`
    # Decorators of scikit-learn and contextlib put frames between skbert's own.
    inside = ("skbert.", "sklearn.callback", "contextlib")
    while frame.f_back is not None and frame.f_back.f_globals.get("__name__", "").startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def shown(values: Iterable[Any], n: int = 10) -> str:
    """The first few values and the number of values left out, for a message."""
    values = list(values)
    return repr(values[:n]) + (f" and {len(values) - n} more" if len(values) > n else "")


# What code raises that is given content of another form than it expects.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def is_panic(error: BaseException) -> bool:
    """Whether Rust code, such as that of tokenizers, has panicked: the error is no subclass of Exception."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """What an error says, without the stack that torch adds."""
    return (str(error).splitlines() or [type(error).__name__])[0]
