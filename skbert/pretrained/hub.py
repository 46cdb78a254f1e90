"""The hub: what its cache has of a checkpoint, and what is downloaded.

1. A snapshot in the cache is used without asking the hub if it is complete, and if everything about it is
   known: for each file that decides what a checkpoint does, the cache has the file, or a note that the hub
   does not. Other libraries download what they read themselves; without the file on pooling, for example, it
   would be another model.
2. Otherwise the hub is asked, once: files that it lacks are noted in the cache, in the hub's own way.
3. Where the hub cannot be reached, or the cache cannot be written, a complete snapshot is enough; the hub is
   asked once per process.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from errno import EACCES, EDQUOT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm

from skbert.exceptions import CheckpointError
from skbert.pretrained.files import CONFIG, FILES, MODULES, POOLING, VOCABULARIES
from skbert.process.signal_errors import raise_if_of_a_handler

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_DECIDING = (MODULES, POOLING, *_TOKENIZER)

_in_vain: set[tuple[str, str | None]] = set()  # what the hub was asked for, and did not give


def cached(name: str, revision: str | None) -> Path | None:
    """The snapshot in the cache, if there is a complete one.

    Raises
    ------
    CheckpointError
        If the hub cannot have anything of that name.
    """
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=FILES, local_files_only=True
            )
        )
    except errors.HFValidationError as error:
        hint = f" If it is a folder, write {'./' + name!r}." if {"/", os.sep} & set(name) else ""
        raise CheckpointError(f"model={name!r} is not a valid hub name: {error}{hint}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise_if_of_a_handler(error)
        return None
    try:
        return folder if _is_whole(folder, name) else None
    except PermissionError as error:  # from a check that should return False
        raise_if_of_a_handler(error)
        return None


def is_settled(folder: Path, name: str, revision: str | None) -> bool:
    """Whether the hub has nothing to add to a complete snapshot, or there is no use in asking it."""
    in_vain = (name, revision) in _in_vain or not os.access(folder, os.W_OK)
    return in_vain or all(_is_known(folder, name, file) for file in _DECIDING)


def download(name: str, revision: str | None, hint: str) -> Path:
    """The snapshot that the hub has.

    Parameters
    ----------
    name : str
    revision : str or None
    hint : str
        What the error says first: sentences, with a space after the last.

    Raises
    ------
    CheckpointError
        If it cannot be downloaded.
    """
    blocked = _unreadable(name)
    if blocked is not None:
        raise CheckpointError(
            f"{hint}model={name!r} may be in the hub cache of this machine, {platform.node()}, but this user "
            f"may not read {blocked}. Grant access to it, or set the environment variable HF_HOME to another "
            "folder."
        )
    try:  # a download would retry again and again, and report it
        huggingface_hub.model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except MemoryError:
        raise
    except Exception as error:
        raise_if_of_a_handler(error)
        _in_vain.add((name, revision))
        raise CheckpointError(hint + _explained(name, revision, error, _OUT_OF_REACH)) from error
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=FILES, tqdm_class=_NoBar
            )
        )
        for file in _DECIDING:
            if not _is_known(folder, name, file):
                with suppress(errors.EntryNotFoundError):  # which the cache then notes
                    huggingface_hub.hf_hub_download(name, file, revision=folder.name)
    except MemoryError:
        raise
    except Exception as error:  # the hub's own, and those of the libraries that it connects with
        raise_if_of_a_handler(error)
        raise CheckpointError(hint + _explained(name, revision, error, _BROKEN_OFF)) from error
    return folder


_OUT_OF_REACH = (
    "the hub could not be reached (or HF_HUB_OFFLINE is set). To get the weights, connect once without "
    "HF_HUB_OFFLINE, or copy the checkpoint here and pass its folder as model='/path/to/folder'."
)
_BROKEN_OFF = "its download failed. Try again: what was downloaded so far is kept."
_NO_ACCESS = (
    "the cache cannot be read or written. Free disk space or grant access there, or set the environment "
    "variable HF_HOME to another folder."
)
_REFUSALS = (ENOSPC, EDQUOT, EROFS, EACCES, EPERM, ENOTDIR)


def _errno(error: BaseException | None) -> int | None:
    """The errno of a file error, or of the error that it came from."""
    while error is not None:
        number = getattr(error, "errno", None)
        # A firewall refuses with the same numbers, but names no file.
        refused = number in (EACCES, EPERM) and getattr(error, "filename", None) is None
        if number is not None and not refused:
            return int(number)
        error = error.__cause__ or error.__context__
    return None


class _NoBar(tqdm):
    """A progress bar that is not shown; disabling the hub's own would disable them for the whole process."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords | {"disable": True})


def _unreadable(name: str) -> Path | None:
    """A folder of the cache that this user may not enter, where the checkpoint would be."""
    root = Path(constants.HF_HUB_CACHE)
    of_name = root / repo_folder_name(repo_id=name, repo_type="model")
    snapshots: list[Path] = []
    with suppress(OSError):
        snapshots = sorted((of_name / "snapshots").iterdir())
    inner = (of_name / name for name in ("refs", "blobs", "snapshots"))
    for place in (root.parent, root, of_name, *inner, *snapshots):
        if os.path.isdir(place) and not os.access(place, os.X_OK):
            return place
    return None


def _is_whole(folder: Path, name: str) -> bool:
    """Whether config, weights and tokenizer are there: a download may have been interrupted.

    A checkpoint of sentence-transformers also needs its pooling.
    """
    stated = all((folder / file).is_file() for file in (MODULES, POOLING))
    return (
        (folder / CONFIG).is_file()
        and _has_weights(folder)
        and any((folder / file).is_file() for file in VOCABULARIES)
        and (stated or not name.startswith("sentence-transformers/"))
    )


def _has_weights(folder: Path) -> bool:
    """Whether there are weights, and all parts of them that an index names."""
    parts: set[str] = set()
    try:
        for index in folder.glob("*.safetensors.index.json"):
            parts.update(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):  # whatever it is, it is no index
        return False
    return any(folder.glob("*.safetensors")) and all((folder / part).is_file() for part in parts)


def _is_known(folder: Path, name: str, file: str) -> bool:
    """Whether a snapshot has the file, or the cache has a note that the hub does not."""
    noted = huggingface_hub.try_to_load_from_cache(name, file, revision=folder.name)
    return (folder / file).is_file() or noted is not None


def _explained(name: str, revision: str | None, error: Exception, otherwise: str) -> str:
    """What went wrong, and what to do about it."""
    at = "" if revision is None else f" with revision={revision!r}"
    said = f"model={name!r}{at} is not in the hub cache of this machine, {platform.node()}, and "
    if isinstance(error, errors.GatedRepoError):
        said += (
            "the hub gives it only to users who have accepted its conditions. Accept them on its page, and "
            "log in with `hf auth login`."
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        said += (
            "the hub has no model of that name, or it is private. Check the spelling, or log in with "
            "`hf auth login`."
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        said += "the hub has no such revision of it. Expected one of its branches, tags or commits."
    else:
        said += _NO_ACCESS if _errno(error) in _REFUSALS else otherwise
    return f"{said} The answer was: {' '.join(str(error).split())[:300]}"
