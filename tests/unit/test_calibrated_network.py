"""A calibration is fitted on validation and built into the network: every runtime has it, and the ranking stays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from medimg import models
from medimg.artifact import Calibration, ModelFolder, ModelRecord
from medimg.backends import backend
from medimg.config import Task, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms
from medimg.evaluation.calibration import log_odds, negative_log_likelihood, slope_intercept
from medimg.evaluation.platt import fit_platt
from medimg.inference.decision import decide
from medimg.inference.predictor import Predictor
from medimg.training.calibration import calibrate


@dataclass(frozen=True)
class Rows:
    """Inputs and encoded targets in memory."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns inputs by position."""
        return self.inputs[rows]

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns targets by position."""
        return self.targets[rows]


def head(task: Task, outputs: int) -> keras.Model:
    """Returns a network whose logits are twice its inputs, and one less: too sure of itself, and too low."""
    given = keras.Input((outputs,))
    last = keras.layers.Dense(outputs, activation="softmax" if task == "multiclass" else "sigmoid")
    model = keras.Model(given, last(given))
    last.set_weights([2 * np.eye(outputs, dtype=np.float32), np.full(outputs, -1, np.float32)])
    return model


def rows(task: Task, outputs: int, n: int = 4000) -> Rows:
    """Returns images whose true log-odds are the inputs."""
    random = np.random.default_rng(0)
    inputs = 1.5 * random.normal(size=(n, outputs)).astype(np.float32)
    if task == "multiclass":
        odds = np.exp(inputs)
        edges = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
        return Rows(inputs, (random.random((n, 1)) > edges).sum(axis=1))
    return Rows(inputs, (random.random((n, outputs)) < 1 / (1 + np.exp(-inputs))).astype(np.float32))


def run(
    network: keras.Model, validation: Rows, task: Task, method: str = "platt"
) -> tuple[Calibration | None, tuple[str, ...]]:
    """Calibrates a network whose outputs are named a, b and so on."""
    targets = tuple("abcdef"[: network.output_shape[-1]])
    return calibrate(
        network, validation, task=task, targets=targets, method=method,  # type: ignore[arg-type]
        batch_size=512, check=lambda: None,
    )  # fmt: skip


@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("multilabel", 3)])
def test_platt_finds_spread_and_level_of_every_label(task: Task, outputs: int) -> None:
    """The logits are 2x - 1 where x is true: divided by 2 and with one half added they are right."""
    network, validation = head(task, outputs), rows(task, outputs)
    before = network.predict(validation.inputs, verbose=0)
    found, told = run(network, validation, task)
    assert found is not None and told == ()
    np.testing.assert_allclose(list(found.temperature.values()), 2, atol=0.2)
    np.testing.assert_allclose(list(found.shift.values()), 0.5, atol=0.15)
    after = network.predict(validation.inputs, verbose=0)
    for column in range(outputs):
        line = slope_intercept(validation.targets[:, column] == 1, after[:, column].astype(float))
        assert (line.slope, line.intercept) == (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))
        np.testing.assert_array_equal(np.argsort(after[:, column]), np.argsort(before[:, column]))


def test_a_temperature_leaves_the_level() -> None:
    """It has one number to move, and no shift is recorded."""
    found, _ = run(head("binary", 1), rows("binary", 1), "binary", "temperature")
    assert found is not None and found.method == "temperature" and found.shift == {}
    assert found.temperature["a"] == pytest.approx(2.32, abs=0.05)  # what -1 too low looks like to a single number


def test_the_most_probable_class_stays_the_most_probable() -> None:
    """A multiclass task has one temperature and no shifts, whatever the method."""
    network, validation = head("multiclass", 3), rows("multiclass", 3)
    before = network.predict(validation.inputs, verbose=0)
    found, _ = run(network, validation, "multiclass")
    assert found is not None and (found.method, found.shift) == ("temperature", {})
    assert found.temperature == {"": pytest.approx(2, abs=0.1)}
    after = network.predict(validation.inputs, verbose=0)
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))


def test_the_recorded_likelihoods_are_those_of_the_network() -> None:
    """Before and after, recomputed from its probabilities."""
    network, validation = head("multilabel", 2), rows("multilabel", 2)

    def mean() -> float:
        p = network.predict(validation.inputs, verbose=0).astype(float)
        return float(np.mean([negative_log_likelihood(log_odds(p[:, k]), validation.targets[:, k]) for k in (0, 1)]))

    before = mean() / len(validation)
    found, _ = run(network, validation, "multilabel")
    assert found is not None and found.images == len(validation)
    assert found.nll_before == pytest.approx(before, abs=1e-5)
    assert found.nll_after == pytest.approx(mean() / len(validation), abs=1e-5)
    assert found.nll_after < found.nll_before - 0.01


def test_unknown_labels_do_not_count_and_rare_ones_stay_as_trained() -> None:
    """Label b has nine known positives: nothing is done to it, and it is named."""
    network, validation = head("multilabel", 2), rows("multilabel", 2)
    present = np.flatnonzero(validation.targets[:, 1])
    validation.targets[present[9:], 1] = np.nan
    validation.targets[:2000, 0] = np.nan
    found, told = run(network, validation, "multilabel")
    assert found is not None and found.temperature["b"] == 1 and found.temperature["a"] == pytest.approx(2, abs=0.3)
    assert len(told) == 1 and told[0].endswith("fewer than 10 images with or without: b.")
    kernel, bias = network.layers[-1].get_weights()
    assert (kernel[1, 1], bias[1]) == (2, -1)


def test_nothing_is_built_in_where_the_likelihood_does_not_grow() -> None:
    """The network is right already."""
    network, validation = head("multiclass", 3), rows("multiclass", 3)
    assert run(network, validation, "multiclass")[0] is not None
    kernel, bias = network.layers[-1].get_weights()
    found, _ = run(network, validation, "multiclass")
    assert found is None or found.nll_before - found.nll_after < 1e-7
    np.testing.assert_allclose(network.layers[-1].get_weights()[0], kernel, rtol=1e-3)
    network.layers[-1].set_weights([np.zeros((3, 3), np.float32), bias * 0])
    assert run(network, validation, "multiclass") == (None, ())


def test_platts_slope_is_that_of_the_penalised_likelihood() -> None:
    """The oracle is a general minimiser; on logits of any size, and with the mean probability as the share."""
    from scipy.optimize import minimize

    random = np.random.default_rng(3)
    z = random.normal(size=40)
    y = (random.random(40) < 1 / (1 + np.exp(1 - 2 * z))).astype(float)
    design = np.stack([np.ones(40), z], axis=1)

    def loss(coefficients: np.ndarray) -> float:
        e = design @ coefficients
        p = 1 / (1 + np.exp(-e))
        information = design.T @ (design * (p * (1 - p))[:, None])
        return float((np.logaddexp(0, e) - y * e).sum() - np.log(np.linalg.det(information)) / 2)

    found = minimize(loss, [0, 1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    for size in (1, 8, 0.2):
        temperature, shift = fit_platt(z * size, y, (1e-3, 1e3))
        assert temperature == pytest.approx(size / found[1], rel=1e-5)
        assert np.mean(1 / (1 + np.exp(-(z * size / temperature + shift)))) == pytest.approx(y.mean(), abs=1e-9)


def test_separated_classes_do_not_make_the_network_certain() -> None:
    """With 20 images right out of 20 the next may be wrong: the penalty keeps the probabilities off 0 and 1."""
    inputs = np.concatenate([np.full(10, -3.0), np.full(10, 3.0)])[:, None].astype(np.float32)
    network = head("binary", 1)
    network.layers[-1].set_weights([np.full((1, 1), 0.1, np.float32), np.zeros(1, np.float32)])
    found, _ = run(network, Rows(inputs, (inputs > 0).astype(np.float32)), "binary")
    assert found is not None
    p = network.predict(inputs, verbose=0)
    assert 0.9 < p.max() < 0.97 and p.min() == pytest.approx(1 - p.max(), abs=1e-4)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_ranking_that_is_upside_down_is_not_turned(sign: int) -> None:
    """A temperature is positive, and within its bounds."""
    validation = rows("binary", 1)
    temperature, _ = fit_platt(sign * validation.inputs[:, 0].astype(float), validation.targets[:, 0], (0.05, 20.0))
    assert temperature == (20 if sign < 0 else pytest.approx(1, abs=0.1))


@pytest.mark.parametrize("name", ["small_cnn", "mini_xception"])
@pytest.mark.parametrize(("task", "outputs"), [("multilabel", 2), ("multiclass", 3)])
def test_the_calibration_is_built_into_every_kind_of_network(name: str, task: Task, outputs: int) -> None:
    """A dense last layer, and one of maps whose mean is taken: probabilities are those of the calibrated logits."""
    keras.utils.set_random_seed(0)
    config = TrainConfig(model=name, weights=None, image_size=32)
    network = models.build(config, channels=1, outputs=outputs, task=task, weights=None).model
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (90, 32, 32, 1)).astype(np.float32)

    def outcome() -> np.ndarray:
        return np.asarray(network(images, training=False), float)

    logits = np.log(outcome()) if task == "multiclass" else log_odds(outcome())
    last = [layer for layer in network.layers if layer.weights][-1]
    size = 3 / logits.std(axis=0).mean()  # untrained, it says almost the same of all images
    last.kernel.assign(size * last.kernel)
    last.bias.assign(-size * logits.mean(axis=0))
    before = outcome()
    true = before**0.5 if task == "multiclass" else 1 / (1 + np.exp(-log_odds(before) / 2))
    if task == "multiclass":
        true /= true.sum(axis=1, keepdims=True)
        y = (random.random((90, 1)) > np.cumsum(true, axis=1)).sum(axis=1)
    else:
        y = (random.random((90, 2)) < true).astype(np.float32)
    found, told = run(network, Rows(images, y), task)
    assert found is not None and told == ()
    after = np.asarray(network(images, training=False), float)
    if task == "multiclass":
        raised = before ** (1 / found.temperature[""])
        wanted = raised / raised.sum(axis=1, keepdims=True)
    else:
        shift = np.array([found.shift.get(label, 0.0) for label in "ab"])
        wanted = 1 / (1 + np.exp(-(log_odds(before) / list(found.temperature.values()) + shift)))
    np.testing.assert_allclose(after, wanted, atol=1e-5)
    assert np.abs(after - before).max() > 1e-4


def test_a_network_that_ends_otherwise_is_left_as_it_is() -> None:
    """And its users are told."""
    given = keras.Input((1,))
    network = keras.Model(given, keras.layers.Activation("sigmoid")(keras.layers.Dense(1, use_bias=False)(given)))
    found, told = run(network, rows("binary", 1, 50), "binary")
    assert found is None and "does not end in a dense layer" in told[0]


def test_a_record_of_before_calibration_and_bands_is_read(job: tuple[ModelFolder, ModelFolder, Path]) -> None:
    """Models that were trained earlier still load: nothing was built in, and no answer is called uncertain."""
    written = json.loads((job[0].path / "medimg.json").read_text())
    for name in ("calibration", "uncertain", "conformal"):
        del written[name]
    del written["config"]["calibration"]
    record = ModelRecord.model_validate_json(json.dumps(written))
    assert (record.calibration, record.uncertain, record.conformal) == (None, {}, None)
    assert decide(record, [0.5, 0.5], latency_ms=1).uncertain is False


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelFolder, Path]:
    """The same training with and without calibration, and the images."""
    root = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(root / "home"))
        folder = write_phantoms(root / "phantoms", patients=120, images_per_patient=(1, 1), size=48)
        dataset = Dataset.from_folder(folder, group=r"(patient\d+)")
        config = TrainConfig(
            model="small_cnn", weights=None, image_size=48, epochs=2, batch_size=16, augment=False, early_stopping=None
        )
        made = [
            backend("local").train(dataset, config.model_copy(update={"calibration": method})).model
            for method in ("platt", None)
        ]
    return made[0], made[1], folder


def test_every_runtime_has_the_calibration(job: tuple[ModelFolder, ModelFolder, Path]) -> None:
    """LiteRT, Keras and the golden probabilities agree, and are those of the plain model calibrated as recorded."""
    model, plain, folder = job
    found = model.record.calibration
    assert found is not None and plain.record.calibration is None
    for runtime in ("litert", "keras"):
        assert Predictor(model, runtime=runtime).check_golden() <= 1e-4  # type: ignore[arg-type]
    (positive,) = found.temperature
    for path in sorted(folder.rglob("*.png"))[:10]:
        as_trained = np.array([plain.predict(path).probabilities[positive]])
        wanted = 1 / (1 + np.exp(-(log_odds(as_trained) / found.temperature[positive] + found.shift.get(positive, 0))))
        assert model.predict(path).probabilities[positive] == pytest.approx(float(wanted[0]), abs=1e-4)


def test_the_calibration_does_not_change_what_is_decided(job: tuple[ModelFolder, ModelFolder, Path]) -> None:
    """Thresholds move along with the probabilities: the same images are positive, and AUROC is the same."""
    model, plain, folder = job
    for path in sorted(folder.rglob("*.png"))[:40]:
        assert model.predict(path).label == plain.predict(path).label
    assert model.record.metrics["test"]["auroc"] == plain.record.metrics["test"]["auroc"]
    assert model.record.thresholds != plain.record.thresholds
