"""Predictions as Parquet: the columns of the CSV, with types. Needs pyarrow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from medimg.errors import DatasetError
from medimg.home import atomic_write
from medimg.inference import predictions_csv
from medimg.inference.predictions_csv import Cell

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset
    from medimg.inference.predictions import Predictions

__all__ = ["read", "write"]


def write(predictions: Predictions, path: Path, dataset: Dataset | None = None) -> Path:
    """Writes the table whole or not at all, and returns its path."""
    header = predictions_csv.header(predictions, dataset)
    columns: list[list[Cell]] = [[] for _ in header]
    for row in predictions_csv.rows(predictions, dataset):
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
    arrays = [pa.array(column, _type(name)) for name, column in zip(header, columns, strict=True)]
    content = io.BytesIO()
    pq.write_table(pa.table(dict(zip(header, arrays, strict=True))), content)
    atomic_write(path, content.getbuffer())
    return path


def _type(column: str) -> Any:
    if column.startswith("p:"):
        return pa.float64()
    return pa.int8() if column == "uncertain" or column.startswith(("label:", "decision:")) else pa.string()


def read(path: Path) -> Predictions:
    """Returns the table in the file.

    Raises:
        DatasetError: The file is not one that `write` made; the message names the line or the column.
    """
    try:
        with path.open("rb") as file:
            found = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as a table of predictions: {error}") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in found.columns]
    return predictions_csv.table(path, found.column_names, list(zip(*columns, strict=True)))
