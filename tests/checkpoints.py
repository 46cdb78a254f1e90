"""Tiny random checkpoint folders, one per family of encoders.

Every folder is made from nothing, without a download, and the same bytes come out each time:

1. the tokenizer is built by hand with the `tokenizers` library, of the kind the family uses
   (WordPiece, byte-level BPE, Unigram), from the fixed word list below;
2. the post-processor puts the family's special tokens and segment ids around texts and pairs;
3. the encoder has random weights, drawn in a forked scope of torch's generator.
"""

from __future__ import annotations

import json
from pathlib import Path

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-v2")

PACKED = tuple(family for family in FAMILIES if family != "deberta-v2")
"""Those that run without padding."""

WORDS = (
    "a an and the this that it is was be are not no of to in on at for with by from as but or so "
    "good bad great poor fine nice dull sad happy best worst love hate like film movie story book "
    "cat dog bird fish sun rain snow wind city road sea red blue green white black one two three "
    "four five six ten day night year time man woman child old new big small fast slow hot cold "
    "eat run walk talk read write see hear buy sell money bank card pay price market team game "
    "win lose play ball goal world people country war peace law court very really never always"
).split()
"""The words every tiny tokenizer knows whole; all others fall apart into letters."""

MAX_POSITIONS = 128
"""Tokens a tiny encoder has positions for, special tokens included."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def build_checkpoint(family, folder, *, layers=1, seed=0, masked_lm=False, dropout=0.1):
    """Write a tiny random checkpoint and return its folder.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    folder : path
        Where to; created if needed.
    layers : int
        Transformer layers.
    seed : int
        Seed of the random weights.
    masked_lm : bool
        Save the model with its masked-language head, so that the encoder's weights carry a prefix,
        as most checkpoints on the hub do.
    dropout : float
        Dropout of hidden states and attention.

    Returns
    -------
    folder : pathlib.Path
    """
    import torch
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(family)
    save_tokenizer(tokenizer, family, folder)
    config = build_config(family, tokenizer, layers=layers, dropout=dropout)
    auto = transformers.AutoModelForMaskedLM if masked_lm else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    # Freshly made biases are zero and norms are one: without noise, a bug that drops them is unseen.
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def build_model(folder, pooling="cls", n_outputs=2, dropout=0.1, *, head_layers=0):
    """Return a `SequenceClassifier` on a checkpoint; its head is drawn with the seed 0."""
    import torch

    from skbert.network.model import SequenceClassifier, reset_head
    from skbert.pretrained import checkpoints

    checkpoint = checkpoints.load(str(folder))
    model = SequenceClassifier(
        checkpoint.new_encoder(),
        checkpoint.architecture,
        pooling,
        n_outputs,
        dropout,
        checkpoint.rebuild(),
        head_layers=head_layers,
    )
    reset_head(model, torch.Generator().manual_seed(0))
    return model


def load_tokenizer(folder):
    """Return the tokenizer of a checkpoint, as skbert sets it up."""
    from skbert.pretrained import checkpoints

    return checkpoints.new_tokenizer(checkpoints.load(str(folder)).tokenizer_json)


def build_tokenizer(family):
    """Return the family's kind of `tokenizers.Tokenizer`, made from `WORDS`."""
    return {
        "bert": _word_piece,
        "distilbert": _word_piece,
        "electra": _word_piece,
        "roberta": _roberta_bpe,
        "modernbert": _modernbert_bpe,
        "xlm-roberta": _xlm_unigram,
        "deberta-v2": _deberta_unigram,
    }[family]()


def build_config(family, tokenizer, *, layers=1, dropout=0.1):
    """Return the transformers configuration of a tiny encoder: hidden 32, two heads."""
    import transformers

    common = {
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_token_id": next(
            tokenizer.token_to_id(t) for t in ("[PAD]", "<pad>") if tokenizer.token_to_id(t) is not None
        ),
        "max_position_embeddings": MAX_POSITIONS,
        # Wider than the usual 0.02: a pretrained encoder tells texts apart from the first step on, a freshly
        # made one barely does, and small fits would get stuck.
        "initializer_range": 0.1,
    }
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": layers, "n_heads": 2, "hidden_dim": 64}
        rates = {"dropout": dropout, "attention_dropout": dropout}
        return transformers.DistilBertConfig(**common, **sizes, **rates)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    if family == "modernbert":
        rates = {f"{part}_dropout": dropout for part in ("embedding", "mlp", "attention")}
        special = {
            "bos_token_id": tokenizer.token_to_id("[CLS]"),
            "cls_token_id": tokenizer.token_to_id("[CLS]"),
            "eos_token_id": tokenizer.token_to_id("[SEP]"),
            "sep_token_id": tokenizer.token_to_id("[SEP]"),
        }
        # A short window, so that local and global layers differ on the texts of the tests.
        window = {"local_attention": 16, "global_attn_every_n_layers": 2}
        return transformers.ModernBertConfig(**common, **sizes, **rates, **special, **window)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if family in ("roberta", "xlm-roberta"):
        # Positions are counted from the padding id + 1 on, so the table is two rows longer.
        common["max_position_embeddings"] = MAX_POSITIONS + 2
        special = {"bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
        kind = transformers.RobertaConfig if family == "roberta" else transformers.XLMRobertaConfig
        return kind(**common, **sizes, **rates, **special)
    if family == "electra":
        # Embeddings narrower than the layers, as in the small ELECTRA: a projection in between.
        return transformers.ElectraConfig(**common, **sizes, **rates, embedding_size=16)
    if family == "deberta-v2":
        special = {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_buckets": 8,
            "position_biased_input": False,
            "type_vocab_size": 0,
        }
        return transformers.DebertaV2Config(**common, **sizes, **rates, **special)
    return transformers.BertConfig(**common, **sizes, **rates)


def save_tokenizer(tokenizer, family, folder):
    """Write `tokenizer.json` and the configuration that transformers reads next to it."""
    import transformers

    bert_like = family not in ("roberta", "xlm-roberta")
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    values = (
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        if bert_like
        else ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    )
    inputs = ["input_ids", "attention_mask"]
    if family in ("bert", "electra", "deberta-v2"):
        inputs.insert(1, "token_type_ids")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_POSITIONS,
        model_input_names=inputs,
        **dict(zip(names, values, strict=True)),
    ).save_pretrained(folder)


def for_any_family(folder):
    """Let transformers read the tokenizer of a folder as it is.

    The class that goes with another family would look for files that are not there.
    """
    file = Path(folder) / "tokenizer_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps(stated | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def as_sentence_transformer(folder, pooling="mean"):
    """Add the two files by which a sentence-transformers checkpoint is known, and return the folder."""
    folder = Path(folder)
    kind = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    settings = {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": pooling == "max",
        "pooling_mode_lasttoken": pooling == "lasttoken",
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def drop_tensors(folder, part):
    """Remove all tensors whose name contains `part` from the folder's weights; return their names."""
    from safetensors.torch import load_file, save_file

    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    dropped = [name for name in tensors if part in name]
    kept = {name: tensor.clone() for name, tensor in tensors.items() if name not in dropped}
    save_file(kept, path, metadata={"format": "pt"})
    return dropped


def _word_piece():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = [*_BERT_SPECIALS, *_PUNCTUATION, *_ALPHABET, *(f"##{c}" for c in _ALPHABET), *WORDS]
    # The rows of numbers that test_conformance.py writes as text. Small values of the first columns are
    # words, so that a tiny encoder learns them as fast as it must; "f9bp11" is f9b + ##p11.
    pieces += [f"f{column}b" for column in range(32)]
    pieces += [f"##{sign}{size}" for sign in "mp" for size in range(32)]
    pieces += [f"f{column}b{sign}{size}" for column in range(4) for sign in "mp" for size in range(8)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(_BERT_SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _byte_level_bpe(specials):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict.fromkeys([*specials, *alphabet])
    merges = {}
    for word in WORDS[:60]:
        left = "Ġ"  # a space, as byte-level tokenizers write it
        for letter in word:
            merges[left, letter] = None
            left += letter
            vocabulary[left] = None
    vocabulary = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _roberta_bpe():
    from tokenizers import processors

    tokenizer = _byte_level_bpe(_ROBERTA_SPECIALS)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def _modernbert_bpe():
    from tokenizers import processors

    tokenizer = _byte_level_bpe(_BERT_SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _unigram(specials, unknown):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = dict.fromkeys(specials, 0.0)
    # Whole words are likelier than the letters they fall apart into.
    pieces.update({f"▁{word}": -5.0 - index / 100 for index, word in enumerate(WORDS)})
    pieces.update({character: -9.0 for character in ("▁", *_ALPHABET, *_PUNCTUATION)})
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=specials.index(unknown)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _xlm_unigram():
    from tokenizers import processors

    tokenizer = _unigram(_ROBERTA_SPECIALS, "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _deberta_unigram():
    from tokenizers import processors

    tokenizer = _unigram(_BERT_SPECIALS, "[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def build_albert(folder):
    """Write a tiny ALBERT, whose pooler is a bare linear layer."""
    import torch
    import transformers

    tokenizer = build_tokenizer("bert")
    save_tokenizer(tokenizer, "bert", folder)
    config = transformers.AlbertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AlbertModel(config).save_pretrained(folder)
    return folder
