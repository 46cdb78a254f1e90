"""Errors of signal handlers, told from others."""

import contextlib
import gc
import signal
import time
import weakref
from functools import partial

import filelock
import pytest

from skbert import exceptions
from skbert.process import signal_errors


def test_what_a_signal_handler_raises_is_no_error_of_a_disk():
    with pytest.raises(TimeoutError, match="my limit"):
        signal_errors.raise_if_of_a_handler(TimeoutError("my limit"))
    signal_errors.raise_if_of_a_handler(OSError(28, "No space left on device"))
    signal_errors.raise_if_of_a_handler(TimeoutError(110, "Connection timed out"))
    signal_errors.raise_if_of_a_handler(filelock.Timeout("file.lock"))
    signal_errors.raise_if_of_a_handler(exceptions.CheckpointError("not there"))
    signal_errors.raise_if_of_a_handler(ValueError("a"))


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
            signal_errors.raise_if_of_a_handler(caught.value)
        signal_errors.raise_if_of_a_handler(error("another"))
    finally:
        signal.signal(signal.SIGALRM, before)


def call(function):
    """As skbert does what may fail."""
    try:
        function()
    except Exception as error:
        signal_errors.raise_if_of_a_handler(error)
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
