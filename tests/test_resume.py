"""`checkpoint`: a fit that was killed goes on and ends with the same bits; any other fit is refused."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_fits import StepCounter, fit, watched
from limits import files_of_at_most
from sklearn.base import clone
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV

import skbert
from skbert import InputError, NonFiniteLossError, PersistenceError, SkbertWarning, identity
from skbert.persistence import tensorfile
from skbert.persistence.unfinished import FILE, opened
from skbert.training import resume

N_STEPS = 12  # of a fit of 24 texts, 3 epochs, 6 texts a step

# What fits differ in; `at_most`'s batches go through in parts, `warm` goes on from a fitted model.
CASES = {
    "plain": ({}, {}),
    "probe": ({"head_init": "linear_probe", "head_layers": 1}, {}),
    "early stopping": ({"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 1}, {}),
    "best epoch": ({"scoring": "neg_log_loss", "learning_rate": 3e-2}, {"held_out": True}),
    "gradual": ({"freeze": "gradual"}, {}),
    "frozen layers": ({"freeze": 1, "dropout": 0.2}, {"held_out": True}),
    "frozen encoder": ({"freeze": "encoder", "dropout": 0.2}, {}),
    "lora": ({"lora": 2}, {}),
    "layer decay": ({"layer_decay": 0.5, "class_weight": "balanced"}, {}),
    "windows": ({"long_text": "windows", "max_length": 8}, {}),
    "deberta": ({"family": "deberta-v2", "dropout": 0.2}, {}),
    "bfloat16": ({"precision": "bfloat16"}, {}),
    "float16": ({"precision": "float16"}, {}),
    "float64": ({"precision": "float64"}, {}),
    "parts": ({}, {"tight": True}),
    "recomputed": ({"gradient_checkpointing": True}, {}),
    "warm start": ({}, {"warm": True}),
    "no seed": ({"random_state": None}, {}),
}


@pytest.fixture(scope="module")
def a_case(tiny_checkpoints, reviews):
    """Return a function that gives a case's parameters and the keywords of its fit."""

    def make(name, **others):
        parameters, options = CASES[name]
        parameters = {
            "max_length": 32,
            "epochs": 3,
            "batch_size": 6,
            "learning_rate": 5e-3,
            "random_state": 0,
            "device": "cpu",
            "precision": "float32",
        } | parameters
        parameters["model"] = tiny_checkpoints(parameters.pop("family", "bert"))
        keywords = dict(options, X=list(reviews[0]), y=list(reviews[1]))
        if name == "windows":  # two for each text
            keywords["X"] = [f"{text} {text}" for text in reviews[0]]
        if keywords.pop("held_out", False):
            keywords |= {"X_val": keywords["X"][:7], "y_val": keywords["y"][:7]}
        return parameters | others, keywords

    return make


def killed(cases, folder):
    """Run cases in processes that are killed, and return how each of them ended."""
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    child = [sys.executable, str(Path(__file__).with_name("killed_fits.py")), str(path)]
    done = subprocess.run(child, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout)


def assert_same(model, expected):
    weights, their_weights = model.model_.state_dict(), expected.model_.state_dict()
    assert list(weights) == list(their_weights)
    for name, weight in weights.items():
        assert torch.equal(weight, their_weights[name]), name
    for name in ("loss_curve_", "validation_scores_", "history_", "n_iter_", "head_init_"):
        assert getattr(model, name) == getattr(expected, name), name


def state_in(folder):
    arrays, metadata, _ = tensorfile.read(Path(folder) / FILE)
    return json.loads(metadata["skbert-fit"]), arrays


def write_after_every_step(monkeypatch):
    monkeypatch.setattr(resume, "_SHARE", 0)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # takes most of the time


# Killed, and started again


@pytest.mark.filterwarnings("ignore:The texts held out:UserWarning")
@pytest.mark.parametrize("n_kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_steps_every_kind_of_fit_ends_with_the_same_bits(a_case, tmp_path, n_kills, figure):
    draw = random.Random(n_kills)
    cases, steps, names = [], [], []
    for name in CASES:
        n_steps = 6 if name == "early stopping" else N_STEPS  # that each of them makes at least
        for step in draw.sample(range(2, n_steps + 1), min(n_kills, n_steps - 1)):
            parameters, keywords = a_case(name, checkpoint=str(tmp_path / str(len(cases))))
            cases.append([parameters, keywords, {"at_step": step}])
            steps.append(step)
            names.append(name)
    assert killed(cases, tmp_path) == [-signal.SIGKILL] * len(cases)
    references = {}
    for name, step, (parameters, keywords, _) in zip(names, steps, cases, strict=True):
        content, _ = state_in(parameters["checkpoint"])
        assert content["values"]["steps"] == step - 1
        if name not in references:
            seed = content["seed"] if parameters["random_state"] is None else None
            references[name] = reference(parameters, keywords, seed)
        expected = references[name]
        model = watched(parameters)
        fit(model, **keywords)
        assert_same(model, expected)
        assert model.counter.steps == expected.counter.steps - (step - 1)
        assert not Path(parameters["checkpoint"]).exists()
        if name == "no seed":
            references.pop(name)
    figure("fits killed at random steps, then resumed", len(cases), "0 differ from those nobody kills")


def reference(parameters, keywords, seed):
    """The fit that nobody interrupts."""
    model = watched(parameters | {"checkpoint": None})
    if seed is not None:

        class Drawn(np.random.RandomState):
            """Draws the seed that the killed fit has drawn."""

            def randint(self, *arguments, **keywords):
                return seed

        model.set_params(random_state=Drawn(0))
    return fit(model, **keywords)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain", "best epoch", "deberta", "bfloat16", "lora"])
def test_interrupted_on_a_gpu(a_case, tmp_path, name):
    """In a process of its own, where only deterministic algorithms are allowed."""
    parameters, keywords = a_case(name, checkpoint=str(tmp_path / "fit"), device="cuda")
    code = """if True:
        import json, sys
        import torch
        from test_resume import assert_same, fit, interrupted, resume, watched

        torch.use_deterministic_algorithms(True)
        resume._SHARE = 0
        parameters, keywords = json.load(sys.stdin)
        expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
        interrupted(parameters, keywords, at=7)
        assert_same(fit(watched(parameters), **keywords), expected)
    """
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([parameters, keywords]),
        text=True,
        check=True,
        env=os.environ | variables,
    )


@pytest.mark.slow
def test_killed_at_any_time_also_while_writing(a_case, tmp_path, figure):
    """Forty fits, each killed after a random time; every other one writes after each step."""
    draw = random.Random(0)
    parameters, keywords = a_case("best epoch")
    expected = fit(watched(parameters), **keywords)
    began = time.perf_counter()
    fit(watched(parameters), **keywords)
    most = time.perf_counter() - began
    cases = []
    for number in range(40):
        folder = str(tmp_path / str(number))
        settings = {"after_seconds": draw.uniform(0.1 * most, most), "share": 0 if number % 2 else 20}
        cases.append([parameters | {"checkpoint": folder}, keywords, settings])
    ended = killed(cases, tmp_path)
    assert -signal.SIGKILL in ended
    for case in cases:
        assert_same(fit(watched(case[0]), **keywords), expected)
        assert not list(Path(case[0]["checkpoint"]).glob("*"))
    figure(
        "fits killed at any time, then resumed",
        ended.count(-signal.SIGKILL),
        "0 differ from one that nobody kills",
    )


def test_interrupted_again_and_again(a_case, tmp_path, monkeypatch):
    """Every step of the fit in a call of its own."""
    write_after_every_step(monkeypatch)
    parameters, keywords = a_case("best epoch")
    expected = fit(watched(parameters), **keywords)
    made = 0
    for _ in range(N_STEPS + 2):
        model = watched(parameters | {"checkpoint": tmp_path / "fit"}, StepCounter(2, interrupt))
        try:
            fit(model, **keywords)
        except KeyboardInterrupt:
            made += 1
        else:
            break
    assert made == N_STEPS - 1
    assert_same(model, expected)


def test_how_often_the_state_is_written(a_case, tmp_path, monkeypatch):
    """Before the first step, and not again before 20 times as long as that took."""
    written = []
    monkeypatch.setattr(resume, "state_of", lambda trainer, real=resume.state_of: count(trainer, real))

    def count(trainer, real):
        written.append(trainer.steps)
        return real(trainer)

    clock = [0.0]

    def monotonic():
        clock[0] += 1.0  # a second each time someone looks
        return clock[0]

    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit", epochs=10)
    monkeypatch.setattr(resume.time, "monotonic", monotonic)
    fit(watched(parameters), **keywords)
    # A write takes one look, so 20 looks pass until the next; each step looks once.
    assert written == [0, 20, 40]


def test_only_an_interrupted_fit_leaves_anything(a_case, tmp_path):
    parameters, keywords = a_case("plain")
    made = tmp_path / "a" / "b"
    fit(watched(parameters | {"checkpoint": made}), **keywords)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    there = tmp_path / "there"
    there.mkdir()
    fit(watched(parameters | {"checkpoint": str(there)}), **keywords)
    assert list(there.iterdir()) == []
    (there / "notes.txt").write_text("mine")
    interrupted(parameters | {"checkpoint": there}, keywords)
    assert sorted(path.name for path in there.iterdir()) == ["notes.txt", FILE]
    fit(watched(parameters | {"checkpoint": there}), **keywords)
    assert [path.name for path in there.iterdir()] == ["notes.txt"]


def test_killed_before_the_first_state_leaves_a_folder_that_the_next_fit_removes(a_case, tmp_path):
    """The second folder is the caller's own."""
    (tmp_path / "own").mkdir()
    cases = [a_case("plain", checkpoint=str(tmp_path / name)) for name in ("made", "own")]
    ended = killed([[*case, {"while_loading": True}] for case in cases], tmp_path)
    assert ended == [-signal.SIGKILL] * 2
    for parameters, keywords in cases:
        assert Path(parameters["checkpoint"]).exists()
        fit(watched(parameters), **keywords)
    assert not (tmp_path / "made").exists()
    assert list((tmp_path / "own").iterdir()) == []


def test_an_interrupt_as_the_folder_is_locked_leaves_none_behind(tmp_path, monkeypatch):
    """filelock leaves a file that is not locked; the next fit that ends removes it, and the folder."""
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *arguments: interrupt())
        with pytest.raises(KeyboardInterrupt), opened(tmp_path / "fit"):
            pass
    with opened(tmp_path / "fit"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["mkdir", "open", "unlink", "rmdir"])
def test_an_interrupt_in_a_call_of_the_system_leaves_no_folder_and_no_lock(call, tmp_path, monkeypatch):
    """Ctrl-C raises when the call returns; tried is each that opening and closing a folder makes.

    Except that in which filelock opens its file: that is filelock's to handle.
    """
    real = getattr(os, call)
    for at in range(100):
        made = []

        def then_interrupt(*arguments, at=at, made=made, **keywords):
            result = real(*arguments, **keywords)
            if call == "open" and os.fspath(arguments[0]).endswith(".lock"):
                return result
            made.append(arguments)
            if len(made) == at + 1:
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch:
            patch.setattr(os, call, then_interrupt)
            try:
                with opened(tmp_path / "fit"):
                    pass
            except KeyboardInterrupt:
                pass
            else:
                break
        assert list(tmp_path.iterdir()) == []
        with opened(tmp_path / "fit"):  # nobody has the lock
            pass
    assert 0 < at < 99


def interrupt():
    raise KeyboardInterrupt


def interrupted(parameters, keywords, at=2):
    """Leave an unfinished fit behind."""
    with pytest.raises(KeyboardInterrupt):
        fit(watched(parameters, StepCounter(at, interrupt)), **keywords)


def test_a_fit_that_became_nan_has_ended(a_case, tmp_path):
    parameters, keywords = a_case("plain", learning_rate=1e30, weight_decay=1e3, checkpoint=tmp_path / "fit")
    with pytest.raises(NonFiniteLossError):
        fit(watched(parameters), **keywords)
    assert not (tmp_path / "fit").exists()


def test_the_bar_of_a_resumed_epoch_is_full(a_case, tmp_path, monkeypatch, capfd):
    write_after_every_step(monkeypatch)
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    interrupted(parameters, keywords, at=7)
    capfd.readouterr()
    model = fit(watched(parameters | {"verbose": 1}), **keywords)
    shown = capfd.readouterr().err
    assert "epoch 1/3" not in shown
    assert "epoch 2/3: 100%|██████████| 24/24" in shown
    assert f"loss={model.loss_curve_[1]:.4f}" in shown


def test_epochs_of_callbacks_keep_their_number(a_case, tmp_path, monkeypatch, make_classifier):
    pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9 has no callbacks")
    write_after_every_step(monkeypatch)

    class Callback:
        def __init__(self, interrupt_at=None):
            self.heard, self.interrupt_at = [], interrupt_at

        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            if context.task_name == "epoch":
                self.heard.append(context.task_id)
                if context.task_id == self.interrupt_at:
                    raise KeyboardInterrupt

        def on_fit_task_end(self, estimator, context):
            return context.task_name == "epoch" and context.task_id == 3

    _, keywords = a_case("plain")
    first, second = Callback(interrupt_at=2), Callback()
    model = make_classifier(epochs=6, checkpoint=tmp_path / "fit")
    with pytest.raises(KeyboardInterrupt):
        model.set_callbacks(first).fit(keywords["X"], keywords["y"])
    model.set_callbacks(second).fit(keywords["X"], keywords["y"])
    # The state is that after the last step of epoch 1, before its end; the callback ends the fit after 3.
    assert (first.heard, second.heard) == ([0, 1, 2], [1, 2, 3])
    assert model.n_iter_ == 4


# Other fits are refused


@pytest.fixture
def left(a_case, tmp_path):
    """An unfinished fit: its folder, parameters, and keywords of fit."""
    parameters, keywords = a_case("best epoch", checkpoint=str(tmp_path / "fit"))
    interrupted(parameters, keywords)
    return tmp_path / "fit", parameters, keywords


def test_other_parameters_are_refused_by_name(left, a_case):
    folder, parameters, keywords = left
    content = (folder / FILE).read_bytes()
    for name, value, message in (
        ("learning_rate", 1e-3, r"learning_rate was 0\.03 and is 0\.001"),
        ("epochs", 4, "epochs was 3 and is 4"),
        ("scoring", None, "scoring was 'neg_log_loss' and is None"),
        ("scoring", make_scorer(f1_score, pos_label="pos"), r"scoring .* is make_scorer\(f1_score, .*pos"),
        ("random_state", 1, r"random_state was seed \d+ and is seed \d+"),
        ("random_state", None, "random_state was seed .* and is None"),
        ("class_weight", {"neg": 2.0}, r"class_weight was None and is {'neg': 2\.0}\. "),
        ("lora", 2, "lora was None and is 2"),
        ("precision", "bfloat16", "precision was float32 and is bfloat16"),
        ("model", a_case("deberta")[0]["model"], "the weights of model differs, the tokenizer of model"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            fit(watched(parameters | {name: value}), **keywords)
        assert f"delete {str(folder / FILE)!r}" in str(caught.value)
    assert os.listdir(folder) == [FILE]
    assert (folder / FILE).read_bytes() == content


def test_other_data_are_refused_by_name(left):
    folder, parameters, keywords = left
    X, y = keywords["X"], keywords["y"]
    for name, value, message in (
        ("X", [*X[:-1], X[-1] + " "], "not this one: X differs. To"),
        ("X", X[::-1], "not this one: X differs. To"),
        ("X", list(zip(X, X, strict=True)), "column|X differs"),
        ("y", [y[1], *y[1:]], "not this one: y differs. To"),
        ("sample_weight", np.linspace(1, 2, 24), "not this one: sample_weight differs. To"),
        ("X_val", X[1:8], "not this one: X_val or y_val differs. To"),
        ("y_val", y[1:8], "not this one: X_val or y_val differs. To"),
        ("groups", [0] * len(X), "not this one: groups was None and is not None. To"),
    ):
        with pytest.raises(InputError, match=message):
            fit(watched(parameters), **(keywords | {name: value}))
    assert os.listdir(folder) == [FILE]


def test_other_surroundings_are_refused_by_name(left, monkeypatch):
    _, parameters, keywords = left
    monkeypatch.setattr(identity, "version", lambda name: {"torch": "99.1"}.get(name, "0"))
    with pytest.raises(InputError, match=r"the version of torch was .* and is 99\.1"):
        fit(watched(parameters), **keywords)
    monkeypatch.undo()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match=r"torch\.get_num_threads\(\) was 1 and is 2\. To continue it"):
            fit(watched(parameters), **keywords)
    finally:
        torch.set_num_threads(1)
    limit = skbert.cache_info().maxsize
    skbert.set_cache_limit(0)
    try:
        with pytest.raises(InputError, match=r"skbert\.set_cache_limit was 536870912 bytes and is 0 bytes"):
            fit(watched(parameters), **keywords)
    finally:
        skbert.set_cache_limit(limit)


def test_what_changes_no_bit_is_no_other_fit(left, tmp_path):
    """A copy of the checkpoint's folder, numpy scalars, arrays in place of lists, another verbosity."""
    _, parameters, keywords = left
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    shutil.copytree(parameters["model"], tmp_path / "copy")
    other = {"model": tmp_path / "copy", "epochs": np.int64(3), "random_state": np.int32(0), "verbose": 0}
    model = watched(parameters | other)
    fit(model, **(keywords | {"X": np.array(keywords["X"]), "y": np.array(keywords["y"], dtype=object)}))
    np.testing.assert_array_equal(model.model_.head.weight.numpy(), expected.model_.head.weight.numpy())


def test_a_config_with_other_dropout_is_another_fit(a_case, tiny_checkpoints, tmp_path):
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    interrupted(parameters, keywords)
    with pytest.raises(InputError, match=r"not this one: the weights of model differs\. To"):
        fit(watched(parameters | {"model": tiny_checkpoints("bert", dropout=0.3)}), **keywords)


def test_another_fitted_model_to_go_on_from_is_another_fit(a_case, tmp_path):
    parameters, keywords = a_case("warm start", checkpoint=tmp_path / "fit")
    interrupted(parameters, keywords)
    with pytest.raises(InputError, match=r"not this one: the weights of model differs\. To"):
        fit(watched(parameters | {"learning_rate": 1e-2}), **keywords)


def test_a_random_state_in_the_same_state_is_the_same_fit(a_case, tmp_path):
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    parameters["random_state"] = np.random.RandomState(5)
    interrupted(parameters, keywords)
    with pytest.raises(InputError, match="random_state was seed"):  # it has drawn once
        fit(watched(parameters), **keywords)
    parameters["random_state"] = np.random.RandomState(5)
    model = watched(parameters)
    assert len(fit(model, **keywords).loss_curve_) == 3


def test_lora_configurations_are_compared_by_content(a_case, tmp_path):
    peft = pytest.importorskip("peft")
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    make = lambda r: peft.LoraConfig(r=r, target_modules=["query", "value"])  # noqa: E731
    interrupted(parameters | {"lora": make(2)}, keywords)
    with pytest.raises(InputError, match=r"lora was LoraConfig\("):
        fit(watched(parameters | {"lora": make(3)}), **keywords)
    expected = fit(watched(parameters | {"lora": make(2), "checkpoint": None}), **keywords)
    assert_same(fit(watched(parameters | {"lora": make(2)}), **keywords), expected)


def test_partial_fit_refuses_it(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    model = make_classifier(checkpoint=tmp_path / "fit")
    with pytest.raises(InputError, match="partial_fit does not support checkpoint"):
        model.partial_fit(texts, labels, classes=["neg", "pos"])
    assert not (tmp_path / "fit").exists()


# Files and folders


def test_a_damaged_file_is_refused(left):
    folder, parameters, keywords = left
    content = (folder / FILE).read_bytes()
    draw = random.Random(0)
    for number in range(20):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder / FILE).write_bytes(damaged if number else content[: len(content) // 2])
        with pytest.raises(PersistenceError, match=r"cannot be read: .* Delete '.*' to start over") as caught:
            fit(watched(parameters), **keywords)
        assert FILE in str(caught.value)
    (folder / FILE).write_bytes(content)
    assert len(fit(watched(parameters), **keywords).loss_curve_) == 3


def test_scores_may_be_infinite(a_case, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_SHARE", 0)
    parameters, keywords = a_case("best epoch", checkpoint=tmp_path / "fit")
    parameters["scoring"] = infinite
    interrupted(parameters, keywords, at=7)
    content = (tmp_path / "fit" / FILE).read_bytes()
    assert b"Infinity" in content
    assert fit(watched(parameters), **keywords).validation_scores_[0] == float("inf")


def infinite(estimator, X, y):
    return float("inf")


def test_a_time_limit_is_no_damage_of_the_state(left, monkeypatch):
    _, parameters, keywords = left

    def expire(self, state):
        raise TimeoutError("my limit")

    monkeypatch.setattr("skbert.training.optimizer.MasterAdamW.load_state", expire)
    with pytest.raises(TimeoutError, match="my limit"):
        fit(watched(parameters), **keywords)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [],
        lambda content: content | {"fit": None},
        lambda content: {name: value for name, value in content.items() if name != "values"},
        lambda content: content | {"values": content["values"] | {"steps": "many"}},
        lambda content: content | {"values": content["values"] | {"order": None}},
        lambda content: content | {"values": content["values"] | {"n_best": 10**9}},
    ],
)
def test_a_file_with_checksums_of_its_own_is_refused(change, left):
    folder, parameters, keywords = left
    arrays, metadata, _ = tensorfile.read(folder / FILE)
    content = change(json.loads(metadata["skbert-fit"]))
    with (folder / FILE).open("wb") as file:
        tensorfile.write(file, arrays, tensorfile.sealed("skbert-fit", content))
    with pytest.raises(PersistenceError, match="Delete"):
        fit(watched(parameters), **keywords)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "The file may be intact"),
        (TimeoutError("my limit"), "my limit"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(error, said, left, monkeypatch):
    """It may be hours of work, and the advice for a damaged one is to delete it."""
    _, parameters, keywords = left

    def refuse(path):
        raise error

    monkeypatch.setattr(tensorfile, "read", refuse)
    with pytest.raises((PersistenceError, TimeoutError), match=said) as caught:
        fit(watched(parameters), **keywords)
    assert "Delete" not in str(caught.value)
    assert isinstance(caught.value, TimeoutError) is isinstance(error, TimeoutError)
    monkeypatch.undo()
    assert len(fit(watched(parameters), **keywords).loss_curve_) == 3


def test_folders_that_cannot_be_are_refused_before_anything_is_read(make_classifier, reviews, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "within", "/proc/skbert"):
        model = make_classifier(checkpoint=folder)
        with pytest.raises(InputError, match=r"checkpoint=.*not a folder that can be written to"):
            model.fit(*map(list, reviews))
        assert not hasattr(model, "model_")


@pytest.mark.parametrize("name", ["bert-base-uncased", "distilbert/distilbert-base-uncased"])
def test_the_name_of_a_model_is_no_folder_to_resume_in(name, make_classifier, reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rf"checkpoint='{name}'.*written as '\./{name}'.*set model='{name}'"
    with pytest.raises(InputError, match=said):
        make_classifier(checkpoint=name).fit(*map(list, reviews))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [str, Path])
def test_the_folder_of_a_model_is_no_folder_to_resume_in(kind, make_classifier, reviews, tiny_bert):
    files = sorted(Path(tiny_bert).iterdir())
    with pytest.raises(InputError, match=r"holds a model \(config.json\).*set model="):
        make_classifier(checkpoint=kind(tiny_bert)).fit(*map(list, reviews))
    assert sorted(Path(tiny_bert).iterdir()) == files


def test_names_that_no_folder_can_have_are_refused(make_classifier, reviews, tmp_path):
    class PathOfBytes(os.PathLike):
        def __fspath__(self):
            return os.fsencode(tmp_path / "fit")

    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    names = (tmp_path / ("x" * 300), f"{tmp_path}/a\0b", "~nobody-of-this-name/fit", tmp_path / "one")
    for name in (*names, PathOfBytes()):
        with pytest.raises(
            InputError, match=r"(?s)checkpoint=.* is not a folder that can be written to \(.+\)"
        ):
            make_classifier(checkpoint=name).fit(*map(list, reviews))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_without_access_is_refused(make_classifier, reviews, tmp_path, monkeypatch):
    def closed(real):
        def refuse(path, *arguments, **keywords):
            if str(path).startswith(str(tmp_path / "closed")):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path, *arguments, **keywords)

        return refuse

    for name in ("stat", "mkdir"):  # from Python 3.12 on, only the second is asked
        monkeypatch.setattr(os, name, closed(getattr(os, name)))
    with pytest.raises(InputError, match=r"checkpoint=.*that can be written to \(.*Permission denied"):
        make_classifier(checkpoint=tmp_path / "closed" / "fit").fit(*map(list, reviews))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(make_classifier, reviews, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"checkpoint=.*not a folder that can be written to"):
            make_classifier(checkpoint=tmp_path).fit(*map(list, reviews))
    finally:
        tmp_path.chmod(0o700)


def test_no_space_is_named_before_the_first_step(a_case, tmp_path, monkeypatch):
    """The system refuses to write files of more than 10 kB; then the disk has no room for a second file."""
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    model = watched(parameters)
    with files_of_at_most(10_000) as limit:
        limit()
        with pytest.raises(InputError, match=r"state of the fit cannot be written to checkpoint=.*large"):
            fit(model, **keywords)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(InputError, match=r"on a disk with 0 MB left.*twice that while it is replaced"):
        fit(model, **keywords)
    assert model.counter.steps == 0
    assert not (tmp_path / "fit").exists()


def test_a_disk_that_fills_up_later_does_not_end_the_fit(a_case, tmp_path, monkeypatch):
    write_after_every_step(monkeypatch)
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    with (
        files_of_at_most(10_000) as fill,
        pytest.warns(SkbertWarning, match=r"could not be written to its checkpoint .*continues"),
    ):
        model = fit(watched(parameters, StepCounter(3, fill)), **keywords)
    assert_same(model, expected)


def forbid_to_remove_the_state(monkeypatch):
    """Have the system refuse it, as a disk that has become read-only does."""
    real = os.unlink

    def refuse(path, *arguments, **keywords):
        if Path(path).name == FILE:
            raise OSError(30, "Read-only file system", os.fspath(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "unlink", refuse)


def test_a_state_that_cannot_be_removed_does_not_end_the_fit(a_case, tmp_path, monkeypatch):
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    with monkeypatch.context() as patch:
        forbid_to_remove_the_state(patch)
        with pytest.warns(SkbertWarning, match=r"has ended.*Read-only file system.*Delete '.*'") as caught:
            model = fit(watched(parameters), **keywords)
    assert any(str(tmp_path / "fit" / FILE) in str(warning.message) for warning in caught)
    assert_same(model, expected)
    assert os.listdir(tmp_path / "fit") == [FILE]
    assert_same(fit(watched(parameters), **keywords), expected)
    assert not (tmp_path / "fit").exists()


def test_a_fit_that_became_nan_says_so_on_a_read_only_disk_too(a_case, tmp_path, monkeypatch):
    parameters, keywords = a_case("plain", learning_rate=1e30, weight_decay=1e3, checkpoint=tmp_path / "fit")
    forbid_to_remove_the_state(monkeypatch)
    with (
        pytest.warns(SkbertWarning, match="could not be removed"),
        pytest.raises(NonFiniteLossError),
    ):
        fit(watched(parameters), **keywords)


class Removed(StepCounter):
    """Has something done after the third step, and notes whether there is a state after the sixth."""

    def __init__(self, action, file):
        super().__init__(3, action)
        self.file, self.is_back = file, None

    def step(self, n_texts, loss, learning_rate):
        super().step(n_texts, loss, learning_rate)
        if self.steps == 6:
            self.is_back = self.file.is_file()


@pytest.mark.parametrize("what", ["folder", FILE, "unfinished-fit.lock"])
def test_what_is_removed_meanwhile_is_made_again(a_case, tmp_path, monkeypatch, what):
    write_after_every_step(monkeypatch)
    folder = tmp_path / "fit"
    parameters, keywords = a_case("plain", checkpoint=folder)
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    remove = (lambda: shutil.rmtree(folder)) if what == "folder" else (folder / what).unlink
    model = watched(parameters, Removed(remove, folder / FILE))
    assert_same(fit(model, **keywords), expected)
    assert model.counter.is_back
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_became_a_folder_does_not_end_the_fit(a_case, tmp_path, monkeypatch):
    write_after_every_step(monkeypatch)
    file = tmp_path / "fit" / FILE
    parameters, keywords = a_case("plain", checkpoint=file.parent)

    def put_a_folder_there():
        file.unlink()
        file.mkdir()

    with pytest.warns(SkbertWarning) as caught:
        model = fit(watched(parameters, StepCounter(3, put_a_folder_there)), **keywords)
    said = [str(warning.message) for warning in caught if "checkpoint" in str(warning.message)]
    assert len(said) > 2
    assert all("exists and is not a file. Give" in message for message in said[:-1])
    assert "could not be removed" in said[-1]
    assert_same(model, fit(watched(parameters | {"checkpoint": None}), **keywords))


def test_a_state_that_was_removed_and_cannot_be_written_again(a_case, tmp_path, monkeypatch):
    """The disk is full by then."""
    write_after_every_step(monkeypatch)
    folder = tmp_path / "fit"
    parameters, keywords = a_case("plain", checkpoint=folder)
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    with files_of_at_most(10_000) as fill:
        remove = lambda: (shutil.rmtree(folder), fill())  # noqa: E731
        with pytest.warns(SkbertWarning, match=r"could not be written to its checkpoint .*still there"):
            model = fit(watched(parameters, StepCounter(3, remove)), **keywords)
    assert_same(model, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_and_taken_by_another_fit_is_left_to_it(a_case, tmp_path, monkeypatch):
    write_after_every_step(monkeypatch)
    folder = tmp_path / "fit"
    parameters, keywords = a_case("plain", checkpoint=folder)
    expected = fit(watched(parameters | {"checkpoint": None}), **keywords)
    begun, first_has_ended, found = threading.Event(), threading.Event(), []

    def wait():
        begun.set()
        assert first_has_ended.wait(timeout=60)
        found.extend(os.listdir(folder))

    other = watched(parameters | {"random_state": 1}, StepCounter(2, wait))
    thread = threading.Thread(target=lambda: fit(other, **keywords))

    def give_way():
        shutil.rmtree(folder)
        thread.start()
        assert begun.wait(timeout=60)

    with pytest.warns(SkbertWarning, match=r"could not be written to its checkpoint .*lock"):
        model = fit(watched(parameters, StepCounter(3, give_way)), **keywords)
    first_has_ended.set()
    thread.join()
    assert {FILE, "unfinished-fit.lock"} <= set(found)
    assert_same(model, expected)
    assert_same(other, fit(watched(parameters | {"random_state": 1, "checkpoint": None}), **keywords))
    assert not folder.exists()


def test_a_folder_is_for_one_fit_at_a_time(a_case, tmp_path):
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    refused = []

    def another():
        with pytest.raises(InputError, match="in use by another fit") as caught:
            fit(watched(parameters), **keywords)
        refused.append(caught.value)

    def meanwhile():
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    first = fit(watched(parameters, StepCounter(3, meanwhile)), **keywords)
    assert len(refused) == 1
    assert_same(first, fit(watched(parameters | {"checkpoint": None}), **keywords))


# scikit-learn's ways


def test_a_search_one_fit_after_the_other(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    grid = {"batch_size": [6, 8]}
    kept = GridSearchCV(make_classifier(checkpoint=tmp_path / "fit"), grid, cv=2).fit(texts, labels)
    plain = GridSearchCV(make_classifier(), grid, cv=2).fit(texts, labels)
    assert not (tmp_path / "fit").exists()
    np.testing.assert_array_equal(kept.predict_proba(texts), plain.predict_proba(texts))
    assert clone(kept.best_estimator_).checkpoint == tmp_path / "fit"


def test_the_state_is_no_part_of_the_fitted_estimator(make_classifier, reviews, tmp_path):
    texts, labels = map(list, reviews)
    kept = make_classifier(checkpoint=tmp_path / "fit").fit(texts, labels)
    plain = make_classifier().fit(texts, labels)
    assert set(vars(kept)) == set(vars(plain))
    kept.save(tmp_path / "model")
    loaded = type(kept).load(tmp_path / "model")
    assert loaded.checkpoint == tmp_path / "fit"
    np.testing.assert_array_equal(loaded.predict_proba(texts), plain.predict_proba(texts))


@pytest.mark.parametrize("where", ["checkpoint", "memory"])
def test_a_time_limit_is_no_full_disk(where, make_classifier, reviews, tmp_path, monkeypatch):
    """A handler of SIGALRM usually raises TimeoutError, which is an OSError."""

    def limit(descriptor):
        raise TimeoutError("my time limit")

    monkeypatch.setattr(os, "fsync", limit)
    classifier = make_classifier(freeze="encoder", **{where: tmp_path / "folder"})
    with pytest.raises(TimeoutError, match="my time limit"):
        classifier.fit(*map(list, reviews))
    assert not hasattr(classifier, "model_")


def test_texts_that_are_cut_elsewhere_are_others(left):
    _, parameters, keywords = left
    X = keywords["X"]
    moved = [X[0] + X[1][:3], X[1][3:], *X[2:]]
    with pytest.raises(InputError, match=r"not this one: X differs\. To"):
        fit(watched(parameters), **(keywords | {"X": moved}))


def test_other_determinism_is_refused_by_name(left):
    _, parameters, keywords = left
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(InputError, match=r"deterministic_algorithms_enabled\(\) was False and is True"):
            fit(watched(parameters), **keywords)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("value", "equal"),
    [
        ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}),
        (0.1, np.float64(0.1)),
        (3, np.int64(3)),
        ("a", np.str_("a")),
        (True, np.True_),
        ({"x", "y"}, {"y", "x"}),
    ],
)
def test_equal_values_of_a_parameter_are_one(value, equal):
    assert identity.canonical(value) == identity.canonical(equal)


def test_room_for_one_more_state_is_enough(a_case, tmp_path, monkeypatch):
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=(tmp_path / "fit" / FILE).stat().st_size)
    )
    assert fit(watched(parameters), **keywords).n_iter_ == 3


def test_a_time_limit_is_no_folder_that_cannot_be_written_to(a_case, tmp_path, monkeypatch):
    def expire(folder):
        raise TimeoutError("my limit")

    monkeypatch.setattr("skbert.persistence.unfinished.FitFolder.open", expire)
    parameters, keywords = a_case("plain", checkpoint=tmp_path / "fit")
    with pytest.raises(TimeoutError, match="my limit"):
        fit(watched(parameters), **keywords)


def test_a_file_of_another_format_is_refused(left):
    folder, parameters, keywords = left
    arrays, metadata, _ = tensorfile.read(folder / FILE)
    content = json.loads(metadata["skbert-fit"]) | {"format": 2}
    with (folder / FILE).open("wb") as file:
        tensorfile.write(file, arrays, tensorfile.sealed("skbert-fit", content))
    with pytest.raises(PersistenceError, match="format 2 of another version"):
        fit(watched(parameters), **keywords)


_calls = []


def falling(estimator, X, y):
    """A score that is best in the first epoch."""
    _calls.append(estimator)
    return -len(_calls)


def test_an_earlier_best_epoch_comes_back(a_case, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_SHARE", 0)
    parameters, keywords = a_case("best epoch")
    parameters["scoring"] = falling
    _calls.clear()
    expected = fit(watched(parameters), **keywords).model_.state_dict()
    parameters["checkpoint"] = tmp_path / "fit"
    _calls.clear()
    interrupted(parameters, keywords, at=7)
    weights = fit(watched(parameters), **keywords).model_.state_dict()
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight), name


def test_the_scale_of_the_loss_comes_back(a_case, tmp_path, monkeypatch):
    parameters, keywords = a_case("float16", checkpoint=tmp_path / "fit")
    interrupted(parameters, keywords)
    content, arrays = state_in(tmp_path / "fit")
    content["values"]["loss_scale"] |= {"scale": 128.0}
    with (tmp_path / "fit" / FILE).open("wb") as file:
        tensorfile.write(file, arrays, tensorfile.sealed("skbert-fit", content))
    seen, restore = [], resume.restore

    def watching(trainer, *state):
        restore(trainer, *state)
        seen.append(trainer.optimizer.scaler.get_scale())

    monkeypatch.setattr(resume, "restore", watching)
    fit(watched(parameters), **keywords)
    assert seen == [128.0]
