"""A training that starts above its frozen layers, against one that computes them in every step."""

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, PACKED, load_tokenizer

import skbert
from skbert.caching.cache import Cache
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.fit_data import TrainingData
from skbert.data.inputs import Texts
from skbert.frozen import FrozenLayers
from skbert.network.dropout import set_dropout
from skbert.network.fingerprints import of_weight
from skbert.randomness import Generators
from skbert.runtime import Runtime
from skbert.starting import from_checkpoint
from skbert.training.freezing import freeze
from skbert.training.skip_frozen import start_above

PAIRS = Texts(
    ["good film", "bad cat and dog", "", "a poor story, a very poor one", "red", "happy day"],
    ["the rain", "no", "a sad day", "new money", "blue", "never happy"],
)


pytestmark = pytest.mark.usefixtures("own_cache")


def fit(make_classifier, reviews, n_bytes, **parameters):
    """A fit with that much cache, after one that has filled it with some of the texts."""
    texts, labels = map(list, reviews)
    skbert.set_cache_limit(n_bytes)
    make_classifier(**parameters).fit(texts[4:18], labels[4:18])
    model = make_classifier(**parameters).fit(texts, labels, X_val=texts[:9], y_val=labels[:9])
    skbert.set_cache_limit(2**29)
    return model


def assert_same_fit(cached, plain, tolerance=1e-6):
    weights, expected = cached.model_.state_dict(), plain.model_.state_dict()
    assert list(weights) == list(expected)
    for name, weight in weights.items():
        torch.testing.assert_close(
            weight, expected[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    np.testing.assert_allclose(cached.loss_curve_, plain.loss_curve_, rtol=tolerance)
    assert cached.validation_scores_ == plain.validation_scores_
    assert cached.head_init_ == plain.head_init_


@pytest.mark.parametrize("what", [1, 2, "encoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_is_that_without_a_cache(family, what, make_classifier, reviews, tiny_checkpoints):
    """All weights, with the dropout of the layers that train; scores and the head's start as well."""
    parameters = {"model": tiny_checkpoints(family, layers=2), "freeze": what, "weight_decay": 0.1}
    plain = fit(make_classifier, reviews, 0, **parameters)
    assert skbert.cache_info() == (0, 0, 2**29, 0)
    cached = fit(make_classifier, reviews, 2**29, **parameters)
    # With all layers frozen one fit runs the last of them for first tokens alone, the other for all tokens:
    # a rounding more, which AdamW scales up where gradients are tiny.
    assert_same_fit(cached, plain, 1e-4 if what == 2 else 1e-6)
    kind = "vectors" if what == "encoder" else "states"
    assert (skbert.cache_info(kind).hits > 0) == (family in PACKED or what == "encoder")


@pytest.mark.parametrize(
    "parameters",
    [
        {"freeze": 1, "lora": 2},
        {"freeze": 1, "gradient_checkpointing": True},
        {"freeze": 1, "layer_decay": 0.5, "head_layers": 1, "pooling": "max"},
        {"freeze": 1, "long_text": "windows", "max_length": 8},
        {"freeze": "encoder", "long_text": "windows", "max_length": 8, "head_layers": 1},
        {"freeze": "encoder", "pooling": "mean", "dropout": 0.5, "head_init": "random"},
        {"freeze": "encoder", "precision": "float64"},
        {"freeze": 1, "precision": "bfloat16"},
        {"freeze": 1, "precision": "float16"},
        {"freeze": 2, "precision": "float64"},
        {"freeze": 2, "pooling": "mean"},
        {"freeze": "encoder", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_whatever_else_is_set(parameters, make_classifier, reviews, tiny_checkpoints):
    parameters = {"model": tiny_checkpoints("bert", layers=2)} | parameters
    plain = fit(make_classifier, reviews, 0, **parameters)
    cached = fit(make_classifier, reviews, 2**29, **parameters)
    assert_same_fit(cached, plain)
    assert {n: pair[0].shape for n, pair in cached.adapters_.items()} == {
        n: pair[0].shape for n, pair in plain.adapters_.items()
    }
    kind = "vectors" if parameters["freeze"] == "encoder" else "states"
    assert skbert.cache_info(kind).hits > 0


def test_adapters_that_add_something_from_the_start_are_not_skipped(
    make_classifier, reviews, tiny_checkpoints
):
    """Those in the frozen layers, which do not train."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    parameters = {"model": tiny_checkpoints("bert", layers=2), "freeze": 1, "lora": config}
    plain = fit(make_classifier, reviews, 0, **parameters)
    assert_same_fit(fit(make_classifier, reviews, 2**29, **parameters), plain)
    assert skbert.cache_info("states").misses == 0


@pytest.mark.parametrize("parameters", [{"freeze": 1}, {"freeze": "encoder"}], ids=str)
def test_going_on_from_a_fitted_model(parameters, make_classifier, reviews, tiny_checkpoints):
    """A fine-tuned start has other weights, and so other outputs, than the checkpoint of the same name."""
    texts, labels = map(list, reviews)
    folder = tiny_checkpoints("bert", layers=2)

    def run(n_bytes):
        skbert.set_cache_limit(n_bytes)
        make_classifier(model=folder, **parameters).fit(texts, labels)  # fills the cache, if there is one
        model = make_classifier(model=folder, warm_start=True).fit(texts, labels)
        model.set_params(**parameters).fit(texts, labels)
        for _ in range(2):
            model.partial_fit(texts[:10], labels[:10])
        return model

    plain = run(0)
    assert_same_fit(run(2**29), plain)


@pytest.mark.parametrize("family", PACKED)
def test_gradients_equal_those_from_tokens(family, tiny_checkpoints):
    """One backward pass in float64, of pairs, without dropout: equal up to rounding in every weight."""
    parameters = {"model": tiny_checkpoints(family, layers=3), "revision": None, "pooling": "cls"}
    start = from_checkpoint(parameters | {"head_layers": 0}, 2)
    place = Runtime(torch.device("cpu"), torch.float64)
    data = TrainingData(encode(start.tokenizer, PAIRS, 32), np.arange(6) % 2, np.ones(6), np.ones(2))

    def gradients(above):
        model = start.new_model().double().eval().requires_grad_()
        freeze(model, 2)
        rows = data
        if above:
            layers = FrozenLayers(start.encoder, place, Cache())
            rows = start_above(model, 2, None, data, layers, start)
            assert model.starts_at == "states"
        with torch.no_grad():
            model.head.weight.copy_(torch.linspace(-1, 1, 64).view(2, 32))
            model.head.bias.zero_()
        loss = model(collate(rows.encodings, np.array([4, 0, 2, 5]))).square().sum()
        loss.backward()
        return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    loss, found = gradients(above=True)
    expected_loss, expected = gradients(above=False)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_states_that_do_not_fit_are_computed_in_every_step(make_classifier, reviews, tiny_checkpoints):
    """The rule is about all of them together; vectors are smaller and may still fit."""
    texts, labels = map(list, reviews)
    folder = tiny_checkpoints("bert", layers=2)
    make_classifier(model=folder, freeze=1).fit(texts, labels)
    lengths = encode(load_tokenizer(folder), Texts(texts), 32)
    n_bytes = len(lengths.ids) * 32 * 4
    assert skbert.cache_info("states").currsize > n_bytes
    skbert.clear_caches()
    skbert.set_cache_limit(n_bytes - 1)
    make_classifier(model=folder, freeze=1).fit(texts, labels)
    assert skbert.cache_info("states") == (0, 0, n_bytes - 1, 0)
    make_classifier(model=folder, freeze="encoder").fit(texts, labels)
    assert skbert.cache_info("vectors")[:2] == (48, 24)  # each head's start, and all epochs of the second


@pytest.mark.parametrize("what", [0, "embeddings", "gradual"])
def test_what_is_not_kept(what, make_classifier, reviews):
    make_classifier(freeze=what).fit(*map(list, reviews))
    assert skbert.cache_info("states").misses == 0
    assert skbert.cache_info("vectors").misses == 24  # the head's start


def test_too_many_layers_are_refused_as_before(make_classifier, reviews):
    with pytest.raises(skbert.InputError, match="the encoder has 1 layers"):
        make_classifier(freeze=2).fit(*map(list, reviews))


def test_a_prediction_after_a_fit_of_the_head_computes_no_known_vector(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(freeze="encoder").fit(texts, labels)
    before = skbert.cache_info("vectors")
    known = model.decision_function(texts), model.transform(texts)
    assert skbert.cache_info("vectors")[:2] == (before.hits + 48, before.misses)
    skbert.clear_caches()
    np.testing.assert_allclose(model.decision_function(texts), known[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.transform(texts), known[1], rtol=1e-5, atol=1e-6)
    assert skbert.cache_info("vectors")[:2] == (0, 0)  # a prediction keeps nothing


def test_a_changed_encoder_finds_nothing(make_classifier, reviews):
    """Weights changed in place, or exchanged, after a fit that left vectors of the old ones."""
    texts, labels = map(list, reviews)
    model = make_classifier(freeze="encoder").fit(texts, labels)
    old = model.transform(texts)
    other = make_classifier().fit(texts, labels).model_.state_dict()
    with torch.no_grad():
        next(iter(model.model_.encoder.parameters())).mul_(1.5)
    changed = model.transform(texts)
    assert np.abs(changed - old).max() > 1e-3
    model = make_classifier(freeze="encoder").fit(texts, labels)
    model.model_.load_state_dict(other, assign=True)
    exchanged = model.transform(texts)
    skbert.clear_caches()
    np.testing.assert_allclose(model.transform(texts), exchanged, rtol=1e-5, atol=1e-6)
    assert np.abs(exchanged - old).max() > 1e-3


def test_digests_tell_weights_apart():
    weight = torch.arange(6.0).view(2, 3)
    others = [weight.T.contiguous(), weight.double(), weight + 1e-6, weight[:, :2]]
    assert of_weight(weight) == of_weight(weight.clone())
    assert len({of_weight(w) for w in [weight, *others]}) == 5


def test_the_random_streams_do_not_tell_whether_something_was_found(make_classifier, reviews):
    """A fit that finds all, one that finds some, and one that finds nothing draw the same dropout masks."""
    texts, labels = map(list, reviews)
    curves = []
    for filling in ([], texts[:12], texts):
        skbert.clear_caches()
        if filling:
            make_classifier(freeze="encoder", dropout=0.5).fit(filling, labels[: len(filling)])
        model = make_classifier(freeze="encoder", dropout=0.5, epochs=3).fit(texts, labels)
        curves.append(model.loss_curve_)
    np.testing.assert_allclose(curves[1:], [curves[0]] * 2, rtol=1e-6)


def test_generators_of_the_loop_are_untouched(tiny_checkpoints):
    start = from_checkpoint(
        {"model": tiny_checkpoints("bert"), "revision": None, "pooling": "cls", "head_layers": 0}, 2
    )
    generators = Generators.from_seed(0, torch.device("cpu"))
    before = generators.dropout.get_state()
    encodings = encode(start.tokenizer, PAIRS, 32)
    data = TrainingData(encodings, np.arange(6) % 2, np.ones(6), np.ones(2), held_out=encodings)
    model = start.new_model().requires_grad_()
    set_dropout(model, 0.5, generators.dropout)
    frozen = FrozenLayers(start.encoder, Runtime(torch.device("cpu"), torch.float32), Cache())
    start_above(model, "encoder", None, data, frozen, start)
    assert torch.equal(generators.dropout.get_state(), before)


def test_what_a_fit_in_another_precision_rounded_is_not_what_it_was(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True, pooling="mean", precision="float64").fit(texts, labels)
    model.set_params(freeze="encoder").fit(texts, labels)  # keeps vectors of the weights in float64
    model.set_params(precision="float32").fit(texts, labels)  # rounds them
    model.set_params(precision="float64")
    known = model.transform(texts)
    skbert.clear_caches()
    np.testing.assert_array_equal(model.transform(texts), known)


@pytest.mark.gpu
@pytest.mark.parametrize("what", [1, "encoder"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu(what, precision, make_classifier, reviews, tiny_checkpoints):
    parameters = {
        "model": tiny_checkpoints("bert", layers=2),
        "freeze": what,
        "device": "cuda",
        "precision": precision,
    }
    plain = fit(make_classifier, reviews, 0, **parameters)
    cached = fit(make_classifier, reviews, 2**29, **parameters)
    # Softmax does not see a key's bias: its gradient is rounding, which AdamW makes as large as any.
    for model in (cached, plain):
        for name, weight in model.model_.named_parameters():
            if name.endswith("key.bias"):
                weight.zero_()
    assert_same_fit(cached, plain, 1e-4 if precision == "float32" else 3e-2)
