"""Files that are replaced as a whole: errors, interrupts and kills, and what Windows refuses for a while."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from skbert import PersistenceError
from skbert.persistence import replacing
from skbert.persistence.replacing import replace_file


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    for umask in (0o022, 0o027, 0o077):
        before = os.umask(umask)
        try:
            (tmp_path / "plain").write_bytes(b"")
            replace_file(tmp_path / "ours", lambda file: file.write(b"content"))
        finally:
            os.umask(before)
        assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
        (tmp_path / "plain").unlink()


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, moment, error):
    def fail(*arguments):
        raise error

    def write(file):
        file.write(b"new")
        if moment == "write":
            raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    if moment != "write":
        monkeypatch.setattr(os, moment, fail)
    with pytest.raises(type(error)):
        replace_file(path, write)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Python closes what nobody has
def test_an_interrupt_while_the_file_is_made_leaves_nothing(tmp_path):
    """Ctrl-C raises when the call of the system returns: the file is there, and nobody has it yet."""
    made = []

    def interrupt(frame, event, call):
        if event == "c_return" and call in (open, os.open):
            made.extend(tmp_path.iterdir())
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    finally:
        sys.setprofile(None)
    assert len(made) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_is_told_where_nothing_can_be_removed_either(tmp_path, monkeypatch):
    def refuse(path, **keywords):
        raise OSError(30, "Read-only file system", path)

    def write(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        replace_file(tmp_path / "file", write)


def test_links_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    link.symlink_to(file)
    replace_file(link, lambda opened: opened.write(b"content"))
    assert link.is_symlink()
    assert file.read_bytes() == b"content"
    assert list((tmp_path / "folder").iterdir()) == [file]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_files_are_replaced(tmp_path, kind):
    if kind == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "there")
    else:
        (tmp_path / "there").mkdir()
    with pytest.raises(PersistenceError, match="is not a file"):
        replace_file(tmp_path / "there", lambda file: file.write(b"content"))
    assert not (tmp_path / "there").is_file()


@pytest.mark.parametrize("end", ["", ".", ".."])
def test_a_name_that_ends_as_a_folders_is_refused(end, tmp_path):
    with pytest.raises(PersistenceError, match=rf"models/{end}' names a folder\. Give the name of a file"):
        replace_file(f"{tmp_path}/models/{end}", lambda file: file.write(b"content"))
    assert not (tmp_path / "models").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    # And not the temporary file's name.
    with pytest.raises(FileNotFoundError, match=r"create its folder first: '.*nowhere.file'$"):
        replace_file(tmp_path / "nowhere" / "file", lambda file: None)


def test_killed_while_writing(tmp_path):
    """SIGKILL at any moment leaves one of the two contents, whole."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    path.write_bytes(contents[0])
    code = (
        "import sys; from skbert.persistence.replacing import replace_file\n"
        "contents = [bytes([number]) * 300_000 for number in (1, 2)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for content in contents:\n"
        "        replace_file(sys.argv[1], lambda file: file.write(content))\n"
    )
    delays = np.random.default_rng(0).uniform(0, 0.05, size=10)
    for delay in delays:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        )
        assert child.stdout.readline() == b"ready\n"
        time.sleep(delay)
        child.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        child.wait()
        child.stdout.close()
        assert path.read_bytes() in contents


@pytest.mark.parametrize("refusals", [2, 3])
def test_a_refusal_that_may_pass_is_waited_for(tmp_path, monkeypatch, refusals):
    """As on Windows, while another process reads or replaces the file."""
    tries, replace = [], os.replace

    def refuse(*names):
        tries.append(names)
        if len(tries) <= refusals:
            raise PermissionError(13, "Access is denied")
        replace(*names)

    monkeypatch.setattr(replacing, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(os, "replace", refuse)
    (tmp_path / "file").write_bytes(b"old")
    if refusals == 2:
        replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    else:
        with pytest.raises(PermissionError, match="Access is denied"):
            replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    assert len(tries) == 3
    assert (tmp_path / "file").read_bytes() == (b"new" if refusals == 2 else b"old")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folders")
def test_content_and_folder_are_synced(tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    replace_file(tmp_path / "file", lambda file: file.write(b"content"))
    assert synced == [((tmp_path / "file").stat().st_ino, 7), (tmp_path.stat().st_ino, None)]
