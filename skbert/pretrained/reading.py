"""Read models of transformers from a folder: complete, with the sizes of config.json, not memory-mapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EMFILE, ENFILE
from pathlib import Path
from typing import Any

import torch

from skbert.exceptions import CheckpointError, SkbertError, is_panic
from skbert.network.memory_errors import raise_if_no_fault_of_a_file
from skbert.pretrained.files import ADAPTER, CONFIG, INDEX, MODULES, WEIGHTS
from skbert.pretrained.library import quiet
from skbert.pretrained.traits import read_settings

_PROCESS_LIMITS = ("Too many open files", "can't start new thread")  # whatever the type of the error
_POINTER = b"version https://git-lfs"  # first bytes of a Git LFS file that was not fetched


def compute_by_text(config: Any) -> None:
    """Reset settings of a config that make a text's computation depend on the whole call, or give tuples."""
    config.return_dict = True
    config.chunk_size_feed_forward = 0  # chunks change no result, and fit padded batches only
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird drops it for good at the first short batch, and sets numpy's global seed for it.
        config.attention_type = "original_full"


def read_model(auto: str, folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A model of one of transformers' Auto classes, and its report of missing and unexpected weights."""
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder} holds an adapter ({ADAPTER}), which skbert does not read. Merge it once with peft's "
            "AutoPeftModel.from_pretrained(folder).merge_and_unload().save_pretrained(other_folder)."
        )
    weights = sorted(file for file in folder.glob("*.safetensors") if not file.is_fifo())
    if not weights:
        raise _no_weights(folder)
    with quiet() as transformers:
        # Its parts are imported when first accessed. If that fails, it says nothing about the folder.
        model_class, config_class = getattr(transformers, auto), transformers.AutoConfig
    with quiet(), naming(f"The checkpoint in {folder}"):
        for file in weights:
            _refuse_pointer(file)
        _refuse_other_files(folder)
        _refuse_backbone(folder)
        config = config_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if getattr(config, "transformers_weights", None) is not None:
            del config.transformers_weights  # weights under other names, in whatever format
        compute_by_text(config)
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            # config.json may name any, even one whose code transformers would fetch from the hub.
            attn_implementation="eager",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    _refuse_other_sizes(folder, report["mismatched_keys"])
    _copy_weights(model)
    return model, report


def _no_weights(folder: Path) -> CheckpointError:
    if not any(folder.glob("*.bin")) and any([*folder.glob("*.h5"), *folder.glob("*.msgpack")]):
        return CheckpointError(
            f"{folder} has weights of TensorFlow or Flax only, which transformers 5 does not read, either. "
            "Convert them once with transformers 4, by AutoModel.from_pretrained(folder, from_tf=True) or "
            "from_flax=True and save_pretrained(other_folder), and copy the folder's other files there, too; "
            "or use another checkpoint."
        )
    # transformers would leave out how sentence-transformers pools.
    how = (
        "with SentenceTransformer(...).save(folder)"
        if (folder / MODULES).is_file()
        else "with AutoModel.from_pretrained(...).save_pretrained(folder), and the tokenizer in the same "
        "way with AutoTokenizer"
    )
    return CheckpointError(
        f"{folder} has no .safetensors weights. Other formats are not read, because loading them can run "
        f"code; convert the checkpoint once, {how}."
    )


def _copy_weights(model: Any) -> None:
    """Give a model its own weights in place of the file's, which transformers maps into memory.

    Overwriting a mapped file would change or end the process that maps it; and Windows refuses to replace it.
    """
    with torch.no_grad():
        for weights in (*model.parameters(), *model.buffers()):
            weights.data = weights.data.clone()


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not the weights. Run `git lfs pull` where it was cloned, "
                "or get the checkpoint again."
            )


def _refuse_other_files(folder: Path) -> None:
    """Refuse an index of parts that are elsewhere, or in a format that is unpickled."""
    if (folder / WEIGHTS).exists():
        return  # it takes precedence
    named = read_settings(folder / INDEX).get("weight_map")
    names = named.values() if isinstance(named, dict) else ()
    odd = [name for name in names if not re.fullmatch(r"[^/\\:]+\.safetensors", str(name))]
    if odd:
        raise CheckpointError(
            f"{folder / INDEX} names {str(odd[0])[:80]!r}. Expected .safetensors files in the same folder."
        )


def _refuse_backbone(folder: Path) -> None:
    """Refuse a backbone: transformers would ask the hub for it, whatever it has been told."""
    if any(name.startswith("backbone") for name in _names(read_settings(folder / CONFIG))):
        raise CheckpointError(
            f"{folder / CONFIG} has a backbone: it is an image model. Expected a text encoder."
        )


def _names(settings: Any) -> Iterator[str]:
    """Names of settings, including nested ones."""
    if isinstance(settings, dict):
        yield from settings
    for part in settings.values() if isinstance(settings, dict) else settings:
        if isinstance(part, dict | list):
            yield from _names(part)


def _refuse_other_sizes(folder: Path, found: Any) -> None:
    if not found:
        return
    name, there, expected = min((str(name), list(there), list(expected)) for name, there, expected in found)
    raise CheckpointError(
        f"The checkpoint in {folder} has {len(found)} weights whose sizes do not match its config.json, "
        f"first {name!r}: {there} instead of {expected}. They do not belong together: get both again."
    )


@contextmanager
def naming(what: str, kind: type[SkbertError] = CheckpointError) -> Iterator[None]:
    """Name what could not be read: files may hold anything, and transformers does not check everything."""
    try:
        yield
    except kind:
        raise
    except BaseException as error:
        if is_panic(error):
            raise kind(f"{what} could not be read ({str(error)[:500]}).") from error
        if not isinstance(error, Exception):
            raise
        raise_if_no_fault_of_a_file(error)
        said = str(error)
        at_limit = isinstance(error, OSError | RuntimeError) and any(
            words in said for words in _PROCESS_LIMITS
        )
        if at_limit or getattr(error, "errno", None) in (EMFILE, ENFILE):
            raise
        raise kind(f"{what} could not be read ({type(error).__name__}: {said[:500]}).") from error


def refuse_other_weights(folder: Path, missing: set[str], unexpected: set[str], encoder: Any) -> None:
    """Raise if weights are missing, or if there are more layers than the encoder has."""
    surplus = {key for key in unexpected if _is_layer(key, encoder)}
    for found, what in ((missing, "lacks"), (surplus, "has, beyond what its config.json names,")):
        if found:
            raise CheckpointError(
                f"The checkpoint in {folder} {what} {len(found)} weights, first {sorted(found)[:3]}: its "
                "config.json and its weights do not belong together, or the file is incomplete. Get the "
                "checkpoint again."
            )


def _is_layer(key: str, encoder: Any) -> bool:
    """Whether a surplus weight belongs to a numbered layer of the encoder (heads may be left over)."""
    key = key.removeprefix(f"{encoder.base_model_prefix}.")
    match = re.match(r"(.*\blayers?)\.\d+\.", key)
    return match is not None and any(n.startswith(match[1]) for n, _ in encoder.named_parameters())
