"""From strings to raw token ids: split by the tokenizer, or found in the cache.

1. `tokenizing.tokenize` asks the tokenizer, a chunk of texts at a time.
2. Ids of texts that a fit has split before come from the cache, by the text's content and the tokenizer's.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from skbert.caching.cache import Cache, digest
from skbert.data.tokenizing import longest_whole, tokenize
from skbert.ragged import end_to_end

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RULES = 2  # version of the rules in `tokenizing`; changes when they give other ids, for folders on disk
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
        Least number of leading ids to return for each text; None for all.
    cache : Cache or None

    Returns
    -------
    ids : ndarray of shape (n_tokens,), int32
    offsets : ndarray of shape (n_texts + 1,), int64
        The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.
    """
    if cache is None or not cache.helps("tokens", len(texts)) or not (cache.grows or len(texts) >= _FEW):
        return tokenize(tokenizer, texts, needed)

    def compute(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tokenize(tokenizer, [texts[place] for place in places], needed)

    # Hashed each time: if somebody has changed a tokenizer, the ids are those of the changed one.
    made_by = f"{_RULES} {_version()} {tokenizer.encode_special_tokens} {tokenizer.to_str()}"
    space = f"tokens-{digest(made_by.encode()).hex()}"
    keys = [_text_key(text, needed) for text in texts]
    return end_to_end(cache.rows(space, keys, compute, np.empty(0, dtype=np.int32)))


@cache
def _version() -> str:
    return version("tokenizers")


def _text_key(text: str, needed: int | None) -> bytes:
    """A digest of the text and, if it is very long, of how much of it is needed."""
    if needed is None or len(text) <= longest_whole(needed):
        needed = 0
    return digest(text.encode("utf-8", "surrogatepass"), needed)
