"""save and load: exactly what was saved, or an error; nothing executed, nothing fetched."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from checkpoints import FAMILIES, build_tokenizer, for_any_family, save_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_model import EXPECTED, EXPECTED_NUMBERS, QUESTIONS, SAVED, SAVED_NUMBERS
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score, make_scorer
from sklearn.utils.metadata_routing import get_routing_for_object
from test_codec import same
from torch.nn.utils import parametrizations, parametrize, prune

from skbert import BertClassifier, BertRegressor, CheckpointError, PersistenceError
from skbert.network.model import SequenceClassifier
from skbert.persistence import model_spec, tensorfile
from skbert.persistence.replacing import replace_file

ROOT = Path(__file__).parents[1]
MUTATE = Path(__file__).with_name("mutate.py")
TEXTS = ["good film", "the dog is sad", "", "[SEP] ünknown \ud800 words!", "a " * 60]


def saved(classifier, path, texts=TEXTS):
    """Save, load, hold the two against each other in everything, and return the one that was loaded."""
    classifier.save(path)
    again = type(classifier).load(path)
    assert again.get_params().keys() == classifier.get_params().keys()
    states = [dict(vars(estimator)) for estimator in (classifier, again)]
    assert set(states[0]) == set(states[1])
    routing = [str(state.pop("_metadata_request", None)) for state in states]
    assert routing[0] == routing[1]
    models = [state.pop("model_") for state in states]
    tokenizers = [state.pop("tokenizer_") for state in states]
    generators = [state.pop("random_state") for state in states]
    assert [same(states[0][name], states[1][name]) for name in states[0]].count(False) == 0
    assert tokenizers[0].to_str() == tokenizers[1].to_str()
    assert tokenizers[1].encode_special_tokens
    if isinstance(generators[0], np.random.RandomState):
        generators = [list(generator.get_state(legacy=False).items()) for generator in generators]
        generators = [str(generator) for generator in generators]
    assert same(*generators)
    weights = [model.state_dict() for model in models]
    assert list(weights[0]) == list(weights[1])
    assert all(
        weights[0][n].dtype == w.dtype and torch.equal(weights[0][n], w) for n, w in weights[1].items()
    )
    assert models[0].architecture == models[1].architecture
    assert not any(p.requires_grad for p in models[1].parameters())
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform"):
        first, second = (np.asarray(getattr(estimator, method)(texts)) for estimator in (classifier, again))
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second, err_msg=method)
    return again


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    return make_classifier().fit(*map(list, reviews))


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    fitted.save(path)
    return path


# What comes back


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tiny_checkpoints, make_classifier, reviews, tmp_path):
    classifier = make_classifier(model=tiny_checkpoints(family, layers=2), epochs=1).fit(*map(list, reviews))
    again = saved(classifier, tmp_path / "model")
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


OTHERS = {
    "camembert": (transformers.CamembertConfig, transformers.CamembertModel),
    "deberta": (transformers.DebertaConfig, transformers.DebertaModel),
    "mpnet": (transformers.MPNetConfig, transformers.MPNetModel),
}


@pytest.mark.parametrize("family", OTHERS)
def test_every_other_family(family, make_classifier, reviews, tmp_path):
    config, model = OTHERS[family]
    like = "bert" if family == "deberta" else "roberta"
    save_tokenizer(build_tokenizer(like), like, tmp_path)
    for_any_family(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    places = {"vocab_size": 400, "max_position_embeddings": 130, "pad_token_id": int(like == "roberta")}
    model(config(**sizes, **places)).save_pretrained(tmp_path)
    classifier = make_classifier(model=tmp_path, epochs=1).fit(*map(list, reviews))
    saved(classifier, tmp_path / "model")


def test_the_families_are_those_that_are_tested():
    assert set(model_spec.FAMILIES) == {*FAMILIES, *OTHERS}


def test_a_description_names_all_that_a_model_is_made_of(fitted):
    described, _ = model_spec.describe(fitted.model_)
    made_of = set(inspect.signature(SequenceClassifier).parameters) - {"encoder", "rebuild"}
    assert set(described["settings"]) == made_of


LABELS = {
    "str": ["b", "a"],
    "long str": ["a label that is longer than any other", "short"],
    "str with trailing NUL inside": ["a\0b", "c"],
    "surrogate": ["\ud800", "x"],
    "int": [3, -1],
    "int8": np.array([3, -1], dtype=np.int8),
    "uint64": np.array([2**64 - 1, 0], dtype=np.uint64),
    "big-endian": np.array([3, -1], dtype=">i4"),
    "bool": [True, False],
    "float": [1.0, -0.0],
    "float32": np.array([1, 0], dtype=np.float32),
    "object of str": np.array(["b", "a"], dtype=object),
}


@pytest.mark.parametrize("labels", LABELS)
def test_classes_of_every_dtype(labels, make_classifier, reviews, tmp_path):
    texts = list(reviews[0])
    y = [LABELS[labels][number % 2] for number in range(len(texts))]
    y = y if isinstance(LABELS[labels], list) else np.array(y, dtype=LABELS[labels].dtype)
    classifier = make_classifier(epochs=1).fit(texts, y)
    again = saved(classifier, tmp_path / "model")
    assert again.classes_.dtype == classifier.classes_.dtype
    assert [type(label) for label in again.classes_] == [type(label) for label in classifier.classes_]


def test_labels_of_pandas(make_classifier, reviews, tmp_path):
    texts, labels = reviews
    for y in (pd.Series(labels), pd.Series(labels, dtype="category"), pd.Series(labels, dtype="string")):
        saved(make_classifier(epochs=1).fit(list(texts), y), tmp_path / "model")


def test_several_labels_per_text(make_classifier, reviews, tmp_path):
    texts = reviews[0]
    y = np.array([[label == "pos", "film" in text, True] for text, label in zip(*reviews, strict=True)])
    again = saved(make_classifier().fit(list(texts), y), tmp_path / "model")
    assert again.predict(TEXTS).shape == (len(TEXTS), 3)


def test_pairs_of_named_columns(make_classifier, reviews, tmp_path):
    X = pd.DataFrame({"question": reviews[0], "answer": reviews[0][::-1]})
    classifier = make_classifier().fit(X, list(reviews[1]))
    again = saved(classifier, tmp_path / "model", X)
    assert again.feature_names_in_.dtype == object
    assert again.get_feature_names_out().tolist() == classifier.get_feature_names_out().tolist()
    with pytest.raises(ValueError, match="feature names"):
        again.predict(X[["answer", "question"]])


@pytest.mark.parametrize(
    "parameters",
    [
        {"precision": "float64"},
        {"precision": "bfloat16"},
        {"pooling": "mean", "long_text": "windows", "max_length": 8},
        {"early_stopping": True, "validation_fraction": 0.25, "scoring": "f1_macro", "epochs": 3},
        {"class_weight": {"neg": 1, "pos": np.float32(0.1)}},
        {"class_weight": {np.str_("neg"): 1.0, np.str_("pos"): 2.0}},
        {"class_weight": "balanced", "random_state": np.random.RandomState(3)},
        {"random_state": None, "verbose": True, "max_grad_norm": None},
        {"learning_rate": np.float32(1e-3), "epochs": np.int32(1), "dropout": 0.1 + 0.2},
        {"max_length": np.int64(16), "batch_size": np.int16(4), "verbose": np.int64(0)},
        {"freeze": "encoder", "layer_decay": 0.9, "label_smoothing": 0.1},
    ],
    ids=", ".join,
)
def test_parameters_of_every_type(parameters, make_classifier, reviews, tmp_path, capsys):
    texts, labels = map(list, reviews)
    if parameters.get("long_text") == "windows":
        texts = [f"{text} {text}" for text in texts]
    saved(make_classifier(**parameters).fit(texts, labels), tmp_path / "model")


def test_a_path_as_model(make_classifier, tiny_bert, reviews, tmp_path):
    again = saved(make_classifier(model=Path(tiny_bert)).fit(*map(list, reviews)), tmp_path / "model")
    assert again.model == Path(tiny_bert)
    assert again.fit(*map(list, reviews)).predict(TEXTS).shape == (len(TEXTS),)


def test_what_was_asked_of_scikit_learn(make_classifier, reviews, tmp_path):
    with config_context(enable_metadata_routing=True):
        classifier = make_classifier().set_fit_request(sample_weight=True, X_val="held_out")
    classifier.set_output(transform="pandas").fit(*map(list, reviews))
    again = saved(classifier, tmp_path / "model")
    assert isinstance(again.transform(TEXTS), pd.DataFrame)
    assert str(get_routing_for_object(again)) == str(get_routing_for_object(classifier))
    assert "held_out" in str(get_routing_for_object(again))


def test_parameters_changed_after_the_fit(fitted, tmp_path):
    from copy import deepcopy

    changed = deepcopy(fitted).set_params(
        max_length=64, long_text="windows", model="some/other", scoring="f1"
    )
    again = saved(changed, tmp_path / "model")
    assert (again.max_length, again.max_length_) == (64, 32)


def test_a_loaded_estimator_is_an_estimator(file, reviews, fitted):
    again = BertClassifier.load(file)
    texts, labels = map(list, reviews)
    assert again.fit(texts, labels).score(texts, labels) == fitted.score(texts, labels)
    np.testing.assert_array_equal(again.decision_function(texts), fitted.decision_function(texts))


def test_nothing_of_the_loaded_is_shared_with_the_file(file, fitted):
    content = file.read_bytes()
    again = BertClassifier.load(file)
    file.write_bytes(b"")  # a mapped file would be gone now
    try:
        np.testing.assert_array_equal(again.decision_function(TEXTS), fitted.decision_function(TEXTS))
    finally:
        file.write_bytes(content)


def test_saving_changes_nothing(fitted, tmp_path):
    before = dict(vars(fitted))
    fitted.save(str(tmp_path / "1"))
    fitted.save(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert vars(fitted) == before


def test_a_file_tells_nothing_of_the_machine(fitted, tiny_bert, tmp_path):
    from copy import deepcopy

    deepcopy(fitted).set_params(model="some/model").save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    assert tiny_bert.encode() not in content
    assert str(Path.home()).encode() + b"/" not in content


def test_the_file_of_the_first_version():
    """A file that skbert 0.1.0 wrote (tests/saved_model.py): every later version gives its answers."""
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    classifier = BertClassifier.load(SAVED)
    X = pd.DataFrame({"review": QUESTIONS})
    assert classifier.predict(X).tolist() == expected["labels"]
    assert classifier.classes_.dtype == np.int16
    assert classifier.classes_.tolist() == [-3, 0, 7]
    np.testing.assert_allclose(classifier.predict_proba(X), expected["probabilities"], rtol=1e-4, atol=1e-5)
    embeddings = classifier.transform(X)
    np.testing.assert_allclose(embeddings.to_numpy()[0], expected["embedding"], rtol=1e-4, atol=1e-5)
    assert classifier.random_state.randint(2**31 - 1, size=3).tolist() == expected["next_random"]
    assert classifier.class_weight == {7: 1.0, -3: 1.5, 0: 1.0}
    assert [type(key) for key in classifier.class_weight] == [int, int, int]
    assert type(classifier.batch_size) is np.int64
    assert type(classifier.learning_rate) is np.float32
    assert classifier.model == Path("checkpoint")
    assert classifier.feature_names_in_.tolist() == ["review"]
    assert classifier.n_iter_ == len(classifier.history_) == len(classifier.validation_scores_)


def test_the_file_of_the_first_regressor():
    expected = json.loads(EXPECTED_NUMBERS.read_text(encoding="utf-8"))
    regressor = BertRegressor.load(SAVED_NUMBERS)
    numbers = regressor.predict(QUESTIONS)
    np.testing.assert_allclose(
        numbers / regressor.target_scale_, expected["numbers"] / regressor.target_scale_, atol=1e-4
    )
    assert regressor.target_type_ == "continuous-multioutput"
    assert regressor.target_mean_.tolist() == [5e5, -0.5]
    assert regressor.target_scale_.tolist() == [5e5, 0.5]
    assert len(regressor.adapters_) > 0


# What cannot be saved


def score(estimator, X, y):
    return 1.0


@pytest.mark.parametrize(
    "scoring", [score, make_scorer(f1_score, pos_label="pos")], ids=["function", "scorer"]
)
def test_a_callable_is_refused_by_name(scoring, make_classifier, reviews, tmp_path):
    classifier = make_classifier(scoring=scoring, early_stopping=True, validation_fraction=0.25)
    classifier.fit(*map(list, reviews))
    path = tmp_path / "model"
    path.write_text("what was there")
    with pytest.raises(
        PersistenceError, match=r"(?s)parameter scoring .* set_params\(scoring=...\); or .*joblib"
    ):
        classifier.save(path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]
    saved(classifier.set_params(scoring=None), path)


def test_an_attribute_of_another_type_is_refused_by_name(fitted, tmp_path):
    from copy import copy

    odd = copy(fitted)
    odd.odd_ = object()
    with pytest.raises(PersistenceError, match="The attribute odd_ is or holds <object"):
        odd.save(tmp_path / "model")


@pytest.mark.parametrize("name", ["_private", "predict", "public"])
def test_an_attribute_that_no_fit_sets_is_refused(name, fitted, tmp_path):
    from copy import copy

    odd = copy(fitted)
    setattr(odd, name, 1)
    with pytest.raises(PersistenceError, match=f"the attribute '{name}' is not one that a fit sets"):
        odd.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_str_of_great_width(make_classifier, reviews, tmp_path):
    """Their arrays are as wide as the widest that there could be; a file holds what is in them."""
    texts, labels = reviews
    wide = make_classifier(epochs=1).fit(list(texts), np.array(labels, dtype="<U1000000"))
    assert saved(wide, tmp_path / "model").classes_.dtype == np.dtype("<U1000000")
    wider = np.dtype(f"<U{2**21 + 10_000}")  # above what any file is allowed: its own size counts, too
    wide.classes_ = wide.classes_.astype(wider)
    assert saved(wide, tmp_path / "model").classes_.dtype == wider
    wide.classes_ = wide.classes_.astype("<U3000000")
    with pytest.raises(PersistenceError, match=r"classes_ cannot be saved: An array .* does not fit"):
        wide.save(tmp_path / "wider")


def test_other_families_are_refused_by_name(fitted, tmp_path, monkeypatch):
    build, config = fitted.model_.rebuild
    monkeypatch.setattr(fitted.model_, "rebuild", (build, config | {"model_type": "xyz"}))
    with pytest.raises(PersistenceError, match=r"'xyz'.*bert.*joblib"):
        fitted.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_that_is_not_fitted(tmp_path):
    with pytest.raises(NotFittedError):
        BertClassifier().save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Derived(BertClassifier):
    pass


def test_a_class_loads_its_own_files(fitted, file, tmp_path):
    derived = Derived(**fitted.get_params())
    vars(derived).update(vars(fitted))
    saved(derived, tmp_path / "model")
    with pytest.raises(PersistenceError, match="'Derived', not a BertClassifier"):
        BertClassifier.load(tmp_path / "model")
    with pytest.raises(PersistenceError, match="'BertClassifier', not a Derived"):
        Derived.load(file)


# Files that are damaged


def test_what_load_would_refuse_is_not_saved(fitted, tmp_path):
    altered = pickle.loads(pickle.dumps(fitted))
    altered.max_length_ = 16.0
    with pytest.raises(PersistenceError, match="not those of a fit"):
        altered.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        BertClassifier.load(tmp_path / "model")
    with pytest.raises(PersistenceError, match=r"is a folder\..*from_pretrained"):
        BertClassifier.load(tmp_path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found(data, file, tmp_path_factory):
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    # Half of them in what leads the file, where a bit means most.
    place = data.draw(st.integers(0, 8 * (8 + header) - 1) | st.integers(0, 8 * len(content) - 1))
    content[place // 8] ^= 1 << place % 8
    assert_refused(content, tmp_path_factory)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_found(data, file, tmp_path_factory):
    content = file.read_bytes()
    assert_refused(content[: data.draw(st.integers(0, len(content) - 1))], tmp_path_factory)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bytes_that_were_replaced_inserted_or_removed_are_found(data, file, tmp_path_factory):
    content = file.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 64, len(content))))
    changed = content[:start] + data.draw(st.binary(max_size=64)) + content[stop:]
    if changed != content:
        assert_refused(changed, tmp_path_factory)


def assert_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with pytest.raises(PersistenceError, match=r"damaged' cannot be loaded: "):
        BertClassifier.load(path)


def parts(path):
    """Metadata and arrays of a file, and what its metadata say."""
    arrays, metadata, _ = tensorfile.read(path)
    return metadata, arrays, json.loads(metadata["skbert"])


def write(path, arrays, metadata):
    replace_file(path, lambda opened: tensorfile.write(opened, arrays, metadata))
    return path


def test_swapped_arrays_are_found(file, tmp_path):
    metadata, arrays, _ = parts(file)
    by_shape = {}
    for name, array in arrays.items():
        by_shape.setdefault((array.dtype, array.shape), []).append(name)
    first, second = next(names for names in by_shape.values() if len(names) > 1)[:2]
    arrays[first], arrays[second] = arrays[second], arrays[first]
    with pytest.raises(PersistenceError, match="is not the one that was saved"):
        BertClassifier.load(write(tmp_path / "model", arrays, metadata))


@pytest.mark.parametrize("change", ["missing", "surplus", "transposed", "another dtype"])
def test_other_arrays_are_found(change, file, tmp_path):
    metadata, arrays, _ = parts(file)
    if change == "missing":
        del arrays["head.bias"]
    elif change == "surplus":
        arrays["tail.bias"] = arrays["head.bias"]
    elif change == "transposed":
        arrays["head.weight"] = arrays["head.weight"].reshape(arrays["head.weight"].shape[::-1])
    else:
        arrays["head.bias"] = arrays["head.bias"].view(np.int32)
    with pytest.raises(PersistenceError, match=r"'(head|tail)\."):
        BertClassifier.load(write(tmp_path / "model", arrays, metadata))


def test_files_of_others(tmp_path, tiny_bert, fitted):
    import joblib

    pickled, zipped = tmp_path / "model.joblib", tmp_path / "model.pt"
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        joblib.dump(fitted, pickled, compress=compress)
        with pytest.raises(
            PersistenceError, match=r"like a pickle or a joblib file, which joblib\.load reads"
        ):
            BertClassifier.load(pickled)
    torch.save(fitted.model_.state_dict(), zipped)
    for path in (pickled, zipped, Path(tiny_bert) / "model.safetensors", Path(tiny_bert) / "config.json"):
        with pytest.raises(PersistenceError, match=r"cannot be loaded|not a whole|not a safe"):
            BertClassifier.load(path)


def test_a_name_may_be_of_bytes(file):
    again = BertClassifier.load(os.fsencode(file))
    np.testing.assert_array_equal(
        again.predict_proba(["good"]), BertClassifier.load(file).predict_proba(["good"])
    )


def test_an_empty_name_is_no_file(file):
    with pytest.raises(PersistenceError, match="'' does not name a file"):
        BertClassifier.load(file).save("")


def test_the_home_folder_is_the_same_for_all_that_is_written_and_read(
    make_classifier, reviews, tmp_path, monkeypatch
):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    model = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    model.save("~/model.safetensors")
    model.save_pretrained("~/folder")
    model.save_encoder("~/encoder")
    expected = model.predict_proba(["good"])
    np.testing.assert_array_equal(
        BertClassifier.load("~/model.safetensors").predict_proba(["good"]), expected
    )
    BertClassifier.from_pretrained("~/folder")
    make_classifier(model="~/encoder", epochs=1).fit(*reviews)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("name", ["~/model", "~", "~nobody of this name"])
def test_a_home_folder_that_is_not_there_is_named(name, make_classifier, reviews, tmp_path, monkeypatch):
    """As in a container whose user has none: a folder called ~ would be made, and removed with rm -r ~."""
    model = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    monkeypatch.chdir(tmp_path)
    for write in (model.save, model.save_pretrained, model.save_encoder):
        with pytest.raises(PersistenceError, match=r"there is no such home folder here.*'\./~"):
            write(name)
    for read in (BertClassifier.load, BertClassifier.from_pretrained, make_classifier(model=name).fit):
        with pytest.raises((PersistenceError, CheckpointError), match="there is no such home folder here"):
            read(*([name] if "fit" not in read.__name__ else reviews))
    assert not list(tmp_path.iterdir())
    model.save(f"./{name.replace('/', '')}")
    assert [file.name for file in tmp_path.iterdir()] == [name.replace("/", "")]


@pytest.mark.parametrize("write", ["save", "save_pretrained", "save_encoder"])
def test_a_full_disk_names_what_was_to_be_written_and_leaves_nothing(
    write, make_classifier, reviews, tmp_path, monkeypatch
):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    model = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    monkeypatch.setattr(os, "fsync" if write == "save" else "replace", full)
    with pytest.raises(OSError, match=r"No space left on device.*model'$") as caught:
        getattr(model, write)(tmp_path / "model")
    assert caught.value.errno == 28
    assert not list(tmp_path.iterdir())


def test_a_time_limit_does_not_make_a_file_one_that_cannot_be_loaded(file, monkeypatch):
    def limit(*arguments, **keywords):
        raise TimeoutError("my limit")

    monkeypatch.setattr(model_spec, "with_weights", limit)
    with pytest.raises(TimeoutError, match="my limit"):
        BertClassifier.load(file)


def test_metadata_of_others(file, tmp_path):
    metadata, arrays, _ = parts(file)
    for foreign in ({}, {"format": "pt"}):
        with pytest.raises(PersistenceError, match=r"save\(\) did not write it.*from_pretrained"):
            BertClassifier.load(write(tmp_path / "model", arrays, foreign))
    for changed in (metadata | {"format": "pt"}, {"skbert": metadata["skbert"]}):
        with pytest.raises(PersistenceError, match=r"its metadata are.*damaged"):
            BertClassifier.load(write(tmp_path / "model", arrays, changed))


def run(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.slow  # such a Python compiles all that it imports
def test_a_python_without_docstrings_is_named_and_not_the_file(file):
    code = f"from skbert import BertClassifier; BertClassifier.load({str(file)!r})"
    command = [sys.executable, "-OO", "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stderr.splitlines()[-1].startswith("ImportError: transformers reads docstrings")


def test_a_fresh_process_without_sockets(fitted, file, tmp_path):
    """No connection, no pickle, no process is even tried, and nothing is said on stderr."""
    fitted.save_pretrained(tmp_path)
    code = """
import sys
forbidden = ("socket.", "pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")
watching = []
def watch(event, arguments):
    if watching and event.startswith(forbidden):
        raise RuntimeError(f"forbidden: {event} {arguments}")
sys.addaudithook(watch)
import torch, skbert
torch.set_num_threads(1)
# What is imported may do as it likes while it is.
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
import transformers.integrations
watching.append(True)
for read, path in zip((skbert.BertClassifier.load, skbert.BertClassifier.from_pretrained), sys.argv[1:]):
    classifier = read(path).set_params(device="cpu", precision="float32")
    print(classifier.decision_function(["good film", "the dog is sad"]).tolist())
"""
    expected = fitted.decision_function(["good film", "the dog is sad"])
    found = [json.loads(line) for line in run(code, file, tmp_path).splitlines()]
    np.testing.assert_allclose(found, [expected] * 2, atol=1e-5)


def test_shapes_are_looked_at_in_an_encoder_without_memory(file, monkeypatch):
    seen = []
    monkeypatch.setattr(
        model_spec,
        "_check_shapes",
        lambda encoder, _: seen.extend(p.device.type for p in encoder.parameters()),
    )
    BertClassifier.load(file)
    assert set(seen) == {"meta"}


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)
@pytest.mark.parametrize("step", ["the first", "the last"])
def test_memory_that_runs_out_is_no_fault_of_the_file(error, step, file, fitted, monkeypatch):
    def no_room(*given, **named):
        raise error

    if step == "the first":
        monkeypatch.setitem(model_spec._BUILDERS, "encoder", no_room)
    else:
        monkeypatch.setattr(SequenceClassifier, "load_state_dict", no_room)
    state = pickle.loads(pickle.dumps(fitted.__getstate__())) if step == "the last" else None
    with pytest.raises(MemoryError, match=r"no room|DefaultCPUAllocator"):
        BertClassifier.load(file)
    if state is not None:
        with pytest.raises(MemoryError):
            BertClassifier().__setstate__(state)


@pytest.mark.stress
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_saving(tmp_path, full_count, figure):
    """SIGKILL at any moment leaves one of the two models, which loads."""
    script, count = Path(__file__).with_name("kill_saves.py"), full_count(20, 200)
    first, second, unfinished = json.loads(run(script.read_text(encoding="utf-8"), SAVED, tmp_path, count))
    figure("kills while a model is saved", count, f"{first} left one model, {second} the other, all load")
    assert first + second == count
    assert min(first, second) > 0
    if count >= 200:  # of few kills, on a busy machine, none may come in the middle of writing
        assert unfinished > 0


@pytest.mark.stress
def test_mutated_files_are_refused_and_run_nothing(tmp_path, full_count, figure):
    """Damage of every kind, in a process that shows a crash and forbids whatever a file may want to run."""
    path = tmp_path / "model"
    path.write_bytes(SAVED.read_bytes())
    count = full_count(48, 1000)
    outcomes = json.loads(run(MUTATE.read_text(encoding="utf-8"), path, count))
    refused = sum(n for _, outcome, n in outcomes if outcome == "refused")
    figure("mutated files loaded", count, f"{refused} refused; {count - refused} with new checksums taken")
    assert sum(n for *_, n in outcomes) == count
    # A forgery has checksums of its own: it may be another model, and is not damaged.
    assert {outcome for kind, outcome, _ in outcomes if kind != "forgery"} == {"refused"}
    assert {outcome for *_, outcome, _ in outcomes} <= {"refused", "the same model", "another model"}
    assert len({kind for kind, *_ in outcomes}) == 8


# skops, whose files name the types that they need


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_skops(family, tiny_checkpoints, make_classifier, reviews, tmp_path):
    import skops.io

    classifier = make_classifier(model=tiny_checkpoints(family), random_state=np.random.RandomState(0))
    classifier.set_output(transform="default").fit(*map(list, reviews))
    skops.io.dump(classifier, tmp_path / "model.skops")
    trusted = ["skbert.classifier.BertClassifier"]
    assert skops.io.get_untrusted_types(file=tmp_path / "model.skops") == trusted
    again = skops.io.load(tmp_path / "model.skops", trusted=trusted)
    np.testing.assert_array_equal(again.decision_function(TEXTS), classifier.decision_function(TEXTS))
    assert again.tokenizer_.encode_special_tokens
    saved(again, tmp_path / "model")


def test_pickles_of_other_families(fitted):
    import pickle

    build, config = fitted.model_.rebuild
    fitted = pickle.loads(pickle.dumps(fitted))
    fitted.model_.rebuild = (build, config | {"model_type": "ernie"})  # a BERT by another name
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.decision_function(TEXTS), fitted.decision_function(TEXTS))


def test_weights_that_are_none_any_more(fitted, tmp_path):
    from copy import deepcopy

    for change, back in (
        (
            lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
            lambda layer: prune.remove(layer, "weight"),
        ),
        (
            parametrizations.weight_norm,
            lambda layer: parametrize.remove_parametrizations(layer, "weight"),
        ),
    ):
        changed = deepcopy(fitted)
        change(changed.model_.head)
        for keep in (pickle.dumps, lambda c: c.save(tmp_path / "model")):
            with pytest.raises(PersistenceError, match=r"head\.weight of model_ is no longer a plain weight"):
                keep(changed)
        assert not (tmp_path / "model").exists()
        back(changed.model_.head)
        changed.save(tmp_path / "model")
        again = BertClassifier.load(tmp_path / "model")
        np.testing.assert_array_equal(again.decision_function(TEXTS), changed.decision_function(TEXTS))
        (tmp_path / "model").unlink()


def test_weights_that_numpy_lacks(fitted, tmp_path):
    from copy import deepcopy

    changed = deepcopy(fitted)
    changed.model_.to(torch.bfloat16)
    for keep in (pickle.dumps, lambda c: c.save(tmp_path / "model")):
        with pytest.raises(PersistenceError, match=r"weights in bfloat16.*model_\.float\(\)"):
            keep(changed)
    changed.model_.float()
    changed.save(tmp_path / "model")


class Fixed(BertClassifier):
    """Has one parameter, and fixes the others."""

    def __init__(self, model="tiny"):
        super().__init__(model, max_length=32, epochs=1, random_state=0, device="cpu", precision="float32")


def test_a_subclass_that_fixes_parameters(tiny_bert, reviews, tmp_path):
    texts, labels = map(list, reviews)
    fixed = Fixed(tiny_bert).fit(texts, labels)
    fixed.save(tmp_path / "model")
    loaded = Fixed.load(tmp_path / "model")
    assert (loaded.model, loaded.max_length) == (tiny_bert, 32)
    np.testing.assert_array_equal(loaded.predict_proba(texts), fixed.predict_proba(texts))


def test_a_tokenizer_that_load_would_refuse_is_not_saved(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    classifier = make_classifier(epochs=1).fit(texts, labels)
    classifier.tokenizer_.enable_truncation(4)
    with pytest.raises(PersistenceError, match="the tokenizer truncates or pads"):
        classifier.save(tmp_path / "model")
    classifier.tokenizer_.no_truncation()
    classifier.save(tmp_path / "model")
    assert (
        BertClassifier.load(tmp_path / "model").predict(texts).tolist() == classifier.predict(texts).tolist()
    )


def test_a_model_in_half_precision_is_kept_so(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    classifier = make_classifier(epochs=1).fit(texts, labels)
    classifier.model_.half()
    classifier.save(tmp_path / "model")
    loaded = BertClassifier.load(tmp_path / "model")
    assert {weight.dtype for weight in loaded.model_.parameters()} == {torch.float16}
    np.testing.assert_array_equal(loaded.predict_proba(texts), classifier.predict_proba(texts))


def test_what_no_setting_is_called_is_left_out(tiny_checkpoints, make_classifier, reviews, tmp_path):
    """Other programs leave much in config.json."""
    shutil.copytree(tiny_checkpoints("modernbert"), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "config.json"
    others = {"n_layers": 7, "keys_to_ignore_at_inference": ["a"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | others))
    texts, labels = map(list, reviews)
    classifier = make_classifier(model=tmp_path / "checkpoint", epochs=1).fit(texts, labels)
    classifier.save(tmp_path / "model")
    loaded = BertClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(texts), classifier.predict_proba(texts))


def test_a_config_that_load_would_refuse_is_not_saved(tiny_bert, make_classifier, reviews, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"initializer_range": -0.5}))
    classifier = make_classifier(model=tmp_path / "checkpoint", epochs=1).fit(*map(list, reviews))
    with pytest.raises(PersistenceError, match="an initializer_range below zero"):
        classifier.save(tmp_path / "model")


def test_names_that_no_file_can_have(fitted, tmp_path):
    for call in (fitted.save, fitted.save_pretrained, BertClassifier.load, BertClassifier.from_pretrained):
        with pytest.raises((PersistenceError, CheckpointError), match="holds a NUL"):
            call(f"{tmp_path}/a\0b")
    code = "from skbert import BertClassifier; BertClassifier.load('\\xfcbung')"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if sys.platform == "linux":
        assert "PersistenceError" in done.stderr
        assert "as ascii. Set the environment variable PYTHONUTF8=1" in done.stderr


def test_a_pruned_bias_is_no_plain_weight(fitted, tmp_path):
    pruned = copy.deepcopy(fitted)
    prune.l1_unstructured(pruned.model_.head, "bias", amount=1)
    with pytest.raises(PersistenceError, match=r"head\.bias of model_ is no longer a plain weight"):
        pruned.save(tmp_path / "model")
