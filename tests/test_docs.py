"""What the project says about itself: README, example, versions, make targets."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from packaging.requirements import Requirement
from packaging.version import Version
from sklearn.feature_extraction.text import TfidfVectorizer

import skbert
from skbert.training.callbacks import HAS_CALLBACKS

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "plot_quickstart.py"
DEMO_SIZE = "build_corpus(rows_per_library=150)"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets():
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), flags=re.MULTILINE))


# Pages


def python_blocks(page):
    """Find a page's python blocks, each with the number of its first line."""
    text = read(page)
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield text[: block.start(1)].count("\n"), block[1]


@pytest.mark.filterwarnings("ignore:The texts held out:UserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")  # these two: torch's export to ONNX
@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning")
@pytest.mark.parametrize("page", ["README.md", "docs/training.md", "docs/caching.md", "docs/recipes.md"])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """Run all blocks in their order, with the default checkpoint and the files of an empty folder.

    A block may use what earlier ones define, and a few texts and labels that stand for the
    reader's own. A list in a comment after a call is the answer that the reader gets.
    """
    monkeypatch.chdir(tmp_path)
    texts = ["a fine film", "dull and slow", "the best of the year", "a waste of money"]
    texts = [f"{text}{end}" for end in ("", " indeed", ", they say", ", all in all") for text in texts]
    labels = ["good", "bad"] * 8
    names = {"X_train": texts, "y_train": labels, "X_test": texts[:4]}
    names |= {"X_val": [f"{text}!" for text in texts[:4]], "y_val": labels[:4]}
    blocks = list(python_blocks(page))
    assert blocks, f"{page} shows no python"
    for line, source in blocks:
        if "sklearn.callback" in source and not HAS_CALLBACKS:
            continue
        if 'method="temperature"' in source and Version(sklearn.__version__) < Version("1.8"):
            continue
        source = re.sub(r"^(\S.*\))  # (\[.*\])$", r"assert \1.tolist() == \2", source, flags=re.MULTILINE)
        # Blank lines ahead, so that a traceback gives the line of the page.
        exec(compile("\n" * line + source, page, "exec"), names)


def test_readme_starts_with_the_two_commands():
    top = read("README.md").split("```python")[0]
    assert "make demo" in top
    assert "make test" in top


@pytest.mark.parametrize("document", ["README.md", ".ci/run"])
def test_make_commands_exist(document):
    # "make" is a verb too: commands stand in backticks, in brackets or at the start of a line.
    commands = re.findall(r"(?:^|`|\()make ([a-z][a-z-]*)", read(document), flags=re.MULTILINE)
    assert commands
    assert set(commands) <= make_targets()


def test_readme_names_files_that_exist():
    readme = read("README.md")
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", readme)
    quoted = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|txt|toml|csv|json|cff))`", readme)
    missing = [name for name in {*links, *quoted} if not (ROOT / name).exists()]
    assert missing == []


def test_pages_name_tests_that_exist():
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    named = {name for page in ROOT.glob("docs/*.md") for name in re.findall(r"`(test_\w+)`", read(page))}
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def anchor(heading):
    """Form the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_between_pages_lead_to_headings():
    pages = [page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
    links = [
        (page, target, heading)
        for page in pages
        for target, heading in re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", read(page))
    ]
    assert len(links) > 40
    for page, target, heading in links:
        other = (Path(page).parent / target).as_posix() if target else page
        headings = re.findall(r"^#+ (.+)$", read(other), flags=re.MULTILINE)
        assert heading in map(anchor, headings), f"{page} links to {target}#{heading}"


def test_readme_says_how_large_a_saved_model_is(tmp_path):
    classifier = skbert.BertClassifier(freeze="encoder", epochs=1).fit(["good", "bad"], [1, 0])
    classifier.save(tmp_path / "model.safetensors")
    said = re.search(r"(\d+) MB with the default checkpoint", read("README.md"))[1]
    assert round((tmp_path / "model.safetensors").stat().st_size / 1e6) == int(said)


# The reference


def reference(heading):
    """Rows of the table under a heading of docs/reference.md: the code in each of its first two cells."""
    section = read("docs/reference.md").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[re.findall(r"`([^`]+)`", cell) for cell in line.split(" | ")[:2]] for line in lines]


def test_reference_has_all_parameters_and_their_defaults():
    found = {name: default for [name], [default] in reference("Parameters")}
    signature = inspect.signature(skbert.BertClassifier).parameters.values()
    assert found == {
        p.name: f'"{p.default}"' if isinstance(p.default, str) else str(p.default) for p in signature
    }
    own = inspect.signature(skbert.BertRegressor).parameters
    assert [name for name in found if name not in own] == list(found)[-2:]


def test_reference_has_all_attributes(make_classifier, reviews, tiny_bert):
    texts, labels = pd.DataFrame({"text": reviews[0]}), list(reviews[1])
    classifier = make_classifier(epochs=1).fit(texts, labels)
    regressor = skbert.BertRegressor(tiny_bert, epochs=1, max_length=32).fit(texts, range(len(labels)))
    fitted = {name for name in {*vars(classifier), *vars(regressor)} if name.endswith("_")}
    assert {name for names, _ in reference("Fitted attributes") for name in names} == fitted


def test_reference_has_all_methods():
    calls = [call for row in reference("Methods") for call in row[0]]
    for call in calls:
        own = inspect.signature(getattr(skbert.BertClassifier, call.partition("(")[0]))
        bare = [p.replace(annotation=p.empty) for p in own.parameters.values() if p.name != "self"]
        assert call == call.partition("(")[0] + str(own.replace(parameters=bare, return_annotation=own.empty))
    public = {
        name
        for base in (*skbert.BertClassifier.__mro__, *skbert.BertRegressor.__mro__)
        for name, value in vars(base).items()
        if base.__module__.startswith("skbert") and not name.startswith("_") and callable(getattr(base, name))
    }
    requests = {name for name in public if name.startswith("set_")}  # scikit-learn's, for metadata
    assert public - requests <= {call.partition("(")[0] for call in calls}


def test_reference_has_all_warnings_and_errors():
    table = reference("Warnings and errors")
    names = {name for [name], _ in table}
    public = {name for name in skbert.__all__ if name.endswith(("Error", "Warning"))}
    assert names == public - {"SkbertError", "SkbertWarning"}
    for [name], bases in table:
        if name.endswith("Error"):
            assert {base.__name__ for base in getattr(skbert, name).__bases__} - {"SkbertError"} == set(bases)


# Versions


def test_one_version_everywhere():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert skbert.__version__ == version
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), flags=re.MULTILINE)[1] == version
    # The newest heading of the change log, "Unreleased" aside.
    assert re.search(r"^## \[(\d.*?)\]", read("CHANGELOG.md"), flags=re.MULTILINE)[1] == version


def pins(constraints):
    """Versions by package."""
    lines = [line for line in read(constraints).splitlines() if line and line[0] != "#"]
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


def requirements(extras):
    """What skbert needs, and what these extras do."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    lists = [project["optional-dependencies"][extra] for extra in extras]
    found = map(Requirement, chain(project["dependencies"], *lists))
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_constraints_pin_every_requirement():
    versions = pins("constraints.txt")
    for requirement in requirements(("bench", "dask", "dev", "lora", "offline", "ray", "test")):
        assert versions[requirement.name] in requirement.specifier


def test_oldest_constraints_are_the_bounds_of_every_requirement():
    versions = pins("constraints-oldest.txt")
    for requirement in requirements(("dask", "lora", "offline", "ray", "test")):
        lowest = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        assert [versions[requirement.name]] == [Version(version) for version in lowest], requirement.name


def test_makefile_installs_the_pinned_torch():
    pin = re.search(r"^torch==\S+$", read("constraints.txt"), flags=re.MULTILINE)[0]
    assert f"$(PIP) --no-compile {pin}\n" in read("Makefile")


# The example


@pytest.fixture(scope="module")
def quickstart():
    """Run the example up to the first fit, on a small part of the sources; return its names."""
    source = EXAMPLE.read_text(encoding="utf-8").split("# Fine-tune, and compare")[0]
    assert DEMO_SIZE in source
    source = source.replace(DEMO_SIZE, "build_corpus(rows_per_library=20, n_files=30)")
    names = {"__name__": "quickstart"}
    exec(compile(source, str(EXAMPLE), "exec"), names)
    return names


def test_the_whole_example_runs_on_fewer_texts(tmp_path):
    source = EXAMPLE.read_text(encoding="utf-8")
    for whole, part in {
        DEMO_SIZE: "build_corpus(rows_per_library=40, n_files=40)",
        ".sample(12,": ".sample(4,",
    }.items():
        assert source.count(whole) == 1
        source = source.replace(whole, part)
    script = tmp_path / "quickstart.py"
    script.write_text(re.sub(r"epochs=\d", "epochs=1", source), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "equal predictions for 100 texts" in done.stdout


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Sum  of\nelements.\n\nParameters\n----------\na : array", "Sum of elements."),
        ("Sum of elements.\n\nArgs:\n    a: a tensor", "Sum of elements."),
        ("Sum of elements.\n\nReturns:\n    a tensor", "Sum of elements."),
        ("Sum of elements.\n\n>>> np.sum([1])\n1", "Sum of elements."),
        ("Sum of elements.\n\n.. versionadded:: 1.7", "Sum of elements."),
        ("Sum of elements.\n:param a: numbers", "Sum of elements."),
        ("Like numpy.sum, np.sum and NumPy's.", "Like LIB.sum, LIB.sum and LIB's."),
        ("A scikit-learn or sklearn estimator.", "A LIB or LIB estimator."),
        ("Wraps libtorch, PyTorch; torch.Tensor.", "Wraps LIB, LIB; LIB.Tensor."),
        ("A pandas.Series, pd.Series, SciPy", "A LIB.Series, LIB.Series, LIB"),
        ("CPython's and python3 alike", "LIB's and LIB alike"),
        (" ".join(["word"] * 50), " ".join(["word"] * 32)),
        ("The spd matrix, updated: no name", "The spd matrix, updated: no name"),
    ],
)
def test_example_masks_names_and_drops_sections(quickstart, docstring, text):
    assert quickstart["masked_prose"](docstring) == text


def test_example_drops_texts_that_open_alike(quickstart):
    opening = "one two three four five six seven eight nine ten eleven twelve"
    texts = [opening, f"{opening.title()}, and more.", opening.replace("five", "5 five"), "one two"]
    corpus = pd.DataFrame({"text": texts, "library": ["numpy", "torch", "numpy", "numpy"]})
    kept = quickstart["drop_duplicates"](corpus)
    assert kept["text"].tolist() == [opening, "one two"]


def test_example_drops_texts_of_the_same_words(quickstart):
    text = "evaluate a series of Legendre polynomials at the given points"
    others = ["read a table from a file into memory", "open a window with a menu bar"]
    reordered = "at the given points evaluate a series of Legendre polynomials"
    corpus = pd.DataFrame({"text": [others[0], text, others[1], reordered, text + " now"]})
    kept = quickstart["drop_near_duplicates"](corpus)
    assert kept["text"].tolist() == [others[0], text, others[1]]


def test_example_corpus_has_every_library_and_no_name(quickstart):
    corpus = quickstart["corpus"]
    assert corpus["library"].value_counts().to_dict() == dict.fromkeys(quickstart["LIBRARIES"], 20)
    assert corpus["text"].str.split().str.len().min() >= 12
    names = "numpy|scipy|pandas|scikit-learn|sklearn|torch|python"
    assert corpus.loc[corpus["text"].str.contains(names, case=False), "text"].tolist() == []


def test_example_corpus_holds_no_text_twice(quickstart):
    texts = quickstart["corpus"]["text"]
    assert texts.is_unique
    vectors = TfidfVectorizer().fit_transform(texts).toarray()
    similarity = vectors @ vectors.T - np.eye(len(texts))
    assert 0.1 < similarity.max() < 0.9


def test_example_splits_by_file(quickstart):
    corpus, train, test = (quickstart[name] for name in ("corpus", "train", "test"))
    assert sorted([*train, *test]) == list(range(len(corpus)))
    assert not set(corpus["file"][train]) & set(corpus["file"][test])
    assert set(corpus["library"][train]) == set(corpus["library"][test])


def test_example_corpus_is_the_same_every_time(quickstart):
    again = quickstart["build_corpus"](rows_per_library=20, n_files=30)
    pd.testing.assert_frame_equal(again, quickstart["corpus"])
