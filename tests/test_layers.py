"""Imports point one way: a module may import its own layer and those below it, and nothing above."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ecopipe

PACKAGE = Path(ecopipe.__file__).parent
LAYERS = {
    "vocabulary": 0,
    "formats": 1,
    "storage": 1,
    "datasets": 2,
    "plan": 3,
    "signal": 3,
    "stages": 4,
    "pipeline": 5,
    "run": 6,
    "sharding": 7,
    "insight": 8,
    "testing": 8,
    "cli": 9,
}
WITHOUT_TORCH = {"vocabulary", "formats", "storage", "datasets", "plan"}
EXCEPTIONS = {("pipeline/pipeline.py", "ecopipe.run.loader"), ("run/loader.py", "ecopipe.insight.profile")}
"""``Pipeline.loader`` and ``Loader.profile`` are verbs of their values: the imports against the layers."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_every_folder_is_a_layer() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    layer = path.relative_to(PACKAGE).parts[0]
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "ecopipe" and len(parts) > 1 and parts[1] in LAYERS and (name, module) not in EXCEPTIONS:
            above = LAYERS[parts[1]] > LAYERS[layer]
            beside = LAYERS[parts[1]] == LAYERS[layer] and parts[1] != layer
            if not (above and _only_for_types(path, module)):
                assert not above, f"{name} imports {module}, which lies above it"
                assert not beside, f"{name} imports {module}, which lies beside it"
        if layer in WITHOUT_TORCH:
            assert parts[0] not in ("torch", "torchaudio", "torchvision"), f"{name} imports {module}"


def _only_for_types(path: Path, module: str) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    inside = {item.module for node in guarded for item in ast.walk(node) if isinstance(item, ast.ImportFrom)}
    return module in inside


def test_modules_stay_short() -> None:
    long = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import ecopipe",
        "import ecopipe.cli.main, ecopipe.cli.sharding",
        "from ecopipe.datasets.corpus import open_corpus; import ecopipe.sharding.write",
    ],
)
def test_sharding_and_help_import_no_torch(code: str) -> None:
    check = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_all_names_are_there() -> None:
    for name in ecopipe.__all__:
        assert getattr(ecopipe, name) is not None
    assert set(ecopipe.__all__) == set(dir(ecopipe))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ecopipe.Nothing  # noqa: B018
