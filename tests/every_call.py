"""Makes every public call of skbert, also ones that fail, and says what each has left changed in the process.

For test_hygiene.py, in a process of its own: `python tests/every_call.py CHECKPOINT FOLDER REPORT SETTINGS`.
FOLDER is where what is asked for is written; SETTINGS is "usual" or "unusual".
"""

from __future__ import annotations

import copy
import gc
import json
import locale
import logging
import os
import pickle
import random
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import peft
import sklearn
import torch
import transformers
from huggingface_hub import utils as hub
from sklearn.base import clone
from transformers.utils import logging as transformers_logging

from skbert import BertClassifier, BertRegressor

# What other packages do when they are first imported is theirs.
transformers.AutoModel, transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast  # noqa: B018
peft.LoraConfig  # noqa: B018

WORDS = ("good", "bad", "best", "sad")
TEXTS = [f"The {noun} was {word}" for noun in ("film", "cat", "day", "sea", "book") for word in WORDS]
LABELS = ["pos", "neg"] * 10


def state():
    """All that belongs to the process and not to skbert."""
    names = [*logging.root.manager.loggerDict]
    loggers = [logging.root, *(logging.getLogger(n) for n in names if n in LOGGERS)]
    return {
        "random": random.getstate(),
        "numpy.random": str(np.random.get_state()),
        "torch's generator": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "running threads": threading.active_count(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly detection": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "matmul precision": (
            torch.backends.mkldnn.matmul.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
        ),
        "flags of cuda": (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "torch.nn.init": {n: id(f) for n, f in vars(torch.nn.init).items() if callable(f)},
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warning filters": list(warnings.filters),
        "loggers": [
            (x.name, x.level, [(id(h), h.level) for h in x.handlers], x.propagate, x.disabled)
            for x in loggers
        ],
        "verbosity of transformers": (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
        ),
        "progress bars of the hub": hub.are_progress_bars_disabled(),
        "streams": (id(sys.stdout), id(sys.stderr), id(sys.excepthook)),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "numpy's settings": (np.geterr(), str(np.get_printoptions())),
        "pandas' settings": pd.get_option("mode.string_storage"),
        "scikit-learn's settings": sklearn.get_config(),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "interpreter": (sys.getrecursionlimit(), sys.getswitchinterval()),
        "locale": locale.setlocale(locale.LC_ALL),
        "sockets": socket.getdefaulttimeout(),
    }


LOGGERS = {*logging.root.manager.loggerDict}


def unusual():
    """Settings that are not the usual ones, so that one that is set to its default is seen."""
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("high")
    torch.set_default_device("meta")  # whose tensors have no numbers
    torch.set_autocast_enabled("cpu", True)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    transformers_logging.set_verbosity_info()
    logging.getLogger("transformers").propagate = True
    logging.disable(logging.NOTSET)
    np.seterr(divide="raise", over="raise", invalid="raise", under="raise")
    warnings.simplefilter("error")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    hub.enable_progress_bars()


def score(estimator, X, y):
    return 0.5


def fail(estimator, X, y):
    raise KeyboardInterrupt


class Calls:
    """The calls, by name; one that should fail does so with the error that is named."""

    def __init__(self, checkpoint, folder):
        self.checkpoint, self.folder = checkpoint, Path(folder)
        self.fitted = None

    def make(self, **parameters):
        usual = {"epochs": 12, "max_length": 16, "batch_size": 4, "learning_rate": 5e-3, "random_state": 0}
        usual |= {"device": "cpu", "precision": "float32", "pooling": "cls", "dropout": 0.0}
        return BertClassifier(self.checkpoint, **usual | parameters)

    def all(self):
        fit = lambda **parameters: lambda: self.make(**parameters).fit(TEXTS, LABELS)  # noqa: E731
        ask = lambda method, *given: lambda: getattr(self.fitted, method)(*given or [TEXTS])  # noqa: E731
        file, pretrained = self.folder / "model.safetensors", self.folder / "pretrained"
        yield "construct", lambda: BertClassifier(epochs=2)
        yield "repr", lambda: (repr(self.make()), self.make()._repr_html_())
        yield "get_params", lambda: self.make().get_params()
        yield "clone", lambda: clone(self.make())
        yield "fit", self.first_fit
        for name, parameters in {
            "lora": {"lora": 2},
            "bfloat16": {"precision": "bfloat16"},
            "early stopping": {"early_stopping": True, "n_iter_no_change": 12, "scoring": "neg_log_loss"},
            "layers twice": {"gradient_checkpointing": True},
            "windows": {"long_text": "windows", "max_length": 8},
            "gradual": {"freeze": "gradual"},
            "frozen layers": {"freeze": 1, "memory": self.folder / "memory"},
            "checkpoint": {"checkpoint": self.folder / "unfinished"},
        }.items():
            yield f"fit, {name}", fit(**parameters)
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform"):
            yield method, ask(method)
        yield "score", ask("score", TEXTS, LABELS)
        yield "get_feature_names_out", lambda: self.fitted.get_feature_names_out()
        yield "set_params", lambda: self.make().set_params(epochs=1)
        yield "set_output", lambda: clone(self.fitted).set_output(transform="pandas")
        yield "partial_fit", lambda: self.make().partial_fit(TEXTS, LABELS, ["neg", "pos"])
        yield "bfloat16", lambda: copy.deepcopy(self.fitted).set_params(precision="bfloat16").predict(TEXTS)
        yield "int8", lambda: copy.deepcopy(self.fitted).set_params(precision="int8").predict(TEXTS)
        yield "save", lambda: self.fitted.save(file)
        yield "load", lambda: BertClassifier.load(file).predict(TEXTS)
        yield "save, changes", lambda: self.fitted.save(self.folder / "changes", only_changes=True)
        yield (
            "load, changes",
            lambda: BertClassifier.load(self.folder / "changes", checkpoint=self.checkpoint),
        )
        yield "save_pretrained", lambda: self.fitted.save_pretrained(pretrained)
        yield "save_encoder", lambda: self.fitted.save_encoder(self.folder / "encoder")
        yield "from_pretrained", lambda: BertClassifier.from_pretrained(pretrained).predict(TEXTS)
        yield "pickle", lambda: pickle.loads(pickle.dumps(self.fitted)).predict(TEXTS)
        yield "deepcopy", lambda: copy.deepcopy(self.fitted).predict(TEXTS)
        yield "joblib", lambda: joblib.dump(self.fitted, self.folder / "model.joblib")
        yield "joblib back", lambda: joblib.load(self.folder / "model.joblib").predict(TEXTS)
        yield "regressor", self.regression
        yield from self.failing(fit, ask, file, pretrained)

    def failing(self, fit, ask, file, pretrained):
        (self.folder / "damaged").write_bytes(b"damaged")
        yield "fit of numbers: InputTypeError", lambda: self.make().fit([1, 2], [0, 1])
        yield "fit of a name: CheckpointError", lambda: BertClassifier("some/one").fit(TEXTS, LABELS)
        yield "fit of a folder: CheckpointError", lambda: BertClassifier("/no/where").fit(TEXTS, LABELS)
        yield "fit of long texts: InputError", fit(max_length=10_000)
        yield "fit that diverges: NonFiniteLossError", fit(learning_rate=1e30, max_grad_norm=None)
        watched = {"early_stopping": True, "validation_fraction": 0.5}
        yield "fit interrupted: KeyboardInterrupt", fit(scoring=fail, **watched)
        yield "fit of a parameter: InvalidParameterError", fit(epochs=-1)
        yield "partial_fit: InputError", lambda: self.make().partial_fit(TEXTS, LABELS)
        for method in ("predict", "predict_proba", "decision_function", "transform"):
            yield f"{method} of None: InputTypeError", ask(method, ["a", None])
        yield "predict unfitted: NotFittedError", lambda: self.make().predict(TEXTS)
        yield "score: InputError", ask("score", TEXTS, LABELS[:2])
        yield "save: PersistenceError", lambda: copy.copy(self.fitted).set_params(scoring=score).save(file)
        yield "load: PersistenceError", lambda: BertClassifier.load(self.folder / "damaged")
        yield "load of nothing: FileNotFoundError", lambda: BertClassifier.load(self.folder / "nothing")
        yield "from_pretrained: CheckpointError", lambda: BertClassifier.from_pretrained(self.folder)
        yield "save_pretrained: InputError", lambda: self.fitted.save_pretrained(pretrained, ["a", "a"])

    def first_fit(self):
        self.fitted = self.make().fit(TEXTS, LABELS)

    def regression(self):
        given = self.make(early_stopping=True, n_iter_no_change=12).get_params()
        shared = {name: given[name] for name in BertRegressor().get_params()}
        file, folder = self.folder / "numbers.safetensors", self.folder / "numbers"
        regressor = BertRegressor(**shared).fit(TEXTS, [float(label == "pos") for label in LABELS])
        regressor.save(file)
        regressor.save_pretrained(folder)
        BertRegressor.load(file).score(TEXTS, range(20))
        BertRegressor.from_pretrained(folder).predict(TEXTS)


def main():
    checkpoint, folder, report, settings = sys.argv[1:]
    torch.set_num_threads(1)
    if settings == "unusual":
        unusual()
    calls, changed, made = Calls(checkpoint, folder), {}, []
    for name, call in calls.all():
        expected = name.partition(": ")[2]
        before, raised = state(), ""
        try:
            call()
        except BaseException as error:
            raised = type(error).__name__
            if raised != expected:
                raise
        assert raised == expected, f"{name} raised {raised or 'nothing'}"
        after = state()
        changed[name] = [what for what in before if before[what] != after[what]]
        made.append(name)
    answers = calls.fitted.predict_proba(TEXTS).tolist()
    content = {"changed": {n: c for n, c in changed.items() if c}, "made": made, "answers": answers}
    Path(report).write_text(json.dumps(content))


if __name__ == "__main__":
    main()
