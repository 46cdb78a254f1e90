"""Fits or predicts many times, in a process of its own, and prints by how many megabytes it has grown.

For test_memory.py: `python tests/grow.py fit|predict CHECKPOINT WARM_UP COUNT`.
"""

from __future__ import annotations

import gc
import sys
import warnings

import torch
from long_texts import resident

from skbert import BertClassifier


def main():
    what, checkpoint, warm_up, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    warnings.simplefilter("ignore")  # a tiny model that is fitted for an epoch has learned little
    torch.set_num_threads(1)
    texts = [f"The {noun} was {word}" for noun in ("film", "cat", "day") for word in ("good", "bad")]
    recipe = {"epochs": 1, "max_length": 32, "batch_size": 4, "device": "cpu", "precision": "float32"}
    make = lambda seed: BertClassifier(checkpoint, random_state=seed, **recipe)  # noqa: E731
    fitted = make(0).fit(texts, [1, 0] * 3)

    def once(number):
        if what == "fit":
            make(number).fit([f"{text} {number}" for text in texts], [1, 0] * 3)
        else:  # other texts of other lengths each time
            fitted.predict_proba([f"{number} " * (number % 20), texts[number % 6]])

    for number in range(warm_up):
        once(number)
    gc.collect()
    before = resident()
    for number in range(warm_up, warm_up + count):
        once(number)
    gc.collect()
    print(resident() - before)


if __name__ == "__main__":
    main()
