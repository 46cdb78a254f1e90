"""The model files in tests/data, which every later version must load.

`python tests/saved_model.py` made them. Run it again only for a new format, under new names: a fixture that
is made anew shows nothing about old files.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).parent / "data"
SAVED = DATA / "format-1.safetensors"
EXPECTED = DATA / "format-1.json"
SAVED_NUMBERS = DATA / "format-1-numbers.safetensors"
EXPECTED_NUMBERS = DATA / "format-1-numbers.json"

QUESTIONS = ["good nice film", "sad poor story of war", "", "Ünknown! [SEP] words"]
"""What the saved models were asked; the answers are in `EXPECTED` and `EXPECTED_NUMBERS`."""


def fit():
    """Fit what the file holds: parameters and attributes of as many types as there are."""
    import numpy as np
    import pandas as pd
    from checkpoints import build_checkpoint

    from skbert import BertClassifier

    words = {
        7: ("good", "great", "best", "nice"),
        -3: ("bad", "poor", "dull", "sad"),
        0: ("red", "blue", "six"),
    }
    rows = [(f"{a} {b} film", y) for y, same in words.items() for a in same for b in same]
    X = pd.DataFrame({"review": [text for text, _ in rows]})
    y = np.array([label for _, label in rows], dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        classifier = BertClassifier(
            build_checkpoint("electra", folder),
            max_length=24,
            epochs=20,
            batch_size=np.int64(4),
            learning_rate=np.float32(5e-3),
            class_weight={7: 1.0, -3: 1.5, 0: 1.0},
            early_stopping=True,
            n_iter_no_change=20,
            validation_fraction=0.25,
            random_state=np.random.RandomState(0),
            precision="float32",
            device="cpu",
        ).fit(X, y)
    # The folder is gone, and its name is a random one.
    return classifier.set_params(model=Path("checkpoint")).set_output(transform="pandas")


def fit_numbers():
    """Fit a regressor of two numbers, with adapters."""
    from checkpoints import build_checkpoint

    from skbert import BertRegressor

    good, bad = ("good", "great", "best", "nice"), ("bad", "poor", "dull", "sad")
    rows = [(f"{a} {b} film", [1e6 * (a in good), -(b in good)]) for a in good + bad for b in good + bad]
    with tempfile.TemporaryDirectory() as folder:
        regressor = BertRegressor(
            build_checkpoint("bert", folder),
            max_length=24,
            epochs=10,
            learning_rate=5e-3,
            lora=2,
            head_layers=1,
            random_state=0,
            precision="float32",
            device="cpu",
        ).fit(*zip(*rows, strict=True))
    return regressor.set_params(model="checkpoint")


def main():
    """Write the files that are not there, and the answers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if SAVED.exists() and SAVED_NUMBERS.exists():
        sys.exit(f"{SAVED} and {SAVED_NUMBERS} are there. For a new format, give them new names.")
    DATA.mkdir(exist_ok=True)
    if not SAVED.exists():
        write_labels()
    if not SAVED_NUMBERS.exists():
        write_numbers()


def write_numbers():
    """Write the regressor's file."""
    regressor = fit_numbers()
    regressor.save(SAVED_NUMBERS)
    answers = {"numbers": regressor.predict(QUESTIONS).tolist()}
    EXPECTED_NUMBERS.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def write_labels():
    """Write the classifier's file."""
    import pandas as pd

    classifier = fit()
    classifier.save(SAVED)
    X = pd.DataFrame({"review": QUESTIONS})
    answers = {
        "labels": classifier.predict(X).tolist(),
        "probabilities": classifier.predict_proba(X).tolist(),
        "embedding": classifier.transform(X).to_numpy()[0].tolist(),
        "next_random": classifier.random_state.randint(2**31 - 1, size=3).tolist(),
    }
    EXPECTED.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
