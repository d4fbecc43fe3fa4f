"""A model trained before is the starting point of another: what is taken from it, and what must agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from medimg import models
from medimg.artifact import ModelFolder, ModelRecord, Preprocessing
from medimg.backends.identity import file_input
from medimg.backends.starting_point import settled
from medimg.config import TrainConfig
from medimg.errors import ConfigError, ModelFolderError, WeightsError
from medimg.models import weights

# Keras 3.15 hands TensorFlow variables to NumPy 2 in the old way whenever it saves or reads weights.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def trained_as(folder: Path, config: TrainConfig) -> ModelFolder:
    """Returns as much of a model that was trained under a configuration as a submit looks at."""
    folder.mkdir()
    preprocessing = Preprocessing(image_size=config.image_size, channels=1, normalisation=config.normalisation)
    record = ModelRecord(
        classes=("ill", "well"), task="binary", positive="ill", preprocessing=preprocessing, config=config
    )
    return ModelFolder.seal(folder, record)


def test_what_the_configuration_does_not_say_is_as_it_was(tmp_path: Path) -> None:
    """Network, options, size and normalisation; a size that is given is taken."""
    before = TrainConfig(model_options={"alpha": 0.5}, image_size=96, normalisation="clahe")
    model = trained_as(tmp_path / "model", before)
    start = settled(TrainConfig(weights=model, seed=3))
    assert start.config == before.model_copy(update={"weights": str(model.path / "model.keras"), "seed": 3})
    assert start.notices == (
        f"The network starts from the weights of a model trained before ({model.digest[:12]}; ill, well).",
    )
    assert settled(TrainConfig(weights=str(model.path), image_size=64)).config.image_size == 64
    again = settled(TrainConfig(weights=model, model="MobileNetV2", model_options={"alpha": 0.5}))
    assert again.config.model == "mobilenet_v2"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig(model="resnet50"), "is mobilenet_v2 with alpha=0.5, but the configuration asks for resnet50"),
        (TrainConfig(model="mobilenet_v2"), "is mobilenet_v2 with alpha=0.5, .* asks for mobilenet_v2 with alpha=1.0"),
        (TrainConfig(model="mine:net"), "is mobilenet_v2, but the configuration asks for mine:net"),
        (TrainConfig(normalisation=None), "normalisation='clahe', but the configuration asks for None"),
    ],
)
def test_what_does_not_agree_is_refused_and_both_are_named(config: TrainConfig, message: str, tmp_path: Path) -> None:
    """The weights would be of no use."""
    model = trained_as(tmp_path / "model", TrainConfig(model_options={"alpha": 0.5}, normalisation="clahe"))
    with pytest.raises(WeightsError, match=message):
        settled(config.model_copy(update={"weights": str(model.path)}))


def test_the_backbone_of_a_trained_model_is_taken_bit_by_bit(trained: ModelFolder) -> None:
    """Its file travels, named by its content; other classes have a new head."""
    config = settled(TrainConfig(weights=trained)).config
    assert (config.model, config.image_size) == ("small_cnn", 64)
    file = weights.resolve(config)
    assert file == trained.path / "model.keras"
    travelling = file_input(file).path
    config = config.model_copy(update={"weights": travelling.name})
    channels = trained.record.preprocessing.channels
    network = models.build(config, channels=channels, outputs=3, task="multiclass", weights=travelling)
    before = keras.saving.load_model(file, compile=False)
    assert network.backbone is not None
    layers = [layer for layer in network.backbone.layers if layer.weights]
    assert [layer.name for layer in layers] == ["conv1", "conv2", "features"]
    for layer in layers:
        for one, other in zip(before.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_changed_model_folder_and_a_network_without_a_backbone_are_refused(tmp_path: Path) -> None:
    """Weights are read only after every file of the folder was verified."""
    small = trained_as(tmp_path / "small", TrainConfig(model="mini_xception", weights=None))
    with pytest.raises(ConfigError, match="mini_xception has no part that could be taken over"):
        models.check(settled(TrainConfig(weights=small)).config)
    copy = Path(shutil.copytree(small.path, tmp_path / "copy"))
    (copy / "model.keras").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r"model\.keras does not belong to the model"):
        settled(TrainConfig(weights=copy))


def test_grey_weights_are_no_start_for_colour_where_the_first_layer_differs(tmp_path: Path) -> None:
    """It is said before anything is packed or sent; networks of keras.applications take both."""
    small = trained_as(tmp_path / "small", TrainConfig(model="small_cnn", weights=None))
    start = settled(TrainConfig(weights=small))
    start.check_channels(1)
    with pytest.raises(WeightsError, match="was trained on grey images, and these are colour"):
        start.check_channels(3)
    settled(TrainConfig(weights=trained_as(tmp_path / "large", TrainConfig()))).check_channels(3)
