"""Values of parameters and fitted attributes as JSON, and back exactly.

1. None, bool, int, str, finite float and list are written as they are.
2. Every other type becomes an object with one key, which names the type: ``{"$tuple": [...]}``.
3. A type without an entry here is refused: nothing is turned into something nearly the same.

Types must match exactly: a subclass may hold more than its base.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from skbert.exceptions import PersistenceError

_PLAIN = (type(None), bool, int, str)
_NUMPY_KINDS = "biufU"  # bool, int, unsigned, float, str
_TIMES = "mM"  # timedelta64 and datetime64: integers, and a unit
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # to JSON the character that the two stand for
_DTYPE = re.compile(r"object|[<>|=][biufUmM]\d+(\[\w+\])?")  # numpy takes others, and reads some as code
_MAX_DIMENSIONS = 64  # numpy's
_COLLISIONS = 100  # hash collisions that keys of a dict may have, as -1 and -2 do


def encode(value: Any, name: str) -> Any:
    """JSON for a value.

    Parameters
    ----------
    value : object
    name : str
        What it is, for the error message.

    Raises
    ------
    PersistenceError
        If it is, or holds, something of a type that has no exact form.
    """
    kind = type(value)
    if kind is str and _PAIR.search(value):
        raise PersistenceError(
            f"{name} is or holds {value[:60]!r}, which has a surrogate pair as two characters; a model file "
            "would join them. Join them first, with encode('utf-16', 'surrogatepass') and decode likewise."
        )
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [encode(item, name) for item in value]
    if kind is tuple:
        return {"$tuple": [encode(item, name) for item in value]}
    if kind is dict:
        return {"$dict": [[encode(key, name), encode(item, name)] for key, item in value.items()]}
    if isinstance(value, np.generic):
        return {"$scalar": _encode_array(np.asarray(value), name)}
    if kind in (np.ndarray, np.memmap):  # the second from joblib.load(..., mmap_mode="r")
        return {"$array": _encode_array(value, name)}
    if kind is type(Path()):
        return {"$path": encode(value.as_posix(), name)}  # which Windows reads as well
    if kind is np.random.RandomState:
        return {"$random_state": _encode_random_state(value, name)}
    raise PersistenceError(_unsupported(value, name))


def _encode_array(array: np.ndarray, name: str) -> dict[str, Any]:
    is_object = array.dtype.kind == "O"
    is_long_double = array.dtype.kind == "f" and array.dtype.itemsize > 8
    if is_long_double or array.dtype.kind not in _NUMPY_KINDS + _TIMES + "O":
        raise PersistenceError(_unsupported(array, name))
    items = array.astype(np.int64) if array.dtype.kind in _TIMES else array
    return {
        "dtype": "object" if is_object else array.dtype.str,
        "shape": list(array.shape),
        "items": [encode(item, name) for item in items.ravel().tolist()],
    }


def _encode_random_state(value: np.random.RandomState, name: str) -> Any:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise PersistenceError(_unsupported(value, name))
    return encode(state, name)


def _unsupported(value: Any, name: str) -> str:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, np.ndarray):
        kind += f" of dtype {value.dtype}"
    return (
        f"{name} is or holds {shown} (type {kind}), which a model file cannot hold exactly. It can hold "
        "None, bool, int, float, str, list, tuple, dict, path, RandomState, and numpy scalars and arrays of "
        "bool, numbers, str, times or object."
    )


class Decoder:
    """Values from their JSON.

    Parameters
    ----------
    allowance : int
        Bytes that all arrays may take together. The JSON of an array states the width of its str: a few
        characters could ask for any amount of memory.
    """

    def __init__(self, allowance: int) -> None:
        self._allowance = allowance

    def decode(self, encoded: Any) -> Any:
        """The value that `encode` was given.

        Raises
        ------
        PersistenceError, KeyError, TypeError, ValueError, OverflowError
            If `encoded` is not something that `encode` makes.
        """
        if type(encoded) in (*_PLAIN, float):
            return encoded
        if type(encoded) is list:
            return [self.decode(item) for item in encoded]
        (tag, content), *others = encoded.items()
        if others:
            raise PersistenceError(f"An object with the keys {list(encoded)[:5]} does not encode a value.")
        return self._tagged(tag, content)

    def _tagged(self, tag: str, content: Any) -> Any:
        if tag == "$float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        if tag == "$tuple":
            return tuple(self.decode(_a_list(content)))
        if tag == "$dict":
            pairs = [(self.decode(key), self.decode(item)) for key, item in _a_list(content)]
            _refuse_collisions([key for key, _ in pairs])
            return dict(pairs)
        if tag == "$scalar":
            return self._array(content)[()]
        if tag == "$array":
            return self._array(content)
        if tag == "$path":
            return Path(content)
        if tag == "$random_state":
            return _random_state(self.decode(content))
        raise PersistenceError(f"The type {tag!r} is unknown to this version of skbert.")

    def _array(self, content: dict[str, Any]) -> np.ndarray:
        if not _DTYPE.fullmatch(content["dtype"]):
            raise PersistenceError(
                f"An array has the dtype {content['dtype'][:80]!r}, which model files do not use."
            )
        dtype = np.dtype(content["dtype"])
        shape = [int(size) for size in content["shape"][: _MAX_DIMENSIONS + 1]]
        if len(shape) > _MAX_DIMENSIONS:
            raise PersistenceError(f"An array has more than {_MAX_DIMENSIONS} dimensions.")
        items = self.decode(_a_list(content["items"]))
        self._allowance -= len(items) * dtype.itemsize
        if self._allowance < 0 or min(shape, default=0) < 0 or len(items) != math.prod(shape):
            raise PersistenceError(
                f"An array of shape {shape} and dtype {dtype}, with {len(items)} items, does not fit into "
                "its file."
            )
        array = np.empty(len(items), dtype=np.int64 if dtype.kind in _TIMES else dtype)
        for place, item in enumerate(items):  # one by one: an item may be a list
            array[place] = item
        return array.astype(dtype, copy=False).reshape(shape)


def _random_state(state: dict[str, Any]) -> np.random.RandomState:
    if not 0 <= state["state"]["pos"] <= 624:  # numpy does not check this, and would read beyond the key
        raise PersistenceError("A RandomState has an invalid position.")
    generator = np.random.RandomState(0)
    generator.set_state(state)
    return generator


def _refuse_collisions(keys: list[Any]) -> None:
    """Refuse keys that were chosen to have the same hash: building a dict of them takes quadratic time."""
    if len(keys) - len(set(map(hash, keys))) > _COLLISIONS:
        raise PersistenceError(f"A dict has {len(keys)} keys, too many of which have the same hash.")


def _a_list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise PersistenceError(f"Found a {type(content).__name__} where a list is expected.")
    return content
