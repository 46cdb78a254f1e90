"""Files of named arrays in the safetensors format, read strictly.

A file is eight bytes with the length of the header, the header (JSON: name → dtype, shape, place of the
bytes; and metadata, str → str), and the bytes of all arrays, end to end. Any safetensors library can read it.

What this module does, and the safetensors package does not:

1. `write` makes the same bytes from the same content, directly into an open file.
2. `read` refuses names that occur twice, and bytes that belong to no array. Before it allocates anything, it
   checks every size that the header claims against the size of the file. It maps nothing into memory: a
   mapped file that someone truncates kills the process that reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Container, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from skbert.exceptions import PersistenceError

Arrays = dict[str, np.ndarray]

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package, too
_MAX_NESTED = 2**20  # lists and objects in a header; empty ones take some hundred times their own bytes
_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**40
_METADATA = "__metadata__"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
# First bytes of pickles (protocols 2 to 5), and of joblib's files by zlib, gzip, bz2, xz, lzma and lz4.
_OF_JOBLIB = (
    *(bytes([0x80, protocol]) for protocol in range(2, 6)),
    *(bytes([0x78, level]) for level in (0x01, 0x5E, 0x9C, 0xDA)),
    b"\x1f\x8b",  # gzip
    b"BZh",  # bzip2
    b"\xfd7zXZ",  # xz
    b"\x5d\x00\x00",  # lzma
    b"\x04\x22\x4d\x18",  # lz4
)
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def describe(array: np.ndarray) -> dict[str, Any]:
    """Dtype, shape and SHA-256 of the bytes of an array, as JSON can hold them."""
    stored = _stored(array)
    content = hashlib.sha256(_bytes_of(stored)).hexdigest()
    return {"dtype": _NAMES[stored.dtype], "shape": list(stored.shape), "sha256": content}


def checksum(text: str) -> str:
    """SHA-256 of a text among the metadata."""
    return hashlib.sha256(_encoded(text)).hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold lone surrogates: to be refused, not to fail


def sealed(name: str, content: dict[str, Any]) -> dict[str, str]:
    """Metadata of a file: content as JSON under a name, and its checksum."""
    text = json.dumps(content, separators=(",", ":"))
    return {"sha256": checksum(text), name: text}


def unsealed(name: str, metadata: dict[str, str], *, infinite: bool = False) -> Any:
    """The content that `sealed` was given, or a PersistenceError; `infinite` is as in `_parsed`."""
    if set(metadata) != {name, "sha256"}:
        raise PersistenceError(f"its metadata are {sorted(metadata)[:5]}, not those that were expected")
    if checksum(metadata[name]) != metadata["sha256"]:
        raise PersistenceError("its metadata do not match their checksum")
    return _parsed(_encoded(metadata[name]), "its metadata are", infinite=infinite)


def dtype_of(described: dict[str, Any]) -> np.dtype[Any]:
    """The dtype that `describe` named."""
    return np.dtype(_DTYPES[described["dtype"]])


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to an open file.

    Parameters
    ----------
    file : binary file, open for writing
    arrays : dict of str to ndarray
        Of bool, integers or floats.
    metadata : dict of str to str

    Raises
    ------
    PersistenceError
        If the header would be longer, or hold more lists, than `read` takes.
    """
    # Wider dtypes first, so that each array begins at a multiple of its item's size.
    stored = {n: _stored(a) for n, a in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))}
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, array in stored.items():
        place = [end, end := end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
    content = json.dumps(header, separators=(",", ":"))
    text = content.encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise PersistenceError(
            f"The header would be {len(text)} bytes long, but readers accept at most {MAX_HEADER}. "
            "Does a parameter hold something very large?"
        )
    if _n_nested(content) > _MAX_NESTED:
        raise PersistenceError(
            f"The file would hold more than {_MAX_NESTED} lists and objects besides its arrays, but load() "
            "accepts no more. Are there very many labels, or very many lists in a parameter?"
        )
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in stored.values():
        file.write(_bytes_of(array))


def read(
    path: str | os.PathLike[str], names: Container[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    """Read arrays and metadata.

    Returns
    -------
    arrays : dict of str to ndarray
        Those of the names, or all. Writeable, and independent of the file.
    metadata : dict of str to str
    size : int
        Of the file, in bytes.

    Raises
    ------
    PersistenceError
        If it is not a whole safetensors file; the message is the reason alone.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a pipe would wait for its writer
        raise PersistenceError("it is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _take(file, 8)
        length = int.from_bytes(start, "little")
        if length > min(size - 8, MAX_HEADER):
            if start.startswith(_OF_JOBLIB) and any(start[2:]):  # else a length that a header may have
                raise PersistenceError(
                    "it begins like a pickle or a joblib file, which joblib.load reads if you trust where it "
                    "comes from"
                )
            if length <= size - 8:
                raise PersistenceError(f"its header has {length} bytes, more than the {MAX_HEADER} allowed")
            raise PersistenceError(f"its header is said to be {length} bytes long, but the file has {size}")
        entries = _parsed(_take(file, length), "its header is")
        if not isinstance(entries, dict):
            raise PersistenceError("its header is not a JSON object")
        metadata = entries.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise PersistenceError("its metadata are not a dict of str to str")
        arrays = {}
        for name, dtype, shape in _places(entries, size - 8 - length):
            if names is None or name in names:
                arrays[name] = _read_array(file, dtype, shape)
            else:
                file.seek(math.prod(shape) * dtype.itemsize, os.SEEK_CUR)
    return arrays, metadata, size


def _take(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise PersistenceError("it ends too early")
    return content


def _n_nested(text: str) -> int:
    """Number of lists and objects in JSON, also in JSON within its str; more if a str holds brackets."""
    return text.count("[") + text.count("{")


def _parsed(content: bytes, what: str, *, infinite: bool = False) -> Any:
    """The content of JSON in which no name occurs twice.

    Parameters
    ----------
    content : bytes
    what : str
        What it is, for the error message, with a verb.
    infinite : bool, default=False
        Whether numbers may be infinite or NaN, which JSON itself does not know.

    Raises
    ------
    PersistenceError
        If it is not JSON, has a name twice, or more lists than `write` writes.
    """
    try:
        text = content.decode()
        if _n_nested(text) > _MAX_NESTED:
            raise ValueError(f"it holds more than {_MAX_NESTED} lists")
        constant = float if infinite else _refuse_constant
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise PersistenceError(f"{what} not JSON ({str(error)[:100]})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in it")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _places(entries: dict[str, Any], size: int) -> list[tuple[str, np.dtype[Any], list[int]]]:
    """Name, dtype and shape of the arrays in the order of their bytes, which fill the rest of the file."""
    found = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise PersistenceError(f"the entry of {name[:80]!r} does not describe an array")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (_are_sizes(shape) and len(shape) <= _MAX_DIMENSIONS):
            raise PersistenceError(f"the shape of {name[:80]!r} is not valid")
        if not (_are_sizes(offsets) and len(offsets) == 2):
            raise PersistenceError(f"the position of {name[:80]!r} is not valid")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise PersistenceError(f"the dtype of {name[:80]!r} is unknown")
        found.append((offsets, name, np.dtype(_DTYPES[entry["dtype"]]), shape))
    found.sort(key=lambda item: item[0])
    end = 0
    for (begin, stop), name, dtype, shape in found:
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise PersistenceError(f"the bytes of {name[:80]!r} are not where they should be")
        end = stop
    if end != size:
        raise PersistenceError(f"its arrays take {end} bytes, but there are {size}")
    return [(name, dtype, shape) for _, name, dtype, shape in found]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


def _read_array(file: BinaryIO, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    content = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    if file.readinto(content.data) < len(content):  # type: ignore[attr-defined]  # open() gives a buffered reader
        raise PersistenceError("it ends too early")
    try:
        array = content.view(dtype).reshape(shape)
    except ValueError as error:  # no bytes, and sizes that are nevertheless too large
        raise PersistenceError(f"an array cannot have the shape {shape}") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _stored(array: np.ndarray) -> np.ndarray:
    """The array as its bytes go to the file: in C order, little-endian."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise PersistenceError(f"A weight has the dtype {array.dtype}, which a model file cannot hold.")
    return np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
