"""The folders of public sets become datasets as their papers describe them, or the message names the right reader."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import picture

from medimg.data.dataset import Dataset
from medimg.data.index import PixelFacts
from medimg.data.pack import build
from medimg.data.preparation import ready_for_training
from medimg.data.readers.kermany import patient_of
from medimg.data.readers.nih import FINDINGS
from medimg.errors import ConfigError, DatasetError

DATA = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
real = pytest.mark.skipif(
    not (DATA / "MANIFEST.csv").is_file(), reason=f"no data sets in {DATA}; MEDIMG_SHARED_DATA names another folder"
)
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,"
    "Height],OriginalImagePixelSpacing[x,y],"
)


def files(root: Path, *paths: str) -> Path:
    """Writes an image at each path below a folder."""
    for path in paths:
        picture(root / path)
    return root


def table(path: Path, header: str, *rows: str) -> Path:
    """Writes a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def shown(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Returns the classes of each image by the name of its file."""
    return {sample.path.stem: dataset.label_names(sample) for sample in dataset.samples}


def splits(dataset: Dataset) -> dict[str, str | None]:
    """Returns the split of each image by the name of its file."""
    return {sample.path.stem: sample.split for sample in dataset.samples}


def patients(dataset: Dataset) -> set[frozenset[str]]:
    """Returns the images that belong together, as sets of file names."""
    groups: dict[str, set[str]] = {}
    for sample in dataset.samples:
        groups.setdefault(sample.group or f"alone {sample.id}", set()).add(sample.path.stem)
    return {frozenset(names) for names in groups.values()}


def together(*names: Iterable[str]) -> set[frozenset[str]]:
    """Returns what `patients` gives for these images."""
    return {frozenset(group) for group in names}


# -- Kermany -----------------------------------------------------------------------------------------------------------

KAGGLE = (
    "train/PNEUMONIA/person1_bacteria_1.jpeg", "train/PNEUMONIA/person1_bacteria_2.jpeg",
    "train/PNEUMONIA/person1_virus_3.jpeg", "train/NORMAL/IM-0115-0001.jpeg", "train/NORMAL/IM-0115-0002.jpeg",
    "train/NORMAL/NORMAL2-IM-0115-0001.jpeg", "val/PNEUMONIA/person7_virus_9.jpeg", "val/NORMAL/IM-0200-0001.jpeg",
    "test/PNEUMONIA/person10_bacteria_43.jpeg", "test/NORMAL/NORMAL2-IM-0300-0001-0002.jpeg",
)  # fmt: skip
MENDELEY = (
    "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg", "train/PNEUMONIA/VIRUS-1008087-0002.jpeg",
    "train/NORMAL/NORMAL-1003233-0001.jpeg", "test/PNEUMONIA/VIRUS-1052321-0001.jpeg",
    "test/NORMAL/NORMAL-1049278-0001.jpeg",
)  # fmt: skip


def test_kaggle_s_numbers_are_counted_apart_for_each_kind(tmp_path: Path) -> None:
    """Person 1 with bacteria is not person 1 with a virus; IM-0115 is not NORMAL2-IM-0115."""
    dataset = Dataset.from_kermany(files(tmp_path / "archive" / "chest_xray", *KAGGLE).parent)
    assert dataset.splits == {"train": 6, "val": 2, "test": 2}
    assert (dataset.classes, dataset.positive) == (("NORMAL", "PNEUMONIA"), "PNEUMONIA")
    several = {group for group in patients(dataset) if len(group) > 1}
    assert several == together(["person1_bacteria_1", "person1_bacteria_2"], ["IM-0115-0001", "IM-0115-0002"])


def test_three_classes_are_told_from_the_names(tmp_path: Path) -> None:
    """Bacteria, virus and normal, in Kaggle's names and in Mendeley's."""
    kaggle = Dataset.from_kermany(files(tmp_path / "kaggle", *KAGGLE), classes=3)
    assert (kaggle.classes, kaggle.task, kaggle.positive) == (("BACTERIA", "NORMAL", "VIRUS"), "multiclass", None)
    assert shown(kaggle)["person7_virus_9"] == ("VIRUS",)
    assert kaggle.counts("train") == {"BACTERIA": 2, "NORMAL": 3, "VIRUS": 1}
    mendeley = Dataset.from_kermany(files(tmp_path / "mendeley", *MENDELEY), classes=3)
    assert mendeley.counts(None) == {"BACTERIA": 0, "NORMAL": 0, "VIRUS": 0}
    assert mendeley.counts("train") == {"BACTERIA": 1, "NORMAL": 1, "VIRUS": 1}


def test_mendeley_s_names_hold_the_patient(tmp_path: Path) -> None:
    """One patient may have two diseases; the retinal pictures beside the chest films are a set of their own."""
    files(tmp_path / "CellData" / "chest_xray", *MENDELEY)
    retina = [f"{split}/{name}/{name}-10{number}-1.jpeg" for split, number in (("train", 1), ("test", 2))
              for name in ("CNV", "DME", "DRUSEN", "NORMAL")]  # fmt: skip
    files(tmp_path / "CellData" / "OCT", *retina)
    chest = Dataset.from_kermany(tmp_path)
    assert {group for group in patients(chest) if len(group) > 1} == together(
        ["BACTERIA-1008087-0001", "VIRUS-1008087-0002"]
    )
    eyes = Dataset.from_kermany(tmp_path / "CellData" / "OCT")
    assert (eyes.classes, eyes.task) == (("CNV", "DME", "DRUSEN", "NORMAL"), "multiclass")
    assert {sample.group for sample in eyes.of("train")} == {"101"}
    with pytest.raises(ConfigError, match="four classes"):
        Dataset.from_kermany(tmp_path / "CellData" / "OCT", classes=3)


@pytest.mark.parametrize("name", ["person1_fungus_2.jpeg", "person_bacteria_2.jpeg", "scan 12.jpeg", "IM-0115.jpeg"])
def test_a_name_that_hides_the_patient_is_refused(tmp_path: Path, name: str) -> None:
    """No film is taken as a patient of its own because its name is not understood."""
    assert patient_of(name) is None
    files(tmp_path, *KAGGLE, f"train/PNEUMONIA/{name}")
    with pytest.raises(DatasetError, match="not named as theirs are"):
        Dataset.from_kermany(tmp_path)


def test_a_film_of_unnamed_cause_is_refused_for_three_classes(tmp_path: Path) -> None:
    """A file in PNEUMONIA that is named as the normal ones."""
    files(tmp_path, *KAGGLE, "train/PNEUMONIA/IM-0900-0001.jpeg")
    with pytest.raises(DatasetError, match="Use classes=2"):
        Dataset.from_kermany(tmp_path, classes=3)
    with pytest.raises(ConfigError, match="3 for NORMAL, BACTERIA and VIRUS"):
        Dataset.from_kermany(tmp_path, classes=4)  # type: ignore[arg-type]


# -- NIH ---------------------------------------------------------------------------------------------------------------


def nih_row(name: str, labels: str, patient: str, sex: str = "M") -> str:
    """Returns a row of their table, whose header has a comma at its end."""
    return f"{name},{labels},0,{patient},058Y,{sex},PA,2682,2749,0.143,0.143,"


NIH_ROWS = (
    nih_row("00000001_000.png", "Cardiomegaly|Emphysema", "1"), nih_row("00000001_001.png", "No Finding", "1"),
    nih_row("00000002_000.png", "Hernia", "2", "F"), nih_row("00000003_000.png", "No Finding", "3"),
)  # fmt: skip


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """The layout that Kaggle's archive has."""
    root = tmp_path / "archive"
    files(root / "images_001" / "images", "00000001_000.png", "00000001_001.png")
    files(root / "images_002" / "images", "00000002_000.png", "00000003_000.png")
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *NIH_ROWS)
    table(
        root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", "00000001_000.png,Mass,1,2,3,4,,,"
    )
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png")
    (root / "test_list.txt").write_text("00000002_000.png\n")
    return root


def test_nih_has_fourteen_labels_and_the_official_test(nih: Path) -> None:
    """Labels that no image in hand has are labels too; patients come from the table."""
    dataset = Dataset.from_nih(nih)
    assert (dataset.task, dataset.classes) == ("multilabel", FINDINGS)
    assert shown(dataset)["00000001_000"] == ("Cardiomegaly", "Emphysema")
    assert shown(dataset)["00000001_001"] == ()
    assert splits(dataset) == {
        "00000001_000": "train", "00000001_001": "train", "00000002_000": "test", "00000003_000": "train",
    }  # fmt: skip
    assert patients(dataset) == together(["00000001_000", "00000001_001"], ["00000002_000"], ["00000003_000"])


def test_images_with_one_finding_each_are_no_exclusive_classes(nih: Path) -> None:
    """Whoever picks such rows still has a set where the next image may have two findings or none."""
    single = [nih_row(f"0000000{row}.png", finding, row[0]) for row, finding in (("1_000", "Mass"), ("2_000", "Edema"))]
    table(nih / "Data_Entry_2017.csv", NIH_HEADER, *single)
    assert Dataset.from_nih(nih).task == Dataset.from_nih(nih, labels=["Mass", "Edema"]).task == "multilabel"


def test_age_sex_and_view_leave_only_when_named(nih: Path) -> None:
    """They are in the samples; what is packed has only what was named."""
    dataset = Dataset.from_nih(nih, columns=["Patient Gender"])
    first = dataset.samples[0]
    assert (first.columns["Patient Age"], first.columns["View Position"]) == ("058Y", "PA")
    assert dataset.keep == ("Patient Gender",)
    pack = build(dataset, 16, facts=dataset.index())
    assert {tuple(sample.columns) for sample in pack.samples} == {("Patient Gender",)}
    assert Dataset.from_nih(nih).keep == ()


@pytest.mark.parametrize(
    ("labels", "task", "classes", "positive", "of_first"),
    [
        ("any finding", "binary", ("Finding", "No Finding"), "Finding", ("Finding",)),
        ("hernia", "binary", ("Hernia", "No Hernia"), "Hernia", ("No Hernia",)),
        (["Pleural Thickening", "emphysema"], "multilabel", ("Emphysema", "Pleural_Thickening"), None, ("Emphysema",)),
    ],
)
def test_a_question_of_one_finding_or_several_is_asked(
    nih: Path, labels: str | Sequence[str], task: str, classes: tuple[str, ...], positive: str | None,
    of_first: tuple[str, ...],
) -> None:  # fmt: skip
    """In any order and spelling; an image with other findings counts as one without."""
    dataset = Dataset.from_nih(nih, labels=labels)
    assert (dataset.task, dataset.classes, dataset.positive) == (task, classes, positive)
    assert shown(dataset)["00000001_000"] == of_first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["Edemas"]}, "Did you mean 'Edema'"),
        ({"labels": []}, "name one finding or several"),
        ({"labels": ["any finding", "Edema"]}, "alone"),
    ],
)
def test_findings_that_are_not_theirs_are_refused(nih: Path, change: Mapping[str, Sequence[str]], message: str) -> None:
    """With the nearest one named."""
    with pytest.raises(ConfigError, match=message):
        Dataset.from_nih(nih, **change)  # type: ignore[arg-type]


def test_without_the_lists_there_is_no_official_split(nih: Path) -> None:
    """Said so; one of the two lists alone is refused, and rows in neither are left out and counted."""
    (nih / "train_val_list.txt").write_text("00000001_000.png\n")
    dataset = Dataset.from_nih(nih)
    assert len(dataset) == 2
    assert "left out: 2 rows in neither of the official lists" in dataset.notices
    (nih / "test_list.txt").unlink()
    with pytest.raises(DatasetError, match="Put both beside the table"):
        Dataset.from_nih(nih)
    (nih / "train_val_list.txt").unlink()
    dataset = Dataset.from_nih(nih)
    assert dataset.splits == {}
    assert "no official test split" in dataset.notices[0]


def test_the_official_test_list_is_understood_or_refused(nih: Path) -> None:
    """Written with Windows' paths; of images that are not in the table, some or all."""
    (nih / "train_val_list.txt").unlink()
    (nih / "test_list.txt").write_text("images_002\\images\\00000002_000.png\r\n00000009_000.png\r\n")
    dataset = Dataset.from_nih(nih)
    assert dataset.splits == {"train": 3, "test": 1}
    assert "the official lists name 1 image that the table has not" in dataset.notices
    (nih / "test_list.txt").write_text("00000009_000.png\n")
    with pytest.raises(
        DatasetError, match=r"none of the 4 images in the table is named in .*00000009_000.*Put the list"
    ):
        Dataset.from_nih(nih)


def test_half_a_download_is_read_when_asked(nih: Path) -> None:
    """Rows without a file stop, or are left out by `missing`."""
    (nih / "images_002" / "images" / "00000003_000.png").unlink()
    with pytest.raises(DatasetError, match="missing='drop'"):
        Dataset.from_nih(nih)
    assert len(Dataset.from_nih(nih, missing="drop")) == 3


def test_two_tables_of_labels_must_be_chosen_from(nih: Path) -> None:
    """The revised labels differ from the first."""
    table(nih / "Data_Entry_2017_v2020.csv", NIH_HEADER, *NIH_ROWS[:3], nih_row("00000003_000.png", "Mass", "3"))
    with pytest.raises(DatasetError, match=r"table='Data_Entry_2017_v2020\.csv'"):
        Dataset.from_nih(nih)
    assert shown(Dataset.from_nih(nih, table="Data_Entry_2017_v2020.csv"))["00000003_000"] == ("Mass",)


@pytest.mark.parametrize(
    ("cell", "message"), [("Edema|No Finding", "neither"), ("", "neither"), ("Fracture", "fourteen")]
)
def test_cells_that_nih_never_wrote_are_refused(nih: Path, cell: str, message: str) -> None:
    """With the row."""
    table(nih / "Data_Entry_2017.csv", NIH_HEADER, *NIH_ROWS[:3], nih_row("00000003_000.png", cell, "3"))
    with pytest.raises(DatasetError, match=f"row 5: .*{message}"):
        Dataset.from_nih(nih)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), people=st.integers(12, 60))
def test_the_validation_split_never_shares_a_patient(
    tmp_path_factory: pytest.TempPathFactory, seed: int, people: int
) -> None:
    """Whatever patients the official lists hold: what training cuts out of train is cut by patient, test untouched."""
    root = tmp_path_factory.mktemp("nih")
    draw = random.Random(seed)
    owners = sorted(draw.choices(range(people), k=60))
    names = [f"{patient:08d}_{number:03d}.png" for number, patient in enumerate(owners)]
    (root / "images").mkdir()
    for name in names:
        (root / "images" / name).touch()  # nothing here reads a pixel
    rows = (nih_row(name, draw.choice(["Edema", "Mass|Edema", "No Finding"]), name[:8]) for name in names)
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *rows)
    tested = set(draw.sample(sorted(set(owners)), k=3))
    test = {name for name, patient in zip(names, owners, strict=True) if patient in tested}
    (root / "test_list.txt").write_text("\n".join(test))
    dataset = Dataset.from_nih(root)
    facts = {sample.id: PixelFacts(sample.id, 8, 8, 1) for sample in dataset.samples}
    ready = ready_for_training(dataset, allow=("tiny-validation",), facts=facts).dataset
    assert ready.groups_in_two_splits() == {}
    assert ready.of("val")
    assert {sample.path.name for sample in ready.of("test")} == test


# -- skin --------------------------------------------------------------------------------------------------------------

HAM_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"


def test_ham10000_is_read_with_every_folder_twice(tmp_path: Path) -> None:
    """As Kaggle packs it, with its tables of pixels beside; by lesion; seven classes, or two."""
    for folder in ("HAM10000_images_part_1", "ham10000_images_part_1"):
        files(tmp_path / folder, "ISIC_0000001.jpg", "ISIC_0000002.jpg")
    files(tmp_path / "HAM10000_images_part_2", "ISIC_0000003.jpg")
    table(tmp_path / "hmnist_8_8_L.csv", ",".join(f"pixel{number:04d}" for number in range(65)), ",".join(["1"] * 65))
    table(
        tmp_path / "HAM10000_metadata.csv", HAM_HEADER, "HAM_1,ISIC_0000001,bkl,histo,80.0,male,scalp",
        "HAM_1,ISIC_0000002,bkl,histo,80.0,male,scalp", "HAM_2,ISIC_0000003,akiec,histo,60.0,female,face",
    )  # fmt: skip
    dataset = Dataset.from_isic(tmp_path)
    assert (dataset.classes, dataset.positive, dataset.splits) == (("akiec", "bkl"), "akiec", {})
    assert patients(dataset) == together(["ISIC_0000001", "ISIC_0000002"], ["ISIC_0000003"])
    assert dict(dataset.samples[0].columns)["localization"] == "scalp"
    assert dataset.keep == ()
    two = Dataset.from_isic(tmp_path, classes="malignancy", columns=["sex"])
    assert (two.classes, two.positive, two.keep) == (("benign", "malignant"), "malignant", ("sex",))
    assert shown(two)["ISIC_0000003"] == ("malignant",)


def test_isic_2019_is_read_with_lesions_from_the_other_table(tmp_path: Path) -> None:
    """One column a diagnosis; a training and a test table are splits; what is none of the diagnoses is left out."""
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"

    def onehot(name: str, place: int) -> str:
        return ",".join([name, *("1.0" if place == number else "0.0" for number in range(9))])

    table(tmp_path / "ISIC_2019_Training_GroundTruth.csv", header, onehot("ISIC_0000000", 1),
          onehot("ISIC_0000002_downsampled", 0), onehot("ISIC_0000003", 7))  # fmt: skip
    table(tmp_path / "ISIC_2019_Training_Metadata.csv", "image,age_approx,anatom_site_general,lesion_id,sex",
          "ISIC_0000000,55.0,anterior torso,BCN_1,female", "ISIC_0000002_downsampled,30.0,,,female",
          "ISIC_0000003,50.0,,BCN_1,male")  # fmt: skip
    table(tmp_path / "ISIC_2019_Test_GroundTruth.csv", header, onehot("ISIC_0000010", 0), onehot("ISIC_0000011", 8))
    files(tmp_path / "ISIC_2019_Training_Input", "ISIC_0000000.jpg", "ISIC_0000002_downsampled.jpg", "ISIC_0000003.jpg")
    files(tmp_path / "ISIC_2019_Test_Input", "ISIC_0000010.jpg", "ISIC_0000011.jpg")
    dataset = Dataset.from_isic(tmp_path)
    assert dataset.splits == {"train": 3, "test": 1}
    assert dataset.classes == ("mel", "nv", "scc")
    assert patients(dataset) == together(
        ["ISIC_0000000", "ISIC_0000003"], ["ISIC_0000002_downsampled"], ["ISIC_0000010"]
    )
    assert "left out: 1 row of unknown diagnosis" in dataset.notices
    assert shown(Dataset.from_isic(tmp_path, classes="malignancy"))["ISIC_0000003"] == ("malignant",)


def test_isic_2020_is_read_by_patient(tmp_path: Path) -> None:
    """It says what is malignant and hardly a diagnosis; the sample of a submission is no table of labels."""
    table(tmp_path / "train.csv", "image_name,patient_id,sex,age_approx,diagnosis,benign_malignant,target",
          "ISIC_1,IP_1,male,45.0,unknown,benign,0", "ISIC_2,IP_1,male,45.0,melanoma,malignant,1",
          "ISIC_3,IP_2,female,50.0,nevus,benign,0")  # fmt: skip
    table(tmp_path / "sample_submission.csv", "image_name,target", "ISIC_9,0")
    table(tmp_path / "test.csv", "image_name,patient_id,sex", "ISIC_9,IP_3,male")
    files(tmp_path / "jpeg" / "train", "ISIC_1.jpg", "ISIC_2.jpg", "ISIC_3.jpg")
    files(tmp_path / "jpeg" / "test", "ISIC_9.jpg")
    dataset = Dataset.from_isic(tmp_path)
    assert (dataset.classes, len(dataset)) == (("benign", "malignant"), 3)
    assert patients(dataset) == together(["ISIC_1", "ISIC_2"], ["ISIC_3"])
    with pytest.raises(ConfigError, match="Use classes='malignancy'"):
        Dataset.from_isic(tmp_path, classes="diagnosis")
    table(tmp_path / "ISIC_2020_Training_GroundTruth.csv", "image_name,target", "ISIC_1,0")
    with pytest.raises(DatasetError, match="Say which: table="):
        Dataset.from_isic(tmp_path)
    assert len(Dataset.from_isic(tmp_path, table="train.csv", images="jpeg")) == 3


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,MEL,NV", "ISIC_1,1.0,1.0", "not exactly one"),
        ("image,MEL,NV", "ISIC_1,often,0", "not exactly one"),
        ("image_id,dx", "ISIC_1,wart", "no diagnosis of these sets"),
        ("image_name,benign_malignant", "ISIC_1,perhaps", "neither benign nor malignant"),
    ],
)
def test_rows_that_say_no_diagnosis_are_refused(tmp_path: Path, header: str, row: str, message: str) -> None:
    """With the table and the row."""
    files(tmp_path, "ISIC_1.jpg")
    table(tmp_path / "ISIC_GroundTruth.csv", header, row)
    with pytest.raises(DatasetError, match=f"ISIC_GroundTruth.csv, row 2: .*{message}"):
        Dataset.from_isic(tmp_path)


# -- Intel, and what is given to the wrong reader ----------------------------------------------------------------------

SCENES = ("buildings", "forest", "glacier", "mountain", "sea", "street")


def intel(root: Path) -> Path:
    """Writes the layout that Kaggle's archive has, with every folder doubled."""
    return files(
        root, *(f"seg_{split}/seg_{split}/{name}/1.jpg" for split in ("train", "test") for name in SCENES),
        "seg_pred/seg_pred/5.jpg",
    )  # fmt: skip


def test_the_intel_scenes_are_read_as_kaggle_packs_them(tmp_path: Path) -> None:
    """Doubled folders; the pictures without a label are mentioned and not read."""
    dataset = Dataset.from_intel(intel(tmp_path / "archive").parent)
    assert (dataset.splits, dataset.classes) == ({"train": 6, "test": 6}, SCENES)
    assert dataset.notices == ("seg_pred has no labels: not read",)
    picture(tmp_path / "archive/seg_train/seg_train/desert/1.jpg")
    with pytest.raises(DatasetError, match="it has the classes"):
        Dataset.from_intel(tmp_path)


@pytest.mark.parametrize("reader", ["from_kermany", "from_nih", "from_isic", "from_intel", "from_medmnist"])
def test_the_folder_of_another_set_is_named(nih: Path, tmp_path: Path, reader: str) -> None:
    """Each reader says which method reads what it is given; for a folder of nothing known, the general ones."""
    table(tmp_path / "skin" / "HAM10000_metadata.csv", HAM_HEADER, "HAM_1,ISIC_1,bkl,histo,80.0,male,scalp")
    (tmp_path / "npz").mkdir()
    (tmp_path / "npz" / "breastmnist_64.npz").touch()
    sets = {
        "from_nih": nih, "from_kermany": files(tmp_path / "chest", *KAGGLE), "from_intel": intel(tmp_path / "scenes"),
        "from_isic": tmp_path / "skin", "from_medmnist": tmp_path / "npz",
    }  # fmt: skip
    for right, root in sets.items():
        if right != reader:
            with pytest.raises(DatasetError, match=rf"Dataset\.{right}\b"):
                getattr(Dataset, reader)(root)
    with pytest.raises(DatasetError, match=r"use Dataset\.from_folder, for a table Dataset\.from_csv"):
        getattr(Dataset, reader)(files(tmp_path / "other", "cat/1.png", "dog/1.png"))
    with pytest.raises(DatasetError, match="there is no"):
        getattr(Dataset, reader)(tmp_path / "nowhere")


def test_an_archive_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    """The commonest mistake with a download."""
    (tmp_path / "archive.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DatasetError, match="medimg unpack"):
        Dataset.from_nih(tmp_path / "archive.zip")


# -- the real folders --------------------------------------------------------------------------------------------------


@real
def test_the_real_chest_films_are_grouped_as_by_the_published_expression() -> None:
    """The reader and the expression that was checked by hand put the same films together, and none in two splits."""
    root = DATA / "chestxray/kaggle224"
    read = Dataset.from_kermany(root)
    by_hand = Dataset.from_folder(root, group=r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)")
    assert patients(read) == patients(by_hand)
    assert read.splits == by_hand.splits == {"train": 4226, "val": 12, "test": 508}
    assert read.groups_in_two_splits() == {}
    causes = Dataset.from_kermany(root, classes=3)
    assert causes.counts("test") == {"BACTERIA": 202, "NORMAL": 187, "VIRUS": 119}
    assert causes.groups_in_two_splits() == {}


@real
def test_the_real_tables_are_read_as_an_independent_count_says() -> None:
    """NIH's findings and the skin's diagnoses; no notice names a file or a patient."""
    nih = Dataset.from_nih(DATA / "multilabel_cxr")
    with (DATA / "multilabel_cxr/Data_Entry.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    cells = Counter(label for row in rows for label in row["Finding Labels"].split("|"))
    assert {name: cells[name] for name in FINDINGS} == {
        name: sum(sample.labels[number] == 1 for sample in nih.samples)  # type: ignore[index]
        for number, name in enumerate(nih.classes)
    }
    assert len({sample.group for sample in nih.samples}) == 477
    assert nih.split().groups_in_two_splits() == {}
    skin = Dataset.from_isic(DATA / "skin", classes="malignancy")
    with (DATA / "skin/metadata.csv").open(newline="") as text:
        labels = {row["image_id"]: (row["label"],) for row in csv.DictReader(text)}
    assert shown(skin) == labels
    assert len(Dataset.from_isic(DATA / "skin").classes) == 7
    intel = Dataset.from_intel(DATA / "intel")
    assert intel.splits == {"train": 1200, "test": 420}
    said = " ".join(notice for dataset in (nih, skin, intel) for notice in dataset.notices)
    assert not any(sample.path.stem in said for dataset in (nih, skin) for sample in dataset.samples)
