"""The one Predictor: every input form, both runtimes, golden inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medimg.artifact import ModelFolder, ModelRecord, Preprocessing
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.pack import build
from medimg.errors import ImageRejected, RuntimeMismatchError
from medimg.inference.decision import Prediction, decide, distribution
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import LiteRTRuntime


def test_a_runtime_that_gives_no_numbers_is_refused(trained: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is further off than any tolerance."""
    predictor = Predictor(trained)
    monkeypatch.setattr(predictor.runtime, "outputs", lambda images: np.full((len(images), 1), np.nan))
    with pytest.raises(RuntimeMismatchError):
        predictor.check_golden()


@pytest.fixture(scope="module")
def images(phantoms: Path) -> list[Path]:
    """Test images of both classes."""
    return sorted(phantoms.glob("test/*/*"))


def test_a_path_bytes_a_picture_and_an_array_give_the_same(trained: ModelFolder, images: list[Path]) -> None:
    """Four forms of one image."""
    path = images[0]
    with Image.open(path) as picture:
        forms = [path, str(path), path.read_bytes(), picture.copy(), np.asarray(picture)]
    answers = [trained.predict(form).probabilities for form in forms]
    assert all(answer == answers[0] for answer in answers)


def test_litert_and_keras_agree(trained: ModelFolder, images: list[Path]) -> None:
    """Within the tolerance of the design, on real decodes, and grey equals the same image stored as colour."""
    litert, keras = Predictor(trained, runtime="litert"), Predictor(trained, runtime="keras")
    batch = np.stack([litert.prepare(path) for path in images])
    np.testing.assert_allclose(litert.probabilities(batch), keras.probabilities(batch), rtol=0, atol=1e-4)
    colour = np.repeat(litert.prepare(images[0]), 3, axis=2)
    assert trained.predict(colour).probabilities == trained.predict(images[0]).probabilities


def test_an_image_alone_is_computed_by_several_cores_to_the_same_bits(trained: ModelFolder, images: list[Path]) -> None:
    """As one of many; also where several threads ask at once, of which one has the joint interpreter."""
    runtime = LiteRTRuntime(trained.export("litert"), workers=3)
    batch = np.stack([Predictor(trained).prepare(path) for path in images[:12]])
    expected = runtime.outputs(batch)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(runtime.outputs, np.split(batch, len(batch))))
    np.testing.assert_array_equal(np.concatenate(alone), expected)
    assert runtime._joint is not None and np.ptp(expected) > 0


def test_golden_inputs_agree_on_both_runtimes(trained: ModelFolder) -> None:
    """The same machine and runtime to 1e-6, another runtime to 1e-4."""
    assert Predictor(trained, runtime="keras").check_golden() <= 1e-6
    assert Predictor(trained, runtime="litert").check_golden() <= 1e-4


def test_a_runtime_that_drifts_is_refused(trained: ModelFolder, tmp_path: Path) -> None:
    """Golden probabilities that this environment does not reach: the server would not become ready."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "model", copy_function=shutil.copyfile))
    golden = json.loads((folder / "golden" / "golden.json").read_text())
    golden = {name: [values[0] + 3e-4, values[1] - 3e-4] for name, values in golden.items()}
    (folder / "golden" / "golden.json").write_text(json.dumps(golden))
    drifting = ModelFolder.seal(folder, trained.record)
    with pytest.raises(RuntimeMismatchError, match="does not run the model as it was trained"):
        Predictor(drifting).check_golden()


def test_litert_says_nothing_on_the_screen_and_nothing_else_is_lost(trained: ModelFolder) -> None:
    """Its greeting has no switch; it would stand in the middle of a table, and in a server's log."""
    code = (
        "import sys; from medimg.inference.predictor import Predictor; from medimg.inference.runtimes import "
        "_without_greeting\n"
        "with _without_greeting():\n"
        "    print('said meanwhile', file=sys.stderr, flush=True); Predictor(sys.argv[1], runtime='litert')\n"
        "print('said afterwards', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, trained.path], check=True, capture_output=True, text=True)
    assert done.stderr == "said meanwhile\nsaid afterwards\n"


def test_threads_share_a_predictor(trained: ModelFolder, images: list[Path]) -> None:
    """More threads than interpreters, and every answer is its own image's."""
    predictor = Predictor(trained)
    alone = [predictor.predict(path).probabilities for path in images]
    with ThreadPoolExecutor(16) as pool:
        together = [p.probabilities for p in pool.map(predictor.predict, images)]
    assert together == alone


def test_named_columns_of_a_pack_reach_the_predictions(trained: ModelFolder, phantoms: Path) -> None:
    """What the user named of each image stays with it; other columns of the table have not left the machine."""
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    samples = tuple(
        replace(sample, columns={"site": sample.id[-1], "name": "secret"} if sample.split == "test" else {})
        for sample in dataset.samples
    )
    pack = build(replace(dataset, samples=samples, keep=("site",)), 64, facts=dataset.index())
    table = trained.predictor.predict_pack(pack, split="test")
    assert table.columns == {"site": tuple(id[-1] for id in table.ids)}
    assert trained.predictor.predict_pack(pack, split="val").columns == {"site": ("",) * len(pack.rows("val"))}


def test_an_image_that_cannot_be_read_is_named(trained: ModelFolder, tmp_path: Path) -> None:
    """The rejection is the decoder's."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(ImageRejected, match=r"broken\.png"):
        trained.predict(broken)


def _record(task: str, classes: tuple[str, ...], thresholds: dict[str, float], positive: str | None) -> ModelRecord:
    return ModelRecord(
        classes=classes, task=task, positive=positive, thresholds=thresholds, config=TrainConfig(),
        preprocessing=Preprocessing(image_size=64, channels=1),
    )  # fmt: skip


def test_a_binary_decision_follows_the_threshold_and_not_one_half() -> None:
    """At the threshold the answer is positive; just below it is not."""
    record = _record("binary", ("NORMAL", "PNEUMONIA"), {"PNEUMONIA": 0.8}, "PNEUMONIA")
    assert decide(record, [0.2, 0.8], latency_ms=1).label == "PNEUMONIA"
    below = decide(record, [0.21, 0.79], latency_ms=1)
    assert (below.label, below.positives) == ("NORMAL", ())


def test_the_positive_class_may_come_first() -> None:
    """Probabilities are by class, whatever the order."""
    record = _record("binary", ("finding", "normal"), {"finding": 0.5}, "finding")
    np.testing.assert_allclose(distribution(record, np.array([[0.9]])), [[0.9, 0.1]])


def test_a_multilabel_decision_may_hold_several_labels_or_none() -> None:
    """Each label has its own threshold."""
    record = _record("multilabel", ("Edema", "Mass"), {"Edema": 0.3, "Mass": 0.6}, None)
    both = decide(record, [0.3, 0.7], latency_ms=1)
    assert (both.label, both.positives) == ("Edema | Mass", ("Edema", "Mass"))
    assert decide(record, [0.2, 0.5], latency_ms=1).label == "none"


def test_a_multiclass_decision_is_the_most_probable_class() -> None:
    """There are no thresholds."""
    record = _record("multiclass", ("a", "b", "c"), {}, None)
    assert decide(record, [0.2, 0.5, 0.3], latency_ms=1).positives == ("b",)


def test_a_probability_inside_the_band_is_uncertain() -> None:
    """Its ends belong to it; the label is decided all the same."""
    record = _record("binary", ("NORMAL", "PNEUMONIA"), {"PNEUMONIA": 0.5}, "PNEUMONIA")
    record = record.model_copy(update={"uncertain": {"PNEUMONIA": (0.4, 0.75)}})
    said = {p: decide(record, [1 - p, p], latency_ms=1) for p in (0.39, 0.4, 0.6, 0.75, 0.76)}
    assert [p for p, answer in said.items() if answer.uncertain] == [0.4, 0.6, 0.75]
    assert said[0.4].label == "NORMAL" and said[0.75].label == "PNEUMONIA"
    assert "uncertain" in repr(said[0.4]) and "uncertain" not in repr(said[0.39])


def test_one_uncertain_label_makes_a_multilabel_answer_uncertain() -> None:
    """Labels without a band, whose threshold nothing chose, do not."""
    record = _record("multilabel", ("Edema", "Mass"), {"Edema": 0.3, "Mass": 0.5}, None)
    record = record.model_copy(update={"uncertain": {"Edema": (0.2, 0.4)}})
    assert decide(record, [0.25, 0.9], latency_ms=1).uncertain
    assert not decide(record, [0.9, 0.5], latency_ms=1).uncertain


@pytest.mark.parametrize(
    ("probabilities", "uncertain"), [([0.7, 0.2, 0.1], False), ([0.5, 0.45, 0.05], True), ([0.36, 0.34, 0.3], True)]
)
def test_a_multiclass_answer_is_certain_with_exactly_one_class_in_the_conformal_set(
    probabilities: list[float], uncertain: bool
) -> None:
    """One class, two, and none."""
    record = _record("multiclass", ("a", "b", "c"), {}, None).model_copy(update={"conformal": 0.4})
    assert decide(record, probabilities, latency_ms=1).uncertain is uncertain
    without = record.model_copy(update={"conformal": None})
    assert not decide(without, probabilities, latency_ms=1).uncertain


def test_an_answer_of_an_earlier_server_is_not_called_uncertain() -> None:
    """It does not say."""
    record = _record("multiclass", ("a", "b"), {}, None).model_copy(update={"conformal": 0.9})
    sent = decide(record, [0.6, 0.4], latency_ms=1).to_json()
    assert sent.pop("uncertain") is True
    assert Prediction.from_json(sent).uncertain is False


def test_a_prediction_travels_as_json(trained: ModelFolder, images: list[Path]) -> None:
    """What an endpoint sends is what the caller gets."""
    prediction = trained.predict(images[0])
    assert Prediction.from_json(json.loads(json.dumps(prediction.to_json()))) == prediction
