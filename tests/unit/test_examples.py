"""Every example runs from top to bottom, as a user would run it."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own, about its own event loop
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    """In an empty folder, on the phantoms; its outputs are looked into."""
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    environment = {name: value for name, value in os.environ.items() if name not in ("MEDIMG_DATA", "MEDIMG_GROUP")}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    text = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Prediction(label=" in text
    assert "AUROC" in text
    assert "image/png" in text, "the figures are shown"
