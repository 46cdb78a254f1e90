"""Weights and tokenizers of pretrained checkpoints.

1. `load` reads encoder and tokenizer from the folder that `sources.locate` finds, once per process.
2. It checks that no weight is missing (`reading.py`), and how the encoder expects its input.
3. `Checkpoint.new_encoder` hands out a copy of the encoder to each fit.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skbert.data.literal import special_ids
from skbert.exceptions import CheckpointError
from skbert.network.attention import packed_attention
from skbert.network.memory_errors import raise_if_no_fault_of_a_file
from skbert.network.model import Architecture, copy_module
from skbert.network.pooling import Pooling
from skbert.parameters import MIN_LENGTH
from skbert.pretrained.files import FILES, VOCABULARIES
from skbert.pretrained.library import quiet
from skbert.pretrained.reading import compute_by_text, naming, read_model, refuse_other_weights
from skbert.pretrained.sources import locate
from skbert.pretrained.tokenizer_json import fatal
from skbert.pretrained.traits import (
    architecture_of,
    head_dropout_of,
    max_positions,
    read_settings,
    reads_forward,
    stated_lower_case,
    stated_pooling,
)
from skbert.process import forks
from skbert.randomness import DrawsNothing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ATTENTION = "skbert_packed"
_MAX_LOADED = 4  # checkpoints kept in memory per process


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint; shared by all fits of a process, never changed."""

    name: str
    tokenizer_json: str
    pooling: Pooling  # what "auto" means for this checkpoint
    architecture: Architecture
    max_positions: int  # longest text in tokens
    head_dropout: float
    reads_forward: bool  # each token sees only those before it
    encoder: Any  # nn.Module of transformers, which has no types; never to be changed

    def new_encoder(self, *, shared: bool = False) -> Any:
        """A copy of the encoder; float32, on the CPU.

        With `shared` its weights are the checkpoint's own, to be read or replaced, but never changed.
        """
        return copy_module(self.encoder, shared=shared)

    def rebuild(self) -> tuple[Any, dict[str, Any]]:
        """What a pickled model stores to build its encoder again: plain values, no weights."""
        return build_encoder, self.encoder.config.to_dict()


def load(model: str | os.PathLike[str], revision: str | None = None) -> Checkpoint:
    """Load a checkpoint, or return the one that this process loaded before.

    Parameters
    ----------
    model : str or path
        Hub name, or a folder: a path object, or a str that starts like a path (``./``, ``/``, ``~``).
    revision : str, default=None
        Branch, tag or commit on the hub.

    Raises
    ------
    CheckpointError
        If it cannot be found, or its files are incomplete.
    """
    with _lock:
        folder = locate(model, revision)
        found = fingerprint(folder)
        key = (str(folder), found)
        if key not in _loaded:
            checkpoint = as_checkpoint(_read_encoder(folder), folder, str(model))
            check_unchanged(folder, found)
            _loaded[key] = checkpoint
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


_loaded: OrderedDict[tuple[str, Any], Checkpoint] = OrderedDict()
_lock = threading.RLock()
forks.renew(globals(), _lock=threading.RLock)


def fingerprint(folder: Path) -> tuple[Any, ...]:
    """Tells whether files are still those that were read; archives may give all of them the same date."""
    files = sorted(p for pattern in (*FILES, "*/config.json") for p in folder.glob(pattern))
    found = []
    for file in files:
        with suppress(FileNotFoundError):  # a link that points nowhere, or a file that is being replaced
            s = file.stat()
            found.append((file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
    return tuple(found)


def check_unchanged(folder: Path, found: tuple[Any, ...]) -> None:
    """Refuse a folder that was replaced since its `fingerprint` was taken: what was read may not match."""
    if fingerprint(folder) != found:
        raise CheckpointError(f"The files in {folder} were changed while they were read. Try again.")


def as_checkpoint(encoder: Any, folder: Path, name: str) -> Checkpoint:
    """An encoder that was read from a folder, and all that skbert needs to know about it."""
    config = encoder.config
    _check_it_runs(encoder, folder)
    tokenizer_json, input_names, absent = _read_tokenizer(folder)
    architecture = architecture_of(encoder, input_names, absent)
    n_positions = max_positions(config, architecture)
    if n_positions < MIN_LENGTH:
        raise CheckpointError(
            f"The encoder in {folder} has positions for {n_positions} tokens, with pad_token_id="
            f"{getattr(config, 'pad_token_id', None)} in config.json. Expected {MIN_LENGTH} or more. Get the "
            "checkpoint again."
        )
    with quiet():
        forward = not architecture.packed and reads_forward(encoder)
    config._attn_implementation = _attention_of(architecture.packed)
    config.name_or_path = ""  # the folder's path belongs to this machine, not to the model
    return Checkpoint(
        name=name,
        tokenizer_json=tokenizer_json,
        pooling=stated_pooling(folder) or "cls",
        architecture=architecture,
        max_positions=n_positions,
        head_dropout=head_dropout_of(config),
        reads_forward=forward,
        encoder=encoder,
    )


def _read_encoder(folder: Path) -> Any:
    """The encoder in float32; raises an error that names the weights if any of them would stay random."""
    encoder, report = read_model("AutoModel", folder, torch.float32)
    if "decoder_input_ids" in inspect.signature(encoder.forward).parameters:
        raise CheckpointError(
            f"{folder} holds an encoder with a decoder ({encoder.config.model_type!r}). Expected an encoder "
            "alone, such as BERT, RoBERTa or ModernBERT."
        )
    missing = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    refuse_other_weights(folder, missing, report["unexpected_keys"], encoder)
    if any(key.startswith("pooler.") for key in report["missing_keys"]) or stated_pooling(folder) == "cls":
        # It would be random, or was not applied to this checkpoint's embeddings: sentence-transformers takes
        # the first token's state as it is.
        encoder.pooler = None
    return encoder.eval().requires_grad_(False)


def _check_it_runs(encoder: Any, folder: Path) -> None:
    """Refuse what is not an encoder of token ids, or cannot run without a pooler."""
    trouble, cause, without = "no embedding table, or states of another shape", None, ""
    try:
        with quiet(), torch.no_grad():
            probe = copy_module(encoder, shared=True)
            if getattr(probe, "pooler", None) is not None and _gives_states(probe):
                probe.pooler = None  # as `SequenceClassifier` removes it; some families call it nevertheless
                without = " without its pooler, which is not used here"
            if _gives_states(probe):
                return
    except Exception as error:
        raise_if_no_fault_of_a_file(error)
        trouble, cause = f"{type(error).__name__}: {error}", error
    raise CheckpointError(
        f"The encoder in {folder}, of the family {encoder.config.model_type!r}, does not give a state for "
        f"each token id{without} ({trouble}). Use a checkpoint of a family such as BERT, RoBERTa or "
        "ModernBERT, with all of its weights."
    ) from cause


def _gives_states(encoder: Any) -> bool:
    ids = torch.zeros(2, 4, dtype=torch.long, device="cpu")
    output = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    has_table = isinstance(encoder.get_input_embeddings(), torch.nn.Embedding)
    return has_table and output.last_hidden_state.shape == (2, 4, encoder.config.hidden_size)


def _attention_of(packed: bool) -> str:
    if not packed:
        return "eager"
    with quiet() as transformers:
        transformers.AttentionInterface.register(_ATTENTION, packed_attention)
    return _ATTENTION


def _read_tokenizer(folder: Path) -> tuple[str, list[str], set[int]]:
    """The tokenizer as JSON, without truncation or padding; names of its outputs; ids that no text has."""
    # transformers would make up an empty tokenizer, in which every word is unknown.
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(
            f"{folder} has no tokenizer: it has none of {', '.join(VOCABULARIES)}. Get the checkpoint again, "
            "or save its tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    with quiet() as transformers:
        tokenizer_class = transformers.AutoTokenizer
    with quiet(), naming(f"The tokenizer in {folder}"):
        # transformers reads one of the other files, if its version suits.
        others = read_settings(folder / "tokenizer_config.json").get("fast_tokenizer_files") or ()
        for name in ("tokenizer.json", *others):
            _refuse_fatal(folder / name)
        tokenizer = tokenizer_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) has no tokenizer.json form. Expected a "
            "checkpoint with a fast tokenizer."
        )
    backend.no_truncation()
    backend.no_padding()
    if stated_lower_case(folder):
        from tokenizers import normalizers

        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    absent = {*special_ids(backend).tolist()} - {*backend.encode("").ids}
    return backend.to_str(), list(tokenizer.model_input_names), absent


def _refuse_fatal(file: Path) -> None:
    content = read_settings(file)
    wrong = fatal(content) if content else None
    if wrong is not None:
        raise CheckpointError(
            f"{file} {wrong}: the tokenizers library would end the process. Get the checkpoint again."
        )


def new_tokenizer(tokenizer_json: str) -> Tokenizer:
    """A tokenizer that is not changed by calls, so that threads can share it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # "[SEP]" typed by a user is five characters of text
    return tokenizer


def build_encoder(config: dict[str, Any], packed: bool) -> Any:
    """An encoder of the given config, for the weights of a saved model; its own weights mean nothing."""
    settings = dict(config)
    family = settings.pop("model_type")
    with quiet() as transformers, DrawsNothing():
        config_of_family = transformers.AutoConfig.for_model(family, **settings)
        compute_by_text(config_of_family)
        # Whatever the config names: transformers may fetch other implementations.
        encoder = transformers.AutoModel.from_config(config_of_family, attn_implementation="eager")
    encoder.config._attn_implementation = _attention_of(packed)
    return encoder
