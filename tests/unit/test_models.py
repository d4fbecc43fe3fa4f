"""Configurations are checked before a job is sent; pretrained weights are found, fetched and checked."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest

from medimg import models
from medimg.config import TrainConfig
from medimg.errors import ConfigError, StorageError, WeightsError
from medimg.models import pretrained, registry, weights

# Keras 3.15 hands TensorFlow variables to NumPy 2 in the old way whenever it saves or reads weights.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHARED = Path(os.environ.get("MEDIMG_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
REAL = SHARED / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"

SMALLEST: dict[str, Any] = {"model": "mobilenet_v2", "model_options": {"alpha": 0.35}}


def images(n: int, size: int, channels: int) -> np.ndarray:
    """Returns noise in the range of pixels."""
    return np.random.default_rng(0).uniform(0, 255, (n, size, size, channels)).astype("float32")


def run(model: Any, x: np.ndarray) -> np.ndarray:
    """Returns a model's output in inference mode, without the cost of compiling a graph for two images."""
    return np.asarray(model(x, training=False))


def build(config: TrainConfig, file: Path | None = None, *, channels: Literal[1, 3] = 3) -> models.Classifier:
    """Returns a binary classifier."""
    return models.build(config, channels=channels, outputs=1, task="binary", weights=file)


def test_the_same_seed_gives_the_same_weights() -> None:
    """The caller's seed decides."""
    first, second = [], []
    for weights_of in (first, second):
        keras.utils.set_random_seed(7)
        weights_of.extend(build(TrainConfig(model="small_cnn", weights=None, image_size=28)).model.get_weights())
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fine_tuning_trains_the_top_of_the_backbone_and_never_batch_normalisation() -> None:
    """Frozen, a third, everything; what is below the top does not move in a step."""
    classifier = build(TrainConfig(**SMALLEST, weights=None, image_size=32))
    model, backbone = classifier.model, classifier.backbone
    assert backbone is not None
    models.freeze(classifier)
    assert {weight.path for weight in model.trainable_weights} == {"probabilities/kernel", "probabilities/bias"}

    models.top_layers(classifier, 0.3)
    trained = [layer for layer in backbone.layers if layer.trainable_weights]
    assert len(trained) == 16  # of 52 convolutions
    assert trained == [layer for layer in backbone.layers if "onv" in type(layer).__name__][-16:]
    assert not any(layer.trainable for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization))
    before = {weight.path: np.array(weight) for weight in model.weights}
    model.compile("adam", "binary_crossentropy", run_eagerly=True, jit_compile=False)
    model.fit(images(2, 32, 3), np.ones((2, 1)), verbose=0)
    moved = {weight.path for weight in model.weights if not np.array_equal(before[weight.path], weight)}
    assert moved - {"dropout/seed_generator/seed_generator_state"} <= {w.path for w in model.trainable_weights}
    assert f"{trained[0].name}/kernel" in moved

    models.top_layers(classifier, 0.001)
    assert [layer.name for layer in backbone.layers if layer.trainable_weights] == ["Conv_1"]
    models.top_layers(classifier, 1.0)
    assert len([layer for layer in backbone.layers if layer.trainable_weights]) == 52
    models.freeze(classifier)
    assert not backbone.trainable_weights
    with pytest.raises(ValueError, match="over 0"):
        models.top_layers(classifier, 0)


def test_a_network_without_a_backbone_says_so_when_asked_to_fine_tune() -> None:
    """It can only be trained as a whole."""
    classifier = build(TrainConfig(model="mini_xception", weights=None, image_size=28))
    assert classifier.backbone is None
    with pytest.raises(ConfigError, match="mini_xception has no pretrained backbone"):
        models.freeze(classifier)
    with pytest.raises(ConfigError, match="fine_tune_epochs=0"):
        models.top_layers(classifier, 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mobilnet_v2"}, "Did you mean 'mobilenet_v2'"),
        ({"model": "xyz"}, "Known: convnext_tiny, densenet121, .* any network of keras.applications"),
        ({"model_options": {"alhpa": 1.0}}, "Did you mean 'alpha'"),
        ({"model": "densenet121", "model_options": {"alpha": 1.0}}, "It takes none"),
        ({"model_options": {"alpha": "small"}}, "must be a number"),
        ({"model_options": {"alpha": True}}, "must be a number"),
        ({"model_options": {"alpha": 0.0}, "weights": None}, "between 0.1 and 2.0"),
        ({"model_options": {"alpha": 0.4}}, "exist for 0.35, 0.5, 0.75, 1.0, 1.3, 1.4"),
        ({"model": "inception_v3", "image_size": 74}, "at least 75 pixels"),
        ({"image_size": 31}, "at least 32 pixels"),
        ({"model": "small_cnn"}, "Set weights=None"),
        ({"model": "mini_xception", "weights": "some.h5"}, "Set weights=None"),
        ({"model": "small_cnn", "weights": None, "fine_tune_epochs": 1}, "Set fine_tune_epochs=0"),
        ({"weights": None, "fine_tune_epochs": 1}, "with weights=None there is nothing to fine-tune"),
    ],
)
def test_a_wrong_setting_is_named_with_the_right_one(settings: dict[str, Any], message: str) -> None:
    """Before a job is sent."""
    with pytest.raises(ConfigError, match=message):
        models.check(TrainConfig(**settings))


@pytest.mark.parametrize("name", models.available())
def test_the_smallest_size_is_accepted(name: str) -> None:
    """And so is any width when training from scratch."""
    size = registry.architecture(name).min_size
    options = {"alpha": 0.42} if name == "mobilenet_v2" else {}
    models.check(TrainConfig(model=name, model_options=options, weights=None, image_size=size))


def test_outputs_that_contradict_the_task_are_refused() -> None:
    """A softmax over one output is always 1."""
    config = TrainConfig(model="small_cnn", weights=None)
    for outputs, task in ((1, "multiclass"), (2, "binary")):
        with pytest.raises(ValueError, match="a binary task has one output"):
            models.build(config, channels=1, outputs=outputs, task=task, weights=None)


def test_checking_a_configuration_loads_neither_keras_nor_numpy() -> None:
    """A notebook checks before it submits; it should not wait for TensorFlow."""
    code = (
        "import sys, medimg.models, medimg.models.weights\n"
        "from medimg.config import TrainConfig\n"
        "medimg.models.check(TrainConfig())\n"
        "assert medimg.models.weights.resolve(TrainConfig(weights=None)) is None\n"
        "print(sorted({'keras', 'tensorflow', 'numpy', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Weights files


@pytest.fixture(scope="module")
def with_top(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    """Returns a whole model in Keras 2's format, with a top of 7 classes and an optimiser's state, and the model."""
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2(
        alpha=0.35, weights=None, classes=7, input_shape=(32, 32, 3), classifier_activation=None
    )
    path = tmp_path_factory.mktemp("weights") / "whole.h5"
    model.save(path)
    return path, model


def test_a_file_with_top_loads_into_the_backbone(with_top: tuple[Path, keras.Model]) -> None:
    """The top is left out; the features equal those under it."""
    path, theirs = with_top
    config = TrainConfig(**SMALLEST, weights=str(path), image_size=32)
    ours = build(config, weights.resolve(config)).backbone
    x = images(2, 32, 3)
    under_top = keras.Model(theirs.input, theirs.layers[-2].output)
    np.testing.assert_allclose(run(ours, x), run(under_top, x / 127.5 - 1), atol=1e-5)


def test_a_trained_classifier_gives_its_backbone_to_another(tmp_path: Path) -> None:
    """A `.keras` file of a grey binary classifier starts an RGB one."""
    source = build(TrainConfig(**SMALLEST, weights=None, image_size=32), channels=1)
    path = tmp_path / "model.keras"
    source.model.save(path)
    config = TrainConfig(**SMALLEST, weights=str(path), image_size=64)
    target = build(config, weights.resolve(config), channels=3)
    assert source.backbone is not None
    assert target.backbone is not None
    for one, other in zip(source.backbone.get_weights(), target.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"model": "mobilenet_v2"}, "mobilenet_v2 with alpha=1.0"),
        ({"model": "densenet121"}, "densenet121"),
    ],
)
def test_weights_of_another_network_are_refused_and_both_are_named(
    settings: dict[str, Any], asked: str, with_top: tuple[Path, keras.Model]
) -> None:
    """In the user's process, before anything is sent."""
    with pytest.raises(WeightsError, match=rf"weights of mobilenet_v2 with alpha=0\.35, .* asks for {asked}"):
        weights.resolve(TrainConfig(**settings, weights=str(with_top[0])))


def test_weights_that_differ_only_in_shape_are_refused_when_loaded(with_top: tuple[Path, keras.Model]) -> None:
    """A width that the table does not know is compared layer by layer."""
    config = TrainConfig(model_options={"alpha": 0.9}, weights=str(with_top[0]), image_size=32)
    with pytest.raises(WeightsError, match=r"does not fit mobilenet_v2 with alpha=0\.9.*Conv1 has shapes"):
        build(config, weights.resolve(config))


def test_a_model_within_a_model_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    """The usual Keras tutorial nests the backbone, in both formats."""
    inner = keras.applications.MobileNetV2(alpha=0.35, weights=None, include_top=False, input_shape=(32, 32, 3))
    outer = keras.Sequential([inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    for name in ("nested.keras", "nested.h5"):
        outer.save(tmp_path / name)
        config = TrainConfig(**SMALLEST, weights=str(tmp_path / name), image_size=32)
        with pytest.raises(WeightsError, match=r"backbone\.save_weights"):
            build(config, weights.resolve(config))


def test_a_missing_path_says_what_to_give(tmp_path: Path) -> None:
    """And where it looked."""
    with pytest.raises(WeightsError, match=r"no file .*nowhere\.h5"):
        weights.resolve(TrainConfig(weights=str(tmp_path / "nowhere.h5")))


@pytest.mark.parametrize("name", ["page.h5", "page.weights.h5", "page.keras"])
def test_a_file_that_is_no_weights_file_is_refused(name: str, tmp_path: Path) -> None:
    """A saved error page is the usual case."""
    (tmp_path / name).write_text("<html>403</html>")
    with pytest.raises(WeightsError, match="cannot be read as a Keras weights file"):
        weights.resolve(TrainConfig(weights=str(tmp_path / name)))
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"ends in \.h5"):
        weights.resolve(TrainConfig(weights=str(tmp_path / "weights.pth")))


def test_build_refuses_to_go_on_without_the_file_that_the_configuration_asks_for() -> None:
    """Otherwise a head would be trained on random features."""
    with pytest.raises(WeightsError, match="resolve"):
        build(TrainConfig())


# Downloads


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `content` at every address."""

    content: ClassVar[bytes] = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Answers one request."""
        self.asked.append(self.path)
        if not self.content:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keeps the test's output clean."""


@pytest.fixture
def mirror() -> Iterator[tuple[str, type[Mirror]]]:
    """Yields the address of a running mirror and its settings."""

    class Fresh(Mirror):
        asked: ClassVar[list[str]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Fresh
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty Keras cache."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models"


def test_imagenet_weights_are_downloaded_once_into_keras_cache(
    mirror: tuple[str, type[Mirror]], keras_home: Path, with_top: tuple[Path, keras.Model]
) -> None:
    """Under the name that Keras asks for, so Keras finds them too."""
    url, settings = mirror
    settings.content = with_top[0].read_bytes()
    seen: list[tuple[int, int | None]] = []
    config = TrainConfig(**SMALLEST)
    for _ in range(2):
        path = weights.resolve(config, base_url=url, progress=lambda *call: seen.append(call))
        assert path == keras_home / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    assert settings.asked == [f"/tensorflow/keras-applications/mobilenet_v2/{path.name}"]
    assert seen[-1] == (len(settings.content), len(settings.content))
    assert [entry.name for entry in keras_home.iterdir()] == [path.name]


def test_a_page_served_in_place_of_the_weights_is_an_error_and_nothing_is_left(
    mirror: tuple[str, type[Mirror]], keras_home: Path
) -> None:
    """Portals and proxies answer 200 with a page; Keras publishes no hash for MobileNet."""
    url, settings = mirror
    settings.content = b"<html>please log in</html>"
    with pytest.raises(WeightsError, match="cannot be read as a Keras weights file"):
        weights.resolve(TrainConfig(), base_url=url)
    assert list(keras_home.iterdir()) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(
    mirror: tuple[str, type[Mirror]], keras_home: Path, with_top: tuple[Path, keras.Model]
) -> None:
    """Keras leaves one behind when it is interrupted."""
    url, settings = mirror
    settings.content = with_top[0].read_bytes()
    keras_home.mkdir(parents=True)
    path = keras_home / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    path.write_bytes(settings.content[: len(settings.content) // 2])
    assert weights.resolve(TrainConfig(**SMALLEST), base_url=url) == path
    assert path.read_bytes() == settings.content
    assert list(keras_home.iterdir()) == [path]


def test_without_internet_the_error_says_which_file_goes_where(keras_home: Path) -> None:
    """The full path, the address and the way round; also where a damaged copy went."""
    keras_home.mkdir(parents=True)
    name = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    (keras_home / name).write_bytes(b"half")
    with pytest.raises(WeightsError) as error:
        weights.resolve(TrainConfig(model="densenet121"), base_url="http://127.0.0.1:9")
    text = str(error.value)
    assert f"curl -O http://127.0.0.1:9/tensorflow/keras-applications/densenet/{name}" in text
    assert str(keras_home / name) in text
    assert "or set weights= to the path" in text
    assert (keras_home / f"{name}.damaged").read_bytes() == b"half"


def test_a_missing_file_on_the_server_is_reported_with_its_address(
    mirror: tuple[str, type[Mirror]], keras_home: Path
) -> None:
    """An HTTP error is no reason to retry."""
    url, settings = mirror
    with pytest.raises(WeightsError, match="HTTP Error 404"):
        weights.resolve(TrainConfig(), base_url=url)
    assert len(settings.asked) == 1


def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a file lies where the folder should be."""
    (tmp_path / "keras").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(StorageError, match="set KERAS_HOME"):
        weights.resolve(TrainConfig(), base_url="http://127.0.0.1:9")


# Real weights


def test_real_imagenet_weights_give_the_features_that_keras_gives(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Keras' cache under `weights="imagenet"`, with no server to ask."""
    if not REAL.exists():
        pytest.skip(f"no real weights at {REAL}: set MEDIMG_SHARED_DATA")
    keras_home.mkdir(parents=True)
    (keras_home / REAL.name).symlink_to(REAL.resolve())
    config = TrainConfig(**SMALLEST)
    path = weights.resolve(config, base_url="http://127.0.0.1:9")
    theirs = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=REAL, input_shape=(224, 224, 3), pooling="avg"
    )
    x = images(2, 224, 3)
    expected = run(theirs, keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    np.testing.assert_allclose(run(build(config, path).backbone, x), expected, atol=1e-5)
    pretrained.check_file(REAL, config)
