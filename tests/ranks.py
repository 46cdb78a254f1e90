"""What two ranks do in `test_distributed.py`, started by torchrun.

Each rank runs all cases, and writes what came of them to a file of its own. The single process of the tests
uses `case` and `classifier`, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import sys
import time
import warnings
from datetime import timedelta

from limits import at_most

from skbert import BertClassifier, SkbertWarning

GOOD = ("good", "great", "fine", "nice", "happy", "best", "love")
BAD = ("bad", "poor", "dull", "sad", "worst", "hate", "slow")
TEXTS = [
    f"The {noun} {verb} {word}{tail}"
    for noun, verb, tail in (
        ("film", "was", "!"),
        ("story", "is", ", and so was the very old book that I read"),
    )
    for pair in zip(BAD, GOOD, strict=True)
    for word in pair
] + ["no"]
LABELS = ["neg", "pos"] * 14 + ["neg"]
RANK = int(os.environ.get("RANK", "0"))


def classifier(folder, **parameters):
    quick = {
        "model": folder,
        "max_length": 32,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "dropout": 0.0,
        "random_state": 0,
        "device": "cpu",
        "precision": "float64",
    }
    return BertClassifier(**(quick | parameters))


PLAIN = {
    "float64": {},
    "float32": {"precision": "float32"},
    "fewer texts than ranks": {"batch_size": 1, "epochs": 1},
    "uneven batches": {"batch_size": 7, "head_init": "random", "layer_decay": 0.9},
    "thawing": {"freeze": "gradual", "epochs": 3},
    "above frozen layers": {"freeze": 1},
    "windows": {"long_text": "windows", "max_length": 10, "class_weight": "balanced"},
    "early stopping": {
        "early_stopping": True,
        "n_iter_no_change": 1,
        "epochs": 8,
        "validation_fraction": 0.4,
    },
}
"""Fits that must equal those of one process."""


def case(folder, name):
    return outcome(classifier(folder, **PLAIN[name]).fit(TEXTS, LABELS))


def outcome(fitted):
    """What a fit came to: values that two processes can compare."""
    return {
        "weights": {name: w.numpy().copy() for name, w in fitted.model_.state_dict().items()},
        "decisions": fitted.decision_function(TEXTS),
        "losses": fitted.loss_curve_,
        "scores": fitted.validation_scores_,
        "epochs": fitted.n_iter_,
    }


def continued(folder):
    fitted = classifier(folder)
    for start in (0, 10, 20):
        chunk = slice(start, start + 10)
        fitted.partial_fit(TEXTS[chunk], LABELS[chunk], classes=["neg", "pos"])
    return outcome(fitted)


def error_of(estimator, *data, **more):
    """The error that a fit ends with, how long it took to come, and whether it left anything behind."""
    before, began = dict(vars(estimator)), time.monotonic()
    try:
        estimator.fit(*data, **more)
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        return {
            "type": kind,
            "text": text,
            "seconds": time.monotonic() - began,
            "unchanged": vars(estimator) == before,
        }
    return None


def together(folder):
    """Everything after which the ranks go on."""
    found = {name: case(folder, name) for name in PLAIN}
    found["continued"] = continued(folder)
    with at_most(20 if RANK else 10_000):
        found["one short of memory"] = case(folder, "float64")
    found["dropout"] = outcome(classifier(folder, dropout=0.2).fit(TEXTS, LABELS))
    found["no seed"] = outcome(classifier(folder, random_state=None).fit(TEXTS, LABELS))

    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier(folder, verbose=1, max_length=8).fit(TEXTS, LABELS)
    found["shown"] = shown.getvalue()
    found["warned"] = sorted(w.category.__name__ for w in caught if issubclass(w.category, SkbertWarning))

    other = [*LABELS[:-1], "pos" if RANK else "neg"]
    found["other labels"] = error_of(classifier(folder), TEXTS, other)
    found["other texts"] = error_of(classifier(folder), TEXTS[RANK:], LABELS[RANK:])
    found["other rate"] = error_of(classifier(folder, learning_rate=1e-3 * (1 + RANK)), TEXTS, LABELS)
    unkept = os.path.join(folder, "unkept")
    found["checkpoint"] = error_of(classifier(folder, checkpoint=unkept), TEXTS, LABELS)
    found["other seed"] = error_of(classifier(folder, random_state=RANK), TEXTS, LABELS)
    bad = [None, *TEXTS[1:]] if RANK else TEXTS
    found["bad input on one"] = error_of(classifier(folder), bad, LABELS)
    with at_most(1 if RANK else 10_000):
        found["one without memory"] = error_of(classifier(folder, head_init="random"), TEXTS, LABELS)
    found["not finite"] = error_of(classifier(folder, learning_rate=1e30, epochs=3), TEXTS, LABELS)
    found["after errors"] = case(folder, "float64")
    return found


class Scorer:
    """A scorer that does something else on rank 1, at the second call: after the first epoch."""

    def __init__(self, misbehave):
        self.misbehave, self.calls = misbehave, 0

    def __call__(self, estimator, X, y):
        self.calls += 1
        if self.calls == 2 and RANK == 1:
            self.misbehave()
        return 0.5


def ran_out():
    raise MemoryError("for lack of memory")


def apart(folder):
    """Ranks that fail, hang and die, each alone: in a process group of the script's own, then in skbert's."""
    import torch.distributed as dist

    held_out = {"X_val": TEXTS, "y_val": LABELS}
    dist.init_process_group("gloo", timeout=timedelta(seconds=6))
    found = {"own group": case(folder, "float64")}
    found["raises"] = error_of(classifier(folder, scoring=Scorer(ran_out)), TEXTS, LABELS, **held_out)
    found["hangs"] = error_of(
        classifier(folder, scoring=Scorer(lambda: time.sleep(9))), TEXTS, LABELS, **held_out
    )
    found["group is kept"] = dist.is_initialized()
    dist.destroy_process_group()
    yield found
    die = classifier(folder, scoring=Scorer(lambda: os._exit(7)))
    yield {"dies": error_of(die, TEXTS, LABELS, **held_out)}


def main(folder, results):
    import torch

    torch.set_num_threads(1)
    # torchrun ends the ranks that are left when one dies; the test asks what they would do by themselves.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    found = together(folder)
    for more in apart(folder):
        found |= more
        with open(os.path.join(results, f"{RANK}.pickle"), "wb") as file:
            pickle.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
