"""No call leaves a trace: not in the process, not on the screen, not on the disk."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skbert import BertClassifier

SCRIPT = Path(__file__).with_name("every_call.py")


@pytest.fixture(scope="module", params=["unusual", pytest.param("usual", marks=pytest.mark.slow)])
def run(request, tiny_bert, tmp_path_factory):
    """Make every call in a process of its own; returns it, what it reported, and its folders."""
    base = tmp_path_factory.mktemp(request.param)
    folders = {name: base / name for name in ("asked", "home", "temporary", "working", "cache")}
    for folder in folders.values():
        folder.mkdir()
    report = base / "report.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
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
    assert written == {"home": [], "temporary": [], "working": [], "cache": []}
    assert [name for name in asked if not name.startswith(("encoder/", "pretrained/", "memory/"))] == [
        "changes",
        "damaged",
        "encoder",
        "memory",
        "model.joblib",
        "model.safetensors",
        "pretrained",
    ]


def test_settings_of_the_process_change_no_result(run, make_classifier):
    """The same fit, here: torch's default dtype, its gradient mode and all else are as usual."""
    from every_call import LABELS, TEXTS, Calls

    classifier = make_classifier(**Calls(make_classifier().model, ".").make().get_params()).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(run[1]["answers"], classifier.predict_proba(TEXTS).tolist())
