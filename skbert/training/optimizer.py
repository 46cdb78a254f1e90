"""AdamW on master weights, and learning-rate schedules as pure functions of the step.

1. The model works in a narrow dtype where that is faster; the optimizer keeps float32 masters of the weights
   that train (Micikevicius et al., 2018, arXiv:1710.03740).
2. A step copies the gradients to the masters, clips their norm, applies AdamW (Loshchilov and Hutter, 2019,
   arXiv:1711.05101) and copies the masters back into the model.
3. Where the model works in the masters' own dtype, master and weight are one tensor and nothing is copied.
4. In float16 small gradients would vanish: torch's GradScaler scales the loss, and skips a step whose
   gradients overflow, without waiting for the device (same paper, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from skbert.network.model import SequenceClassifier, cast_encoder
from skbert.runtime import Runtime
from skbert.training.freezing import depths

# Gradients of a mean loss are small: torch's own initial scale, 2 ** 16, costs some fits the first steps.
_LOSS_SCALE = 2.0**12


@dataclass(frozen=True, slots=True)
class Moments:
    """What AdamW remembers: its steps, and the running means of each weight's gradient and of its square."""

    steps: int  # of the weight that has been training longest
    steps_of: dict[str, int]  # of each weight, which may have been frozen for some steps
    rows: torch.Tensor  # of the embedding table that were in training
    of_weights: dict[str, tuple[torch.Tensor, ...]]  # by the weight's name, on the CPU
    loss_scale: dict[str, Any]  # GradScaler's state; empty where it does nothing


@dataclass(frozen=True, slots=True)
class WeightState:
    """A weight in training, and what AdamW remembers about it."""

    weight: torch.Tensor
    first: torch.Tensor  # running mean of its gradient
    second: torch.Tensor  # of the gradient's square
    steps: int  # number of steps in which it had a gradient


class _AdamW(torch.optim.AdamW):
    """Without a question that starts CUDA for a fit on the CPU; in a forked process it fails (torch 2.13)."""

    def _accelerator_graph_capture_health_check(self) -> None:
        """Nobody captures a step of a fit."""


class MasterAdamW:
    """AdamW whose weights, moments and gradients are at least float32.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, in the masters' dtype; its encoder works in `runtime.dtype` from now on. Weights that
        require a gradient are trained.
    runtime : Runtime
    weight_decay : float
        Applied to matrices; biases and norms (one-dimensional weights) are left out.
    layer_decay : float
        Factor of the learning rate per layer of distance from the head.
    max_grad_norm : float or None
        Gradients are scaled down to this norm; None leaves them as they are.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        runtime: Runtime,
        weight_decay: float,
        layer_decay: float,
        max_grad_norm: float | None,
    ) -> None:
        self.max_grad_norm = max_grad_norm
        self.embedding_decay = 1.0  # weight decay so far of an embedding row that never occurred
        scales = learning_rate_scales(model, layer_decay)
        self._table = model.encoder.get_input_embeddings().weight
        self._table_decay = scales[self._table] * weight_decay
        names, working = zip(*model.named_parameters(), strict=True)
        wide = [p.detach() for p in working]
        cast_encoder(model, runtime.dtype)
        masters = [p if p.dtype == w.dtype else _master(p, w) for p, w in zip(working, wide, strict=True)]
        self._masters_by_name = dict(zip(names, masters, strict=True))
        trained = [(p, m) for p, m in zip(working, masters, strict=True) if p.requires_grad]
        self.masters = [m for _, m in trained]
        self._pairs = [(p, m) for p, m in trained if p is not m]
        # Allocated once: fresh memory of this size would be mapped and cleared anew at every step.
        self._gradients = [torch.zeros_like(m) for _, m in self._pairs]
        self._adamw = _AdamW(
            parameter_groups([(m, scales[p]) for p, m in trained], weight_decay),
            lr=0.0,
            fused=runtime.device.type in ("cpu", "cuda", "mps"),
        )
        scales_loss = runtime.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(runtime.device.type, init_scale=_LOSS_SCALE, enabled=scales_loss)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those in the model, scaled as `step` expects them."""
        self.scaler.scale(loss).backward()

    @torch.no_grad()
    def step(
        self, learning_rate: float, all_reduce: Callable[[list[torch.Tensor]], None] = lambda gradients: None
    ) -> None:
        """One update with the gradients that `backward` left in the model; clears them.

        `all_reduce` is given the wide gradients, still scaled, and may change them in place.
        """
        # A step that GradScaler skips counts here, too: finding out would mean waiting for the device.
        if self._table.grad is not None:
            self.embedding_decay *= 1 - learning_rate * self._table_decay
        self._upcast_gradients()
        all_reduce([m.grad for m in self.masters if m.grad is not None])
        self.scaler.unscale_(self._adamw)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.scaler.step(self._adamw)
        self.scaler.update()
        self._downcast_weights()
        for working, _ in self._pairs:
            working.grad = None
        self._adamw.zero_grad()  # those of the masters

    def steps_taken(self) -> int:
        """Number of steps that were not skipped because gradients overflowed; waits for the device."""
        return max((int(state["step"]) for state in self._adamw.state.values()), default=0)

    def _upcast_gradients(self) -> None:
        """Give each master the gradient of its narrow weight; none where no gradient reached it."""
        narrow_gradients, wide_gradients = [], []
        for (working, master), wide in zip(self._pairs, self._gradients, strict=True):
            if working.grad is not None:
                narrow_gradients.append(working.grad)
                wide_gradients.append(wide)
                master.grad = wide
        if wide_gradients:
            torch._foreach_copy_(wide_gradients, narrow_gradients)

    def _downcast_weights(self) -> None:
        """Copy the masters into the model."""
        if self._pairs:
            working, masters = zip(*self._pairs, strict=True)
            torch._foreach_copy_(list(working), list(masters))

    def snapshot(self) -> tuple[list[torch.Tensor], float]:
        """A copy of all weights that train, on the CPU."""
        return [m.detach().to("cpu", copy=True) for m in self.masters], self.embedding_decay

    @torch.no_grad()
    def load_snapshot(self, snapshot: tuple[list[torch.Tensor], float]) -> None:
        """Put the weights of a snapshot back."""
        weights, self.embedding_decay = snapshot
        for master, weight in zip(self.masters, weights, strict=True):
            master.copy_(weight)
        self._downcast_weights()

    def state(self) -> dict[str, WeightState]:
        """What a step reads and changes, for each weight that trains; the tensors are the optimizer's own.

        Moments that no step has created yet are zero, as the first step would initialize them.
        """
        found = {}
        trained = set(self.masters)
        for name, master in ((n, m) for n, m in self._masters_by_name.items() if m in trained):
            state = self._adamw.state.get(master)
            if state:
                pair, steps = (state["exp_avg"], state["exp_avg_sq"]), int(state["step"])
            else:
                pair, steps = (torch.zeros_like(master), torch.zeros_like(master)), 0
            found[name] = WeightState(master.detach(), *pair, steps)
        return found

    @torch.no_grad()
    def load_state(self, state: dict[str, WeightState]) -> None:
        """Restore the `state` of another optimizer of the same weights."""
        for name, kept in state.items():
            master = self._masters_by_name[name]
            for part in (kept.weight, kept.first, kept.second):
                if part.shape != master.shape:
                    raise ValueError(f"{name} has the shape {tuple(part.shape)}")
            master.copy_(kept.weight)
            self._remember(master, (kept.first, kept.second), kept.steps)
        self._downcast_weights()

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights of the model by name, trained or not, wide; the tensors are the optimizer's own."""
        return {name: master.detach() for name, master in self._masters_by_name.items()}

    def moments(self, rows: torch.Tensor) -> Moments:
        """A copy of what AdamW remembers; `rows` are the rows of the embedding table in training."""
        found, steps = {}, {}
        for name, master in self._masters_by_name.items():
            if master in self._adamw.state:
                state = self._adamw.state[master]
                found[name] = tuple(state[k].to("cpu", copy=True) for k in ("exp_avg", "exp_avg_sq"))
                steps[name] = int(state["step"])
        return Moments(self.steps_taken(), steps, rows, found, self.scaler.state_dict())

    def load_moments(self, moments: Moments) -> None:
        """Continue from what another optimizer of the same weights remembered."""
        for name, pair in moments.of_weights.items():
            self._remember(self._masters_by_name[name], pair, moments.steps_of[name])
        self.load_loss_scale(moments.loss_scale)

    def _remember(self, master: nn.Parameter, pair: Iterable[torch.Tensor], steps: int) -> None:
        """Store copies of the two moments of a weight, as AdamW keeps them."""
        first, second = (torch.empty_like(master).copy_(moment) for moment in pair)
        # float32 as in AdamW, whatever torch's default dtype: bfloat16 cannot represent 257.
        step = torch.full((), float(steps), dtype=torch.float32, device=master.device)
        self._adamw.state[master] = {"step": step, "exp_avg": first, "exp_avg_sq": second}

    def load_loss_scale(self, state: dict[str, Any]) -> None:
        """Restore the result of `scaler.state_dict()`, unless either scaler is disabled."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)


def _master(working: nn.Parameter, wide: torch.Tensor) -> nn.Parameter:
    """The wide weight; one that does not train is needed only for the result, and takes no device memory."""
    return nn.Parameter(wide if working.requires_grad else wide.cpu(), requires_grad=working.requires_grad)


def learning_rate_scales(model: SequenceClassifier, layer_decay: float) -> dict[nn.Parameter, float]:
    """Factor of the learning rate for each weight: `layer_decay` to the power of its distance from the head.

    Layer-wise learning-rate decay (Howard and Ruder, 2018, arXiv:1801.06146; Clark et al., 2020,
    arXiv:2003.10555).
    """
    if layer_decay == 1.0:
        return dict.fromkeys(model.parameters(), 1.0)
    return {parameter: layer_decay**depth for parameter, depth in depths(model).items()}


def parameter_groups(
    parameters: Iterable[tuple[nn.Parameter, float]], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups by learning-rate scale; biases and norms have no weight decay (Devlin et al., 2019)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, scale in parameters:
        groups.setdefault((scale, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "scale": scale}
        for (scale, decay), members in groups.items()
    ]


def linear_schedule(step: int, n_steps: int, warmup_ratio: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up to one, linear decay to zero.

    The first step already has a factor above zero; a step after the last one would have the factor zero.
    """
    warmup = math.ceil(n_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (n_steps - step) / max(1, n_steps - warmup)


def constant_schedule(step: int, n_steps: int, *, first_step: int, warmup: int) -> float:
    """Factor of the learning rate where the number of steps is unknown: warm-up, then constant.

    `first_step` is the number of steps taken before step 0.
    """
    return min(1.0, (first_step + step + 1) / warmup)
