"""AdamW on master weights, and learning-rate schedules as pure functions of the step.

1. The model works in a narrow dtype where that is faster; the optimizer keeps float32 masters of the weights
   that train (Micikevicius et al., 2018, arXiv:1710.03740).
2. A step copies the gradients to the masters, clips their norm, applies AdamW (Loshchilov and Hutter, 2019,
   arXiv:1711.05101) and copies the masters back into the model.
3. Where the model works in the masters' own dtype, master and weight are one tensor and nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from skbert.model import SequenceClassifier, narrow
from skbert.runtime import Runtime


class MasterAdamW:
    """AdamW whose weights, moments and gradients are at least float32.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, in the masters' dtype; its encoder works in `runtime.dtype` from now on.
    runtime : Runtime
    weight_decay : float
        Applied to matrices; biases and norms (one-dimensional weights) are left out.
    max_grad_norm : float or None
        Gradients are scaled down to this norm; None leaves them.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        runtime: Runtime,
        weight_decay: float,
        max_grad_norm: float | None,
    ) -> None:
        self.max_grad_norm = max_grad_norm
        self.working = [p for p in model.parameters() if p.requires_grad]
        wide = [p.detach() for p in self.working]
        narrow(model, runtime.dtype)
        self.masters = [
            p if p.dtype == w.dtype else nn.Parameter(w) for p, w in zip(self.working, wide, strict=True)
        ]
        self._pairs = [(p, m) for p, m in zip(self.working, self.masters, strict=True) if p is not m]
        # Allocated once: fresh memory of this size would be mapped and cleared anew at every step.
        self._gradients = [torch.zeros_like(m) for _, m in self._pairs]
        self._adamw = torch.optim.AdamW(
            parameter_groups(self.masters, weight_decay),
            lr=0.0,
            fused=runtime.device.type in ("cpu", "cuda", "mps"),
        )

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update with the gradients that `backward` left in the model; clears them."""
        self._widen_gradients()
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        if self._pairs:
            working, masters = zip(*self._pairs, strict=True)
            torch._foreach_copy_(list(working), list(masters))
        for parameter in (*self.working, *self.masters):
            parameter.grad = None

    def _widen_gradients(self) -> None:
        """Give each master the gradient of its narrow weight; none where nothing reached it."""
        narrow_gradients, wide_gradients = [], []
        for (working, master), wide in zip(self._pairs, self._gradients, strict=True):
            if working.grad is not None:
                narrow_gradients.append(working.grad)
                wide_gradients.append(wide)
                master.grad = wide
        if wide_gradients:
            torch._foreach_copy_(wide_gradients, narrow_gradients)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the masters into the model in place of its narrow weights."""
        for working, master in self._pairs:
            working.data = master.data


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, biases and norms without (Devlin et al., 2019)."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def linear_schedule(step: int, n_steps: int, warmup_ratio: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up to one, linear decay to zero.

    The first step already moves, and the step after the last one would have the factor zero.
    """
    warmup = math.ceil(n_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (n_steps - step) / max(1, n_steps - warmup)
