"""The safetensors format: what the safetensors package reads, read more strictly, replaced atomically."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors.numpy import load_file, save_file

from skbert import PersistenceError
from skbert.persistence import tensorfile

ARRAYS = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "__metadata__"),
    st.sampled_from(["f8", ">f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]).flatmap(
        lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=4,
)


def written(path, arrays, metadata=None):
    with open(path, "wb") as file:
        tensorfile.write(file, arrays, metadata or {})
    return path


@given(ARRAYS, st.dictionaries(st.text(), st.text(), max_size=3))
def test_arrays_come_back(tmp_path_factory, arrays, metadata):
    path = written(tmp_path_factory.getbasetemp() / "arrays", arrays, metadata)
    found, found_metadata, size = tensorfile.read(path)
    assert found_metadata == metadata
    assert size == path.stat().st_size
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].astype(array.dtype).tobytes() == array.tobytes()
        assert found[name].flags.writeable


def test_the_safetensors_package_reads_and_is_read(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.float32([1.5]),
        "c": np.array([True]),
        "d": np.int16(3),
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for source, reader in (
        (written(tmp_path / "ours", arrays, {"key": "value"}), load_file),
        (tmp_path / "theirs", lambda path: tensorfile.read(path)[0]),
    ):
        if not source.exists():
            save_file(arrays, source, metadata={"key": "value"})
        found = reader(source)
        assert {n: (a.dtype, a.tolist()) for n, a in found.items()} == {
            n: (a.dtype, a.tolist()) for n, a in arrays.items()
        }


def test_the_same_content_gives_the_same_bytes(tmp_path):
    arrays = {"b": np.float32([1]), "a": np.float64([2])}
    turned = dict(reversed(arrays.items()))
    assert written(tmp_path / "1", arrays).read_bytes() == written(tmp_path / "2", turned).read_bytes()


def raw(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


REFUSED = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(b"1234567"),
    "text": lambda path: path.write_text("a file that is none of ours, but long enough to have a header"),
    "header longer than the file": lambda path: path.write_bytes((50).to_bytes(8, "little") + b"{}"),
    "header of any length": lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
    "header that is no JSON": lambda path: raw(path, b"{"),
    "header that is no UTF-8": lambda path: raw(path, b'{"\xff": 1}'),
    "header that is a list": lambda path: raw(path, []),
    "header of depth": lambda path: raw(path, b"[" * 100_000),
    "header with a huge number": lambda path: raw(path, b'{"a": ' + b"1" * 5000 + b"}"),
    "header with NaN": lambda path: raw(path, b'{"a": NaN}'),
    "metadata that are no str": lambda path: raw(path, {"__metadata__": {"a": 1}}),
    "metadata that are a list": lambda path: raw(path, {"__metadata__": ["a"]}),
    "entry that is none": lambda path: raw(path, {"a": 1}, bytes(8)),
    "entry with more": lambda path: raw(path, {"a": entry() | {"more": 1}}, bytes(8)),
    "unknown dtype": lambda path: raw(path, {"a": entry("O8")}, bytes(8)),
    "dtype that is a list": lambda path: raw(path, {"a": entry(["F32"])}, bytes(8)),
    "negative size": lambda path: raw(path, {"a": entry(shape=[-2])}, bytes(8)),
    "size that is true": lambda path: raw(path, {"a": entry("U8", [True], [0, 1])}, bytes(1)),
    "size that is a float": lambda path: raw(path, {"a": entry(shape=[2.0])}, bytes(8)),
    "size of another array": lambda path: raw(path, {"a": entry(shape=[3])}, bytes(8)),
    "huge size": lambda path: raw(path, {"a": entry(shape=[10**15], offsets=[0, 4 * 10**15])}, bytes(8)),
    "huge size times zero": lambda path: raw(path, {"a": entry(shape=[0, 10**30], offsets=[0, 0])}),
    "large sizes times zero": lambda path: raw(path, {"a": entry(shape=[0, *[2**39] * 7], offsets=[0, 0])}),
    "many dimensions": lambda path: raw(path, {"a": entry(shape=[1] * 100, offsets=[0, 4])}, bytes(4)),
    "three offsets": lambda path: raw(path, {"a": entry(offsets=[0, 4, 8])}, bytes(8)),
    "offsets the wrong way": lambda path: raw(path, {"a": entry(offsets=[8, 0])}, bytes(8)),
    "overlap": lambda path: raw(path, {"a": entry(), "b": entry()}, bytes(8)),
    "gap": lambda path: raw(path, {"a": entry(), "b": entry(offsets=[16, 24])}, bytes(24)),
    "surplus bytes": lambda path: raw(path, {"a": entry()}, bytes(9)),
    "missing bytes": lambda path: raw(path, {"a": entry()}, bytes(7)),
    "name twice": lambda path: raw(
        path, b'{"a":%b,"a":%b}' % (2 * (json.dumps(entry("U8", [1], [0, 1])).encode(),)), bytes(1)
    ),
    "metadata twice": lambda path: raw(path, b'{"__metadata__":{"a":"b","a":"c"}}'),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_file_is_refused(tmp_path, case):
    if case == "pipe" and not hasattr(os, "mkfifo"):
        REFUSED["folder"](tmp_path / "file")
    else:
        REFUSED[case](tmp_path / "file")
    with pytest.raises(PersistenceError, match=r"file' is not a (whole safetensors )?file"):
        tensorfile.read(tmp_path / "file")


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_or_read(tmp_path_factory, content, with_length):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes((len(content).to_bytes(8, "little") if with_length else b"") + content)
    try:
        tensorfile.read(path)
    except PersistenceError:
        return


def test_a_short_file_is_not_taken_for_a_pickle(tmp_path):
    """640 bytes of header begin as a pickle does."""
    (tmp_path / "file").write_bytes((640).to_bytes(8, "little") + b"{")
    with pytest.raises(PersistenceError, match="its header is said to be 640 bytes long"):
        tensorfile.read(tmp_path / "file")


def test_a_header_that_no_reader_takes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "MAX_HEADER", 1000)
    with pytest.raises(PersistenceError, match="The header would be"):
        tensorfile.replace_file(tmp_path / "x", lambda file: tensorfile.write(file, {}, {"a": "b" * 1000}))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_dtypes_are_not_written(tmp_path):
    with pytest.raises(PersistenceError, match="complex64"):
        written(tmp_path / "x", {"a": np.zeros(2, dtype=np.complex64)})


# Replacing


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    for umask in (0o022, 0o027, 0o077):
        before = os.umask(umask)
        try:
            (tmp_path / "plain").write_bytes(b"")
            tensorfile.replace_file(tmp_path / "ours", lambda file: file.write(b"content"))
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
        tensorfile.replace_file(path, write)
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
            tensorfile.replace_file(tmp_path / "file", lambda file: file.write(b"new"))
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
        tensorfile.replace_file(tmp_path / "file", write)


def test_links_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    link.symlink_to(file)
    tensorfile.replace_file(link, lambda opened: opened.write(b"content"))
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
        tensorfile.replace_file(tmp_path / "there", lambda file: file.write(b"content"))
    assert not (tmp_path / "there").is_file()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.file'$"):  # and not the temporary file's name
        tensorfile.replace_file(tmp_path / "nowhere" / "file", lambda file: None)


def test_killed_while_writing(tmp_path):
    """SIGKILL at any moment leaves one of the two contents, whole."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    path.write_bytes(contents[0])
    code = (
        "import sys; from skbert.persistence import tensorfile\n"
        "contents = [bytes([number]) * 300_000 for number in (1, 2)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for content in contents:\n"
        "        tensorfile.replace_file(sys.argv[1], lambda file: file.write(content))\n"
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
