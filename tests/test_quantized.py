"""Predictions in 8-bit integers: the arithmetic, every family, the estimator."""

import types

import joblib
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_model, load_tokenizer
from sklearn.base import clone
from torch import nn

from skbert import BertClassifier, InputError, inference
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.network import quantized
from skbert.network.quantized import (
    FloatProduct,
    Int8Linear,
    LastInput,
    UnsignedProduct,
    is_exact,
    product_of_this_machine,
    quantize,
    quantized_rows,
)
from skbert.runtime import Runtime

CPU = torch.device("cpu")
INT8 = Runtime(CPU, torch.float32, int8=True)
TEXTS = Texts(["good film", "", "the cat and the dog walk to the sea in the rain", "a " * 40, "bad", "x-9!"])


def rows(n, width, seed=0):
    return (
        torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
        * torch.logspace(-3, 3, n)[:, None]
    )


@pytest.fixture(params=[UnsignedProduct, FloatProduct])
def product(request, monkeypatch):
    if not is_exact(request.param):
        pytest.skip("this torch or processor has no such exact product")
    monkeypatch.setattr(quantized, "product_of_this_machine", lambda: request.param)


def test_rows_come_back_to_half_a_step(monkeypatch):
    monkeypatch.setattr(quantized, "_BLOCK", 200)
    x = rows(11, 50)
    integers, scales = quantized_rows(x)
    assert integers.dtype == torch.int8
    assert (integers.abs().amax(dim=1) == 127).all()
    assert ((integers * scales - x).abs() <= 0.5001 * scales).all()


def test_bytes_may_be_those_of_unsigned_integers():
    x = rows(11, 50)
    integers, scales = quantized_rows(x)
    unsigned, same = quantized_rows(x, 128)
    assert torch.equal(unsigned.view(torch.uint8).int() - 128, integers.int())
    assert torch.equal(scales, same)


def test_halves_go_to_the_even_integer():
    x = torch.tensor([[127.0, 0.5, 1.5, -0.5, -1.5, 2.5, 126.5]])
    integers, _ = quantized_rows(x)
    assert integers.tolist() == [[127, 0, 2, 0, -2, 2, 126]]


def test_layers_that_read_the_same_states_quantize_them_once(product, monkeypatch):
    module = nn.ModuleDict({name: nn.Linear(64, 16) for name in "qkv"})
    quantize(module)
    x, other = rows(40, 64), rows(40, 64, seed=1)
    expected = [module[name](x.clone()) for name in "qkv"]
    seen = []
    monkeypatch.setattr(
        quantized, "quantized_rows", lambda *args: seen.append(len(args[0])) or quantized_rows(*args)
    )
    assert all(torch.equal(module[name](x), y) for name, y in zip("qkv", expected, strict=True))
    assert seen == [40]
    module["q"](other)
    assert torch.equal(module["q"](x), expected[0])
    assert seen == [40] * 3
    del x, other  # what is remembered goes with its input
    assert not module["q"].last_input.rows


def test_a_row_of_zeros_stays_one():
    integers, scales = quantized_rows(torch.zeros(2, 8))
    assert not integers.any()
    assert torch.isfinite(scales).all()


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_product_of_the_integers(bias, product):
    linear = nn.Linear(96, 24, bias=bias)
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(1))
    x = rows(300, 96)
    (weight, of_outputs), (integers, of_rows) = quantized_rows(linear.weight.detach()), quantized_rows(x)
    expected = (integers.double() @ weight.double().t()) * of_rows * of_outputs.t()
    expected += 0 if linear.bias is None else linear.bias.detach()
    out = Int8Linear(linear, LastInput())(x.view(3, 100, 96))
    assert out.shape == (3, 100, 24)
    torch.testing.assert_close(out.view(300, 24).double(), expected, rtol=1e-5, atol=1e-5)
    # A step is 1/127 of a row's largest value.
    assert (out.view(300, 24) - linear(x)).abs().max() < 0.05 * linear(x).abs().max()


@pytest.mark.parametrize("width", [64, 1040, 1041, 5000])
def test_products_are_those_of_integers_whatever_the_processor(width):
    """The longest sums, of the largest integers, are exact; so are those of random ones."""
    draw = torch.Generator().manual_seed(width)
    weight, rows = (torch.randint(-127, 128, (16, width), dtype=torch.int8, generator=draw) for _ in "ab")
    weight[0] = rows[0] = 127
    expected = (rows.long() @ weight.long().t()).float()
    scale = torch.ones(16)
    assert torch.equal(FloatProduct(weight, scale)(rows), expected)
    if is_exact(UnsignedProduct):
        assert torch.equal(UnsignedProduct(weight, scale)(rows.bitwise_xor(-128)), expected)


def test_where_the_product_of_bytes_is_not_exact_it_is_one_in_float32(monkeypatch):
    monkeypatch.setattr(quantized, "is_exact", lambda product: product is not UnsignedProduct)
    assert product_of_this_machine.__wrapped__() is FloatProduct


def test_a_row_does_not_depend_on_the_others(product):
    layer, x = Int8Linear(nn.Linear(64, 16), LastInput()), rows(40, 64)
    assert torch.equal(layer(x)[7:8], layer(x[7:8]))


def test_infinite_inputs_give_no_finite_output(product):
    out = Int8Linear(nn.Linear(32, 8), LastInput())(torch.full((1, 32), float("inf")))
    assert not torch.isfinite(out).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tiny_checkpoints, product):
    folder = tiny_checkpoints(family, layers=2)
    model = build_model(folder, "mean", 3).requires_grad_(False).eval()
    encodings = encode(load_tokenizer(folder), TEXTS, 64)
    expected = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    logits = inference.run_model(model, encodings, INT8)
    spread = expected.std(axis=0).max()
    assert 0 < np.abs(logits - expected).max() < 0.5 * spread
    working = inference.replica(model, INT8)
    assert not any(type(module) is nn.Linear for module in working.encoder.modules())
    with torch.inference_mode():
        for i in range(len(TEXTS)):  # what else is in the batch changes nothing
            alone = working(collate(encodings, np.array([i])))[0]
            np.testing.assert_allclose(alone.numpy(), logits[i], atol=1e-3 * spread)


def test_weights_are_not_there_to_be_read():
    """Some families of transformers compute with the weights of a layer, without calling it."""
    layer = Int8Linear(nn.Linear(4, 4), LastInput())
    with pytest.raises(InputError, match=r"reads the weights .*Set precision='float32'"):
        _ = layer.weight


def test_only_linear_layers_are_replaced():
    module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 2)))
    quantize(module)
    kinds = [type(m).__name__ for m in module.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == ["Int8Linear", "LayerNorm", "Int8Linear"]


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    return make_classifier(epochs=6).fit(*map(list, reviews))


def test_a_fitted_model_predicts_in_integers_and_stays_as_it_is(fitted, reviews):
    texts = list(reviews[0])
    expected, before = fitted.predict_proba(texts), joblib.hash(fitted.model_)
    fitted.set_params(precision="int8")
    try:
        p = fitted.predict_proba(texts)
        assert p.dtype == np.float32
        assert 0 < np.abs(p - expected).max() < 0.05
        np.testing.assert_array_equal(fitted.predict_proba(texts), p)
        assert fitted.transform(texts).shape == (len(texts), 32)
        assert clone(fitted).precision == "int8"
    finally:
        fitted.set_params(precision="float32")
    assert joblib.hash(fitted.model_) == before
    np.testing.assert_array_equal(fitted.predict_proba(texts), expected)


def test_files_hold_the_float_weights_and_predict_the_same(fitted, reviews, tmp_path):
    texts = list(reviews[0])
    fitted.set_params(precision="int8")
    try:
        expected = fitted.predict_proba(texts)
        fitted.save(tmp_path / "model.safetensors")
        joblib.dump(fitted, tmp_path / "model.joblib")
    finally:
        fitted.set_params(precision="float32")
    for again in (
        BertClassifier.load(tmp_path / "model.safetensors"),
        joblib.load(tmp_path / "model.joblib"),
    ):
        assert again.precision == "int8"
        assert again.model_.encoder.embeddings.word_embeddings.weight.dtype == torch.float32
        np.testing.assert_array_equal(again.predict_proba(texts), expected)


def test_fit_trains_as_with_auto(make_classifier, reviews):
    texts, y = map(list, reviews)
    ours, auto = (make_classifier(precision=precision).fit(texts, y) for precision in ("int8", "auto"))
    assert joblib.hash(ours.model_) == joblib.hash(auto.model_)
    assert ours.score(texts, y) == auto.score(texts, y)


def test_the_last_input_is_forgotten_when_it_is_gone():
    """By a function of C: where one of Python begins, Ctrl-C is handled, and in a callback it is lost."""
    last = LastInput()
    x = torch.randn(3, 8)
    rows = last.quantized(x, 0)
    assert last.quantized(x, 0) is rows
    (reference,) = last.rows
    assert isinstance(reference.__callback__, types.BuiltinMethodType)
    del x
    assert not last.rows
    y, z = torch.randn(3, 8), torch.randn(3, 8)
    assert last.quantized(y, 0)[0].shape == last.quantized(z, 0)[0].shape
    del y  # whose integers went when those of z came
    assert last.quantized(z, 0) is next(iter(last.rows.values()))
