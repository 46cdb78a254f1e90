"""Large inputs, a bounded part at a time: the next part is tokenized while the model works on this one.

1. The texts are cut into chunks. A million texts never hold more than two chunks' tokens.
2. `encode_in_chunks` encodes each chunk in a thread, one chunk ahead: tokenizers let go of Python's lock, so
   that the model does not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from skbert.caching.cache import Cache
from skbert.data.encoding import Encodings, LongText, encode
from skbert.data.inputs import Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS = 16_384  # in a chunk: as good as all to sort by length, and some ten megabytes of tokens


def encode_in_chunks(
    tokenizer: Tokenizer, texts: Texts, max_length: int, long_text: LongText, cache: Cache | None = None
) -> Iterator[Encodings]:
    """Yield the encodings of successive texts; parameters as in `encode`."""
    if len(texts) <= _TEXTS:
        yield encode(tokenizer, texts, max_length, long_text, cache)
        return
    cuts = range(0, len(texts), _TEXTS)
    chunks = (texts.take(range(start, min(start + _TEXTS, len(texts)))) for start in cuts)
    jobs = (partial(encode, tokenizer, chunk, max_length, long_text, cache) for chunk in chunks)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next(jobs))
        for job in jobs:
            ready, coming = coming.result(), thread.submit(job)
            yield ready
        yield coming.result()
