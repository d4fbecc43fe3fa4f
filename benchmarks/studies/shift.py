"""What keeps a classifier right on images of another origin: choices tried on validation and other data, then test.

    KERAS_HOME=… python benchmarks/studies/shift.py DATA CACHE why|choices
    KERAS_HOME=… python benchmarks/studies/shift.py DATA CACHE test [default stretch fine-tuned …]

DATA holds MANIFEST.csv, chestxray and multilabel_cxr; `$KERAS_HOME/models` the MobileNetV2 weights (alpha 0.35);
features are kept in CACHE. "why" says by which plain facts the official test differs from train, without a model.
"choices" compares ways to train a head on the frozen network, and never looks at test. "test" trains with the library,
as named in `FINAL`, and prints the figures of the official test.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import medimg
from medimg.config import Augment
from medimg.data.audit.separation import FEATURES, plain_features, separation
from medimg.data.decode import decode, read
from medimg.data.normalise import Normalisation, normalise
from medimg.data.pixels import as_mode, resize

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
SIZE = 160
VIEWS = 2  # augmented, of each training image

# Name: normalisation, augmentation of the views (None: the images as they are).
CHOICES: dict[str, tuple[Normalisation | None, Augment | None]] = {
    "plain": (None, None),
    "percentile": ("percentile", None),
    "CLAHE": ("clahe", None),
    "intensity views": (None, Augment(rotation=0, translation=0, zoom=0, brightness=0.2, contrast=0.4)),
    "default views": (None, Augment()),
    "stretch views": (None, Augment(rotation=0, translation=0, zoom=0, brightness=0, contrast=0, stretch=0.3)),
    "default + stretch views": (None, Augment(stretch=0.3)),
}


def _squeezed(image: np.ndarray, share: float, axis: int) -> np.ndarray:
    """Returns the middle of an image along one axis, stretched to the whole."""
    cut = round(image.shape[axis] * (1 - share) / 2)
    middle = image[cut : image.shape[0] - cut] if axis == 0 else image[:, cut : image.shape[1] - cut]
    return resize(np.ascontiguousarray(middle), image.shape[:2])


def _jpeg(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=20)
    return np.asarray(Image.open(stream))


# Name: how the library trains for the official test.
_BASE: dict[str, Any] = {"model": "mobilenet_v2", "model_options": {"alpha": 0.35}, "epochs": 8}
FINAL = {
    "default": medimg.TrainConfig(**_BASE),
    "stretch": medimg.TrainConfig(**_BASE, augment=Augment(stretch=0.3, views=2)),
    "fine-tuned": medimg.TrainConfig(**_BASE, fine_tune_epochs=2, augment=False),
    "fine-tuned, stretch": medimg.TrainConfig(**_BASE, fine_tune_epochs=2, augment=Augment(stretch=0.3)),
}

# Changes that other machines and other programs make; the finding stays.
SHIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squeezed from side to side": lambda image: _squeezed(image, 0.8, 0),
    "squeezed from top to bottom": lambda image: _squeezed(image, 0.8, 1),
    "cropped": lambda image: _squeezed(_squeezed(image, 0.85, 0), 0.85, 1),
    "gamma 0.7": lambda image: np.round(255 * (image / 255) ** 0.7).astype(np.uint8),
    "gamma 1.4": lambda image: np.round(255 * (image / 255) ** 1.4).astype(np.uint8),
    "contrast 0.7": lambda image: np.round(image * 0.7 + 0.3 * image.mean()).astype(np.uint8),
    "half the resolution": lambda image: resize(resize(image, (SIZE // 2, SIZE // 2)), (SIZE, SIZE)),
    "JPEG quality 20": _jpeg,
}


class Images:
    """A dataset's images in memory.

    Attributes:
        x: uint8 (n, SIZE, SIZE).
        y: 1 where the finding is.
        group: Patient.
        split: "train" or "test".
        features: `plain_features`.
    """

    def __init__(self, dataset: medimg.Dataset) -> None:
        self.samples = dataset.samples
        self.x = np.stack([_pixels(sample.path) for sample in dataset.samples])
        self.split = np.array(["test" if sample.split == "test" else "train" for sample in dataset.samples])
        self.group = np.array([sample.group or sample.id for sample in dataset.samples])
        if dataset.task == "binary":
            self.y = np.array([dataset.classes[int(s.labels)] == dataset.positive for s in dataset.samples])  # type: ignore[arg-type]
        else:
            self.y = np.array([bool(dataset.label_names(sample)) for sample in dataset.samples])
        facts = dataset.index()
        self.features = plain_features([facts[sample.id] for sample in dataset.samples])


def _pixels(path: Path) -> np.ndarray:
    return as_mode(resize(decode(read(path), name=path.name), (SIZE, SIZE)), 1)[..., 0]


class Features:
    """Features of a frozen MobileNetV2 (alpha 0.35, ImageNet), each computed once and kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str, images: Callable[[], np.ndarray], how: Normalisation | None) -> np.ndarray:
        """Returns features, float32 (n, 1280), of uint8 images (n, SIZE, SIZE) after a normalisation."""
        return self._kept(f"{name}-{how}", lambda: _forward(normalise(images()[..., None], how), None, 0))

    def view(self, name: str, images: np.ndarray, number: int, augment: Augment) -> np.ndarray:
        """Returns features of one random view of each image."""
        return self._kept(f"{name}-view{number}", lambda: _forward(images[..., None], augment, number))

    def _kept(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        file = self.folder / f"{name.replace(' ', '_')}-{SIZE}.npy"
        if not file.exists():
            print("computing", file.name, flush=True)
            np.save(file, compute())
        return np.asarray(np.load(file))


@cache
def _backbone() -> Any:
    from medimg import models
    from medimg.models.weights import resolve

    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    weights = Path(os.environ["KERAS_HOME"]) / "models" / file
    config = medimg.TrainConfig(model_options={"alpha": 0.35}, weights=str(weights), image_size=SIZE)
    return models.build(config, channels=1, outputs=1, task="binary", weights=resolve(config)).backbone


def _forward(images: np.ndarray, augment: Augment | None, seed: int) -> np.ndarray:
    import keras
    import tensorflow as tf

    from medimg.training.augmentation import augmentation

    keras.utils.set_random_seed(seed)
    network, changes = _backbone(), augmentation(images.shape[1:], augment) if augment else None

    @tf.function(reduce_retracing=True)
    def run(x: Any) -> Any:
        return network(x if changes is None else changes(x, training=True), training=False)

    batches: Iterator[np.ndarray] = (images[i : i + 64] for i in range(0, len(images), 64))
    return np.concatenate([np.asarray(run(tf.constant(batch.astype(np.float32)))) for batch in batches])


def chest(data: Path) -> medimg.Dataset:
    """Paediatric pneumonia: the official test, and train with the tiny validation in it."""
    return medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT)


def nih(data: Path) -> medimg.Dataset:
    """Adults, another hospital; positive: any finding."""
    folder = data / "multilabel_cxr"
    return medimg.Dataset.from_csv(
        folder / "Data_Entry.csv", images=folder / "images", path="Image Index", labels="Finding Labels",
        separator="|", group="Patient ID",
    )  # fmt: skip


def native(data: Path) -> medimg.Dataset:
    """200 films of train as another program made them smaller, with their proportions."""
    return medimg.Dataset.from_folder(data / "chestxray" / "native320", group=PATIENT)


class Splits:
    """Who trains, who chooses the threshold, and who judges; patients apart, test left out.

    Attributes:
        train: bool (n,), as all others.
        val: Where the threshold is chosen: random patients.
        judged: Random patients.
        shifted: The normal films most squeezed from side to side, and random patients with pneumonia.
        changed: Rows of `judged` that are changed as `SHIFTS` say: 160 of each class.
    """

    def __init__(self, films: Images) -> None:
        self.films = films
        rest = films.split == "train"
        self.judged = self._patients(rest, 0.15, 0)
        rows, rng = np.flatnonzero(self.judged), np.random.default_rng(0)
        few = [rng.permutation(rows[films.y[rows] == value])[:160] for value in (False, True)]
        self.changed = np.sort(np.concatenate(few))
        rest = rest & ~self.judged
        self.shifted = self._most_squeezed(rest & ~films.y, 0.2) | self._patients(rest & films.y, 0.15, 1)
        rest = rest & ~self.shifted
        self.val = self._patients(rest, 0.15, 3)
        self.train = rest & ~self.val

    def _patients(self, pool: np.ndarray, share: float, seed: int) -> np.ndarray:
        rng, chosen = np.random.default_rng(seed), np.zeros(len(pool), bool)
        for value in (False, True):
            patients = np.unique(self.films.group[pool & (self.films.y == value)])
            chosen |= pool & np.isin(self.films.group, rng.permutation(patients)[: round(share * len(patients))])
        return chosen

    def _most_squeezed(self, pool: np.ndarray, share: float) -> np.ndarray:
        patients, number = np.unique(self.films.group[pool], return_inverse=True)
        stretch = self.films.features[pool, FEATURES.index("stretch")]
        mean = np.bincount(number, stretch) / np.bincount(number)
        return pool & np.isin(self.films.group, patients[np.argsort(-mean)][: round(share * len(patients))])


def fit(x: np.ndarray, y: np.ndarray, val: tuple[np.ndarray, np.ndarray], seed: int) -> Callable[..., np.ndarray]:
    """Returns the library's head, trained as it does: dropout 0.2, balanced classes, Adam, the best of 10 epochs."""
    rng = np.random.default_rng(seed)
    weight = np.append(rng.uniform(-1, 1, x.shape[1]) * np.sqrt(6 / (x.shape[1] + 1)), 0.0)
    first, second, step = np.zeros_like(weight), np.zeros_like(weight), 0
    share = y.mean()
    balance = np.where(y, 0.5 / share, 0.5 / (1 - share))
    best, waited = (np.inf, weight), 0

    def scores(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-np.clip(features @ weight[:-1] + weight[-1], -50, 50)))

    for _ in range(10):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 32):
            rows = order[start : start + 32]
            batch = x[rows] * (rng.random((len(rows), x.shape[1])) >= 0.2) / 0.8
            error = (scores(batch, weight) - y[rows]) * balance[rows] / len(rows)
            slope, step = np.append(batch.T @ error, error.sum()), step + 1
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            weight = weight - 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
        p, truth = np.clip(scores(val[0], weight), 1e-7, 1 - 1e-7), val[1]
        loss = -np.where(truth, 0.5 / share * np.log(p), 0.5 / (1 - share) * np.log(1 - p)).mean()
        waited = 0 if loss < best[0] else waited + 1
        best = min(best, (loss, weight), key=lambda pair: pair[0])
        if waited == 3:
            break
    return lambda features: scores(features, best[1])


def youden(truth: np.ndarray, scores: np.ndarray) -> float:
    """Returns the threshold with the largest sensitivity + specificity."""
    from sklearn.metrics import roc_curve

    false_alarms, found, cuts = roc_curve(truth, scores, drop_intermediate=False)
    best = len(cuts) - 1 - int(np.argmax((found - false_alarms)[::-1]))
    return float((cuts[best] + cuts[best + 1]) / 2)


def choices(data: Path, features: Features) -> None:
    """Prints AUROC, sensitivity and specificity of each choice on each set, the mean of three seeds."""
    from sklearn.metrics import roc_auc_score

    films, others = Images(chest(data)), {"native": Images(native(data)), "NIH": Images(nih(data))}
    splits = Splits(films)
    apart = ~np.isin(others["native"].group, films.group[splits.train])
    for name in ("train", "val", "judged", "shifted"):
        print(name, "without and with:", np.bincount(films.y[getattr(splits, name)]).tolist())
    place = np.cumsum(films.split == "train") - 1  # of an image among the training images
    for name, (how, augment) in CHOICES.items():
        base = features.of("chest", lambda: films.x, how)
        parts = [base[splits.train]]
        for number in range(VIEWS if augment else 0):
            assert augment is not None
            view = features.view(name, films.x[films.split == "train"], number, augment)
            parts.append(view[place[splits.train]])
        sets = {
            "judged": (base[splits.judged], films.y[splits.judged]),
            "shifted": (base[splits.shifted], films.y[splits.shifted]),
        }
        for shift, change in SHIFTS.items():
            changed = features.of(
                f"val {shift}", lambda change=change: np.stack([change(x) for x in films.x[splits.changed]]), how
            )
            sets[shift] = changed, films.y[splits.changed]
        for other, images in others.items():
            rows = apart if other == "native" else slice(None)
            sets[other] = features.of(other.lower(), lambda images=images: images.x, how)[rows], images.y[rows]
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(3):
            x, y = np.concatenate(parts), np.tile(films.y[splits.train], len(parts))
            val = base[splits.val], films.y[splits.val]
            head = fit(x, y, val, seed)
            threshold = youden(val[1], head(val[0]))
            for title, (f, truth) in sets.items():
                p = head(f)
                figures = roc_auc_score(truth, p), (p[truth] >= threshold).mean(), (p[~truth] < threshold).mean()
                found.setdefault(title, []).append(figures)
        print(f"\n{name}")
        for title, rows in found.items():
            print("  {:28s} AUROC {:.3f}  sensitivity {:.2f}  specificity {:.2f}".format(title, *np.mean(rows, axis=0)))
        worst = min(np.mean(found[shift], axis=0)[1:].mean() for shift in SHIFTS)
        print(f"  worst balanced accuracy over the {len(SHIFTS)} changes: {worst:.3f}")


def why(data: Path) -> None:
    """Prints in which plain facts test differs from train in each class, and what proportions the films once had."""
    films = Images(chest(data))
    test = films.split == "test"
    for value, name in ((False, "NORMAL"), (True, "PNEUMONIA")):
        rows = films.y == value
        print(f"{name}: all facts", separation(films.features[rows], test[rows], films.group[rows]))
        for column, fact in enumerate(FEATURES):
            apart = separation(films.features[rows][:, [column]], test[rows], films.group[rows])
            means = (films.features[rows & (test == side), column].mean() for side in (False, True))
            print("  {:18s} train {:8.3f}  test {:8.3f}".format(fact, *means), apart)
    with (data / "MANIFEST.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if "native320" in row["path"]]
    shapes = {Path(row["path"]).name: [int(n) for n in row["origin"].split()[0].split("x")] for row in rows}
    names = [sample.path.name for sample in films.samples]
    found = [(shapes[name][0] / shapes[name][1], films.y[row], row) for row, name in enumerate(names) if name in shapes]
    ratio, positive, row = (np.array(part) for part in zip(*found, strict=True))
    stretch = films.features[row, FEATURES.index("stretch")]
    for value in (False, True):
        side = positive == value
        print(
            f"width / height of {side.sum()} originals, pneumonia {value}: {np.percentile(ratio[side], [10, 50, 90])}, "
            f"correlation with stretch {np.corrcoef(np.log(ratio[side]), stretch[side])[0, 1]:.2f}"
        )


def test(data: Path, names: list[str]) -> None:
    """Trains as `FINAL` says and prints the figures of each split with their intervals."""
    for name in names:
        report = medimg.backend("local").train(chest(data), FINAL[name], name=name.replace(", ", "-")).report
        for split, metrics in report.splits.items():
            print(name, split, metrics.summary(), metrics.intervals, flush=True)


def main() -> None:
    """Does what the command line says."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
    data, cache_folder, what, *names = sys.argv[1:]
    if what == "why":
        why(Path(data))
    elif what == "choices":
        choices(Path(data), Features(Path(cache_folder)))
    else:
        test(Path(data), names or list(FINAL))


if __name__ == "__main__":
    main()
