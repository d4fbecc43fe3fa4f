"""MobileNetV2 with random weights, as a model folder: as much work as with good ones, and no data are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WEIGHTS = """
import sys, keras, numpy as np
from medimg.data.synthetic import phantom

keras.utils.set_random_seed(0)
network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3))
# Batch normalisation as of real images: else nothing of an image is left after fifty layers, and every answer is equal.
for layer in network.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
films = [phantom(np.random.default_rng(seed), finding=bool(seed % 2), size=224)[0] for seed in range(16)]
network(np.repeat(np.stack(films)[..., None], 3, axis=3) / 127.5 - 1, training=True)
network.save_weights(sys.argv[1])
"""


def trained(folder: Path) -> Path:
    """Returns a model folder with the network: a head on random features, which costs the same as on good ones."""
    import medimg
    from medimg.data.synthetic import write_phantoms

    weights = folder / "random.weights.h5"
    subprocess.run([sys.executable, "-c", WEIGHTS, str(weights)], check=True)
    # Few epochs: a head that leans on random features makes much of the last digit of a pixel.
    config = medimg.TrainConfig(
        model="mobilenet_v2", weights=str(weights), image_size=224, epochs=3, fine_tune_epochs=0, augment=False
    )
    dataset = medimg.Dataset.from_folder(write_phantoms(folder / "phantoms", patients=72), group=r"(patient\d+)")
    return medimg.backend("local").train(dataset, config, allow=["constant-predictions"]).model.path
