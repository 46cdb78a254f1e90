"""The loop: what it learns, what it leaves, what it refuses."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import build_model, load_tokenizer
from transformers import AutoModel

from skbert import NonFiniteLossError, NonFiniteOutputError
from skbert.data.encoding import encode
from skbert.data.fit_data import TrainingData
from skbert.data.inputs import Texts
from skbert.data.outputs import make_loss
from skbert.network.dropout import set_dropout
from skbert.randomness import Generators
from skbert.runtime import Runtime
from skbert.training import loop, optimizer, resume
from skbert.training.callbacks import Watcher
from skbert.training.optimizer import linear_schedule, parameter_groups
from skbert.training.validation import Validation

CPU = torch.device("cpu")
TEXTS = Texts(["good film", "bad cat and dog", "the rain", "a poor story", "red", "happy day", "sad"])
TARGETS = np.array([0, 1, 0, 1, 0, 1, 1])
SETTINGS = loop.TrainingSettings(
    epochs=3,
    batch_size=3,
    learning_rate=1e-2,
    schedule=partial(linear_schedule, warmup_ratio=0.2),
    layer_decay=1.0,
    weight_decay=0.1,
    max_grad_norm=1.0,
)


def make(folder, dropout=0.0, generators=None):
    model = build_model(folder)
    set_dropout(model, dropout, None if generators is None else generators.dropout)
    data = TrainingData(encode(load_tokenizer(folder), TEXTS, 32), TARGETS, np.ones(7), np.ones(2))
    return model, data


def fit(folder, settings=SETTINGS, dtype=torch.float32, seed=0, dropout=0.0, watcher=None):
    generators = Generators.from_seed(seed, CPU)
    model, data = make(folder, dropout, generators)
    return trainer(model, data, generators, settings, dtype, watcher).fit()


def trainer(model, data, generators, settings=SETTINGS, dtype=torch.float32, watcher=None, moments=None):
    return loop.Trainer(
        model.requires_grad_(),
        data,
        settings,
        make_loss("binary", 0.0),
        Runtime(CPU, dtype),
        generators,
        watcher or Watcher(),
        Validation(),
        moments,
    )


def test_weights_equal_a_plain_padded_loop(tiny_bert):
    """The whole fit, step by step, against transformers' padded model and torch's own AdamW."""
    result = fit(tiny_bert)
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
    for name, value in result.weights.items():
        # Softmax ignores the keys' biases: their gradients are rounding noise, which Adam scales up.
        if name.startswith("encoder.") and not name.endswith("key.bias"):
            wanted = expected[name.removeprefix("encoder.")].detach()
            torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(result.weights["head.weight"], head.weight.detach(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_end_on_the_cpu_and_wide(dtype, tiny_bert):
    result = fit(tiny_bert, dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for p in result.weights.values()} == {expected}
    assert {p.device.type for p in result.weights.values()} == {"cpu"}
    assert not any(p.requires_grad for p in result.weights.values())
    assert set(result.weights) == set(make(tiny_bert)[0].state_dict())
    assert len(result.loss_curve) == 3
    assert result.loss_curve[-1] < result.loss_curve[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_learn_what_float32_learns(dtype, tiny_bert):
    settings = dataclasses.replace(SETTINGS, epochs=10)
    wide, narrow = (fit(tiny_bert, settings, t) for t in (torch.float32, dtype))
    assert narrow.loss_curve[-1] == pytest.approx(wide.loss_curve[-1], abs=0.05)


def test_same_seed_same_bits_other_seed_other_weights(tiny_bert):
    first, again, other = (fit(tiny_bert, seed=s, dropout=0.1).weights for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_diverging_loss_is_named(tiny_bert):
    model, data = make(tiny_bert)
    settings = dataclasses.replace(SETTINGS, batch_size=7, learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(NonFiniteLossError, match=r"step 2 \(epoch 2\).*1e\+38.*learning_rate"):
        trainer(model, data, Generators.from_seed(0, CPU), settings).fit()


def test_weights_that_give_no_numbers_are_named_before_a_rate_is_blamed(tiny_bert):
    model, data = make(tiny_bert)
    with torch.no_grad():
        model.head.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteOutputError, match=r"its weight head\.weight"):
        trainer(model, data, Generators.from_seed(0, CPU)).fit()


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(torch.float32, r"other weights\.$"), (torch.bfloat16, "or use prec")]
)
def test_a_loss_that_is_none_before_any_update_is_no_matter_of_the_rate(dtype, remedy, tiny_bert):
    model, data = make(tiny_bert)
    row = data.encodings.ids[data.encodings.offsets[3] + 1]  # of a word that the first text does not have
    assert row not in data.encodings.ids[: data.encodings.offsets[1]]
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight[row] = float("nan")
    with pytest.raises(NonFiniteLossError, match=rf"step 1 \(epoch 1\), before any update.*{remedy}"):
        trainer(model, data, Generators.from_seed(0, CPU), dtype=dtype).fit()


@pytest.mark.parametrize(
    ("norm", "dtype", "remedy"),
    [
        (1.0, torch.float32, "Lower learning_rate, or lower max_grad_norm."),
        (None, torch.float32, "Lower learning_rate, or set max_grad_norm=1.0."),
        (1.0, torch.bfloat16, "Lower learning_rate, or lower max_grad_norm, or use precision='float32'."),
    ],
)
def test_remedies_are_those_that_were_not_taken_yet(norm, dtype, remedy, tiny_bert):
    settings = dataclasses.replace(SETTINGS, batch_size=7, learning_rate=1e38, max_grad_norm=norm)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(tiny_bert, dataclasses.replace(settings, weight_decay=1e3), dtype)
    assert str(caught.value).endswith(remedy)


def test_a_last_update_that_diverges_is_named_too(tiny_bert):
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=7, learning_rate=1e38, weight_decay=1e3)
    model, data = make(tiny_bert)
    with pytest.raises(NonFiniteLossError, match="last update"):
        trainer(model, data, Generators.from_seed(0, CPU), settings).fit()


def test_a_weight_of_other_texts_that_diverges_is_named_too(tiny_bert):
    """The text that is asked at the end does not have it."""

    class Breaks(Watcher):
        def step(self, n_texts, loss, learning_rate):
            table = one.optimizer.weights()[one.vocabulary.name]
            table[one.data.encodings.ids[one.data.encodings.offsets[3] + 1]] = float("nan")

    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=7)
    one = trainer(*make(tiny_bert), Generators.from_seed(0, CPU), settings, watcher=Breaks())
    with pytest.raises(NonFiniteLossError, match="last update gave non-finite weights"):
        one.fit()


def test_every_step_is_one_of_training_also_after_a_validation(tiny_bert):
    """Else nothing would be dropped out from there on."""
    modes = []

    class Modes(Watcher):
        def step(self, n_texts, loss, learning_rate):
            modes.append(one.model.training)

    model, data = make(tiny_bert)
    data = dataclasses.replace(data, held_out=data.encodings)
    one = trainer(model, data, Generators.from_seed(0, CPU), watcher=Modes())
    one.fit()
    assert modes == [True] * 9


class Listener(Watcher):
    def __init__(self):
        self.heard = []
        self.results = []

    def fit_begin(self, epochs, n_texts):
        self.heard.append(("fit", epochs, n_texts))

    def epoch_begin(self, epoch):
        self.heard.append(epoch)
        self.sum = 0.0

    def step(self, n_texts, loss, learning_rate):
        self.sum += float(loss) * n_texts
        self.heard.append((n_texts, learning_rate))

    def epoch_end(self, record, result):
        assert record["loss"] == pytest.approx(self.sum / 7)
        self.heard.append(record)
        self.results.append(result())

    def fit_end(self, result):
        self.heard.append("end")
        self.results.append(result())


def test_a_watcher_hears_of_every_step_and_epoch(tiny_bert):
    listener = Listener()
    result = fit(tiny_bert, watcher=listener)
    rates = iter([1e-2 * linear_schedule(step, 9, 0.2) for step in range(9)])
    expected = [("fit", 3, 7)]
    for epoch, loss in enumerate(result.loss_curve):
        expected += [epoch, *((n, next(rates)) for n in (3, 3, 1)), {"epoch": epoch + 1, "loss": loss}]
    assert listener.heard == [*expected, "end"]


def test_a_result_on_the_way_is_that_of_the_training_so_far_and_changes_nothing(tiny_bert):
    listener = Listener()
    result = fit(tiny_bert, watcher=listener, dtype=torch.bfloat16)
    undisturbed = fit(tiny_bert, dtype=torch.bfloat16)
    assert all(torch.equal(result.weights[n], undisturbed.weights[n]) for n in result.weights)
    assert [len(r.loss_curve) for r in listener.results] == [1, 2, 3, 3]
    last = listener.results[-1].weights
    assert all(torch.equal(last[n], result.weights[n]) for n in last)
    assert not torch.equal(listener.results[0].weights["head.weight"], last["head.weight"])


def test_a_watcher_may_end_the_fit(tiny_bert):
    class Impatient(Listener):
        def epoch_end(self, record, result):
            super().epoch_end(record, result)
            return record["epoch"] == 2

    impatient = Impatient()
    result = fit(tiny_bert, watcher=impatient)
    assert len(result.loss_curve) == 2
    assert impatient.heard[-1] == "end"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_an_epoch_on_cuda_never_waits_for_the_device(tiny_bert):
    generators = Generators.from_seed(0, torch.device("cuda"))
    model, data = make(tiny_bert, 0.1, generators)

    class Strict(Watcher):
        def step(self, n_texts, loss, learning_rate):
            # From the first step on, which makes the optimizer's state, to the last one, after which the loss
            # is read.
            torch.cuda.set_sync_debug_mode("error" if n_texts == 3 else "default")

    runtime = Runtime(torch.device("cuda", 0), torch.bfloat16)
    cuda = loop.Trainer(
        model.requires_grad_(),
        data,
        SETTINGS,
        make_loss("binary", 0.0),
        runtime,
        generators,
        Strict(),
        Validation(),
    )
    try:
        cuda.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float16_leaves_out_the_steps_that_overflow(tiny_bert, monkeypatch):
    settings = dataclasses.replace(SETTINGS, epochs=20, batch_size=3)  # 60 steps
    usual = fit(tiny_bert, settings, torch.float16)
    monkeypatch.setattr(optimizer, "_LOSS_SCALE", 2.0**30)  # some dozen halvings too large
    later = fit(tiny_bert, settings, torch.float16)
    assert later.loss_curve[-1] < 0.5 * later.loss_curve[0]
    assert not torch.equal(later.weights["head.weight"], usual.weights["head.weight"])


def test_a_fit_that_float16_has_left_out_is_refused(tiny_bert, monkeypatch):
    monkeypatch.setattr(optimizer, "_LOSS_SCALE", 2.0**30)
    with pytest.raises(NonFiniteLossError, match=r"In 9 of 9 steps .* too large for float16.*'bfloat16'"):
        fit(tiny_bert, dataclasses.replace(SETTINGS, batch_size=3), torch.float16)


def test_a_call_of_several_may_leave_its_only_step_out(tiny_bert, monkeypatch):
    """What it keeps is the smaller scale, under which the next call's step goes through."""
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=7, open_ended=True)
    monkeypatch.setattr(optimizer, "_LOSS_SCALE", 2.0**22)
    model, data = make(tiny_bert)
    moments, scales = None, []
    for _ in range(12):
        one = trainer(model, data, Generators.from_seed(0, CPU), settings, torch.float16, moments=moments)
        result = one.fit()
        moments = one.moments()
        scales.append(moments.loss_scale["scale"])
        model = make(tiny_bert)[0]
        model.load_state_dict(result.weights)
    assert scales[0] == 2.0**21
    assert scales[-1] == scales[-2] < 2.0**20
    assert 0 < moments.steps < 12


def test_a_state_holds_the_scale_of_the_loss(tiny_bert, monkeypatch):
    monkeypatch.setattr(optimizer, "_LOSS_SCALE", 2.0**30)
    settings = dataclasses.replace(SETTINGS, epochs=20)
    model, data = make(tiny_bert)
    first = trainer(model, data, Generators.from_seed(0, CPU), settings, torch.float16)
    first.fit()
    values, arrays = resume.state_of(first)
    again = trainer(*make(tiny_bert), Generators.from_seed(0, CPU), settings, torch.float16)
    resume.restore(again, values, arrays)
    assert again.optimizer.scaler.state_dict() == first.optimizer.scaler.state_dict()
    assert again.optimizer.scaler.get_scale() < 2.0**30


def test_weights_have_a_mean_of_one(tiny_bert):
    curves = []
    for scale in (1.0, 4.0):
        generators = Generators.from_seed(0, CPU)
        model, data = make(tiny_bert, 0.0, generators)
        data = dataclasses.replace(data, weights=scale * np.linspace(0.5, 1.5, 7))
        curves.append(trainer(model, data, generators).fit().loss_curve)
    assert curves[0] == curves[1]


def test_a_state_holds_the_best_weights_and_how_far_absent_rows_had_decayed(tiny_bert):
    def new():
        generators = Generators.from_seed(0, CPU)
        model, data = make(tiny_bert, 0.0, generators)
        return trainer(model, dataclasses.replace(data, held_out=data.encodings), generators)

    first, second = new(), new()
    first.validation.best = (first.optimizer.snapshot()[0], 0.75)
    first.validation.scores = [0.5, 0.25]
    resume.restore(second, *resume.state_of(first))
    assert second.validation.best[1] == 0.75
    assert second.validation.scores == [0.5, 0.25]
    for mine, theirs in zip(second.validation.best[0], first.validation.best[0], strict=True):
        assert torch.equal(mine, theirs)
