"""Networks with random weights: as much work as with good ones, and no data are needed.

`python benchmarks/random_network.py FILE` writes those of a MobileNetV2.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

SIDE = 224


def films(count: int) -> np.ndarray:
    """Returns made films, every second one with a finding: uint8 (count, 224, 224, 3)."""
    from medimg.data.synthetic import phantom

    grey = [phantom(np.random.default_rng(seed), finding=bool(seed % 2), size=SIDE)[0] for seed in range(count)]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3)


def settle(network: keras.Model, images: np.ndarray) -> None:
    """Gives batch normalisation the statistics of images, as the network takes them.

    Else nothing of an image is left after fifty layers of random weights, and every answer is equal.
    """
    import keras

    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    network(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def trained(folder: Path) -> Path:
    """Returns a model folder with MobileNetV2: a head on random features, which costs the same as on good ones."""
    import medimg
    from medimg.data.synthetic import write_phantoms

    weights = folder / "random.weights.h5"
    subprocess.run([sys.executable, __file__, str(weights)], check=True)
    # Few epochs: a head that leans on random features makes much of the last digit of a pixel.
    config = medimg.TrainConfig(
        model="mobilenet_v2", weights=str(weights), image_size=SIDE, epochs=3, fine_tune_epochs=0, augment=False
    )
    dataset = medimg.Dataset.from_folder(write_phantoms(folder / "phantoms", patients=72), group=r"(patient\d+)")
    return medimg.backend("local").train(dataset, config, allow=["constant-predictions"]).model.path


def main() -> None:
    """Writes the weights; imports Keras, which who measures other programs does not."""
    import keras

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    settle(network, films(16) / 127.5 - 1)
    network.save_weights(sys.argv[1])


if __name__ == "__main__":
    main()
