"""Memory that a fit frees: kept while it runs, afterwards given back; in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")

BEGIN = """
import os, sys, warnings
warnings.simplefilter("ignore")
from skbert.process.heap import freed_memory_kept

MIB = 2**20


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def after_use():
    '''MiB resident once 128 of them have been used and freed, in blocks as those of a step.'''
    blocks = [bytearray(16 * MIB) for _ in range(8)]
    del blocks
    return resident()


bytearray(31 * MIB)  # from here on glibc takes smaller blocks from its heap
before = after_use()
"""

KEPT_AND_GIVEN_BACK = """
with freed_memory_kept():
    assert after_use() > before + 100
    with freed_memory_kept():
        pass
    assert after_use() > before + 100, "another fit has ended, and not this one"
assert after_use() < before + 70
"""

IN_A_FIT = """
from skbert import BertClassifier

inside = []


def score(estimator, X, y):
    inside.append(after_use())
    return 1.0


def fit(labels, **parameters):
    texts = ["good film", "bad film", "nice story", "poor story"] * 4
    made = BertClassifier(sys.argv[1], max_length=16, epochs=2, early_stopping=True, random_state=0)
    made.set_params(scoring=score, **parameters).fit(texts, labels)


fit([0, 1] * 8)  # loads what a fit needs
before = after_use()
inside.clear()
fit([0, 1] * 8)
assert min(inside) > before + 100
assert after_use() < before + 80
try:
    fit([0, 1] * 8, learning_rate=1e30)
except ArithmeticError:
    assert after_use() < before + 80, "after a fit that failed"
else:
    raise AssertionError("the fit has not failed")
"""

IN_A_FORKED_PROCESS = """
with freed_memory_kept():
    child = os.fork()
    if child == 0:
        os._exit(int(after_use() > before + 60))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert after_use() > before + 100
"""

LEFT_ALONE = """
with freed_memory_kept():
    assert after_use() < before + 20
"""


def run(code, *args, **settings):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *args],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_freed_memory_is_kept_and_afterwards_given_back():
    run(KEPT_AND_GIVEN_BACK)


def test_a_fit_keeps_what_it_frees_until_it_ends_or_fails(tiny_bert):
    run(IN_A_FIT, tiny_bert)


def test_a_process_forked_during_a_fit_gives_memory_back():
    run(IN_A_FORKED_PROCESS)


@pytest.mark.parametrize(
    "settings",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}],
    ids=str,
)
def test_the_users_own_thresholds_are_left_alone(settings):
    run(LEFT_ALONE, **settings)
