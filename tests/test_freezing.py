"""What trains, and how deep it lies."""

import pytest
import torch
from checkpoints import FAMILIES, build_model

from skbert import InputError
from skbert.network.layers import embedding_parts, encoder_layers
from skbert.pretrained import checkpoints
from skbert.training.freezing import GradualUnfreezing, depths, freeze


def make(folder):
    return build_model(folder).requires_grad_()


def trained(module):
    return {p.requires_grad for p in module.parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze(family, tiny_checkpoints):
    model = make(tiny_checkpoints(family, layers=2))
    lower, upper = encoder_layers(model.encoder)
    for nothing in (0, "gradual"):
        freeze(model, nothing)
        assert trained(model) == {True}
    freeze(model, "embeddings")
    assert all(trained(part) == {False} for part in embedding_parts(model.encoder))
    assert trained(lower) == trained(upper) == trained(model.head) == {True}
    freeze(model, 1)
    assert trained(lower) == {False}
    assert trained(upper) == {True}
    freeze(model, "encoder")
    assert trained(model.encoder) == {False}
    assert trained(model.head) == {True}


def test_freeze_beyond_the_layers(tiny_bert):
    with pytest.raises(InputError, match=r"freeze=2, but the encoder has 1 layers.*'encoder'"):
        freeze(make(tiny_bert), 2)


def test_frozen_parts_stay_in_eval_mode(tiny_checkpoints):
    model = make(tiny_checkpoints("bert", layers=2))
    freeze(model, 1)
    model.train()
    lower, upper = encoder_layers(model.encoder)
    assert not any(m.training for m in lower.modules())
    assert not any(m.training for m in model.encoder.embeddings.modules())
    assert all(m.training for m in upper.modules())
    assert model.dropout.training
    assert not any(m.training for m in model.eval().modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_depths(family, tiny_checkpoints):
    model = make(tiny_checkpoints(family, layers=2))
    found = depths(model)
    assert set(found) == set(model.parameters())
    lower, upper = encoder_layers(model.encoder)
    assert {found[p] for p in upper.parameters()} == {1}
    assert {found[p] for p in lower.parameters()} == {2}
    assert {found[p] for part in embedding_parts(model.encoder) for p in part.parameters()} == {3}
    assert {found[p] for p in model.head.parameters()} == {0}


def fit(make_classifier, reviews, **parameters):
    return make_classifier(precision="float32", **parameters).fit(*reviews)


def weights(classifier):
    return {name: p.clone() for name, p in classifier.model_.named_parameters()}


def test_frozen_weights_keep_their_bits_also_in_bfloat16(make_classifier, reviews, tiny_bert):
    start = dict(checkpoints.load(tiny_bert).new_encoder().named_parameters())
    for precision in ("float32", "bfloat16"):
        head_only = {"freeze": "encoder", "learning_rate": 0.05, "epochs": 10}
        classifier = make_classifier(**head_only, precision=precision).fit(*reviews)
        for name, p in classifier.model_.encoder.named_parameters():
            assert p.dtype == torch.float32
            assert torch.equal(p, start[name]), name
        assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]


def test_layer_decay_moves_lower_layers_less(make_classifier, reviews, tiny_bert):
    start = dict(checkpoints.load(tiny_bert).new_encoder().named_parameters())
    name = "encoder.layer.0.attention.self.query.weight"
    moved = {
        decay: (
            fit(make_classifier, reviews, layer_decay=decay).model_.encoder.get_parameter(name) - start[name]
        )
        .abs()
        .mean()
        .item()
        for decay in (1.0, 0.1)
    }
    assert moved[0.1] == pytest.approx(0.1 * moved[1.0], rel=0.5)


def test_layer_decay_of_one_is_the_plain_fit(make_classifier, reviews):
    plain, decayed = (fit(make_classifier, reviews, **p) for p in ({}, {"layer_decay": 1}))
    for name, p in weights(plain).items():
        assert torch.equal(p, weights(decayed)[name])


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, ["embeddings lower upper"]),
        (2, ["", "embeddings lower upper"]),
        (4, ["", "upper", "lower upper", "embeddings lower upper"]),
        (3, ["", "lower upper", "embeddings lower upper"]),
    ],
)
def test_gradual_thawing_from_the_top(epochs, expected, tiny_checkpoints):
    model = make(tiny_checkpoints("bert", layers=2))
    lower, upper = encoder_layers(model.encoder)
    parts = {"embeddings": model.encoder.embeddings, "lower": lower, "upper": upper}
    thawing = GradualUnfreezing(model)
    thawing.fit_begin(epochs, 10)
    for epoch, names in enumerate(expected):
        thawing.epoch_begin(epoch)
        found = {name: trained(part) for name, part in parts.items()}
        assert found == {name: {name in names.split()} for name in parts}
        assert trained(model.head) == {True}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_thawing_begins_with_the_head_alone(family, tiny_checkpoints):
    """Poolers and the norms above the top layer wait, and so do DeBERTa's embeddings of distances."""
    model = make(tiny_checkpoints(family, layers=2))
    thawing = GradualUnfreezing(model)
    thawing.fit_begin(3, 10)
    thawing.epoch_begin(0)
    head = set(model.head.parameters())
    assert {p for p in model.parameters() if p.requires_grad} == head
    thawing.epoch_begin(2)
    assert trained(model) == {True}


@pytest.mark.parametrize("what", [2, "embeddings"])
def test_embeddings_of_distances_are_embeddings(what, tiny_checkpoints, make_classifier, reviews):
    folder = tiny_checkpoints("deberta-v2", layers=2)
    start = dict(checkpoints.load(folder).new_encoder().named_parameters())
    fitted = fit(make_classifier, reviews, model=folder, freeze=what).model_.encoder
    moved = {name for name, p in fitted.named_parameters() if not torch.equal(p, start[name])}
    assert not [name for name in moved if "embeddings" in name or name.startswith("encoder.LayerNorm")]
    assert bool(moved) == (what == "embeddings")  # two layers are all that there are


def test_gradual_thawing_in_a_fit(tiny_checkpoints, make_classifier, reviews):
    """What is frozen in an epoch does not move in it, decay included; in the end everything has."""
    from skbert.data.fit_data import FitData
    from skbert.data.inputs import check_texts
    from skbert.data.labels import encode_labels
    from skbert.fitting import fit_texts
    from skbert.training.callbacks import Watcher

    seen = []

    class Keep(Watcher):
        def epoch_end(self, record, result):
            seen.append(result().model.state_dict())
            return False

    folder = tiny_checkpoints("bert", layers=2)
    parameters = make_classifier(model=folder, freeze="gradual", epochs=4, weight_decay=0.1).get_params()
    texts, labels = map(list, reviews)
    data = FitData(
        check_texts(texts), encode_labels(labels, 24), *(torch.ones(n).double().numpy() for n in (24, 2))
    )
    fit_texts(data, parameters, 0, None, Keep())
    start = make(folder).state_dict()
    frozen = []
    for weights in seen:
        same = {name for name in start if name in weights and torch.equal(weights[name], start[name])}
        frozen.append(
            [part for part in ("word_embeddings", "layer.0.", "layer.1.") if any(part in n for n in same)]
        )
    assert frozen == [
        ["word_embeddings", "layer.0.", "layer.1."],
        ["word_embeddings", "layer.0."],
        ["word_embeddings"],
        [],
    ]
