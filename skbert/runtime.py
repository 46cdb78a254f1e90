"""Device and precision: where tensors are, and how they are computed."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skbert.exceptions import InputError
from skbert.process import workers
from skbert.process.signal_errors import raise_if_of_a_handler

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
        """Dtype of master weights, head, loss and logits."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def master_dtype_in_numpy(self) -> type[np.floating[Any]]:
        """The same dtype in numpy."""
        return np.float64 if self.dtype == torch.float64 else np.float32

    @property
    def predict_tokens(self) -> int:
        """Padded tokens in one prediction batch: enough for large products, within bounded memory."""
        return 65_536 if self.device.type == "cuda" else 2_048


def resolve_runtime(device: str, precision: str, *, predict: bool = False) -> Runtime:
    """Choose device and precision.

    Parameters
    ----------
    device : str
        "auto" uses CUDA if it is available, else the CPU; with several GPUs, each worker or rank uses one of
        its own (`process/workers.py`).
    precision : {"auto", "bfloat16", "float16", "float32", "float64", "int8"}
        "auto" is bfloat16 where the hardware multiplies it faster, else float32. "int8" is for predictions
        on a CPU; in training it means "auto".
    predict : bool, default=False
        Whether the call only predicts.

    Raises
    ------
    InputError
        If the device does not exist on this machine, or cannot compute in `precision`; or if either is not a
        valid value, which `set_params` on a fitted model does not check.
    """
    if precision not in _PRECISIONS:
        known = ", ".join(map(repr, _PRECISIONS))
        raise InputError(f"precision={precision!r} is not a precision. Expected one of {known}.")
    workers.limit_threads()
    if precision == "int8":
        if device != "auto" and _parsed(device).type != "cpu":
            raise InputError(
                f"precision='int8' predicts on a CPU, but device={str(device)!r}. Set device='auto' (fit "
                "then uses a GPU where there is one) or 'cpu'; or set precision='auto'."
            )
        if predict:
            return Runtime(torch.device("cpu"), torch.float32, int8=True)
        precision = "auto"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _named_device(device)
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(chosen) else "float32"
    if chosen.type != "cuda":
        _check_it_computes(chosen, precision)
    return Runtime(chosen, _DTYPES[precision])


def matmul_precision(device: torch.device) -> str:
    """Precision of float32 matrix products on a device: "ieee", which is the default, "tf32" or "bf16".

    `torch.get_float32_matmul_precision` raises if the settings that are read here have been used.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    precision = backend.matmul.fp32_precision
    return "ieee" if precision == "none" else precision


def _parsed(name: str) -> torch.device:
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device={name!r} is not a device. Expected 'auto', 'cpu', 'cuda', 'cuda:1', ..."
        ) from error


def _named_device(name: str) -> torch.device:
    device = _parsed(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise InputError(
                f"device={name!r} was asked for, but torch {torch.__version__} finds {found} CUDA devices "
                f"here, on {platform.node()}. Use device='auto' or 'cpu'."
            )
        if device.index is None:
            return torch.device("cuda", workers.gpu_of_this_process(found, torch.cuda.current_device()))
    return device


def _check_it_computes(device: torch.device, precision: str) -> None:
    try:
        # The meta device has no values to copy back; some devices have no float64.
        torch.empty(0, dtype=_DTYPES[precision], device=device).cpu()
    except Exception as error:  # each backend raises a type of its own
        raise_if_of_a_handler(error)
        raise InputError(
            f"device={str(device)!r} was asked for, but torch {torch.__version__} cannot use it here, on "
            f"{platform.node()}, in precision={precision!r} ({str(error)[:200]}). Use device='auto' or "
            "'cpu', or another precision."
        ) from error


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # from Ampere on; emulated before
    if device.type == "cpu":
        # Without these instructions oneDNN emulates bfloat16, slower than float32.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
