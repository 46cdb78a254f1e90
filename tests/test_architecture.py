"""The rooms of the house: who may import whom (docs/design.md), and how heavy `import skbert` is."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "skbert"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)

# The words of docs/design.md for what modules import.
NAMES = {
    "any other module of skbert": "skbert",
    "torch": "torch",
    "torch.nn": "torch.nn",
    "torch.optim": "torch.optim",
    "tokenizers": "tokenizers",
    "scikit-learn": "sklearn",
    "numpy": "numpy",
    "pickle": "pickle",
    "joblib": "joblib",
    "the estimator": "skbert.classifier",
    "checkpoints": "skbert.pretrained.checkpoints",
    "network": "skbert.network",
    "the model": "skbert.network.model",
    "training": "skbert.training",
    "the loop": "skbert.training.loop",
    "the optimizer": "skbert.training.optimizer",
}
DESIGN = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
ROWS = [
    (path.replace("/", "."), rule)
    for path, rule in re.findall(
        r"^\| `(\S+)\.py` \| .* \| (.*) \|$", DESIGN.partition("## The rooms")[2], re.MULTILINE
    )
    if path != "__init__"
]
# What a module must never import, at any level of its code: the last column of the table there.
NEVER = {module: {NAMES[word] for word in rule.split(", ")} for module, rule in ROWS}


def source_of(module):
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def imports(module, *, top_level_only=False):
    """Names a module imports; those under `if TYPE_CHECKING` do not count."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
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
    assert sorted(module for module, _ in ROWS) == MODULES


@pytest.mark.parametrize("module", NEVER)
def test_never_imports(module):
    found = imports(module) - {"skbert", "skbert.process", "skbert.process.forks"}  # which any module may ask
    broken = {
        (name, banned)
        for name in found
        for banned in NEVER[module]
        if name == banned or name.startswith(f"{banned}.")
    }
    assert not broken


def test_no_lock_is_hidden_in_a_decorator():
    """One that a forked process would find held (`forks.lazy` has none)."""
    assert not [m for m in MODULES if "functools.cached_property" in imports(m)]


# Folders from the process to the estimator: one imports those before it alone.
ORDER = ["process", "data", "network", "training"]


def test_folders_import_one_way():
    for module in MODULES:
        folder = module.split(".")[0]
        later = ORDER[ORDER.index(folder) + 1 :] if folder in ORDER else []
        later += ["persistence"] if folder in ORDER else []
        later += ["pretrained", "caching"] if folder == "process" else []
        found = {name for name in imports(module) if name.startswith(tuple(f"skbert.{f}" for f in later))}
        assert not (later and found), module


def test_one_module_imports_transformers():
    """And hands it to one thread at a time (`library.quiet`)."""
    importing = {
        module for module in MODULES if any(name.split(".")[0] == "transformers" for name in imports(module))
    }
    assert importing == {"pretrained.library"}


def test_no_import_cycles():
    edges = {
        module: {
            name.removeprefix("skbert.")
            for name in imports(module, top_level_only=True)
            if name.startswith("skbert.")
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
    lengths = {m: len(source_of(m).read_text(encoding="utf-8").splitlines()) for m in MODULES}
    # The estimator's length is docstrings: every parameter is described there, once.
    assert {m for m, n in lengths.items() if n > 300} <= {"classifier"}


def test_functions_fit_one_screen():
    for module in MODULES:
        tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
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


def test_importing_skbert_and_building_a_search_are_light():
    """A process that forks its workers afterwards has nothing that breaks."""
    out = run(
        "import sys, skbert; dir(skbert); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'numpy', 'pandas') if m in sys.modules]);"
        "from sklearn.base import clone; from sklearn.model_selection import GridSearchCV;"
        "c = clone(skbert.BertClassifier(device='cuda')); c.get_params(); repr(c); c.set_params(epochs=1);"
        "repr(clone(GridSearchCV(c, {'epochs': [1]}, n_jobs=2)));"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    assert out.split() == ["[]", "[]"]


def test_importing_every_module_changes_nothing_global():
    out = run(
        "import logging, os, random, warnings, numpy, torch, transformers, sklearn.linear_model;"
        "state = lambda: (torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate(),"
        " numpy.random.get_state()[1].tolist(), dict(os.environ), list(warnings.filters),"
        " list(logging.getLogger().handlers));"
        "before = state();"
        f"import importlib; [importlib.import_module('skbert.' + m) for m in {MODULES!r}];"
        "print(state() == before)"
    )
    assert out.strip() == "True"


def test_unknown_attribute_is_an_attribute_error():
    import skbert

    with pytest.raises(AttributeError, match="has no attribute 'BertRanker'"):
        skbert.BertRanker  # noqa: B018
