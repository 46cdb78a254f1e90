"""Fits and predictions on a device that is not the CPU: what its code computes, and when it waits."""

import copy
import gc
import inspect
import pickle
import weakref

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES
from killed_fits import StepCounter, fit, watched
from other_device import NAME, OtherDevice
from transformers.models.modernbert import modeling_modernbert

from skbert import BertClassifier, InputError, fitting, inference
from skbert.network import attention, flash_attention
from skbert.network.model import SequenceClassifier
from skbert.randomness import Generators
from skbert.runtime import Runtime
from skbert.training import resume
from skbert.training.callbacks import Watcher
from skbert.training.loop import Trainer

TEXTS = [
    "a good film by the sea " * (k % 4) + f"and the {animal}"
    for k, animal in enumerate("cat dog bird fish man woman sea city story year word end".split())
]
Y = np.array(["neg", "pos"] * 6)
SETTINGS = {
    "max_length": 48,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "dropout": 0.0,
    "precision": "float64",
    "random_state": 0,
}
WAYS = {
    "cls": {"pooling": "cls"},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "hidden layers": {"pooling": "mean", "head_layers": 2},
    "linear probe": {"head_init": "linear_probe"},
    "half frozen": {"freeze": 1},
    "encoder frozen": {"freeze": "encoder"},
    "adapters": {"lora": 4},
    "layers computed twice": {"gradient_checkpointing": True},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 1},
    "windows": {"long_text": "windows", "max_length": 8},
    "rates by layer": {"layer_decay": 0.5, "max_grad_norm": 0.1},
}


@pytest.fixture
def family_folder(tiny_checkpoints):
    """Return a function that gives the folder of a family that can run on the other device."""

    def folder(family, **options):
        code = inspect.getsource(modeling_modernbert) if family == "modernbert" else ""
        if "autocast" in code:
            pytest.skip("the ModernBERT of this transformers asks for autocast, which this device has not")
        return tiny_checkpoints(family, **options)

    return folder


@pytest.fixture
def generators(monkeypatch):
    """Random numbers of the CPU; the other device has no generator of its own."""
    on_the_cpu = Generators.from_seed.__func__
    monkeypatch.setattr(
        Generators,
        "from_seed",
        classmethod(lambda cls, seed, device, rank=0: on_the_cpu(cls, seed, torch.device("cpu"), rank)),
    )


@pytest.fixture
def device(generators):
    """The other device, for as long as the test takes; deterministic algorithms are all that is allowed."""
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(), OtherDevice() as device:
            torch.manual_seed(0)
            yield device
    finally:
        torch.use_deterministic_algorithms(False)


def assert_equal_models(one, other, atol=1e-12):
    weights = zip(one.model_.state_dict().items(), other.model_.state_dict().values(), strict=True)
    for (name, a), b in weights:
        assert type(b) is torch.Tensor
        assert b.device.type == "cpu"
        if name.endswith(("key.bias", "k_lin.bias")) and atol > 0:
            continue  # softmax does not see it: its gradient is rounding, which AdamW makes as large as any
        torch.testing.assert_close(b, a, atol=atol, rtol=0, msg=name)


def both(device, folder, **parameters):
    """The same fit on the CPU and on the other device."""
    settings = SETTINGS | parameters
    on_cpu = BertClassifier(folder, device="cpu", **settings).fit(TEXTS, Y)
    return on_cpu, BertClassifier(folder, device=NAME, **settings).fit(TEXTS, Y)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_fit_gives_the_weights_of_the_cpu(way, device, tiny_checkpoints):
    on_cpu, there = both(device, tiny_checkpoints("bert", layers=2), **WAYS[way])
    assert_equal_models(on_cpu, there)
    np.testing.assert_allclose(there.loss_curve_, on_cpu.loss_curve_, atol=1e-12)
    np.testing.assert_allclose(there.predict_proba(TEXTS), on_cpu.predict_proba(TEXTS), atol=1e-12)
    np.testing.assert_allclose(there.transform(TEXTS), on_cpu.transform(TEXTS), atol=1e-12)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_weights_of_the_cpu(family, pooling, device, family_folder):
    on_cpu, there = both(device, family_folder(family, layers=2), pooling=pooling, epochs=1)
    assert_equal_models(on_cpu, there)
    np.testing.assert_allclose(there.predict_proba(TEXTS), on_cpu.predict_proba(TEXTS), atol=1e-12)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_the_kernel_for_attention_gives_the_weights_of_the_cpu(
    family, pooling, device, family_folder, monkeypatch
):
    monkeypatch.setattr(attention, "has_kernel", lambda q, n_texts: q.device.type == NAME)
    on_cpu, there = both(device, family_folder(family, layers=2), pooling=pooling, epochs=1)
    assert_equal_models(on_cpu, there)
    np.testing.assert_allclose(there.predict_proba(TEXTS), on_cpu.predict_proba(TEXTS), atol=1e-12)


def test_the_kernel_may_be_tried_in_a_layer_that_is_computed_twice(device, tiny_bert, monkeypatch):
    """Where inner results are not kept, what the trial keeps must be."""
    tried = []

    def has_kernel(q, n_texts):
        if q.device.type == NAME:
            tried.append(flash_attention._is_right.__wrapped__(q.device, q.dtype, 8))
        return q.device.type == NAME

    monkeypatch.setattr(attention, "has_kernel", has_kernel)
    ways = {"gradient_checkpointing": True, "head_init": "random"}
    on_cpu, there = both(device, tiny_bert, epochs=1, **ways)
    assert tried
    assert all(tried)
    assert_equal_models(on_cpu, there)


def test_weights_that_do_not_train_are_on_the_device_once(device, tiny_bert, monkeypatch):
    """In bfloat16, without the wide ones of which only the result is made."""
    places = {}

    class Watched(Trainer):
        def fit(self):
            trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
            for name, weight in self.optimizer.weights().items():
                places.setdefault(name in trained, set()).add(weight.device.type)
            return super().fit()

    monkeypatch.setattr(fitting, "Trainer", Watched)
    parameters = SETTINGS | {"device": NAME, "precision": "bfloat16", "lora": 2}
    BertClassifier(tiny_bert, **parameters).fit(TEXTS, Y)
    assert places == {True: {NAME}, False: {"cpu"}}


@pytest.mark.parametrize("has_kernel", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_narrow_types_are_as_near_as_their_rounding(precision, has_kernel, device, tiny_bert, monkeypatch):
    monkeypatch.setattr(attention, "has_kernel", lambda q, n_texts: has_kernel and q.device.type == NAME)
    on_cpu, there = both(device, tiny_bert, precision=precision, learning_rate=1e-3)
    assert_equal_models(on_cpu, there, atol=2e-2)
    np.testing.assert_allclose(there.predict_proba(TEXTS), on_cpu.predict_proba(TEXTS), atol=5e-3)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [*((family, "cls") for family in FAMILIES), ("bert", "mean"), ("deberta-v2", "mean")],
)
def test_dropout_is_drawn_there_by_the_fit_s_own_generator(family, pooling, device, family_folder):
    settings = SETTINGS | {"pooling": pooling, "device": NAME, "epochs": 1}
    first, twice, none = (
        BertClassifier(family_folder(family, layers=2), **settings | changes).fit(TEXTS[:8], Y[:8])
        for changes in ({"dropout": 0.3}, {"dropout": 0.3, "gradient_checkpointing": True}, {"dropout": 0.0})
    )
    assert_equal_models(first, twice)  # the masks of layers computed twice are those of the first time
    assert first.loss_curve_ != none.loss_curve_


def test_a_precision_that_the_device_has_not(generators, tiny_bert):
    class WithoutDoubles(OtherDevice):
        """As Apple's GPUs."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if (kwargs or {}).get("dtype") == torch.float64 and str(kwargs.get("device")) == NAME:
                raise TypeError("the device has no float64")
            return super().__torch_dispatch__(func, types, args, kwargs)

    settings = SETTINGS | {"device": NAME, "epochs": 1}
    with WithoutDoubles():
        with pytest.raises(InputError, match=r"'meta' .* precision='float64' \(.*has no float64\)\. Use"):
            BertClassifier(tiny_bert, **settings).fit(TEXTS, Y)
        BertClassifier(tiny_bert, **settings | {"precision": "float32"}).fit(TEXTS, Y)


def test_several_labels_and_weights(device, tiny_bert):
    labels = np.array([[1, 0, 1], [0, 1, 1]] * 6)
    weights = np.linspace(0.5, 2.0, len(TEXTS))
    settings = SETTINGS | {"class_weight": "balanced", "label_smoothing": 0.1}
    on_cpu, there = (
        BertClassifier(tiny_bert, device=place, **settings).fit(TEXTS, labels, sample_weight=weights)
        for place in ("cpu", NAME)
    )
    assert_equal_models(on_cpu, there)


def test_a_fit_goes_on_there(device, tiny_bert):
    on_cpu, there = (BertClassifier(tiny_bert, device=place, **SETTINGS) for place in ("cpu", NAME))
    for classifier in (on_cpu, there):
        for part in (slice(6), slice(6, None), slice(3, 9)):  # with the moments of the part before
            classifier.partial_fit(TEXTS[part], Y[part], classes=["neg", "pos"])
    assert_equal_models(on_cpu, there)


def test_an_interrupted_fit_goes_on_there(device, tiny_bert, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "_SHARE", 0)  # the state is written after every step
    parameters = SETTINGS | {"model": tiny_bert, "device": NAME}
    expected = fit(watched(parameters), TEXTS, Y)
    stopped = watched(parameters | {"checkpoint": tmp_path}, StepCounter(5, interrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, TEXTS, Y)
    assert list(tmp_path.iterdir())
    stopped.counter = StepCounter()
    assert_equal_models(expected, fit(stopped, TEXTS, Y), atol=0)
    assert stopped.counter.steps == 6 - 4


def test_what_was_fitted_there_needs_it_no_more(device, tiny_bert):
    classifier = BertClassifier(tiny_bert, device=NAME, **SETTINGS).fit(TEXTS, Y)
    expected = classifier.predict_proba(TEXTS)
    for again in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        found = again.set_params(device="cpu").predict_proba(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_waits_for_nothing_but_its_losses(family, device, family_folder):
    class Reads(Watcher):
        def __init__(self):
            self.until_step = []

        def step(self, n_texts, loss, learning_rate):
            self.until_step.append(len(device.reads))

    parameters = SETTINGS | {"model": family_folder(family), "dropout": 0.1, "device": NAME}
    model = fit(watched(parameters, Reads()), TEXTS, Y)
    reads = np.reshape(model.counter.until_step, (2, 3))  # of each step of each epoch
    assert (reads == reads[:1, :1] + [[0], [1]]).all(), device.reads


def test_a_prediction_waits_once_a_batch(device, tiny_bert):
    classifier = BertClassifier(tiny_bert, device=NAME, **SETTINGS).fit(TEXTS, Y)
    classifier.predict_proba(TEXTS)
    del device.reads[:]
    classifier.predict_proba(TEXTS)
    assert len(device.reads) == 1, device.reads


def test_the_next_batch_is_computed_before_the_last_one_is_waited_for(device, tiny_bert, monkeypatch):
    classifier = BertClassifier(tiny_bert, device=NAME, **SETTINGS).fit(TEXTS, Y)
    expected = classifier.decision_function(TEXTS)
    order, embed = [], SequenceClassifier.embed

    def watched_embed(model, batch):
        order.append(len(device.reads))
        return embed(model, batch)

    monkeypatch.setattr(SequenceClassifier, "embed", watched_embed)
    monkeypatch.setattr(Runtime, "predict_tokens", 24)
    del device.reads[:]
    np.testing.assert_allclose(classifier.decision_function(TEXTS), expected, atol=1e-12)
    assert len(order) > 3
    assert order == [0, *range(len(order) - 1)]  # how many were read before each batch
    assert len(device.reads) == len(order)


def test_a_fit_there_needs_the_room_of_models_that_only_predicted(device, tiny_bert):
    first = BertClassifier(tiny_bert, device=NAME, **SETTINGS).fit(TEXTS, Y)
    expected = first.predict_proba(TEXTS)
    kept = weakref.ref(inference._kept[first.model_][1])
    BertClassifier(tiny_bert, device=NAME, **SETTINGS, head_init="random").fit(TEXTS, Y)
    gc.collect()
    assert kept() is None
    np.testing.assert_array_equal(first.predict_proba(TEXTS), expected)


def test_the_device_refuses_what_a_gpu_would(device):
    there, here = torch.ones(2, 3, device=NAME), torch.ones(3, 4)
    with pytest.raises(RuntimeError, match="on the CPU"):
        there @ here
    assert (there @ here.to(NAME)).cpu().tolist() == [[3.0] * 4] * 2
    assert (there * torch.tensor(2.0)).sum().item() == 12.0  # a single number may come from the CPU
    assert device.reads == ["aten._to_copy.default", "aten._local_scalar_dense.default"]


def test_the_device_refuses_what_a_gpu_has_no_deterministic_algorithm_for(device):
    there = torch.ones(2, 3, device=NAME)
    assert there.to(torch.int64).cumsum(1).cpu().tolist() == [[1, 2, 3]] * 2
    with pytest.raises(RuntimeError, match="deterministic"):
        there.cumsum(0)
