"""The store, the folder, and what a search shares: never a wrong hit, never over the limit."""

import math
import os
import shutil
import stat
import sys
import threading
import tracemalloc
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
from checkpoints import load_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from tokenizers import Tokenizer

import skbert
from skbert.caching import disk
from skbert.caching import store as store_module
from skbert.caching.cache import LOOK_UPS, Cache, digest, open_cache
from skbert.caching.disk import BlockFolder
from skbert.caching.store import STORE, Store
from skbert.data import tokenizing
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.frozen import row_keys
from skbert.persistence import replacing, tensorfile
from skbert.pretrained import checkpoints

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return load_tokenizer(tiny_bert)


def key(number):
    return digest(str(number).encode())


def block(*numbers):
    """Rows that hold their number as many times as it says."""
    lengths = np.array(numbers)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return [key(n) for n in numbers], np.repeat(lengths, lengths).astype(np.int32), offsets


def lists(rows):
    return [None if row is None else row.tolist() for row in rows]


# The store in memory.


def test_rows_are_found_by_space_and_key():
    store = Store()
    store.add("tokens-a", *block(3, 0, 2))
    assert lists(store.find("tokens-a", [key(2), key(0), key(7), key(3)])) == [[2, 2], [], None, [3, 3, 3]]
    assert lists(store.find("tokens-b", [key(2)])) == [None]
    assert (store.count("tokens"), store.count("states")) == (3, 0)


def test_every_row_of_a_large_block_is_its_own():
    n_rows = 20_000
    store, keys = Store(), [number.to_bytes(24, "little") for number in range(n_rows)]
    store.add("tokens-a", keys, np.arange(n_rows), np.arange(n_rows + 1))
    assert np.array_equal(np.concatenate(store.find("tokens-a", keys)), np.arange(n_rows))


def test_a_block_of_more_rows_than_there_are_numbers_for_is_not_kept(monkeypatch):
    monkeypatch.setattr(store_module, "_ROW_BITS", 4)
    store = Store()
    store.add("tokens-a", *block(*range(1, 21)))
    store.add("tokens-a", *block(*range(30, 36)))
    assert lists(store.find("tokens-a", [key(18), key(19)])) == [None, None]


def test_nobody_can_change_what_is_kept():
    store = Store()
    store.add("tokens-a", *block(3))
    with pytest.raises(ValueError, match="read-only"):
        store.find("tokens-a", [key(3)])[0][0] = 1


def test_what_was_used_longest_ago_goes_first():
    store = Store()
    for number in (1, 2, 3):
        store.add("tokens-a", *block(number))
    store.find("tokens-a", [key(1)])
    store.limit = store.info(None).currsize - 1
    assert lists(store.find("tokens-a", [key(n) for n in (1, 2, 3)])) == [[1], None, [3, 3, 3]]
    store.limit = 0
    assert store.info(None) == (0, 0, 0, 0)
    assert store.count("tokens") == 0


def test_more_than_the_limit_is_not_kept():
    store = Store(limit=1000)
    store.add("tokens-a", *block(2))
    store.add("tokens-a", *block(1000))
    assert lists(store.find("tokens-a", [key(2), key(1000)])) == [[2, 2], None]
    assert store.info(None).currsize <= 1000


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True), max_size=30), st.data())
def test_the_limit_holds_and_every_row_is_its_own(blocks, data):
    """Blocks that overlap, in any order, under any limit: a row is right or is not there."""
    store = Store(limit=data.draw(st.integers(0, 5000)))
    for numbers in blocks:
        store.add("tokens-a", *block(*numbers))
        assert store.info(None).currsize <= store.limit
        asked = data.draw(st.lists(st.integers(0, 35), max_size=6))
        for number, row in zip(asked, store.find("tokens-a", [key(n) for n in asked]), strict=True):
            assert row is None or row.tolist() == [number] * number
    store.limit = 0
    assert store._places == {}
    assert store.info(None).currsize == 0


@pytest.mark.parametrize(("n_rows", "a_row"), [(1, 800), (8, 320), (1000, 250)])
def test_the_size_that_is_told_is_the_size_there_is(n_rows, a_row):
    """What a short text costs, with its key, its place and its block; the limit is one of real bytes."""
    store = Store(limit=2**40)
    tracemalloc.start()
    for start in range(0, 20_000, n_rows):
        keys = [key(n) for n in range(start, start + n_rows)]
        store.add("tokens-a", keys, np.zeros(10 * n_rows, np.int32), np.arange(0, 10 * n_rows + 1, 10))
        del keys
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.8 * taken < store.info(None).currsize < 1.25 * taken
    assert taken / 20_000 < a_row  # 40 of them are the tokens


def test_threads_share_it():
    store = Store(limit=20_000)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            numbers = rng.choice(60, 5, replace=False).tolist()
            store.add("tokens-a", *block(*numbers))
            for number, row in zip(numbers, store.find("tokens-a", [key(n) for n in numbers]), strict=True):
                if row is not None and row.tolist() != [number] * number:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.info(None).currsize <= 20_000


@contextmanager
def interrupt_at(number):
    """Raise KeyboardInterrupt before a line of store.py, of those that run in here; yield the lines so far.

    `number` counts them from one.
    """
    lines = []

    def trace(frame, event, argument):
        if frame.f_code.co_filename != store_module.__file__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


CHANGES = {
    "make room": lambda store: setattr(store, "limit", store.info(None).currsize // 2),
    "add": lambda store: store.add("tokens-b", *block(5, 7, 1)),
    "add the same": lambda store: store.add("tokens-a", *block(2, 1)),
    "clear": lambda store: store.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupt_at_any_line_leaves_a_store_that_is_right(change):
    for number in range(1, 1000):
        store = Store(limit=2000)
        for numbers in ((1, 2), (3, 4), (2, 5), (6,)):
            store.add("tokens-a", *block(*numbers))
        store.find("tokens-a", [key(1)])
        try:
            with interrupt_at(number) as lines:
                CHANGES[change](store)
        except KeyboardInterrupt:
            pass
        else:
            break
        for space in ("tokens-a", "tokens-b"):
            for asked, row in zip(range(9), store.find(space, [key(n) for n in range(9)]), strict=True):
                assert row is None or row.tolist() == [asked] * asked, lines
        size = sum(one.n_bytes for one in store._blocks.values())
        assert store.info(None).currsize == store.info("tokens").currsize == size <= store.limit, lines
        there = {(one.space, n) for one in store._blocks.values() for n in one.keys}
        assert store.count("tokens") <= len(there), lines
        store.add("tokens-a", *block(8))
        assert lists(store.find("tokens-a", [key(8)])) == [[8] * 8]
        store.limit = 0
        assert store._places == {}
        assert store.info(None).currsize == 0
    assert 5 < number < 999


FOLLOWING = {
    "limit": lambda store: setattr(store, "limit", 0),
    "add": lambda store: [store.add("tokens-a", *block(8)), setattr(store, "limit", 0)],
}


@pytest.mark.parametrize("then", FOLLOWING)
def test_a_change_after_an_interrupted_one_is_right(then):
    for number in range(1, 1000):
        store = Store(limit=10_000)
        store.add("tokens-a", *block(1, 2))
        try:
            with interrupt_at(number) as lines:
                store.add("tokens-a", *block(3, 4))
        except KeyboardInterrupt:
            pass
        else:
            break
        FOLLOWING[then](store)
        assert (store._places, store._blocks, store.info(None).currsize) == ({}, {}, 0), lines
    assert 5 < number < 999


def test_what_was_added_again_outlives_the_earlier_block():
    store = Store()
    store.add("tokens-a", *block(1, 2))
    store.add("tokens-a", *block(2, 3))
    store.limit = store.info(None).currsize - 1
    assert lists(store.find("tokens-a", [key(1), key(2), key(3)])) == [None, [2, 2], [3, 3, 3]]


def test_the_limit_that_people_set():
    assert skbert.cache_info().maxsize == 2**29
    skbert.set_cache_limit(10_000)
    assert skbert.cache_info() == skbert.CacheInfo(0, 0, 10_000, 0)
    with pytest.raises(ValueError, match=r"n_bytes is -1\. Expected 0"):
        skbert.set_cache_limit(-1)
    with pytest.raises(TypeError, match=r"n_bytes='1GB'\. Expected a number of bytes"):
        skbert.set_cache_limit("1GB")
    with pytest.raises(ValueError, match=r"kind='token'\. Expected one of 'tokens', 'vectors', 'states'"):
        skbert.cache_info("token")


def test_the_limit_may_be_a_float_and_is_finite():
    skbert.set_cache_limit(1e4)
    assert repr(skbert.cache_info().maxsize) == "10000"
    for n_bytes in (math.inf, math.nan):
        with pytest.raises(ValueError, match="positive, finite number"):
            skbert.set_cache_limit(n_bytes)


# Tokens.

NEAR = ["good film", "good film ", " good film", "Good film", "good\u00a0film", "goodfilm", "good  film", ""]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(NEAR) | st.text(alphabet="ab \ud800é", max_size=6), min_size=1, max_size=12),
    st.lists(st.sampled_from(NEAR) | st.text(alphabet="ab \ud800é", max_size=6), min_size=1, max_size=12),
    st.sampled_from([8, 12, 32]),
    st.sampled_from(["head", "head_tail", "windows"]),
    st.sampled_from(["bert", "roberta", "xlm-roberta"]),
)
def test_ids_are_those_without_a_cache(tiny_checkpoints, first, second, max_length, long_text, family):
    """Near-equal texts, pairs that join to the same, all lengths, strategies and tokenizers, one store."""
    tokenizer = load_tokenizer(tiny_checkpoints(family))
    n = min(len(first), len(second))
    for texts in (Texts(first), Texts(first[:n], second[:n]), Texts(second[:n], first[:n])):
        found = encode(tokenizer, texts, max_length, long_text, Cache())
        expected = encode(tokenizer, texts, max_length, long_text)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(found.segments, expected.segments)
        np.testing.assert_array_equal(found.truncated, expected.truncated)


def test_pairs_that_join_to_the_same_are_different_rows(tokenizer):
    texts = Texts(["good film", "good", "", "good film bad"], ["bad", "film bad", "good film bad", ""])
    assert len(set(row_keys(encode(tokenizer, texts, 32)))) == 4


@pytest.mark.parametrize("lengths", [(8, 64), (64, 8)])
def test_a_very_long_text_is_read_as_far_as_each_length_needs(tokenizer, lengths):
    """The ids of a beginning are not those of a text that is needed further."""
    texts = Texts(["good film " * 500, "bad " * 2000, "rain"])
    for max_length in lengths:
        for long_text in ("head", "windows"):
            found = encode(tokenizer, texts, max_length, long_text, Cache())
            np.testing.assert_array_equal(found.ids, encode(tokenizer, texts, max_length, long_text).ids)


def test_another_tokenizer_has_other_ids(tokenizer):
    texts = Texts(["good film", "bad rain"])
    encode(tokenizer, texts, 16, "head", Cache())
    changed = Tokenizer.from_str(tokenizer.to_str().replace('"lowercase":true', '"lowercase":false'))
    changed.encode_special_tokens = True
    literal = Tokenizer.from_str(tokenizer.to_str())  # reads "[SEP]" as the separator
    for other, text in ((changed, "GOOD film"), (literal, "good [SEP] film")):
        encode(tokenizer, Texts([text]), 16, "head", Cache())
        found = encode(other, Texts([text]), 16, "head", Cache())
        np.testing.assert_array_equal(found.ids, encode(other, Texts([text]), 16).ids)
        assert found.ids.tolist() != encode(tokenizer, Texts([text]), 16).ids.tolist()
    # A tokenizer that is changed after a fit is another one.
    shared = checkpoints.new_tokenizer(tokenizer.to_str())
    encode(shared, texts, 16, "head", Cache())
    shared.add_tokens(["good film"])
    found = encode(shared, texts, 16, "head", Cache())
    np.testing.assert_array_equal(found.ids, encode(shared, texts, 16).ids)


@pytest.fixture
def split_texts(monkeypatch):
    """Count the texts that the tokenizer is given; it still splits them."""
    counts = Counter()
    original = tokenizing._ids

    def counted(tokenizer, texts):
        counts.update(texts)
        return original(tokenizer, texts)

    monkeypatch.setattr(tokenizing, "_ids", counted)
    return counts


def test_every_text_is_split_once(tokenizer, split_texts):
    texts = [f"good film {i}" for i in range(50)]
    encode(tokenizer, Texts(texts[:40] + texts[:5]), 16, "head", Cache())
    encode(tokenizer, Texts(texts[20:]), 8, "windows", Cache())
    encode(tokenizer, Texts(texts[:9], texts[9:18]), 8, "head", Cache())
    assert split_texts == Counter(texts)
    assert skbert.cache_info("tokens")[:2] == (30 - 10 + 5 + 18, 50)


def test_a_prediction_looks_up_and_keeps_nothing(tokenizer, split_texts):
    texts = [f"good film {i}" for i in range(300)]
    encode(tokenizer, Texts(texts[:120]), 16, "head", LOOK_UPS)
    assert skbert.cache_info() == (0, 0, 2**29, 0)
    encode(tokenizer, Texts(texts[:120]), 16, "head", Cache())
    split_texts.clear()
    encode(tokenizer, Texts(texts[20:140]), 16, "head", LOOK_UPS)
    assert split_texts == Counter(texts[120:140])
    assert STORE.count("tokens") == 120
    encode(tokenizer, Texts(texts), 16, "head", LOOK_UPS)  # most cannot be there: nothing is looked up
    assert skbert.cache_info("tokens")[:2] == (100, 140)


def test_half_of_the_texts_may_be_cached(tokenizer):
    texts = [f"good film {i}" for i in range(241)]
    encode(tokenizer, Texts(texts[:120]), 16, "head", Cache())
    for n in (240, 241):  # of the second too few can be there
        encode(tokenizer, Texts(texts[:n]), 16, "head", LOOK_UPS)
        assert skbert.cache_info("tokens").hits == 120


@pytest.mark.parametrize("grows", [True, False])
def test_rows_cannot_be_written_to_also_just_computed_ones(grows):
    keys, values, offsets = block(3, 2)
    for _ in range(2):
        for row in Cache(grows=grows).rows("tokens-a", keys, lambda places: (values.copy(), offsets), values):
            with pytest.raises(ValueError, match="read-only"):
                row[0] = 7


def test_without_a_cache_nothing_is_counted(make_classifier, reviews):
    skbert.set_cache_limit(0)
    make_classifier(freeze="encoder").fit(*map(list, reviews)).predict(list(reviews[0]))
    assert skbert.cache_info() == (0, 0, 0, 0)


# The folder.

LIKE = np.empty(0, np.int32)


def find(folder, space, keys, like=LIKE):
    return {k: row for read in folder.find(space, keys, like) for k, row in read.items()}


def test_another_process_finds_what_one_wrote(tmp_path):
    BlockFolder(tmp_path).add("tokens-a", *block(3, 0, 2))
    BlockFolder(tmp_path).add("tokens-a", *block(4))
    found = find(BlockFolder(tmp_path), "tokens-a", {key(2), key(0), key(4), key(9)})
    assert {k: row.tolist() for k, row in found.items()} == {key(2): [2, 2], key(0): [], key(4): [4] * 4}
    assert find(BlockFolder(tmp_path), "tokens-b", {key(2)}) == {}


def test_each_row_is_read_once(tmp_path):
    for numbers in ((3, 2), (2, 4)):
        BlockFolder(tmp_path).add("tokens-a", *block(*numbers))
    reads = list(BlockFolder(tmp_path).find("tokens-a", {key(2), key(3), key(4)}, LIKE))
    assert sorted(map(len, reads)) == [1, 2]


def test_a_damaged_file_that_was_removed_and_written_anew_is_read(tmp_path):
    mine, other = BlockFolder(tmp_path), BlockFolder(tmp_path)
    other.add("tokens-a", *block(3))
    written(tmp_path).write_bytes(b"damaged")
    with pytest.warns(skbert.CacheWarning, match="not an intact cache file"):
        assert find(mine, "tokens-a", {key(3)}) == {}
    written(tmp_path).unlink()
    assert find(mine, "tokens-a", {key(3)}) == {}
    other.add("tokens-a", *block(3))
    assert find(mine, "tokens-a", {key(3)})[key(3)].tolist() == [3, 3, 3]


def test_a_folder_sees_what_others_write_later(tmp_path):
    mine, other = BlockFolder(tmp_path), BlockFolder(tmp_path)
    assert find(mine, "tokens-a", {key(3)}) == {}
    other.add("tokens-a", *block(3))
    assert find(mine, "tokens-a", {key(3)})[key(3)].tolist() == [3, 3, 3]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_values_come_back_exactly(tmp_path, dtype):
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    BlockFolder(tmp_path).add("states-a", [key(1), key(2)], values, np.array([0, 2, 5]))
    found = find(BlockFolder(tmp_path), "states-a", {key(1), key(2)}, values[:0])
    np.testing.assert_array_equal(found[key(1)], values[:2])
    np.testing.assert_array_equal(found[key(2)], values[2:])
    assert found[key(1)].dtype == dtype


def written(folder):
    return next(Path(folder).rglob("*.safetensors"))


def test_every_damaged_byte_is_found(tmp_path):
    """A flipped bit anywhere, and a file cut anywhere: no row, one warning, and no exception."""
    BlockFolder(tmp_path).add("tokens-a", *block(3, 2))
    file = written(tmp_path)
    whole = file.read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:i] for i in range(len(whole))] + [whole + b"0", b"", b"\x93NUMPY garbage" * 20]
    for content in damaged:
        file.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            folder = BlockFolder(tmp_path)
            found = find(folder, "tokens-a", {key(3), key(2)})
            assert find(folder, "tokens-a", {key(3)}).keys() <= found.keys()
        assert found == {}
        assert [w.category for w in caught] == [skbert.CacheWarning]


def test_a_link_among_the_files_is_replaced_and_not_followed(tmp_path):
    """Else whoever may write to the folder could have any file of the user overwritten."""
    BlockFolder(tmp_path / "cache").add("tokens-a", *block(3))
    file, precious = written(tmp_path / "cache"), tmp_path / "precious"
    whole = file.read_bytes()
    precious.write_text("mine")
    file.unlink()
    file.symlink_to(precious)
    BlockFolder(tmp_path / "cache").add("tokens-a", *block(3))
    assert precious.read_text() == "mine"
    assert not file.is_symlink()
    assert file.read_bytes() == whole


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("is_known", [False, True])
def test_a_pipe_among_the_files_is_not_waited_for(tmp_path, is_known):
    """Whoever opens one to read waits for somebody who writes."""
    folder = BlockFolder(tmp_path)
    folder.add("tokens-a", *block(3))
    file = written(tmp_path)
    if is_known:
        assert folder.lacking("tokens-a", [key(3)], LIKE) == []
        file.unlink()
    os.mkfifo(file if is_known else file.with_name("0.safetensors"))
    with pytest.warns(skbert.CacheWarning, match="not an intact cache file: it is not a regular file"):
        found = find(folder, "tokens-a", {key(3)})
    assert found.keys() == (set() if is_known else {key(3)})


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"space": "tokens-b"},
        {"arrays": None},
        {"arrays": {}},
        {"arrays": {"rows": 3}},
        {"arrays": {"rows": {"dtype": "O", "shape": [3], "sha256": ""}}},
        {"arrays": {"rows": {"dtype": "I64", "shape": [[3, 3], 4], "sha256": ""}}},
    ],
)
def test_foreign_contents_are_refused(tmp_path, change):
    BlockFolder(tmp_path).add("tokens-a", *block(3))
    file = written(tmp_path)
    arrays, metadata, _ = tensorfile.read(file)
    content = change if isinstance(change, list) else tensorfile.unsealed(disk._ENTRY, metadata) | change
    with file.open("wb") as opened:
        tensorfile.write(opened, arrays, tensorfile.sealed(disk._ENTRY, content))
    with pytest.warns(skbert.CacheWarning, match="not an intact cache file"):
        assert find(BlockFolder(tmp_path), "tokens-a", {key(3)}) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"keys": np.zeros(23, np.uint8)},
        {"keys": np.zeros((24, 1), np.uint8)},
        {"lengths": np.array([-1])},
        {"lengths": np.array([2**63 - 1, 2**63 - 1, 5])},
        *({"lengths": np.array([3], dtype)} for dtype in (np.uint64, np.float64, np.float16, np.int32)),
        *({"lengths": np.zeros(shape, np.int64)} for shape in ((1, 2), (1, 0), (1, 1), ())),
    ],
)
def test_an_index_that_does_not_match_is_refused(tmp_path, change):
    BlockFolder(tmp_path).add("tokens-a", *block(3))
    file = written(tmp_path)
    arrays, metadata, _ = tensorfile.read(file)
    arrays |= change
    content = tensorfile.unsealed(disk._ENTRY, metadata)
    content["arrays"] = {name: tensorfile.describe(array) for name, array in arrays.items()}
    with file.open("wb") as opened:
        tensorfile.write(opened, arrays, tensorfile.sealed(disk._ENTRY, content))
    with pytest.warns(skbert.CacheWarning, match="not an intact cache file"):
        assert find(BlockFolder(tmp_path), "tokens-a", {key(3)}) == {}


def test_rows_of_another_kind_are_refused(tmp_path):
    BlockFolder(tmp_path).add("tokens-a", *block(3))
    with pytest.warns(skbert.CacheWarning, match="its rows have another dtype or shape"):
        assert find(BlockFolder(tmp_path), "tokens-a", {key(3)}, np.empty((0, 8), np.float32)) == {}


def test_a_fit_computes_damaged_entries_again_and_says_so_once(tmp_path, make_classifier, reviews):
    texts, labels = map(list, reviews)
    parameters = {"freeze": "encoder", "memory": tmp_path / "shared"}
    expected = make_classifier(**parameters).fit(texts, labels).decision_function(texts)
    for file in (tmp_path / "shared").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3] + b"bad")
    skbert.clear_caches()
    parameters["memory"] = tmp_path / "moved"  # a folder that this process has not read yet
    (tmp_path / "shared").rename(tmp_path / "moved")
    with pytest.warns(skbert.CacheWarning) as caught:
        again = make_classifier(**parameters).fit(texts, labels)
    assert [w.category for w in caught].count(skbert.CacheWarning) == 1
    np.testing.assert_allclose(again.decision_function(texts), expected, rtol=1e-6)
    assert skbert.cache_info("vectors")[:2] == (48, 24)
    # What was computed again has replaced what was damaged.
    skbert.clear_caches()
    make_classifier(**parameters).fit(texts, labels)
    assert skbert.cache_info().misses == 0


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), TimeoutError("my limit")])
def test_entries_that_cannot_be_read_are_not_called_damaged(
    error, tmp_path, make_classifier, reviews, monkeypatch
):
    texts, labels = map(list, reviews)
    parameters = {"freeze": "encoder", "memory": tmp_path / "shared"}
    make_classifier(**parameters).fit(texts, labels)
    skbert.clear_caches()

    def refuse(*arguments):
        raise error

    monkeypatch.setattr(disk, "_read_values", refuse)
    if isinstance(error, TimeoutError):
        with pytest.raises(TimeoutError, match="my limit"):
            make_classifier(**parameters).fit(texts, labels)
        return
    with pytest.warns(skbert.CacheWarning, match=r"cannot be read \(.*Permission denied") as caught:
        make_classifier(**parameters).fit(texts, labels)
    assert not any("delete" in str(warning.message) for warning in caught)


def test_an_empty_name_is_no_folder(make_classifier, reviews):
    """It would be the working directory."""
    with pytest.raises(
        skbert.InputError, match=r"memory='' does not name a folder\. Expected the name of a folder, or None"
    ):
        make_classifier(memory="").fit(*reviews)


def deny(monkeypatch, error):
    """Have the system refuse every new file, as a full disk or a read-only folder does."""

    def refuse(path, mode="r", *args, **kwargs):
        if "x" in mode:
            raise OSError(*error)
        return open(path, mode, *args, **kwargs)

    monkeypatch.setattr(replacing, "open", refuse, raising=False)


@pytest.mark.parametrize("error", [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, error, make_classifier, reviews):
    texts, labels = map(list, reviews)
    expected = make_classifier(freeze="encoder").fit(texts, labels).decision_function(texts)
    skbert.clear_caches()
    deny(monkeypatch, error)
    model = make_classifier(freeze="encoder", memory=tmp_path)
    with pytest.warns(skbert.CacheWarning, match=rf"cannot be written.*{error[1]}"):
        model.fit(texts, labels)
    model.fit(texts[:4], labels[:4])  # a second warning would be an error
    model.fit(texts, labels)
    np.testing.assert_allclose(model.decision_function(texts), expected, rtol=1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_still_gives_what_it_has(tmp_path, make_classifier, reviews):
    texts, labels = map(list, reviews)
    make_classifier(memory=tmp_path).fit(texts[:12], labels[:12])
    for folder in [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    skbert.clear_caches()
    try:
        with pytest.warns(skbert.CacheWarning, match="cannot be written"):
            make_classifier(memory=tmp_path).fit(texts, labels)
    finally:
        for folder in [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]:
            folder.chmod(stat.S_IRWXU)
    assert skbert.cache_info("tokens")[:2] == (12, 12)


def test_a_folder_gets_what_earlier_fits_left_in_memory(tmp_path, make_classifier, reviews):
    texts, labels = map(list, reviews)
    make_classifier(freeze="encoder").fit(texts[:8], labels[:8])
    make_classifier(freeze="encoder", memory=tmp_path).fit(texts[:12], labels[:12])
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    skbert.clear_caches()
    for _ in range(2):  # from the folder, then from memory
        make_classifier(freeze="encoder", memory=tmp_path).fit(texts[:12], labels[:12])
    for kind in ("tokens", "vectors"):
        assert (skbert.cache_info(kind).misses, skbert.cache_info(kind).hits > 0) == (0, True)
    assert {
        file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")
    } == written  # nothing twice


def test_a_folder_serves_where_memory_keeps_nothing(tmp_path, make_classifier, reviews):
    skbert.set_cache_limit(0)
    for expected in ((0, 24), (24, 24)):
        make_classifier(freeze="encoder", epochs=1, memory=tmp_path).fit(*map(list, reviews))
        assert skbert.cache_info("vectors")[:2] == expected


def test_what_was_read_from_a_folder_stays_in_memory(tmp_path, make_classifier, reviews):
    make_classifier(freeze="encoder", epochs=1, memory=tmp_path).fit(*map(list, reviews))
    skbert.clear_caches()
    for memory in (tmp_path, None):
        make_classifier(freeze="encoder", epochs=1, memory=memory).fit(*map(list, reviews))
    assert skbert.cache_info().misses == 0


def test_what_is_kept_depends_on_no_path_of_a_checkpoint(tmp_path, tiny_bert, make_classifier, reviews):
    """As another user's copy, or that of another machine."""
    texts, labels = map(list, reviews)
    for name in ("here", "there"):
        shutil.copytree(tiny_bert, tmp_path / name)
        make_classifier(model=tmp_path / name, freeze=1, head_init="linear_probe").fit(texts, labels)
    for kind in ("tokens", "vectors", "states"):
        found = skbert.cache_info(kind)
        assert found.hits >= found.misses == len(texts)


def test_nothing_on_disk_unless_asked_for(tmp_path, monkeypatch, make_classifier, reviews):
    monkeypatch.chdir(tmp_path)
    for memory in (None, joblib.Memory(location=None, verbose=0)):
        make_classifier(freeze="encoder", memory=memory).fit(*map(list, reviews)).predict(["good"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [str, Path, lambda p: joblib.Memory(p, verbose=0)])
def test_memory_as_people_give_it(kind, tmp_path, make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(memory=kind(str(tmp_path / "new"))).fit(texts, labels)
    assert written(tmp_path / "new" / "skbert")
    skbert.clear_caches()
    again = make_classifier(memory=kind(str(tmp_path / "new"))).fit(texts, labels)
    assert skbert.cache_info().misses == 0
    np.testing.assert_array_equal(again.decision_function(texts), model.decision_function(texts))


@pytest.mark.skipif(os.name == "nt", reason="only POSIX says so")
def test_a_folder_without_access_is_said_once_too(tmp_path, monkeypatch, make_classifier, reviews):
    """Nothing below it can even be looked at; root may look everywhere, so the system is made to refuse."""
    closed = tmp_path / "closed"
    for name in ("stat", "mkdir", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), closed))
    with pytest.warns(skbert.CacheWarning, match=r"closed.*cannot be written.*Permission denied") as caught:
        model = make_classifier(memory=closed / "cache").fit(*map(list, reviews))
    assert [warning.category for warning in caught].count(skbert.CacheWarning) == 1
    assert model.n_iter_ == 2


def refusing(call, folder):
    """A call of the system that has no access to what is below a folder."""

    def refuse(path=".", *arguments, **keywords):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{folder}{os.sep}"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return call(path, *arguments, **keywords)

    return refuse


class PathOfBytes(os.PathLike):
    def __fspath__(self):
        return b"cache"


def test_memory_that_cannot_be_a_name(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    for name in (tmp_path / ("x" * 300), f"{tmp_path}/a\0b", "~nobody-of-this-name/cache", tmp_path / "one"):
        with pytest.raises(
            skbert.InputError, match=r"memory='.*' cannot name a folder \(.+\)\. Expected the name"
        ):
            open_cache(name)
    with pytest.raises(skbert.InputTypeError, match=r"memory has the location .*\(PathOfBytes\)"):
        open_cache(PathOfBytes())
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(skbert.InputError, match=r"memory='.*file' is a file\. Expected a folder"):
        open_cache(tmp_path / "file")
    broken = joblib.Memory(None, verbose=0)
    broken.location = 3
    with pytest.raises(skbert.InputTypeError, match=r"memory has the location 3 \(int\)"):
        open_cache(broken)


# A search.


def search(make_classifier, reviews, **parameters):
    texts, labels = map(list, reviews)
    grid = {"learning_rate": [1e-3, 1e-2], "freeze": ["encoder", 1]}
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    found = GridSearchCV(make_classifier(**parameters), grid, cv=folds, scoring="neg_log_loss", refit=False)
    return found.fit(texts, labels).cv_results_


def test_a_search_splits_and_loads_once(make_classifier, reviews, split_texts, tiny_checkpoints, monkeypatch):
    """12 fits: one checkpoint, and each text split once (the folds are too small to look tokens up)."""
    loaded = []
    original = checkpoints._read_encoder
    monkeypatch.setattr(checkpoints, "_read_encoder", lambda *args: loaded.append(args) or original(*args))
    folder = tiny_checkpoints("bert", layers=2, seed=5)
    search(make_classifier, reviews, model=folder)
    assert len(loaded) == 1
    texts = list(reviews[0])
    trained_on = Counter({text: n for text, n in split_texts.items() if text in texts})
    assert set(trained_on) == set(texts)
    tokens_info, vectors = skbert.cache_info("tokens"), skbert.cache_info("vectors")
    assert (tokens_info.misses, vectors.misses) == (24, 24 + 8)  # one fold was predicted before its first fit
    assert skbert.cache_info("states").misses == 24
    # 12 fits look 16 texts up.
    assert tokens_info.hits == 12 * 16 - 24


def test_results_are_the_same_with_any_cache(make_classifier, reviews, tiny_checkpoints, tmp_path):
    folder = tiny_checkpoints("bert", layers=2)
    skbert.set_cache_limit(0)
    off = search(make_classifier, reviews, model=folder)
    skbert.set_cache_limit(2**29)
    runs = {
        "on": search(make_classifier, reviews, model=folder),
        "warm": search(make_classifier, reviews, model=folder),
    }
    skbert.set_cache_limit(4000)
    runs["small"] = search(make_classifier, reviews, model=folder)
    skbert.set_cache_limit(2**29)
    runs["written"] = search(make_classifier, reviews, model=folder, memory=tmp_path)
    skbert.clear_caches()
    runs["read"] = search(make_classifier, reviews, model=folder, memory=tmp_path)
    for name, found in runs.items():
        for split in range(3):
            scores, expected = found[f"split{split}_test_score"], off[f"split{split}_test_score"]
            np.testing.assert_allclose(scores, expected, rtol=1e-6, err_msg=name)


# Memory.


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_200_fits_leave_no_more_than_a_few_do(make_classifier, tiny_checkpoints):
    """Other texts in every fit, all kinds of freezing, a cache that is full all the time."""
    from long_texts import resident

    limit = 500_000
    skbert.set_cache_limit(limit)
    folder = tiny_checkpoints("bert", layers=2)

    def fit(number):
        texts = [f"good film {number} {i}" if i % 2 else f"bad story {number} {i}" for i in range(24)]
        freeze = (0, 1, "encoder")[number % 3]
        model = make_classifier(model=folder, freeze=freeze, epochs=1)
        model.fit(texts, [i % 2 for i in range(24)]).predict(texts)

    for number in range(30):
        fit(number)
    assert 0.8 * limit < skbert.cache_info().currsize <= limit
    before = resident()
    for number in range(30, 230):
        fit(number)
        assert skbert.cache_info().currsize <= limit
    assert resident() - before < 20


@pytest.mark.gpu
@pytest.mark.parametrize("parameters", [{}, {"freeze": 1}, {"freeze": "encoder"}, {"lora": 2}], ids=str)
def test_a_fit_leaves_the_device_as_it_was(parameters, make_classifier, reviews, tiny_checkpoints):
    import torch

    texts, labels = map(list, reviews)
    parameters = {"model": tiny_checkpoints("bert", layers=2), "device": "cuda"} | parameters
    make_classifier(**parameters).fit(texts, labels)  # the libraries' own workspaces
    before = torch.cuda.memory_allocated()
    models = [make_classifier(**parameters).fit(texts, labels) for _ in range(3)]
    assert abs(torch.cuda.memory_allocated() - before) < 1e6
    models[0].predict(texts)
    del models
    assert abs(torch.cuda.memory_allocated() - before) < 1e6


def test_a_time_limit_is_no_bad_name_of_a_folder(tmp_path, monkeypatch):
    def expire(path):
        raise TimeoutError("my limit")

    monkeypatch.setattr("skbert.caching.cache._mode_of", expire)
    with pytest.raises(TimeoutError, match="my limit"):
        open_cache(tmp_path)
