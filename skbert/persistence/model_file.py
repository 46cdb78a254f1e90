"""Save a fitted estimator as one file, without a pickle, that is read exactly or refused.

1. `save` splits the estimator into arrays (the weights) and JSON (all else: `codec.py`). The JSON goes into
   the file's metadata: "skbert" is its text, "sha256" its checksum. It holds the checksums of the arrays.
2. `load` checks every size, name and checksum (`tensorfile.py` and here) before it builds anything from them.
3. It then builds plain values, a tokenizer, and a model of a known family (`model_spec.py`).

Every version of the format keeps the two metadata entries and the key "format", so that a newer version is
recognized as such.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from sklearn import config_context

import skbert
from skbert.exceptions import MALFORMED, CheckpointError, PersistenceError, shown
from skbert.identity import LIBRARIES
from skbert.paths import expanded
from skbert.persistence import delta, model_spec, tensorfile
from skbert.persistence.codec import Decoder, encode
from skbert.persistence.fitted import OF_THIS_PROCESS, check_attributes, n_outputs_of
from skbert.persistence.replacing import replace_file
from skbert.persistence.tokenizer import build_tokenizer, check_tokenizer
from skbert.pretrained import checkpoints
from skbert.pretrained.sources import display_name
from skbert.pretrained.traits import check_max_length, max_positions

Estimator = TypeVar("Estimator")

FORMAT = 1
_PRIVATE = ("_sklearn_output_config",)  # what set_output has set
_NOT_SAVED = (*OF_THIS_PROCESS, "_skl_callbacks")  # callbacks are pickled, but this file holds no code
_ROUTING = "_metadata_request"  # what set_fit_request has set
_ALLOWANCE = 2**24  # bytes that arrays may take beyond what the file's size explains: wide str


def save(estimator: Any, path: str | os.PathLike[str], *, only_changes: bool) -> None:
    """Write a fitted estimator; see `BertClassifier.save`."""
    content, arrays = _take_apart(estimator)
    if only_changes:
        checkpoint = _checkpoint_of(estimator)
        content["base"] = display_name(estimator.model, estimator.revision)
        arrays = delta.changes(arrays, delta.weights_of(checkpoint.encoder))
    _check_readable(type(estimator), content, sum(array.nbytes for array in arrays.values()))
    metadata = tensorfile.sealed("skbert", content)
    replace_file(path, lambda file: tensorfile.write(file, arrays, metadata))


def load(
    cls: type[Estimator],
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None,
    revision: str | None,
) -> Estimator:
    """Read an estimator of the class `cls`; see `BertClassifier.load`."""
    path = expanded(path, PersistenceError)
    if os.path.isdir(path):
        raise PersistenceError(
            f"{path!r} is a folder. Expected a file written by save(); to read a folder written "
            "by transformers, use from_pretrained()."
        )
    if checkpoint is not None:
        os.fspath(checkpoint)  # a TypeError here is the caller's fault, not the file's
    try:
        arrays, metadata, size = tensorfile.read(path)
    except PersistenceError as error:
        raise PersistenceError(
            f"{path!r} cannot be loaded: {error}. Expected a file that save() wrote; this one may "
            "be truncated, damaged, or of another kind."
        ) from error
    try:
        content = _checked_json(metadata)
        if "base" in content:
            arrays = _with_checkpoint(content, arrays, checkpoint, revision)
        _check_arrays(content, arrays)
        return _put_together(cls, content, arrays, size)
    except CheckpointError:
        raise
    except PersistenceError as error:
        raise PersistenceError(f"{path!r} cannot be loaded: {error}") from error
    except MALFORMED as error:
        # The checksums are right, so this content is what its author wrote.
        raise PersistenceError(
            f"{path!r} cannot be loaded: its content is not what save() writes "
            f"({type(error).__name__}: {str(error)[:200]}). Save the model again with skbert."
        ) from error


# Saving


def _take_apart(estimator: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The estimator as JSON, and its weights."""
    state = dict(vars(estimator))  # at once: another thread may be fitting
    parameters = {name: state.pop(name) for name in estimator.get_params(deep=False)}
    model, tokenizer = state.pop("model_"), state.pop("tokenizer_")
    routing = state.pop(_ROUTING, None)
    adapters = state.pop("adapters_", {})
    for name in (*_NOT_SAVED, *estimator._parameter_constraints):  # a subclass sets again those that it fixes
        state.pop(name, None)
    described, arrays = model_spec.describe(model)
    arrays |= delta.factors_of(adapters)
    content = {
        "format": FORMAT,
        "class": type(estimator).__name__,
        "versions": _versions(),
        "parameters": {name: _encode_parameter(value, name) for name, value in parameters.items()},
        "attributes": {name: encode(value, f"The attribute {name}") for name, value in state.items()},
        "routing": None if routing is None else _requests(routing),
        "model": {name: encode(value, "The model") for name, value in described.items()},
        "tokenizer": json.loads(tokenizer.to_str()),
        "arrays": {name: tensorfile.describe(array) for name, array in arrays.items()},
    }
    return content, arrays


def _checkpoint_of(estimator: Any) -> checkpoints.Checkpoint:
    """The checkpoint of the fit, as far as its name tells."""
    named = display_name(estimator.model, estimator.revision)
    fitted = getattr(estimator, "checkpoint_", named)
    if named != fitted:
        raise PersistenceError(
            f"only_changes leaves out what is in the checkpoint of the fit, {fitted!r}, but model is now "
            f"{named!r}. Set model back, or save everything."
        )
    return checkpoints.load(estimator.model, estimator.revision)


def _check_readable(cls: Any, content: dict[str, Any], size: int) -> None:
    """Check that `load` would accept the content: what it would refuse must not be written.

    `size` is that of the weights in bytes, which is most of the file's.
    """
    _check_names(cls, content["attributes"])
    decoder, values = Decoder(size + _ALLOWANCE), {}
    for part in ("parameters", "attributes"):
        for name, encoded in content[part].items():
            try:
                values[name] = _decode(decoder, encoded)
            except PersistenceError as error:
                raise PersistenceError(f"{name} cannot be saved: {error}") from error
    check_attributes(values, numbers=cls._learns_numbers)
    check_tokenizer(content["tokenizer"])


def _versions() -> dict[str, str]:
    """What wrote the file: for people, nothing depends on it."""
    own = {"skbert": skbert.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in LIBRARIES}


def _encode_parameter(value: Any, name: str) -> Any:
    try:
        return encode(value, f"The parameter {name}")
    except PersistenceError as error:
        raise PersistenceError(
            f"{error} If this parameter matters only in fit, change it first with "
            f"set_params({name}=...); or save this estimator with joblib.dump, whose files can run code when "
            "they are loaded."
        ) from error


def _requests(routing: Any) -> dict[str, dict[str, Any]]:
    """Which metadata each method asks for, as the methods set_..._request take it."""
    methods = {name: getattr(value, "requests", None) for name, value in vars(routing).items()}
    return {name: dict(requests) for name, requests in methods.items() if requests}


# Loading


def _checked_json(metadata: dict[str, str]) -> dict[str, Any]:
    """The JSON, once it is known to be what was written, in a known format."""
    if "skbert" not in metadata:
        raise PersistenceError(
            f"save() did not write it (its metadata have no 'skbert', only {shown(sorted(metadata), 5)}). To "
            "read a folder written by transformers, use from_pretrained()."
        )
    try:
        content = tensorfile.unsealed("skbert", metadata)
    except PersistenceError as error:
        raise PersistenceError(
            f"{error}. The file is damaged: get it again from where it was saved."
        ) from error
    if type(content["format"]) is not int or content["format"] != FORMAT:
        writer = str(content.get("versions", {}).get("skbert", "a newer version"))
        raise PersistenceError(
            f"it has format {content['format']!r}, written by skbert {writer[:20]}; this is skbert "
            f"{skbert.__version__}, which reads format {FORMAT}. Install a newer skbert."
        )
    return content


def _with_checkpoint(
    content: dict[str, Any],
    arrays: dict[str, np.ndarray],
    checkpoint: str | os.PathLike[str] | None,
    revision: str | None,
) -> dict[str, np.ndarray]:
    """All arrays of a file without the checkpoint's; the caller names the checkpoint, never the file."""
    if checkpoint is None:
        raise PersistenceError(
            f"it holds only what training changed in {str(content['base'])[:200]!r}. Pass that checkpoint, "
            "by name or folder, as load(path, checkpoint=...), and the part after an @ as revision=..."
        )
    try:
        encoder = checkpoints.load(checkpoint, revision).encoder
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint={os.fspath(checkpoint)!r} cannot be used: {error}") from error
    dtypes = {name: tensorfile.dtype_of(about) for name, about in content["arrays"].items()}
    return delta.whole(arrays, delta.weights_of(encoder), dtypes)


def _check_arrays(content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check that these are the arrays that the JSON describes."""
    described = content["arrays"]
    if set(described) != set(arrays):
        odd = sorted(set(described) ^ set(arrays))
        raise PersistenceError(
            f"the arrays {odd[:3]} are missing, or do not belong to it. Get the file again."
        )
    for name, array in arrays.items():
        if tensorfile.describe(array) != described[name]:
            raise PersistenceError(
                f"the array {name!r} is not the one that was saved. Get the file again"
                + (", or pass the checkpoint that it was fitted from." if "base" in content else ".")
            )


def _put_together(
    cls: type[Estimator], content: dict[str, Any], arrays: dict[str, np.ndarray], size: int
) -> Estimator:
    if content["class"] != cls.__name__:
        raise PersistenceError(
            f"it holds a {content['class']!r}, not a {cls.__name__}. Load it with the class that it was "
            "saved from."
        )
    decoder = Decoder(size + _ALLOWANCE)
    parameters = {name: _decode(decoder, value) for name, value in content["parameters"].items()}
    unknown = sorted(set(parameters) - set(inspect.signature(cls).parameters))
    if unknown:
        raise PersistenceError(
            f"it has the parameters {unknown[:5]}, which skbert {skbert.__version__} does not have. It was "
            f"written by skbert {str(content['versions']['skbert'])[:20]}; install that version or a newer "
            "one."
        )
    estimator: Any = cls(**parameters)
    attributes = {name: _decode(decoder, value) for name, value in content["attributes"].items()}
    _check_names(cls, attributes)
    check_attributes(attributes, numbers=estimator._learns_numbers)
    described = {name: _decode(decoder, value) for name, value in content["model"].items()}
    weights, adapters = delta.split_factors(arrays)
    model = model_spec.build(described, weights, n_outputs_of(attributes))
    if "loss_curve_" in attributes:  # of a fit, and not from a folder of transformers
        attributes["adapters_"] = adapters
    check_max_length(
        attributes["max_length_"], max_positions(model.encoder.config, model.architecture), "its encoder"
    )
    tokenizer = build_tokenizer(content["tokenizer"], attributes["n_features_in_"], attributes["max_length_"])
    attributes |= {"model_": model, "tokenizer_": tokenizer}
    vars(estimator).update(attributes)
    if content["routing"] is not None:
        _set_requests(estimator, content["routing"])
    return estimator


def _decode(decoder: Decoder, encoded: Any) -> Any:
    """The value, if it would be written the same way."""
    value = decoder.decode(encoded)
    again = encode(value, "A value")
    if json.dumps(again) != json.dumps(encoded):
        raise PersistenceError(f"{str(encoded)[:80]} is not the encoding of any value.")
    return value


def _check_names(cls: type, attributes: Iterable[str]) -> None:
    """Check that attributes have the names of fitted ones, and hide nothing of the class."""
    for name in attributes:
        if name not in _PRIVATE and (not re.fullmatch(r"[a-zA-Z]\w*_", name) or hasattr(cls, name)):
            raise PersistenceError(f"the attribute {name[:80]!r} is not one that a fit sets.")


def _set_requests(estimator: Any, routing: dict[str, dict[str, Any]]) -> None:
    with config_context(enable_metadata_routing=True):
        for method, requests in routing.items():
            getattr(estimator, f"set_{method}_request")(**requests)
