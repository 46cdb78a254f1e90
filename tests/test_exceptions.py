"""The tree of errors, as its docstring draws it."""

import contextlib
import gc
import pickle
import signal
import time
import weakref
from contextlib import nullcontext
from functools import partial

import filelock
import joblib
import pytest

import skbert
from skbert import exceptions

TREE = {
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "CheckpointError": OSError,
    "PersistenceError": ValueError,
    "NonFiniteLossError": ArithmeticError,
    "NonFiniteOutputError": ArithmeticError,
    "RankError": RuntimeError,
}


@pytest.mark.parametrize("name", TREE)
def test_each_error_is_the_built_in_too(name):
    error = getattr(skbert, name)
    assert issubclass(error, skbert.SkbertError)
    assert issubclass(error, TREE[name])
    again = pickle.loads(pickle.dumps(error("what")))  # errors cross processes in a parallel search
    assert type(again) is error
    assert str(again) == "what"


def test_warnings():
    assert issubclass(skbert.TruncationWarning, skbert.SkbertWarning)
    assert issubclass(skbert.SkbertWarning, UserWarning)


def test_every_public_name_can_be_had():
    for name in skbert.__all__:
        assert getattr(skbert, name).__name__ == name
    assert set(skbert.__all__) <= set(dir(skbert))


@pytest.mark.parametrize("outer", [None, "threading"])
def test_joblib_is_as_it_was_where_an_interrupt_hinders_the_exit(outer, monkeypatch):
    class Interrupted(joblib.parallel_config):
        def __enter__(self):
            raise KeyboardInterrupt

    with joblib.parallel_config(outer) if outer else nullcontext():
        before = type(joblib.parallel.get_active_backend()[0])
        monkeypatch.setattr(exceptions, "parallel_config", Interrupted)
        with pytest.raises(KeyboardInterrupt), exceptions.holding_warning_filters():
            pass
        assert type(joblib.parallel.get_active_backend()[0]) is before
        monkeypatch.undo()
        with exceptions.holding_warning_filters():
            assert joblib.effective_n_jobs(2) == 1
        assert type(joblib.parallel.get_active_backend()[0]) is before


def test_what_a_signal_handler_raises_is_no_error_of_a_disk():
    with pytest.raises(TimeoutError, match="my limit"):
        exceptions.raise_if_of_a_handler(TimeoutError("my limit"))
    exceptions.raise_if_of_a_handler(OSError(28, "No space left on device"))
    exceptions.raise_if_of_a_handler(TimeoutError(110, "Connection timed out"))
    exceptions.raise_if_of_a_handler(filelock.Timeout("file.lock"))
    exceptions.raise_if_of_a_handler(exceptions.CheckpointError("not there"))
    exceptions.raise_if_of_a_handler(ValueError("a"))


class TimeIsUpError(Exception):
    """As celery's SoftTimeLimitExceeded."""


class Service:
    def stop(self, number, frame, error):
        raise error("my limit")


class Callable:
    def __call__(self, number, frame):
        raise TimeIsUpError("my limit")


def once(number, frame):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise TimeIsUpError("my limit")


def wait():
    while True:
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of the system")
@pytest.mark.parametrize("error", [TimeIsUpError, ValueError, OSError])
@pytest.mark.parametrize("bound", [False, True])
def test_any_error_of_a_handler_goes_on(error, bound):
    """It comes out of whatever runs when the signal does, and must not be taken for an error of that."""

    def stop(number, frame):
        raise error("my limit")

    before = signal.signal(signal.SIGALRM, partial(Service().stop, error=error) if bound else stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(error, match="my limit") as caught:
            wait()
        with pytest.raises(error, match="my limit"):
            exceptions.raise_if_of_a_handler(caught.value)
        exceptions.raise_if_of_a_handler(error("another"))
    finally:
        signal.signal(signal.SIGALRM, before)


def call(function):
    """As skbert does what may fail."""
    try:
        function()
    except Exception as error:
        exceptions.raise_if_of_a_handler(error)
        raise


def wait_in_a_library():
    try:
        wait()
    except Exception as error:
        raise OSError("cannot be read") from error


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of the system")
@pytest.mark.parametrize("handler", [Callable(), once])
@pytest.mark.parametrize("function", [wait, wait_in_a_library])
def test_a_handler_is_known_by_what_it_is_given(handler, function):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeIsUpError, match="my limit"):
            call(function)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of the system")
def test_a_limit_that_was_dealt_with_is_no_error_of_what_follows():
    def fail():
        raise OSError("another")

    before = signal.signal(signal.SIGALRM, once)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            wait()
        except TimeIsUpError:
            with pytest.raises(OSError, match="another"):
                call(fail)
    finally:
        signal.signal(signal.SIGALRM, before)


class Large:
    """Something whose end can be seen."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of the system")
@pytest.mark.parametrize("function", [wait, wait_in_a_library])
def test_what_was_at_work_is_gone_with_the_error(function):
    """Without waiting for the collector: a fit's states are several times the model."""

    def work(what):
        large = Large()
        seen.append(weakref.ref(large))
        call(what)
        del large

    def fail():
        raise OSError("the disk is full")

    seen = []
    before = signal.signal(signal.SIGALRM, once)
    gc.disable()
    try:
        with contextlib.suppress(OSError):
            work(fail)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with contextlib.suppress(TimeIsUpError):
            work(function)
        assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
