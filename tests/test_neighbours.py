"""What a text comes to on a CPU, to the last bit, whatever is beside it and whatever a cache holds.

Only where torch's own products allow it: where the rows of a product with a multiple of four rows do not
depend on how many there are. On another processor these tests are skipped, and say so.
"""

from itertools import product

import numpy as np
import pytest
import torch
from checkpoints import PACKED, load_tokenizer
from test_first_tokens import build
from torch.nn.functional import linear

import skbert
from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.network.run_attention import run_attention

WORDS = "good bad film cat dog red blue money rain story poor very happy sad day new".split()


def some_texts():
    """Texts of 0 to 50 words, some of one length; their number is no multiple of four."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, n)) for n in [*draw.integers(0, 50, 21), 0, 1, 1, 9, 9, 9]]


@pytest.fixture(scope="module", autouse=True)
def _products_row_by_row():
    for dtype in (torch.float32, torch.float64):
        draw = torch.Generator().manual_seed(0)
        rows, weights = (torch.randn(n, 64, generator=draw, dtype=dtype) for n in (1024, 64))
        same = [
            torch.equal(linear(rows, weights[:n_outputs])[-n:], linear(rows[-n:], weights[:n_outputs]))
            for n_outputs, n in product((2, 3, 32, 37, 64), (4, 8, 12, 20, 28, 60, 100))
        ]
        texts = rows.view(16, 64, 64)
        same += [torch.equal((texts @ texts.mT)[-1:], texts[-1:] @ texts[-1:].mT)]
        if not all(same):
            pytest.skip("on this processor a row of a product depends on the others")


@pytest.fixture
def threads():
    """Sets the number of threads for as long as a test takes."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("family", "pooling", "n_threads"),
    [
        *((family, pooling, 1) for family in PACKED for pooling in ("cls", "mean", "max")),
        *((family, "mean", 2) for family in ("bert", "modernbert")),
    ],
)
def test_vectors_and_logits_in_batches_of_any_size(
    family, pooling, n_threads, dtype, threads, tiny_checkpoints
):
    threads(n_threads)
    folder = tiny_checkpoints(family, layers=2)
    model = build(folder, pooling)[0].to(dtype)
    tokenizer = load_tokenizer(folder)
    encodings = encode(tokenizer, Texts(some_texts()), 60)
    longest_first = np.argsort(-encodings.lengths, kind="stable")

    @torch.inference_mode()
    def outputs(batches):
        of_texts = {}
        for rows in batches:
            vectors = model.embed(collate(encodings, rows))
            of_texts |= dict(
                zip(rows.tolist(), zip(vectors, model.classify(vectors), strict=True), strict=True)
            )
        return [
            torch.stack(column) for column in zip(*(of_texts[i] for i in range(len(encodings))), strict=True)
        ]

    expected = outputs([longest_first])
    for size in (1, 3, 8):
        found = outputs(np.split(longest_first, range(size, len(longest_first), size)))
        assert all(map(torch.equal, found, expected)), size


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("first", "window"), [(False, None), (False, 20), (True, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", [5, 9, 31, 33, 101, 257])
def test_attention_in_runs_of_any_length(length, dtype, first, window, n_threads, threads):
    threads(n_threads)
    draw = torch.Generator().manual_seed(0)
    k, v, q = (torch.randn(7 * length, 12, 32, generator=draw, dtype=dtype) for _ in range(3))
    asking = 1 if first else length
    q = q[: 7 * asking]
    together = run_attention(q, k, v, np.full(7, length), 0.2, window)
    for i in range(7):
        own, rows = slice(i * asking, (i + 1) * asking), slice(i * length, (i + 1) * length)
        alone = run_attention(q[own], k[rows], v[rows], np.array([length]), 0.2, window)
        assert torch.equal(alone, together[own])


@pytest.mark.parametrize("parameters", [{"pooling": "cls"}, {"pooling": "mean", "head_layers": 1}], ids=str)
def test_predictions_of_one_text_at_a_time(parameters, make_classifier, reviews):
    texts = some_texts()
    model = make_classifier(max_length=60, **parameters).fit(*map(list, reviews))
    for predict in (model.predict_proba, model.transform, model.decision_function):
        np.testing.assert_array_equal(np.concatenate([predict([text]) for text in texts]), predict(texts))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"freeze": "encoder"}, {"freeze": 1}, {"freeze": 1, "long_text": "windows", "max_length": 8}],
    ids=str,
)
def test_a_fit_whatever_the_cache_holds(parameters, precision, make_classifier, reviews, tiny_checkpoints):
    """Nothing, a single text, every second text, or all: alone in their batches, some would be."""
    texts, labels = map(list, reviews)
    folder = tiny_checkpoints("bert", layers=2)

    def fitted(rows):
        skbert.clear_caches()
        make = lambda: make_classifier(model=folder, precision=precision, **parameters)  # noqa: E731
        if len(rows):
            make().fit([texts[i] for i in rows], [labels[i] for i in rows])
        return make().fit(texts, labels)

    expected = fitted([])
    for rows in ([0, 1, 2], [0, *range(1, 24, 2)], range(24)):
        found = fitted(rows)
        assert found.loss_curve_ == expected.loss_curve_
        for name, weight in expected.model_.state_dict().items():
            assert torch.equal(found.model_.state_dict()[name], weight), name
