"""Exports that are made when they are asked for: ONNX as right as LiteRT, int8 behind its gate."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.cli import app
from medimg.config import ServeConfig
from medimg.data.dataset import Dataset
from medimg.data.preparation import ready_for_training
from medimg.errors import DatasetError, ModelFolderError
from medimg.export import Agreement
from medimg.export.network import write
from medimg.export.quantised import correction
from medimg.inference.journal import Journal
from medimg.inference.predictions import Predictions
from medimg.inference.predictor import Predictor


@pytest.fixture(scope="module")
def dataset(phantoms: Path) -> Dataset:
    """What the model was trained with."""
    return Dataset.from_folder(phantoms, group=r"(patient\d+)")


def copy(model: ModelFolder, target: Path) -> ModelFolder:
    """Returns a copy that may be changed."""
    return ModelFolder.load(shutil.copytree(model.path, target, copy_function=shutil.copyfile))


def own_home(folder: Path) -> pytest.MonkeyPatch:
    """Gives what lasts for a module a home of its own; to be undone."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDIMG_HOME", str(folder))
    patch.setenv("MEDIMG_SALT", "salt of the tests")
    return patch


@pytest.fixture(scope="module")
def exported(trained: ModelFolder, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model with both exports."""
    folder = tmp_path_factory.mktemp("exported")
    model = copy(trained, folder / "model")
    # As training leaves it where TensorFlow is missing.
    shutil.rmtree(model.path / "exports")
    lacking = dict.fromkeys(model.record.runtimes, "TensorFlow is not installed")
    model = ModelFolder.seal(model.path, model.record.model_copy(update={"runtimes": {}, "missing": lacking}))
    with own_home(folder / "home").context():
        model.export("onnx")
        model.export("int8", dataset)
    return model


def outputs(model: ModelFolder, runtime: str, images: np.ndarray) -> np.ndarray:
    """Returns a runtime's probabilities."""
    return Predictor(model, runtime=runtime).probabilities(images)  # type: ignore[arg-type]


def test_the_folder_is_sealed_anew_with_what_was_made(exported: ModelFolder, trained: ModelFolder) -> None:
    """The handle knows its digest, and asking again makes nothing."""
    assert exported.digest == ModelFolder.load(exported.path).digest != trained.digest
    assert exported.record.runtimes.keys() - trained.record.runtimes.keys() == {"onnx", "int8"}
    assert trained.record.runtimes.keys() < exported.record.runtimes.keys() and not exported.record.missing
    assert exported.export("onnx") == exported.path / "exports" / "model.onnx"
    assert exported.export("int8") == exported.path / "exports" / "int8.tflite"


def test_onnx_gives_what_litert_gives(exported: ModelFolder) -> None:
    """On images that nobody has checked, one at a time and several at once, and on the golden inputs."""
    side, channels = exported.record.preprocessing.image_size, exported.record.preprocessing.channels
    images = np.random.default_rng(1).integers(0, 256, (6, side, side, channels), np.uint8)
    assert np.abs(outputs(exported, "onnx", images) - outputs(exported, "litert", images)).max() < 1e-4
    assert Predictor(exported, runtime="onnx").check_golden() < 1e-4


def test_an_onnx_that_differs_is_left_out_with_its_difference(trained: ModelFolder, tmp_path: Path) -> None:
    """As EfficientNetV2's does; here the golden probabilities are others."""
    folder = copy(trained, tmp_path / "model").path
    golden = json.loads((folder / "golden" / "golden.json").read_text())
    (folder / "golden" / "golden.json").write_text(json.dumps({name: [0.5, 0.5] for name in golden}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for a name that it no longer has
        result = write(folder, ("onnx",))
    assert "onnx" not in result["runtimes"]
    assert re.fullmatch(r"its probabilities differ from Keras' by 0\.\d+", result["missing"]["onnx"])
    assert not (folder / "exports" / "model.onnx").exists()


def test_int8_is_smaller_and_is_checked_against_itself(exported: ModelFolder) -> None:
    """Its golden probabilities are its own: a server of int8 becomes ready where int8 is what was accepted."""
    small, large = exported.export("int8").stat().st_size, exported.export("litert").stat().st_size
    assert small < large / 2
    assert Predictor(exported, runtime="int8").check_golden() < 1e-6
    own, trained = exported.golden_of("int8"), exported.golden_of("litert")
    assert [one.name for one in own] == [one.name for one in trained]
    assert [one.probabilities for one in own] != [one.probabilities for one in trained]


def test_the_report_says_what_int8_changes(exported: ModelFolder, dataset: Dataset) -> None:
    """Measured again with the public calls, on validation and the training images that the gate took too."""
    report = Agreement.of(exported)
    assert report.images["val"] == len(dataset.of("val"))
    assert report.representative + report.images.get("train", 0) <= len(dataset.of("train"))
    assert report.bytes == tuple(exported.export(name).stat().st_size for name in ("litert", "int8"))
    assert report.auroc is not None and report.auroc_change == pytest.approx(report.auroc[1] - report.auroc[0])
    images = np.stack([Predictor(exported).prepare(sample.path) for sample in dataset.of("val")])
    difference = np.abs(outputs(exported, "int8", images) - outputs(exported, "litert", images))
    assert 0 < difference.max() <= report.largest + 1e-6
    assert report.share_flipped <= 0.02


def test_what_a_server_of_int8_is_given_is_enough(exported: ModelFolder, tmp_path: Path) -> None:
    """Its own golden probabilities travel with it, the trained network does not."""
    for name in exported.serving_files("int8"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(exported.path / name, target)
    part = ModelFolder.load(tmp_path, digest=exported.digest, only="int8")
    assert not (tmp_path / "model.keras").exists() and not (tmp_path / "exports" / "model.tflite").exists()
    assert Predictor(part, runtime="int8").check_golden() < 1e-6


def test_int8_that_changes_too_much_is_refused_with_the_figures(
    trained: ModelFolder, dataset: Dataset, tmp_path: Path
) -> None:
    """Nothing is kept: the model is what it was. Images without splits are divided as training divides them."""
    model = copy(trained, tmp_path / "model")
    undivided = replace(dataset, samples=tuple(replace(sample, split=None) for sample in dataset.samples))
    with pytest.raises(ModelFolderError, match=r"no int8 export: the AUROC falls by -?0\.\d+, at most -1 ") as refused:
        model.export("int8", undivided, most_lost=-1)
    assert "decisions that flip" in str(refused.value)
    val = ready_for_training(undivided, allow=()).dataset.of("val")
    assert re.search(rf"images compared +{len(val)} val", str(refused.value))
    assert model.digest == trained.digest == ModelFolder.load(model.path).digest
    assert not (model.path / "exports" / "int8.tflite").exists()


def test_a_conversion_that_fails_says_why_and_keeps_nothing(
    trained: ModelFolder, dataset: Dataset, tmp_path: Path
) -> None:
    """In one line, without the machine's folders; here the trained network is no network."""
    model = copy(trained, tmp_path / "model")
    (model.path / "model.keras").write_bytes(b"")
    model = ModelFolder.seal(model.path, model.record)
    with pytest.raises(ModelFolderError, match=r"no int8 export: the conversion failed \(.+\)\. Nothing") as failed:
        model.export("int8", dataset)
    assert "Traceback" not in str(failed.value) and "/" not in str(failed.value)
    assert ModelFolder.load(model.path).digest == model.digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"auroc_change": -0.02}, "the AUROC falls by 0.0200, at most 0.01 is allowed"),
        ({"flips": 3}, "3.0% of the decisions flip, at most 2.0% may"),
        ({"auroc_change": None}, "cannot be estimated"),
        ({}, ""),
    ],
)
def test_the_gate_says_which_limit_was_passed(change: dict[str, object], why: str) -> None:
    """Each limit alone; a fall or flips within them pass."""
    good = Agreement(
        images={"val": 100}, representative=50, auroc=(0.9, 0.895), auroc_change=-0.005, auroc_interval=None, flips=2,
        largest=0.1, mean=0.01, bytes=(4, 1), ms=(2.0, 1.0),
    )  # fmt: skip
    told = good.model_copy(update=change).refusal(most_lost=0.01, most_flipped=0.02)
    assert why in told if why else told == ""


def test_logits_are_corrected_to_what_they_were() -> None:
    """A slope and a shift of each label are found; of a softmax one slope, and shifts up to a constant."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (400, 3))
    for moved in (logits * [0.8, 1.1, 1.0] + [0.5, -1.0, 0.0],):
        slope, shift = correction(1 / (1 + np.exp(-moved)), 1 / (1 + np.exp(-logits)), exclusive=False)
        assert np.abs(moved * slope + shift - logits).max() < 1e-3
    moved = logits * 0.7 + [0.5, -1.0, 0.0]
    found, wanted = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (moved, logits))
    slope, shift = correction(found, wanted, exclusive=True)
    again = moved * slope + shift
    again = np.exp(again) / np.exp(again).sum(axis=1, keepdims=True)
    assert np.abs(again - wanted).max() < 1e-3


def test_what_cannot_be_made_says_what_to_do(trained: ModelFolder, dataset: Dataset, tmp_path: Path) -> None:
    """Without images, of a registered model, with a dataset of other classes or without training images."""
    model = copy(trained, tmp_path / "model")
    with pytest.raises(ModelFolderError, match=r'Run: model.export\("int8", dataset\)'):
        model.export("int8")
    registered = ModelFolder.load(model.path, digest=model.digest)
    with pytest.raises(ModelFolderError, match=r"none can be added to a registered model.*export\('onnx'\)"):
        registered.export("onnx")
    other = ModelFolder.seal(model.path, model.record.model_copy(update={"classes": ("CLEAR", "OTHER")}))
    with pytest.raises(DatasetError, match="They must be the same"):
        other.export("int8", dataset)


def test_a_server_of_int8_answers_as_int8_does(
    exported: ModelFolder, trained: ModelFolder, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden inputs it is checked against at its start are int8's; a model without that export is not deployed.

    Its digest is that of the float32 model, and yet one table does not go on with the answers of the other.
    """
    place, config = backend("local"), ServeConfig(runtime="int8", auth="none")
    with pytest.raises(ModelFolderError, match=r'Run: model.export\("int8", dataset\)'):
        place.deploy(trained, config)
    image = dataset.of("test")[0].path
    monkeypatch.setattr(Journal, "remove", lambda _: None)  # as if each run were killed at its end
    command = ["predict", str(image), "--out", str(tmp_path / "out.csv")]
    with place.deploy(exported, config) as endpoint:
        answer = endpoint.predict(image)
        for source, goes_on in (
            (["--model", str(exported.path)], False),
            (["--endpoint", endpoint.name], False),
            (["--endpoint", endpoint.name], True),
        ):
            says = CliRunner().invoke(app, [*command, *source])
            assert (says.exit_code, "goes on after 1 images" in says.stderr) == (0, goes_on)
    (written,) = Predictions.from_csv(tmp_path / "out.csv").probabilities
    assert dict(zip(trained.record.classes, written, strict=True)) == answer.probabilities
    own = Predictor(exported, runtime="int8").predict(image)
    assert answer.probabilities == pytest.approx(own.probabilities, abs=1e-6)
    assert answer.probabilities != pytest.approx(trained.predict(image).probabilities, abs=1e-6)


def test_the_command_names_the_file_and_what_the_gate_found(
    exported: ModelFolder, trained: ModelFolder, dataset: Dataset
) -> None:
    """What is there is not made again; int8 asks for its images, and nothing else takes any."""
    says = CliRunner().invoke(app, ["export", str(trained.path), "litert"])
    assert (says.exit_code, says.stdout.split()) == (0, ["litert", str(trained.export("litert"))])
    images = dataset.of("train")[0].path.parents[2]
    says = CliRunner().invoke(app, ["export", str(exported.path), "int8", "--data", str(images)])
    assert says.exit_code == 0
    assert str(Agreement.of(exported)) in says.stdout
    assert "digest" not in says.stdout
    for arguments, told in (
        (["int8"], "Add --data DIR"),
        (["onnx", "--data", "images"], "--data is for int8"),
        (["onnx", "--group", "x"], "--group: these describe images"),
    ):
        says = CliRunner().invoke(app, ["export", str(trained.path), *arguments], env={"COLUMNS": "200"})
        assert says.exit_code == 2
        assert told in says.output
