"""Which calibration makes probabilities mean frequencies: fitted on some patients of validation, judged on the others.

    KERAS_HOME=… python benchmarks/studies/calibration.py DATA CACHE [chest|chest-few|nih …]

DATA holds chestxray/kaggle224 and multilabel_cxr; CACHE keeps features of the frozen MobileNetV2 (alpha 0.35,
ImageNet). A dense head is trained on train with each class weighting, as `TrainConfig` does it (Adam, 1e-3, dropout
0.2), for some seeds; for each, the other patients are divided again and again. Test is never read. The medians over
all are printed: slope and intercept (right: 1 and 0), ECE, Brier score and negative log-likelihood, for multilabel the
means over the labels with ten of both sides. For the chest also: how many images are uncertain at the threshold of
Youden, and how often these and the others are decided wrongly.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import real_data
from scipy.special import expit

from medimg import models
from medimg.data.decode import to_pixels
from medimg.data.pixels import as_mode, resize
from medimg.data.preparation import ready_for_training
from medimg.evaluation.calibration import brier, ece, log_odds, negative_log_likelihood, slope_intercept
from medimg.evaluation.thresholds import choose
from medimg.inference.predictions import Predictions
from medimg.models.weights import resolve
from medimg.training.calibration import fit_labels
from medimg.training.steps import compile_for
from medimg.training.weighting import Balance

FIGURES = ("slope", "intercept", "ECE", "Brier", "NLL", "temperature")


@dataclass(frozen=True)
class Setting:
    """What is compared on.

    Attributes:
        data: "chest" or "nih".
        seeds: Heads that are trained for each class weighting.
        epochs: Of each.
        divisions: Of the other patients, for each head.
        share: Of the other patients that calibrate.
    """

    data: str
    seeds: int
    epochs: int
    divisions: int
    share: float


SETTINGS = {
    "chest": Setting("chest", seeds=3, epochs=8, divisions=20, share=0.5),
    "chest-few": Setting("chest", seeds=3, epochs=8, divisions=20, share=0.15),
    "nih": Setting("nih", seeds=3, epochs=10, divisions=10, share=0.5),
}


def features(name: str, data: Path, cache: Path) -> dict[str, np.ndarray]:
    """Returns features, targets (NaN unknown) and patients of train and validation."""
    file = cache / f"calibration-{name}.npz"
    if not file.exists():
        read = {"chest": real_data.chest, "nih": real_data.nih}[name]
        dataset = ready_for_training(read(data), allow=("duplicate-images", "group-leak")).dataset
        weights = resolve(real_data.PRETRAINED, progress=lambda *_: None)
        backbone = models.build(real_data.PRETRAINED, channels=3, outputs=1, task="binary", weights=weights).backbone
        found = {}
        for split in ("train", "val"):
            samples = dataset.of(split)
            rows = []
            for start in range(0, len(samples), 64):
                part = [as_mode(resize(to_pixels(one.path), (224, 224)), 3) for one in samples[start : start + 64]]
                rows.append(backbone.predict_on_batch(np.stack(part).astype(np.float32)))
            found[f"{split}_x"] = np.concatenate(rows)
            labels = np.array([one.labels for one in samples], float)
            positive = dataset.positive
            found[f"{split}_y"] = labels if positive is None else (labels == dataset.classes.index(positive))[:, None]
            found[f"{split}_patients"] = np.array([str(one.group) for one in samples])
        np.savez(file, **found)
    return dict(np.load(file))


def drawn(patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns which images belong to a random share of the patients."""
    names = np.random.default_rng(seed).permutation(np.unique(patients))
    return np.isin(patients, names[: int(len(names) * share)])


def head(x: np.ndarray, y: np.ndarray, *, balanced: bool, epochs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a trained dense layer."""
    keras.utils.set_random_seed(seed)
    given = keras.Input((x.shape[1],))
    last = keras.layers.Dense(y.shape[1], activation="sigmoid")
    network = keras.Model(given, last(keras.layers.Dropout(0.2)(given)))
    compile_for(network, "multilabel", 1e-3)
    balance = Balance.of(y.astype(np.float32), "multilabel", y.shape[1], balanced=balanced)
    truth, weights = balance.weigh(y.astype(np.float32), "multilabel")
    network.fit(x, truth, sample_weight=weights, epochs=epochs, batch_size=32, verbose=0)
    kernel, bias = last.get_weights()
    return kernel.astype(float), bias.astype(float)


def judged(logits: np.ndarray, y: np.ndarray, inside: np.ndarray, method: str) -> np.ndarray | None:
    """Returns the mean figures of the labels that are common enough on both sides, or None."""
    fits = fit_labels(logits[inside], y[inside], "temperature" if method == "temperature" else "platt")
    rows = []
    for column, fit in enumerate(fits):
        known = ~np.isnan(y[:, column]) & ~inside
        truth, z = y[known, column], logits[known, column]
        if not fit.enough or min(truth.sum(), (1 - truth).sum()) < 10:
            continue
        temperature, shift = (1.0, 0.0) if method == "none" else (fit.temperature, fit.shift)
        p = expit(z / temperature + shift)
        line = slope_intercept(truth == 1, p)
        nll = negative_log_likelihood(log_odds(p), truth) / len(truth)
        rows.append([line.slope, line.intercept, ece(truth == 1, p), brier(truth, p), nll, temperature])
    return np.nanmean(np.array(rows, float), axis=0) if rows else None


def doubted(logits: np.ndarray, y: np.ndarray, patients: np.ndarray, inside: np.ndarray) -> list[float]:
    """Returns the share of the other images that is uncertain, and the shares of errors there and among the rest."""
    p = expit(logits[:, 0])
    table = Predictions(
        classes=("without", "with"), task="binary", positive="with", split="val",
        ids=tuple(map(str, np.flatnonzero(inside))), probabilities=np.stack([1 - p, p], axis=1)[inside],
        labels=tuple(y[inside, 0].astype(int).tolist()), groups=tuple(patients[inside].tolist()),
    )  # fmt: skip
    chosen = choose(table, "youden")
    low, high = chosen.uncertain["with"]
    uncertain = (p >= low) & (p <= high)
    wrong = (p >= chosen.values["with"]) != (y[:, 0] == 1)
    return [
        float(uncertain[~inside].mean()),
        float(wrong[~inside & uncertain].mean()) if (~inside & uncertain).any() else np.nan,
        float(wrong[~inside & ~uncertain].mean()),
    ]


def main() -> None:
    """Prints a row for each setting, class weighting and method."""
    data, cache, *names = sys.argv[1:]
    print("| set | class weights | calibration | " + " | ".join(FIGURES) + " |")
    for name in names or SETTINGS:
        setting = SETTINGS[name]
        table = features(setting.data, Path(data), Path(cache))
        x, y, patients = (
            np.concatenate([table[f"train_{part}"], table[f"val_{part}"]]) for part in ("x", "y", "patients")
        )
        y = y.astype(float)
        for balanced in (True, False):
            found: dict[str, list[np.ndarray]] = {"none": [], "temperature": [], "platt": []}
            doubts = []
            for seed in range(setting.seeds):
                # NIH's validation split alone is too small to be divided.
                train = np.arange(len(x)) < len(table["train_x"]) if name != "nih" else drawn(patients, 0.6, seed)
                kernel, bias = head(x[train], y[train], balanced=balanced, epochs=setting.epochs, seed=seed)
                logits = x[~train].astype(float) @ kernel + bias
                for division in range(setting.divisions):
                    inside = drawn(patients[~train], setting.share, 1000 * seed + division)
                    if name != "nih":
                        doubts.append(doubted(logits, y[~train], patients[~train], inside))
                    for method, rows in found.items():
                        row = judged(logits, y[~train], inside, method)
                        if row is not None:
                            rows.append(row)
            for method, rows in found.items():
                figures = " | ".join(f"{value:.3f}" for value in np.nanmedian(rows, axis=0))
                print(f"| {name} | {'balanced' if balanced else 'none'} | {method} | {figures} |", flush=True)
            if doubts:
                share, inside_band, outside = np.nanmean(doubts, axis=0)
                print(f"uncertain: {share:.1%}; errors among them {inside_band:.1%}, among the rest {outside:.1%}")


if __name__ == "__main__":
    main()
