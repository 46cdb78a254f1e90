"""Prediction: the order of the rows, batches, replicas."""

import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from checkpoints import build_checkpoint, build_model, load_tokenizer
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

from skbert import BertClassifier, InputError, NonFiniteOutputError, inference
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.data.outputs import probabilities
from skbert.network.model import SequenceClassifier, copy_module
from skbert.runtime import Runtime

CPU = torch.device("cpu")
RECIPE = {"learning_rate": 5e-3, "random_state": 0, "device": "cpu", "precision": "float32"}
TEXTS = Texts([" ".join(["good", "film", "the", "sea"][: i % 5] * (i % 7)) for i in range(60)])


@pytest.fixture
def model(tiny_bert):
    return build_model(tiny_bert, n_outputs=3).requires_grad_(False).eval()


@pytest.fixture
def encodings(tiny_bert):
    return encode(load_tokenizer(tiny_bert), TEXTS, 32)


def test_rows_stand_where_their_texts_stood(model, encodings):
    logits = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    for i in range(len(encodings)):
        alone = model(collate(encodings, np.array([i])))
        np.testing.assert_allclose(logits[i], alone[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 50, 10_000])
def test_batches_do_not_change_the_result(max_tokens, model, encodings, monkeypatch):
    whole = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    monkeypatch.setattr(Runtime, "predict_tokens", property(lambda self: max_tokens))
    split = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    np.testing.assert_allclose(split, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [
        (torch.float32, "float32", 0),
        (torch.bfloat16, "float32", 2e-2),
        (torch.float16, "float32", 2e-3),
        (torch.float64, "float64", 1e-6),
    ],
)
def test_output_dtype(dtype, expected, tolerance, model, encodings):
    reference = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    logits = inference.run_model(model, encodings, Runtime(CPU, dtype))
    assert logits.dtype == expected
    np.testing.assert_allclose(logits, reference, atol=tolerance)


def test_embeddings(model, encodings):
    embeddings = inference.run_model(model, encodings, Runtime(CPU, torch.float32), "embeddings")
    logits = inference.run_model(model, encodings, Runtime(CPU, torch.float32))
    assert embeddings.shape == (60, 32)
    head = model.head
    np.testing.assert_allclose(embeddings @ head.weight.numpy().T + head.bias.numpy(), logits, atol=1e-5)


def test_the_model_itself_runs_where_nothing_needs_a_replica(model):
    assert inference.replica(model, Runtime(CPU, torch.float32)) is model


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.bias.add_(1),
        lambda head: head.load_state_dict({n: w + 1 for n, w in head.state_dict().items()}, assign=True),
        lambda head: setattr(head.bias, "data", head.bias + 1),
    ],
    ids=["in place", "other tensors", "other data"],
)
def test_a_replica_is_kept_and_made_again_after_a_change(model, change):
    runtime = Runtime(CPU, torch.bfloat16)
    model.load_state_dict({n: w.clone() for n, w in model.state_dict().items()}, assign=True)  # as of a fit
    first = inference.replica(model, runtime)
    assert inference.replica(model, runtime) is first
    change(model.head)
    changed = inference.replica(model, runtime)
    assert changed is not first
    assert torch.equal(changed.head.bias, model.head.bias)
    assert model.encoder.embeddings.word_embeddings.weight.dtype == torch.float32


def test_replicas_die_with_their_model(model):
    replica = weakref.ref(inference.replica(model, Runtime(CPU, torch.bfloat16)))
    inference.replica(model, Runtime(CPU, torch.float64))  # only the latest is kept
    gc.collect()
    assert replica() is None


@pytest.mark.parametrize("way", ["load", "pickle", "from_pretrained", "fit"])
def test_a_model_made_in_inference_mode_is_one_like_any_other(way, make_classifier, reviews, tmp_path):
    """Its tensors count their changes, which replicas ask for, and can be trained further."""
    texts, labels = map(list, reviews)
    build_checkpoint("bert", tmp_path / "checkpoint")  # one that no test has loaded before
    recipe = {"model": str(tmp_path / "checkpoint"), "pooling": "cls", "epochs": 1}
    classifier = make_classifier(**recipe)
    if way != "fit":
        classifier.fit(texts, labels)
        classifier.save(tmp_path / "model")
        classifier.save_pretrained(tmp_path / "pretrained")
    content = pickle.dumps(classifier)
    with torch.inference_mode():
        made = {
            "load": lambda: BertClassifier.load(tmp_path / "model"),
            "pickle": lambda: pickle.loads(content),
            "from_pretrained": lambda: BertClassifier.from_pretrained(tmp_path / "pretrained", **RECIPE),
            "fit": lambda: classifier.fit(texts, labels),
        }[way]()
    expected = made.predict_proba(texts)
    in_bfloat16 = made.set_params(precision="bfloat16").predict_proba(texts)
    np.testing.assert_allclose(in_bfloat16, expected, atol=0.05)
    made.set_params(precision="float32").partial_fit(texts, labels)
    assert not np.array_equal(made.predict_proba(texts), expected)
    make_classifier(**recipe).fit(texts, labels)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)])
def test_probabilities_do_not_depend_on_what_else_is_in_the_batch(dtype, tolerance, model, encodings):
    runtime = Runtime(CPU, dtype)
    together = probabilities(inference.run_model(model, encodings, runtime), "multiclass")
    for rows in ([7], [7, 8], [7, 20, 41, 59, 3], list(range(7, 40))):
        some = inference.run_model(model, encodings.take(np.array(rows)), runtime)
        np.testing.assert_allclose(probabilities(some, "multiclass"), together[rows], rtol=tolerance)


@pytest.mark.parametrize("runtime", [Runtime(CPU, torch.float32), Runtime(CPU, torch.float32, int8=True)])
@pytest.mark.parametrize("output", ["logits", "embeddings"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_named(value, output, runtime, model, encodings):
    """The likeliest class of NaN is the first: such a model would answer, and always the same."""
    with torch.no_grad():
        model.encoder.encoder.layer[0].output.dense.weight[3, 5] = value
    with pytest.raises(NonFiniteOutputError, match=r"encoder\.layer\.0\.output\.dense.*another checkpoint"):
        inference.run_model(model, encodings, runtime, output)


@pytest.mark.parametrize(
    ("dtype", "value", "wider"),
    [
        (torch.float32, 3e38, "float64"),
        (torch.bfloat16, 3e38, "float32"),
        (torch.float16, 3e4, "float32"),
        (torch.float16, 7e4, "float32"),  # infinite in float16, and only there
    ],
)
def test_finite_weights_that_give_no_numbers_name_the_precision(dtype, value, wider, model, encodings):
    with torch.no_grad():
        model.encoder.encoder.layer[0].output.dense.weight.fill_(value)
    with pytest.raises(NonFiniteOutputError, match=f"too large for {str(dtype)[6:]}.*precision='{wider}'"):
        inference.run_model(model, encodings, Runtime(CPU, dtype))


@pytest.mark.parametrize("parameters", [{}, {"freeze": "encoder"}])
def test_a_model_that_gives_no_numbers_gives_no_labels(parameters, tiny_bert):
    """Also where its vectors were kept: the weight is the head's."""
    texts, labels = ["good film", "bad film"] * 4, [1, 0] * 4
    classifier = BertClassifier(tiny_bert, epochs=1, max_length=16, **RECIPE, **parameters).fit(texts, labels)
    assert len(classifier.predict(texts)) == 8
    with torch.no_grad():
        classifier.model_.head.bias[1] = float("nan")
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        with pytest.raises(NonFiniteOutputError, match=r"head\.bias"):
            getattr(classifier, method)(texts)
    assert np.isfinite(classifier.transform(texts)).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"freeze": "encoder"},
        {"freeze": 1},
        {"early_stopping": True},
        {"head_init": "random"},
        {"lora": 2, "head_init": "random"},
        {"freeze": 1, "head_init": "random"},
    ],
)
def test_a_checkpoint_that_gives_no_numbers_is_named_before_it_is_trained(parameters, tmp_path):
    folder = build_checkpoint("bert", tmp_path / "broken", layers=2)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    tensors[name][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    unfinished = tmp_path / "unfinished"
    classifier = BertClassifier(
        folder, epochs=1, max_length=16, checkpoint=unfinished, **RECIPE, **parameters
    )
    with pytest.raises(
        NonFiniteOutputError, match=r"encoder\.layer\.1\.output\.dense\.(base_layer\.)?weight"
    ):
        classifier.fit([f"{word} film {'!' * n}" for n in range(8) for word in ("good", "bad")], [1, 0] * 8)
    assert not hasattr(classifier, "model_")
    assert not unfinished.exists()  # to go on with it would be of no use


def test_a_class_may_be_switched_off_by_a_logit_of_minus_infinity(model, encodings):
    runtime = Runtime(CPU, torch.float32)
    before = inference.run_model(model, encodings, runtime)
    with torch.no_grad():
        model.head.bias[1] = -float("inf")
    p = probabilities(inference.run_model(model, encodings, runtime), "multiclass")
    assert not p[:, 1].any()
    np.testing.assert_allclose(p[:, [0, 2]], probabilities(before[:, [0, 2]], "binary"), atol=1e-6)
    with torch.no_grad():
        model.head.bias.fill_(-float("inf"))
    with pytest.raises(NonFiniteOutputError):
        inference.run_model(model, encodings, runtime)


def test_models_that_are_used_in_turn_keep_their_replicas(model, monkeypatch):
    models = [model, copy_module(model), copy_module(model)]
    runtime = Runtime(CPU, torch.bfloat16)
    made = [inference.replica(model, runtime) for model in models]
    assert [inference.replica(model, runtime) for model in models] == made
    one = sum(weight.nbytes for weight in models[0].parameters())
    monkeypatch.setattr(inference, "_KEPT_BYTES", 2 * one)
    other = Runtime(CPU, torch.float64)
    again = inference.replica(models[2], other)  # the last to have been used, and now of another precision
    assert again is not made[2]
    assert inference.replica(models[1], runtime) is made[1]
    assert inference.replica(models[2], other) is again
    assert inference.replica(models[0], runtime) is not made[0]  # there was room for two


def test_a_prediction_short_of_memory_drops_the_replicas_of_other_models(model, encodings, monkeypatch):
    runtime, other = Runtime(CPU, torch.bfloat16), copy_module(model)
    expected = inference.run_model(model, encodings, runtime)
    kept = weakref.ref(inference.replica(other, runtime))
    forward, seen = SequenceClassifier.forward, []

    def short_of_memory(model, batch):
        seen.append((len(batch.lengths), kept() is None))
        if len(batch.lengths) > 30:
            raise torch.OutOfMemoryError
        return forward(model, batch)

    monkeypatch.setattr(SequenceClassifier, "forward", short_of_memory)
    np.testing.assert_allclose(inference.run_model(model, encodings, runtime), expected, atol=2e-2)
    assert seen == [(60, False), (30, True), (30, True)]


def test_threads_get_one_replica_of_a_model(model):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: inference.replica(model, Runtime(CPU, torch.bfloat16)), range(8)))
    assert all(one is made[0] for one in made)


METHODS = ["transform", "predict", "predict_proba", "predict_log_proba", "decision_function"]


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_is_of_the_state_it_began_with(method, make_classifier, reviews):
    """Also where a fit ends while the texts are read: here, in the same thread."""
    texts, labels = map(list, reviews)
    model = make_classifier().fit(texts, labels)
    before = getattr(model, method)(texts)

    class FitsMeanwhile:
        def __array__(self, dtype=None, copy=None):
            model.fit(texts, labels[::-1])
            return np.array(texts, dtype=object)

    np.testing.assert_array_equal(getattr(model, method)(FitsMeanwhile()), before)
    assert not np.array_equal(getattr(model, method)(texts), before)


@pytest.mark.parametrize("method", METHODS)
def test_no_prediction_without_a_fit_or_of_other_columns(method, make_classifier, reviews):
    with pytest.raises(NotFittedError):
        getattr(make_classifier(), method)(["good"])
    model = make_classifier(epochs=1).fit(*map(list, reviews))
    with pytest.raises(InputError, match="column"):
        getattr(model, method)([("good", "bad")])
