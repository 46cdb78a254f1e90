"""Batches that do not fit into memory, and layers that are computed twice."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_model, load_tokenizer
from limits import at_most

from skbert import BertClassifier, CheckpointError, InsufficientMemoryError, RankError, recipe
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.network.dropout import set_dropout
from skbert.network.memory import MicroBatches, checkpoint_layers
from skbert.network.memory_errors import is_out_of_memory, telling_memory_errors

NARROW = [{"precision": "bfloat16"}, {"precision": "float16"}]


@pytest.mark.parametrize("parameters", [{}, *NARROW, {"lora": 2}, {"freeze": 1}])
def test_a_fit_short_of_memory_ends_with_the_same_weights(make_classifier, reviews, parameters):
    texts, labels = map(list, reviews)
    weights = np.linspace(0.5, 2, len(texts))
    make = lambda: make_classifier(dropout=0.0, head_init="random", **parameters)  # noqa: E731
    roomy = make().fit(texts, labels, weights)
    with at_most(30):  # eight texts of seven tokens do not fit, four do
        tight = make().fit(texts, labels, weights)
    tolerance = 3e-2 if parameters in NARROW else 1e-4
    np.testing.assert_allclose(tight.loss_curve_, roomy.loss_curve_, rtol=tolerance)
    expected = roomy.decision_function(texts)
    np.testing.assert_allclose(tight.decision_function(texts), expected, atol=tolerance)


def test_predictions_short_of_memory_are_the_same(make_classifier, reviews, capsys):
    texts, labels = map(list, reviews)
    model = make_classifier().fit(texts, labels)
    expected = model.predict_proba(texts)
    with at_most(30):
        np.testing.assert_allclose(model.predict_proba(texts), expected, rtol=1e-5)
        assert capsys.readouterr().err == ""
        model.set_params(verbose=1).predict(texts)
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert [line for line in said if line.startswith("skbert")] == [
        "skbert: out of memory with 24 texts, continuing with 12",
        "skbert: out of memory with 12 texts, continuing with 6",
        "skbert: out of memory with 6 texts, continuing with 3",
    ]


def test_a_single_text_that_does_not_fit_is_an_error_and_nothing_is_lost(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().fit(texts, labels)
    expected = model.decision_function(texts)
    with at_most(5):
        with pytest.raises(InsufficientMemoryError, match=r"single text.*20\.00 GiB.*max_length") as caught:
            model.fit(texts, labels)
        with pytest.raises(MemoryError):
            model.predict(texts)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    np.testing.assert_array_equal(model.decision_function(texts), expected)


def test_parts_keep_the_size_that_fitted():
    parts = MicroBatches()
    seen, undone = [], []

    def work(indices):
        if len(indices) > 3:
            raise MemoryError
        seen.append(indices.tolist())
        return len(indices)

    assert parts.run(work, np.arange(7), lambda: undone.append(True)) == [3, 3, 1]
    assert undone == [True]
    assert parts.run(work, np.arange(4)) == [3, 1]
    assert seen == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2], [3]]


def test_an_error_without_words():
    """Python's own MemoryError has none."""

    def fail(indices):
        raise MemoryError

    with pytest.raises(InsufficientMemoryError, match=r"single text \(MemoryError\)"):
        MicroBatches().run(fail, np.arange(4))


def test_other_errors_pass_through():
    def fail(indices):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches().run(fail, np.arange(4))


def test_the_cpu_allocator_is_understood():
    """A real refusal of the operating system, in a process whose address space is limited."""
    code = """if True:
        import resource, torch
        from skbert.network.memory_errors import is_out_of_memory
        soft = 1 << 36
        resource.setrlimit(resource.RLIMIT_AS, (soft, resource.getrlimit(resource.RLIMIT_AS)[1]))
        try:
            torch.empty(1 << 40)
        except Exception as error:
            print(is_out_of_memory(error))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not is_out_of_memory(ValueError("out of range"))


def gradients(folder, texts, *, dropout, checkpointing, device="cpu"):
    model = build_model(folder, "mean")
    generator = torch.Generator().manual_seed(1)
    torch.cuda.manual_seed(1)  # CUDA's masks are drawn from the device's generator
    set_dropout(model, dropout, generator)
    model.to(device).requires_grad_().train()
    if checkpointing:
        checkpoint_layers(model)
    encodings = encode(load_tokenizer(folder), Texts(texts), 32)
    batch = collate(encodings, np.arange(len(texts))).to(torch.device(device))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(batch).square().sum()
    loss.backward()
    state = generator.get_state()
    return {name: p.grad for name, p in model.named_parameters()}, sum(kept), state


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_memory_and_nothing_else(family, dropout, tiny_checkpoints):
    folder = tiny_checkpoints(family, layers=2)
    texts = ["good film", "bad cat and dog", "the rain"]
    plain, kept, state = gradients(folder, texts, dropout=dropout, checkpointing=False)
    twice, kept_less, state_after = gradients(folder, texts, dropout=dropout, checkpointing=True)
    for name, gradient in plain.items():
        if gradient is None:
            assert twice[name] is None
        else:
            torch.testing.assert_close(twice[name], gradient, msg=name)
    assert kept_less < kept / 2
    assert torch.equal(state, state_after)  # the masks of the next step are the same, too


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_gradient_checkpointing_on_a_gpu(family, tiny_checkpoints, monkeypatch):
    """It replays the device's generator, and never sets the CPU's, which other threads may be using."""
    folder = tiny_checkpoints(family, layers=2)
    texts = ["good film", "bad cat and dog", "the rain"]
    plain, _, _ = gradients(folder, texts, dropout=0.3, checkpointing=False, device="cuda")
    after = torch.cuda.get_rng_state()
    monkeypatch.setattr(torch, "set_rng_state", None)
    twice, _, _ = gradients(folder, texts, dropout=0.3, checkpointing=True, device="cuda")
    for name, gradient in plain.items():
        torch.testing.assert_close(twice[name], gradient, msg=name)
    assert torch.equal(torch.cuda.get_rng_state(), after)


def test_gradient_checkpointing_in_a_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    plain, twice = (make_classifier(gradient_checkpointing=v).fit(texts, labels) for v in (False, True))
    np.testing.assert_allclose(
        twice.decision_function(texts), plain.decision_function(texts), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_a_trained_model_is_gone_at_once(family, make_classifier, reviews, tiny_checkpoints, monkeypatch):
    """No cycle holds it until Python looks for some: on a GPU the models of a search would pile up."""
    seen = []

    def spy(model):
        seen.append(weakref.ref(model))
        checkpoint_layers(model)

    monkeypatch.setattr(recipe, "checkpoint_layers", spy)
    model = make_classifier(model=tiny_checkpoints(family, layers=2), gradient_checkpointing=True)
    gc.collect()
    gc.disable()
    try:
        model.fit(*reviews)
        assert [of_model() for of_model in seen] == [None]
    finally:
        gc.enable()


@pytest.mark.gpu
def test_a_fit_goes_on_under_a_real_limit(tiny_checkpoints):
    """A fraction of the device that the batch of 256 long texts exceeds."""
    texts = ["good film bad cat and dog the rain " * 30] * 256
    labels = [0, 1] * 128
    folder = tiny_checkpoints("bert", layers=2)
    recipe = {"epochs": 1, "batch_size": 256, "max_length": 128, "dropout": 0.0, "device": "cuda"}
    model = BertClassifier(folder, precision="float32", head_init="random", random_state=0, **recipe)
    model.fit(texts, labels)  # cuBLAS keeps what memory it works in
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    expected = model.fit(texts, labels).loss_curve_
    needed = torch.cuda.max_memory_allocated() - before
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.6 * needed) / total)
    try:
        torch.cuda.reset_peak_memory_stats()
        limited = model.fit(texts, labels).loss_curve_
        assert torch.cuda.max_memory_allocated() - before < 0.7 * needed
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert limited == pytest.approx(expected, rel=1e-4)


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("what", "warm_up", "few", "many", "limit"),
    [("fit", 10, 10, 200, 20), ("predict", 200, 100, 100_000, 30)],
)
def test_memory_does_not_grow(what, warm_up, few, many, limit, tiny_bert, full_count, figure):
    count = full_count(few, many)
    script = Path(__file__).with_name("grow.py")
    arguments = [sys.executable, script, what, tiny_bert, str(warm_up), str(count)]
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    grown = float(done.stdout)
    figure(f"calls of {what}, one after the other", count, f"{grown:.1f} MB more in memory")
    assert grown < limit


def test_a_shortage_outside_of_batches_is_told_as_one(make_classifier, reviews):
    """torch calls a refusal of the operating system a RuntimeError."""

    def scoring(estimator, X, y):
        return float(torch.empty(1 << 50).sum())

    texts, y = reviews
    with pytest.raises(InsufficientMemoryError, match=r"Memory ran out \(.*can't allocate memory"):
        make_classifier(scoring=scoring).fit(texts, y, X_val=texts, y_val=y)


def test_errors_of_skbert_that_quote_a_shortage_stay_what_they_are():
    """As that of a rank whose neighbour has run out of memory, or of a folder that is called so."""
    for error in (RankError("Rank 1 ended: CUDA out of memory"), CheckpointError("'out of memory/model'")):
        with pytest.raises(type(error)) as caught, telling_memory_errors():
            raise error
        assert caught.value is error


def test_words_of_onednn_for_a_shortage():
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul"))


def test_parts_become_as_small_as_one_text():
    freed = []
    parts = MicroBatches(free=lambda: freed.append(True))

    def work(indices):
        if len(indices) > 1:
            raise MemoryError
        return len(indices)

    assert parts.run(work, np.arange(4)) == [1, 1, 1, 1]
    assert freed == [True, True]
