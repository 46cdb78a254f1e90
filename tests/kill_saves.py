"""Kills processes with SIGKILL while they save models over each other, and prints what they left, as JSON.

For test_persistence.py: `python tests/kill_saves.py FILE FOLDER COUNT`. Processes are forked, so that each
begins to save at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from skbert import BertClassifier

QUESTIONS = ["good nice film", "sad poor story of war"]


def save_for_ever(models, path, told):
    while True:
        for model in models:
            model.save(path)
            os.write(told, b".")


def seconds_of_a_save(model, path):
    begin = time.perf_counter()
    model.save(path)
    return time.perf_counter() - begin


def main():
    folder, count = Path(sys.argv[2]), int(sys.argv[3])
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    torch.set_num_threads(1)
    models = [BertClassifier.load(sys.argv[1]) for _ in range(2)]
    models[1].model_.head.bias.add_(1.0)
    models[1].set_params(epochs=7)
    expected = []
    for number, model in enumerate(models):
        model.save(folder / f"{number}")
        expected.append((folder / f"{number}").read_bytes())
    path = folder / "model"
    models[0].save(path)
    rng, outcomes = np.random.default_rng(0), Counter()
    for _ in range(count):
        pause = rng.uniform(0, 1.5 * seconds_of_a_save(models[0], path))
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(heard)  # so that it ends with its parent
            try:
                save_for_ever(models, path, told)
            finally:
                os._exit(1)
        for _ in range(rng.integers(1, 3)):  # saves that the child has finished: the kill comes in the next
            os.read(heard, 1)
        time.sleep(pause)
        os.kill(child, signal.SIGKILL)
        os.close(heard)
        os.close(told)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        which = expected.index(path.read_bytes())
        assert BertClassifier.load(path).get_params()["epochs"] == models[which].epochs
        outcomes[which] += 1
    unfinished = len(list(folder.glob(".skbert-*.tmp")))
    answers = [model.decision_function(QUESTIONS).tolist() for model in models]  # last: it starts threads
    assert answers[0] != answers[1]
    print(json.dumps([outcomes[0], outcomes[1], unfinished]))


if __name__ == "__main__":
    main()
