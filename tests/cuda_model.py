"""A model that was trained on a GPU and dumped by joblib, for machines that have none.

Where there is a GPU, `python tests/cuda_model.py` writes tests/data/cuda.joblib and, with
its answers, cuda.json; then test_portability.py loads them on every machine that runs the tests.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).parent / "data"
QUESTIONS = ["good nice film", "sad poor story of war", "", "Ünknown! [SEP] words"]


def make(folder, device):
    """Fit on a device, and write `DEVICE.joblib` and `DEVICE.json` into the folder."""
    import joblib
    from checkpoints import build_checkpoint

    from skbert import BertClassifier

    words = {"good": ("good", "great", "best", "nice"), "bad": ("bad", "poor", "dull", "sad")}
    rows = [(f"{a} {b} film", label) for label, same in words.items() for a in same for b in same]
    with tempfile.TemporaryDirectory() as checkpoint:
        classifier = BertClassifier(
            build_checkpoint("bert", checkpoint),
            max_length=24,
            epochs=10,
            batch_size=8,
            learning_rate=5e-3,
            lora=4,
            random_state=0,
            precision="float32",
            device=device,
        ).fit(*zip(*rows, strict=True))
    joblib.dump(classifier, Path(folder) / f"{device}.joblib")
    answers = {"labels": classifier.predict(QUESTIONS), "probabilities": classifier.predict_proba(QUESTIONS)}
    content = json.dumps({name: answer.tolist() for name, answer in answers.items()}, indent=1)
    (Path(folder) / f"{device}.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    if (DATA / "cuda.joblib").exists():
        sys.exit(
            f"{DATA / 'cuda.joblib'} is there. A fixture that is made anew shows nothing about old files."
        )
    make(DATA, "cuda")
