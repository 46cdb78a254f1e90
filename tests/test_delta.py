"""Files that hold only what training changed."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_checkpoint

from skbert import BertClassifier, CheckpointError, PersistenceError
from skbert.persistence import delta

CASES = {
    "lora": {"lora": 2, "learning_rate": 2e-2},
    "lora and float64": {"lora": 2, "precision": "float64"},
    "frozen encoder": {"freeze": "encoder"},
    "half": {"freeze": 1},
    "all": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint whose layers outweigh its tokenizer, which every file holds."""
    return str(build_checkpoint("bert", tmp_path_factory.mktemp("checkpoint"), layers=2))


@pytest.mark.parametrize("case", CASES)
def test_exactly_what_was_saved_comes_back(case, folder, make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    model = make_classifier(model=folder, **CASES[case]).fit(texts, labels)
    model.save(tmp_path / "small", only_changes=True)
    model.save(tmp_path / "whole")
    small = BertClassifier.load(tmp_path / "small", checkpoint=folder)
    whole = BertClassifier.load(tmp_path / "whole")
    for again in (small, whole):
        np.testing.assert_array_equal(again.predict_proba(texts), model.predict_proba(texts))
        state = again.model_.state_dict()
        assert all(torch.equal(w, state[name]) for name, w in model.model_.state_dict().items())
        assert again.adapters_.keys() == model.adapters_.keys()
        for name, (b, a) in model.adapters_.items():
            np.testing.assert_array_equal(again.adapters_[name][0], b)
            np.testing.assert_array_equal(again.adapters_[name][1], a)
    assert small.model_.head.weight.dtype == model.model_.head.weight.dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_with_adapters_holds_no_weight_of_the_encoder(
    family, tiny_checkpoints, make_classifier, reviews, tmp_path
):
    from skbert.persistence import tensorfile

    texts, labels = map(list, reviews)
    folder = tiny_checkpoints(family, layers=2)
    model = make_classifier(model=folder, lora=2, learning_rate=2e-2).fit(texts, labels)
    assert model.adapters_
    model.save(tmp_path / "small", only_changes=True)
    arrays, _, _ = tensorfile.read(tmp_path / "small")
    kept = {name for name in arrays if not name.startswith("adapters.")}
    assert {name.split(".")[0] for name in kept} <= {"head", "pooler"}
    again = BertClassifier.load(tmp_path / "small", checkpoint=folder)
    np.testing.assert_array_equal(again.predict_proba(texts), model.predict_proba(texts))


def test_the_caller_names_the_checkpoint(folder, make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    model = make_classifier(model=folder, freeze="encoder").fit(texts, labels)
    model.save(tmp_path / "small", only_changes=True)
    with pytest.raises(PersistenceError, match=rf"changed in '{model.checkpoint_}'.*checkpoint=") as caught:
        BertClassifier.load(tmp_path / "small")
    assert str(tmp_path) in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_not_taken_for_a_bad_file(
    folder, make_classifier, reviews, tmp_path
):
    make_classifier(model=folder).fit(*reviews).save(tmp_path / "small", only_changes=True)
    with pytest.raises(CheckpointError, match="pass its folder as model="):
        BertClassifier.load(tmp_path / "small", checkpoint="nobody/none")


def test_another_checkpoint_is_refused(folder, tiny_bert, make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    make_classifier(model=folder, freeze=1).fit(texts, labels).save(tmp_path / "small", only_changes=True)
    other = build_checkpoint("bert", tmp_path / "other", layers=2, seed=5)
    with pytest.raises(PersistenceError, match="pass the checkpoint that it was fitted from"):
        BertClassifier.load(tmp_path / "small", checkpoint=other)
    make_classifier(model=folder, freeze="encoder").fit(texts, labels).save(
        tmp_path / "small", only_changes=True
    )
    with pytest.raises(PersistenceError, match="neither in the file nor in the checkpoint"):
        BertClassifier.load(tmp_path / "small", checkpoint=tiny_bert)


def test_a_checkpoint_of_another_width_is_refused():
    base = {"w": np.zeros((4, 3), np.float32)}
    stored = {"adapters.w.b": np.zeros((5, 2), np.float32), "adapters.w.a": np.zeros((2, 3), np.float32)}
    with pytest.raises(
        PersistenceError, match=r"'w' has the shape \(4, 3\), but the adapter for it has \(5, 3\)"
    ):
        delta.whole(stored, base, {"w": np.float32})


def test_changes_and_whole_are_inverse():
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in "xyz"}
    a, b = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    factors = delta.factors_of({"y": (b, a)})
    adapted = delta.whole(factors, base, {"y": np.float32})["y"]
    np.testing.assert_allclose(adapted, base["y"] + b @ a, rtol=1e-5)
    changed = np.nextafter(base["z"], np.float32(9))  # by the last bit
    arrays = {"x": base["x"], "y": adapted, "z": changed, "head": np.ones(3)} | factors
    stored = delta.changes(arrays, base)
    assert set(stored) == {"z", "head", "adapters.y.a", "adapters.y.b"}
    again = delta.whole(stored, base, {name: array.dtype for name, array in arrays.items()})
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    weights, adapters = delta.split_factors(again)
    assert set(weights) == {"x", "y", "z", "head"}
    np.testing.assert_array_equal(adapters["y"][0], b)


def test_the_checkpoint_of_the_fit_and_no_other_is_left_out(folder, make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    model = make_classifier(model=folder).fit(texts, labels)
    other = build_checkpoint("bert", tmp_path / "other", layers=2, seed=5)
    with pytest.raises(PersistenceError, match=r"checkpoint of the fit, .*, but model is now 'other'"):
        model.set_params(model=other).save(tmp_path / "small", only_changes=True)
    assert not (tmp_path / "small").exists()


OF_A_REVISION = """
import sys
from skbert import BertClassifier, PersistenceError

texts, labels = ["good film", "bad film"] * 4, [1, 0] * 4
quick = {"epochs": 1, "max_length": 16, "random_state": 0, "device": "cpu", "precision": "float32"}
model = BertClassifier("someone/tiny", revision="v1", freeze="encoder", **quick).fit(texts, labels)
model.save("small", only_changes=True)
again = BertClassifier.load("small", checkpoint="someone/tiny", revision="v1")
assert (again.predict_proba(texts) == model.predict_proba(texts)).all()
for wrong in ({}, {"checkpoint": "someone/tiny"}):
    try:
        BertClassifier.load("small", **wrong)
    except PersistenceError as error:
        print(error)
"""


def test_a_revision_is_named_beside_the_checkpoint(tmp_path):
    for revision, seed, commit in (("main", 1, "a" * 40), ("v1", 2, "b" * 40)):
        hub = tmp_path / "hub" / "models--someone--tiny"
        build_checkpoint("bert", hub / "snapshots" / commit, seed=seed)
        (hub / "refs").mkdir(exist_ok=True)
        (hub / "refs" / revision).write_text(commit)
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", OF_A_REVISION]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unnamed, unpinned = done.stdout.splitlines()
    assert "changed in 'someone/tiny@v1'" in unnamed
    assert "revision=..." in unnamed
    assert "pass the checkpoint that it was fitted from" in unpinned
