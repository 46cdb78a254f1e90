"""Blocks that leave the process as it was, however they end: with a result, an error or Ctrl-C.

CPython handles signals where a Python function begins, and so also at the entry of an `__exit__` written in
Python, like those of `contextlib` and torch: the exit is then left undone, and nothing tries again. So:

1. `scope` makes a context manager from a generator, as `contextlib.contextmanager` does, but only the `with`
   statement holds the generator, and no traceback does. If its exit is cut off, the generator is closed as
   soon as the statement is abandoned, and runs its own `finally` blocks, innermost first.
2. The state before the block is recorded (`TorchModes`, `TorchFunctions`) and restored, whatever the block
   has left; twice, in case a signal comes in between.

Not covered are a second Ctrl-C within the microseconds in which the first is handled; one between two lines
in which torch's modes set flags that no mode stack shows; and interpreters that do not count references,
where the generator is closed some time later.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, _GeneratorContextManager, nullcontext
from functools import partial, wraps
from traceback import walk_tb
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import overrides
from torch.utils import _device, _python_dispatch

T = TypeVar("T", covariant=True)
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class Scope(Generic[T]):
    """What one `with` statement enters, or each call of a function decorated with it.

    Parameters
    ----------
    begin : callable
        Makes the generator.
    """

    # On the instance: the statement uses them as they are, C functions before which no signal is handled.
    __slots__ = ("__enter__", "__exit__", "begin")

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        generator = cast(Any, begin())
        self.begin = begin
        self.__enter__: Callable[[], T] = generator.__next__
        leave: Any = partial(_close, weakref.ref(generator), sys.exc_info()[1])
        leave.generator = generator  # only here, and `leave` is only on the statement's stack
        self.__exit__: Callable[..., None] = leave

    def __call__(self, function: Callable[Q, R]) -> Callable[Q, R]:
        """The function, inside the scope."""

        @wraps(function)
        def inside(*args: Q.args, **kwargs: Q.kwargs) -> R:
            with Scope(self.begin):
                return function(*args, **kwargs)

        return inside


def _close(generator: Any, outside: Any, _: Any, error: BaseException | None, __: Any) -> None:
    """End what is inside, also what a signal has cut off there; then let the interrupt propagate as such.

    After a signal, modes may be out of step: torch's "pop from empty mode stack" is then not an error of a
    file or a model.
    """
    inside = []
    while error is not None and error is not outside:  # what the caller was already handling is not ours
        inside.append(error)
        error = error.__context__
    try:
        for each in inside:
            for frame, _line in reversed(list(walk_tb(each.__traceback__))):
                manager = frame.f_locals.get("self")
                ends = frame.f_code.co_name in ("__enter__", "__exit__")
                if ends and isinstance(manager, _GeneratorContextManager):
                    manager.gen.close()  # else it would run on whenever the traceback is freed
    finally:
        generator().close()
    # If an interrupt closes a scope around this one, that scope lets the interrupt propagate itself.
    if inside and not isinstance(inside[0], KeyboardInterrupt | GeneratorExit):
        for each in inside:
            if isinstance(each, KeyboardInterrupt):
                raise each


def scope(function: Callable[P, Iterator[T]]) -> Callable[P, Scope[T]]:
    """As `contextlib.contextmanager`, but the generator sees no errors from inside; it is closed as usual."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Scope[T]:
        return Scope(partial(function, *args, **kwargs))

    return make


class SupportsPutBack(Protocol):
    """Settings as they were when this object was created."""

    def put_back(self) -> None:
        """Restore them; what is unchanged may be left alone."""


@scope
def keeping(settings: SupportsPutBack) -> Iterator[None]:
    """At the end of a block, restore the settings to what they were when `settings` was created."""
    try:
        yield
    finally:
        try:
            settings.put_back()
        finally:
            settings.put_back()


def _none() -> list[Any]:
    return []


_function_modes: Callable[[], list[Any]] = getattr(overrides, "_get_current_function_mode_stack", _none)
_dispatch_modes: Callable[[], list[Any]] = getattr(
    _python_dispatch, "_get_current_dispatch_mode_stack", _none
)
_AUTOCAST = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)]


class TorchModes:
    """Modes of torch in this thread (with its default device), autocast, and whether gradients are recorded.

    The stacks of modes have no public name in torch. A version with other names for them is used without this
    guard, which is for a signal at the wrong moment.
    """

    def __init__(self) -> None:
        self.functions = _function_modes()
        self.dispatches = _dispatch_modes()
        self.device = getattr(_device, "CURRENT_DEVICE", None)
        # Flags that torch derives from the dispatch modes; their names differ between its versions.
        self.flags = {n: value for n, value in vars(_python_dispatch).items() if n.startswith("_is_in_")}
        self.autocast = {kind: torch.is_autocast_enabled(kind) for kind in _AUTOCAST}
        self.gradients = torch.is_grad_enabled()

    def put_back(self) -> None:
        """Restore the state; what is unchanged is not touched."""
        # The stacks last: if a signal comes in between, the second call sees that there is something to do.
        if _function_modes() != self.functions:
            _device.CURRENT_DEVICE = self.device
            _fill(overrides, _function_modes, self.functions)
        if _dispatch_modes() != self.dispatches:
            vars(_python_dispatch).update(self.flags)
            _fill(_python_dispatch, _dispatch_modes, self.dispatches)
            with _python_dispatch.TorchDispatchMode():
                pass  # when it exits, torch passes the flags to its C++ part
        for kind, enabled in self.autocast.items():
            if torch.is_autocast_enabled(kind) != enabled:
                torch.set_autocast_enabled(kind, enabled)
        if torch.is_grad_enabled() != self.gradients:
            torch.set_grad_enabled(self.gradients)


def _fill(stack: Any, current: Callable[[], list[Any]], modes: list[Any]) -> None:
    held = current()  # torch 2.10 returns modes that it has freed, if nothing else holds them
    while current():
        stack._pop_mode()
    for mode in modes:
        stack._push_mode(mode)
    del held


class TorchFunctions:
    """What code of transformers and peft temporarily replaces in torch, for the whole process.

    The default dtype, `torch.linspace`, and the functions of `torch.nn.init`, also where layers have imported
    them. Functions that others have replaced by then are not touched.
    """

    def __init__(self) -> None:
        self.dtype = torch.get_default_dtype()
        names = {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
        self.functions: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (vars(torch), {"linspace": torch.linspace})
        ]
        for place, module in list(sys.modules.items()):
            if place.startswith(("torch.nn.init", "torch.nn.modules.")):
                there = [(n, f) for n, f in list(vars(module).items()) if n in names]
                found = {n: f for n, f in there if getattr(f, "__module__", None) == "torch.nn.init"}
                self.functions.append((vars(module), found))

    def put_back(self) -> None:
        """Restore them."""
        for namespace, functions in self.functions:
            namespace.update(functions)
        if torch.get_default_dtype() != self.dtype:
            torch.set_default_dtype(self.dtype)


# torch.inference_mode would exit in Python code; and the state that it holds cannot be restored from outside.
inference_mode: Callable[[bool], AbstractContextManager[None]] = torch._C._InferenceMode


@scope
def own_settings() -> Iterator[None]:
    """Let a block or a decorated function compute as it is written, whatever the caller has set.

    Under the caller's autocast, products would be narrower than `precision` says; with another default
    device, tensors meant for the CPU would be elsewhere; tensors created under `inference_mode` could not be
    trained or watched for changes, and under `no_grad` nothing could. All are settings of this thread.
    """
    place = _default.place
    on_place = torch.device(place) if torch.get_default_device().type != place else nullcontext()
    with keeping(TorchModes()), inference_mode(False), on_place:
        for kind in _AUTOCAST:
            torch.set_autocast_enabled(kind, False)
        yield


@scope
def without_memory() -> Iterator[None]:
    """Let a block build models without values: on the meta device, which `own_settings` would leave."""
    before = _default.place
    try:
        _default.place = "meta"
        with own_settings():
            yield
    finally:
        _default.place = before


class _Default(threading.local):
    place = "cpu"  # of tensors created without a device


_default = _Default()
