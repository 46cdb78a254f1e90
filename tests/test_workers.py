"""Processes that are one of several on a machine: GPUs, threads, forks, errors that cross between them."""

import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from outputs import assert_same, outputs_of
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate

import skbert
from skbert import CheckpointError, InputError, SkbertError
from skbert import exceptions as tree
from skbert.process.workers import choose_gpu, limit_threads, worker_number


@pytest.fixture
def workers():
    """Two processes for joblib; those of the first test that asks serve the others, too."""
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        yield


RANK_2 = {"LOCAL_RANK": "2", "RANK": "10", "WORLD_SIZE": "16"}


@pytest.mark.parametrize(
    ("n_gpus", "environment", "process", "gpu"),
    [
        (4, {}, "MainProcess", 1),  # torch's current one, which people set
        (4, {}, "LokyProcess-1", 0),
        (4, {}, "LokyProcess-4", 3),
        (4, {}, "LokyProcess-5", 0),
        (1, {}, "LokyProcess-2", 0),
        (2, {}, "ForkPoolWorker-2", 1),
        (2, {}, "SpawnPoolWorker-3", 0),
        (2, {}, "LokyProcess-2:4", 1),  # a worker's own worker
        (4, RANK_2, "MainProcess", 2),
        (4, RANK_2, "LokyProcess-1", 0),  # a worker of a rank is none
        (4, {"LOCAL_RANK": "2", "WORLD_SIZE": "1"}, "MainProcess", 1),
        (1, {"CUDA_VISIBLE_DEVICES": "3,0,1,2"}, "Dask Worker process (from Nanny)", 0),
        (2, {}, "ForkServerPoolWorker-4", 1),
    ],
)
def test_gpu_of_a_process(n_gpus, environment, process, gpu):
    current = 1 if n_gpus > 2 else 0
    assert choose_gpu(n_gpus, current, environment, process) == gpu


def test_as_many_workers_as_gpus_have_one_each():
    for n_gpus in (1, 2, 8):
        names = [f"LokyProcess-{number}" for number in range(3, 3 + n_gpus)]  # the first two were replaced
        assert {choose_gpu(n_gpus, 0, {}, name) for name in names} == set(range(n_gpus))


def test_more_ranks_than_gpus():
    with pytest.raises(InputError, match=r"LOCAL_RANK=2, but torch finds 2 CUDA devices.*nproc_per_node"):
        choose_gpu(2, 0, RANK_2, "MainProcess")


SHARING = """
import multiprocessing, sys, warnings
from skbert.process.workers import gpu_of_this_process

multiprocessing.current_process().name = sys.argv[1]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print([gpu_of_this_process(2, 0) for _ in range(3)], *[w.message for w in caught], sep="|")
"""


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (2, "[1, 1, 1]"),
        (
            3,
            "[0, 0, 0]|There are more workers than GPUs here (2): worker 3 shares the memory and "
            "time of cuda:0 with worker 1. n_jobs=2 gives each worker a GPU of its own.",
        ),
        (4, "[1, 1, 1]"),  # the third has said it
    ],
)
def test_the_first_worker_that_shares_a_gpu_says_so_once(worker, said):
    code = [sys.executable, "-c", SHARING, f"LokyProcess-{worker}"]
    assert subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip() == said


@pytest.mark.parametrize("process", ["MainProcess", "Dask Worker process (from Nanny)", "Process-3", "x-1"])
def test_processes_that_are_no_workers_of_joblib(process):
    assert worker_number(process) is None


@pytest.mark.gpu
def test_auto_device_of_a_worker_is_a_gpu():
    import torch

    with joblib.parallel_config("loky", inner_max_num_threads=1):
        found = joblib.Parallel(2)(joblib.delayed(_device_and_threads)(None) for _ in range(2))
    assert {device for device, *_ in found} <= {f"cuda:{i}" for i in range(torch.cuda.device_count())}


def _device_and_threads(fitted):
    import torch

    from skbert.runtime import resolve_runtime

    if fitted is not None:
        fitted.predict(["a good film"])
    device = str(resolve_runtime("auto", "float32").device)
    return device, torch.get_num_threads(), os.environ.get("RAYON_NUM_THREADS")


@pytest.mark.usefixtures("workers")
def test_workers_keep_to_their_share_of_the_cores(make_classifier, reviews):
    """In torch and in the tokenizers' pool, which would take all cores in each worker."""
    fitted = make_classifier(epochs=1).fit(*map(list, reviews))
    found = joblib.Parallel()(joblib.delayed(_device_and_threads)(fitted) for _ in range(4))
    assert {(in_torch, in_tokenizers) for _, in_torch, in_tokenizers in found} == {(1, "1")}


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, None), (RANK_2, "3"), ({"RAY_RAYLET_PID": "7"}, "3"), (RANK_2 | {"RAYON_NUM_THREADS": "1"}, "1")],
)
def test_share_of_the_cores(monkeypatch, own, expected):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3", **own})
    limit_threads()
    assert os.environ.get("RAYON_NUM_THREADS") == expected


def test_no_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(RANK_2))
    limit_threads()
    assert os.environ == RANK_2


def test_the_first_process_keeps_its_environment_and_threads(make_classifier, reviews):
    import torch

    before = dict(os.environ), torch.get_num_threads()
    make_classifier(epochs=1).fit(*map(list, reviews)).predict(["a good film"])
    assert (dict(os.environ), torch.get_num_threads()) == before


@pytest.mark.gpu
def test_a_fit_on_the_cpu_starts_no_cuda(tiny_bert):
    code = (
        "import sys; from skbert import BertClassifier;"
        "model = BertClassifier(sys.argv[1], device='cpu', max_length=16);"
        "model.fit(['good', 'bad'] * 4, [0, 1] * 4).predict(['so']);"
        "import torch; print(torch.cuda.is_initialized())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tiny_bert]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


# Searches


@pytest.mark.usefixtures("workers")
def test_worker_processes_give_the_same_scores_and_fitted_estimators(make_classifier, reviews):
    texts, labels = np.array(reviews[0], dtype=object), np.array(reviews[1])
    folds = list(StratifiedKFold(2).split(texts, labels))
    settings = {"cv": folds, "return_estimator": True, "error_score": "raise"}
    parallel = cross_validate(make_classifier(), texts, labels, **settings)
    serial = cross_validate(make_classifier(), texts, labels, n_jobs=1, **settings)
    np.testing.assert_array_equal(serial["test_score"], parallel["test_score"])
    for here, there, (_, test) in zip(serial["estimator"], parallel["estimator"], folds, strict=True):
        assert_same(outputs_of(here, texts[test]), outputs_of(there, texts[test]))
    search = GridSearchCV(make_classifier(), {"epochs": [1, 2]}, cv=2, error_score="raise")
    assert search.fit(texts, labels).predict_proba(texts).shape == (24, 2)


@pytest.mark.usefixtures("workers")
def test_workers_share_a_folder_of_the_cache(make_classifier, reviews, tiny_checkpoints, tmp_path, own_cache):
    """And find the same: what one process has written, this one reads."""
    texts, labels = map(list, reviews)
    parameters = {"model": tiny_checkpoints("bert", layers=2), "memory": tmp_path}
    search = GridSearchCV(
        make_classifier(**parameters),
        {"freeze": ["encoder", 1]},
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        scoring="neg_log_loss",
        refit=False,
    )
    expected = clone(search).set_params(estimator__memory=None, n_jobs=1).fit(texts, labels)
    skbert.clear_caches()
    scores = search.fit(texts, labels).cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, expected.cv_results_["mean_test_score"], rtol=1e-6)
    assert skbert.cache_info() == (0, 0, 2**29, 0)  # the workers' caches are their own
    search.set_params(n_jobs=1).fit(texts, labels)
    found = skbert.cache_info()
    assert (found.misses, found.hits > 0) == (8, True)  # the texts that are predicted before their first fit


# Errors

ERRORS = [kind for kind in vars(tree).values() if isinstance(kind, type) and issubclass(kind, SkbertError)]


def _error(kind):
    return kind("What was found. What was expected. The remedy.")


def _raise(kind):
    raise _error(kind)


@pytest.mark.usefixtures("workers")
def test_every_error_crosses_between_processes():
    found = joblib.Parallel()(joblib.delayed(_error)(kind) for kind in ERRORS)
    with pytest.raises(InputError, match="What was expected"):
        joblib.Parallel()(joblib.delayed(_raise)(InputError) for _ in range(2))
    assert len(ERRORS) > 7
    assert list(map(type, found)) == ERRORS
    assert {str(error) for error in found} == {"What was found. What was expected. The remedy."}


MISSING = {
    "device": ("cuda:99", InputError, "device='cuda:99' was asked for"),
    "model": ("nobody/no-such-model", CheckpointError, "is not in the hub cache of this machine"),
}


@pytest.mark.usefixtures("workers")
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_a_worker_that_lacks_something_names_it(make_classifier, reviews):
    texts, labels = map(list, reviews)
    estimator = make_classifier(epochs=1)
    grid = [{}, *({name: [value]} for name, (value, *_) in MISSING.items())]
    search = GridSearchCV(estimator, grid, cv=2, refit=False)
    with pytest.warns(FitFailedWarning, match="4 fits failed out of a total of 6") as caught:
        scores = search.fit(texts, labels).cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, True, True]
    said = "".join(str(warning.message) for warning in caught)
    for name, (value, kind, words) in MISSING.items():
        assert words in said
        with pytest.raises(kind, match=words):
            GridSearchCV(estimator, {name: [value]}, cv=2, n_jobs=1, error_score="raise").fit(texts, labels)
