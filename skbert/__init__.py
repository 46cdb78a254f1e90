"""skbert: fine-tune a BERT on strings, as a scikit-learn classifier or regressor.

Importing this package imports neither torch nor transformers nor scikit-learn: every public name is
loaded on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import skbert.process.forks  # noqa: F401  # at once: it checks whether torch was loaded before this package

if TYPE_CHECKING:
    from skbert.caching.store import CacheInfo, cache_info, clear_caches, set_cache_limit
    from skbert.classifier import BertClassifier
    from skbert.exceptions import (
        CacheWarning,
        CheckpointError,
        CollapseWarning,
        InputError,
        InputTypeError,
        InsufficientMemoryError,
        MissingExtraError,
        NonFiniteLossError,
        NonFiniteOutputError,
        PersistenceError,
        RankError,
        SkbertError,
        SkbertWarning,
        TruncationWarning,
        UnknownTokensWarning,
    )
    from skbert.regressor import BertRegressor

__version__ = "0.1.0"

__all__ = [
    "BertClassifier",
    "BertRegressor",
    "CacheInfo",
    "CacheWarning",
    "CheckpointError",
    "CollapseWarning",
    "InputError",
    "InputTypeError",
    "InsufficientMemoryError",
    "MissingExtraError",
    "NonFiniteLossError",
    "NonFiniteOutputError",
    "PersistenceError",
    "RankError",
    "SkbertError",
    "SkbertWarning",
    "TruncationWarning",
    "UnknownTokensWarning",
    "cache_info",
    "clear_caches",
    "set_cache_limit",
]

_MODULES = dict.fromkeys(
    ("CacheInfo", "cache_info", "clear_caches", "set_cache_limit"), "skbert.caching.store"
)
_MODULES |= {"BertClassifier": "skbert.classifier", "BertRegressor": "skbert.regressor"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'skbert' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "skbert.exceptions")), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
