"""What a tokenizer.json must not hold: it makes the tokenizers package end the process without an error."""

from __future__ import annotations

from typing import Any

_LONGEST = 1_000  # characters of a piece; vocabularies have some dozens at most


def fatal(content: dict[str, Any]) -> str | None:
    """What is wrong with a tokenizer, if the process would not survive it.

    Raises
    ------
    AttributeError, KeyError, TypeError
        If `content` is not a tokenizer.
    """
    model = content["model"]
    vocabulary = model.get("vocab", ())
    # A Unigram model has a tree with a level for each byte, which is freed recursively.
    if isinstance(vocabulary, list) and any(len(piece[0]) > _LONGEST for piece in vocabulary):
        return f"has a piece of more than {_LONGEST} characters"
    prefix = model.get("continuing_subword_prefix")
    for merge in model.get("merges", ()) if prefix else ():
        second = merge.rpartition(" ")[2] if isinstance(merge, str) else merge[1]
        # The prefix would be cut off unchecked, even in the middle of a character.
        if not second.startswith(prefix):
            return f"merges {second[:20]!r}, which lacks the prefix {prefix[:20]!r}"
    return None
