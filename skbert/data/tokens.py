"""From strings to raw token ids: split by the tokenizer, or found in the cache.

1. The raw `tokenizers.Tokenizer` splits texts, a chunk at a time. It holds no state that a call changes, so
   many threads may share it.
2. Of very long texts only a beginning is split where only that is needed.
3. Ids of texts that a fit has split before come from the cache, by the text's content and the tokenizer's.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from skbert.caching.cache import Cache, digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHUNK = 1024  # texts a call to the tokenizer: enough to feed its threads, little to hold in memory
_CHARACTERS_PER_TOKEN = 16  # a text is first cut after max_length times this many characters
_FEW = 100  # texts that are split in the time it takes to hash the tokenizer


def token_ids(
    tokenizer: Tokenizer, texts: list[str], needed: int | None, cache: Cache | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of texts, without special tokens.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    texts : list of str
    needed : int or None
        Ids of each text that are given at least; None: all.
    cache : Cache or None

    Returns
    -------
    ids : ndarray of shape (n_tokens,), int32
    offsets : ndarray of shape (n_texts + 1,), int64
        The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.
    """
    if cache is None or not cache.helps("tokens", len(texts)) or not (cache.grows or len(texts) >= _FEW):
        return _split(tokenizer, texts, needed)

    def compute(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _split(tokenizer, [texts[place] for place in places], needed)

    # Hashed each time: whoever has changed a tokenizer gets the ids of the changed one.
    made_by = f"{_version()} {tokenizer.encode_special_tokens} {tokenizer.to_str()}"
    space = f"tokens-{digest(made_by.encode()).hex()}"
    keys = [_text_key(text, needed) for text in texts]
    rows = cache.rows(space, keys, compute, np.empty(0, dtype=np.int32), _CHUNK)
    return np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])])


@cache
def _version() -> str:
    return version("tokenizers")


def _text_key(text: str, needed: int | None) -> bytes:
    """A digest of the text; of a very long one, and of how much of it is needed."""
    cut = needed is not None and len(text) > needed * _CHARACTERS_PER_TOKEN
    return digest(text.encode("utf-8", "surrogatepass"), needed or 0 if cut else 0)


def _split(tokenizer: Tokenizer, texts: list[str], needed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Token ids without specials: flat int32 ids and offsets; `needed` of each text at least, None: all."""
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        if needed is not None:
            chunk = [_beginning(tokenizer, text, needed) for text in chunk]
        rows = _encode_chunk(tokenizer, chunk)
        lengths.extend(map(len, rows))
        parts.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return np.concatenate(parts), offsets


def _encode_chunk(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    try:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except TypeError:
        # A str with lone surrogates has no UTF-8 form; surrogate pairs are joined, lone ones become U+FFFD.
        repaired = [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts]
        encodings = tokenizer.encode_batch_fast(repaired, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _beginning(tokenizer: Tokenizer, text: str, max_length: int) -> str:
    """A beginning of a very long text that already has more than `max_length` tokens.

    Cut at a space, where tokenizers begin a word anyway, so that the tokens kept are those of the whole
    text, at a cost that does not grow with it.
    """
    size = max_length * _CHARACTERS_PER_TOKEN
    while len(text) > size:
        cut = text.rfind(" ", 0, size)
        if cut > 0 and len(_encode_chunk(tokenizer, [text[:cut]])[0]) > max_length:
            return text[:cut]
        size *= 2
    return text
