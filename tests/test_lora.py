"""Adapters: what trains, what comes out, what is refused."""

import subprocess
import sys

import joblib
import numpy as np
import peft
import pytest
import torch
from checkpoints import FAMILIES, build_model, load_tokenizer
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skbert import InputError, InputTypeError
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.training.lora import adapters_of, add_adapters, merged, resolve_config

TEXTS = ["good film", "bad cat and dog", "the rain"]


def make(folder):
    encodings = encode(load_tokenizer(folder), Texts(TEXTS), 32)
    return build_model(folder, "mean", dropout=0.0).requires_grad_(), collate(encodings, np.arange(3))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_computes_what_the_adapters_did(family, options, tiny_checkpoints):
    model, batch = make(tiny_checkpoints(family, layers=2))
    plain = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    before = model.eval()(batch).detach()
    config = peft.LoraConfig(r=2, target_modules="all-linear", **options)
    add_adapters(model, config, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(batch), before)  # new adapters add nothing yet
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in names if "lora_" not in name} == {"head.weight", "head.bias"}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    expected = model(batch).detach()
    assert not torch.allclose(expected, before, atol=1e-2)
    weights = {name: w.detach().clone() for name, w in model.state_dict().items()}
    adapters = adapters_of(model, weights)
    assert len(adapters) == (0 if "use_dora" in options else len([n for n in weights if "lora_A" in n]))
    weights = merged(model, weights, adapters)
    assert {name: tuple(w.shape) for name, w in weights.items()} == plain
    fresh, _ = make(tiny_checkpoints(family, layers=2))
    fresh.load_state_dict(weights)
    torch.testing.assert_close(fresh.eval()(batch).detach(), expected, atol=1e-5, rtol=1e-5)


def test_weights_without_adapters_come_back_as_they_are(tiny_bert):
    model, _ = make(tiny_bert)
    weights = model.state_dict()
    assert adapters_of(model, weights) == {}
    assert merged(model, weights, {}) == weights


def test_a_fit_trains_adapters_and_head_alone(make_classifier, reviews, tiny_bert):
    texts, labels = map(list, reviews)
    model = make_classifier(lora=2, epochs=4, learning_rate=2e-2).fit(texts, labels)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    pretrained = make(tiny_bert)[0].state_dict()
    moved = {
        name
        for name, weight in model.model_.state_dict().items()
        if name.startswith("encoder.") and not torch.equal(weight, pretrained[name])
    }
    linear = ("query", "key", "value", "dense")
    assert moved
    assert all(name.split(".")[-2] in linear and name.endswith("weight") for name in moved)
    assert moved == set(model.adapters_)
    for name, (b, a) in model.adapters_.items():
        assert b.shape[1] == a.shape[0] == 2
        change = model.model_.state_dict()[name] - pretrained[name]
        np.testing.assert_allclose(change.numpy(), b @ a, atol=1e-6)


def test_same_seed_same_bits(make_classifier, reviews):
    texts, labels = map(list, reviews)
    first, again = (make_classifier(lora=2).fit(texts, labels).predict_proba(texts) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = make_classifier(lora=2, random_state=1).fit(texts, labels).predict_proba(texts)
    assert not np.array_equal(first, other)


def test_freeze_leaves_the_lower_adapters_out(tiny_checkpoints, make_classifier, reviews):
    texts, labels = map(list, reviews)
    folder = tiny_checkpoints("bert", layers=2)
    model = make_classifier(lora=2, freeze=1, model=folder).fit(texts, labels)
    pretrained = make(folder)[0].state_dict()
    moved = {n for n, w in model.model_.state_dict().items() if not torch.equal(w, pretrained.get(n, w))}
    layers = {n.split("layer.")[1][0] for n in moved if "layer." in n}
    assert layers == {"1"}


def test_a_configuration_is_cloned_searched_and_left_alone(make_classifier, reviews):
    texts, labels = map(list, reviews)
    config = peft.LoraConfig(r=3, target_modules=["query"])
    model = make_classifier(lora=config)
    assert clone(model).lora == config
    search = GridSearchCV(model, {"lora": [None, 1, config]}, cv=2, error_score="raise").fit(texts, labels)
    assert len(search.cv_results_["params"]) == 3
    assert config.target_modules == {"query"}


def test_a_fitted_model_needs_no_peft(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    model = make_classifier(lora=2).fit(texts, labels)
    joblib.dump((model, model.predict_proba(texts), texts), tmp_path / "model.joblib")
    code = f"""if True:
        import sys
        sys.modules["peft"] = None  # importing it fails
        import joblib, numpy
        model, expected, texts = joblib.load({str(tmp_path / "model.joblib")!r})
        numpy.testing.assert_array_equal(model.predict_proba(texts), expected)
        try:
            model.fit(texts, [0, 1] * 12)
        except ImportError as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError lora=2 needs peft")
    assert "pip install 'skbert[lora]'" in done.stdout


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lora": peft.LoraConfig(target_modules=["no_such_layer"])}, r"no_such_layer.*called.*query"),
        ({"lora": peft.LoraConfig(modules_to_save=["head"])}, r"modules_to_save.*None"),
        ({"lora": 2, "freeze": "encoder"}, r"freeze='encoder'"),
        (
            {"lora": 2, "freeze": 1, "pooling": "mean"},
            "freeze=1, but no adapter is beside a layer that trains",
        ),
        ({"lora": peft.LoraConfig(target_modules=["query", "word_embeddings"])}, "embedding table.*Leave"),
        (
            {"lora": peft.LoraConfig(target_modules=["query"], trainable_token_indices=[5])},
            "embedding table.*trainable_token_indices at None",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_training(make_classifier, reviews, parameters, message):
    texts, labels = map(list, reviews)
    model = make_classifier(**parameters)
    with pytest.raises(InputError, match=message):
        model.fit(texts, labels)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize(
    "setting",
    "alora_invocation_tokens layer_replication kasa_config monteclora_config velora_config".split(),
)
def test_adapters_that_no_plain_model_has_are_refused_before_training(setting, make_classifier, reviews):
    config = peft.LoraConfig(target_modules=["query"])
    setattr(config, setting, [[0, 1]])  # whether this version of peft knows it or not
    with pytest.raises(InputError, match=rf"lora\.{setting}=\[\[0, 1\]\].* Set it to None"):
        make_classifier(lora=config).fit(*map(list, reviews))


def test_a_name_that_fits_nothing_is_answered_with_those_of_the_model(make_classifier, reviews):
    """Not with those of the layers that peft has put adapters into by then."""
    config = peft.LoraConfig(target_modules=["query", "attention.output.LayerNorm"])
    with pytest.raises(InputError, match=r"called \['dense', 'key', 'query', 'value'\]"):
        make_classifier(lora=config).fit(*map(list, reviews))


def test_a_fit_leaves_the_configuration_of_the_caller_alone(make_classifier, reviews):
    """peft writes the names of the layers into what it is given; those of another model would not fit."""
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    make_classifier(lora=config, epochs=1).fit(*reviews)
    assert config == peft.LoraConfig(r=2, target_modules="all-linear")


def test_a_rank_stands_for_a_configuration():
    config = resolve_config(np.int64(3))
    assert (config.r, config.lora_alpha, config.target_modules) == (3, 6, "all-linear")


def test_other_configurations_are_refused():
    with pytest.raises(InputTypeError, match=r"IA3Config.*Expected a rank"):
        resolve_config(peft.IA3Config())


@pytest.mark.filterwarnings("ignore:.*lora_bias=True.*has no bias")  # peft's own
def test_biases_that_have_no_place_are_refused_before_the_training(
    tiny_checkpoints, make_classifier, reviews
):
    config = peft.LoraConfig(r=2, target_modules=["Wqkv"], lora_bias=True)
    classifier = make_classifier(model=tiny_checkpoints("modernbert", layers=2), lora=config)
    with pytest.raises(InputError, match=r"lora_bias=True.*Wqkv has no bias.*False"):
        classifier.fit(*reviews)
    config = peft.LoraConfig(r=2, target_modules=["query"], lora_bias=True)
    assert make_classifier(lora=config).fit(*reviews).adapters_ == {}  # more than a product of two factors


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_no_adapter(dtype, make_classifier, reviews):
    """peft makes its factors in it, and draws other numbers then."""
    expected = make_classifier(lora=2).fit(*reviews)
    torch.set_default_dtype(dtype)
    try:
        found = make_classifier(lora=2).fit(*reviews)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found.predict_proba(TEXTS), expected.predict_proba(TEXTS))
