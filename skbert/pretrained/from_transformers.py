"""From a folder of one of transformers' classifiers to a fitted estimator.

What is read is the encoder, the layers of its head, and the names of its labels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from skbert.data.targets import label_values
from skbert.exceptions import CheckpointError, InputError
from skbert.network.model import SequenceClassifier
from skbert.pretrained import checkpoints, families
from skbert.pretrained.checkpoints import Checkpoint
from skbert.pretrained.families import FamilyPooler
from skbert.pretrained.reading import read_model, refuse_other_weights
from skbert.pretrained.sources import locate
from skbert.pretrained.traits import check_max_length, check_truncation_side, stated_max_length
from skbert.process.scopes import own_settings

Estimator = TypeVar("Estimator")


@own_settings()
def from_pretrained(
    cls: type[Estimator],
    model: str | os.PathLike[str],
    pairs: bool,
    parameters: dict[str, Any],
) -> Estimator:
    """Read a folder of transformers; see `BertClassifier.from_pretrained`."""
    estimator: Any = cls(model, **parameters)  # type: ignore[call-arg]  # it is one of skbert's
    estimator._validate_params()
    folder = locate(model, estimator.revision)
    found = checkpoints.fingerprint(folder)
    dtype = torch.float64 if estimator.precision == "float64" else torch.float32
    classifier = _read_classifier(folder, dtype)
    _check_parameters(estimator, classifier.config)
    names = _stated_labels(folder, classifier.config)
    attributes, order = _stated_target(cls, folder, names, classifier.config.problem_type)
    checkpoint = checkpoints.as_checkpoint(classifier.base_model, folder, str(model))
    if "long_text" not in parameters:
        check_truncation_side(folder)
    if "max_length" not in parameters:
        estimator.max_length = stated_max_length(folder, checkpoint.max_positions)
    checkpoints.check_unchanged(folder, found)
    check_max_length(estimator.max_length, checkpoint.max_positions, checkpoint.name)
    vars(estimator).update(
        attributes,
        n_features_in_=2 if pairs else 1,
        model_=_as_skbert(classifier, checkpoint, order),
        tokenizer_=checkpoints.new_tokenizer(checkpoint.tokenizer_json),
        max_length_=int(estimator.max_length),
        long_text_=estimator.long_text,
    )
    return estimator


def _read_classifier(folder: Path, dtype: torch.dtype) -> Any:
    classifier, report = read_model("AutoModelForSequenceClassification", folder, dtype)
    family, prefix = classifier.config.model_type, classifier.base_model_prefix
    layout = families.LAYOUTS.get(family)
    activation = None if layout is None else layout.activation_of(classifier.config.to_dict())
    if not families.is_known(activation):
        why = f"is of the family {family!r}" if layout is None else f"has the activation {activation!r}"
        raise CheckpointError(
            f"The classifier in {folder} {why}, which cannot be read here; the families "
            f"{', '.join(families.LAYOUTS)} can, with usual activations. To fine-tune its encoder, pass the "
            "folder as model, and call fit(X, y)."
        )
    missing = set(report["missing_keys"])
    if missing and not any(key.startswith(f"{prefix}.") and ".pooler." not in key for key in missing):
        raise CheckpointError(
            f"{folder} has no trained classification head (it lacks {sorted(missing)[:3]}). Expected a "
            "folder saved by AutoModelForSequenceClassification. To train a head, pass the folder as model, "
            "and call fit(X, y)."
        )
    kinds = classifier.config.architectures or []
    # ModernBERT's classifiers of tokens have the same weights.
    if kinds and not any("SequenceClassification" in kind for kind in kinds):
        raise CheckpointError(
            f"{folder} holds a {kinds[0]}. Expected a folder saved by AutoModelForSequenceClassification. To "
            "train a head on its encoder, pass the folder as model, and call fit(X, y)."
        )
    refuse_other_weights(folder, missing, report["unexpected_keys"], classifier.base_model)
    return classifier.eval().requires_grad_(False)


def _check_parameters(estimator: Any, config: Any) -> None:
    """Refuse a pooling or head other than the classifier's: the model would not be what they say."""
    pooling = families.pooling_of(config.to_dict())
    for name, given, own in (
        ("pooling", estimator.pooling, pooling),
        ("head_layers", estimator.head_layers, 0),
    ):
        if given not in ("auto", own):
            raise InputError(
                f"{name}={given!r}, but the classifier has {own!r}. Leave {name} out; to fit a new head on "
                "its encoder, pass the folder as model, and call fit(X, y)."
            )


def _stated_labels(folder: Path, config: Any) -> list[str]:
    """Names of the labels in the order of the logits."""
    stated = config.id2label
    names = [str(stated[number]) for number in range(len(stated)) if number in stated]
    if len(names) != len(stated) or len(set(names)) != len(names):
        raise CheckpointError(
            f"config.json in {folder} names the labels {stated}. Expected a different name for each."
        )
    return names


def _stated_target(
    cls: Any, folder: Path, names: list[str], problem: str | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Fitted attributes of the target, and the order in which they take the logits."""
    n_outputs, order = len(names), np.arange(len(names))
    # transformers also takes one label without a problem_type for a number.
    is_regression = problem == "regression" or (n_outputs == 1 and problem is None)
    if n_outputs == 1 and not is_regression:
        raise CheckpointError(
            f"The model in {folder} gives one logit (problem_type={problem!r}). Expected a regression model, "
            "or a classifier with a logit for each of two or more labels."
        )
    if is_regression != cls._learns_numbers:
        expected, other = (
            ("a regression model", "BertClassifier")
            if cls._learns_numbers
            else ("a classifier with a logit for each of two or more labels", "BertRegressor")
        )
        raise CheckpointError(
            f"The model in {folder} gives {n_outputs} number(s) (problem_type={problem!r}). Expected "
            f"{expected}; this one is read by {other}.from_pretrained()."
        )
    if is_regression:
        kind = "continuous" if n_outputs == 1 else "continuous-multioutput"
        none, one = np.zeros(n_outputs), np.ones(n_outputs)  # its head gives numbers in their units
        named = n_outputs > 1 and names != [f"LABEL_{number}" for number in range(n_outputs)]
        columns = label_values(names) if named else None
        numbers = {"target_names_": columns, "target_mean_": none, "target_scale_": one}
        return {"target_type_": kind} | numbers, order
    if problem == "multi_label_classification":  # the columns of an indicator matrix keep their order
        return {"classes_": label_values(names), "target_type_": "multilabel-indicator"}, order
    # Labels are sorted, as those of a fit are; numpy's str would lose a NUL at the end.
    order = np.array(sorted(range(n_outputs), key=names.__getitem__))
    kind = "binary" if n_outputs == 2 else "multiclass"
    return {"classes_": label_values(names)[order], "target_type_": kind}, order


def _as_skbert(classifier: Any, checkpoint: Checkpoint, order: np.ndarray) -> SequenceClassifier:
    """The classifier as skbert's model, its logits in another order."""
    config = classifier.config.to_dict()
    layout = families.LAYOUTS[config["model_type"]]
    norm = None if layout.norm is None else classifier.get_submodule(layout.norm)
    pooler = FamilyPooler(classifier.get_submodule(layout.dense), layout.activation_of(config), norm)
    encoder = classifier.base_model
    encoder.pooler = pooler
    model = SequenceClassifier(
        encoder,
        checkpoint.architecture,
        families.pooling_of(config),
        len(order),
        checkpoint.head_dropout,
        rebuild=(families.build_encoder, config),
    )
    output = classifier.get_submodule(layout.output)
    rows = torch.from_numpy(order)
    model.head.load_state_dict({name: w[rows] for name, w in output.state_dict().items()}, assign=True)
    return model.eval().requires_grad_(False)
