"""The loop: what it learns, what it leaves, what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from skbert import NonFiniteLossError, checkpoints, training
from skbert.callbacks import Progress
from skbert.encoding import encode
from skbert.inputs import Texts
from skbert.model import SequenceClassifier, reset_head, set_dropout
from skbert.optimizer import linear_schedule, parameter_groups
from skbert.outputs import make_loss
from skbert.runtime import Generators, Runtime
from skbert.validation import NoValidation

CPU = torch.device("cpu")
TEXTS = Texts(["good film", "bad cat and dog", "the rain", "a poor story", "red", "happy day", "sad"])
TARGETS = np.array([0, 1, 0, 1, 0, 1, 1])
SETTINGS = training.TrainingSettings(
    epochs=3,
    batch_size=3,
    learning_rate=1e-2,
    layer_decay=1.0,
    weight_decay=0.1,
    warmup_ratio=0.2,
    max_grad_norm=1.0,
)


def make(folder, dropout=0.0, generators=None):
    checkpoint = checkpoints.load(folder)
    model = SequenceClassifier(
        checkpoint.new_encoder(), checkpoint.architecture, "cls", 2, 0.1, checkpoint.rebuild()
    )
    reset_head(model, torch.Generator().manual_seed(0))
    set_dropout(model, dropout, None if generators is None else generators.dropout)
    tokenizer = checkpoints.new_tokenizer(checkpoint.tokenizer_json)
    data = training.TrainingData(encode(tokenizer, TEXTS, 32), TARGETS, np.ones(7))
    return model, data


def fit(folder, settings=SETTINGS, dtype=torch.float32, seed=0, dropout=0.0, progress=None):
    generators = Generators.from_seed(seed, CPU)
    model, data = make(folder, dropout, generators)
    return model, trainer(model, data, generators, settings, dtype, progress).fit()


def trainer(model, data, generators, settings=SETTINGS, dtype=torch.float32, progress=None):
    return training.Trainer(
        model.requires_grad_(),
        data,
        settings,
        make_loss("binary", 0.0),
        Runtime(CPU, dtype),
        generators,
        progress or Progress(),
        NoValidation(),
    )


def test_weights_equal_a_plain_padded_loop(tiny_bert):
    """The whole fit, step by step, against transformers' padded model and torch's own AdamW."""
    model, result = fit(tiny_bert)
    head = make(tiny_bert)[0].head.requires_grad_()
    data = make(tiny_bert)[1]
    reference = AutoModel.from_pretrained(tiny_bert, attn_implementation="eager").eval()
    parameters = [*reference.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameter_groups([(p, 1.0) for p in parameters], 0.1), lr=0.0)
    order = Generators.from_seed(0, CPU).order
    curve = []
    for epoch in range(3):
        permutation = order.permutation(7)
        losses = []
        for step, rows in enumerate([permutation[:3], permutation[3:6], permutation[6:]]):
            parts = np.split(data.encodings.ids, data.encodings.offsets[1:-1])
            ids = [torch.from_numpy(parts[i].astype(np.int64)) for i in rows]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
            output = reference(input_ids=padded, attention_mask=mask).pooler_output
            loss = F.cross_entropy(head(output), torch.from_numpy(TARGETS[rows]))
            losses.append(loss.item() * len(rows))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * linear_schedule(3 * epoch + step, 9, 0.2)
            optimizer.step()
        curve.append(sum(losses) / 7)
    assert result.loss_curve == pytest.approx(curve, rel=1e-4)
    expected = dict(reference.named_parameters())
    for name, value in model.encoder.named_parameters():
        if name.endswith(
            "key.bias"
        ):  # softmax ignores it: its gradient is rounding noise, which Adam scales up
            continue
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(model.head.weight, head.weight.detach(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_model_ends_on_the_cpu_wide_frozen_and_in_eval_mode(dtype, tiny_bert):
    model, result = fit(tiny_bert, dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for p in model.parameters()} == {expected}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert len(result.loss_curve) == 3
    assert result.loss_curve[-1] < result.loss_curve[0]


def test_bfloat16_learns_what_float32_learns(tiny_bert):
    settings = dataclasses.replace(SETTINGS, epochs=10)
    wide, narrow = (fit(tiny_bert, settings, dtype)[1] for dtype in (torch.float32, torch.bfloat16))
    assert narrow.loss_curve[-1] == pytest.approx(wide.loss_curve[-1], abs=0.05)


def test_same_seed_same_bits_other_seed_other_weights(tiny_bert):
    first, again, other = (fit(tiny_bert, seed=s, dropout=0.1)[0] for s in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_diverging_loss_is_named(tiny_bert):
    model, data = make(tiny_bert)
    with torch.no_grad():
        model.head.weight.fill_(float("inf"))
    generators = Generators.from_seed(0, CPU)
    with pytest.raises(NonFiniteLossError, match=r"step 1 \(epoch 1\).*0\.01.*learning_rate"):
        trainer(model, data, generators).fit()


def test_a_last_update_that_diverges_is_named_too(tiny_bert):
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=7, learning_rate=1e38, weight_decay=1e3)
    model, data = make(tiny_bert)
    with pytest.raises(NonFiniteLossError, match="last update"):
        trainer(model, data, Generators.from_seed(0, CPU), settings).fit()


def test_progress_hears_of_every_step_and_epoch(tiny_bert):
    class Listener(Progress):
        heard: tuple = ()

        def step(self, n_texts):
            self.heard += (n_texts,)

        def epoch_end(self, epoch, loss):
            self.heard += ((epoch, loss),)

    listener = Listener()
    _, result = fit(tiny_bert, progress=listener)
    expected = []
    for number, loss in enumerate(result.loss_curve, start=1):
        expected += [3, 3, 1, (number, loss)]
    assert list(listener.heard) == expected


def test_settings_count_steps_and_rates():
    rates = list(SETTINGS.learning_rates(7))
    assert len(rates) == 9
    assert max(rates) == 1e-2
    assert rates[-1] > 0


@pytest.mark.gpu
def test_an_epoch_on_cuda_never_waits_for_the_device(tiny_bert):
    generators = Generators.from_seed(0, torch.device("cuda"))
    model, data = make(tiny_bert, 0.1, generators)

    class Strict(Progress):
        def step(self, n_texts):
            torch.cuda.set_sync_debug_mode("error")

        def epoch_end(self, epoch, loss):
            torch.cuda.set_sync_debug_mode("default")

    runtime = Runtime(torch.device("cuda", 0), torch.bfloat16)
    cuda = training.Trainer(
        model.requires_grad_(),
        data,
        SETTINGS,
        make_loss("binary", 0.0),
        runtime,
        generators,
        Strict(),
        NoValidation(),
    )
    try:
        cuda.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")
