"""No call leaves a trace: not in the process, not on the screen, not on the disk."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from skbert import BertClassifier
from skbert.pretrained import checkpoints

SCRIPT = Path(__file__).with_name("every_call.py")


@pytest.fixture(scope="module", params=["unusual", pytest.param("usual", marks=pytest.mark.slow)])
def run(request, tiny_bert, tmp_path_factory):
    """Make every call in a process of its own; returns it, what it reported, and its folders."""
    base = tmp_path_factory.mktemp(request.param)
    folders = {name: base / name for name in ("asked", "home", "temporary", "working", "cache")}
    for folder in folders.values():
        folder.mkdir()
    report = base / "report.json"
    own = ("HF_", "XDG_", "TORCHINDUCTOR_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folders["home"]),
        "XDG_CACHE_HOME": str(folders["cache"]),
        "TMPDIR": str(folders["temporary"]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(SCRIPT.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, tiny_bert, folders["asked"], report, request.param],
        capture_output=True,
        text=True,
        check=False,
        cwd=folders["working"],
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(report.read_text()), folders


def test_nothing_of_the_process_has_changed_after_any_call(run):
    assert run[1]["changed"] == {}


def test_every_public_method_was_called(run):
    public = {name for name, _ in inspect.getmembers(BertClassifier, callable) if not name.startswith("_")}
    # Of scikit-learn alone: they set or return what routing, callbacks and tags need.
    public -= {name for name in public if name.startswith("set_") and name.endswith("_request")}
    public -= {"set_callbacks", "get_metadata_routing", "fit_transform"}
    called = {name.partition(":")[0].split(" ")[0].strip(",") for name in run[1]["made"]}
    assert public <= called


def test_nothing_is_said(run):
    assert (run[0].stdout, run[0].stderr) == ("", "")


def test_no_file_is_written_unless_asked(run):
    written = {name: sorted(str(p.relative_to(f)) for p in f.rglob("*")) for name, f in run[2].items()}
    asked = written.pop("asked")
    # torch's compiler makes an empty folder when transformers imports it.
    written["temporary"] = [name for name in written["temporary"] if not name.startswith("torchinductor_")]
    assert written == {"home": [], "temporary": [], "working": [], "cache": []}
    inside = ("encoder/", "numbers/", "pretrained/", "memory/")
    assert [name for name in asked if not name.startswith(inside)] == [
        "changes",
        "damaged",
        "encoder",
        "memory",
        "model.joblib",
        "model.safetensors",
        "numbers",
        "numbers.safetensors",
        "pretrained",
    ]


def test_settings_of_the_process_change_no_result(run, make_classifier):
    """The same fit, here: torch's default dtype, its gradient mode and all else are as usual."""
    from every_call import LABELS, TEXTS, Calls

    classifier = make_classifier(**Calls(make_classifier().model, ".").make().get_params()).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(run[1]["answers"], classifier.predict_proba(TEXTS).tolist())


class Interrupt:
    """Ctrl-C where the exit number `at` begins that is written in Python: there, too, signals are handled.

    Locks of `threading` are left out: one that is not left is held for good, and transformers has threads.
    """

    EXITS = ("__exit__", "_close", "put_back")

    def __init__(self, at):
        self.left, self.where = at, None

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def __call__(self, frame, event, _):
        if self.where is not None or event != "call" or frame.f_code.co_name not in self.EXITS:
            return
        if frame.f_globals["__name__"].partition(".")[0] in ("contextlib", "torch", "skbert"):
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno}"
                raise KeyboardInterrupt


def everything():
    """What `every_call` looks at, and what torch keeps of this thread besides."""
    from every_call import state

    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]
    if modes:  # there, some of the rest cannot be asked
        return {"modes": modes}
    before = torch.get_rng_state()
    torch.rand(1)
    drawn = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    found = state() | {"modes": modes, "draws from the global generator": drawn}
    del found["running threads"]  # those that transformers reads weights in take a moment to end
    return found | {"current device": torch.utils._device.CURRENT_DEVICE}


CALLS = {
    "load": lambda fitted, folder: BertClassifier.load(folder / "model"),
    "from_pretrained": lambda fitted, folder: BertClassifier.from_pretrained(folder / "pretrained"),
    "save_pretrained": lambda fitted, folder: fitted.save_pretrained(folder / "again"),
    "save_encoder": lambda fitted, folder: fitted.save_encoder(folder / "encoder"),
    "pickle": lambda fitted, folder: pickle.loads(pickle.dumps(fitted)),
    "pickle of the model": lambda fitted, folder: pickle.loads(pickle.dumps(fitted.model_)),
    "deepcopy": lambda fitted, folder: copy.deepcopy(fitted.model_),
    "checkpoint": lambda fitted, folder: (checkpoints._loaded.clear(), checkpoints.load(fitted.model)),
    "predict": lambda fitted, folder: fitted.predict(["good", "bad"]),
}


@pytest.fixture
def small_heap():
    """Let collections look at what a test makes, and not at all that there is."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, nullcontext) for name in CALLS), ("predict", torch.no_grad), ("predict", torch.inference_mode)],
)
def test_an_interrupt_at_any_exit_is_one_and_leaves_nothing(name, mode, make_classifier, reviews, tmp_path):
    """Neither while the exception is kept, as an interactive session keeps the latest, nor afterwards."""
    fitted = make_classifier(epochs=1).fit(*reviews)
    fitted.save(tmp_path / "model")
    fitted.save_pretrained(tmp_path / "pretrained")
    CALLS[name](fitted, tmp_path)  # all is imported
    with mode():
        before = everything()
        with Interrupt(0) as counting:
            CALLS[name](fitted, tmp_path)
        exits = -counting.left
        # Those of skbert are among the last; before them come many of torch's that are alike.
        for at in sorted({*range(1, exits, exits // 8 + 1), *range(max(1, exits - 12), exits + 1)}):
            with Interrupt(at) as interrupt:
                try:
                    CALLS[name](fitted, tmp_path)
                except BaseException as error:
                    came = error
            assert everything() == before, f"while it is kept: {interrupt.where}"
            assert type(came) is KeyboardInterrupt, interrupt.where
            came = None
            if name == "predict":
                gc.collect()  # of what the traceback held
            assert everything() == before, interrupt.where
