"""Importing medimg: quick, light, and honest about its names."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys

import pytest

import medimg

HEAVY = {
    "PIL", "ai_edge_litert", "azure", "boto3", "fastapi", "h5py", "keras", "matplotlib", "mlflow", "numpy", "pandas",
    "pydantic", "pydicom", "rich", "sagemaker", "sklearn", "tensorflow", "typer", "uvicorn",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Returns the top-level modules that a statement loads in a fresh process."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_medimg_loads_no_framework_and_no_sdk() -> None:
    """A notebook's first line costs milliseconds."""
    assert loaded_by("import medimg") & HEAVY == set()


def test_looking_around_loads_nothing_either() -> None:
    """Completion in a notebook calls dir()."""
    assert loaded_by("import medimg; dir(medimg); medimg.__all__; medimg.__version__") & HEAVY == set()


def test_importing_the_program_loads_no_framework() -> None:
    """`medimg --help` does not wait for TensorFlow."""
    assert loaded_by("import medimg.cli") & (HEAVY - {"rich", "typer"}) == set()


def test_the_public_names_are_sorted_and_unique() -> None:
    """`__all__` is read by people."""
    assert list(medimg.__all__) == sorted(set(medimg.__all__))


def test_every_public_name_is_loaded_lazily_and_every_lazy_name_is_public() -> None:
    """`__all__` has all lazy names but those that need an extra: a star import must not ask for it."""
    assert set(medimg._HOMES) - set(medimg.__all__) == {"AzureMLBackend", "SageMakerBackend"}
    assert set(medimg.__all__) < set(medimg._HOMES)


def test_type_checkers_see_every_public_name() -> None:
    """The imports under TYPE_CHECKING name each public name and its home."""
    assert medimg.__file__ is not None
    with open(medimg.__file__, encoding="utf-8") as file:  # noqa: PTH123 - a path from Python itself
        tree = ast.parse(file.read())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == medimg._HOMES


@pytest.mark.parametrize("name", sorted(medimg._HOMES))
def test_a_public_name_loads_and_is_public_at_home(name: str) -> None:
    """What medimg.NAME gives is what its module calls so."""
    home = importlib.import_module(medimg._HOMES[name])
    assert getattr(medimg, name) is getattr(home, name)
    assert name in home.__all__


def test_dir_lists_the_public_names() -> None:
    """Completion shows what there is."""
    assert set(medimg._HOMES) <= set(dir(medimg))


def test_a_wrong_name_is_refused_with_the_nearest_right_one() -> None:
    """A typing mistake costs one look."""
    with pytest.raises(AttributeError, match="Did you mean 'Dataset'"):
        _ = medimg.Datset
