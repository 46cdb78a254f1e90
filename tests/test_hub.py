"""Checkpoints from the hub, here one on this machine: downloaded once, whole, and without a word."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import COMMIT, LocalHub

NAME = "someone/tiny"
LOCATE = "from skbert.pretrained import sources; print(sources.locate({}))"
POOLING = """
from skbert.pretrained import sources
folder = sources.locate("someone/tiny")
print((folder / "1_Pooling" / "config.json").is_file())
"""
FIT = """
from skbert import BertClassifier
model = BertClassifier("someone/tiny", epochs=1, max_length=32, random_state=0)
model.fit(["good", "bad"] * 8, [1, 0] * 8)
print(model.model_.pooling)
"""
REFUSED = """
from skbert import CheckpointError
from skbert.pretrained import sources
try:
    sources.locate("someone/tiny")
except CheckpointError as error:
    print(error)
"""
# What transformers takes of it for itself.
TRANSFORMERS = """
from huggingface_hub import hf_hub_download
for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
    hf_hub_download("someone/tiny", file)
"""


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A checkpoint of sentence-transformers, with what skbert has no use for."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "tiny"))
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def hub(folder):
    with LocalHub({NAME: folder}) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Runs code in a process that knows the local hub only, warnings being errors; gives what it prints."""

    def run(code, **environment):
        hub.asked.clear()
        settings = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **settings, **environment},
        )
        if result.returncode:
            return result.stderr.strip().splitlines()[-1]
        assert result.stderr == ""
        return result.stdout.strip()

    return run


def test_it_is_downloaded_once_and_in_silence(run, hub):
    assert run(FIT) == "max"
    assert not any("pytorch_model.bin" in path for path in hub.asked)
    assert any("model.safetensors" in path for path in hub.asked)
    for named in (f"{NAME!r}", f"{NAME!r}, {COMMIT!r}"):
        for offline in "01":
            assert run(LOCATE.format(named), HF_HUB_OFFLINE=offline).endswith(COMMIT)
            assert not hub.asked


def test_what_the_hub_has_not_is_asked_for_once(run, hub, folder):
    shutil.rmtree(folder / "1_Pooling")
    (folder / "modules.json").unlink()
    assert run(POOLING) == "False"
    assert run(POOLING) == "False"
    assert not hub.asked


def test_what_another_library_left_out_is_fetched(run, hub):
    """transformers downloads no pooling; a fit would be another one on the next machine."""
    run(TRANSFORMERS)
    assert run(POOLING) == "True"
    assert not any("model.safetensors" in path for path in hub.asked if "1_Pooling" not in path)
    run(POOLING)
    assert not hub.asked


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_where_the_hub_is_out_of_reach_what_is_there_will_do(run, environment):
    run(TRANSFORMERS)
    assert run(POOLING, **environment) == "False"


def in_two_parts(folder):
    """Its weights, as large models have them."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize(
    "file", ["model-00002-of-00002.safetensors", "tokenizer.json", "1_Pooling/config.json"]
)
def test_a_download_that_breaks_off_is_gone_on_with(run, hub, folder, file):
    in_two_parts(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")  # which would do for a tokenizer
    hub.broken.add(file)
    assert "CheckpointError: model='someone/tiny' is not in the hub cache" in (said := run(POOLING))
    assert (
        "its download failed. Try again: what was downloaded so far is kept. The answer was: peer closed"
        in said
    )
    hub.broken.clear()
    assert run(POOLING) == "True"
    assert any(file in path for path in hub.asked)
    assert not any("model-00001-of" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (repr("someone/else"), "the hub has no model of that name, or it is private. Check the spelling"),
        (repr("someone/gated"), "the hub gives it only to users who have accepted its conditions"),
        (f"{NAME!r}, 'v2'", "with revision='v2' is not in the hub cache"),
        (f"{NAME!r}, 'v2'", "the hub has no such revision of it"),
    ],
)
def test_what_the_hub_does_not_give_is_explained(run, hub, model, words):
    hub.folders["someone/gated"] = hub.folders[NAME]
    hub.gated.add("someone/gated")
    assert words in run(LOCATE.format(model))


def test_a_hub_that_does_not_answer_is_not_waited_for(run):
    run(TRANSFORMERS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert run(POOLING, HF_ENDPOINT=url, HF_HUB_ETAG_TIMEOUT="1") == "False"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read anywhere")
@pytest.mark.parametrize("place", ["", "hub", "hub/models--someone--tiny", "hub/models--someone--tiny/refs"])
def test_a_cache_that_may_not_be_read_is_named(place, run, tmp_path):
    """As one that another user has filled: it was called absent, and the hub out of reach."""
    run(LOCATE.format("'someone/tiny'"))
    blocked = tmp_path / "home" / place
    blocked.chmod(0)
    try:
        said = run(REFUSED, HF_HUB_OFFLINE="1")
    finally:
        blocked.chmod(0o755)
    assert f"this user may not read {blocked}" in said


def test_a_cache_that_is_no_folder_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    said = run(REFUSED, HF_HOME=str(tmp_path / "file"))
    assert "the cache cannot be read or written" in said
