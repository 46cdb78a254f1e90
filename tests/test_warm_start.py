"""Training that goes on: `partial_fit` and `warm_start`."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skbert import BertClassifier, InputError
from skbert.training import loop
from skbert.training.optimizer import constant_schedule


def halves(reviews):
    texts, labels = map(list, reviews)
    return (texts[:12], labels[:12]), (texts[12:], labels[12:])


def weights_of(model):
    return {name: w.clone() for name, w in model.model_.state_dict().items()}


QUICK = {"dropout": 0.0, "head_init": "random", "batch_size": 12}


@pytest.mark.parametrize("parameters", [{}, {"freeze": "embeddings"}, {"layer_decay": 0.5}])
def test_partial_fit_is_one_training_over_all_calls(make_classifier, reviews, parameters):
    """Three calls, each with other words, against one AdamW over the whole vocabulary."""
    (texts, labels), (others, their_labels) = halves(reviews)
    model = make_classifier(**QUICK, **parameters, weight_decay=0.1)
    calls = [(texts, labels), (others, their_labels), (texts, labels)]
    for X, y in calls:
        model.partial_fit(X, y, classes=["neg", "pos"])
    assert model.n_iter_ == len(model.loss_curve_) == len(model.history_) == 3
    expected = _reference(model, calls, parameters)
    for name, weight in model.model_.state_dict().items():
        if not name.endswith("key.bias"):  # its gradient is rounding noise
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def _reference(model, calls, parameters):
    """Plain full-batch steps of torch's AdamW on the model that the first call starts from."""
    from skbert.data.batching import collate
    from skbert.data.encoding import encode
    from skbert.data.inputs import Texts
    from skbert.data.outputs import make_loss
    from skbert.network.model import reset_head
    from skbert.randomness import Generators
    from skbert.starting import from_checkpoint
    from skbert.training.freezing import freeze
    from skbert.training.optimizer import learning_rate_scales, parameter_groups

    start = from_checkpoint(model.get_params(), 2)
    plain = start.new_model()
    seed = np.random.RandomState(0).randint(2**31 - 1)
    reset_head(plain, Generators.from_seed(int(seed), torch.device("cpu")).weights)
    plain.requires_grad_()
    freeze(plain, parameters.get("freeze", 0))
    scales = learning_rate_scales(plain, parameters.get("layer_decay", 1.0))
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups([(p, scales[p]) for p in trained], 0.1), lr=0.0)
    loss = make_loss("binary", 0.0)
    for step, (X, y) in enumerate(calls):
        batch = collate(encode(start.tokenizer, Texts(X), 32), np.arange(len(X)))
        targets = torch.tensor([label == "pos" for label in y]).long()
        optimizer.zero_grad()
        loss(plain.eval()(batch), targets, torch.ones(len(y))).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * group["scale"] * (step + 1) / 20
        optimizer.step()
    return {name: weight.detach() for name, weight in plain.state_dict().items()}


def test_warm_start_changes_nothing_in_partial_fit_and_forgets_its_optimizer_in_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    models = [make_classifier(warm_start=warm) for warm in (False, True)]
    for model in models:
        for _ in range(3):
            model.partial_fit(texts, labels, classes=["neg", "pos"])
    cold, warm = models
    np.testing.assert_array_equal(warm.decision_function(texts), cold.decision_function(texts))
    loaded = pickle.loads(pickle.dumps(warm))  # which has no optimizer to go on with
    np.testing.assert_array_equal(
        warm.fit(texts, labels).decision_function(texts), loaded.fit(texts, labels).decision_function(texts)
    )


def test_the_rate_of_partial_fit_rises_and_stays():
    factors = [constant_schedule(step, 5, first_step=10, warmup=20) for step in (0, 4, 9, 100)]
    assert factors == [11 / 20, 15 / 20, 1.0, 1.0]


@pytest.mark.parametrize(("warmup_ratio", "rate"), [(0.0, 1e-3), (0.1, 1e-3 / 20)])
def test_the_warm_up_of_partial_fit_can_be_turned_off(warmup_ratio, rate, make_classifier, reviews):
    """AdamW's first step moves each weight by the rate."""
    texts, labels = map(list, reviews)
    settings = {"batch_size": 24, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_ratio": warmup_ratio}
    start = make_classifier(learning_rate=1e-9, epochs=1).fit(texts, labels)
    before = start.model_.head.bias.clone()
    start.set_params(**settings).partial_fit(texts, labels)
    np.testing.assert_allclose((start.model_.head.bias - before).abs(), rate, rtol=1e-3)


def test_partial_fit_learns(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier()
    for _ in range(14):
        assert model.partial_fit(texts, labels, classes=["neg", "pos"]) is model
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 2
    assert model.score(texts, labels) > 0.9


def test_an_interrupted_call_of_partial_fit_is_as_if_it_had_not_been(make_classifier, reviews, monkeypatch):
    """Weights and moments of the call before are as they were."""
    texts, labels = map(list, reviews)
    first, second = (make_classifier().partial_fit(texts, labels, classes=["neg", "pos"]) for _ in range(2))
    step, made = loop.Trainer.train_step, []

    def interrupted(self, indices):
        made.append(indices)
        if len(made) == 3:
            raise KeyboardInterrupt
        return step(self, indices)

    monkeypatch.setattr(loop.Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.partial_fit(texts, labels)
    monkeypatch.undo()
    np.testing.assert_array_equal(first.decision_function(texts), second.decision_function(texts))
    for model in (first, second):
        model.partial_fit(texts, labels)
    np.testing.assert_array_equal(first.decision_function(texts), second.decision_function(texts))


def test_a_chunk_may_lack_classes_and_a_later_one_bring_them(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().partial_fit(texts[:1], labels[:1], classes=["neutral", "neg", "pos"])
    assert model.classes_.tolist() == ["neg", "neutral", "pos"]
    assert model.predict_proba(texts).shape == (24, 3)
    model.partial_fit(texts, labels)
    assert model.n_iter_ == 2


def test_partial_fit_with_several_labels_per_text(make_classifier, reviews):
    texts = list(reviews[0])
    y = np.array([[i % 2, i % 3 == 0, 0] for i in range(24)])
    model = make_classifier(head_init="random").partial_fit(texts, y)
    model.partial_fit(texts[:5], y[:5])
    assert model.predict(texts).shape == (24, 3)
    with pytest.raises(InputError, match=r"shape \(24, 2\).*3 classes"):
        model.partial_fit(texts, y[:, :2])
    with pytest.raises(InputError, match=r"shape \(24,\)"):
        model.partial_fit(texts, y[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": None}, "classes must be passed on the first call"),
        ({"classes": ["pos"]}, "at least two classes"),
        ({"classes": "pos"}, "classes='pos'. Expected an array-like of labels"),
        (
            {"classes": ["good", "bad"]},
            r"the argument classes does not: \['neg', 'pos'\].*\['bad', 'good'\]\. Name all labels in it",
        ),
    ],
)
def test_first_calls_that_cannot_work(make_classifier, reviews, arguments, message):
    model = make_classifier()
    with pytest.raises(InputError, match=message):
        model.partial_fit(*map(list, reviews), **arguments)
    assert not hasattr(model, "model_")


def test_later_calls_that_cannot_work_lose_nothing(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().partial_fit(texts, labels, classes=["neg", "pos"])
    expected = model.decision_function(texts)
    for arguments, message in (
        ((texts, None), "the target y is None. Pass one label per text"),
        ((texts, "neg"), "the target y is 'neg'. Pass one label per text"),
        ((["new"], ["fine"]), r"classes that the model does not: \['fine'\]"),
        ((texts, labels, ["neg", "pos", "so so"]), r"not those of the model.*\['neg', 'pos'\]"),
        ((list(zip(texts, texts, strict=True)), labels), "2 text columns|column"),
    ):
        with pytest.raises(InputError, match=message):
            model.partial_fit(*arguments)
    for name, value in (
        ("early_stopping", True),
        ("class_weight", "balanced"),
        ("lora", 2),
        ("freeze", "gradual"),
        ("pooling", "max"),
        ("head_layers", 1),
        ("model", "another/model"),
    ):
        before = getattr(model, name)
        with pytest.raises(InputError, match=name):
            model.set_params(**{name: value}).partial_fit(texts, labels)
        model.set_params(**{name: before})
    np.testing.assert_array_equal(model.decision_function(texts), expected)
    assert model.partial_fit(texts, labels).n_iter_ == 2


def test_partial_fit_goes_on_from_fit_and_fit_starts_anew(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().fit(texts, labels)
    fitted = weights_of(model)
    losses = list(model.loss_curve_)
    model.partial_fit(texts, labels)
    assert model.loss_curve_[:2] == losses
    assert len(model.loss_curve_) == 3
    assert not torch.equal(model.model_.head.weight, fitted["head.weight"])
    again = weights_of(model.fit(texts, labels))
    assert all(torch.equal(again[name], fitted[name]) for name in fitted)


def test_a_loaded_model_goes_on_with_a_new_optimizer(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().partial_fit(texts, labels, classes=["neg", "pos"])
    size = len(pickle.dumps(make_classifier().fit(texts, labels)))
    loaded = pickle.loads(pickle.dumps(model))
    assert abs(len(pickle.dumps(model)) - size) < 0.01 * size
    loaded.partial_fit(texts, labels)
    model.partial_fit(texts, labels)
    assert loaded.n_iter_ == 2
    assert not np.array_equal(loaded.decision_function(texts), model.decision_function(texts))


def test_warm_start_goes_on_from_the_weights(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True, learning_rate=1e-3, epochs=3).fit(texts, labels)
    first, old = list(model.loss_curve_), model.model_
    kept = weights_of(model)
    expected = model.decision_function(texts)
    model.fit(texts, labels)
    assert model.loss_curve_[0] < first[0]
    assert len(model.loss_curve_) == 3
    # The earlier model is another object, and as it was.
    assert model.model_ is not old
    assert all(torch.equal(w, kept[name]) for name, w in old.state_dict().items())
    still = clone(model).set_params(learning_rate=1e-12).fit(texts, labels)
    still.__dict__.update(model_=old)
    np.testing.assert_allclose(still.fit(texts, labels).decision_function(texts), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_class_that_weighs_nothing_where_a_fit_goes_on(method, make_classifier, reviews):
    """It is as if it had no texts, on whatever scale the weights of the others are."""
    texts, labels = map(list, reviews)
    losses, probabilities = [], []
    for scale in (0.01, 1.0, 100.0, None):
        model = make_classifier(warm_start=True).fit(
            [*texts, "a cat", "the sun"], [*labels, "other", "other"]
        )
        if scale is None:  # the reference
            getattr(model, method)(texts, labels)
        else:
            model.set_params(class_weight={"neg": scale, "other": 0, "pos": scale})
            getattr(model, method)([*texts, "a cat"], [*labels, "other"], sample_weight=[1.0] * 24 + [0.0])
        losses.append(model.loss_curve_[-1])
        probabilities.append(model.predict_proba(texts))
    np.testing.assert_allclose(losses[:3], losses[1], rtol=1e-4)
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-3)
    np.testing.assert_allclose(probabilities[2], probabilities[1], atol=1e-3)
    assert losses[1] < 2
    fresh = make_classifier(class_weight={"other": 0}).fit([*texts, "a cat"], [*labels, "other"])
    assert fresh.predict_proba(texts)[:, 1].max() < 1e-6


def test_warm_start_takes_a_part_of_the_classes_but_no_new_one(make_classifier, reviews):
    texts, labels = map(list, reviews)
    labels = ["so so", *labels[1:]]
    model = make_classifier(warm_start=True).fit(texts, labels)
    model.fit(texts[1:], labels[1:])
    assert model.classes_.tolist() == ["neg", "pos", "so so"]
    before = model.decision_function(texts)
    with pytest.raises(InputError, match=r"\['new'\].*\['neg', 'pos', 'so so'\].*fit a new model"):
        model.fit(texts, ["new", *labels[1:]])
    np.testing.assert_array_equal(model.decision_function(texts), before)


def test_warm_start_of_a_new_estimator_is_a_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    warm = make_classifier(warm_start=True).fit(texts, labels)
    cold = make_classifier().fit(texts, labels)
    np.testing.assert_array_equal(warm.decision_function(texts), cold.decision_function(texts))


def test_training_goes_on_from_a_classifier_of_transformers(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    make_classifier().fit(texts, labels).save_pretrained(tmp_path / "folder")
    quick = {"max_length": 32, "random_state": 0, "device": "cpu", "precision": "float32", "epochs": 2}
    model = BertClassifier.from_pretrained(tmp_path / "folder", warm_start=True, learning_rate=1e-12, **quick)
    before = model.decision_function(texts)
    model.fit(texts, labels)
    assert model.head_init_ == "pretrained"
    np.testing.assert_allclose(model.decision_function(texts), before, atol=1e-5)
    again = BertClassifier.from_pretrained(tmp_path / "folder", learning_rate=5e-3, **quick)
    again.partial_fit(texts, labels, classes=["neg", "pos"]).partial_fit(texts, labels)
    assert again.n_iter_ == 2


def test_warm_start_goes_on_where_the_checkpoint_is_not_at_hand(make_classifier, reviews):
    """As for a model that was fitted elsewhere, stored and loaded."""
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True).fit(texts, labels)
    model.set_params(model=f"/gone/{model.checkpoint_}")
    model.fit(texts, labels)
    assert model.n_iter_ == 2


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_describes_the_start_stays(method, make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True, head_init="random", epochs=1).fit(texts, labels)
    checkpoint = model.checkpoint_
    for _ in range(2):
        getattr(model, method)(texts, labels)
        assert (model.checkpoint_, model.head_init_) == (checkpoint, "random")


def test_a_model_of_a_revision_goes_on(make_classifier, reviews):
    """It is compared by name, and needs no hub."""
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True, epochs=1).fit(texts, labels)
    model.checkpoint_ = "nobody/model@v1"
    model.set_params(model="nobody/model", revision="v1").fit(texts, labels)
    with pytest.raises(InputError, match=r"model is 'nobody/model@v2', but .* fitted with 'nobody/model@v1'"):
        model.set_params(revision="v2").fit(texts, labels)


def test_warm_start_on_texts_of_one_class(make_classifier, reviews):
    """As with partial_fit: the model knows the others."""
    texts, labels = map(list, reviews)
    model = make_classifier(warm_start=True, epochs=2).fit(texts, labels)
    before = model.predict_proba(texts)[:, 1].mean()
    good = [text for text, label in zip(texts, labels, strict=True) if label == "pos"]
    model.fit(good, ["pos"] * len(good))
    assert model.classes_.tolist() == ["neg", "pos"]
    assert model.predict_proba(texts)[:, 1].mean() > before


def test_the_history_keeps_the_epochs_of_a_fit_that_was_validated(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(epochs=2).fit(texts, labels, X_val=texts, y_val=labels)
    validated = list(model.history_)
    model.partial_fit(texts, labels)
    assert model.history_[:2] == validated
    assert set(model.history_[2]) == {"epoch", "loss"}
    assert [row["epoch"] for row in model.history_] == [1, 2, 3]
    assert [row["loss"] for row in model.history_] == model.loss_curve_
    assert model.validation_scores_ is None  # they are no longer of the model's weights
    assert model.best_validation_score_ is None


def test_a_fit_is_described_by_the_settings_that_it_began_with(make_classifier, reviews):
    """Whatever is set meanwhile, in another thread or, as here, by a scorer."""
    texts, labels = map(list, reviews)
    model = make_classifier()

    def scoring(estimator, X, y):
        model.set_params(max_length=16, long_text="windows")
        return 1.0

    model.set_params(scoring=scoring).fit(texts, labels, X_val=texts, y_val=labels)
    assert (model.max_length_, model.long_text_) == (32, "head")
    assert (model.max_length, model.long_text) == (16, "windows")
