"""Datasets from DICOM files: whose image it is, what it shows, what stays here, and a model trained on them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import ACCESSION, BIRTH, NAME, PATIENT, dicom, encoded, header, write
from image_folders import picture

import medimg
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.encode import encode
from medimg.data.pack import build
from medimg.data.synthetic import phantom
from medimg.errors import DatasetError, ImageRejected, MissingExtraError
from medimg.progress import silent

STUDY = "1.2.826.0.1.3680043.8.498.7777"
MAKER = "CANARY WORKS"
SECRETS = (NAME, "CANARY", PATIENT, BIRTH, ACCESSION, STUDY, "054Y", "DICM", "IM0")


def film(path: Path, seed: int, **elements: Any) -> Path:
    """Writes a small film of a patient, with what a header usually says."""
    pixels = np.random.default_rng(seed).integers(0, 4096, (8, 8), np.uint16)
    given = {
        "BitsStored": 12, "PatientSex": "F", "PatientAge": "054Y", "Manufacturer": MAKER, "Modality": "CR",
        "ViewPosition": "PA", "StudyInstanceUID": f"{STUDY}.{seed}", "SOPInstanceUID": f"{STUDY}.9.{seed}", **elements,
    }  # fmt: skip
    return write(path, dicom(pixels, **given))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three patients with two films each, in folders of two classes; a report and a picture lie beside them."""
    root = tmp_path / "films"
    for number in range(6):
        patient = number // 2
        film(
            root / ("ILL" if patient == 1 else "NORMAL") / f"IM{number}", number, PatientID=f"{PATIENT}-{patient}",
            PatientSex="MF"[patient % 2], AccessionNumber=f"{ACCESSION}-{number}", BodyPartExamined=f"PART{patient}",
        )  # fmt: skip
    write(root / "ILL/report", encoded(header(Modality="SR")))
    picture(root / "NORMAL/photo.png")
    return root


def table(path: Path, *rows: str) -> Path:
    """Writes a table."""
    path.write_text("\n".join(rows) + "\n")
    return path


def labels(dataset: Dataset) -> dict[str, str]:
    """Returns the class of each file by its name."""
    return {sample.path.name: dataset.label_names(sample)[0] for sample in dataset.samples}


# -- labels -----------------------------------------------------------------------------------------------------------


def test_class_folders_are_read_by_patient_whatever_the_files_are_called(films: Path) -> None:
    """As an archive writes them: IM0, IM1, without an ending."""
    dataset = Dataset.from_dicom(films)
    assert (dataset.classes, dataset.positive) == (("ILL", "NORMAL"), "ILL")
    assert {s.path.name: s.group for s in dataset.samples} == {f"IM{n}": f"{PATIENT}-{n // 2}" for n in range(6)}
    assert "not read: 2 files that are no DICOM images" in dataset.notices
    assert not dataset.rejected()


@pytest.mark.parametrize("name", ["PatientName", "PatientID", "StudyDate", "SOPInstanceUID", "AccessionNumber"])
def test_what_tells_who_the_patient_is_may_not_leave(films: Path, name: str) -> None:
    """Columns that are named go as far as the model's card; grouping by it sends a salted hash."""
    with pytest.raises(DatasetError, match=f"columns='{name}' tells who the patient is"):
        Dataset.from_dicom(films, columns=["PatientSex", name])


def test_an_element_of_the_header_may_be_the_label(films: Path) -> None:
    """Body parts are the usual case."""
    assert labels(Dataset.from_dicom(films, labels="BodyPartExamined")) == {f"IM{n}": f"PART{n // 2}" for n in range(6)}


def test_an_image_without_the_element_stops_with_its_name(films: Path) -> None:
    """A class called "" is none."""
    film(films / "NORMAL/IM6", 6)
    with pytest.raises(DatasetError, match="'BodyPartExamined' is empty in the headers of 1 image: 'NORMAL/IM6'"):
        Dataset.from_dicom(films, labels="BodyPartExamined")


@pytest.mark.parametrize(
    ("by", "rows", "read"),
    [
        ("file", ["IM0,yes", "ILL/IM2,no"], {"IM0": "yes", "IM2": "no"}),
        ("SOPInstanceUID", [f"{STUDY}.9.0,yes", f"{STUDY}.9.3,no"], {"IM0": "yes", "IM3": "no"}),
        ("AccessionNumber", [f"{ACCESSION}-1,yes", f"{ACCESSION}-5,no"], {"IM1": "yes", "IM5": "no"}),
        (
            "PatientID", [f"{PATIENT}-0,yes", f" {PATIENT}-2 ,no"],
            {"IM0": "yes", "IM1": "yes", "IM4": "no", "IM5": "no"},
        ),
    ],
)  # fmt: skip
def test_a_table_gives_labels_by_file_image_study_or_patient(
    films: Path, tmp_path: Path, by: str, rows: list[str], read: dict[str, str]
) -> None:
    """A row of a patient labels all of the patient's images."""
    csv = table(tmp_path / "labels.csv", "which,finding", *rows)
    dataset = Dataset.from_dicom(films, table=csv, key="which", by=by, labels="finding")
    assert labels(dataset) == read
    assert f"not read: {6 - len(read)} images that no row of the table names" in dataset.notices
    assert all(sample.group and sample.group.startswith(PATIENT) for sample in dataset.samples)


def test_a_row_without_its_image_stops_or_is_left_out(films: Path, tmp_path: Path) -> None:
    """With the number of the row."""
    csv = table(tmp_path / "labels.csv", "which,finding", f"{PATIENT}-0,yes", f"{PATIENT}-1,no", "nobody,no")
    asked: dict[str, Any] = {"table": csv, "key": "which", "by": "PatientID", "labels": "finding"}
    with pytest.raises(DatasetError, match=r"has the PatientID of 1 of 3 rows: .*row 4"):
        Dataset.from_dicom(films, **asked)
    dataset = Dataset.from_dicom(films, **asked, missing="drop")
    assert len(dataset) == 4
    assert "left out: 1 row without an image" in dataset.notices


def test_columns_of_the_table_and_splits_are_kept(films: Path, tmp_path: Path) -> None:
    """Beside those of the header."""
    rows = [f"IM{n},{'yes' if n in (2, 3) else 'no'},{'test' if n > 3 else 'train'},s{n % 2}" for n in range(6)]
    csv = table(tmp_path / "labels.csv", "which,finding,part,site", *rows)
    dataset = Dataset.from_dicom(
        films, table=csv, key="which", labels="finding", split="part", columns=["site", "PatientSex"]
    )
    assert dataset.splits == {"train": 4, "test": 2}
    assert dataset.keep == ("site", "PatientSex")
    assert dict(dataset.samples[0].columns, site="")["PatientSex"] == "F"
    assert dataset.samples[0].columns["site"] == "s0"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"columns": ["PatientSez"]}, "Did you mean 'PatientSex'"),
        ({"group": "Patient"}, "neither a column of the table nor a DICOM element"),
        ({"group": "PatientId"}, "Did you mean 'PatientID'"),
        ({"group": lambda header: header["IssuerOfPatientID"]}, "pass group='IssuerOfPatientID'"),
        ({"group": lambda header: header["PatientSez"]}, "PatientAge, ViewPosition"),
        ({"group": lambda header: header["PatientSez"]}, "Did you mean 'PatientSex'"),
        ({"key": "which"}, "pass table="),
        ({"table": "labels.csv", "labels": "finding"}, "key="),
        ({"table": "labels.csv", "labels": "finding", "key": "wich"}, "Did you mean 'which'"),
    ],
)
def test_what_cannot_be_is_told_with_the_way_out(
    films: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], told: str
) -> None:
    """Before hours are spent on it."""
    monkeypatch.chdir(films)
    table(films / "labels.csv", "which,finding", "IM0,yes")
    with pytest.raises(DatasetError, match=re.escape(told)):
        Dataset.from_dicom(films, **asked)


def test_folders_that_are_patients_are_no_classes(tmp_path: Path) -> None:
    """As an archive exports them: a folder a patient, in it the studies."""
    for number in range(4):
        film(tmp_path / f"P{number}/S1/IM0", number, PatientID=f"P{number}")
    with pytest.raises(DatasetError, match="each of the 4 folders holds one patient"):
        Dataset.from_dicom(tmp_path)


def test_files_in_one_heap_need_labels_from_elsewhere(tmp_path: Path) -> None:
    """There are three ways; folders are one."""
    film(tmp_path / "IM0", 0)
    with pytest.raises(DatasetError, match=r"no class folders.*table=.*labels="):
        Dataset.from_dicom(tmp_path)


def test_a_folder_without_dicom_says_so(tmp_path: Path) -> None:
    """And names the reader for pictures; of a file it does not say that it is not there."""
    with pytest.raises(DatasetError, match=r"IM0 is a file"):
        Dataset.from_dicom(film(tmp_path.parent / "IM0", 0))
    picture(tmp_path / "ILL/a.png")
    with pytest.raises(DatasetError, match=r"1 file, none of them a DICOM image.*from_folder"):
        Dataset.from_dicom(tmp_path)


# -- patients and columns ---------------------------------------------------------------------------------------------


def test_every_sample_knows_its_header_and_none_of_it_is_to_leave(films: Path) -> None:
    """Sex, age in years, view and maker are there to look at; `columns` names what may travel."""
    sample = Dataset.from_dicom(films).samples[0]
    told = {name: sample.columns[name] for name in ("PatientSex", "PatientAge", "ViewPosition", "Manufacturer")}
    assert told == {"PatientSex": "F", "PatientAge": "54", "ViewPosition": "PA", "Manufacturer": MAKER}
    assert sample.columns["StudyInstanceUID"] == f"{STUDY}.2"
    assert Dataset.from_dicom(films).keep == ()


@pytest.mark.parametrize(("age", "years"), [("054Y", "54"), ("018M", "1.5"), ("010D", "0.0"), ("", ""), (None, "")])
def test_ages_are_numbers_of_years(films: Path, age: str | None, years: str) -> None:
    """So that the report can divide them into bands."""
    film(films / "ILL/IM9", 9, PatientAge=age)
    (found,) = (s for s in Dataset.from_dicom(films).samples if s.path.name == "IM9")
    assert found.columns["PatientAge"] == years


def test_without_a_patients_id_the_study_is_the_group(films: Path) -> None:
    """Two films of one study are of one patient."""
    for number in (7, 8):
        film(films / f"ILL/IM{number}", number, PatientID=None, StudyInstanceUID=f"{STUDY}.99")
    film(films / "ILL/IM9", 9, PatientID="", StudyInstanceUID=None)
    dataset = Dataset.from_dicom(films)
    found = {sample.path.name: sample.group for sample in dataset.samples}
    assert found["IM7"] == found["IM8"] == f"study {STUDY}.99"
    assert found["IM9"] is None
    assert "no PatientID in 3 images: grouped by study instead" in dataset.notices


def test_a_study_has_one_patient_where_only_some_of_its_images_name_it(films: Path) -> None:
    """Else one study would be in two splits. Images that are not in the dataset may tell it too."""
    study = {"StudyInstanceUID": f"{STUDY}.99"}
    film(films / "ILL/IM7", 7, PatientID="SEVEN", **study)
    film(films / "ILL/IM8", 8, PatientID=None, **study)
    dataset = Dataset.from_dicom(films)
    assert {s.group for s in dataset.samples if s.path.name in ("IM7", "IM8")} == {"SEVEN"}
    assert "no PatientID in 1 image: taken from other images of the same study" in dataset.notices
    csv = table(films / "labels.csv", "which,finding", "IM0,no", "IM2,yes", "IM8,yes")
    dataset = Dataset.from_dicom(films, table=csv, key="which", labels="finding")
    assert [s.group for s in dataset.samples if s.path.name == "IM8"] == ["SEVEN"]


def test_a_study_of_two_patients_is_told_and_refused_where_an_image_has_none(films: Path) -> None:
    """The two may be one, and an image without an id may be of either."""
    study = {"StudyInstanceUID": f"{STUDY}.99"}
    film(films / "ILL/IM7", 7, PatientID="SEVEN", **study)
    film(films / "ILL/IM8", 8, PatientID="EIGHT", **study)
    dataset = Dataset.from_dicom(films)
    assert any("several PatientIDs in 1 of 7 studies" in notice for notice in dataset.notices)
    film(films / "ILL/IM9", 9, PatientID=None, **study)
    with pytest.raises(DatasetError, match=r"1 image without a PatientID, in studies .*'IM9'.*StudyInstanceUID"):
        Dataset.from_dicom(films)


def test_one_patients_id_for_all_is_no_group(tmp_path: Path) -> None:
    """Some programs anonymise so, and a split by patient would not be possible."""
    for number in range(4):
        film(tmp_path / "AB"[number % 2] / f"IM{number}", number, PatientID="ANONYMOUS")
    dataset = Dataset.from_dicom(tmp_path, positive="A")
    assert len({sample.group for sample in dataset.samples}) == 4
    assert any("the same PatientID" in notice for notice in dataset.notices)


def test_the_group_may_be_another_element_or_a_function(films: Path) -> None:
    """By study, or by what a site writes into the id."""
    by_study = Dataset.from_dicom(films, group="StudyInstanceUID")
    assert len({sample.group for sample in by_study.samples}) == 6
    last = Dataset.from_dicom(films, group=lambda header: header["PatientID"][-1:])
    assert {sample.group for sample in last.samples} == {"0", "1", "2"}


def test_a_file_that_cannot_be_opened_is_counted_and_listed(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be an image; the reader does not pass over it."""

    def all_but_one(opened: Callable[..., Any]) -> Callable[..., Any]:
        def open_most(path: Any, *mode: Any, **options: Any) -> Any:
            if Path(path).name == "IM2":
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *mode, **options)

        return open_most

    for opener in (Path, os):
        monkeypatch.setattr(opener, "open", all_but_one(opener.open))
    dataset = Dataset.from_dicom(films)
    assert any(n.startswith("cannot be opened: 1 file (Permission denied)") for n in dataset.notices)
    assert [dataset[id].path.name for id in dataset.rejected()] == ["IM2"]


# -- beside other readers ---------------------------------------------------------------------------------------------


def test_folders_and_tables_of_files_that_end_in_dcm_need_no_reader_of_their_own(films: Path, tmp_path: Path) -> None:
    """A `.dcm` file is an image like any other."""
    for file in films.glob("*/IM*"):
        file.rename(file.with_name(f"{file.name}.dcm"))
    (films / "ILL/report").rename(films / "ILL/report.txt")
    (films / "NORMAL/photo.png").unlink()
    assert len(Dataset.from_folder(films)) == 6
    csv = table(tmp_path / "labels.csv", "image,finding", "IM0,yes", "IM2.dcm,no")
    assert len(Dataset.from_csv(csv, images=films, path="image", labels="finding")) == 2


def test_a_damaged_dicom_file_is_listed_as_rejected(films: Path) -> None:
    """The reader takes it, so that it is told and not lost."""
    whole = (films / "ILL/IM2").read_bytes()
    write(films / "ILL/IM2", whole[:-40])
    write(films / "ILL/IM3", whole[:300])
    dataset = Dataset.from_dicom(films)
    rejected = {dataset[id].path.name: error.code for id, error in dataset.rejected().items()}
    assert rejected["IM2"] == "truncated"
    assert len(dataset) - len(rejected) >= 4


def test_the_audit_tells_of_monochrome1_by_class_and_of_burned_in_text(tmp_path: Path) -> None:
    """Both tell that the classes were collected in different ways, or what leaves with the pixels."""
    for number in range(24):
        ill = number % 2 == 1
        film(
            tmp_path / ("ILL" if ill else "NORMAL") / f"IM{number}", number, PatientID=f"P{number}",
            PhotometricInterpretation="MONOCHROME1" if ill else "MONOCHROME2",
            BurnedInAnnotation="YES" if number < 3 else "NO",
        )  # fmt: skip
    found = {each.finding.check: each for each in Dataset.from_dicom(tmp_path).audit().found}
    assert found["file-kinds"].finding.level == "warning"
    assert "12-bit MONOCHROME1 is 100% of 'ILL' and 0% of the others" in found["file-kinds"].finding.message
    burned = found["burned-in-text"]
    assert burned.finding.level == "warning"
    assert burned.finding.message.startswith("3 images whose header says")
    assert len(burned.drop) == 3


def test_without_the_extra_the_reader_names_the_command(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    for module in [
        name
        for name in sys.modules
        if name.startswith(("pydicom", "medimg.data.formats.dicom", "medimg.data.readers.dicom"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'medimg[dicom]'")):
        Dataset.from_dicom(films)


# -- what leaves the machine ------------------------------------------------------------------------------------------


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields each file's path and bytes, and the paths as bytes too."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), str(file.relative_to(folder)).encode() + file.read_bytes()


def found_in(folder: Path) -> list[tuple[str, str]]:
    """Returns which secret is in which file."""
    return [(name, secret) for name, data in contents(folder) for secret in SECRETS if secret.encode() in data]


def test_what_leaves_the_machine_is_pixels_labels_salted_ids_and_the_columns_named(films: Path) -> None:
    """Listed from the pack itself: every byte of it."""
    dataset = Dataset.from_dicom(films, columns=["PatientSex"]).split(val=0.34, test=0)
    pack = build(dataset, 8, facts=dataset.index(), report=silent)
    assert found_in(pack.path) == []
    lines = [json.loads(line) for line in (pack.path / pack.manifest).read_text().splitlines()]
    assert {tuple(sorted(line)) for line in lines} == {("columns", "group", "id", "labels", "split")}
    assert {tuple(line["columns"]) for line in lines} == {("PatientSex",)}
    assert set(json.loads((pack.path / "pack.json").read_text())) == {
        "version", "fingerprint", "classes", "task", "positive", "image_size", "shards",
    }  # fmt: skip
    assert len(list(contents(pack.path))) == 3


def test_what_is_sent_to_an_endpoint_is_a_png_without_a_header(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every backend: the handle decodes here."""
    from medimg.backends.endpoint import Endpoint

    sent: list[bytes] = []

    class Listener:
        def _invoke(self, name: str, body: bytes) -> dict[str, Any]:
            sent.append(body)
            raise ImageRejected("empty", "image", "enough was seen")

    with pytest.raises(ImageRejected, match="enough was seen"):
        Endpoint(Listener(), "e").predict(films / "ILL/IM2")  # type: ignore[arg-type]
    assert sent == [encode(films / "ILL/IM2")]
    assert sent[0].startswith(b"\x89PNG")
    assert not [secret for secret in SECRETS if secret.encode() in sent[0]]


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_is_trained_on_dicom_and_answers_dicom(tmp_path: Path, own_home: Path) -> None:
    """Twelve-bit phantoms of patients who never were: trained, deployed, asked, and nothing of a header went along."""
    rng = np.random.default_rng(5)
    for number in range(60):
        finding = number % 2 == 1
        pixels, _ = phantom(rng, finding=finding, size=32)
        write(
            tmp_path / "set" / ("NODULE" if finding else "CLEAR") / f"IM0{number}",
            dicom(
                (255 - pixels).astype(np.uint16) * 16, BitsStored=12, PhotometricInterpretation="MONOCHROME1",
                PatientID=f"{PATIENT}-{number}", PatientSex="MF"[number % 3 == 0], PatientAge="054Y",
                Manufacturer=MAKER, StudyInstanceUID=f"{STUDY}.{number}", WindowCenter=2048, WindowWidth=4096,
            ),
        )  # fmt: skip
    dataset = Dataset.from_dicom(tmp_path / "set", columns=["PatientSex"])
    config = TrainConfig(
        model="small_cnn", weights=None, image_size=32, epochs=1, batch_size=16, augment=False, early_stopping=None
    )
    backend = medimg.backend("local")
    job = backend.train(dataset, config, allow=["tiny-validation", "constant-predictions"])
    subgroups = {(group.column, group.value) for group in job.report.subgroups}
    assert {column for column, _ in subgroups} == {"PatientSex"}
    assert found_in(tmp_path / "set")
    assert found_in(own_home / "packs") + found_in(own_home / "jobs") == []
    with backend.deploy(job) as endpoint:
        file = tmp_path / "set/NODULE/IM01"
        answer = endpoint.predict(file)
        assert answer.probabilities == pytest.approx(job.model.predict(file).probabilities, abs=1e-4)
        posted = backend._invoke(endpoint.name, file.read_bytes())  # as by curl, with the header
        assert posted["probabilities"] == pytest.approx(answer.probabilities, abs=1e-6)
