"""Where the layers of an encoder are, and what comes before them, in families that call them otherwise."""

import pytest
import transformers

from skbert.exceptions import InputError
from skbert.network.layers import embedding_parts, encoder_layers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
DISTANCES = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
LAST_NORM = {"ln_f.weight", "ln_f.bias"}

# Of each family: its config, and the weights above the layers. All others are in a layer or come before them.
FAMILIES = {
    "Bert": (SIZES, POOLER),
    "Electra": (SIZES | {"embedding_size": 16}, set()),
    "RemBert": (SIZES | {"input_embedding_size": 16, "bos_token_id": 0, "eos_token_id": 0}, POOLER),
    "MPNet": (SIZES, POOLER),
    "DebertaV2": (SIZES | DISTANCES, set()),
    "RoFormer": (SIZES, set()),
    "GPT2": (GPT, LAST_NORM),
    "Bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, LAST_NORM),
    "BioGpt": (SIZES, {"layer_norm.weight", "layer_norm.bias"}),
    "OPT": (
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"decoder.final_layer_norm.weight", "decoder.final_layer_norm.bias"},
    ),
    "Qwen2": (SIZES | {"num_key_value_heads": 2}, {"norm.weight"}),
}


def make(family, sizes):
    config = getattr(transformers, f"{family}Config")(vocab_size=100, **sizes)
    return transformers.AutoModel.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_before_a_layer_in_one_or_above(family):
    sizes, above = FAMILIES[family]
    encoder = make(family, sizes)
    layers, before = encoder_layers(encoder), embedding_parts(encoder)
    assert len(layers) == 2
    in_layers = {p for layer in layers for p in layer.parameters()}
    in_parts = {p for part in before for p in part.parameters()}
    assert not in_layers & in_parts
    assert {n for n, p in encoder.named_parameters() if p not in in_layers | in_parts} == above


def test_parts_of_albert():
    """It has its layers once, and runs them again and again; what comes before them is known all the same."""
    encoder = make("Albert", SIZES | {"embedding_size": 16})
    with pytest.raises(InputError, match="AlbertModel has no list of its layers"):
        encoder_layers(encoder)
    assert embedding_parts(encoder) == [encoder.embeddings, encoder.encoder.embedding_hidden_mapping_in]


def test_parts_of_xlm():
    """Its layers are in several lists, its embeddings beside these."""
    encoder = make("XLM", {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "n_langs": 3, "use_lang_emb": True})
    with pytest.raises(InputError, match="XLMModel has no list of its layers"):
        encoder_layers(encoder)
    in_parts = {p for part in embedding_parts(encoder) for p in part.parameters()}
    names = {n.partition(".")[0] for n, p in encoder.named_parameters() if p in in_parts}
    assert names == {"embeddings", "position_embeddings", "lang_embeddings", "layer_norm_emb"}
