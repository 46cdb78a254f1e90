"""From texts to token ids, ragged: one flat int32 array and offsets, never padded.

1. The raw tokenizer splits texts into ids, without special tokens and without truncation (`tokens.py`).
2. A text of more than `max_length` tokens keeps its first ones ("head"), its first and last ones
   ("head_tail"), or becomes several rows that overlap by half ("windows"); the longer side of a pair is
   cut first.
3. The checkpoint's special tokens are put around the ids, from a template (`template.py`).

Steps 2 and 3 are array operations over the whole batch of texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skbert.caching.cache import Cache
from skbert.data.inputs import Texts
from skbert.data.template import Template
from skbert.data.tokens import token_ids
from skbert.exceptions import CheckpointError, InputError
from skbert.ragged import offsets_of, ragged_arange, runs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LongText = Literal["head", "head_tail", "windows"]


@dataclass(frozen=True, slots=True)
class Encodings:
    """Token ids of many rows, ragged; a text is one row, or several if it was cut into windows.

    Row i is `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: np.ndarray  # (n_tokens,) int32
    offsets: np.ndarray  # (n_rows + 1,) int64
    segments: np.ndarray  # (n_tokens,) int8: 0 in the first text of a pair, 1 in the second
    owners: np.ndarray  # (n_rows,) int64, ascending: the text that each row belongs to
    truncated: np.ndarray  # (n_texts,) bool: some tokens of the text are in no row
    frozen: tuple[np.ndarray, ...] | None = None  # outputs of frozen layers for each row (`frozen.py`)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, special ones included; shape (n_rows,), int64."""
        return np.diff(self.offsets)

    def check_ids(self, n_ids: int) -> None:
        """Refuse ids beyond an encoder's table of `n_ids` rows: on a GPU they would be fatal."""
        if len(self.ids) and int(self.ids.max()) >= n_ids:
            raise CheckpointError(
                f"The tokenizer gives the token id {self.ids.max()}, but the encoder has embeddings for "
                f"{n_ids} ids: tokens were added to the tokenizer but not to the model. In transformers, "
                "call model.resize_token_embeddings(len(tokenizer)), then save both again."
            )

    def take(self, rows: np.ndarray) -> Encodings:
        """The given rows, in that order, each as a text of its own."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts  # not those of all rows: this runs at every step
        tokens = ragged_arange(starts, lengths)
        return Encodings(
            ids=self.ids[tokens],
            offsets=offsets_of(lengths),
            segments=self.segments[tokens],
            owners=np.arange(len(rows)),
            truncated=self.truncated[self.owners[rows]],
            frozen=None if self.frozen is None else tuple(self.frozen[row] for row in rows),
        )

    def average_windows(self, values: np.ndarray) -> np.ndarray:
        """Mean over the rows of each text: (n_rows, width) → (n_texts, width)."""
        if len(self.truncated) == len(self):
            return values
        firsts, counts = runs(self.owners)
        return np.add.reduceat(values, firsts, axis=0) / counts[:, None].astype(values.dtype)


def encode(
    tokenizer: Tokenizer,
    texts: Texts,
    max_length: int,
    long_text: LongText = "head",
    cache: Cache | None = None,
) -> Encodings:
    """Encode texts or pairs.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Without truncation and padding, `encode_special_tokens` set.
    texts : Texts
    max_length : int
        Tokens per row at most, special ones included.
    long_text : {"head", "head_tail", "windows"}
        How longer texts are read.
    cache : Cache, default=None
        Where ids of texts may be found, or are to be kept.

    Notes
    -----
    Of a long text, "head" reads no more than `max_length` tokens. So if both sides of a pair are that long
    and an odd number of tokens is left for them, the odd one may go to the shorter side.
    """
    template = Template.read(tokenizer, texts.n_columns)
    budget = max_length - template.n_special
    needed = max_length if long_text == "head" else None
    columns = [texts.first] if texts.second is None else [texts.first, texts.second]
    sides = [token_ids(tokenizer, column, needed, cache) for column in columns]
    lengths = np.stack([np.diff(offsets) for _, offsets in sides])  # (n_sides, n_texts)
    kept = truncate_longest_first(lengths, budget)
    if template.n_special == 0:
        _refuse_texts_of_nothing(texts, kept)
    # Where texts are not cut into windows, each is one row, as if all of it were kept.
    owners, starts = _windows(lengths, kept if long_text == "windows" else lengths)
    kept_of_rows = kept[:, owners]
    heads = kept_of_rows // 4 if long_text == "head_tail" else kept_of_rows
    truncated = kept < lengths
    if long_text == "windows":  # the windows hold all of the longer side
        truncated[np.argmax(lengths, axis=0), np.arange(len(texts))] = False
    spans = [
        _Span(ids, offsets[owners] + start, head, kept_of_row, offsets[owners] + length[owners])
        for (ids, offsets), start, head, kept_of_row, length in zip(
            sides, starts, heads, kept_of_rows, lengths, strict=True
        )
    ]
    ids, segments, row_offsets = _assemble(spans, template)
    return Encodings(ids, row_offsets, segments, owners, np.any(truncated, axis=0))


def _refuse_texts_of_nothing(texts: Texts, kept: np.ndarray) -> None:
    empty = np.flatnonzero(kept.sum(axis=0) == 0)
    if len(empty):
        raise InputError(
            f"The text {str(texts.rows[empty[0]])[:60]!r} has no tokens, and the checkpoint's tokenizer adds "
            "no special tokens, so there is nothing to read. Leave such texts out."
        )


@dataclass(frozen=True, slots=True)
class _Span:
    """What each row takes from one side: `head` tokens from `start` on, and the others up to `end`."""

    ids: np.ndarray
    start: np.ndarray  # (n_rows,)
    head: np.ndarray
    kept: np.ndarray
    end: np.ndarray  # of the side's tokens; read only where head < kept


def _windows(lengths: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Owners and starts of windows over the side that lost most, each half a window after the one before.

    The last window ends with the text. The other side of a pair is the same in every window.
    """
    n_texts = lengths.shape[1]
    side = np.argmax(lengths, axis=0), np.arange(n_texts)
    surplus, steps = (lengths - kept)[side], np.maximum(1, kept[side] // 2)
    n_windows = 1 + -(-surplus // steps)
    owners = np.repeat(np.arange(n_texts), n_windows)
    number = ragged_arange(np.zeros_like(n_windows), n_windows)
    starts = np.zeros((len(lengths), len(owners)), dtype=np.int64)
    starts[side[0][owners], np.arange(len(owners))] = np.minimum(number * steps[owners], surplus[owners])
    return owners, starts


def truncate_longest_first(lengths: np.ndarray, budget: int) -> np.ndarray:
    """Tokens to keep of each side, the longer side of a pair cut first.

    Does what `tokenizers` calls "longest_first", for all rows at once.

    Parameters
    ----------
    lengths : ndarray of shape (n_sides, n_texts)
    budget : int
        Tokens that all sides of a text may have together.

    Returns
    -------
    ndarray of shape (n_sides, n_texts)
    """
    if len(lengths) == 1:
        return np.minimum(lengths, budget)
    first, second = lengths
    small = np.minimum(first, second)
    # The shorter side stays whole while it needs at most half; if both need more, they share, and the
    # odd token goes to the longer side (the second, if they are equal).
    small_kept = np.minimum(small, budget // 2)
    large_kept = np.minimum(np.maximum(first, second), budget - small_kept)
    first_is_longer = first > second
    return np.stack(
        [
            np.where(first_is_longer, large_kept, small_kept),
            np.where(first_is_longer, small_kept, large_kept),
        ]
    )


def _assemble(spans: list[_Span], template: Template) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay specials and kept tokens next to each other: (ids, segments, offsets)."""
    lengths = np.sum([span.kept for span in spans], axis=0) + template.n_special
    offsets = offsets_of(lengths)
    ids = np.empty(offsets[-1], dtype=np.int32)
    segments = np.empty(offsets[-1], dtype=np.int8)
    cursor = offsets[:-1].copy()
    for number, specials in enumerate(template.specials):
        for special, segment in zip(specials, template.special_segments[number], strict=True):
            ids[cursor] = special
            segments[cursor] = segment
            cursor += 1
        if number < len(spans):
            span = spans[number]
            tail = span.kept - span.head
            for start, length in ((span.start, span.head), (span.end - tail, tail)):
                target = ragged_arange(cursor, length)
                ids[target] = span.ids[ragged_arange(start, length)]
                segments[target] = template.text_segments[number]
                cursor += length
    return ids, segments, offsets
