"""How much better a model looks when patients have images on both sides of the split.

    KERAS_HOME=… python benchmarks/studies/leakage.py DATA

DATA holds multilabel_cxr (698 NIH films of 477 patients, 112 of them with several), `$KERAS_HOME/models` MobileNetV2
(alpha 0.35). Every film is scored once by a model that has not seen it: five-fold cross-validation, once with
films dealt at random and once with whole patients, each over 20 seeds (5 for single findings). The network is frozen,
so its features are computed once; what is trained on them is a logistic regression, or a vote of the five most alike
films, which is what a model that remembers its films would do. AUROC is the mean over the seeds; the interval of the
gap comes from 2,000 resamples of patients, the same for both.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import medimg
from medimg import models
from medimg.data.pack import PackedSample, build
from medimg.evaluation.intervals import Ranking, bootstrap_weights, numbered, percentiles
from medimg.models.weights import resolve

CONFIG = medimg.TrainConfig(model="mobilenet_v2", model_options={"alpha": 0.35}, weights="imagenet")
FOLDS, SEEDS, RESAMPLES = 5, 20, 2000
FEWEST = 20  # films with a label: five folds leave four of them in each


def logistic() -> Any:
    """Returns a linear head."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def neighbour() -> Any:
    """Returns a model that answers with the most alike films it has seen."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(n_neighbors=5, weights="distance", metric="cosine")


HEADS: dict[str, Callable[[], Any]] = {"logistic": logistic, "neighbour": neighbour}


def features(data: Path) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[PackedSample, ...]]:
    """Returns features float32 (n, d), label to bool (n,), and what is known of each film."""
    folder = data / "multilabel_cxr"
    dataset = medimg.Dataset.from_csv(
        folder / "Data_Entry.csv", images=folder / "images", path="Image Index", labels="Finding Labels",
        separator="|", group="Patient ID", columns=["Patient Gender", "View Position", "Patient Age"],
    )  # fmt: skip
    pack = build(dataset, CONFIG.image_size, facts=dataset.index())
    classifier = models.build(
        CONFIG, channels=1 if pack.channels == 1 else 3, outputs=len(pack.classes), task=pack.task,
        weights=resolve(CONFIG),
    )  # fmt: skip
    assert classifier.backbone is not None
    rows = np.arange(len(pack))
    found = [
        np.asarray(classifier.backbone(pack.images(rows[start : start + 32]).astype(np.float32)))
        for start in range(0, len(pack), 32)
    ]
    targets = pack.targets(rows) == 1
    labels = {"any finding": targets.any(axis=1)}
    for column, name in enumerate(pack.classes):
        alone = targets[:, column]
        if (
            alone.sum() >= FEWEST and (alone != labels["any finding"]).any()
        ):  # in these films every finding is pneumonia
            labels[name] = alone
    return np.concatenate(found), labels, pack.samples


def scores(
    x: np.ndarray, y: np.ndarray, patient: np.ndarray, head: Callable[[], Any], *, grouped: bool, seeds: int
) -> Iterator[np.ndarray]:
    """Yields for each seed a score of every film, by a model of the folds it is not in: float64 (n,)."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = StratifiedGroupKFold if grouped else StratifiedKFold
    for seed in range(seeds):
        found = np.empty(len(y))
        for train, held in folds(FOLDS, shuffle=True, random_state=seed).split(x, y, patient):
            found[held] = head().fit(x[train], y[train]).predict_proba(x[held])[:, 1]
        yield found


def areas(all_scores: list[np.ndarray], y: np.ndarray, patient: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the AUROC, mean over seeds, of some films: of the sample, then of each resample; float64 (1 + B,)."""
    count = int(patient.max()) + 1
    rankings = [Ranking(y[chosen], one[chosen], patient[chosen], count) for one in all_scores]
    weights = [np.ones((count, 1)), *bootstrap_weights(patient, RESAMPLES, 0)]
    return np.concatenate([np.mean([one.areas(part)[0] for one in rankings], axis=0) for part in weights])


def row(name: str, random: np.ndarray, grouped: np.ndarray) -> dict[str, Any]:
    """Returns the two figures and their gap with its interval."""
    gap = random - grouped
    interval = percentiles(gap[1:])
    return {
        "of": name, "random": round(float(random[0]), 4), "grouped": round(float(grouped[0]), 4),
        "gap": round(float(gap[0]), 4), "interval": None if interval is None else [round(one, 4) for one in interval],
    }  # fmt: skip


def main() -> None:
    """Prints one JSON line a head and choice of films."""
    with tempfile.TemporaryDirectory() as home:
        # The salt names the patients, and their order decides which folds a seed gives.
        os.environ |= {"MEDIMG_HOME": home, "MEDIMG_SALT": "leakage"}
        x, labels, samples = features(Path(sys.argv[1]))
    patient = numbered([sample.group for sample in samples], [sample.id for sample in samples])
    everyone, several = np.ones(len(x), dtype=bool), np.bincount(patient)[patient] > 1
    for head, make in HEADS.items():
        # Each finding costs as much as any finding: fewer seeds.
        means = []
        for name, y in labels.items():
            whole = name == "any finding"
            pair = [
                list(scores(x, y, patient, make, grouped=grouped, seeds=SEEDS if whole else 5))
                for grouped in (False, True)
            ]
            if whole:
                for which, chosen in (("all films", everyone), ("patients with several films", several)):
                    found = [areas(one, y, patient, chosen) for one in pair]
                    print(json.dumps({"head": head, "label": name, **row(which, *found)}), flush=True)
            else:
                means.append([areas(one, y, patient, everyone) for one in pair])
        name = f"mean of {len(means)} findings"
        print(json.dumps({"head": head, "label": name, **row("all films", *np.mean(means, axis=0))}), flush=True)


if __name__ == "__main__":
    main()
