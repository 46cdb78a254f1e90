"""Loading: what is shared, what is checked, what is said when something is wrong."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, as_sentence_transformer, build_checkpoint, drop_tensors, for_any_family
from safetensors.numpy import load_file

from skbert import BertClassifier, CheckpointError, InputError, InsufficientMemoryError
from skbert.pretrained import checkpoints
from skbert.pretrained.reading import naming

TEXTS = ["good film", "a bad and dull story"]


@pytest.fixture
def folder(tmp_path):
    return build_checkpoint("bert", tmp_path / "bert", layers=2)


def test_another_file_of_the_same_size_and_date_is_read(tmp_path):
    """Archives give all files one date, and checkpoints of one kind have one size."""
    first, second = (build_checkpoint("bert", tmp_path / name, seed=n) for n, name in enumerate("ab"))
    for folder in (first, second):
        for file in Path(folder).iterdir():
            os.utime(file, (0, 0))
    before = checkpoints.load(first)
    weights = {folder: Path(folder) / "model.safetensors" for folder in (first, second)}
    assert weights[first].stat().st_size == weights[second].stat().st_size
    os.replace(weights[second], weights[first])
    after = checkpoints.load(first)
    tables = [c.encoder.get_input_embeddings().weight for c in (before, after)]
    assert not torch.equal(*tables)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (ValueError("odd"), CheckpointError),
        (OSError(errno.EMFILE, "Too many open files"), OSError),
        (RuntimeError("unable to open file <model>: Too many open files (24)"), RuntimeError),
        (RuntimeError("can't start new thread"), RuntimeError),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), InsufficientMemoryError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), InsufficientMemoryError),
    ],
)
def test_what_the_process_lacks_is_no_fault_of_the_checkpoint(error, becomes):
    with pytest.raises(becomes) as caught, naming("The checkpoint"):
        raise error
    assert type(caught.value) is becomes


def test_loaded_once_and_shared(tiny_bert):
    assert checkpoints.load(tiny_bert) is checkpoints.load(tiny_bert)


def test_encoders_are_copies(tiny_bert):
    checkpoint = checkpoints.load(tiny_bert)
    first, second = checkpoint.new_encoder(), checkpoint.new_encoder()
    with torch.no_grad():
        first.embeddings.word_embeddings.weight.zero_()
    assert second.embeddings.word_embeddings.weight.any()
    assert checkpoint.new_encoder().embeddings.word_embeddings.weight.any()


def test_an_encoder_with_shared_weights_can_be_given_others(tiny_bert):
    checkpoint = checkpoints.load(tiny_bert)
    own = dict(checkpoint.encoder.named_parameters())
    before = {name: weight.detach().clone() for name, weight in own.items()}
    reader = checkpoint.new_encoder(shared=True)
    assert reader is not checkpoint.encoder
    assert all(weight is own[name] for name, weight in reader.named_parameters())
    reader.load_state_dict({n: torch.zeros_like(w) for n, w in reader.state_dict().items()}, assign=True)
    reader.pooler = None
    assert not any(weight.any() for weight in reader.parameters())
    assert checkpoint.encoder.pooler is not None
    assert all(torch.equal(weight, before[name]) for name, weight in own.items())


def test_a_changed_folder_is_read_again(folder):
    before = checkpoints.load(folder)
    shutil.rmtree(folder)
    build_checkpoint("bert", folder, layers=1, seed=5)
    after = checkpoints.load(folder)
    assert after is not before
    assert after.new_encoder().config.num_hidden_layers == 1


def test_a_file_that_is_overwritten_changes_no_checkpoint_that_was_read(folder):
    """Nor does it end the process, as a mapped one that is cut off does."""
    encoder = checkpoints.load(folder).encoder
    before = {name: weight.sum().item() for name, weight in encoder.named_parameters()}
    size = (folder / "model.safetensors").stat().st_size
    with open(folder / "model.safetensors", "r+b") as file:
        file.write(bytes(size))
    assert {name: weight.sum().item() for name, weight in encoder.named_parameters()} == before
    os.truncate(folder / "model.safetensors", 0)
    assert {name: weight.sum().item() for name, weight in encoder.named_parameters()} == before


def test_few_checkpoints_stay_in_memory(tmp_path):
    for seed in range(6):
        checkpoints.load(build_checkpoint("bert", tmp_path / str(seed), seed=seed))
    assert len(checkpoints._loaded) == 4


def test_prefixed_weights_load(tmp_path):
    """Most checkpoints on the hub were saved with a language-model head, and so with prefixed names."""
    plain = checkpoints.load(build_checkpoint("bert", tmp_path / "plain"))
    prefixed = checkpoints.load(build_checkpoint("bert", tmp_path / "mlm", masked_lm=True))
    assert (
        dict(prefixed.new_encoder().named_parameters()).keys()
        <= dict(plain.new_encoder().named_parameters()).keys()
    )


def test_a_missing_pooler_is_left_out_not_drawn(tmp_path):
    checkpoint = checkpoints.load(build_checkpoint("bert", tmp_path / "mlm", masked_lm=True))
    assert checkpoint.new_encoder().pooler is None


def test_missing_layers_are_named(folder):
    drop_tensors(folder, "layer.1.")
    with pytest.raises(CheckpointError, match=r"lacks 16 weights.*encoder\.layer\.1\."):
        checkpoints.load(folder)


def test_a_config_with_fewer_layers_than_the_weights_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"beyond what its config\.json names, 16 weights"):
        checkpoints.load(folder)


def test_no_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        checkpoints.load(folder)


def test_damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"garbage" * 100)
    with pytest.raises(CheckpointError, match="could not be read"):
        checkpoints.load(folder)


def test_weights_that_cannot_be_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"could not be read \("):
        checkpoints.load(folder)


def test_weights_that_were_not_fetched(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 90868376\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a Git LFS pointer.*git lfs pull"):
        checkpoints.load(folder)


def test_missing_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="tokenizer"):
        checkpoints.load(folder)


def test_weights_of_another_width(folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    expected = r"has 6 weights .*0\.intermediate\.dense\.bias': \[64\] instead of \[48\]"
    with pytest.raises(CheckpointError, match=expected):
        checkpoints.load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_leave_room_for_the_offset(family, tiny_checkpoints):
    checkpoint = checkpoints.load(tiny_checkpoints(family))
    assert checkpoint.max_positions == 128
    assert checkpoint.architecture.position_offset == (2 if "roberta" in family else 0)


POOLINGS = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "mean"}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_follows_sentence_transformers(pooling, folder):
    as_sentence_transformer(folder, pooling)
    assert checkpoints.load(folder).pooling == POOLINGS[pooling]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", None])
def test_pooling_of_newer_settings(pooling, folder):
    as_sentence_transformer(folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    assert checkpoints.load(folder).pooling == (pooling or "mean")


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_embeddings_are_those_of_sentence_transformers(pooling, folder):
    """Before any training, that is: they take the first token's state as it is, without the pooler."""
    as_sentence_transformer(folder, pooling)
    settings = {"freeze": "encoder", "epochs": 1, "precision": "float32", "device": "cpu", "max_length": 32}
    classifier = BertClassifier(folder, **settings).fit(TEXTS * 4, [0, 1] * 4)
    tokenizer, encoder = (
        kind.from_pretrained(folder) for kind in (transformers.AutoTokenizer, transformers.AutoModel)
    )
    assert encoder.pooler is not None
    with torch.no_grad():
        expected = torch.cat(
            [
                states[:, 0] if pooling == "cls" else states.amax(dim=1)
                for text in TEXTS
                for states in [encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state]
            ]
        )
    np.testing.assert_allclose(classifier.transform(TEXTS), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("T5", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}),
        (
            "Bart",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
            },
        ),
    ],
)
def test_encoders_with_a_decoder_are_refused(kind, sizes, folder):
    config = getattr(transformers, f"{kind}Config")(vocab_size=200, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"an encoder with a decoder .*Expected an encoder alone"):
        checkpoints.load(folder)


def test_an_encoder_may_call_its_upper_half_a_decoder(folder, reviews):
    """Funnel's makes short states long again: it is given no ids of its own."""
    sizes = {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 2, "d_head": 16}
    config = transformers.FunnelConfig(vocab_size=384, d_inner=64, max_position_embeddings=128, **sizes)
    transformers.FunnelModel(config).save_pretrained(folder)
    texts, labels = map(list, reviews)
    model = BertClassifier(folder, pooling="mean", epochs=1, max_length=32, device="cpu").fit(texts, labels)
    assert model.transform(texts[:3]).shape == (3, 32)


def test_the_first_token_of_a_decoder_is_refused(folder):
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = transformers.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    transformers.GPT2Model(config).save_pretrained(folder)
    settings = {"epochs": 1, "device": "cpu", "max_length": 32}
    with pytest.raises(InputError, match=r"from left to right.*Set pooling='mean'"):
        BertClassifier(folder, **settings).fit(TEXTS * 4, [0, 1] * 4)
    classifier = BertClassifier(folder, pooling="mean", **settings).fit(TEXTS * 4, [0, 1] * 4)
    assert classifier.transform(TEXTS).shape == (2, 32)


def test_the_first_token_of_an_encoder_that_reads_forward_is_refused(folder):
    """No list of transformers says which encoders do: CLIP's generates nothing, XLM's is asked to."""
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    clip = transformers.CLIPTextConfig(vocab_size=n_ids, max_position_embeddings=64, **sizes)
    xlm = transformers.XLMConfig(
        vocab_size=n_ids, emb_dim=32, n_layers=1, n_heads=2, causal=True, max_position_embeddings=64
    )
    for encoder in (transformers.CLIPTextModel(clip), transformers.XLMModel(xlm)):
        encoder.save_pretrained(folder)
        assert checkpoints.load(folder).reads_forward
        with pytest.raises(InputError, match=r"from left to right.*Set pooling='mean'"):
            BertClassifier(folder, pooling="cls", max_length=32).fit(TEXTS * 4, [0, 1] * 4)


def test_an_encoder_that_runs_one_text_only_is_refused(folder):
    """XLNet's code for reading forward takes no second text, in transformers either."""
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = transformers.XLNetConfig(
        vocab_size=n_ids, d_model=32, n_layer=1, n_head=2, d_inner=64, attn_type="uni"
    )
    transformers.XLNetModel(config).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"family 'xlnet', does not give a state for each token id"):
        checkpoints.load(folder)


def test_big_bird_does_not_depend_on_earlier_calls(folder):
    """Its sparse attention is left at the first short batch, and sets numpy's global seed in training."""
    config = transformers.BigBirdConfig(
        **{"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 512, "block_size": 8, "num_random_blocks": 1},
    )
    assert config.attention_type == "block_sparse"
    transformers.BigBirdModel(config).save_pretrained(folder)
    long = ["good film " * 150, "bad film " * 140]
    before = np.random.get_state()[1].copy()
    settings = {"pooling": "mean", "epochs": 1, "device": "cpu", "max_length": 400, "random_state": 0}
    classifier = BertClassifier(folder, **settings).fit([*long, *TEXTS] * 2, [0, 1] * 4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    first = classifier.transform(long)
    classifier.predict(TEXTS)
    np.testing.assert_array_equal(classifier.transform(long), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).transform(long), first)
    described = config.to_dict() | {"model_type": "big_bird"}
    assert checkpoints.build_encoder(described, False).config.attention_type == "original_full"


def test_layers_computed_twice_draw_the_masks_of_the_first_time(folder):
    """Where a family's attention draws its masks itself, too."""
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.GPT2Config(vocab_size=n_ids, attn_pdrop=0.5, **sizes)
    transformers.GPT2Model(config).save_pretrained(folder)
    # In double precision, where rounding stays far below what other masks change.
    settings = {"pooling": "mean", "epochs": 3, "device": "cpu", "max_length": 32, "random_state": 0}
    settings |= {"precision": "float64", "learning_rate": 1e-3}
    once, twice = (
        BertClassifier(folder, **settings, gradient_checkpointing=again).fit(TEXTS * 4, [0, 1] * 4)
        for again in (False, True)
    )
    np.testing.assert_allclose(twice.transform(TEXTS), once.transform(TEXTS), atol=1e-8)


def test_a_decoder_is_not_packed(folder):
    assert checkpoints.load(folder).architecture.packed
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    assert not checkpoints.load(folder).architecture.packed


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX"])
def test_layers_computed_twice_of_a_family_that_keeps_keys_and_values(family, folder):
    """Computed again, a layer would find those of the first time there."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(vocab_size=vocabulary, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    settings = {"pooling": "mean", "epochs": 1, "device": "cpu", "max_length": 32, "random_state": 0}
    once, twice = (
        BertClassifier(folder, **settings, gradient_checkpointing=again).fit(TEXTS * 4, [0, 1] * 4)
        for again in (False, True)
    )
    assert once.loss_curve_ == pytest.approx(twice.loss_curve_, rel=1e-6)  # padded: up to the last bit
    assert once.model_.encoder.config.use_cache == twice.model_.encoder.config.use_cache is True


@pytest.mark.parametrize("family", ["LayoutLM", "SqueezeBert"])
def test_encoders_that_cannot_do_without_their_pooler_are_refused(family, folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{family}Config")(vocab_size=384, embedding_size=32, **sizes)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"token id without its pooler, .* not used here \(TypeErr"):
        checkpoints.load(folder)


def test_a_table_that_is_not_there_is_no_fault_of_the_pooler(folder, monkeypatch):
    monkeypatch.setattr(transformers.BertModel, "get_input_embeddings", lambda self: torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"each token id \(no embedding table"):
        checkpoints.load(folder)


@pytest.mark.parametrize("name", ["weights.bin", "../weights.safetensors", "/tmp/weights.safetensors", 5])
def test_an_index_names_files_of_its_folder(name, folder):
    """transformers would unpickle the first, and read the others wherever they are."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Expected \.safetensors files in the same folder"):
        checkpoints.load(folder)
    index["weight_map"] = dict.fromkeys(weights, "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoints.load(folder).encoder.state_dict().keys() >= {"embeddings.word_embeddings.weight"}


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": {"a": "a.bin"}}', '{"weight_map": []}'])
def test_an_index_beside_whole_weights_is_not_read(index, folder):
    (folder / "model.safetensors.index.json").write_text(index)
    checkpoints.load(folder)


def test_a_config_names_no_other_weights(folder):
    """Which transformers would look for in whatever place and format that index names."""
    expected = checkpoints.load(folder).encoder.state_dict()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"transformers_weights": "x.safetensors.index.json"})
    )
    index = {"metadata": {}, "weight_map": dict.fromkeys(expected, "../other.safetensors")}
    (folder / "x.safetensors.index.json").write_text(json.dumps(index))
    found = checkpoints.load(folder).encoder.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_backbone_is_not_looked_for(folder, monkeypatch):
    import socket

    def connect(*args, **kwargs):
        raise AssertionError("asked for a connection")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (folder / "config.json").write_text(json.dumps({"model_type": "dpt", "backbone": "someone/beacon"}))
    with pytest.raises(CheckpointError, match="has a backbone: it is an image model"):
        checkpoints.load(folder)


def test_a_tokenizer_that_ends_the_process_is_refused(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b" * 200_000, -1.0]]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        CheckpointError, match="a piece of more than 1000 characters: the tokenizers library would end"
    ):
        checkpoints.load(folder)


def test_a_file_that_transformers_reads_as_the_tokenizer_is_checked_as_well(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b" * 200_000, -1.0]]}
    (folder / "tokenizer.4.0.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["fast_tokenizer_files"] = ["tokenizer.4.0.json"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"tokenizer\.4\.0\.json has a piece of more than 1000 char"):
        checkpoints.load(folder)


def test_links_that_point_nowhere(folder):
    (folder / "notes.txt").symlink_to(folder / "nowhere")
    checkpoints.load(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "nowhere")
    with pytest.raises(CheckpointError):
        checkpoints.load(folder)


def test_a_config_that_asks_for_tuples(folder):
    expected = checkpoints.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    assert checkpoints.load(folder) is not expected
    assert checkpoints.load(folder).architecture == expected.architecture


def test_a_tokenizer_that_gives_up_is_an_error_of_the_folder(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"The tokenizer in .* could not be read"):
        checkpoints.load(folder)


def test_a_family_that_computes_in_float32_alone_is_named(folder):
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = transformers.OpenAIGPTConfig(
        vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, n_positions=128
    )
    transformers.OpenAIGPTModel(config).save_pretrained(folder)
    settings = {"pooling": "mean", "epochs": 1, "device": "cpu", "max_length": 32}
    with pytest.raises(
        InputError, match=r"OpenAIGPTModel cannot compute in bfloat16 .*Set precision='float32'"
    ):
        BertClassifier(folder, precision="bfloat16", **settings).fit(TEXTS * 4, [0, 1] * 4)
    assert BertClassifier(folder, precision="float32", **settings).fit(TEXTS * 4, [0, 1] * 4).n_iter_ == 1


def build_experts(folder):
    """A mixture of experts in place of the folder's encoder."""
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.OlmoeConfig(vocab_size=n_ids, num_experts=4, num_experts_per_tok=2, **sizes)
    transformers.OlmoeModel(config).save_pretrained(folder)
    for_any_family(folder)
    return BertClassifier(folder, pooling="mean", epochs=1, max_length=32, device="cpu")


def test_a_family_that_does_not_compute_in_double_precision_is_named(folder):
    classifier = build_experts(folder).set_params(precision="float64")
    try:
        classifier.fit(TEXTS * 4, [0, 1] * 4)
    except InputError as error:  # with the versions of transformers and torch that have no such product
        said = str(error)
    else:
        pytest.skip("this torch and this transformers compute it")
    assert said.startswith("OlmoeModel cannot compute in float64 (")
    assert said.endswith("Set precision='float32'.")


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # peft's own
def test_adapters_of_experts_are_refused_before_the_training(folder):
    pytest.importorskip("peft", "0.19")
    classifier = build_experts(folder).set_params(lora=2)
    with pytest.raises(InputError, match=r"adapter of .*experts.* no single weight .*target_modules"):
        classifier.fit(TEXTS * 4, [0, 1] * 4)


def test_a_family_that_reads_weights_itself_has_no_integers(folder):
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = transformers.MambaConfig(vocab_size=n_ids, hidden_size=32, num_hidden_layers=1, state_size=8)
    transformers.MambaModel(config).save_pretrained(folder)
    for_any_family(folder)
    settings = {"pooling": "mean", "epochs": 1, "max_length": 32, "device": "cpu", "precision": "int8"}
    classifier = BertClassifier(folder, **settings).fit(TEXTS * 4, [0, 1] * 4)
    try:
        classifier.predict(TEXTS)
    except InputError as error:
        said = str(error)
    else:
        pytest.skip("this transformers calls Mamba's layers")
    assert said.startswith("precision='int8', but the code ")
    assert said.endswith("Set precision='float32'.")
    assert len(classifier.set_params(precision="float32").predict(TEXTS)) == 2


def test_segments_are_those_that_the_tokenizer_gives_transformers(folder):
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text())
    assert "token_type_ids" in stated["model_input_names"]
    assert checkpoints.load(folder).architecture.takes_segments
    path.write_text(json.dumps(stated | {"model_input_names": ["input_ids", "attention_mask"]}))
    assert not checkpoints.load(folder).architecture.takes_segments


def test_feed_forward_networks_in_chunks_change_nothing(folder):
    config = json.loads((folder / "config.json").read_text())
    settings = {"epochs": 1, "device": "cpu", "max_length": 32, "random_state": 0}
    plain = BertClassifier(folder, **settings).fit(TEXTS * 4, [0, 1] * 4)
    (folder / "config.json").write_text(json.dumps(config | {"chunk_size_feed_forward": 5}))
    chunked = BertClassifier(folder, **settings).fit(TEXTS * 4, [0, 1] * 4)
    np.testing.assert_array_equal(chunked.predict_proba(TEXTS), plain.predict_proba(TEXTS))


def test_plain_checkpoints_pool_cls(folder):
    assert checkpoints.load(folder).pooling == "cls"


def test_baked_in_truncation_and_padding_are_reset(folder):
    from tokenizers import Tokenizer

    path = str(folder / "tokenizer.json")
    baked = Tokenizer.from_file(path)
    baked.enable_truncation(7)
    baked.enable_padding(length=7)
    baked.save(path)
    tokenizer = checkpoints.new_tokenizer(checkpoints.load(folder).tokenizer_json)
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert tokenizer.encode_special_tokens


def test_build_encoder_has_the_same_shape(tiny_checkpoints):
    for family in FAMILIES:
        checkpoint = checkpoints.load(tiny_checkpoints(family))
        build, config = checkpoint.rebuild()
        shapes = [
            {n: (p.shape, p.dtype) for n, p in encoder.named_parameters()}
            for encoder in (build(config, checkpoint.architecture.packed), checkpoint.new_encoder())
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_cannot_name_a_kernel(key, tmp_path):
    """transformers would get it from the hub and run it."""
    folder = build_checkpoint("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "someone/kernels"}))
    assert checkpoints.load(folder).encoder.config._attn_implementation == "skbert_packed"


def test_adapters_are_named(folder, reviews):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    with pytest.raises(CheckpointError, match=r"holds an adapter.*merge_and_unload"):
        BertClassifier(folder).fit(*map(list, reviews))


def test_a_changed_pooling_is_read_again(folder):
    as_sentence_transformer(folder, "mean")
    before = checkpoints.load(folder).pooling
    as_sentence_transformer(folder, "max")
    assert (before, checkpoints.load(folder).pooling) == ("mean", "max")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "null"),
        ("config.json", '{"model_type": "bert", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "bert", "layer_norm_eps": "small"}'),
        ("config.json", '{"model_type": "bert", "quantization_config": "eight bits"}'),
        ("config.json", '{"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "null"),
        ("1_Pooling/config.json", "[1]"),
        ("1_Pooling/config.json", '{"pooling'),
    ],
)
def test_settings_that_are_none(file, content, folder, reviews):
    as_sentence_transformer(folder, "mean")
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=f"{folder}"):
        BertClassifier(folder).fit(*map(list, reviews))


def test_families_that_do_not_count_their_segments_get_them(folder):
    config = transformers.XLNetConfig(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(folder)),
        d_model=16,
        n_layer=1,
        n_head=2,
        d_inner=32,
    )
    transformers.XLNetModel(config).save_pretrained(folder)
    architecture = checkpoints.load(folder).architecture
    assert architecture.takes_segments
    assert architecture.n_segments > 2


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("SqueezeBert", {"embedding_size": 16}),  # which calls the pooler that the weights lack
        ("Canine", {}),  # which reads characters, and many
        ("DPRQuestionEncoder", {}),  # which gives no states
    ],
)
def test_what_is_no_encoder_of_token_ids(family, settings, folder, reviews):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{family.removesuffix('QuestionEncoder')}Config")(**sizes, **settings)
    getattr(transformers, family if "DPR" in family else f"{family}Model")(config).save_pretrained(folder)
    drop_tensors(folder, "pooler")
    with pytest.raises(CheckpointError, match=f"{folder}.*(family|lacks|could not be read)"):
        BertClassifier(folder).fit(*map(list, reviews))


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])  # packed and padded
def test_tokens_that_the_encoder_does_not_know(family, tmp_path, reviews):
    texts, labels = map(list, reviews)
    folder = build_checkpoint(family, tmp_path / "folder")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = settings["added_tokens"][-1] | {"id": 100_000, "content": "qwerty", "special": False}
    settings["added_tokens"].append(added)
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    classifier = BertClassifier(folder, epochs=1, max_length=32, head_init="random").fit(texts, labels)
    unknown = r"gives the token id \d+, but the encoder has embeddings for \d+ ids"
    with pytest.raises(CheckpointError, match=unknown):
        classifier.predict(["a qwerty film"])
    with pytest.raises(CheckpointError, match=unknown):
        classifier.fit([*texts, "a qwerty film"], [*labels, "pos"])
    with pytest.raises(CheckpointError, match=unknown):
        classifier.fit(texts, labels, X_val=["qwerty"], y_val=["pos"])


@pytest.mark.parametrize("name", ["<s>", "</s>", "<pad>"])
def test_positions_where_the_padding_token_frames_texts(name, tmp_path, reviews):
    """RoBERTa's positions are counted without the padding id, and the ends of a text may be of that id."""
    folder = build_checkpoint("roberta", tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config["pad_token_id"] = tokenizer.convert_tokens_to_ids(name)
    (folder / "config.json").write_text(json.dumps(config))
    texts, labels = map(list, reviews)
    classifier = BertClassifier(folder, epochs=1, max_length=64, pooling="mean", precision="float32")
    classifier.fit(texts, labels).save_encoder(tmp_path / "encoder")
    assert classifier.model_.architecture.packed == (name == "<pad>")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "encoder")
    for text in texts[:3]:
        with torch.no_grad():
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(classifier.transform([text])[0], states[0].mean(dim=0), atol=1e-5)


def test_positions_where_texts_contain_the_padding_id(tmp_path):
    """RoBERTa's default padding id is the unknown token of a WordPiece vocabulary."""
    folder = build_checkpoint("bert", tmp_path / "folder")
    for_any_family(folder)
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.RobertaConfig(vocab_size=n_ids, max_position_embeddings=130, **sizes)
    encoder = transformers.RobertaModel(config).eval()
    encoder.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert config.pad_token_id == tokenizer.unk_token_id == 1
    texts = ["good film", "good ☃ film", "☃ ☃ a bad story"]
    classifier = BertClassifier(folder, epochs=1, max_length=64, pooling="mean", freeze="encoder")
    classifier.set_params(precision="float32", device="cpu").fit(texts, [0, 1, 1])
    for text in texts:
        inputs = {"input_ids": tokenizer(text, return_tensors="pt")["input_ids"]}
        with torch.no_grad():
            states = encoder(**inputs).last_hidden_state
        np.testing.assert_allclose(classifier.transform([text])[0], states[0].mean(dim=0), atol=1e-5)


def test_a_padding_id_that_is_none(folder):
    """Early configs of LLaMA say -1: the gaps hold any other token then."""
    n_ids = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.LlamaConfig(vocab_size=n_ids, pad_token_id=-1, **sizes)
    transformers.LlamaModel(config).save_pretrained(folder)
    classifier = BertClassifier(folder, pooling="mean", epochs=1, max_length=32, precision="float32")
    vectors = classifier.fit(TEXTS * 4, [0, 1] * 4).transform(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(classifier.transform([text])[0], vector, atol=1e-6)
    config = transformers.RobertaConfig(
        vocab_size=n_ids, pad_token_id=-1, max_position_embeddings=64, **sizes
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"positions for 0 tokens, with pad_token_id=-1 .*Expected 8"):
        checkpoints.load(folder)


@pytest.mark.parametrize("stated", [True, False])
def test_texts_that_sentence_transformers_puts_into_lower_case(stated, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = as_sentence_transformer(build_checkpoint("roberta", tmp_path / "folder"))
    settings = {"max_seq_length": 64, "do_lower_case": stated}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    texts = ["Good film", "A BAD Story"]
    classifier = BertClassifier(folder, freeze="encoder", epochs=1, precision="float32", device="cpu")
    found = classifier.set_params(max_length=64).fit(texts, [0, 1]).transform(texts)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    same = np.allclose(found, classifier.transform([text.lower() for text in texts]), atol=1e-5)
    assert same == stated


def test_what_a_config_does_not_tell(tiny_bert):
    from types import SimpleNamespace

    from skbert.pretrained.traits import head_dropout_of, max_positions

    bare = SimpleNamespace(max_position_embeddings=None)
    assert max_positions(bare, checkpoints.load(tiny_bert).architecture) == 512
    assert head_dropout_of(bare) == 0.1
    assert head_dropout_of(SimpleNamespace(classifier_dropout=0.0, hidden_dropout_prob=0.3)) == 0.0
    assert head_dropout_of(SimpleNamespace(classifier_dropout=None, hidden_dropout_prob=0.3)) == 0.3


def test_weights_of_sentence_transformers_are_converted_with_their_pooling(
    tmp_path, make_classifier, reviews
):
    """transformers' own copy would lose it: the texts would be pooled by "cls"."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tmp_path / "old"
    make_classifier(epochs=1, pooling="mean").fit(*reviews).save_encoder(folder)
    weights = {n: torch.from_numpy(w) for n, w in load_file(folder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"with SentenceTransformer\(\.\.\.\)\.save\(folder\)\."):
        make_classifier(model=folder, pooling="auto").fit(*reviews)
    sentence_transformers.SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "new"))
    fitted = make_classifier(model=tmp_path / "new", pooling="auto", epochs=1).fit(*reviews)
    assert fitted.model_.pooling == "mean"
