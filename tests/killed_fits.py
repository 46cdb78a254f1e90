"""Fits that are killed: each in a process of its own, by SIGKILL, at a step or after a time.

`python tests/killed_fits.py cases.json` imports everything, once, and forks for each case; test_resume.py
calls it. A case is a list: parameters, keywords of `fit`, settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading

from limits import at_most

from skbert import BertClassifier, fitting
from skbert.training import resume
from skbert.training.callbacks import Watcher


class StepCounter(Watcher):
    """Counts optimizer steps, and may do something at one of them."""

    def __init__(self, at=None, action=None):
        self.at, self.action = at, action
        self.steps = 0

    def step(self, n_texts, loss, learning_rate):
        self.steps += 1
        if self.steps == self.at:
            self.action()


class Watched(BertClassifier):
    """A classifier whose steps are watched by its attribute `counter`."""

    def _watcher(self, X, y, sample_weight, attributes):
        return self.counter


def watched(parameters, counter=None):
    """Make a classifier of which `counter.steps` tells the steps it has made."""
    classifier = Watched(**parameters)
    classifier.counter = counter or StepCounter()
    return classifier


def fit(classifier, X, y, *, warm=False, tight=False, **keywords):
    """Fit as a case says: from a fitted model, or short of memory."""
    with at_most(30) if tight else contextlib.nullcontext():
        if warm:
            counter, classifier.counter = classifier.counter, StepCounter()
            checkpoint = classifier.checkpoint
            classifier.set_params(checkpoint=None).fit(X, y)
            classifier.set_params(checkpoint=checkpoint, warm_start=True, learning_rate=1e-3)
            classifier.counter = counter
        return classifier.fit(X, y, **keywords)


def kill():
    """Die at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(parameters, keywords, at_step=None, after_seconds=None, share=0, while_loading=False):
    """Fit, in a child process, until it is killed."""
    child = os.fork()
    if child == 0:
        resume._SHARE = share  # 0 writes after every step
        os.fsync = lambda file: None  # takes most of the time, and only matters where the system itself stops
        if after_seconds is not None:
            timer = threading.Timer(after_seconds, kill)
            timer.daemon = True
            timer.start()
        if while_loading:
            fitting.from_checkpoint = lambda *arguments: kill()
        fit(watched(parameters, StepCounter(at_step, kill)), **keywords)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return -signal.SIGKILL if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else status


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    import peft  # noqa: F401
    import torch

    from skbert.pretrained import checkpoints

    torch.set_num_threads(1)  # with more, no child could compute once the parent has
    for model in {parameters["model"] for parameters, *_ in cases}:
        checkpoints.load(model)
    print(json.dumps([run(parameters, keywords, **settings) for parameters, keywords, settings in cases]))
