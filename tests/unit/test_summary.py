"""A dataset shows itself as text, HTML and pictures that a reader can trust."""

from __future__ import annotations

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from image_folders import COLOUR, cut, picture, tree
from PIL import Image
from rich.cells import cell_len

from medimg.data.dataset import Dataset
from medimg.errors import DatasetError

CHEST = {"train/NORMAL": 30, "train/PNEUMONIA": 40, "val/NORMAL": 12, "val/PNEUMONIA": 12, "test/NORMAL": 5,
         "test/PNEUMONIA": 6}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder as the public chest set's, small."""
    return tree(tmp_path / "chest", CHEST)


class Page(HTMLParser):
    """Collects the text of a page's cells and refuses tags that are left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Remembers the tag."""
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Checks that it is the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keeps the text."""
        self.text.append(data)


def test_the_summary_is_an_aligned_table_with_what_to_know(root: Path) -> None:
    """Word for word."""
    dataset = Dataset.from_folder(root, group=r"(\w+/\w+/p\d)")
    assert (
        dataset.summary()
        == repr(dataset)
        == """\
chest: 105 images, 2 classes, binary, 8×6 px
                        train  val  test
  NORMAL                   30   12     5
  PNEUMONIA (positive)     40   12     6
  images                   70   24    11
  groups                   20   20    11"""
    )


def test_warnings_stand_below(root: Path) -> None:
    """Each on its line; of sizes the smallest and largest are told."""
    picture(root / "train/NORMAL/p0.png", shape=(100, 4))
    (root / "notes").mkdir()
    for path in (root / "val/NORMAL").iterdir():
        path.unlink()
    lines = Dataset.from_folder(root).summary().splitlines()
    assert lines[0] == "chest: 93 images, 2 classes, binary, 4×6 to 8×100 px"
    assert lines[5:] == [
        "  ! not read: 1 folder beside the splits 'test', 'train', 'val'",
        "  ! val has no image of 'NORMAL'",
        "  ! no patient key: pass group= if a patient can have several images",
        "  ! validation is too small ('NORMAL'): training cuts its own out of train by group",
    ]
    lines = Dataset.from_folder(root, group=r"(p\d)").summary().splitlines()
    assert "  ! 10 groups in more than one split: 'p0', 'p1', 'p2' and 7 more" in lines


def test_missing_splits_are_mentioned(tmp_path: Path) -> None:
    """What training will do about it."""
    dataset = Dataset.from_folder(tree(tmp_path / "x", {"normal": 10, "ill": 10}))
    assert "          all\n" in dataset.summary()
    assert "  ! no splits: call .split(), or training divides by group" in dataset.summary()
    assert "  ! no validation split: training cuts one out of train by group" in dataset.split(val=0).summary()


def test_labels_are_counted_with_those_that_have_none(tmp_path: Path) -> None:
    """Several labels on an image count each; the sum is no number of images."""
    tree(tmp_path / "x", {"": 4})
    (tmp_path / "t.csv").write_text("file,label\np0,Mass|Edema\np1,No Finding\np2,No Finding\np3,Mass\n")
    dataset = Dataset.from_csv(tmp_path / "t.csv", images=tmp_path / "x", path="file", labels="label", separator="|")
    assert dataset.summary().splitlines()[:6] == [
        "t: 4 images, 2 labels, multilabel, 8×6 px",
        "                 all",
        "  Edema            1",
        "  Mass             2",
        "  none of these    2",
        "  images           4",
    ]


def test_columns_stay_aligned_in_every_script(tmp_path: Path) -> None:
    """Chinese characters take two columns of a terminal, and an accent of its own none."""
    dataset = Dataset.from_folder(tree(tmp_path / "x", {"肺炎": 1, "x\u0331": 1, "التهاب": 1, "normal": 1}))
    table = [line for line in dataset.summary().splitlines()[1:] if not line.startswith("  !")]
    assert len({cell_len(line) for line in table}) == 1


def test_a_long_list_of_classes_is_cut(tmp_path: Path) -> None:
    """Forty rows are enough for anybody."""
    dataset = Dataset.from_folder(tree(tmp_path / "x", {f"species {number:02d}": 1 for number in range(45)}))
    assert "  and 5 more" in dataset.summary()
    assert "species 40" not in dataset.summary()


def test_the_page_holds_the_same_and_no_markup_of_a_stranger(tmp_path: Path) -> None:
    """Class and file names are text, whatever is in them."""
    names = ["<script>alert(1)<", "a & b", '"x"']
    dataset = Dataset.from_folder(tree(tmp_path / "<b>", dict.fromkeys(names, 2)))
    html = dataset._repr_html_()
    assert "<script" not in html
    assert "<b><b>" not in html
    page = Page(html)
    for text in (*names, "<b>: 6 images, 3 classes, multiclass, 8×6 px", "images", "6"):
        assert text in page.text
    assert "no splits: call .split(), or training divides by group" in page.text
    assert "<ul>" in html


def test_broken_images_do_not_stop_the_summary(root: Path) -> None:
    """It reads a few headers, and says so where none can be read."""
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    dataset = Dataset.from_folder(root)
    assert dataset.summary().startswith("chest: 105 images, 2 classes, binary, unreadable\n")
    assert "unreadable" in dataset._repr_html_()


def drawn(dataset: Dataset, **arguments: object) -> np.ndarray:
    """Returns the figure's pixels as a notebook shows it."""
    figure = dataset.show(**arguments)  # type: ignore[arg-type]
    return np.array(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))  # type: ignore[attr-defined]


def test_the_figure_shows_a_row_a_class(root: Path) -> None:
    """The same for the same seed; more columns are wider, more classes higher."""
    dataset = Dataset.from_folder(root)
    first = drawn(dataset, count=2)
    assert np.array_equal(first, drawn(dataset, count=2))
    assert not np.array_equal(first, drawn(dataset, count=2, seed=1))
    assert not np.array_equal(first, drawn(dataset, count=2, split="test"))
    assert drawn(dataset, count=4).shape[1] > 1.9 * first.shape[1]
    figure = dataset.show(count=3)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["NORMAL", "", "", "PNEUMONIA", "", ""]
    assert [len(axis.images) for axis in figure.axes] == [1] * 6


def test_the_figure_copes_with_few_broken_and_coloured_images(tmp_path: Path) -> None:
    """A broken image is a word in its place; colour stays colour; grey is not stretched."""
    root = tree(tmp_path / "x", {"few": 1, "broken": 2, r"$\bad$ 肺炎": 0})
    for path in (root / "broken").iterdir():
        cut(path)
    picture(root / r"$\bad$ 肺炎/c.png", shape=COLOUR)
    dataset = Dataset.from_folder(root)
    figure = dataset.show(count=3)
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == ["truncated"] * 2
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert figure.axes[0].get_title(loc="left") == r"$\bad$ 肺炎"
    assert figure.axes[6].images[0].get_clim() == (0, 255)
    assert drawn(dataset).std() > 10


def test_a_figure_of_nothing_is_refused(root: Path) -> None:
    """A split that is not there, or no images a class."""
    dataset = Dataset.from_folder(root)
    with pytest.raises(DatasetError, match=r"there is no dev split\. Splits: 'train', 'val', 'test'"):
        dataset.show(split="dev")
    with pytest.raises(DatasetError, match="count=0: at least one image of each class"):
        dataset.show(count=0)
    with pytest.raises(DatasetError, match="the dataset has no images"):
        replace(dataset, samples=()).show()


def test_a_dataset_without_images_has_a_summary() -> None:
    """A repr never fails."""
    dataset = Dataset((), ("a", "b"), "binary", "b")
    assert dataset.summary().startswith("dataset: 0 images, 2 classes, binary, unreadable")
    assert dataset._repr_html_()
