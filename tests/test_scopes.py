"""Blocks after which the process is as it was."""

import gc
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import _GeneratorContextManager

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _python_dispatch
from transformers.utils import logging as transformers_logging

from skbert.pretrained.library import quiet
from skbert.process.scopes import (
    TorchFunctions,
    TorchModes,
    _close,
    keeping,
    own_settings,
    scope,
    without_memory,
)
from skbert.randomness import DrawsFrom, DrawsNothing, building


def test_what_is_built_gives_gradients_also_where_they_are_off():
    with torch.inference_mode(), building():
        layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_own_settings(dtype):
    matrix = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=dtype), torch.device("meta"):
        with own_settings():
            assert (matrix @ matrix).dtype == torch.float32
            assert torch.empty(1).device.type == "cpu"
        assert (matrix @ matrix).dtype == dtype
        assert torch.empty(1).device.type == "meta"
        with pytest.raises(KeyError), own_settings():
            raise KeyError
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_a_block_without_memory_has_shapes_alone():
    with without_memory():
        with building(), own_settings():
            assert torch.nn.Linear(10**7, 10**7).weight.device.type == "meta"
        assert torch.empty(1).device.type == "meta"
    with building():
        assert torch.empty(1).device.type == "cpu"


@pytest.mark.parametrize("error", [None, KeyError])
def test_modes_that_were_left_inside_are_taken_off(error):
    """In whatever order, as signals leave them: torch itself takes off the uppermost, whichever that is."""
    with torch.device("meta"), DrawsNothing() as outer:
        modes = _get_current_function_mode_stack()
        flags = {name: value for name, value in vars(_python_dispatch).items() if name.startswith("_is_in_")}
        try:
            with keeping(TorchModes()):
                torch.device("cpu").__enter__()
                DrawsFrom(torch.Generator()).__enter__()
                torch.set_autocast_enabled("cpu", True)
                torch.set_grad_enabled(False)
                if error is not None:
                    raise error
        except KeyError:
            pass
        assert _get_current_function_mode_stack() == modes
        assert _python_dispatch._get_current_dispatch_mode_stack() == [outer]
        assert flags == {name: vars(_python_dispatch)[name] for name in flags}
        assert not torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
        assert torch.empty(1).device.type == "meta"
    assert torch.empty(1).device.type == "cpu"


def test_what_was_taken_off_inside_is_put_back():
    with torch.device("meta"):
        with keeping(TorchModes()):
            torch.overrides._pop_mode()
        assert torch.empty(1).device.type == "meta"
    assert torch.empty(1).device.type == "cpu"


def test_functions_of_torch_that_were_replaced_inside_are_put_back(monkeypatch):
    normal, linspace = torch.nn.init.normal_, torch.linspace
    monkeypatch.setattr(torch.nn.init, "normal_", normal)  # put back, whatever comes
    monkeypatch.setattr(torch, "linspace", linspace)
    with keeping(TorchFunctions()):
        torch.nn.init.normal_ = torch.linspace = None
        torch.set_default_dtype(torch.float64)
    assert (torch.nn.init.normal_, torch.linspace) == (normal, linspace)
    assert torch.get_default_dtype() == torch.float32


def interrupted_at(function, number=1):
    """A profiler that raises where `function` begins for the n-th time."""
    left = [number]

    def watch(frame, event, _):
        if event == "call" and frame.f_code is function.__code__:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    return watch


def interrupt(block, at):
    sys.setprofile(at)
    try:
        with pytest.raises(KeyboardInterrupt) as kept:
            block()
    finally:
        sys.setprofile(None)
    return kept


@pytest.mark.parametrize("which", ["quiet", "building"])
def test_an_interrupt_as_the_exit_begins(which):
    """All is put back while the exception is kept, and the next thread has its turn."""
    found = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    entered = {"quiet": quiet, "building": building}[which]

    def block():
        with torch.device("meta"), entered():
            assert torch.empty(1).device.type == "cpu"

    kept = interrupt(block, interrupted_at(_close))
    assert not _python_dispatch._get_current_dispatch_mode_stack()
    assert not _get_current_function_mode_stack()
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == found
    with ThreadPoolExecutor(1) as pool:
        pool.submit(exec, "with building(): pass", {"building": building}).result(10)
    del kept


def test_an_interrupt_as_settings_are_put_back():
    def block():
        with own_settings():
            DrawsNothing().__enter__()

    for number in (1, 2):
        with torch.autocast("cpu"):
            kept = None
            try:
                kept = interrupt(block, interrupted_at(TorchModes.put_back, number))
            finally:
                assert torch.is_autocast_enabled("cpu")
                assert not _python_dispatch._get_current_dispatch_mode_stack()
    del kept


def test_an_interrupt_that_makes_modes_miss_each_other_is_an_interrupt():
    """torch cannot leave a mode that is not there; that is no error of what was being built."""

    def block():
        with building():
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("trying to pop from empty mode stack")

    with pytest.raises(KeyboardInterrupt):
        block()


def test_an_error_is_no_interrupt_because_it_follows_one():
    """A model may be saved while an interrupt is handled."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(KeyError), building():
            raise KeyError  # noqa: B904


@pytest.mark.parametrize(("method", "event"), [("__enter__", "c_return"), ("__exit__", "call")])
def test_what_a_signal_has_cut_off_inside_does_not_go_on_later(method, event):
    """A generator of contextlib would run its end when the traceback is gone, and push its mode again."""
    code = getattr(_GeneratorContextManager, method).__code__

    def watch(frame, what, _):
        if what == event and frame.f_code is code:
            raise KeyboardInterrupt

    def block():
        # torch itself uses this one.
        with keeping(TorchModes()), DrawsNothing(), _python_dispatch._pop_mode_temporarily():
            pass

    kept = interrupt(block, watch)
    assert not _python_dispatch._get_current_dispatch_mode_stack()
    del kept
    gc.collect()
    assert not _python_dispatch._get_current_dispatch_mode_stack()


@pytest.mark.parametrize("line", [0, 3])
@pytest.mark.parametrize("which", ["silenced", "put back"])
def test_an_interrupt_in_logging_leaves_neither_its_lock_nor_silence(which, line):
    """Before Python 3.13 `setLevel`, by which transformers is silenced, takes a lock without a `finally`."""
    child = logging.getLogger("transformers.models.bert")
    calls, lines = [], []

    def interrupt(frame, event, arg):
        if frame.f_code.co_name != "_clear_cache":
            return None
        calls.append(frame)
        return inside if len(calls) == (1 if which == "silenced" else 2) else None

    def inside(frame, event, arg):
        lines.append(frame.f_lineno)
        if len(lines) == line + 1:
            sys.settrace(None)
            raise KeyboardInterrupt
        return inside

    before = logging.getLogger("transformers").level
    assert child.isEnabledFor(logging.WARNING)
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), quiet():
            assert not child.isEnabledFor(logging.WARNING)
    finally:
        sys.settrace(None)
    assert not logging._lock._is_owned()
    assert logging.getLogger("transformers").level == before
    assert child.isEnabledFor(logging.WARNING)


def test_a_scope_is_a_block_or_a_decorator():
    seen = []

    @scope
    def noted(word):
        seen.append(word)
        try:
            yield word
        finally:
            seen.append(f"no {word}")

    @noted("again")
    def function(value):
        seen.append(value)
        return value

    with noted("once") as word:
        assert word == "once"
    assert [function(1), function(2)] == [1, 2]
    assert seen == ["once", "no once", "again", 1, "no again", "again", 2, "no again"]
    assert function.__name__ == "function"
    with pytest.raises(KeyError), noted("failed"):
        raise KeyError
    assert seen[-1] == "no failed"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_what_is_made_there_can_be_trained(mode):
    with mode():
        with own_settings():
            made = torch.ones(1, requires_grad=True)
            (made * 2).sum().backward()
        assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert made.grad == 2
