"""The classifiers that the accuracy benchmark compares, each a function from a job to predictions.

1. ``skbert``: ``BertClassifier(random_state=seed)``, nothing else set.
2. ``trainer``: transformers' Trainer on its Auto class, 3 epochs, batch 16, learning rate 5e-5.
3. ``trainer@skbert``: the same at the epochs and the rate that skbert used on the same rows.
4. ``embedding+LR``: the frozen checkpoint, mean pooling, L2 norm, LogisticRegression(C=10).
5. ``tfidf+LR``: TfidfVectorizer (words and pairs of words, sublinear) and LogisticRegression(C=10).

All read the same texts; 1 to 4 the same checkpoint. Trainer keeps its own defaults wherever nothing
is said here; it computes in bf16 (autocast, fp32 weights) where the hardware is good at it. The
frozen embedding stays in fp32: bf16 cost it 0.001 of accuracy on sst2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Dataset, file_digest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

TRAINER = {"epochs": 3, "learning_rate": 5e-5, "batch_size": 16}
MAX_LENGTH = 256
PREDICT_BATCH = 64
LOGISTIC = {"C": 10.0, "max_iter": 1000}
TFIDF = {"ngram_range": (1, 2), "sublinear_tf": True}

Outcome = tuple[np.ndarray, dict[str, Any]]  # predicted labels, what else to record


@dataclass(frozen=True)
class Job:
    """One cell's work: train on some rows, predict the whole test part.

    Attributes
    ----------
    dataset : Dataset
        The task.
    index : ndarray of int
        Training rows.
    seed : int
        Seed of the system (the rows were drawn with it as well).
    checkpoint : Path
        Folder of the pretrained model.
    settings : dict
        What `settings_of` returned for this cell.
    """

    dataset: Dataset
    index: np.ndarray
    seed: int
    checkpoint: Path
    settings: dict[str, Any]

    @cached_property
    def texts(self) -> pd.DataFrame:
        """Training texts."""
        return self.dataset.X_train.iloc[self.index].reset_index(drop=True)

    @cached_property
    def labels(self) -> np.ndarray:
        """Training labels."""
        return self.dataset.y_train[self.index]


def settings_of(
    system: str, dataset: Dataset, checkpoint: Path, skbert_cell: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return all that a cell's result depends on, besides rows, seed and versions.

    Parameters
    ----------
    system : str
        One of `SYSTEMS`.
    dataset : Dataset
        The task.
    checkpoint : Path
        Folder of the pretrained model.
    skbert_cell : dict or None
        skbert's finished cell on the same rows and seed.

    Returns
    -------
    dict or None
        None when the system cannot run yet (``trainer@skbert`` before skbert).
    """
    data = {"data": dataset.digest}
    if system == "skbert":
        return data | {"parameters": _skbert_defaults()}
    if system == "tfidf+LR":
        return data | {"tfidf": TFIDF, "logistic": LOGISTIC}
    encoder = data | {
        "checkpoint": file_digest(checkpoint / "model.safetensors"),
        "max_length": MAX_LENGTH,
    }
    if system == "embedding+LR":
        return encoder | {"pooling": "mean, L2-normalised", "logistic": LOGISTIC}
    fine_tuning = encoder | TRAINER | {"precision": "bfloat16" if bf16_pays() else "float32"}
    if system == "trainer":
        return fine_tuning
    if skbert_cell is None:
        return None
    used = skbert_cell["info"]
    return fine_tuning | {"epochs": used["n_iter"], "learning_rate": used["learning_rate"]}


def run_skbert(job: Job) -> Outcome:
    """Fit `BertClassifier` as it comes."""
    from skbert import BertClassifier

    model = BertClassifier(random_state=job.seed)
    model.fit(as_input(job.texts), job.labels)
    info = {
        "n_iter": int(model.n_iter_),
        "learning_rate": float(model.learning_rate_),
        "loss_curve": [round(float(loss), 5) for loss in model.loss_curve_],
    }
    return model.predict(as_input(job.dataset.X_test)), info


def run_trainer(job: Job) -> Outcome:
    """Fine-tune with transformers' Trainer; predict in sorted batches."""
    import transformers

    quiet(transformers)
    transformers.set_seed(job.seed)  # before the model: its head is drawn at random
    classes, codes = np.unique(job.labels, return_inverse=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        job.checkpoint, num_labels=len(classes), dtype=torch.float32
    )
    model, result = fine_tune(model, tokenizer, job.texts, codes.tolist(), job.settings, job.seed)
    logits = predict_sorted(logits_of, model, tokenizer, job.dataset.X_test, bf16=bf16_pays())
    info = {"steps": result.global_step, "mean_training_loss": result.training_loss}
    return classes[logits.argmax(axis=1)], info


def fine_tune(
    model: Any, tokenizer: Any, texts: pd.DataFrame, y: list[Any], settings: dict[str, Any], seed: int
) -> tuple[Any, Any]:
    """Let transformers' Trainer fine-tune a model; returns it, and what the training says of itself."""
    import transformers

    rows = tokenize(tokenizer, texts)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=_trainer_arguments(settings, seed, folder),
            train_dataset=[row | {"labels": label} for row, label in zip(rows, y, strict=True)],
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        result = trainer.train()
    return trainer.model, result


def _trainer_arguments(settings: dict[str, Any], seed: int, folder: str) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        seed=seed,
        bf16=bf16_pays(),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def run_embedding(job: Job) -> Outcome:
    """Logistic regression on the frozen, mean-pooled, normalised embedding."""
    train, test = _embeddings(job.dataset, job.checkpoint)
    model = LogisticRegression(**LOGISTIC).fit(train[job.index], job.labels)
    return model.predict(test), {"lbfgs_iterations": int(model.n_iter_.max())}


def run_tfidf(job: Job) -> Outcome:
    """Logistic regression on TF-IDF; the two texts of a pair are joined by a space."""
    model = make_pipeline(TfidfVectorizer(**TFIDF), LogisticRegression(**LOGISTIC))
    model.fit(job.texts.agg(" ".join, axis=1), job.labels)
    predicted = model.predict(job.dataset.X_test.agg(" ".join, axis=1))
    return predicted, {"lbfgs_iterations": int(model[-1].n_iter_.max())}


SYSTEMS: dict[str, Callable[[Job], Outcome]] = {
    "skbert": run_skbert,  # first: trainer@skbert reads its epochs and rate
    "tfidf+LR": run_tfidf,
    "embedding+LR": run_embedding,
    "trainer": run_trainer,
    "trainer@skbert": run_trainer,
}


@lru_cache(maxsize=8)
def _embeddings(dataset: Dataset, checkpoint: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embed both parts whole, once: every size and seed takes its rows from these two arrays."""
    import transformers

    quiet(transformers)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    encoder = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")

    train, test = (
        normalize(predict_sorted(_mean_pooled, encoder, tokenizer, texts, bf16=False))
        for texts in (dataset.X_train, dataset.X_test)
    )
    return train, test


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).logits  # (batch, classes)


def _mean_pooled(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden = model(**batch).last_hidden_state  # (batch, length, hidden)
    mask = batch["attention_mask"].unsqueeze(-1).float()  # (batch, length, 1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


@torch.inference_mode()
def predict_sorted(
    forward: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor],
    model: Any,
    tokenizer: Any,
    texts: pd.DataFrame,
    *,
    bf16: bool,
) -> np.ndarray:
    """Run `forward` over batches of like length; rows come back in the order of `texts`."""
    model.eval()
    device = next(model.parameters()).device
    rows = tokenize(tokenizer, texts)
    order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
    outputs = []
    for start in range(0, len(order), PREDICT_BATCH):
        picked = [rows[i] for i in order[start : start + PREDICT_BATCH]]
        batch = dict(tokenizer.pad(picked, return_tensors="pt").to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs.append(forward(model, batch).float().cpu())
    return torch.cat(outputs).numpy()[np.argsort(order)]


def tokenize(tokenizer: Any, texts: pd.DataFrame, max_length: int = MAX_LENGTH) -> list[dict[str, list[int]]]:
    """Tokenize without padding; the length given replaces the one in the checkpoint's file."""
    columns = [texts[column].tolist() for column in texts]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    return [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]


def frozen_embeddings(X: Any, y: np.ndarray, X_test: Any, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """What skbert's encoder gives for the texts before it is trained, normalised; as `transform` pools."""
    from skbert import BertClassifier

    # A fit of the head alone leaves the encoder as the checkpoint has it.
    frozen = BertClassifier(freeze="encoder", epochs=1, random_state=0, **parameters).fit(X, y)
    return normalize(frozen.transform(X)), normalize(frozen.transform(X_test))


def as_input(texts: pd.DataFrame) -> list[str] | pd.DataFrame:
    return texts if texts.shape[1] == 2 else texts.iloc[:, 0].tolist()


def _skbert_defaults() -> dict[str, Any]:
    from skbert import BertClassifier

    parameters = BertClassifier().get_params()
    return {name: value for name, value in parameters.items() if name != "random_state"}


def bf16_pays() -> bool:
    """Whether bf16 pays on this machine."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def quiet(transformers: Any) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
