"""Errors and warnings of skbert.

Each error is both an `SkbertError` and the built-in that people already catch::

    SkbertError
    ├── InputError             (ValueError)      texts, labels or weights that cannot be used
    │   └── InputTypeError     (TypeError too)   a cell or a container of the wrong type
    ├── CheckpointError        (OSError, ValueError)  weights or tokenizer missing or incomplete
    ├── PersistenceError       (ValueError)      a model file that cannot be written or read exactly
    └── NonFiniteLossError     (ArithmeticError) the training loss became NaN or infinite

    SkbertWarning              (UserWarning)
    └── TruncationWarning      texts longer than `max_length` were cut
"""


class SkbertError(Exception):
    """Base of every error that skbert raises on its own account."""


class InputError(SkbertError, ValueError):
    """Texts, labels or weights that cannot be used as given."""


class InputTypeError(InputError, TypeError):
    """A cell or a container of a type that is not text."""


class CheckpointError(SkbertError, OSError, ValueError):
    """A checkpoint that cannot be found, or whose files are incomplete."""


class PersistenceError(SkbertError, ValueError):
    """A model that cannot be written exactly, or a file that is not one, or not one any more."""


class NonFiniteLossError(SkbertError, ArithmeticError):
    """The training loss became NaN or infinite; nothing of the fit was kept."""


class SkbertWarning(UserWarning):
    """Base of every warning that skbert gives."""


class TruncationWarning(SkbertWarning):
    """Texts longer than `max_length` tokens were cut."""
