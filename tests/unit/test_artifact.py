"""The model folder: complete, verified before it is read, and refused when it was changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medimg.artifact import ModelFolder, ModelRecord, ServedBy, add_look
from medimg.errors import DatasetError, ModelFolderError


@pytest.fixture
def folder(trained: ModelFolder, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(trained.path, tmp_path / "model", copy_function=shutil.copyfile))


def test_a_trained_folder_holds_all_that_the_design_names(trained: ModelFolder) -> None:
    """Weights, exports, golden inputs, history, report, card, record and digest."""
    exports = ("exports/model.tflite", "exports/saved_model/1/saved_model.pb", "golden/golden.json")
    for name in (
        *exports,
        "model.keras",
        "history.json",
        "report/report.html",
        "card.md",
        "medimg.json",
        "digest.json",
    ):
        assert (trained.path / name).is_file(), name
    assert trained.record.classes == ("CLEAR", "NODULE")
    assert trained.record.positive == "NODULE"
    assert trained.record.thresholds.keys() == {"NODULE"}
    assert trained.record.runtimes.keys() == {"litert", "saved_model"}
    assert trained.record.preprocessing.channels == 1
    assert len(trained.history) == 3
    assert len(trained.golden) >= 4
    assert "not a medical device" in trained.card


def test_loading_again_gives_the_same_digest(folder: Path, trained: ModelFolder) -> None:
    """A copy is the same model."""
    assert ModelFolder.load(folder).digest == trained.digest
    assert ModelFolder.load(folder, digest=trained.digest).path == folder


@pytest.mark.parametrize("name", ["model.keras", "exports/model.tflite", "medimg.json", "golden/golden.json"])
def test_a_changed_byte_is_refused_before_anything_is_parsed(folder: Path, name: str) -> None:
    """The message names the file and what to do."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=f"{name} was changed after training. Fetch or train"):
        ModelFolder.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    """A folder that was copied in part is refused."""
    (folder / "exports" / "model.tflite").unlink()
    with pytest.raises(ModelFolderError, match=r"exports/model\.tflite is missing"):
        ModelFolder.load(folder)


def test_an_added_file_is_named(folder: Path) -> None:
    """A file that training did not write could be anything."""
    (folder / "exports" / "plugin.py").write_text("print('hello')")
    with pytest.raises(ModelFolderError, match=r"exports/plugin\.py does not belong to the model"):
        ModelFolder.load(folder)


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its target could change after the check."""
    shutil.move(folder / "model.keras", tmp_path / "elsewhere.keras")
    (folder / "model.keras").symlink_to(tmp_path / "elsewhere.keras")
    with pytest.raises(ModelFolderError, match=r"model\.keras does not belong"):
        ModelFolder.load(folder)


def test_hashes_that_were_changed_with_the_file_are_caught_by_the_expected_digest(folder: Path) -> None:
    """A registry's digest is the anchor that an attacker cannot rewrite."""
    expected = ModelFolder.load(folder).digest
    record = ModelFolder.load(folder).record
    (folder / "card.md").write_text("a better model than it is")
    ModelFolder.seal(folder, record)
    with pytest.raises(ModelFolderError, match="its digest is"):
        ModelFolder.load(folder, digest=expected)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": 3}', "not json"])
def test_a_folder_without_a_valid_digest_is_no_model_folder(folder: Path, content: str) -> None:
    """Whatever is wrong with the digest's file, it is one clear error."""
    (folder / "digest.json").write_text(content)
    with pytest.raises(ModelFolderError):
        ModelFolder.load(folder)


def test_an_empty_path_is_no_model_folder(tmp_path: Path) -> None:
    """The message says where a finished job's model is."""
    with pytest.raises(ModelFolderError, match=r"job\.model\.path"):
        ModelFolder.load(tmp_path)


def part(folder: Path, target: Path, runtime: ServedBy) -> Path:
    """Returns a copy of no more than what serving on a runtime needs."""
    for name in ModelFolder.load(folder).serving_files(runtime):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    return target


@pytest.mark.parametrize(
    ("runtime", "network"),
    [("litert", "exports/model.tflite"), ("keras", "model.keras"), ("saved_model", "exports/saved_model/1")],
)
def test_a_part_that_serves_is_the_same_model_and_no_more(
    folder: Path, trained: ModelFolder, tmp_path: Path, runtime: ServedBy, network: str
) -> None:
    """Its digest is the whole model's; the other networks, the report and the data's hashes stay behind."""
    small = ModelFolder.load(part(folder, tmp_path / "part", runtime), digest=trained.digest, only=runtime)
    assert small.digest == trained.digest
    assert len(small.golden) == len(trained.golden)
    top = {path.name for path in small.path.iterdir()}
    assert top == {"digest.json", "medimg.json", "monitoring.json", "golden", network.split("/")[0]}
    exports = {path.relative_to(small.path).as_posix() for path in small.path.glob("exports/*")}
    assert all(network.startswith(path) for path in exports)
    assert (small.path / network).exists()


def test_a_part_predicts_as_the_whole_does(folder: Path, trained: ModelFolder, tmp_path: Path, phantoms: Path) -> None:
    """On LiteRT, as a Lambda function does."""
    image = min(phantoms.glob("test/NODULE/*"))
    small = ModelFolder.load(part(folder, tmp_path / "part", "litert"), only="litert")
    assert small.predict(image).probabilities == trained.predict(image).probabilities
    with pytest.raises(ModelFolderError, match="without its saved_model export"):
        small.export("saved_model")


def test_a_part_must_be_asked_for(folder: Path, tmp_path: Path) -> None:
    """What is missing is an error, unless it was said to be left out."""
    with pytest.raises(ModelFolderError, match="is missing"):
        ModelFolder.load(part(folder, tmp_path / "part", "litert"))


@pytest.mark.parametrize("name", ["medimg.json", "exports/model.tflite", "golden/golden.json"])
def test_a_part_that_lacks_what_serving_needs_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """The file is named."""
    target = part(folder, tmp_path / "part", "litert")
    (target / name).unlink()
    with pytest.raises(ModelFolderError, match=f"{name} is missing"):
        ModelFolder.load(target, only="litert")


def test_a_changed_or_added_file_of_a_part_is_refused(folder: Path, trained: ModelFolder, tmp_path: Path) -> None:
    """As of a whole folder."""
    target = part(folder, tmp_path / "part", "litert")
    (target / "exports" / "plugin.py").write_text("print('hello')")
    with pytest.raises(ModelFolderError, match=r"exports/plugin\.py does not belong"):
        ModelFolder.load(target, only="litert")
    (target / "exports" / "plugin.py").unlink()
    content = bytearray((target / "exports" / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (target / "exports" / "model.tflite").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"model\.tflite was changed after training"):
        ModelFolder.load(target, only="litert")


def test_a_part_with_another_digest_is_refused(folder: Path, tmp_path: Path) -> None:
    """What it leaves out is held by the digest too."""
    target = part(folder, tmp_path / "part", "litert")
    with pytest.raises(ModelFolderError, match="its digest is"):
        ModelFolder.load(target, digest="0" * 64, only="litert")
    sealed = json.loads((target / "digest.json").read_text())
    sealed["files"].pop("model.keras")
    (target / "digest.json").write_text(json.dumps(sealed))
    with pytest.raises(ModelFolderError, match="its digest is"):
        ModelFolder.load(target, only="litert")


def test_looks_at_test_are_counted_without_breaking_the_seal(folder: Path) -> None:
    """Training looked once; each later look adds one, and the digest stays."""
    before = ModelFolder.load(folder)
    assert before.test_looks == 1
    assert add_look(folder, "some data") == 2
    after = ModelFolder.load(folder)
    assert after.test_looks == 2
    assert after.digest == before.digest
    assert [look["data"] for look in json.loads((folder / "looks.json").read_text())][-1] == "some data"


def test_an_older_record_is_not_read_with_the_defaults_of_today(trained: ModelFolder) -> None:
    """It was not calibrated, and nobody was asked about pictures; what a record names is kept."""
    content = json.loads(trained.record.model_dump_json())
    assert ModelRecord.model_validate(content) == trained.record
    assert (trained.record.config.calibration, trained.record.config.cases) == ("platt", 6)
    del content["config"]["calibration"], content["config"]["cases"]
    config = ModelRecord.model_validate_json(json.dumps(content)).config
    assert (config.calibration, config.cases) == (None, 0)


def test_an_export_that_is_not_there_says_why(trained: ModelFolder) -> None:
    """The runtimes that exist are returned as paths."""
    assert trained.export("litert") == trained.path / "exports" / "model.tflite"
    with pytest.raises(ModelFolderError, match="no int8 export: no training makes it"):
        trained.export("int8")


def test_the_representation_names_the_model_and_its_figures(trained: ModelFolder) -> None:
    """What a notebook shows."""
    text = repr(trained)
    assert "small_cnn" in text
    assert "auroc" in text
    assert trained.digest[:12] in text


def test_evaluating_again_gives_the_figures_of_training_and_counts_the_look(folder: Path, phantoms: Path) -> None:
    """The same test images at the same frozen thresholds."""
    from medimg.data.dataset import Dataset

    model = ModelFolder.load(folder)
    report = model.evaluate(Dataset.from_folder(phantoms, group=r"(patient\d+)"))
    assert report.metrics == pytest.approx(model.record.metrics["test"], abs=1e-6)
    assert report.test_looks == 2
    assert ModelFolder.load(folder).test_looks == 2


def test_images_of_training_are_never_taken_for_unseen_ones(folder: Path, phantoms: Path, tmp_path: Path) -> None:
    """Under other names and without splits, as when training divided the folder itself."""
    from medimg.data.dataset import Dataset

    flat = tmp_path / "flat"
    for path in sorted(phantoms.glob("*/*/*")):
        target = flat / path.parent.name / f"renamed-{path.parent.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    model = ModelFolder.load(folder)
    with pytest.raises(DatasetError, match="were used to train this model"):
        model.evaluate(Dataset.from_folder(flat))
    with pytest.raises(DatasetError, match="were used to train this model"):
        model.evaluate(Dataset.from_folder(phantoms), split="train")
    assert ModelFolder.load(folder).test_looks == 1, "a refused look is no look"
    for path in flat.glob("*/renamed-[tv][ra]*"):
        path.unlink()
    assert model.evaluate(Dataset.from_folder(flat)).metrics == pytest.approx(model.record.metrics["test"], abs=1e-6)


def test_another_task_is_refused(folder: Path, phantoms: Path) -> None:
    """The classes must be the model's own."""
    from dataclasses import replace

    from medimg.data.dataset import Dataset

    other = replace(Dataset.from_folder(phantoms), classes=("CLEAR", "MASS"), positive="MASS")
    with pytest.raises(DatasetError, match=r"the model binary with CLEAR, NODULE"):
        ModelFolder.load(folder).evaluate(other)


def test_sealed_files_cannot_be_changed_in_place_by_accident(trained: ModelFolder) -> None:
    """Copies may be links to the same file."""
    import stat

    assert stat.S_IMODE((trained.path / "card.md").stat().st_mode) == 0o444
