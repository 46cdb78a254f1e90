"""What all tests share: no hub, one thread, tiny random checkpoints."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

# All of this before torch, transformers or scipy are imported; child processes inherit it.
_HF_HOME = tempfile.mkdtemp(prefix="skbert-tests-hf-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _HF_HOME
for _variable in ("HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_CACHE", "HUGGINGFACE_HUB_CACHE"):
    os.environ.pop(_variable, None)
# Two threads that share a busy core are many times slower than one, and give other last bits.
os.environ["OMP_NUM_THREADS"] = "1"
# Where a test wants several all the same, those that wait sleep: they would spin on cores that are busy.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Without it one of scikit-learn's checks skips itself.
os.environ["SCIPY_ARRAY_API"] = "1"

import pytest  # noqa: E402
from checkpoints import FAMILIES, build_checkpoint  # noqa: E402

_FIGURES = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--stress", action="store_true", help="run the tests of the marker `stress` with their full counts"
    )


@pytest.fixture(scope="session")
def full_count(request):
    """Return a function of a count in the default run and the full one: which of them is to be run."""
    stress = request.config.getoption("--stress")
    return lambda default, full: full if stress else default


@pytest.fixture
def figure(request):
    """Return a function that notes what was counted and what came out, for the table of `make stress`."""
    rows = request.config.stash.setdefault(_FIGURES, [])
    begin = time.perf_counter()
    return lambda what, count, result: rows.append((what, count, result, time.perf_counter() - begin))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(_FIGURES, [])
    if not (rows and config.getoption("--stress")):
        return
    terminalreporter.section("figures")
    terminalreporter.line("| what | count | result | seconds |")
    terminalreporter.line("|---|---|---|---|")
    for what, count, result, seconds in rows:
        terminalreporter.line(f"| {what} | {count:,} | {result} | {seconds:.0f} |")


def pytest_configure(config):
    """Hide GPUs from all tests but their own, most of which are about the CPU without naming it."""
    if "gpu" not in config.getoption("markexpr"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_unconfigure():
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Hold torch to one thread, in this process."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def caches_as_new():
    """Leave no cached rows and no other limit to the files that this process runs next."""
    import skbert

    limit = skbert.cache_info().maxsize
    yield
    skbert.set_cache_limit(limit)
    skbert.clear_caches()


@pytest.fixture
def own_cache():
    """Give a test a cache of the default size, with nothing in it."""
    import skbert

    skbert.clear_caches()
    yield
    skbert.set_cache_limit(2**29)
    skbert.clear_caches()


@pytest.fixture(scope="session")
def tokenizers(tiny_checkpoints):
    """Return the tokenizer of each family's tiny checkpoint."""
    from skbert.pretrained import checkpoints

    return {
        family: checkpoints.new_tokenizer(checkpoints.load(tiny_checkpoints(family)).tokenizer_json)
        for family in FAMILIES
    }


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory):
    """Return a function that gives the folder (str) of a family's tiny checkpoint, built once.

    Keyword arguments go to `checkpoints.build_checkpoint`; the folders are shared: never write
    into one.
    """
    built = {}

    def checkpoint(family="bert", **options):
        assert family in FAMILIES
        key = (family, *sorted(options.items()))
        if key not in built:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            built[key] = str(build_checkpoint(family, folder, **options))
        return built[key]

    return checkpoint


@pytest.fixture(scope="session")
def make_classifier(tiny_bert):
    """Return a function that makes a `BertClassifier` on the tiny BERT, quick to fit and repeatable."""

    def make(**parameters):
        from skbert import BertClassifier

        quick = {
            "model": tiny_bert,
            "max_length": 32,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "random_state": 0,
            "device": "cpu",
            "precision": "float32",
        }
        return BertClassifier(**(quick | parameters))

    return make


@pytest.fixture(scope="session")
def reviews():
    """Return 24 short texts and their labels, "neg" or "pos" in turn; no two texts are equal."""
    good = ("good", "great", "fine", "nice", "happy", "best")
    bad = ("bad", "poor", "dull", "sad", "worst", "hate")
    texts, labels = [], []
    for noun, verb in (("film", "was"), ("story", "is")):
        for pair in zip(bad, good, strict=True):
            for label, word in zip(("neg", "pos"), pair, strict=True):
                texts.append(f"The {noun} {verb} {word}!")
                labels.append(label)
    return tuple(texts), tuple(labels)


@pytest.fixture(scope="session")
def tiny_bert(tiny_checkpoints):
    """Return the folder of a one-layer random BERT of width 32."""
    return tiny_checkpoints("bert")
