"""A user's own network: its code is found and travels, is built in the job alone, and is checked before it trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from image_folders import tree

from medimg import models
from medimg.artifact import ModelFolder
from medimg.backends.identity import inputs_folder
from medimg.backends.submission import Submission, prepare_training
from medimg.config import Resources, TrainConfig
from medimg.data.dataset import Dataset
from medimg.errors import ConfigError, WeightsError
from medimg.job import Paths, Stop
from medimg.models.source_code import MOST_BYTES, source_of
from medimg.progress import silent
from medimg.train import work

# Keras 3.15 hands TensorFlow variables to NumPy 2 in the old way whenever it saves or reads weights.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NETWORK = """
import keras

def build_net(config, *, channels, outputs, task):
    image = keras.Input((config.image_size, config.image_size, channels))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(FILTERS, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    activation = "softmax" if task == "multiclass" else "sigmoid"
    return keras.Model(image, keras.layers.Dense(outputs, activation=activation)(x))
"""
BEGIN = """
import keras
from keras import layers

def build_net(config, *, channels, outputs, task):
    image = keras.Input((config.image_size, config.image_size, channels))
    x = layers.Flatten()(image)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a new one, and Python's path and modules are afterwards as before."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_networks"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def write(here: Path, files: Mapping[str, str]) -> None:
    """Writes files."""
    for name, content in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)


def build(code: Path, function: str = "build_net", *, weights: Path | None = None) -> models.Classifier:
    """Builds a network for two grey images of 16 pixels and one output, as a job does."""
    config = TrainConfig(model=f"my_networks:{function}", weights=None if weights is None else str(weights))
    config = config.model_copy(update={"image_size": 16})
    return models.build(config, channels=1, outputs=1, task="binary", weights=weights, code=code)


# -- finding it ------------------------------------------------------------------------------------------------------


def test_a_file_is_found_in_the_current_folder_and_not_run(here: Path) -> None:
    """What it does when imported happens in the job."""
    write(here, {"my_networks.py": "raise RuntimeError\ndef build_net(): pass\n"})
    code = source_of("my_networks:build_net")
    assert code.files == {"my_networks.py": b"raise RuntimeError\ndef build_net(): pass\n"}
    assert "my_networks" not in sys.modules
    write(here, {"my_networks.py": "def build_net(): return 1\n"})
    assert source_of("my_networks:build_net").digest != code.digest


def test_of_a_package_only_its_python_files_travel(here: Path) -> None:
    """No settings, data, hidden folders, environments nor what lies beside it."""
    write(here, {
        "my_networks/__init__.py": "", "my_networks/deep/nets.py": "from ..blocks import build_net\n",
        "my_networks/blocks.py": "def build_net(): pass\n", "my_networks/.env": "KEY=1",
        "my_networks/patients.csv": "a",
        "my_networks/.venv/lib/big.py": "x", "other.py": "",
        "my_networks/env/pyvenv.cfg": "", "my_networks/env/lib/big.py": "x",
    })  # fmt: skip
    files = source_of("my_networks.deep.nets:build_net").files
    assert sorted(files) == ["my_networks/__init__.py", "my_networks/blocks.py", "my_networks/deep/nets.py"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("my_networks:build_ne", "my_networks.py has no function 'build_ne'. Did you mean 'build_net'"),
        ("nowhere:build_net", "there is no nowhere.py and no folder nowhere in .*project"),
        ("my-networks:build_net", "is named module:function"),
        ("my_networks:", "is named module:function"),
        ("__main__:build_net", "Begin its cell with the line %%writefile my_networks.py"),
        ("keras.applications:ResNet50", "keras is a package that is installed here"),
        ("json:loads", "json is a package that is installed here"),
        ("medimg.models.small:small_cnn", "medimg is a package that is installed here"),
        ("my_package.nets:build_net", "has no my_package/nets.py"),
        ("neighbours:build_net", "neighbours.py, line 2: it imports my_networks, which lies beside it"),
        ("wrong:build_net", r"wrong.py is not Python that can be read: .*line 1"),
    ],
)
def test_what_cannot_travel_is_refused_with_what_to_do(here: Path, model: str, message: str) -> None:
    """Before a job is sent."""
    write(here, {
        "my_networks.py": NETWORK, "my_package/__init__.py": "", "wrong.py": "def build_net(:\n",
        "neighbours.py": "import json, keras, numpy\nfrom my_networks import build_net\n",
    })  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        source_of(model)


def test_a_link_in_a_package_brings_nothing_along_from_elsewhere(here: Path, tmp_path: Path) -> None:
    """What it leads to was not put there to be sent; a link inside the package is a file of it."""
    (tmp_path / "secrets.py").write_text("KEY = 1")
    write(here, {"my_networks/__init__.py": "def build_net(): pass\n"})
    (here / "my_networks/alias.py").symlink_to("__init__.py")
    assert len(source_of("my_networks:build_net").files) == 2
    (here / "my_networks/settings.py").symlink_to(tmp_path / "secrets.py")
    with pytest.raises(ConfigError, match=r"my_networks/settings\.py is a link to a file elsewhere"):
        source_of("my_networks:build_net")


def test_code_that_is_too_large_is_listed(here: Path) -> None:
    """The largest file first."""
    write(here, {"my_networks/__init__.py": "def build_net(): pass\n", "my_networks/table.py": "#" * MOST_BYTES})
    with pytest.raises(ConfigError, match=r"2 files of 1,000,022 bytes.*\n  my_networks/table.py: 1,000,000 bytes\n"):
        source_of("my_networks:build_net")


def test_it_starts_from_scratch_unless_weights_are_given() -> None:
    """The default of all others would be an error for it."""
    assert TrainConfig(model="my_networks:build_net").weights is None
    config = TrainConfig(model=tree)
    assert (config.model, config.weights) == ("image_folders:tree", None)
    with pytest.raises(ConfigError, match="weights='imagenet': there are none of my_networks:build_net"):
        models.check(TrainConfig(model="my_networks:build_net", weights="imagenet"))


# -- building it -----------------------------------------------------------------------------------------------------


def test_a_layer_called_features_parts_backbone_and_head(here: Path) -> None:
    """So that weights can be taken over up to there; other code of the same name is another network."""
    networks = []
    for filters in ("3", "4"):
        write(here, {f"{filters}/my_networks.py": NETWORK.replace("FILTERS", filters)})
        networks.append(build(here / filters))
        assert networks[-1].backbone is not None
        assert networks[-1].backbone.output_shape == (None, int(filters))
    networks[1].model.save(here / "model.keras")
    again = build(here / "4", weights=here / "model.keras")
    assert again.backbone is not None
    for one, other in zip(networks[1].model.get_weights(), again.backbone.get_weights(), strict=False):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(WeightsError, match="does not fit my_networks:build_net"):
        build(here / "3", weights=here / "model.keras")
    assert not list(here.rglob("__pycache__"))


def test_a_network_without_features_trains_as_a_whole(here: Path) -> None:
    """Also a sequential one; weights have nowhere to go then."""
    layers = "keras.Input((16, 16, 1)), layers.Flatten(), layers.Dense(1, activation='sigmoid')"
    write(here, {"my_networks.py": f"{BEGIN}    return keras.Sequential([{layers}])\n"})
    network = build(here)
    assert (network.backbone, network.head) == (None, None)
    network.model.save(here / "model.keras")
    with pytest.raises(WeightsError, match='Call the layer whose output the head is to learn from "features"'):
        build(here, weights=here / "model.keras")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return 1", "returned int, not a keras.Model"),
        ("return layers.Dens(1)(x)", r"failed:\n  my_networks.py, line 8, in build_net: return layers.Dens\(1\)\(x\)\n"
         "AttributeError: .*no attribute 'Dens'"),
        ("return keras.Model(image, layers.Dense(2, activation='sigmoid')(x))", r"its output is \(None, 2\), not"),
        ("return keras.Model(x, layers.Dense(1, activation='sigmoid')(x))", r"its input is \(None, 256\), not"),
        ("return keras.Model(image, layers.Dense(1)(x))", "activation is linear; a binary task needs sigmoid"),
        ("return keras.Model(image, layers.Dense(1, activation='softmax')(x))", "activation is softmax"),
        ("return keras.Model(image, layers.Dense(1, activation='sigmoid', dtype='bfloat16')(x))",
         "Give the last layer dtype='float32'"),
        ("return keras.Model(image, layers.Reshape((1,))(layers.Dense(1)(x)))", "is no probabilities"),
        ("return keras.Model(image, layers.Dense(1, activation='sigmoid')(layers.Lambda(lambda x: x)(x)))",
         "it uses a Lambda. A trained model must load"),
        ("return keras.Model(image, layers.Dense(1, activation='sigmoid')(Mine()(x)))", "it uses Mine of my_networks"),
        ("return keras.Model(image, layers.Dense(1, activation='sigmoid')(layers.Activation(relu)(x)))",
         "cannot be read again .Could not locate function 'my_relu'"),
        ("return keras.Model(image, layers.Dense(1, activation='sigmoid')(layers.Activation(known)(x)))",
         "it uses known. A trained"),
        ("from medimg.models import Classifier\n"
         "    maps, entry = layers.Rescaling(0.1)(image), keras.Input((16, 16, 1))\n"
         "    head = keras.Model(entry, layers.Dense(1, activation='sigmoid')(layers.Flatten()(entry)))\n"
         "    return Classifier(keras.Model(image, head(maps)), keras.Model(image, maps), head)",
         r"its features are float32 \(None, 16, 16, 1\); those that a head is trained on"),
    ],
)  # fmt: skip
def test_what_could_not_be_served_is_refused_before_it_trains(here: Path, code: str, message: str) -> None:
    """With the user's own line, or with what to write instead."""
    more = """
class Mine(layers.Layer):
    def call(self, x):
        return x

def relu(x):
    return keras.ops.relu(x)

relu.__name__ = "my_relu"

@keras.saving.register_keras_serializable("mine")
def known(x):
    return x
"""
    write(here, {"my_networks.py": f"{BEGIN}    {code}\n{more}"})
    with pytest.raises(ConfigError, match=f"model='my_networks:build_net' .*{message}"):
        build(here)


# -- in a job --------------------------------------------------------------------------------------------------------


def submission(root: Path, **settings: Any) -> Submission:
    """Prepares a training of the network on images of two classes."""
    config = TrainConfig(model="my_networks:build_net", image_size=16, epochs=1, cases=0, **settings)
    dataset = Dataset.from_folder(root, group=r"(\w+/p\d+)")
    return prepare_training(dataset, config, Resources(), "own", (), silent)


def run(submitted: Submission, folder: Path) -> ModelFolder:
    """Does the job, as `python -m medimg.train` does it."""
    out, checkpoints = folder / "out", folder / "checkpoints"
    paths = Paths(folder / "spec.json", submitted.pack, inputs_folder(), out, checkpoints)
    for path in (out, checkpoints):
        path.mkdir(parents=True)
    work(submitted.spec(1, submitted.base, {}), paths, Stop(), silent)
    return ModelFolder.load(out / "model")


def test_the_code_travels_with_the_job_and_its_model_starts_the_next(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is given a folder named by the content, finds the module there alone, and other code is another job."""
    root = tree(tmp_path / "images", {"NORMAL": 70, "PNEUMONIA": 70})
    write(here, {"my_networks.py": NETWORK.replace("FILTERS", "3")})
    submitted = submission(root)
    code = submitted.first.inputs["code"]
    assert [path.name for path in (inputs_folder() / code).rglob("*")] == ["my_networks.py"]
    assert str(here) not in submitted.first.model_dump_json()
    write(here, {"my_networks.py": NETWORK.replace("FILTERS", "4")})
    assert submission(root).base != submitted.base

    write(here, {"my_networks.py": NETWORK.replace("FILTERS", "3")})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(here)])
    first = run(submitted, tmp_path / "first")
    assert first.record.config.model == "my_networks:build_net"
    assert set(first.record.runtimes) == {"litert", "saved_model"}
    assert first.predict(next(root.rglob("*.png"))).label in ("NORMAL", "PNEUMONIA")

    monkeypatch.chdir(here)
    second = run(submission(root, weights=first), tmp_path / "second")
    before, after = (keras.saving.load_model(one.path / "model.keras", compile=False) for one in (first, second))
    np.testing.assert_array_equal(before.layers[2].get_weights()[0], after.layers[2].get_weights()[0])
    assert any("starts from the weights of a model trained before" in notice for notice in second.record.notices)
