"""A folder becomes a dataset, or the message says what is wrong with it and what to do."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from image_folders import picture, tree

from medimg.data.dataset import Dataset
from medimg.data.readers.folder import image_files
from medimg.errors import DatasetError, MedimgError

CHEST = {"train/NORMAL": 3, "train/PNEUMONIA": 4, "val/NORMAL": 1, "val/PNEUMONIA": 2, "test/NORMAL": 2,
         "test/PNEUMONIA": 2}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where each test puts its folder."""
    return tmp_path / "images"


def refused(root: Path, **arguments: object) -> str:
    """Returns the message with which a folder is refused."""
    with pytest.raises(DatasetError) as caught:
        Dataset.from_folder(root, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_splits_and_classes_are_read_from_the_folders(root: Path) -> None:
    """The public chest set's form."""
    dataset = Dataset.from_folder(tree(root, CHEST, ".jpeg"))
    assert dataset.splits == {"train": 7, "val": 3, "test": 4}
    assert dataset.classes == ("NORMAL", "PNEUMONIA")
    assert (dataset.task, dataset.positive, dataset.name) == ("binary", "PNEUMONIA", "images")
    assert dataset.counts("train") == {"NORMAL": 3, "PNEUMONIA": 4}
    assert dataset.notices == ()


@pytest.mark.parametrize(
    "names",
    [("Train", "VAL", "Test"), ("TRAINING", "Validation", "testing"), ("seg_train", "valid", "seg_test"),
     ("Seg-Train", "dev", "SEG_TEST")],
)  # fmt: skip
def test_splits_go_by_many_names_in_any_case(root: Path, names: tuple[str, str, str]) -> None:
    """People name the same three folders in many ways."""
    dataset = Dataset.from_folder(tree(root, {f"{split}/{name}": 1 for split in names for name in ("healthy", "ill")}))
    assert dataset.splits == {"train": 2, "val": 2, "test": 2}


def test_a_folder_of_classes_has_no_splits(root: Path) -> None:
    """`split` makes them; images may lie deeper than the class's folder."""
    dataset = Dataset.from_folder(tree(root, {"a": 1, "b/patient 1": 2, "b/patient 2": 1, "c": 1}))
    assert dataset.splits == {}
    assert dataset.counts(None) == {"a": 1, "b": 3, "c": 1}
    assert (dataset.task, dataset.positive) == ("multiclass", None)


@pytest.mark.parametrize("inner", ["chest_xray", "chest_xray/chest_xray"])
def test_an_archive_unpacked_into_a_folder_of_its_own_name_is_found(root: Path, inner: str) -> None:
    """Archives hold a folder, and people unpack them into another."""
    assert len(Dataset.from_folder(tree(root, {f"{inner}/{folder}": n for folder, n in CHEST.items()}))) == 14


def test_splits_packed_twice_are_found(root: Path) -> None:
    """The Intel scenes come as seg_train/seg_train/…, with unlabelled images beside."""
    counts = {f"seg_{s}/seg_{s}/{name}": 2 for s in ("train", "test") for name in ("sea", "street")}
    dataset = Dataset.from_folder(tree(root, {**counts, "seg_pred/seg_pred": 3}), positive="sea")
    assert dataset.splits == {"train": 4, "test": 4}
    assert dataset.notices == ("not read: 1 folder beside the splits 'test', 'train'",)


def test_a_root_with_one_folder_is_read_from_within_and_says_so(root: Path) -> None:
    """It may be an archive's folder, or a single class with folders of patients: the reader is told."""
    dataset = Dataset.from_folder(tree(root, {"all/normal": 2, "all/ill": 2}))
    assert dataset.classes == ("ill", "normal")
    assert dataset.notices == ("the root holds one folder only: the folders in it were read as the classes",)


def test_what_is_no_image_is_left_out(root: Path) -> None:
    """Hidden files, a Mac's leftovers and other kinds are no images; an extension may be in capitals."""
    tree(root, {"normal": 1, "ill": 1, "__MACOSX/ill": 1, ".cache/ill": 1})
    picture(root / "ill/X.JPG")
    picture(root / "ill/y.TIFF")
    for name in ("._p0.png", "notes.txt", ".hidden.png"):
        (root / "ill" / name).write_bytes(b"\0")
    dataset = Dataset.from_folder(root)
    assert [sample.path.name for sample in dataset.samples] == ["X.JPG", "p0.png", "y.TIFF", "p0.png"]
    assert dataset.notices == ()


def test_images_beside_the_class_folders_are_counted(root: Path) -> None:
    """They have no label, and nobody should think that they were read."""
    tree(root, CHEST)
    picture(root / "loose.png")
    picture(root / "train/loose.png")
    assert Dataset.from_folder(root).notices == ("not read: 2 images beside the class folders",)


def test_loops_of_links_end(root: Path) -> None:
    """A link to a folder above, to itself and to a sibling; each real folder is read once."""
    tree(root, {"normal": 2, "ill/deep": 2})
    (root / "ill/deep/up").symlink_to(root / "ill")
    (root / "ill/again").symlink_to(root / "ill/deep")
    (root / "ill/self").symlink_to(root / "ill/self")
    assert [path.name for path in image_files(root / "ill")] == ["p0.png", "p1.png"]
    assert len(Dataset.from_folder(root)) == 4


def test_a_broken_link_is_a_rejected_image(root: Path) -> None:
    """Also one that leads to itself: neither ends the reading of the others."""
    tree(root, {"normal": 2, "ill": 2})
    (root / "ill/gone.png").symlink_to(root / "nowhere.png")
    (root / "ill/self.png").symlink_to(root / "ill/self.png")
    dataset = Dataset.from_folder(root)
    assert {Path(error.name).name: error.code for error in dataset.rejected().values()} == {
        "gone.png": "missing", "self.png": "unreadable",
    }  # fmt: skip


def test_an_empty_folder_says_what_was_expected(root: Path) -> None:
    """Empty, or with empty folders only."""
    root.mkdir()
    expected = f"{root} is empty. Expected images/CLASS/*.png, or images/train/CLASS/*.png with val and test"
    assert refused(root) == expected
    (root / "train/NORMAL").mkdir(parents=True)
    assert refused(root) == expected


def test_images_without_classes_say_what_was_expected(root: Path) -> None:
    """The most common first mistake."""
    tree(root, {"": 2})
    assert refused(root) == (
        f"{root} has images but no class folders. Expected images/CLASS/*.png; for labels in a table use "
        "Dataset.from_csv"
    )


def test_a_folder_of_other_files_says_what_is_there(root: Path) -> None:
    """Volumes are not read; and DICOM files may have any name."""
    for name in ("a/1.nrrd", "a/2.nrrd", "b/README"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert f"{root} holds no images in class folders (it holds 2 .nrrd, 1 README). Known: .bmp, .dcm" in refused(root)


def test_a_missing_folder_suggests_the_one_beside(tmp_path: Path) -> None:
    """A typing error in the last part."""
    (tmp_path / "chest_xray").mkdir()
    (tmp_path / "labels.csv").write_text("a,b")
    (tmp_path / "data.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    assert refused(tmp_path / "chest_xry").endswith("chest_xry. Did you mean 'chest_xray'?")
    assert refused(tmp_path / "no/where") == f"there is no folder {tmp_path / 'no/where'}."
    assert "is a table, not a folder. Use Dataset.from_csv" in refused(tmp_path / "labels.csv")
    archive = tmp_path / "data.zip"
    assert f"is an archive, not a folder. Unpack it first: medimg unpack '{archive}' FOLDER" in refused(archive)
    assert refused(tmp_path / "data.rar").endswith("is a file, not a folder")


def test_an_empty_class_folder_is_named(root: Path) -> None:
    """It would be a class that nothing is known of."""
    tree(root, {"normal": 2, "ill": 2, "rare": 0})
    assert refused(root) == (
        f"the class folder 'rare' holds no images ({root}). Add images to it, or remove the folder"
    )


def test_a_class_may_be_missing_from_val(root: Path) -> None:
    """Training cuts another validation split; the summary says so."""
    dataset = Dataset.from_folder(tree(root, {**CHEST, "val/NORMAL": 0}))
    assert "val has no image of 'NORMAL'" in dataset.summary()


def test_one_class_only_is_refused(root: Path) -> None:
    """With what it takes; a lone finding may be meant as one of several labels."""
    tree(root, {"train/NORMAL": 2, "test/NORMAL": 1})
    assert refused(root) == (
        f"{root}: only one class found ('NORMAL'). A classifier needs at least two, for instance the normal images "
        "beside those with the finding"
    )
    tree(root.with_name("ill"), {"train/PNEUMONIA": 2})
    assert refused(root.with_name("ill")).endswith("pass separator= or one column a class to from_csv")


def test_a_class_only_in_test_is_refused_with_the_nearest_name(root: Path) -> None:
    """Most often a spelling that differs between the splits."""
    tree(root, {"train/NORMAL": 1, "train/PNEUMONIA": 1, "test/NORMAL": 1, "test/PNEUMONIAE": 1})
    assert refused(root) == (
        "the class 'PNEUMONIAE' is in test but not in train. Did you mean 'PNEUMONIA'? Class folders must have the "
        "same names in every split"
    )


def test_two_folders_for_one_split_are_refused(root: Path) -> None:
    """Nobody can tell which is meant."""
    tree(root, {"train/a": 1, "train/b": 1, "val/a": 1, "validation/a": 1})
    assert refused(root) == f"{root}: both 'val' and 'validation' are val. Rename or remove one"


def test_splits_without_train_are_refused(root: Path) -> None:
    """There would be nothing to learn from."""
    tree(root, {"test/a": 1, "test/b": 1})
    assert f"{root} has 'test' but no train folder. Name it 'train', or put the class folders" in refused(root)


def test_accents_are_the_same_however_they_are_stored(root: Path) -> None:
    """A Mac decomposes them: é as one character in train, as two in test."""
    composed, decomposed = (unicodedata.normalize(form, "Sténose") for form in ("NFC", "NFD"))
    assert composed != decomposed
    tree(root, {f"train/{composed}": 2, "train/normal": 2, f"test/{decomposed}": 1, "test/normal": 1})
    dataset = Dataset.from_folder(root)
    assert dataset.classes == (composed, "normal")
    assert dataset.counts("test") == {composed: 1, "normal": 1}
    assert dataset.positive == Dataset.from_folder(root, positive=decomposed).positive == composed


def test_class_names_may_be_of_any_script(root: Path) -> None:
    """Right-to-left, Chinese, with blanks, quotes or markup: they are names, no more."""
    names = ["التهاب رئوي", "肺炎", "no  tumour", "<b>a & b", "it's"]
    dataset = Dataset.from_folder(tree(root, dict.fromkeys(names, 1)))
    assert set(dataset.classes) == {"التهاب رئوي", "肺炎", "no tumour", "<b>a & b", "it's"}
    for name in dataset.classes:
        assert f"  {name}" in dataset.summary()


def test_file_names_that_are_no_unicode_are_read(root: Path) -> None:
    """An old camera's Latin-1 names; the class's own name must travel, so there it is refused."""
    tree(root, {"normal": 2, "ill": 2})
    (root / "ill/p0.png").rename(root / "ill" / os.fsdecode(b"\xe9.png"))
    dataset = Dataset.from_folder(root, group=r"([^/]+)\.png")
    assert len(dataset.fingerprint) == 32
    assert dataset.rejected() == {}
    (root / "ill").rename(root / os.fsdecode(b"\xe9"))
    assert refused(root) == r"the class name '\udce9' is not Unicode text. Rename the folder"


def test_two_files_whose_names_differ_in_the_storage_of_an_accent_are_refused(root: Path) -> None:
    """They would have one id between them."""
    tree(root, {"normal": 1})
    for form in ("NFC", "NFD"):
        picture(root / "ill" / unicodedata.normalize(form, "é.png"))
    assert "have the same id. If the names differ in how an accent is stored only, rename one" in refused(root)


def test_a_folder_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's reason."""
    tree(root, {"normal": 1, "ill": 1})
    real = Path.iterdir

    def closed(self: Path) -> object:
        if self.name == "ill":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", closed)
    assert refused(root) == f"cannot read the folder {root / 'ill'}: Permission denied"


def test_groups_come_from_a_pattern_or_a_function(root: Path) -> None:
    """The captures are joined; a function may say that there is none."""
    for name in ("normal/IM-1-2.png", "ill/person7_virus_1.png", "ill/person7_bacteria_2.png"):
        picture(root / name)
    pattern = r"person(\d+)_(bacteria|virus)|(IM-\d+)"
    groups = {s.path.name: s.group for s in Dataset.from_folder(root, group=pattern).samples}
    assert groups == {"IM-1-2.png": "IM-1", "person7_virus_1.png": "7-virus", "person7_bacteria_2.png": "7-bacteria"}
    dataset = Dataset.from_folder(root, group=lambda path: path.split("_")[0] if "_" in path else None)
    assert [sample.group for sample in dataset.samples] == ["ill/person7", "ill/person7", None]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(patient\d+)", "matches nothing in 2 of 2 files, such as 'ill/p0.png', 'normal/p0.png'. Extend it with |"),
        (r"p\d+", "captures nothing. Put what names the patient in parentheses"),
        (r"p(\d+", "is not a regular expression: missing ), unterminated subpattern at position 1"),
        (r"p(x?)", "matches nothing in 2 of 2 files"),
    ],
)
def test_a_pattern_that_names_no_patient_is_refused(root: Path, pattern: str, message: str) -> None:
    """With the value, and what to do."""
    tree(root, {"normal": 1, "ill": 1})
    assert f"group={pattern!r} {message}" in refused(root, group=pattern)


def test_the_positive_class_is_known_named_or_asked_for(root: Path) -> None:
    """Only a well-known negative decides by itself."""
    tree(root, {"cat": 1, "dog": 1})
    assert refused(root) == (
        "which class is the positive one (the finding to detect), 'cat' or 'dog'? Say it: positive='dog'"
    )
    assert refused(root, positive="dgo") == "positive='dgo' is not a class. Did you mean 'dog'?"
    assert Dataset.from_folder(root, positive="cat").positive == "cat"
    tree(root, {"mouse": 1})
    assert refused(root, positive="cat") == (
        "positive='cat' names one of two classes, and this dataset is multiclass with 3: 'cat', 'dog', 'mouse'. "
        "Leave it out"
    )


def test_ids_say_nothing_and_stay_the_same(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the next run and where the folder is moved; others with another salt."""
    first = [sample.id for sample in Dataset.from_folder(tree(root, CHEST)).samples]
    assert all(len(bytes.fromhex(id)) == 8 for id in first)
    moved = root.rename(tmp_path / "elsewhere")
    assert [sample.id for sample in Dataset.from_folder(moved).samples] == first
    monkeypatch.setenv("MEDIMG_SALT", "another")
    assert not set(first) & {sample.id for sample in Dataset.from_folder(moved).samples}


def test_a_dataset_outlives_a_change_of_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks move about."""
    tree(root, {"normal": 2, "ill": 2})
    monkeypatch.chdir(root.parent)
    dataset = Dataset.from_folder("images")
    monkeypatch.chdir("/")
    assert dataset.rejected() == {}


def test_every_refusal_is_one_of_ours(root: Path) -> None:
    """A caller that catches MedimgError catches them all."""
    with pytest.raises(MedimgError):
        Dataset.from_folder(root)
