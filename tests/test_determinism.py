"""The same fit in two fresh processes: the same bits, on a CPU and on a GPU."""

import json
import os
import subprocess
import sys

import pytest

# Each turns another part of the code on; "family" is the checkpoint's.
FITS = {
    "packed": {},
    "padded": {"family": "deberta-v2", "dropout": 0.2},
    "local attention": {"family": "modernbert"},
    "maximum": {"pooling": "max", "head_layers": 1, "dropout": 0.2},
    "mean": {"pooling": "mean", "head_init": "linear_probe", "class_weight": "balanced"},
    "windows": {"long_text": "windows", "max_length": 8},
    "stopping": {"early_stopping": True, "validation_fraction": 0.5, "label_smoothing": 0.1},
    "adapters": {"lora": 2, "gradient_checkpointing": True},
    "bfloat16": {"precision": "bfloat16", "layer_decay": 0.9},
    "float16": {"precision": "float16", "head_layers": 1},
}

CHILD = """
import hashlib, json, sys

import numpy as np
import torch

from skbert import BertClassifier

given = json.load(sys.stdin)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(given["strict"])
found = {}
for name, parameters in given["fits"].items():
    model = BertClassifier(**parameters).fit(given["X"], given["y"])
    arrays = [w.numpy() for w in model.model_.state_dict().values()]
    arrays += [model.predict_proba(given["X"]), model.transform(given["X"]), np.array(model.loss_curve_)]
    found[name] = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
print(json.dumps(found))
"""


@pytest.fixture
def fits(tiny_checkpoints, reviews):
    """Return a function that makes all fits in a process of their own; it gives their results' checksums."""

    def run(device, *, strict, variables=None):
        quick = {"max_length": 32, "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "random_state": 0}
        quick |= {"device": device, "precision": "float32", "model": tiny_checkpoints("bert")}
        parameters = {name: dict(quick, **special) for name, special in FITS.items()}
        for given in parameters.values():
            if "family" in given:
                given["model"] = tiny_checkpoints(given.pop("family"), layers=2)
        texts = [f"{text} {text}" for text in reviews[0]]  # longer than a window
        given = {"strict": strict, "fits": parameters, "X": texts, "y": list(reviews[1])}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | (variables or {}),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_two_processes_on_a_cpu(fits):
    """One of them with a hash seed of its own, and where only deterministic algorithms are allowed."""
    plain = fits("cpu", strict=False, variables={"PYTHONHASHSEED": "1"})
    strict = fits("cpu", strict=True, variables={"PYTHONHASHSEED": "2"})
    assert list(plain) == list(FITS)
    assert strict == plain
    assert len({checksums[-1] for checksums in plain.values()}) == len(FITS)  # they are different fits


@pytest.mark.gpu
def test_two_processes_on_a_gpu(fits):
    """The variable is what torch asks for where cuBLAS is to be deterministic."""
    first, second = (
        fits("cuda", strict=True, variables={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}) for _ in range(2)
    )
    assert first == second
