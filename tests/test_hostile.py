"""Model files by somebody who computes all checksums anew: each is refused by `PersistenceError`."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from saved_model import QUESTIONS, SAVED, SAVED_NUMBERS

from skbert import BertClassifier, BertRegressor, PersistenceError
from skbert.persistence import delta, tensorfile
from skbert.persistence.codec import encode


@pytest.fixture
def forge(tmp_path):
    """Return a function that changes what a saved file holds, and seals it anew."""

    def forged(change, saved=SAVED, name="forged"):
        arrays, metadata, _ = tensorfile.read(saved)
        content = json.loads(metadata["skbert"])
        replaced = change(content, arrays)
        content = content if replaced is None else replaced
        if isinstance(content, dict) and isinstance(content.get("arrays"), dict):
            content["arrays"] = {name: tensorfile.describe(array) for name, array in arrays.items()}
        path = tmp_path / name
        with path.open("wb") as file:
            tensorfile.write(file, arrays, tensorfile.sealed("skbert", content))
        return path

    return forged


def setting(part, **changes):
    """A change of the config, or of the settings, of the model."""

    def change(content, _):
        found = dict(content["model"][part]["$dict"])
        content["model"][part] = {"$dict": [[n, v] for n, v in (found | changes).items()]}

    return change


def architecture(**changes):
    def change(content, _):
        settings = dict(content["model"]["settings"]["$dict"])
        found = dict(settings["architecture"]["$dict"])
        settings["architecture"] = {"$dict": [[n, v] for n, v in (found | changes).items()]}
        content["model"]["settings"] = {"$dict": [[n, v] for n, v in settings.items()]}

    return change


def changed(*path, value):
    """A change of one entry of the JSON."""

    def change(content, _):
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


def of_arrays(function):
    def change(_, arrays):
        arrays |= {name: function(array) for name, array in arrays.items()}

    return change


def all_layers_of_nothing(content, arrays):
    arrays |= {f"encoder.encoder.layer.{n}.x": np.empty(0, np.float32) for n in range(3000)}
    setting("config", num_hidden_layers=3000)(content, arrays)


def wide_hidden_layers(content, arrays):
    arrays["hidden.0.x"] = np.empty(0, np.float32)
    setting("settings", head_layers=1)(content, arrays)
    setting("config", hidden_size=2**19)(content, arrays)


def map_to(**names):
    return setting("config", attribute_map={"$dict": [[n, v] for n, v in names.items()]}, other="owner/name")


def random_state(pos):
    encoded = encode(np.random.RandomState(0), "a state")
    state = dict(dict(encoded["$random_state"]["$dict"])["state"]["$dict"])
    items = [["key", state["key"]], ["pos", pos]]
    whole = [[n, {"$dict": items} if n == "state" else v] for n, v in encoded["$random_state"]["$dict"]]
    return changed("parameters", "random_state", value={"$random_state": {"$dict": whole}})


def array(**of_array):
    return changed(
        "attributes", "x_", value={"$array": {"dtype": "<i8", "shape": [0], "items": []} | of_array}
    )


def wide_head(content, arrays):
    arrays["head.weight"] = np.zeros((1000, 32), dtype=np.float32)


WIDE = {"$array": {"dtype": "<U99999999", "shape": [2], "items": ["neg", "pos"]}}
_LEVELS = (
    500 if sys.version_info < (3, 12) else 990
)  # deeper than code may go, which counted json's levels as well
DEEP = json.loads("[" * _LEVELS + "]" * _LEVELS)

# By the words of the refusal.
FORGED = {
    "": {
        "a list": lambda content, arrays: [content],
        "nothing": lambda content, arrays: {},
        "no format": lambda content, arrays: content.pop("format") and None,
        "an odd format": changed("format", value=[1]),
        "no versions": lambda content, arrays: (
            content.pop("versions") and changed("format", value=2)(content, 0)
        ),
        "another class": changed("class", value="Pipeline"),
        "an unknown parameter": changed("parameters", "no_such", value=1),
        "a nested parameter": changed("parameters", "model__x", value=1),
        "a parameter of no type": changed("parameters", "epochs", value={"$object": "os.system"}),
        "a parameter of two types": changed("parameters", "epochs", value={"$tuple": [], "$dict": []}),
        "a parameter of depth": changed("parameters", "epochs", value=DEEP),
        "an array of another form": changed(
            "parameters", "epochs", value={"$array": {"dtype": "i4", "shape": [1], "items": [1]}}
        ),
        "an array that rounds": changed(
            "parameters", "epochs", value={"$array": {"dtype": "<i4", "shape": [1], "items": [1.5]}}
        ),
        "an array of any width": changed("attributes", "classes_", value=WIDE),
        "an attribute that is a method": changed("attributes", "predict", value=1),
        "an attribute of the class": changed("attributes", "__class__", value="x"),
        "an attribute that is private": changed("attributes", "_repr_html_", value=1),
        "an attribute with a dot": changed("attributes", "a.b_", value=1),
        "no classes": lambda content, arrays: content["attributes"].pop("classes_") and None,
        "classes that are a list": changed("attributes", "classes_", value=["neg", "pos"]),
        "another kind of target": changed("attributes", "target_type_", value="continuous"),
        "a max_length_ that is a str": changed("attributes", "max_length_", value="32"),
        "routing of no method": changed("routing", value={"__init__": {}}),
        "routing of no metadata": changed("routing", value={"fit": {"no_such": True}}),
        "no tokenizer": changed("tokenizer", value={}),
        "a tokenizer that is a str": changed("tokenizer", value="tokenizer.json"),
        "another builder": changed("model", "builder", value="os.system"),
        "another family": setting(
            "config", model_type="detr", use_pretrained_backbone=True, backbone="resnet50"
        ),
        "a family of no such name": setting("config", model_type="no-such"),
        "a family that is a list": setting("config", model_type=["bert"]),
        "remote code": setting(
            "config", auto_map={"$dict": [["AutoModel", "evil/repository--modeling.Model"]]}
        ),
        "attention from the hub": setting("config", attn_implementation="evil/kernels"),
        "private attention": setting("config", _attn_implementation="evil/kernels"),
        "quantized": setting("config", quantization_config={"$dict": [["quant_method", "gptq"]]}),
        "a dtype that is a function": setting("config", dtype="load"),
        "many labels": setting("config", num_labels=10**9),
        "many layers": setting("config", num_hidden_layers=10**9),
        "no layers": setting("config", num_hidden_layers=0),
        "more layers": setting("config", num_hidden_layers=2),
        "a large vocabulary": setting("config", vocab_size=10**12),
        "many positions": setting("config", max_position_embeddings=10**12),
        "a large width": setting("config", hidden_size=2**20, num_attention_heads=2),
        "a large width of another layer": lambda content, arrays: (
            changed("model", "builder", value="classifier")(content, arrays)
            or setting("config", hidden_size=2**20)(content, arrays)
        ),
        "a width that is a str": setting("config", hidden_size="32"),
        "an unknown activation": setting("config", hidden_act="os.system"),
        "many outputs": setting("settings", n_outputs=10**12),
        "an unknown setting": setting("settings", no_such=1),
        "an architecture that is none": setting("settings", architecture={"$dict": []}),
        "a wide head": wide_head,
        "a head that is missing": lambda content, arrays: arrays.pop("head.weight") is None or None,
        "arrays that are a list": changed("arrays", value=[]),
    },
    "which save\\(\\) never writes": {
        "a name for the attention": map_to(
            _attn_implementation="other", _attn_implementation_internal="other"
        ),
        "a name for the layers": map_to(num_hidden_layers="other"),
        "a method": setting("config", to_dict=1),
        "parts with configs": setting("config", sub_configs={"$dict": []}),
    },
    "an initializer_range below zero": {
        "weights drawn for ever": setting("config", initializer_range=-1.5),
    },
    "should have 3000 layers": {
        "layers of nothing": all_layers_of_nothing,
    },
    "the settings of its model are not valid": {
        "many layers in the head": setting("settings", head_layers=10**6),
        "less than no layer": setting("settings", head_layers=-1),
        "layers as bool": setting("settings", head_layers=False),
        "a dropout of two": setting("settings", head_dropout=2.0),
        "attention of another kind": changed("model", "arguments", value=[False]),
        "attention by a number": changed("model", "arguments", value=[1]),
        "positions by bool": architecture(position_offset=True),
    },
    "its settings do not match the inputs that its encoder reads": {
        "positions beyond the table": architecture(position_offset=10**6),
        "segments beyond the table": architecture(n_segments=100),
    },
    "is missing, or not of the shape": {
        "hidden layers for which no memory is there": wide_hidden_layers,
    },
    "RandomState has an invalid position": {
        "a place before the key": random_state(-5),
        "a place behind the key": random_state(625),
        "a place far away": random_state(2**31 - 1),
    },
    "adds 40 special tokens, but max_length_ is 24": {
        "a frame without room for texts": changed(
            "tokenizer",
            "post_processor",
            value={
                "type": "TemplateProcessing",
                "single": [
                    *([{"SpecialToken": {"id": "[SEP]", "type_id": 0}}] * 40),
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
            },
        ),
    },
    "more than 1000 characters": {
        "a piece that tokenizers ends the process at": changed(
            "tokenizer",
            "model",
            value={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b" * 200_000, -1.0]]},
        ),
    },
    "keys, too many of which have the same hash": {
        "some keys of one hash": changed(
            "parameters",
            "class_weight",
            value={"$dict": [[k, 0] for n in range(1, 2000) for k in (n, n * (2**61 - 1))]},
        ),
        "keys of one hash": changed(
            "parameters", "class_weight", value={"$dict": [[k * (2**61 - 1), 0] for k in range(1, 5000)]}
        ),
    },
    "more than 64 dimensions": {
        "a long shape": array(shape=[9] * 10**5),
    },
    "which model files do not use": {
        "a dtype that is read as code": array(dtype="i4,,"),
        "a dtype of old": array(dtype="a5"),
    },
    "its fitted attributes are not those of a fit": {
        "texts of length 0": changed("attributes", "max_length_", value=0),
        "columns by bool": changed("attributes", "n_features_in_", value=True),
    },
    "has positions for 128 tokens": {
        "texts longer than positions": changed("attributes", "max_length_", value=10**6),
    },
    "its model has weights of the dtype .*, but weights must be floats": {
        "weights of integers": of_arrays(lambda array: array.astype(np.int32)),
    },
    "the tokenizer truncates or pads": {
        "a tokenizer that cuts": changed(
            "tokenizer",
            "truncation",
            value={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        ),
    },
    "its tokenizer could not be read": {
        "a tokenizer that gives up": changed(
            "tokenizer", "normalizer", value={"type": "Precompiled", "precompiled_charsmap": ""}
        ),
        "a frame of unknown tokens": changed(
            "tokenizer",
            "post_processor",
            value={
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "X", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {},
            },
        ),
    },
    "its tokenizer could not be read .Exception: Unknown": {
        "words of a limit of the process": changed("tokenizer", "version", value="Too many open files"),
    },
    r"its tokenizer could not be read .Exception: .{,600}$": {
        "a long message": changed("tokenizer", "version", value="9" * 3000),
    },
    "it has format True": {
        "a format by bool": lambda content, _: content.update(format=True),
    },
}


@pytest.mark.parametrize(("words", "name"), [(words, name) for words in FORGED for name in FORGED[words]])
def test_forged_files_are_refused(words, name, forge):
    with pytest.raises(PersistenceError, match=rf"forged' cannot be loaded: .*{words}"):
        BertClassifier.load(forge(FORGED[words][name]))


def answers(classifier):
    return classifier.decision_function(pd.DataFrame({"review": QUESTIONS}))


def test_forging_nothing_changes_nothing(forge):
    again = BertClassifier.load(forge(lambda content, arrays: None))
    np.testing.assert_array_equal(answers(again), answers(BertClassifier.load(SAVED)))


def test_a_newer_format_says_so(forge):
    def newer(content, arrays):
        return {"format": 2, "versions": {"skbert": "7.0"}, "all": "else is new"}

    with pytest.raises(
        PersistenceError, match=r"format 2, written by skbert 7\.0; .* Install a newer skbert"
    ):
        BertClassifier.load(forge(newer))


def test_a_parameter_of_a_newer_version_says_so(forge):
    def newer(content, arrays):
        content["parameters"]["warp"] = 9
        content["versions"]["skbert"] = "7.0"

    with pytest.raises(PersistenceError, match=r"\['warp'\].*written by skbert 7\.0; install"):
        BertClassifier.load(forge(newer))


def test_a_parameter_that_an_older_version_did_not_have(forge):
    """It gets its default, which must be what there was before it."""

    def older(content, arrays):
        del content["parameters"]["label_smoothing"]

    again = BertClassifier.load(forge(older))
    assert again.label_smoothing == 0.0
    np.testing.assert_array_equal(answers(again), answers(BertClassifier.load(SAVED)))


@pytest.mark.parametrize("pooling", ["last", ["mean"], None])
def test_an_unknown_pooling_is_refused(forge, pooling):
    with pytest.raises(PersistenceError, match="the settings of its model are not valid"):
        BertClassifier.load(forge(setting("settings", pooling=pooling)))


def test_hidden_layers_that_are_not_there(forge):
    with pytest.raises(PersistenceError, match="the settings of its model are not valid"):
        BertRegressor.load(forge(setting("settings", head_layers=2), SAVED_NUMBERS))


def test_merges_that_tokenizers_ends_the_process_at(forge):
    """It takes as many bytes off the second part as the prefix has, in the middle of a character."""

    def change(content, _):
        content["tokenizer"] |= {"added_tokens": [], "post_processor": None}
        content["tokenizer"]["model"] = {
            "type": "BPE",
            "vocab": {"a": 2, "é": 1, "aé": 3},
            "merges": [["a", "é"]],
            "continuing_subword_prefix": "x",
        }

    with pytest.raises(PersistenceError, match="merges 'é', which lacks the prefix 'x'"):
        BertClassifier.load(forge(change))


def test_no_memory_beyond_the_file(forge):
    """Files whose JSON asks for terabytes, in a process that has half a gigabyte left."""
    pytest.importorskip("resource")
    greedy = [
        "many layers",
        "a large vocabulary",
        "many positions",
        "a large width",
        "a large width of another layer",
        "many outputs",
        "many labels",
    ]
    paths = [forge(FORGED[""][case], name=case) for case in greedy]
    code = """
import resource, sys, torch, skbert
from pathlib import Path
from skbert import BertClassifier, PersistenceError
torch.set_num_threads(1)
BertClassifier.load(sys.argv[1])
pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 2**22
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29,) * 2)
for path in sys.argv[2:]:
    try:
        BertClassifier.load(path)
    except PersistenceError as error:
        print("refused")
"""
    command = [sys.executable, "-W", "error", "-c", code, SAVED, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused"] * len(greedy), done.stderr


def test_a_wide_head_takes_no_memory(forge):
    """Of sizes that only some weights have: nothing is allocated by them."""

    def change(content, arrays):
        arrays["head.weight"] = np.empty((len(arrays["head.weight"]), 0), np.float32)

    with pytest.raises(PersistenceError, match=r"'head\.weight' is missing, or not of the shape"):
        BertClassifier.load(forge(change))
    arrays, metadata, _ = tensorfile.read(SAVED)
    content = json.loads(metadata["skbert"])
    many = 10**7
    arrays["head.weight"], arrays["head.bias"] = np.empty((many, 0), np.float32), np.empty(0, np.float32)
    from skbert.persistence import model_spec
    from skbert.persistence.codec import Decoder

    described = {name: Decoder(2**24).decode(value) for name, value in content["model"].items()}
    described["settings"]["n_outputs"] = many
    with pytest.raises(PersistenceError, match="or not of the shape"):
        model_spec.build(described, arrays, many)
    assert torch.get_default_device().type == "cpu"


def test_names_that_occur_twice(tmp_path):
    arrays, metadata, _ = tensorfile.read(SAVED)
    text = metadata["skbert"].replace('"format":1', '"format":2,"format":1', 1)
    path = tmp_path / "twice"
    with path.open("wb") as file:
        tensorfile.write(file, arrays, {"skbert": text, "sha256": tensorfile.checksum(text)})
    with pytest.raises(PersistenceError, match="a name occurs twice"):
        BertClassifier.load(path)


def test_more_lists_than_memory_is_for(tmp_path):
    text = b'{"__metadata__":{"a":"' + b"[]," * 2**20 + b'"}}'
    path = tmp_path / "lists"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(PersistenceError, match="more than 1048576 lists"):
        BertClassifier.load(path)
    with path.open("wb") as file, pytest.raises(PersistenceError, match="more than 1048576 lists"):
        tensorfile.write(file, {}, {"a": "[" * 2**20})


def test_lists_that_are_written_otherwise(tmp_path):
    metadata = tensorfile.read(SAVED)[1]
    text = metadata["skbert"].replace('"versions":{', '"versions":{"a":[' + "[]," * 2**20 + "0],", 1)
    header = {"__metadata__": {"skbert": text, "sha256": tensorfile.checksum(text)}}
    content = json.dumps(header).replace("[]", "\\u005b]").encode()
    (tmp_path / "lists").write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(PersistenceError, match="more than 1048576 lists"):
        BertClassifier.load(tmp_path / "lists")


def test_adapters_of_other_dimensions_take_no_memory():
    """Their product would be as large as their sizes multiplied."""
    factors = {"adapters.x.a": np.ones((1, 4000, 1, 3), np.int8), "adapters.x.b": np.ones((5, 1), np.int8)}
    with pytest.raises(PersistenceError, match="but the adapter for it has"):
        delta.whole(factors, {"x": np.ones((5, 3), np.float32)}, {"x": np.dtype(np.float32)})


def test_a_checkpoint_that_is_no_name_is_the_callers():
    with pytest.raises(TypeError, match="not int"):
        BertClassifier.load(SAVED, checkpoint=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("config", initializer_range={"$float": "nan"}), "initializer_range below zero"),
        (setting("config", _attn_implementation_internal="evil/kernels"), r"which save\(\) never writes"),
        (setting("config", is_decoder=True), "do not match the inputs that its encoder reads"),
        (setting("settings", head_dropout=-0.5), "the settings of its model are not valid"),
        (architecture(pad_id=7), "do not match the inputs that its encoder reads"),
        (changed("attributes", "random_state", value=1), "is not one that a fit sets"),
    ],
)
def test_values_next_to_those_that_a_fit_sets(change, message, forge):
    with pytest.raises(PersistenceError, match=message):
        BertClassifier.load(forge(change))


def test_one_label_that_would_be_wider_than_the_file(forge):
    wide = array(dtype="<U30000000", shape=[1], items=["a"])
    with pytest.raises(PersistenceError, match="does not fit into its file"):
        BertClassifier.load(forge(wide))


def test_tables_that_only_a_config_makes_large(tiny_checkpoints, make_classifier, reviews, tmp_path, forge):
    model = make_classifier(model=tiny_checkpoints("deberta-v2")).fit(*map(list, reviews))
    model.save(tmp_path / "model")
    large = setting("config", max_position_embeddings=2**22)
    with pytest.raises(PersistenceError, match="more memory than its arrays account for"):
        BertClassifier.load(forge(large, saved=tmp_path / "model"))
