"""Where files come from: folders, the hub's cache, the embedded copy, and no hub at all."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skbert import CheckpointError
from skbert.pretrained import sources


def test_a_path_is_a_folder(tiny_bert):
    assert sources.locate(tiny_bert) == Path(tiny_bert)
    assert sources.locate(Path(tiny_bert)) == Path(tiny_bert)


def test_a_relative_path_object_is_a_folder(tiny_bert, monkeypatch):
    monkeypatch.chdir(Path(tiny_bert).parent)
    assert sources.locate(Path(Path(tiny_bert).name)) == Path(Path(tiny_bert).name)
    assert sources.locate("./" + Path(tiny_bert).name) == Path(Path(tiny_bert).name)


def test_a_nested_folder_without_a_path_is_hinted_at():
    with pytest.raises(CheckpointError, match=r"If it is a folder, write '\./models/bert/run1'"):
        sources.locate("models/bert/run1")


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "~/nothing-here", Path("nothing")])
def test_a_missing_folder_is_named(path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        sources.locate(path)


def test_a_folder_does_not_shadow_a_hub_name(tiny_bert, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, tmp_path / "bert-base-uncased")
    with pytest.raises(CheckpointError, match=r"^There is a folder .* write '\./bert-base-uncased'\."):
        sources.locate("bert-base-uncased")


def test_an_invalid_name():
    with pytest.raises(CheckpointError, match="not a valid hub name"):
        sources.locate("what is this?")


def test_the_embedded_copy_is_the_hubs_own_weights():
    folder = sources.embedded_folder()
    assert folder is not None, "the tests need the extra skbert[offline]"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == sources.DEFAULT_SHA256
    assert sources.locate(sources.DEFAULT_CHECKPOINT) == folder
    assert sources._EMBEDDED_PACKAGE not in sys.modules


def test_a_revision_is_never_answered_with_the_embedded_copy():
    with pytest.raises(CheckpointError):
        sources.locate(sources.DEFAULT_CHECKPOINT, "some-revision")


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_tampered_embedded_copy_is_not_used(tmp_path):
    package = tmp_path / sources._EMBEDDED_PACKAGE / "model"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('code of the package was run')")
    (package / "model.safetensors").write_bytes(b"other weights")
    code = "from skbert.pretrained import sources; sources.locate(sources.DEFAULT_CHECKPOINT)"
    result = run(code, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert "skbert[offline]" in result.stderr
    assert "CheckpointError" in result.stderr


def test_the_embedded_copy_is_no_remedy_where_a_revision_is_asked_for():
    with pytest.raises(CheckpointError, match=r"with revision='main' is not in the hub cache") as caught:
        sources.locate(sources.DEFAULT_CHECKPOINT, "main")
    assert "offline]" not in str(caught.value)


def test_a_name_in_the_hubs_cache_needs_no_connection(tiny_bert, tmp_path):
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_bert, snapshot)
    refs = tmp_path / "hub" / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    code = "from skbert.pretrained import sources; print(sources.locate('someone/tiny'))"
    for offline in ("0", "1"):
        result = run(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE=offline)
        assert result.stdout.strip() == str(snapshot), result.stderr
    pinned = "from skbert.pretrained import sources; print(sources.locate('someone/tiny', 'a' * 40))"
    assert run(pinned, HF_HOME=str(tmp_path)).stdout.strip() == str(snapshot)


def test_a_partial_snapshot_does_not_hide_the_embedded_copy(tmp_path):
    """Other libraries download weights and config of the default checkpoint, but not how it pools."""
    folder = sources.embedded_folder()
    name = "models--" + sources.DEFAULT_CHECKPOINT.replace("/", "--")
    snapshot = tmp_path / "hub" / name / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / file).symlink_to(folder / file)
    refs = tmp_path / "hub" / name / "refs"
    refs.mkdir()
    (refs / "main").write_text("b" * 40)
    code = "from skbert.pretrained import sources; print(sources.locate(sources.DEFAULT_CHECKPOINT))"
    result = run(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert result.stdout.strip() == str(folder), result.stderr


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"is a file.* read by load\(path\)"):
        sources.locate(tmp_path / "model.safetensors")


def test_a_folder_has_no_revision(tiny_bert):
    with pytest.raises(CheckpointError, match=r"revision='v9', but model=.* is a folder"):
        sources.locate(tiny_bert, "v9")


def test_the_default_without_its_owner_is_named_whole():
    with pytest.raises(CheckpointError, match=r"^Did you mean 'sentence-transformers/all-MiniLM-L6-v2'"):
        sources.locate("all-MiniLM-L6-v2")


def test_a_revision_that_is_not_there_needs_not_be_named():
    with pytest.raises(
        CheckpointError, match=r"^Without a revision the default checkpoint that is installed"
    ):
        sources.locate(sources.DEFAULT_CHECKPOINT, "main")


def test_offline_an_uncached_name_says_how_to_get_the_weights():
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE.*pass its folder"):
        sources.locate("someone/unknown")
