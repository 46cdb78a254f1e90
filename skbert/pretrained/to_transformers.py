"""From a fitted estimator to a folder that transformers reads as its own classifier.

The weights are laid out as in the family's classifier in transformers (`families.py`), and loaded into that
class, which writes the folder. What has no equivalent there is refused first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from skbert.data.columns import are_numbered
from skbert.data.label_codes import listed
from skbert.exceptions import InputError, PersistenceError, warn
from skbert.network.model import SequenceClassifier
from skbert.persistence.fitted import n_outputs_of
from skbert.pretrained import families
from skbert.pretrained.families import HeadLayout
from skbert.pretrained.folders import folder_to_write, new_model, tokenizer_of, write
from skbert.process.scopes import own_settings

# transformers' names for the types of targets; with "regression" it returns the head's outputs as they are.
_PROBLEMS = dict.fromkeys(("binary", "multiclass"), "single_label_classification") | {
    "multilabel-indicator": "multi_label_classification",
    "continuous": "regression",
    "continuous-multioutput": "regression",
}
_LOST = 1e-3  # standard deviations of y that rounding may cost
_INSTEAD = "Files written by save() and read by load() have no such limits."


def save_pretrained(estimator: Any, folder: str | os.PathLike[str], label_names: Any) -> None:
    """Write a folder that transformers reads; see `BertClassifier.save_pretrained`."""
    target, estimator = folder_to_write(folder), estimator._snapshot()
    names = _label_names(estimator, label_names)
    head = _head_in_units(estimator) if estimator._learns_numbers else estimator.model_.head
    classifier = _as_transformers(estimator.model_, head, names, _PROBLEMS[estimator.target_type_])
    if estimator.long_text_ != "head":
        warn(
            f"Texts longer than max_length_={estimator.max_length_} tokens will have other results than "
            f"here, where long_text_={estimator.long_text_!r}: transformers reads their beginning, and so "
            f"does from_pretrained(folder), unless it is given long_text={estimator.long_text_!r}."
        )
    write(target, classifier, tokenizer_of(estimator), settings={})


def _head_in_units(estimator: Any) -> nn.Linear:
    """A regression's head, changed to give numbers in the units of y."""
    # Copied: joblib may have mapped them, read-only.
    head, scales = estimator.model_.head, torch.from_numpy(np.array(estimator.target_scale_))
    whole = nn.utils.skip_init(nn.Linear, head.in_features, head.out_features, dtype=head.weight.dtype)
    weight, bias = head.weight.double() * scales[:, None], head.bias.double() * scales
    bias += torch.from_numpy(np.array(estimator.target_mean_))
    whole.load_state_dict({"weight": weight, "bias": bias})
    # By rounding, in units of y; infinite where it is beyond the dtype's range.
    of_weights, of_biases = (whole.weight - weight).abs().amax(1), (whole.bias - bias).abs()
    if not (of_weights + of_biases < _LOST * scales).all():
        in_range = bool((of_weights < _LOST * scales).all() and of_biases.isfinite().all())
        remedy = "on y minus a constant" if in_range else "on y in another unit"
        raise PersistenceError(
            f"The head of transformers cannot hold numbers with a mean of {estimator.target_mean_.tolist()} "
            f"and a standard deviation of {estimator.target_scale_.tolist()} in "
            f"{str(head.weight.dtype).removeprefix('torch.')}. Fit {remedy}, or with "
            f"precision='float64'. {_INSTEAD}"
        )
    return whole


def _label_names(estimator: Any, given: Any) -> list[str]:
    n_labels = n_outputs_of(vars(estimator))
    if not estimator._learns_numbers:
        classes = estimator.classes_
    elif (classes := getattr(estimator, "target_names_", None)) is None:
        classes = np.arange(n_labels)
    if given is not None:
        no_order = isinstance(given, str | bytes | set | frozenset | Mapping)
        if no_order or not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0:
            raise InputError(
                f"label_names is a {type(given).__name__}. Expected a name for each label, in the order of "
                f"classes_: {classes.tolist()[:10]}."
            )
        names = [str(name) for name in given]
    elif estimator.target_type_ not in ("binary", "multiclass") and are_numbered(classes.tolist()):
        names = [f"LABEL_{column}" for column in range(n_labels)]  # the default names of transformers
    else:
        names = [str(label) for label in listed(classes)]
    if len(names) != n_labels:
        raise InputError(f"label_names has {len(names)} names. Expected one for each of {n_labels} labels.")
    if len(set(names)) < len(names):
        remedy = "Pass label_names." if given is None else "Pass a different name for each."
        raise InputError(f"Labels in transformers are str, but {names[:10]} are not all different. {remedy}")
    return names


@own_settings()
def _as_transformers(model: SequenceClassifier, head: nn.Linear, names: list[str], problem: str) -> Any:
    """The model in the family's own class of transformers."""
    weights = _weights(model, head)
    classifier = new_model(
        model,
        "AutoModelForSequenceClassification",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type=problem,
    )
    prefix = classifier.base_model_prefix
    classifier.load_state_dict(
        {f"{prefix}.{name}": weight for name, weight in model.encoder.state_dict().items()} | weights,
        assign=True,
    )
    return classifier.eval()


def _weights(model: SequenceClassifier, head: nn.Linear) -> dict[str, torch.Tensor]:
    """Weights of the head under the family's names, or an error that says why there are none."""
    family = model.config["model_type"]
    layout = families.LAYOUTS.get(family)
    if layout is None:
        raise PersistenceError(
            f"Classifiers of the family {family!r} cannot be written; those of {', '.join(families.LAYOUTS)} "
            "can. " + _INSTEAD
        )
    _check_expressible(model)
    activation = layout.activation_of(model.config)
    if model.pooler is None:
        return _weights_without_pooler(model, head, layout, activation, family)
    pooler: Any = model.pooler  # the encoder's own, which has tanh where the head has, or a `FamilyPooler`
    layers = {layout.dense: pooler.dense, layout.output: head}
    if layout.norm is not None:
        layers[layout.norm] = pooler.norm
    return {
        f"{place}.{n}": weight for place, layer in layers.items() for n, weight in layer.state_dict().items()
    }


def _weights_without_pooler(
    model: SequenceClassifier, head: nn.Linear, layout: HeadLayout, activation: str, family: str
) -> dict[str, torch.Tensor]:
    if layout.norm is not None or not families.is_known(activation):
        obstacle = "a norm" if layout.norm is not None else f"the activation {activation!r}"
        raise PersistenceError(
            f"In transformers, the head of {family!r} has {obstacle} before its last layer, which no "
            f"weights can undo; this model's head is one linear layer. {_INSTEAD}"
        )
    layers = families.head_of(head.weight, head.bias, activation)
    if layers is None:
        raise PersistenceError(
            f"In transformers, the head of {family!r} can hold only {model.hidden_size // 2} of the classes "
            f"of this model, which has {model.head.out_features}. {_INSTEAD}"
        )
    places = (layout.dense, layout.output)
    parts = ("weight", "bias")
    return {
        f"{place}.{part}": tensor
        for place, layer in zip(places, layers, strict=True)
        for part, tensor in zip(parts, layer, strict=True)
    }


def _check_expressible(model: SequenceClassifier) -> None:
    family = model.config["model_type"]
    has = families.pooling_of(model.config)
    if model.pooling != has:
        raise PersistenceError(
            f"The model pools by {model.pooling!r}, but classifiers of the family {family!r} in transformers "
            f"pool by {has!r}. Fit with pooling={has!r}. {_INSTEAD}"
        )
    odd = [n for n in model.state_dict() if n.partition(".")[0] not in ("encoder", "pooler", "head")]
    if odd:
        raise PersistenceError(
            f"The model has the weights {odd[:3]}, which classifiers of transformers cannot hold. Fit "
            f"without hidden layers in the head, or keep the model in skbert: {_INSTEAD}"
        )
