"""Hidden layers of the head."""

import numpy as np
import pytest
import torch
from checkpoints import build_model

from skbert.network.head import HiddenLayer


def test_a_new_layer_is_the_identity_and_learns():
    layer = HiddenLayer(8, 0.0)
    layer.reset(torch.Generator().manual_seed(0))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.outer.weight.grad.abs().max() > 0
    with torch.no_grad():
        layer.outer.weight.normal_(generator=torch.Generator().manual_seed(2))
    expected = x + layer.outer(torch.nn.functional.gelu(layer.inner(x)))
    torch.testing.assert_close(layer(x), expected)


def test_layers_start_as_if_there_were_none(tiny_bert):
    heads = [build_model(tiny_bert, n_outputs=3, dropout=0.0, head_layers=layers) for layers in (0, 2)]
    assert len(heads[1].hidden) == 2
    assert len(heads[0].hidden) == 0
    x = torch.randn(4, heads[1].hidden_size)
    assert torch.equal(heads[1].hidden(x), x)
    assert heads[1].head.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_a_deeper_head_trains_and_travels(make_classifier, reviews, tmp_path):
    import joblib

    texts, labels = map(list, reviews)
    model = make_classifier(head_layers=2, freeze="encoder", epochs=5).fit(texts, labels)
    flat = make_classifier(head_layers=0, freeze="encoder", epochs=5).fit(texts, labels)
    assert model.loss_curve_[-1] != flat.loss_curve_[-1]
    assert all(layer.outer.weight.abs().max() > 0 for layer in model.model_.hidden)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again.predict_proba(texts), model.predict_proba(texts))


def test_a_deep_head_can_start_from_the_probe(make_classifier, reviews):
    texts, labels = map(list, reviews)
    starts = []
    for layers in (0, 2):
        model = make_classifier(head_layers=layers, head_init="linear_probe", epochs=1, learning_rate=1e-12)
        starts.append(model.fit(texts, labels).decision_function(texts))
    np.testing.assert_allclose(starts[1], starts[0], atol=1e-5)
