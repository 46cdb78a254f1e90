"""The rooms of the house: who may import whom (docs/design.md), and how heavy `import skbert` is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "skbert"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

# What a module must never import, at any level of its code.
NEVER = {
    "adapt": {"sklearn", "transformers", "skbert.training", "skbert.optimizer"},
    "attention": {"sklearn", "transformers", "tokenizers"},
    "batching": {"sklearn", "transformers", "tokenizers"},
    "blueprint": {"transformers", "sklearn", "pickle", "joblib", "skbert.training"},
    "callbacks": {"torch", "transformers"},
    "checkpoints": {"sklearn", "skbert.classifier"},
    "classifier": {"transformers", "torch"},
    "codec": {"torch", "transformers", "sklearn", "pickle", "joblib"},
    "defaults": {"torch", "transformers", "sklearn"},
    "delta": {"transformers", "sklearn", "pickle", "joblib", "skbert.checkpoints"},
    "diagnosis": {"sklearn", "transformers", "torch", "skbert.training"},
    "dropout": {"sklearn", "transformers"},
    "encoding": {"torch", "transformers", "sklearn"},
    "exceptions": {"torch", "transformers", "sklearn", "numpy", "skbert"},
    "families": {"transformers", "sklearn", "skbert.training"},
    "grouped_attention": {"sklearn", "transformers", "tokenizers"},
    "fitting": {"transformers", "sklearn", "skbert.classifier"},
    "head": {"sklearn", "transformers", "skbert.model"},
    "inference": {"sklearn", "transformers", "skbert.training"},
    "inputs": {"torch", "transformers", "sklearn"},
    "labels": {"torch", "transformers", "tokenizers"},
    "learning": {"torch", "transformers", "tokenizers"},
    "lora": {"sklearn", "transformers", "skbert.training", "skbert.optimizer"},
    "memory": {"sklearn", "transformers", "skbert.training", "skbert.optimizer"},
    "interchange": {"sklearn", "pickle", "joblib", "skbert.classifier", "skbert.training"},
    "model": {"sklearn", "transformers", "skbert.optimizer", "torch.optim"},
    "optimizer": {"sklearn", "transformers"},
    "outputs": {"transformers", "tokenizers", "sklearn"},
    "persistence": {"transformers", "pickle", "joblib", "skbert.classifier", "skbert.training"},
    "prediction": {"torch", "transformers", "tokenizers"},
    "probing": {"transformers", "tokenizers"},
    "runtime": {"sklearn", "transformers"},
    "saving": {"torch", "transformers", "tokenizers"},
    "sources": {"torch", "transformers", "sklearn"},
    "starting": {"sklearn", "transformers", "torch", "skbert.classifier"},
    "tensorfile": {"torch", "transformers", "sklearn", "pickle", "joblib"},
    "training": {"sklearn", "transformers"},
    "validation": {"torch", "transformers", "skbert.training"},
    "vocabulary": {"sklearn", "transformers", "tokenizers"},
    "weights": {"torch", "transformers", "tokenizers"},
}


def imports(module, *, top_level_only=False):
    """Names a module imports; those under `if TYPE_CHECKING` do not count."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.ClassDef)):
            pending.extend(ast.iter_child_nodes(node))
    return found


def test_every_module_has_its_rule():
    assert set(NEVER) == set(MODULES) - {"__init__"}


@pytest.mark.parametrize("module", NEVER)
def test_never_imports(module):
    found = imports(module)
    broken = {
        (name, banned)
        for name in found
        for banned in NEVER[module]
        if name == banned or name.startswith(f"{banned}.")
    }
    assert not broken


def test_only_what_reads_and_writes_checkpoints_imports_transformers():
    importing = {
        module for module in MODULES if any(name.split(".")[0] == "transformers" for name in imports(module))
    }
    assert importing == {"checkpoints", "interchange"}


def test_no_import_cycles():
    edges = {
        module: {
            name.split(".")[1] for name in imports(module, top_level_only=True) if name.startswith("skbert.")
        }
        & set(MODULES)
        for module in MODULES
    }
    done = set()
    while len(done) < len(edges):
        free = {module for module, needed in edges.items() if module not in done and needed <= done}
        assert free, f"import cycle among {set(edges) - done}"
        done |= free


def test_modules_stay_small():
    lengths = {m: len((PACKAGE / f"{m}.py").read_text(encoding="utf-8").splitlines()) for m in MODULES}
    # The estimator's length is docstrings: every parameter is described there, once.
    assert {m for m, n in lengths.items() if n > 300} <= {"classifier"}


def test_functions_fit_one_screen():
    for module in MODULES:
        tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                assert node.end_lineno - first.lineno < 50, f"{module}.{node.name}"


def run(code):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_import_skbert_is_light():
    out = run(
        "import sys, skbert; dir(skbert); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'numpy', 'pandas') if m in sys.modules])"
    )
    assert out.strip() == "[]"


def test_constructing_and_cloning_import_no_torch():
    out = run(
        "import sys; from skbert import BertClassifier; from sklearn.base import clone;"
        "c = clone(BertClassifier(epochs=2)); c.get_params(); repr(c); c.set_params(epochs=1);"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    assert out.strip() == "[]"


def test_importing_every_module_changes_nothing_global():
    out = run(
        "import logging, os, random, warnings, numpy, torch, transformers, sklearn.linear_model;"
        "state = lambda: (torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate(),"
        " numpy.random.get_state()[1].tolist(), dict(os.environ), list(warnings.filters),"
        " list(logging.getLogger().handlers));"
        "before = state();"
        f"import importlib; [importlib.import_module('skbert.' + m) for m in {MODULES!r} if m != '__init__'];"
        "print(state() == before)"
    )
    assert out.strip() == "True"


def test_unknown_attribute_is_an_attribute_error():
    import skbert

    with pytest.raises(AttributeError, match="has no attribute 'BertRegressor'"):
        skbert.BertRegressor  # noqa: B018
