"""Packed logits and gradients against transformers' own padded forward, and the model's other promises."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    FAMILIES,
    as_sentence_transformer,
    build_albert,
    build_checkpoint,
    build_model,
    for_any_family,
    load_tokenizer,
)
from transformers import (
    AutoModel,
    AutoTokenizer,
    MobileBertConfig,
    MobileBertModel,
    MPNetConfig,
    MPNetModel,
    XLNetConfig,
    XLNetModel,
)

from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.network.dropout import set_dropout
from skbert.network.model import SequenceClassifier, cast_encoder, reset_head
from skbert.pretrained import checkpoints
from skbert.pretrained.traits import architecture_of

SINGLE = Texts(["good film", "", "the cat and the dog walk to the sea in the rain", "a " * 60, "bad", "x-9!"])
PAIRS = Texts(SINGLE.first, ["a fine story", "very sad", "", "red " * 30, "team", "the law"])
TEXTS = {"single": SINGLE, "pairs": PAIRS}


def build(folder, pooling="cls", n_outputs=3):
    return build_model(folder, pooling, n_outputs).requires_grad_().eval(), load_tokenizer(folder)


def padded_reference(folder, texts, pooling, head):
    """Logits of transformers' own padded forward with the same head, and the reference encoder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    columns = [texts.first] if texts.second is None else [texts.first, texts.second]
    inputs = tokenizer(*columns, padding=True, truncation=True, max_length=64, return_tensors="pt")
    output = reference(**inputs)
    states = output.last_hidden_state
    if pooling == "mean":
        mask = inputs["attention_mask"][..., None].to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1)
    elif pooling == "max":
        pooled = states.masked_fill(inputs["attention_mask"][..., None] == 0, -1e9).max(dim=1).values
    else:
        pooler = getattr(reference, "pooler", None)
        pooled = states[:, 0] if pooler is None else output.pooler_output
    return torch.nn.functional.linear(pooled, head.weight, head.bias), reference


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("kind", ["single", "pairs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_padded_forward(family, kind, pooling, tiny_checkpoints):
    folder = tiny_checkpoints(family, layers=2)
    model, tokenizer = build(folder, pooling)
    encodings = encode(tokenizer, TEXTS[kind], 64)
    batch = collate(encodings, np.arange(len(encodings)))
    expected, _ = padded_reference(folder, TEXTS[kind], pooling, model.head)
    assert expected.shape == (len(SINGLE), 3)
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():  # attention takes another way where nothing needs a gradient
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_transformers_padded_forward(family, pooling, tiny_checkpoints):
    folder = tiny_checkpoints(family, layers=2)
    model, tokenizer = build(folder, pooling)
    encodings = encode(tokenizer, PAIRS, 64)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = model(collate(encodings, np.arange(len(encodings))))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    expected, reference = padded_reference(folder, PAIRS, pooling, model.head)
    torch.nn.functional.cross_entropy(expected, targets).backward()
    gradients = {name: p.grad for name, p in model.encoder.named_parameters()}
    compared = 0
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None and name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared == len(gradients)


def test_only_deberta_takes_the_padded_path(tiny_checkpoints):
    packed = {f: checkpoints.load(tiny_checkpoints(f)).architecture.packed for f in FAMILIES}
    assert {family for family, is_packed in packed.items() if not is_packed} == {"deberta-v2"}


def test_a_family_that_counts_its_own_positions(tmp_path, tiny_checkpoints):
    """MPNet (all-mpnet-base-v2) numbers positions from the padding id, in its own forward."""
    folder = tmp_path / "mpnet"
    shutil.copytree(tiny_checkpoints("roberta"), folder)
    like = json.loads((folder / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    config = MPNetConfig(max_position_embeddings=130, pad_token_id=1, **{name: like[name] for name in sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MPNetModel(config).save_pretrained(folder)
    for_any_family(folder)
    model, tokenizer = build(folder, "mean")
    assert checkpoints.load(folder).max_positions == 128
    logits = model(collate(encode(tokenizer, SINGLE, 64), np.arange(len(SINGLE))))
    expected, _ = padded_reference(folder, SINGLE, "mean", model.head)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_family_without_a_limit_of_positions(tmp_path, tiny_checkpoints):
    """XLNet."""
    folder = tmp_path / "xlnet"
    shutil.copytree(tiny_checkpoints("xlm-roberta"), folder)
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": vocab_size, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        XLNetModel(XLNetConfig(pad_token_id=1, **sizes)).save_pretrained(folder)
    for_any_family(folder)
    model, tokenizer = build(folder, "mean")
    assert checkpoints.load(folder).max_positions > 10**9
    logits = model(collate(encode(tokenizer, SINGLE, 64), np.arange(len(SINGLE))))
    expected, _ = padded_reference(folder, SINGLE, "mean", model.head)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_local_attention_differs_from_global_attention(tiny_checkpoints):
    """Texts longer than ModernBERT's window see less; without this the family's test proves little."""
    model, tokenizer = build(tiny_checkpoints("modernbert", layers=2))
    batch = collate(encode(tokenizer, Texts(["red cat " * 28]), 64), np.array([0]))
    windows = [module.sliding_window for module in model.modules() if hasattr(module, "sliding_window")]
    assert any(w is not None and w < batch.max_length for w in windows)
    local = model(batch)
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = None
    assert (model(batch) - local).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_a_text_does_not_see_its_neighbours(family, tiny_checkpoints):
    model, tokenizer = build(tiny_checkpoints(family, layers=2), "mean")
    encodings = encode(tokenizer, SINGLE, 64)
    together = model(collate(encodings, np.arange(len(encodings))))
    alone = torch.cat([model(collate(encodings, np.array([i]))) for i in range(len(encodings))])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_special_tokens_of_pairs_carry_segment_ids(tiny_bert):
    """Swapping the segments of a pair must change the logits, else they never reached the encoder."""
    model, tokenizer = build(tiny_bert)
    batch = collate(encode(tokenizer, PAIRS, 64), np.array([0]))
    assert batch.segments.tolist() == [0] * 4 + [1] * 4
    flat = copy.copy(batch)
    object.__setattr__(flat, "segments", torch.zeros_like(batch.segments))
    assert (model(batch) - model(flat)).abs().max() > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_pickle_keeps_every_bit(family, tiny_checkpoints):
    model, tokenizer = build(tiny_checkpoints(family, layers=2), "mean")
    model.requires_grad_(False)  # as fitted models are; attention with gradients sums in another order
    batch = collate(encode(tokenizer, PAIRS, 64), np.arange(len(PAIRS)))
    again = pickle.loads(pickle.dumps(model))
    assert not again.training
    assert torch.equal(again(batch), model(batch))


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_a_copy_is_a_model_of_its_own(family, tiny_checkpoints):
    model, tokenizer = build(tiny_checkpoints(family, layers=2))
    set_dropout(model, 0.2, torch.Generator().manual_seed(0))
    model.eval()
    encodings = encode(tokenizer, SINGLE, 64)
    batch = collate(encodings, np.arange(len(encodings)))
    before = model(batch).detach()
    with torch.inference_mode():  # in which a copy could not be trained
        twin = copy.deepcopy(model)
    twin.train()(batch).sum().backward()
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(model(batch), before)


def test_pickle_holds_no_torch_storage_and_no_class_of_transformers(tiny_bert):
    payload = pickle.dumps(build(tiny_bert)[0])
    assert b"transformers." not in payload
    assert b"torch." not in payload


def test_unpickling_draws_no_random_number(tiny_bert):
    payload = pickle.dumps(build(tiny_bert)[0])
    before = torch.get_rng_state()
    pickle.loads(payload)
    assert torch.equal(torch.get_rng_state(), before)


def test_mean_pooling_drops_the_unused_pooler(tiny_bert):
    assert build(tiny_bert, "mean")[0].pooler is None
    assert build(tiny_bert, "cls")[0].pooler is not None


def test_cast_encoder_keeps_head_and_rotary_frequencies_wide(tiny_checkpoints):
    model, _ = build(tiny_checkpoints("modernbert"))
    cast_encoder(model, torch.bfloat16)
    assert {p.dtype for p in model.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    assert torch.bfloat16 not in {b.dtype for b in model.buffers()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_narrow_types_stay_near_float32(family, dtype, tolerance, tiny_checkpoints):
    model, tokenizer = build(tiny_checkpoints(family, layers=2))
    batch = collate(encode(tokenizer, PAIRS, 64), np.arange(len(PAIRS)))
    wide = model(batch).softmax(-1)
    cast_encoder(model, dtype)
    logits = model(batch)
    assert logits.dtype == torch.float32
    assert (logits.softmax(-1) - wide).abs().max() < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_set_dropout_reaches_every_dropout(family, tiny_checkpoints):
    folder = tiny_checkpoints(family, layers=2)
    model, tokenizer = build(folder)
    batch = collate(encode(tokenizer, PAIRS, 64), np.arange(len(PAIRS)))
    reference = model(batch)
    set_dropout(model, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(model.train()(batch), reference)
    set_dropout(model, 0.5, torch.Generator().manual_seed(0))
    assert not torch.equal(model(batch), reference)
    assert not any(type(m) is torch.nn.Dropout for m in model.modules())


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("Longformer", {"attention_window": 8}),
        ("Esm", {"pad_token_id": 1, "mask_token_id": 4}),
        ("BioGpt", {}),
        ("Falcon", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    ],
)
def test_set_dropout_reaches_probabilities_that_modules_keep(family, sizes, tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    common = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "activation_dropout": 0.3}
    vocabulary = {"vocab_size": 384, "max_position_embeddings": 128}
    config = getattr(transformers, f"{family}Config")(**vocabulary, **common, **rates, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    model, tokenizer = build(tmp_path, pooling="mean")
    batch = collate(encode(tokenizer, PAIRS, 64), np.arange(len(PAIRS)))
    set_dropout(model, 0.0, torch.Generator().manual_seed(0))
    reference = model(batch)
    assert torch.equal(model.train()(batch), reference)
    set_dropout(model, 0.5, torch.Generator().manual_seed(0))
    assert not torch.equal(model(batch), reference)


def test_dropout_repeats_with_its_generator_and_leaves_the_global_one(tiny_bert):
    model, tokenizer = build(tiny_bert)
    batch = collate(encode(tokenizer, PAIRS, 64), np.arange(len(PAIRS)))
    model.train()
    before = torch.get_rng_state()
    outputs = []
    for _ in range(2):
        set_dropout(model, None, torch.Generator().manual_seed(3))
        outputs.append(model(batch))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], model(batch))
    assert torch.equal(torch.get_rng_state(), before)


def test_reset_head_is_seeded_and_small(tiny_bert):
    model, _ = build(tiny_bert, n_outputs=200)
    reset_head(model, torch.Generator().manual_seed(1))
    first = model.head.weight.clone()
    reset_head(model, torch.Generator().manual_seed(1))
    assert torch.equal(model.head.weight, first)
    assert first.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.head.bias.any()


def test_sentence_transformers_folder_pools_by_mean(tmp_path):
    folder = as_sentence_transformer(build_checkpoint("bert", tmp_path / "st"))
    assert checkpoints.load(str(folder)).pooling == "mean"


def test_albert_whose_pooler_is_a_bare_layer(tmp_path, reviews, make_classifier):
    build_albert(tmp_path)
    model, tokenizer = build(tmp_path)
    encodings = encode(tokenizer, SINGLE, 64)
    logits = model(collate(encodings, np.arange(len(encodings))))
    expected, _ = padded_reference(tmp_path, SINGLE, "cls", model.head)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    classifier = make_classifier(model=tmp_path).fit(*map(list, reviews))
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(["a film"]), classifier.predict_proba(["a film"]))


def test_a_pooler_without_weights():
    """MobileBERT's first token goes to the head as it is."""
    config = MobileBertConfig(
        vocab_size=50,
        hidden_size=32,
        embedding_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        intra_bottleneck_size=16,
        num_feedforward_networks=1,
        classifier_activation=False,
    )
    encoder = MobileBertModel(config).eval()
    architecture = architecture_of(encoder, ["input_ids", "token_type_ids", "attention_mask"])
    model = SequenceClassifier(encoder, architecture, "cls", 2, 0.0, (None, ())).eval()
    assert not list(model.pooler.parameters())
    states = torch.randn(3, 32)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(model._apply_pooler(states.to(dtype)), states.to(dtype).float())
