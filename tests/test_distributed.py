"""One fit on two processes: equal to one process, equal on both, and over on both when one fails."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks

import skbert
from skbert.training.ranks import deal


@pytest.mark.parametrize(("n_rows", "size"), [(16, 4), (7, 2), (1, 3), (64, 8)])
def test_rows_are_dealt_once_and_in_near_equal_shares(n_rows, size):
    rng = np.random.default_rng(0)
    rows, lengths = rng.permutation(100)[:n_rows], rng.integers(2, 128, n_rows)
    of_row = dict(zip(rows, lengths, strict=True))
    dealt = deal(rows, lengths, size)
    assert sorted(np.concatenate(dealt)) == sorted(rows)
    assert np.ptp([len(share) for share in dealt]) <= 1
    tokens = [sum(of_row[row] for row in share) for share in dealt]
    assert np.ptp(tokens) <= lengths.max()


@pytest.fixture(scope="module")
def torchrun(tiny_bert, tmp_path_factory):
    """Return what both ranks came to, and what torchrun said."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(Path(skbert.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, ranks.__file__, tiny_bert, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout=580,
        check=False,
    )
    files = [folder / f"{rank}.pickle" for rank in (0, 1)]
    assert all(file.exists() for file in files), done.stderr
    return [pickle.loads(file.read_bytes()) for file in files], done.stderr


@pytest.fixture(scope="module")
def together(torchrun):
    """Return what both ranks came to."""
    return torchrun[0]


def assert_equal_fits(found, expected, tolerance=1e-10):
    assert found["losses"] == pytest.approx(expected["losses"], rel=tolerance)
    np.testing.assert_allclose(found["decisions"], expected["decisions"], atol=tolerance)
    for name, weight in expected["weights"].items():
        # Adam scales a gradient that is rounding noise up to a whole step. Those of the keys' biases are
        # nothing else, as softmax ignores these; in float32 there are others.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(found["weights"][name], weight, atol=20 * tolerance, err_msg=name)


def assert_same_on_both(outcomes):
    first, second = outcomes
    assert all(np.array_equal(first["weights"][n], second["weights"][n]) for n in first["weights"])
    assert [first[k] for k in ("losses", "scores", "epochs")] == [
        second[k] for k in ("losses", "scores", "epochs")
    ]


@pytest.mark.parametrize("name", ranks.PLAIN)
def test_two_ranks_equal_one_process(together, tiny_bert, name):
    alone = ranks.case(tiny_bert, name)
    assert_equal_fits(together[0][name], alone, 1e-6 if name == "float32" else 1e-10)
    assert_same_on_both([found[name] for found in together])
    assert together[0][name]["scores"] == alone["scores"]


def test_early_stopping_ends_all_ranks_in_the_same_epoch(together):
    epochs = {found["early stopping"]["epochs"] for found in together}
    assert len(epochs) == 1
    assert epochs < set(range(1, 8))


def test_calls_of_partial_fit_add_up(together, tiny_bert):
    assert_equal_fits(together[0]["continued"], ranks.continued(tiny_bert))
    assert_same_on_both([found["continued"] for found in together])


def test_a_rank_short_of_memory_takes_its_share_in_parts(together):
    assert_equal_fits(together[1]["one short of memory"], together[0]["float64"])
    assert_same_on_both([found["one short of memory"] for found in together])


def test_dropout_is_the_ranks_own_and_their_weights_are_equal(together, tiny_bert):
    assert_same_on_both([found["dropout"] for found in together])
    alone = ranks.outcome(ranks.classifier(tiny_bert, dropout=0.2).fit(ranks.TEXTS, ranks.LABELS))
    assert not np.allclose(together[0]["dropout"]["decisions"], alone["decisions"], atol=1e-6)


def test_without_a_seed_the_ranks_take_that_of_the_first(together):
    assert_same_on_both([found["no seed"] for found in together])


def test_the_first_rank_alone_shows_progress_and_warns(together):
    first, second = together
    assert "epoch 2/2: 100%" in first["shown"]
    assert "TruncationWarning" in first["warned"]
    assert second["shown"] == ""
    assert second["warned"] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other labels", ["y differs on rank 1"]),
        ("other texts", ["X is 29 texts", "X", "but 28 texts", "on rank 1"]),
        ("other rate", ["learning_rate is 0.001 on rank 0, but 0.002 on rank 1"]),
        ("other seed", ["random_state is seed ", " on rank 0, but seed "]),
    ],
)
def test_ranks_that_were_given_something_else(together, name, words):
    for found in together:
        error = found[name]
        assert error["type"] == "RankError"
        assert all(word in error["text"] for word in [*words, "same data and parameters"])
        assert error["unchanged"]


def test_checkpoint_is_refused_on_several_ranks(together):
    for found in together:
        error = found["checkpoint"]
        assert error["type"] == "InputError"
        assert "unkept', but the fit runs on 2 ranks" in error["text"]
        assert error["unchanged"]


def test_an_error_on_one_rank_ends_all(together):
    first, second = (found["bad input on one"] for found in together)
    assert second["type"] == "InputTypeError"
    assert "row 0" in second["text"]
    assert first["type"] == "RankError"
    assert "Rank 1 of 2 ended the fit with InputTypeError: X has None" in first["text"]
    first, second = (found["one without memory"] for found in together)
    assert second["type"] == "InsufficientMemoryError"
    assert first["type"] == "RankError"
    assert "Rank 1 of 2 ended the fit with InsufficientMemoryError" in first["text"]
    first, second = (found["raises"] for found in together)
    assert second["type"] == "MemoryError"
    assert "for lack of memory" in second["text"]
    assert first["type"] == "RankError"
    assert "for lack of memory" in first["text"]
    assert first["unchanged"]
    assert second["unchanged"]


def test_a_loss_that_is_not_finite_is_an_error_on_all_ranks(together):
    first, second = (found["not finite"] for found in together)
    assert first["type"] == "NonFiniteLossError"
    assert first["text"] == second["text"]


def test_fits_go_on_after_errors(together):
    assert_same_on_both([together[0]["after errors"], together[1]["float64"]])


def test_a_process_group_of_the_users_is_used_and_kept(together):
    assert_same_on_both([together[0]["own group"], together[1]["float64"]])
    assert all(found["group is kept"] for found in together)


def test_a_rank_that_hangs_runs_into_the_timeout(together):
    first, second = (found["hangs"] for found in together)
    assert first["type"] == "RankError"
    assert "Rank 0 of 2 lost contact with the others" in first["text"]
    assert 5.5 < first["seconds"] < 30  # the group's timeout is 6 seconds
    assert second["type"] == "RankError"
    assert first["unchanged"]
    assert second["unchanged"]


def test_a_rank_that_dies_ends_the_others_at_once(torchrun):
    (first, second), said = torchrun
    assert re.search(r"exitcode\s*: 7", said), said
    assert "dies" not in second
    assert first["dies"]["type"] == "RankError"
    assert "lost contact with the others" in first["dies"]["text"]
    assert first["dies"]["seconds"] < 30
    assert first["dies"]["unchanged"]


ON_GPUS = """
import sys
import numpy as np
import ranks

fitted = ranks.classifier(sys.argv[1], device="auto", precision="float32").fit(ranks.TEXTS, ranks.LABELS)
np.save(f"{sys.argv[2]}/{ranks.RANK}.npy", fitted.decision_function(ranks.TEXTS))
"""


@pytest.mark.gpu
def test_two_gpus_equal_one(tiny_bert, tmp_path):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    script = tmp_path / "script.py"
    script.write_text(ON_GPUS, encoding="utf-8")
    paths = [str(Path(skbert.__file__).parents[1]), str(Path(ranks.__file__).parent)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*command, str(script), tiny_bert, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        timeout=300,
        check=True,
    )
    first, second = (np.load(tmp_path / f"{rank}.npy") for rank in (0, 1))
    alone = ranks.classifier(tiny_bert, device="cuda", precision="float32").fit(ranks.TEXTS, ranks.LABELS)
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(first, alone.decision_function(ranks.TEXTS), atol=1e-4)
