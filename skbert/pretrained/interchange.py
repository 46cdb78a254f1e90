"""Folders of transformers' own classifiers: written from a fitted estimator, and read as one.

1. `save_pretrained` lays the weights out as the family's classifier of transformers has them (`families.py`),
   puts them into that very class, and lets it write the folder. What has no equal there is refused before.
2. `from_pretrained` reads such a folder: encoder, the layers of its head, and the names of its labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from skbert.data.targets import label_values
from skbert.exceptions import CheckpointError, InputError, PersistenceError
from skbert.network.model import SequenceClassifier
from skbert.pretrained import checkpoints, families
from skbert.pretrained.checkpoints import Checkpoint
from skbert.pretrained.families import FamilyPooler, Layout
from skbert.pretrained.folders import config_of, folder_to_write, tokenizer_of, write
from skbert.pretrained.library import quiet
from skbert.pretrained.sources import locate
from skbert.pretrained.traits import check_max_length, check_side, stated_max_length
from skbert.scopes import trainable

Estimator = TypeVar("Estimator")

_INSTEAD = "What save() writes and load() reads has no such limits."


# Writing


def save_pretrained(estimator: Any, folder: str | os.PathLike[str], label_names: Any) -> None:
    """Write a folder that transformers reads; see `BertClassifier.save_pretrained`."""
    target = folder_to_write(folder)
    names = _label_names(estimator, label_names)
    classifier = _as_transformers(estimator.model_, names, estimator.target_type_)
    write(target, classifier, tokenizer_of(estimator))


def _label_names(estimator: Any, given: Any) -> list[str]:
    classes = estimator.classes_
    if isinstance(given, str | bytes | set | frozenset | Mapping):
        raise InputError(
            f"label_names is a {type(given).__name__}. Expected a name for each label, in the order of "
            f"classes_: {classes.tolist()[:10]}."
        )
    if given is not None:
        names = [str(name) for name in given]
    elif estimator.target_type_ == "multilabel-indicator" and classes.dtype.kind != "U":
        names = [f"LABEL_{column}" for column in range(len(classes))]  # as transformers names the nameless
    else:
        names = [
            str(label) for label in (classes.astype(str) if classes.dtype.kind == "M" else classes).tolist()
        ]
    if len(names) != len(classes):
        raise InputError(
            f"label_names has {len(names)} names. Expected one for each of {len(classes)} labels."
        )
    if len(set(names)) < len(names):
        remedy = "Pass label_names." if given is None else "Pass a different name for each."
        raise InputError(f"Labels of transformers are str, and {names[:10]} are not all different. {remedy}")
    return names


@trainable()
def _as_transformers(model: SequenceClassifier, names: list[str], target_type: str) -> Any:
    """The model in the family's own class of transformers."""
    weights = _weights(model, dict(model.config))
    kind = "multi" if target_type == "multilabel-indicator" else "single"
    with quiet() as transformers:
        config = config_of(
            model,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
            problem_type=f"{kind}_label_classification",
        )
        auto = transformers.AutoModelForSequenceClassification
        classifier = auto.from_config(config, dtype=model.head.weight.dtype)
    prefix = classifier.base_model_prefix
    classifier.load_state_dict(
        {f"{prefix}.{name}": weight for name, weight in model.encoder.state_dict().items()} | weights,
        assign=True,
    )
    return classifier.eval()


def _weights(model: SequenceClassifier, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of the head by the names of the family, or an error that says why there are none."""
    family = config["model_type"]
    layout = families.LAYOUTS.get(family)
    if layout is None:
        raise PersistenceError(
            f"Classifiers of the family {family!r} are not written; those of {', '.join(families.LAYOUTS)} "
            "are. " + _INSTEAD
        )
    _check_expressible(model, config)
    activation = layout.activation_of(config)
    if model.pooler is None:
        return _weights_without_pooler(model, layout, activation, family)
    pooler: Any = model.pooler
    if families.activation_of_pooler(pooler) != activation:
        raise PersistenceError(
            f"The pooler's activation is not {activation}, as {family!r} has it. {_INSTEAD}"
        )
    layers = {layout.dense: pooler.dense, layout.output: model.head}
    if layout.norm is not None:
        layers[layout.norm] = pooler.norm
    return {
        f"{place}.{n}": weight for place, layer in layers.items() for n, weight in layer.state_dict().items()
    }


def _weights_without_pooler(
    model: SequenceClassifier, layout: Layout, activation: str, family: str
) -> dict[str, torch.Tensor]:
    if layout.norm is not None or not families.is_known(activation):
        obstacle = "a norm" if layout.norm is not None else f"the activation {activation!r}"
        raise PersistenceError(
            f"Before its last layer, the head that {family!r} has in transformers has {obstacle}, which no "
            f"weights can undo; this model's head is one linear layer. {_INSTEAD}"
        )
    layers = families.head_of(model.head.weight, model.head.bias, activation)
    if layers is None:
        raise PersistenceError(
            f"The head that {family!r} has in transformers can hold {model.hidden_size // 2} classes of this "
            f"model, which has {model.head.out_features}. {_INSTEAD}"
        )
    places = (layout.dense, layout.output)
    parts = ("weight", "bias")
    return {
        f"{place}.{part}": tensor
        for place, layer in zip(places, layers, strict=True)
        for part, tensor in zip(parts, layer, strict=True)
    }


def _check_expressible(model: SequenceClassifier, config: dict[str, Any]) -> None:
    family = config["model_type"]
    has = families.pooling_of(config)
    if model.pooling != has:
        raise PersistenceError(
            f"The model pools by {model.pooling!r}, and classifiers of the family {family!r} in transformers "
            f"by {has!r}. Fit with pooling={has!r}. {_INSTEAD}"
        )
    odd = [n for n in model.state_dict() if n.partition(".")[0] not in ("encoder", "pooler", "head")]
    if odd:
        raise PersistenceError(
            f"The model has the weights {odd[:3]}, for which classifiers of transformers have no place. Fit "
            f"without hidden layers in the head, or keep the model in skbert: {_INSTEAD}"
        )


# Reading


@trainable()
def from_pretrained(
    cls: type[Estimator],
    model: str | os.PathLike[str],
    pairs: bool,
    parameters: dict[str, Any],
) -> Estimator:
    """Read a folder of transformers; see `BertClassifier.from_pretrained`."""
    estimator: Any = cls(model, **parameters)  # type: ignore[call-arg]  # it is a BertClassifier
    estimator._validate_params()
    folder = locate(model, estimator.revision)
    dtype = torch.float64 if estimator.precision == "float64" else torch.float32
    classifier = _read_classifier(folder, dtype)
    _check_parameters(estimator, classifier.config)
    names, is_multilabel = _stated_labels(folder, classifier.config)
    checkpoint = checkpoints.as_checkpoint(classifier.base_model, folder, str(model))
    if "long_text" not in parameters:
        check_side(folder)
    if "max_length" not in parameters:
        estimator.max_length = stated_max_length(folder, checkpoint.max_positions)
    check_max_length(estimator.max_length, checkpoint.max_positions, checkpoint.name)
    # Labels are sorted, as those of a fit are; the columns of an indicator matrix keep their order.
    order = np.arange(len(names)) if is_multilabel else np.argsort(names)
    kind = "binary" if len(names) == 2 else "multiclass"
    vars(estimator).update(
        classes_=label_values(names)[order],
        target_type_="multilabel-indicator" if is_multilabel else kind,
        n_features_in_=2 if pairs else 1,
        model_=_as_skbert(classifier, checkpoint, order),
        tokenizer_=checkpoints.new_tokenizer(checkpoint.tokenizer_json),
        max_length_=int(estimator.max_length),
        long_text_=estimator.long_text,
    )
    return estimator


def _read_classifier(folder: Path, dtype: torch.dtype) -> Any:
    classifier, report = checkpoints.read_model("AutoModelForSequenceClassification", folder, dtype)
    family, prefix = classifier.config.model_type, classifier.base_model_prefix
    layout = families.LAYOUTS.get(family)
    if layout is None or not families.is_known(layout.activation_of(classifier.config.to_dict())):
        raise CheckpointError(
            f"{folder} is of the family {family!r}, whose classifiers are not read; those of "
            f"{', '.join(families.LAYOUTS)} are. To fine-tune its encoder, use BertClassifier(model).fit(X, "
            "y)."
        )
    missing = set(report["missing_keys"]) | {str(key[0]) for key in report.get("mismatched_keys", ())}
    if missing and not any(key.startswith(f"{prefix}.") and ".pooler." not in key for key in missing):
        raise CheckpointError(
            f"{folder} has no trained classification head (it lacks {sorted(missing)[:3]}). Expected a "
            "folder as AutoModelForSequenceClassification saves it. To train a head, use "
            "BertClassifier(model).fit(X, y)."
        )
    checkpoints.refuse_other_weights(folder, missing, report["unexpected_keys"], classifier.base_model)
    return classifier.eval().requires_grad_(False)


def _check_parameters(estimator: Any, config: Any) -> None:
    """Refuse another pooling or head than the classifier has: the model would not be what they say."""
    pooling = families.pooling_of(config.to_dict())
    for name, given, own in (
        ("pooling", estimator.pooling, pooling),
        ("head_layers", estimator.head_layers, 0),
    ):
        if given not in ("auto", own):
            raise InputError(
                f"{name}={given!r}, but the classifier has {own!r}. Leave {name} out; to fit a new head on "
                "its encoder, use BertClassifier(model).fit(X, y)."
            )


def _stated_labels(folder: Path, config: Any) -> tuple[list[str], bool]:
    """Names of the labels in the order of the logits, and whether a text may have several."""
    stated = config.id2label
    names = [str(stated[number]) for number in range(len(stated)) if number in stated]
    if len(names) != len(stated) or len(set(names)) != len(names):
        raise CheckpointError(
            f"config.json in {folder} names the labels {stated}. Expected a different name for each."
        )
    if config.problem_type == "regression" or len(names) < 2:
        raise CheckpointError(
            f"The model in {folder} gives {len(names)} number(s) (problem_type={config.problem_type!r}). "
            "Expected a classifier with a logit for each of two or more labels."
        )
    return names, config.problem_type == "multi_label_classification"


def _as_skbert(classifier: Any, checkpoint: Checkpoint, order: np.ndarray) -> SequenceClassifier:
    """The classifier as skbert's model, its logits in another order."""
    config = classifier.config.to_dict()
    layout = families.LAYOUTS[config["model_type"]]
    norm = None if layout.norm is None else classifier.get_submodule(layout.norm)
    pooler = FamilyPooler(classifier.get_submodule(layout.dense), layout.activation_of(config), norm)
    encoder = classifier.base_model
    encoder.pooler = pooler
    packed = checkpoint.architecture.packed
    model = SequenceClassifier(
        encoder,
        checkpoint.architecture,
        families.pooling_of(config),
        len(order),
        checkpoint.head_dropout,
        rebuild=(families.build_encoder, (config, packed)),
    )
    output = classifier.get_submodule(layout.output)
    rows = torch.from_numpy(order)
    model.head.load_state_dict({name: w[rows] for name, w in output.state_dict().items()}, assign=True)
    # transformers maps the file: whoever wrote over it would change the model, or end the process.
    model.load_state_dict({name: w.clone() for name, w in model.state_dict().items()}, assign=True)
    return model.eval().requires_grad_(False)
