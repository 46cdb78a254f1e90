"""Losses and activations against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skbert.data.outputs import (
    decision_values,
    decode,
    in_units,
    log_probabilities,
    make_loss,
    probabilities,
)


def test_loss_of_weight_two_is_the_row_twice():
    logits = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    weighted = make_loss("binary", 0.0)(logits, torch.tensor([0, 1]), torch.tensor([4 / 3, 2 / 3]))
    doubled = torch.nn.functional.cross_entropy(logits[[0, 0, 1]], torch.tensor([0, 0, 1]))
    torch.testing.assert_close(weighted, doubled)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel-indicator"])
def test_weights_of_classes_have_the_minimum_of_a_weighted_loss(kind):
    """Of logits that look at no text: their probabilities are those of classes as frequent as weights say."""
    codes = np.array([0] * 6 + [1] * 3 + [2])
    targets = codes if kind == "multiclass" else np.eye(3, dtype=int)[codes]
    class_weights = np.array([0.5, 2.0, 3.0])
    of_rows = class_weights[codes] if kind == "multiclass" else np.where(targets == 1, class_weights, 1.0)
    ones = torch.ones(targets.shape)
    found = [
        least(make_loss(kind, 0.0, class_weights), targets, ones),
        least(make_loss(kind, 0.0), targets, torch.from_numpy(of_rows).float()),
    ]
    torch.testing.assert_close(*(probabilities(f, kind) for f in found), atol=1e-3, rtol=0)
    if kind == "multiclass":
        np.testing.assert_allclose(probabilities(found[0], kind)[0], np.array([3, 6, 3]) / 12, atol=1e-3)


def least(loss, targets, weights):
    """Logits of the least loss, the same for all texts."""
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand(len(targets), -1), torch.from_numpy(targets), weights)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().numpy()


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    smooth = make_loss("multiclass", 0.3)(logits, torch.tensor([1]), torch.ones(1))
    target = torch.tensor([[0.1, 0.8, 0.1]])
    torch.testing.assert_close(smooth, -(target * logits.log_softmax(1)).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_as_torch(dtype):
    logits = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(dtype)
    values = probabilities(logits, "multiclass")
    assert values.dtype == dtype
    np.testing.assert_allclose(values, torch.from_numpy(logits).softmax(1), rtol=1e-5)
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        log_probabilities(logits, "multiclass"),
        torch.from_numpy(logits).log_softmax(1),
        rtol=1e-5,
        atol=1e-15,
    )


def test_log_probabilities_stay_finite():
    assert np.isfinite(log_probabilities(np.array([[0.0, 500.0]], dtype=np.float32), "binary")).all()


def test_decision_values():
    binary = np.array([[1.0, 3.0]])
    assert decision_values(binary, "binary").tolist() == [2.0]
    np.testing.assert_allclose(
        1 / (1 + np.exp(-decision_values(binary, "binary"))), probabilities(binary, "binary")[:, 1]
    )
    assert decision_values(np.ones((2, 3)), "multiclass").shape == (2, 3)


# --- Indicator matrices ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_label_probabilities_as_torch(dtype):
    logits = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(dtype)
    values = probabilities(logits, "multilabel-indicator")
    assert values.dtype == dtype
    np.testing.assert_allclose(values, torch.from_numpy(logits).sigmoid(), rtol=1e-5, atol=1e-35)
    np.testing.assert_allclose(
        log_probabilities(logits, "multilabel-indicator"), F.logsigmoid(torch.from_numpy(logits)), rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_an_indicator(smoothing):
    logits, targets = torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[1, 0], [1, 1]])
    weights = torch.tensor([[1.0, 2.0], [0.5, 0.5]])
    smooth = targets * (1 - smoothing) + smoothing / 2
    expected = torch.nn.functional.binary_cross_entropy(logits.sigmoid(), smooth, weight=weights)
    torch.testing.assert_close(
        make_loss("multilabel-indicator", smoothing)(logits, targets, weights), expected
    )


def test_decode():
    classes = np.array(["a", "b", "c"])
    assert decode(np.array([[0.2, 0.5, 0.3]]), classes, "multiclass").tolist() == ["b"]
    assert decode(np.array([[0.2, 0.5, 0.6]]), np.arange(3), "multilabel-indicator").tolist() == [[0, 0, 1]]


def test_loss_of_numbers_is_their_squared_error():
    outputs, targets = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([[0.0, 2.0], [0.5, 1.0]])
    loss = make_loss("continuous-multioutput", 0.0)
    torch.testing.assert_close(
        loss(outputs, targets.double(), torch.ones(2, 1)), torch.nn.functional.mse_loss(outputs, targets)
    )
    weighted = loss(outputs, targets, torch.tensor([[2.0], [0.0]]))
    torch.testing.assert_close(weighted, torch.nn.functional.mse_loss(outputs[:1], targets[:1]))


def test_numbers_come_back_in_their_units():
    outputs, means, scales = np.array([[0.5], [-1.0]], dtype=np.float32), np.array([1e9]), np.array([2.0])
    assert in_units(outputs, means, scales, "continuous").tolist() == [1e9 + 1, 1e9 - 2]
    assert in_units(outputs, means, scales, "continuous-multioutput").tolist() == [[1e9 + 1], [1e9 - 2]]
