"""Which texts lie side by side, and in which parts their scores are worked off."""

import numpy as np
import pytest
import torch

from skbert.network import attention_layout
from skbert.network.attention_layout import is_cut, make_layout, parts

LENGTHS = np.array([9, 40, 3, 40, 17, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keys_are_whole_vectors(dtype):
    layout = make_layout(LENGTHS, 2, dtype, None)
    assert all(group.n_keys * dtype.itemsize % 64 == 0 for group in layout.groups)
    assert all(0 <= group.n_keys - group.n_queries < 64 // dtype.itemsize for group in layout.groups)


def test_a_block_has_as_many_texts_as_fit(monkeypatch):
    monkeypatch.setattr(attention_layout, "_MOST_SCORES_ELSE", 0)
    monkeypatch.setattr(attention_layout, "_BLOCK", 3 * 2 * 16 * 16)
    (group,) = make_layout(np.array([16, 16, 15, 14, 13]), 2, torch.float32, None).groups
    assert [block.matrices for block in group.blocks()] == [slice(0, 6), slice(6, 12)]


def test_a_window_is_all_that_cut_groups_compute(monkeypatch):
    monkeypatch.setattr(attention_layout, "_MOST_SCORES_ELSE", 0)
    layout = make_layout(np.array([4096]), 2, torch.float32, 65)
    sizes = [
        (b.queries.stop - b.queries.start, b.keys.stop - b.keys.start) for b in layout.groups[0].blocks()
    ]
    scores = sum(queries * keys for queries, keys in sizes)
    assert scores < 4096 * 65 * 5
    assert scores >= 4096 * 129 - 65 * 64


@pytest.mark.parametrize(("length", "window"), [(1000, 10), (61, 10), (60, 10), (7, 1), (50, None)])
def test_some_queries_at_a_time_and_the_keys_that_they_see(length, window):
    some = list(parts(length, length, 2, window))
    assert [p for queries, _ in some for p in range(queries.start, queries.stop)] == list(range(length))
    for queries, keys in some:
        reach = length if window is None else window
        assert keys.start <= max(0, queries.start - reach + 1)
        assert keys.stop >= min(length, queries.stop + reach - 1)
    assert is_cut(length, window) is (window is not None and length > 6 * window)
    if is_cut(length, window):
        scores = sum((q.stop - q.start) * (k.stop - k.start) for q, k in some)
        assert scores <= 4 * window * length
    elif window is None:
        assert len(some) == 1
