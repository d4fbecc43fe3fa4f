"""Every network is built, trained, saved, loaded, exported and asked alike, and is the one that Keras publishes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
from keras.src.applications import resnet
from keras.src.utils import file_utils

from medimg import models
from medimg.artifact import ModelRecord, Preprocessing
from medimg.config import Task, TrainConfig
from medimg.data.synthetic import golden_files
from medimg.evaluation.explain import grad_cam
from medimg.export import export
from medimg.inference.predictor import TOLERANCE
from medimg.inference.runtimes import LiteRTRuntime
from medimg.models import registry, weights
from medimg.models.applications import APPLICATIONS
from medimg.models.backbones import preprocess

# Keras 3.15 hands TensorFlow variables to NumPy 2 in the old way whenever it saves or reads weights.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LOSSES = {
    "binary": "binary_crossentropy",
    "multilabel": "binary_crossentropy",
    "multiclass": "categorical_crossentropy",
}
PRETRAINED = [name for name in models.available() if registry.architecture(name).application is not None]
# Converting the others takes minutes of the processor in all: `python benchmarks/studies/networks.py` does it.
EXPORTED = ("mini_xception", "mobilenet_v2", "small_cnn")
# Of the same layers as another of the list, in other numbers: only their features are compared.
LIKE_ANOTHER = ("efficientnetv2-s",)


def images(n: int, size: int, channels: int) -> np.ndarray:
    """Returns noise in the range of pixels."""
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels)).astype("float32")


def run(model: Any, x: np.ndarray) -> np.ndarray:
    """Returns a model's output in inference mode, without the cost of compiling a graph for two images."""
    return np.asarray(model(x, training=False))


def function(name: str) -> Callable[..., keras.Model]:
    """Returns Keras' function that makes a network."""
    application = registry.architecture(name).application
    assert application is not None
    made: Callable[..., keras.Model] = getattr(keras.applications, application.name)
    return made


def learn_statistics(model: keras.Model, x: np.ndarray) -> None:
    """Makes batch normalisation normalise these images: features vanish without, and anything would agree."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def live_through(
    tmp_path: Path, config: TrainConfig, classifier: models.Classifier, task: Task, *, exported: bool = False
) -> None:
    """Takes a network through one step of training, save, safe load, export, prediction and explanation."""
    model = classifier.model
    size, channels, outputs = config.image_size, model.input_shape[-1], model.output_shape[-1]
    assert model.input_shape == (None, size, size, channels)
    names = [layer.name for layer in model.layers]
    assert len(names) == len(set(names))
    # Its gradient in TensorFlow 2.21's oneDNN writes beyond its memory and kills the process.
    assert not any(
        layer.kernel_size == (1, 1) and layer.strides != (1, 1)
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )

    x = images(2, size, channels)
    before = [np.array(w) for w in model.trainable_weights]
    # Eagerly: one step is quicker than tracing it. Adam's first would make probabilities of 0 and 1.
    model.compile(keras.optimizers.SGD(1e-3), LOSSES[task], run_eagerly=True, jit_compile=False)
    model.fit(x, np.eye(2, outputs, dtype="float32"), batch_size=2, epochs=1, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.trainable_weights, strict=True))
    learn_statistics(model, x)

    p = run(model, x)
    assert p.dtype == np.float32
    assert p.shape == (2, outputs)
    assert ((p >= 0) & (p <= 1)).all()
    if task == "multiclass":
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    if classifier.backbone is not None and classifier.head is not None:
        features = run(classifier.backbone, x)
        assert features.dtype == np.float32
        np.testing.assert_allclose(run(classifier.head, features), p, atol=1e-5)

    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(run(loaded, x), p)
    maps = grad_cam(loaded, x[:1], 0)
    assert maps.shape == (1, size, size)
    if exported:
        check_exports(tmp_path, config, x, p, task)


def check_exports(folder: Path, config: TrainConfig, x: np.ndarray, p: np.ndarray, task: Task) -> None:
    """Exports the network as the trainer does; LiteRT says what Keras says of images that differ."""
    (folder / "golden").mkdir()
    for name, content in golden_files().items():
        (folder / "golden" / name).write_bytes(content)
    preprocessing = Preprocessing(image_size=config.image_size, channels=1 if x.shape[-1] == 1 else 3)
    record = ModelRecord(classes=("a", "b", "c"), task=task, preprocessing=preprocessing, config=config)
    (folder / "medimg.json").write_text(record.model_dump_json())
    runtimes, missing = export(folder, check=lambda: None)
    assert missing == {}
    found = LiteRTRuntime(folder / runtimes["litert"], workers=1).outputs(x.astype(np.uint8))
    assert np.abs(np.diff(p, axis=0)).max() > 10 * TOLERANCE
    np.testing.assert_allclose(found, p, atol=TOLERANCE)


# -- those that are registered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_pretrained_network_is_that_of_keras_and_lives(name: str, tmp_path: Path) -> None:
    """Its features are Keras' own from weights in the layout that Keras publishes; then it is trained and served."""
    network, size = registry.architecture(name), max(48, registry.architecture(name).min_size)
    assert network.application is not None
    keras.utils.set_random_seed(0)
    theirs = function(name)(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    preprocess_input = importlib.import_module(function(name).__module__).preprocess_input
    x = images(2, size, 3)
    config = TrainConfig(model=name, weights=str(tmp_path / "theirs.h5"), image_size=size)
    theirs.save(config.weights)
    sizes = [(len(weight.shape), int(np.prod(weight.shape))) for weight in theirs.weights]
    count = {axes: sum(one for of, one in sizes if of == axes) for axes in (1, 4)}
    assert (network.application.convolutions, network.application.vectors) == (count[4], count[1])

    ours = models.build(config, channels=3, outputs=3, task="multiclass", weights=weights.resolve(config))
    expected = run(theirs, preprocess_input(x.copy()))
    # Of the largest, since features vanish with random weights. Pixels are scaled by one multiplication and one
    # addition, in Keras by several operations.
    np.testing.assert_allclose(run(ours.backbone, x), expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    if name not in LIKE_ANOTHER:
        live_through(tmp_path, config, ours, "multiclass", exported=name in EXPORTED)


@pytest.mark.parametrize("name", ["mini_xception", "small_cnn"])
def test_the_small_networks_live(name: str, tmp_path: Path) -> None:
    """From scratch."""
    config = TrainConfig(model=name, weights=None, image_size=48)
    network = models.build(config, channels=3, outputs=3, task="multiclass", weights=None)
    live_through(tmp_path, config, network, "multiclass", exported=name in EXPORTED)


@pytest.mark.parametrize("name", ["mobilenet_v2", "VGG16", "mini_xception", "small_cnn"])
def test_grey_images_train_too(name: str, tmp_path: Path) -> None:
    """One output; a grey image counts as its RGB copy, whatever the order of colours."""
    config = TrainConfig(model=name, weights=None, image_size=48)
    grey = models.build(config, channels=1, outputs=1, task="binary", weights=None)
    if registry.architecture(name).application is not None:
        colour = models.build(config, channels=3, outputs=1, task="binary", weights=None)
        colour.model.set_weights(grey.model.get_weights())
        x = images(2, 48, 1)
        np.testing.assert_allclose(run(grey.model, x), run(colour.model, np.repeat(x, 3, axis=3)), atol=1e-6)
    else:
        live_through(tmp_path, config, grey, "binary")


@pytest.mark.parametrize("name", ["mini_xception", "small_cnn"])
@pytest.mark.parametrize("size", [16, 28, 33])
def test_small_networks_build_from_their_smallest_size_for_several_labels(name: str, size: int, tmp_path: Path) -> None:
    """Sigmoid outputs are independent of each other."""
    config = TrainConfig(model=name, weights=None, image_size=size)
    network = models.build(config, channels=1, outputs=4, task="multilabel", weights=None)
    live_through(tmp_path, config, network, "multilabel")


def test_small_networks_stay_small_at_full_size() -> None:
    """The flattened layer must not grow with the image."""
    for name in ("mini_xception", "small_cnn"):
        config = TrainConfig(model=name, weights=None)
        assert models.build(config, channels=1, outputs=1, task="binary", weights=None).model.count_params() < 70_000


# -- any other of Keras -----------------------------------------------------------------------------------------------


def test_every_network_of_keras_is_in_the_table() -> None:
    """By its name there and by spellings of it; a new version of Keras that has more shows here."""
    assert set(APPLICATIONS) == {name for name in dir(keras.applications) if name[0].isupper()}
    for name in ("EfficientNetB3", "efficientnet_b3", "efficientnet-b3", "EFFICIENTNETB3"):
        assert registry.architecture(name).name == "EfficientNetB3"
    assert registry.architecture("ResNet152V2").name == "ResNet152V2"
    assert registry.architecture("DenseNet121") is registry.architecture("densenet121")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_hash_and_scaling_of_every_network_are_those_of_keras(name: str) -> None:
    """Looked up in Keras' own sources; what a network scales by itself is not scaled before."""
    application = APPLICATIONS[name]
    module = importlib.import_module(function(name).__module__)
    source, file = inspect.getsource(module) + inspect.getsource(resnet), application.file(image_size=224)
    folder = file.address.split("/")[-2]
    assert file.hash is None or file.hash in source
    assert f"{folder}/" in source.replace('"\n    "', "")
    parameters = inspect.signature(function(name)).parameters
    assert application.has_preprocessing == ("include_preprocessing" in parameters)
    if application.has_preprocessing or application.scaling == "efficientnet":
        return  # Keras' own function leaves the pixels as they are
    image = keras.Input((4, 4, 3))
    ours = keras.Model(image, preprocess(image, application.scaling))
    x = images(2, 4, 3)
    np.testing.assert_allclose(run(ours, x), module.preprocess_input(x.copy()), atol=2e-5)


def test_efficientnet_normalises_as_keras_does_with_its_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a layer only where it loads ImageNet's file, whose variances are deviations."""
    keras.utils.set_random_seed(0)
    shape = (48, 48, 3)
    raw = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=shape)
    norm = next(layer for layer in raw.layers if isinstance(layer, keras.layers.Normalization))
    norm.set_weights([np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225)), np.array(0)])
    norm.finalize_state()
    x = images(2, 48, 3)
    raw.save(tmp_path / "raw.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(tmp_path / "raw.h5"))
    theirs = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=shape, pooling="avg")
    config = TrainConfig(model="EfficientNetB0", weights=str(tmp_path / "raw.h5"), image_size=48)
    ours = models.build(config, channels=3, outputs=3, task="multiclass", weights=weights.resolve(config))
    expected = run(theirs, x)
    np.testing.assert_allclose(run(ours.backbone, x), expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    live_through(tmp_path, config, ours, "multiclass")


def test_another_network_of_keras_lives_by_its_name(tmp_path: Path) -> None:
    """All share their code with those above."""
    config = TrainConfig(model="MobileNet", weights=None, image_size=32)
    network = models.build(config, channels=3, outputs=3, task="multiclass", weights=None)
    live_through(tmp_path, config, network, "multiclass")


@pytest.mark.parametrize("alpha", registry.architecture("mobilenet_v2").options["alpha"].convolutions)
def test_the_table_counts_the_convolutions_of_every_width(alpha: float) -> None:
    """The count tells files apart."""
    model = keras.applications.MobileNetV2(alpha=alpha, include_top=False, weights=None, input_shape=(32, 32, 3))
    found = sum(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) == 4)
    config = TrainConfig(model_options={"alpha": alpha})
    assert registry.describe(config) == (f"mobilenet_v2 with alpha={alpha}", found)
    assert registry.network_of(found, 0) == f"mobilenet_v2 with alpha={alpha}"


def test_networks_with_the_same_convolutions_are_told_apart_by_their_biases() -> None:
    """Both versions of a ResNet; a top in the file adds a few."""
    for name in ("resnet50", "ResNet50V2", "ResNet101", "ResNet101V2"):
        known = registry.architecture(name).application
        assert known is not None
        assert registry.network_of(known.convolutions, known.vectors + 1000) == name


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("mobilenet_v2", {}, 224),
        ("mobilenet_v2", {"alpha": 1}, 128),
        ("mobilenet_v2", {"alpha": 0.5}, 96),
        ("MobileNet", {}, 128),
        ("mobilenet_v3_small", {}, 224),
        ("convnext_tiny", {}, 224),
        ("resnet50", {}, 224),
        ("EfficientNetB0", {}, 224),
    ],
)
def test_the_file_and_hash_asked_for_are_those_of_keras(
    name: str, options: dict[str, float], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras itself is asked, so a new version that publishes other files shows here."""

    class AskedError(Exception):
        pass

    def get_file(fname: str, origin: str, cache_subdir: str, file_hash: str | None = None) -> None:
        raise AskedError(fname, origin, cache_subdir, file_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    with pytest.raises(AskedError) as asked:
        function(name)(include_top=False, weights="imagenet", input_shape=(size, size, 3), **options)
    file = registry.imagenet(TrainConfig(model=name, model_options=options, image_size=size))
    assert file is not None
    assert asked.value.args == (file.name, f"{weights.KERAS_FILES}/{file.address}", "models", file.hash)


def test_a_size_that_keras_did_not_train_asks_for_the_file_of_224() -> None:
    """Keras' own rule."""
    file = registry.imagenet(TrainConfig(image_size=150))
    assert file is not None
    assert "_1.0_224_" in file.name


Channels = Literal[1, 3]


@pytest.mark.parametrize(("name", "channels"), [("EfficientNetB0", 3), ("mobilenet_v2", 1), ("small_cnn", 3)])
def test_pixels_are_scaled_and_probabilities_given_in_float32_under_mixed_precision(
    name: str, channels: Channels
) -> None:
    """Half precision would round grey levels, move decisions and end up in caches of features."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        config = TrainConfig(model=name, weights=None, image_size=32)
        network = models.build(config, channels=channels, outputs=1, task="binary", weights=None)
    finally:
        keras.config.set_dtype_policy("float32")
    scaling = keras.layers.Rescaling | keras.layers.Normalization
    assert {layer.compute_dtype for layer in network.model.layers if isinstance(layer, scaling)} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in network.model.layers)
    x = images(1, 32, channels)
    assert run(network.backbone, x).dtype == np.float32
    assert run(network.model, x).dtype == np.float32
