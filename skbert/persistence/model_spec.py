"""A model as plain values and arrays, and back.

1. `describe` tells how the model is built, without its weights; of the encoder's config it keeps what the
   encoder computes with.
2. `build` takes a description that anyone may have written. The encoder must be of a family listed here: for
   these, transformers builds any config without fetching or running anything.
3. The model is first built without memory, and its shapes are compared with those of the arrays in the file:
   no config can ask for more memory than the file that it came in.
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from inspect import getattr_static
from types import FunctionType
from typing import Any, get_args

import numpy as np
import torch

from skbert.exceptions import PersistenceError
from skbert.network.memory_errors import raise_if_no_fault_of_a_file
from skbert.network.model import Architecture, SequenceClassifier, outline, with_weights
from skbert.network.pooling import Pooling
from skbert.persistence.tensorfile import Arrays
from skbert.pretrained import checkpoints, families
from skbert.pretrained.library import import_family, quiet
from skbert.pretrained.traits import architecture_of
from skbert.process.scopes import own_settings, without_memory

FAMILIES = (
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Values of `model_type` whose encoders are built from a description; tests check each of them."""

_BUILDERS = {"encoder": checkpoints.build_encoder, "classifier": families.build_encoder}
# Of a config: where it came from, labels of another head, and what could make transformers fetch or run code.
_NOT_OF_AN_ENCODER = set(
    "architectures name_or_path transformers_version transformers_weights "
    "id2label label2id num_labels problem_type dtype torch_dtype quantization_config "
    "attn_implementation auto_map experts_implementation per_layer_config".split()
)
_MAX_BUFFERS = 2**24  # bytes of what an encoder holds besides its weights, such as position ids
_MAX_LAYERS = 1_000  # of an encoder, or of a head: building them takes time, however small they are
# Class attributes of a config that are not settings; and names that are settings nevertheless.
_NO_SETTINGS = (property, FunctionType, classmethod, staticmethod, dict, list, set)
_PROPERTIES = {"output_attentions"}


def is_describable(model: SequenceClassifier) -> bool:
    """Whether the encoder is of one of the `FAMILIES`."""
    return model.config["model_type"] in FAMILIES


def describe(model: SequenceClassifier) -> tuple[dict[str, Any], Arrays]:
    """What `build` makes the model from: plain values, and its weights.

    Raises
    ------
    PersistenceError
        If its encoder is of none of the `FAMILIES`, or a weight is no longer a plain one.
    """
    builders = {function: name for name, function in _BUILDERS.items()}
    build, config = model.rebuild
    if not is_describable(model):
        raise PersistenceError(
            f"The encoder is of the family {config['model_type']!r}, which a model file cannot hold; it can "
            f"hold {', '.join(FAMILIES)}. Save this estimator with joblib.dump, whose files can run code "
            "when they are loaded."
        )
    _check_weights_are_plain(model)
    odd = _no_settings(config)
    config = {k: v for k, v in config.items() if k not in odd}
    settings = model.settings | {"architecture": asdict(model.architecture)}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    _check_config(config, arrays)
    return {
        "builder": builders[build],
        "config": config,
        # Once more, as the format has it: `build` reads the settings.
        "arguments": [model.architecture.packed],
        "settings": settings,
    }, arrays


def _check_weights_are_plain(model: SequenceClassifier) -> None:
    """Refuse weights that numpy lacks, and pruned, parametrized or quantized ones: no new model has them."""
    dtypes = {weight.dtype for weight in model.state_dict().values() if weight.is_floating_point()}
    if odd := dtypes - {torch.float16, torch.float32, torch.float64}:
        name = str(odd.pop()).removeprefix("torch.")
        raise PersistenceError(f"model_ has weights in {name}. Widen them first, with model_.float().")
    for place, module in model.named_modules():
        for name in ("weight", "bias"):
            now, stored = getattr(module, name, None), {**module._parameters, **module._buffers}
            if name not in stored and (torch.is_tensor(now) or callable(now)):
                raise PersistenceError(
                    f"{place}.{name} of model_ is no longer a plain weight: it was pruned, parametrized or "
                    "quantized. Turn it back into one first, for example with torch.nn.utils.prune.remove or "
                    "torch.nn.utils.parametrize.remove_parametrizations."
                )


@own_settings()
def build(described: dict[str, Any], arrays: Arrays, n_outputs: int) -> SequenceClassifier:
    """The model that was described, with these weights.

    Parameters
    ----------
    described : dict
    arrays : dict of str to ndarray
        The model takes them as they are, without a copy, unless they are read-only.
    n_outputs : int
        Number of outputs that its head must have.

    Returns
    -------
    SequenceClassifier
        In eval mode, frozen.

    Raises
    ------
    PersistenceError, KeyError, TypeError
        If `described` is not something that `describe` makes, or does not match the weights.
    MemoryError
        If there is too little memory for it.
    """
    config, settings = described["config"], dict(described["settings"])
    build_encoder = _BUILDERS[described["builder"]]
    _check_config(config, arrays)
    _check_settings(settings, described["arguments"], arrays, n_outputs)
    import_family(config["model_type"])
    try:
        architecture = Architecture(**settings["architecture"])
        settings |= {"architecture": architecture, "rebuild": (build_encoder, config)}
        with without_memory():
            model = outline(build_encoder(config, architecture.packed), arrays, **settings)
            _check_architecture(model)
            _check_shapes(model, arrays)
        tensors = {name: _as_tensor(array) for name, array in arrays.items()}
        return with_weights(build_encoder(config, architecture.packed), tensors, **settings)
    except PersistenceError:
        raise
    except Exception as error:  # of whatever kind: transformers checks a config where it happens to use it
        raise_if_no_fault_of_a_file(error)
        raise PersistenceError(
            f"its model cannot be built ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_config(config: dict[str, Any], arrays: Arrays) -> None:
    if config["model_type"] not in FAMILIES:
        raise PersistenceError(
            f"its encoder is of the family {str(config['model_type'])[:80]!r}; only {', '.join(FAMILIES)} "
            "can be loaded from a file."
        )
    if odd := _no_settings(config):
        raise PersistenceError(f"its encoder's config has {odd[:3]}, which save() never writes.")
    layers = config[_config_class(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")]
    found = {match[1] for name in arrays if (match := re.search(r"\.layers?\.(\d+)\.", name))}
    if not 1 <= layers <= min(len(found), _MAX_LAYERS):
        raise PersistenceError(
            f"its encoder should have {layers} layers, but there are arrays of {len(found)}."
        )
    if not config.get("initializer_range", 0.0) >= 0:  # transformers would draw until all lies within it
        raise PersistenceError("its encoder's config has an initializer_range below zero.")


def _no_settings(config: dict[str, Any]) -> list[str]:
    """Names in a config that are not an encoder's settings, or belong to its class, such as methods and maps.

    An `attribute_map` would let any name stand for one that is refused.
    """
    own = _config_class(config)
    return [
        name
        for name in config
        if name in _NOT_OF_AN_ENCODER
        or name.startswith("_")
        or (name not in _PROPERTIES and isinstance(getattr_static(own, name, None), _NO_SETTINGS))
    ]


def _config_class(config: dict[str, Any]) -> Any:
    with quiet() as transformers:
        return transformers.CONFIG_MAPPING[config["model_type"]]


def _check_settings(settings: dict[str, Any], arguments: list[Any], arrays: Arrays, n_outputs: int) -> None:
    """Check that the settings are those of a model, before anything is built from them."""
    head = arrays["head.weight"]
    if not settings["n_outputs"] == n_outputs == len(head):
        raise PersistenceError(
            f"it has {n_outputs} classes or numbers, but its head has {len(head)} outputs."
        )
    architecture = settings["architecture"]
    head_layers = settings.get("head_layers", 0)  # not in the first files
    hidden = {name.split(".")[1] for name in arrays if name.startswith("hidden.")}
    sound = (
        all(type(architecture[field.name]).__name__ == field.type for field in fields(Architecture))
        and [*arguments] == [architecture["packed"]]
        and type(arguments[0]) is bool
        and type(settings["pooling"]) is str
        and settings["pooling"] in get_args(Pooling)
        and type(head_layers) is int
        and head_layers == len(hidden) <= _MAX_LAYERS
        and type(settings["head_dropout"]) is float
        and 0 <= settings["head_dropout"] <= 1
    )
    if not sound:
        raise PersistenceError("the settings of its model are not valid.")


def _check_architecture(model: SequenceClassifier) -> None:
    """Check that inputs are made as the encoder reads them: on a GPU ids beyond a table would be fatal."""
    stated, own = model.architecture, architecture_of(model.encoder, ["token_type_ids"])
    sound = (
        (stated.position_offset, stated.pad_id, stated.n_segments)
        == (own.position_offset, own.pad_id, own.n_segments)
        and stated.packed <= own.packed
        and stated.takes_positions == (stated.packed and own.takes_positions)
        and stated.takes_segments <= own.takes_segments
        and 0 <= stated.pad_id < model.encoder.get_input_embeddings().num_embeddings
    )
    if not sound:
        raise PersistenceError("its settings do not match the inputs that its encoder reads.")


def _check_shapes(model: SequenceClassifier, arrays: Arrays) -> None:
    """Check that a model without memory would take the file's arrays, and no more."""
    for name, tensor in model.state_dict().items():
        stored = arrays.get(name)
        if stored is None or stored.shape != tuple(tensor.shape):
            shape = tuple(tensor.shape)
            raise PersistenceError(f"the array {name!r} is missing, or not of the shape {shape}.")
    odd = sorted({str(array.dtype) for array in arrays.values() if array.dtype.kind != "f"})
    if odd:
        raise PersistenceError(f"its model has weights of the dtype {odd[0]}, but weights must be floats.")
    if sum(buffer.nbytes for buffer in model.buffers()) > _MAX_BUFFERS:
        raise PersistenceError("its encoder would take more memory than its arrays account for.")
