"""Blocks after which the process is as it was, whatever ends them: a result, an error or Ctrl-C.

CPython handles signals where a function of Python begins, so also at the entry of an `__exit__` that is
written in Python, as those of `contextlib` and torch are: it is left undone, and no one tries again. So:

1. `scope` makes a context manager of a generator, as `contextlib.contextmanager` does, but the `with`
   statement alone holds the generator, and no traceback does. If its exit is cut off, the generator is closed
   as soon as the statement is given up, and runs its own `finally` blocks, innermost first.
2. What was before is known (`TorchModes`, `TorchFunctions`), and put back whatever lies inside has left;
   twice, for a signal that comes in between.

What remains: a second Ctrl-C within the microseconds in which the first is dealt with; one between two lines
in which torch's modes set flags that no mode's stack shows; and interpreters that do not count references,
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
    """What one `with` statement enters, or each call of a function that is decorated with it.

    Parameters
    ----------
    begin : callable
        Makes the generator.
    """

    # Of the instance: the statement takes them as they are, functions of C that signals cannot come before.
    __slots__ = ("__enter__", "__exit__", "begin")

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        generator = cast(Any, begin())
        self.begin = begin
        self.__enter__: Callable[[], T] = generator.__next__
        leave: Any = partial(_close, weakref.ref(generator), sys.exc_info()[1])
        leave.generator = generator  # here alone, and `leave` is on the stack of the statement alone
        self.__exit__: Callable[..., None] = leave

    def __call__(self, function: Callable[Q, R]) -> Callable[Q, R]:
        """The function, inside the scope."""

        @wraps(function)
        def inside(*args: Q.args, **kwargs: Q.kwargs) -> R:
            with Scope(self.begin):
                return function(*args, **kwargs)

        return inside


def _close(generator: Any, outside: Any, _: Any, error: BaseException | None, __: Any) -> None:
    """End what is inside, also what a signal has cut off there; then let the interrupt go on as such.

    In the wake of a signal modes may miss each other: torch's "pop from empty mode stack" is no error of a
    file or a model.
    """
    inside = []
    while error is not None and error is not outside:  # what the caller was handling already is none of ours
        inside.append(error)
        error = error.__context__
    try:
        for each in inside:
            for frame, _line in reversed(list(walk_tb(each.__traceback__))):
                manager = frame.f_locals.get("self")
                ends = frame.f_code.co_name in ("__enter__", "__exit__")
                if ends and isinstance(manager, _GeneratorContextManager):
                    manager.gen.close()  # it would go on when the traceback is gone, at any time
    finally:
        generator().close()
    # A scope around this one that is closed by an interrupt lets that go on itself.
    if inside and not isinstance(inside[0], KeyboardInterrupt | GeneratorExit):
        for each in inside:
            if isinstance(each, KeyboardInterrupt):
                raise each


def scope(function: Callable[P, Iterator[T]]) -> Callable[P, Scope[T]]:
    """As `contextlib.contextmanager`; the generator does not hear of errors inside, it is closed as ever."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Scope[T]:
        return Scope(partial(function, *args, **kwargs))

    return make


class SupportsPutBack(Protocol):
    """Settings as they were when this was made."""

    def put_back(self) -> None:
        """Make them so again; what is so already may be left alone."""


@scope
def keeping(settings: SupportsPutBack) -> Iterator[None]:
    """Put settings back as they were when these were made."""
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
    """Of this thread: torch's modes, its default device among them, autocast, whether gradients are kept.

    The stacks of modes have no public name in torch. A version that calls them otherwise is used without this
    guard, which is for a signal at the wrong moment.
    """

    def __init__(self) -> None:
        self.functions = _function_modes()
        self.dispatches = _dispatch_modes()
        self.device = getattr(_device, "CURRENT_DEVICE", None)
        # What torch derives from the dispatch modes; their names differ between its versions.
        self.flags = {n: value for n, value in vars(_python_dispatch).items() if n.startswith("_is_in_")}
        self.autocast = {kind: torch.is_autocast_enabled(kind) for kind in _AUTOCAST}
        self.gradients = torch.is_grad_enabled()

    def put_back(self) -> None:
        """Make it so again; what is so already is not touched."""
        # The stacks last: if a signal comes in between, the second time sees that there is something to do.
        if _function_modes() != self.functions:
            _device.CURRENT_DEVICE = self.device
            _fill(overrides, _function_modes, self.functions)
        if _dispatch_modes() != self.dispatches:
            vars(_python_dispatch).update(self.flags)
            _fill(_python_dispatch, _dispatch_modes, self.dispatches)
            with _python_dispatch.TorchDispatchMode():
                pass  # at its end torch tells its C++ part of the flags
        for kind, enabled in self.autocast.items():
            if torch.is_autocast_enabled(kind) != enabled:
                torch.set_autocast_enabled(kind, enabled)
        if torch.is_grad_enabled() != self.gradients:
            torch.set_grad_enabled(self.gradients)


def _fill(stack: Any, current: Callable[[], list[Any]], modes: list[Any]) -> None:
    held = current()  # torch 2.10 gives back modes that it has freed, if nobody else holds them
    while current():
        stack._pop_mode()
    for mode in modes:
        stack._push_mode(mode)
    del held


class TorchFunctions:
    """What code of transformers and peft replaces in torch for a while, for the whole process.

    The default dtype, `torch.linspace`, and the functions of `torch.nn.init`, also where layers have imported
    them. What others have replaced by then is theirs, and is not touched.
    """

    def __init__(self) -> None:
        self.dtype = torch.get_default_dtype()
        names = {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
        places = [m for n, m in list(sys.modules.items()) if n.startswith(_PLACES)]
        self.functions = [
            (
                vars(m),
                {n: f for n, f in list(vars(m).items()) if n in names and _is_torchs(f)},
            )
            for m in places
        ]
        self.functions.append((vars(torch), {"linspace": torch.linspace}))

    def put_back(self) -> None:
        """Make it so again."""
        for namespace, functions in self.functions:
            namespace.update(functions)
        if torch.get_default_dtype() != self.dtype:
            torch.set_default_dtype(self.dtype)


_PLACES = ("torch.nn.init", "torch.nn.modules.")


def _is_torchs(function: Any) -> bool:
    return getattr(function, "__module__", None) == "torch.nn.init"


# torch.inference_mode would be left in Python; and what it holds on to cannot be put back from outside.
inference_mode: Callable[[bool], AbstractContextManager[None]] = torch._C._InferenceMode


@scope
def own_settings() -> Iterator[None]:
    """Let a block, or a function that is decorated so, compute as it is written, whatever the caller has set.

    Under the caller's autocast products would be narrower than `precision` says; with another default device,
    tensors that are to be on the CPU would be elsewhere; what is made under `inference_mode` could not be
    trained, nor watched for changes, and under `no_grad` nothing could. All are settings of this thread.
    """
    place = _default.place
    on_place = torch.device(place) if torch.get_default_device().type != place else nullcontext()
    with keeping(TorchModes()), inference_mode(False), on_place:
        for kind in _AUTOCAST:
            torch.set_autocast_enabled(kind, False)
        yield


@scope
def without_memory() -> Iterator[None]:
    """Let a block build models of shapes alone: on the meta device, which `own_settings` would leave."""
    before = _default.place
    try:
        _default.place = "meta"
        with own_settings():
            yield
    finally:
        _default.place = before


class _Default(threading.local):
    place = "cpu"  # where tensors are that name no device


_default = _Default()
