"""The public data sets are read as their papers describe them, and their splits can be trusted."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medimg.data.dataset import Dataset
from medimg.data.decode import decode, read
from medimg.data.pack import Pack, build
from medimg.data.pixels import as_mode
from medimg.data.preparation import ready_for_training

DATA = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CHEST_GROUP = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"

pytestmark = pytest.mark.skipif(
    not (DATA / "MANIFEST.csv").is_file(), reason=f"no data sets in {DATA}; MEDIMG_SHARED_DATA names another folder"
)


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def chest() -> Dataset:
    """Paediatric pneumonia, with its tiny validation split."""
    return Dataset.from_folder(DATA / "chestxray/kaggle224", group=CHEST_GROUP)


@pytest.fixture(scope="module")
def nih() -> Dataset:
    """Chest films with up to fourteen findings."""
    return Dataset.from_csv(
        DATA / "multilabel_cxr/Data_Entry.csv", images=DATA / "multilabel_cxr/images", path="Image Index",
        labels="Finding Labels", group="Patient ID", separator="|",
    )  # fmt: skip


def skin(labels: str) -> Dataset:
    """Returns the skin lesions; the table leaves out the extension."""
    return Dataset.from_csv(
        DATA / "skin/metadata.csv", images=DATA / "skin/images", path="image_id", labels=labels, group="lesion_id"
    )


def shares(dataset: Dataset, split: str) -> np.ndarray:
    """Returns the share of a split's images that show each class."""
    return np.array(list(dataset.counts(split).values())) / len(dataset.of(split))


def test_the_chest_set_is_read_as_it_is_published(chest: Dataset) -> None:
    """Counts of the folder, patients apart, every film grey."""
    assert chest.splits == {"train": 4226, "val": 12, "test": 508}
    assert (chest.classes, chest.positive) == (("NORMAL", "PNEUMONIA"), "PNEUMONIA")
    assert chest.groups_in_two_splits() == {}
    assert all(sample.group for sample in chest.samples)
    facts = chest.index()
    assert {(fact.height, fact.width, fact.channels) for fact in facts.values()} == {(224, 224, 1)}
    with (DATA / "MANIFEST.csv").open(newline="") as table:
        listed = [row for row in csv.DictReader(table) if "chestxray/kaggle224/" in row["path"]]
    assert Counter(row["split"] for row in listed) == chest.splits


def test_the_chest_set_s_validation_is_cut_out_of_train(chest: Dataset) -> None:
    """Twelve images choose no threshold: said so, cut anew by patient, test untouched; `allow` keeps them."""
    prepared = ready_for_training(chest, seed=0, allow=())
    ready = prepared.dataset
    assert prepared.notices == (
        f"the validation split of 12 images is too small to choose a threshold on: {len(ready.of('val'))} images were "
        "cut out of train by group (seed 0)",
    )
    assert ready.of("test") == chest.of("test")
    assert len(ready.of("val")) == pytest.approx(0.15 * (4226 + 12), rel=0.01)
    assert ready.groups_in_two_splits() == {}
    assert np.abs(shares(ready, "val") - shares(ready, "train")).max() < 0.005
    sizes = {s: np.mean(list(Counter(x.group for x in ready.of(s)).values())) for s in ("train", "val")}
    assert sizes["val"] == pytest.approx(sizes["train"], rel=0.1)
    kept = ready_for_training(chest, seed=0, allow=("tiny-validation",))
    assert kept.dataset == chest
    assert [finding.check for finding in kept.audit.errors] == ["tiny-validation"]
    assert "validation has only 7 of 'NORMAL', 5 of 'PNEUMONIA'" in kept.audit.errors[0].message


def test_the_intel_scenes_have_six_classes_and_no_validation() -> None:
    """seg_train and seg_test; the third is cut. Some images are smaller than the others."""
    intel = Dataset.from_folder(DATA / "intel")
    assert intel.splits == {"train": 1200, "test": 420}
    assert intel.classes == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    ready = ready_for_training(intel, seed=0, allow=()).dataset
    assert ready.splits == {"train": 1020, "val": 180, "test": 420}
    assert set(ready.counts("val").values()) == {30}
    assert intel.rejected() == {}


def test_the_nih_table_gives_fourteen_labels(nih: Dataset) -> None:
    """As an independent count of the cells says; a patient's films stay together, also those of several."""
    with (DATA / "multilabel_cxr/Data_Entry.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    cells = Counter(label for row in rows for label in row["Finding Labels"].split("|"))
    none = cells.pop("No Finding")
    assert nih.task == "multilabel"
    assert len(nih.classes) == 14
    assert nih.counts(None) == dict(sorted(cells.items()))
    assert sum(not nih.label_names(sample) for sample in nih.samples) == none
    patients = Counter(row["Patient ID"] for row in rows)
    assert len({sample.group for sample in nih.samples}) == len(patients) == 477
    assert sum(count > 1 for count in patients.values()) > 50
    for seed in range(5):
        divided = nih.split(seed=seed)
        assert divided.groups_in_two_splits() == {}
        for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            several = Counter(sample.group for sample in divided.of(split))
            assert len(divided.of(split)) == pytest.approx(share * 698, abs=3)
            assert len(several) == pytest.approx(share * 477, abs=12)
            assert sum(count > 1 for count in several.values()) > 5
            common = [count >= 50 for count in nih.counts(None).values()]
            assert np.abs(shares(divided, split) - shares(nih, None))[common].max() < 0.02  # type: ignore[arg-type]


@pytest.mark.parametrize(("labels", "classes"), [("label", 2), ("dx", 7)])
def test_skin_lesions_are_divided_by_lesion_in_equal_shares(labels: str, classes: int) -> None:
    """The class shares of each split are within a point of the whole."""
    divided = skin(labels).split()
    assert len(divided.classes) == classes
    assert divided.positive == ("malignant" if classes == 2 else None)
    for split in ("train", "val", "test"):
        assert np.abs(shares(divided, split) - shares(skin(labels), None)).max() < 0.01  # type: ignore[arg-type]


def test_untouched_originals_are_read_at_every_size_and_mode() -> None:
    """From 445 × 140 in colour to 2721 × 2438 in grey: all are grey films."""
    folder = DATA / "chestxray/originals"
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png")]
    assert len(files) == 18
    sizes = {decode(read(path), name=path.name).shape for path in files}
    assert all(len(shape) == 2 for shape in sizes)
    assert len(sizes) > 10


def test_a_pack_of_real_films_is_what_decoding_gives(nih: Dataset) -> None:
    """A tenth of them, bit for bit, with patients' salted groups."""
    part = nih.split().subset(0.1, split=None)
    built = build(part, 64, facts=part.index())
    pack = Pack.open(built.path, built.manifest, verify=True)
    assert len(pack) == len(part)
    assert pack.channels == 1
    for row, packed in enumerate(pack.samples):
        sample = part[packed.id]
        film = decode(read(sample.path), name="x", size=(64, 64))
        np.testing.assert_array_equal(pack.images([row])[0], as_mode(film, 1))
        assert packed.labels == sample.labels
        assert (packed.group or "").isalnum()
        assert packed.group != sample.group
    text = b"".join(path.read_bytes() for path in pack.path.glob("*.json*")).decode()
    assert not any(sample.path.stem in text for sample in part.samples)


def test_the_audit_of_the_public_sets_says_what_is_known_of_them(chest: Dataset, nih: Dataset) -> None:
    """Shift of the normal films, a shape that tells pneumonia, copies of one patient; and no false pair of copies."""
    audits = {"chest": chest.audit(), "nih": nih.audit(), "skin": skin("label").audit()}
    for audit in audits.values():
        assert audit.errors == ()
        assert audit.pairs == ()
    told = {name: {f.check: f.message for f in audit.warnings} for name, audit in audits.items()}
    assert set(told["chest"]) == {"duplicate-images", "shortcuts", "shift"}
    assert told["chest"]["duplicate-images"].startswith("27 images with the pixels of another in the same split")
    assert "PNEUMONIA AUROC 0.9" in told["chest"]["shortcuts"]
    assert "NORMAL AUROC 0.8" in told["chest"]["shift"]
    assert "PNEUMONIA" not in told["chest"]["shift"]
    assert set(told["nih"]) == {"duplicate-images", "tiny-validation", "absent-classes", "imbalance", "shortcuts"}
    assert "Edema" in told["nih"]["shortcuts"]
    assert set(told["skin"]) == {"shortcuts"}


def test_files_that_break_readers_are_rejected_by_name(tmp_path: Path) -> None:
    """Each of the corpora's pictures is read or refused with its reason, and none ends the run."""
    files = [path for path in sorted((DATA / "corpora").rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".gif")]
    for number, path in enumerate(files[::4]):
        link = tmp_path / f"x/{'ab'[number % 2]}/{number}{path.suffix.lower()}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    dataset = Dataset.from_folder(tmp_path / "x", positive="b")
    rejected = dataset.rejected()
    assert len(dataset) > 20
    assert all(error.code and str(tmp_path) in error.name for error in rejected.values())
    assert len(dataset.fingerprint) == 32
    assert dataset.summary()
    sound = replace(dataset.without(rejected))
    assert len(Pack.open(build(sound, 16, facts=sound.index()).path, verify=True)) == len(sound)
