"""A pickled model holds nothing of the device that it was trained on, nor of torch."""

from __future__ import annotations

import json
import pickle
import pickletools

import cuda_model
import joblib
import numpy as np
import pytest
from cuda_model import QUESTIONS

from skbert import InputError


def named_in(content):
    """Modules whose names a pickle holds, and all its other strings."""
    strings = [argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)]
    # GLOBAL has "module name"; STACK_GLOBAL takes the two from strings before it.
    modules = {name.split()[0].split(".")[0] for name in strings if name.isprintable() and name.split()}
    return modules, strings


FITS = {
    "plain": {},
    "adapters": {"lora": 2},
    "bfloat16": {"precision": "bfloat16"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.25},
    "hidden layers": {"head_layers": 1},
    "random state": {"random_state": np.random.RandomState(0)},
}


@pytest.mark.parametrize("kind", FITS)
def test_a_pickle_is_of_numpy_and_names_no_device(kind, make_classifier, reviews):
    """So it cannot ask for a GPU: torch's own tensors would, when they are read."""
    classifier = make_classifier(**FITS[kind]).fit(*map(list, reviews))
    content = pickle.dumps(classifier)
    modules, strings = named_in(content)
    assert "skbert.classifier" in strings  # as classes are named, so torch would be seen
    assert "numpy" in modules
    assert "torch" not in modules
    assert not [text for text in strings if "cuda" in text.lower() or "storage" in text.lower()]


def test_a_pickle_that_does_hold_torch_is_seen(make_classifier, reviews):
    """What the test above looks for is there in a pickle of a tensor."""
    classifier = make_classifier().fit(*map(list, reviews))
    modules, strings = named_in(pickle.dumps(classifier.model_.head.weight))
    assert "torch" in modules
    assert [text for text in strings if "storage" in text.lower()]


def test_nothing_of_partial_fit_s_optimizer_is_pickled(make_classifier, reviews):
    classifier = make_classifier().partial_fit(*map(list, reviews), classes=["neg", "pos"])
    assert "_moments" in vars(classifier)
    modules, strings = named_in(pickle.dumps(classifier))
    assert "torch" not in modules
    assert "_moments" not in strings


def test_a_model_that_asks_for_a_gpu_says_how_to_do_without(make_classifier, reviews):
    texts, labels = map(list, reviews)
    classifier = make_classifier().fit(texts, labels)
    expected = classifier.predict_proba(texts)
    again = pickle.loads(pickle.dumps(classifier.set_params(device="cuda:63")))  # one that no machine has
    with pytest.raises(InputError, match=r"device='auto' or 'cpu'"):
        again.predict(texts)
    np.testing.assert_array_equal(again.set_params(device="cpu").predict_proba(texts), expected)


def test_models_of_other_devices_load_here(tmp_path):
    """Those in tests/data that were made on a GPU, if there are any, and one that the script makes here."""
    cuda_model.make(tmp_path, "cpu")
    files = [tmp_path / "cpu.joblib", *sorted(cuda_model.DATA.glob("*.joblib"))]
    for file in files:
        expected = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        classifier = joblib.load(file).set_params(device="cpu")
        assert classifier.predict(QUESTIONS).tolist() == expected["labels"]
        np.testing.assert_allclose(
            classifier.predict_proba(QUESTIONS), expected["probabilities"], rtol=1e-3, atol=1e-4
        )
        assert {weight.device.type for weight in classifier.model_.parameters()} == {"cpu"}
