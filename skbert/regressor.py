"""`BertRegressor`: its parameters and attributes. Its methods: `learning`, `regression` and `saving`."""

from __future__ import annotations

from typing import Any

from skbert.regression import RegressionMixin
from skbert.saving import SavingMixin
from skbert.training.callbacks import CallbackSupportMixin


class BertRegressor(CallbackSupportMixin, SavingMixin, RegressionMixin):
    """Fine-tune a pretrained BERT to predict numbers from strings, behind scikit-learn's interface.

    `BertClassifier` for numbers instead of labels: ratings, prices, the similarity of two texts. It learns
    one number per text, or several. The loss is the squared error of the numbers, standardized by their mean
    and standard deviation over the training texts.

    Parameters
    ----------
    model : str or path, default="sentence-transformers/all-MiniLM-L6-v2"
        Pretrained checkpoint: a name on the hub, or a folder as `save_pretrained` writes it.
    revision : str, default=None
        Branch, tag or commit on the hub; None is the main branch.
    max_length : int, default=256
        Tokens per text or pair, special tokens included; at least 8.
    long_text : {"head", "head_tail", "windows"}, default="head"
        Which part of a longer text is read: its beginning, both ends, or all of it, in windows that overlap
        by half and whose numbers are averaged.
    pooling : {"auto", "cls", "mean", "max"}, default="auto"
        How a text's token states become one vector; "auto" follows the checkpoint.
    head_layers : int, default=0
        Hidden layers of the head.
    head_init : {"auto", "linear_probe", "random"}, default="auto"
        Initialization of the head: a ridge regression on the frozen encoder's embeddings (of at most 20,000
        texts), or random. "auto" uses the ridge regression if it predicts held-out training texts better than
        their mean does, or if there are too few to hold any out; `head_init_` holds the outcome.
    dropout : float, default=None
        Dropout probability throughout the model, in [0, 1); None keeps the checkpoint's own.
    epochs : int or "auto", default="auto"
        Passes over the training texts. "auto" is 3, or as many as 200 optimizer steps need, up to 15.
    batch_size : int, default=16
        Texts, or windows of texts, per optimizer step.
    learning_rate : float or "auto", default="auto"
        Peak learning rate. "auto" is 1e-4 for encoders up to a width of 384, and inversely proportional to
        the width above that; with `lora` it is ten times that, with ``freeze="encoder"`` and a linear head
        thirty times.
    weight_decay : float, default=0.01
        Decoupled weight decay of all weights except biases and norms.
    warmup_ratio : float, default=0.1
        Fraction of the optimizer steps over which the rate rises from zero; it then falls linearly to zero.
    max_grad_norm : float, default=1.0
        Gradients are scaled down to this Euclidean norm; None turns clipping off.
    freeze : int, "embeddings", "encoder" or "gradual", default=0
        What is not trained: the embeddings and that many of the lowest layers (0: all is trained), only the
        embeddings, or all but the head; "gradual" lets the layers join from the top.
    lora : int or peft.LoraConfig, default=None
        Train low-rank adapters instead of the encoder's own weights: a rank, or a configuration.
    gradient_checkpointing : bool, default=False
        Less memory, more time, the same result.
    layer_decay : float, default=1.0
        Factor on the learning rate per layer of distance from the head, in (0, 1].
    early_stopping : bool, default=False
        Whether to end the fit when the validation score has not improved for `n_iter_no_change` epochs.
        Without `X_val` in `fit`, a random `validation_fraction` of the texts, or of their `groups`, is held
        out of training.
    validation_fraction : float, default=0.1
        Fraction of the texts held out for early stopping, in (0, 1).
    n_iter_no_change : int, default=2
        Epochs without a better validation score after which the fit ends. The fitted weights are those of the
        best epoch; if several are equally good, of the last of these.
    scoring : str or callable, default=None
        Validation score, higher is better: the name of a scikit-learn scorer, or a callable
        ``(estimator, X, y)``; None is R².
    warm_start : bool, default=False
        Whether `fit` on a fitted estimator continues from its weights; mean and scale stay, too.
    random_state : int, RandomState instance or None, default=None
        Seeds the order of the texts, the head, dropout, and the choice of texts held out. The same seed,
        machine, versions and number of threads give the same model. None draws a seed from numpy's global
        generator.
    device : str, default="auto"
        "auto" uses a CUDA GPU if there is one, else the CPU; or "cpu", "cuda", "cuda:1".
    precision : {"auto", "bfloat16", "float16", "float32", "float64", "int8"}, default="auto"
        Arithmetic of the encoder, in fit and predict.
    memory : str, path or joblib.Memory, default=None
        Folder for an on-disk cache of what fits share.
    verbose : int, default=0
        1 shows progress bars on stderr.
    checkpoint : str or path, default=None
        Folder in which `fit` saves its state while it runs, to continue from there if it is killed.

    Attributes
    ----------
    target_type_ : {"continuous", "continuous-multioutput"}
        One number per text, or rows of them.
    target_names_ : ndarray of shape (n_outputs,) or None
        Names of y's columns, if it was a DataFrame whose names are all str, or all int, and all different.
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Weighted mean and standard deviation of y over the texts given to `fit`, including those held out for
        early stopping. The model itself outputs standardized numbers.
    n_features_in_ : int
        Text columns seen in `fit`: 1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the text columns, if `X` was a DataFrame with str column names.
    checkpoint_ : str
        The checkpoint that was fitted.
    n_iter_ : int
        Epochs run; each call of `partial_fit` adds one.
    head_init_ : {"linear_probe", "random", "pretrained"}
        How the head was initialized.
    learning_rate_ : float
        Peak learning rate used.
    max_length_, long_text_ : int, str
        The values in the fit. Predictions use them too.
    loss_curve_ : list of float
        Mean training loss of each epoch: squared error in units of y's variance. A model that always predicts
        the mean has a loss of 1 (approximately if texts are held out, less if a column of y is constant).
    validation_scores_, best_validation_score_, history_ : list of float or None, float or None, list of dict
        Validation score of each epoch of the last fit, the highest of these, and both losses and scores as
        rows of a DataFrame.
    truncated_fraction_ : float
        Fraction of the training texts that were not read in full.
    model_ : SequenceClassifier
        The fine-tuned torch module, on the CPU.
    tokenizer_ : tokenizers.Tokenizer
        The checkpoint's tokenizer.
    adapters_ : dict of str to tuple of ndarray
        What `lora` added.

    See Also
    --------
    BertClassifier : The same parameters and attributes, described in full and with references.

    Examples
    --------
    >>> from skbert import BertRegressor
    >>> texts = ["a warm and funny film", "dull from start to end", "I loved it", "a waste of time"]
    >>> regressor = BertRegressor(random_state=0).fit(texts, [4.5, 1.5, 5.0, 1.0])
    >>> bool(regressor.predict(["lovely and funny"])[0] > regressor.predict(["dull"])[0])
    True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
