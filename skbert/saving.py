"""The methods that write a fitted estimator and read it back.

The work is done in `persistence/` (a file of skbert's own), and in `pretrained/to_transformers.py`,
`from_transformers.py` and `encoder_folder.py` (folders of transformers).
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from skbert.persistence.fitted import OF_THIS_PROCESS
from skbert.prediction import import_stages


class SavingMixin:
    """`save` and `load`, `save_pretrained` and `from_pretrained`, `save_encoder`."""

    def __getstate__(self) -> dict[str, Any]:
        """State of plain values and arrays, so that joblib stores arrays as such, and skops can read them."""
        # BaseEstimator gives the dict itself; copied at once, since another thread may be fitting.
        given = dict(super().__getstate__())  # type: ignore[call-overload]
        state = {name: value for name, value in given.items() if name not in OF_THIS_PROCESS}
        if "model_" in state:
            from skbert.persistence import model_spec

            if model_spec.is_describable(state["model_"]):
                described, arrays = model_spec.describe(state["model_"])
                state["model_"] = {"described": described, "arrays": arrays}
            state["tokenizer_"] = state["tokenizer_"].to_str()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            import_stages()
        if isinstance(state.get("model_"), dict):
            from skbert.persistence import model_spec
            from skbert.persistence.fitted import n_outputs_of

            state["model_"] = model_spec.build(**state["model_"], n_outputs=n_outputs_of(state))
        if isinstance(state.get("tokenizer_"), str):
            from skbert.pretrained import checkpoints

            state["tokenizer_"] = checkpoints.new_tokenizer(state["tokenizer_"])
        super().__setstate__(state)  # type: ignore[misc]  # BaseEstimator has it

    def save(self, path: str | PathLike[str], *, only_changes: bool = False) -> None:
        """Write the fitted estimator to one file, which `load` reads.

        The file is in the safetensors format. It holds the weights and, as JSON, the parameters, the fitted
        attributes, the encoder's config and the tokenizer, with a SHA-256 of each weight and of the JSON. It
        holds no code and no pickle. The same estimator gives the same bytes.

        Parameters
        ----------
        path : str or path
            File to write, for example ``"model.safetensors"``. An existing file is replaced as a whole: if
            saving fails or is interrupted, it stays as it was.
        only_changes : bool, default=False
            Whether to leave out weights that are unchanged from the checkpoint, and to write low-rank
            adapters as such. The file is small after a fit with `lora` or `freeze`. `load` then needs the
            checkpoint.

        Raises
        ------
        PersistenceError
            If a parameter or an attribute, such as a callable `scoring`, has no exact form in such a file; or
            if `only_changes` is set and `model` is no longer the checkpoint of the fit. The message names it,
            and nothing is written.
        CheckpointError
            If `only_changes` is set and the checkpoint of the fit cannot be found.
        OSError
            If no file can be written there: the folder must exist.
        """
        check_is_fitted(self)
        from skbert.persistence import model_file

        model_file.save(self, path, only_changes=only_changes)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        checkpoint: str | PathLike[str] | None = None,
        revision: str | None = None,
    ) -> Self:
        """Read an estimator that `save` wrote.

        Nothing in the file is executed. No connection is opened, unless `checkpoint` names one on the hub
        that is not in the hub's cache. The estimator is exactly the one that was saved, down to the bits of
        its predictions with the same machine, versions and threads; otherwise an error is raised. If it was
        trained on a GPU, it needs none; only `device` must name a device that is available (`set_params`).

        Parameters
        ----------
        path : str or path
        checkpoint : str or path, default=None
            For a file that was saved with `only_changes`: the checkpoint that was fitted, by name or folder,
            like the parameter `model`. It is located as in `fit`. What the file says about the checkpoint is
            not followed.
        revision : str, default=None
            Revision of `checkpoint`, like the parameter of that name.

        Returns
        -------
        estimator
            The fitted estimator.

        Raises
        ------
        PersistenceError
            If the file is damaged, was not written by `save`, or was written by a newer version.
        CheckpointError
            If `checkpoint` cannot be found.
        OSError
            If the file does not exist, or reading it is not permitted.
        """
        from skbert.persistence import model_file

        import_stages()
        return model_file.load(cls, path, checkpoint, revision)

    def save_pretrained(self, folder: str | PathLike[str], label_names: Any = None) -> None:
        """Write a folder that transformers reads as its own, with the same logits, or numbers.

        Load it with ``pipeline("text-classification", folder)``, or `AutoModelForSequenceClassification` and
        `AutoTokenizer`. There, texts longer than `max_length` tokens must be cut with ``truncation=True``,
        which is what `long_text` "head" does; the other values have no equivalent there, and such texts will
        have other results. If both sides of a pair are that long and an odd number of tokens is left for
        them, transformers may give the odd one to the other side.

        Parameters
        ----------
        folder : str or path
            Created if it does not exist. Files of the same names are replaced, `config.json` last: until then
            the folder is not a checkpoint.
        label_names : array-like of str, default=None
            Names of the labels, in the order of `classes_`. None uses the labels themselves, or the names of
            y's columns, or, if it has none, transformers' default names, LABEL_0 and so on. For an indicator
            matrix, pass `MultiLabelBinarizer.classes_`; for a regressor, names of its numbers.

        Raises
        ------
        PersistenceError
            If the family's classifier in transformers computes something else, or numbers are too large, or
            too close together, for its head. Those classifiers pool by "cls" (ModernBERT's as its config
            says). ModernBERT's head has a norm, so ModernBERT models can be written only if they came from
            `from_pretrained`.
        InputError
            If there is not exactly one name for each output, all of them different.
        OSError
            If the folder cannot be written.

        Warns
        -----
        SkbertWarning
            If `long_text` is not "head".

        Notes
        -----
        Those classifiers have one more layer than this one. It is the encoder's pooler if there is one;
        otherwise its weights are chosen so that it has no effect. For RoBERTa and related families, they are
        too small for float16, in which transformers gives NaN (here, that layer stays in float32); float32,
        float64 and bfloat16 are fine. Special tokens that occur in a text are read as plain text there, too,
        unless the vocabulary holds them as pieces (XLM-R, CamemBERT, DeBERTa-v3): transformers then reads
        the token.
        """
        check_is_fitted(self)
        from skbert.pretrained import to_transformers

        to_transformers.save_pretrained(self, folder, label_names)

    def save_encoder(self, folder: str | PathLike[str]) -> None:
        """Write the fine-tuned encoder, without the head, as a checkpoint to fine-tune on other labels.

        ``BertClassifier(folder)`` starts from it, read in float32 as every checkpoint is, and pools as this
        estimator does. transformers reads the folder with `AutoModel`, and sentence-transformers with
        `SentenceTransformer`, whose embeddings are then those of `transform`; but not those of texts longer
        than `max_length` if `long_text` is other than "head", and not if the encoder has a pooler of its own
        ("cls" pooling of BERT, RoBERTa and related families): sentence-transformers has no equivalent.

        Parameters
        ----------
        folder : str or path
            Created if it does not exist. Files of the same names are replaced, `config.json` last: until then
            the folder is not a checkpoint.

        Raises
        ------
        PersistenceError
            If a file of that name exists, or the model came from `from_pretrained`.
        OSError
            If the folder cannot be written.
        """
        check_is_fitted(self)
        from skbert.pretrained import encoder_folder

        encoder_folder.save_encoder(self, folder)

    @classmethod
    def from_pretrained(cls, model: str | PathLike[str], *, pairs: bool = False, **parameters: Any) -> Self:
        """Load a classifier, or a regression model, saved by transformers; it is ready to predict.

        Parameters
        ----------
        model : str or path
            A folder, or a name on the hub, like the parameter `model`.
        pairs : bool, default=False
            Whether the model reads pairs of texts.
        **parameters
            Parameters of the estimator. If `max_length` is not given, it is what the tokenizer states;
            `pooling` and the head are the classifier's own.

        Returns
        -------
        estimator
            It gives the same probabilities or numbers, up to the rounding of `precision`. `classes_` are the
            labels' names, sorted; for several labels per text they are in the model's own order, which is
            that of the columns. Numbers are those of the model itself, before any function that a pipeline or
            a CrossEncoder may apply to them; one number per text is 1-D. It has none of the attributes that
            describe a fit. Special tokens that occur in a text are plain text here, unlike in transformers.

        Raises
        ------
        CheckpointError
            If the model cannot be found or is incomplete, has no trained head, or is not a classifier; for
            `BertRegressor`, if it is a classifier.
        InputError
            If a parameter does not match the classifier, such as `max_length` beyond its positions.
        """
        from skbert.pretrained import from_transformers

        import_stages()
        return from_transformers.from_pretrained(cls, model, pairs, parameters)
