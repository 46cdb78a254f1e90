"""
Which library wrote this docstring?
===================================

:class:`skbert.BertClassifier` is a scikit-learn classifier: strings go in, a BERT is fine-tuned,
and pipelines, grid searches and joblib treat it like any other estimator.

The task of this example needs no download. The texts are docstrings of NumPy, SciPy, pandas,
scikit-learn, PyTorch and Python's standard library, read from the installed source files; the
target is the library. Library names are masked, so that subject and style have to tell.

``make demo`` runs it, in less than five minutes on two CPU cores.
"""

# %%
# The texts
# ---------
# The source files are parsed and not imported, so a docstring counts where it is written and not
# once more for every class that inherits it. Tests, bundled third-party code and private folders
# are left out, and 200 files of a library are plenty.
import ast
import importlib.util
import random
import sysconfig
from pathlib import Path

LIBRARIES = ["numpy", "pandas", "scipy", "sklearn", "stdlib", "torch"]
NOT_THEIRS = {"externals", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}


def source_files(library, n_files):
    """List public source files of a library: a seeded choice from their sorted names."""
    if library == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
    else:
        root = Path(importlib.util.find_spec(library).origin).parent
    files = []
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        private = any(name.startswith(("_", "test")) for name in folders)
        if not private and not NOT_THEIRS.intersection(folders):
            files.append(path)
    return random.Random(0).sample(files, min(n_files, len(files)))


def docstrings(path):
    """List the docstrings in a source file: of the module, its classes and its functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, documented) and ast.get_docstring(node):
            yield ast.get_docstring(node)


# %%
# A docstring's sections ("Parameters", "Args:", "Examples", ...) would give its library away by
# their layout alone. We keep the prose above them, 32 words of it, and mask the names.
import re

SECTION = re.compile(
    r"(?i)\n\s*(?:[A-Z][\w ]*\n *[-=~]{3,}"
    r"|(?:Arg|Argument|Parameter|Keyword arg|Return|Yield|Raise|Example|Note|Shape|Input|Output)s?:"
    r"|\.\. |>>>|:param)"
)
NAME = re.compile(r"(?i)\w*(?:numpy|scipy|pandas|scikit[-_ ]?learn|sklearn|torch|python)\w*|\b(?:np|sp|pd)\b")


def masked_prose(docstring):
    """Take the first words above all sections, with every library's name replaced by LIB."""
    return " ".join(NAME.sub("LIB", SECTION.split(docstring)[0]).split()[:32])


# %%
# Documentation repeats itself, and a text on both sides of the split would be known by heart. Two
# texts count as one when their first twelve words agree up to case, digits and punctuation, or
# when their TF-IDF vectors have a cosine above 0.8. Of such texts one stays.
import pandas as pd
from scipy.sparse import triu
from sklearn.feature_extraction.text import TfidfVectorizer


def drop_duplicates(corpus):
    """Drop every text that opens like an earlier one."""
    words = corpus["text"].str.lower().str.replace(r"[^a-z ]", "", regex=True).str.split()
    return corpus[~words.str[:12].str.join(" ").duplicated()]


def drop_near_duplicates(corpus):
    """Drop every text that has nearly the same words as an earlier one."""
    vectors = TfidfVectorizer().fit_transform(corpus["text"])
    similarity = triu(vectors @ vectors.T, k=1).tocoo()  # row: the earlier text, col: the later
    return corpus.drop(index=corpus.index[sorted(set(similarity.col[similarity.data > 0.8]))])


def build_corpus(rows_per_library, n_files=200, random_state=0):
    """Collect the texts: a table with the columns text, library and file."""
    corpus = pd.DataFrame(
        {"text": masked_prose(docstring), "library": library, "file": str(path)}
        for library in LIBRARIES
        for path in source_files(library, n_files)
        for docstring in docstrings(path)
    )
    corpus = corpus[corpus["text"].str.split().str.len() >= 12]
    corpus = drop_duplicates(corpus).sample(frac=1, random_state=random_state)
    corpus = corpus.groupby("library").head(2 * rows_per_library)  # some will go
    corpus = drop_near_duplicates(corpus.reset_index(drop=True))
    return corpus.groupby("library").head(rows_per_library).reset_index(drop=True)


corpus = build_corpus(rows_per_library=150)
for library, texts in corpus.groupby("library")["text"]:
    print(f"{library:8s} {len(texts)} texts: {texts.iloc[0][:70]}...")

# %%
# Texts of one file share words, so the split goes by file. One fold of four is for training, since
# labels are usually few. (With many more rows, the linear model below would catch up.)
from sklearn.model_selection import StratifiedGroupKFold

folds = StratifiedGroupKFold(n_splits=4, shuffle=True, random_state=0)
test, train = next(folds.split(corpus["text"], corpus["library"], groups=corpus["file"]))
X_train, y_train = corpus["text"][train], corpus["library"][train]
X_test, y_test = corpus["text"][test], corpus["library"][test]
print(f"\n{len(train)} texts to train on, {len(test)} to test on, no file in both")

# %%
# Fine-tune, and compare
# ----------------------
# The usual first attempt at such a task is a linear model on TF-IDF features.
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.pipeline import make_pipeline

tfidf = make_pipeline(
    TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
)
tfidf.fit(X_train, y_train)
print("\nTF-IDF and logistic regression\n", classification_report(y_test, tfidf.predict(X_test)))

# %%
# :class:`~skbert.BertClassifier` takes the same strings and the same labels. So few texts would be
# read eleven times by default; four times take less than half as long, and do here.
from skbert import BertClassifier

bert = BertClassifier(epochs=4, random_state=0, verbose=1)
bert.fit(X_train, y_train)
print("\nBertClassifier\n", classification_report(y_test, bert.predict(X_test)))

# %%
# Search
# ------
# In a pipeline, a step before the model can be tuned together with it. Is the first sentence of a
# docstring enough? A few rows and epochs answer that here, to keep the example short.
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer


def first_sentences(texts, n):
    """Keep what stands before the n-th full stop."""
    return texts.str.split(". ", regex=False).str[:n].str.join(". ")


clean = FunctionTransformer(first_sentences)
pipeline = Pipeline([("clean", clean), ("bert", BertClassifier(epochs=3, random_state=0))])
grid = {"clean__kw_args": [{"n": 1}, {"n": 3}], "bert__learning_rate": [2e-5, 2e-4]}
few = corpus.iloc[train].groupby("library").sample(12, random_state=0)
search = GridSearchCV(pipeline, grid, cv=StratifiedGroupKFold(n_splits=2), refit=False)
search.fit(few["text"], few["library"], groups=few["file"])
print(pd.DataFrame(search.cv_results_)[["params", "mean_test_score"]].to_string(index=False))

# %%
# Keep the model
# --------------
# A joblib file holds all that the model needs: another Python process loads it, with the hub
# switched off. (Loading such a file can run any code; load only what you trust.)
import os
import subprocess
import sys
import tempfile

import joblib
import numpy as np

PREDICT_AGAIN = """
import joblib
model, texts = joblib.load("model.joblib")
joblib.dump(model.predict_proba(texts), "probabilities.joblib")
"""

some = X_test[:100]
with tempfile.TemporaryDirectory() as folder:
    joblib.dump((bert, some), Path(folder, "model.joblib"))
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", PREDICT_AGAIN], cwd=folder, env=environment, check=True)
    probabilities = joblib.load(Path(folder, "probabilities.joblib"))

if not np.array_equal(probabilities, bert.predict_proba(some)):
    sys.exit("\nThe reloaded model predicts something else.")
print(f"\nThe model reloaded in a new process gives equal predictions for {len(some)} texts.")
