"""Special tokens that occur in a text are read as plain text: "</s>" is four characters.

`encode_special_tokens` keeps tokenizers from looking for special tokens in a text. But if the vocabulary
holds them as pieces, as that of XLM-R does (a Unigram model that took over SentencePiece's control symbols),
they are found like any other piece. SentencePiece itself never does that, and "<s>" is also an HTML tag.

1. `special_ids` gives the ids that must not occur in a text.
2. `without_special` gives the ids of a text in which some would occur, from a twin of the tokenizer whose
   vocabulary lacks these pieces.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNKNOWN = ("[UNK]", "<unk>")  # tokenizers' names for what they do not know


def unknown_tokens(tokenizer: Tokenizer) -> set[str]:
    """The tokens that stand for everything that the tokenizer does not know."""
    own = getattr(tokenizer.model, "unk_token", None)
    return {*_UNKNOWN} if own is None else {*_UNKNOWN, own}


def special_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Ids that no text may have: those of all special tokens except the unknown token."""
    unknown = unknown_tokens(tokenizer)
    added = tokenizer.get_added_tokens_decoder().items()
    return np.array([i for i, token in added if token.special and token.content not in unknown], np.int32)


def without_special(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of texts in which special tokens occur, reading them like any other characters."""
    twin, ids = _twin(tokenizer.to_str(), tuple(special_ids(tokenizer).tolist()))
    encodings = twin.encode_batch_fast(texts, add_special_tokens=False)
    return [[ids[found] for found in encoding.ids] for encoding in encodings]


@lru_cache(maxsize=4)  # a large vocabulary takes a second
def _twin(content: str, special: tuple[int, ...]) -> tuple[Tokenizer, dict[int, int]]:
    """A tokenizer whose vocabulary lacks special tokens, and a dict from its ids to those of the original."""
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(content)
    names = {whole.id_to_token(number) for number in special}
    state = json.loads(content)
    state["post_processor"] = None
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
    model: dict[str, Any] = state["model"]
    if isinstance(model["vocab"], dict):
        # Renumbered without gaps: added tokens get the numbers from the size of the vocabulary on.
        kept = (name for name in model["vocab"] if name not in names)
        model["vocab"] = {name: number for number, name in enumerate(kept)}
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if names.isdisjoint({*pair, "".join(pair)})]
    else:  # Unigram: an id is a position
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]]
        if unknown is not None:
            names.discard(unknown[0])  # special, too, where `unknown_tokens` does not know its name
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] not in names]
        model["unk_id"] = None if unknown is None else model["vocab"].index(unknown)
    twin = Tokenizer.from_str(json.dumps(state))
    twin.encode_special_tokens = True
    vocabulary = whole.get_vocab()
    return twin, {number: vocabulary[name] for name, number in twin.get_vocab().items()}
