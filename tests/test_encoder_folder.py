"""An encoder without its head: the start of another fit, and an embedding for others."""

import errno
import json
import os
import shutil
import signal
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_albert
from limits import files_of_at_most
from sklearn.exceptions import NotFittedError
from transformers import AutoModel, AutoTokenizer

from skbert import BertClassifier, CheckpointError, PersistenceError
from skbert.pretrained import checkpoints
from skbert.pretrained.folders import folder_to_write

TEXTS = ["good film", "", "the cat and the dog walk to the sea", "bad [SEP] x-9!", "ünknown " * 20]


@pytest.fixture
def fitted(make_classifier, reviews):
    def fit(**parameters):
        return make_classifier(**{"head_init": "random"} | parameters).fit(*map(list, reviews))

    return fit


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("family", [*FAMILIES, "albert"])
def test_another_fit_starts_from_it(family, pooling, tiny_checkpoints, fitted, reviews, tmp_path):
    model = build_albert(tmp_path) if family == "albert" else tiny_checkpoints(family, layers=2)
    first = fitted(model=model, pooling=pooling)
    first.save_encoder(tmp_path / "encoder")
    settings = {"epochs": 1, "freeze": "encoder", "max_length": 32, "precision": "float32", "device": "cpu"}
    second = BertClassifier(tmp_path / "encoder", **settings)
    second.fit(list(reviews[0]), [f"topic {row % 3}" for row in range(len(reviews[0]))])
    assert second.model_.pooling == pooling
    assert np.array_equal(second.transform(TEXTS), first.transform(TEXTS))


def test_transformers_reads_the_same_states(fitted, tmp_path):
    classifier = fitted(pooling="mean")
    classifier.save_encoder(tmp_path)
    encoder, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        states = encoder(**inputs).last_hidden_state
    expected = (states * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(classifier.transform(TEXTS), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("write", ["save_encoder", "save_pretrained"])
def test_a_config_that_asks_for_attention_weights(write, tiny_checkpoints, fitted, tmp_path):
    """transformers gives them with one implementation of attention only."""
    folder = Path(shutil.copytree(tiny_checkpoints("bert"), tmp_path / "theirs"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"output_attentions": True}))
    classifier = fitted(model=folder, pooling="cls")
    getattr(classifier, write)(tmp_path / "ours")
    encoder = AutoModel.from_pretrained(tmp_path / "ours")
    assert encoder.config.output_attentions
    for name, weight in encoder.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(weight, classifier.model_.encoder.state_dict()[name])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_sentence_transformers_gives_the_same_embeddings(pooling, fitted, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    classifier = fitted(pooling=pooling)
    classifier.save_encoder(tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    found = model.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(found, classifier.transform(TEXTS), atol=1e-5)


def test_settings_of_an_earlier_encoder_do_not_stay(fitted, tmp_path):
    fitted(pooling="mean").save_encoder(tmp_path)
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    fitted(pooling="cls").save_encoder(tmp_path)
    assert not (tmp_path / "modules.json").exists()


def test_adapters_are_merged(fitted, reviews, tmp_path):
    pytest.importorskip("peft")
    first = fitted(lora=2, pooling="mean")
    first.save_encoder(tmp_path)
    second = BertClassifier(tmp_path, epochs=1, freeze="encoder", max_length=32, precision="float32")
    second.fit(*map(list, reviews))
    assert np.array_equal(second.transform(TEXTS), first.transform(TEXTS))


def test_what_cannot_be_written(fitted, make_classifier, tmp_path):
    with pytest.raises(NotFittedError):
        make_classifier().save_encoder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PersistenceError, match="is not a folder"):
        fitted().save_encoder(tmp_path / "file")
    fitted(pooling="cls").save_pretrained(tmp_path / "classifier")
    read = BertClassifier.from_pretrained(tmp_path / "classifier")
    with pytest.raises(PersistenceError, match=r"save_pretrained\(\) writes them"):
        read.save_encoder(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("write", ["save_encoder", "save_pretrained"])
def test_models_beside_it_stay(write, fitted, tmp_path):
    classifier = fitted(pooling="cls")
    beside = ["model-2026.safetensors", "model_v2.safetensors", "my-model.safetensors"]
    for name in beside:
        classifier.save(tmp_path / name)
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in [*parts, "model.safetensors.index.json"]:  # of an older model
        (tmp_path / name).touch()
    getattr(classifier, write)(tmp_path)
    found = {path.name for path in tmp_path.iterdir()}
    assert found.issuperset(beside)
    assert found.isdisjoint([*parts, "model.safetensors.index.json"])
    assert AutoModel.from_pretrained(tmp_path) is not None


def test_another_thread_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = folder_to_write("folder")
    monkeypatch.chdir("/")
    assert target == tmp_path / "folder"


@pytest.mark.parametrize("write", ["save_encoder", "save_pretrained"])
def test_what_others_left_there_is_not_read_with_it(write, fitted, tmp_path):
    classifier = fitted(pooling="cls")
    (tmp_path / "added_tokens.json").write_text('{"<old>": 3}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<old>"}')
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "old "}}')
    getattr(classifier, write)(tmp_path)
    assert not (tmp_path / "added_tokens.json").exists()
    assert not (tmp_path / "special_tokens_map.json").exists()
    assert not (tmp_path / "config_sentence_transformers.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.get_vocab() == (
        classifier.tokenizer_.get_vocab()
    )
    # An adapter is somebody's work, and stays.
    (tmp_path / "adapter_config.json").write_text("{}")
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(PersistenceError, match="holds an adapter"):
        getattr(classifier, write)(tmp_path)
    with pytest.raises(PersistenceError, match="'' does not name a folder"):
        getattr(classifier, write)("")
    assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json", "modules.json"])
def test_a_folder_that_is_half_written_is_no_checkpoint(
    name, make_classifier, reviews, tmp_path, monkeypatch
):
    """It would be pooled otherwise, without a word."""
    texts, labels = map(list, reviews)
    classifier = make_classifier(pooling="mean", epochs=1).fit(texts, labels)

    def full(source, target, real=os.replace):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        classifier.save_encoder(tmp_path / "encoder")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json"):
        BertClassifier(tmp_path / "encoder").fit(texts, labels)
    classifier.save_encoder(tmp_path / "encoder")
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "1_Pooling",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_copy_that_lacks_how_it_pools_is_refused(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    make_classifier(pooling="mean", epochs=1).fit(texts, labels).save_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1_Pooling/config.json, which its modules.json names"):
        BertClassifier(tmp_path / "encoder").fit(texts, labels)


def test_the_pooling_is_where_the_list_of_modules_has_it(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    folder = tmp_path / "encoder"
    make_classifier(pooling="max", epochs=1).fit(texts, labels).save_encoder(folder)
    (folder / "1_Pooling").rename(folder / "2_Pooling")
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("1_Pooling", "2_Pooling"))
    assert checkpoints.load(folder).pooling == "max"
    (folder / "2_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 2_Pooling/config.json"):
        checkpoints.load(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("write", ["save_encoder", "save_pretrained"])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_folder_has_the_modes_of_any_new_folder(umask, write, make_classifier, reviews, tmp_path):
    """safetensors itself lets nobody but their owner read weights: a server under another user could not."""
    classifier = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    before = os.umask(umask)
    try:
        getattr(classifier, write)(tmp_path / "folder")
        getattr(classifier, write)(tmp_path / "folder")  # in place of the first
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").iterdir() if path.is_file()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_drive_without_modes_is_written_to(make_classifier, reviews, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    classifier = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    monkeypatch.setattr(os, "chmod", refuse)
    classifier.save_encoder(tmp_path / "encoder")
    AutoModel.from_pretrained(tmp_path / "encoder")


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no Unicode")
@pytest.mark.parametrize("write", ["save_encoder", "save_pretrained"])
def test_a_name_that_safetensors_cannot_write_is_said(write, make_classifier, reviews, tmp_path):
    classifier = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(PersistenceError, match=r"\\udcff' is not valid Unicode"):
        getattr(classifier, write)(name)
    assert not list(tmp_path.iterdir())
    classifier.save(name)
    BertClassifier.load(name)


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of the system")
def test_a_disk_that_is_full_for_the_weights_is_named_by_its_number(make_classifier, reviews, tmp_path):
    classifier = make_classifier(pooling="cls", epochs=1).fit(*reviews)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with files_of_at_most(10_000) as limit:
            limit()
            with pytest.raises(OSError, match="File too large") as caught:
                classifier.save_encoder(tmp_path / "encoder")
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "encoder"))
    assert not list(tmp_path.iterdir())
