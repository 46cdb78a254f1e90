"""Folders of transformers: written, they give the same logits there; read, the same probabilities."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import FAMILIES, build_checkpoint, build_config, build_tokenizer, save_tokenizer
from safetensors.torch import load_file
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.utils._param_validation import InvalidParameterError
from tokenizers import models
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaConfig,
    DebertaForSequenceClassification,
    pipeline,
)

from skbert import BertClassifier, CheckpointError, InputError, PersistenceError, SkbertWarning
from skbert.persistence import replacing
from skbert.pretrained import checkpoints, families

TEXTS = [
    "good film",
    "",
    "the cat and the dog walk to the sea",
    "a " * 60,
    "bad [SEP] x-9! <mask>",
    "ünknown",
]
PAIRS = pd.DataFrame({"a": TEXTS, "b": ["a fine story", "very sad", "", "red " * 30, "team", "the law"]})
LINEAR = [family for family in FAMILIES if families.LAYOUTS[family].norm is None]
"""The families whose classifiers can do what a linear head does."""


def reference(folder, texts=TEXTS, dtype=torch.float32):
    """Logits of transformers' own padded forward."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    assert model.dtype == dtype
    columns = [texts] if isinstance(texts, list) else [texts["a"].tolist(), texts["b"].tolist()]
    inputs = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.numpy()


def softmax(logits):
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy()


def fit(make_classifier, reviews, n_classes=3, **parameters):
    texts = list(reviews[0])
    return make_classifier(**parameters).fit(texts, [f"label {row % n_classes}" for row in range(len(texts))])


def assert_same_logits(classifier, folder, texts=TEXTS):
    if isinstance(classifier.tokenizer_.model, models.Unigram):
        # There transformers finds special tokens in a text, as pieces of the vocabulary (test_literal.py).
        texts = texts[:4] + texts[5:] if isinstance(texts, list) else texts.drop(4)
    logits = classifier._run(texts, "logits")
    np.testing.assert_allclose(reference(folder, texts), logits, rtol=1e-5, atol=1e-5)


# Writing


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("family", LINEAR)
def test_transformers_reads_the_same_logits(
    family, pooler, tiny_checkpoints, make_classifier, reviews, tmp_path
):
    # As most checkpoints on the hub are, and then without a pooler: saved with a masked-language head.
    folder = tiny_checkpoints(family, layers=2, masked_lm=not pooler)
    classifier = fit(make_classifier, reviews, model=folder)
    classifier.save_pretrained(tmp_path / "model")
    has_one = family in ("bert", "roberta", "xlm-roberta")
    assert (classifier.model_.pooler is not None) == (has_one and pooler)
    assert_same_logits(classifier, tmp_path / "model")
    again = BertClassifier.from_pretrained(tmp_path / "model", precision="float32", device="cpu")
    np.testing.assert_allclose(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS), atol=1e-5)
    assert again.predict(TEXTS).tolist() == classifier.predict(TEXTS).tolist()
    assert again.max_length == 32


@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
@pytest.mark.parametrize("family", LINEAR)
def test_pairs(family, tiny_checkpoints, make_classifier, tmp_path):
    X = pd.concat([PAIRS] * 3, ignore_index=True)
    labels = [f"label {row % 2}" for row in range(len(X))]
    classifier = make_classifier(model=tiny_checkpoints(family), epochs=1).fit(X, labels)
    classifier.save_pretrained(tmp_path)
    assert_same_logits(classifier, tmp_path, PAIRS)
    again = BertClassifier.from_pretrained(tmp_path, pairs=True, precision="float32", device="cpu")
    expected = classifier.predict_proba(PAIRS)
    np.testing.assert_allclose(again.predict_proba(PAIRS.to_numpy()), expected, atol=1e-5)


def test_pipeline(make_classifier, reviews, tmp_path):
    classifier = make_classifier().fit(*map(list, reviews))
    classifier.save_pretrained(tmp_path)
    texts = [text for text in TEXTS if text]
    answers = pipeline("text-classification", str(tmp_path), device="cpu")(
        texts, truncation=True, batch_size=3
    )
    assert [answer["label"] for answer in answers] == classifier.predict(texts).tolist()
    scores = [answer["score"] for answer in answers]
    np.testing.assert_allclose(scores, classifier.predict_proba(texts).max(axis=1), atol=1e-5)


def test_several_labels_per_text(make_classifier, reviews, tmp_path):
    texts, labels = reviews
    y = np.array(
        [["film" in text, label == "pos", "!" in text] for text, label in zip(texts, labels, strict=True)]
    )
    classifier = make_classifier().fit(list(texts), y)
    names = ["zebra", "apple", "mark"]
    classifier.save_pretrained(tmp_path, label_names=np.array(names))
    assert_same_logits(classifier, tmp_path)
    answers = pipeline("text-classification", str(tmp_path), device="cpu", top_k=None)(["good film"])[0]
    probabilities = classifier.predict_proba(["good film"])[0]
    assert {answer["label"] for answer in answers} == set(names)
    for answer in answers:
        np.testing.assert_allclose(answer["score"], probabilities[names.index(answer["label"])], atol=1e-5)
    again = BertClassifier.from_pretrained(tmp_path, precision="float32", device="cpu")
    assert again.target_type_ == "multilabel-indicator"
    assert again.classes_.tolist() == names  # the columns keep their order
    np.testing.assert_array_equal(again.predict(TEXTS), classifier.predict(TEXTS))
    classifier.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"]["1"] == "LABEL_1"


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_float64(family, tiny_checkpoints, make_classifier, reviews, tmp_path):
    folder = tiny_checkpoints(family, masked_lm=True)
    classifier = fit(make_classifier, reviews, model=folder, precision="float64")
    classifier.save_pretrained(tmp_path)
    logits = reference(tmp_path, dtype=torch.float64)
    np.testing.assert_allclose(logits, classifier.decision_function(TEXTS), rtol=1e-11, atol=1e-11)
    again = BertClassifier.from_pretrained(tmp_path, precision="float64", device="cpu")
    np.testing.assert_allclose(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS), atol=1e-11)


@pytest.mark.parametrize("labels", [[3, -1], [True, False], [1.0, 0.0], np.array(["b", "a"], dtype=object)])
def test_labels_become_str(labels, make_classifier, reviews, tmp_path):
    texts = list(reviews[0])
    classifier = make_classifier(epochs=1).fit(texts, [labels[row % 2] for row in range(len(texts))])
    classifier.save_pretrained(tmp_path)
    again = BertClassifier.from_pretrained(tmp_path, precision="float32", device="cpu")
    assert set(again.classes_) == {str(label) for label in labels}
    assert again.predict(TEXTS).tolist() == [str(label) for label in classifier.predict(TEXTS)]


@pytest.mark.parametrize("n_classes", [16, 17])
def test_classes_that_a_head_can_hold(n_classes, tiny_checkpoints, make_classifier, tmp_path):
    """Half of the width, where the layer before the last keeps each logit and its negative."""
    texts = [f"film {row}" for row in range(2 * n_classes)]
    labels = [row % n_classes for row in range(2 * n_classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn finds these many classes
        classifier = make_classifier(model=tiny_checkpoints("electra"), epochs=1).fit(texts, labels)
    if n_classes == 16:
        classifier.save_pretrained(tmp_path)
        assert_same_logits(classifier, tmp_path)
    else:
        with pytest.raises(
            PersistenceError, match="can hold only 16 of the classes of this model, which has 17"
        ):
            classifier.save_pretrained(tmp_path)


@pytest.mark.parametrize(("dtype", "fine"), [(torch.bfloat16, True), (torch.float16, False)])
def test_narrow_types_are_right_or_loud(dtype, fine, tiny_checkpoints, make_classifier, reviews, tmp_path):
    classifier = fit(make_classifier, reviews, model=tiny_checkpoints("roberta", masked_lm=True), epochs=10)
    classifier.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path)(["good film"], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.float().numpy()
    if fine:
        np.testing.assert_allclose(logits, classifier._run(["good film"], "logits"), atol=0.2)
    else:
        assert np.isnan(logits).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_no_equal_is_refused(family, tiny_checkpoints, make_classifier, reviews, tmp_path):
    classifier = fit(make_classifier, reviews, model=tiny_checkpoints(family), pooling="mean", epochs=1)
    with pytest.raises(
        PersistenceError, match=r"pools by 'mean', .*Fit with pooling='cls'\. Files written by save\(\)"
    ):
        classifier.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_modernbert_has_a_norm_in_its_head(tiny_checkpoints, make_classifier, reviews, tmp_path):
    classifier = fit(make_classifier, reviews, model=tiny_checkpoints("modernbert"), epochs=1)
    with pytest.raises(
        PersistenceError, match="the head of 'modernbert' has a norm before its last layer, which no weights"
    ):
        classifier.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.fixture
def fitted(make_classifier, reviews):
    return make_classifier(epochs=1).fit(*map(list, reviews))


def test_more_weights_than_there_are_places(fitted, tmp_path):
    fitted.model_.hidden = torch.nn.Linear(2, 2)
    with pytest.raises(PersistenceError, match=r"\['hidden.weight', 'hidden.bias'\]"):
        fitted.save_pretrained(tmp_path)


def test_other_families_are_refused_by_name(fitted, tmp_path):
    build, config = fitted.model_.rebuild
    fitted.model_.rebuild = (build, config | {"model_type": "xyz"})
    with pytest.raises(PersistenceError, match=r"family 'xyz' cannot be written; those of bert, "):
        fitted.save_pretrained(tmp_path)


def test_labels_with_names_need_no_others(make_classifier, reviews, tmp_path):
    texts, labels = reviews
    y = pd.DataFrame(
        {
            "pos": [int(label == "pos") for label in labels],
            "film": [row % 3 // 2 for row in range(len(texts))],
        }
    )
    classifier = make_classifier(class_weight={"film": 2.0})
    classifier.fit(list(texts), y)
    assert classifier.classes_.tolist() == ["pos", "film"]
    assert classifier.score(texts, y) == (classifier.predict(texts) == y.to_numpy()).all(axis=1).mean()
    classifier.save(tmp_path / "file")
    assert BertClassifier.load(tmp_path / "file").classes_.tolist() == ["pos", "film"]
    classifier.save_pretrained(tmp_path / "folder")
    assert BertClassifier.from_pretrained(tmp_path / "folder").classes_.tolist() == ["pos", "film"]
    with pytest.raises(InputError, match="Pass the same columns in the same order"):
        classifier.set_params(warm_start=True).fit(list(texts), y[["film", "pos"]])
    with pytest.raises(InputError, match="Pass the same columns in the same order"):
        classifier.score(texts, y[["film", "pos"]])
    assert classifier.score(texts, y.to_numpy()) == classifier.score(texts, y)
    folds = cross_val_predict(make_classifier(epochs=1), texts, y, cv=2, method="predict_proba")
    assert folds.shape == (len(texts), 2)
    with pytest.raises(InputError, match=r"class_weight names \['bad'\].*the names of the columns of y"):
        make_classifier(class_weight={"bad": 2.0}).fit(list(texts), y)


def test_label_names_have_an_order(fitted, tmp_path):
    for given in ({"no", "yes"}, {0: "no", 1: "yes"}, "no", frozenset(["no", "yes"]), 2, np.array("no")):
        with pytest.raises(InputError, match=f"label_names is a {type(given).__name__}"):
            fitted.save_pretrained(tmp_path / "out", label_names=given)
    assert not (tmp_path / "out").exists()


def test_labels_are_sorted_as_a_fit_sorts_them(tmp_path):
    build_classifier("bert", tmp_path, ["b", "a\0", "a"])
    assert BertClassifier.from_pretrained(tmp_path).classes_.tolist() == ["a", "a\0", "b"]


def test_names_that_end_with_nul_dates_and_durations_come_back(make_classifier, reviews, tmp_path):
    texts = list(reviews[0])
    for labels, names in (
        (["a\0", "a", "b"] * 8, ["a", "a\0", "b"]),
        (np.array(["2020-01-01", "2021-01-01"] * 12, "M8[D]"), ["2020-01-01", "2021-01-01"]),
        (np.array([10**9, 2 * 10**9] * 12, "m8[ns]"), ["1000000000 nanoseconds", "2000000000 nanoseconds"]),
    ):
        classifier = make_classifier(pooling="cls").fit(texts, labels)
        classifier.save_pretrained(tmp_path)
        again = BertClassifier.from_pretrained(tmp_path, precision="float32", device="cpu")
        assert again.classes_.tolist() == names
        np.testing.assert_allclose(again.predict_proba(texts), classifier.predict_proba(texts), atol=1e-5)


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"], ["one", "one"]])
def test_label_names_are_one_for_each_label(fitted, names, tmp_path):
    with pytest.raises(InputError, match=r"label_names has \d names|not all different"):
        fitted.save_pretrained(tmp_path / "model", label_names=names)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("names", [[10, 20], np.array([10, 20])], ids=type)
def test_label_names_may_be_of_any_type(names, fitted, tmp_path):
    fitted.save_pretrained(tmp_path, label_names=names)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "10", "1": "20"}
    assert config["label2id"] == {"10": 0, "20": 1}


def test_where_no_folder_can_be(fitted, tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(PersistenceError, match="is not a folder"):
        fitted.save_pretrained(tmp_path / "file")
    with pytest.raises(NotFittedError):
        BertClassifier().save_pretrained(tmp_path / "model")


def test_writing_and_reading_are_silent_and_change_nothing(fitted, tmp_path, capfd):
    from transformers.utils import logging

    before, state, verbosity = dict(vars(fitted)), torch.get_rng_state(), logging.get_verbosity()
    fitted.save_pretrained(tmp_path)
    BertClassifier.from_pretrained(tmp_path)
    assert vars(fitted) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_folder_tells_nothing_of_the_machine(fitted, tiny_bert, tmp_path):
    fitted.save_pretrained(tmp_path)
    for file in ("config.json", "tokenizer_config.json"):
        content = (tmp_path / file).read_text(encoding="utf-8")
        assert tiny_bert not in content
        assert str(tmp_path) not in content


# Reading


def build_classifier(family, folder, names, tiny_bert=None, **settings):
    """Write a random classifier of transformers."""
    tokenizer = build_tokenizer(family)
    save_tokenizer(tokenizer, family, folder)
    config = build_config(family, tokenizer, layers=2)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    for name, value in settings.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


SETTINGS = [
    *((family, {}) for family in FAMILIES),
    ("modernbert", {"classifier_pooling": "mean"}),
    ("modernbert", {"classifier_bias": True, "norm_bias": True, "classifier_activation": "silu"}),
    ("deberta-v2", {"pooler_hidden_act": "tanh"}),
    ("bert", {"problem_type": "single_label_classification"}),
]


@pytest.mark.parametrize(("family", "stated"), SETTINGS, ids=str)
def test_the_same_probabilities_as_in_transformers(family, stated, tmp_path):
    names = ["positive", "negative", "mixed"]
    build_classifier(family, tmp_path / "theirs", names, **stated)
    classifier = BertClassifier.from_pretrained(tmp_path / "theirs", precision="float32", device="cpu")
    assert classifier.classes_.tolist() == sorted(names)
    assert classifier.target_type_ == "multiclass"
    order = [names.index(name) for name in sorted(names)]
    logits = reference(tmp_path / "theirs", TEXTS[:4])[:, order]
    np.testing.assert_allclose(classifier.decision_function(TEXTS[:4]), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(TEXTS[:4]), softmax(logits), atol=1e-6)

    # And from there on like any other.
    expected = classifier.decision_function(TEXTS)
    classifier.save(tmp_path / "file")
    for again in (BertClassifier.load(tmp_path / "file"), pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_array_equal(again.decision_function(TEXTS), expected)
        np.testing.assert_array_equal(again.transform(TEXTS), classifier.transform(TEXTS))
    classifier.save_pretrained(tmp_path / "ours")
    assert_same_logits(classifier, tmp_path / "ours")


def test_pairs_of_theirs(tmp_path):
    build_classifier("bert", tmp_path, ["same", "different"])
    classifier = BertClassifier.from_pretrained(tmp_path, pairs=True, precision="float32", device="cpu")
    assert classifier.target_type_ == "binary"
    plain = PAIRS.drop(4)  # which has a special token in it
    expected = softmax(reference(tmp_path, plain))[:, ::-1]
    np.testing.assert_allclose(classifier.predict_proba(plain.to_numpy()), expected, atol=1e-6)
    with pytest.raises(InputError, match="fitted on pairs"):
        classifier.predict(TEXTS)


def test_it_can_be_fitted_anew(tmp_path, reviews):
    build_classifier("bert", tmp_path, ["b", "a"])
    classifier = BertClassifier.from_pretrained(
        tmp_path, epochs=1, batch_size=8, random_state=0, device="cpu"
    )
    assert (classifier.model, classifier.epochs, classifier.max_length) == (tmp_path, 1, 128)
    assert not hasattr(classifier, "loss_curve_")
    assert set(classifier.fit(*map(list, reviews)).predict(TEXTS)) <= {"neg", "pos"}
    assert BertClassifier.from_pretrained(str(tmp_path), max_length=16).max_length_ == 16


def test_only_the_head_of_what_was_not_fitted_is_saved(tmp_path):
    build_classifier("bert", tmp_path, ["b", "a"])
    classifier = BertClassifier.from_pretrained(tmp_path, device="cpu", precision="float32")
    classifier.save(tmp_path / "small", only_changes=True)
    classifier.save(tmp_path / "whole")
    assert (tmp_path / "small").stat().st_size < 0.5 * (tmp_path / "whole").stat().st_size
    again = BertClassifier.load(tmp_path / "small", checkpoint=tmp_path)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_bfloat16(tmp_path):
    build_classifier("modernbert", tmp_path, ["a", "b"], classifier_pooling="mean")
    wide, narrow = (
        BertClassifier.from_pretrained(tmp_path, precision=precision, device="cpu").predict_proba(TEXTS)
        for precision in ("float32", "bfloat16")
    )
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(wide, narrow, atol=0.03)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["a"], {}, r"gives 1 number\(s\)"),
        (["a", "b"], {"problem_type": "regression"}, "problem_type='regression'"),
        (["a", "a"], {}, "Expected a different name for each"),
        (["a", "b"], {"pooler_hidden_act": "relu2"}, "has the activation 'relu2', which cannot be read here"),
    ],
)
def test_what_is_no_classifier_of_named_labels(names, settings, message, tmp_path):
    build_classifier("deberta-v2", tmp_path, names, **settings)
    with pytest.raises(CheckpointError, match=message):
        BertClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_without_a_trained_head(family, tiny_checkpoints):
    with pytest.raises(CheckpointError, match=r"no trained classification head .* call fit\(X, y\)"):
        BertClassifier.from_pretrained(tiny_checkpoints(family, masked_lm=True))


def test_damaged_folders(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json"):
        BertClassifier.from_pretrained(tmp_path / "nowhere")
    build_classifier("bert", tmp_path / "whole", ["a", "b"])
    for damage, message in (
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors weights"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"),
            r"TensorFlow or Flax only.*transformers 4.*from_tf=True.*copy the folder's other files",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda folder: state_layers(folder, 3), r"lacks \d+ weights"),
        (lambda folder: state_layers(folder, 1), r"has, beyond what its config\.json names"),
    ):
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        damage(tmp_path / "copy")
        with pytest.raises(CheckpointError, match=message):
            BertClassifier.from_pretrained(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def state_layers(folder: Path, number):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": number}))


def test_parameters_are_checked(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"])
    with pytest.raises(InputError, match=r"max_length=129, but .* has positions for 128"):
        BertClassifier.from_pretrained(tmp_path, max_length=129)
    for other in ({"pooling": "max"}, {"head_layers": 2}):
        with pytest.raises(InputError, match=f"{next(iter(other))}=.*but the classifier has"):
            BertClassifier.from_pretrained(tmp_path, **other)
    assert BertClassifier.from_pretrained(tmp_path, pooling="cls").model_.pooling == "cls"
    with pytest.raises(InvalidParameterError, match="precision"):
        BertClassifier.from_pretrained(tmp_path, precision="half")
    with pytest.raises(TypeError, match="no_such"):
        BertClassifier.from_pretrained(tmp_path, no_such=1)


def test_weights_are_of_the_type_that_was_read(tmp_path, fitted):
    fitted.save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_was_written_predicts_in_float16_too(family, make_classifier, reviews, tmp_path):
    """Of an encoder without a pooler: the weights that are put in its place would be zero in float16."""
    folder = build_checkpoint(family, tmp_path / "start", layers=2, masked_lm=True)
    classifier = make_classifier(model=str(folder), pooling="cls", epochs=6).fit(*reviews)
    classifier.save_pretrained(tmp_path / "written")
    again = BertClassifier.from_pretrained(tmp_path / "written", device="cpu", precision="float16")
    expected = classifier.predict_proba(list(reviews[0]))
    assert len(np.unique(expected.round(3), axis=0)) > 2
    np.testing.assert_allclose(again.predict_proba(list(reviews[0])), expected, atol=5e-3)


def test_what_save_gives_back_has_no_attribute_more(tmp_path):
    build_classifier("bert", tmp_path / "theirs", ["a", "b"])
    classifier = BertClassifier.from_pretrained(tmp_path / "theirs", device="cpu")
    classifier.save(tmp_path / "model")
    assert set(vars(BertClassifier.load(tmp_path / "model"))) == set(vars(classifier))


def test_labels_that_have_names_are_weighed_by_them(tmp_path):
    settings = {"problem_type": "multi_label_classification"}
    build_classifier("bert", tmp_path, ["zeta", "alpha"], **settings)
    quick = {"warm_start": True, "epochs": 1, "max_length": 32, "device": "cpu"}
    texts, y = ["good film", "bad film"] * 4, [[1, 0], [0, 1]] * 4
    classifier = BertClassifier.from_pretrained(tmp_path, class_weight={0: 2.0}, **quick)
    with pytest.raises(InputError, match=r"names \[0\], but the labels are \['zeta', 'alpha'\]"):
        classifier.fit(texts, y)
    classifier.set_params(class_weight={"zeta": 2.0}).fit(texts, y)
    assert classifier.classes_.tolist() == ["zeta", "alpha"]


def test_what_the_tokenizer_says_of_long_texts(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"])
    file = tmp_path / "tokenizer_config.json"
    stated = json.loads(file.read_text())

    def state(**settings):
        file.write_text(json.dumps({k: v for k, v in (stated | settings).items() if v is not None}))

    state(model_max_length=None, max_len=40)  # as old files have it
    assert BertClassifier.from_pretrained(tmp_path).max_length == 40
    for length in (0, -1, 7):
        state(model_max_length=length)
        with pytest.raises(CheckpointError, match=rf"model_max_length={length}\. Expected 8 or more"):
            BertClassifier.from_pretrained(tmp_path)
    for unstated in (True, 1e30, 10**30):
        state(model_max_length=unstated)
        assert BertClassifier.from_pretrained(tmp_path).max_length == 128
    state(truncation_side="left")
    with pytest.raises(
        CheckpointError, match="keeps the end of long texts; long_text has no option for this"
    ):
        BertClassifier.from_pretrained(tmp_path)
    assert BertClassifier.from_pretrained(tmp_path, long_text="head_tail").long_text_ == "head_tail"


def test_the_side_that_transformers_truncated_at_last_is_the_tokenizers(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, truncation_side="left")
    tokenizer("good film " * 20, truncation=True, max_length=16)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    stated = json.loads(file.read_text())
    stated.pop("truncation_side", None)
    file.write_text(json.dumps(stated))
    assert AutoTokenizer.from_pretrained(tmp_path).truncation_side == "left"
    with pytest.raises(CheckpointError, match="has truncation_side='left'"):
        BertClassifier.from_pretrained(tmp_path)


def test_what_classifies_tokens_is_no_classifier_of_texts(tmp_path):
    """ModernBERT's has the same weights by the same names."""
    build_classifier("modernbert", tmp_path, ["a", "b"])
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps(stated | {"architectures": ["ModernBertForTokenClassification"]}))
    with pytest.raises(CheckpointError, match="holds a ModernBertForTokenClassification"):
        BertClassifier.from_pretrained(tmp_path)
    file.write_text(json.dumps({k: v for k, v in stated.items() if k != "architectures"}))
    assert BertClassifier.from_pretrained(tmp_path).classes_.tolist() == ["a", "b"]


def test_an_entry_that_is_called_as_the_activation_is_another_thing(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"])
    expected = BertClassifier.from_pretrained(tmp_path).decision_function(["good film"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tanh": "relu"}))
    found = BertClassifier.from_pretrained(tmp_path).decision_function(["good film"])
    np.testing.assert_array_equal(found, expected)


def test_a_head_with_another_activation_is_not_built():
    config = build_config("modernbert", build_tokenizer("modernbert"), layers=1).to_dict()
    with pytest.raises(ValueError, match="its head has the activation 'quick_gelu'"):
        families.build_encoder(config | {"classifier_activation": "quick_gelu"}, True)


def test_a_word_is_never_the_padding_token(tiny_bert, reviews, tmp_path):
    """Some configs have the id of a word for it: skbert and transformers read texts all the same."""
    shutil.copytree(tiny_bert, tmp_path / "checkpoint")
    vocabulary = json.loads((tmp_path / "checkpoint" / "tokenizer.json").read_text())["model"]["vocab"]
    file = tmp_path / "checkpoint" / "config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps(stated | {"pad_token_id": vocabulary["the"]}))
    texts, labels = map(list, reviews)
    classifier = BertClassifier(
        tmp_path / "checkpoint", pooling="cls", epochs=1, max_length=32, device="cpu", random_state=0
    ).fit(texts, labels)
    classifier.save_pretrained(tmp_path / "written")
    assert AutoTokenizer.from_pretrained(tmp_path / "written").pad_token == "[PAD]"
    again = BertClassifier.from_pretrained(tmp_path / "written", device="cpu")
    np.testing.assert_allclose(again.predict_proba(texts), classifier.predict_proba(texts), atol=1e-6)


def test_only_modernbert_says_how_its_classifier_pools(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"], classifier_pooling="mean")
    classifier = BertClassifier.from_pretrained(tmp_path, precision="float32", device="cpu")
    assert classifier.model_.pooling == "cls"
    np.testing.assert_allclose(
        classifier._run(TEXTS[:4], "logits"), reference(tmp_path, TEXTS[:4]), atol=1e-5
    )


def test_what_was_read_does_not_change_with_its_folder(make_classifier, reviews, tmp_path):
    """As when a new model is copied over the one that a service has read."""
    for seed in (0, 1):
        fit(make_classifier, reviews, pooling="cls", random_state=seed).save_pretrained(tmp_path / str(seed))
    read = BertClassifier.from_pretrained(tmp_path / "0", precision="float32")
    before = read.predict_proba(TEXTS)
    shutil.copyfile(tmp_path / "1" / "model.safetensors", tmp_path / "0" / "model.safetensors")
    assert not np.array_equal(
        BertClassifier.from_pretrained(tmp_path / "0", precision="float32").predict_proba(TEXTS), before
    )
    np.testing.assert_array_equal(read.predict_proba(TEXTS), before)


@pytest.mark.parametrize("blocked", ["model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_half_replaced_is_none(make_classifier, reviews, tmp_path, blocked):
    """And never the weights of the old classifier with the labels of the new one."""
    classifier = fit(make_classifier, reviews, pooling="cls")
    classifier.save_pretrained(tmp_path)
    (tmp_path / blocked).unlink()
    (tmp_path / blocked / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=re.escape(blocked)):
        classifier.save_pretrained(tmp_path, label_names=["x", "y", "z"])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        BertClassifier.from_pretrained(tmp_path)
    assert not list(tmp_path.glob(".skbert-*"))


def test_a_folder_that_is_replaced_while_it_is_read(make_classifier, reviews, tmp_path, monkeypatch):
    classifier = fit(make_classifier, reviews, pooling="cls")
    classifier.save_pretrained(tmp_path)
    read = checkpoints.as_checkpoint

    def replaced(*given):
        classifier.save_pretrained(tmp_path, label_names=["x", "y", "z"])
        return read(*given)

    monkeypatch.setattr(checkpoints, "as_checkpoint", replaced)
    for use in (BertClassifier.from_pretrained, checkpoints.load):
        with pytest.raises(CheckpointError, match="were changed while they were read"):
            use(tmp_path)
    monkeypatch.undo()
    assert BertClassifier.from_pretrained(tmp_path).classes_.tolist() == ["x", "y", "z"]


@pytest.mark.parametrize("write", ["save_pretrained", "save_encoder"])
def test_a_fit_that_ends_while_the_model_is_written(write, make_classifier, reviews, tmp_path, monkeypatch):
    """What is written is the model before the fit, with its own labels."""
    texts = list(reviews[0])
    classifier = fit(make_classifier, reviews, pooling="cls")
    getattr(classifier, write)(tmp_path / "expected")

    def fitted_at_once(self):
        now = snapshot(self)
        self.fit(texts, list(reviews[1]))
        return now

    snapshot = BertClassifier._snapshot
    monkeypatch.setattr(BertClassifier, "_snapshot", fitted_at_once)
    getattr(classifier, write)(tmp_path / "written")
    assert classifier.classes_.tolist() == ["neg", "pos"]
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "written" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other limits")
def test_a_folder_that_cannot_be_written_to_is_named(make_classifier, reviews, tmp_path):
    """And not the folder that is made in it for a while, whose name here is too long for the system."""
    classifier = fit(make_classifier, reviews, pooling="cls")
    folder = tmp_path
    while len(os.fspath(folder)) < 4_060:
        folder /= "x" * min(200, 4_070 - len(os.fspath(folder)))
    folder.mkdir(parents=True)
    with pytest.raises(OSError, match=r"to write a folder there\): '.*x'$"):
        classifier.save_pretrained(folder)
    assert list(folder.iterdir()) == []


def test_a_refusal_that_may_pass_leaves_no_folder_half_replaced(
    make_classifier, reviews, tmp_path, monkeypatch
):
    """As on Windows, while another process reads a file of the folder."""
    classifier = fit(make_classifier, reviews, pooling="cls")
    classifier.save_pretrained(tmp_path)
    refused = set()

    def refusing(change):
        def once(*names):
            if str(names[-1]).endswith("model.safetensors") and change not in refused:
                refused.add(change)
                raise PermissionError(13, "Access is denied")
            return change(*names)

        return once

    expected = {os.replace, os.unlink}
    for change in expected:
        monkeypatch.setattr(os, change.__name__, refusing(change))
    monkeypatch.setattr(replacing, "_WAITS", (0.0,))
    classifier.save_pretrained(tmp_path)
    assert refused == expected
    monkeypatch.undo()
    assert_same_logits(classifier, tmp_path)


def test_weights_in_parts_that_were_there_are_not_read_with_the_new_ones(make_classifier, reviews, tmp_path):
    classifier = fit(make_classifier, reviews, pooling="cls")
    classifier.save_pretrained(tmp_path)
    os.replace(tmp_path / "model.safetensors", tmp_path / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.bias": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    classifier.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert_same_logits(classifier, tmp_path)


def test_weights_that_stay_in_single_precision(tmp_path):
    """As those that the older DeBERTa makes beside its layers do."""
    config = DebertaConfig(
        **{"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 128, "pos_att_type": ["c2p", "p2c"]},
        **{"relative_attention": True, "id2label": {0: "a", 1: "b"}, "pad_token_id": 0},
    )
    build_classifier("bert", tmp_path / "folder", ["a", "b"])
    DebertaForSequenceClassification(config).save_pretrained(tmp_path / "folder")
    classifier = BertClassifier.from_pretrained(tmp_path / "folder", precision="float64", device="cpu")
    classifier.save(tmp_path / "model")
    loaded = BertClassifier.load(tmp_path / "model")
    texts = ["good film", "bad film"]
    np.testing.assert_array_equal(loaded.predict_proba(texts), classifier.predict_proba(texts))


def test_the_least_length_that_a_tokenizer_may_state(tmp_path):
    build_classifier("bert", tmp_path, ["a", "b"])
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 8}))
    assert BertClassifier.from_pretrained(tmp_path).max_length == 8


def test_what_transformers_reads_otherwise_is_said(make_classifier, reviews, tmp_path):
    texts, y = reviews
    long = [" ".join(texts[:6]), " ".join(texts[6:12])]
    fitted = make_classifier(pooling="cls", long_text="windows", max_length=8).fit(texts, y)
    with pytest.warns(SkbertWarning, match=r"long_text_='windows'.*unless it is given long_text='windows'"):
        fitted.save_pretrained(tmp_path)
    expected = fitted.predict_proba(long)
    again = BertClassifier.from_pretrained(tmp_path, long_text="windows")
    np.testing.assert_allclose(again.predict_proba(long), expected, atol=1e-6)
    assert not np.allclose(BertClassifier.from_pretrained(tmp_path).predict_proba(long), expected, atol=1e-4)


def test_a_pipeline_that_truncates_gives_the_same_for_long_texts(make_classifier, reviews, tmp_path):
    texts, y = reviews
    fitted = make_classifier(pooling="cls", max_length=8).fit(texts, y)
    fitted.save_pretrained(tmp_path)
    ask = pipeline("text-classification", str(tmp_path), device="cpu", truncation=True, top_k=None)
    long = " ".join(texts[:6])
    found = {answer["label"]: answer["score"] for answer in ask([long])[0]}
    np.testing.assert_allclose(
        [found[c] for c in fitted.classes_], fitted.predict_proba([long])[0], atol=1e-6
    )
