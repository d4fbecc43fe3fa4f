"""How soon monitoring notices that a model is sent other images, and how often it cries wolf.

    KERAS_HOME=… python benchmarks/studies/drift.py DATA HOME [chest intel skin]

DATA holds chestxray, intel and skin; `$KERAS_HOME/models` the MobileNetV2 weights (alpha 0.35); models are trained, or
found, in HOME. Three tables for each model:

- false alarms: 250 streams of 1,000 images drawn from validation, each against a reference drawn anew, so that its
  chance counts too; a look after every tenth image; images one by one, and patient by patient;
- images until the alarm, when from one moment on all are changed: at once after the start, and after 500 right ones;
  half of the streams take no longer than the first figure, 95% than the second;
- the measures that are in alarm after 200 changed images.

For the chest model, the same changes are then sent through a real endpoint, which is asked for its health.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from real_data import PRETRAINED, RUNS

import medimg
from medimg.artifact import ModelFolder
from medimg.data.dataset import Sample
from medimg.data.decode import decode, read
from medimg.data.encode import encode
from medimg.data.pixels import Pixels, resize
from medimg.data.preparation import ready_for_training
from medimg.inference.appearance import statistics
from medimg.inference.monitoring import LEAST, WINDOW, Reference, Seen, Window

STREAMS = 250
IMAGES = 1000  # of a stream without any change
DRIFTED = 100  # streams for each change
MOST = 1000  # changed images, after which a stream counts as never noticed
EVERY = 10  # images between two looks at a stream without change


def skin(data: Path) -> medimg.Dataset:
    """HAM10000: 1,355 lesions, benign or malignant."""
    return medimg.Dataset.from_csv(
        data / "skin/metadata.csv", images=data / "skin/images", path="image_id", labels="label", group="lesion_id"
    ).split()


MODELS = {**RUNS, "skin": (skin, PRETRAINED)}


def _jpeg(pixels: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return decode(stream.getvalue(), name="image")


def _cropped(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(pixels[height // 5 : height - height // 5, width // 5 : width - width // 5])


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "inverted": lambda pixels: 255 - pixels,
    "middle 60% of each side": _cropped,
    "turned by 90 degrees": lambda pixels: np.ascontiguousarray(np.rot90(pixels)),
    "left and right exchanged": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "20% brighter": lambda pixels: np.clip(pixels * 1.2, 0, 255).astype(np.uint8),
    "5% brighter": lambda pixels: np.clip(pixels * 1.05, 0, 255).astype(np.uint8),
    "JPEG again, quality 75": lambda pixels: _jpeg(pixels, 75),
    "JPEG again, quality 20": lambda pixels: _jpeg(pixels, 20),
    "half the resolution": lambda pixels: resize(pixels, (112, 112)),
    "a fifth of the height cut": lambda pixels: np.ascontiguousarray(pixels[len(pixels) // 10 : -len(pixels) // 10]),
}


def _seen(model: ModelFolder, images: Sequence[Pixels]) -> list[Seen]:
    predictor = model.predictor
    found = []
    for image in images:
        prepared = predictor.prepare(image)
        found.append(Seen.of(predictor.predict(prepared).to_json(), statistics(prepared)))
    return found


def _stranger(data: Path, name: str, count: int) -> tuple[str, list[Pixels]]:
    """Returns pictures of another kind: scenes for a medical model, chest films for one of scenes."""
    folder = data / ("chestxray/kaggle224/test" if name == "intel" else "intel/seg_test")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    order = np.random.default_rng(0).permutation(len(files))[:count]
    return ("chest films" if name == "intel" else "natural scenes"), [_pixels(files[place]) for place in order]


def _pixels(path: Path) -> Pixels:
    return decode(read(path), name=path.name)


def _one(pool: Sequence[Seen], draw: np.random.Generator) -> Seen:
    return pool[draw.integers(len(pool))]


def _by_patient(pool: Sequence[Seen], groups: Sequence[str]) -> list[list[Seen]]:
    patients: dict[str, list[Seen]] = {}
    for one, group in zip(pool, groups, strict=True):
        patients.setdefault(group, []).append(one)
    return list(patients.values())


def _drawn(patients: Sequence[Sequence[Seen]], draw: np.random.Generator) -> Iterator[Sequence[Seen]]:
    """Yields patients drawn with replacement, each with all their images."""
    while True:
        yield patients[draw.integers(len(patients))]


def false_alarms(patients: Sequence[Sequence[Seen]], positive: str | None) -> tuple[int, int]:
    """Returns in how many of the streams there was an alarm, and in how many after the last image."""
    draw = np.random.default_rng(1)
    ever = last = 0
    for _ in range(STREAMS):
        seen, groups = [], []
        for number, images in zip(range(len(patients)), _drawn(patients, draw), strict=False):
            seen += images
            groups += [str(number)] * len(images)
        window = Window(Reference.of(seen, positive=positive, groups=groups))
        stream = (image for images in _drawn(patients, draw) for image in images)
        alarms = []
        for number in range(1, IMAGES + 1):
            window.add(next(stream))
            if number >= LEAST and number % EVERY == 0:
                alarms.append(window.health()["status"] == "alarm")
        ever += any(alarms)
        last += alarms[-1]
    return ever, last


def until_alarm(reference: Reference, usual: Sequence[Seen], changed: Sequence[Seen], before: int) -> str:
    """Returns after how many changed images the alarm comes: in half of the streams, and in 95% of them."""
    draw = np.random.default_rng(2)
    found = []
    for _ in range(DRIFTED):
        window = Window(reference)
        for _ in range(before):
            window.add(_one(usual, draw))
        number = 0
        while number <= MOST and window.health()["status"] != "alarm":
            window.add(_one(changed, draw))
            number += 1
        found.append(number)
    shown = [f"{np.sort(found)[int(share * DRIFTED) - 1]:,}" for share in (0.5, 0.95)]
    return " / ".join(f"> {MOST:,}" if value == f"{MOST + 1:,}" else value for value in shown)


def alarms(reference: Reference, changed: Sequence[Seen], count: int = 200) -> str:
    """Returns the measures in alarm after some changed images, the furthest from its limit first."""
    draw = np.random.default_rng(3)
    window = Window(reference)
    for _ in range(count):
        window.add(_one(changed, draw))
    found = [one for one in window.health()["measures"] if one["alarm"]]
    return ", ".join(one["name"] for one in sorted(found, key=lambda one: -one["value"] / one["limit"])) or "none"


def _more_of_the_rarer(pool: Sequence[Seen], samples: Sequence[Sample]) -> tuple[str, list[Seen]]:
    """Returns a pool in which the rarest class is twice as common."""
    labels = [sample.labels for sample in samples]
    rare = min(set(labels), key=labels.count)
    those = [one for one, label in zip(pool, labels, strict=True) if label == rare]
    rest = [one for one, label in zip(pool, labels, strict=True) if label != rare]
    share = min(0.95, 2 * len(those) / len(pool))
    draw = np.random.default_rng(4)
    drawn = [_one(those if draw.random() < share else rest, draw) for _ in range(4 * len(pool))]
    return f"rarest class {len(those) / len(pool):.0%} → {share:.0%}", drawn


def run(data: Path, name: str) -> tuple[ModelFolder, Mapping[str, Sequence[Pixels]]]:
    """Trains or finds a model, and prints its tables."""
    read_dataset, config = MODELS[name]
    dataset = read_dataset(data)
    model = medimg.backend("local").train(dataset, config, name=name).model
    ready = ready_for_training(dataset, allow=()).dataset
    samples = ready.of("val")
    images = {"validation": [_pixels(sample.path) for sample in samples]}
    images |= {what: [change(one) for one in images["validation"]] for what, change in CHANGES.items()}
    what, pictures = _stranger(data, name, len(samples))
    images[what] = pictures
    if ready.of("test"):
        images["the test split"] = [_pixels(sample.path) for sample in ready.of("test")]
    seen = {what: _seen(model, pictures) for what, pictures in images.items()}
    usual = seen["validation"]
    positive = model.record.positive
    reference = Reference.read(model.path)
    assert reference is not None
    assert reference.images == len(samples), "the trainer saw other validation images"
    groups = [sample.group or sample.id for sample in samples]
    print(f"\n## {name}: {len(samples)} validation images of {len(set(groups))} patients, {len(reference.histograms)} "
          f"distributions and {len(reference.rates)} rates")  # fmt: skip
    for by, patients in (("image", [[one] for one in usual]), ("patient", _by_patient(usual, groups))):
        ever, last = false_alarms(patients, positive)
        print(f"false alarms, drawn {by} by {by}: in {ever} of {STREAMS:,} streams of {IMAGES:,} images; after the "
              f"last image in {last}", flush=True)  # fmt: skip
    more, drawn = _more_of_the_rarer(usual, samples)
    seen[more] = drawn
    print(f"\n| images | until the alarm, from the start | after {WINDOW} right ones | measures in alarm after 200 |")
    print("|---|---|---|---|")
    for what, changed in seen.items():
        first, later = (until_alarm(reference, usual, changed, before) for before in (0, WINDOW))
        print(f"| {what} | {first} | {later} | {alarms(reference, changed)} |", flush=True)
    return model, images


def endpoint(model: ModelFolder, images: Mapping[str, Sequence[Pixels]]) -> None:
    """Sends images through a real endpoint and prints what it says of its health, a new endpoint each time."""
    print("\n| sent to an endpoint | health | message |\n|---|---|---|")
    for what in ("validation", "inverted", "middle 60% of each side", "natural scenes"):
        with medimg.backend("local").deploy(model, name="drift") as served:
            # Not the first ones: those of a folder are all of one class.
            chosen = np.random.default_rng(0).permutation(len(images[what]))[:200]
            served.predict_many([encode(images[what][place]) for place in chosen])
            health = served.health()
        print(f"| {what} | {health.status}, {health.images} images | {health.message} |", flush=True)


def main() -> None:
    """Runs the models named on the command line, or chest, intel and skin."""
    data, home, *names = sys.argv[1:]
    os.environ["MEDIMG_HOME"] = home
    for name in names or ("chest", "intel", "skin"):
        model, images = run(Path(data), name)
        if name == "chest":
            endpoint(model, images)


if __name__ == "__main__":
    main()
