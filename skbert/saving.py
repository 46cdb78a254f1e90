"""The methods that write a fitted estimator and read it back.

The work is done in `persistence/` (a file of skbert's own), and in `pretrained/to_transformers.py` and
`from_transformers.py` (folders of transformers).
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from skbert.persistence.fitted import OF_THIS_PROCESS


class SavingMixin:
    """`save` and `load`, `save_pretrained` and `from_pretrained`, `save_encoder`."""

    def __getstate__(self) -> dict[str, Any]:
        """State of plain values and arrays, so that joblib stores arrays as such, and skops can read them."""
        given: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]  # BaseEstimator's is a dict
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

        The file is in the safetensors format: the weights, and as JSON the parameters, the fitted attributes,
        the encoder's config and the tokenizer, with a SHA-256 of each weight and of the JSON. It holds no
        code and no pickle. The same estimator gives the same bytes.

        Parameters
        ----------
        path : str or path
            Where to, for example ``"model.safetensors"``. A file that is there is replaced as a whole: if
            saving fails or is interrupted, it stays as it was.
        only_changes : bool, default=False
            Whether to leave out the weights that are still the checkpoint's own, and to write low-rank
            adapters as such: a small file after a fit with `lora` or `freeze`. `load` then needs the
            checkpoint.

        Raises
        ------
        PersistenceError
            If a parameter or an attribute has no exact form in such a file, such as a callable as
            `scoring`; or if `only_changes` and `model` is no longer the checkpoint of the fit. It is named,
            and nothing is written.
        CheckpointError
            If `only_changes` and the checkpoint of the fit cannot be found.
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

        Nothing of the file is executed, and no connection is opened, unless `checkpoint` names one on the
        hub that is not in its cache. The estimator is exactly the one that was saved, down to the bits of its
        predictions on the same machine, versions and threads; or an error is raised. It needs no GPU if it
        was trained on one; only `device` must name one that is there, see `set_params`.

        Parameters
        ----------
        path : str or path
        checkpoint : str or path, default=None
            For a file that was saved with `only_changes`: the checkpoint that was fitted, by name or folder,
            as the parameter `model`. It is found as it is in `fit`. What the file says about it is not
            followed.
        revision : str, default=None
            Of `checkpoint`, as the parameter of that name.

        Returns
        -------
        estimator
            Fitted.

        Raises
        ------
        PersistenceError
            If the file is damaged, was not written by `save`, or was written by a newer version.
        CheckpointError
            If `checkpoint` cannot be found.
        OSError
            If there is no file, or it may not be read.
        """
        from skbert.persistence import model_file

        return model_file.load(cls, path, checkpoint, revision)

    def save_pretrained(self, folder: str | PathLike[str], label_names: Any = None) -> None:
        """Write a folder that transformers reads as its own, with equal logits, or numbers.

        ``pipeline("text-classification", folder)``, or `AutoModelForSequenceClassification` and
        `AutoTokenizer`. Texts longer than `max_length` tokens must be cut there with ``truncation=True``,
        which is what `long_text` "head" does; the other values have no equal. Where both sides of a pair are
        that long and an odd number of tokens is left for them, the odd one may be another side's there.

        Parameters
        ----------
        folder : str or path
            Made if it is not there. Files of the same names are replaced, `config.json` last: until then the
            folder is no checkpoint.
        label_names : array-like of str, default=None
            Names of the labels, in the order of `classes_`. None takes the labels themselves, or the
            names of y's columns, or where it has none transformers' own, LABEL_0 and so on. For an indicator
            matrix pass `MultiLabelBinarizer.classes_`; for a regressor names of its numbers.

        Raises
        ------
        PersistenceError
            If the family's classifier in transformers computes something else, or numbers are too large, or
            too close together, for its head. They pool by "cls" (ModernBERT's as its config says).
            ModernBERT's head has a norm, so that of its models only those that came from `from_pretrained`
            can be written.
        InputError
            If there is not one different name for each output.
        OSError
            If the folder cannot be written.

        Notes
        -----
        Those classifiers have one more layer than this one. It is the encoder's pooler where there is one;
        else its weights are chosen such that it does nothing. In RoBERTa's and its kin these are too small
        for float16, in which transformers gives NaN (here that layer stays in float32); float32, float64 and
        bfloat16 are fine. Special tokens that stand in a text are read as plain text there, too, but by
        vocabularies that hold them as pieces (XLM-R, CamemBERT, DeBERTa-v3): transformers reads the token.
        """
        check_is_fitted(self)
        from skbert.pretrained import to_transformers

        to_transformers.save_pretrained(self, folder, label_names)

    def save_encoder(self, folder: str | PathLike[str]) -> None:
        """Write the fine-tuned encoder, without the head, as a checkpoint to fine-tune on other labels.

        ``BertClassifier(folder)`` starts from it and pools as this estimator does. transformers reads the
        folder by `AutoModel`, and sentence-transformers by `SentenceTransformer`, whose embeddings are then
        those of `transform`; but not where the encoder has a pooler of its own ("cls" pooling of BERT,
        RoBERTa and their kin), for which it has no equal.

        Parameters
        ----------
        folder : str or path
            Made if it is not there. Files of the same names are replaced, `config.json` last: until then the
            folder is no checkpoint.

        Raises
        ------
        PersistenceError
            If there is a file of that name, or the model came from `from_pretrained`.
        OSError
            If the folder cannot be written.
        """
        check_is_fitted(self)
        from skbert.pretrained import encoder_folder

        encoder_folder.save_encoder(self, folder)

    @classmethod
    def from_pretrained(cls, model: str | PathLike[str], *, pairs: bool = False, **parameters: Any) -> Self:
        """Take a classifier, or a regression model, that transformers has saved, ready to predict.

        Parameters
        ----------
        model : str or path
            A folder, or a name on the hub, as the parameter `model`.
        pairs : bool, default=False
            Whether it reads pairs of texts.
        **parameters
            Parameters of the estimator. `max_length` is what the tokenizer states if it is not given;
            `pooling` and the head are the classifier's own.

        Returns
        -------
        estimator
            Of the same probabilities or numbers, up to the rounding of `precision`. `classes_` are the
            labels' names, sorted; for several labels per text they are in the model's own order, which is
            that of the columns. Numbers are those of the model itself, before any function that a pipeline or
            a CrossEncoder may put behind it; one number per text is 1-D. It has none of the attributes that
            describe a fit. Special tokens that occur in a text are plain text here, unlike in transformers.

        Raises
        ------
        CheckpointError
            If it cannot be found or is incomplete, has no trained head, or is no classifier; for
            `BertRegressor` if it is one.
        InputError
            If a parameter is not what the classifier has, such as `max_length` beyond its positions.
        """
        from skbert.pretrained import from_transformers

        return from_transformers.from_pretrained(cls, model, pairs, parameters)
