"""Threads that a call leaves to OpenMP: none, where another thread would wait for them."""

import os
import subprocess
import sys
import threading

import pytest

from skbert.process import openmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="is about GNU's OpenMP")

SCRIPT = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
import torch
from skbert import BertClassifier
from skbert.process import openmp

assert openmp._pause_function() is not None
torch.set_num_threads(3)
many = torch.ones(1_000_000)


def n_threads():
    return len(os.listdir("/proc/self/task"))


def added_by(call):
    before = n_threads()
    call()
    time.sleep(0.1)  # those that have ended for Python end for the system, too
    return n_threads() - before


texts, labels = ["good film " * 20, "bad film " * 20] * 40, ["pos", "neg"] * 40
made = BertClassifier(sys.argv[1], max_length=64, epochs=1, device="cpu", precision="float32")
loaded = BertClassifier.load(sys.argv[2])


def calls():
    print("torch", added_by(lambda: many.add_(1)))
    for call in (
        lambda: made.fit(texts, labels),
        lambda: loaded.predict_proba(texts),
        lambda: loaded.predict_proba(texts[:1]),
        lambda: BertClassifier.load(sys.argv[2]),
    ):
        many.add_(1)
        print(added_by(call), torch.get_num_threads())


made.fit(texts, labels)  # whatever else is made once
loaded.predict_proba(texts)
thread = threading.Thread(target=calls)
thread.start()
of_system = f"/proc/self/task/{thread.native_id}"
thread.join()
while os.path.exists(of_system):  # it has ended for Python, a moment before it has for the system
    time.sleep(0.01)

# Alone, a short call keeps its threads for the next one, and a long one does not.
for seconds in (60.0, 0.0):
    openmp._SHORT = seconds
    with openmp.threads_given_back():
        many.add_(1)
    print(added_by(lambda: many.add_(1)))
"""


def test_no_threads_are_left_beside_another_thread(make_classifier, reviews, tmp_path, tiny_bert):
    make_classifier().fit(*map(list, reviews)).save(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny_bert, tmp_path / "model"],
        capture_output=True,
        text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        timeout=300,
        check=False,
    )
    assert done.stdout.splitlines() == ["torch 2", *["-2 3"] * 4, "0", "2"], done.stderr


def test_a_thread_is_known_as_it_ends(monkeypatch):
    monkeypatch.setattr(openmp, "_ending", ended := {2**22})  # no thread has a number that large

    def work():
        for _ in range(2):
            with openmp.threads_given_back():
                pass
        assert ended == {2**22}

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == {thread.native_id}
    with openmp.threads_given_back():  # the first thread ends with the process
        pass
    assert not hasattr(openmp._local, "end")


FORK = """
import os, threading, time
from skbert.process import openmp

is_held, released = threading.Event(), []


def hold():
    with openmp._lock:
        is_held.set()
        time.sleep(0.5)
        released.append(True)


threading.Thread(target=hold).start()
is_held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if released and openmp._lock.acquire(timeout=5) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), released, openmp._lock.acquire(timeout=5))
"""


def test_a_fork_waits_for_a_release():
    """Threads that end meanwhile would leave MKL's locks held in the forked process."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 [True] True", done.stderr


def test_a_fork_waits_for_threads_that_end():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    openmp._ending.add(thread.native_id)
    threading.Timer(0.3, end.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if not openmp._ending and openmp._lock.acquire(timeout=5) else 1)
    assert end.is_set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
