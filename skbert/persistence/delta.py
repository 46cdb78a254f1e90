"""Files that leave out what the checkpoint has, and hold only what training changed.

1. `changes` drops the weights that are still the checkpoint's own, and those that are the checkpoint's with a
   low-rank adapter added: the adapter's two factors are stored anyway.
2. `whole` recomputes them, with the same bits on every machine (`lora.Adapter`); `model_file.py` checks them
   against their SHA-256.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skbert.exceptions import PersistenceError
from skbert.persistence.tensorfile import Arrays
from skbert.training.lora import Adapter


def changes(arrays: Arrays, base: Arrays) -> Arrays:
    """Those of the arrays that `whole` cannot make from the base.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Weights of a model, and the factors of its adapters (`factors_of`).
    base : dict of str to ndarray
        Weights of the checkpoint.
    """
    return {
        name: array
        for name, array in arrays.items()
        if (made := _make(name, array.dtype, arrays, base)) is None or not np.array_equal(made, array)
    }


def whole(stored: Arrays, base: Arrays, dtypes: dict[str, Any]) -> Arrays:
    """All the arrays that `dtypes` names, in its order; what `changes` left out comes from the base.

    Raises
    ------
    PersistenceError
        If one is in neither.
    """
    found = {}
    for name, dtype in dtypes.items():
        array = stored.get(name)
        if array is None:
            array = _make(name, dtype, stored, base)
        if array is None:
            raise PersistenceError(f"the array {name!r} is neither in the file nor in the checkpoint.")
        found[name] = array
    return found


def weights_of(encoder: Any) -> Arrays:
    """Weights of a pretrained encoder, by the names that they have in a `SequenceClassifier`."""
    return {
        name if name.startswith("pooler.") else f"encoder.{name}": weight.numpy()
        for name, weight in encoder.state_dict().items()
    }


def factors_of(adapters: dict[str, tuple[np.ndarray, np.ndarray]]) -> Arrays:
    """The fitted attribute `adapters_` as arrays, sorted: a model that was loaded saves to the same bytes."""
    return {
        f"{_PREFIX}{name}.{side}": factor
        for name, pair in sorted(adapters.items())
        for side, factor in zip("ba", pair, strict=True)
    }


def split_factors(arrays: Arrays) -> tuple[Arrays, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Weights and adapters, from arrays that hold both."""
    weights = {name: array for name, array in arrays.items() if not name.startswith(_PREFIX)}
    names = [n.removeprefix(_PREFIX)[:-2] for n in arrays if n.startswith(_PREFIX) and n.endswith(".b")]
    return weights, {n: (arrays[f"{_PREFIX}{n}.b"], arrays[f"{_PREFIX}{n}.a"]) for n in names}


_PREFIX = "adapters."


def _make(name: str, dtype: Any, arrays: Arrays, base: Arrays) -> np.ndarray | None:
    """The weight from the base, with its adapter added if there is one."""
    if name not in base:
        return None
    weight = torch.from_numpy(base[name].astype(dtype))
    b, a = (arrays.get(f"{_PREFIX}{name}.{side}") for side in "ba")
    if b is None or a is None:
        return weight.numpy()
    if (a.ndim, b.ndim) != (2, 2) or weight.shape != (len(b), a.shape[-1]):
        raise PersistenceError(
            f"the checkpoint's {name!r} has the shape {tuple(weight.shape)}, but the adapter for it "
            f"has {(len(b), a.shape[-1])}. Pass the checkpoint that the model was fitted from."
        )
    return Adapter(*(torch.from_numpy(np.ascontiguousarray(f)) for f in (a, b))).added_to(weight).numpy()
