"""The special tokens that a checkpoint puts around texts, read from its tokenizer.

The tokenizer's post-processor frames texts one at a time. `Template.read` calls it once, with short texts, to
learn what comes before, between and after texts; `encoding.py` frames whole batches with that.
A post-processor that does anything else, such as swapping the sides of a pair, is refused: `Template.read`
frames the short texts itself, and the result must equal the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skbert.exceptions import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens that a checkpoint puts before, between and after texts."""

    specials: tuple[np.ndarray, ...]  # one array of ids before each text, and one after the last
    special_segments: tuple[np.ndarray, ...]  # the segment id of each of these
    text_segments: tuple[int, ...]  # the segment id of each text

    @property
    def n_special(self) -> int:
        """Number of special tokens around one text or pair."""
        return sum(map(len, self.specials))

    @classmethod
    def read(cls, tokenizer: Tokenizer, n_texts: int) -> Template:
        """Read the template for single texts (1) or pairs (2) from the tokenizer's post-processor.

        Raises
        ------
        CheckpointError
            If the post-processor does more than put special tokens around texts.
        """
        word = _word(tokenizer)
        texts = [word, f"{word} {word} {word}"][:n_texts]
        encoding = tokenizer.encode(texts[0], texts[1] if n_texts == 2 else None)
        ids, segments, owners = encoding.ids, encoding.type_ids, encoding.sequence_ids
        if not set(range(n_texts)) <= set(owners):
            raise _unknown(encoding.tokens, n_texts)
        firsts = [owners.index(text) for text in range(n_texts)]
        ends = [len(owners) - owners[::-1].index(text) for text in range(n_texts)]
        spans = list(zip([0, *ends], [*firsts, len(ids)], strict=True))
        template = cls(
            specials=tuple(np.array(ids[a:b], dtype=np.int32) for a, b in spans),
            special_segments=tuple(np.array(segments[a:b], dtype=np.int8) for a, b in spans),
            text_segments=tuple(segments[first] for first in firsts),
        )
        raw = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        if template.frame(raw) != (ids, segments):
            raise _unknown(encoding.tokens, n_texts)
        return template

    def frame(self, texts: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """Ids and segments of one text, or of a pair, with the special tokens around."""
        ids, segments = self.specials[0].tolist(), self.special_segments[0].tolist()
        for number, text in enumerate(texts):
            ids += [*text, *self.specials[number + 1].tolist()]
            segments += [self.text_segments[number]] * len(text)
            segments += self.special_segments[number + 1].tolist()
        return ids, segments


def _word(tokenizer: Tokenizer) -> str:
    """A text that has at least one token."""

    def has_a_token(text: str) -> bool:
        return bool(tokenizer.encode(text, add_special_tokens=False).ids)

    if has_a_token("a"):
        return "a"
    word = next(filter(has_a_token, tokenizer.get_vocab()), None)
    if word is None:
        raise CheckpointError(
            "The checkpoint's tokenizer gives no token for any text: its vocabulary or its post_processor is "
            "incomplete. Get the checkpoint again."
        )
    return word


def _unknown(tokens: list[str], n_texts: int) -> CheckpointError:
    what = "a text" if n_texts == 1 else "a pair of texts"
    return CheckpointError(
        f"The checkpoint's tokenizer turns {what} into {tokens[:12]}. Expected each text once, in order, "
        "with special tokens before, between and after them. Change its post_processor, or use another "
        "checkpoint."
    )
