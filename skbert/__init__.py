"""skbert: fine-tune a BERT on strings, as a scikit-learn classifier.

Importing this package imports neither torch nor transformers nor scikit-learn: every public name is
loaded on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skbert.classifier import BertClassifier
    from skbert.exceptions import (
        CheckpointError,
        CollapseWarning,
        InputError,
        InputTypeError,
        InsufficientMemoryError,
        MissingExtraError,
        NonFiniteLossError,
        PersistenceError,
        RankError,
        SkbertError,
        SkbertWarning,
        TruncationWarning,
    )

__version__ = "0.1.0"

__all__ = [
    "BertClassifier",
    "CheckpointError",
    "CollapseWarning",
    "InputError",
    "InputTypeError",
    "InsufficientMemoryError",
    "MissingExtraError",
    "NonFiniteLossError",
    "PersistenceError",
    "RankError",
    "SkbertError",
    "SkbertWarning",
    "TruncationWarning",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'skbert' has no attribute {name!r}")
    module = "skbert.classifier" if name == "BertClassifier" else "skbert.exceptions"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
