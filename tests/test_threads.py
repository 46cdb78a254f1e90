"""What threads share: predictions and fits at the same time give what they give one after the other."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from checkpoints import (
    build_checkpoint,
    build_config,
    build_model,
    build_tokenizer,
    for_any_family,
    save_tokenizer,
)
from outputs import METHODS
from transformers.utils import logging

from skbert import BertClassifier, CheckpointError, saving
from skbert.training.lora import add_adapters, resolve_config


def at_once(work, n_threads):
    """Results of work(0), ..., work(n_threads - 1), which begin at the same moment."""
    together = threading.Barrier(n_threads)

    def begin(number):
        together.wait()
        return work(number)

    with ThreadPoolExecutor(n_threads) as pool:
        return [future.result() for future in [pool.submit(begin, n) for n in range(n_threads)]]


@pytest.fixture
def often():
    """Let threads take turns a thousand times as often as they do, so that races are met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def build_camembert(folder):
    """A checkpoint whose attention draws its dropout masks by itself, from torch's global generator."""
    save_tokenizer(build_tokenizer("roberta"), "roberta", folder)
    for_any_family(folder)
    config = build_config("roberta", build_tokenizer("roberta"), layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CamembertModel(transformers.CamembertConfig(**config.to_dict())).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoints, tmp_path_factory):
    """Return a function that gives a family's checkpoint; CamemBERT's is among them."""
    camembert = build_camembert(tmp_path_factory.mktemp("camembert"))
    return lambda family: camembert if family == "camembert" else tiny_checkpoints(family)


# Predictions


@pytest.mark.stress
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predictions_in_eight_threads_equal_serial_ones(
    precision, make_classifier, reviews, often, full_count, figure
):
    texts, labels = map(list, reviews)
    classifier = make_classifier(precision=precision, long_text="windows", max_length=8).fit(texts, labels)
    long = [f"{text} {text} cat dog" for text in texts]
    questions = [long[i : i + 3] for i in range(len(long) - 3)]
    expected = [[getattr(classifier, method)(question) for question in questions] for method in METHODS]
    n = full_count(20, 1000)

    def ask(thread):
        wrong = 0
        for i in range(n):
            method, question = (thread + i) % len(METHODS), (7 * thread + i) % len(questions)
            answer = getattr(classifier, METHODS[method])(questions[question])
            wrong += not np.array_equal(answer, expected[method][question])
        return wrong

    wrong = sum(at_once(ask, 8))
    figure(f"predictions in 8 threads, {precision}", 8 * n, f"{wrong} differ from serial ones")
    assert wrong == 0


def test_two_models_in_threads_take_turns_with_the_replica(make_classifier, reviews, often):
    """One replica is kept; threads that drop it under each other's hands get their own model's answers."""
    texts, labels = map(list, reviews)
    models = [make_classifier(precision="bfloat16", random_state=seed).fit(texts, labels) for seed in (0, 1)]
    expected = [model.predict_proba(texts) for model in models]
    assert not np.array_equal(*expected)

    def ask(thread):
        which = thread % 2
        return all(np.array_equal(models[which].predict_proba(texts), expected[which]) for _ in range(10))

    assert all(at_once(ask, 4))


def test_the_first_use_of_a_process_may_be_in_threads(make_classifier, reviews, tmp_path):
    """Whatever is imported, registered and cached at first use."""
    texts, labels = map(list, reviews)
    classifier = make_classifier(epochs=12).fit(texts, labels)
    expected = classifier.predict_proba(texts).tolist()
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(classifier))
    (tmp_path / "texts.json").write_text(json.dumps([texts, labels]))
    code = """
import json, pickle, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
folder, content = Path(sys.argv[1]), Path(sys.argv[1], "model.pickle").read_bytes()
texts, labels = json.loads((folder / "texts.json").read_text())
together = threading.Barrier(8)
def work(number):
    together.wait()
    classifier = pickle.loads(content)
    return (classifier.fit(texts, labels) if number % 2 else classifier).predict_proba(texts).tolist()
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(work, range(8)))))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for answer in json.loads(done.stdout):
        np.testing.assert_allclose(answer, expected, atol=1e-6)


# Fits


FITS = {
    "bert": {},
    "deberta-v2": {},
    "camembert": {},
    "camembert, layers computed twice": {"gradient_checkpointing": True},
    "lora": {"lora": 4},
    "lora, gaussian": {"lora": "gaussian"},
    "bfloat16": {"precision": "bfloat16"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.25},
}


@pytest.mark.stress
@pytest.mark.parametrize("kind", FITS)
def test_fits_in_threads_equal_serial_ones(
    kind, make_classifier, checkpoint, reviews, often, full_count, figure
):
    texts, labels = map(list, reviews)
    parameters = dict(FITS[kind])
    if parameters.get("lora") == "gaussian":
        from peft import LoraConfig

        parameters["lora"] = LoraConfig(r=4, init_lora_weights="gaussian", target_modules="all-linear")
    family = kind.split(",")[0] if kind.split(",")[0] in ("deberta-v2", "camembert") else "bert"

    def fit(seed):
        classifier = make_classifier(model=checkpoint(family), dropout=0.2, random_state=seed, **parameters)
        return classifier.fit(texts, labels).decision_function(texts)

    n_threads, n = 2, full_count(2, 25)
    serial = [fit(seed) for seed in range(n_threads)]
    assert not np.array_equal(*serial)
    before = torch.get_rng_state()
    rounds = [at_once(fit, n_threads) for _ in range(n)]
    wrong = sum(
        not np.array_equal(alone, beside)
        for answers in rounds
        for alone, beside in zip(serial, answers, strict=True)
    )
    figure(f"fits in 2 threads, {kind}", n_threads * n, f"{wrong} differ from serial ones")
    assert wrong == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fit_is_out_of_the_way_of_others_random_numbers(make_classifier, checkpoint, reviews, often):
    """Somebody else draws from the global generators during fits: in their own sequence, no number twice."""
    import random

    texts, labels = map(list, reviews)
    draw = lambda: (random.random(), float(np.random.random()), float(torch.rand(1)))  # noqa: E731
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    try:
        done = threading.Event()

        def fit():
            try:
                for family in ("camembert", "bert"):
                    classifier = make_classifier(model=checkpoint(family), epochs=1).fit(texts, labels)
                    pickle.loads(pickle.dumps(classifier))
            finally:
                done.set()

        fitting = threading.Thread(target=fit)
        fitting.start()
        drawn = []
        while not done.wait(1e-3):
            drawn.append(draw())
        fitting.join()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        assert len(drawn) > 10
        assert drawn == [draw() for _ in drawn]
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def test_models_built_in_threads_leave_the_process_as_it_was(make_classifier, reviews, tmp_path, often):
    """transformers changes torch's own functions, and its verbosity, while it builds a model."""
    texts, labels = map(list, reviews)
    classifier = make_classifier().fit(texts, labels)
    classifier.save(tmp_path / "model")
    content = pickle.dumps(classifier)
    folders = [build_checkpoint("bert", tmp_path / str(n), seed=n) for n in range(4)]

    def state():
        functions = {name: value for name, value in vars(torch.nn.init).items() if callable(value)}
        return (
            functions,
            transformers.PreTrainedModel.init_weights,
            torch.get_default_dtype(),
            logging.get_verbosity(),
            logging.is_progress_bar_enabled(),
            huggingface_hub.utils.are_progress_bars_disabled(),
        )

    def build(number):
        BertClassifier.load(tmp_path / "model")
        pickle.loads(content)
        make_classifier(model=folders[number], epochs=1).fit(texts, labels)
        with pytest.raises(CheckpointError):
            make_classifier(model="someone/unknown").fit(texts, labels)

    before = state()
    at_once(build, 4)
    assert state() == before


def test_adapters_start_as_they_must_while_another_thread_builds(tmp_path, tiny_bert, often):
    """Meanwhile torch's functions that draw initial weights may do nothing."""
    from skbert.pretrained import checkpoints

    folders = [build_checkpoint("bert", tmp_path / str(n), seed=n) for n in range(6)]

    def adapted(_):
        model = build_model(tiny_bert, head_layers=1)
        add_adapters(model, resolve_config(2), torch.Generator().manual_seed(0))
        return {name: w.clone() for name, w in model.state_dict().items() if ".lora_" in name}

    expected = adapted(0)

    def work(thread):
        if thread == 0:
            for folder in folders:
                checkpoints.load(folder)
            return True
        found = [adapted(0) for _ in range(10)]
        return all(torch.equal(weights[name], expected[name]) for weights in found for name in expected)

    assert all(at_once(work, 3))


def test_fits_in_threads_leave_the_warning_filters(make_classifier, reviews, often):
    texts, labels = map(list, reviews)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        at_once(lambda n: [make_classifier(epochs=1).fit(texts, labels) for _ in range(4)], 4)
        assert list(warnings.filters) == before


# A fit and predictions of one estimator


@pytest.mark.stress
def test_predictions_during_a_fit_are_those_of_one_model(
    make_classifier, tiny_checkpoints, reviews, often, full_count, figure
):
    """Never the labels of one fit with the weights, the tokenizer or the column names of another."""
    texts, labels = map(list, reviews)
    plans = [
        {"model": tiny_checkpoints("bert"), "max_length": 8, "long_text": "head"},
        {"model": tiny_checkpoints("roberta"), "max_length": 16, "long_text": "windows"},
    ]
    targets = [labels, [f"class {number % 5}" for number in range(len(texts))]]
    frames = [pd.DataFrame({name: texts}) for name in ("review", "text")]
    classifier = make_classifier(epochs=1)
    expected = []
    for plan, y, X in zip(plans, targets, frames, strict=True):
        classifier.set_params(**plan).fit(X, y)
        expected.append((classifier.predict_proba(X), classifier.predict(X)))
    n, done, answers = full_count(3, 50), threading.Event(), []

    def ask():
        """Predict; the frame of the other fit is refused for its column's name."""
        mixed = refused = 0
        while not done.is_set():
            for which, X in enumerate(frames):
                for method, right in zip(("predict_proba", "predict"), expected[which], strict=True):
                    try:
                        answer = getattr(classifier, method)(X)
                        mixed += answer.shape != right.shape or not np.array_equal(answer, right)
                        answers.append(which)
                    except ValueError as error:
                        mixed += "feature names" not in str(error)
                        refused += 1
        return mixed, refused

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for _ in range(n):
                for plan, y, X in zip(plans, targets, frames, strict=True):
                    classifier.set_params(**plan).fit(X, y)
        finally:
            done.set()
        results = [future.result() for future in asking]
    mixed = sum(result[0] for result in results)
    figure("predictions during fits of the same estimator", len(answers), f"{mixed} of two fits mixed")
    assert mixed == 0
    assert set(answers) == {0, 1}
    assert sum(result[1] for result in results) > 0


def test_what_a_fit_adds_meanwhile_is_no_trouble_to_a_pickle(make_classifier, reviews, monkeypatch):
    """scikit-learn puts attributes of its own on an estimator while it is being fitted."""
    classifier = make_classifier(epochs=1).fit(*map(list, reviews))

    class Meanwhile:
        def __contains__(self, name):
            vars(classifier)[f"_of_{name}"] = None
            return False

    with monkeypatch.context() as patch:
        patch.setattr(saving, "OF_THIS_PROCESS", Meanwhile())
        state = classifier.__getstate__()
    assert not [name for name in state if name.startswith("_of_")]


def test_a_model_can_be_stored_during_a_fit(make_classifier, reviews, tmp_path, often):
    texts, labels = map(list, reviews)
    classifier = make_classifier(epochs=1).fit(texts, labels)
    other = [f"class {number % 5}" for number in range(len(texts))]
    done, stored = threading.Event(), []

    def store():
        while not done.is_set():
            again = pickle.loads(pickle.dumps(classifier))
            assert again.predict_proba(texts[:2]).shape == (2, len(again.classes_))
            classifier.save(tmp_path / "model")
            again = BertClassifier.load(tmp_path / "model")
            assert again.predict_proba(texts[:2]).shape == (2, len(again.classes_))
            stored.append(len(again.classes_))

    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(store)
        try:
            for number in range(8):
                classifier.fit(texts, other if number % 2 == 0 else labels)
        finally:
            done.set()
        storing.result()
    assert stored
