"""Keras on JAX: trained on a machine without TensorFlow, exact after a kill, and in agreement with TensorFlow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from medimg import framework, models
from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.backends.submission import prepare_training
from medimg.config import JobSpec, Resources, TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.pack import build
from medimg.errors import ConfigError, ModelFolderError
from medimg.export import export
from medimg.inference.predictor import TOLERANCE, Predictor
from medimg.progress import parse, silent

# What JAX compiles here runs for a moment: to optimise it takes longer than to run it as it is.
XLA = "--xla_backend_optimization_level=0"
pytestmark = pytest.mark.skipif(not framework.installed("jax"), reason="JAX is not installed: pip install jax")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has all that this one has, but TensorFlow."""
    root = tmp_path_factory.mktemp("without-tensorflow")
    venv.EnvBuilder(symlinks=True).create(root)
    (packages,) = root.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith("tensorflow"):
            (packages / package.name).symlink_to(package)
    return root / "bin" / "python"


def on_jax(python: Path, code: str, *arguments: object, **environment: str) -> Any:
    """Returns the JSON in the last line that code prints in a process with Keras on JAX."""
    run = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False,
        env=os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": XLA} | environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


# -- a job without TensorFlow -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A training on JAX with augmentation and dropout, without TensorFlow, and how to run it."""

    python: Path
    root: Path
    pack: Path
    spec: JobSpec

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts the trainer; runs of the same name share checkpoints."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(self.spec.model_dump_json())
        paths = {"spec": folder / "spec.json", "data": self.pack, "inputs": self.root, "out": folder / "out",
                 "checkpoints": folder / "checkpoints"}  # fmt: skip
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                [self.python, "-m", "medimg.train", *(a for k, v in paths.items() for a in (f"--{k}", str(v)))],
                stdout=log, stderr=log,
                env=os.environ | compiled_once(self.root) | {"MEDIMG_CHECKPOINT_SECONDS": "0.05", "XLA_FLAGS": XLA},
            )  # fmt: skip

    def events(self, name: str) -> list[Any]:
        """Returns what a run has reported so far."""
        lines = (self.root / name / "log").read_text().splitlines()
        return [event for event in map(parse, lines) if event is not None]

    def finish(self, name: str) -> ModelFolder:
        """Runs the job to its end."""
        code = self.start(name).wait()
        assert code == 0, (self.root / name / "log").read_text()[-3000:]
        return ModelFolder.load(self.root / name / "out" / "model")


@pytest.fixture(scope="module")
def job(python: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The job; the environment says TensorFlow, its specification JAX."""
    root = tmp_path_factory.mktemp("jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(root / "home"))
        patch.setenv("KERAS_BACKEND", "tensorflow")
        dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
        pack = build(dataset, 64, facts=dataset.index())
        config = TrainConfig(model="small_cnn", weights=None, image_size=64, epochs=3, batch_size=16, cases=2,
                             early_stopping=None, seed=3)  # fmt: skip
        spec = JobSpec(base="exact", checkpoints="exact", config=config, data="data", pack=pack.path.name,
                       samples=pack.manifest, code="code", allow=("constant-predictions",),
                       framework="jax")  # fmt: skip
        yield Job(python, root, pack.path, spec)


@pytest.fixture(scope="module")
def undisturbed(job: Job) -> ModelFolder:
    """Its model, from a run that was left alone."""
    return job.finish("undisturbed")


def compiled_once(folder: Path) -> dict[str, str]:
    """Returns what has JAX compile every network once, whichever process is the first that needs it."""
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def weights_of(model: ModelFolder) -> list[np.ndarray]:
    """Returns every weight of the trained network."""
    return keras.saving.load_model(model.path / "model.keras", compile=False).get_weights()


def test_a_job_trains_where_tensorflow_is_not_installed(job: Job, undisturbed: ModelFolder) -> None:
    """Its model has golden inputs and a report with what the network saw; what is missing says how it is made."""
    record = undisturbed.record
    assert "jax" in record.versions
    assert "tensorflow" not in record.versions
    assert len(undisturbed.history) == 3
    assert len(undisturbed.golden) >= 4
    assert undisturbed.report.cases
    assert record.runtimes == {}
    assert record.missing.keys() == {"litert", "saved_model"}
    assert "Where that is installed: model.export('litert')" in record.missing["litert"]
    warned = [event.message for event in job.events("undisturbed") if event.kind == "warning"]
    assert len(warned) == 2, warned


def test_a_killed_job_ends_with_the_same_bits(job: Job, undisturbed: ModelFolder) -> None:
    """Killed between two steps' checkpoints, with dropout and augmentation drawing."""
    process = job.start("killed")
    while not list((job.root / "killed" / "checkpoints").glob("step-*")):
        assert process.poll() is None, (job.root / "killed" / "log").read_text()[-3000:]
        time.sleep(0.01)
    process.kill()
    process.wait()
    model = job.finish("killed")
    assert any("resumed at epoch" in event.message for event in job.events("killed"))
    for found, expected in zip(weights_of(model), weights_of(undisturbed), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_exports_are_made_later_and_checked_against_the_golden_inputs(undisturbed: ModelFolder, tmp_path: Path) -> None:
    """On a machine with TensorFlow; the folder is sealed anew, its handle knows, and copies are not touched."""
    copy = Path(shutil.copytree(undisturbed.path, tmp_path / "copy", copy_function=os.link))
    model = ModelFolder.load(shutil.copytree(undisturbed.path, tmp_path / "model", copy_function=os.link))
    assert model.export("litert") == model.path / "exports" / "model.tflite"
    assert model.export("saved_model").is_dir()
    assert model.record.missing == {}
    assert model.digest != undisturbed.digest
    again = ModelFolder.load(model.path, digest=model.digest)
    assert again.golden == undisturbed.golden
    assert Predictor(again, runtime="litert").check_golden() < TOLERANCE
    assert ModelFolder.load(copy).digest == undisturbed.digest


def test_nothing_is_added_to_a_model_whose_digest_a_registry_keeps(undisturbed: ModelFolder, tmp_path: Path) -> None:
    """It would not be that model any more; the message says how a copy gets the export."""
    folder = shutil.copytree(undisturbed.path, tmp_path / "model", copy_function=os.link)
    with pytest.raises(ModelFolderError, match="copytree"):
        ModelFolder.load(folder, digest=undisturbed.digest).export("litert")
    assert ModelFolder.load(folder).digest == undisturbed.digest


def test_an_export_that_does_not_give_the_golden_probabilities_is_not_accepted(
    undisturbed: ModelFolder, tmp_path: Path
) -> None:
    """It is left out with the reason, and the golden inputs stay as they were."""
    folder = Path(shutil.copytree(undisturbed.path, tmp_path / "model", copy_function=shutil.copyfile))
    rows = json.loads((folder / "golden" / "golden.json").read_text())
    first = min(rows)
    wrong = rows | {first: [value / 2 for value in rows[first]]}
    (folder / "golden" / "golden.json").write_text(json.dumps(wrong))
    runtimes, missing = export(folder, check=lambda: None)
    assert runtimes == {}
    assert missing.keys() == {"litert", "saved_model"}
    assert all(why.startswith("its probabilities differ from Keras' by 0.") for why in missing.values()), missing
    assert not [path for path in (folder / "exports").rglob("*") if path.is_file()]
    assert json.loads((folder / "golden" / "golden.json").read_text()) == wrong


_IN_USE = """
import json, os, sys
from medimg import framework
from medimg.artifact import ModelFolder
from medimg.errors import MedimgError
from medimg.inference.predictor import Predictor

model = ModelFolder.load(sys.argv[1])
told = []
for ask in (lambda: model.export("litert"), lambda: (os.environ.pop("KERAS_BACKEND"), framework.found_here())):
    try:
        ask()
    except MedimgError as error:
        told.append(str(error))
os.environ["KERAS_BACKEND"] = "jax"
predictor = Predictor(model)
images = [predictor.prepare(golden.content, name=golden.name) for golden in model.golden]
import numpy as np
together = predictor.probabilities(np.stack([*images, *images[:1]]))
print(json.dumps({"told": told, "worst": predictor.check_golden(tolerance=1e-6), "runtime": predictor.runtime.name,
                  "together": together.tolist()}))
"""


def test_a_model_without_exports_predicts_on_jax(python: Path, undisturbed: ModelFolder) -> None:
    """One by one as many at once; asked for an export, or for TensorFlow, it says what to do."""
    found = on_jax(python, _IN_USE, undisturbed.path, KERAS_HOME=str(undisturbed.path))
    assert found["runtime"] == "keras"
    assert found["worst"] <= 1e-6
    expected = [golden.probabilities for golden in undisturbed.golden]
    np.testing.assert_allclose(found["together"], [*expected, expected[0]], rtol=0, atol=1e-6)
    assert "Where that is installed: model.export('litert')" in found["told"][0]
    assert "pip install tensorflow, or use what is: export KERAS_BACKEND=jax" in found["told"][1]


# -- in agreement with TensorFlow -------------------------------------------------------------------------------------

# The same for both frameworks: networks from files, the same batches, and what comes of them.
_WORK = """
def work(folder, devices):
    import keras
    import numpy as np
    from medimg.evaluation.explain import grad_cam
    from medimg.training.steps import Devices, compile_for

    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (21, 64, 64, 1)).astype(np.float32)
    y = (images.mean(axis=(1, 2)) > 127.5).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, (21, 1)).astype(np.float32)
    found = {}
    network = keras.saving.load_model(f"{folder}/mobilenet_v2.keras", compile=False)
    found["mobilenet_v2"] = Devices([]).forward(network)(images)
    for number, names in enumerate(devices):
        several = Devices(names)
        keras.utils.set_random_seed(0)
        with several.scope():
            network = keras.saving.load_model(f"{folder}/small_cnn.keras", compile=False)
            compile_for(network, "binary", 1e-3)
            network.optimizer.build(network.trainable_variables)
        step = several.step(network)
        losses = [step(images[i:i + 7], y[i:i + 7], weights[i:i + 7]) for _ in range(4) for i in (0, 7, 14)]
        step.settle()
        found[f"losses {number}"] = np.array(losses)
        found[f"trained {number}"] = several.forward(network)(images)
    found["map"] = grad_cam(network, images[:3], 0)
    return found
"""

_ON_JAX = (
    _WORK
    + """
import json, sys
from medimg import framework
framework.use("jax")
framework.load()
beside = sorted({"matplotlib", "pandas", "sklearn"} & set(sys.modules))
from importlib.util import find_spec
assert find_spec("sklearn")
import numpy as np
found = work(sys.argv[1], [[], ["cpu:0", "cpu:1"]])
np.savez(f"{sys.argv[1]}/jax.npz", **found)
import keras
print(json.dumps({"framework": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules, "beside": beside}))
"""
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray], Any]:
    """What comes of the same networks and batches on TensorFlow, on JAX with one device and two, and how JAX ran."""
    folder = tmp_path_factory.mktemp("both")
    keras.utils.set_random_seed(0)
    for name, options in (("mobilenet_v2", {"alpha": 0.35}), ("small_cnn", {})):
        # Masks of dropout are drawn otherwise: without it the frameworks compute the same.
        config = TrainConfig(model=name, model_options=options, weights=None, image_size=64, dropout=0.0)
        models.build(config, channels=1, outputs=1, task="binary", weights=None).model.save(folder / f"{name}.keras")
    scope: dict[str, Any] = {}
    exec(_WORK, scope)  # noqa: S102 - the text above, which the other process runs too
    here = scope["work"](folder, [[]])
    told = on_jax(
        Path(sys.executable), _ON_JAX, folder, XLA_FLAGS=f"{XLA} --xla_force_host_platform_device_count=2",
        KERAS_BACKEND="tensorflow",
    )  # fmt: skip
    with np.load(folder / "jax.npz") as there:
        return here, dict(there), told


def test_tensorflow_and_what_keras_offers_beside_are_not_imported(both: tuple[Any, Any, Any]) -> None:
    """Keras would import it only to seed random numbers, for seconds and hundreds of MB."""
    assert both[2] == {"framework": "jax", "tensorflow": False, "beside": []}


@pytest.mark.parametrize("what", ["mobilenet_v2", "losses 0", "trained 0", "map"])
def test_jax_agrees_with_tensorflow(both: tuple[Any, Any, Any], what: str) -> None:
    """Probabilities of the same weights, and after the same twelve steps; losses; and what Grad-CAM shows."""
    on_tensorflow, found, _ = both
    np.testing.assert_allclose(found[what], on_tensorflow[what], rtol=0, atol=TOLERANCE)


def test_two_devices_of_jax_end_as_one(both: tuple[Any, Any, Any]) -> None:
    """Batches of seven rows are filled up with one of weight 0."""
    _, found, _ = both
    for what in ("losses", "trained"):
        np.testing.assert_allclose(found[f"{what} 1"], found[f"{what} 0"], rtol=0, atol=1e-5)


# -- which framework --------------------------------------------------------------------------------------------------


def test_the_framework_is_found_as_keras_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, else Keras' own file, else TensorFlow."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert framework.found_here() == "tensorflow"
    for content in ("no JSON", "[]", "{}"):
        (tmp_path / "keras.json").write_text(content)
        assert framework.found_here() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert framework.found_here() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert framework.found_here() == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ConfigError, match=r"'torch' here .* Run: export KERAS_BACKEND=tensorflow, or export"):
        framework.found_here()


def test_the_framework_is_a_part_of_a_jobs_name(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An equal call on the other framework does not attach to the first one's job."""
    dataset = Dataset.from_folder(phantoms, group=r"(patient\d+)")
    config = TrainConfig(model="small_cnn", weights=None, image_size=64)
    works = [
        prepare_training(dataset, config, Resources(), "chest", (), silent, framework)
        for framework in ("tensorflow", "jax", "jax")
    ]
    assert works[0].base != works[1].base == works[2].base
    assert works[1].first.framework == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backend("local")._framework() == "jax"
