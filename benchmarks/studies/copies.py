"""What the audit says of four public sets, and how well it tells copies from pictures that are merely alike.

    python benchmarks/studies/copies.py DATA

DATA holds chestxray/kaggle224, skin, multilabel_cxr and intel. Images of each are altered in several ways, and looked
for among the others. Everything happens in a temporary home.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

import medimg
from medimg.data.audit.similarity import SIMILAR, signatures
from medimg.data.decode import decode, read
from medimg.data.index import THUMBNAIL

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
ALTERED = 300  # images of each set that are altered

Change = Callable[[Image.Image], Image.Image]


def datasets(data: Path) -> dict[str, medimg.Dataset]:
    """Returns the sets by name."""
    nih, skin = data / "multilabel_cxr", data / "skin"
    read_table = medimg.Dataset.from_csv
    return {
        "chestxray/kaggle224": medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT),
        "skin": read_table(
            skin / "metadata.csv", images=skin / "images", path="image_id", labels="label", group="lesion_id"
        ),
        "multilabel_cxr": read_table(
            nih / "Data_Entry.csv", images=nih / "images", path="Image Index", labels="Finding Labels", separator="|",
            group="Patient ID",
        ),
        "intel": medimg.Dataset.from_folder(data / "intel"),
    }  # fmt: skip


def saved_anew(image: Image.Image) -> Image.Image:
    """Returns the image after JPEG of quality 50."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


def scaled(factor: float) -> Change:
    """Returns the change of scale."""
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def gamma(power: float) -> Change:
    """Returns the change of gamma."""
    return lambda image: image.point([round(255 * (level / 255) ** power) for level in range(256)])


def cropped(share: float) -> Change:
    """Returns the change that leaves out a share of each side."""
    return lambda image: image.crop(
        (round(image.width * share), round(image.height * share), *(round(side * (1 - share)) for side in image.size))
    )


CHANGES: dict[str, Change] = {
    "JPEG quality 50": saved_anew,
    "70% of the size": scaled(0.7),
    "twice the size": scaled(2),
    "brightness + 30": lambda image: image.point(lambda level: min(255, level + 30)),
    "gamma 0.7": gamma(0.7),
    "gamma 1.4": gamma(1.4),
    "contrast × 1.3": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "cropped by 1% a side": cropped(0.01),
    "cropped by 3% a side": cropped(0.03),
    "turned by 2°": lambda image: image.rotate(2, Image.Resampling.BILINEAR),
}


def thumbnail(image: Image.Image) -> np.ndarray:
    """Returns the thumbnail that the index keeps: uint8 (32, 32)."""
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def measure_copies(name: str, dataset: medimg.Dataset) -> None:
    """Prints how alike different pictures are, and which share of altered copies is found."""
    images = [Image.fromarray(decode(read(sample.path), name="")).convert("L") for sample in dataset.samples]
    chosen = np.random.default_rng(0).choice(len(images), min(ALTERED, len(images)), replace=False)
    plain = np.stack([thumbnail(image) for image in images])
    marks = signatures(plain)
    alike = np.triu(marks @ marks.T, 1)
    digests = [fact.digest for fact in dataset.index().values()]
    pairs = [(one, other) for one, other in np.argwhere(alike > SIMILAR) if digests[one] != digests[other]]
    for one, other in np.argwhere(alike > 0.7):
        if digests[one] == digests[other]:
            alike[one, other] = 0
    count = len(images) * (len(images) - 1) // 2
    print(f"{name}: {count:,} pairs; above {SIMILAR} with other pixels: {len(pairs)}; the most alike {alike.max():.3f}")
    for change, alter in CHANGES.items():
        altered = np.stack([thumbnail(alter(images[row])) for row in chosen])
        # Signatures are relative to the set: each altered image takes its place at the end of it.
        found = signatures(np.concatenate([plain, altered]))
        similarity = (found[len(plain) :] * found[chosen]).sum(axis=1)
        print(f"  {change:<22} found {np.mean(similarity > SIMILAR):.1%}, least {similarity.min():.3f}")


def main() -> None:
    """Prints what is found in each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDIMG_HOME"] = home
        for name, dataset in datasets(data).items():
            print(f"{dataset.audit()}\n")
            measure_copies(name, dataset)


if __name__ == "__main__":
    main()
