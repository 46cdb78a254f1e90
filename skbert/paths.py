"""Names of files and folders, as users write them."""

from __future__ import annotations

import os

from skbert.exceptions import SkbertError


def expanded(path: str | os.PathLike[str], kind: type[SkbertError]) -> str:
    """The path with its ~ replaced by the home folder.

    Raises
    ------
    SkbertError
        Of the given kind, if there is no such home: else a folder named ~ would be created unexpectedly.
    """
    found = os.path.expanduser(os.fsdecode(path))
    if found.startswith("~"):
        raise kind(
            f"{found!r} begins with ~, but there is no such home folder here. Write the path in full, or, "
            f"if the name itself begins with ~, write {'./' + found!r}."
        )
    return found
