"""What the ranks of one fit must have been given alike.

1. `check_given` holds texts, labels, weights, parameters, versions and the seed against those of rank 0.
2. `check_weights` does so with the encoder that the fit starts from: a name, or a path, may be another
   checkpoint on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from numbers import Number
from os import PathLike
from typing import TYPE_CHECKING, Any

import joblib

from skbert import __version__

if TYPE_CHECKING:
    from skbert.data.inputs import Texts
    from skbert.fitting import FitData
    from skbert.network.model import SequenceClassifier
    from skbert.runtime import Runtime
    from skbert.training.ranks import Alone

# Each rank has its own device, progress is shown by one, and of `random_state` the seed drawn is compared.
_OF_A_RANK = {"device", "memory", "random_state", "verbose"}
_LIBRARIES = ("numpy", "scikit-learn", "tokenizers", "torch", "transformers")


def check_given(
    ranks: Alone, data: FitData, parameters: Mapping[str, Any], place: Runtime, seed: int
) -> tuple[dict[str, Any], int]:
    """Compare what all ranks were given; returns the parameters of this rank and the seed of all.

    Parameters
    ----------
    ranks : Alone
    data : FitData
    parameters : mapping
        The parameters of `BertClassifier`.
    place : Runtime
    seed : int
        Drawn from `random_state`; without one, rank 0's counts.

    Raises
    ------
    RankError
        On all ranks, if something differs.
    """
    drawn = parameters["random_state"] is None

    def describe() -> dict[str, str]:
        return {
            **_versions(),
            **_parameters(parameters),
            "the device's type": place.device.type,
            "the precision": str(place.dtype),
            "the seed": "random" if drawn else str(seed),
            **_data(data),
        }

    ranks.compare(describe)
    quiet = {} if ranks.rank == 0 else {"verbose": 0}
    return {**parameters, **quiet}, ranks.first(seed) if drawn else seed


def check_weights(ranks: Alone, model: SequenceClassifier) -> None:
    """Compare the encoders that the ranks start from."""

    def describe() -> dict[str, str]:
        weights = {name: weight.numpy(force=True) for name, weight in model.encoder.state_dict().items()}
        return {"the encoder to start from": f"one with the hash {joblib.hash(weights)}"}

    ranks.compare(describe)


def _versions() -> dict[str, str]:
    return {"skbert": __version__} | {name: version(name) for name in _LIBRARIES}


def _parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {name: _short(value) for name, value in parameters.items() if name not in _OF_A_RANK}


def _short(value: Any) -> str:
    """What a value is, in the same words on all ranks: no addresses, no order of a set."""
    if value is None or isinstance(value, Number | str | PathLike):
        return repr(value)
    try:
        return f"a {type(value).__name__} with the hash {joblib.hash(value)}"
    except Exception:  # whatever cannot be pickled
        return getattr(value, "__qualname__", type(value).__name__)


def _data(data: FitData) -> dict[str, str]:
    described = {
        "X": _texts(data.texts),
        "y": f"{len(data.labels.codes)} labels with the hash "
        + str(joblib.hash((data.labels.codes, list(data.labels.classes)))),
        "sample_weight": f"weights with the hash {joblib.hash(data.weights)}",
    }
    if data.held_out is not None:
        texts, labels = data.held_out
        described["X_val"] = _texts(texts)
        described["y_val"] = f"{len(labels)} labels with the hash {joblib.hash(list(labels))}"
    return described


def _texts(texts: Texts) -> str:
    return f"{len(texts)} texts with the hash {joblib.hash((texts.first, texts.second))}"
