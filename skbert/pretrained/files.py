"""Names of the files that a checkpoint's folder may hold."""

from __future__ import annotations

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # what is read of a checkpoint
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
MODULES, POOLING = "modules.json", "1_Pooling/config.json"  # of sentence-transformers, and how it pools
TOKENIZING = "sentence_*_config.json"  # of sentence-transformers: how it tokenizes
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # which part has which weight, where there are several
ADAPTER = "adapter_config.json"  # transformers puts the adapter that it describes into the model
