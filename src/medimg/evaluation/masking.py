"""Whether a network looks at the middle of the images, where the findings are, or gets by without it.

A network whose ranking hardly suffers when the middle is painted over has learnt from the rim: markers, collimators,
the position of the patient (Maguolo and Nanni, Information Fusion 76 (2021) 1-7, on chest films).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medimg.config import Finding
from medimg.data.pack import Pack
from medimg.data.pixels import Pixels
from medimg.evaluation.intervals import areas
from medimg.inference.predictions import Predictions
from medimg.inference.predictor import Predictor

__all__ = ["CHECK", "check_centre", "without_centre"]

CHECK = "masked-centre"
_SIDE = 0.7  # of the image's: half of its area
_LEAST_DROP = 0.02
_INFORMATIVE = 0.7  # a network that ranks little better than chance has nothing to lose
_MOST_IMAGES = 200
_FEWEST = 10  # images with, and without, a class


def check_centre(predictor: Predictor, pack: Pack, predictions: Predictions) -> Finding:
    """Returns what is to be said of a network's AUROC when the middle of the images is painted over.

    At most 200 images are scored again, evenly spread over the table.

    Args:
        predictor: Runs the network.
        pack: Where the images are.
        predictions: Of validation, with labels.
    """
    rows = np.unique(np.linspace(0, len(predictions) - 1, _MOST_IMAGES).round().astype(np.int64))
    truth = predictions.truth[rows]
    judged = [
        column
        for column in range(truth.shape[1])
        if min((truth[:, column] == 1).sum(), (truth[:, column] == 0).sum()) >= _FEWEST
    ]
    if not judged:
        told = f"no class has {_FEWEST} images with and without it among {len(rows)} of validation"
        return Finding(check=CHECK, level="unknown", message=told)
    positions = {sample.id: row for row, sample in enumerate(pack.samples)}
    images = pack.images([positions[predictions.ids[row]] for row in rows])
    prepared = predictor.model.record.preprocessing.prepare_batch(without_centre(images))
    masked = predictor.probabilities(prepared)[:, [predictions.classes.index(name) for name in predictions.targets]]

    def mean_auroc(scores: NDArray[np.float64]) -> float:
        known = [(truth[:, column], scores[:, column]) for column in judged]
        return float(np.mean([areas(y[~np.isnan(y)] == 1, values[~np.isnan(y)])[0] for y, values in known]))

    whole, rim = mean_auroc(predictions.scores[rows]), mean_auroc(masked)
    figures = f"AUROC {whole:.3f} on {len(rows)} validation images, {rim:.3f} with the middle half painted over"
    if whole < _INFORMATIVE:
        return Finding(check=CHECK, level="unknown", message=f"{figures}: the network ranks too little to lose")
    if whole - rim >= _LEAST_DROP:
        return Finding(check=CHECK, level="fine", message=figures)
    told = (
        f"{figures}: it does not need the middle, where findings are. Look at what it sees (model.explain(image)), and "
        "crop or paint over markers and borders"
    )
    return Finding(check=CHECK, level="warning", message=told)


def without_centre(images: Pixels) -> Pixels:
    """Returns images with the middle half of their area in its own mean colour.

    Args:
        images: uint8 (n, height, width, channels).
    """
    masked = images.copy()
    top, left = (round(side * (1 - _SIDE) / 2) for side in images.shape[1:3])
    middle = masked[:, top : images.shape[1] - top, left : images.shape[2] - left]
    middle[...] = np.round(middle.mean(axis=(1, 2), keepdims=True)).astype(np.uint8)
    return masked
