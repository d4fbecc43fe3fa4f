"""`Sources`: the ways to make a `Dataset`, each of which reads the images' names and labels and no pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset

__all__ = ["Sources"]


class Sources:
    """The `from_…` methods of `Dataset`."""

    @staticmethod
    def from_folder(
        root: str | Path,
        *,
        group: str | Callable[[str], str | None] | None = None,
        positive: str | None = None,
    ) -> Dataset:
        """Reads `root/CLASS/*.png`, or `root/SPLIT/CLASS/*.png` with splits named train, val, test or alike.

        Args:
            root: The folder.
            group: Whose image it is: a regular expression on the path inside `root`, whose captures are joined, or a
                function of that path.
            positive: For two classes, the one to detect; needed where the other is not a known negative.

        Raises:
            DatasetError: No images, one class only, an empty class, a class that train lacks, or a path that `group`
                does not match.
        """
        from medimg.data.readers.folder import read_folder

        return read_folder(Path(root), group=group, positive=positive)

    @staticmethod
    def from_csv(
        csv: str | Path,
        *,
        images: str | Path,
        path: str,
        labels: str | Sequence[str],
        group: str | Callable[[Mapping[str, str]], str | None] | None = None,
        separator: str | None = None,
        split: str | None = None,
        columns: Sequence[str] = (),
        positive: str | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads a table with a row an image.

        Args:
            csv: The table: UTF-8, separated by commas, semicolons or tabs.
            images: Folder with the images, at any depth.
            path: Column with the file's name; its folder and extension may be left out where no two files are meant.
            labels: One column with the class; or one column a class with 1, 0 or nothing (unknown). Where every row has
                exactly one 1, they are read as exclusive classes.
            group: Column that says whose image it is, or a function of the row.
            separator: Set for several labels in one cell, such as "|" in `Edema|Effusion`. "No Finding" is no label;
                if there is only one label beside it, these two are the classes.
            split: Column with train, val or test.
            columns: Extra columns to keep. They leave the machine only because they are named here.
            positive: For two classes, the one to detect.
            missing: "drop" leaves out rows without their file instead of stopping.

        Raises:
            DatasetError: An unknown column, rows without a file or a label, or one image with two labels.
        """
        from medimg.data.readers.table import read_csv_rows, read_table

        table = Path(csv)
        return read_table(
            read_csv_rows(table), name=table.stem, images=Path(images), path=path, labels=labels, group=group,
            separator=separator, split=split, columns=columns, positive=positive, missing=missing,
        )  # fmt: skip

    @staticmethod
    def from_dataframe(
        frame: Any,
        *,
        images: str | Path,
        path: str,
        labels: str | Sequence[str],
        group: str | Callable[[Mapping[str, str]], str | None] | None = None,
        separator: str | None = None,
        split: str | None = None,
        columns: Sequence[str] = (),
        positive: str | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> Dataset:
        """Reads a pandas DataFrame (or what has its `to_dict("records")`); arguments as in `from_csv`."""
        from medimg.data.readers.table import dataframe_rows, read_table

        return read_table(
            dataframe_rows(frame), name="dataframe", images=Path(images), path=path, labels=labels, group=group,
            separator=separator, split=split, columns=columns, positive=positive, missing=missing,
        )  # fmt: skip
