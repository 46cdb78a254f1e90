"""Names of files and folders, as users write them."""

from __future__ import annotations

import os
import sys

from skbert.exceptions import SkbertError


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a folder, and not one on the hub."""
    return not isinstance(name, str) or name.startswith((".", "/", "~")) or os.path.isabs(name)


def expanded(path: str | os.PathLike[str], kind: type[SkbertError]) -> str:
    """The path with its ~ replaced by the home folder.

    Raises
    ------
    SkbertError
        Of the given kind, if no file can have that name here; and if there is no such home: else a folder
        named ~ would be created unexpectedly.
    """
    found = os.path.expanduser(os.fsdecode(path))
    if found.startswith("~"):
        raise kind(
            f"{found!r} begins with ~, but there is no such home folder here. Write the path in full, or, "
            f"if the name itself begins with ~, write {'./' + found!r}."
        )
    try:
        os.fsencode(found)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        remedy = "Use" if encoding == "utf-8" else "Set the environment variable PYTHONUTF8=1, or use"
        raise kind(
            f"{found!r} has characters that names of files cannot have here, where Python encodes them as "
            f"{encoding}. {remedy} another name."
        ) from error
    if "\0" in found:
        raise kind(f"{found!r} holds a NUL, which no name of a file has. Use another name.")
    return found
