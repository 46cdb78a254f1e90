"""The identity of a fit: what two fits must have in common to end with the same weights.

1. `describe_given` gives a short value for each thing that a fit is given: the parameters, by name;
   checksums of texts, labels and weights; versions. The ranks of one fit must agree on them.
2. `describe_start` does this for the model that the fit starts from, `describe_environment` for device and
   threads.
   `describe` combines all three: an interrupted fit continues only if nothing differs.
3. `differences` lists what differs between two such descriptions.

A callable (`scoring`) is identified by its name alone.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

import skbert
from skbert.caching.store import STORE

if TYPE_CHECKING:
    from skbert.data.fit_data import FitData
    from skbert.data.inputs import Texts
    from skbert.runtime import Runtime
    from skbert.starting import Start

# Parameters that do not change the result, or are compared by what they resolve to: model and revision by the
# weights, device and precision by `describe_environment`, random_state by the seed.
_NOT_COMPARED = {*"checkpoint device memory model precision random_state revision verbose".split()}
LIBRARIES = ("numpy", "scikit-learn", "tokenizers", "torch", "transformers")
_CHECKSUM = "sha256:"


def describe(
    data: FitData, parameters: Mapping[str, Any], seed: int, start: Start, runtime: Runtime
) -> dict[str, str]:
    """Everything that the bits of a fit's result depend on.

    Parameters
    ----------
    data : FitData
    parameters : mapping
        The parameters of the estimator.
    seed : int
        Drawn from `random_state`; it counts unless that is None.
    start : Start
    runtime : Runtime
    """
    return describe_given(data, parameters, seed) | describe_start(start) | describe_environment(runtime)


def describe_given(data: FitData, parameters: Mapping[str, Any], seed: int) -> dict[str, str]:
    """What a fit is given, and the versions that it runs on."""
    found = {name: canonical(value) for name, value in parameters.items() if name not in _NOT_COMPARED}
    libraries = LIBRARIES if parameters["lora"] is None else (*LIBRARIES, "peft")
    held_out = groups = "None"
    if data.held_out is not None:
        held_out = "not None " + _checksum_of_parts(
            _checksum_of_texts(data.held_out[0]), canonical(data.held_out[1])
        )
    if data.groups is not None:
        groups = f"not None {_checksum_of_array(data.groups)}"
    return found | {
        "random_state": "None" if parameters["random_state"] is None else f"seed {seed}",
        "X": f"{len(data.texts)} texts {_checksum_of_texts(data.texts)}",
        "y": _checksum_of_parts(_checksum_of_array(data.target.targets), canonical(data.target.attributes())),
        "sample_weight": _checksum_of_array(data.weights),
        "groups": groups,
        "X_val or y_val": held_out,
        "the version of skbert": skbert.__version__,
        **{f"the version of {name}": version(name) for name in libraries},
    }


def describe_start(start: Start) -> dict[str, str]:
    """The model that a fit starts from: elsewhere, the same name or path may mean another one."""
    return {
        "the weights of model": _checksum_of_weights(start),
        "the tokenizer of model": _checksum_of_parts(start.tokenizer.to_str()),
    }


def describe_environment(runtime: Runtime) -> dict[str, str]:
    """Hardware and settings of the process that change the bits."""
    import torch

    from skbert.runtime import matmul_precision

    on_cuda = runtime.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(runtime.device) if on_cuda else runtime.device.type,
        "precision": str(runtime.dtype).removeprefix("torch."),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch.get_num_threads()": str(torch.get_num_threads()),
        "precision of float32 products": matmul_precision(runtime.device),
        "torch.are_deterministic_algorithms_enabled()": str(torch.are_deterministic_algorithms_enabled()),
        # Decides whether training starts above the frozen layers, which changes the last bits.
        "skbert.set_cache_limit": f"{STORE.limit} bytes",
    }


def differences(first: Mapping[str, str], second: Mapping[str, str], words: str) -> list[str]:
    """Descriptions of what differs: with both values, unless only their checksums differ.

    Parameters
    ----------
    first, second : mapping
    words : str
        A format string with the fields "first" and "second".
    """
    found = []
    for name in [*second, *(name for name in first if name not in second)]:
        a, b = (values.get(name, "not there") for values in (first, second))
        if a == b:
            continue
        a, b = (value.partition(_CHECKSUM)[0].strip() for value in (a, b))
        found.append(f"{name} {'differs' if a == b else words.format(first=a[:80], second=b[:80])}")
    return found


def canonical(value: Any) -> str:
    """The same text for equal values, in every process."""
    if isinstance(value, np.ndarray):  # numpy abbreviates long ones
        value = value.tolist()
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, Integral):
        return repr(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, str):
        return repr(str(value))  # numpy's str has a repr of its own
    if isinstance(value, Mapping):
        items = sorted((canonical(key), canonical(item)) for key, item in value.items())
        return f"{{{', '.join(f'{key}: {item}' for key, item in items)}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(canonical, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(canonical, value))}]"
    if hasattr(value, "to_dict"):  # a LoraConfig
        return f"{type(value).__name__}({canonical(value.to_dict())})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _checksum_of_parts(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        _update(digest, part)
    return _CHECKSUM + digest.hexdigest()


def _checksum_of_texts(texts: Texts) -> str:
    return _checksum_of_parts(str(len(texts.first)), *texts.first, *(texts.second or []))


def _update(digest: Any, text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    digest.update(len(content).to_bytes(8, "little"))  # ["ab", "c"] is not ["a", "bc"]
    digest.update(content)


def _checksum_of_array(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    _update(digest, f"{array.dtype} {array.shape}")
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return _CHECKSUM + digest.hexdigest()


def _checksum_of_weights(start: Start) -> str:
    """Checksum of the settings and all weights, except those of a head that the fit itself initializes."""
    digest = hashlib.sha256()
    own = ("head.", "hidden.") if start.head_init is None else ()
    model = start.new_model(shared=True)
    _update(digest, canonical([model.config, model.architecture, model.pooling, model.dropout.p]))
    for name, weight in model.state_dict().items():
        if not name.startswith(own):
            _update(digest, f"{name} {_checksum_of_array(weight.numpy())}")
    _update(digest, start.head_init or "")
    return _CHECKSUM + digest.hexdigest()
