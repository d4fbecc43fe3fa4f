"""The five lines on a few of the real chest images, as every cloud's tests run them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import medimg
from medimg.config import TrainConfig

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"


def few_radiographs(real_data: Path, folder: Path) -> Path:
    """Copies some of the real chest images, in their folders, and returns where they are."""
    root = folder / "chest"
    for split, count in (("train", 120), ("test", 40)):
        for name in ("NORMAL", "PNEUMONIA"):
            target = root / split / name
            target.mkdir(parents=True)
            for image in sorted((real_data / "chestxray" / "kaggle224" / split / name).iterdir())[:count]:
                shutil.copy(image, target)
    return root


def small_network(real_data: Path) -> TrainConfig:
    """Returns a configuration of the smallest network with real weights."""
    (weights,) = sorted((real_data / "weights").glob("*0.35_224*.h5"))[:1]
    return TrainConfig(model_options={"alpha": 0.35}, weights=weights, epochs=3, early_stopping=None)


def five_lines(backend: Any, root: Path, config: TrainConfig) -> tuple[Any, list[Any]]:
    """Returns the job, and what the endpoint answered to five unseen images."""
    dataset = medimg.Dataset.from_folder(root, group=PATIENT)
    job = backend.train(dataset, config)
    assert job.report.metrics
    images = sorted((root / "test" / "PNEUMONIA").iterdir())[:5]
    with backend.deploy() as endpoint:
        # As its own clients ask: here with a key, on AWS signed, on Azure over TLS and a proxy.
        (step,) = endpoint.load_test([2], seconds=0.5, image=images[0]).steps
        assert step.answered > 0
        assert (step.wrong, step.other_digest, dict(step.errors)) == (0, 0, {})
        return job, endpoint.predict_many(images)
