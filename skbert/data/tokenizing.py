"""From strings to raw token ids, in memory that does not grow with the length of a text.

1. Texts go to the raw `tokenizers.Tokenizer` in chunks of bounded size. It holds no state that a call
   changes, so many threads may share it. A lone surrogate, which has no UTF-8 form, is read as U+FFFD.
2. A very long text goes in pieces, cut where a word begins, if there is such a place. If only the first
   tokens are needed, only as many pieces are read as these take.
3. The seam between two pieces gets the tokens that its surroundings have when tokenized as a whole, so that
   the ids are those of the whole text, even if a word is longer than a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from skbert.data import literal
from skbert.exceptions import CheckpointError, is_panic
from skbert.ragged import offsets_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS = 1024  # texts per call to the tokenizer: enough to feed its threads
_PIECE = 1 << 18  # characters per call to the tokenizer, which needs some hundred bytes for each
_CHARACTERS_PER_TOKEN = 16  # a first piece has this many times the tokens that are needed
_CONTEXT = 256  # characters on each side of a seam that decide on its tokens


def tokenize(tokenizer: Tokenizer, texts: list[str], needed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Split texts into token ids, without special tokens.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    texts : list of str
    needed : int or None
        Least number of leading ids to return for each text; None for all.

    Returns
    -------
    ids : ndarray of shape (n_tokens,), int32
    offsets : ndarray of shape (n_texts + 1,), int64
        The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.
    """
    longest = longest_whole(needed)
    parts: list[tuple[np.ndarray, list[int]]] = []  # ids of some texts end to end, and how many each has
    for call in _calls(texts, longest):
        if len(call[0]) > longest:
            ids = _ids_of_long(tokenizer, call[0], needed, longest)
            parts.append((ids, [len(ids)]))
        else:
            parts.append(_ids(tokenizer, call))
    lengths = np.fromiter(chain.from_iterable(own for _, own in parts), dtype=np.int64, count=len(texts))
    none = np.empty(0, dtype=np.int32)
    return np.concatenate([none, *(ids for ids, _ in parts)]), offsets_of(lengths)


def _calls(texts: list[str], longest: int) -> Iterator[list[str]]:
    """Cut the texts into calls to the tokenizer; a text longer than `longest` is a call of its own."""
    for start in range(0, len(texts), _TEXTS):
        chunk = texts[start : start + _TEXTS]
        sizes = list(map(len, chunk))
        if max(sizes) <= longest and sum(sizes) <= _PIECE:
            yield chunk
            continue
        first = size = 0
        for i in range(len(chunk)):
            if i > first and (size + sizes[i] > _PIECE or max(sizes[i - 1 : i + 1]) > longest):
                yield chunk[first:i]
                first, size = i, 0
            size += sizes[i]
        yield chunk[first:]


def longest_whole(needed: int | None) -> int:
    """Characters of the longest text that goes to the tokenizer whole."""
    return _PIECE if needed is None else min(_PIECE, max(needed * _CHARACTERS_PER_TOKEN, 16 * _CONTEXT))


def _ids(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, list[int]]:
    """Ids of texts end to end, and how many each has."""
    try:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except TypeError:
        texts = [_repaired(text) for text in texts]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except BaseException as error:
        if is_panic(error):
            raise CheckpointError(f"The checkpoint's tokenizer failed on a text ({error}).") from error
        raise
    rows = [encoding.ids for encoding in encodings]
    ids, lengths = _end_to_end(rows)
    if not tokenizer.encode_special_tokens:  # somebody has set this: special tokens in texts are to be found
        return ids, lengths
    special = literal.special_ids(tokenizer)
    if not np.isin(ids, special).any():
        return ids, lengths
    found = [number for number, row in enumerate(rows) if np.isin(row, special).any()]
    mended = literal.without_special(tokenizer, [texts[number] for number in found])
    for number, row in zip(found, mended, strict=True):
        rows[number] = row
    return _end_to_end(rows)


def _end_to_end(rows: list[list[int]]) -> tuple[np.ndarray, list[int]]:
    """One array for all texts: one per text would take longer than the ids in it."""
    lengths = list(map(len, rows))
    return np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=sum(lengths)), lengths


def _ids_of_one(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return _ids(tokenizer, [text])[0]


def _repaired(text: str) -> str:
    """The text with surrogate pairs joined, and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _ids_of_long(tokenizer: Tokenizer, text: str, needed: int | None, size: int) -> np.ndarray:
    """Ids of a text that is read in pieces, the first of them of at most `size` characters."""
    text = _repaired(text)  # as a whole: a surrogate pair must not be cut
    rows = [np.empty(0, dtype=np.int32)]
    start = n_ids = 0
    while start < len(text):
        stop = _end_of_piece(text, start, size)
        left, right = rows.pop(), _ids_of_one(tokenizer, text[start:stop])
        if start > 0:
            left, right = _seam(tokenizer, (left, right), text, start)
        rows += [left, right] if len(right) else [left]
        n_ids += len(left) if len(right) else 0
        unsure = 0 if text[stop : stop + 1].isspace() else 4 * _CONTEXT  # ids that the next seam may change
        if needed is not None and n_ids + len(right) > needed + unsure:
            break
        start, size = stop, min(2 * size, _PIECE)
    return np.concatenate(rows)


def _end_of_piece(text: str, start: int, size: int) -> int:
    """Where a piece ends: before the spaces between two words in its second half, or after `size` characters.

    Before all of the spaces: some tokenizers have tokens for several, or read them as one.
    """
    if start + size >= len(text):
        return len(text)
    middle = start + size // 2
    space = text.rfind(" ", middle, start + size)
    words = text[middle : max(space, middle)].rstrip()
    return middle + len(words) if words else start + size


def _seam(
    tokenizer: Tokenizer, rows: tuple[np.ndarray, np.ndarray], text: str, place: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids left and right of a seam, as they are in the text as a whole; tried with ever more context.

    If the tokenizer takes long runs of spaces or very long words as one thing, a short context is not enough.
    """
    for context in (_CONTEXT, 4 * _CONTEXT, 16 * _CONTEXT):
        before, after = text[max(place - context, 0) : place], text[place : place + context]
        mended = _mended(tokenizer, rows, before, after)
        if mended is not None:
            return mended
    return rows


def _mended(
    tokenizer: Tokenizer, rows: tuple[np.ndarray, np.ndarray], before: str, after: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """The ids left and right of a seam; None if `before` and `after` alone do not have the ids of `rows`."""
    left, right = rows
    ends, begins, whole = (_ids_of_one(tokenizer, part) for part in (before, after, before + after))
    head = _n_equal(ends, whole)  # ids of `before` that do not change when `after` follows
    tail = _n_equal(begins[::-1], whole[head:][::-1])
    lost_left, lost_right = len(ends) - head, len(begins) - tail
    if not (np.array_equal(ends[head:], left[len(left) - lost_left :])):
        return None  # or the seam before this one has changed them: there is no word in sight
    if not np.array_equal(begins[:lost_right], right[:lost_right]):
        return None
    middle = whole[head : len(whole) - tail]
    return np.concatenate([left[: len(left) - lost_left], middle]), right[lost_right:]


def _n_equal(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the beginning that two arrays share."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
