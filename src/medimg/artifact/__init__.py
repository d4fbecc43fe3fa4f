"""`ModelFolder`: a trained model with all that is needed to run, judge and trust it.

medimg.json      what it is: classes, thresholds, preprocessing, versions, data fingerprint, configuration, metrics
model.keras      the trained network
exports/         the same network for other runtimes, each checked against model.keras
golden/          a few generated images with the probabilities that every runtime must give
monitoring.json  how the images of validation look and what the model says of them: what a server compares with
history.json     one row an epoch
report/          the evaluation
seen.json        hashes of the images of train and validation, so that they are never taken for unseen ones
card.md          the model card
digest.json      the hash of every file above
looks.json       how often the test split was scored; it changes, so the digest leaves it out
"""

from medimg.artifact.folder import Exported, GoldenInput, ModelFolder, ServedBy, add_look, count_looks
from medimg.artifact.record import Calibration, ModelRecord, Preprocessing

__all__ = [
    "Calibration",
    "Exported",
    "GoldenInput",
    "ModelFolder",
    "ModelRecord",
    "Preprocessing",
    "ServedBy",
    "add_look",
    "count_looks",
]
