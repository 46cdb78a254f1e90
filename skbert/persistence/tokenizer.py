"""A tokenizer from JSON that anyone may have written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skbert.data.template import Template
from skbert.exceptions import PersistenceError
from skbert.pretrained import checkpoints
from skbert.pretrained.reading import naming
from skbert.pretrained.tokenizer_json import fatal

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def build_tokenizer(content: Any, n_texts: int, max_length: int) -> Tokenizer:
    """The tokenizer that a file describes, if it can frame single texts (1) or pairs (2) of that length.

    Raises
    ------
    PersistenceError, KeyError, TypeError, AttributeError
        If `content` describes none.
    """
    check_tokenizer(content)
    with naming("its tokenizer", PersistenceError):
        tokenizer = checkpoints.new_tokenizer(json.dumps(content))
        n_special = Template.read(tokenizer, n_texts).n_special
    if n_special >= max_length:
        raise PersistenceError(
            f"its tokenizer adds {n_special} special tokens, but max_length_ is {max_length}."
        )
    return tokenizer


def check_tokenizer(content: Any) -> None:
    """Refuse what makes the tokenizers package do more than read texts, or end the process."""
    if content.get("truncation") is not None or content.get("padding") is not None:
        raise PersistenceError(
            "the tokenizer truncates or pads, which skbert does itself: call its no_truncation() and "
            "no_padding()."
        )
    wrong = fatal(content)
    if wrong is not None:
        raise PersistenceError(f"the tokenizer {wrong}.")
