"""The methods that write a fitted estimator and read it back; the work is done in `persistence.py`."""

from __future__ import annotations

from os import PathLike
from typing import Self

from sklearn.utils.validation import check_is_fitted


class SavingMixin:
    """`save` and `load`."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to one file, which `load` reads.

        The file is in the safetensors format: the weights, and as JSON the parameters, the fitted attributes,
        the encoder's config and the tokenizer, with a SHA-256 of each weight and of the JSON. It holds no
        code and no pickle. The same estimator gives the same bytes.

        Parameters
        ----------
        path : str or path
            Where to, for example ``"model.safetensors"``. A file that is there is replaced as a whole: if
            saving fails or is interrupted, it stays as it was.

        Raises
        ------
        PersistenceError
            If a parameter or an attribute has no exact form in such a file, such as a callable as
            `scoring`. It is named, and nothing is written.
        """
        check_is_fitted(self)
        from skbert import persistence

        persistence.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read an estimator that `save` wrote.

        Nothing of the file is executed, and no connection is opened. The estimator is exactly the one that
        was saved, down to the bits of its predictions on the same machine, versions and threads; or an error
        is raised. It needs no GPU if it was trained on one; only `device` must name one that is there, see
        `set_params`.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        BertClassifier
            Fitted.

        Raises
        ------
        PersistenceError
            If the file is damaged, is none that `save` wrote, or was written by a newer version.
        """
        from skbert import persistence

        return persistence.load(cls, path)
