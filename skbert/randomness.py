"""Random numbers: the streams of a fit, and how code of other libraries draws from them, or draws none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skbert.process import forks, workers
from skbert.process.openmp import threads_given_back
from skbert.process.scopes import TorchFunctions, keeping, own_settings, scope


@dataclass(frozen=True, slots=True)
class Generators:
    """The random streams of one fit, all from one seed."""

    order: np.random.Generator  # order of the texts
    weights: torch.Generator  # new weights, on the CPU
    dropout: torch.Generator  # dropout masks, on the device; on CUDA its own generator draws them
    probe: np.random.Generator  # parts of the texts that a linear probe is tried on
    cuda_seed: int  # for the generator of a CUDA device, while it is isolated

    @classmethod
    def from_seed(cls, seed: int, device: torch.device, rank: int = 0) -> Generators:
        """Spawn independent streams; ranks of one fit differ only in their dropout."""
        order, *others, probe = np.random.SeedSequence(seed).spawn(5)
        weights, dropout, of_device = (int(s.generate_state(1, np.uint64)[0] >> 1) for s in others)
        if rank > 0:
            own = np.random.SeedSequence([seed, rank]).generate_state(2, np.uint64) >> 1
            dropout, of_device = (int(value) for value in own)
        return cls(
            order=np.random.default_rng(order),
            weights=torch.Generator().manual_seed(weights),
            dropout=torch.Generator(device).manual_seed(dropout),
            probe=np.random.default_rng(probe),
            cuda_seed=of_device,
        )


class DrawsFrom(TorchDispatchMode):
    """Let code that names no generator draw from this one, in this thread alone.

    Code of transformers and peft draws initial weights and some dropout masks from torch's global generator.
    Within this scope it does not: other users of the global generator, in any thread, find it unchanged.

    Parameters
    ----------
    generator : torch.Generator
        Draws on other devices than its own are left alone.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, with the generator if it can take one."""
        given = kwargs or {}
        drawing = _drawing(func)
        if drawing is None or given.get("generator") is not None or not self._is_here(args, given):
            return func(*args, **given)
        return drawing(*args, **given | {"generator": self.generator})

    def _is_here(self, args: tuple[Any, ...], given: dict[str, Any]) -> bool:
        place = args[0].device if args and isinstance(args[0], torch.Tensor) else given.get("device")
        return torch.device(place or "cpu").type == self.generator.device.type


class DrawsNothing(TorchDispatchMode):
    """Fill in the mean, or the minimum, in place of random numbers; in this thread alone.

    For weights that will be overwritten: drawing those of BERT-base takes longer than reading them. Memory
    cannot be left as it is, because some draws are repeated until all numbers lie within bounds.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, unless it draws in place."""
        if func._schema.name.endswith("_") and _drawing(func) is not None:
            # The first parameter of the distribution; that of `random_(n)` is an upper bound.
            first = args[1] if len(args) > 1 and func._overloadname != "to" else 0
            return args[0].copy_(first) if isinstance(first, torch.Tensor) else args[0].fill_(first)
        return func(*args, **(kwargs or {}))


@cache
def _drawing(func: Any) -> Any:
    """The overload of an operation that takes a generator; None if it draws nothing."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._overloadname.replace("default", "")
    return getattr(func.overloadpacket, f"{name}_generator".strip("_"), None)


@scope
def building(generator: torch.Generator | None = None) -> Iterator[None]:
    """Let one thread at a time run code of transformers and peft that builds models.

    While building, they change settings of the whole process and restore them afterwards: the functions of
    `torch.nn.init`, torch's default dtype, their verbosity. Two threads at once would leave them changed.

    Parameters
    ----------
    generator : torch.Generator, default=None
        Source of the initial weights; None uses any, for weights that will be overwritten.
    """
    workers.limit_threads()
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    with (
        _one_builder,
        threads_given_back(),
        keeping(TorchFunctions()),
        own_settings(),
        DrawsFrom(source),
    ):
        yield


_one_builder = threading.RLock()


@scope
def isolated_cuda(seed: int, device: torch.device) -> Iterator[None]:
    """Let a block draw from the global generator of a CUDA device, and restore its state afterwards.

    Fused attention can draw its dropout masks from no other generator, and all dropout on CUDA uses it. So
    only one fit at a time trains on CUDA. On other devices this does nothing: nothing draws from their
    generators.

    Parameters
    ----------
    seed : int
        For the generator inside the block.
    device : torch.device
    """
    if device.type != "cuda":
        yield
        return
    with _one_on_cuda, torch.cuda.device(device):
        state = torch.cuda.get_rng_state(device)
        torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            torch.cuda.set_rng_state(state, device)


_one_on_cuda = threading.RLock()
forks.renew(globals(), _one_builder=threading.RLock, _one_on_cuda=threading.RLock)
