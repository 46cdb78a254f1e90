"""`BertClassifier` as its users see it."""

import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import FAMILIES, as_sentence_transformer, build_checkpoint
from outputs import METHODS
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer

from skbert import (
    BertClassifier,
    CheckpointError,
    InputError,
    NonFiniteLossError,
    SkbertWarning,
    TruncationWarning,
    UnknownTokensWarning,
)


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    return make_classifier(epochs=12).fit(*reviews)


def test_learns_and_reports(fitted, reviews):
    assert fitted.score(*reviews) == 1.0
    assert fitted.classes_.tolist() == ["neg", "pos"]
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 12
    assert fitted.loss_curve_[-1] < 0.3 < fitted.loss_curve_[0]
    assert fitted.learning_rate_ == 5e-3
    assert fitted.n_features_in_ == 1
    assert fitted.truncated_fraction_ == 0.0
    assert not hasattr(fitted, "feature_names_in_")


def test_methods_agree_with_each_other(fitted, reviews):
    texts, _ = reviews
    p = fitted.predict_proba(texts)
    assert p.dtype == np.float32
    assert p.shape == (24, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert (fitted.classes_[p.argmax(axis=1)] == fitted.predict(texts)).all()
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(texts)), p, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-fitted.decision_function(texts))), p[:, 1], rtol=1e-4)
    logits = fitted.transform(texts) @ fitted.model_.head.weight.numpy().T + fitted.model_.head.bias.numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], fitted.decision_function(texts), atol=1e-4)


def test_head_init_auto_keeps_a_random_head_where_embeddings_tell_nothing(make_classifier):
    colours, animals = ("red", "green", "blue", "black", "white"), ("cat", "dog", "fish", "bird", "horse")
    texts = [f"{a} {b}" for a in colours for b in animals]
    parity = [(i + j) % 2 for i in range(5) for j in range(5)]  # no linear function of the words
    started = {
        h: make_classifier(head_init=h).fit(texts, parity).head_init_ for h in ("auto", "linear_probe")
    }
    assert started == {"auto": "random", "linear_probe": "linear_probe"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_pairs_and_singles(family, tiny_checkpoints, reviews):
    texts, y = reviews
    settings = {"epochs": 1, "max_length": 32, "random_state": 0, "device": "cpu", "precision": "float32"}
    for X in (list(texts), list(zip(texts, reversed(texts), strict=True))):
        classifier = BertClassifier(tiny_checkpoints(family), **settings).fit(X, y)
        again = BertClassifier(tiny_checkpoints(family), **settings).fit(X, y)
        assert np.array_equal(classifier.predict_proba(X), again.predict_proba(X))
        assert classifier.n_features_in_ == (1 if isinstance(X[0], str) else 2)


def test_pairs_use_both_texts(make_classifier):
    X = [("the film was good", "good"), ("the film was good", "bad")] * 8
    y = ["same", "other"] * 8
    classifier = make_classifier(epochs=15).fit(X, y)
    assert classifier.score(X, y) == 1.0


def test_random_state_instance_and_none(make_classifier, reviews):
    texts, y = reviews
    same = [make_classifier(random_state=np.random.RandomState(3)).fit(texts, y) for _ in range(2)]
    assert np.array_equal(*(c.predict_proba(texts) for c in same))
    different = [make_classifier(random_state=None).fit(texts, y) for _ in range(2)]
    assert not np.array_equal(*(c.predict_proba(texts) for c in different))


def test_truncation_is_reported_once(make_classifier, reviews):
    texts, y = reviews
    long = [t + " good" * 40 if i < 6 else t for i, t in enumerate(texts)]
    with pytest.warns(TruncationWarning, match=r"About 20%.*max_length=32") as caught:
        classifier = make_classifier().fit(long, y)
    told = [warning for warning in caught if warning.category is TruncationWarning]
    assert [warning.filename for warning in told] == [__file__]
    assert classifier.truncated_fraction_ == 0.25


def test_texts_that_the_tokenizer_does_not_know_are_reported(make_classifier, reviews):
    texts, y = map(list, reviews)
    for words, about in ((" 🙂", 10), (" 🙂" * 4, 40)):
        with pytest.warns(UnknownTokensWarning, match=rf"About {about}% .*'xlm-roberta-base'") as caught:
            make_classifier(epochs=1).fit([text + words for text in texts], y)
        assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownTokensWarning)
        make_classifier(epochs=1).fit([texts[0] + " 🙂", *texts[1:]], y)


@pytest.mark.parametrize("head_init", ["random", "auto"])
@pytest.mark.parametrize("scale", [1 / 1024, 8.0])
def test_only_ratios_of_weights_count(scale, head_init, make_classifier, reviews, topics):
    """Of several labels too, whose head begins at smoothed frequencies."""
    texts, y = map(list, reviews)
    weights = np.linspace(0.5, 1.5, len(texts))
    many, labels = topics[0], np.column_stack([topics[1], np.eye(len(topics[1]), dtype=int)[:, :2]])
    for X, target, given in ((texts, y, weights), (many, labels, np.resize(weights, len(many)))):
        first, scaled = (
            make_classifier(epochs=2, head_init=head_init).fit(X, target, sample_weight=given * by)
            for by in (1.0, scale)
        )
        assert first.head_init_ == scaled.head_init_
        assert first.loss_curve_ == scaled.loss_curve_


def test_windows_are_no_remedy_for_pairs_that_are_in_windows(make_classifier, reviews):
    texts, y = reviews
    long = [t + " good" * 40 if i < 6 else t for i, t in enumerate(texts)]
    classifier = make_classifier(long_text="windows", epochs=1).fit(long, y)  # would warn
    assert classifier.truncated_fraction_ == 0
    with pytest.warns(TruncationWarning, match=r"about 20% of the training pairs .*Raise max_length \("):
        classifier.fit(list(zip(long, long, strict=True)), y)
    assert classifier.truncated_fraction_ == 0.25


@pytest.fixture(scope="module")
def topics():
    """Texts of two independent words, and which of them they hold."""
    words = [(a, b) for a in ("cat", "dog") for b in ("sun", "rain")]
    texts = [f"{a} {b} {n}" for n in ("one", "two", "three", "four", "five") for a, b in words]
    return texts, np.array([[a == "cat", b == "sun", a == "dog"] for _ in range(5) for a, b in words]).astype(
        int
    )


def test_multilabel(make_classifier, topics):
    texts, Y = topics
    classifier = make_classifier(epochs=40, pooling="mean").fit(texts, Y)
    assert classifier.target_type_ == "multilabel-indicator"
    assert classifier.classes_.tolist() == [0, 1, 2]
    predicted = classifier.predict(texts)
    assert predicted.dtype == np.int64
    assert np.array_equal(predicted, Y)
    assert classifier.score(texts, Y) == 1.0
    p = classifier.predict_proba(texts)
    assert np.array_equal(p > 0.5, Y == 1)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-classifier.decision_function(texts))), rtol=1e-4)
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(texts)), p, rtol=1e-4)
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(texts), p)


def test_multilabel_through_scikit_learn(make_classifier, topics):
    texts, Y = topics
    names = [[name for name, on in zip(("cat", "sun", "dog"), row, strict=True) if on] for row in Y]
    binarizer = MultiLabelBinarizer(sparse_output=True)
    sparse = binarizer.fit_transform(names)
    classifier = make_classifier(epochs=40, pooling="mean").fit(texts, sparse)
    assert binarizer.inverse_transform(classifier.predict(texts)) == [tuple(sorted(n)) for n in names]
    assert classifier.score(texts, sparse) == 1.0
    scores = cross_val_score(make_classifier(epochs=8), texts, Y, cv=2, scoring="f1_micro")
    assert scores.shape == (2,)


def test_multilabel_weights_and_validation(make_classifier, topics):
    texts, Y = topics
    settings = {"early_stopping": True, "validation_fraction": 0.25, "scoring": "f1_micro", "epochs": 3}
    classifier = make_classifier(**settings).fit(texts, Y, sample_weight=np.ones(len(texts)))
    assert len(classifier.validation_scores_) == classifier.n_iter_
    means = [
        make_classifier(class_weight=w, head_init="random").fit(texts, Y).predict_proba(texts)[:, 0].mean()
        for w in ({0: 0.05}, None, {0: 20})
    ]
    assert means[0] < means[1] < means[2]


def test_names_of_labels_may_be_numbers(make_classifier, topics, tmp_path):
    texts, Y = topics
    table = pd.DataFrame(Y, columns=[7, 8, 9])
    settings = {"epochs": 1, "pooling": "cls", "head_init": "random"}
    classifier = make_classifier(class_weight={8: 20}, **settings).fit(texts, table)
    assert classifier.classes_.tolist() == [7, 8, 9]
    by_place = make_classifier(class_weight={1: 20}, **settings).fit(texts, Y)
    np.testing.assert_array_equal(classifier.predict_proba(texts), by_place.predict_proba(texts))
    classifier.save(tmp_path / "model")
    for known in (classifier, BertClassifier.load(tmp_path / "model")):
        assert known.score(texts, table) == known.score(texts, Y)
        with pytest.raises(InputError, match=r"those of the fit are \[7, 8, 9\]"):
            known.score(texts, table[[8, 7, 9]])
    classifier.save_pretrained(tmp_path / "folder")
    again = BertClassifier.from_pretrained(tmp_path / "folder")
    assert again.classes_.tolist() == ["7", "8", "9"]
    assert again.score(texts, table) == classifier.score(texts, table)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (["pos"] * 23, r"inconsistent numbers of samples: \[24, 23\]"),
        ([0, 1] * 12, r"y has labels such as 0 \(int64\), .* such as 'neg' \(str_?\)"),
        (np.eye(2, dtype=int)[[0, 1] * 12], r"y has the shape \(24, 2\), but the model has the target"),
    ],
)
def test_score_refuses_labels_before_it_predicts(fitted, reviews, y, said, monkeypatch):
    monkeypatch.setattr(type(fitted), "predict", None)
    with pytest.raises(InputError, match=said):
        fitted.score(reviews[0], y)


def test_labels_that_a_conversion_makes_classes_are_told_it(make_classifier, reviews):
    texts, numbers = list(reviews[0]), [0, 1] * 12
    for classes, y, remedy in (
        (numbers, list(map(str, numbers)), r"Pass np\.asarray\(y\)\.astype\('int64'\)"),
        (
            [False, True] * 12,
            ["False", "True"] * 12,
            r"(of the same type\.|For other classes, fit a new model)",
        ),
        (list(map(str, numbers)), numbers, r"Pass np\.asarray\(y\)\.astype\('str'\)"),
    ):
        classifier = make_classifier(epochs=1, warm_start=True).fit(texts, classes)
        for call in (classifier.score, classifier.fit, classifier.partial_fit):
            with pytest.raises(InputError, match=remedy):
                call(texts, y)


def test_score_reads_data_of_dask_once(fitted, reviews):
    dask = pytest.importorskip("dask.dataframe")
    parts = []
    X = dask.from_pandas(pd.Series(reviews[0]), npartitions=1)
    X = X.map_partitions(lambda part: parts.append(len(part)) or part, meta=X)
    assert fitted.score(X, reviews[1]) == 1.0
    assert [n for n in parts if n > 2] == [24]


def test_score_compares_numbers_with_no_times(make_classifier, reviews):
    texts = list(reviews[0])
    numbers, days = np.array([0, 1] * 12), np.array([0, 1] * 12, dtype="M8[D]")
    for classes, y in ((numbers, days), (days, numbers), (numbers, days - days[0])):
        classifier = make_classifier(epochs=1).fit(texts, classes)
        with pytest.raises(InputError, match=r"y has labels such as .*64\), but the model"):
            classifier.score(texts, y)


def test_score_refuses_weights_that_fit_refuses(fitted, reviews):
    texts, labels = reviews
    hidden = np.ma.array(np.ones(24), mask=[True] + [False] * 23)
    with pytest.raises(InputError, match="sample_weight is masked at row 0"):
        fitted.score(texts, labels, hidden)
    wrong = np.where(np.arange(24) < 6, "neg", "pos")
    weights = np.arange(24.0)  # one is zero
    expected = np.average(fitted.predict(texts) == wrong, weights=weights)
    assert fitted.score(texts, wrong, weights) == pytest.approx(expected)


@pytest.mark.parametrize("head_init", ["random", "linear_probe"])
def test_a_class_that_weighs_nothing_is_as_one_that_weighs_next_to_nothing(
    head_init, make_classifier, reviews
):
    texts, labels = reviews
    third = [*labels[:18], *["other"] * 6]
    settings = {"head_init": head_init, "epochs": 3, "max_grad_norm": None}
    p = [
        make_classifier(class_weight={"other": weight}, **settings).fit(texts, third).predict_proba(texts)
        for weight in (0, 1e-9, 1)
    ]
    assert p[0][:, 1].max() < 1e-6
    assert p[1][:, 1].max() < 1e-5
    assert p[2][:, 1].max() > 0.01


@pytest.mark.parametrize("head_init", ["random", "linear_probe"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_label_that_never_occurs_is_not_predicted(head_init, class_weight, make_classifier, topics):
    texts, Y = topics
    settings = {"head_init": head_init, "class_weight": class_weight, "epochs": 1}
    constant = np.c_[Y, np.ones(len(Y), dtype=int)] * [1, 0, 1, 1]
    with pytest.warns(SkbertWarning, match=r"columns \[1\] of y never occur") as caught:
        classifier = make_classifier(**settings).fit(texts, constant)
    assert caught[0].filename == __file__
    assert (classifier.predict(texts)[:, [1, 3]] == [0, 1]).all()


def hidden_telling_word(n=30):
    """Long texts whose only telling word is their last."""
    filler = "the film was a story of a man and a woman in a city by the sea " * 4
    return [f"{filler} {('good', 'bad')[i % 2]}" for i in range(n)], [i % 2 for i in range(n)]


@pytest.mark.parametrize(("long_text", "learns"), [("head", False), ("head_tail", True), ("windows", True)])
@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_long_texts(long_text, learns, make_classifier):
    X, y = hidden_telling_word()
    classifier = make_classifier(long_text=long_text, epochs=16, pooling="mean").fit(X, y)
    assert (classifier.score(X, y) == 1.0) is learns
    assert classifier.truncated_fraction_ == (0.0 if long_text == "windows" else 1.0)
    assert classifier.transform(X).shape == (30, 32)
    classifier.set_params(long_text="head")  # of later fits; the fitted model keeps its own
    assert (classifier.score(X, y) == 1.0) is learns


def test_windows_are_held_out_with_their_text(make_classifier):
    X, y = hidden_telling_word()
    X = [f"{'the ' * number}{text}" for number, text in enumerate(X)]  # no two alike
    settings = {"long_text": "windows", "early_stopping": True, "validation_fraction": 0.2}
    classifier = make_classifier(**settings).fit(X, y)
    # Accuracy over six held-out texts, not over their windows, moves in sixths.
    assert all((score * 6) == pytest.approx(round(score * 6)) for score in classifier.validation_scores_)


def test_a_text_of_windows_counts_once(make_classifier, reviews):
    """The fit is that of the windows as texts, each with its share of the weight."""
    texts, y = map(list, reviews)
    words = "cat dog bird fish film sea".split() * 10
    windows = [" ".join(words[start : start + 30]) for start in (0, 15, 30)]
    settings = {"precision": "float64", "epochs": 3}
    in_windows = make_classifier(long_text="windows", **settings).fit([" ".join(words), *texts], [y[0], *y])
    weights = [1 / 3] * 3 + [1.0] * len(texts)
    by_hand = make_classifier(**settings).fit([*windows, *texts], [y[0]] * 3 + y, sample_weight=weights)
    np.testing.assert_allclose(in_windows.loss_curve_, by_hand.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(in_windows.predict_proba(texts), by_hand.predict_proba(texts), rtol=1e-9)


def test_a_text_of_windows_has_their_mean_logits(make_classifier, reviews):
    classifier = make_classifier(long_text="windows").fit(*reviews)
    words = [f"{a} {b}" for a in ("good", "sad") for b in ("film", "story", "cat", "dog", "day")]
    text = " ".join(words * 3)  # 60 words of one token; windows of 30 start at 0, 15 and 30
    tokens = text.split()
    windows = [" ".join(tokens[start : start + 30]) for start in (0, 15, 30)]
    expected = classifier.decision_function(windows).mean()
    assert classifier.decision_function([text])[0] == pytest.approx(expected, abs=1e-5)


def test_equal_texts_get_equal_rows(fitted):
    p = fitted.predict_proba(["good film", "bad", "good film", "", "bad"])
    assert np.array_equal(p[0], p[2])
    assert np.array_equal(p[1], p[4])


def test_a_fit_that_fails_at_the_column_names_changes_nothing(make_classifier, reviews):
    table = pd.DataFrame({"a": ["x", "y"], 1: ["z", "w"]})
    for classifier in (make_classifier(), make_classifier().fit(*reviews)):
        before = dict(vars(classifier))
        with pytest.raises(TypeError, match="feature names"):
            classifier.fit(table, ["a", "b"])
        assert vars(classifier) == before


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"max_length": 129}, InputError, "128"),
        ({"model": "someone/unknown"}, CheckpointError, "HF_HUB_OFFLINE"),
        ({"model": "/no/such/folder"}, CheckpointError, "config"),
        ({"device": "cuda:99"}, InputError, "CUDA"),
        ({"learning_rate": 1e30, "max_grad_norm": None, "epochs": 9}, NonFiniteLossError, "learning_rate"),
        (
            {"learning_rate": 1e18, "epochs": 1, "batch_size": 24},
            NonFiniteLossError,
            "gives no finite outputs.*1e.18",
        ),
        (
            {"learning_rate": 1e18, "epochs": 1, "batch_size": 24, "early_stopping": True},
            NonFiniteLossError,
            "gives no finite outputs.*1e.18",
        ),
    ],
)
def test_what_only_fit_can_find_out_changes_nothing_either(parameters, error, said, make_classifier, reviews):
    classifier = make_classifier().fit(*reviews)
    expected = classifier.predict_proba(reviews[0])
    fitted_state = {k: v for k, v in vars(classifier).items() if k.endswith("_")}
    original = classifier.get_params()
    classifier.set_params(**parameters)
    with pytest.raises(error, match=said):
        classifier.fit(*reviews)
    assert {k: v for k, v in vars(classifier).items() if k.endswith("_")} == fitted_state
    classifier.set_params(**original)
    assert np.array_equal(classifier.predict_proba(reviews[0]), expected)


def test_keyboard_interrupt_passes_and_changes_nothing(make_classifier, reviews, monkeypatch):
    from skbert.training import loop

    classifier = make_classifier().fit(*reviews)
    before = dict(vars(classifier))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(*reviews)
    assert vars(classifier) == before


def test_predictions_keep_the_fitted_length(make_classifier, reviews):
    texts, y = reviews
    classifier = make_classifier(max_length=16).fit(texts, y)
    long = [text + " good" * 40 for text in texts]
    expected = classifier.predict_proba(long)
    classifier.set_params(max_length=64)
    assert classifier.max_length_ == 16
    assert np.array_equal(classifier.predict_proba(long), expected)


def test_pooling_parameter(tmp_path, reviews, make_classifier):
    texts, y = reviews
    folder = as_sentence_transformer(build_checkpoint("bert", tmp_path / "st"))
    chosen = {}
    for pooling in ("auto", "cls", "mean"):
        classifier = make_classifier(model=str(folder), pooling=pooling).fit(texts, y)
        chosen[pooling] = classifier.model_.pooling
    assert chosen == {"auto": "mean", "cls": "cls", "mean": "mean"}


def test_joblib_keeps_every_bit_and_the_checkpoint_may_go(tmp_path, reviews, make_classifier):
    texts, y = reviews
    folder = build_checkpoint("bert", tmp_path / "gone")
    classifier = make_classifier(model=str(folder)).fit(texts, y)
    joblib.dump(classifier, tmp_path / "model.joblib")
    for file in folder.iterdir():
        file.unlink()
    again = joblib.load(tmp_path / "model.joblib")
    texts = [*texts, "good [SEP] bad [CLS] [MASK]"]  # literal text, before and after
    for method in METHODS:
        assert np.array_equal(getattr(again, method)(texts), getattr(classifier, method)(texts))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_checkpoint_without_a_pooler_reloads_and_narrows(family, tmp_path, reviews, make_classifier):
    """Most language-model checkpoints on the hub have no pooler."""
    texts, y = reviews
    folder = build_checkpoint(family, tmp_path / "mlm", masked_lm=True)
    for precision in ("float32", "bfloat16"):
        classifier = make_classifier(model=str(folder), precision=precision).fit(texts, y)
        again = pickle.loads(pickle.dumps(classifier))
        assert np.array_equal(again.predict_proba(texts), classifier.predict_proba(texts))


def test_input_errors_come_before_torch_is_imported():
    code = (
        "import sys; from skbert import BertClassifier, CheckpointError, InputError\n"
        "for X, model in ((['a', None], 'x/y'), (['a', 'b'], 'someone/unknown')):\n"
        "    try: BertClassifier(model).fit(X, [0, 1])\n"
        "    except (CheckpointError, InputError) as error: print(type(error).__name__)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["InputTypeError", "CheckpointError", "[]"]


def test_fit_works_where_gradients_are_off(make_classifier, reviews):
    texts, y = reviews
    expected = make_classifier().fit(texts, y).predict_proba(texts)
    for scope in (torch.no_grad, torch.inference_mode):
        with scope():
            classifier = make_classifier().fit(texts, y)
        assert np.array_equal(classifier.predict_proba(texts), expected)


def test_nothing_of_the_pretrained_model_stays_after_fit(make_classifier, reviews):
    from skbert import inference

    classifier = make_classifier(precision="bfloat16").fit(*reviews)
    assert classifier.model_ not in inference._kept


def test_sample_weight_two_is_the_row_twice_in_a_full_batch(make_classifier, reviews):
    texts, y = reviews
    settings = {"batch_size": 100, "precision": "float64", "dropout": 0.0, "epochs": 8}
    settings |= {"head_init": "linear_probe", "label_smoothing": 0.1, "class_weight": {"neg": 3.0}}
    weighted = make_classifier(**settings).fit(texts, y, sample_weight=[2] * 6 + [1] * 18)
    doubled = make_classifier(**settings).fit([*texts[:6], *texts], [*y[:6], *y])
    np.testing.assert_allclose(weighted.predict_proba(texts), doubled.predict_proba(texts), atol=1e-6)


def test_rows_of_weight_zero_are_as_if_absent(make_classifier, reviews):
    texts, y = reviews
    weighted = make_classifier().fit(texts, y, sample_weight=[1] * 16 + [0] * 8)
    absent = make_classifier().fit(texts[:16], y[:16])
    assert np.array_equal(weighted.predict_proba(texts), absent.predict_proba(texts))


def test_bfloat16_and_float64(make_classifier, reviews):
    texts, y = reviews
    for precision, dtype in (("bfloat16", np.float32), ("float64", np.float64)):
        classifier = make_classifier(precision=precision, epochs=12).fit(texts, y)
        p = classifier.predict_proba(texts)
        assert p.dtype == dtype
        assert classifier.score(texts, y) == 1.0


def test_a_model_of_one_precision_predicts_in_another(fitted, reviews):
    texts, _ = reviews
    expected = fitted.predict_proba(texts)
    copy = joblib.hash(fitted.model_.head.weight.numpy())
    fitted.set_params(precision="bfloat16")
    try:
        np.testing.assert_allclose(fitted.predict_proba(texts), expected, atol=0.05)
    finally:
        fitted.set_params(precision="float32")
    assert joblib.hash(fitted.model_.head.weight.numpy()) == copy


def test_embedded_checkpoint_learns_meaning():
    """The real MiniLM, once: words it never saw in training decide the answer."""
    X = ["a wonderful film", "a terrible film", "I loved it", "I hated it", "so much fun", "so boring"]
    X += ["the best of the year", "the worst of the year", "a warm and funny story", "dull from start to end"]
    X += ["brilliant", "a waste of time"]
    y = ["good", "bad"] * 6
    classifier = BertClassifier(epochs=3, max_length=32, random_state=0).fit(X, y)
    assert classifier.predict(["what a delightful movie", "an awful, dull movie"]).tolist() == ["good", "bad"]
    assert classifier.model_.pooling == "mean"
    assert classifier.head_init_ == "linear_probe"
    assert classifier.learning_rate_ == 1e-4
    assert classifier.get_feature_names_out().tolist()[-1] == "bertclassifier383"


@pytest.mark.gpu
def test_trained_on_cuda_pickles_for_a_cpu(tiny_bert, reviews, tmp_path):
    texts, y = reviews
    classifier = BertClassifier(tiny_bert, epochs=2, max_length=32, device="cuda", random_state=0)
    classifier.fit(texts, y)  # cuBLAS keeps what memory it works in
    before = torch.cuda.memory_allocated()
    classifier.fit(texts, y)
    assert abs(torch.cuda.memory_allocated() - before) < 2**20
    joblib.dump(classifier, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib").set_params(device="cpu", precision="float32")
    np.testing.assert_allclose(again.predict_proba(texts), classifier.predict_proba(texts), atol=2e-2)


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "bool[pyarrow]", "int8[pyarrow]", object, bool])
def test_score_takes_labels_in_any_form_that_fit_does(dtype, make_classifier, reviews):
    texts, labels = map(list, reviews)
    plain = pd.DataFrame({"good": [label == "pos" for label in labels], "film": ["film" in t for t in texts]})
    Y = plain.astype(dtype)
    classifier = make_classifier().fit(texts, Y)
    expected = float((classifier.predict(texts) == plain.to_numpy()).all(axis=1).mean())
    assert classifier.score(texts, Y) == expected
    with pytest.raises(InputError, match="missing label"):
        classifier.score(texts, [*labels[:-1], None])


def test_score_of_many_classes_on_few_texts_is_silent(make_classifier):
    """scikit-learn would warn that 25 classes among 25 texts look like a regression."""
    texts = [f"text {i % 25} {i}" for i in range(50)]
    classifier = make_classifier(epochs=1).fit(texts, [i % 25 for i in range(50)])
    assert 0 <= classifier.score(texts[:25], list(range(25))) <= 1  # a warning would be an error


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_table_with_its_labels_is_no_pairs(method, make_classifier, reviews):
    table = pd.DataFrame({"text": reviews[0], "label": reviews[1]})
    more = {"classes": ["neg", "pos"]} if method == "partial_fit" else {}
    with pytest.raises(InputError, match="Column 1 of X holds the labels in y"):
        getattr(make_classifier(epochs=1), method)(table, table["label"], **more)
