"""The parameters: checked in `fit` and only there, each with an error that names it."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build_albert
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skbert import BertClassifier, BertRegressor, InputError, SkbertError

WRONG_TYPE = {
    "model": [3, None, ["a"], b"bytes"],
    "revision": [3, ["main"]],
    "max_length": ["long", None, 64.0, [64]],
    "long_text": [3, None],
    "pooling": [3, None, ["cls"]],
    "head_layers": [None, 1.0, "1"],
    "head_init": [3, None, np.zeros(2)],
    "dropout": ["0.1", [0.1]],
    "epochs": [None, 2.0, [2]],
    "batch_size": [None, "8", 8.0],
    "learning_rate": [None, [1e-3]],
    "weight_decay": [None, "0.01"],
    "warmup_ratio": [None, "0.1"],
    "max_grad_norm": ["1", [1.0]],
    "freeze": [None, 1.5, [1]],
    "lora": ["8", 8.0, [8]],
    "gradient_checkpointing": [None, "yes", 2],
    "layer_decay": [None, "0.9"],
    "label_smoothing": [None, "0.1"],
    "early_stopping": [None, "yes", 2],
    "validation_fraction": [None, "0.1", 1],
    "n_iter_no_change": [None, 1.5, "2"],
    "scoring": [3, ["accuracy"]],
    "warm_start": [None, "yes", 2],
    "class_weight": [3, [1.0, 2.0]],
    "random_state": ["0", 1.5, np.random.default_rng(0)],
    "device": [3, None, ["cpu"], torch.device("cpu")],
    "precision": [32, None, np.float32],
    "memory": [3, ["folder"], b"folder"],
    "verbose": [None, "1", 1.5],
    "checkpoint": [3, ["folder"], True],
}

OUT_OF_RANGE = {
    "max_length": [7, 0, -1],
    "long_text": ["tail", ""],
    "pooling": ["sum", "", "CLS"],
    "head_layers": [-1],
    "head_init": ["zeros", "linear"],
    "dropout": [-0.1, 1.0, 1, 2.5, np.nan],
    "epochs": [0, -3, "all"],
    "batch_size": [0, -8],
    "learning_rate": [0.0, 0, -1e-3, "fast", np.nan],
    "weight_decay": [-0.01, np.nan],
    "warmup_ratio": [-0.1, 1.1, np.nan],
    "max_grad_norm": [0.0, -1.0, np.nan],
    "freeze": [-1, "all", True],
    "lora": [0, -4, True],
    "layer_decay": [0.0, -0.5, 1.1, np.nan],
    "label_smoothing": [-0.1, 1.0, np.nan],
    "validation_fraction": [0.0, 1.0, -0.1, np.nan],
    "n_iter_no_change": [0, -1],
    "scoring": ["no_such_score"],
    "class_weight": ["equal"],
    "random_state": [-1],
    "precision": ["fp16", "half", "fp32", "double"],
    "verbose": [-1],
}
"""Values of the right type. Any str may name a model, a revision or a device: see REFUSED_LATER."""

REFUSED_LATER = {
    "model": ["./no/such/folder", Path("no/such/folder"), "nobody/no-such-model", "not a name!", ""],
    "max_length": [129, 100_000],
    "device": ["gpu", "cuda:99", ""],
    "freeze": [2, 100],
    "checkpoint": ["", Path(__file__), Path(__file__) / "folder"],
    "memory": [__file__],
    "class_weight": [{"neutral": 2.0}, {"neg": 0.0, "pos": 0.0}, {"neg": -1.0}, {"neg": np.nan}],
}
"""Values that only the checkpoint, the machine or the data show to be wrong."""

IN_RANGE = {
    "model": "some/model",
    "revision": "main",
    "max_length": 8,
    "long_text": "windows",
    "pooling": "mean",
    "head_layers": 1,
    "head_init": "linear_probe",
    "dropout": 0.0,
    "epochs": 1,
    "batch_size": 1,
    "learning_rate": 1,
    "weight_decay": 0,
    "warmup_ratio": 1.0,
    "max_grad_norm": None,
    "freeze": "encoder",
    "lora": 4,
    "gradient_checkpointing": True,
    "layer_decay": 1,
    "label_smoothing": 0.1,
    "early_stopping": True,
    "validation_fraction": 0.5,
    "n_iter_no_change": 1,
    "scoring": "f1_macro",
    "warm_start": True,
    "class_weight": {"neg": 2.0, "pos": 1.0},
    "random_state": np.random.RandomState(0),
    "device": "cpu",
    "precision": "float64",
    "memory": "some/folder",
    "verbose": True,
    "checkpoint": Path("folder"),
}

SIGNATURE = inspect.signature(BertClassifier.__init__).parameters
PARAMETERS = [name for name in SIGNATURE if name != "self"]


def _cases(table):
    return [
        pytest.param(name, value, id=f"{name}-{value!r}"[:60].split(" at 0x")[0])
        for name, values in table.items()
        for value in values
    ]


def test_tables_hold_every_parameter():
    assert set(WRONG_TYPE) == set(PARAMETERS)
    assert set(IN_RANGE) == set(PARAMETERS)
    # A revision is any str or None: no value of the right type is out of range.
    switches = {"early_stopping", "gradient_checkpointing", "warm_start"}
    assert set(OUT_OF_RANGE) | set(REFUSED_LATER) == set(PARAMETERS) - {"revision"} - switches


def test_every_parameter_has_a_constraint():
    assert set(BertClassifier._parameter_constraints) == set(PARAMETERS)


@pytest.mark.parametrize("estimator", [BertClassifier, BertRegressor])
def test_every_parameter_is_documented_in_order(estimator):
    section = re.search(
        r"Parameters\n\s*-+\n(.*?)\n\s*Attributes\n\s*-+\n", inspect.getdoc(estimator), re.DOTALL
    )
    documented = re.findall(r"^(\w+) : (.+)$", section[1], re.MULTILINE)
    signature = inspect.signature(estimator).parameters
    assert [name for name, _ in documented] == list(signature)
    for name, description in documented:
        default = signature[name].default
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert description.endswith(f"default={shown}"), f"{name}: {description}"


def test_a_regressor_has_all_parameters_but_those_of_classes():
    own = inspect.signature(BertRegressor).parameters
    assert [name for name in PARAMETERS if name not in own] == ["label_smoothing", "class_weight"]
    assert all(own[name] == SIGNATURE[name] for name in own)
    assert set(BertRegressor._parameter_constraints) == set(own)
    with pytest.raises(InvalidParameterError, match="The 'epochs' parameter of BertRegressor"):
        BertRegressor(epochs=0).fit(["a", "b"], [1, 2])


@pytest.mark.parametrize("estimator", [BertClassifier, BertRegressor])
def test_type_hints_can_be_resolved(estimator):
    """By makers of command lines and of configurations."""
    typing.get_type_hints(estimator)
    assert {*typing.get_type_hints(estimator.__init__)} > {*inspect.signature(estimator).parameters}
    for method in ("fit", "partial_fit", "predict", "score", "save", "load", "from_pretrained"):
        inspect.signature(getattr(estimator, method), eval_str=True)


def test_only_the_model_is_positional():
    kinds = {SIGNATURE[name].kind for name in PARAMETERS[1:]}
    assert PARAMETERS[0] == "model"
    assert SIGNATURE["model"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    assert BertClassifier("some/model").model == "some/model"
    with pytest.raises(TypeError):
        BertClassifier("some/model", "main")


def test_defaults_satisfy_the_constraints():
    BertClassifier()._validate_params()


@pytest.mark.parametrize("name", PARAMETERS)
def test_values_in_range_satisfy_the_constraints(name):
    BertClassifier(**{name: IN_RANGE[name]})._validate_params()


@pytest.mark.parametrize(("name", "value"), [*_cases(WRONG_TYPE), *_cases(OUT_OF_RANGE)])
def test_bad_value_is_refused_by_fit(make_classifier, reviews, name, value):
    estimator = make_classifier().set_params(**{name: value})
    before = dict(vars(estimator))
    with pytest.raises(InvalidParameterError, match=rf"The '{name}' parameter of BertClassifier"):
        estimator.fit(*map(list, reviews))
    assert issubclass(InvalidParameterError, ValueError)
    assert list(vars(estimator)) == list(before)
    assert all(vars(estimator)[key] is kept for key, kept in before.items())


@pytest.mark.parametrize(("name", "value"), _cases(REFUSED_LATER))
def test_bad_value_is_refused_before_training(make_classifier, reviews, name, value):
    estimator = make_classifier().set_params(**{name: value})
    before = dict(vars(estimator))
    # The loop's own errors are no ValueError: this one came before it.
    with pytest.raises(ValueError, match=name) as caught:
        estimator.fit(*map(list, reviews))
    assert isinstance(caught.value, SkbertError)
    assert vars(estimator) == before


def test_errors_of_parameters_are_short_and_tell_what_may_have_been_meant(make_classifier, reviews):
    model = make_classifier(epochs=1).fit(*map(list, reviews)).model_
    for parameters, said in (
        ({"model": model}, "Got an object of the type SequenceClassifier instead.$"),
        ({"scoring": "acc"}, r"get_scorer_names\(\). Got 'acc' instead. Did you mean 'accuracy'\?$"),
        ({"lora": {"r": 4}}, r"peft.LoraConfig. Got \{'r': 4\} instead.$"),
    ):
        with pytest.raises(InvalidParameterError, match=said) as caught:
            make_classifier(**parameters).fit(*map(list, reviews))
        assert len(str(caught.value)) < 400


def test_bad_value_leaves_the_fitted_model(make_classifier, reviews):
    texts, labels = map(list, reviews)
    estimator = make_classifier().fit(texts, labels)
    expected = estimator.decision_function(texts)
    fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_")}
    good = estimator.get_params()
    for name, value in (("epochs", 0), ("dropout", "much"), ("model", "./no/such/folder")):
        estimator.set_params(**{name: value})
        with pytest.raises(ValueError, match=name):
            estimator.fit(texts, labels)
        assert all(vars(estimator)[key] is kept for key, kept in fitted.items())
        estimator.set_params(**{name: good[name]})
    np.testing.assert_array_equal(estimator.decision_function(texts), expected)


@pytest.mark.parametrize(("name", "value"), [*_cases(WRONG_TYPE), *_cases(OUT_OF_RANGE)])
def test_init_and_set_params_check_nothing(name, value):
    assert vars(BertClassifier(**{name: value}))[name] is value
    assert vars(BertClassifier().set_params(**{name: value}))[name] is value


def test_init_assigns_and_nothing_else():
    values = {name: object() for name in PARAMETERS}
    assert vars(BertClassifier(**values)) == values
    defaults = {name: SIGNATURE[name].default for name in PARAMETERS}
    assert vars(BertClassifier()) == defaults


def test_get_params_set_params_and_clone_agree(make_classifier, reviews):
    estimator = BertClassifier(**IN_RANGE)
    assert estimator.get_params() == IN_RANGE
    assert BertClassifier().set_params(**IN_RANGE).get_params() == IN_RANGE
    # clone copies the RandomState; everything else is equal.
    copied = clone(estimator).get_params()
    assert isinstance(copied.pop("random_state"), np.random.RandomState)
    assert copied == {name: v for name, v in IN_RANGE.items() if name != "random_state"}
    fitted = make_classifier().fit(*map(list, reviews))
    assert vars(clone(fitted)) == fitted.get_params()


def test_unknown_parameter():
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rat'"):
        BertClassifier().set_params(learning_rat=1e-3)
    with pytest.raises(TypeError, match="learning_rat"):
        BertClassifier(learning_rat=1e-3)


def test_repr_shows_what_was_set():
    assert repr(BertClassifier()) == "BertClassifier()"
    assert repr(BertClassifier("some/model", epochs=3)) == ("BertClassifier(epochs=3, model='some/model')")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_length", np.int64(16)),
        ("epochs", np.int32(2)),
        ("batch_size", np.uint8(8)),
        ("dropout", np.float16(0.25)),
        ("batch_size", np.int64(4)),
        ("learning_rate", np.float32(1e-3)),
        ("dropout", np.float64(0.2)),
        ("warmup_ratio", 0),
        ("warmup_ratio", 1),
        ("weight_decay", 0),
        ("max_grad_norm", None),
        ("max_grad_norm", 1),
        ("random_state", np.random.RandomState(0)),
        ("random_state", None),
        ("random_state", np.int64(3)),
        ("dropout", None),
        ("pooling", "mean"),
        ("pooling", "max"),
        ("head_layers", np.int64(2)),
        ("freeze", np.int64(1)),
        ("freeze", "gradual"),
        ("lora", np.int64(2)),
        ("gradient_checkpointing", np.bool_(True)),
        ("head_init", "random"),
        ("head_init", "linear_probe"),
        ("class_weight", "balanced"),
        ("batch_size", 1),
        ("batch_size", 1000),
        ("device", "auto"),
        ("precision", "auto"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_values_that_searches_pass(make_classifier, reviews, name, value):
    """numpy scalars, the ends of ranges, and every choice: a fit, and predictions of its classes."""
    texts, labels = map(list, reviews)
    estimator = make_classifier(**{name: value}).fit(texts, labels)
    assert vars(estimator)[name] is value
    assert set(estimator.predict(texts)) <= {"neg", "pos"}
    assert np.isfinite(estimator.loss_curve_).all()


def test_numbers_of_numpy_do_not_overflow_in_a_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    narrow = {"epochs": np.int8(3), "batch_size": np.uint8(7), "dropout": np.float16(0.25)}
    plain = {"epochs": 3, "batch_size": 7, "dropout": 0.25}
    fitted = [
        make_classifier(freeze="gradual", **parameters).fit(texts, labels) for parameters in (narrow, plain)
    ]
    np.testing.assert_array_equal(*(each.predict_proba(texts) for each in fitted))
    assert [type(each.n_iter_) for each in fitted] == [int, int]


def test_an_encoder_that_runs_one_layer_again_and_again_is_told_what_works(
    make_classifier, tmp_path, reviews
):
    texts, labels = map(list, reviews)
    folder = build_albert(tmp_path)
    for parameters in ({"freeze": 1}, {"gradient_checkpointing": True}, {"layer_decay": 0.5}):
        with pytest.raises(InputError, match=r"gradient_checkpointing need it\. Leave these"):
            make_classifier(model=folder, **parameters).fit(texts, labels)


def test_path_as_model(make_classifier, tiny_bert, reviews):
    texts, labels = map(list, reviews)
    by_str = make_classifier().fit(texts, labels)
    by_path = make_classifier().set_params(model=Path(tiny_bert)).fit(texts, labels)
    np.testing.assert_array_equal(by_str.decision_function(texts), by_path.decision_function(texts))


def test_auto_values_are_told(make_classifier, reviews):
    texts, labels = map(list, reviews)
    estimator = make_classifier(epochs="auto", learning_rate="auto", batch_size=24).fit(texts, labels)
    assert isinstance(estimator.n_iter_, int)
    assert estimator.n_iter_ >= 1
    assert len(estimator.loss_curve_) == estimator.n_iter_
    assert isinstance(estimator.learning_rate_, float)
    assert 0 < estimator.learning_rate_ < 1
    assert (estimator.epochs, estimator.learning_rate) == ("auto", "auto")
    given = make_classifier(learning_rate=3e-3).fit(texts, labels)
    assert given.learning_rate_ == 3e-3


def test_refit_after_set_params_is_a_new_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    changed = make_classifier().fit(texts, labels).set_params(epochs=3, random_state=7)
    fresh = make_classifier(epochs=3, random_state=7).fit(texts, labels)
    np.testing.assert_array_equal(
        changed.fit(texts, labels).decision_function(texts), fresh.decision_function(texts)
    )
    assert changed.n_iter_ == 3


class Narrow(BertClassifier):
    """A subclass whose users are to choose two of the parameters."""

    def __init__(self, model, *, epochs=1):
        super().__init__(model, epochs=epochs, max_length=32, device="cpu", random_state=0)


def test_a_subclass_may_take_fewer_parameters(tiny_bert, reviews):
    texts, labels = map(list, reviews)
    narrow = clone(Narrow(tiny_bert, epochs=2)).fit(texts, labels)
    settings = {"epochs": 2, "max_length": 32, "device": "cpu", "random_state": 0}
    plain = BertClassifier(tiny_bert, **settings).fit(texts, labels)
    np.testing.assert_array_equal(narrow.predict_proba(texts), plain.predict_proba(texts))
    assert list(narrow.get_params()) == ["epochs", "model"]
