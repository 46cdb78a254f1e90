"""A tokenizer from JSON that anyone may have written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skbert.data.template import Template
from skbert.exceptions import PersistenceError, is_panic
from skbert.pretrained import checkpoints
from skbert.pretrained.tokenizer_json import fatal
from skbert.signal_errors import raise_if_of_a_handler

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
    try:
        tokenizer = checkpoints.new_tokenizer(json.dumps(content))
        n_special = Template.read(tokenizer, n_texts).n_special
    except MemoryError:
        raise
    except BaseException as error:  # the tokenizers package raises no narrower one
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if isinstance(error, Exception):
            raise_if_of_a_handler(error)
        raise PersistenceError(f"its tokenizer cannot be read ({str(error)[:200]}).") from error
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
