"""The file of an unfinished fit: JSON that says how far it has come, arrays, and the checksums of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skbert.exceptions import PersistenceError
from skbert.persistence import tensorfile
from skbert.persistence.replacing import replace_file
from skbert.persistence.tensorfile import Arrays

FORMAT = 1
_ENTRY = "skbert-fit"
_TYPES = {
    "format": int,
    "fit": dict,
    "seed": int,
    "head_init": str,
    "made_folder": bool,
    "values": dict,
    "arrays": dict,
}


def write(path: Path, content: dict[str, Any], arrays: Arrays, temporary: Path) -> None:
    """Replace the file, by way of `temporary`."""
    sums = {name: tensorfile.describe(array) for name, array in arrays.items()}
    metadata = tensorfile.sealed(_ENTRY, {"format": FORMAT, **content, "arrays": sums})
    replace_file(path, lambda file: tensorfile.write(file, arrays, metadata), temporary=temporary)


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """What was written.

    Raises
    ------
    PersistenceError
        If the file is damaged, or of another kind.
    OSError
        If it cannot be read.
    """
    arrays, metadata, _ = tensorfile.read(path)
    content = tensorfile.unsealed(_ENTRY, metadata, infinite=True)  # losses and scores may be
    if not isinstance(content, dict) or any(
        type(content.get(name)) is not kind for name, kind in _TYPES.items()
    ):
        raise PersistenceError("it does not hold the state of a fit")
    if content["format"] != FORMAT:
        raise PersistenceError(f"it has the format {content['format']!r} of another version of skbert")
    if {name: tensorfile.describe(array) for name, array in arrays.items()} != content["arrays"]:
        raise PersistenceError("an array does not match its checksum")
    return content, arrays
