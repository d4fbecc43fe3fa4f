"""A table becomes a dataset, or the message names the row and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from image_folders import picture, tree

from medimg.data.dataset import Dataset
from medimg.errors import DatasetError

ROWS = ["a.png,normal,p1", "b.png,ill,p1", "c.png,ill,p2", "d.png,normal,p3"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the images a to d."""
    for name in "abcd":
        picture(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def write(images: Path, rows: list[str], header: str = "file,label,patient", encoding: str = "utf-8") -> Path:
    """Writes a table beside the images."""
    path = images.parent / "labels.csv"
    path.write_bytes("\n".join([header, *rows]).encode(encoding))
    return path


def load(images: Path, csv: Path | None = None, **arguments: object) -> Dataset:
    """Reads a table whose columns are called file, label and patient."""
    csv = csv or write(images, ROWS)
    options = {"images": images, "path": "file", "labels": "label", **arguments}
    return Dataset.from_csv(csv, **options)  # type: ignore[arg-type]


def refused(images: Path, csv: Path | None = None, **arguments: object) -> str:
    """Returns the message with which a table is refused."""
    with pytest.raises(DatasetError) as caught:
        load(images, csv, **arguments)
    return str(caught.value)


def labels_of(dataset: Dataset) -> dict[str, object]:
    """Returns what each image shows, by the name of its file."""
    return {sample.path.name: dataset.label_names(sample) for sample in dataset.samples}


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [("utf-8", ",", "\n"), ("utf-8-sig", ";", "\r\n"), ("utf-8", "\t", "\n"), ("utf-8", ",", "\r")],
)
def test_tables_of_all_spreadsheets_are_read(images: Path, encoding: str, delimiter: str, end: str) -> None:
    """Commas, semicolons or tabs; with or without a byte order mark; any line end."""
    text = end.join(["file,label,patient", *ROWS, ""]).replace(",", delimiter)
    csv = images.parent / "labels.csv"
    csv.write_bytes(text.encode(encoding))
    dataset = load(images, csv, group="patient")
    assert dataset.counts(None) == {"ill": 2, "normal": 2}
    assert [sample.group for sample in dataset.samples] == ["p1", "p1", "p2", "p3"]
    assert (dataset.name, dataset.task, dataset.positive) == ("labels", "binary", "ill")


def test_cells_may_hold_line_ends_and_separators(images: Path) -> None:
    """Quoted, as in a radiologist's report; Unicode's own line separators end no row."""
    rows = ['a.png,normal,"first; line,\nsecond"', "b.png,ill,one\u2028two\x0bthree\x85four", 'c.png,ill,"said ""no"""']
    dataset = load(images, write(images, rows), columns=["patient"])
    assert [sample.columns["patient"] for sample in dataset.samples] == [
        "first; line,\nsecond", "one\u2028two\x0bthree\x85four", 'said "no"',
    ]  # fmt: skip


def test_rows_are_numbered_as_the_spreadsheet_does(images: Path) -> None:
    """Blank rows and line ends in cells count as they do there."""
    rows = ['a.png,normal,"x\ny"', "", ",,", "gone.png,ill,p"]
    assert "row 5: 'gone.png'" in refused(images, write(images, rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nä.png,normal".encode("latin-1"), "is not UTF-8 (byte 11). Save it again as 'CSV UTF-8'"),
        ("file,label\na.png,x".encode("utf-16"), "is not UTF-8 (byte 0)"),
        (b"", "has no rows"),
        (b"file,label\n", "has no rows"),
        (b"file,label\n\n,\n", "has no rows"),
        (b"file,label\na.png,normal\nb.png", "row 3: 1 cells, but the header has 2"),
        (b"file,label\na.png,normal,extra", "row 2: 3 cells, but the header has 2"),
        (b'file,label\na.png,"open', "line 2: unexpected end of data"),
        (b"file,label,label\na.png,x,y", "has several columns called 'label'. Rename or remove all but one"),
    ],
)
def test_a_broken_table_is_refused_with_the_place(images: Path, content: bytes, message: str) -> None:
    """The file, and the row or byte in it."""
    csv = images.parent / "broken.csv"
    csv.write_bytes(content)
    assert f"{csv}" in refused(images, csv)
    assert message in refused(images, csv)


def test_a_table_that_is_not_there_is_named(images: Path) -> None:
    """Or that is a folder."""
    assert refused(images, images / "no.csv") == f"there is no table {images / 'no.csv'}"
    assert refused(images, images) == f"cannot read the table {images}: Is a directory"


def test_a_wrong_column_suggests_the_right_one(images: Path) -> None:
    """Whichever argument it was given to."""
    expected = "labels has no column 'lable'. Did you mean 'label'?"
    for arguments in ({"path": "lable"}, {"labels": "lable"}, {"labels": ["label", "lable"]}, {"group": "lable"},
                      {"split": "lable"}, {"columns": ["lable"]}, {"columns": "lable"}):  # fmt: skip
        assert refused(images, **arguments) == expected
    assert refused(images, labels="diagnosis") == "labels has no column 'diagnosis'. Known: file, label, patient."


# -- the files ---------------------------------------------------------------------------------------------------------


def test_rows_without_their_file_are_listed_or_dropped(images: Path) -> None:
    """With row numbers; the dataset remembers how many."""
    csv = write(images, [*ROWS, "e.png,ill,p4", ",ill,p5"])
    assert refused(images, csv) == (
        f"no image file under {images} for 2 of 6 rows: row 6: 'e.png'; row 7: ''. Fix the rows or the folder, or pass "
        "missing='drop' to leave them out"
    )
    dataset = load(images, csv, missing="drop")
    assert len(dataset) == 4
    assert dataset.notices == ("left out: 2 rows without an image file",)
    assert refused(images, csv, missing="skip") == "missing='skip': 'error' or 'drop'"


def test_a_wrong_folder_is_no_reason_to_drop_all_rows(images: Path, tmp_path: Path) -> None:
    """Nothing would be left."""
    (tmp_path / "other").mkdir()
    csv = write(images, ROWS)
    message = refused(tmp_path / "other", csv, missing="drop")
    assert message.endswith("for 4 of 4 rows: row 2: 'a.png'; row 3: 'b.png'; row 4: 'c.png'; row 5: 'd.png'. "
                            "Fix the rows or the folder")  # fmt: skip
    assert refused(tmp_path / "none", csv) == f"images='{tmp_path / 'none'}' is not a folder"


@pytest.mark.parametrize(
    "written",
    ["a.png", "a", "A/a.png", "x/A/a", "/data/x/A/a.png", "./A/a.png", "x\\A\\a.png", "../x/A/a.png", "a.jpg", "a.dcm",
     " a.png "],
)  # fmt: skip
def test_a_row_finds_its_file_by_any_end_of_the_path(tmp_path: Path, written: str) -> None:
    """The folder, the extension or both may be left out, and the path may begin further up."""
    images = tmp_path / "images"
    picture(images / "x/A/a.png")
    picture(images / "x/B/b.png")
    dataset = load(images, write(images, [f"{written},ill,p", "b,normal,p"]))
    assert labels_of(dataset) == {"a.png": ("ill",), "b.png": ("normal",)}


def test_a_row_takes_no_file_of_another_folder(tmp_path: Path) -> None:
    """test/1.png is not train/1.png, though the names are the same."""
    images = tmp_path / "images"
    picture(images / "train/1.png")
    picture(images / "train/2.png")
    csv = write(images, ["train/1.png,ill,p", "train/2.png,normal,p", "test/1.png,ill,p"])
    assert "for 1 of 3 rows: row 4: 'test/1.png'" in refused(images, csv)


def test_a_row_that_may_mean_two_files_is_refused(tmp_path: Path) -> None:
    """The full path, or the extension, decides."""
    images = tmp_path / "images"
    for name in ("x/1.png", "y/1.png", "2.png", "2.jpg"):
        picture(images / name)
    assert refused(images, write(images, ["1.png,ill,p", "2.png,normal,p"])) == (
        "row 2: '1.png' may be any of 'x/1.png', 'y/1.png'. Give the path inside images= with its extension"
    )
    assert "'2' may be any of '2.jpg', '2.png'" in refused(images, write(images, ["x/1.png,ill,p", "2,normal,p"]))
    assert len(load(images, write(images, ["x/1.png,ill,p", "y/1.png,normal,p", "2.jpg,ill,p", "2.png,ill,p"]))) == 4


def test_names_with_dots_keep_their_ends(tmp_path: Path) -> None:
    """A DICOM UID's last number is no extension."""
    images = tmp_path / "images"
    picture(images / "1.2.840.1.png")
    picture(images / "1.2.840.2.png")
    dataset = load(images, write(images, ["1.2.840.1,ill,p", "1.2.840.2,normal,p"]))
    assert labels_of(dataset) == {"1.2.840.1.png": ("ill",), "1.2.840.2.png": ("normal",)}
    assert "row 3: '1.2.840'" in refused(images, write(images, ["1.2.840.1,ill,p", "1.2.840,normal,p"]))


def test_two_rows_that_lead_to_one_file_are_refused(images: Path) -> None:
    """Written differently they were meant differently: one of them would get the other's label."""
    csv = write(images, ["train/a.png,ill,p", "test/a.png,ill,p", "b.png,normal,p"])
    assert refused(images, csv) == (
        "labels: rows 2 ('train/a.png') and 3 ('test/a.png') lead to the same image file, a.png. Write paths that "
        f"start at images= ({images})"
    )


def test_repeated_rows_count_once_and_contradictions_are_refused(images: Path) -> None:
    """A table with a row a finding repeats its images."""
    dataset = load(images, write(images, [*ROWS, "a.png,normal,p1"]), group="patient")
    assert len(dataset) == 4
    assert dataset.notices == ("1 row repeated an image with the same labels: counted once",)
    for row, arguments in (("a.png,ill,p1", {}), ("a.png,normal,p9", {"group": "patient"})):
        assert refused(images, write(images, [*ROWS, row]), **arguments) == (
            "labels: rows 2 and 6 are the same image (a.png) with different labels, splits, groups or columns. Keep one"
        )


# -- one label ---------------------------------------------------------------------------------------------------------


def test_a_row_without_a_label_is_refused(images: Path) -> None:
    """With how many there are."""
    csv = write(images, ["a.png,normal,p", "b.png,,p", "c.png, ,p", "d.png,ill,p"])
    assert refused(images, csv) == "labels: 'label' is empty in 2 rows, such as row 3. Fill or remove them"


def test_a_column_that_is_no_label_is_recognised(images: Path) -> None:
    """As many values as rows; most often the wrong column, or several labels in a cell."""
    tree(images, {"many": 60})
    csv = write(images, [f"p{number}.png,case {number},p" for number in range(60)])
    assert refused(images, csv) == (
        "labels: column 'label' has 60 different values in 60 rows; is it the label? For several labels in a cell pass "
        'separator="|"'
    )


def test_one_class_only_is_refused(images: Path) -> None:
    """With the column."""
    csv = write(images, ["a.png,ill,p", "b.png,ill,p"])
    assert refused(images, csv).startswith("labels, column 'label': only one class found ('ill'). A classifier needs")


def test_class_names_may_hold_slashes_accents_and_line_ends(images: Path) -> None:
    """They name no files. A line end becomes a blank, and é is é however it was typed."""
    csv = write(images, ["a.png,n/a,p", "b.png,sténose,p", "c.png,ste\u0301nose,p", 'd.png,"x\n y",p'])
    dataset = load(images, csv)
    assert dataset.classes == ("n/a", "sténose", "x y")
    assert dataset.counts(None) == {"n/a": 1, "sténose": 2, "x y": 1}
    assert "  n/a" in dataset.summary()


def test_zeros_and_ones_are_two_classes_of_which_1_is_positive(images: Path) -> None:
    """The commonest table of all."""
    dataset = load(images, write(images, ["a.png,0,p", "b.png,1,p", "c.png,1,p"]))
    assert (dataset.classes, dataset.task, dataset.positive) == (("0", "1"), "binary", "1")


def test_splits_and_groups_come_from_columns_or_functions(images: Path) -> None:
    """Splits by any of their usual names; a row without a group is a group of its own."""
    rows = ["a.png,normal,p1,Train", "b.png,ill,,validation", "c.png,ill, p2 ,TEST", "d.png,normal,p3,train"]
    csv = write(images, rows, "file,label,patient,part")
    dataset = load(images, csv, group="patient", split="part")
    assert [(sample.group, sample.split) for sample in dataset.samples] == [
        ("p1", "train"), (None, "val"), ("p2", "test"), ("p3", "train"),
    ]  # fmt: skip
    assert dataset.notices == ("no group given for 1 image: each is taken as a patient of its own",)
    dataset = load(images, csv, group=lambda row: int(row["patient"].strip("p ") or 0))
    assert [sample.group for sample in dataset.samples] == ["1", "0", "2", "3"]
    assert refused(images, csv, split="label") == "labels, row 2: the split 'normal' is not train, val or test"


def test_only_named_columns_are_kept(images: Path) -> None:
    """What is kept may leave the machine."""
    assert load(images).samples[0].columns == {}
    dataset = load(images, columns="patient")
    assert dataset.keep == ("patient",)
    assert dataset.samples[0].columns == {"patient": "p1"}


# -- several labels ----------------------------------------------------------------------------------------------------


def test_several_labels_in_a_cell_are_split(images: Path) -> None:
    """No Finding is no label; repeated labels and blanks do not matter."""
    csv = write(images, ["a.png,Edema|Mass,p", "b.png,No Finding,p", "c.png,Mass | Mass|,p", "d.png,Hernia,p"])
    dataset = load(images, csv, separator="|")
    assert (dataset.classes, dataset.task, dataset.positive) == (("Edema", "Hernia", "Mass"), "multilabel", None)
    assert [sample.labels for sample in dataset.samples] == [(1, 0, 1), (0, 0, 0), (0, 0, 1), (0, 1, 0)]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["Edema", ""], "labels, row 3: 'label' is empty. Write 'No Finding' for an image without one"),
        (["Edema", "|"], "labels, row 3: 'label' is empty."),
        (["Edema", "No Finding|Mass"], "row 3: 'No Finding|Mass' says both that there is a finding and none"),
        (["No Finding", "normal"], "labels: no row of 'label' has a finding"),
        (["Edema", "Edema"], "labels, column 'label': only one class found ('Edema')"),
    ],
)
def test_cells_that_say_nothing_or_too_much_are_refused(images: Path, cells: list[str], message: str) -> None:
    """An empty cell may be unknown or none: nobody can tell."""
    rows = [f"{name}.png,{cell},p" for name, cell in zip("ab", cells, strict=True)]
    assert message in refused(images, write(images, rows), separator="|")


def test_one_label_that_is_there_or_not_makes_two_classes(images: Path) -> None:
    """A network with one output answers a binary question."""
    rows = ["a.png,Pneumonia,p", "b.png,No Finding,p", "c.png,Pneumonia,p"]
    dataset = load(images, write(images, rows), separator="|")
    assert (dataset.classes, dataset.task, dataset.positive) == (("No Finding", "Pneumonia"), "binary", "Pneumonia")
    assert labels_of(dataset) == {"a.png": ("Pneumonia",), "b.png": ("No Finding",), "c.png": ("Pneumonia",)}
    assert dataset.notices == ("'label' has one label only: read as two classes",)
    rows = [row.replace("Pneumonia", "Edema") for row in rows]  # sorts before its negative
    assert labels_of(load(images, write(images, rows), separator="|")) == {
        "a.png": ("Edema",), "b.png": ("No Finding",), "c.png": ("Edema",),
    }  # fmt: skip


def test_columns_of_zeros_and_ones_are_labels_with_gaps(images: Path) -> None:
    """Empty, NaN and CheXpert's -1 are unknown; true and yes are 1."""
    rows = ["a.png,1,0.0,1", "b.png,,-1.0,yes", "c.png,0,nan,0", "d.png,true,1.0,FALSE"]
    dataset = load(images, write(images, rows, "file,Mass,Edema,Hernia"), labels=["Mass", "Edema", "Hernia"])
    assert (dataset.classes, dataset.task) == (("Edema", "Hernia", "Mass"), "multilabel")
    assert [sample.labels for sample in dataset.samples] == [(0, 1, 1), (None, 1, None), (None, 0, 0), (1, 0, 1)]


def test_one_hot_columns_are_exclusive_classes(images: Path) -> None:
    """ISIC's form: the dataset says how it was read."""
    rows = ["a.png,1.0,0.0,0.0", "b.png,0,1,0", "c.png,0,0,1"]
    dataset = load(images, write(images, rows, "file,NV,MEL,BCC"), labels=["NV", "MEL", "BCC"])
    assert (dataset.classes, dataset.task) == (("BCC", "MEL", "NV"), "multiclass")
    assert labels_of(dataset) == {"a.png": ("NV",), "b.png": ("MEL",), "c.png": ("BCC",)}
    assert dataset.notices == ("every row has exactly one class: read as exclusive classes",)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (["a.png,1,2", "b.png,0,1"], ["x", "y"], "labels, row 2, column 'y': '2' is not 1, 0 or empty"),
        (["a.png,0,0", "b.png,,0"], ["x", "y"], "labels: no row has a 1 in any of 'x', 'y'"),
        (["a.png,0,0"], ["x", "x"], "labels= names a column twice: 'x', 'x'"),
        (["a.png,0,0"], [], "labels= names no column"),
    ],
)
def test_columns_that_are_no_labels_are_refused(images: Path, rows: list[str], labels: list[str], message: str) -> None:
    """With the row and the value."""
    assert message in refused(images, write(images, rows, "file,x,y"), labels=labels)


def test_a_label_that_no_image_has_is_mentioned(images: Path) -> None:
    """It cannot be learnt, but the others can."""
    dataset = load(images, write(images, ["a.png,1,0", "b.png,0,"], "file,x,y"), labels=["x", "y"])
    assert dataset.notices == ("no image has 'y': nothing can be learnt of it",)


def test_a_separator_is_for_one_column(images: Path) -> None:
    """With several columns, or empty, it means nothing."""
    for separator, labels in (("|", ["label", "patient"]), ("", "label")):
        assert refused(images, labels=labels, separator=separator) == (
            f"separator={separator!r} is what stands between several labels in one column; with one column a class "
            "leave it out"
        )


# -- data frames -------------------------------------------------------------------------------------------------------


def from_frame(images: Path, frame: object, **arguments: object) -> Dataset:
    """Reads a data frame with the columns file and label."""
    options = {"images": images, "path": "file", "labels": "label", **arguments}
    return Dataset.from_dataframe(frame, **options)  # type: ignore[arg-type]


def test_a_data_frame_is_read_like_its_table(images: Path) -> None:
    """With the same ids and so the same dataset, but for the name."""
    frame = pd.read_csv(write(images, ROWS), index_col="patient").reset_index()
    assert from_frame(images, frame, group="patient").samples == load(images, group="patient").samples


def test_numbers_of_a_data_frame_are_read_as_they_were_written(images: Path) -> None:
    """A gap turns integers into floats; paths, booleans and categories are text."""
    frame = pd.DataFrame(
        {
            "file": [Path("a.png"), Path("b.png"), Path("c.png")],
            "label": pd.Categorical([True, False, True]),
            "patient": [61.0, np.nan, 7.5],
            "Mass": [1.0, np.nan, 0.0],
            "Edema": pd.array([1, pd.NA, 0], "Int64"),
        }
    )
    dataset = from_frame(images, frame, group="patient", columns=["patient"])
    assert [sample.group for sample in dataset.samples] == ["61", None, "7.5"]
    assert [sample.columns["patient"] for sample in dataset.samples] == ["61", "", "7.5"]
    assert (dataset.classes, dataset.positive) == (("False", "True"), "True")
    dataset = from_frame(images, frame, labels=["Mass", "Edema"])
    assert [sample.labels for sample in dataset.samples] == [(1, 1), (None, None), (0, 0)]


def test_the_positive_class_of_a_data_frame_may_be_a_number(images: Path) -> None:
    """As it is in the frame."""
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "label": [2, 3]})
    assert from_frame(images, frame, positive=3).positive == "3"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"file": [], "label": []}), "the DataFrame has no rows"),
        (pd.DataFrame([["a.png", "x", "y"]], columns=["file", "label", "label"]), "the DataFrame has several columns"),
        ([{"file": "a.png"}], "from_dataframe takes a pandas DataFrame, not list"),
        (pd.DataFrame({"file": ["a.png", None], "label": ["x", "y"]}), "row 1: ''"),
        (pd.DataFrame({"file": ["a.png", "b.png"], "label": ["x", None]}), "'label' is empty in 1 row, such as row 1."),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused(images: Path, frame: object, message: str) -> None:
    """Rows are numbered from 0, as `iloc` counts."""
    with pytest.raises(DatasetError, match=message.replace("(", r"\(")):
        from_frame(images, frame)
