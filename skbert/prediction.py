"""The stages of a prediction: check → distinct texts → encode → model → what a method returns.

torch and transformers take seconds to import: the stages that need them are imported where they run, so that
constructing and cloning an estimator cost nothing.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skbert.caching.cache import LOOK_UPS
from skbert.data import chunks
from skbert.data.columns import column_names
from skbert.data.inputs import Texts, check_same_n_columns, check_texts
from skbert.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from skbert.data.encoding import Encodings, LongText
    from skbert.data.outputs import TargetType
    from skbert.network.model import SequenceClassifier
    from skbert.parameters import Precision


def import_stages() -> None:
    """Import what predictions need, before there are any.

    A process that is forked while a thread imports waits forever when it imports the same.
    """
    import skbert.frozen  # noqa: F401


class PredictionMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """The steps that all predictions share, and embeddings; they use the fitted attributes named below."""

    if TYPE_CHECKING:  # these types are not imported when the class's hints are resolved
        target_type_: TargetType
        n_features_in_: int
        model_: SequenceClassifier
        tokenizer_: Tokenizer
        max_length_: int
        long_text_: LongText
        device: str
        precision: Precision
        verbose: int

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings: the pooled vectors of the fine-tuned encoder, which are the head's input.

        Embeddings of training texts leak their labels. A model that learns from embeddings and other columns,
        as inside a ColumnTransformer, should get those of an estimator with ``freeze="encoder"``.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, hidden_size), float32
            float64 if `precision` is "float64".

        Raises
        ------
        NotFittedError, InputError, InputTypeError, ValueError, NonFiniteOutputError, InsufficientMemoryError
            As `predict` does.
        """
        return self._snapshot()._run(X, "embeddings")

    def _snapshot(self) -> Self:
        """A copy of the estimator in its current state, all of it from one fit, whatever other threads do.

        A dict is copied in one step, and `fit` replaces it in one step (`LearningMixin._set_fitted`).
        """
        now = object.__new__(type(self))
        now.__dict__ = dict(vars(self))
        return now

    def _texts(self, X: Any) -> Texts:
        """The texts, which must be in as many columns as in the fit."""
        texts = check_texts(X)
        check_same_n_columns(texts, self.n_features_in_, type(self).__name__)
        return texts

    def _run(self, X: Any, output: Literal["logits", "embeddings"]) -> np.ndarray:
        """Check, encode the distinct texts, run the model, and give every row its result."""
        check_is_fitted(self)
        from skbert import frozen
        from skbert.network.memory_errors import telling_memory_errors
        from skbert.process.openmp import threads_given_back
        from skbert.runtime import resolve_runtime

        texts = self._texts(X)
        column_names(X, self)  # refuses other names than those of the fit
        runtime = resolve_runtime(self.device, self.precision, predict=True)

        encoded = chunks.encode_in_chunks(self.tokenizer_, texts, self.max_length_, self.long_text_, LOOK_UPS)
        what = "predict" if output == "logits" else "embed"
        with (
            telling_memory_errors(),
            Progress(what, len(texts), self.verbose) as progress,
            threads_given_back(),
            closing(encoded),
        ):

            def run(encodings: Encodings) -> np.ndarray:
                return frozen.run_with_cached_vectors(self.model_, encodings, runtime, output, progress)

            return chunks.results_of_rows(encoded, len(texts), run)

    def __sklearn_is_fitted__(self) -> bool:
        """For `check_is_fitted`, which would otherwise iterate over a dict that a fit may be changing."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    @property
    def _n_features_out(self) -> int:
        """Number of columns of `transform`; scikit-learn's mixin derives feature names from it."""
        return self.model_.hidden_size
