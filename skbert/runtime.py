"""Where and how tensors live: device, precision, memory, and random state that stays inside skbert."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skbert.exceptions import InputError

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


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
        "auto" takes CUDA where there is one, else the CPU.
    precision : {"auto", "bfloat16", "float32", "float64", "int8"}
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
        If the device does not exist on this machine, or cannot work in `precision`.
    """
    if precision == "int8":
        if device != "auto" and _named_device(device).type != "cpu":
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
    return Runtime(chosen, _DTYPES[precision])


def _auto_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _named_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device={name!r} is not a device. Expected 'auto', 'cpu', 'cuda', 'cuda:1', ..."
        ) from error
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise InputError(
                f"device={name!r} was asked for, but torch {torch.__version__} finds {found} CUDA devices "
                "here. Use device='auto' or 'cpu'."
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    return device


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
    dropout: torch.Generator  # dropout masks, on the device
    probe: np.random.Generator  # parts of the texts that a linear probe is tried on
    seed: int  # for the global generators, while they are isolated

    @classmethod
    def from_seed(cls, seed: int, device: torch.device) -> Generators:
        """Spawn independent streams."""
        order, *others, probe = np.random.SeedSequence(seed).spawn(5)
        weights, dropout, scope = (int(s.generate_state(1, np.uint64)[0] >> 1) for s in others)
        return cls(
            order=np.random.default_rng(order),
            weights=torch.Generator().manual_seed(weights),
            dropout=torch.Generator(device).manual_seed(dropout),
            probe=np.random.default_rng(probe),
            seed=scope,
        )


_scopes_lock = threading.Lock()
_scopes: list[object] = []  # entered and not left yet, in all threads
_before: list[tuple[Any, torch.Tensor]] = []  # the state before the first of them


@contextmanager
def isolated_generators(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Let a block draw from torch's global generators, and put back their state afterwards.

    Model code of transformers draws from them (initial weights, dropout in eager attention); whoever uses
    skbert finds them as they were.

    Parameters
    ----------
    seed : int, default=None
        Seed inside the block; None leaves the state as it is.
    device : torch.device, default=None
        A CUDA device whose generator is isolated too.
    """
    cuda = device if device is not None and device.type == "cuda" else None
    scope = object()
    with _scopes_lock:
        python_state = random.getstate()  # an import inside the block may draw from it (rich does)
        cpu_state = torch.get_rng_state()
        if not _scopes:
            _before[:] = [(python_state, cpu_state)]
        _scopes.append(scope)
    cuda_state = None if cuda is None else torch.cuda.get_rng_state(cuda)
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if cuda is not None:
                with torch.cuda.device(cuda):
                    torch.cuda.manual_seed(seed)
        yield
    finally:
        with _scopes_lock:
            _scopes.remove(scope)
            if not _scopes:  # scopes of several threads may end in another order than they began
                python_state, cpu_state = _before.pop()
            random.setstate(python_state)
            torch.set_rng_state(cpu_state)
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
