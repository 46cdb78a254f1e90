"""Forked processes: nothing is held there by threads that are not in it."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
from checkpoints import build_albert

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def run(code, *arguments, **environment):
    """A process of its own: whatever it forks has its threads and its modules, and not those of pytest."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"} | environment,
        timeout=1200,
        check=False,
    )


HELD = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from skbert import BertClassifier, inference, randomness
from skbert.caching import cache, store
from skbert.network import fingerprints
from skbert.pretrained import checkpoints
from skbert.process import heap, warning_filters

texts, labels = ["good film", "bad film", "nice story", "poor story"] * 4, ["pos", "neg"] * 8
made = BertClassifier(sys.argv[1], max_length=16, epochs=1, random_state=0, precision="bfloat16")
expected = made.fit(texts, labels).predict_proba(texts)
made.save(sys.argv[2])
locks = [
    *(inference._lock, *inference._makers.values(), randomness._one_builder, checkpoints._lock),
    *(warning_filters._filters_lock, fingerprints._lock, cache._lock, store.STORE._lock, heap._lock),
]
are_held = threading.Event()


def hold():
    for lock in locks:
        lock.acquire()
    are_held.set()
    threading.Event().wait()


threading.Thread(target=hold, daemon=True).start()
are_held.wait()
child = os.fork()
if child == 0:
    same = (made.predict_proba(texts) == expected).all()
    same &= (BertClassifier.load(sys.argv[2]).predict_proba(texts) == expected).all()
    made.set_params(freeze="encoder", memory=sys.argv[3]).fit(texts, labels)
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)  # another thread has what the interpreter would ask for
"""


def test_locks_that_threads_hold_are_free_in_a_forked_process(tiny_bert, tmp_path):
    done = run(HELD, tiny_bert, tmp_path / "model", tmp_path / "memory")
    assert done.stdout.strip() == "0", done.stderr


# Torch's threads are not copied: with more than one a forked process would wait for them for ever.
THREADS = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
torch.set_num_threads(2)
from skbert import BertClassifier
import pickle

texts = ["good film " * 20, "bad film " * 20] * 40
labels = ["pos", "neg"] * 40
loaded = BertClassifier.load(sys.argv[1])  # computes: weights are moved
content = pickle.dumps(loaded)
torch.ones(600, 600) @ torch.ones(600, 600)  # OpenMP's threads are there


def load_again():
    return BertClassifier.load(sys.argv[1]).predict_proba(texts)


works = [
    lambda: loaded.predict_proba(texts),
    load_again,
    lambda: pickle.loads(content).predict_proba(texts),
    lambda: loaded.set_params(epochs=1).partial_fit(texts, labels).predict_proba(texts),
]
for work in works:
    child = os.fork()
    if child == 0:
        work()
        os._exit(torch.get_num_threads())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
expected = loaded.fit(texts, labels).predict(texts)
child = os.fork()
if child == 0:
    os._exit(0 if (loaded.fit(texts, labels).predict(texts) == expected).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "after a fit")
"""


def test_a_process_forked_from_one_that_has_loaded_a_model_computes_with_one_thread(
    make_classifier, reviews, tmp_path
):
    make_classifier(device="cpu", precision="float32").fit(*map(list, reviews)).save(tmp_path / "model")
    done = run(THREADS, tmp_path / "model", OMP_NUM_THREADS="2")
    assert done.stdout.splitlines() == ["1 2"] * 4 + ["0 after a fit"], done.stderr


# What `torch.utils.data` does to its workers, too: one thread, so that nothing waits for those of the parent.
BEFORE = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(2)
torch.ones(600, 600) @ torch.ones(600, 600)
child = os.fork()
if child == 0:
    signal.alarm(120)
    torch.set_num_threads(1)
    from skbert import BertClassifier

    BertClassifier.load(sys.argv[1]).predict(["good film"])
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_imports_skbert_after_the_fork(make_classifier, reviews, tmp_path):
    """It has no thread of the parent's to give back, and would wait for them."""
    make_classifier().fit(*map(list, reviews)).save(tmp_path / "model")
    done = run(BEFORE, tmp_path / "model", OMP_NUM_THREADS="2")
    assert done.stdout.strip() == "0", done.stderr


# Each way in a process of its own, forked from one that has imported what every way does.
FIRST = """
import os, pickle, sys
from pathlib import Path
import sklearn.base, torch
import transformers.modeling_utils
from skbert import BertClassifier

folder = Path(sys.argv[1])
ways = {
    "file": lambda: BertClassifier.load(folder / "model"),
    "folder": lambda: BertClassifier.from_pretrained(folder / "folder"),
    "pickle": lambda: pickle.loads((folder / "pickle").read_bytes()),
    "pickle of a family that only pickles": lambda: pickle.loads((folder / "albert.pickle").read_bytes()),
}
for name, load in ways.items():
    child = os.fork()
    if child == 0:
        loaded = load()
        before = set(sys.modules)
        loaded.predict(["good film", "bad film"])
        loaded.transform(["a story"])
        print(name, sorted(set(sys.modules) - before), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_the_first_prediction_of_a_loaded_model_imports_nothing(make_classifier, reviews, tmp_path):
    """A process that is forked while a thread imports waits forever for what it imports itself."""
    classifier = make_classifier(pooling="cls").fit(*map(list, reviews))
    classifier.save(tmp_path / "model")
    classifier.save_pretrained(tmp_path / "folder")
    (tmp_path / "pickle").write_bytes(pickle.dumps(classifier))
    only_pickles = make_classifier(model=build_albert(tmp_path / "albert")).fit(*map(list, reviews))
    (tmp_path / "albert.pickle").write_bytes(pickle.dumps(only_pickles))
    done = run(FIRST, tmp_path)
    ways = ("file", "folder", "pickle", "pickle of a family that only pickles")
    assert done.stdout.splitlines() == [f"{way} []" for way in ways], done.stderr


BUSY = """
import os, signal, sys, threading, time
from skbert import BertClassifier

sys.setswitchinterval(1e-5)
loaded = BertClassifier.load(sys.argv[1])
texts = ["good film", "bad film", "a story"]
expected = loaded.predict_proba(texts)


def predict():
    while True:
        loaded.predict_proba(texts)


def predict_in_threads():
    while True:  # as a server that has a thread for each request
        thread = threading.Thread(target=loaded.predict_proba, args=(texts,))
        thread.start()
        thread.join()


for _ in range(3):
    threading.Thread(target=predict_in_threads if "end" in sys.argv else predict, daemon=True).start()
for _ in range(int(sys.argv[2])):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if (loaded.predict_proba(texts) == expected).all() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@pytest.mark.stress
@pytest.mark.parametrize(("threads", "of_torch"), [("stay", "2"), ("end", "1")])
def test_workers_that_are_forked_while_threads_predict(
    threads, of_torch, make_classifier, reviews, tmp_path, full_count, figure
):
    """Python 3.11 has a lock in each `functools.cached_property`, MKL one that threads hold as they end."""
    make_classifier(device="cpu", precision="float32").fit(*map(list, reviews)).save(tmp_path / "model")
    count = full_count(10, 300)
    done = run(BUSY, tmp_path / "model", str(count), threads, OMP_NUM_THREADS=of_torch)
    codes = done.stdout.split()
    what = f"forked while three threads predict, and {threads}"
    figure(what, count, f"{count - codes.count('0')} hung or other results")
    assert codes == ["0"] * count, done.stderr
