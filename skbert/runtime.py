"""Where and how tensors live: device, precision, memory, and random state that stays inside skbert."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skbert import forks, workers
from skbert.exceptions import InputError, raise_if_of_a_handler
from skbert.openmp import threads_given_back
from skbert.scopes import TorchFunctions, keeping, own_settings, scope, trainable

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_PRECISIONS = ("auto", *_DTYPES, "int8")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device and precision of one call."""

    device: torch.device
    dtype: torch.dtype  # of the encoder; the head and the master weights are at least float32
    int8: bool = False  # the encoder's linear layers work in 8-bit integers

    @property
    def master_dtype(self) -> torch.dtype:
        """Of master weights, head, loss and logits."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def predict_tokens(self) -> int:
        """Padded tokens in one prediction batch: large products, yet a bounded memory."""
        return 65_536 if self.device.type == "cuda" else 2_048


def wide_dtype(runtime: Runtime) -> type[np.floating[Any]]:
    """The master dtype, as numpy calls it."""
    return np.float64 if runtime.master_dtype == torch.float64 else np.float32


def resolve_runtime(device: str | torch.device, precision: str, *, predict: bool = False) -> Runtime:
    """Choose device and precision.

    Parameters
    ----------
    device : str
        "auto" takes CUDA where there is one, else the CPU; of several GPUs one of its own in each worker
        or rank (`workers.py`).
    precision : {"auto", "bfloat16", "float16", "float32", "float64", "int8"}
        "auto" takes bfloat16 where the hardware multiplies it faster, else float32. "int8" is for predictions
        on a CPU; for training it is "auto".
    predict : bool, default=False
        Whether the call only predicts.

    Returns
    -------
    Runtime

    Raises
    ------
    InputError
        If the device does not exist on this machine, or cannot work in `precision`; or if one of them is no
        valid value, which `set_params` on a fitted model does not check.
    """
    if precision not in _PRECISIONS:
        known = ", ".join(map(repr, _PRECISIONS))
        raise InputError(f"precision={precision!r} is not a precision. Expected one of {known}.")
    workers.settle()
    if precision == "int8":
        if device != "auto" and _parsed(device).type != "cpu":
            raise InputError(
                f"precision='int8' predicts on a CPU, but device={str(device)!r}. Set device='auto' (fit "
                "then takes a GPU where there is one) or 'cpu'; or precision='auto'."
            )
        if predict:
            return Runtime(torch.device("cpu"), torch.float32, int8=True)
        precision = "auto"
    chosen = _auto_device() if device == "auto" else _named_device(device)
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(chosen) else "float32"
    if chosen.type != "cuda":
        _check_it_computes(chosen, precision)
    return Runtime(chosen, _DTYPES[precision])


def _auto_device() -> torch.device:
    if torch.cuda.is_available():
        return _own_gpu()
    return torch.device("cpu")


def _own_gpu() -> torch.device:
    found, current = torch.cuda.device_count(), torch.cuda.current_device()
    return torch.device("cuda", workers.gpu_of_this_process(found, current))


def _parsed(name: str | torch.device) -> torch.device:
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device={name!r} is not a device. Expected 'auto', 'cpu', 'cuda', 'cuda:1', ..."
        ) from error


def _named_device(name: str | torch.device) -> torch.device:
    device = _parsed(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise InputError(
                f"device={name!r} was asked for, but torch {torch.__version__} finds {found} CUDA devices "
                f"here, on {platform.node()}. Use device='auto' or 'cpu'."
            )
        return _own_gpu() if device.index is None else device
    return device


def _check_it_computes(device: torch.device, precision: str) -> None:
    try:
        # The meta device has no numbers to give back; some devices have no float64.
        torch.empty(0, dtype=_DTYPES[precision], device=device).cpu()
    except Exception as error:  # of a type that each backend chooses
        raise_if_of_a_handler(error)
        raise InputError(
            f"device={str(device)!r} was asked for, but torch {torch.__version__} cannot use it here, on "
            f"{platform.node()}, in precision={precision!r} ({str(error)[:200]}). Use device='auto' or "
            "'cpu', or another precision."
        ) from error


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere on; emulated before
    if device.type == "cpu":
        # Without these instructions oneDNN emulates bfloat16, slower than float32.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


@dataclass(frozen=True, slots=True)
class Generators:
    """The random streams of one fit, all from one seed."""

    order: np.random.Generator  # order of the texts
    weights: torch.Generator  # new weights, on the CPU
    dropout: torch.Generator  # dropout masks, on the device; on CUDA its own generator draws them
    probe: np.random.Generator  # parts of the texts that a linear probe is tried on
    seed: int  # for the generator of a CUDA device, while it is isolated

    @classmethod
    def from_seed(cls, seed: int, device: torch.device, rank: int = 0) -> Generators:
        """Spawn independent streams; ranks of one fit differ in their dropout, and in nothing else."""
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
            seed=of_device,
        )


class DrawsFrom(TorchDispatchMode):
    """Let code that names no generator draw from this one, in this thread alone.

    Code of transformers and peft draws initial weights and some dropout masks from torch's global generator.
    Within this scope it does not: whoever else uses that one, in whatever thread, finds it as it was.

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
    """Give the mean, or the least, where random numbers were to be filled in; in this thread alone.

    For weights that will be overwritten: to draw those of BERT-base takes longer than to read them. Memory
    could not be left as it is, for some draws are repeated until all numbers lie within bounds.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, unless it draws in place."""
        if func._schema.name.endswith("_") and _drawing(func) is not None:
            # The first parameter of the distribution; `random_(n)` draws below its own.
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

    While they build they change settings of the whole process, and put back what they found: the functions of
    `torch.nn.init`, torch's default dtype, their verbosity. Two threads at once leave them changed.

    Parameters
    ----------
    generator : torch.Generator, default=None
        Source of the initial weights; None takes any, for weights that are to be overwritten.
    """
    workers.settle()
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    with (
        _one_builder,
        threads_given_back(),
        keeping(TorchFunctions()),
        trainable(),
        own_settings(),
        DrawsFrom(source),
    ):
        yield


_one_builder = threading.RLock()


@scope
def isolated_cuda(seed: int, device: torch.device) -> Iterator[None]:
    """Let a block draw from the global generator of a CUDA device, and put back its state afterwards.

    Fused attention can draw its dropout masks from nowhere else, and all dropout there does. So one fit at a
    time trains on CUDA. On other devices this does nothing: nothing draws from their generators.

    Parameters
    ----------
    seed : int
        Inside the block.
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
