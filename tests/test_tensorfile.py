"""The safetensors format: what the safetensors package reads, read more strictly."""

from __future__ import annotations

import hashlib
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors.numpy import load_file, save_file

from skbert import PersistenceError
from skbert.persistence import tensorfile
from skbert.persistence.replacing import replace_file

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
    with pytest.raises(PersistenceError, match=r"^(it|its|the|an) "):
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
        replace_file(tmp_path / "x", lambda file: tensorfile.write(file, {}, {"a": "b" * 1000}))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_dtypes_are_not_written(tmp_path):
    with pytest.raises(PersistenceError, match="complex64"):
        written(tmp_path / "x", {"a": np.zeros(2, dtype=np.complex64)})


def test_metadata_that_no_encoding_has_are_refused(tmp_path):
    """JSON may hold half of a surrogate pair, with the right checksum of it or a wrong one."""
    right = hashlib.sha256('"\ud800"'.encode("utf-8", "surrogatepass")).hexdigest()
    for checksum in (right, "x"):
        metadata = {"kind": '"\ud800"', "sha256": checksum}
        header = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header)
        found = tensorfile.read(tmp_path / "file")[1]
        assert found == metadata
        with pytest.raises(PersistenceError, match=r"not JSON|do not match their checksum"):
            tensorfile.unsealed("kind", found)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: entry(shape=[1]), "are not where they should be"),
        (lambda: entry("U8", [2**39], [0, 2**39]), "its arrays take"),
        (lambda: entry(shape=[1] * 8 + [2]), "the shape of 'a' is not valid"),
    ],
    ids=["smaller", "larger than the file", "of nine dimensions"],
)
def test_shapes_that_do_not_fit_their_bytes(tensor, message, tmp_path):
    with pytest.raises(PersistenceError, match=message):
        tensorfile.read(raw(tmp_path / "file", {"a": tensor()}, bytes(8)))


def test_a_header_of_more_than_is_allowed(tmp_path, monkeypatch):
    path = raw(tmp_path / "file", b"{}" + b" " * 20)
    monkeypatch.setattr(tensorfile, "MAX_HEADER", 20)
    with pytest.raises(PersistenceError, match="more than the 20 allowed"):
        tensorfile.read(path)


def test_infinity_only_where_it_may_be():
    sealed = tensorfile.sealed("kind", {"a": math.inf})
    assert tensorfile.unsealed("kind", sealed, infinite=True) == {"a": math.inf}
    with pytest.raises(PersistenceError, match="holds Infinity"):
        tensorfile.unsealed("kind", sealed)


def test_some_arrays_of_a_file(tmp_path):
    arrays = {"a": np.float64([1, 2]), "b": np.float32([3]), "c": np.int8([4])}
    found = tensorfile.read(written(tmp_path / "file", arrays), {"b", "c"})[0]
    assert {name: values.tolist() for name, values in found.items()} == {"b": [3], "c": [4]}
