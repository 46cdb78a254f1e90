"""Which texts attention on a CPU lays side by side, and where their rows go.

1. The texts, longest first, are split into groups that waste few scores.
2. In a group, queries, keys and values are (n_texts * n_heads, n_rows, head_size), with as many rows as the
   longest text has tokens; keys are padded to whole vectors.
3. A group with many scores is processed in blocks: some of its texts at a time, or some of the queries of one
   text and, where there is a window, only the keys that these queries can see.

The gaps are filled with copies of real tokens. As keys these are masked; as queries their results are never
read, and their gradient is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from skbert.process.forks import lazy

_WASTE = 30_000  # scores that a group may waste before another group is cheaper
_VECTOR = 64  # bytes
# Groups of up to this many scores keep their weights for the gradient; others recompute them, block by block.
# Keeping them takes new memory for every batch. In float32 that becomes slower than recomputing them at fewer
# scores than in bfloat16, where softmax costs more.
_MOST_SCORES = {torch.bfloat16: 1 << 24}
_MOST_SCORES_ELSE = 1 << 21
_MOST_IN_ALL = 1 << 24  # of all groups that are one block: 16 texts of 256 tokens with 12 heads have fewer
_BLOCK = 1 << 22  # scores of a block in other groups
_WINDOWS = 6  # texts longer than this many windows are cut: most of their scores are masked


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a group's scores."""

    matrices: slice
    queries: slice
    keys: slice
    bias: torch.Tensor | None  # (n_texts, 1, 1 or n_queries, n_keys), -inf where masked


@dataclass(frozen=True)
class Group:
    """Texts of like length."""

    lengths: np.ndarray  # (n_texts,)
    n_heads: int
    n_queries: int  # of the longest text
    n_keys: int  # of the longest text, padded to whole vectors
    window: int | None
    dtype: torch.dtype
    is_whole: bool  # one block; otherwise there are too many scores for that

    @property
    def n_matrices(self) -> int:
        """Texts times heads."""
        return len(self.lengths) * self.n_heads

    @property
    def n_scores(self) -> int:
        """Number of scores, including masked ones."""
        return self.n_matrices * self.n_queries * self.n_keys

    @lazy
    def whole(self) -> Block:
        """All scores in one block."""
        return self._texts(slice(0, len(self.lengths)))

    def blocks(self) -> Iterator[Block]:
        """All scores, in parts."""
        if self.is_whole:
            yield self.whole
            return
        n_texts = _BLOCK // (self.n_heads * self.n_queries * self.n_keys)
        if n_texts > 0 and not is_cut(self.n_queries, self.window):
            for start in range(0, len(self.lengths), n_texts):
                yield self._texts(slice(start, start + n_texts))
            return
        step = _VECTOR // self.dtype.itemsize
        for text, length in enumerate(self.lengths.tolist()):
            n_queries = min(length, self.n_queries)
            for queries, keys in parts(n_queries, length, self.n_heads, self.window, step):
                yield self._block(slice(text, text + 1), queries, keys)

    def _texts(self, texts: slice) -> Block:
        return self._block(texts, slice(0, self.n_queries), slice(0, self.n_keys))

    def _block(self, texts: slice, queries: slice, keys: slice) -> Block:
        matrices = slice(texts.start * self.n_heads, texts.stop * self.n_heads)
        bias = bias_of(self.lengths[texts], queries, keys, self.window, self.dtype)
        return Block(matrices, queries, keys, bias)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows (token, head) of a packed batch go, and where they are found again."""

    groups: list[Group]
    queries: torch.Tensor  # row of the batch at each row of the layout
    keys: torch.Tensor
    from_queries: torch.Tensor  # row of the layout at each row of the batch; filler: the one after the last
    from_keys: torch.Tensor
    filled: torch.Tensor  # rows of queries that hold no token

    def slices(self, queries: tuple[torch.Tensor, ...], keys: tuple[torch.Tensor, ...]) -> Iterator[Any]:
        """The slices of arrays in this layout, group by group."""
        at_query = at_key = 0
        for group in self.groups:
            to_query = at_query + group.n_matrices * group.n_queries
            to_key = at_key + group.n_matrices * group.n_keys
            yield (
                *(x[at_query:to_query].view(group.n_matrices, group.n_queries, -1) for x in queries),
                *(x[at_key:to_key].view(group.n_matrices, group.n_keys, -1) for x in keys),
            )
            at_query, at_key = to_query, to_key


def make_layout(
    lengths: np.ndarray,
    n_heads: int,
    dtype: torch.dtype,
    window: int | None,
    first: bool = False,
    *,
    n_filler: int = 0,
) -> Layout:
    """Choose groups for texts of these lengths; tokens at a distance of `window` or more are masked.

    With `first` there is one query per text, that of its first token, and the queries' rows are (text, head).
    The `n_filler` rows after the tokens belong to no text, and get zeros.
    """
    step = _VECTOR // dtype.itemsize
    starts = np.cumsum(lengths) - lengths
    groups, rows = [], []
    for texts in _groups(lengths, n_heads, step):
        longest = int(lengths[texts[0]])
        n_queries, n_keys = 1 if first else longest, _up(longest, step)
        at, n = (texts, np.ones_like(texts)) if first else (starts[texts], lengths[texts])
        rows.append((_rows(at, n, n_queries, n_heads), _rows(starts[texts], lengths[texts], n_keys, n_heads)))
        groups.append(Group(lengths[texts], n_heads, n_queries, n_keys, window, dtype, is_whole=False))
    n_rows = (int(lengths.sum()) + n_filler) * n_heads
    n_asking = len(lengths) * n_heads if first else n_rows
    (queries, are_queries), (keys, are_keys) = (
        map(np.concatenate, zip(*side, strict=True)) for side in zip(*rows, strict=True)
    )
    return Layout(
        _some_whole(groups),
        torch.from_numpy(queries),
        torch.from_numpy(keys),
        _inverse(queries, are_queries, n_asking),
        _inverse(keys, are_keys, n_rows),
        torch.from_numpy(np.flatnonzero(~are_queries)),
    )


def _groups(lengths: np.ndarray, n_heads: int, step: int) -> Iterator[np.ndarray]:
    """Cut the texts, longest first, where a group would waste too many scores."""
    order = np.argsort(-lengths, kind="stable")
    scores = n_heads * lengths[order] * _up(lengths[order], step)
    start = waste = 0
    for i in range(1, len(order)):
        waste += int(scores[start] - scores[i])
        if waste > _WASTE:
            yield order[start:i]
            start, waste = i, 0
    yield order[start:]


def _up(n: Any, step: int) -> Any:
    return -(-n // step) * step


def _rows(starts: np.ndarray, lengths: np.ndarray, n: int, n_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the batch in the order (text, head, position), and which of them hold a real token."""
    positions = np.arange(n)
    real = positions < lengths[:, None]  # (n_texts, n)
    tokens = starts[:, None] + np.where(real, positions, 0)
    rows = tokens[:, None] * n_heads + np.arange(n_heads)[:, None]  # (n_texts, n_heads, n)
    return rows.reshape(-1), np.broadcast_to(real[:, None], rows.shape).reshape(-1)


def _inverse(rows: np.ndarray, real: np.ndarray, n_rows: int) -> torch.Tensor:
    inverse = np.full(n_rows, len(rows), dtype=np.int64)  # filler: the row of zeros after the others
    places = np.flatnonzero(real)
    inverse[rows[places]] = places
    return torch.from_numpy(inverse)


def _some_whole(groups: list[Group]) -> list[Group]:
    """The same groups, as many of them in one block as the limits allow, those with fewest scores first."""
    in_all, whole = 0, set()
    for i in sorted(range(len(groups)), key=lambda i: groups[i].n_scores):
        group = groups[i]
        most = min(_MOST_SCORES.get(group.dtype, _MOST_SCORES_ELSE), _MOST_IN_ALL - in_all)
        if group.n_scores <= most and not is_cut(group.n_queries, group.window):
            whole.add(i)
            in_all += group.n_scores
    return [replace(group, is_whole=i in whole) for i, group in enumerate(groups)]


def is_cut(n_queries: int, window: int | None) -> bool:
    """Whether there is a window, and most of the scores lie outside it."""
    return window is not None and n_queries > _WINDOWS * window


def parts(
    n_queries: int, n_keys: int, n_heads: int, window: int | None, step: int = 1
) -> Iterator[tuple[slice, slice]]:
    """Yield some queries of a text at a time, and the keys that they can see, cut at multiples of `step`."""
    reach = n_keys if window is None else max(1, window)
    # As many queries as there are keys on either side: half of the computed scores are then used.
    size = min(2 * reach, max(1, _BLOCK // (n_heads * min(n_keys, 4 * reach))))
    for start in range(0, n_queries, size):
        stop = min(start + size, n_queries)
        yield (
            slice(start, stop),
            slice(max(0, start - reach) // step * step, _up(min(stop + reach, n_keys), step)),
        )


def bias_of(
    lengths: np.ndarray, queries: slice, keys: slice, window: int | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Zero where a query may attend, -inf elsewhere, as `Block.bias`; None if nothing is masked.

    `queries` and `keys` are ranges of positions. Every row has a zero, so that softmax never gets an empty
    row.
    """
    columns = np.arange(keys.start, keys.stop)
    seen = (columns < lengths[:, None])[:, None]  # (n_texts, 1, n_keys)
    if window is not None and window < max(queries.stop - keys.start, keys.stop - queries.start):
        distance = np.abs(np.arange(queries.start, queries.stop)[:, None] - columns)
        seen = (seen & (distance < window)) | (distance == 0)
    if seen.all():
        return None
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return bias[:, None]
