"""Fingerprints of weights: SHA-256 of the tensors themselves, computed once while they do not change.

A checkpoint's weights are hashed once per process, a fine-tuned model's only where a fit freezes part of it.
"""

from __future__ import annotations

import hashlib
import threading
import weakref

import numpy as np
import torch
from torch import nn

from skbert.process import forks

_Weights = tuple[list[tuple[int, int, int]], dict[str, str]]
_hashed: weakref.WeakKeyDictionary[nn.Module, _Weights] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
forks.renew(globals(), _lock=threading.Lock)


def of_weights(encoder: nn.Module, names: list[str]) -> list[str]:
    """SHA-256 of the named weights; each is computed once while the encoder lives and is not changed."""
    with _lock:
        known = _known(encoder)
        parameters = dict(encoder.named_parameters())
        for name in names:
            if name not in known:
                known[name] = of_weight(parameters[name])
        _hashed[encoder] = (state_of(encoder), known)
        return [f"{name} {known[name]}" for name in names]


def note_unchanged(encoder: nn.Module, copy: nn.Module, trained: nn.Module) -> None:
    """Note which weights of a fit's new copy are still those of `encoder`: they need no hashing.

    Parameters
    ----------
    encoder, copy : nn.Module
        What the fit started from, and its result.
    trained : nn.Module
        The model in the training loop: a weight that requires no gradient there was not changed.
    """
    fixed = {name for name, p in trained.named_parameters() if not p.requires_grad}
    with _lock:
        known = _known(encoder)
        before, after = dict(encoder.named_parameters()), dict(copy.named_parameters())
        kept = {n for n in before.keys() & after.keys() if _holds(after[n].dtype, before[n].dtype)}
        names = fixed & known.keys() & kept
        _hashed[copy] = (state_of(copy), {name: known[name] for name in names})


def _holds(wide: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether a fit in another precision has rounded nothing."""
    return torch.promote_types(wide, dtype) == wide


def knows_all(encoder: nn.Module) -> bool:
    """Whether no weight of an encoder would have to be hashed."""
    with _lock:
        _, names = _hashed.get(encoder, ([], {}))
        # Names first: mostly the first is unknown, and a prediction of one text takes only milliseconds.
        return all(name in names for name, _ in encoder.named_parameters()) and bool(_known(encoder))


def _known(encoder: nn.Module) -> dict[str, str]:
    if encoder not in _hashed:
        return {}
    state, known = _hashed[encoder]
    return known if state == state_of(encoder) else {}


def state_of(module: nn.Module) -> list[tuple[int, int, int]]:
    """Values that change with the weights, as far as torch can tell."""
    return [(id(p), p.data_ptr(), p._version) for p in module.parameters()]


def of_weight(weight: torch.Tensor) -> str:
    """Dtype, shape and SHA-256 of a weight."""
    values = weight.detach().cpu().contiguous().numpy()
    content = hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()
    return f"{values.dtype} {values.shape} {content}"
