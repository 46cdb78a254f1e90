"""Orders, groups and packed batches."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from other_device import NAME, OtherDevice

from skbert.data.batching import collate, longest_first, shuffled_minibatches
from skbert.data.encoding import Encodings


def make_encodings(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = int(offsets[-1])
    return Encodings(
        ids=np.arange(100, 100 + n, dtype=np.int32),
        offsets=offsets,
        segments=(np.arange(n) % 2).astype(np.int8),
        owners=np.arange(len(lengths)),
        truncated=np.zeros(len(lengths), dtype=bool),
    )


def test_collate_lays_texts_end_to_end():
    batch = collate(
        make_encodings([2, 3, 1]), np.array([2, 0]), np.array([7, 8, 9]), np.array([0.1, 0.2, 0.3])
    )
    assert batch.input_ids.tolist() == [105, 100, 101]
    assert batch.segments.tolist() == [1, 0, 1]
    assert batch.positions.tolist() == [0, 0, 1]
    assert batch.lengths.tolist() == [1, 2]
    assert batch.max_length == 2
    assert batch.targets.tolist() == [9, 7]
    assert batch.weights.tolist() == [0.3, 0.1]
    assert len(batch.lengths) == 2
    assert batch.input_ids.dtype == torch.int64


def test_batch_stays_where_it_is():
    batch = collate(make_encodings([2]), np.array([0]))
    assert batch.to(torch.device("cpu")) is batch


@pytest.mark.parametrize("targets", [np.array([2, 0, 1]), np.array([[0, 1], [1, 0], [1, 1]])])
def test_batch_moves_in_few_transfers(targets):
    encodings = make_encodings([2, 3, 1])
    weights = np.array([0.5, 1.0, 1.5], dtype=np.float32)
    here = collate(encodings, np.array([2, 0]), targets, weights)
    here = replace(here, frozen=torch.randn(3, 8))
    with OtherDevice() as device:
        there = here.to(torch.device(NAME))
        assert device.transfers == 3  # int64, float32, and what frozen layers gave
        for field in fields(here):
            value, moved = getattr(here, field.name), getattr(there, field.name)
            if isinstance(value, torch.Tensor):
                assert moved.device.type == NAME
                assert torch.equal(moved.cpu(), value)
            else:
                assert moved == value


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_minibatches_cover_each_text_once(n_texts, batch_size, seed):
    generator = np.random.default_rng(seed)
    batches = shuffled_minibatches(n_texts, batch_size, generator)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n_texts))
    assert {len(b) for b in batches[:-1]} <= {batch_size}
    assert 1 <= len(batches[-1]) <= batch_size


def test_minibatches_are_drawn_afresh_each_epoch():
    generator = np.random.default_rng(0)
    first, second = (np.concatenate(shuffled_minibatches(100, 10, generator)) for _ in range(2))
    assert first.tolist() != second.tolist()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_longest_first_keeps_the_budget(lengths, max_tokens):
    lengths = np.array(lengths)
    groups = list(longest_first(lengths, max_tokens))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    ordered = lengths[np.concatenate(groups)]
    assert (np.diff(ordered) <= 0).all()
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= max_tokens
