"""What names a job, what a job is told, and what stays on disk for it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from image_folders import tree

from medimg.artifact import ModelFolder
from medimg.backends import submission, supervisor
from medimg.backends.identity import check_name, file_input, inputs_folder, link_tree
from medimg.backends.local import LocalBackend
from medimg.backends.submission import Submission, prepare_prediction, prepare_training
from medimg.config import JobSpec, Resources, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack
from medimg.errors import ConfigError, DatasetError, StorageError
from medimg.progress import Event, Report, silent

CONFIG = TrainConfig(model="small_cnn", weights=None, image_size=16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images without splits, each a patient of its own."""
    return tree(tmp_path / "images", {"NORMAL": 40, "PNEUMONIA": 40})


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    """As much of a model as a submit looks at."""
    folder = tmp_path / "model"
    (folder / "golden").mkdir(parents=True)
    (folder / "medimg.json").write_text("{}")
    (folder / "golden" / "0.png").write_bytes(b"png")
    record = SimpleNamespace(preprocessing=SimpleNamespace(image_size=16))
    return cast("ModelFolder", SimpleNamespace(path=folder, digest="0123456789abcdef" * 4, record=record))


def load(root: Path) -> Dataset:
    """Reads the folder."""
    return Dataset.from_folder(root, group=r"(\w+/p\d+)")


def training(
    dataset: Dataset, config: TrainConfig = CONFIG, resources: Resources | None = None, report: Report = silent
) -> Submission:
    """Prepares a training job."""
    return prepare_training(dataset, config, resources or Resources(), "chest", (), report)


def predicting(model: ModelFolder, dataset: Dataset, split: Any = None, report: Report = silent) -> Submission:
    """Prepares a prediction job."""
    return prepare_prediction(model, dataset, split, Resources(), report)


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_training_job_is_named_by_what_decides_its_result(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the machine, the attempt, what was said about the data, the names of files or the salt."""
    dataset = load(root)
    work = training(dataset)
    assert work.base.startswith("chest-")
    assert training(dataset, resources=Resources(max_hours=1, spot=True)).base == work.base
    noted = training(replace(dataset, notices=("the reader should know",)))
    assert (noted.base, "the reader should know" in noted.first.notices) == (work.base, True)
    monkeypatch.setenv("MEDIMG_SALT", "another")
    salted = training(load(root))
    assert (salted.base, salted.pack) == (work.base, work.pack)
    assert salted.first.samples != work.first.samples
    others = [
        training(dataset, CONFIG.model_copy(update={"seed": 1})),
        training(dataset, CONFIG.model_copy(update={"epochs": 1})),
        training(dataset, CONFIG.model_copy(update={"image_size": 17})),
        training(dataset.split(seed=3)),
    ]
    assert len({work.base, *(other.base for other in others)}) == 5


def test_an_attempt_changes_nothing_but_its_number_and_checkpoints(root: Path) -> None:
    """The first has the job's own."""
    work = training(load(root))
    again = work.spec(3, "elsewhere", {})
    assert (work.first.attempt, work.first.checkpoints) == (1, work.base)
    assert (again.id, again.checkpoints) == (f"{work.base}-3", "elsewhere")
    same = {"attempt", "checkpoints"}
    assert again.model_dump(exclude=same) == work.first.model_dump(exclude=same)
    assert JobSpec.model_validate_json(again.model_dump_json()) == again


def test_the_same_pixels_under_other_names_are_another_table_of_predictions(root: Path, model: ModelFolder) -> None:
    """Two jobs share one pack, and each is told the manifest with its own ids."""
    dataset = load(root)
    first = predicting(model, dataset)
    assert predicting(model, load(root)).base == first.base
    (root / "NORMAL/p0.png").rename(root / "NORMAL/p99.png")
    renamed = load(root)
    second = predicting(model, renamed)
    assert first.pack == second.pack
    assert first.base != second.base
    for work, images in ((first, dataset), (second, renamed)):
        told = work.spec(1, work.base, {})
        assert told.pack == work.pack.name
        found = {sample.id for sample in Pack.open(work.pack, told.samples, verify=True).samples}
        assert found == {sample.id for sample in images.samples}


@pytest.mark.parametrize("name", ["abc", "a-b", "x2y", "a" * 32, "medimg-12345678"])
def test_a_name_that_every_backend_takes_is_taken(name: str) -> None:
    """Three to 32."""
    assert check_name(name, what="a job") == name


@pytest.mark.parametrize(
    ("name", "better"), [("ab", "chest"), ("chest-", "chest"), ("a" * 33, "a" * 32), ("Chest X-ray!", "chest-x-ray"),
                         ("-chest", "chest"), ("a" * 31 + "-b", "a" * 31), ("3d", "chest")]
)  # fmt: skip
def test_a_name_that_some_backend_refuses_is_refused_everywhere(name: str, better: str) -> None:
    """The message shows one that can be."""
    with pytest.raises(ConfigError, match="3 to 32 small letters") as caught:
        check_name(name, what="a job")
    assert f"such as {better!r}" in str(caught.value)
    assert check_name(better, what="a job")


# -- what a job is told ----------------------------------------------------------------------------------------------


def test_runs_with_different_seeds_are_judged_on_the_same_images(root: Path) -> None:
    """The seed of training does not draw the splits that the user left to us."""
    dataset = load(root)
    packs = {training(dataset, CONFIG.model_copy(update={"seed": seed})).pack for seed in (0, 1, 7)}
    assert len(packs) == 1


def test_the_images_are_looked_up_once(root: Path, monkeypatch: pytest.MonkeyPatch, model: ModelFolder) -> None:
    """And hashed into a fingerprint once: of 100,000 images each takes seconds."""
    calls: Counter[str] = Counter()
    for name in ("index", "fingerprint_of"):
        real = getattr(Dataset, name)

        def counting(self: Dataset, *given: Any, _name: str = name, _real: Any = real) -> Any:
            calls[_name] += 1
            return _real(self, *given)

        monkeypatch.setattr(Dataset, name, counting)
    dataset = load(root)
    training(dataset)
    assert calls == {"index": 1, "fingerprint_of": 1}
    calls.clear()
    predicting(model, dataset)
    assert calls == {"index": 1, "fingerprint_of": 1}


@pytest.mark.parametrize("given", ["imagenet", "path"])
def test_a_path_of_weights_does_not_travel(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The job is told the content's name; the word "imagenet" stays, as the model's record shows it."""
    file = tmp_path / "CANARY.weights.h5"
    file.write_bytes(b"weights")
    monkeypatch.setattr(submission, "resolve", lambda *_, **__: file)
    weights = "imagenet" if given == "imagenet" else str(file)
    told = training(load(root), TrainConfig(weights=weights, image_size=32)).first
    assert told.config is not None
    assert told.config.weights == ("imagenet" if given == "imagenet" else told.inputs["weights"])
    assert "CANARY" not in told.model_dump_json()
    assert (inputs_folder() / told.inputs["weights"]).read_bytes() == b"weights"


def test_a_split_that_is_not_there_is_named(root: Path, model: ModelFolder) -> None:
    """And one that was not asked for is not."""
    dataset = load(root)
    with pytest.raises(DatasetError, match=r"the dataset has no test split\. Splits: none"):
        predicting(model, dataset, "test")
    with pytest.raises(DatasetError, match="the dataset has no images"):
        predicting(model, dataset.without(sample.id for sample in dataset.samples))


def test_nothing_left_to_predict_is_said_before_the_submit(root: Path, model: ModelFolder) -> None:
    """A few unreadable images are left out aloud; when there is nothing else, that is an error."""
    for number in range(3):
        (root / f"NORMAL/p{number}.png").write_bytes(b"")
    dataset = load(root)
    events: list[Event] = []
    work = predicting(model, dataset, report=events.append)
    assert sum(event.kind == "warning" for event in events) == 3
    assert len(work.packed) == 77
    broken = replace(dataset, samples=tuple(s for s in dataset.samples if s.path.stat().st_size == 0))
    with pytest.raises(DatasetError, match=r"none of 3 images can be read:\n.*p0\.png"):
        predicting(model, broken)


# -- what stays on disk ----------------------------------------------------------------------------------------------


def test_large_inputs_are_stored_under_the_name_of_their_content(tmp_path: Path) -> None:
    """Once, and with the suffix that Keras goes by."""
    for name in ("a.weights.h5", "b.weights.h5", "c.keras"):
        (tmp_path / name).write_bytes(b"weights" * 1000)
    first, second, third = (file_input(tmp_path / name) for name in ("a.weights.h5", "b.weights.h5", "c.keras"))
    assert first.path == second.path
    assert first.path.name.endswith(".weights.h5")
    assert third.path.suffix == ".keras"
    assert third.path.read_bytes() == b"weights" * 1000
    assert sorted(p for p in inputs_folder().iterdir() if not p.name.startswith(".")) == sorted(
        {first.path, third.path}
    )


def test_a_folder_is_copied_and_a_missing_one_is_missing(tmp_path: Path, model: ModelFolder) -> None:
    """A copy of nothing would pass for a result."""
    link_tree(model.path, tmp_path / "copy")
    assert (tmp_path / "copy" / "golden" / "0.png").read_bytes() == b"png"
    with pytest.raises(FileNotFoundError):
        link_tree(tmp_path / "none", tmp_path / "nothing")


def test_a_full_disk_is_told_as_such_when_a_folder_is_copied(
    tmp_path: Path, model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files cannot be linked."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        link_tree(model.path, tmp_path / "copy")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> LocalBackend:
    """A local backend whose jobs never begin."""
    monkeypatch.setattr(supervisor, "start", lambda *_, **__: None)
    return LocalBackend()


def submit(backend: LocalBackend, work: Submission) -> JobSpec:
    """Submits the first attempt."""
    backend._submit(work.first, work.pack, inputs_folder(), silent)
    return work.first


def stored(home: Path) -> Mapping[str, set[str]]:
    """Returns the packs and inputs that there are."""
    return {
        folder: {path.name for path in (home / folder).iterdir() if not path.name.startswith(".")}
        for folder in ("packs", "inputs")
    }


def test_a_pack_and_inputs_go_with_the_last_job_that_names_them(
    root: Path, model: ModelFolder, idle: LocalBackend, own_home: Path
) -> None:
    """Patients' pixels do not outlive the jobs they were packed for."""
    dataset = load(root)
    first = submit(idle, predicting(model, dataset))
    (root / "NORMAL/p0.png").rename(root / "NORMAL/p99.png")
    second = submit(idle, predicting(model, load(root)))
    third = submit(idle, training(load(root)))
    kept = {"packs": {first.pack, third.pack}, "inputs": {first.inputs["model"]}}
    assert (first.pack, first.inputs) == (second.pack, second.inputs)
    assert stored(own_home) == kept
    idle._delete("job", first.id)
    assert stored(own_home) == kept
    idle._delete("job", second.id)
    assert stored(own_home) == {"packs": {third.pack}, "inputs": set()}
    idle._delete("job", third.id)
    assert stored(own_home) == {"packs": set(), "inputs": set()}


def test_a_job_that_is_being_submitted_keeps_its_pack(
    root: Path, model: ModelFolder, idle: LocalBackend, own_home: Path
) -> None:
    """Between packing and its record, when another job with the same data is deleted."""
    first = submit(idle, training(load(root)))
    work = training(load(root), CONFIG.model_copy(update={"epochs": 2}))
    idle._delete("job", first.id)
    assert Pack.open(work.pack, work.first.samples, verify=True).samples
    second = submit(idle, work)
    del work
    idle._delete("job", second.id)
    assert stored(own_home)["packs"] == set()
