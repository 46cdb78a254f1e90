"""Searches on Dask and Ray, through joblib, and predictions by chunks: equal to one process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from test_docs import python_blocks

import skbert

pytestmark = pytest.mark.slow  # each starts a cluster of processes that import torch

COMMON = """
import sys, warnings
import joblib
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skbert import BertClassifier

warnings.simplefilter("ignore")
words = ("good", "bad", "nice", "poor", "great", "dull")
nouns = ("new film", "old film", "new book", "old book")
texts = [f"The {noun} was {word}" for noun in nouns for word in words]
labels = ["pos", "neg"] * 12
settings = {"max_length": 32, "batch_size": 8, "random_state": 0, "device": "cpu", "precision": "float32"}
model = BertClassifier(sys.argv[1], epochs=2, **settings)
search = GridSearchCV(
    model, {"learning_rate": [1e-3, 5e-3]}, cv=2, scoring="neg_log_loss", error_score="raise"
)


def scores(fitted):
    return [fitted.cv_results_[f"split{fold}_test_score"].tolist() for fold in (0, 1)]


def check_worker(_):  # its share of the cores, and how an error comes from it
    import os, torch
    from skbert.runtime import resolve_runtime

    resolve_runtime("auto", "auto")  # as each fit and each prediction begins
    assert (torch.get_num_threads(), os.environ.get("RAYON_NUM_THREADS")) == (1, "1")
    clone(model).set_params(device="cuda:99").fit(texts, labels)


def check(fitted, serial):
    assert scores(fitted) == scores(serial), (scores(fitted), scores(serial))
    assert len(set(sum(scores(serial), []))) == 4
    np.testing.assert_array_equal(fitted.predict_proba(texts), serial.predict_proba(texts))


def check_workers():
    try:
        joblib.Parallel()(joblib.delayed(check_worker)(i) for i in range(2))
    except Exception as error:
        assert "device='cuda:99' was asked for" in str(error), error
    else:
        raise AssertionError("no error")
"""

DASK = """
import dask.bag
from distributed import Client, LocalCluster


def probabilities(chunk, fitted):
    return [fitted.predict_proba(list(chunk))]


if __name__ == "__main__":
    serial = search.fit(texts, labels)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        with joblib.parallel_config(backend="dask", scatter=[texts, labels]):
            check(clone(search).fit(texts, labels), serial)
            check_workers()
        bag = dask.bag.from_sequence(texts, npartitions=3)
        rows = bag.map_partitions(probabilities, serial.best_estimator_).compute()
        # Other texts share the batches: equal up to rounding.
        np.testing.assert_allclose(np.concatenate(rows), serial.predict_proba(texts), atol=1e-6)
    print("equal")
"""

RAY = """
import ray
from ray.util.joblib import register_ray

if __name__ == "__main__":
    serial = search.fit(texts, labels)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        check(clone(search).fit(texts, labels), serial)
        check_workers()
    ray.shutdown()
    print("equal")
"""


PAGE = """
X_test = ["a fine film", "dull and slow", "the best of the year", "a waste of money"]
X_train, y_train, y_test = X_test * 4, ["good", "bad"] * 8, ["good", "bad"] * 2

if __name__ == "__main__":
"""


def run(source, tiny_bert, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(source, encoding="utf-8")
    root = str(Path(skbert.__file__).parents[1])
    own = {"PYTHONPATH": root, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, str(script), tiny_bert],
        capture_output=True,
        text=True,
        env=os.environ | own,
        timeout=580,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-20000:]


def test_dask_equals_one_process(tiny_bert, tmp_path):
    pytest.importorskip("distributed")
    run(COMMON + DASK, tiny_bert, tmp_path)


def test_ray_equals_one_process(tiny_bert, tmp_path):
    pytest.importorskip("ray")
    run(COMMON + RAY, tiny_bert, tmp_path)


def test_page_of_examples_runs(tiny_bert, tmp_path):
    """All of docs/scaling.md, as one script, with the default checkpoint."""
    pytest.importorskip("distributed")
    pytest.importorskip("ray")
    blocks = [block for _, block in python_blocks("docs/scaling.md")]
    assert len(blocks) > 6
    lines = "".join(textwrap.indent(block, "    ") for block in blocks)
    run(f'{PAGE}{lines}    print("equal")\n', tiny_bert, tmp_path)
    rows = (tmp_path / "probabilities.csv").read_text(encoding="utf-8").splitlines()
    parts = sorted((tmp_path / "probabilities").glob("*.parquet"))
    assert len(rows) == 200
    assert len(parts) > 1
    assert sum(len(pd.read_parquet(part)) for part in parts) == 200
