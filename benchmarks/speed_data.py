"""What the speed benchmark works on: real texts with MiniLM, or synthetic ones with random weights.

The synthetic kind needs no file at all. Its texts are words of a vocabulary made here, one token each, so
that the lengths in tokens are those drawn; a third of each text's words come from a part of the vocabulary
that tells its class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import embedded_checkpoint, load_dataset, row_subset

MAX_LENGTH = 256
N_CLASSES = 4
SIZES = {  # BERT configs of the synthetic models
    "base": {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256},
}
VOCABULARY = {"base": 30522, "tiny": 2048}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True, eq=False)
class Workload:
    """Texts, labels and a checkpoint: what both systems of a pair get."""

    name: str
    X_train: pd.DataFrame  # one text column, or two
    y_train: np.ndarray
    X_test: pd.DataFrame
    y_test: np.ndarray
    checkpoint: Path
    batch_size: int = 16
    epochs: int = 1
    learning_rate: float = 1e-4
    max_length: int = MAX_LENGTH

    def head(self, n_rows: int) -> Workload:
        """The same with the first training rows only."""
        return replace(self, X_train=self.X_train.iloc[:n_rows], y_train=self.y_train[:n_rows])

    def lengths(self, texts: pd.DataFrame) -> np.ndarray:
        """Tokens of each text after truncation, special ones included."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.checkpoint / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        columns = [texts[column].tolist() for column in texts]
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch_fast(rows)])


def real_workload(
    folder: Path, name: str, n_train: int, n_test: int, checkpoint: Path | None = None
) -> Workload:
    """Rows of a data set on disk, drawn with seed 0, for the embedded MiniLM or another checkpoint."""
    dataset = load_dataset(folder, name)
    train = np.random.default_rng(0).permutation(row_subset(dataset, n_train, seed=0))
    test = np.sort(np.random.default_rng(0).permutation(len(dataset.y_test))[:n_test])
    return Workload(
        name,
        dataset.X_train.iloc[train].reset_index(drop=True),
        dataset.y_train[train],
        dataset.X_test.iloc[test].reset_index(drop=True),
        dataset.y_test[test],
        checkpoint or embedded_checkpoint(),
    )


def synthetic_workload(name: str, n_train: int, n_test: int, checkpoint: Path) -> Workload:
    """Texts whose lengths are spread as in agnews ("agnews-like") or far more widely ("long-tail")."""
    rng = np.random.default_rng(0)
    n_words = len((checkpoint / "vocab.txt").read_text(encoding="utf-8").splitlines()) - len(SPECIALS)
    parts = []
    for n_rows in (n_train, n_test):
        codes = rng.integers(N_CLASSES, size=n_rows)
        texts = [
            _text(rng, n, code, n_words) for n, code in zip(_lengths(rng, name, n_rows), codes, strict=True)
        ]
        parts += [pd.DataFrame({"text": texts}), codes.astype(str)]
    return Workload(name, *parts, checkpoint, batch_size=32, learning_rate=5e-5)


def _lengths(rng: np.random.Generator, name: str, n_rows: int) -> np.ndarray:
    """Words per text; two special tokens come on top."""
    if name == "agnews-like":  # mean 53 tokens, standard deviation 18, skewed to the right
        tokens = 18 + rng.gamma(3.8, 9.2, n_rows)
    elif name == "long-tail":  # mean 0.4 of the longest: exponential, cut there
        tokens = rng.exponential(0.445 * MAX_LENGTH, n_rows)
    else:  # "short"
        tokens = rng.integers(6, 10, n_rows)
    return np.clip(tokens.round().astype(int), 4, MAX_LENGTH) - 2


def _text(rng: np.random.Generator, n: int, code: int, n_words: int) -> str:
    share = n_words // (10 * N_CLASSES)  # of the vocabulary that belongs to one class
    telling = rng.integers(share, size=n) + code * share
    others = rng.integers(n_words, size=n)
    chosen = np.where(rng.random(n) < 1 / 3, telling, others)
    return " ".join(_word(i) for i in chosen)


def _word(number: int) -> str:
    """A word of four letters for each number."""
    letters = ""
    for _ in range(4):
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return letters


def make_checkpoint(folder: Path, size: str) -> Path:
    """Save a BERT of random weights, and a tokenizer whose words are one token each."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    words = [_word(i) for i in range(VOCABULARY[size] - len(SPECIALS))]
    vocabulary = [*SPECIALS, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), **SIZES[size])
    transformers.BertModel(config).save_pretrained(folder)
    return folder
