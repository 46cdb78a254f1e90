"""Large inputs, a bounded part at a time: the next part is tokenized while the model works on this one.

1. The rows are cut into windows, and each distinct text of a window is kept once.
2. These texts are cut into chunks. Even for a million texts, no more than two chunks' tokens are in memory.
3. `encode_in_chunks` encodes each chunk in a thread, one chunk ahead: tokenizers release Python's global
   interpreter lock, so that the model does not wait for them.
4. `results_of_rows` runs the model over each chunk, and gives every row of a window its text's result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from skbert.caching.cache import Cache
from skbert.data.encoding import Encodings, LongText, encode
from skbert.data.inputs import Texts, unique_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS = 16_384  # in a chunk: almost as good to sort by length as all texts; some ten megabytes of tokens
_ROWS = 131_072  # in a window: bounds what it takes to find equal texts, too


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some distinct texts, encoded."""

    encodings: Encodings
    # Only in the last chunk of a window: the place of each row's text among the window's distinct texts.
    places: np.ndarray | None


def encode_in_chunks(
    tokenizer: Tokenizer, texts: Texts, max_length: int, long_text: LongText, cache: Cache | None = None
) -> Generator[Chunk, None, None]:
    """Yield the distinct texts, encoded; parameters as in `encode`.

    Close the generator when done: its thread lives as long as it does, and a traceback may keep it alive.
    """

    def encoded(chunk: Texts, places: np.ndarray | None) -> Chunk:
        return Chunk(encode(tokenizer, chunk, max_length, long_text, cache), places)

    jobs = (partial(encoded, *chunk) for chunk in _chunks(texts))
    if len(texts) <= _TEXTS:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = _begin(next(jobs), thread)
        for job in jobs:
            ready, coming = coming(), _begin(job, thread)
            yield ready
        yield coming()


def _begin(job: Callable[[], Chunk], thread: ThreadPoolExecutor) -> Callable[[], Chunk]:
    """Start a job in the thread; returns a function that waits for it, or the job itself as Python ends."""
    try:
        return thread.submit(job).result
    except RuntimeError:
        return job


def _chunks(texts: Texts) -> Iterator[tuple[Texts, np.ndarray | None]]:
    for begin in range(0, len(texts), _ROWS):
        unique, places = unique_texts(texts.take(range(begin, min(begin + _ROWS, len(texts)))))
        for start in range(0, len(unique), _TEXTS):
            end = min(start + _TEXTS, len(unique))
            yield unique.take(range(start, end)), places if end == len(unique) else None


def results_of_rows(
    chunks: Iterable[Chunk], n_rows: int, run: Callable[[Encodings], np.ndarray]
) -> np.ndarray:
    """Results of `run` for the text of each row, in the order of the rows.

    Parameters
    ----------
    chunks : iterable of Chunk
    n_rows : int
    run : callable
        Encodings → one row of results per text.

    Returns
    -------
    ndarray of shape (n_rows, ...)
        In the shape and dtype of what `run` gives.
    """
    results: np.ndarray | None = None
    parts: list[np.ndarray] = []
    n_done = 0
    for chunk in chunks:
        parts.append(run(chunk.encodings))
        if chunk.places is None:
            continue
        rows = np.concatenate(parts)[chunk.places]
        if len(rows) == n_rows:
            return rows
        if results is None:
            results = np.empty((n_rows, *rows.shape[1:]), dtype=rows.dtype)
        results[n_done : n_done + len(rows)] = rows
        parts, n_done = [], n_done + len(rows)
    assert results is not None
    return results
