"""Which texts attention on a CPU lays side by side, and where their rows go.

1. The texts, longest first, are cut into groups that waste little.
2. In a group, queries, keys and values are (n_texts * n_heads, n_rows, head_size), with as many rows as the
   longest text has tokens; keys are filled up to whole vectors.
3. A group of many scores is worked off in blocks: text by text, some of its queries at a time, and where
   there is a window only the keys that these can see.

What fills the gaps are copies of real tokens. As keys they are masked; as queries nothing reads their result,
and their gradient is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_WASTE = 30_000  # scores that a group may waste before another group is cheaper
_VECTOR = 64  # bytes
# Scores of a group that is one block. Weights that are kept take memory that is new for every batch; in
# float32 they are made again in less time than that takes, in bfloat16, where softmax costs more, only later.
_MOST_SCORES = {torch.bfloat16: 1 << 24}
_MOST_SCORES_ELSE = 1 << 21
_BLOCK = 1 << 22  # scores of a block in other groups
WINDOWS = 6  # texts of more windows are cut, for most of their scores are masked


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a group's scores."""

    matrices: slice
    queries: slice
    keys: slice
    bias: torch.Tensor | None  # (n_texts, 1, 1 or n_queries, n_keys), -inf where nothing may be looked at


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of like length."""

    lengths: np.ndarray  # (n_texts,)
    n_heads: int
    n_queries: int  # of the longest text
    n_keys: int  # the same, filled up to whole vectors
    window: int | None
    dtype: torch.dtype
    whole: Block | None  # None if there are too many scores for one block

    @property
    def n_matrices(self) -> int:
        """Texts times heads."""
        return len(self.lengths) * self.n_heads

    def blocks(self) -> Iterator[Block]:
        """All scores, in parts."""
        if self.whole is not None:
            yield self.whole
            return
        step = _VECTOR // self.dtype.itemsize
        reach = self.n_keys if self.window is None else max(1, self.window)
        # As many queries as there are keys on either side: half of what is computed is then of use.
        size = min(2 * reach, max(1, _BLOCK // (self.n_heads * min(self.n_keys, 4 * reach))))
        for text, length in enumerate(self.lengths.tolist()):
            matrices = slice(text * self.n_heads, (text + 1) * self.n_heads)
            n_queries = min(length, self.n_queries)
            for start in range(0, n_queries, size):
                queries = start, min(start + size, n_queries)
                keys = max(0, start - reach) // step * step, _up(min(queries[1] + reach, length), step)
                bias = _bias(np.array([length]), queries, keys, self.window, self.dtype)
                yield Block(matrices, slice(*queries), slice(*keys), bias)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows (token, head) of a packed batch go, and where they are found again."""

    groups: list[Group]
    queries: torch.Tensor  # row of the batch at each row of the layout
    keys: torch.Tensor
    from_queries: torch.Tensor  # row of the layout at each row of the batch; filler: the one after the last
    from_keys: torch.Tensor
    filled: torch.Tensor  # rows of queries that are no token

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

    With `first` there is one query a text, its first token's; the queries' rows are those of (text, head).
    `n_filler` rows after the tokens belong to no text, and find zeros.
    """
    step = _VECTOR // dtype.itemsize
    starts = np.cumsum(lengths) - lengths
    groups, parts = [], []
    for texts in _groups(lengths, n_heads, step):
        longest = int(lengths[texts[0]])
        n_queries, n_keys = 1 if first else longest, _up(longest, step)
        at, n = (texts, np.ones_like(texts)) if first else (starts[texts], lengths[texts])
        parts.append(
            (_rows(at, n, n_queries, n_heads), _rows(starts[texts], lengths[texts], n_keys, n_heads))
        )
        groups.append(_group(lengths[texts], n_heads, n_queries, n_keys, window, dtype))
    n_rows = (int(lengths.sum()) + n_filler) * n_heads
    n_asking = len(lengths) * n_heads if first else n_rows
    (queries, are_queries), (keys, are_keys) = (
        (np.concatenate([side[0] for side in column]), np.concatenate([side[1] for side in column]))
        for column in zip(*parts, strict=True)
    )
    return Layout(
        groups,
        torch.from_numpy(queries),
        torch.from_numpy(keys),
        _inverse(queries, are_queries, n_asking),
        _inverse(keys, are_keys, n_rows),
        torch.from_numpy(np.flatnonzero(~are_queries)),
    )


def _groups(lengths: np.ndarray, n_heads: int, step: int) -> Iterator[np.ndarray]:
    """Cut the texts, longest first, where a group would waste too many scores."""
    order = np.argsort(-lengths, kind="stable")
    scores = n_heads * lengths[order] * (-(-lengths[order] // step) * step)
    start = waste = 0
    for i in range(1, len(order)):
        waste += int(scores[start] - scores[i])
        if waste > _WASTE:
            yield order[start:i]
            start, waste = i, 0
    yield order[start:]


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _rows(starts: np.ndarray, lengths: np.ndarray, n: int, n_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the batch in the order (text, head, position), and which of them stand at a token."""
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


def _group(
    lengths: np.ndarray, n_heads: int, n_queries: int, n_keys: int, window: int | None, dtype: torch.dtype
) -> Group:
    whole = None
    n_scores = len(lengths) * n_heads * n_queries * n_keys
    in_windows = window is not None and n_queries > WINDOWS * window
    if n_scores <= _MOST_SCORES.get(dtype, _MOST_SCORES_ELSE) and not in_windows:
        every = slice(None)
        whole = Block(every, every, every, _bias(lengths, (0, n_queries), (0, n_keys), window, dtype))
    return Group(lengths, n_heads, n_queries, n_keys, window, dtype, whole)


def _bias(
    lengths: np.ndarray,
    queries: tuple[int, int],
    keys: tuple[int, int],
    window: int | None,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """Zero where a query may look, -inf elsewhere; None if all may look everywhere.

    Queries and keys are those from one position to another. Every row has a zero, so that no softmax is taken
    over nothing.
    """
    columns = np.arange(*keys)
    seen = (columns < lengths[:, None])[:, None]  # (n_texts, 1, n_keys)
    if window is not None and window < max(queries[1] - keys[0], keys[1] - queries[0]):
        distance = np.abs(np.arange(*queries)[:, None] - columns)
        seen = (seen & (distance < window)) | (distance == 0)
    if seen.all():
        return None
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return bias[:, None]
