"""What the speed benchmark times: skbert, transformers' Trainer and its pipeline.

Each fit starts from strings and ends with a trained model, tokenization included. skbert's fit includes its
copy of the checkpoint and its start; for Trainer the checkpoint is loaded before the clock starts.

1. ``skbert``: a head started at random, as Trainer's is, so that both run the same tokens the same number of
   times; ``skbert-auto``: the default start of the head, whose pass over the texts comes on top.
2. ``trainer``: every default but checkpoint, epochs, batch size, rate and truncation: float32, random order,
   padding to the longest text of a batch, fused AdamW.
3. ``trainer-tuned``: bf16 where the hardware is fast at it, batches grouped by length, fused AdamW.
4. ``pipeline``: text-classification at its default (batch size 1), at 64 with the texts sorted by length, and
   that with weights in bf16, again where that is fast (on a GPU in fp16 too).
"""

from __future__ import annotations

import gc
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from flops import synchronize
from speed_data import Workload
from systems import as_input, logits_of, predict_sorted, quiet, tokenize

TRAINERS: dict[str, dict[str, Any]] = {
    "trainer": {},
    "trainer-tuned": {
        "bf16": True,
        "train_sampling_strategy": "group_by_length",
        "optim": "adamw_torch_fused",
    },
}
PIPELINES: dict[str, tuple[int, torch.dtype]] = {
    "pipeline, batch 1": (1, torch.float32),
    "pipeline, 64 sorted": (64, torch.float32),
    "pipeline, 64 sorted, bf16": (64, torch.bfloat16),
    "pipeline, 64 sorted, fp16": (64, torch.float16),
}


@dataclass(frozen=True)
class Fitted:
    """A timed fit."""

    seconds: float
    precision: str
    padding: float  # share of the tokens that linear layers saw
    predict: Callable[[pd.DataFrame], np.ndarray]  # labels
    model: Any


def fit_skbert(work: Workload, seed: int, device: str, **parameters: Any) -> Fitted:
    """Time `BertClassifier.fit`."""
    from skbert import BertClassifier
    from skbert.runtime import resolve_runtime

    classifier = BertClassifier(
        work.checkpoint,
        epochs=work.epochs,
        batch_size=work.batch_size,
        learning_rate=work.learning_rate,
        max_length=work.max_length,
        random_state=seed,
        device=device,
        **parameters,
    )
    X = as_input(work.X_train)
    seconds = timed(lambda: classifier.fit(X, work.y_train), device)
    dtype = resolve_runtime(device, classifier.precision).dtype
    return Fitted(seconds, _name(dtype), 0.0, lambda texts: classifier.predict(as_input(texts)), classifier)


def fit_trainer(work: Workload, seed: int, device: str, system: str) -> Fitted:
    """Time tokenization and `Trainer.train`; the model is loaded before."""
    import transformers

    quiet(transformers)
    transformers.set_seed(seed)  # before the model: its head is drawn at random
    classes, codes = np.unique(work.y_train, return_inverse=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(work.checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        work.checkpoint, num_labels=len(classes), dtype=torch.float32
    )
    bf16 = TRAINERS[system].get("bf16", False) and fast_bfloat16(device)
    collator = _CountingCollator(transformers.DataCollatorWithPadding(tokenizer))

    def fit(folder: str) -> None:
        rows = tokenize(tokenizer, work.X_train, work.max_length)
        trainer = transformers.Trainer(
            model=model,
            args=trainer_arguments(work, folder, seed, device, TRAINERS[system] | {"bf16": bf16}),
            train_dataset=[row | {"labels": int(code)} for row, code in zip(rows, codes, strict=True)],
            data_collator=collator,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = timed(lambda: fit(folder), device)

    def predict(texts: pd.DataFrame) -> np.ndarray:
        return classes[predict_sorted(logits_of, model, tokenizer, texts, bf16=bf16).argmax(axis=1)]

    return Fitted(seconds, "bfloat16" if bf16 else "float32", collator.padding, predict, model)


def fast_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 faster; emulated, it would slow a baseline down."""
    from skbert.runtime import resolve_runtime

    return resolve_runtime(device, "auto").dtype == torch.bfloat16


def trainer_arguments(work: Workload, folder: str, seed: int, device: str, tuned: dict[str, Any]) -> Any:
    """Trainer's own defaults, but for what both systems share and what writes or prints."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=work.epochs,
        per_device_train_batch_size=work.batch_size,
        learning_rate=work.learning_rate,
        seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **tuned,
    )


class _CountingCollator:
    """A collator that counts how much of what it makes is padding."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.tokens = self.cells = 0

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collator(rows)
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.cells += batch["input_ids"].numel()
        return batch

    @property
    def padding(self) -> float:
        return 1 - self.tokens / max(self.cells, 1)


FITS: dict[str, Callable[[Workload, int, str], Fitted]] = {
    "skbert": lambda work, seed, device: fit_skbert(work, seed, device, head_init="random"),
    "skbert-auto": fit_skbert,
    "skbert-float32": lambda work, seed, device: fit_skbert(
        work, seed, device, head_init="random", precision="float32"
    ),
    "trainer": lambda work, seed, device: fit_trainer(work, seed, device, "trainer"),
    "trainer-tuned": lambda work, seed, device: fit_trainer(work, seed, device, "trainer-tuned"),
}


def sequence_classifier(classifier: Any, work: Workload) -> Any:
    """Transformers' model with the weights of a fitted `BertClassifier(pooling="cls")`."""
    import transformers

    quiet(transformers)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        work.checkpoint, num_labels=len(classifier.classes_), dtype=torch.float32
    )
    ours = classifier.model_
    model.base_model.load_state_dict(ours.encoder.state_dict(), strict=False)
    if ours.pooler is not None:
        model.base_model.pooler.load_state_dict(ours.pooler.state_dict())
    model.classifier.load_state_dict(ours.head.state_dict())
    return model.eval()


def make_pipeline(model: Any, work: Workload, device: str, dtype: torch.dtype) -> Any:
    """A text-classification pipeline over a copy of the model in `dtype`."""
    import copy

    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(work.checkpoint)
    return transformers.pipeline(
        "text-classification", model=copy.deepcopy(model).to(dtype), tokenizer=tokenizer, device=device
    )


def run_pipeline(pipe: Any, texts: list[str], batch_size: int, max_length: int) -> np.ndarray:
    """Probabilities of all classes in the order of the texts; they are sorted by length for batches."""
    order = (
        np.argsort([-len(text) for text in texts], kind="stable") if batch_size > 1 else np.arange(len(texts))
    )
    answers = pipe(
        [texts[i] for i in order],
        batch_size=batch_size,
        top_k=None,
        function_to_apply="softmax",
        truncation=True,
        max_length=max_length,
    )
    rows = np.empty((len(texts), len(answers[0])), dtype=np.float32)
    for i, answer in zip(order, answers, strict=True):
        for entry in answer:
            rows[i, int(entry["label"].removeprefix("LABEL_"))] = entry["score"]
    return rows


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call, with the garbage of others cleared before and the device's work awaited."""
    gc.collect()
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def alternate(
    systems: dict[str, Callable[[int], Any]], rounds: int, log: Callable[[str], None]
) -> dict[str, list[Any]]:
    """Call every system once a round, round after round: A B A B."""
    results: dict[str, list[Any]] = {name: [] for name in systems}
    for number in range(rounds):
        for name, system in systems.items():
            results[name].append(system(number))
            log(f"  round {number + 1}: {name}")
    return results


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
