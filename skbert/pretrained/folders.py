"""What any folder for transformers is made of: a place, a config, a tokenizer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from tokenizers import Tokenizer

from skbert.data.template import Template
from skbert.exceptions import PersistenceError
from skbert.network.model import SequenceClassifier
from skbert.paths import expanded
from skbert.persistence.replacing import patiently
from skbert.pretrained.files import ADAPTER, CONFIG, INDEX, MODULES, WEIGHTS
from skbert.pretrained.library import quiet
from skbert.randomness import DrawsNothing

_TEMPORARY = ".skbert-"  # prefix of a temporary folder's name
# In one file, or in several with an index.
_WEIGHTS = (WEIGHTS, INDEX, "model-[0-9]*-of-[0-9]*.safetensors")
_SETTINGS = (MODULES, "config_sentence_transformers.json", "added_tokens.json", "special_tokens_map.json")
_SPECIALS = {"pad": ("[PAD]", "<pad>"), "mask": ("[MASK]", "<mask>"), "unk": ("[UNK]", "<unk>")}


def folder_to_write(folder: str | os.PathLike[str]) -> Path:
    """The folder, if it is one or can be made, and nothing would be read there beyond what is written."""
    # As an absolute path: another thread may change the working directory.
    target = Path(expanded(folder, PersistenceError)).absolute()
    if not os.fspath(folder):  # which would be the working directory
        raise PersistenceError(f"{os.fspath(folder)!r} does not name a folder. Give the name of a folder.")
    if target.exists() and not target.is_dir():
        raise PersistenceError(
            f"{os.fspath(folder)!r} exists and is not a folder. Give the name of a folder."
        )
    if (target / ADAPTER).exists():
        raise PersistenceError(
            f"{os.fspath(folder)!r} holds an adapter ({ADAPTER}), which transformers would add to the "
            "weights written there. Give another folder."
        )
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError as error:  # bytes that are not UTF-8, as os.fsdecode returns them
        raise PersistenceError(
            f"{os.fspath(folder)!r} is not valid Unicode, and safetensors cannot write under such a name. "
            "Give another folder, or use save(path), which can."
        ) from error
    return target


def write(folder: Path, model: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Write a model and a tokenizer of transformers, and `settings`: contents of JSON files, by name.

    They are written beside the old files, and then replace them. Meanwhile there is no config.json, so that
    nobody reads the weights of one model with the labels of another, not even after an interruption (but two
    processes that write into one folder at the same moment can mix theirs). Settings of the old content are
    removed: they would be read with the new weights and tokenizer.

    Raises
    ------
    OSError
        If it cannot be written; if the disk is full, before anything has been replaced.
    """
    made = not folder.exists()
    try:
        _write(folder, model, tokenizer, settings)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None and _names_nothing(error):
            message = f"{error.strerror} (to write a folder there)"
            raise OSError(error.errno, message, os.fspath(folder)) from error
        raise


def _names_nothing(error: OSError) -> bool:
    """Whether an error names no file, or only one that the caller does not know."""
    return error.filename2 is None and (error.filename is None or _TEMPORARY in str(error.filename))


def _write(folder: Path, model: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir(mode=0o700)
        _fill(temporary, model, tokenizer, settings)
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(temporary: Path, model: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    try:
        with quiet():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    except SafetensorError as error:
        # Windows has numbers of its own.
        number = re.search(r"os error (\d+)", str(error)) if os.name != "nt" else None
        if number is None:
            raise OSError(f"{os.fspath(temporary.parent)!r} cannot be written: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    for name, content in settings.items():
        place = temporary / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(content, indent=2), encoding="utf-8")
    mode = stat.S_IMODE((temporary / CONFIG).stat().st_mode)  # what the umask leaves
    for file in temporary.rglob("*.safetensors"):  # safetensors itself lets nobody else read them
        with contextlib.suppress(OSError):  # some network drives have no modes
            file.chmod(mode)


def _move(temporary: Path, folder: Path) -> None:
    """Replace the files in `folder` by those in `temporary`."""
    old = [name for pattern in (*_SETTINGS, *_WEIGHTS) for name in folder.glob(pattern)]
    for file in (folder / CONFIG, *old):
        with contextlib.suppress(FileNotFoundError):
            patiently(os.unlink, file)
    places = [file.relative_to(temporary) for file in temporary.rglob("*") if file.is_file()]
    for place in sorted(places, key=lambda place: place == Path(CONFIG)):
        (folder / place).parent.mkdir(exist_ok=True)
        patiently(os.replace, temporary / place, folder / place)


def new_model(model: SequenceClassifier, auto: str, **settings: Any) -> Any:
    """A model of one of transformers' Auto classes, with the encoder's config and the given settings.

    Its weights mean nothing.
    """
    given = {**model.config, **settings}
    family = given.pop("model_type")
    for name in ("_name_or_path", "architectures", "auto_map", "num_labels", "transformers_version"):
        given.pop(name, None)
    with quiet() as transformers, DrawsNothing():
        return getattr(transformers, auto).from_config(
            transformers.AutoConfig.for_model(family, **given),
            dtype=model.head.weight.dtype,
            attn_implementation="eager",  # others refuse the setting output_attentions
        )


def tokenizer_of(estimator: Any) -> Any:
    """The tokenizer as one of transformers: special tokens in texts stay plain text, as in skbert."""
    raw = Tokenizer.from_str(estimator.tokenizer_.to_str())
    architecture = estimator.model_.architecture
    template = Template.read(raw, 1)
    ids = {"pad": np.array([architecture.pad_id])}
    ids |= {"cls": template.specials[0][:1], "sep": template.specials[-1][-1:]}
    roles = {role: raw.id_to_token(int(found[0])) for role, found in ids.items() if len(found)}
    special = {token.content for token in raw.get_added_tokens_decoder().values() if token.special}
    if roles["pad"] not in special:  # no token, or a word: as a special token it would not be read
        del roles["pad"]
    for role, usual in _SPECIALS.items():
        for token in usual:
            if role not in roles and raw.token_to_id(token) is not None:
                roles[role] = token
    inputs = ["input_ids", "attention_mask"]
    if architecture.takes_segments and architecture.n_segments > 1:
        inputs.insert(1, "token_type_ids")
    with quiet() as transformers:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=raw,
            model_max_length=estimator.max_length_,
            model_input_names=inputs,
            split_special_tokens=True,
            **{f"{role}_token": token for role, token in roles.items()},
        )
