"""The estimators that the search benchmark searches with, all on the same checkpoint.

1. ``skbert``: `BertClassifier`, fully fine-tuned; with half of its layers frozen; with its encoder frozen.
2. ``trainer``: a thin estimator around transformers' Trainer, as people write it: tokenizer and checkpoint
   are loaded and the texts tokenized in every fit. All else is Trainer's default, float32 among it; it
   predicts in sorted batches of 64.
3. ``trainer, head only``: the same with the encoder's weights frozen.
4. ``skorch``: skorch.hf's tokenizer, which pads to `MAX_LENGTH`, and a NeuralNetClassifier with AdamW.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from systems import PREDICT_BATCH, logits_of, quiet

MAX_LENGTH = 128
BATCH_SIZE = 16
SEED = 0


class TrainerClassifier(ClassifierMixin, BaseEstimator):
    """transformers' Trainer as a scikit-learn classifier."""

    def __init__(
        self,
        checkpoint: str,
        learning_rate: float = 5e-5,
        epochs: int = 3,
        freeze_encoder: bool = False,
        device: str = "cpu",
    ) -> None:
        self.checkpoint = checkpoint
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.freeze_encoder = freeze_encoder
        self.device = device

    def fit(self, X: list[str], y: np.ndarray) -> TrainerClassifier:
        import transformers

        transformers.set_seed(SEED)  # before the model: its head is drawn at random
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.tokenizer_ = transformers.AutoTokenizer.from_pretrained(self.checkpoint)
        self.model_ = transformers.AutoModelForSequenceClassification.from_pretrained(
            self.checkpoint, num_labels=len(self.classes_), dtype=torch.float32
        )
        self.model_.base_model.requires_grad_(not self.freeze_encoder)
        rows = [row | {"labels": int(code)} for row, code in zip(self._tokenize(X), codes, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model=self.model_,
                args=self._arguments(folder),
                train_dataset=rows,
                data_collator=transformers.DataCollatorWithPadding(self.tokenizer_),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return self

    def predict(self, X: list[str]) -> np.ndarray:
        return self.classes_[self._logits(X).argmax(axis=1)]

    @torch.inference_mode()
    def _logits(self, X: list[str]) -> np.ndarray:
        self.model_.eval()
        rows = self._tokenize(X)
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
        parts = []
        for start in range(0, len(order), PREDICT_BATCH):
            picked = [rows[i] for i in order[start : start + PREDICT_BATCH]]
            batch = dict(self.tokenizer_.pad(picked, return_tensors="pt").to(self.model_.device))
            parts.append(logits_of(self.model_, batch).cpu())
        return torch.cat(parts).numpy()[np.argsort(order)]

    def _tokenize(self, X: list[str]) -> list[dict[str, list[int]]]:
        encoded = self.tokenizer_(X, truncation=True, max_length=MAX_LENGTH, padding=False)
        return [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]

    def _arguments(self, folder: str) -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(
            output_dir=folder,
            num_train_epochs=self.epochs,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=self.learning_rate,
            seed=SEED,
            use_cpu=self.device == "cpu",
            dataloader_pin_memory=self.device != "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )


class LogitsModule(torch.nn.Module):
    """What skorch trains."""

    def __init__(self, checkpoint: str, n_classes: int) -> None:
        super().__init__()
        import transformers

        self.bert = transformers.AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=n_classes, dtype=torch.float32
        )

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.bert(**inputs).logits


def make_skbert(checkpoint: Path, n_classes: int, device: str, **parameters: Any) -> tuple[Any, str]:
    """The estimator and the prefix of its parameters."""
    from skbert import BertClassifier

    classifier = BertClassifier(
        checkpoint,
        max_length=MAX_LENGTH,
        batch_size=BATCH_SIZE,
        random_state=SEED,
        device=device,
        **parameters,
    )
    return classifier, ""


def make_trainer(checkpoint: Path, n_classes: int, device: str, **parameters: Any) -> tuple[Any, str]:
    import transformers

    quiet(transformers)
    return TrainerClassifier(str(checkpoint), device=device, **parameters), ""


def make_skorch(checkpoint: Path, n_classes: int, device: str) -> tuple[Any, str]:
    import transformers
    from skorch import NeuralNetClassifier
    from skorch.hf import HuggingfacePretrainedTokenizer

    quiet(transformers)
    torch.manual_seed(SEED)
    net = NeuralNetClassifier(
        LogitsModule,
        module__checkpoint=str(checkpoint),
        module__n_classes=n_classes,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=None,
        device=device,
        verbose=0,
    )
    tokenizer = HuggingfacePretrainedTokenizer(str(checkpoint), max_length=MAX_LENGTH)
    return make_pipeline(tokenizer, net), "neuralnetclassifier__"


SYSTEMS: dict[str, Callable[[Path, int, str], tuple[Any, str]]] = {
    "skbert": make_skbert,
    "trainer": make_trainer,
    "skbert, half frozen": lambda *args: make_skbert(*args, freeze=3),
    "skorch": make_skorch,
    "skbert, head only": lambda *args: make_skbert(*args, freeze="encoder"),
    "trainer, head only": lambda *args: make_trainer(*args, freeze_encoder=True),
}
NAMES = {"learning_rate": {"skorch": "lr"}, "epochs": {"skorch": "max_epochs"}}


def grid_of(system: str, grid: dict[str, list[Any]], prefix: str) -> dict[str, list[Any]]:
    """The grid in the system's own words."""
    return {prefix + NAMES[name].get(system, name): values for name, values in grid.items()}
