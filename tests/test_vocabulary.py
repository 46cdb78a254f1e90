"""Training on a part of the embedding table equals training on all of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_model, load_tokenizer

from skbert.data.encoding import encode
from skbert.data.fit_data import TrainingData
from skbert.data.inputs import Texts
from skbert.data.outputs import make_loss
from skbert.network.dropout import set_dropout
from skbert.randomness import Generators
from skbert.runtime import Runtime
from skbert.training import loop
from skbert.training.callbacks import Watcher
from skbert.training.optimizer import linear_schedule
from skbert.training.validation import Validation
from skbert.training.vocabulary import FullVocabulary, compact

TEXTS = Texts(["good film", "bad cat and dog", "the rain", "a poor story", "red", "happy day"])
CPU32 = Runtime(torch.device("cpu"), torch.float32)


def make(folder):
    model = build_model(folder, "mean")
    set_dropout(model, 0.0, None)
    return model, encode(load_tokenizer(folder), TEXTS, 32)


def training_data(encodings):
    return TrainingData(encodings, np.array([0, 1, 0, 1, 0, 1]), np.ones(6), np.ones(2))


def fit(model, data, settings):
    generators = Generators.from_seed(0, CPU32.device)
    loss, model = make_loss("binary", 0.0), model.requires_grad_()
    trainer = loop.Trainer(model, data, settings, loss, CPU32, generators, Watcher(), Validation())
    return trainer.fit().weights


def settings(epochs, batch_size, layer_decay, weight_decay, warmup_ratio):
    schedule = partial(linear_schedule, warmup_ratio=warmup_ratio)
    return loop.TrainingSettings(epochs, batch_size, 1e-2, schedule, layer_decay, weight_decay, 1.0)


def test_padded_encoders_keep_their_ids(tiny_checkpoints):
    model, encodings = make(tiny_checkpoints("deberta-v2"))
    same, vocabulary = compact(model, training_data(encodings))
    assert np.array_equal(same.encodings.ids, encodings.ids)
    assert len(vocabulary.rows) == len(vocabulary.table)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_equals_the_plain_update(family, layer_decay, tiny_checkpoints, monkeypatch):
    weights = []
    for plain in (False, True):
        model, encodings = make(tiny_checkpoints(family))
        if plain:

            def untouched(model, data, moments):
                table = model.encoder.get_input_embeddings().weight
                name = next(n for n, p in model.named_parameters() if p is table)
                return data, FullVocabulary(table.detach(), torch.arange(len(table)), name)

            monkeypatch.setattr(loop, "compact", untouched)
        weights.append(fit(model, training_data(encodings), settings(3, 2, layer_decay, 0.1, 0.1)))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_the_padding_id_gets_no_gradient_where_texts_have_it(tiny_bert):
    """As in transformers: a padding id may be that of the unknown token."""
    before = build_model(tiny_bert, "mean").encoder.get_input_embeddings().weight
    rows = {}
    for padding in (None, load_tokenizer(tiny_bert).token_to_id("film")):
        model, encodings = make(tiny_bert)
        table = model.encoder.get_input_embeddings()
        table.padding_idx = padding
        name = next(n for n, p in model.named_parameters() if p is table.weight)
        after = fit(model, training_data(encodings), settings(1, 6, 1.0, 0.0, 0.0))[name]
        rows[padding] = {i for i in np.unique(encodings.ids).tolist() if not torch.equal(after[i], before[i])}
    assert rows[None] - rows[padding] == {padding}


def test_compact_keeps_the_rows_of_texts_to_validate_on(tiny_bert):
    model, encodings = make(tiny_bert)
    some, others = encodings.take(np.arange(3)), encodings.take(np.arange(3, 6))
    full = model.encoder.get_input_embeddings().weight.clone()
    data, vocabulary = compact(model, replace(training_data(some), held_out=others))
    assert vocabulary.rows.tolist() == np.unique(encodings.ids).tolist()
    for before, after in ((some, data.encodings), (others, data.held_out)):
        embedded = model.encoder.get_input_embeddings()(torch.from_numpy(after.ids.astype(np.int64)))
        assert torch.equal(embedded, full[torch.from_numpy(before.ids.astype(np.int64))])


def test_compact_keeps_the_rows_that_occur(tiny_bert):
    model, encodings = make(tiny_bert)
    full = model.encoder.get_input_embeddings().weight.clone()
    data, vocabulary = compact(model, training_data(encodings))
    assert data.held_out is None
    small = data.encodings
    occurring = np.unique(encodings.ids)
    assert vocabulary.rows.tolist() == occurring.tolist()
    assert len(model.encoder.get_input_embeddings().weight) == len(occurring) < len(full)
    assert occurring[small.ids].tolist() == encodings.ids.tolist()
    embedded = model.encoder.get_input_embeddings()(torch.from_numpy(small.ids.astype(np.int64)))
    assert torch.equal(embedded, full[torch.from_numpy(encodings.ids.astype(np.int64))])


def test_rows_that_do_not_occur_decay(tiny_bert):
    model, encodings = make(tiny_bert)
    before = model.encoder.get_input_embeddings().weight.clone()
    data = TrainingData(encodings, np.array([0, 1, 0, 1, 0, 1]), np.ones(6), np.ones(2))
    name = next(n for n, p in model.named_parameters() if p is model.encoder.get_input_embeddings().weight)
    after = fit(model, data, settings(2, 3, 1.0, 0.5, 0.0))[name]
    absent = np.setdiff1d(np.arange(len(before)), encodings.ids)
    rates = [1e-2 * f for f in (1, 0.75, 0.5, 0.25)]
    factor = np.prod([1 - 0.5 * rate for rate in rates])
    torch.testing.assert_close(after[absent], before[absent] * factor)
